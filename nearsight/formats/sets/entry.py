"""What a data set knows of one of its folders: all of it from the folder itself, so that it can be found out again."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearsight.core.errors import BadInput
from nearsight.formats.files import read_json, write_json

if TYPE_CHECKING:
    from nearsight.core.calculation import Calculation

PROVENANCE = "provenance.json"
NOT_CONTENT = ("result.json", PROVENANCE)  # times and places stand there: two runs of one thing differ in them
NEAR_ANG = 12.0  # where a structure without matrices is searched for its shortest distance


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A folder of a data set; what is not known is None, or empty. Energies in eV, lengths in Angstrom.

    sha256: of all files but result.json and provenance.json.  stamp: of the files' sizes and times.  files: sha256 of each.
    composition: reduced and sorted by name.  energy: total, per cell.  residual: largest element of |F - H|.
    max_h: largest element of |H|.  shortest: distance of two atoms.  reach: longest distance of a pair with elements.
    pairs: of elements that are within reach of each other, with their number in a cell.  matrices: that are there.
    parent: what it is a copy of.  prototype: kind of crystal structure, where stated.  program, version, command, source:
    that made it, and from which file.  engine, tries: of `dataset build`.  added: seconds since 1970.  settings: recorded.
    error: why nothing is known of a folder that cannot be read.
    """

    name: str
    sha256: str = ""
    stamp: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    formula: str | None = None
    composition: str | None = None
    elements: tuple[str, ...] = ()
    n_atoms: int | None = None
    n_orbitals: int | None = None
    n_electrons: float | None = None
    charge: float | None = None
    spin: str | None = None
    functional: str | None = None
    basis: str | None = None
    energy: float | None = None
    energy_per_atom: float | None = None
    fermi: float | None = None
    gap: float | None = None
    converged: bool | None = None
    residual: float | None = None
    max_h: float | None = None
    shortest: float | None = None
    reach: float | None = None
    pairs: Mapping[str, int] = field(default_factory=dict)
    matrices: tuple[str, ...] = ()
    parent: str | None = None
    prototype: str | None = None
    program: str | None = None
    version: str | None = None
    command: str | None = None
    source: str | None = None
    engine: str | None = None
    tries: int | None = None
    added: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    digest: str | None = None
    error: str | None = None

    def to_row(self) -> tuple[Any, ...]:
        """As SQLite stores it: what is no number and no text as JSON."""
        return tuple(_stored(getattr(self, name)) for name in COLUMNS)

    @staticmethod
    def of_row(row: tuple[Any, ...]) -> Entry:
        """Raises ValueError or TypeError for a row that is none."""
        known = dict(zip(COLUMNS, row, strict=True))
        for name in _AS_JSON:
            known[name] = json.loads(known[name])
        for name in ("elements", "matrices"):
            known[name] = tuple(known[name])
        if known["converged"] is not None:
            known["converged"] = bool(known["converged"])
        return Entry(**known)

    def to_json(self) -> dict[str, Any]:
        """Everything that is known."""
        table = {name: getattr(self, name) for name in COLUMNS if name not in ("stamp", "error")}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in table.items()}


COLUMNS = tuple(f.name for f in fields(Entry))
_AS_JSON = ("files", "elements", "pairs", "matrices", "settings")
_WHOLE = frozenset(("n_atoms", "n_orbitals", "tries", "converged"))
_REAL = frozenset("n_electrons charge energy energy_per_atom fermi gap residual max_h shortest reach added".split())
SQL = ", ".join(
    f"{n} {'INTEGER' if n in _WHOLE else 'REAL' if n in _REAL else 'TEXT'}{' PRIMARY KEY' if n == 'name' else ''}"
    for n in COLUMNS
)


def _stored(value: Any) -> Any:
    if isinstance(value, Mapping | tuple):
        return json.dumps(value, sort_keys=True, default=str)
    return value


def files_of(folder: Path) -> list[Path]:
    """The files of an entry, by name: those in the folder itself, or the file that it is; hidden ones are none of it."""
    if folder.is_file():
        return [folder]
    return sorted(p for p in folder.iterdir() if p.is_file() and p.name[0] != ".")


def stamp_of(folder: Path) -> str:
    """Of the names, sizes and times of the files: another one where something may have changed."""
    try:
        told = [(p.name, s.st_size, s.st_mtime_ns) for p in files_of(folder) if (s := p.stat())]
    except OSError:
        return ""
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]


