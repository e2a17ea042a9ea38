"""The orbitals behind a data set: with them a prediction has an overlap and its pairs, and target delta its H0."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nearsight.atoms.ion_xml import read_ion_xml, write_ion_xml
from nearsight.core.blocks import BlockLayout, BlockMatrix
from nearsight.core.errors import NearsightError
from nearsight.core.species import Species
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.dft.run import initial_hamiltonian, load_species, quadrature_for
from nearsight.dft.settings import ScfSettings
from nearsight.dft.two_center import matrix_layout, overlap
from nearsight.io.atomic import read_json, whole_file
from nearsight.learn.config import DataConfig, ReferenceConfig

# What of a run's settings H0 and S of any structure depend on; the rest belongs to one structure or to the way to the end.
OF_THE_OPERATOR = (
    "xc",
    "mesh_cutoff_ry",
    "basis",
    "energy_shift_ry",
    "split_norm",
    "pseudopotentials",
    "two_center",
    "sheet",
    "band_limited",
    "xc_refinement",
)


@dataclass(frozen=True, eq=False)
class OrbitalReference:
    """species: of every element of the data.  settings: xc and mesh of H0 (null where no H0 is wanted).  cache: folder."""

    species: Mapping[int, Species]
    settings: ScfSettings
    cache: Path | None = None

    def layout(self, structure: Structure) -> BlockLayout:
        """The pairs that the DFT engine would use."""
        return matrix_layout(structure, self._present(structure))

    def overlap(self, structure: Structure, layout: BlockLayout) -> BlockMatrix:
        species = self._present(structure)
        return overlap(structure, species, layout, quadrature_for(species, self.settings.two_center))

    def initial_hamiltonian(self, structure: Structure) -> BlockMatrix:
        """H0 [Ha] of superposed atomic densities; kept in `cache`, a file for each structure and setting."""
        layout = self.layout(structure)
        file = None if self.cache is None else self.cache / f"{self._key(structure)}.npy"
        if file is not None and file.exists():
            try:
                values = torch.from_numpy(np.load(file))
                if tuple(values.shape) == (1, layout.size):
                    return BlockMatrix(layout, values)
            except (OSError, ValueError, EOFError):
                file.unlink(missing_ok=True)  # half a file: computed again below
        species = self._present(structure)
        h0 = initial_hamiltonian(structure.to("cpu"), self.settings, species)[0].to("cpu").on(layout)
        if file is not None:
            with whole_file(file) as part, open(part, "wb") as handle:
                np.save(handle, h0.values.numpy())
        return h0

    def electrons(self, structure: Structure) -> float:
        return sum(self.species[z].valence for z in structure.numbers.tolist())

    def write(self, folder: Path) -> None:
        """The species as <Symbol>.ion.xml, as `read_species` takes them."""
        folder.mkdir(parents=True, exist_ok=True)
        for s in self.species.values():
            write_ion_xml(s, folder / f"{s.symbol}.ion.xml")

    def _present(self, structure: Structure) -> dict[int, Species]:
        return {z: self.species[z] for z in sorted(set(structure.numbers.tolist()))}

    def _key(self, structure: Structure) -> str:
        chosen = self.settings.model_dump(mode="json", include=set(OF_THE_OPERATOR))
        digest = hashlib.sha256(repr(sorted(chosen.items())).encode())
        for z, s in self._present(structure).items():
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
            raise NearsightError(
                f"{folder} has no {SYMBOLS[z]}.ion.xml: data.species must hold every element of the data"
            )
        result[z] = read_ion_xml(path, SYMBOLS[z])
    return result


def find_reference(
    data: DataConfig,
    reference: ReferenceConfig,
    folders: Sequence[Path],
    shells: Mapping[int, Sequence[int]],
    cache: Path | None,
) -> OrbitalReference | None:
    """The orbitals that the samples were made with, or None if nothing tells (see DataConfig.species).

    Raises NearsightError if the species found do not have the shells of the data.
    """
    made = folders[0] / "result.json"
    settings = ScfSettings()
    recorded = read_json(made).get("config") if made.exists() else None
    if isinstance(recorded, Mapping):
        keep = {k: v for k, v in recorded.items() if k in OF_THE_OPERATOR}
        settings = ScfSettings.model_validate(keep)
    given = reference.model_dump(exclude_none=True)
    settings = settings.model_copy(update=given)
    beside = [f for p in (folders[0].parent, folders[0], folders[0].resolve().parent) if (f := p / "species").is_dir()]
    numbers = sorted(shells)
    if data.species is not None:
        species = read_species(data.species, numbers)
    elif beside:
        species = read_species(beside[0], numbers)
    elif isinstance(recorded, Mapping):
        original = recorded.get("species")
        found = settings.model_copy(update={"species": Path(original)} if original else {})
        species = load_species(numbers, found)
    else:
        return None
    for z in numbers:
        if tuple(species[z].shells) != tuple(shells[z]):
            raise NearsightError(
                f"the species of {SYMBOLS[z]} has shells {list(species[z].shells)}, the data have {list(shells[z])}: "
                "give the folder of the species that the data were made with as data.species"
            )
    return OrbitalReference(species, settings, cache)
