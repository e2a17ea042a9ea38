"""The engine `nearsight`: this program's own density functional theory, by the table `scf`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar

import nearsight
from nearsight.core.configuration import validated
from nearsight.core.errors import BadInput, NotConverged
from nearsight.core.species import Species
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.core.tables import merged, todays
from nearsight.dft.run import run_scf
from nearsight.dft.settings import Settings
from nearsight.dft.setup import check_charge, load_species
from nearsight.formats.files import read_json
from nearsight.formats.ion_xml import write_ion_xml
from nearsight.tasks.digest import Origin, former_digest
from nearsight.tasks.engines.contract import WORDS, Engine, denser


class Own(Engine):
    """A try that did not converge is gone on with by the next."""

    name: ClassVar[str] = "nearsight"
    version: ClassVar[str | None] = nearsight.__version__

    def prepare(self, structures: Sequence[Structure], folder: Path) -> None:
        """The orbitals and potentials, for whoever computes overlaps or H0 later: `species/<Symbol>.ion.xml`."""
        place = folder / "species"
        numbers = {z for s in structures for z in s.numbers.tolist()}
        missing = [z for z in numbers if not (place / f"{SYMBOLS[z]}.ion.xml").exists()]
        if missing:
            place.mkdir(exist_ok=True)
            for species in load_species(missing, self.scf).values():
                write_ion_xml(species, place / f"{species.symbol}.ion.xml")

    def compute(self, structure: Structure, folder: Path) -> None:
        """See Engine."""
        settings = self.scf
        if (folder / "hamiltonian.h5").exists():
            settings = settings.model_copy(update={"solver": {"start": folder}})
        run_scf(structure, settings, out=folder, species=_species(frozenset(structure.numbers.tolist()), settings))
        result = read_json(folder / "result.json")
        if not result.get("converged", False):
            raise NotConverged(f"not converged in {result.get('iterations')} steps; the last state is in {folder}")

    def is_complete(self, folder: Path) -> bool:
        """See Engine: forces and stress are in result.json only where they are asked for."""
        asked = (("forces_eV_per_Ang", self.scf.outputs.forces), ("stress_eV_per_Ang3", self.scf.outputs.stress))
        wanted = {key for key, chosen in asked if chosen}
        return not wanted or wanted <= set(read_json(folder / "result.json"))

    def rung(self, word: str) -> Mapping[str, Any]:
        """mixing: a small weight and twice the iterations; variational: direct minimisation; smearing: twice as wide; kmesh:
        half as many points again along each vector. The last two are other physics."""
        s = self.scf
        if word == "mixing":
            return {"solver": {"mixing": {"weight": 0.1}, "max_iterations": 2 * s.solver.max_iterations}}
        if word == "variational":
            return {"solver": {"method": "variational"}}
        if word == "smearing":
            return {"electrons": {"width_ev": 2 * s.electrons.width_ev}}
        if word == "kmesh":
            mesh = s.kpoints.mesh
            finer = {"spacing_per_ang": s.kpoints.spacing_per_ang / 1.5}
            return {"kpoints": finer if mesh is None else {"mesh": denser(mesh)}}
        raise BadInput(f"retry: {word!r} is not known (known: {', '.join(WORDS)}, or a table of settings)")

    def changed(self, change: Mapping[str, Any]) -> Engine:
        """See Engine: of the table `scf`."""
        try:
            table = merged(self.scf.model_dump(), todays(Settings, change))
        except ValueError as error:
            raise BadInput(f"retry: {error}") from error
        return Own(self.table, validated(Settings, table, "retry"))

    def check(self, structures: Sequence[Structure]) -> None:
        """See Engine: what else `scf` cannot compute is told by each job."""
        for s in structures:
            check_charge(s, self.scf)

    def digest(self, structure: Structure) -> str:
        """See `tasks.digest`."""
        return self.origin.digest(structure)

    def former_digest(self, structure: Structure, before: Origin | None) -> str | None:
        """See Engine."""
        return former_digest(structure, self.origin, before)

    @cached_property
    def origin(self) -> Origin:
        """Of the settings, for digests."""
        return Origin(self.scf)


@cache
def _species(numbers: frozenset[int], settings: Settings) -> dict[int, Species]:
    """Made once in each worker."""
    return load_species(sorted(numbers), settings)
