"""About how many levels lie below an energy, from fragments of a crystal: where to begin the search for its Fermi level.

Divide and conquer (W. Yang, Phys. Rev. Lett. 66, 1438 (1991)): an atom's share of the states of the atoms about it hardly
depends on what is farther away. Fragments of several sizes, cut without care for bonds, err in both directions, and their mean
by some 0.05 eV; the levels of the whole are counted by inertia thereafter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray

from nearsight.core.display import one_line
from nearsight.core.structure import Structure
from nearsight.core.units import HARTREE_EV
from nearsight.electrons.sparse.pencil import SparseProblem

Array = NDArray[Any]
ROWS = (540, 675, 810, 945, 1080, 1215, 1350)  # of the fragments
CENTRE = 8  # one in so many atoms of a fragment counts: those in its middle
WIDTH = 0.3 / HARTREE_EV  # Ha: by which levels of a fragment are spread


@dataclass(frozen=True, eq=False)
class Fragments:
    """energies: of all fragments' states [n].  weights: levels of the whole crystal that each stands for [n]."""

    energies: Array
    weights: Array

    __repr__ = one_line

    @staticmethod
    def of(problem: SparseProblem, structure: Structure) -> Fragments:
        """Of atoms drawn at random, of every element."""
        cell = structure.cell.detach().cpu().double().numpy()
        fractional = structure.positions.detach().cpu().double().numpy() @ np.linalg.inv(cell)
        numbers = structure.numbers.cpu().numpy()
        sizes = problem.pattern.sizes
        starts = np.concatenate([[0], np.cumsum(sizes)])
        random = np.random.default_rng(0)
        kinds = np.unique(numbers)
        gamma = torch.zeros(3, dtype=torch.float64)
        found: list[tuple[Array, Array, int]] = []
        for s in range(problem.spin.matrices):
            pencil = problem.at(gamma, s)
            h, overlap = pencil.hamiltonian.scipy.tocsr(), pencil.overlap.scipy.tocsr()
            for n in range(max(len(ROWS), len(kinds))):
                centre = random.choice(np.flatnonzero(numbers == kinds[n % len(kinds)]))
                away = fractional - fractional[centre]
                order = np.argsort(np.linalg.norm((away - np.round(away)) @ cell, axis=1), kind="stable")
                held = order[: max(1, int(np.searchsorted(np.cumsum(sizes[order]), ROWS[n % len(ROWS)])))]
                rows = np.concatenate([np.arange(starts[a], starts[a + 1]) for a in held])
                small_h, small_s = h[rows][:, rows].toarray(), overlap[rows][:, rows].toarray()
                e, c = scipy.linalg.eigh(small_h, small_s)
                shares = (c.conj() * (small_s @ c)).real
                end = np.cumsum(sizes[held])
                for a in range(max(1, len(held) // CENTRE)):
                    found.append((e, shares[end[a] - sizes[held[a]] : end[a]].sum(0), int(numbers[held[a]])))
        seen = [z for _, _, z in found]
        atoms = {int(z): int((numbers == z).sum()) for z in kinds}
        each = {z: problem.spin.matrices * atoms[z] / seen.count(z) for z in set(seen)}
        energies = np.concatenate([e for e, _, _ in found])
        return Fragments(energies, np.concatenate([w * each[z] for _, w, z in found]))

    def below(self, energy: float) -> float:
        """Levels below an energy [Ha], of all spins."""
        x = np.clip((energy - self.energies) / WIDTH, -700, 700)
        return float(self.weights @ (1 / (1 + np.exp(-x))))

    def energy(self, levels: float) -> float:
        """The energy [Ha] below which there are so many."""
        low, high = float(self.energies.min()) - 40 * WIDTH, float(self.energies.max()) + 40 * WIDTH
        for _ in range(60):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self.below(middle) < levels else (low, middle)
        return 0.5 * (low + high)
