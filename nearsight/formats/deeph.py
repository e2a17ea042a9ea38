"""The calculation folder: a structure with its matrices, in the open layout of DeepH-dock. eV and angstrom on disk.

H_ij(R) = <i, cell 0| H |j, cell R>, H(k) = sum_R exp(+2 pi i k.R) H(R), orbitals m = -l..l: the project's own
conventions, so that only units change here (docs/conventions.md has the files' contents).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix
from nearsight.core.errors import NearsightError
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.spin import COLLINEAR, NONE, SPINOR, Spin
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.core.units import BOHR_ANG, HARTREE_EV
from nearsight.formats.files import read_json, whole_file, whole_folder

OWNED = (
    *("POSCAR", "info.json", "result.json", "overlap.h5", "hamiltonian.h5", "hamiltonian_pred.h5"),
    *("density_matrix.h5", "position_matrix.h5", "force.h5"),
)


@dataclass(frozen=True, eq=False)
class MatrixFile:
    """One `*.h5` file of a calculation folder, as it stands on disk.

    atom_pairs: [pairs, 5] integers R1 R2 R3 i j, from 0.  chunk_shapes: [pairs, 2] rows and columns of each block.
    chunk_boundaries: [pairs + 1] where each block begins in entries.  entries: the row-major blocks back to back
    [eV, or 1 for the overlap and the density matrix], real, or complex where spinful.
    """

    atom_pairs: NDArray[np.int64]
    chunk_shapes: NDArray[np.int64]
    chunk_boundaries: NDArray[np.int64]
    entries: NDArray[Any]

    @staticmethod
    def of(atom_pairs: NDArray[np.int64], chunk_shapes: NDArray[np.int64], entries: NDArray[Any]) -> MatrixFile:
        boundaries = np.concatenate([[0], np.cumsum(chunk_shapes.prod(axis=1))])
        return MatrixFile(atom_pairs, chunk_shapes, boundaries, entries)

    def block(self, pair: int) -> NDArray[Any]:
        """The block of one pair [rows, columns]."""
        return self.entries[self.chunk_boundaries[pair] : self.chunk_boundaries[pair + 1]].reshape(
            self.chunk_shapes[pair]
        )

    @staticmethod
    def read(path: Path | str) -> MatrixFile:
        """Raises NearsightError for a missing, truncated or foreign file, or one whose tables contradict each other."""
        path = Path(path)
        if not path.is_file():
            raise NearsightError(f"no such file: {path}")
        try:
            with h5py.File(path, "r") as file:
                names = ("atom_pairs", "chunk_shapes", "chunk_boundaries", "entries")
                missing = [n for n in names if n not in file]
                if missing:
                    raise NearsightError(f"{path} is not a matrix file of a calculation folder: it has no {missing[0]}")
                pairs, shapes, boundaries = (np.asarray(file[n][()], dtype=np.int64) for n in names[:3])
                entries = np.asarray(file["entries"][()])
        except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
            raise NearsightError(f"{path} is not a whole HDF5 matrix file: {_first_line(error)}") from error
        sound = (
            (pairs.ndim, shapes.ndim, boundaries.ndim, entries.ndim) == (2, 2, 1, 1)
            and pairs.shape[1] == 5
            and shapes.shape == (len(pairs), 2)
            and len(boundaries) == len(pairs) + 1
            and entries.dtype.kind in "fc"
        )
        if not sound:
            raise NearsightError(
                f"{path}: its tables do not have the shapes of a matrix file (see docs/conventions.md)"
            )
        sizes = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))])
        if not np.array_equal(sizes, boundaries) or sizes[-1] != len(entries):
            raise NearsightError(
                f"{path}: chunk_boundaries, chunk_shapes and the {len(entries)} entries do not fit together"
            )
        if not np.isfinite(entries).all():
            raise NearsightError(f"{path} holds entries that are not finite")
        return MatrixFile(pairs, shapes, boundaries, entries)

    def write(self, path: Path | str) -> None:
        """Written whole or not at all; double precision, no compression."""
        kind = np.complex128 if np.iscomplexobj(self.entries) else np.float64
        with whole_file(path) as part, h5py.File(part, "w") as file:
            file["atom_pairs"] = self.atom_pairs.astype(np.int64)
            file["chunk_shapes"] = self.chunk_shapes.astype(np.int64)
            file["chunk_boundaries"] = self.chunk_boundaries.astype(np.int64)
            file["entries"] = self.entries.astype(kind)


@dataclass(frozen=True, eq=False)
class Calculation:
    """A structure with its matrices, in Hartree and Bohr, however they were come by.

    overlap: spin none.  hamiltonian [Ha], density_matrix: None where the folder has none.  Fermi level [Ha] or None.
    info: `info.json` as it stands; result: `result.json`, or empty for another program's folder.
    """

    structure: Structure
    basis: Basis
    overlap: BlockMatrix
    hamiltonian: BlockMatrix | None
    density_matrix: BlockMatrix | None = None
    fermi_level: float | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)

    def require_hamiltonian(self) -> BlockMatrix:
        """H [Ha]. Raises NearsightError where the folder has none."""
        if self.hamiltonian is None:
            raise NearsightError(
                "this calculation has no hamiltonian.h5: compute it (scf) or predict it (predict) first"
            )
        return self.hamiltonian

    @property
    def electrons(self) -> float | None:
        """Number of electrons, where the folder tells it."""
        count = self.info.get("occupation")
        return None if count is None else float(count)


def is_folder(path: Path | str) -> bool:
    """Whether a path looks like a calculation folder."""
    return (Path(path) / "info.json").is_file() and (Path(path) / "POSCAR").is_file()


def list_folders(path: Path | str) -> list[Path]:
    """The calculation folders in a folder, sorted by name; the folder itself if it is one.

    Raises NearsightError if there is no such folder, or none in it.
    """
    path = Path(path)
    if not path.exists():
        raise NearsightError(f"no such folder: {path}")
    found = [path] if is_folder(path) else sorted(p for p in path.iterdir() if p.name[0] != "." and is_folder(p))
    if not found:
        raise NearsightError(f"{path} holds no calculation folders (each with POSCAR, info.json and *.h5)")
    return found


def read_folder(path: Path | str, dtype: torch.dtype = torch.float64) -> Calculation:
    """Read a calculation folder.

    dtype: real precision of the matrices; structures are always float64.  A folder may have no hamiltonian.h5
    (hamiltonian_pred.h5 is taken in its stead), no density_matrix.h5 and no result.json.
    Raises NearsightError for whatever is missing, unreadable or contradictory.
    """
    path = Path(path)
    if not path.exists():
        raise NearsightError(f"no such folder: {path}")
    if not is_folder(path):
        raise NearsightError(f"{path} is not a calculation folder: it needs POSCAR, info.json and the matrices (*.h5)")
    info = read_json(path / "info.json")
    structure = read_poscar(path / "POSCAR")
    basis = _basis(path, info, structure)
    name = "hamiltonian.h5" if (path / "hamiltonian.h5").exists() else "hamiltonian_pred.h5"
    spinful = bool(info.get("spinful", False))
    layouts: list[BlockLayout] = []  # most often one for all files, which then add without ado
    overlap = _matrix(path / "overlap.h5", basis, layouts, False, 1.0, dtype)
    hamiltonian, density = (
        _matrix(path / file, basis, layouts, spinful, unit, dtype) if (path / file).exists() else None
        for file, unit in ((name, 1 / HARTREE_EV), ("density_matrix.h5", 1.0))
    )
    fermi = info.get("fermi_energy_eV")
    result = read_json(path / "result.json") if (path / "result.json").exists() else {}
    return Calculation(
        structure,
        basis,
        overlap,
        hamiltonian,
        density,
        None if fermi is None else float(fermi) / HARTREE_EV,
        info,
        result,
    )


def write_folder(
    path: Path | str,
    structure: Structure,
    overlap: BlockMatrix,
    hamiltonian: BlockMatrix | None = None,
    density_matrix: BlockMatrix | None = None,
    *,
    fermi_level: float | None = None,
    electrons: float | None = None,
    result: Mapping[str, Any] | None = None,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Write a calculation folder, whole or not at all, in place of an older one of this kind.

    hamiltonian, fermi_level [Ha].  result: content of result.json, already in eV and angstrom.  extra: further text
    files by name (a name may have a folder in it).  Atoms are grouped by element on disk, as the layout asks: where
    that changes their order, info.json says so in `atom_order` (the index that each written atom had), and
    `forces_eV_per_Ang` in `result` is put in the same order.
    """
    order = grouped_order(structure.numbers)
    rank = torch.argsort(order)
    spinful = any(m is not None and m.spin is not NONE for m in (hamiltonian, density_matrix))
    info: dict[str, Any] = {
        "atoms_quantity": len(structure),
        "orbits_quantity": overlap.basis.size,
        "orthogonal_basis": False,
        "spinful": spinful,
        "fermi_energy_eV": None if fermi_level is None else float(fermi_level) * HARTREE_EV,
        "elements_orbital_map": {SYMBOLS[z]: list(shells) for z, shells in overlap.basis.shells.items()},
    }
    if electrons is not None:
        info["occupation"] = float(electrons)
    result = None if result is None else dict(result)
    if not torch.equal(order, torch.arange(len(order))):
        info["atom_order"] = order.tolist()
        if result and result.get("forces_eV_per_Ang") is not None:
            result["forces_eV_per_Ang"] = [result["forces_eV_per_Ang"][i] for i in order.tolist()]
    with whole_folder(path, owned=OWNED) as part:
        write_poscar(part / "POSCAR", structure)
        for name, matrix, unit in (
            ("overlap.h5", overlap, 1.0),
            ("hamiltonian.h5", hamiltonian, HARTREE_EV),
            ("density_matrix.h5", density_matrix, 1.0),
        ):
            if matrix is not None:
                to_matrix_file(matrix, rank, unit, spinful and name != "overlap.h5").write(part / name)
        for name, text in (extra or {}).items():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            (part / name).write_text(text)
        (part / "info.json").write_text(json.dumps(info, indent=1) + "\n")
        if result is not None:
            (part / "result.json").write_text(json.dumps(result, indent=1, default=str) + "\n")


