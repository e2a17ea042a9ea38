"""The orbitals of a calculation on a real-space mesh: what densities and integrals over space are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import pi
from pathlib import Path

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput, MissingData
from nearsight.core.species import Species
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.dft.settings import Settings, SolverTable
from nearsight.dft.setup import load_species
from nearsight.formats.ion_xml import read_ion_xml
from nearsight.integrals.grid import GridOrbitals
from nearsight.integrals.mesh import Mesh, mesh_shape
from nearsight.integrals.splines import UniformSplines
from nearsight.integrals.two_center import matrix_layout, overlap

_SAME_OVERLAP = 1e-3  # other quadratures differ by a hundredth of it


def settings_of(calculation: Calculation) -> Settings | None:
    """The settings of a calculation of ours, on the CPU; None where none are recorded: another program's folder."""
    config = calculation.settings
    if not {"xc", "functional"} & set(config):
        return None
    return Settings.stored(config, calculation.name).model_copy(update={"solver": SolverTable()})


def species_of(calculation: Calculation) -> dict[int, Species]:
    """The species that a calculation was done with: its own, those of its settings, else the `<Symbol>.ion.xml` of its folder.

    Raises NearsightError: MissingData where neither is there; BadInput where files or orbitals are others than they were.
    """
    name = calculation.name
    settings = settings_of(calculation)
    numbers = sorted(set(calculation.structure.numbers.tolist()))
    if set(calculation.species) >= set(numbers):
        species = {z: calculation.species[z] for z in numbers}
    elif settings is not None:
        species = load_species(numbers, settings)
        for s in species.values():
            told = calculation.result.get("species", {}).get(s.symbol, {})
            for key in ("pseudopotential_sha256", "sha256"):
                if told.get(key) not in (None, s.provenance.get(key)):
                    raise BadInput(f"{name} was done with another file for {s.symbol} than the one that is there now")
    else:
        files = _orbital_files(calculation.provenance.path, numbers)
        absent = [SYMBOLS[z] for z in numbers if z not in files]
        if absent:
            raise MissingData(
                f"{name} tells neither its settings nor its orbitals: put species/{absent[0]}.ion.xml into the folder"
            )
        species = {z: read_ion_xml(file, SYMBOLS[z]) for z, file in files.items()}
    for z, shells in calculation.basis.shells.items():
        if tuple(species[z].shells) != tuple(shells):
            raise BadInput(
                f"{name}: {SYMBOLS[z]} has shells {list(shells)} there, its species {list(species[z].shells)}; "
                "the orbitals are others now"
            )
    if calculation.overlap is not None:
        own = overlap(calculation.structure, species, calculation.overlap.layout)
        apart = float((own.values - calculation.overlap.values).abs().max())
        if not apart <= _SAME_OVERLAP:
            raise BadInput(
                f"{name}: its overlap is not that of its orbitals where its atoms are now (an element differs by {apart:.1e}): "
                "bring back the POSCAR and the orbitals that it was computed with, or compute it again"
            )
    return species


def _orbital_files(path: Path | None, numbers: list[int]) -> dict[int, Path]:
    """The `.ion.xml` of each element [atomic number] that lies in a folder or its `species/`, or beside a file."""
    if path is None:
        return {}
    home = path if path.is_dir() else path.parent
    places = {z: [home / place / f"{SYMBOLS[z]}.ion.xml" for place in ("species", ".")] for z in numbers}
    return {z: next(f for f in files if f.is_file()) for z, files in places.items() if any(f.is_file() for f in files)}


@dataclass(frozen=True, eq=False)
class MeshOrbitals:
    """Orbitals and atomic densities of a structure on a mesh."""

    structure: Structure
    species: Mapping[int, Species]
    grid: GridOrbitals

    __repr__ = one_line

    @property
    def mesh(self) -> Mesh:
        """The mesh."""
        return self.grid.mesh

    @staticmethod
    def of(calculation: Calculation, cutoff_ry: float | None = None) -> MeshOrbitals:
        """The orbitals of a calculation on the mesh of its settings, or on one of a cutoff [Ry] (mesh_shape).

        Raises NearsightError: no settings and no cutoff; and as `species_of`.
        """
        species, settings, structure = species_of(calculation), settings_of(calculation), calculation.structure
        if cutoff_ry is not None:
            shape = mesh_shape(structure.cell, cutoff_ry)
        elif calculation.mesh is not None:
            shape = calculation.mesh
        elif settings is not None:
            shape = settings.mesh.shape or mesh_shape(structure.cell, settings.mesh.cutoff_ry)
        else:
            raise MissingData("the calculation does not tell its mesh: give --mesh-cutoff RY (200 to 400 is usual)")
        layout = matrix_layout(structure, species)
        return MeshOrbitals(
            structure, species, GridOrbitals.of(structure, species, layout, Mesh(shape, structure.cell))
        )

    def density(self, density_matrix: BlockMatrix) -> Tensor:
        """The channels of a density matrix's spin on the mesh: n; n_up, n_down; or n, m_x, m_y, m_z [channels, x, y, z].

        n(r) = sum_ij,R D_ij(R) phi_i(r) phi_j(r - R) [1/Bohr^3], and so for each matrix of Spin.densities.
        """
        with torch.no_grad():
            return self.grid.density(density_matrix.on(self.grid.layout))

    def atomic_density(self, number: int, distance: Tensor) -> Tensor:
        """n_a(r) of the free neutral atom [points], 1/Bohr^3: each shell's population spread over its orbitals."""
        total = torch.zeros_like(distance)
        for orbital in self.species[number].orbitals:
            if orbital.population:
                radial = UniformSplines.through(orbital.radial.values[None], orbital.radial.spacing).to(distance)
                total += orbital.population / (4 * pi) * (radial(distance)[:, 0] * distance**orbital.l).square()
        return total
