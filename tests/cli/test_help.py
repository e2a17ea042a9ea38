"""What the help says: flags are flags, defaults are shown, and every key of --set is listed somewhere and taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

GRAPHENE = Path(__file__).parents[1] / "formats" / "data" / "graphene_lda_sz"
MODEL = GRAPHENE.parent / "version1" / "model"
COMMANDS = (
    (),
    ("scf",),
    ("train",),
    ("predict",),
    ("bands",),
    ("compare",),
    ("convert",),
    ("check",),
    ("density",),
    ("overlap",),
    ("demo",),
    ("example",),
    ("settings",),
    ("dos",),
    ("gap",),
    ("charges",),
    ("levels",),
    ("moire",),
    ("dataset",),
    ("dataset", "build"),
    ("dataset", "list"),
    ("structures", "twist"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_flags_are_flags(nearsight, command: tuple[str, ...]) -> None:
    done = nearsight(*command, "--help")
    assert done.status == 0 and "--help" in done.out
    assert "<bool>" not in done.out and "BOOLEAN" not in done.out


def test_settings_that_are_on_or_off_can_be_turned_both_ways(nearsight, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = nearsight("scf", "--help").out
    for word in ("--no-forces", "--no-stress", "[default: (pbe)]", "[default: (300.0)]", "nearsight settings"):
        assert word in text
    assert "nearsight settings --of train" in nearsight("train", "--help").out
    assert "nearsight settings --of set" in nearsight("dataset", "build", "--help").out


@pytest.mark.parametrize("of", ["scf", "set", "train"])
def test_every_key_is_listed_and_every_listed_key_is_known(nearsight, of: str) -> None:
    from nearsight.core.configuration import layered
    from nearsight.core.errors import BadInput
    from nearsight.dft.settings import Settings
    from nearsight.learn.config import TrainingConfig
    from nearsight.tasks.dataset import SetSettings

    model, base = {
        "scf": (Settings, {}),
        "set": (SetSettings, {"structure": "a"}),
        "train": (TrainingConfig, {"data": {"train": "a"}}),
    }[of]
    listed = json.loads(nearsight("settings", "--of", of, "--json").out)["settings"]
    assert {s["key"].split(".")[0] for s in listed} >= set(model.model_fields) - {"schema_version"}
    for s in listed:
        assert s["description"].strip(), s["key"]
        with pytest.raises(BadInput) as refused:
            layered(model, [base], [f"{s['key']}={{no such: key}}"])
        assert f"unknown key {s['key']} " not in f"{refused.value} "
    words = nearsight("settings", "max_iterations", "--of", of)
    assert (words.status == 0) == (of != "train")


def test_a_command_without_keys_is_told(nearsight) -> None:
    done = nearsight("settings", "--of", "bands")
    assert (done.status, "take scf, set or train" in done.err) == (1, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("scf", "a", "-o", "b", "--kmesh", 1, 1, 1.5),
            "--kmesh: a whole number is needed (given: '1.5'); `nearsight scf --help`",
        ),
        (("scf", "a", "-o", "b", "--mesh-cutoff", "x"), "--mesh-cutoff: a number is needed (given: 'x')"),
        (("scf", "a", "-o", "b", "--kmseh", 1), "No such option: --kmseh"),
        (("scf", "a", "-o", "b", "--forces=3"), "does not take a value"),
        (("scf",), "Missing argument"),
        (("bands", "a", "--points", 1), "--points: it must be greater than or equal to 2 (given: '1')"),
        (("bnads",), "No such command 'bnads'"),
        (("convert", "a", "b", "--workers", 0), "--workers: it must be greater than or equal to 1"),
        (("structures", "twist", "a", "-o", "b", "--x"), "No such option"),
    ],
)
def test_a_usage_error_is_one_line_in_our_words(nearsight, words: tuple[object, ...], said: str) -> None:
    done = nearsight(*words)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
    assert said in done.err and "--help` tells" in done.err
    assert "Input should" not in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("bands", GRAPHENE, "--window", "nan", 1), "window nan 1 eV"),
        (("bands", GRAPHENE, "--window", 5, -5), "give the lower energy first"),
        (("compare", GRAPHENE, GRAPHENE, "--window", -1), "above zero"),
        (("compare", GRAPHENE, GRAPHENE, "--window", "inf"), "above zero"),
        (("dos", GRAPHENE, "--step", 1e300), "step_ev: it must be less than or equal to 10"),
        (("density", GRAPHENE, "-o", "n.cube", "--band", 1), "--band says nothing of --what density"),
        (("density", GRAPHENE, "-o", "n.cube", "--what", "orbital", "--band", 1, "--k", "nan", 0, 0), "k = nan 0 0"),
        (("density", GRAPHENE, "-o", "n.cube", "--mesh-cutoff", 1), "give 10 or more"),
        (("predict", MODEL, GRAPHENE, "-o", "p", "--vacuum", 3), "has a cell"),
        (("scf", GRAPHENE, "-o", "p", "--vacuum", 3), "has a cell"),
    ],
)
def test_values_that_would_be_ignored_or_mean_nothing(nearsight, tmp_path, monkeypatch, words, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    done = nearsight(*words)
    assert (done.status, done.err.count("error: ")) == (1, 1), done
    assert said in done.err
    assert not list(tmp_path.iterdir())
