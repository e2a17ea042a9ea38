"""Band structures."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.display import drawn_by, shortened
from nearsight.core.spin import SPINOR
from nearsight.core.units import BOHR_ANG, HARTREE_EV
from nearsight.electrons.eigen import eigenvalues
from nearsight.electrons.kpoints import BandPath, band_path, mesh
from nearsight.electrons.levels import fermi_level

K_SPACING = 0.25  # 1/angstrom
SMEARING_EV = 0.025
LABELS = {"GAMMA": "Γ", "SIGMA": "Σ", "DELTA": "Δ", "LAMBDA": "Λ"}


@dataclass(frozen=True, eq=False)
class Bands:
    """Energies e_n(k) along a path.

    path: k-points and distances [1/Bohr].  energies: [components, k, n], Ha, ascending in n.  fermi_level: Ha, or None.
    """

    path: BandPath
    energies: Tensor
    fermi_level: float | None = None

    _repr_html_ = drawn_by("nearsight.report.notebook:bands")

    def __repr__(self) -> str:
        spins, points, levels = self.energies.shape
        corners = "-".join(name for _, name in self.path.labels)
        return shortened(f"Bands({spins} spin components, {points} k-points, {levels} levels, {corners}", ")")

    @property
    def ticks(self) -> tuple[list[float], list[str]]:
        """Distances [1/Bohr] and names of the path's corners; where two stand at one place, both: `U|K`."""
        places: dict[float, list[str]] = {}
        for index, label in self.path.labels:
            name = LABELS.get(label.split("_")[0], label.split("_")[0]) + "".join(
                f"$_{s}$" for s in label.split("_")[1:]
            )
            names = places.setdefault(round(float(self.path.distance[index]), 9), [])
            if name not in names:
                names.append(name)
        return list(places), ["|".join(names) for names in places.values()]

    def to_json(self) -> dict[str, Any]:
        """Energies and Fermi level [eV], k (fractional), distances [1/Bohr], corners."""
        return {
            "k": self.path.k.tolist(),
            "distance_per_bohr": self.path.distance.tolist(),
            "labels": [[i, name] for i, name in self.path.labels],
            "fermi_energy_eV": None if self.fermi_level is None else self.fermi_level * HARTREE_EV,
            "energies_eV": (self.energies * HARTREE_EV).tolist(),
        }


def bands(hamiltonian: BlockMatrix, overlap: BlockMatrix, path: BandPath, fermi_level: float | None = None) -> Bands:
    """e_n(k) of H(k) c = e S(k) c along a path [Ha].

    Raises NearsightError where S(k) is not positive definite.
    """
    return Bands(path, eigenvalues(hamiltonian, overlap, path.k.to(overlap.values.device)).cpu(), fermi_level)


def bands_of(calculation: Calculation, points: int | None = None, labels: str | None = None) -> Bands:
    """Bands of a calculation along its standard path (`solve.kpoints.band_path`).

    points: how many k in all; by default as many as take about a minute.  labels: corners to visit, e.g. "GAMMA-M-K".
    """
    path = band_path(calculation.structure, points or affordable_points(calculation.basis.size), labels)
    return bands(calculation.require_hamiltonian(), calculation.require_overlap(), path, fermi_level_of(calculation))


def fermi_level_of(calculation: Calculation) -> float | None:
    """[Ha], as the calculation tells it; else from its number of electrons, on a k-mesh with steps of 0.25 / angstrom and
    k_B T = 0.025 eV, as `scf` has them by default; None if that number is not known."""
    c = calculation
    if c.fermi_level is not None or c.electrons is None or c.hamiltonian is None:
        return c.fermi_level
    a, b, d = (ceil(float(length) / BOHR_ANG / K_SPACING - 1e-6) for length in c.structure.reciprocal.norm(dim=1))
    spin = c.hamiltonian.spin
    k = mesh((a, b, d), time_reversal=spin is not SPINOR)
    levels = eigenvalues(c.hamiltonian, c.require_overlap(), k.k)
    return float(fermi_level(levels, k.weights, c.electrons, SMEARING_EV / HARTREE_EV, spin=spin))


def affordable_points(orbitals: int) -> int:
    """k-points on a path that keep the n^3 work of diagonalisation below a minute: between 24 and 120."""
    return max(24, min(120, int(2.5e9 / orbitals**3)))
