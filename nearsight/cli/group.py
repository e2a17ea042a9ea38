"""Groups of commands: names of files are checked before anything is loaded, and flags are flags in the help."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from typer.core import TyperGroup

from nearsight.core.errors import BadInput


class Group(TyperGroup):
    """A group of commands. In the help of each, an option that takes no value has none behind it."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name; None without one."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            bare_flags(command, ctx)
            if command.callback is not None and not isinstance(command, TyperGroup):
                command.callback = _with_names_checked(command.callback)
        return command

    def get_params(self, ctx: Any) -> Any:
        """The group's own options, flags bare too."""
        found = super().get_params(ctx)
        for parameter in found:
            _bare(parameter)
        return found


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


def _with_names_checked(run: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a command, which asks for the files that it reads before anything heavy is loaded."""
    if getattr(run, "checks_names", False):
        return run

    @wraps(run)
    def checked(**given: Any) -> Any:
        for name, value in given.items():
            for path in value if isinstance(value, list) else [value]:
                if name in _READ and isinstance(path, Path) and not is_there(path):
                    raise BadInput(f"{_READ[name]}: {path}")
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
