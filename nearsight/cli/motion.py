"""`nearsight relax` and `nearsight md`: atoms that move on our forces, or on any ASE calculator's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nearsight.cli.console import Bars, figure, progress_bars
from nearsight.cli.process import loading
from nearsight.cli.settings import Set, option
from nearsight.core.errors import BadInput

if TYPE_CHECKING:
    from nearsight.motion.run import Mover

_Structure = Annotated[Path, typer.Argument(help="Any structure file that ASE reads, or a calculation folder.")]
_Out = Annotated[Path, typer.Option("-o", "--out", help="Folder of the run: trajectory, steps, state, result.")]
_Xc = Annotated[str | None, option("functional.xc")]
_Kmesh = Annotated[tuple[int, int, int] | None, option("kpoints.mesh", metavar="N N N")]
_Cutoff = Annotated[float | None, option("mesh.cutoff_ry", metavar="RY")]
_Basis = Annotated[str | None, option("basis.size", "light, standard or tight; or sz, dz, szp, dzp, tz, tzp.")]
_Species = Annotated[Path | None, option("basis.species", "Folder of <Symbol>.ion.xml, in place of a basis.")]
_Spin = Annotated[str | None, option("electrons.spin")]
_Device = Annotated[str | None, option("solver.device")]
_Vacuum = Annotated[float | None, typer.Option(help="Box around a molecule without a cell.", metavar="ANGSTROM")]
_Config = Annotated[Path | None, typer.Option(help="YAML file of settings; options here come on top.")]
_Calculator = Annotated[
    str | None,
    typer.Option(help="An ASE calculator in place of ours, such as ase.calculators.emt:EMT.", metavar="MODULE:CLASS"),
]
_NetForce = Annotated[bool, typer.Option("--keep-net-force", help="Do not take the sum of all forces out of them.")]


def relax(
    structure: _Structure,
    out: _Out,
    cell: Annotated[
        str, typer.Option(help="none, full, volume, shape, sheet, or six of 0 and 1: xx yy zz yz xz xy.")
    ] = "none",
    fmax: Annotated[float, typer.Option(help="Longest force at the end.", metavar="EV/ANG")] = 0.02,
    smax: Annotated[
        float | None, typer.Option(help="Largest stress at the end, with --cell.", metavar="GPA", show_default="0.1")
    ] = None,
    pressure: Annotated[float, typer.Option(help="On the cell.", metavar="GPA")] = 0.0,
    optimiser: Annotated[str, typer.Option(help="bfgs, fire or lbfgs.")] = "bfgs",
    steps: Annotated[int, typer.Option(help="At most.")] = 200,
    keep_net_force: _NetForce = False,
    calculator: _Calculator = None,
    xc: _Xc = None,
    kmesh: _Kmesh = None,
    mesh_cutoff: _Cutoff = None,
    basis: _Basis = None,
    species: _Species = None,
    spin: _Spin = None,
    device: _Device = None,
    vacuum: _Vacuum = None,
    config: _Config = None,
    words: Set = None,
) -> None:
    """Relax atoms, and with --cell the cell; run it again to go on. Held atoms stay (selective dynamics, move_mask)."""
    from nearsight.core.configuration import validated

    with loading():
        from nearsight.motion.relaxation import Relaxation
        from nearsight.motion.relaxation import relax as run

    if smax is not None and cell == "none":
        raise BadInput(
            "--smax is of the stress on a cell that may change: add --cell full, volume or sheet, or leave it out"
        )
    told = {"cell": cell, "fmax_ev_per_ang": fmax, "pressure_gpa": pressure, "optimiser": optimiser}
    told |= {} if smax is None else {"smax_gpa": smax}
    told |= {"steps": steps, "net_force": "kept" if keep_net_force else "removed"}
    options = validated(Relaxation, told, "relax")
    mover = _mover(calculator, config, words, _given(xc, kmesh, mesh_cutoff, basis, species, spin, device))
    with progress_bars() as progress:
        found = run(structure, out, options, mover, vacuum=vacuum, progress=Told(progress)).result
    stress = "" if found["smax_GPa"] is None else f", stress {figure(found['smax_GPa'])} GPa"
    print(
        f"relaxed in {found['steps']} steps: forces {figure(found['fmax_eV_per_Ang'])} eV/angstrom{stress}, free energy "
        f"{found['free_energy_eV']:.6f} eV, {found['gained_eV']:.6f} eV lower{_iterations(found)}; in {out}"
    )


def md(
    structure: _Structure,
    out: _Out,
    ensemble: Annotated[str | None, typer.Option(help="nve or langevin; with --friction langevin, else nve.")] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="Of the bath and the first velocities; else the file's velocities.", metavar="K"),
    ] = None,
    timestep: Annotated[float, typer.Option(help="Time step.", metavar="FS")] = 1.0,
    steps: Annotated[int, typer.Option(help="Time steps in all.")] = 100,
    friction: Annotated[float | None, typer.Option(help="Of Langevin's equation (0.01).", metavar="1/FS")] = None,
    seed: Annotated[int, typer.Option(help="Of velocities and random forces.")] = 0,
    every: Annotated[int, typer.Option(help="Steps between frames of the trajectory.")] = 1,
    keep_net_force: _NetForce = False,
    calculator: _Calculator = None,
    xc: _Xc = None,
    kmesh: _Kmesh = None,
    mesh_cutoff: _Cutoff = None,
    basis: _Basis = None,
    species: _Species = None,
    spin: _Spin = None,
    device: _Device = None,
    vacuum: _Vacuum = None,
    config: _Config = None,
    words: Set = None,
) -> None:
    """Molecular dynamics at constant energy or by Langevin's equation; run it again, or with more --steps, to go on."""
    from nearsight.core.configuration import validated

    with loading():
        from nearsight.motion.dynamics import Motion, run_dynamics

    kind = ensemble or ("nve" if friction is None else "langevin")
    told: dict[str, Any] = {"ensemble": kind, "temperature_K": temperature, "timestep_fs": timestep, "steps": steps}
    told |= {"seed": seed, "every": every, "net_force": "kept" if keep_net_force else "removed"}
    told |= {} if friction is None else {"friction_per_fs": friction}
    options = validated(Motion, told, "md")
    mover = _mover(calculator, config, words, _given(xc, kmesh, mesh_cutoff, basis, species, spin, device))
    with progress_bars() as progress:
        found = run_dynamics(structure, out, options, mover, vacuum=vacuum, progress=Told(progress)).result
    drift = ""
    if kind == "nve":
        drift = f", energy drifts by {figure(found['energy_eV']['drift_meV_per_atom_per_ps'])} meV per atom and ps"
    print(
        f"{found['steps']} steps, {figure(found['time_fs'])} fs: temperature {found['temperature_K']['mean']:.1f} K"
        f"{drift}{_iterations(found)}; in {out}"
    )


