"""Sums over the occupied states of a calculation that need its levels: density matrix, Loewdin populations, bond orders."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.display import one_line
from nearsight.core.errors import MissingData
from nearsight.core.units import HARTREE_EV
from nearsight.electrons.smearing import FERMI_DIRAC
from nearsight.properties.brillouin import Size, Thermal, fermi_energy, sampling
from nearsight.properties.contract import SILENT, Progress
from nearsight.properties.eigenstates import eigenstates, levels
from nearsight.properties.projections import square_root
from nearsight.properties.spectra import K_SPACING, SMEARING_EV, electrons_of


@dataclass(frozen=True, eq=False)
class Occupied:
    """density_matrix: D, on the Hamiltonian's layout.  product: (D S)_ij(R) on it.  lowdin: channels of the diagonal of
    S^1/2 D S^1/2 [channels, orbitals].  square: the diagonal of (D S)^2 summed over cells and spin [orbitals].
    fermi_level: [Ha].
    """

    density_matrix: BlockMatrix
    product: BlockMatrix
    lowdin: Tensor
    square: Tensor
    fermi_level: float
    kmesh: Size

    __repr__ = one_line

    @staticmethod
    def of(
        calculation: Calculation, kmesh: Size | None = None, kT: float | None = None, progress: Progress = SILENT
    ) -> Occupied:
        """The states of a calculation filled with its electrons, by Fermi and Dirac.

        kmesh: None takes steps of 0.25 / angstrom.  kT: [Ha]; None: 0.025 eV.
        Raises NearsightError: no Hamiltonian; an unknown number of electrons.
        """
        hamiltonian, overlap = calculation.require_hamiltonian(), calculation.require_overlap().hermitian()
        electrons = electrons_of(calculation)
        if electrons is None:
            raise MissingData("the number of electrons is not known: add `occupation` to info.json")
        kind, width = hamiltonian.spin, kT or SMEARING_EV / HARTREE_EV
        mesh = sampling(calculation.structure, hamiltonian, kmesh, K_SPACING)
        progress.stage("levels")
        e = levels(hamiltonian, overlap, mesh.k, progress)
        fermi = fermi_energy(e, Thermal(mesh.weights, width), electrons, kind.electrons_per_level)
        progress.stage("states")
        density = product = hamiltonian.with_values(torch.zeros_like(hamiltonian.values))
        n = hamiltonian.basis.size
        lowdin = torch.zeros(kind.channels, n, dtype=torch.float64)
        square = torch.zeros(n, dtype=torch.float64)
        done = 0
        for states in eigenstates(hamiltonian, overlap, mesh.k, progress):
            weights = mesh.weights[done : done + len(states.k)].to(states.energies.device)
            f = kind.electrons_per_level * FERMI_DIRAC.occupation((states.energies - fermi) / width)
            filled = states.coefficients * f.to(states.coefficients.dtype)[..., None, :]
            d = filled @ states.coefficients.mH
            ds = d @ states.overlap
            root = square_root(states.overlap)
            density = density + hamiltonian.from_k(d, states.k, weights)
            product = product + hamiltonian.from_k(ds, states.k, weights)
            diagonal = torch.diagonal(kind.from_dense(root @ d @ root), dim1=-2, dim2=-1)
            lowdin += torch.einsum("ckn,k->cn", kind.densities(diagonal), weights).cpu()
            twice = torch.diagonal(kind.from_dense(ds @ ds), dim1=-2, dim2=-1)
            square += torch.einsum("kn,k->n", kind.charge(twice), weights).cpu()
            done += len(states.k)
        return Occupied(density, product, lowdin, square, fermi, mesh.size)
