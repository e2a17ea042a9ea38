"""Settings on the command line: the help of options, and the list of all keys, from the tables themselves."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from nearsight.cli.console import print_json
from nearsight.core.errors import BadInput
from nearsight.core.tables import Setting, settings_of
from nearsight.dft.settings import Settings

Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; repeatable.")]
BY_PATH: dict[str, Setting] = {s.path: s for s in settings_of(Settings)}


def option(path: str, help: str | None = None, metavar: str | None = None) -> Any:
    """The option that a setting has, with its default.  help: in place of what the table says.  metavar: of its unit."""
    setting = BY_PATH[path]
    shown: str | bool = False if setting.default is None else written(setting.default)
    return typer.Option(help=help or setting.description, metavar=metavar, show_default=shown)


def written(value: Any) -> str:
    """A value as YAML has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{', '.join(map(written, value))}]" if isinstance(value, tuple | list) else f"{value}"


def flat_key(path: str) -> str:
    """The short key of a setting, which is taken too; empty without one."""
    flat = {".".join(r.path): key for key, r in Settings.renames.items()}
    if path in flat:
        return flat[path]
    table, _, key = path.rpartition(".")
    return f"{flat[table]}.{key}" if table in flat else ""


def list_settings(
    word: Annotated[str | None, typer.Argument(help="Show the settings that hold this word; without one, all.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """List every setting of a ground state: what --set, --config, `scf:` in set.yaml and the Python keywords take."""
    found = [
        {
            "key": s.path,
            "short": flat_key(s.path),
            "default": written(s.default),
            "unit": s.unit,
            "description": s.description,
        }
        for s in BY_PATH.values()
    ]
    found = [s for s in found if word is None or any(word in s[k] for k in ("key", "short", "description"))]
    if not found:
        raise BadInput(f"no setting has {word!r} in its name or description; `nearsight settings` lists all")
    if json:
        print_json({"settings": found})
        return
    for s in found:
        unit, short = (f" {s['unit']}" if s["unit"] else ""), (f"   or {s['short']}" if s["short"] else "")
        print(f"{s['key']}={s['default']}{unit}{short}\n    {s['description']}")
