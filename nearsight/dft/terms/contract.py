"""What a term of the energy is. Anyone can add one: it says its energy, and gets gradient, forces, stress and kernel.

A `Term` is a choice (`Hartree()`, `SinePotential(amplitude=0.1)`); `term.on(system)` binds it to a system, with what does not
depend on the density matrix computed once. The bound term knows `energy(state)`; all else is a derivative of that scalar:

- `evaluate`: dE/dD, as a matrix in the orbitals and potentials on the mesh, by automatic differentiation in the state's
  density matrix and density. A term may override it with a closed form (a law holds the two equal).
- forces and stress (dft/forces.py): the term is bound to a system whose positions and cell carry derivatives, and its energy
  differentiated there. Everything that a `System` gives is differentiable in its structure. `by_structure` may give the same
  in closed form (a law holds the two equal).
- `kernel`: the second derivative along a change of the density matrix, by automatic differentiation likewise.

tests/laws/terms.py has the law that every term, ours or another's, inherits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.core.layout import BlockLayout
from nearsight.core.memory import check_room
from nearsight.core.species import RadialFunction, Species
from nearsight.core.spin import NONE, Spin
from nearsight.core.structure import Structure
from nearsight.integrals import band_limited, two_center
from nearsight.integrals.atomic_functions import Spherical, superpose, superposition_slopes
from nearsight.integrals.grid import GridOrbitals
from nearsight.integrals.mesh import REMEDY, Mesh
from nearsight.integrals.projections import Projections
from nearsight.integrals.two_center import EXACT, Operator, Quadrature


class Symmetry(Enum):
    """What may be done to a system without changing an energy.

    TRANSLATION: all atoms move together (by whole steps of the mesh, where it has one).  ROTATION: all atoms and the cell
    turn, by an element of O(3).  TIME_REVERSAL: every moment changes sign.
    """

    TRANSLATION = "translation"
    ROTATION = "rotation"
    TIME_REVERSAL = "time reversal"


ALL = frozenset(Symmetry)
BYTES_A_POINT = 100  # of the mesh, that a ground state takes at least (PBE without spin: 130; with: 210)


@dataclass(frozen=True, eq=False)
class System:
    """A structure with its orbitals on a mesh. All that it gives is differentiable in positions and cell, once.

    quadrature: of two-centre integrals.  limited: sums over atoms of smooth potentials have the waves of the mesh only.
    """

    structure: Structure
    species: Mapping[int, Species]
    layout: BlockLayout
    mesh: Mesh
    grid: GridOrbitals
    quadrature: Quadrature = EXACT
    limited: bool = False

    __repr__ = one_line

    @staticmethod
    def of(
        structure: Structure,
        species: Mapping[int, Species],
        mesh_shape: tuple[int, int, int],
        quadrature: Quadrature = EXACT,
        limited: bool = False,
        sheet: bool = False,
    ) -> System:
        """sheet: electrostatics without images along the third lattice vector (Mesh.coulomb_kernel)."""
        points = prod(mesh_shape)
        what = f"a mesh of {'x'.join(map(str, mesh_shape))} points"
        check_room(points * BYTES_A_POINT, what, REMEDY, structure.cell.device)
        layout = two_center.matrix_layout(structure, species)
        mesh = Mesh(mesh_shape, structure.cell, sheet)
        return System(
            structure, species, layout, mesh, GridOrbitals.of(structure, species, layout, mesh), quadrature, limited
        )

    @cached_property
    def overlap(self) -> BlockMatrix:
        """S_ij(R)"""
        return two_center.overlap(self.structure, self.species, self.layout, self.quadrature)

    @property
    def atomic_density(self) -> Tensor:
        """Superposed densities of the free neutral atoms [x, y, z] (1/Bohr^3)."""
        return self.grid.atomic_density

    def one_body(self, operator: Operator) -> BlockMatrix:
        """<phi_i| O |phi_j> of an operator that is a function of the wave number, such as two_center.kinetic."""
        tables = two_center.orbital_tables(self.species, operator, self.quadrature)
        return two_center.assemble(self.layout, self.structure, tables)

    def projections(self, functions: Mapping[int, Sequence[RadialFunction]]) -> Projections:
        """Overlaps of all orbitals with functions on the atoms of each element."""
        return Projections.of(self.structure, self.species, self.layout, functions, self.quadrature)

    def superpose(self, functions: Mapping[int, RadialFunction | None], mesh: Mesh | None = None) -> Tensor:
        """sum over atoms and cells of the spherical function of each element [x, y, z], on the mesh or another one."""
        return superpose(mesh or self.mesh, self.structure, Spherical.each(functions))

    def superpose_smooth(self, functions: Mapping[int, RadialFunction]) -> Tensor:
        """The same with the waves of the mesh only, where the system is `limited`."""
        if self.limited:
            return band_limited.superpose(self.mesh, self.structure, functions)
        return self.superpose(functions)

    def superposition_slopes(self, functions: Mapping[int, RadialFunction], adjoint: Tensor) -> tuple[Tensor, Tensor]:
        """d(sum_r a(r) f(r)) in positions [atoms, 3] and cell [3, 3] for what `superpose_smooth` gives, and a [x, y, z]."""
        if self.limited:
            return band_limited.superposition_slopes(self.mesh, self.structure, functions, adjoint)
        return superposition_slopes(self.mesh, self.structure, Spherical.each(functions), adjoint)

    def moved(self, structure: Structure, atomic_density: Tensor) -> System:
        """This system for a structure with the same values that carries derivatives.

        atomic_density: that of the system, which may be differentiated for itself.
        """
        mesh = Mesh(self.mesh.shape, structure.cell, self.mesh.sheet)
        grid = replace(self.grid, structure=structure, mesh=mesh, atomic_density=atomic_density)
        return replace(self, structure=structure, mesh=mesh, grid=grid)


@dataclass(frozen=True, eq=False)
class State:
    """A density matrix and the density [channels, x, y, z] (1/Bohr^3) that it makes, in a system."""

    system: System
    density_matrix: BlockMatrix
    density: Tensor

    __repr__ = one_line

    @staticmethod
    def of(system: System, density_matrix: BlockMatrix) -> State:
        """The state of a density matrix; differentiable in it, and in the structure of the system."""
        return State(system, density_matrix, system.grid.density(density_matrix))

    @property
    def structure(self) -> Structure:
        """The crystal [Bohr]."""
        return self.system.structure

    @property
    def mesh(self) -> Mesh:
        """Points on which the density stands."""
        return self.system.mesh

    @property
    def spin(self) -> Spin:
        """Of the density matrix."""
        return self.density_matrix.spin

    @cached_property
    def charge(self) -> Tensor:
        """n [x, y, z], the sum of both spins."""
        return self.spin.channel_charge(self.density)

    @cached_property
    def excess(self) -> Tensor:
        """n - n_atom [x, y, z], which is neutral."""
        return self.charge - self.system.atomic_density

    def integral(self, f: Tensor, g: Tensor) -> Tensor:
        """int f g of two fields on the mesh."""
        return torch.dot(f.flatten(), g.flatten()) * self.mesh.volume_element


@dataclass(frozen=True, eq=False)
class Gradient:
    """dE/dD = matrix + <phi| potential |phi>; a part that is None is zero.

    matrix: without spin (the same for both) or with that of D.  scalar: potential that acts on n [x, y, z] (Ha).
    channels: potentials conjugate to the channels of the density [channels, x, y, z] (Ha).
    """

    matrix: BlockMatrix | None = None
    scalar: Tensor | None = None
    channels: Tensor | None = None

    __repr__ = one_line


@dataclass(frozen=True, eq=False)
class Slopes:
    """Derivatives of an energy at a fixed density matrix, of which those that are None are zero.

    positions [atoms, 3] (Ha/Bohr).  cell [3, 3] at fixed Cartesian positions and values on the mesh (Ha/Bohr).  density
    [channels, x, y, z] and atomic_density [x, y, z]: by the value at each point of the mesh (Ha Bohr^3).
    """

    positions: Tensor | None = None
    cell: Tensor | None = None
    density: Tensor | None = None
    atomic_density: Tensor | None = None

    __repr__ = one_line


class BoundTerm(ABC):
    """A term of the energy of one system.

    name: of its energy in results.  keeps: symmetries that it leaves.  electrostatic: whether its potential belongs to the
    electrostatic potential.  least_spin: that a density matrix must have at least for it to be known.
    """

    name: str
    least_spin: Spin = NONE
    keeps: ClassVar[frozenset[Symmetry]] = frozenset()
    electrostatic: ClassVar[bool] = False

    @abstractmethod
    def energy(self, state: State) -> Tensor:
        """E [Ha], differentiable in the state, and in the structure of its system where the term is bound to that."""

    def named(self, energy: Tensor) -> dict[str, Tensor]:
        """Energies by name, for results."""
        return {self.name: energy}

    def evaluate(self, state: State) -> tuple[Tensor, Gradient]:
        """E and dE/dD at one state, without a graph."""
        with torch.enable_grad():
            free = _leaves(state)
            energy = self.energy(free)
            matrix, potential = _slopes(energy, free, create_graph=False)
        return energy.detach(), _gradient(state, matrix, potential)

    def by_structure(self, state: State) -> Slopes | None:
        """How E moves with the structure and the densities, in closed form; None: by automatic differentiation.

        A law holds the two equal.
        """
        return None

    def kernel(self, state: State, change: State) -> Gradient:
        """(d^2E / dD dD) dD at a state, for a change of the density matrix with that of the density."""
        with torch.enable_grad():
            free = _leaves(state)
            slopes = _slopes(self.energy(free), free, create_graph=True)
            changes = (change.density_matrix.values, change.density)
            along = [_real_dot(s, c) for s, c in zip(slopes, changes, strict=True) if s is not None and s.requires_grad]
            if not along:
                return Gradient()
            matrix, potential = _slopes(torch.stack(along).sum(), free, create_graph=False)
        return _gradient(state, matrix, potential)


class Term(ABC):
    """One term of the energy, not yet bound to a system.

    keeps, electrostatic: as of `BoundTerm`.
    """

    @abstractmethod
    def on(self, system: System) -> BoundTerm:
        """The term of one system; differentiable in positions and cell where the system's structure carries them."""


