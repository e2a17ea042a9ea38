"""One command for each registered property, ours or a third party's: its flags come from its options."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel

from nearsight.cli.console import Bars, progress_bars
from nearsight.cli.group import is_there, refuse_other_kinds
from nearsight.core.errors import BadInput
from nearsight.core.registry import home, kinds
from nearsight.properties.contract import Property, property_named


def add_properties(app: typer.Typer, arguments: list[str]) -> None:
    """Give `app` a command for each property. Only the one that the arguments name is loaded: of others, the help's line."""
    wanted = next((a for a in arguments if not a.startswith("-")), None)
    own = [c for c in app.registered_commands if not getattr(c.callback, "is_property", False)]
    taken = {c.name or getattr(c.callback, "__name__", "") for c in own} | {g.name for g in app.registered_groups}
    app.registered_commands = own
    for name in kinds("properties"):
        if name not in taken:
            if name == wanted:
                _something_there(arguments[arguments.index(name) + 1 :])
            run = _command(property_named(name)) if name == wanted else _nothing()
            app.command(name, help=first_line("properties", name))(run)


def _something_there(arguments: list[str]) -> None:
    """Raises BadInput where no word of a property's arguments is a path: before anything heavy is loaded."""
    if any(a in ("-h", "--help") for a in arguments):
        return
    words = [(n, a) for n, a in enumerate(arguments) if not a.startswith("-")]
    if words and not any(is_there(a) for _, a in words):
        own = [a for n, a in words if n == 0 or not arguments[n - 1].startswith("-")]
        raise BadInput(f"no such file or folder: {(own or [words[0][1]])[0]}")
    if words[:1] and words[0][0] == 0:
        refuse_other_kinds("folder", Path(words[0][1]))


def _nothing() -> Callable[..., None]:
    def run() -> None: ...

    run.is_property = True  # type: ignore[attr-defined]
    return run


def first_line(group: str, name: str) -> str:
    """First line of the docstring of the file that a part is in, without importing it."""
    try:
        spec = find_spec(home(group, name).partition(":")[0])
        source = "" if spec is None or spec.origin is None else Path(spec.origin).read_text()
        text = ast.get_docstring(ast.parse(source))
    except (ImportError, OSError, ValueError, SyntaxError):
        text = None
    return text.splitlines()[0] if text else ""


def _command(prop: Property[Any, Any]) -> Callable[..., None]:
    """The function behind `nearsight NAME`, with a signature from which typer makes the flags."""

    def run(folder: Path, out: Path | None, json: Path | None, **given: Any) -> None:
        from nearsight.formats.files import write_json
        from nearsight.formats.outputs import PICTURES, claim_file
        from nearsight.formats.registry import read
        from nearsight.report.plot import plot_result

        for path, endings in ((out, PICTURES), (json, ())):
            if path is not None:
                claim_file(path, endings, [folder, out if path is json else None])
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
        calculation = read(folder)
        with progress_bars() as progress:
            result = prop(calculation, progress=Bars(progress), **given)
        if out is not None:
            plot_result(result, out, prop.size)
        if json is not None:
            write_json(json, result.to_json())
        for line in result.summary():
            print(line)
        for path in (out, json):
            if path is not None:
                print(f"in {path}")

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("folder", keyword, annotation=Annotated[Path, _FOLDER])]
    if prop.picture:
        parameters.append(inspect.Parameter("out", keyword, default=None, annotation=Annotated[Path | None, _OUT]))
    parameters.append(inspect.Parameter("json", keyword, default=None, annotation=Annotated[Path | None, _JSON]))
    parameters += flags(prop.options)
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {}
    run.is_property = True  # type: ignore[attr-defined]
    return run if prop.picture else _without_picture(run)


def _without_picture(run: Callable[..., None]) -> Callable[..., None]:
    def quiet(**given: Any) -> None:
        run(out=None, **given)

    quiet.__signature__ = run.__signature__  # type: ignore[attr-defined]
    quiet.__annotations__ = {}
    quiet.is_property = True  # type: ignore[attr-defined]
    return quiet


_FOLDER = typer.Argument(help="Calculation folder, or a file of another known format.")
_OUT = typer.Option("-o", "--out", help="Picture: png, pdf or svg.")
_JSON = typer.Option("--json", help="Write the numbers here.")


def flags(options: type[BaseModel]) -> list[inspect.Parameter]:
    """A keyword of each field, of a type that typer knows; words of a Literal are text, which the options validate.

    So are lists of any length, with commas between their words, and tables, which are JSON.
    """
    found = []
    for name, field in options.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        unit = str(extra.get("unit", ""))
        kind = _plain(field.annotation)
        default = None if field.is_required() or field.default_factory is not None else field.get_default()
        if kind is str and isinstance(default, list | tuple | dict):
            default = ",".join(map(str, default)) if isinstance(default, list | tuple) else None
        help = (field.description or "").rstrip(".")
        word = flag(name, unit)
        word = f"{word}/--no-{word[2:]}" if kind is bool else word
        about = typer.Option(word, help=f"{help[:1].upper()}{help[1:]}.", metavar=unit.upper() or None)
        found.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=Annotated[kind if default is not None else kind | None, about],
            )
        )
    return found


def flag(name: str, unit: str) -> str:
    """`--width` of a field width_ev whose unit is eV."""
    ending = "_" + unit.lower()
    return "--" + (name[: -len(ending)] if unit and name.lower().endswith(ending) else name).replace("_", "-")


def _plain(annotation: Any) -> Any:
    """The type behind `X | None` and Literal."""
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(a for a in get_args(annotation) if a is not NoneType)
    if get_origin(annotation) is dict or (get_origin(annotation) is tuple and Ellipsis in get_args(annotation)):
        return str
    return type(get_args(annotation)[0]) if get_origin(annotation) is Literal else annotation
