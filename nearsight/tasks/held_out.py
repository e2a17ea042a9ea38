"""Figures of a trained model on what its training held out, and beside them those of superposed atoms: what it is worth."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nearsight.core.calculation import Calculation
from nearsight.core.errors import NearsightError
from nearsight.electrons.kpoints import band_path
from nearsight.formats.files import write_json
from nearsight.learn.data import read_labelled
from nearsight.learn.data_record import DataRecord
from nearsight.learn.model import TrainedModel
from nearsight.properties.compare import Comparison, compare
from nearsight.properties.spectra import bands, electrons_of

FILE = "held_out.json"
POINTS = 24  # k on the path of each structure's bands
#: figures of a comparison that have a mean over structures
MEANS = (
    "hamiltonian_mae_meV",
    "on_site_mae_meV",
    "off_site_mae_meV",
    "overlapping_mae_meV",
    "gauge_mae_meV",
    "bands_near_mae_meV",
)
TABLES = ("mae_by_elements_meV", "mae_by_shells_meV")


@dataclass(frozen=True)
class HeldOut:
    """Means over the structures that could be looked at.

    structures: those.  of: held out in all.  model, superposed: figures by name (None without any), those of TABLES by pair;
    the latter None where the orbitals of the data are not known.  worse: structures whose H is more than a tenth worse than
    that of superposed atoms.  failed: what could not be computed, with the reason.
    """

    structures: int
    of: int
    model: dict[str, Any]
    superposed: dict[str, Any] | None
    worse: tuple[str, ...]
    failed: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Model's figures, and those of superposed atoms beside them, as of a `Comparison`."""
        counts = {"structures": self.structures, "held_out": self.of, "worse_than_superposed": len(self.worse)}
        beside = None if self.superposed is None else {**self.superposed, "structures": self.structures}
        return {**counts, **self.model, "superposed_atoms": beside}


def held_out_figures(
    folder: Path | str, seconds: float = 60.0, told: Callable[[int, int], None] | None = None
) -> HeldOut | None:
    """Of the model in a folder, on labelled structures that its data.json says were held out, until the time is spent.

    seconds: after which no further structure is begun; the first, and then every n-th, so that a part is a fair part.
    told: structures done, and all.  Leaves held_out.json beside the model.  None where nothing labelled was held out.
    """
    folder = Path(folder)
    record = DataRecord.read(folder)
    names = [] if record is None else [n for n, _ in record.validation if Path(n).is_dir()]
    if not names:
        return None
    model, started = TrainedModel.load(folder), time.perf_counter()
    if not model.network.target.gives_matrix:
        return None
    found: dict[str, Comparison] = {}
    failed: dict[str, str] = {}
    for done, name in enumerate(_spread(names)):
        if done and time.perf_counter() - started > seconds:
            break
        try:
            found[name] = _compared(model, Path(name))
        except NearsightError as error:
            failed[name] = str(error)
        if told is not None:
            told(done + 1, len(names))
    beside = {n: c.superposed_atoms for n, c in found.items() if c.superposed_atoms is not None}
    worse = [n for n, c in beside.items() if found[n].hamiltonian_mae_meV > 1.1 * c.hamiltonian_mae_meV]
    result = HeldOut(
        len(found),
        len(names),
        _means(list(found.values())),
        _means(list(beside.values())) if found and len(beside) == len(found) else None,
        tuple(worse),
        failed,
    )
    each = {n: c.to_json() for n, c in found.items()}
    write_json(folder / FILE, {**result.to_json(), "worse": worse, "failed": failed, "each": each})
    return result


def _compared(model: TrainedModel, folder: Path) -> Comparison:
    known = model.seen(read_labelled(folder))
    layout, overlap = known.require_hamiltonian().layout, known.require_overlap()
    electrons = electrons_of(known)
    path = band_path(known.structure, POINTS)
    wanted = bands(known.require_hamiltonian(), overlap, path)

    def measured(h: Any, superposed: Comparison | None) -> Comparison:
        other = Calculation(known.structure, overlap, h, electrons=electrons)
        spectra = wanted, bands(h, overlap, path)
        return compare(known, other, spectra=spectra, beside=superposed)

    reference = model.reference
    h0 = (
        None
        if reference is None
        else reference.initial_hamiltonian(known.structure).on(layout).embed(known.require_hamiltonian().spin)
    )
    return measured(model.hamiltonian(known.structure, layout), None if h0 is None else measured(h0, None))


def _spread(names: Sequence[str]) -> list[str]:
    """All of them, so that the first n are spread over the list: 0, 1/2, 1/4, 3/4, ..."""
    bits = max(1, (len(names) - 1).bit_length())
    order = (int(f"{k:0{bits}b}"[::-1], 2) for k in range(2**bits))
    return [names[k] for k in order if k < len(names)]


def _means(found: Sequence[Comparison]) -> dict[str, Any]:
    tables = [c.to_json() for c in found]

    def mean(values: list[float]) -> float | None:
        return sum(values) / len(values) if values else None

    result: dict[str, Any] = {k: mean([x for t in tables if isinstance(x := t[k], float)]) for k in MEANS}
    gaps = [(t["gap_other_eV"], t["gap_reference_eV"]) for t in tables]
    result["gap_error_meV"] = mean(
        [1000 * abs(a - b) for a, b in gaps if isinstance(a, float) and isinstance(b, float)]
    )
    levels = [x for t in tables if isinstance(x := t["fermi_difference_meV"], float)]
    result["fermi_error_meV"] = mean([abs(x) for x in levels])
    for name in TABLES:
        keys = sorted({k for t in tables for k in t[name]})  # type: ignore[attr-defined]
        result[name] = {k: mean([t[name][k] for t in tables if k in t[name]]) for k in keys}  # type: ignore[index,operator]
    return result
