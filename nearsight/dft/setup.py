"""From settings to the parts of the engine: species, functional, k-points, method; and with them to a ground state."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import torch

from nearsight.atoms.library import set_for, sets, source
from nearsight.atoms.orbitals import BasisSettings, generate_species
from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput, MissingData, NotConverged, Unavailable
from nearsight.core.species import Species
from nearsight.core.spin import Spin
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.core.units import BOHR_ANG, HARTREE_EV
from nearsight.dft.dielectric import Dielectric
from nearsight.dft.functional import EnergyFunctional, Moments
from nearsight.dft.ground_state import GroundState, ground_state
from nearsight.dft.minimisation import DirectMinimisation
from nearsight.dft.mixing import Kerker, Pulay
from nearsight.dft.moments import constraint_for, held_atoms, initial_moments, spin_of
from nearsight.dft.problem import Problem, SCFState, Step
from nearsight.dft.scf import DIVERGED, PRODUCTS_NEAR, SCF
from nearsight.dft.settings import BasisTable, MeshTable, Settings, SolverTable
from nearsight.dft.terms import Symmetry
from nearsight.electrons import kpoints
from nearsight.electrons.constraint import MomentConstraint
from nearsight.electrons.kpoints import KPoints
from nearsight.electrons.smearing import SMEARINGS
from nearsight.electrons.symmetry import SpaceGroup, reduced_mesh
from nearsight.formats.ion_xml import read_ion_xml
from nearsight.integrals.mesh import given_shape, mesh_shape
from nearsight.integrals.two_center import EXACT, SIESTA, Quadrature

_KEYS_OF_ORBITALS = (
    ("size", "size"),
    ("energy_shift_ry", "energy_shift"),
    ("split_norm", "split_norm"),
    ("rule", "rule"),
)
REMEDIES = "lower solver.mixing.weight (0.1), solver.method variational, more solver.max_iterations, a larger smearing"
AROUND_NUCLEI = 3  # how many times finer the mesh of exchange and correlation is there, where nobody says
MOMENTS_WITHOUT_SPIN = (
    "the structure states initial magnetic moments, but this calculation is without spin: take spin collinear for them"
)


@dataclass(frozen=True, eq=False)
class Setup:
    """A structure's functional with all that its ground state is found from.

    settings: resolved, see `resolved`.  moments: initial moment of each atom [mu_B], as `initial_moments` has it.
    why_kmesh: what its k-mesh is from.  constraint: on the moments.
    """

    settings: Settings
    functional: EnergyFunctional
    kpoints: KPoints
    moments: Moments | None
    why_kmesh: str = "given"
    constraint: MomentConstraint | None = None

    __repr__ = one_line

    @staticmethod
    def of(structure: Structure, settings: Settings, species: Mapping[int, Species] | None = None) -> Setup:
        """species: in place of those that `settings.basis` describes.

        Raises BadInput or MissingData for what cannot be computed, Unavailable for a device that is not there.
        """
        spin_of(settings)
        check_charge(structure, settings)
        why, settings = why_kmesh(structure, settings), resolved(structure, settings)
        functional = functional_for(structure, settings, species)
        moments = initial_moments(functional, settings)
        constraint = constraint_for(functional, settings, moments)
        return Setup(settings, functional, chosen_kpoints(functional, settings, moments), moments, why, constraint)

    @property
    def spin(self) -> Spin:
        """Of its matrices."""
        return spin_of(self.settings)

    @property
    def kT(self) -> float:
        """Width of the smearing [Ha]."""
        return self.settings.electrons.width_ev / HARTREE_EV

    def problem(self) -> Problem:
        """The map H -> (levels, D, E, F). Raises NearsightError for linearly dependent orbitals."""
        electrons = self.settings.electrons
        return Problem.of(
            self.functional,
            self.kpoints,
            self.kT,
            electrons.total_moment_mu_b,
            SMEARINGS[electrons.smearing],
            self.settings.solver.density.build(),
        )

    def ground_state(
        self,
        start: BlockMatrix | None = None,
        progress: Callable[[Step], None] | None = None,
        observe: Callable[[SCFState], None] | None = None,
        near: bool = False,
    ) -> GroundState:
        """The ground state, or the last state of a run that does not converge.

        start: Hamiltonian to begin with [Ha]; None: of superposed atoms.  near: it is nearly self-consistent.
        progress: told each step; observe: each state.
        Raises BadInput for a start that is not finite; NotConverged where numbers become none on the way.
        """
        electrons, method = self.settings.electrons, method_for(self.settings.solver)
        if near and isinstance(method, SCF):
            method = replace(method, first_products=PRODUCTS_NEAR)
        try:
            state = ground_state(
                self.functional,
                self.kpoints,
                self.kT,
                method,
                start,
                progress,
                self.moments,
                electrons.total_moment_mu_b,
                observe,
                SMEARINGS[electrons.smearing],
                self.settings.solver.density.build(),
                self.spin,
                self.constraint,
            )
        except (torch.linalg.LinAlgError, NotConverged) as error:
            raise NotConverged(f"the run diverged ({str(error).splitlines()[0].rstrip('.')}): {REMEDIES}") from error
        if not state.steps[-1].residual < DIVERGED:
            raise NotConverged(f"the run diverged at iteration {len(state.steps)}: {REMEDIES}")
        return state


def load_species(numbers: Sequence[int], settings: Settings) -> dict[int, Species]:
    """The species of the elements present: read from a folder of .ion.xml files, or generated.

    Raises BadInput or MissingData for an element without a file or pseudopotential, or a file of another element, another
    functional or another basis than the settings say.
    """
    basis, present = settings.basis, {z: SYMBOLS[z] for z in sorted(set(numbers))}
    if basis.species is not None:
        files = basis_files(numbers, basis, settings.functional.xc)
        found = {z: read_ion_xml(files[symbol], symbol) for z, symbol in present.items()}
        _check_species(found, settings)
        return found
    made = basis_settings(basis)
    xc, folder = settings.functional.xc, basis.pseudopotentials
    own = settings.functional.spin_orbit == "auto"
    return {z: generate_species(symbol, xc, made, folder, own) for z, symbol in present.items()}


def basis_settings(basis: BasisTable) -> BasisSettings:
    """How orbitals are generated. Raises BadInput for a size that the rule does not have."""
    return BasisSettings(
        size=basis.size, energy_shift=basis.energy_shift_ry, split_norm=basis.split_norm, rule=basis.rule
    )


def _check_species(species: Mapping[int, Species], settings: Settings) -> None:
    """Raises BadInput where species of files are not what the settings say beside them, as far as the files tell."""
    basis, xc = settings.basis, settings.functional.xc
    made_for, folder = set_for(xc), basis.species
    if "pseudopotentials" in basis.model_fields_set and basis.pseudopotentials is not None:
        raise BadInput(f"species {folder} and pseudopotentials {basis.pseudopotentials} are two sources: leave one out")
    for s in species.values():
        told = s.provenance.get("xc", made_for)
        if told != made_for and made_for in sets():
            raise BadInput(
                f"{folder}/{s.symbol}.ion.xml was made for {told}, this calculation is of {xc}: take xc {told}, or species "
                f"of {made_for}"
            )
        made = s.provenance.get("basis", "")
        if made and "rule=" not in made:
            made += " rule=1"
        for key, name in _KEYS_OF_ORBITALS:
            if key not in basis.model_fields_set:
                continue
            said = re.search(rf"\b{name}='?([\w.+-]+)'?", made)
            if said is None or said[1] != str(getattr(basis, key)):
                what = "does not say its own" if said is None else f"has {said[1]}"
                raise BadInput(
                    f"basis.{key} {getattr(basis, key)} has no effect beside species {folder}, whose {s.symbol}.ion.xml "
                    f"{what}: leave one of the two out"
                )


def basis_files(numbers: Sequence[int], basis: BasisTable, xc: str) -> dict[str, Path]:
    """The file behind the orbitals of each element, by its symbol: .ion.xml or pseudopotential.

    Raises MissingData for a folder or an .ion.xml that is not there; see `atoms.library.source` for pseudopotentials.
    """
    files = {}
    for symbol in (SYMBOLS[z] for z in sorted(set(numbers))):
        if basis.species is None:
            files[symbol] = source(symbol, xc, basis.pseudopotentials)
            continue
        files[symbol] = basis.species / f"{symbol}.ion.xml"
        if not basis.species.is_dir():
            raise MissingData(f"no such folder of species: {basis.species}")
        if not files[symbol].is_file():
            raise MissingData(f"{basis.species} has no {symbol}.ion.xml: add it, or leave --species out")
    return files


def quadrature_for(species: Mapping[int, Species], choice: str) -> Quadrature:
    """SIESTA's quadrature where asked for, or where all species are SIESTA's own (auto)."""
    if choice == "auto":
        choice = "siesta" if all("pseudopotential" not in s.provenance for s in species.values()) else "exact"
    return SIESTA if choice == "siesta" else EXACT


def check_charge(structure: Structure, settings: Settings) -> None:
    """Raises BadInput where a structure has initial charges that make an ion, and the settings say no charge."""
    stated = 0.0 if structure.charges is None else float(structure.charges.sum())
    if abs(stated) > 0.01 and "charge_e" not in settings.electrons.model_fields_set:
        raise BadInput(
            f"{structure.formula} has initial charges that sum to {stated:+g} e, which nothing takes up: give "
            f"electrons.charge_e (--charge {stated:g}, or 0 for a neutral cell)"
        )


def chosen_kmesh(structure: Structure, settings: Settings) -> tuple[int, int, int]:
    """The mesh that was asked for, or the smallest with steps below `spacing_per_ang` along each reciprocal vector.

    One point then stands for a direction of vacuum (`kpoints.vacuum_axes`): a molecule in a box has Gamma alone.
    """
    if settings.kpoints.mesh is not None:
        return settings.kpoints.mesh
    spacing, lengths = settings.kpoints.spacing_per_ang, structure.reciprocal.norm(dim=1) / BOHR_ANG  # 1/Angstrom
    if float(lengths.max()) > 1e6 * spacing:
        raise BadInput(f"kpoints.spacing_per_ang {spacing:g} makes more than a million k-points: take a larger one")
    empty = kpoints.vacuum_axes(structure)
    a, b, c = (1 if x in empty else max(1, ceil(k / spacing - 1e-6)) for x, k in enumerate(lengths.tolist()))
    return a, b, c


def why_kmesh(structure: Structure, settings: Settings) -> str:
    """Where a k-mesh is from, in words: given, or by what it was chosen."""
    if settings.kpoints.mesh is not None:
        return "given"
    empty = ["abc"[x] for x in kpoints.vacuum_axes(structure)]
    chosen = f"steps below {settings.kpoints.spacing_per_ang:g} 1/Angstrom"
    if len(empty) == 3:
        return "Gamma alone: vacuum on all sides"
    return f"{chosen}, one point along {' and '.join(empty)}: vacuum" if empty else chosen


def _mesh_of(structure: Structure, settings: Settings) -> tuple[int, int, int]:
    """Points of the mesh: as given, or by its cutoff. Raises BadInput for one that is too coarse, or too fine."""
    shape, cell = settings.mesh.shape, structure.cell
    return mesh_shape(cell, settings.mesh.cutoff_ry) if shape is None else given_shape(cell, shape)


def resolved(structure: Structure, settings: Settings) -> Settings:
    """The settings with every choice that was left open filled in."""
    mesh = _mesh_of(structure, settings)
    found = with_meshes(settings, mesh, chosen_kmesh(structure, settings))
    if settings.electrons.constrain.hold == "none":
        return found
    return found.model_copy(update={"electrons": {"constrain": {"atoms": held_atoms(structure, settings)}}})


def with_meshes(settings: Settings, mesh: tuple[int, int, int], kmesh: tuple[int, int, int]) -> Settings:
    """The settings with these meshes, and with the mixing's weight filled in."""
    mixing = settings.solver.mixing
    weight = mixing.weight or (0.4 if mixing.kerker_per_ang or mixing.dielectric_ry is None else 1.0)
    chosen: dict[str, Any] = {
        "mesh": {"shape": mesh},
        "kpoints": {"mesh": kmesh},
        "solver": {"mixing": {"weight": weight}},
    }
    return settings.model_copy(update=chosen)


