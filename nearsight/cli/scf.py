"""`nearsight scf`: a ground state, from options, files and words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nearsight.cli.console import spinner
from nearsight.cli.moments import moments_of
from nearsight.cli.process import loading, warn
from nearsight.cli.settings import Set, option
from nearsight.core.errors import BadInput, NotConverged

if TYPE_CHECKING:
    from nearsight.dft.ground_state import Step
    from nearsight.dft.trace import TraceStep


def scf(
    structure: Annotated[Path, typer.Argument(help="Any structure file that ASE reads, or a calculation folder.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Calculation folder to write.")],
    xc: Annotated[str | None, option("functional.xc")] = None,
    kmesh: Annotated[tuple[int, int, int] | None, option("kpoints.mesh", metavar="N N N")] = None,
    mesh_cutoff: Annotated[float | None, option("mesh.cutoff_ry", metavar="RY")] = None,
    mesh: Annotated[tuple[int, int, int] | None, option("mesh.shape", "The mesh itself.", "N N N")] = None,
    basis: Annotated[
        str | None, option("basis.size", "light, standard or tight; or sz, dz, szp, dzp, tz, tzp.")
    ] = None,
    energy_shift: Annotated[float | None, option("basis.energy_shift_ry", metavar="RY")] = None,
    species: Annotated[Path | None, option("basis.species", "Folder of <Symbol>.ion.xml, in place of a basis.")] = None,
    smearing: Annotated[float | None, option("electrons.width_ev", metavar="EV")] = None,
    smearing_kind: Annotated[str | None, option("electrons.smearing")] = None,
    spin: Annotated[str | None, option("electrons.spin")] = None,
    spin_orbit: Annotated[
        bool | None,
        option(
            "functional.spin_orbit", "Spin-orbit coupling, by fully relativistic pseudopotentials.", flag="spin-orbit"
        ),
    ] = None,
    moments: Annotated[
        str | None,
        typer.Option(
            help="Moment of each atom to begin with, e.g. 1,-1 or, as vectors, 0,0,3;0,0,-3 (mu_B).",
            metavar="M1,M2,...",
        ),
    ] = None,
    total_moment: Annotated[float | None, option("electrons.total_moment_mu_b", metavar="MU_B")] = None,
    constrain: Annotated[
        str | None,
        typer.Option(
            help="Hold moments where they begin: direction or moment, of all atoms or some (direction:Fe, moment:0,2).",
            metavar="WHAT[:ATOMS]",
        ),
    ] = None,
    charge: Annotated[float | None, option("electrons.charge_e", metavar="E")] = None,
    method: Annotated[str | None, option("solver.method")] = None,
    forces: Annotated[bool | None, option("outputs.forces", "Forces on the atoms (eV/A).", flag="forces")] = None,
    stress: Annotated[bool | None, option("outputs.stress", "Stress of the cell (eV/A^3).", flag="stress")] = None,
    start: Annotated[Path | None, typer.Option(help="Trained model whose prediction to begin with.")] = None,
    restart: Annotated[Path | None, typer.Option(help="Calculation folder whose Hamiltonian to begin with.")] = None,
    compare_start: Annotated[
        bool, typer.Option("--compare-start", help="Run also from superposed atoms; tell the iterations saved.")
    ] = False,
    trace: Annotated[
        Path | None, typer.Option(help="Write each step here, and a picture of them beside it.", metavar="FILE.jsonl")
    ] = None,
    device: Annotated[str | None, option("solver.device")] = None,
    vacuum: Annotated[
        float | None, typer.Option(help="Box around a molecule without a cell.", metavar="ANGSTROM")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings; options here come on top.")] = None,
    words: Set = None,
) -> None:
    """Compute the ground state of a structure by density functional theory; `nearsight settings` lists what --set takes."""
    from nearsight.core.configuration import from_beside, layered, read_table
    from nearsight.dft.settings import Settings
    from nearsight.formats.outputs import claim_file, claim_folder

    if trace is not None and trace.suffix == ".png":
        raise BadInput(f"--trace {trace}: it is a text file, a JSON object a line; its picture goes beside it")
    if compare_start and start is None:
        raise BadInput("--compare-start compares a model's start with that of superposed atoms: add --start MODEL")
    given = {
        "xc": xc,
        "kmesh": kmesh,
        "mesh_cutoff_ry": mesh_cutoff,
        "mesh": mesh,
        "basis": basis,
        "energy_shift_ry": energy_shift,
        "species": None if species is None else str(species),
        "smearing_ev": smearing,
        "smearing": smearing_kind,
        "spin": spin,
        "spin_orbit": spin_orbit,
        "moments": None if moments is None else moments_of(moments),
        "total_moment": total_moment,
        "constrain": constrain,
        "charge": charge,
        "method": method,
        "forces": forces,
        "stress": stress,
        "start": None if restart is None else str(restart),
        "device": device,
    }
    claim_folder(out, "calculation", [structure, config, species, start])
    if trace is not None:
        read_by_it = [structure, config, out]
        claim_file(trace, (), read_by_it)
        claim_file(trace.with_suffix(".png"), (), read_by_it)
    options = {k: v for k, v in given.items() if v is not None}
    table = from_beside(Settings, read_table(config), config.parent) if config else {}
    settings = layered(Settings, [table, options], words or [])
    with loading():
        from nearsight.core.units import HARTREE_EV
        from nearsight.dft.run import run_scf
        from nearsight.dft.setup import chosen_kmesh, why_kmesh
        from nearsight.dft.trace import Trace, iterations_of, saved_iterations
        from nearsight.formats.registry import read_structure

    listener = Trace() if trace else None
    with spinner("setting up: species, two-centre integrals, mesh") as status:

        def show(step: Step) -> None:
            change = f"residual {step.residual * HARTREE_EV:.2e} eV"
            status.update(f"iteration {step.iteration:3d}  E = {step.total * HARTREE_EV:.6f} eV  {change}")

        def told(step: Step) -> None:
            if listener:
                listener.step(step)
            show(step)

        observe = listener.observe if listener else None
        found = read_structure(structure, vacuum)
        predicted, plain, begun_with = None, None, None
        if start is not None:
            from nearsight.learn.model import TrainedModel

            predicted = TrainedModel.load(start).start_for(found, settings)
            begun_with = {"model": str(start)}
        if compare_start:
            plain = run_scf(found, settings.model_copy(update={"solver": {"start": None}}), None, show)
            begun_with = {**(begun_with or {}), **iterations_of(plain)}
        state = run_scf(found, settings, out, told, warn=warn, observe=observe, start=predicted, begun_with=begun_with)
    if trace and listener:
        _write_trace(trace, listener.steps(state))
    if not state.converged:
        raise NotConverged(
            f"not converged in {len(state.steps)} iterations ({state.why_not()})"
            f"{', so no forces or stress' if settings.outputs.forces or settings.outputs.stress else ''}; "
            f"the last state is in {out}: go on from it with --restart {out}, or try --method variational, "
            "--set mixing.weight=0.1 or a larger --smearing"
        )
    print(
        f"E = {state.total * HARTREE_EV:.6f} eV, free energy {state.free * HARTREE_EV:.6f} eV, "
        f"Fermi level {state.fermi_level * HARTREE_EV:.4f} eV, {len(state.steps)} iterations; "
        f"k-mesh {_joined(chosen_kmesh(found, settings))} ({why_kmesh(found, settings)}), "
        f"mesh {_joined(state.functional.mesh.shape)}; in {out}"
    )
    if start is not None:
        print(f"begun with {start}: first residual {state.steps[0].residual * HARTREE_EV:.1e} eV")
    if plain is not None:
        print(saved_iterations(state, plain))


def _joined(size: tuple[int, int, int]) -> str:
    return "x".join(str(n) for n in size)


def _write_trace(path: Path, steps: list[TraceStep]) -> None:
    from nearsight.dft.trace import write_trace
    from nearsight.report.plot import plot_trace

    write_trace(path, steps)
    plot_trace([("", steps)], path.with_suffix(".png"))
