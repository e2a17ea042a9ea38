"""Groups of commands: names of files are checked before anything is loaded, and flags are flags in the help."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from nearsight.core.errors import BadInput
from nearsight.formats.outputs import kind_of


class Group(TyperGroup):
    """A group of commands. In the help of each, an option that takes no value has none behind it."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name; None without one."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            bare_flags(command, ctx)
            _said_once(command)
            if command.callback is not None and not isinstance(command, TyperGroup):
                command.callback = _with_names_checked(command.callback)
        return command

    def get_params(self, ctx: Any) -> Any:
        """The group's own options, flags bare too."""
        found = super().get_params(ctx)
        for parameter in found:
            _bare(parameter)
        return found


def _said_once(command: Any) -> None:
    """Have a command refuse an option that stands twice and takes one value: the last one would win without a word."""
    make = command.make_parser
    if getattr(make, "once", False):
        return

    @wraps(make)
    def make_parser(ctx: Any) -> Any:
        parser = make(ctx)
        parse = parser.parse_args

        def parse_args(args: list[str]) -> Any:
            found = parse(args=args)
            seen: list[Any] = []
            for parameter in found[2]:
                if parameter.param_type_name != "option" or parameter.multiple or parameter.is_eager:
                    continue
                if any(parameter is one for one in seen):
                    raise typer.BadParameter("it stands there twice, and takes one value: say it once", ctx, parameter)
                seen.append(parameter)
            return found

        parser.parse_args = parse_args
        return parser

    make_parser.once = True  # type: ignore[attr-defined]
    command.make_parser = make_parser


#: parameters that name what a command reads, and what is said where nothing is there
_READ = {
    "structure": "no such file",
    "config": "no such file",
    "sheet": "no such file",
    "species": "no such folder of species",
    "model": "no such model",
    "start": "no such model",
    "restart": "no such file or folder",
    "folder": "no such file or folder",
    "folders": "no such file or folder",
    "reference": "no such file or folder",
    "other": "no such file or folder",
    "source": "no such file or folder",
    "structures": "no such file or folder",
    "parents": "no such file",
}


#: parameters that name one structure, one calculation or one model, and which folders of ours are none
_MATRICES = "give a calculation folder, or a run of a program that is known"
_OTHER_KIND = {
    "structure": (("model", "data set", "structures"), "give a structure file or a calculation folder"),
    "structures": (("model",), "give a structure file or a folder of them"),
    **dict.fromkeys(("reference", "other", "restart"), (("model", "data set", "structures"), _MATRICES)),
    **dict.fromkeys(("folder", "folders", "source"), (("model", "structures"), "it holds no calculations")),
    **dict.fromkeys(
        ("model", "start"), (("calculation", "data set", "structures", "relaxation", "dynamics"), "train makes models")
    ),
}


def refuse_other_kinds(name: str, path: Path) -> None:
    """Raises BadInput for a folder of ours that cannot be what a parameter names: before anything heavy is loaded."""
    kinds, instead = _OTHER_KIND.get(name, ((), ""))
    if not kinds or not path.is_dir():
        return
    kind = kind_of(path)
    if kind in kinds and not (kind != "calculation" and (path / "POSCAR").is_file()):
        raise BadInput(
            f"{path} is a {kind}: {instead}" if kind != "structures" else f"{path} holds many structures: {instead}"
        )
    if name == "structure" and not any(p.is_file() for p in path.iterdir()):
        raise BadInput(f"{path} is a folder without a POSCAR: {instead}")


def _with_names_checked(run: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a command, which asks for the files that it reads before anything heavy is loaded."""
    if getattr(run, "checks_names", False):
        return run

    @wraps(run)
    def checked(**given: Any) -> Any:
        for name, value in given.items():
            for path in value if isinstance(value, list) else [value]:
                if name in _READ and isinstance(path, Path):
                    if not is_there(path):
                        raise BadInput(f"{_READ[name]}: {path}")
                    refuse_other_kinds(name, path)
        return run(**given)

    checked.checks_names = True  # type: ignore[attr-defined]
    return checked


def is_there(path: Path | str) -> bool:
    """Whether a file or folder is there; FILE/N, a structure of a file of many, is where the file is."""
    return os.path.exists(path) or os.path.isfile(os.path.dirname(path))


def bare_flags(command: Any, ctx: Any) -> None:
    """Take the type away from the flags of a command, `--help` among them."""
    for parameter in [*command.params, command.get_help_option(ctx)]:
        _bare(parameter)


def _bare(parameter: Any) -> None:
    if getattr(parameter, "is_flag", False):
        parameter.metavar = ""
