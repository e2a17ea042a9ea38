"""What a ground state is made from, as one digest: a result in its place belongs to a job whose digest is the same.

It is of content: the structure, the bytes of the files behind the orbitals, and the settings that a result depends on. The way
to self-consistency, what is computed at the end and where files lie are no part of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from nearsight.atoms.library import sha256_of
from nearsight.core.errors import NearsightError
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.dft.settings import EARLIER_DEFAULTS, BasisTable, Settings
from nearsight.dft.setup import AROUND_NUCLEI, basis_files, basis_settings

_FLAT_DEFAULTS = {"basis" if key == "size" else key: value for key, value in EARLIER_DEFAULTS.items()}
PHYSICS = ("basis", "functional", "mesh", "kpoints", "electrons")  # the tables that a result depends on


class Origin:
    """Settings, for the digests of what is made with them. Each file behind the orbitals is read once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._table: dict[str, Any] = {
            key: getattr(settings, key).model_dump(mode="json", exclude_defaults=True) for key in PHYSICS
        }
        mesh = settings.mesh
        own = settings.basis.species is None and mesh.two_center != "siesta"
        refined = mesh.xc_near_nuclei or (AROUND_NUCLEI if own and mesh.xc_refinement is None else 1)
        for key, times in (("xc_near_nuclei", refined), ("xc_refinement", mesh.xc_refinement or 1)):
            self._table["mesh"].pop(key, None)
            if times > 1:  # in digests of before 1 was the default
                self._table["mesh"][key] = times
        # Files have all that the other keys would make.
        self._table["basis"] = {} if settings.basis.species is not None else _made_as(settings.basis)
        self._files: dict[int, str] = {}

    def digest(self, structure: Structure, more: Mapping[str, Any] | None = None) -> str:
        """sha256 of all that a result depends on; coordinates to 1e-9 Bohr.  more: what else, beside the settings.

        Defaults are left out, so that a setting that is new leaves the digests of before as they are.
        Raises MissingData where a file of the basis is not there.
        """
        files = {SYMBOLS[z]: self._sha256(z) for z in sorted(set(structure.numbers.tolist()))}
        return _sha256(_geometry(structure), self._table, files, {**(more or {}), **self._moments(structure)})

    def _moments(self, structure: Structure) -> dict[str, Any]:
        """Those that a calculation with spin begins with because the structure states them, else nothing."""
        electrons = self.settings.electrons
        if electrons.spin == "none" or electrons.moments_mu_b is not None or structure.moments is None:
            return {}
        return {"moments": structure.moments.tolist()}

    def _sha256(self, z: int) -> str:
        if z not in self._files:
            [path] = basis_files([z], self.settings.basis, self.settings.functional.xc).values()
            self._files[z] = sha256_of(path)
        return self._files[z]


def _made_as(basis: BasisTable) -> dict[str, Any]:
    """What orbitals are made from: the rule, and what is not its default; of rule 1, as digests of before were."""
    made = basis_settings(basis)
    names: dict[str, Any] = {
        "size": made.size,
        "energy_shift_ry": made.shift,
        "split_norm": made.split_norm,
        "rule": made.rule,
    }
    if made.size == "standard" and made.rule == 2:
        names["size"] = "dzp"
    if made.rule == 1:
        defaults: dict[str, Any] = {**EARLIER_DEFAULTS, "rule": 1}
        names["split_norm"] = made.first_split_norm(0)
    else:
        defaults = {"split_norm": None}
    return {k: v for k, v in names.items() if k not in defaults or v != defaults[k]}


def digest_of_schema_1(structure: Structure, settings: Settings, more: Mapping[str, Any] | None = None) -> str:
    """The digest of the first schema: of all settings but device and start, in the flat keys of that time."""
    return _sha256(*_geometry(structure), {**flat(settings), **(more or {})})


def former_digest(
    structure: Structure, origin: Origin, before: Origin | None, more: Mapping[str, Any] | None = None
) -> str | None:
    """The digest of the first schema for the settings of before, if they make the same result as those of now.

    before: of what a folder was last built with.
    """
    if before is None:
        return None
    try:
        same = before.digest(structure) == origin.digest(structure)
    except NearsightError:  # a file that is there no more
        return None
    return digest_of_schema_1(structure, before.settings, more) if same else None


def flat(settings: Settings) -> dict[str, Any]:
    """Settings that are not the default, in the flat keys of the first schema, but for device, start and what came later."""
    table = settings.model_dump(mode="json", exclude_defaults=True)
    found: dict[str, Any] = {}
    for key, renamed in Settings.renames.items():
        place: Any = table
        for name in renamed.path:
            place = place.get(name) if isinstance(place, Mapping) else None
        if (
            place is not None
            and key not in ("device", "start", "xc_near_nuclei")
            and (key, place) != ("xc_refinement", 1)
            and place != _FLAT_DEFAULTS.get(key)
        ):
            found[key] = next((said for said, word in renamed.words.items() if word == place), place)
    if "mixing" in found:
        earlier = {r.path[0]: key for key, r in type(settings.solver.mixing).renames.items()}
        found["mixing"] = {earlier.get(k, k): v for k, v in found["mixing"].items()}
    return found


def _geometry(structure: Structure) -> list[Any]:
    numbers = [np.round(x.double().numpy(), 9).tolist() for x in (structure.cell, structure.positions)]
    return [numbers, structure.numbers.tolist()]


def _sha256(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(list(parts), sort_keys=True, default=str).encode()).hexdigest()