def grouped_order(numbers: Tensor) -> Tensor:
    """Indices that bring atoms of one element together, elements in the order of their first atom [atoms]."""
    first: dict[int, int] = {}
    for index, z in enumerate(numbers.tolist()):
        first.setdefault(z, index)
    keys = torch.tensor([first[z] for z in numbers.tolist()], dtype=torch.int64)
    return torch.argsort(keys, stable=True)


def to_matrix_file(matrix: BlockMatrix, rank: Tensor, unit: float, spinful: bool) -> MatrixFile:
    """The matrix as it stands on disk: atom i is written as atom rank[i], values are multiplied by `unit`."""
    layout = matrix.layout.to("cpu")
    pairs, values = layout.pairs, matrix.values.detach().cpu() * unit
    atom_pairs = torch.cat([pairs.R, rank[pairs.i][:, None], rank[pairs.j][:, None]], 1).numpy()
    if not spinful:
        return MatrixFile.of(atom_pairs, layout.shapes.numpy(), values[0].numpy())
    components = dict(zip(matrix.spin.blocks, values, strict=True))
    if matrix.spin is NONE:  # both spins alike
        components[1, 1] = components[0, 0]
    entries = torch.zeros(4 * layout.size, dtype=torch.complex128)
    for (s, t), component in components.items():
        entries[_spinor_index(layout, s, t)] = component.to(torch.complex128)
    return MatrixFile.of(atom_pairs, 2 * layout.shapes.numpy(), entries.numpy())


