"""Groups of commands whose help shows flags as flags, without a type behind them."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class Group(TyperGroup):
    """A group of commands. In the help of each, an option that takes no value has none behind it."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name; None without one."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            bare_flags(command, ctx)
        return command

    def get_params(self, ctx: Any) -> Any:
        """The group's own options, flags bare too."""
        found = super().get_params(ctx)
        for parameter in found:
            _bare(parameter)
        return found


def bare_flags(command: Any, ctx: Any) -> None:
    """Take the type away from the flags of a command, `--help` among them."""
    for parameter in [*command.params, command.get_help_option(ctx)]:
        _bare(parameter)


def _bare(parameter: Any) -> None:
    if getattr(parameter, "is_flag", False):
        parameter.metavar = ""
