"""The layout of DeePTB and dftio: text files of the structure, blocks in HDF5 under `FRAME/i_j_R1_R2_R3`. eV and angstrom.

Orbitals stand in our order, m = -l..l, with shells grouped by l (`basis.dat`: {"Si": "2s2p1d"}).  Atoms count from 0 in files
whose first frame is 0, from 1 where it is 1.  Both programs' names of files are read, DeePTB's are written.  No spin.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from nearsight.core.calculation import Calculation, Provenance
from nearsight.core.errors import BadInput
from nearsight.core.reading import read_text
from nearsight.core.spin import NONE
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.core.units import BOHR_ANG, HARTREE_EV
from nearsight.formats.assembly import Assembly, basis_of, grouped_by_l
from nearsight.formats.files import whole_folder
from nearsight.formats.format import Format
from nearsight.formats.hdf5 import opened, read_set
from nearsight.formats.orders import LETTERS, OURS
from nearsight.formats.tables import number_in, read_info, read_table

NAMES = {
    "cell": ("cell.dat",),
    "positions": ("positions.dat", "position.dat"),
    "numbers": ("atomic_numbers.dat", "atomic_number.dat"),
    "overlap": ("overlaps.h5", "overlap.h5"),
    "hamiltonian": ("hamiltonians.h5", "hamiltonian.h5"),
    "density_matrix": ("density_matrices.h5", "density_matrix.h5", "DM.h5"),
}
MATRICES = ("overlap", "hamiltonian", "density_matrix")
OWNED = (*(n for names in NAMES.values() for n in names), "basis.dat", "pbc.dat", "info.json")
_KEY = re.compile(r"(\d{1,9})_(\d{1,9})_(-?\d{1,9})_(-?\d{1,9})_(-?\d{1,9})")
_MOST_SHELLS = 100


class DeePTB(Format):
    """A folder with one frame in DeePTB's layout."""

    name = "deeptb"
    holds = frozenset({"overlap", "hamiltonian", "density_matrix", "none"})

    def recognises(self, path: Path) -> bool:
        """Cell, positions and atomic numbers, under either program's names."""
        return all(_named(path, kind) is not None for kind in ("cell", "positions", "numbers"))

    def read_structure(self, path: Path) -> Structure:
        """The one frame of the folder (angstrom -> Bohr). Raises BadInput for several, or one that is not periodic."""
        cell, x, z = (read_table(_required(path, kind)) for kind in ("cell", "positions", "numbers"))
        if cell.shape != (3, 3) or x.ndim != 2 or x.shape[1] != 3 or z.size == 0 or len(x) != z.size:
            raise BadInput(
                f"{path}: {len(cell)} lines of cell, {len(x)} positions and {z.size} atomic numbers are not one frame: "
                "write each frame into a folder of its own"
            )
        if not ((z > 0) & (z < len(SYMBOLS)) & (z == np.round(z))).all():
            raise BadInput(f"{path} names an element that does not exist")
        if (path / "pbc.dat").exists():
            pbc = read_table(path / "pbc.dat")
            if pbc.size != 3 or not pbc.all():
                raise BadInput(f"{path}: pbc.dat must be 1 1 1: give what is not periodic a cell with vacuum")
        numbers = torch.tensor(z.ravel().astype(np.int64))
        return Structure(torch.tensor(cell / BOHR_ANG), torch.tensor(x / BOHR_ANG), numbers)

    def read(self, path: Path) -> Calculation:
        """Matrices (H: eV -> Ha), each on the pairs that any of them has.

        Raises BadInput for a folder without matrices, or without the orbitals of an element.
        """
        structure = self.read_structure(path)
        shells = _basis(path / "basis.dat")
        missing = {s for s in structure.symbols if s not in shells}
        if missing:
            raise BadInput(f"{path / 'basis.dat'} does not tell the orbitals of {', '.join(sorted(missing))}")
        basis = basis_of(structure.numbers.tolist(), [shells[s] for s in structure.symbols], str(path))
        matrices: dict[str, Any] = {}
        for field in MATRICES:
            file = _named(path, field)
            if file is None:
                continue
            keys, blocks = _blocks(file, basis.counts.numpy())
            assembly = Assembly.of_blocks(basis, OURS, keys[:, 0], keys[:, 1], keys[:, 2:], str(file))
            unit = 1 / HARTREE_EV if field == "hamiltonian" else 1.0
            matrices[field] = assembly.matrix(np.concatenate([b.ravel() for b in blocks])[None] * unit, NONE)
        if not matrices:
            raise BadInput(f"{path} has neither {NAMES['overlap'][0]} nor {NAMES['hamiltonian'][0]}")
        pairs = next(iter(matrices.values())).pairs
        for m in matrices.values():
            pairs = pairs.union(m.pairs)
        layout = type(next(iter(matrices.values())).layout)(basis, pairs)
        matrices = {name: m.on(layout) for name, m in matrices.items()}
        info = read_info(path / "info.json") if (path / "info.json").exists() else {}
        fermi = number_in(info, "fermi_energy_eV", path / "info.json")
        return Calculation(
            structure,
            **matrices,
            fermi_level=None if fermi is None else fermi / HARTREE_EV,
            electrons=number_in(info, "occupation", path / "info.json"),
            provenance=Provenance("DeePTB", None, path),
        )

    def write(self, path: Path, calculation: Calculation) -> None:
        """One frame, shells grouped by l, H in eV. Raises BadInput for spin, MissingData without an overlap."""
        if calculation.spin is not NONE:
            raise BadInput("DeePTB's layout has no spin: write deeph")
        calculation.require_overlap()
        structure = calculation.structure
        cell, x = (v.detach().cpu().double() * BOHR_ANG for v in (structure.cell, structure.positions))
        matrices = {name: grouped_by_l(m) for name, m in calculation.matrices.items()}
        far = max((float(m.pairs.vectors(structure).norm(dim=1).max()) for m in matrices.values()), default=0.0)
        info: dict[str, Any] = {
            "nframes": 1,
            "natoms": len(structure),
            "pos_type": "cart",
            "pbc": [True, True, True],
            "r_max": float(np.ceil(far * BOHR_ANG * 100 + 1) / 100),
        }
        if calculation.fermi_level is not None:
            info["fermi_energy_eV"] = calculation.fermi_level * HARTREE_EV
        if calculation.electrons is not None:
            info["occupation"] = calculation.electrons
        text = {
            "cell.dat": _lines(cell.tolist()),
            "positions.dat": _lines(x.tolist()),
            "atomic_numbers.dat": _lines([[z] for z in structure.numbers.tolist()]),
            "pbc.dat": _lines([[1, 1, 1]]),
            "info.json": json.dumps(info, indent=1) + "\n",
        }
        if matrices:
            kinds = next(iter(matrices.values())).basis.shells
            told = {SYMBOLS[z]: "".join(f"{s.count(l)}{LETTERS[l]}" for l in sorted(set(s))) for z, s in kinds.items()}
            text["basis.dat"] = json.dumps(told) + "\n"
        with whole_folder(path, owned=OWNED) as part:
            for name, content in text.items():
                (part / name).write_text(content)
            for name, matrix in matrices.items():
                values = matrix.values[0].detach().cpu() * (HARTREE_EV if name == "hamiltonian" else 1.0)
                layout = matrix.layout.to("cpu")
                R, i, j = (v.tolist() for v in (layout.pairs.R, layout.pairs.i, layout.pairs.j))
                bounds, shapes = layout.boundaries.tolist(), layout.shapes.tolist()
                with h5py.File(part / NAMES[name][0], "w") as file:
                    group = file.create_group("0")
                    for p in range(len(layout.pairs)):
                        key = "_".join(map(str, (i[p], j[p], *R[p])))
                        group[key] = values[bounds[p] : bounds[p + 1]].reshape(shapes[p]).numpy()


