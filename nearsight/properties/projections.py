"""How much of a state belongs to which atoms and orbitals: the one implementation behind densities of states and fat bands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix
from nearsight.core.configuration import near_miss
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.core.spin import Spin
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.core.units import BOHR_ANG
from nearsight.electrons.kpoints import vacuum_axes
from nearsight.properties.contract import SILENT, Progress
from nearsight.properties.eigenstates import Eigenstates, eigenstates

KEYS = ("atom", "element", "l", "layer", "orbital", "spin")
LAYERS_APART = 2.0 / BOHR_ANG  # Bohr: of heights of atoms, between two layers
LETTERS = "spdfghi"
REAL_HARMONICS = (
    ("s",),
    ("py", "pz", "px"),
    ("dxy", "dyz", "dz2", "dxz", "dx2-y2"),
    ("fy(3x2-y2)", "fxyz", "fyz2", "fz3", "fxz2", "fz(x2-y2)", "fx(x2-3y2)"),
)


@dataclass(frozen=True, eq=False)
class Projection:
    """Groups of the rows of H(k), such as the p orbitals of an element. Every row is in one of them.

    names: of the groups.  group: of each row of each independent matrix [s, n].
    """

    names: tuple[str, ...]
    group: Tensor

    __repr__ = one_line

    @staticmethod
    def of(basis: Basis, kind: Spin, words: str, structure: Structure | None = None) -> Projection:
        """words: what tells the groups apart, of KEYS, with commas: `element,l` makes C s, C p and so on.

        structure: whose layers `layer` tells apart.  Raises BadInput for another word, and for layers of what is no sheet.
        """
        keys = [w.strip() for w in words.split(",") if w.strip()]
        for key in keys:
            if key not in KEYS:
                raise BadInput(f"--project {key}: no way to project{near_miss(key, KEYS)} (known: {', '.join(KEYS)})")
        if "spin" in keys and kind.components == 1:
            raise BadInput("--project spin: the calculation is without spin; project on atom, element, l or orbital")
        keys = [key for key in KEYS if key in keys]
        if not keys:
            raise BadInput(f"--project: say by what, of {', '.join(KEYS)}, for example element,l")
        rows = _words_of_rows(basis)
        if "layer" in keys:
            layers = layers_of(structure).repeat_interleave(basis.counts.cpu()).tolist()
            rows = [row | {"layer": f"layer {n + 1}"} for row, n in zip(rows, layers, strict=True)]
        spins = ("up", "down") if kind.components > 1 else ("",)
        parts = [[w | {"spin": name} for w in rows] for name in spins]  # a spinor's matrix holds both, up before down
        matrices = [[w for part in parts for w in part]] if kind.size_factor == 2 else parts
        found: dict[str, int] = {}
        index = [
            [found.setdefault(" ".join(w[key] for key in keys), len(found)) for w in matrix] for matrix in matrices
        ]
        return Projection(tuple(found), torch.tensor(index))

    def sum(self, weights: Tensor) -> Tensor:
        """Weights of rows [s, k, n, m] summed over the groups [s, k, groups, m]."""
        total = weights.new_zeros(*weights.shape[:2], len(self.names), weights.shape[-1])
        for s, group in enumerate(self.group.to(weights.device)):
            total[s].index_add_(1, group, weights[s])
        return total


def layers_of(structure: Structure | None) -> Tensor:
    """The layer of each atom [n], from 0, in the order of their heights: atoms of two are 2 angstrom apart in height.

    Raises BadInput where the structure does not go on along two directions alone.
    """
    empty = [] if structure is None else vacuum_axes(structure)
    if structure is None or len(empty) != 1:
        raise BadInput("--project layer: layers are those of a sheet, with vacuum on both sides of it and nowhere else")
    axis = empty[0]
    inverse = torch.linalg.inv(structure.cell.detach().cpu().double())
    height = 1 / float(inverse[:, axis].norm())
    f = (structure.positions.detach().cpu().double() @ inverse)[:, axis] % 1.0
    ordered = f.sort().values
    gaps = torch.cat([ordered.diff(), ordered[:1] + 1 - ordered[-1:]])
    bottom = ordered[(int(gaps.argmax()) + 1) % len(ordered)]  # above the vacuum
    place, order = ((f - bottom) % 1.0).sort()
    above = torch.cat([torch.zeros(1), (place.diff() * height > LAYERS_APART).double()]).cumsum(0).long()
    return torch.zeros_like(above).index_copy(0, order, above)


def _words_of_rows(basis: Basis) -> list[dict[str, str]]:
    """For each orbital what KEYS say of it; an atom is its symbol and its number among all atoms, from 1."""
    rows = []
    for atom, z in enumerate(basis.numbers):
        for l in basis.shells[z]:
            names = (
                REAL_HARMONICS[l] if l < len(REAL_HARMONICS) else tuple(f"{LETTERS[l]}{m}" for m in range(-l, l + 1))
            )
            for name in names:
                about = {"atom": f"{SYMBOLS[z]}{atom + 1}", "element": SYMBOLS[z], "l": LETTERS[l], "orbital": name}
                rows.append(about)
    return rows


class Populations(ABC):
    """A rule that shares a state among orbitals, so that the shares of each state sum to 1."""

    @abstractmethod
    def __call__(self, states: Eigenstates) -> Tensor:
        """Shares of the rows in each state [s, k, n, m], real."""


class Mulliken(Populations):
    """Re C*_mu (S C)_mu: R. S. Mulliken, J. Chem. Phys. 23, 1833 (1955). May be negative."""

    def __call__(self, states: Eigenstates) -> Tensor:
        """Shares [s, k, n, m] that may be negative or above 1."""
        return (states.coefficients.conj() * (states.overlap @ states.coefficients)).real


class Lowdin(Populations):
    """|(S^1/2 C)_mu|^2: P.-O. Loewdin, J. Chem. Phys. 18, 365 (1950)."""

    def __call__(self, states: Eigenstates) -> Tensor:
        """Shares [s, k, n, m] in 0..1."""
        return (square_root(states.overlap) @ states.coefficients).abs().square()


def square_root(matrix: Tensor) -> Tensor:
    """S^1/2 of hermitian positive definite matrices [..., n, n]."""
    e, u = torch.linalg.eigh(matrix)
    return (u * e.clamp(min=0).sqrt().unsqueeze(-2).to(u.dtype)) @ u.mH


MULLIKEN, LOWDIN = Mulliken(), Lowdin()
POPULATIONS: dict[str, Populations] = {"mulliken": MULLIKEN, "lowdin": LOWDIN}


def states_and_shares(
    hamiltonian: BlockMatrix,
    overlap: BlockMatrix,
    k: Tensor,
    projection: Projection,
    populations: Populations,
    progress: Progress = SILENT,
) -> tuple[Tensor, Tensor]:
    """Levels [s, k, n] at k [k, 3], and what each group has of each state [s, k, groups, n], sum 1; on the CPU."""
    energies, shares = [], []
    for states in eigenstates(hamiltonian, overlap, k, progress):
        energies.append(states.energies.cpu())
        shares.append(projection.sum(populations(states)).cpu())
    return torch.cat(energies, 1), torch.cat(shares, 1)
