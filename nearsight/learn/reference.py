"""The orbitals behind a data set: with them a prediction has an overlap and its pairs, and target delta its H0."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput, MissingData
from nearsight.core.layout import BlockLayout
from nearsight.core.species import Species
from nearsight.core.spin import NONE, by_components
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.dft.functional import EnergyFunctional
from nearsight.dft.problem import Problem
from nearsight.dft.settings import Settings, differing
from nearsight.dft.setup import Setup, functional_for, initial_hamiltonian, load_species, quadrature_for
from nearsight.formats.files import whole_file
from nearsight.formats.ion_xml import read_ion_xml, write_ion_xml
from nearsight.formats.registry import read_settings
from nearsight.formats.seal import read_arrays, write_arrays
from nearsight.integrals.two_center import matrix_layout, overlap
from nearsight.learn.config import DataConfig, ReferenceConfig
from nearsight.learn.origin import SAME_OVERLAP


@dataclass(frozen=True, eq=False)
class OrbitalReference:
    """species: of every element of the data.  settings: whose functional and mesh are those of H0.  cache: a folder for H0."""

    species: Mapping[int, Species]
    settings: Settings
    cache: Path | None = None

    __repr__ = one_line

    def layout(self, structure: Structure) -> BlockLayout:
        """The pairs that the DFT engine would use."""
        return matrix_layout(structure, self.present(structure))

    def overlap(self, structure: Structure, layout: BlockLayout) -> BlockMatrix:
        """S on a layout, by the quadrature of the settings."""
        species = self.present(structure)
        return overlap(structure, species, layout, quadrature_for(species, self.settings.mesh.two_center))

    def initial_hamiltonian(self, structure: Structure) -> BlockMatrix:
        """H0 [Ha] of superposed atomic densities, of the least spin that its terms need.

        Kept in `cache`, a file for each structure and setting.
        """
        layout = self.layout(structure)
        file = None if self.cache is None else self.cache / f"{self._key(structure)}.npz"
        if file is not None and file.is_file():
            try:
                values = torch.from_numpy(read_arrays(file, sealed_only=True)["values"])
                if values.dtype in (torch.float64, torch.complex128):
                    return BlockMatrix(layout, values, by_components(len(values)))
            except Exception:  # whatever a damaged file makes NumPy stumble over: computed again below
                pass
        species = self.present(structure)
        h0 = initial_hamiltonian(structure.to("cpu"), self.settings, species)[0].to("cpu").on(layout)
        if file is not None:
            with whole_file(file) as part, open(part, "wb") as handle:
                write_arrays(handle, {"values": h0.values.numpy()})
        return h0

    def require_overlap(self, found: Calculation, name: object) -> None:
        """Raises BadInput for a calculation whose overlap is not that of these orbitals. name: for the message."""
        given = found.require_overlap()
        own = self.overlap(found.structure, given.layout)
        apart = float((own.values - given.values).abs().max())
        if not apart <= SAME_OVERLAP:
            raise BadInput(
                f"the orbitals found for {name} are not those of its matrices: an overlap differs by {apart:.1e}. Give the "
                "folder of those orbitals as data.species"
            )

    def functional(self, structure: Structure, device: str = "cpu") -> EnergyFunctional:
        """The energy functional of the settings, with no mesh of points but the structure's own."""
        settings = self.settings.model_copy(update={"solver": {"device": device}})
        return functional_for(structure, settings, self.present(structure))

    def problem(self, structure: Structure, device: str = "cpu") -> Problem:
        """H -> levels, D, E, F at the k-points and with the filling of the settings."""
        settings = self.settings.model_copy(update={"solver": {"device": device}})
        return Setup.of(structure, settings, self.present(structure)).problem()

    def problem_of(self, found: Calculation) -> tuple[Problem, Calculation]:
        """The problem of a calculation's structure, and the calculation with D of its Hamiltonian.

        k-points and filling are those that the calculation records.  Raises BadInput for a Hamiltonian with spin.
        """
        hamiltonian = found.require_hamiltonian()
        if hamiltonian.spin is not NONE:
            raise BadInput(
                f"{found.name} has spin {hamiltonian.spin}: the density is learnt without spin; take target total or delta"
            )
        settings = self.settings
        if found.settings:
            recorded = Settings.stored(found.settings, found.name)
            settings = settings.model_copy(update=recorded.model_dump(include={"kpoints", "electrons"}))
        problem = Setup.of(found.structure, settings, self.present(found.structure)).problem()
        electrons = problem.solver.solve(hamiltonian.on(problem.functional.layout))
        return problem, replace(found, density_matrix=electrons.density_matrix)

    def electrons(self, structure: Structure) -> float:
        """Valence electrons of the neutral structure."""
        return sum(self.species[z].valence for z in structure.numbers.tolist())

    def write(self, folder: Path) -> None:
        """The species as <Symbol>.ion.xml, as `read_species` takes them."""
        folder.mkdir(parents=True, exist_ok=True)
        for s in self.species.values():
            write_ion_xml(s, folder / f"{s.symbol}.ion.xml")

    def present(self, structure: Structure) -> dict[int, Species]:
        """The species of a structure's elements, by atomic number."""
        return {z: self.species[z] for z in sorted(set(structure.numbers.tolist()))}

    def _key(self, structure: Structure) -> str:
        chosen = self.settings.model_dump(mode="json", include={"functional", "mesh"})
        digest = hashlib.sha256(json.dumps(chosen, sort_keys=True).encode())
        for z, s in self.present(structure).items():
            digest.update(repr((z, s.shells, s.orbital_cutoff, s.valence)).encode())
            for o in s.orbitals:
                digest.update(np.ascontiguousarray(o.radial.values).tobytes())
        for x in (structure.cell, structure.positions, structure.numbers):
            digest.update(np.ascontiguousarray(x.detach().cpu().numpy()).tobytes())
        return digest.hexdigest()[:32]