def functional_for(
    structure: Structure, settings: Settings, species: Mapping[int, Species] | None = None
) -> EnergyFunctional:
    """The energy functional that settings describe, on their device.

    species: in place of those that `settings.basis` describes.  Raises Unavailable for a device that is not there.
    """
    if settings.solver.device == "cuda" and not torch.cuda.is_available():
        raise Unavailable("--device cuda: this machine has no CUDA device that PyTorch can use; take --device cpu")
    species = species or load_species(structure.numbers.tolist(), settings)
    quadrature = quadrature_for(species, settings.mesh.two_center)
    spin_orbit, non_collinear = settings.functional.spin_orbit, settings.functional.non_collinear
    if spin_orbit != "none":
        _check_by_j(species, spin_orbit)
    band_limited = settings.mesh.band_limited
    return EnergyFunctional.of(
        structure.to(settings.solver.device),
        species,
        settings.functional.xc,
        _mesh_of(structure, settings),
        quadrature,
        settings.electrons.charge_e,
        quadrature == EXACT if band_limited is None else band_limited,
        settings.mesh.xc_refinement or 1,
        settings.functional.electrostatics == "sheet",
        [term.build() for term in settings.functional.terms],
        refinement_near_nuclei(settings.mesh, quadrature),
        spin_orbit != "none",
        non_collinear if non_collinear != "auto" else "siesta" if quadrature == SIESTA else "variational",
    )


