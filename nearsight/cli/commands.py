"""The command line: one verb, one public function. Everything here is words and progress bars."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

# Idle OpenMP threads sleep instead of spinning: on a machine that is busy with anything else, two spinning threads make a
# calculation twenty times slower. It must be set before PyTorch loads, so before anything else here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from nearsight.cli.console import Bars, console, figure, print_json, progress_bars, spinner
from nearsight.cli.properties import add_properties
from nearsight.cli.settings import list_settings, option
from nearsight.core.errors import BadInput, NearsightError, NotConverged

if TYPE_CHECKING:
    from nearsight.dft.ground_state import Step
    from nearsight.dft.trace import TraceStep
    from nearsight.properties.spectra import Bands

app = typer.Typer(
    name="nearsight",
    help="Electronic structure by density functional theory, and by networks that learn its Hamiltonian.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
dataset_app = typer.Typer(help="Many ground states at once.", no_args_is_help=True)
app.add_typer(dataset_app, name="dataset")

Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; repeatable.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


NO_MEMORY = "there is not enough memory: take a coarser mesh, fewer k-points, a smaller cell or less vacuum"


class Stopped(BaseException):
    """Ctrl-C, or a queueing system's end of time. No library takes it for an error of its own."""

    def __init__(self, number: int) -> None:
        self.number = number


