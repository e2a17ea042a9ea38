"""`nearsight structures`: one command for each registered generator, whose flags come from its options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from nearsight.cli.console import Bars, progress_bars
from nearsight.cli.group import Group, is_there
from nearsight.cli.properties import first_line, flags
from nearsight.core.errors import BadInput
from nearsight.core.registry import kinds, load

structures_app = typer.Typer(
    cls=Group,
    help="Make structures from structures, or from elements: strained, twisted, rolled up, decorated, ...",
    no_args_is_help=True,
)


@structures_app.command()
def angles(
    sheet: Annotated[Path, typer.Argument(help="Structure file of a sheet with a hexagonal or square lattice.")],
    other: Annotated[Path | None, typer.Argument(help="The second sheet, of an equal lattice; else the same.")] = None,
    most_atoms: Annotated[int, typer.Option(help="Most atoms of a cell.", min=1, max=1_000_000)] = 1000,
    strain: Annotated[float, typer.Option(help="Largest strain of the second sheet.", min=0, max=0.2)] = 0.01,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """List the commensurate angles of a twisted bilayer, with the atoms of each cell."""
    from nearsight.cli.console import print_json
    from nearsight.formats.structures import read_atoms
    from nearsight.generators.twist import commensurate_angles

    found = commensurate_angles(read_atoms(sheet), None if other is None else read_atoms(other), most_atoms, strain)
    if not found:
        raise BadInput(f"no twisted cell has at most {most_atoms} atoms: allow more with --most-atoms")
    if json:
        rows = [
            {"indices": c.indices, "angle_deg": c.angle_deg, "atoms": c.atoms, "largest_strain": c.largest_strain}
            for c in found
        ]
        print_json({"angles": rows})
        return
    print("    m     n  angle/deg     atoms")
    for c in found:
        m, n = c.indices or (0, 0)
        print(f"{m:5d} {n:5d} {c.angle_deg:10.4f} {c.atoms:9d}")


def add_generators(arguments: list[str]) -> None:
    """Give `structures_app` a command for each generator. Only the one that the arguments name is loaded."""
    words = [a for a in arguments if not a.startswith("-")]
    wanted = words[1] if words[:1] == ["structures"] and len(words) > 1 else None
    structures_app.registered_commands = [
        c for c in structures_app.registered_commands if not getattr(c.callback, "is_generator", False)
    ]
    if wanted in kinds("generators"):
        _parents_there(words[2:], arguments)
    for name in kinds("generators"):
        run = _command(name) if name == wanted else _nothing()
        structures_app.command(name, help=first_line("generators", name))(run)


def _parents_there(words: list[str], arguments: list[str]) -> None:
    """Raises BadInput for a file to begin with that is not there: before anything heavy is loaded."""
    if any(a in ("-h", "--help") for a in arguments):
        return
    for word in words:
        before = arguments[arguments.index(word) - 1]
        if not before.startswith("-") and Path(word).suffix[1:2].isalpha() and not is_there(word):
            raise BadInput(f"no such file: {word}")


def _nothing() -> Callable[..., None]:
    def run() -> None: ...

    run.is_generator = True  # type: ignore[attr-defined]
    return run


def _command(name: str) -> Callable[..., None]:
    """The function behind `nearsight structures NAME`, with a signature from which typer makes the flags."""
    made = load("generators", name)

    def run(out: Path, parents: list[Path] | None = None, vacuum: float | None = None, **given: Any) -> None:
        from nearsight.generators.contract import applied, generator, named_parents
        from nearsight.generators.output import claim, write_structures

        recipe = generator(name, **given)
        claim(out, parents or ())
        found = named_parents(parents or (), vacuum)
        structures = []
        with progress_bars() as progress:
            bars = Bars(progress)
            for s in applied(recipe, found):
                structures.append(s)
                if len(structures) == 1:
                    expected = numbered(recipe, found)
                    claim(out, parents or (), expected > 1)
                    bars.stage(name)
                bars.advance(len(structures), expected)
        write_structures(out, structures, parents or ())
        atoms = sorted({len(s) for s in structures})
        sizes = f"{atoms[0]}" if len(atoms) == 1 else f"{atoms[0]} to {atoms[-1]}"
        print(f"{len(structures)} structure{'s' if len(structures) > 1 else ''} of {sizes} atoms in {out}")
        if len(structures) == 1 and (details := structures[0].provenance.get("details")):
            print(", ".join(f"{k} {v}" for k, v in details.items() if v is not None and not isinstance(v, list)))

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("out", keyword, annotation=Annotated[Path, _OUT])]
    if made.parents != "none":
        parameters.insert(0, inspect.Parameter("parents", keyword, annotation=Annotated[list[Path], _PARENTS]))
        if "vacuum_ang" not in made.model_fields:
            parameters.append(
                inspect.Parameter("vacuum", keyword, default=None, annotation=Annotated[float | None, _VACUUM])
            )
    run.__signature__ = inspect.Signature([*parameters, *flags(made)])  # type: ignore[attr-defined]
    run.__annotations__ = {}
    run.is_generator = True  # type: ignore[attr-defined]
    return run


def numbered(made: Any, parents: list[tuple[str, Any]]) -> int:
    """How many structures come of all parents."""
    groups = [[a] for _, a in parents] if made.parents == "each" else [[a for _, a in parents]]
    return sum(made.number(group) for group in groups)


_PARENTS = typer.Argument(help="Structure files; every structure of a file is taken.", metavar="FILE...")
_OUT = typer.Option("-o", "--out", help="File (.extxyz, .vasp, .cif, .xsf, .traj), or a folder for several.")
_VACUUM = typer.Option(help="Box around a molecule without a cell.", metavar="ANGSTROM")
