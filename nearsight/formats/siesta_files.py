"""SIESTA's own files of matrices: HSX (before and since SIESTA 5), TSHS, DM and NetCDF, as lists of elements. Rydberg and Bohr.

Fortran's unformatted files are walked record by record first, so that nothing is believed that the file does not hold.
Raw files hold H itself; libraries that shift it give H - E_F S (sisl does so for TSHS and NetCDF).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.core.reading import LARGEST, read_bytes
from nearsight.formats.hdf5 import opened, read_set


@dataclass(frozen=True, eq=False)
class Kind:
    """A species of a run: label, atomic number where the file tells it, angular momentum of each of its shells."""

    label: str
    number: int | None
    shells: tuple[int, ...]

    __repr__ = one_line


@dataclass(frozen=True, eq=False)
class SiestaMatrices:
    """Elements M[row, column](R) as a file lists them, from 0, with whatever else it tells.

    row, column: [elements].  R: [elements, 3].  S: [elements].  H, D: [spin, elements]  [Ry; electrons].
    cell: rows [Bohr].  positions: [atoms, 3] [Bohr].  kinds, kind_of: species, and that of each atom.  fermi: [Ry].
    """

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    R: NDArray[np.int64]
    S: NDArray[np.float64] | None = None
    H: NDArray[np.float64] | None = None
    D: NDArray[np.float64] | None = None
    cell: NDArray[np.float64] | None = None
    positions: NDArray[np.float64] | None = None
    last_orbital: NDArray[np.int64] | None = None
    kinds: tuple[Kind, ...] = ()
    kind_of: NDArray[np.int64] | None = None
    fermi: float | None = None
    electrons: float | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)

    __repr__ = one_line


class Records:
    """The records of a Fortran unformatted file, one after the other. Raises BadInput where there is none to take."""

    def __init__(self, path: Path) -> None:
        self.path, self.at = path, 0
        self.content = read_bytes(path, LARGEST, "file of SIESTA's")
        self.spans: list[tuple[int, int]] = []
        at, end = 0, len(self.content)
        while at < end:
            size = int.from_bytes(self.content[at : at + 4], "little", signed=True)
            last = at + 4 + size
            if size < 0 or last + 4 > end or self.content[last : last + 4] != self.content[at : at + 4]:
                raise BadInput(
                    f"{path} is no whole Fortran file (record {len(self.spans)} at byte {at}): it was cut off, or is another "
                    "program's; copy it again"
                )
            self.spans.append((at + 4, size))
            at = last + 4

    def size(self, ahead: int = 0) -> int:
        """Bytes in the next record; -1 at the end."""
        n = self.at + ahead
        return self.spans[n][1] if n < len(self.spans) else -1

    def skip(self, count: int = 1) -> None:
        """Pass over so many records."""
        self.at += count

    def raw(self) -> bytes:
        """The next record."""
        if self.at >= len(self.spans):
            raise BadInput(f"{self.path} ends before all that it declares: it was cut off, copy it again")
        start, size = self.spans[self.at]
        self.at += 1
        return self.content[start : start + size]

    def take(self, kind: str, count: int) -> NDArray[Any]:
        """The next record as so many numbers."""
        record = self.raw()
        if count < 0 or len(record) != count * np.dtype(kind).itemsize:
            raise BadInput(f"{self.path}: record {self.at - 1} has {len(record)} bytes where {count} numbers are due")
        return np.frombuffer(record, dtype=kind)

    def mixed(self, kind: np.dtype[Any]) -> NDArray[Any]:
        """The next record as a structure of fields."""
        return self.take_any(kind, 1)[0]

    def take_any(self, kind: np.dtype[Any], count: int) -> NDArray[Any]:
        """The next record as `count` items of a NumPy type. Raises BadInput where it has another length."""
        record = self.raw()
        if len(record) != count * kind.itemsize:
            raise BadInput(
                f"{self.path}: record {self.at - 1} has {len(record)} bytes where {count * kind.itemsize} are due"
            )
        return np.frombuffer(record, dtype=kind)

    def rows(self, counts: NDArray[np.int64], kind: str) -> NDArray[Any]:
        """One record a row, with so many numbers each, put together."""
        return np.concatenate([self.take(kind, n) for n in counts.tolist()]) if len(counts) else np.zeros(0)


def read_hsx(path: Path) -> SiestaMatrices:
    """`.HSX` of any version. Before SIESTA 5 it holds no structure, and distances in place of cells: see `with_structure`."""
    data = Records(path)
    if data.size() == 4:
        return _read_hsx_5(data)
    orbitals, in_supercell, spins, elements = data.take("<i4", 4).tolist()
    _check_sizes(path, orbitals, spins, elements)
    gamma = bool(data.take("<i4", 1)[0])
    image = np.arange(in_supercell) % orbitals if gamma else data.take("<i4", in_supercell) - 1
    counts = data.take("<i4", orbitals).astype(np.int64)
    column = data.rows(counts, "<i4").astype(np.int64) - 1
    _check_columns(path, column, in_supercell)
    H = np.stack([data.rows(counts, "<f4") for _ in range(spins)]).astype(np.float64)
    S = data.rows(counts, "<f4").astype(np.float64)
    electrons = float(data.take("<f8", 2)[0])
    distances = np.zeros((len(column), 3)) if gamma else data.rows(3 * counts, "<f4").astype(np.float64).reshape(-1, 3)
    kinds = _kinds(data, int(data.take("<i4", 1)[0]), "<i4", each=True)
    data.skip(2 if data.size(1) == 8 * orbitals else 1)  # atoms
    return SiestaMatrices(
        np.repeat(np.arange(orbitals), counts),
        np.asarray(image, dtype=np.int64)[column],
        distances,  # type: ignore[arg-type]  # turned into cells by with_structure
        S,
        H,
        kinds=kinds,
        electrons=electrons,
        notes=("H and S in single precision, as HSX had them before SIESTA 5", "distances"),
    )


def _read_hsx_5(data: Records) -> SiestaMatrices:
    version = int(data.take("<i4", 1)[0])
    if version not in (1, 2):
        raise BadInput(f"{data.path} is an HSX file of version {version}: versions to 2 are known")
    double = bool(data.take("<i4", 1)[0])
    atoms, orbitals, spins, species, *nsc = data.take("<i4", 7).tolist()
    _check_sizes(data.path, orbitals, spins, 0)
    cells = int(np.prod(nsc))
    lattice = data.take("<f8", 12)
    told = data.mixed(
        np.dtype(
            [("isc", "<i4", (cells, 3)), ("xa", "<f8", (atoms, 3)), ("isa", "<i4", atoms), ("lasto", "<i4", atoms)]
        )
        if data.size() == 12 * cells + 32 * atoms
        else np.dtype("V1")
    )
    kinds = _kinds(data, species, "<i4", each=False)
    if version == 2:
        data.skip()
    counts = data.take("<i4", orbitals).astype(np.int64)
    column = data.rows(counts, "<i4").astype(np.int64) - 1
    _check_columns(data.path, column, orbitals * cells)
    kind = "<f8" if double else "<f4"
    H = np.stack([data.rows(counts, kind) for _ in range(spins)]).astype(np.float64)
    S = data.rows(counts, kind).astype(np.float64)
    return SiestaMatrices(
        np.repeat(np.arange(orbitals), counts),
        column % orbitals,
        told["isc"].astype(np.int64)[column // orbitals],
        S,
        H,
        cell=lattice[:9].reshape(3, 3),
        positions=told["xa"],
        kinds=kinds,
        kind_of=told["isa"].astype(np.int64) - 1,
        fermi=float(lattice[9]),
        electrons=float(lattice[10]),
        notes=() if double else ("H and S in single precision",),
    )


def read_tshs(path: Path) -> SiestaMatrices:
    """`.TSHS`, version 1: structure, S and H, but no angular momenta."""
    data = Records(path)
    if data.size() != 4 or int(data.take("<i4", 1)[0]) != 1:
        raise BadInput(f"{path} is no TSHS file of version 1")
    atoms, orbitals, in_supercell, spins, elements = data.take("<i4", 5).tolist()
    _check_sizes(path, orbitals, spins, elements)
    nsc = data.take("<i4", 3)
    lattice = data.take("<f8", 9 + 3 * atoms)
    gamma, _, only_overlap = data.take("<i4", 3).tolist()
    data.skip()
    fermi, electrons, _ = data.take("<f8", 3).tolist()
    data.skip()
    last = data.take("<i4", atoms + 1)[1:].astype(np.int64)
    counts = data.take("<i4", orbitals).astype(np.int64)
    column = data.rows(counts, "<i4").astype(np.int64) - 1
    _check_columns(path, column, in_supercell)
    S = data.rows(counts, "<f8")
    H = None if only_overlap else np.stack([data.rows(counts, "<f8") for _ in range(spins)])
    cells = supercells(nsc)
    if not gamma and data.size() == 12 * len(cells):
        cells = data.take("<i4", 3 * len(cells)).reshape(-1, 3).astype(np.int64)
    return SiestaMatrices(
        np.repeat(np.arange(orbitals), counts),
        column % orbitals,
        cells[column // orbitals],
        S,
        H,
        cell=lattice[:9].reshape(3, 3),
        positions=lattice[9:].reshape(-1, 3),
        last_orbital=last,
        fermi=fermi,
        electrons=electrons,
    )


def read_dm(path: Path, nsc: NDArray[Any] | None = None) -> SiestaMatrices:
    """`.DM`. nsc: supercells along each axis, for files before 4.1 that do not tell them."""
    data = Records(path)
    head = data.take("<i4", 5 if data.size() == 20 else 2).tolist()
    orbitals, spins = head[:2]
    _check_sizes(path, orbitals, spins, 0)
    cells = supercells(np.array(head[2:]) if len(head) > 2 else np.ones(3) if nsc is None else nsc)
    counts = data.take("<i4", orbitals).astype(np.int64)
    column = data.rows(counts, "<i4").astype(np.int64) - 1
    _check_columns(path, column, orbitals * len(cells))
    D = np.stack([data.rows(counts, "<f8") for _ in range(spins)])
    return SiestaMatrices(np.repeat(np.arange(orbitals), counts), column % orbitals, cells[column // orbitals], D=D)


def read_netcdf(path: Path) -> SiestaMatrices:
    """`.nc` of `CDF.Save` (NetCDF 4, which is HDF5): structure, S, H and D."""
    with opened(path) as file:

        def get(name: str) -> NDArray[Any]:
            return read_set(path, file, name)

        def table(name: str) -> NDArray[np.int64]:
            return get(name).astype(np.int64)

        counts, column, cells = table("SPARSE/n_col"), table("SPARSE/list_col") - 1, table("SPARSE/isc_off")
        orbitals = len(counts)
        if int(counts.sum()) != len(column) or (counts < 0).any():
            raise BadInput(f"{path}: n_col and list_col do not fit together: it was cut off, or is no file of SIESTA's")
        _check_columns(path, column, orbitals * len(cells))
        kinds = {}
        for label in file["BASIS"]:
            if label != "basis":
                about = file[f"BASIS/{label}"].attrs
                shells = tuple(table(f"BASIS/{label}/orbnl_l").tolist())
                number = int(np.ravel(about["Atomic_number"])[0])
                kinds[int(np.ravel(about["ID"])[0])] = Kind(label, number, shells)
        ids = sorted(kinds)
        kind_of = np.searchsorted(ids, table("BASIS/basis"))
        return SiestaMatrices(
            np.repeat(np.arange(orbitals), counts),
            column % orbitals,
            cells[column // orbitals],
            get("SPARSE/S"),
            get("SPARSE/H") if "H" in file["SPARSE"] else None,
            get("SPARSE/DM") if "DM" in file["SPARSE"] else None,
            cell=get("cell"),
            positions=get("xa"),
            last_orbital=table("lasto"),
            kinds=tuple(kinds[n] for n in ids),
            kind_of=kind_of,
            fermi=float(get("Ef").max()),
            electrons=float(get("Qtot").sum()),
        )


def supercells(nsc: NDArray[Any]) -> NDArray[np.int64]:
    """Cells of SIESTA's auxiliary supercell in its order: along each axis 0, 1, ..., then the negative ones; the first fastest.

    Raises BadInput for numbers that no supercell has.
    """
    if len(nsc) != 3 or (nsc < 1).any() or float(np.prod(nsc.astype(float))) > 1e7:
        raise BadInput(f"a supercell of {nsc.tolist()} cells is none of SIESTA's: the file is damaged")
    axes = [np.where(np.arange(n) > n // 2, np.arange(n) - n, np.arange(n)) for n in nsc.astype(int).tolist()]
    c, b, a = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    return np.stack([a.ravel(), b.ravel(), c.ravel()], 1).astype(np.int64)


def _kinds(data: Records, count: int, integers: str, each: bool) -> tuple[Kind, ...]:
    """Labels (20 characters), then n, l, zeta of each orbital. each: one record an orbital, in files before SIESTA 5."""
    head = data.take_any(np.dtype([("label", "S20"), ("valence", "<f8"), ("orbitals", integers)]), count)
    found = []
    for label, _, orbitals in head.tolist():
        if each:
            quantum = np.array([data.take(integers, 3) for _ in range(orbitals)]).reshape(-1, 3)
        else:
            quantum = data.take(integers, 3 * orbitals).reshape(-1, 3)
        found.append(Kind(label.decode("ascii", "replace").strip(), None, shells_of(quantum[:, 1].tolist(), data.path)))
    return tuple(found)


def shells_of(l_of_orbital: list[int], path: Path) -> tuple[int, ...]:
    """Shells from the angular momentum of each orbital: 2l+1 equal ones are one shell. Raises BadInput where they are not."""
    shells, n = [], 0
    while n < len(l_of_orbital):
        l = l_of_orbital[n]
        if not 0 <= l < len(l_of_orbital) or l_of_orbital[n : n + 2 * l + 1] != [l] * (2 * l + 1):
            raise BadInput(f"{path}: its orbitals are no whole shells: it is damaged, or no file of SIESTA's")
        shells.append(l)
        n += 2 * l + 1
    return tuple(shells)


def _check_sizes(path: Path, orbitals: int, spins: int, elements: int) -> None:
    if orbitals < 1 or spins not in (1, 2, 4, 8) or elements < 0:
        raise BadInput(f"{path} is no file of SIESTA's: it declares {orbitals} orbitals and {spins} spin components")


def _check_columns(path: Path, column: NDArray[np.int64], most: int) -> None:
    if len(column) and not (0 <= int(column.min()) and int(column.max()) < most):
        raise BadInput(f"{path} names an orbital beyond the {most} of its supercell: it is damaged, copy it again")
