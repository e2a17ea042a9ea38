"""What is left of a run that was cut off: the last Kohn-Sham matrix, kept beside the result's place, so that it goes on."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import numpy as np
import torch

from nearsight.core.blocks import BlockMatrix
from nearsight.core.reading import LARGEST, regular_file
from nearsight.core.spin import by_components
from nearsight.core.structure import Structure
from nearsight.dft.functional import EnergyFunctional
from nearsight.dft.problem import SCFState
from nearsight.dft.settings import Settings
from nearsight.formats.files import whole_file
from nearsight.formats.seal import read_arrays, write_arrays

_COMPONENTS = (1, 2, 4)
EVERY = 60.0  # seconds between two states that are kept


class Unfinished:
    """The file `.OUT.unfinished.npz` of a run into OUT (mutable: it follows the run).

    It belongs to one structure and one set of settings, but for outputs, tolerance and number of iterations: another run into
    the same place does not begin with it.
    """

    def __init__(self, out: Path, structure: Structure, settings: Settings) -> None:
        self.path = out.parent / f".{out.name}.unfinished.npz"
        table = settings.model_dump(mode="json", exclude={"outputs": True, "solver": True})
        digest = hashlib.sha256(json.dumps(table, sort_keys=True).encode())
        for x in (structure.cell, structure.positions, structure.numbers, structure.moments):
            if x is None:
                continue
            digest.update(np.ascontiguousarray(x.detach().cpu().numpy()).tobytes())
        self.digest = digest.hexdigest()
        self.iterations = 0
        self._last: SCFState | None = None
        self._kept = time.monotonic()

    def start(self, functional: EnergyFunctional) -> BlockMatrix | None:
        """H to go on with [Ha]; None where nothing of this run is left. `iterations` then tells how many are done."""
        try:
            regular_file(self.path, LARGEST, "state of a run")
            kept = read_arrays(self.path)
            if str(kept["digest"]) != self.digest:
                return None
            values, self.iterations = torch.from_numpy(kept["values"]), int(kept["iterations"])
        except Exception:  # whatever a damaged file makes NumPy stumble over: the run begins anew
            self.iterations = 0
            return None
        if (
            values.ndim != 2
            or len(values) not in _COMPONENTS
            or values.shape[1] != functional.layout.size
            or not bool(torch.isfinite(values).all())
        ):
            return None
        return BlockMatrix(functional.layout, values.to(functional.layout.device), by_components(len(values)))

    def observe(self, state: SCFState) -> None:
        """Called with every state of the run: keeps one a minute."""
        self._last = state
        self.iterations += 1
        if time.monotonic() - self._kept > EVERY:
            self.keep()

    def keep(self) -> None:
        """Write the last state down."""
        if self._last is None or self._last.residual != self._last.residual:
            return
        values = self._last.evaluation.hamiltonian.values.detach().cpu().numpy()
        with whole_file(self.path) as part, open(part, "wb") as file:
            write_arrays(file, {"digest": self.digest, "values": values, "iterations": self.iterations})
        self._kept = time.monotonic()

    def done(self) -> None:
        """The result stands in its place."""
        self.path.unlink(missing_ok=True)
