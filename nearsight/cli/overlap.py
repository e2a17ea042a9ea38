"""`nearsight overlap`: S of new structures, and H0 of their neutral atoms, without a run of any program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nearsight.cli.console import Bars, progress_bars
from nearsight.cli.settings import Set, option
from nearsight.core.errors import BadInput


def overlap(
    structures: Annotated[
        list[Path],
        typer.Argument(
            help="A structure file, a calculation folder, or several of them; a file of many; a folder of them."
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Calculation folder to write, or a folder for all of them.")],
    species: Annotated[
        Path | None,
        typer.Option(help="Folder of orbitals (.ion.xml, .pao, .orb) or of pseudopotentials to make them from."),
    ] = None,
    orbitals: Annotated[
        str | None,
        typer.Option(help="Which files and shells of the folder.", metavar="C6.0-s2p2d1,H6.0-s2p1"),
    ] = None,
    gaussian: Annotated[
        str | None, typer.Option(help="A Gaussian basis by PySCF's name instead, such as def2-svp.", metavar="NAME")
    ] = None,
    h0: Annotated[
        bool, typer.Option("--h0", help="H0 of superposed neutral atoms as well, where it is known.")
    ] = False,
    xc: Annotated[str | None, option("functional.xc")] = None,
    basis: Annotated[
        str | None, option("basis.size", "light, standard or tight; or sz, dz, szp, dzp, tz, tzp.")
    ] = None,
    energy_shift: Annotated[float | None, option("basis.energy_shift_ry", metavar="RY")] = None,
    mesh_cutoff: Annotated[float | None, option("mesh.cutoff_ry", metavar="RY")] = None,
    vacuum: Annotated[
        float | None, typer.Option(help="Box around a molecule without a cell.", metavar="ANGSTROM")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes; by default one for each core.", min=1, max=1024)
    ] = None,
    words: Set = None,
) -> None:
    """Compute overlaps (and H0) of structures without a run of any program; run it again to go on."""
    from nearsight.core.configuration import layered
    from nearsight.dft.overlap import OrbitalSource
    from nearsight.dft.settings import Settings
    from nearsight.tasks.overlap import write_overlaps

    given = {"xc": xc, "basis": basis, "energy_shift_ry": energy_shift, "mesh_cutoff_ry": mesh_cutoff}
    settings = layered(Settings, [{k: v for k, v in given.items() if v is not None}], words or [])
    names = tuple(word for word in (orbitals or "").split(",") if word)
    source = OrbitalSource(species, names, gaussian, settings)
    with progress_bars() as progress:
        bars = Bars(progress)

        def told(outcome: Any, done: int, total: int) -> None:
            if bars.task is None:
                bars.stage("overlaps")
            if outcome.error:
                progress.console.print(
                    f"{outcome.name} failed: {outcome.error}", highlight=False, markup=False, soft_wrap=True
                )
            bars.advance(done, total)

        made = write_overlaps(structures, out, source, h0, vacuum, workers, told)
    if made.failed:
        name, error = made.failed[0]
        raise BadInput(
            f"{len(made.failed)} of {made.structures} failed, first {name}: {error} (all in {out / 'failures.json'}; "
            "the same command tries them again)"
        )
    what = "overlap and H0" if h0 else "overlap"
    print(f"{what} of {made.structures} structures in {out}" if made.structures > 1 else f"{what} in {out}")
