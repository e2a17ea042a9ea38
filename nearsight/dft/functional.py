"""The energy functional of a structure: E[D] as a sum of terms, and its derivative, the Kohn-Sham matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.errors import NearsightError
from nearsight.core.layout import BlockLayout
from nearsight.core.species import Species
from nearsight.core.spin import COLLINEAR, by_components
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.core.units import BOHR_ANG
from nearsight.dft.terms import (
    ExchangeCorrelation,
    Hartree,
    Ions,
    Kinetic,
    MatrixTerm,
    NeutralAtom,
    NonLocal,
    PotentialTerm,
    State,
    Term,
)
from nearsight.integrals import ions, two_center
from nearsight.integrals.band_limited import Refinement
from nearsight.integrals.band_limited import superpose as band_limited_sum
from nearsight.integrals.grid import GridOrbitals
from nearsight.integrals.mesh import Mesh
from nearsight.integrals.two_center import EXACT, Quadrature
from nearsight.integrals.window import Window
from nearsight.xc.functionals import FUNCTIONALS, XCName


@dataclass(frozen=True, eq=False)
class Evaluation:
    """E[D] by term [Ha], its derivative F = dE/dD (the Kohn-Sham matrix, Ha) and the density [components, x, y, z]."""

    energies: dict[str, Tensor]
    total: Tensor
    hamiltonian: BlockMatrix
    density: Tensor


@dataclass(frozen=True, eq=False)
class EnergyFunctional:
    """E[D] of one structure: everything that does not depend on the density matrix is held here. Build with `of`."""

    structure: Structure
    species: Mapping[int, Species]
    layout: BlockLayout
    mesh: Mesh
    grid: GridOrbitals
    overlap: BlockMatrix
    terms: tuple[Term, ...]
    ions: Ions
    atomic_density: Tensor
    core: Tensor
    electrons: float
    quadrature: Quadrature
    band_limited: bool

    @staticmethod
    def of(
        structure: Structure,
        species: Mapping[int, Species],
        xc: XCName,
        mesh_shape: tuple[int, int, int],
        quadrature: Quadrature = EXACT,
        charge: float = 0.0,
        band_limited: bool = False,
        xc_refinement: int = 1,
        sheet: bool = False,
    ) -> EnergyFunctional:
        """The functional of a structure, on the device and in the dtype of its cell.

        band_limited: neutral-atom potential with the waves of the mesh only.  xc_refinement: how many times finer along each
        axis the mesh of the exchange-correlation energy is.  Both lessen the egg box (band_limited.py).
        sheet: no images along the third lattice vector (Mesh.coulomb_kernel).
        charge: of the cell [e], neutralised by a uniform background (the G = 0 term of the Hartree energy is left out).
        Raises NearsightError for an element without a species, or a charge that leaves no electrons.
        """
        missing = sorted({SYMBOLS[z] for z in structure.numbers.tolist() if z not in species})
        if missing:
            raise NearsightError(f"no species for {', '.join(missing)}: give its .ion.xml file or a pseudopotential")
        species = {z: species[z] for z in sorted(set(structure.numbers.tolist()))}
        electrons = float(sum(species[z].valence for z in structure.numbers.tolist())) - charge
        room = 2 * sum(species[z].orbital_count for z in structure.numbers.tolist())
        if not 0 < electrons < room:
            raise NearsightError(
                f"a charge of {charge:g} leaves {electrons:g} electrons for {room // 2} orbitals: the charge is not possible"
            )
        layout = two_center.matrix_layout(structure, species)
        mesh = Mesh(mesh_shape, structure.cell, sheet)
        grid = GridOrbitals.of(structure, species, layout, mesh)
        kinetic = two_center.orbital_tables(species, two_center.kinetic, quadrature)
        cores = {z: s.core_density for z, s in species.items()}
        potentials = {z: s.neutral_atom_potential for z, s in species.items()}
        neutral = (
            band_limited_sum(mesh, structure, potentials) if band_limited else mesh.superpose(structure, potentials)
        )
        touched = grid.touched
        if sheet:
            _check_sheet(structure, mesh, touched)
        if xc_refinement == 1:
            core = mesh.superpose(structure, cores)
            term = ExchangeCorrelation(FUNCTIONALS[xc], core, mesh, Window.around(mesh, touched | (core > 0)))
        else:
            refinement = Refinement(mesh_shape, xc_refinement)
            fine = Mesh(refinement.fine, structure.cell)
            core = fine.superpose(structure, cores)
            for axis in range(3):
                touched = touched.repeat_interleave(xc_refinement, axis)
            term = ExchangeCorrelation(
                FUNCTIONALS[xc], core, fine, Window.around(fine, touched | (core > 0)), refinement
            )
        na, self_energies = ions.ion_energies(structure, species, quadrature)
        return EnergyFunctional(
            structure=structure,
            species=species,
            layout=layout,
            mesh=mesh,
            grid=grid,
            overlap=two_center.overlap(structure, species, layout, quadrature),
            terms=(
                Kinetic(two_center.assemble(layout, structure, kinetic)),
                NonLocal(two_center.nonlocal_potential(structure, species, layout, quadrature)),
                NeutralAtom(neutral, mesh),
                Hartree(mesh),
                term,
            ),
            ions=Ions(na, self_energies),
            atomic_density=grid.atomic_density,
            core=core,
            electrons=electrons,
            quadrature=quadrature,
            band_limited=band_limited,
        )

    @property
    def neutral_atom(self) -> NeutralAtom:
        return next(t for t in self.terms if isinstance(t, NeutralAtom))

    @property
    def exchange_correlation(self) -> ExchangeCorrelation:
        return next(t for t in self.terms if isinstance(t, ExchangeCorrelation))

    def mesh_energy(self, density: Tensor, atomic: Tensor, neutral_atom: Tensor, core: Tensor, mesh: Mesh) -> Tensor:
        """The energy of the terms on the mesh [Ha] as a function of the fields and of the cell of `mesh`: for derivatives."""
        zero = BlockMatrix(self.layout, density.new_zeros(len(density), self.layout.size), by_components(len(density)))
        state = State(zero, density, density.sum(0) - atomic)
        own = self.exchange_correlation
        finer = Mesh(own.mesh.shape, mesh.cell)
        xc = replace(own, core=core, mesh=finer, window=replace(own.window, mesh=finer))
        return NeutralAtom(neutral_atom, mesh).energy(state) + Hartree(mesh).energy(state) + xc.energy(state)

    def state(self, density_matrix: BlockMatrix) -> State:
        density = self.grid.density(density_matrix)
        return State(density_matrix, density, _total(density) - self.atomic_density)

    def energy(self, density_matrix: BlockMatrix) -> Tensor:
        """E[D] in Ha, differentiable in D by autograd: the one scalar that all else derives from."""
        state = self.state(density_matrix)
        return self.ions.total + sum(term.energy(state) for term in self.terms)

    def evaluate(self, density_matrix: BlockMatrix) -> Evaluation:
        """Energies by term and the Kohn-Sham matrix F = dE/dD, by the closed-form potentials (no graph)."""
        with torch.no_grad():
            return self._evaluate(self.state(density_matrix))

    def hamiltonian_of_density(self, density: Tensor) -> BlockMatrix:
        """F[n] for a density [components, x, y, z] that need not come from a density matrix."""
        with torch.no_grad():
            zero = BlockMatrix(
                self.layout,
                density.new_zeros(len(density), self.layout.size),
                by_components(len(density)),
            )
            return self._evaluate(State(zero, density, _total(density) - self.atomic_density)).hamiltonian

    def initial_density(self, moments: Sequence[float] | None = None) -> Tensor:
        """The superposed atomic densities [1, x, y, z], or split by spin [2, x, y, z] so that atom a has moments[a] (mu_B).

        Raises NearsightError for a moment larger than the atom's valence electrons.
        """
        if moments is None:
            return self.atomic_density[None]
        numbers = self.structure.numbers.tolist()
        if len(moments) != len(numbers):
            raise NearsightError(f"{len(moments)} moments for {len(numbers)} atoms: give one for each atom")
        values = self.overlap.values.new_zeros(2, self.layout.size)
        for a, (z, m) in enumerate(zip(numbers, moments, strict=True)):
            s = self.species[z]
            if abs(m) > s.valence:
                raise NearsightError(
                    f"atom {a} ({s.symbol}): a moment of {m:g} needs more than its {s.valence:g} electrons"
                )
            block = torch.diag(values.new_tensor(s.orbital_populations)).flatten()
            start = int(self.layout.boundaries[self.layout.pairs.on_site[a]])
            for spin, sign in enumerate((1, -1)):
                values[spin, start : start + len(block)] = 0.5 * (1 + sign * m / s.valence) * block
        return self.grid.density(BlockMatrix(self.layout, values, COLLINEAR))

    def initial_hamiltonian(self, moments: Sequence[float] | None = None) -> BlockMatrix:
        """H0 = F[sum of atomic densities]: a start that is within a few meV of the end in most elements of H."""
        return self.hamiltonian_of_density(self.initial_density(moments))

    def _evaluate(self, state: State) -> Evaluation:
        energies = {self.ions.names[0]: self.ions.neutral_atoms, self.ions.names[1]: self.ions.self_energies}
        potential: Tensor | float = 0.0
        matrix: Tensor | float = 0.0
        for term in self.terms:
            if isinstance(term, PotentialTerm):
                energies[term.name], v = term.energy_and_potential(state)
                potential = potential + v
            elif isinstance(term, MatrixTerm):
                energies[term.name] = term.energy(state)
                matrix = matrix + term.matrix.values
        assert isinstance(potential, Tensor)
        hamiltonian = self.grid.matrix(potential)
        total = self.ions.total + sum(energies[term.name] for term in self.terms)
        return Evaluation(energies, total, hamiltonian.with_values(hamiltonian.values + matrix), state.density)


def _total(density: Tensor) -> Tensor:
    """The sum over spins [x, y, z]; without spin the density itself."""
    return density[0] if len(density) == 1 else density.sum(0)


def _check_sheet(structure: Structure, mesh: Mesh, touched: Tensor) -> None:
    """Raises NearsightError for a cell whose third vector is not upright, or orbitals thicker than half of it."""
    a, b, c = structure.cell
    if float((a @ c).abs() + (b @ c).abs()) > 1e-6 * float(c @ c):
        raise NearsightError("a sheet needs a third lattice vector at right angles to the first two")
    thick = Window.around(mesh, touched).lengths[2]
    if 2 * thick > mesh.shape[2]:
        need = 2 * thick / mesh.shape[2] * float(c.norm()) * BOHR_ANG
        raise NearsightError(
            f"the sheet's orbitals fill more than half of the cell's height: make it {need:.1f} angstrom at least"
        )
