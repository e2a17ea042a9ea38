"""The energy functional of a structure: E[D] as a sum of terms, and its derivative, the Kohn-Sham matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput, MissingData
from nearsight.core.layout import BlockLayout
from nearsight.core.species import Species
from nearsight.core.spin import COLLINEAR, NONE, SPINOR, Spin
from nearsight.core.spin_parts import as_vectors
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.core.units import BOHR_ANG
from nearsight.dft.terms import BoundTerm, Gradient, State, Symmetry, System, Term, kohn_sham
from nearsight.dft.terms.local_axis import Axes
from nearsight.integrals.grid import GridOrbitals
from nearsight.integrals.mesh import Mesh
from nearsight.integrals.two_center import EXACT, Quadrature, forget_waves
from nearsight.integrals.window import Window
from nearsight.xc.functionals import functional as xc_functional

#: of each atom [mu_B]: numbers along one axis, or vectors
Moments = Sequence[float] | Sequence[Sequence[float]]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """E[D] by term [Ha], its derivative F = dE/dD (the Kohn-Sham matrix, Ha) and the density [channels, x, y, z]."""

    energies: dict[str, Tensor]
    total: Tensor
    hamiltonian: BlockMatrix
    density: Tensor

    __repr__ = one_line


@dataclass(frozen=True, eq=False)
class EnergyFunctional:
    """E[D] of one structure: everything that does not depend on the density matrix is held here. Build with `of` or `bind`.

    choices: the terms as they were chosen.  terms: the same, bound to the system.
    """

    system: System
    overlap: BlockMatrix
    choices: tuple[Term, ...]
    terms: tuple[BoundTerm, ...]
    electrons: float

    def __repr__(self) -> str:
        mesh = "x".join(str(n) for n in self.mesh.shape)
        return (
            f"EnergyFunctional({self.structure.formula}, {self.electrons:g} electrons, {self.layout.basis.size} orbitals, "
            f"mesh {mesh}, {len(self.terms)} terms)"
        )

    @staticmethod
    def of(
        structure: Structure,
        species: Mapping[int, Species],
        xc: str,
        mesh_shape: tuple[int, int, int],
        quadrature: Quadrature = EXACT,
        charge: float = 0.0,
        band_limited: bool = False,
        xc_refinement: int = 1,
        sheet: bool = False,
        terms: Sequence[Term] = (),
        xc_near_nuclei: int = 1,
        spin_orbit: bool = False,
        axes: Axes = "variational",
    ) -> EnergyFunctional:
        """The Kohn-Sham functional of a structure, on the device and in the dtype of its cell.

        xc: name of a registered functional of exchange and correlation.
        band_limited: neutral-atom potential with the waves of the mesh only.  xc_refinement: how many times finer along each
        axis the mesh of the exchange-correlation energy is; xc_near_nuclei: the same in spheres around the atoms alone. All of
        them lessen the egg box (band_limited.py, fine_spheres.py).
        sheet: no images along the third lattice vector (Mesh.coulomb_kernel).
        charge: of the cell [e], neutralised by a uniform background (the G = 0 term of the Hartree energy is left out).
        spin_orbit: with the projectors by j, for spinors alone.  axes: potential of moments that turn
        (terms/local_axis.py).
        terms: further ones, added to those of Kohn-Sham theory (docs/extending.md).
        Raises NearsightError for an element without a species, a charge that leaves no electrons, an unknown functional.
        """
        missing = sorted({SYMBOLS[z] for z in structure.numbers.tolist() if z not in species})
        if missing:
            raise MissingData(f"no species for {', '.join(missing)}: give its .ion.xml file or a pseudopotential")
        species = {z: species[z] for z in sorted(set(structure.numbers.tolist()))}
        electrons = float(sum(species[z].valence for z in structure.numbers.tolist())) - charge
        room = 2 * sum(species[z].orbital_count for z in structure.numbers.tolist())
        charged = f"a charge of {charge:g} leaves " if charge else ""
        if not electrons > 0:
            raise BadInput(f"{charged}{electrons:g} electrons: give a smaller charge")
        if electrons > room + 1e-9:
            raise BadInput(
                f"{charged}{electrons:g} electrons for {room // 2} orbitals, which hold {room}: take a larger basis, such as "
                f"dzp{', or a less negative charge' if charge < 0 else ''}"
            )
        chosen = (*kohn_sham(xc_functional(xc), xc_refinement, xc_near_nuclei, spin_orbit, axes), *terms)
        system = System.of(structure, species, mesh_shape, quadrature, band_limited, sheet)
        if sheet:
            _check_sheet(system)
        return EnergyFunctional.bind(system, chosen, electrons)

    @staticmethod
    def bind(system: System, terms: Sequence[Term], electrons: float) -> EnergyFunctional:
        """The functional of any terms.  Raises BadInput for two energies of one name."""
        bound = tuple(t.on(system) for t in terms)
        names = [t.name for t in bound]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise BadInput(f"two terms of the energy are named {twice[0]}: give one of them another name")
        found = EnergyFunctional(system, system.overlap, tuple(terms), bound, electrons)
        forget_waves()
        return found

    @property
    def structure(self) -> Structure:
        """The crystal [Bohr]."""
        return self.system.structure

    @property
    def species(self) -> Mapping[int, Species]:
        """Orbitals and pseudopotential of each element, by atomic number."""
        return self.system.species

    @property
    def layout(self) -> BlockLayout:
        """Pairs and elements of its matrices."""
        return self.system.layout

    @property
    def mesh(self) -> Mesh:
        """Points on which densities and potentials stand."""
        return self.system.mesh

    @property
    def grid(self) -> GridOrbitals:
        """The orbitals on the mesh."""
        return self.system.grid

    def keeps(self, symmetry: Symmetry) -> bool:
        """Whether every term leaves a symmetry of the structure."""
        return all(symmetry in t.keeps for t in self.terms)

    def state(self, density_matrix: BlockMatrix) -> State:
        """D with the density that it makes, as the terms want it; differentiable in D."""
        return State.of(self.system, density_matrix)

    def energy(self, density_matrix: BlockMatrix) -> Tensor:
        """E[D] in Ha, differentiable in D by autograd: the one scalar that all else derives from."""
        state = self.state(density_matrix)
        return sum((term.energy(state) for term in self.terms), state.density.new_zeros(()))

    def evaluate(self, density_matrix: BlockMatrix) -> Evaluation:
        """Energies by term and the Kohn-Sham matrix F = dE/dD, by the closed-form potentials (no graph)."""
        with torch.no_grad():
            return self._evaluate(self.state(density_matrix))

    def hamiltonian_of_density(self, density: Tensor, density_matrix: BlockMatrix) -> BlockMatrix:
        """F of a density [channels, x, y, z] that need not come from a density matrix.

        density_matrix: for terms that depend on it beyond the density; its spin is that of the result.
        """
        with torch.no_grad():
            return self._evaluate(State(self.system, density_matrix, density)).hamiltonian

    def kernel(self, density_matrix: BlockMatrix, change: BlockMatrix) -> BlockMatrix:
        """(d^2E / dD dD) dD: how F moves with the density matrix."""
        with torch.no_grad():
            state, along = self.state(density_matrix), self.state(change)
            return self._matrix([t.kernel(state, along) for t in self.terms], state.spin)

    def density_gradient(self, density: Tensor, gradient: BlockMatrix) -> Tensor:
        """The derivative of sum_ij gradient_ij F_ij[n] in the density on the mesh [channels, x, y, z].

        F_ij is linear in the potential, so that it is the change of the potential by the density that `gradient` makes as a
        density matrix, times the volume of a point.
        """
        with torch.no_grad():
            state, along = State(self.system, gradient, density), self.state(gradient)
            potential = self._potential([t.kernel(state, along) for t in self.terms], gradient.spin)
        return potential * self.mesh.volume_element

    def potential(self, state: State, electrostatic: bool = False) -> Tensor:
        """The Kohn-Sham potential on the mesh, conjugate to the density's channels [channels, x, y, z] (Ha).

        electrostatic: of the electrostatic terms alone.
        """
        with torch.no_grad():
            chosen = [t for t in self.terms if t.electrostatic or not electrostatic]
            return self._potential([t.evaluate(state)[1] for t in chosen], state.spin)

    @property
    def least_spin(self) -> Spin:
        """That a density matrix must have for all terms to be known: spinors with spin-orbit coupling, else none."""
        return next((t.least_spin for t in self.terms if t.least_spin is not NONE), NONE)

    def spin_for(self, moments: Moments | None = None) -> Spin:
        """That of moments of atoms, collinear for numbers and spinors for vectors; without any what the terms need at least."""
        if moments is None:
            return self.least_spin
        return COLLINEAR if torch.tensor(moments).ndim == 1 else SPINOR

    def initial_density_matrix(self, moments: Moments | None = None, kind: Spin | None = None) -> BlockMatrix:
        """Of the neutral atoms: populations on the diagonal, turned so that atom a has moments[a] (mu_B).

        moments: numbers along one axis make it collinear, vectors a spinor; None: no moments.  kind: of the matrix; None: that
        of the moments, or what the terms need at least.
        Raises NearsightError for a moment larger than the atom's valence electrons, or one that the kind of spin cannot have.
        """
        numbers = self.structure.numbers.tolist()
        if moments is not None and len(moments) != len(numbers):
            raise BadInput(f"{len(moments)} moments for {len(numbers)} atoms: give one for each atom")
        kind = kind or self.spin_for(moments)
        vectors = torch.zeros(len(numbers), 3, dtype=torch.float64)
        if moments is not None:
            vectors = as_vectors(torch.tensor(moments, dtype=torch.float64))
            known = kind.channel_moment(kind.densities(kind.of_moment(vectors.new_zeros(len(vectors)), vectors.T))).T
            if not torch.equal(known, vectors):
                raise BadInput(f"a matrix of spin {kind} cannot have these moments: take spin {self.spin_for(moments)}")
        n = self.overlap.values.new_ones(1)
        values = None
        starts = self.layout.boundaries[self.layout.pairs.on_site].tolist()
        for a, (z, start) in enumerate(zip(numbers, starts, strict=True)):
            s, m = self.species[z], vectors[a].to(n)
            if float(m.norm()) > s.valence + 1e-9:
                size = float(m.norm()) if kind.turns else float(m[2])
                raise BadInput(
                    f"atom {a} ({s.symbol}): a moment of {size:g} needs more than its {s.valence:g} electrons"
                )
            shares = kind.of_moment(n[0], m / s.valence)
            if values is None:
                values = shares.new_zeros(kind.components, self.layout.size)
            block = torch.diag(n.new_tensor(s.orbital_populations)).flatten()
            values[:, start : start + len(block)] = shares[:, None] * block
        assert values is not None
        return BlockMatrix(self.layout, values, kind)

    def initial_hamiltonian(self, moments: Moments | None = None, kind: Spin | None = None) -> BlockMatrix:
        """H0 = F[sum of atomic densities]: a start that is within a few meV of the end in most elements of H.

        moments, kind: see `initial_density_matrix`.
        """
        d = self.initial_density_matrix(moments, kind)
        if moments is None:
            return self.hamiltonian_of_density(d.spin.of_charge(self.system.atomic_density), d)
        return self.evaluate(d).hamiltonian

    def initial_potential(self, electrostatic: bool = False) -> Tensor:
        """The Kohn-Sham potential of superposed atomic densities, without spin, on the mesh [x, y, z] (Ha).

        electrostatic: of the electrostatic terms alone.
        """
        d = self.initial_density_matrix()
        state = State(self.system, d, d.spin.of_charge(self.system.atomic_density))
        return self.potential(state, electrostatic)[0]

    def _evaluate(self, state: State) -> Evaluation:
        energies: dict[str, Tensor] = {}
        total: Tensor = state.density.new_zeros(())
        gradients = []
        for term in self.terms:
            energy, gradient = term.evaluate(state)
            energies |= term.named(energy)
            total = total + energy
            gradients.append(gradient)
        return Evaluation(energies, total, self._matrix(gradients, state.spin), state.density)

    def _potential(self, gradients: Sequence[Gradient], kind: Spin) -> Tensor:
        """The sum of all potentials [channels, x, y, z]."""
        scalar = [g.scalar for g in gradients if g.scalar is not None]
        parts = [g.channels for g in gradients if g.channels is not None]
        if scalar:
            parts.insert(0, kind.charge_potential(_sum(scalar)))
        return _sum(parts) if parts else self.mesh.cell.new_zeros(kind.channels, *self.mesh.shape)

    def _matrix(self, gradients: Sequence[Gradient], kind: Spin) -> BlockMatrix:
        total = self.grid.matrix(self._potential(gradients, kind), kind)
        values = total.values
        for g in gradients:
            if g.matrix is not None:
                own = g.matrix.values
                values = values + (kind.embed(own) if g.matrix.spin is NONE else own)
        return total.with_values(values)


def _sum(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _check_sheet(system: System) -> None:
    """Raises NearsightError for a cell whose third vector is not upright, or orbitals thicker than half of it."""
    a, b, c = system.structure.cell
    if float((a @ c).abs() + (b @ c).abs()) > 1e-6 * float(c @ c):
        raise BadInput("a sheet needs a third lattice vector at right angles to the first two")
    thick = Window.around(system.mesh, system.grid.touched).lengths[2]
    if 2 * thick > system.mesh.shape[2]:
        need = 2 * thick / system.mesh.shape[2] * float(c.norm()) * BOHR_ANG
        raise BadInput(
            f"the sheet's orbitals fill more than half of the cell's height: make it {need:.1f} angstrom at least"
        )