class Told(Bars):
    """A bar whose text says where the run is."""

    def advance(self, done: float, total: float, text: str = "") -> None:
        """See `Bars`."""
        if text:
            self.progress.update(self.task, description=text)
        super().advance(done, total)


def _iterations(found: Any) -> str:
    each = found["scf_iterations_per_step"]
    return "" if each is None else f", {each:.2f} iterations a step"


def _given(
    xc: str | None,
    kmesh: tuple[int, int, int] | None,
    mesh_cutoff: float | None,
    basis: str | None,
    species: Path | None,
    spin: str | None,
    device: str | None,
) -> dict[str, Any]:
    given = {
        "xc": xc,
        "kmesh": kmesh,
        "mesh_cutoff_ry": mesh_cutoff,
        "basis": basis,
        "species": None if species is None else str(species),
        "spin": spin,
        "device": device,
    }
    return {k: v for k, v in given.items() if v is not None}


def _mover(calculator: str | None, config: Path | None, words: list[str] | None, given: dict[str, Any]) -> Mover:
    """Whose forces: settings from a file, options and words, or a calculator's name."""
    from nearsight.core.configuration import from_beside, layered, read_table
    from nearsight.dft.settings import Settings
    from nearsight.motion.run import Mover

    table = from_beside(Settings, read_table(config), config.parent) if config else {}
    return Mover(scf=layered(Settings, [table, given], words or []), calculator=calculator)
