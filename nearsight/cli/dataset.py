"""`nearsight dataset`: many calculations as one thing."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from nearsight.cli.console import Bars, figure, print_json, progress_bars
from nearsight.cli.group import Group
from nearsight.cli.process import warn
from nearsight.cli.settings import set_option
from nearsight.core.errors import BadInput, NotConverged

dataset_app = typer.Typer(
    cls=Group, help="Data sets: build, add, list, split, pack, stats, export.", no_args_is_help=True
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
SetFolder = Annotated[Path, typer.Argument(help="Folder of a data set.", metavar="SET")]
WHERE = "Condition, such as 'n_atoms < 20 and \"C\" in elements'."
Executor = Annotated[
    str | None,
    typer.Option("--executor", help="Where: local, dask or slurm-array (set.yaml has their keys).", metavar="KIND"),
]
Condition = Annotated[str | None, typer.Option("--where", help=WHERE, metavar="EXPR")]


def _check_set(folder: Path) -> None:
    """Before anything heavy is loaded."""
    if not folder.is_dir():
        raise BadInput(f"{folder} is a file, not a data set: give the folder that holds the calculations")


class _Stages:
    """Bars of which a new one begins whenever what is done has another name."""

    def __init__(self, progress: Any) -> None:
        self.bars, self.name = Bars(progress), ""

    def __call__(self, what: str, done: int, total: int) -> None:
        if not total:
            return
        if what != self.name:
            self.bars.stage(what)
            self.name = what
        self.bars.advance(done, total)


@dataset_app.command("build")
def build(
    config: Annotated[Path, typer.Argument(help="set.yaml: structure, distort or modes, scf, workers.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the calculation folders.")],
    workers: Annotated[
        int | None, typer.Option(help="Processes; by default one for each core.", min=1, max=1024)
    ] = None,
    executor: Executor = None,
    words: Annotated[list[str] | None, set_option("set")] = None,
) -> None:
    """Compute the ground states of many structures (labels: false makes bare ones); run it again to go on."""
    from nearsight.tasks.dataset import build as run
    from nearsight.tasks.dataset import read_settings

    given = [f"{k}={v}" for k, v in (("workers", workers), ("executor", executor)) if v is not None]
    settings = read_settings(config, (*(words or []), *given))
    with progress_bars() as progress:
        bars = Bars(progress)
        bars.stage("ground states" if settings.labels else "structures")

        def told(outcome: Any, done: int, total: int) -> None:
            if outcome.error:
                progress.console.print(f"{outcome.name} failed: {outcome.error}", highlight=False, markup=False)
            bars.advance(done, total)

        made = run(settings, out, told, shlex.join(["nearsight", *sys.argv[1:]]))
        if made.left is None:
            bars.advance(made.jobs - len(made.failed), made.jobs)
    if made.failed:
        name, error = made.failed[0]
        raise NotConverged(
            f"{len(made.failed)} of {made.jobs} failed, first {name}: {error} (all in {out / 'failures.json'}; "
            "the same command tries them again; what did not converge may with --set scf.mixing.weight=0.1, "
            "--set scf.method=variational or more scf.max_iterations. A wider smearing is other physics: into a new folder)"
        )
    if made.left is not None:
        print(made.left)
        return
    print(f"{made.jobs} {'ground states' if settings.labels else 'structures'} in {out}")


@dataset_app.command("add")
def add(
    target: SetFolder,
    sources: Annotated[
        list[Path], typer.Argument(help="Calculations of any program, folders of them, other data sets.")
    ],
    read_as: Annotated[
        str | None, typer.Option("--from", help="Their format; found if not told.", metavar="NAME")
    ] = None,
) -> None:
    """Take calculations into a data set; what it holds already from another source is refused. Run it again to go on."""
    for source in sources:
        if not source.exists() and len(sources) == 1:
            raise BadInput(f"no such file or folder: {source}")
    from nearsight.tasks.sets.adding import add as run

    with progress_bars() as progress:
        stages = _Stages(progress)

        def told(source: Path, error: str | None, done: int, total: int) -> None:
            stages("adding", done, total)
            if error is not None:
                progress.console.print(f"{source}: {error}", highlight=False, markup=False, soft_wrap=True)

        made = run(target, sources, read_as, told, shlex.join(["nearsight", *sys.argv[1:]]))
    before = f", {len(made.there)} there already" if made.there else ""
    print(f"{len(made.added)} added to {target}{before}")
    if made.refused:
        source, why = made.refused[0]
        raise BadInput(f"{len(made.refused)} were not added, first {source}: {why}")


@dataset_app.command("list")
def list_entries(
    folder: SetFolder,
    where: Condition = None,
    columns: Annotated[str | None, typer.Option(help="Columns to show, with commas.", metavar="A,B")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="The jobs that failed, in place of the entries.")] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make the manifest anew from the folders.")] = False,
    json: Json = False,
) -> None:
    """What a data set holds, all of it or what a condition means."""
    _check_set(folder)
    from nearsight.tasks.sets.listing import columns as chosen
    from nearsight.tasks.sets.listing import failures, list_set

    if failed:
        _show_failures(failures(folder), json)
        return
    names = chosen(columns)
    with progress_bars() as progress:
        found = list_set(folder, where, rebuild, _Stages(progress))
    if json:
        told = [e.to_json() for e in found.entries]
        print_json({"set": str(folder), "total": found.total, "entries": told, "broken": dict(found.broken)})
        return
    for name, why in found.broken:
        warn(f"{name} cannot be read: {why}")
    _show([list(names)] + [[figure(_word(getattr(e, n))) for n in names] for e in found.entries])
    print(f"{len(found.entries)} of {found.total} entries of {folder}")


def _word(value: Any) -> Any:
    """A set of names with commas, what is not known as a dash."""
    if isinstance(value, tuple):
        return ",".join(value)
    return "-" if value is None else value


def _show(rows: list[list[str]]) -> None:
    """A table as wide as it needs to be: it is searched and cut by other programs too."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())