def _check_by_j(species: Mapping[int, Species], wanted: str) -> None:
    """Raises BadInput for a species without projectors by j, which coupling of our own has given to all made from files."""
    scalar = [s for s in species.values() if not s.relativistic_projectors]
    if wanted == "auto":
        scalar = [s for s in scalar if any(p.l for p in s.projectors)]
    if scalar:
        s = scalar[0]
        place = s.provenance.get("file", s.provenance.get("pseudopotential", "its pseudopotential"))
        instead = (
            "functional.spin_orbit auto, which makes its own"
            if wanted == "file"
            else "a pseudopotential in place of it"
        )
        raise BadInput(
            f"{s.symbol}: {place} is scalar-relativistic, without projectors by j: take a fully relativistic pseudopotential "
            f"(a folder of them: --set basis.pseudopotentials=FOLDER), {instead}, or leave --spin-orbit out"
        )


def refinement_near_nuclei(mesh: MeshTable, quadrature: Quadrature) -> int:
    """How many times finer the mesh of exchange and correlation is around nuclei, whoever chose it."""
    if mesh.xc_near_nuclei is not None:
        return mesh.xc_near_nuclei
    return AROUND_NUCLEI if quadrature == EXACT and mesh.xc_refinement is None else 1


def initial_hamiltonian(
    structure: Structure, settings: Settings, species: Mapping[int, Species] | None = None
) -> tuple[BlockMatrix, BlockMatrix]:
    """(H0, S): the Kohn-Sham matrix of superposed atomic densities [Ha], and the overlap. No self-consistency."""
    functional = functional_for(structure, settings, species)
    return functional.initial_hamiltonian(), functional.overlap