def _named(path: Path, kind: str) -> Path | None:
    return next((path / n for n in NAMES[kind] if (path / n).is_file()), None)


def _required(path: Path, kind: str) -> Path:
    found = _named(path, kind)
    if found is None:
        raise BadInput(f"{path} has no {NAMES[kind][0]}")
    return found


def _lines(rows: list[list[Any]]) -> str:
    return "".join(" ".join(map(repr, row)) + "\n" for row in rows)


def _basis(path: Path) -> dict[str, tuple[int, ...]]:
    """{"Si": "2s2p1d"}, as Python or JSON writes it: matched, never evaluated."""
    try:
        text = read_text(path, what="table of a basis")
    except OSError as error:
        raise BadInput(f"{path} is needed: it tells the orbitals, such as {{'Si': '2s2p1d'}}") from error
    found = {}
    for symbol, told in re.findall(r"""["']([A-Z][a-z]?)["']\s*:\s*["']((?:\d{1,2}[spdfghi])+)["']""", text):
        counts = [(LETTERS.index(l), int(n)) for n, l in re.findall(r"(\d+)([spdfghi])", told)]
        found[symbol] = tuple(l for l, n in sorted(counts) for _ in range(min(n, _MOST_SHELLS)))
    if not found:
        raise BadInput(f"{path} does not tell the orbitals of any element, such as {{'Si': '2s2p1d'}}")
    return found


def _blocks(path: Path, counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[NDArray[np.float64]]]:
    """Keys [pairs, 5] i j R1 R2 R3, atoms from 0, and their blocks."""
    keys, blocks = [], []
    with opened(path) as file:
        frames = list(file)
        if frames not in (["0"], ["1"]):
            raise BadInput(
                f"{path} holds the frames {', '.join(frames[:5]) or 'of none'}: one, named 0 or 1, can be read"
            )
        first = int(frames[0])
        for name in file[frames[0]]:
            match = _KEY.fullmatch(name)
            if match is None:
                raise BadInput(f"{path} has the key {name[:60]!r}, which is no i_j_R1_R2_R3: is it another program's?")
            i, j, *R = (int(w) for w in match.groups())
            i, j = i - first, j - first
            if not (0 <= i < len(counts) and 0 <= j < len(counts)):
                raise BadInput(f"{path} has the key {name}, whose atoms are not among the {len(counts)} (from {first})")
            shape = (int(counts[i]), int(counts[j]))
            told = getattr(file[frames[0]].get(name), "shape", None)
            if told != shape:
                raise BadInput(f"{path}: the block {name} is {told}, its orbitals make it {shape}")
            block = read_set(path, file, f"{frames[0]}/{name}")
            if np.iscomplexobj(block):
                raise BadInput(f"{path}: complex blocks (spin-orbit coupling) cannot be read from DeePTB's layout")
            keys.append([i, j, *R])
            blocks.append(block.astype(np.float64))
    if not keys:
        raise BadInput(f"{path} holds no blocks")
    return np.array(keys, dtype=np.int64), blocks