class DirectTerm(Term, BoundTerm):
    """A term that holds nothing of a system: its energy finds all that it needs in the state."""

    def on(self, system: System) -> BoundTerm:
        """Itself: there is nothing to compute in advance."""
        return self


def _leaves(state: State) -> State:
    """The state with a density matrix and a density that are differentiated independently."""
    d = state.density_matrix
    values = d.values.detach().requires_grad_()
    return State(state.system, d.with_values(values), state.density.detach().requires_grad_())


def _slopes(energy: Tensor, state: State, create_graph: bool) -> tuple[Tensor | None, Tensor | None]:
    """dE/dD at fixed density and dE/dn per point; None where E does not depend on it."""
    if not energy.requires_grad:
        return None, None
    leaves = [state.density_matrix.values, state.density]
    matrix, density = torch.autograd.grad(energy, leaves, create_graph=create_graph, allow_unused=True)
    return matrix, density


def _gradient(state: State, matrix: Tensor | None, density: Tensor | None) -> Gradient:
    return Gradient(
        None if matrix is None else state.density_matrix.with_values(matrix).hermitian(),
        channels=None if density is None else density / state.mesh.volume_element.detach(),
    )


def _real_dot(a: Tensor, b: Tensor) -> Tensor:
    return (a.conj() * b).real.sum() if a.is_complex() else (a * b).sum()