def sha256_of_file(path: Path) -> str:
    """sha256 of the bytes, read in pieces. Raises BadInput for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from error


def content_of(files: Mapping[str, str]) -> str:
    """One sha256 of those files that hold structure and matrices."""
    counted = sorted((n, h) for n, h in files.items() if n not in NOT_CONTENT)
    return hashlib.sha256(json.dumps(counted).encode()).hexdigest()


def write_provenance(folder: Path, told: Mapping[str, Any]) -> None:
    """Beside the files of an entry: what cannot be told from them (see Entry)."""
    write_json(folder / PROVENANCE, {"schema_version": 1, **{k: v for k, v in told.items() if v is not None}})


def read_provenance(folder: Path) -> dict[str, Any]:
    """Empty where there is none. Raises BadInput for one that is no table."""
    path = folder / PROVENANCE
    if not path.is_file():
        return {}
    found = read_json(path)
    if not isinstance(found, dict):
        raise BadInput(f"{path} is not a table of names and values: remove it")
    return found


def describe(folder: Path, more: Mapping[str, Any] | None = None) -> Entry:
    """Everything about a folder that holds a calculation of any format, or a structure alone.

    more: what is known of its origin where its own provenance.json does not say so.
    Raises NearsightError for one that cannot be read.
    """
    from nearsight.formats import registry

    stamp = stamp_of(folder)
    found = registry.read(folder)
    files = {p.name: sha256_of_file(p) for p in files_of(folder)}
    origin = {**(more or {}), **read_provenance(folder)}
    text: dict[str, Any] = {
        k: _text(origin.get(k)) for k in ("parent", "prototype", "command", "source", "engine", "digest")
    }
    program, version = found.provenance.program, found.provenance.version
    return Entry(
        name=folder.name,
        sha256=content_of(files),
        stamp=stamp,
        files=files,
        **_of_the_structure(found),
        **_of_the_matrices(found),
        **text,
        program=_text(origin.get("program")) or program,
        version=_text(origin.get("version")) or version,
        tries=_whole(origin.get("tries")),
        added=_number(origin.get("time")) or folder.stat().st_mtime,
        settings=dict(found.settings),
    )


def _of_the_structure(c: Calculation) -> dict[str, Any]:
    from nearsight.core.units import HARTREE_EV

    counts = Counter(c.structure.symbols)
    settings = c.settings
    energy = c.energies.get("total")
    energy = None if energy is None else energy * HARTREE_EV
    atoms = len(c.structure)
    return {
        "formula": c.structure.formula,
        "composition": composition(counts),
        "elements": tuple(sorted(counts)),
        "n_atoms": atoms,
        "charge": _number(_said(settings, "electrons.charge_e", "charge")),
        "functional": _text(_said(settings, "functional.xc", "xc")),
        "basis": _text(_said(settings, "basis.size", "basis")),
        "energy": energy,
        "energy_per_atom": None if energy is None else energy / atoms,
        "fermi": None if c.fermi_level is None else c.fermi_level * HARTREE_EV,
        "converged": c.converged,
        "residual": _number(c.result.get("residual_eV")),
        "n_electrons": c.electrons if c.electrons is not None else _number(c.result.get("electrons")),
        "gap": _number(c.result.get("gap_eV")),
    }


def _of_the_matrices(c: Calculation) -> dict[str, Any]:
    import torch

    from nearsight.core.pairs import Pairs
    from nearsight.core.structure import SYMBOLS
    from nearsight.core.units import BOHR_ANG, HARTREE_EV

    matrix = next(iter(c.matrices.values()), None)
    numbers = c.structure.numbers
    pairs = Pairs.within(c.structure, NEAR_ANG / BOHR_ANG) if matrix is None else matrix.layout.pairs
    distance = pairs.vectors(c.structure).norm(dim=1) * BOHR_ANG
    apart = distance > 1e-6
    known: dict[str, Any] = {
        "spin": c.spin.name if matrix is not None else _text(_said(c.settings, "electrons.spin", "spin")),
        "matrices": tuple(c.matrices),
        "shortest": float(distance[apart].min()) if bool(apart.any()) else None,
    }
    if matrix is None:
        return known
    a, b = numbers[pairs.i][apart], numbers[pairs.j][apart]
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    kinds, counts = torch.unique(torch.stack([low, high], 1), dim=0, return_counts=True)
    named = {
        "-".join(sorted((SYMBOLS[i], SYMBOLS[j]))): int(n) // 2
        for (i, j), n in zip(kinds.tolist(), counts, strict=True)
    }
    h = c.hamiltonian
    return known | {
        "n_orbitals": matrix.basis.size,
        "reach": float(distance.max()),
        "pairs": dict(sorted(named.items())),
        "max_h": None if h is None or not h.values.numel() else float(h.values.abs().max()) * HARTREE_EV,
    }


def composition(counts: Mapping[str, int]) -> str:
    """Reduced, elements by name: C2H4 and CH2 are both CH2."""
    divisor = math.gcd(*counts.values())
    return "".join(f"{s}{n // divisor if n > divisor else ''}" for s, n in sorted(counts.items()))


def _said(settings: Mapping[str, Any], *paths: str) -> Any:
    """The first of several places in nested tables that holds something."""
    for path in paths:
        place: Any = settings
        for key in path.split("."):
            place = place.get(key) if isinstance(place, Mapping) else None
        if place is not None and not isinstance(place, Mapping):
            return place
    return None


def _text(value: Any) -> str | None:
    return value[:2000] if isinstance(value, str) and value else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53 else None


def _number(value: Any) -> float | None:
    sound = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
    return float(value) if sound else None