def _stop(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
    raise Stopped(number)


def main() -> None:
    """Run the command line: exit 0 when all is well, 1 with one line on stderr when not, 2 for a usage error.

    130 after Ctrl-C and 143 after SIGTERM, once what was half-written is removed.
    """
    import warnings

    warnings.filterwarnings("ignore", module="seekpath")  # it warns of every cell that is nearly of higher symmetry
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in handlers.items():
        if handler in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _stop)
    try:
        add_properties(app, sys.argv[1:])
        app()
    except NearsightError as error:
        _fail(str(error), error.status)
    except Stopped as stopped:
        _fail("stopped; the same command goes on from here", 128 + stopped.number)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except MemoryError:
        _fail(NO_MEMORY)
    except RuntimeError as error:  # PyTorch's own words, and those of CUDA
        if not any(words in str(error) for words in ("allocate memory", "out of memory")):
            raise
        _fail(NO_MEMORY)
    except OSError as error:
        _fail(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _warn(message: str) -> None:
    print(f"warning: {' '.join(message.split())}", file=sys.stderr)


def _fail(message: str, status: int = 1) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(status)


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


@app.command()
def scf(
    structure: Annotated[Path, typer.Argument(help="Any structure file that ASE reads, or a calculation folder.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Calculation folder to write.")],
    xc: Annotated[str | None, option("functional.xc")] = None,
    kmesh: Annotated[tuple[int, int, int] | None, option("kpoints.mesh", metavar="N N N")] = None,
    mesh_cutoff: Annotated[float | None, option("mesh.cutoff_ry", metavar="RY")] = None,
    mesh: Annotated[tuple[int, int, int] | None, option("mesh.shape", "The mesh itself.", "N N N")] = None,
    basis: Annotated[str | None, option("basis.size", "sz, dz, szp, dzp, tz or tzp.")] = None,
    energy_shift: Annotated[float | None, option("basis.energy_shift_ry", metavar="RY")] = None,
    species: Annotated[Path | None, option("basis.species", "Folder of <Symbol>.ion.xml, in place of a basis.")] = None,
    smearing: Annotated[float | None, option("electrons.width_ev", metavar="EV")] = None,
    smearing_kind: Annotated[str | None, option("electrons.smearing")] = None,
    spin: Annotated[str | None, option("electrons.spin")] = None,
    moments: Annotated[
        str | None, typer.Option(help="Moment of each atom to begin with, e.g. 1,-1 (mu_B).", metavar="M1,M2,...")
    ] = None,
    total_moment: Annotated[float | None, option("electrons.total_moment_mu_b", metavar="MU_B")] = None,
    charge: Annotated[float | None, option("electrons.charge_e", metavar="E")] = None,
    method: Annotated[str | None, option("solver.method")] = None,
    forces: Annotated[bool, typer.Option("--forces", help="Forces on the atoms.")] = False,
    stress: Annotated[bool, typer.Option("--stress", help="Stress of the cell.")] = False,
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
    from nearsight.core.units import HARTREE_EV
    from nearsight.dft.run import run_scf
    from nearsight.dft.settings import Settings
    from nearsight.dft.setup import chosen_kmesh
    from nearsight.dft.trace import Trace, iterations_of, saved_iterations
    from nearsight.formats.outputs import claim_file, claim_folder
    from nearsight.formats.registry import read_structure

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
        "moments": None if moments is None else _numbers("--moments", moments),
        "total_moment": total_moment,
        "charge": charge,
        "method": method,
        "forces": forces or None,
        "stress": stress or None,
        "start": None if restart is None else str(restart),
        "device": device,
    }
    claim_folder(out, "calculation", [structure])
    if trace is not None:
        claim_file(trace)
    options = {k: v for k, v in given.items() if v is not None}
    table = from_beside(Settings, read_table(config), config.parent) if config else {}
    settings = layered(Settings, [table, options], words or [])
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
        state = run_scf(found, settings, out, told, warn=_warn, observe=observe, start=predicted, begun_with=begun_with)
    if trace and listener:
        _write_trace(trace, listener.steps(state))
    if not state.converged:
        residual = state.steps[-1].residual * HARTREE_EV
        raise NotConverged(
            f"not converged in {len(state.steps)} iterations (residual {residual:.1e} eV)"
            f"{', so no forces or stress' if settings.outputs.forces or settings.outputs.stress else ''}; "
            f"the last state is in {out}: go on from it with --restart {out}, or try --method variational, "
            "--set mixing.weight=0.1 or a larger --smearing"
        )
    print(
        f"E = {state.total * HARTREE_EV:.6f} eV, free energy {state.free * HARTREE_EV:.6f} eV, "
        f"Fermi level {state.fermi_level * HARTREE_EV:.4f} eV, {len(state.steps)} iterations; "
        f"k-mesh {_joined(chosen_kmesh(found, settings))}, mesh {_joined(state.functional.mesh.shape)}; in {out}"
    )
    if start is not None:
        print(f"begun with {start}: first residual {state.steps[0].residual * HARTREE_EV:.1e} eV")
    if plain is not None:
        print(saved_iterations(state, plain))


app.command("settings")(list_settings)


def _joined(size: tuple[int, int, int]) -> str:
    return "x".join(str(n) for n in size)


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise BadInput(f"{option} {text}: write numbers with commas between them, such as 1,-1") from None


def _write_trace(path: Path, steps: list[TraceStep]) -> None:
    from nearsight.dft.trace import write_trace
    from nearsight.report.plot import plot_trace

    write_trace(path, steps)
    plot_trace([("", steps)], path.with_suffix(".png"))


@dataset_app.command("build")
def dataset_build(
    config: Annotated[Path, typer.Argument(help="set.yaml: structure, distort or modes, scf, workers.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the calculation folders.")],
    workers: Annotated[int | None, typer.Option(help="Processes; by default one for each core.")] = None,
    words: Set = None,
) -> None:
    """Compute the ground states of many structures (labels: false makes bare ones); run it again to go on."""
    from nearsight.tasks.dataset import build, read_settings

    settings = read_settings(config, (*(words or []), *([f"workers={workers}"] if workers is not None else [])))
    with progress_bars() as progress:
        bars = Bars(progress)
        bars.stage("ground states" if settings.labels else "structures")

        def told(outcome: Any, done: int, total: int) -> None:
            if outcome.error:
                progress.console.print(f"{outcome.name} failed: {outcome.error}", highlight=False, markup=False)
            bars.advance(done, total)

        made = build(settings, out, told)
        bars.advance(made.jobs - len(made.failed), made.jobs)
    if made.failed:
        name, error = made.failed[0]
        raise NotConverged(
            f"{len(made.failed)} of {made.jobs} failed, first {name}: {error} (all in {out / 'failures.json'}; "
            "the same command tries them again; what did not converge may with --set scf.mixing.weight=0.1, "
            "--set scf.method=variational or more scf.max_iterations. A wider smearing is other physics: into a new folder)"
        )
    print(f"{made.jobs} {'ground states' if settings.labels else 'structures'} in {out}")


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="model.yaml: data, model, trainer.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the trained model.")],
    words: Set = None,
) -> None:
    """Train a network on Hamiltonians, or on the energy functional; run it again to go on where it was stopped."""
    from nearsight.learn.train import train_from_config

    report = train_from_config(config, out, words)
    said = f"mean error of unseen Hamiltonians {figure(report['validation_mae_meV'])} meV"
    if report["validation_mae_meV"] is None and report["best"] is not None:
        said = f"energy above the minimum, by its bound, {figure(report['best'])} ueV per atom"
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
) -> None:
    """Predict the Hamiltonian of a structure with a trained network."""
    from nearsight.formats.registry import read_structure
    from nearsight.learn.model import predict as predict_folder

    predict_folder(model, structure if vacuum is None else read_structure(structure, vacuum), out, device=device)
    print(f"Hamiltonian and overlap in {out}")


