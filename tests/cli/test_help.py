"""What the help says: flags are flags, defaults are shown, and every key of --set is listed somewhere and taken."""

from __future__ import annotations

import json

import pytest

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
    for word in ("--no-forces", "--no-stress", "[default: (dzp)]", "[default: (0.01)]", "nearsight settings"):
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
        with pytest.raises(BadInput) as refused:
            layered(model, [base], [f"{s['key']}={{no such: key}}"])
        assert f"unknown key {s['key']} " not in f"{refused.value} "
    words = nearsight("settings", "max_iterations", "--of", of)
    assert (words.status == 0) == (of != "train")


def test_a_command_without_keys_is_told(nearsight) -> None:
    done = nearsight("settings", "--of", "bands")
    assert (done.status, "take scf, set or train" in done.err) == (1, True)
