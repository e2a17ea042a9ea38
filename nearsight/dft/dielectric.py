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

from nearsight.core.blocks import BlockMatrix, real_parts
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
        """For a functional, on a mesh of the settings' cutoff, nowhere finer than that of the functional."""
        structure, fine = functional.structure, functional.mesh
        a, b, c = (min(n, m) for n, m in zip(mesh_shape(structure.cell, settings.cutoff_ry), fine.shape, strict=True))
        mesh = Mesh((a, b, c), structure.cell, fine.sheet)
        grid = GridOrbitals.of(structure, functional.species, functional.layout, mesh)
        cores = {z: s.core_density for z, s in functional.species.items()}
        return Screening(settings, grid, superpose(mesh, structure, Spherical.each(cores)))

    def __call__(self, problem: Problem, state: SCFState, residual: Tensor) -> Tensor:
        """x [components, size] of a residual F - H, or of a combination of some, in the response of one state."""
        product = self._product(problem, state)
        return generalised_minimal_residual(product, residual, self.settings.tolerance, self.settings.max_products)

    def solve(self, problem: Problem, state: SCFState, residual: Tensor, products: int) -> tuple[Tensor, Tensor]:
        """As a call, by so many products; and |A x - b| / |b| after each of them [products]. Nothing is asked of the device."""
        return krylov_solution(self._product(problem, state), residual, products)

    def _product(self, problem: Problem, state: SCFState) -> Callable[[Tensor], Tensor]:
        """x -> (1 - f chi0) x"""
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

        return product

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
    space = _Krylov(product, right)
    for _ in range(max_products):
        space.extend()
        if not bool(space.left[-1] > tolerance):
            break  # also where the numbers are none: the run has diverged, which its residual says
    return space.solution()


def krylov_solution(product: Callable[[Tensor], Tensor], right: Tensor, products: int) -> tuple[Tensor, Tensor]:
    """x of GMRES after so many products, and |A x - b| / |b| after each of them [products]; the device is asked nothing."""
    space = _Krylov(product, right)
    for _ in range(products):
        space.extend()
    return space.solution(), torch.stack(space.left)


class _Krylov:
    """b, A b, A A b, ... orthonormalised (Arnoldi), with the Hessenberg matrix turned into a triangle R by Givens rotations.

    left: |A x - b| / |b| of the best x in the space, after each product.
    """

    def __init__(self, product: Callable[[Tensor], Tensor], right: Tensor) -> None:
        self.product = product
        self.norm = right.norm()
        self.basis = [_over(right, self.norm)]
        self.columns: list[Tensor] = []  # of R
        self.turns: list[tuple[Tensor, Tensor]] = []  # cosine and sine of each rotation
        self.target = [torch.ones_like(self.norm)]  # the rotated right-hand side / |b|
        self.left: list[Tensor] = []

    def extend(self) -> None:
        """One product more."""
        w = self.product(self.basis[-1])
        column = []
        for v in self.basis:
            column.append((real_parts(v) * real_parts(w)).sum())
            w = w - column[-1] * v
        length = w.norm()
        self.basis.append(_over(w, length))
        for n, (cosine, sine) in enumerate(self.turns):
            a, b = column[n], column[n + 1]
            column[n], column[n + 1] = cosine * a + sine * b, cosine * b - sine * a
        whole = torch.hypot(column[-1], length)
        cosine, sine = _over(column[-1], whole), _over(length, whole)
        self.turns.append((cosine, sine))
        column[-1] = whole
        self.columns.append(torch.stack(column))
        self.target[-1:] = [cosine * self.target[-1], -sine * self.target[-1]]
        self.left.append(self.target[-1].abs())

    def solution(self) -> Tensor:
        """The x whose |A x - b| is least."""
        m = len(self.columns)
        y = [torch.zeros_like(self.norm)] * m
        for n in reversed(range(m)):
            rest = self.target[n]
            for j in range(n + 1, m):
                rest = rest - self.columns[j][n] * y[j]
            y[n] = _over(rest, self.columns[n][n])
        x = torch.zeros_like(self.basis[0])
        for c, v in zip(y, self.basis, strict=False):
            x = x + self.norm * c * v
        return x


def _over(x: Tensor, length: Tensor) -> Tensor:
    """x / length, and zero where the length is."""
    return torch.where(length != 0, x / torch.where(length != 0, length, torch.ones_like(length)), torch.zeros_like(x))
