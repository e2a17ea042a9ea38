"""What is wrong with a configuration is one line of ours, however it is made: a BadInput and a ValueError."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nearsight as ns
from nearsight.core.configuration import is_there
from nearsight.core.errors import BadInput
from nearsight.core.tables import settings_of
from nearsight.dft.settings import Settings
from nearsight.learn.config import TrainingConfig
from nearsight.properties.dos import DosOptions
from nearsight.tasks.dataset import Distort, SetSettings, read_settings

FOREIGN = (
    "Input should",
    "Extra inputs",
    "validation error",
    "pydantic",
    "valid ",
    "Field required",
    "type=",
    "NoneType",
)
WRONG: tuple[Any, ...] = (
    None,
    "",
    "x",
    [],
    {},
    {"a": 1},
    [1],
    "nan",
    float("nan"),
    float("inf"),
    -1,
    0,
    1e300,
    10**400,
    True,
    b"x",
    object(),
)


def said(make: Callable[[], object]) -> str | None:
    """The one line of what is refused; None where it is taken."""
    try:
        make()
    except ns.BadInput as error:
        found = error
    else:
        return None
    line = str(found)
    assert isinstance(found, ValueError)
    assert line and "\n" not in line and len(line) < 700, line
    assert not [w for w in FOREIGN if w in line], line
    return line


@pytest.mark.parametrize("path", [s.path for s in settings_of(ns.Settings)])
def test_every_setting_with_every_wrong_value(path: str) -> None:
    """Refused in our words, or taken and written so that it is taken again."""
    refused = 0
    for value in WRONG:
        table: Any = value
        for key in reversed(path.split(".")):
            table = {key: table}
        line = said(lambda: ns.Settings(**table))  # noqa: B023
        refused += line is not None
        assert line is None or path.split(".")[-1] in line or path.rpartition(".")[0] in line, line
    assert refused >= 3


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: ns.Settings(kmehs=1), "unknown key kmehs; did you mean kmesh?"),
        (
            lambda: ns.Settings.model_validate({"basis": "dpz"}),
            "basis: 'dpz' is not known; did you mean dzp? (known: light,",
        ),
        (lambda: ns.Settings(kmesh=(1, 1)), "kmesh: 3 entries are needed"),
        (lambda: ns.Settings(kmesh=(1, 1, 1.5)), "kmesh.2: a whole number is needed (given: 1.5)"),
        (lambda: ns.Settings(mesh_cutoff_ry=-3), "mesh_cutoff_ry: it must be greater than or equal to 10 (given: -3)"),
        (lambda: ns.Settings(forces="maybe"), "forces: true or false is needed (given: 'maybe')"),
        (lambda: ns.Settings(mixing={"wieght": 1}), "unknown key mixing.wieght; did you mean weight?"),
        (lambda: ns.Settings(mixing=3), "mixing: a table is needed"),
        (lambda: Distort(conut=2, sigma_ang=0.1, clip_ang=1), "unknown key conut; did you mean count?"),  # type: ignore[call-arg]
        (
            lambda: SetSettings(structure="a", workers="many"),
            "workers: a whole number is needed, or 'auto' (given: 'many')",
        ),  # type: ignore[arg-type]
        (lambda: SetSettings(structure=["a", 3]), "structure.1: a text is needed (given: 3)"),  # type: ignore[list-item]
        (
            lambda: TrainingConfig(data={"trian": "a"}),
            "data.train is missing; unknown key data.trian; did you mean train?",
        ),  # type: ignore[arg-type]
        (lambda: DosOptions(widht_ev=1), "unknown key widht_ev; did you mean width_ev?"),  # type: ignore[call-arg]
        (lambda: ns.ground_state(None, kmehs=3), "unknown key ground_state.kmehs; did you mean kmesh?"),  # type: ignore[arg-type]
        (lambda: setattr(ns.Settings(), "basis", 3), "settings are not changed in place: take model_copy"),
    ],
)
def test_what_is_allowed_and_the_nearest_key_are_named(make: Callable[[], object], line: str) -> None:
    told = said(make)
    assert told is not None and line in told


def test_settings_that_are_sound_travel() -> None:
    settings = ns.Settings(xc="lda", kmesh=(1, 2, 3))
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert settings.given == ns.Settings.model_validate(settings.model_dump(exclude_unset=True)).given
    assert issubclass(BadInput, ns.NearsightError)


def test_a_message_is_one_line_that_a_terminal_can_show() -> None:
    """Whatever a file or a command line says is quoted shortened, without control characters, and the remedy stays."""
    told = str(BadInput("the key '" + "a" * 5000 + "'\n is not\r known\x1b[31m: " + "[0, " * 1000 + "give another"))
    assert "\n" not in told and "\x1b" not in told and len(told) <= 700
    assert told.startswith("the key 'aaaa") and told.endswith("give another")
    path = "/".join(["folder"] * 40)
    assert str(BadInput(f"no such file: {path}")) == f"no such file: {path}"  # a path is told in full
    assert str(BadInput(told)) == told


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    (tmp_path / "set.yaml").write_text("structure: " + "a" * 5000 + "\n")
    read_settings(tmp_path / "set.yaml")  # the structure is read, and refused, by the build
    assert not is_there(Path("a" * 5000)) and not is_there(Path("a\0b")) and is_there(tmp_path)


@pytest.mark.parametrize("config", [[1], "x", 3, {"xc": "pbe", "functional": {"xc": "lda"}}])
def test_stored_settings_that_are_none(config: object, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"result.json does not hold"):
        Settings.stored(config, "result.json")  # type: ignore[arg-type]