def _spinor_index(layout: BlockLayout, s: int, t: int) -> Tensor:
    """Where the elements of spin block (s, t) stand among entries [layout.size]; spin is outermost within a pair."""
    rows, columns = layout.shapes[layout.pair].T
    row, column = layout.local
    return 4 * layout.boundaries[layout.pair] + (s * rows + row) * 2 * columns + t * columns + column


def _basis(path: Path, info: Mapping[str, Any], structure: Structure) -> Basis:
    try:
        shells = {SYMBOLS.index(symbol): tuple(l) for symbol, l in info["elements_orbital_map"].items()}
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise NearsightError(
            f"{path / 'info.json'}: elements_orbital_map is missing or names no element: {error}"
        ) from error
    basis = Basis.of(structure.numbers, shells)
    told = info.get("orbits_quantity", basis.size)
    if told != basis.size:
        raise NearsightError(f"{path}: info.json counts {told} orbitals, its elements and POSCAR make {basis.size}")
    return basis


def _matrix(
    path: Path, basis: Basis, layouts: list[BlockLayout], spinful: bool, unit: float, dtype: torch.dtype
) -> BlockMatrix:
    file = MatrixFile.read(path)
    atoms = len(basis.numbers)
    R, i, j = (torch.from_numpy(np.ascontiguousarray(a)) for a in np.split(file.atom_pairs, [3, 4], axis=1))
    i, j = i[:, 0], j[:, 0]
    if ((file.atom_pairs[:, 3:] < 0) | (file.atom_pairs[:, 3:] >= atoms)).any():
        raise NearsightError(f"{path} names an atom that POSCAR, with {atoms} atoms, does not have")
    shapes = torch.stack([basis.counts[i], basis.counts[j]], 1) * (2 if spinful else 1)
    if not np.array_equal(shapes.numpy(), file.chunk_shapes):
        bad = int((shapes.numpy() != file.chunk_shapes).any(1).argmax())
        raise NearsightError(
            f"{path}: the block of atoms {int(i[bad])}, {int(j[bad])} is {'x'.join(map(str, file.chunk_shapes[bad]))}, "
            f"the orbitals of info.json make it {'x'.join(map(str, shapes[bad].tolist()))}"
        )
    pairs = Pairs.of(i, j, R, atoms)
    layout = next((known for known in layouts if _same_pairs(known.pairs, pairs)), None)
    if layout is None:
        layouts.append(layout := BlockLayout(basis, pairs))
    return _from_file(file, layout, pairs.find(i, j, R), spinful, unit, dtype)


