"""The overlap of a structure without a run of any program, and H0 of its neutral atoms where pseudopotentials are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from nearsight.atoms.gaussian import gaussian_basis
from nearsight.atoms.library import source
from nearsight.atoms.orbitals import generate_species
from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation, Provenance
from nearsight.core.configuration import validated
from nearsight.core.errors import BadInput, MissingData
from nearsight.core.gaussians import GaussianBasis
from nearsight.core.species import AtomicBasis, HasOrbitals, Species
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.dft.settings import Settings
from nearsight.dft.setup import basis_settings, functional_for, quadrature_for, resolved
from nearsight.formats.basis_files import BasisChoice, choose
from nearsight.formats.structures import check_structure
from nearsight.integrals.gaussian import gaussian_overlap
from nearsight.integrals.two_center import EXACT, SIESTA, matrix_layout
from nearsight.integrals.two_center import overlap as two_center_overlap

_USED = ("basis", "functional", "mesh")  # tables of settings that S or H0 depend on
_MADE = ("size", "energy_shift_ry", "split_norm", "rule", "pseudopotentials")  # keys of orbitals that are generated


@dataclass(frozen=True)
class OrbitalSource:
    """Where the orbitals of every element come from.

    folder: of files of orbitals (.ion.xml, .pao, .orb, or another registered form), or of pseudopotentials, from which orbitals
    are generated as `settings.basis` says; None: the installed pseudopotentials.
    names: which files and shells, where a folder leaves that open: C6.0-s2p2d1, S_gga_8au_100Ry_2s2p1d.
    gaussian: a basis by PySCF's name, in place of all these.
    settings: the tables basis, functional and mesh count.
    """

    folder: Path | None = None
    names: tuple[str, ...] = ()
    gaussian: str | None = None
    settings: Settings = Settings()

    def __post_init__(self) -> None:
        given = self.settings.given
        idle = [f"{table}.{key}" for table in given if table not in _USED for key in given[table]]
        if idle:
            raise BadInput(f"{idle[0]} has no bearing on an overlap or H0: leave it out")
        if self.settings.basis.species is not None:
            raise BadInput("basis.species is the folder of the orbitals: give it as species (--species)")
        if self.gaussian is not None:
            if self.folder is not None or self.names:
                raise BadInput("a Gaussian basis has a name and no files: leave --species and --orbitals out")
            if any(given.values()):
                table, keys = next((t, k) for t, k in given.items() if k)
                raise BadInput(f"{table}.{next(iter(keys))} has no bearing on Gaussians: leave it out")
        if self.names and self.folder is None:
            raise BadInput("--orbitals names files of a folder: give --species too")

    def choice(self, symbol: str) -> BasisChoice | None:
        """The file that has the orbitals of an element; None where they are generated, or Gaussians."""
        return None if self.folder is None else choose(self.folder, symbol, self.names)

    def element(self, symbol: str) -> HasOrbitals | GaussianBasis:
        """The orbitals of an element. Raises NearsightError where there are none, or a file is not sound."""
        if self.gaussian is not None:
            return gaussian_basis(symbol, self.gaussian)
        choice = self.choice(symbol)
        if choice is not None:
            made = [key for key in _MADE if key in self.settings.given.get("basis", {})]
            if made:
                raise BadInput(f"{choice.path} holds its orbitals: leave basis.{made[0]} out")
            status = choice.path.stat()
            return _read(choice, symbol, status.st_mtime_ns, status.st_size)
        basis, xc = self.settings.basis, self.settings.functional.xc
        made_as = basis_settings(basis)
        if self.folder is None:
            return generate_species(symbol, xc, made_as, basis.pseudopotentials)
        try:
            source(symbol, xc, self.folder)
        except MissingData as error:
            raise MissingData(
                f"{self.folder} has no orbitals of {symbol} (.ion.xml, .pao, .orb) and no pseudopotential to make them from"
            ) from error
        return generate_species(symbol, xc, made_as, self.folder)

    def elements(self, numbers: Sequence[int]) -> dict[int, HasOrbitals | GaussianBasis]:
        """The orbitals of all elements present, by atomic number. Raises NearsightError as `element`."""
        return {z: self.element(SYMBOLS[z]) for z in sorted(set(numbers))}


@lru_cache(maxsize=128)
def _read(choice: BasisChoice, symbol: str, changed: int, size: int) -> HasOrbitals:
    """changed, size: of the file, so that it is read anew when it is another."""
    return choice.read(symbol)


def overlap(
    structure: Structure,
    species: Path | str | None = None,
    *,
    orbitals: Sequence[str] | str = (),
    gaussian: str | None = None,
    initial_hamiltonian: bool = False,
    settings: Settings | None = None,
    **keywords: Any,
) -> Calculation:
    """S_ij(R) = <phi_i|phi_j(R)> of a structure, and H0 [Ha] where asked for, as a calculation.

    species: folder of .ion.xml, .pao or .orb files (which of them: orbitals, such as C6.0-s2p2d1), or of pseudopotentials;
    None: the installed ones.  gaussian: a basis by PySCF's name instead.  settings: how orbitals are generated and what H0
    is of; or its keywords alone, such as basis="dzp", xc="pbe", mesh_cutoff_ry=300.
    Raises BadInput for what has no bearing on the result, files that are not sound, and H0 without pseudopotentials;
    MissingData for elements without orbitals; Unavailable for Gaussians without PySCF.
    """
    if settings is not None and keywords:
        raise BadInput(f"give settings or keywords, not both: {', '.join(keywords)} can be part of the settings")
    chosen = settings if settings is not None else validated(Settings, keywords, "overlap")
    names = (orbitals,) if isinstance(orbitals, str) else tuple(orbitals)
    place = None if species is None else Path(species)
    return overlap_from(structure, OrbitalSource(place, names, gaussian, chosen), initial_hamiltonian)


def overlap_from(structure: Structure, source: OrbitalSource, initial_hamiltonian: bool = False) -> Calculation:
    """`overlap` from an OrbitalSource."""
    structure = check_structure(structure)
    bases = source.elements(structure.numbers.tolist())
    files = {b.symbol: {"shells": list(b.shells), **b.provenance} for b in bases.values()}
    record: dict[str, Any] = {"overlap_of": files, "initial_hamiltonian": initial_hamiltonian}
    counts = {z: _electrons(b) for z, b in bases.items()}
    numbers = [counts[z] for z in structure.numbers.tolist()]
    electrons = None if None in numbers else sum(n for n in numbers if n is not None)
    notes = ("hamiltonian: H0 of superposed neutral atoms, not self-consistent",) if initial_hamiltonian else ()
    species = {z: b for z, b in bases.items() if isinstance(b, Species)}
    settings, provenance = source.settings, Provenance("nearsight", notes=notes)
    if initial_hamiltonian:
        alone = next((b for z, b in bases.items() if z not in species), None)
        if alone is not None:
            raise BadInput(_without_potential(alone))
        settings = resolved(structure, settings)
        functional = functional_for(structure, settings, species)
        S, H = functional.overlap, functional.initial_hamiltonian()
    else:
        S, H = _overlap(structure, bases, settings), None
    if len(species) == len(bases):
        of_files = all(source.choice(s.symbol) is not None for s in species.values())
        place = {} if source.folder is None else {"species" if of_files else "pseudopotentials": source.folder}
        table = settings.basis.model_copy(update=place)
        settings = settings.model_copy(update={"basis": table})
        told = ("basis",) if of_files and not initial_hamiltonian else _USED  # S of files knows no functional
        record["config"] = settings.model_dump(mode="json", include={"schema_version", *told})
    return Calculation(
        structure,
        S,
        H,
        electrons=electrons,
        settings=record.get("config", {}),
        species=species if len(species) == len(bases) else {},
        provenance=provenance,
        result=record,
    )


def _overlap(structure: Structure, bases: Mapping[int, HasOrbitals | GaussianBasis], settings: Settings) -> BlockMatrix:
    gaussians = {z: b for z, b in bases.items() if isinstance(b, GaussianBasis)}
    if gaussians:
        return gaussian_overlap(structure, gaussians)
    numerical = {z: b for z, b in bases.items() if not isinstance(b, GaussianBasis)}
    species = {z: b for z, b in numerical.items() if isinstance(b, Species)}
    choice = settings.mesh.two_center
    plain = SIESTA if choice == "siesta" else EXACT
    quadrature = quadrature_for(species, choice) if len(species) == len(bases) else plain
    return two_center_overlap(structure, numerical, matrix_layout(structure, numerical), quadrature)


def _electrons(basis: HasOrbitals | GaussianBasis) -> float | None:
    if isinstance(basis, Species):
        return basis.valence
    return basis.electrons if isinstance(basis, AtomicBasis | GaussianBasis) else None


def _without_potential(basis: HasOrbitals | GaussianBasis) -> str:
    if isinstance(basis, GaussianBasis):
        return "H0 is that of neutral pseudo-atoms, which Gaussians have not: leave --h0 out"
    file = basis.provenance.get("file", "the file")
    return (
        f"{file} holds orbitals of {basis.symbol} and no pseudopotential that belongs to them, so that no H0 can be computed "
        "(OpenMX's .vps, of another form of the energy, serves no H0 here): leave --h0 out"
    )
