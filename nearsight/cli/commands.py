"""The command line: one verb, one public function. Everything here is words and progress bars."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

# Idle OpenMP threads sleep instead of spinning: on a machine that is busy with anything else, two spinning threads make a
# calculation twenty times slower. It must be set before PyTorch loads, so before anything else here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from nearsight.cli.checking import check
from nearsight.cli.console import Bars, console, figure, print_figures, print_json, progress_bars, spinner
from nearsight.cli.dataset import Executor, dataset_app
from nearsight.cli.group import Group
from nearsight.cli.motion import md, relax
from nearsight.cli.overlap import overlap
from nearsight.cli.process import refuse_empty, run
from nearsight.cli.properties import add_properties
from nearsight.cli.scf import scf
from nearsight.cli.settings import list_settings, set_option
from nearsight.cli.structures import add_generators, structures_app
from nearsight.core.errors import BadInput

app = typer.Typer(
    cls=Group,
    name="nearsight",
    help="Electronic structure by density functional theory, and by networks that learn its Hamiltonian.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(dataset_app, name="dataset")
app.add_typer(structures_app, name="structures")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def main() -> None:
    """Run the command line: see `process.run`."""
    atexit.register(gc.freeze)  # a last look for garbage, among all modules, takes half a second

    def command() -> None:
        refuse_empty(sys.argv[1:])
        add_properties(app, sys.argv[1:])
        add_generators(sys.argv[1:])
        status = app(prog_name="nearsight", standalone_mode=False)
        raise SystemExit(status if isinstance(status, int) else 0)

    run(command)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    """What stands before a command: `--version` prints it and stops."""
    if version:
        from nearsight import __version__

        print(f"nearsight {__version__}")
        raise typer.Exit


@app.command()
def example(
    name: Annotated[str | None, typer.Argument(help="Such as graphene or set; without one, all are listed.")] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write it into.")] = Path("."),
) -> None:
    """Write a file to try things with: a structure, a data set's or a training's configuration."""
    from nearsight.tasks.examples import listed, write_example

    if name is None:
        for file, what in listed().items():
            print(f"{file:14s} {what}")
    else:
        print(f"{write_example(name, out)} written")


app.command()(scf)
app.command()(relax)
app.command()(md)
app.command()(overlap)
app.command("settings")(list_settings)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="model.yaml: data, model, trainer.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the trained model.")],
    words: Annotated[list[str] | None, set_option("train")] = None,
) -> None:
    """Train a network on Hamiltonians, or on the energy functional; run it again to go on where it was stopped."""
    from nearsight.cli.process import warn
    from nearsight.learn.parallel import Ranks
    from nearsight.learn.train import train_from_config
    from nearsight.tasks.held_out import held_out_figures

    report = train_from_config(config, out, words)
    if Ranks.join("cpu").first:
        with spinner("figures of what was held out"):
            found = held_out_figures(out, max(20.0, 6 * report["minutes"]))
        for name, reason in ({} if found is None else found.failed).items():
            warn(f"no figures of {name}: {reason}")
        if found is not None and found.structures:
            print_figures(found.to_json(), "of what was held out")
    said = f"{report['best_is']}: {figure(report['best'])} {report['best_unit']}"
    if report["last"]["energy"] is not None and report["validation_mae_meV"] is not None:
        said += f"; mean error of the Hamiltonians validated on: {figure(report['validation_mae_meV'])} meV"
    print(f"{said}; the model is in {out}")


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    structure: Annotated[Path, typer.Argument(help="Any structure file that ASE reads, or a calculation folder.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Calculation folder to write.")],
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    vacuum: Annotated[
        float | None, typer.Option(help="Box around a molecule without a cell.", metavar="ANGSTROM")
    ] = None,
    charge: Annotated[
        float | None, typer.Option(help="Of the cell; by default that of the training data.", metavar="E")
    ] = None,
    moments: Annotated[
        str | None,
        typer.Option(help="Of each atom, for a model that takes them: 1,-1 (along z) or 0,0,3;0,3,0.", metavar="MU_B"),
    ] = None,
    processes: Annotated[int, typer.Option(help="That share the tiles of a large structure.", min=1, max=256)] = 1,
    tile: Annotated[
        int | None,
        typer.Option(help="Predict in tiles of so many atoms; large structures are anyway.", metavar="ATOMS", min=1),
    ] = None,
) -> None:
    """Predict the Hamiltonian of a structure with a trained network."""
    import torch

    from nearsight.cli.moments import moments_of
    from nearsight.cli.process import warn
    from nearsight.formats.registry import read_structure
    from nearsight.learn.large import Way
    from nearsight.learn.model import predict as predict_folder

    found = structure if vacuum is None else read_structure(structure, vacuum)
    given = None if moments is None else torch.tensor(moments_of(moments), dtype=torch.float64)
    with progress_bars() as progress:
        bars = Bars(progress)

        def told(done: int, total: int) -> None:
            if bars.task is None:
                bars.stage("tiles")
            bars.advance(done, total)

        predict_folder(model, found, out, device, charge, warn, given, Way(tile, processes, told))
    if not (out / "hamiltonian.h5").exists():
        print(f"energy, forces and magnetic forces in {out / 'result.json'}")
        return
    print(f"Hamiltonian and overlap in {out}")
    if vacuum is None and structure.is_dir():
        _beside_the_ground_state(structure, out)


def _beside_the_ground_state(structure: Path, out: Path) -> None:
    """Print how far a prediction is from the ground state in the folder that it was made for, if there is one."""
    from nearsight.formats.registry import find, read
    from nearsight.properties.compare import compare as measure
    from nearsight.properties.compare import superposed_atoms

    known = read(structure) if find(structure) is not None else None
    ground = known is not None and known.hamiltonian is not None and known.converged is not False
    if known is None or not ground or known.result.get("prediction") or known.result.get("initial_hamiltonian"):
        return
    with spinner("comparing with the ground state"):
        result = measure(known, read(out), superposed=superposed_atoms(known)).to_json()
    print_figures(result)


@app.command()
def bands(
    folders: Annotated[list[Path], typer.Argument(help="Calculation folders; several are drawn over each other.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Picture: png, pdf or svg.")] = None,
    path: Annotated[str | None, typer.Option(help="Corners to visit, e.g. GAMMA-M-K-GAMMA.")] = None,
    points: Annotated[int | None, typer.Option(help="k-points on the path.", min=2)] = None,
    window: Annotated[
        tuple[float, float] | None,
        typer.Option(
            help="Energies shown, from the Fermi level.", metavar="EV EV", show_default="-10 10, or all states"
        ),
    ] = None,
    states: Annotated[int | None, typer.Option(help="How many states about the Fermi level.", min=1)] = None,
    solver: Annotated[
        str, typer.Option(help="dense (all states), sparse (some, of large systems), or auto: what fits.")
    ] = "auto",
    project: Annotated[
        str | None, typer.Option(help="Show what is on which atom, element, l, orbital, spin, or several: element,l.")
    ] = None,
    fold: Annotated[
        bool, typer.Option("--fold/--no-fold", help="Take supercells too: bands folded, along the path of the first.")
    ] = False,
    json: Annotated[Path | None, typer.Option("--json", help="Write the numbers here.")] = None,
) -> None:
    """Draw the band structure of a calculation, in DIR/bands.png (FILE.bands.png of a file) if not told otherwise."""
    from nearsight.formats.outputs import PICTURES, claim_file, distinct_names
    from nearsight.report.plot import check_window, plot_bands

    if window is not None:
        check_window(window)
    if solver not in ("auto", "dense", "sparse"):
        raise BadInput(f"--solver {solver}: take auto, dense or sparse")
    if project is not None and len(folders) > 1:
        raise BadInput("--project draws one calculation: give one folder")
    first, names = folders[0], distinct_names(folders)
    picture = out or (first / "bands.png" if first.is_dir() else first.with_name(f"{first.name}.bands.png"))
    claim_file(picture, PICTURES, folders)
    if json is not None:
        claim_file(json, (), [*folders, picture])
    from nearsight.core.units import HARTREE_EV
    from nearsight.formats.files import write_json
    from nearsight.formats.registry import read
    from nearsight.properties.spectra import bands as compute
    from nearsight.properties.spectra import bands_together

    words: dict[str, Any] = {"solver": solver, "states": states, "window_ev": window}
    with progress_bars() as progress:
        bars = Bars(progress)
        bars.stage("diagonalising")
        calculations = [read(folder) for folder in folders]
        if project is None:
            found = bands_together(calculations, path, points, fold, bars, **words)
        else:
            found = [compute(calculations[0], path=path, points=points, project=project, progress=bars, **words)]
    results = dict(zip(names, found, strict=True))
    few = [b for b in found if b.first]
    shown = window or (-10.0, 10.0)
    if window is None and few and few[0].fermi_level is not None:
        ends = [(e - few[0].fermi_level) * HARTREE_EV for e in (few[0].energies.min(), few[0].energies.max())]
        shown = (float(ends[0]) - 0.02, float(ends[1]) + 0.02)
    plot_bands(list(results.items()), picture, window_ev=shown)
    if json is not None:
        write_json(json, {name: b.to_json() for name, b in results.items()})
    by = (
        ""
        if not few
        else f", {few[0].energies.shape[2]} states at each k"
        + (" by the sparse solver" if few[0].solver == "sparse" else "")
    )
    print(f"bands in {picture}{by}")


@app.command()
def compare(
    reference: Annotated[Path, typer.Argument(help="Calculation folder to measure against.")],
    other: Annotated[Path, typer.Argument(help="Calculation folder of the same structure.")],
    window: Annotated[float, typer.Option(help="Half width of the band window.", metavar="EV")] = 5.0,
    json: Json = False,
) -> None:
    """How far apart are two Hamiltonians of one structure, and their bands?"""
    from nearsight.formats.registry import read
    from nearsight.properties.compare import compare as measure
    from nearsight.properties.compare import superposed_atoms

    with spinner("comparing"):
        known = read(reference)
        result = measure(known, read(other), window_ev=window, superposed=superposed_atoms(known)).to_json()
    if json:
        print_json(result)
        return
    print_figures(result)


@app.command()
def convert(
    source: Annotated[
        Path, typer.Argument(help="A run (folder or file) of any program that is known, or a folder of runs.")
    ],
    target: Annotated[Path, typer.Argument(help="Calculation folder to write, or a folder for all of them.")],
    read_as: Annotated[
        str | None, typer.Option("--from", help="Program or layout; found if not told.", metavar="NAME")
    ] = None,
    write_as: Annotated[str, typer.Option("--to", help="Layout to write.", metavar="NAME")] = "deeph",
    workers: Annotated[
        int | None, typer.Option(help="Processes; by default one for each core.", min=1, max=1024)
    ] = None,
    executor: Executor = None,
) -> None:
    """Convert data of another program: H, S, D, structure and levels; run it again to go on."""
    from nearsight.tasks.convert import convert as run
    from nearsight.tasks.executors.contract import ExecutorTable

    where = None if executor is None else ExecutorTable.told(executor)
    with progress_bars() as progress:
        bars = Bars(progress)

        def told(outcome: Any, done: int, total: int) -> None:
            if bars.task is None:
                bars.stage("converting")
            if outcome.error:
                progress.console.print(
                    f"{outcome.name} failed: {outcome.error}", highlight=False, markup=False, soft_wrap=True
                )
            bars.advance(done, total)

        made = run(source, target, read_as, write_as, workers, told, None, where)
    if made.failed:
        name, error = made.failed[0]
        raise BadInput(
            f"{len(made.failed)} of {made.runs} failed, first {name}: {error} (all in {target / 'failures.json'}; "
            "the same command tries them again)"
        )
    print(made.left or f"{made.runs} {'run' if made.runs == 1 else 'runs'} in {target}")


app.command()(check)


@app.command()
def density(
    folder: Annotated[Path, typer.Argument(help="Calculation folder with a density matrix.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="File to write: .cube (atomic units) or .xsf (A, eV).")],
    what: Annotated[
        str,
        typer.Option(help="density, spin, mx, my, mz, m, potential, electrostatic, several with commas; or orbital."),
    ] = "density",
    mesh_cutoff: Annotated[
        float | None, typer.Option(help="Mesh of a density, else the calculation's own.", metavar="RY")
    ] = None,
    band: Annotated[int | None, typer.Option(help="Of an orbital: from 0, by energy.")] = None,
    k: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="Of an orbital: fractional k.", metavar="K K K", show_default="0 0 0"),
    ] = None,
    spin: Annotated[int | None, typer.Option(help="Of an orbital: 0 up, 1 down.", show_default="0")] = None,
) -> None:
    """Write the electron density, the potential or an orbital of a calculation on its mesh, as a cube or XSF file."""
    from nearsight.formats.outputs import FIELDS, claim_file

    claim_file(out, FIELDS, [folder])
    if what == "orbital" and band is None:
        raise BadInput("--what orbital needs --band N (from 0, by energy)")
    of_orbitals = {"--band": band, "--k": k, "--spin": spin}
    wrong = [
        n for n, v in (of_orbitals if what != "orbital" else {"--mesh-cutoff": mesh_cutoff}).items() if v is not None
    ]
    if wrong:
        raise BadInput(
            f"{wrong[0]} says nothing of --what {what}: leave it out{'' if what == 'orbital' else ', or take --what orbital'}"
        )
    from nearsight.properties.density import write_density, write_orbital

    with spinner("setting up: species, mesh, density"):
        if what == "orbital" and band is not None:
            volume = write_orbital(folder, out, band, k or (0.0, 0.0, 0.0), spin or 0)
        else:  # another word is refused there
            volume = write_density(folder, out, what, mesh_cutoff)
    where = out if "," not in what else out.with_name(f"{out.stem}-({'|'.join(what.split(','))}){out.suffix}")
    print(f"{volume.comment} on {' x '.join(str(n) for n in volume.values.shape)} points in {where}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for everything that the tour makes.")] = Path("demo"),
) -> None:
    """The tour on real input: DFT of distorted graphene, a network trained on it, its bands on a larger cell."""
    from nearsight.report.plot import plot_bands
    from nearsight.tasks.demo import run

    with progress_bars(console()) as progress:
        report = run(out, Bars(progress), plot_bands)
    figures = report["comparison"]
    print(
        f"H: mean error {figures['hamiltonian_mae_meV']:.2f} meV; bands within 5 eV of the Fermi level: "
        f"{figures['bands_mae_meV']:.1f} meV\nsee {out / 'bands.png'} and {out / 'report.json'}"
    )


if __name__ == "__main__":
    main()
