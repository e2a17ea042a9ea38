"""A file format of a third party: one NumPy archive a calculation, in Rydberg and angstrom. As short as a format can be."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import torch

from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation, Provenance
from nearsight.core.errors import BadInput
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.structure import Structure
from nearsight.core.units import BOHR_ANG
from nearsight.formats.files import whole_file
from nearsight.formats.format import Format

RYDBERG = 0.5


class ToyFormat(Format):
    name = "toy"
    holds = frozenset({"overlap", "hamiltonian", "none"})

    def recognises(self, path: Path) -> bool:
        return path.suffix == ".toy" and path.is_file()

    def read(self, path: Path) -> Calculation:
        try:
            with np.load(path) as file:
                x = {k: torch.from_numpy(file[k]) for k in ("cell", "positions", "numbers", "pairs", "S", "H")}
                told = json.loads(str(file["told"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise BadInput(f"{path} is no toy file: {type(error).__name__}; write it again") from error
        structure = Structure(x["cell"] / BOHR_ANG, x["positions"] / BOHR_ANG, x["numbers"])
        basis = Basis.of(structure.numbers, {int(z): tuple(l) for z, l in told["shells"].items()})
        pairs = Pairs.of(x["pairs"][:, 0], x["pairs"][:, 1], x["pairs"][:, 2:], len(structure))
        layout = BlockLayout(basis, pairs)
        return Calculation(
            structure,
            BlockMatrix(layout, x["S"]),
            BlockMatrix(layout, x["H"] * RYDBERG),
            fermi_level=None if told["fermi"] is None else told["fermi"] * RYDBERG,
            electrons=told["electrons"],
            provenance=Provenance("toy", path=path),
        )

    def write(self, path: Path, calculation: Calculation) -> None:
        c, s, h = calculation, calculation.require_overlap(), calculation.require_hamiltonian()
        fermi = None if c.fermi_level is None else c.fermi_level / RYDBERG
        told = {"shells": dict(c.basis.shells), "fermi": fermi, "electrons": c.electrons}
        p = s.pairs
        with whole_file(path) as part, open(part, "wb") as file:
            np.savez(
                file,
                cell=c.structure.cell * BOHR_ANG,
                positions=c.structure.positions * BOHR_ANG,
                numbers=c.structure.numbers,
                pairs=torch.cat([p.i[:, None], p.j[:, None], p.R], 1),
                S=s.values,
                H=h.on(s.layout).values / RYDBERG,
                told=np.array(json.dumps(told)),
            )
