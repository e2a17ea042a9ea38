"""The calculation folder: a structure with its matrices, in the open layout of DeepH-dock. eV and angstrom on disk.

H_ij(R) = <i, cell 0| H |j, cell R>, H(k) = sum_R exp(+2 pi i k.R) H(R), orbitals m = -l..l: the project's own
conventions, so that only units change here (docs/conventions.md has the files' contents).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation, Provenance, reordered_record
from nearsight.core.display import shown
from nearsight.core.errors import BadInput
from nearsight.core.order import grouped_order
from nearsight.core.spin import NONE, SPINS
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.core.units import BOHR_ANG, HARTREE_EV
from nearsight.core.versions import KEY, checked_version
from nearsight.formats.files import read_json, whole_folder
from nearsight.formats.format import Format
from nearsight.formats.matrix_file import MatrixFile, Placed
from nearsight.formats.poscar import read_poscar, write_poscar
from nearsight.formats.structures import PROVENANCE_FILE, with_provenance

OWNED = (
    *("POSCAR", "info.json", "result.json", "overlap.h5", "hamiltonian.h5", "hamiltonian_pred.h5"),
    *("density_matrix.h5", "position_matrix.h5", "force.h5", "provenance.json", "constrained_hamiltonian.h5"),
)
VERSION = (
    2  # 1: before there were versions; of the entries with one value an atom only forces followed the order of POSCAR
)
PREDICTED = "hamiltonian_pred.h5"  # taken where there is no hamiltonian.h5
_LARGEST_L = 16
_UNORDERED_IN_1 = ("mulliken_charges", "mulliken_moments", "config.moments")


class DeepH(Format):
    """The calculation folder of this project and of DeepH-dock; also that of a structure alone, with its settings."""

    name = "deeph"
    holds = frozenset({"overlap", "hamiltonian", "density_matrix", *SPINS})

    def recognises(self, path: Path) -> bool:
        """POSCAR beside info.json, or beside the settings.json of a structure without labels."""
        return (path / "POSCAR").is_file() and any((path / f).is_file() for f in ("info.json", "settings.json"))

    def read(self, path: Path) -> Calculation:
        """As `read_folder`, in double precision."""
        return read_folder(path)

    def read_structure(self, path: Path) -> Structure:
        """That of POSCAR."""
        return with_provenance(read_poscar(path / "POSCAR"), path)

    def read_settings(self, path: Path) -> Mapping[str, Any]:
        """The configuration in result.json, or the settings.json of a structure without labels."""
        return _settings(path, _record(path))

    def write(self, path: Path, calculation: Calculation) -> None:
        """As `write_folder`."""
        write_folder(path, calculation)


def read_folder(path: Path | str, dtype: torch.dtype = torch.float64) -> Calculation:
    """Read a calculation folder.

    dtype: real precision of the matrices; structures are always float64.  A folder may have no hamiltonian.h5
    (hamiltonian_pred.h5 is taken in its stead), no density_matrix.h5 and no result.json; one of a structure alone has
    POSCAR and settings.json.  Atoms come in the order of POSCAR: see `Calculation.in_original_order`.
    Raises BadInput for whatever is missing, unreadable, contradictory, or of a later version.
    """
    path = Path(path)
    if not path.exists():
        raise BadInput(f"no such folder: {path}")
    if not DeepH().recognises(path):
        raise BadInput(f"{path} is not a calculation folder: it needs POSCAR, info.json and the matrices (*.h5)")
    record = _record(path)
    structure = with_provenance(read_poscar(path / "POSCAR"), path)
    if not (path / "info.json").exists():
        return Calculation(structure, settings=_settings(path, record), provenance=Provenance("nearsight", path=path))
    if MARK in record:
        told, found = _tensor(path, record, MARK, (6,)), torch.tensor(_mark(structure), dtype=torch.float64)
        if told is None or told.shape != (6,) or float((told - found).abs().max()) > _SAME_ANG * len(structure):
            raise BadInput(
                f"{path / 'result.json'} is of another structure than the POSCAR beside it: copy the folder again, or remove it"
            )
        record = {key: value for key, value in record.items() if key != MARK}
    info = _table(path / "info.json")
    program = _entry(path, record, "versions", Mapping, {}).get("nearsight")
    version = checked_version(info.get(KEY), VERSION, path, program)
    order = _order(path, info, len(structure))
    if order is not None and version == 1:
        record = reordered_record(record, order, _UNORDERED_IN_1)
    forces, stress, moments = (
        _tensor(path, record, key, shape)
        for key, shape in (
            ("forces_eV_per_Ang", (len(structure), 3)),
            ("stress_eV_per_Ang3", (3, 3)),
            ("mulliken_moments", (len(structure),)),
        )
    )
    if moments is None:
        moments = _tensor(path, info, "moments_mu_B", (len(structure),), "info.json")
    matrices = _matrices(path, info, structure, dtype)
    if (path / PREDICTED).exists() and not (path / "hamiltonian.h5").exists():
        record = {**record, "prediction": True}
    return Calculation(
        structure,
        overlap=matrices["overlap"],
        hamiltonian=matrices.get("hamiltonian"),
        density_matrix=matrices.get("density_matrix"),
        constrained_hamiltonian=matrices.get("constrained_hamiltonian"),
        fermi_level=_number(path, info, "fermi_energy_eV", HARTREE_EV),
        electrons=_number(path, info, "occupation"),
        moments=moments,
        energies={
            name: _as_number(path / "result.json", f"energy_eV.{name}", e) / HARTREE_EV
            for name, e in _entry(path, record, "energy_eV", Mapping, {}).items()
        },
        forces=None if forces is None else forces * BOHR_ANG / HARTREE_EV,
        stress=None if stress is None else stress * BOHR_ANG**3 / HARTREE_EV,
        converged=_entry(path, record, "converged", bool, None),
        settings=_settings(path, record),
        provenance=Provenance("nearsight" if program else None, program, path),
        atom_order=order,
        result=record,
    )


def write_folder(
    path: Path | str, calculation: Calculation | Structure, *matrices: BlockMatrix | None, **fields: Any
) -> None:
    """Write a calculation folder, whole or not at all, in place of an older one of this kind.

    Atoms are grouped by element on disk, as the layout asks: where that changes their order, info.json says so in
    `atom_order` (the index that each written atom had), and everything with one value an atom follows it.
    `calculation.result` becomes result.json as it is, but for that order.
    A structure with its overlap, Hamiltonian and density matrix, and fields of Calculation by name, are taken too.
    Raises MissingData for a calculation without an overlap.
    """
    if isinstance(calculation, Structure):
        named = zip(("overlap", "hamiltonian", "density_matrix"), matrices, strict=False)
        fields = dict(named) | {name: value for name, value in fields.items() if value is not None}
        calculation = Calculation(calculation, **fields)
    c = calculation.reordered(grouped_order(calculation.structure.numbers))
    spinful = c.spin is not NONE
    overlap = c.require_overlap()
    info: dict[str, Any] = {
        KEY: VERSION,
        "atoms_quantity": len(c.structure),
        "orbits_quantity": overlap.basis.size,
        "orthogonal_basis": False,
        "spinful": spinful,
        "fermi_energy_eV": None if c.fermi_level is None else float(c.fermi_level) * HARTREE_EV,
        "elements_orbital_map": {SYMBOLS[z]: list(shells) for z, shells in overlap.basis.shells.items()},
    }
    if spinful:
        info["spin"] = c.spin.name
        if c.moments is not None:
            info["moments_mu_B"] = c.moments.tolist()
    if c.electrons is not None:
        info["occupation"] = float(c.electrons)
    if c.atom_order is not None:
        info["atom_order"] = list(c.atom_order)
    with whole_folder(path, owned=OWNED) as part:
        write_poscar(part / "POSCAR", c.structure)
        if c.structure.provenance:
            (part / PROVENANCE_FILE).write_text(json.dumps(dict(c.structure.provenance), indent=1) + "\n")
        for name, matrix in c.matrices.items():
            unit = HARTREE_EV if name.endswith("hamiltonian") else 1.0
            MatrixFile.from_matrix(matrix, unit, spinful and name != "overlap").write(part / f"{name}.h5")
        (part / "info.json").write_text(json.dumps(info, indent=1) + "\n")
        record = _record_of(c) | dict(c.result)
        if record:
            record[MARK] = _mark(c.structure)
            (part / "result.json").write_text(json.dumps(record, indent=1, default=str) + "\n")


def _record_of(c: Calculation) -> dict[str, Any]:
    """result.json of a calculation that comes without a record, as one of another format does."""
    record: dict[str, Any] = {}
    if c.energies:
        record["energy_eV"] = {name: e * HARTREE_EV for name, e in c.energies.items()}
    if c.forces is not None:
        record["forces_eV_per_Ang"] = (c.forces * HARTREE_EV / BOHR_ANG).tolist()
    if c.stress is not None:
        record["stress_eV_per_Ang3"] = (c.stress * HARTREE_EV / BOHR_ANG**3).tolist()
    if c.moments is not None:
        record["mulliken_moments"] = c.moments.tolist()
    if c.converged is not None:
        record["converged"] = c.converged
    if c.settings:
        record["config"] = dict(c.settings)
    return record


MARK = "structure_mark_ang"  # in result.json: which structure it is of
_SAME_ANG = 1e-5  # of each atom: POSCAR keeps more


def _mark(structure: Structure) -> list[float]:
    """Sums over cell vectors and over atoms, each with a weight of its own [6, angstrom]: the same for no other structure."""
    found = []
    for rows in (structure.cell, structure.positions):
        rows = rows.detach().cpu().double() * BOHR_ANG
        weights = torch.cos(1.0 + torch.arange(len(rows), dtype=torch.float64))
        found += (weights @ rows).tolist()
    return [round(x, 9) for x in found]


def _record(path: Path) -> dict[str, Any]:
    return _table(path / "result.json") if (path / "result.json").exists() else {}


def _settings(path: Path, record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration that result.json records, or the settings.json of a structure without labels."""
    alone = path / "settings.json"
    config = record.get("config", {}) if record or not alone.exists() else _table(alone)
    return config if isinstance(config, Mapping) else {}