def read_species(folder: Path, numbers: Sequence[int]) -> dict[int, Species]:
    """From <Symbol>.ion.xml files. Raises NearsightError for one that is missing or of another element."""
    result = {}
    for z in numbers:
        path = folder / f"{SYMBOLS[z]}.ion.xml"
        if not path.is_file():
            raise MissingData(f"{folder} has no {SYMBOLS[z]}.ion.xml: data.species must hold every element of the data")
        result[z] = read_ion_xml(path, SYMBOLS[z])
    return result


def recorded_settings(folder: Path) -> Settings | None:
    """The settings that a calculation, or a structure without labels, records. None without.

    Raises BadInput for settings of a later schema.
    """
    found = read_settings(folder)
    return Settings.stored(found, folder) if found else None


def find_species(
    data: DataConfig, folders: Sequence[Path], numbers: Sequence[int], recorded: Settings | None
) -> dict[int, Species] | None:
    """The orbitals of the data: of `data.species`, beside the samples, or as their settings generate them; else None."""
    beside = [f for p in (folders[0].parent, folders[0], folders[0].resolve().parent) if (f := p / "species").is_dir()]
    if data.species is not None:
        return read_species(data.species, numbers)
    if beside:
        return read_species(beside[0], numbers)
    return None if recorded is None else load_species(numbers, recorded)


def of_predictions(settings: Settings, levels: bool) -> dict[str, Any]:
    """Of settings what predictions of any structure need, by table. levels: k-points by their spacing and filling as well."""
    tables = (*settings.of_the_operator, *(("kpoints", "electrons") if levels else ()))
    return {name: keys for name, keys in settings.of_all_cells.items() if name in tables}


def find_reference(
    data: DataConfig,
    reference: ReferenceConfig,
    folders: Sequence[Path],
    shells: Mapping[int, Sequence[int]],
    cache: Path | None,
    levels: bool = False,
) -> OrbitalReference | None:
    """The orbitals that the samples were made with, or None if nothing tells (see DataConfig.species).

    levels: with the k-points and the filling that all samples share, for a model that needs levels of a structure.

    Raises NearsightError if the species found do not have the shells of the data.
    """
    recorded = recorded_settings(folders[0])
    settings = Settings(**({} if recorded is None else of_predictions(recorded, levels)))
    settings = settings.model_copy(update={**reference.model_dump(exclude_none=True), "species": None})
    numbers = sorted(shells)
    species = find_species(data, folders, numbers, recorded)
    if species is None:
        return None
    for z in numbers:
        if tuple(species[z].shells) != tuple(shells[z]):
            raise BadInput(
                f"the species of {SYMBOLS[z]} has shells {list(species[z].shells)}, the data have {list(shells[z])}: "
                "give the folder of the species that the data were made with as data.species"
            )
    return OrbitalReference(species, settings, cache)


def differences(
    model: OrbitalReference,
    settings: Settings,
    species: Mapping[int, Species],
    keys: Sequence[str] | None = None,
) -> list[str]:
    """What of a functional is not as a model was trained, in words; nothing if all that H depends on is the same.

    keys: settings to compare, such as functional.xc; None: all that H depends on.  Orbitals and potentials are compared by
    their values, not by the names of what made them.
    """
    found = [
        f"{key} {ours} (model) against {theirs}"
        for key, ours, theirs in differing(model.settings, settings, ("functional", "mesh"))
        if keys is None or key in keys
    ]
    for z, s in species.items():
        known = model.species.get(z)
        if known is None:
            found.append(f"{s.symbol}, which the model never saw")
        elif s.shells != known.shells or not all(
            _same_values(a.radial.values, b.radial.values) for a, b in zip(s.orbitals, known.orbitals, strict=True)
        ):
            radii = [", ".join(f"{o.radial.cutoff:.2f}" for o in x.orbitals) for x in (known, s)]
            found.append(f"the orbitals of {s.symbol}, with radii {radii[0]} Bohr (model) against {radii[1]} Bohr")
        elif s.valence != known.valence or not _same_values(
            s.neutral_atom_potential.values, known.neutral_atom_potential.values
        ):
            found.append(f"the pseudopotential of {s.symbol}")
    return found


def _same_values(a: Any, b: Any) -> bool:
    return np.shape(a) == np.shape(b) and bool(np.allclose(a, b, atol=1e-6))
