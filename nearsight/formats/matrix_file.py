"""A matrix by blocks in HDF5: one `*.h5` file of a calculation folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.core.layout import BlockLayout
from nearsight.core.memory import check_room
from nearsight.core.pairs import Pairs
from nearsight.core.spin import COLLINEAR, NONE, SPINOR, Spin
from nearsight.formats.files import whole_file
from nearsight.formats.hdf5 import content, data_set, opened, refuse_declared

TABLES = ("atom_pairs", "chunk_shapes", "chunk_boundaries")
_FARTHEST = 10**5  # cells: no pair of atoms that see each other is farther apart
_WIDEST = 10**4  # orbitals of an atom, with both spins


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

    __repr__ = one_line

    @staticmethod
    def of(atom_pairs: NDArray[np.int64], chunk_shapes: NDArray[np.int64], entries: NDArray[Any]) -> MatrixFile:
        """With the boundaries that the shapes make."""
        boundaries = np.concatenate([[0], np.cumsum(chunk_shapes.prod(axis=1))])
        return MatrixFile(atom_pairs, chunk_shapes, boundaries, entries)

    def block(self, pair: int) -> NDArray[Any]:
        """The block of one pair [rows, columns]."""
        return self.entries[self.chunk_boundaries[pair] : self.chunk_boundaries[pair + 1]].reshape(
            self.chunk_shapes[pair]
        )

    @staticmethod
    def read(path: Path | str) -> MatrixFile:
        """Raises BadInput for a missing, truncated or foreign file, or one whose tables contradict each other."""
        path = Path(path)
        with opened(path) as file:
            sets = [data_set(path, file, name) for name in (*TABLES, "entries")]
            _check_declared(path, sets)
            pairs, shapes, boundaries = (content(s, np.dtype(np.int64)) for s in sets[:3])
            if (np.abs(shapes) > _WIDEST).any():
                raise BadInput(f"{path} has a block that is wider than the orbitals of an atom: copy it again")
            sizes = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))])
            if not np.array_equal(sizes, boundaries) or sizes[-1] != sets[3].shape[0]:
                raise BadInput(
                    f"{path}: chunk_boundaries, chunk_shapes and the {sets[3].shape[0]} entries do not fit together"
                )
            if sizes[-1] and not sets[3].get_storage_size():
                raise BadInput(f"{path}: its entries were never written; write or copy it again")
            kept = _kept_as(sets[3].dtype)
            # As many as the tables tell of, which the file does hold: they may be zeros that were packed to next to nothing.
            check_room(sets[3].shape[0] * kept.itemsize, f"{path} with its entries", "take a machine with more memory")
            entries = content(sets[3], kept)
        if (np.abs(pairs[:, :3]) > _FARTHEST).any():
            raise BadInput(f"{path} names a cell that no neighbour is in: the file is damaged, write or copy it again")
        if not np.isfinite(entries).all():
            raise BadInput(f"{path} holds entries that are not finite")
        return MatrixFile(pairs, shapes, boundaries, entries)

    def write(self, path: Path | str) -> None:
        """Written whole or not at all; double precision, no compression."""
        kind = np.complex128 if np.iscomplexobj(self.entries) else np.float64
        with whole_file(path) as part, h5py.File(part, "w") as file:
            file["atom_pairs"] = self.atom_pairs.astype(np.int64)
            file["chunk_shapes"] = self.chunk_shapes.astype(np.int64)
            file["chunk_boundaries"] = self.chunk_boundaries.astype(np.int64)
            file["entries"] = self.entries.astype(kind)

    @staticmethod
    def from_matrix(matrix: BlockMatrix, unit: float, spinful: bool) -> MatrixFile:
        """The matrix as it stands on disk, its values multiplied by `unit`; spinful: [[uu, ud], [du, dd]] in each pair."""
        layout = matrix.layout.to("cpu")
        pairs, values = layout.pairs, matrix.values.detach().cpu() * unit
        atom_pairs = torch.cat([pairs.R, pairs.i[:, None], pairs.j[:, None]], 1).numpy()
        if not spinful:
            return MatrixFile.of(atom_pairs, layout.shapes.numpy(), values[0].numpy())
        components = dict(zip(matrix.spin.blocks, values, strict=True))
        if matrix.spin is NONE:  # both spins alike
            components[1, 1] = components[0, 0]
        entries = torch.zeros(4 * layout.size, dtype=torch.complex128)
        for (s, t), component in components.items():
            entries[_spinor_index(layout, s, t)] = component.to(torch.complex128)
        return MatrixFile.of(atom_pairs, 2 * layout.shapes.numpy(), entries.numpy())

    def layout(self, basis: Basis, spinful: bool, path: Path, known: list[Placed]) -> tuple[BlockLayout, Tensor]:
        """The layout of the file's pairs and their reverses, and which of its pairs each of the file's is [file pairs].

        known: layouts of other files of the folder with their pairs, one of which is taken if it is the same, so that matrices
        add without ado, and pairs in the same order are not sorted again.
        Raises BadInput where the blocks are not those of the orbitals.
        """
        atoms = len(basis.numbers)
        if ((self.atom_pairs[:, 3:] < 0) | (self.atom_pairs[:, 3:] >= atoms)).any():
            raise BadInput(f"{path} names an atom that POSCAR, with {atoms} atoms, does not have")
        R, i, j = (torch.from_numpy(np.ascontiguousarray(a)) for a in np.split(self.atom_pairs, [3, 4], axis=1))
        i, j = i[:, 0], j[:, 0]
        shapes = torch.stack([basis.counts[i], basis.counts[j]], 1) * (2 if spinful else 1)
        if not np.array_equal(shapes.numpy(), self.chunk_shapes):
            bad = int((shapes.numpy() != self.chunk_shapes).any(1).argmax())
            told, made = self.chunk_shapes[bad].tolist(), shapes[bad].tolist()
            raise BadInput(
                f"{path}: the block of atoms {int(i[bad])}, {int(j[bad])} is {'x'.join(map(str, told))}, "
                f"the orbitals of info.json make it {'x'.join(map(str, made))}"
            )
        same = next((p for p in known if np.array_equal(p.atom_pairs, self.atom_pairs)), None)
        if same is not None:
            return same.layout, same.place
        pairs = Pairs.of(i, j, R, atoms)
        place = pairs.find(i, j, R)
        if len(torch.unique(place)) < len(place):
            raise BadInput(f"{path} names a pair of atoms twice: the file is damaged, write or copy it again")
        layout = next((p.layout for p in known if _same_pairs(p.layout.pairs, pairs)), None) or BlockLayout(
            basis, pairs
        )
        known.append(Placed(self.atom_pairs, layout, place))
        return layout, place

    def matrix(
        self,
        layout: BlockLayout,
        place: Tensor,
        spinful: bool,
        unit: float,
        dtype: torch.dtype,
        told: Spin | None = None,
    ) -> BlockMatrix:
        """The matrix on a layout, its values multiplied by `unit`.

        place: see `layout`.  dtype: real precision.  told: the spin, if it is known; else a spinful matrix without anything
        between up and down, and nothing imaginary, counts as collinear.
        """
        spin: Spin = SPINOR if spinful else NONE
        chunk = torch.full((len(layout.pairs),), -1, dtype=torch.int64)
        chunk[place] = torch.arange(len(place))
        whole = bool((chunk >= 0).all())
        entries = torch.from_numpy(self.entries)
        if not spinful and whole and torch.equal(chunk, torch.arange(len(chunk))):
            values = entries[None]  # in our own order
        else:
            starts = torch.from_numpy(self.chunk_boundaries)[:-1][chunk]  # of absent pairs: anything, masked below
            offset = (starts - (4 if spinful else 1) * layout.boundaries[:-1])[layout.pair]
            own = torch.arange(layout.size)
            index = [offset + (_spinor_index(layout, s, t) if spinful else own) for s, t in spin.blocks]
            if whole:
                values = torch.stack([entries[x] for x in index])
            else:
                present = (chunk >= 0)[layout.pair]
                values = torch.stack([entries[torch.where(present, x, 0)] for x in index]) * present
        plain = not (values[1:3] != 0).any() and not (values.is_complex() and (values.imag != 0).any())
        if spinful and plain and told is not SPINOR:
            spin, values = COLLINEAR, values[[0, 3]].real
        elif spinful and not values.is_complex():
            values = values.to(values.dtype.to_complex())
        values = values.to(dtype.to_complex() if values.is_complex() else dtype) * unit
        matrix = BlockMatrix(layout, values, spin)
        if whole:
            return matrix
        # a file with one of each pair and its reverse: H_ij(R) = H_ji(-R)^dagger makes the other
        return matrix.with_values(torch.where(present, matrix.values, matrix.dagger().values))


@dataclass(frozen=True, eq=False)
class Placed:
    """The pairs of a file, the layout that holds them, and which of its pairs each of the file's is."""

    atom_pairs: NDArray[np.int64]
    layout: BlockLayout
    place: Tensor

    __repr__ = one_line