def _table(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise BadInput(f"{path} is not a table of names and values: write or copy it again")
    return content


def _entry(path: Path, record: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    """An entry of result.json of a kind; the default where it is missing or null."""
    value = record.get(key)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise BadInput(f"{path / 'result.json'}: {key} cannot be {shown(value)}: write or copy the folder again")
    return value


def _number(path: Path, info: Mapping[str, Any], key: str, unit: float = 1.0) -> float | None:
    value = info.get(key)
    return None if value is None else _as_number(path / "info.json", key, value) / unit


def _as_number(file: Path, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        raise BadInput(f"{file}: {key} is {shown(value)}, not a number that can be meant")
    return float(value)


def _tensor(
    path: Path, record: Mapping[str, Any], key: str, shape: tuple[int, ...], file: str = "result.json"
) -> torch.Tensor | None:
    """An entry of the record, or of another file; moments may also be vectors."""
    if record.get(key) is None:
        return None
    try:
        found = torch.tensor(record[key], dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        found = torch.zeros(0)
    fits = tuple(found.shape) in (shape, (*shape, 3))
    if not fits or not bool((found.abs() < 1e15).all()):
        raise BadInput(f"{path / file}: {key} is not an array of {'x'.join(map(str, shape))} numbers that can be meant")
    return found


def _order(path: Path, info: Mapping[str, Any], atoms: int) -> tuple[int, ...] | None:
    order = info.get("atom_order")
    if order is None:
        return None
    if not isinstance(order, list) or sorted(n for n in order if isinstance(n, int)) != list(range(atoms)):
        raise BadInput(f"{path / 'info.json'}: atom_order is not an order of the {atoms} atoms of POSCAR")
    return tuple(order)


def _basis(path: Path, info: Mapping[str, Any], structure: Structure) -> Basis:
    shells: dict[int, tuple[int, ...]] = {}
    table = info.get("elements_orbital_map")
    for symbol, listed in table.items() if isinstance(table, dict) else ():
        sound = isinstance(listed, list) and all(type(l) is int and 0 <= l <= _LARGEST_L for l in listed)
        if symbol not in SYMBOLS or not sound:
            raise BadInput(
                f"{path / 'info.json'}: elements_orbital_map gives {symbol:.20} {shown(listed)}, which are no shells of an "
                "element (such as [0, 0, 1])"
            )
        shells[SYMBOLS.index(symbol)] = tuple(listed)
    if not shells:
        raise BadInput(f"{path / 'info.json'}: elements_orbital_map is missing or names no element")
    basis = Basis.of(structure.numbers, shells)
    atoms = info.get("atoms_quantity", len(structure))
    if atoms != len(structure):
        raise BadInput(f"{path}: info.json counts {shown(atoms)} atoms, POSCAR has {len(structure)}")
    told = info.get("orbits_quantity", basis.size)
    if told != basis.size:
        raise BadInput(f"{path}: info.json counts {shown(told)} orbitals, its elements and POSCAR make {basis.size}")
    return basis


def _matrices(
    path: Path, info: Mapping[str, Any], structure: Structure, dtype: torch.dtype
) -> dict[str, BlockMatrix | None]:
    """The matrices that are there, by field of Calculation. Raises BadInput without an overlap."""
    basis, layouts = _basis(path, info, structure), list[Placed]()
    told = SPINS.get(str(info.get("spin")))
    found: dict[str, BlockMatrix | None] = {}
    for name in ("overlap", "hamiltonian", "density_matrix", "constrained_hamiltonian"):
        unit = 1 / HARTREE_EV if name.endswith("hamiltonian") else 1.0
        place = path / f"{name}.h5"
        if name == "hamiltonian" and not place.exists():
            place = path / PREDICTED
        if place.exists() or name == "overlap":
            file = MatrixFile.read(place)
            spinful = bool(info.get("spinful", False)) and name != "overlap"
            layout, where = file.layout(basis, spinful, place, layouts)
            found[name] = file.matrix(layout, where, spinful, unit, dtype, told)
    return found
