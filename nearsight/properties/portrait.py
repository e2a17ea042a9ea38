"""What a page about a calculation shows of its matrices: sizes by pair and by distance, S over k, bands, asymmetry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.display import one_line
from nearsight.core.errors import NearsightError
from nearsight.core.structure import SYMBOLS
from nearsight.core.units import BOHR_ANG, HARTREE_EV
from nearsight.electrons.kpoints import BandPath, band_path
from nearsight.electrons.symmetry import Symmetrisation
from nearsight.properties.consistency import group_of
from nearsight.properties.spectra import Bands, bands

_UNITS = {"S": 1.0, "H": HARTREE_EV}
MOST_ORBITALS = 2000  # whose matrices are diagonalised along a path: it takes a minute


@dataclass(frozen=True, eq=False)
class Portrait:
    """Sizes are the largest |element| of a block: H in eV, S without unit.

    by_atoms: of S and of H, over all cells [atoms, atoms].  distance: of each pair of S [pairs, angstrom]; sizes: of S and H
    [pairs]; kinds: `C-H` of each pair's elements.  path, lowest: smallest eigenvalue of S(k) [k].  bands: None without H.
    asymmetry: how far each block of S and of H is from what the crystal's symmetry makes of it [pairs]; empty without symmetry.
    left_out: why there is nothing along a path; empty where there is.
    """

    by_atoms: Mapping[str, Tensor]
    distance: Tensor
    sizes: Mapping[str, Tensor]
    kinds: tuple[str, ...]
    path: BandPath | None = None
    lowest: Tensor | None = None
    bands: Bands | None = None
    asymmetry: Mapping[str, Tensor] = field(default_factory=dict)
    left_out: str = ""

    __repr__ = one_line

    @staticmethod
    def of(calculation: Calculation) -> Portrait:
        """What can be shown; what a broken calculation does not allow is left out. Raises MissingData without an overlap."""
        c, S = calculation, calculation.require_overlap()
        matrices = {"S": S}
        if c.hamiltonian is not None:
            H = c.hamiltonian
            matrices["H"] = H if H.same_layout(S) else H.on(S.layout)
        sizes = {name: _block_sizes(m) * _UNITS[name] for name, m in matrices.items()}
        pairs, atoms = S.pairs, len(c.structure)
        place = pairs.i * atoms + pairs.j
        by_atoms = {name: _largest_at(place, size, atoms**2).view(atoms, atoms) for name, size in sizes.items()}
        numbers = torch.tensor(S.basis.numbers)
        zi, zj = numbers[pairs.i].tolist(), numbers[pairs.j].tolist()
        kinds = tuple("-".join(SYMBOLS[z] for z in sorted(pair)) for pair in zip(zi, zj, strict=True))
        size = S.basis.size * c.spin.size_factor
        many = size > MOST_ORBITALS
        path, lowest, energies = (None, None, None) if many else _over_k(c, size)
        return Portrait(
            by_atoms=by_atoms,
            distance=pairs.vectors(c.structure).norm(dim=1) * BOHR_ANG,
            sizes=sizes,
            kinds=kinds,
            path=path,
            lowest=lowest,
            bands=energies,
            asymmetry=_asymmetry(c, matrices),
            left_out=f"S(k) and bands along a path are not drawn for {size} orbitals." if many else "",
        )


def _block_sizes(matrix: BlockMatrix) -> Tensor:
    """The largest |element| of each block, of any spin [pairs]."""
    largest = matrix.values.detach().abs().amax(0).double()
    return _largest_at(matrix.layout.pair, largest, len(matrix.pairs))


def _largest_at(place: Tensor, values: Tensor, count: int) -> Tensor:
    """The largest value at each place [count]; 0 where there is none."""
    found = np.zeros(count)
    np.maximum.at(found, place.cpu().numpy(), values.cpu().numpy())
    return torch.as_tensor(found)


def _over_k(c: Calculation, size: int) -> tuple[BandPath | None, Tensor | None, Bands | None]:
    """A path that takes some seconds, the smallest eigenvalue of S on it, and the bands."""
    S = c.require_overlap()
    try:
        path = band_path(c.structure, max(12, min(80, int(5e8 / size**3))))
        lowest = torch.stack([torch.linalg.eigvalsh(S.at_k(k[None])[0, 0])[0] for k in path.k])
    except (NearsightError, RuntimeError, ValueError, ArithmeticError):  # a cell without volume, numbers that are none
        return None, None, None
    try:
        return path, lowest, None if c.hamiltonian is None else bands(c, path=path)
    except (NearsightError, RuntimeError):  # S is not positive definite: told among the findings
        return path, lowest, None


def _asymmetry(c: Calculation, matrices: Mapping[str, BlockMatrix]) -> dict[str, Tensor]:
    try:
        group = group_of(c)
        if group is None or len(group) == 1:
            return {}
        return {
            name: _block_sizes(Symmetrisation.of(group, m.layout)(m) - m) * _UNITS[name] for name, m in matrices.items()
        }
    except NearsightError:
        return {}