def _show_failures(found: list[Any], json: bool) -> None:
    if json:
        print_json({"failed": [f.to_json() for f in found]})
    elif not found:
        print("no job failed")
    else:
        rows = [[f.name, str(max(1, len(f.tries))), figure(f.seconds), f.error] for f in found]
        _show([["name", "tries", "seconds", "error"], *rows])


@dataset_app.command("work", hidden=True)
def work(
    folder: Annotated[Path, typer.Argument(help="Folder of a submission, SET/submitted/NNN.")],
    share: Annotated[int, typer.Argument(help="Which share, from 0: SLURM_ARRAY_TASK_ID.")],
    workers: Annotated[int, typer.Option(help="Processes.", min=1)] = 1,
) -> None:
    """Work off one share of what was submitted to a queueing system; its script calls this."""
    _check_set(folder)
    from nearsight.tasks.executors.submission import work_share

    made = work_share(folder, share, workers)
    for outcome in made:
        if outcome.error:
            warn(f"{outcome.name} failed: {outcome.error}")
    print(f"{sum(o.state == 'done' for o in made)} of {len(made)} done in share {share}")


@dataset_app.command("split")
def split(
    folder: SetFolder,
    by: Annotated[
        str, typer.Option(help="What stays on one side: structure, composition, prototype, or entry (nothing).")
    ] = "structure",
    fractions: Annotated[
        tuple[float, float, float], typer.Option(help="Of train, validation and test.", metavar="F F F")
    ] = (0.8, 0.1, 0.1),
    seed: Annotated[int, typer.Option(help="Another one draws another split.")] = 0,
    where: Condition = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="File to write; SET/split.json if not told.")] = None,
) -> None:
    """Divide a data set for training, validation and test; copies of one parent stay on one side (data.split reads it)."""
    _check_set(folder)
    from nearsight.formats.outputs import claim_file
    from nearsight.tasks.sets.splitting import split_set

    place = claim_file(folder / "split.json" if out is None else out, [".json"])
    with progress_bars() as progress:
        found = split_set(folder, by, fractions, seed, where, place, _Stages(progress))
    counts = ", ".join(f"{name} {len(names)}" for name, names in found.parts.items())
    print(f"{counts}, of {found.groups} groups by {by}, in {place}")


@dataset_app.command("stats")
def stats(folder: SetFolder, where: Condition = None, json: Json = False) -> None:
    """Elements, sizes, energies, distances, pairs, duplicates: what a data set consists of."""
    _check_set(folder)
    from nearsight.tasks.sets.statistics import statistics

    with progress_bars() as progress:
        found = statistics(folder, where, _Stages(progress))
    if json:
        print_json(found.to_json())
    else:
        print("\n".join(found.summary()))


@dataset_app.command("pack")
def pack(folder: SetFolder) -> None:
    """Pack a data set for training: one cache of flat arrays in SET/.packed, which may be deleted."""
    _check_set(folder)
    from nearsight.tasks.sets.packing import pack as run

    with progress_bars() as progress:
        stages = _Stages(progress)

        def told(name: str, error: str | None, done: int, total: int) -> None:
            stages("packing", done, total)

        made = run(folder, told)
    for name, why in made.refused:
        warn(f"{name} is not packed: {why}")
    print(f"{made.entries} entries, {made.nbytes / 1e6:.1f} MB, in {made.place}")


@dataset_app.command("export")
def export(
    folder: SetFolder,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write.")],
    write_as: Annotated[str, typer.Option("--to", help="Format to write.", metavar="FORMAT")] = "deeph",
    where: Condition = None,
    split: Annotated[
        Path | None, typer.Option("--split", help="Split to write beside; SET/split.json if there is one.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes; by default one for each core.", min=1, max=1024)
    ] = None,
) -> None:
    """Write a data set in another format, a folder each; run it again to go on."""
    _check_set(folder)
    from nearsight.tasks.sets.exporting import export as run

    with progress_bars() as progress:
        stages = _Stages(progress)

        def told(outcome: Any, done: int, total: int) -> None:
            stages("writing", done, total)
            if outcome.error:
                progress.console.print(
                    f"{outcome.name}: {outcome.error}", highlight=False, markup=False, soft_wrap=True
                )

        made = run(folder, out, write_as, where, split, workers, told, stages)
    if made.failed:
        name, why = made.failed[0]
        raise BadInput(
            f"{len(made.failed)} of {made.runs} failed, first {name}: {why} (all in {out / 'failures.json'}; "
            "the same command tries them again)"
        )
    print(f"{made.runs} entries as {write_as} in {out}")
