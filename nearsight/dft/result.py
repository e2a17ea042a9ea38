"""What a run says of a ground state, in the units of files: the content of result.json."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor

from nearsight.core.calculation import PER_ATOM, Provenance
from nearsight.core.display import shown
from nearsight.core.errors import BadInput, MissingData
from nearsight.core.spin import NONE
from nearsight.core.units import BOHR_ANG, HARTREE_EV
from nearsight.core.versions import KEY, checked_version
from nearsight.dft.forces import forces_and_stress
from nearsight.dft.ground_state import GroundState
from nearsight.dft.settings import Settings
from nearsight.formats.files import read_json
from nearsight.formats.registry import write

_LARGEST = 1e9  # of any number there
VERSION = 2  # of the schema of result.json; 1: `config` has flat keys


@dataclass(frozen=True, kw_only=True)
class Result:
    """A ground state in eV and Angstrom, by the names of result.json; None where a run has no such thing.

    energy_eV: by term, with total E, free E - T S, harris and zero_smearing.  residual_eV: largest element of |F - H|.
    mesh, kmesh: of the run.  kmesh_choice: what the latter is from.  k_points: solved.
    history: each iteration.  mulliken_charges [e] and, with spin, moments [mu_B] of the atoms, numbers of collinear spin and
    vectors of spinors, as their sum magnetic_moment is.  magnetic_forces_eV_per_mu_B: where moments are held, the fields that
    hold them, -dOmega/dM [atoms, 3]; constraint: what is held, and how far it is off.  config: the settings, resolved.
    species: where each came from.
    start: what it began with.
    """

    energy_eV: Mapping[str, float]
    fermi_energy_eV: float
    converged: bool
    iterations: int
    residual_eV: float
    mesh: tuple[int, ...]
    kmesh: tuple[int, ...]
    k_points: int
    electrons: float
    orbitals: int
    mulliken_charges: tuple[float, ...]
    magnetic_moment: float | tuple[float, ...] | None = None
    mulliken_moments: tuple[float, ...] | tuple[tuple[float, ...], ...] | None = None
    magnetic_forces_eV_per_mu_B: tuple[tuple[float, ...], ...] | None = None
    constraint: Mapping[str, Any] | None = None
    forces_eV_per_Ang: tuple[tuple[float, ...], ...] | None = None
    stress_eV_per_Ang3: tuple[tuple[float, ...], ...] | None = None
    kmesh_choice: str | None = None
    space_group: str | None = None
    symmetry_operations: int | None = None
    history: tuple[Mapping[str, float], ...] = field(default=(), repr=False)
    wall_seconds: float = 0.0
    start: Mapping[str, Any] | None = None
    config: Settings = field(default_factory=Settings, repr=False)
    species: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    versions: Mapping[str, str] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(
        state: GroundState,
        settings: Settings,
        wall_seconds: float,
        start: Mapping[str, Any] | None,
        kmesh_choice: str | None = None,
    ) -> Result:
        """Forces and stress are computed here, where `settings.outputs` asks for them and the run converged."""
        functional, outputs = state.functional, settings.outputs
        forces, stress = None, None
        if (outputs.forces or outputs.stress) and state.converged:
            found = forces_and_stress(state)
            forces = found.forces * HARTREE_EV / BOHR_ANG if outputs.forces else None
            stress = found.stress * HARTREE_EV / BOHR_ANG**3 if outputs.stress else None
        populations, spin = state.populations, state.density_matrix.spin
        moments = state.moments if spin.turns else state.moments[:, 2]
        valences = [functional.species[z].valence for z in functional.structure.numbers.tolist()]
        charges = (v - p for v, p in zip(valences, spin.channel_charge(populations).tolist(), strict=True))
        group = None if state.kpoints.symmetry is None else state.kpoints.symmetry.group
        return Result(
            energy_eV={
                **{name: e * HARTREE_EV for name, e in state.energies.items()},
                "total": state.total * HARTREE_EV,
                "free": state.free * HARTREE_EV,
                "harris": state.harris * HARTREE_EV,
                "zero_smearing": state.extrapolated * HARTREE_EV,
            },
            fermi_energy_eV=state.fermi_level * HARTREE_EV,
            converged=state.converged,
            iterations=len(state.steps),
            residual_eV=state.steps[-1].residual * HARTREE_EV,
            mesh=tuple(functional.mesh.shape),
            kmesh=settings.kpoints.mesh or (),
            kmesh_choice=kmesh_choice,
            k_points=len(state.kpoints),
            electrons=functional.electrons,
            orbitals=functional.layout.basis.size,
            mulliken_charges=tuple(charges),
            magnetic_moment=None if spin is NONE else _tuples(moments.sum(0)),
            mulliken_moments=None if spin is NONE else _tuples(moments),
            magnetic_forces_eV_per_mu_B=None if state.fields is None else _tuples(state.fields * HARTREE_EV),
            constraint=_held(state),
            forces_eV_per_Ang=None if forces is None else tuple(map(tuple, forces.tolist())),
            stress_eV_per_Ang3=None if stress is None else tuple(map(tuple, stress.tolist())),
            space_group=None if group is None else group.symbol,
            symmetry_operations=None if group is None else len(group),
            history=tuple(
                {
                    "iteration": s.iteration,
                    "total_eV": s.total * HARTREE_EV,
                    "free_eV": s.free * HARTREE_EV,
                    "residual_eV": s.residual * HARTREE_EV,
                }
                for s in state.steps
            ),
            wall_seconds=wall_seconds,
            start=start,
            config=settings,
            species={s.symbol: {**s.provenance, "valence": s.valence} for s in functional.species.values()},
            versions=program_versions(),
        )

    def to_json(self) -> dict[str, Any]:
        """The content of result.json, with its schema version; what is None is left out."""
        table = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            KEY: VERSION,
            **{k: v for k, v in table.items() if v is not None},
            "config": self.config.model_dump(mode="json"),
            "per_atom": list(PER_ATOM),
        }

    @staticmethod
    def read(folder: Path) -> Result:
        """From the result.json of a calculation folder, of this or an earlier schema; keys that are not known are left out.

        Raises MissingData where it is not a ground state's, BadInput for one of a later schema, and for an entry that is
        not what it should be.
        """
        path = folder / "result.json"
        table = read_json(path)
        if not isinstance(table, dict) or "energy_eV" not in table:
            raise MissingData(f"{path} is not the result of a ground state: `nearsight scf` writes one")
        versions = table.get("versions")
        by = versions.get("nearsight") if isinstance(versions, Mapping) else None
        checked_version(table.get(KEY), VERSION, folder, by)
        names = {f.name for f in fields(Result)}
        known = {k: v for k, v in table.items() if k in names}
        _check(known, path)
        try:
            return Result(**{**known, "config": Settings.stored(table.get("config") or {}, path)})
        except TypeError as error:
            raise BadInput(f"{path} is damaged or foreign: {error}") from error


def _held(state: GroundState) -> dict[str, Any] | None:
    if state.constraint is None:
        return None
    size, angle = state.constraint.deviation(state.moments)
    return {"hold": state.constraint.hold, "off_mu_B": size, "off_degrees": angle}


def _tuples(x: Tensor) -> Any:
    """A number, or numbers within tuples."""
    return tuple(map(_tuples, x)) if x.ndim else float(x)


def _check(table: Mapping[str, Any], path: Path) -> None:
    """Every entry is of its kind, and every number one that can be."""
    from pydantic import TypeAdapter, ValidationError

    kinds = get_type_hints(Result)
    for name in table.keys() - {"config"}:
        try:
            TypeAdapter(kinds[name]).validate_json(json.dumps(table[name]), strict=True)
            sound = _bounded(table[name])
        except (ValidationError, ValueError):
            sound = False
        if not sound:
            raise BadInput(f"{path}: {name} cannot be {shown(table[name])}: the file is damaged, copy it again")


def _bounded(value: Any) -> bool:
    if isinstance(value, Mapping | list | tuple):
        return all(_bounded(x) for x in (value.values() if isinstance(value, Mapping) else value))
    return not isinstance(value, int | float) or abs(value) < _LARGEST


def program_versions() -> dict[str, str]:
    """Versions of this program and of what its numbers depend on."""
    import h5py
    import numpy
    import scipy

    from nearsight import __version__

    return {
        "nearsight": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "h5py": h5py.__version__,
    }


def write_result(out: Path, state: GroundState, result: Result) -> None:
    """The calculation folder of a ground state, with its result beside the matrices, whole or not at all."""
    record = result.to_json()
    made = Provenance("nearsight", result.versions["nearsight"])
    write(out, replace(state.as_calculation(), settings=record["config"], provenance=made, result=record))
