"""Iterations that a trained model saves: the same ground states from its prediction and from superposed atomic densities.

    python bench/scf_start.py MODEL FOLDER [FOLDER ...] [--first 50] [--limit 10] [--name h2o] [--set KEY=VALUE ...]
        [--go-on] [--recorded]

FOLDER is a calculation folder that the model never saw, or a folder of many. The settings are those of its `result.json`
(or of a `reference.json`: xc, k-mesh, mesh, kT), with the model's orbitals; both runs have the same mixing and stop at the same
|F - H| (1e-5 eV; `--set tolerance_ev=...`). Iterations to looser ends are read off the same runs. The one that only evaluates
the start counts as an iteration in both. `longer` counts structures that take more than one iteration more from the model.
With `--recorded` the run from atoms is not computed again, where the folder's own `result.json` tells its history to 1e-5 eV.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from nearsight.core.configuration import layered
from nearsight.core.units import HARTREE_EV
from nearsight.dft.ground_state import GroundState
from nearsight.dft.result import Result
from nearsight.dft.run import run_scf
from nearsight.dft.settings import Settings
from nearsight.formats.files import read_json, write_json
from nearsight.formats.registry import list_folders, read
from nearsight.learn.model import TrainedModel

HERE = Path(__file__).parent
ENDS_EV = (1e-3, 1e-4, 1e-5)


def settings_of(folder: Path, model: Path, words: list[str]) -> Settings:
    """What made the folder, with the model's orbitals and a tolerance of 1e-5 eV."""
    if (folder / "result.json").exists():
        config = Result.read(folder).config
        table = config.model_dump(include={"functional", "mesh", "kpoints", "electrons"})
        # files of orbitals hide where they came from: what `auto` chose when the folder was made
        if config.mesh.two_center == "auto" and config.basis.species is None:
            table["mesh"]["two_center"] = "exact"
    else:
        found = read_json(folder / "reference.json")
        table = {"xc": found["xc"], "kmesh": found["kmesh"], "mesh": found["mesh"], "smearing_ev": found["kT_eV"]}
    orbitals = {"species": str(model / "species"), "pseudopotentials": None}
    return layered(Settings, [table, {**orbitals, "tolerance_ev": 1e-5}], words)


@dataclass(frozen=True)
class Run:
    """What is told of a run: residuals [eV] of its iterations, and its energy [eV]."""

    residuals: list[float]
    converged: bool
    total: float

    @staticmethod
    def of(state: GroundState) -> Run:
        return Run([s.residual * HARTREE_EV for s in state.steps], state.converged, state.total * HARTREE_EV)

    @staticmethod
    def recorded(folder: Path) -> Run | None:
        """Of a folder, from superposed atoms to 1e-5 eV; None where it does not tell."""
        told = read_json(folder / "result.json") if (folder / "result.json").exists() else {}
        residuals = [s["residual_eV"] for s in told.get("history", [])]
        if not residuals or not residuals[-1] < ENDS_EV[-1] or told.get("start"):
            return None
        return Run(residuals, bool(told["converged"]), told["energy_eV"]["total"])

    def iterations_to(self, end: float) -> int | None:
        """How many it took until the residual stayed below an end [eV]."""
        last = max((n for n, r in enumerate(self.residuals, 1) if not r < end), default=0)
        return last + 1 if last < len(self.residuals) else None


def measure(folder: Path, path: Path, model: TrainedModel, words: list[str], recorded: bool) -> dict[str, Any]:
    """Both runs of one structure: iterations to each end, first residuals [eV], seconds, difference of the energies [eV]."""
    reference = read(folder)
    settings, structure = settings_of(folder, path, words), reference.structure
    start = time.perf_counter()
    plain = Run.recorded(folder) if recorded and not words else None
    known = plain is not None
    plain = plain or Run.of(run_scf(structure, settings))
    middle = time.perf_counter()
    predicted = model.start_for(structure, settings)
    state = run_scf(structure, settings, start=predicted)
    started = Run.of(state)
    seconds = (None if known else middle - start, time.perf_counter() - middle)
    error = predicted.on(state.hamiltonian.layout).values - state.hamiltonian.values
    ends = {f"{e:g}": [run.iterations_to(e) for run in (plain, started)] for e in ENDS_EV}
    return {
        "structure": folder.name,
        "iterations": [len(plain.residuals), len(started.residuals)],
        "converged": plain.converged and started.converged,
        "iterations_to_eV": ends,
        "first_residual_eV": [run.residuals[0] for run in (plain, started)],
        "start_mae_meV": 1e3 * HARTREE_EV * float(error.abs().mean()),
        "energy_difference_eV": started.total - plain.total,
        "seconds": seconds,
    }


def saved(pair: list[int | None]) -> float | None:
    """Share of the iterations from atoms that the model makes needless; None where one run did not get there."""
    plain, started = pair
    return None if plain is None or started is None else 1 - started / plain


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """For each end: mean iterations of both starts, and the share saved over all structures."""
    result = {}
    for end in (f"{e:g}" for e in ENDS_EV):
        pairs = [r["iterations_to_eV"][end] for r in rows if None not in r["iterations_to_eV"][end]]
        if pairs:
            plain, started = (mean(p[x] for p in pairs) for x in (0, 1))
            longer = sum(b > a + 1 for a, b in pairs)
            result[end] = {
                "structures": len(pairs),
                "plain": plain,
                "started": started,
                "saved": 1 - started / plain,
                "longer": longer,
                "most_more": max(b - a for a, b in pairs),
            }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--first", type=int, default=0, help="leave out so many folders, those that were trained on")
    parser.add_argument("--limit", type=int, help="take so many at most")
    parser.add_argument("--name", help="of the file of results; by default the model's")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of both runs")
    parser.add_argument("--go-on", action="store_true", help="keep the rows of the file of results")
    parser.add_argument("--recorded", action="store_true", help="take the run from atoms from result.json")
    asked = parser.parse_args()
    found = [f for given in asked.folders for f in list_folders(given)]
    found = found[asked.first :][: asked.limit]
    model = TrainedModel.load(asked.model)
    rows: list[dict[str, Any]] = []
    path = HERE / f"results/scf_start_{asked.name or asked.model.name}.json"
    if asked.go_on and path.exists():
        rows = read_json(path)["rows"]
        found = [f for f in found if f.name not in {r["structure"] for r in rows}]
    columns = "".join(f"{f'to {e:g} eV':>17s}" for e in ENDS_EV)
    print(f"{'structure':12s} {'H MAE meV':>9s} {'first residual eV':>19s} {columns}   (from atoms, from the model)")
    for folder in found:
        row = measure(folder, asked.model, model, asked.set, asked.recorded)
        rows.append(row)
        first = "{:.1e} {:.1e}".format(*row["first_residual_eV"])
        cells = ""
        for pair in row["iterations_to_eV"].values():
            share = saved(pair)
            cells += f"{pair[0] or '-':>5} {pair[1] or '-':>3} {'-' if share is None else f'{share:.0%}':>7}"
        failed = "" if row["converged"] else "   NOT converged"
        print(f"{row['structure']:12s} {row['start_mae_meV']:9.3f} {first:>19s} {cells}{failed}", flush=True)
        write_json(path, {"model": asked.model.name, "rows": rows, "summary": summary(rows)})
    for end, figures in summary(rows).items():
        print(
            f"to {end} eV, {figures['structures']} structures: {figures['plain']:.1f} iterations from atoms, "
            f"{figures['started']:.1f} from the model: {figures['saved']:.0%} saved, "
            f"{figures['longer']} longer by more than one"
        )


if __name__ == "__main__":
    main()