def _same_pairs(a: Pairs, b: Pairs) -> bool:
    return len(a) == len(b) and torch.equal(a.i, b.i) and torch.equal(a.j, b.j) and torch.equal(a.R, b.R)


def _from_file(
    file: MatrixFile, layout: BlockLayout, place: Tensor, spinful: bool, unit: float, dtype: torch.dtype
) -> BlockMatrix:
    """place: which pair of the layout each pair of the file is [file pairs]."""
    chunk = torch.full((len(layout.pairs),), -1, dtype=torch.int64)
    chunk[place] = torch.arange(len(place))
    starts = torch.from_numpy(file.chunk_boundaries)[:-1][chunk]  # of absent pairs: anything, masked below
    present = (chunk >= 0)[layout.pair]
    entries = torch.from_numpy(file.entries)
    offset = starts[layout.pair] - (4 if spinful else 1) * layout.boundaries[layout.pair]
    spin: Spin = SPINOR if spinful else NONE
    own = torch.arange(layout.size)
    index = [offset + (_spinor_index(layout, s, t) if spinful else own) for s, t in spin.blocks]
    values = torch.stack([entries[torch.where(present, x, 0)] for x in index]) * present
    if spinful and not (values[1:3] != 0).any() and not (values.is_complex() and (values.imag != 0).any()):
        spin, values = COLLINEAR, values[[0, 3]].real
    values = values.to(dtype.to_complex() if values.is_complex() else dtype) * unit
    matrix = BlockMatrix(layout, values, spin)
    if bool((chunk >= 0).all()):
        return matrix
    # a file with one of each pair and its reverse: H_ij(R) = H_ji(-R)^dagger makes the other
    return matrix.with_values(torch.where(present, matrix.values, matrix.dagger().values))


def read_poscar(path: Path | str) -> Structure:
    """A VASP 5 POSCAR: Cartesian or direct, with a scaling factor (negative: the volume) and selective dynamics.

    Raises NearsightError for a missing file or one that is none.
    """
    try:
        lines = Path(path).read_text().splitlines()
    except FileNotFoundError as error:
        raise NearsightError(f"no such file: {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise NearsightError(f"{path} cannot be read: {_first_line(error)}") from error
    try:
        scale = float(lines[1].split()[0])
        cell = np.array([[float(x) for x in line.split()[:3]] for line in lines[2:5]])
        symbols, counts = lines[5].split(), [int(x) for x in lines[6].split()]
        numbers = [SYMBOLS.index(s) for s, n in zip(symbols, counts, strict=True) for _ in range(n)]
        mode = 8 if lines[7].strip()[:1] in "sS" else 7
        rows = lines[mode + 1 : mode + 1 + len(numbers)]
        positions = np.array([[float(x) for x in line.split()[:3]] for line in rows])
        if positions.shape != (len(numbers), 3) or cell.shape != (3, 3):
            raise ValueError(f"{len(numbers)} atoms are announced, {len(positions)} are there")
    except (IndexError, ValueError) as error:
        raise NearsightError(f"{path} is not a VASP 5 POSCAR: {_first_line(error)}") from error
    if scale < 0:
        scale = float((-scale / abs(np.linalg.det(cell))) ** (1 / 3))
    cartesian = lines[mode].strip()[:1] in ("c", "C", "k", "K")
    cell = cell * scale
    positions = positions * scale if cartesian else positions @ cell
    return Structure(
        torch.from_numpy(cell / BOHR_ANG),
        torch.from_numpy(positions / BOHR_ANG),
        torch.tensor(numbers, dtype=torch.int64),
    )


def write_poscar(path: Path | str, structure: Structure) -> None:
    """Cartesian, to the last bit of the coordinates in angstrom, atoms grouped by element (see `grouped_order`)."""
    order = grouped_order(structure.numbers)
    symbols = [SYMBOLS[z] for z in structure.numbers[order].tolist()]
    elements = list(dict.fromkeys(symbols))
    cell, positions = (
        x.detach().cpu().double() * BOHR_ANG
        for x in (structure.cell, structure.positions[order.to(structure.cell.device)])
    )
    rows = ["  ".join(f"{x!r:>22}" for x in row) for row in cell.tolist()]
    atoms = ["  ".join(f"{x!r:>22}" for x in row) for row in positions.tolist()]
    counts = " ".join(str(symbols.count(e)) for e in elements)
    text = [
        "".join(f"{e}{symbols.count(e)}" for e in elements),
        "1.0",
        *rows,
        " ".join(elements),
        counts,
        "Cartesian",
        *atoms,
    ]
    with whole_file(path) as part:
        part.write_text("\n".join(text) + "\n")


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
