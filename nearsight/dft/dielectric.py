"""The dielectric operator of a calculation on a coarse mesh, which tells a mixer what the electrons will answer.

Near self-consistency F[D(H + dH)] - F[D(H)] = f chi0 dH: chi0 is the response of independent electrons, exact from the
levels at hand; f is the interaction of the electrons. The error of H is therefore (1 - f chi0)^-1 (F - H). As a
preconditioner it bears a cheap f: Hartree and LDA on a mesh that is many times coarser than that of the calculation.
Compare the chi0-based mixing of Herbst and Levitt, J. Phys.: Condens. Matter 33, 085503 (2021).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.dft.functional import EnergyFunctional
from nearsight.dft.problem import Problem, SCFState
from nearsight.integrals.atomic_functions import Spherical, superpose
from nearsight.integrals.grid import GridOrbitals
from nearsight.integrals.mesh import Mesh, mesh_shape
from nearsight.xc.functionals import LDA

DILUTE = 1e-7  # densities below are taken as this one, since the LDA's kernel grows without bound [1/Bohr^3]


@dataclass(frozen=True)
class Dielectric:
    """cutoff_ry: of the coarse mesh [Ry].  tolerance: how far (1 - f chi0) x may stay from r, as a share of |r|.

    max_products: of f chi0 with a matrix, at most, for one x.
    """

    cutoff_ry: float = 35.0
    tolerance: float = 0.03
    max_products: int = 10


@dataclass(frozen=True, eq=False)
class Screening:
    """Solves (1 - f chi0) x = r for matrices; built once for a functional.

    The interaction is that of charges alone, the same for both spins: magnetic order must be free to grow out of a state
    that is stationary but no minimum, which the inverse of a magnetic interaction would be drawn to.
    """

    settings: Dielectric
    grid: GridOrbitals
    core: Tensor

    __repr__ = one_line

    @staticmethod
    def of(functional: EnergyFunctional, settings: Dielectric) -> Screening:
        structure, fine = functional.structure, functional.mesh
        a, b, c = (min(n, m) for n, m in zip(mesh_shape(structure.cell, settings.cutoff_ry), fine.shape, strict=True))
        mesh = Mesh((a, b, c), structure.cell, fine.sheet)
        grid = GridOrbitals.of(structure, functional.species, functional.layout, mesh)
        cores = {z: s.core_density for z, s in functional.species.items()}
        return Screening(settings, grid, superpose(mesh, structure, Spherical.each(cores)))

    def __call__(self, problem: Problem, state: SCFState, residual: Tensor) -> Tensor:
        """x [components, size] of a residual F - H, or of a combination of some, in the response of one state."""
        chi0 = state.electrons.response()
        kernel = self._exchange_correlation(state.density_matrix)
        k = problem.kpoints

        def product(x: Tensor) -> Tensor:
            change = chi0(state.hamiltonian.with_values(x))
            kind = change.spin
            density = kind.channel_charge(self.grid.density(change))
            potential = self.grid.mesh.hartree_potential(density) + kernel * density
            answer = k.symmetric(self.grid.matrix(kind.charge_potential(potential), kind))
            return x - answer.values

        return generalised_minimal_residual(product, residual, self.settings.tolerance, self.settings.max_products)

    def _exchange_correlation(self, density_matrix: BlockMatrix) -> Tensor:
        """dv_xc/dn of the LDA [x, y, z]."""
        density = density_matrix.spin.channel_charge(self.grid.density(density_matrix))
        n = (density + self.core).clamp(min=DILUTE)
        with torch.enable_grad():
            n.requires_grad_()
            (kernel,) = torch.autograd.grad(LDA.derivatives(n.flatten()[None]).by_density.sum(), n)
        return kernel


def generalised_minimal_residual(
    product: Callable[[Tensor], Tensor], right: Tensor, tolerance: float, max_products: int
) -> Tensor:
    """x with |A x - b| < tolerance |b|, or the best of `max_products` products: GMRES.

    Saad and Schultz, SIAM J. Sci. Stat. Comput. 7, 856 (1986).
    """
    norm = float(right.norm())
    if norm == 0:
        return right
    basis = [right / norm]
    hessenberg = right.new_zeros(max_products + 1, max_products)
    y = right.new_zeros(0)
    for m in range(max_products):
        w = product(basis[m])
        for i, v in enumerate(basis):
            hessenberg[i, m] = (v * w).sum()
            w = w - hessenberg[i, m] * v
        hessenberg[m + 1, m] = w.norm()
        if not bool(torch.isfinite(hessenberg[m + 1, m])):
            break  # the run has diverged, which its residual says
        left = hessenberg[: m + 2, : m + 1]
        target = left.new_zeros(m + 2)
        target[0] = norm
        # gelsd: the driver whose bits do not depend on where its input lies in memory
        found = torch.linalg.lstsq(left.cpu(), target.cpu()[:, None], driver="gelsd")
        y = found.solution[:, 0].to(right.device)
        if float((left @ y - target).norm()) < tolerance * norm:
            break
        basis.append(w / hessenberg[m + 1, m])
    return sum((c * v for c, v in zip(y, basis, strict=False)), torch.zeros_like(right))