@app.command()
def bands(
    folders: Annotated[list[Path], typer.Argument(help="Calculation folders; several are drawn over each other.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Picture: png, pdf or svg.")] = None,
    path: Annotated[str | None, typer.Option(help="Corners to visit, e.g. GAMMA-M-K-GAMMA.")] = None,
    points: Annotated[int | None, typer.Option(help="k-points on the path.", min=2)] = None,
    window: Annotated[tuple[float, float], typer.Option(help="Energies shown.", metavar="EV EV")] = (-10.0, 10.0),
    project: Annotated[
        str | None, typer.Option(help="Show what is on which atom, element, l, orbital, spin, or several: element,l.")
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write the numbers here.")] = None,
) -> None:
    """Draw the band structure of a calculation, in DIR/bands.png (FILE.bands.png of a file) if not told otherwise."""
    from nearsight.formats.files import write_json
    from nearsight.formats.outputs import PICTURES, claim_file
    from nearsight.formats.registry import read
    from nearsight.properties.spectra import bands as compute
    from nearsight.report.plot import plot_bands

    if project is not None and len(folders) > 1:
        raise BadInput("--project draws one calculation: give one folder")
    for place, endings in ((out, PICTURES), (json, ())):
        if place is not None:
            claim_file(place, endings)
    results: list[tuple[str, Bands]] = []
    with spinner("diagonalising"):
        for folder in folders:
            c = read(folder)
            if not results:
                results.append((folder.name or str(folder), compute(c, path=path, points=points, project=project)))
            else:
                k = results[0][1].path
                results.append(
                    (
                        folder.name or str(folder),
                        compute(c.require_hamiltonian(), c.require_overlap(), k, c.fermi_level),
                    )
                )
    first = folders[0]
    picture = out or (first / "bands.png" if first.is_dir() else first.with_name(f"{first.name}.bands.png"))
    plot_bands(results, picture, window_ev=window)
    if json is not None:
        write_json(json, {name: b.to_json() for name, b in results})
    print(f"bands in {picture}")


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

    with spinner("comparing"):
        result = measure(read(reference), read(other), window_ev=window).to_json()
    if json:
        print_json(result)
        return
    from rich.table import Table

    table = Table("difference", "value", box=None, pad_edge=False, header_style="bold")
    for name, value in result.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        for key, number in inner:
            table.add_row(f"{name} {key}".strip(), figure(number))
    console().print(table)


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
    workers: Annotated[int | None, typer.Option(help="Processes; by default one for each core.")] = None,
) -> None:
    """Convert data of another program: H, S, D, structure and levels; run it again to go on."""
    from nearsight.tasks.convert import convert as run

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

        made = run(source, target, read_as, write_as, workers, told)
    if made.failed:
        name, error = made.failed[0]
        raise BadInput(
            f"{len(made.failed)} of {made.runs} failed, first {name}: {error} (all in {target / 'failures.json'}; "
            "the same command tries them again)"
        )
    print(f"{made.runs} {'run' if made.runs == 1 else 'runs'} in {target}")


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="A calculation in any format that is known, or a folder of them.")],
    json: Json = False,
) -> None:
    """Is a calculation sound, in its orders, signs, units, symmetry and levels? Exit 1 if not, with what would mend it."""
    from nearsight.formats.registry import find, list_folders, read_unchecked
    from nearsight.properties.check import check as examine

    places = list_folders(folder) if folder.is_dir() and find(folder) is None else [folder]
    broken: list[tuple[Path, str]] = []
    told: dict[str, Any] = {}
    for place in places:
        with spinner(f"checking {place.name}"):
            try:
                findings = examine(read_unchecked(place))
            except NearsightError as error:
                if len(places) == 1:
                    raise
                findings = []
                broken.append((place, str(error)))
        broken += [(place, f"{f.law} is broken ({f.found})") for f in findings if not f.holds]
        told[place.name] = {"sound": all(f.holds for f in findings), "findings": [f.to_json() for f in findings]}
        if not json and len(places) == 1:
            for f in findings:
                sign = "[green]holds[/]" if f.holds else "[bold red]broken[/]"
                console().print(f"{sign:<20} {f.law}: {f.found}", highlight=False, soft_wrap=True)
        elif not json:
            wrong = [words for where, words in broken if where == place]
            console().print(
                f"{place.name}: {'; '.join(wrong) or 'sound'}", highlight=False, soft_wrap=True, markup=False
            )
    if json:
        print_json(told[places[0].name] if len(places) == 1 else told)
    if broken:
        count = len({place for place, _ in broken})
        more = f" ({count} of {len(places)} are not)" if len(places) > 1 else ""
        raise BadInput(f"{broken[0][0]} is not sound: {broken[0][1]}{more}")


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
    k: Annotated[tuple[float, float, float], typer.Option(help="Of an orbital: fractional k.")] = (0.0, 0.0, 0.0),
    spin: Annotated[int, typer.Option(help="Of an orbital: 0 up, 1 down.")] = 0,
) -> None:
    """Write the electron density, the potential or an orbital of a calculation on its mesh, as a cube or XSF file."""
    from nearsight.formats.outputs import claim_file
    from nearsight.properties.density import write_density, write_orbital

    claim_file(out, [".cube", ".cub", ".xsf"])
    if what == "orbital" and band is None:
        raise BadInput("--what orbital needs --band N (from 0, by energy)")
    with spinner("setting up: species, mesh, density"):
        if what == "orbital" and band is not None:
            volume = write_orbital(folder, out, band, k, spin)
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
