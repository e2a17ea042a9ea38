"""A tight-binding model in orthogonal orbitals: for programs that know no overlap.

Loewdin's orbitals are the orthogonal ones nearest to the atomic ones.  With H(k) C = S(k) C e,
H'(k) = S(k)^(-1/2) H(k) S(k)^(-1/2) has the same bands, and H'(R) = 1/N sum_k exp(-2 pi i k.R) H'(k).  S^(-1/2) reaches farther
than S, so that H'(R) is cut: the k-mesh is made denser until what stands at the edge of its supercell is below a tolerance.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.core.spin import COLLINEAR, SPINOR
from nearsight.core.units import HARTREE_EV

_MOST = 2**27  # numbers in one array of H(k)


@dataclass(frozen=True, eq=False)
class OrthogonalModel:
    """H'(R) [Ha] of one spin, or of spinors (all up, then all down).

    cell: rows [Bohr].  centres: of each orbital [n, 3] [Bohr].  R: [cells, 3], of which -R is in the list with each R.
    hoppings: <i, cell 0| H' |j, cell R> [cells, n, n].  cut: the largest element at the edge of the supercell [Ha].
    mesh: k-points along each axis on which the bands are exact.
    """

    cell: NDArray[np.float64]
    centres: NDArray[np.float64]
    R: NDArray[np.int64]
    hoppings: NDArray[np.complex128]
    cut: float
    mesh: tuple[int, int, int]

    __repr__ = one_line

    @property
    def note(self) -> str:
        """What was done, for the head of a file."""
        size = "x".join(map(str, self.mesh))
        return f"Loewdin-orthogonalised; exact on the k-mesh {size}, cut {self.cut * HARTREE_EV * 1000:.1e} meV"


def orthogonal_models(calculation: Calculation, tolerance: float = 1e-6) -> list[OrthogonalModel]:
    """The model of each spin: one, or two (up, down) where it is collinear.

    tolerance: [Ha] of the largest element that is cut along each axis; on the densest mesh that is affordable it is what it is.
    Raises BadInput for an S(k) that is not positive definite, MissingData without H or S.
    """
    H, S = calculation.require_hamiltonian(), calculation.require_overlap()
    spin, size = H.spin, S.basis.size
    reach = (2 * torch.maximum(H.pairs.R.abs().amax(0), S.pairs.R.abs().amax(0)) + 1).tolist()
    centres = calculation.structure.positions[S.basis.atom_of_orbital].double().numpy()
    if spin is SPINOR:
        centres = np.concatenate([centres, centres])
    width = size * spin.size_factor
    mesh = (reach[0], reach[1], reach[2])
    while True:
        R, share = _cells(mesh)
        hoppings = _to_cells(_orthogonal_on(H, S, mesh), mesh, R) * share[:, None, None]
        largest = np.abs(hoppings).max((0, 2, 3))
        cuts = [float(largest[2 * np.abs(R[:, a]) >= n - 1].max()) if n > 1 else 0.0 for a, n in enumerate(mesh)]
        a, b, c = (n + 2 * ceil(0.15 * n) if cut > tolerance else n for n, cut in zip(mesh, cuts, strict=True))
        if (a, b, c) == mesh or 2 * a * b * c * width * width > _MOST:
            break
        mesh = (a, b, c)
    cell = calculation.structure.cell.double().numpy()
    return [OrthogonalModel(cell, centres, R, h, max(cuts), mesh) for h in hoppings]


def _orthogonal_on(H: BlockMatrix, S: BlockMatrix, mesh: tuple[int, ...]) -> NDArray[np.complex128]:
    """H'(k) [models, k, n, n] on a mesh around Gamma."""
    k = torch.tensor(list(product(*(range(n) for n in mesh))), dtype=torch.float64) / torch.tensor(mesh)
    parts = []
    for part in k.split(64):
        e, u = torch.linalg.eigh(S.at_k(part)[0])
        if float(e.min()) <= 0:
            raise BadInput(
                f"S is not positive definite (lowest eigenvalue {float(e.min()):.1e}), so it cannot be orthogonalised: see "
                "nearsight check"
            )
        root = (u * e[:, None, :] ** -0.5) @ u.mH
        h = H.at_k(part)
        if H.spin is SPINOR:
            zero = torch.zeros_like(root)
            root = torch.cat([torch.cat([root, zero], -1), torch.cat([zero, root], -1)], -2)
        kind = torch.promote_types(root.dtype, h.dtype)
        parts.append(root.to(kind) @ h.to(kind) @ root.to(kind))
    dense: NDArray[np.complex128] = torch.cat(parts, 1).numpy().astype(np.complex128)
    return dense


def _cells(mesh: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Cells R from -n/2 to n/2 along each axis, those at both ends of an even n with half the weight each."""
    axes = [np.arange(-(n // 2), n // 2 + 1) for n in mesh]
    weights = [
        np.where((n % 2 == 0) & (np.abs(a) * 2 == n) & (n > 1), 0.5, 1.0) for n, a in zip(mesh, axes, strict=True)
    ]
    R = np.array(list(product(*axes)), dtype=np.int64)
    return R, np.array([a * b * c for a, b, c in product(*weights)])


def _to_cells(dense: NDArray[np.complex128], mesh: tuple[int, ...], R: NDArray[np.int64]) -> NDArray[np.complex128]:
    """H'(R) [models, cells, n, n], by an FFT over the mesh."""
    models, _, n, _ = dense.shape
    grid = np.fft.fftn(dense.reshape(models, *mesh, n, n), axes=(1, 2, 3), norm="forward")
    index = tuple((R % np.array(mesh)).T)
    found: NDArray[np.complex128] = grid[:, *index]
    return found


def spin_suffixes(calculation: Calculation) -> tuple[str, ...]:
    """Names of the models of a calculation: none, or up and down."""
    return ("_up", "_dn") if calculation.require_hamiltonian().spin is COLLINEAR else ("",)