def method_for(solver: SolverTable) -> SCF | DirectMinimisation:
    """The way to self-consistency; a mixing weight that is left open is 1 with the dielectric operator, 0.4 without."""
    tolerance, mixing = solver.tolerance_ev / HARTREE_EV, solver.mixing
    if solver.method == "variational":
        return DirectMinimisation(tolerance, solver.max_iterations)
    kerker = None if mixing.kerker_per_ang is None else Kerker(mixing.kerker_per_ang * BOHR_ANG)
    dielectric = None if mixing.dielectric_ry is None or kerker else Dielectric(mixing.dielectric_ry)
    weight = mixing.weight or (0.4 if dielectric is None else 1.0)
    return SCF(Pulay(weight, mixing.history, kerker, dielectric), tolerance, solver.max_iterations)


def chosen_kpoints(functional: EnergyFunctional, settings: Settings, moments: Moments | None = None) -> KPoints:
    """The k-points of settings; where the space group reduces them, by what keeps mesh and moments.

    One of k and -k stands for both, but for spinors with moments, or in a field that turns spins.

    An operation that does not map the real-space mesh onto itself is left out: a glide by a quarter of the cell, for
    example, needs a number of mesh points that is a multiple of 4.
    Raises BadInput where a term of the energy has not the symmetry of the atoms.
    """
    size, shift = chosen_kmesh(functional.structure, settings), settings.kpoints.shift
    halved = not spin_of(settings).turns or (moments is None and functional.keeps(Symmetry.TIME_REVERSAL))
    if settings.kpoints.symmetry == "time-reversal":
        return kpoints.mesh(size, shift, halved).to(settings.solver.device)
    broken = [t.name for t in functional.terms if not {Symmetry.TRANSLATION, Symmetry.ROTATION} <= t.keeps]
    if broken:
        raise BadInput(
            f"kpoints.symmetry space-group: {broken[0]} does not keep it; take kpoints.symmetry: time-reversal"
        )
    group = SpaceGroup.of(functional.structure, moments).on_mesh(functional.mesh.shape)
    return reduced_mesh(size, shift, group, functional.layout, halved)
