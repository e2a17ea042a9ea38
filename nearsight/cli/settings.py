"""Settings on the command line: the help of options, and the list of all keys, from the tables themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer

from nearsight.cli.console import print_json
from nearsight.core.errors import BadInput
from nearsight.core.tables import OfKinds, Setting, inner_tables, settings_of, tags_of
from nearsight.dft.settings import Settings


def set_option(of: str) -> Any:
    """The option --set of a command.  of: what `nearsight settings --of` lists its keys by."""
    listed = "nearsight settings" if of == "scf" else f"nearsight settings --of {of}"
    return typer.Option(
        "--set", metavar="KEY=VALUE", help=f"Change one setting; repeatable. `{listed}` lists the keys."
    )


Set = Annotated[list[str] | None, set_option("scf")]
BY_PATH: dict[str, Setting] = {s.path: s for s in settings_of(Settings)}


def option(path: str, help: str | None = None, metavar: str | None = None, flag: str | None = None) -> Any:
    """The option that a setting has, with its default.

    help: in place of what the table says.  metavar: of its unit.  flag: the word of one that is on or off.
    """
    setting = BY_PATH[path]
    shown: str | bool = "null" if setting.default is None else written(setting.default)
    words = [] if flag is None else [f"--{flag}/--no-{flag}"]
    return typer.Option(*words, help=help or setting.description, metavar=metavar, show_default=shown)


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
    of: Annotated[str, typer.Option(help="Whose --set: scf, set (dataset build) or train.", metavar="NAME")] = "scf",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """List every key of --set: of a ground state (--config, `scf:` and Python take them too), a data set, a training."""
    found = [
        {
            "key": s.path,
            "short": flat_key(s.path) if of == "scf" else "",
            "default": written(s.default),
            "unit": s.unit,
            "description": s.description,
        }
        for s in _settings(of)
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


def _settings(of: str) -> list[Setting]:
    """Every key of a command's --set. Raises BadInput for a command that has none."""
    if of == "scf":
        return list(BY_PATH.values())
    if of == "set":
        from nearsight.tasks.dataset import SetSettings

        return list(settings_of(SetSettings))
    if of != "train":
        raise BadInput(f"--of {of}: take scf, set or train")
    from nearsight.learn.config import TrainingConfig

    found = [s for s in settings_of(TrainingConfig) if s.path != "loss" and not s.path.startswith("model.")]
    model = TrainingConfig.model_fields["model"].annotation
    assert isinstance(model, type) and issubclass(model, OfKinds)
    made = model.of_kind({"kind": model.model_fields["kind"].default})
    found += settings_of(made, "model.")
    for table in inner_tables(TrainingConfig, "loss"):
        kind = tags_of(table)[0]
        inner = [s for s in settings_of(table, "loss.") if s.path.count(".") == 1]
        found += [replace(s, description=f"of kind {kind}: {s.description}") for s in inner if s.path != "loss.kind"]
        found += [Setting("loss.kind", kind, "", table.__doc__.splitlines()[0] if table.__doc__ else "")]
    return found