def _kept_as(stored: np.dtype[Any]) -> np.dtype[Any]:
    """Single or double precision, real or complex, in the byte order of this machine."""
    single = stored.itemsize <= (4 if stored.kind == "f" else 8)
    return np.dtype(
        (np.float32 if single else np.float64) if stored.kind == "f" else np.complex64 if single else np.complex128
    )


def _check_declared(path: Path, sets: list[h5py.h5d.DatasetID]) -> None:
    """The shapes of the data sets, and that the file can hold the tables that they declare, before anything is read."""
    shapes = [s.shape for s in sets]
    pairs = shapes[0][0] if shapes[0] else 0
    wanted = [(pairs, 5), (pairs, 2), (pairs + 1,), shapes[3][:1]]
    kinds = [s.dtype.kind for s in sets]
    if shapes != wanted or not shapes[3] or any(k not in "iu" for k in kinds[:3]) or kinds[3] not in "fc":
        raise BadInput(f"{path}: its tables do not have the shapes of a matrix file (see docs/conventions.md)")
    for name, s in zip(TABLES, sets[:3], strict=True):
        refuse_declared(path, name, s)


def _spinor_index(layout: BlockLayout, s: int, t: int) -> Tensor:
    """Where the elements of spin block (s, t) stand among entries [layout.size]; spin is outermost within a pair."""
    rows, columns = layout.shapes[layout.pair].T
    row, column = layout.local
    return 4 * layout.boundaries[layout.pair] + (s * rows + row) * 2 * columns + t * columns + column


def _same_pairs(a: Pairs, b: Pairs) -> bool:
    return len(a) == len(b) and torch.equal(a.i, b.i) and torch.equal(a.j, b.j) and torch.equal(a.R, b.R)
