"""OpenMX's `.scfout`, versions 3.8 and 3.9: H, S and D with any spin. Little endian, without record markers; Hartree and Bohr.

docs/conventions.md has the layout.  Its geometry is in Bohr, so nothing of OpenMX's own constants (27.2113845 eV,
0.529177249 angstrom) is left in what is read: a program with CODATA's sees the same Bohr geometry and the same Hartree.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation, Provenance
from nearsight.core.errors import BadInput
from nearsight.core.reading import LARGEST, read_bytes
from nearsight.core.spin import COLLINEAR, NONE, SPINOR, Spin
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.formats.assembly import Assembly, basis_of
from nearsight.formats.files import one_inside
from nearsight.formats.format import Format
from nearsight.formats.levels import KEY, levels_beside
from nearsight.formats.orders import LETTERS, OPENMX

_LINE = 256
_SPINS: dict[int, Spin] = {0: NONE, 1: COLLINEAR, 3: SPINOR}
_VERSIONS = {0: "3.8", 3: "3.9"}
_CLUSTER = 2


class OpenMX(Format):
    """A `.scfout` file, or a folder that holds one."""

    name = "openmx"
    holds = frozenset({"overlap", "hamiltonian", "density_matrix", "none", "collinear", "spinor"})

    def recognises(self, path: Path) -> bool:
        """A file with the ending, or a folder with one such."""
        return (path.suffix == ".scfout" and path.is_file()) or one_inside(path, "*.scfout") is not None

    def read(self, path: Path) -> Calculation:
        """As `read_scfout`."""
        return read_scfout(one_inside(path, "*.scfout") or path)


@dataclass
class _Bytes:
    """What is left of a file: nothing is allocated that the file does not hold."""

    path: Path
    content: memoryview
    at: int = 0

    def take(self, kind: str, *shape: int) -> NDArray[Any]:
        count, size = int(np.prod(shape, dtype=object)), np.dtype(kind).itemsize
        if min(shape, default=0) < 0 or self.at + count * size > len(self.content):
            raise BadInput(
                f"{self.path} ends after {len(self.content)} bytes but declares more: it is no .scfout of OpenMX 3.8 or "
                "3.9, or was cut off; copy it again"
            )
        found = np.frombuffer(self.content, dtype=kind, count=count, offset=self.at).reshape(shape)
        self.at += count * size
        return found

    def ints(self, *shape: int) -> NDArray[np.int32]:
        return self.take("<i4", *shape)

    def floats(self, *shape: int) -> NDArray[np.float64]:
        return self.take("<f8", *shape)


def read_scfout(path: Path) -> Calculation:
    """The calculation in a `.scfout` file. Raises BadInput for another version or kind of file, or one that is cut off."""
    data = _Bytes(path, memoryview(read_bytes(path, LARGEST, "scfout file")))
    atoms, code, *electrodes, cells = data.ints(6).tolist()
    spin, version = _SPINS.get(code % 4), code // 4
    if spin is None or atoms < 1 or cells < 0 or any(n < 0 for n in electrodes):
        raise BadInput(f"{path} is no .scfout of OpenMX: its first numbers are {atoms}, {code}, {electrodes}")
    if version not in _VERSIONS:
        raise BadInput(f"{path} is of a version of .scfout ({version}) that is not known: OpenMX 3.8 and 3.9 are")
    if version:
        data.ints(1)
    data.floats(cells + 1, 4)
    R = data.ints(cells + 1, 4)[:, 1:]
    orbitals, neighbours = data.ints(atoms), data.ints(atoms)
    if (orbitals < 1).any() or (neighbours < 0).any():
        raise BadInput(f"{path} has an atom without orbitals: it is no .scfout of OpenMX, or is damaged")
    j = np.concatenate([data.ints(n + 1) for n in neighbours.tolist()]) - 1
    cell_of = np.concatenate([data.ints(n + 1) for n in neighbours.tolist()])
    if (j < 0).any() or (j >= atoms).any() or (cell_of < 0).any() or (cell_of > cells).any():
        raise BadInput(f"{path} names a neighbour that does not exist: it is damaged, copy it again")
    i = np.repeat(np.arange(atoms), neighbours + 1)
    cell, _, positions = data.floats(3, 4)[:, 1:], data.floats(3, 4), data.floats(atoms, 4)[:, 1:]
    size = int((orbitals[i].astype(np.int64) * orbitals[j]).sum())
    H = data.floats({NONE: 1, COLLINEAR: 2, SPINOR: 4}[spin], size)
    iH = data.floats(3, size) if spin is SPINOR else np.zeros((0, size))
    S = data.floats(1, size)
    data.floats(3, size)  # position
    if version:
        data.floats(3, size)  # momentum
    D = data.floats({NONE: 1, COLLINEAR: 2, SPINOR: 4}[spin], size)
    iD = data.floats(2, size) if version else None
    solver = int(data.ints(1)[0])
    trailer = data.floats(10)
    text = _text(data)
    numbers, shells = _species(path, text, orbitals)
    basis = basis_of(numbers, shells, str(path))
    assembly = Assembly.of_blocks(basis, OPENMX, i, j, R[cell_of], str(path))
    structure = Structure(torch.tensor(cell), torch.tensor(positions), torch.tensor(numbers, dtype=torch.int64))
    _check_finite(path, H, iH, S, D, D if iD is None else iD, cell, positions)
    notes = ["OpenMX's order of orbitals", "H averaged with its mirror image"]
    levels = levels_beside(path, structure)
    fermi = None if solver == _CLUSTER and trailer[0] == 0 else float(trailer[0])
    if fermi is None:
        notes.append("OpenMX 3.8 writes no Fermi level for a molecule")
    return Calculation(
        structure,
        overlap=assembly.matrix(S, NONE).hermitian(),
        hamiltonian=_hamiltonian(assembly, spin, H, iH),
        density_matrix=_density_matrix(assembly, spin, D, iD),
        fermi_level=fermi,
        electrons=float(trailer[8]),
        provenance=Provenance("OpenMX", _VERSIONS[version], path, tuple(notes)),
        result={} if levels is None else {KEY: levels.to_record()},
    )


def _hamiltonian(assembly: Assembly, spin: Spin, H: NDArray[Any], iH: NDArray[Any]) -> BlockMatrix:
    """H [Ha]. A spinor's: uu = H0 + i iH0, dd = H1 + i iH1, ud = H2 + i (H3 + iH2), du = ud^dagger as a whole matrix."""
    if spin is not SPINOR:
        return assembly.matrix(H, spin).hermitian()
    return _spinor(assembly, H[0] + 1j * iH[0], H[2] + 1j * (H[3] + iH[2]), H[1] + 1j * iH[1])


def _density_matrix(assembly: Assembly, spin: Spin, D: NDArray[Any], iD: NDArray[Any] | None) -> BlockMatrix | None:
    """D [electrons]; without spin the file has that of one spin. A spinor's is the conjugate of what stands there.

    None for a spinor of version 3.8, which leaves out the imaginary parts of its uu and dd.
    """
    if spin is not SPINOR:
        return assembly.matrix(D * (2 if spin is NONE else 1), spin).hermitian()
    if iD is None:
        return None
    return _spinor(assembly, D[0] - 1j * iD[0], D[2] - 1j * D[3], D[1] - 1j * iD[1])


def _spinor(assembly: Assembly, uu: NDArray[Any], ud: NDArray[Any], dd: NDArray[Any]) -> BlockMatrix:
    up, across, down = (assembly.matrix(x[None], NONE) for x in (uu, ud, dd))
    parts = [up.hermitian(), across, across.dagger(), down.hermitian()]
    return BlockMatrix(assembly.layout, torch.cat([p.values for p in parts]), SPINOR)


def _text(data: _Bytes) -> list[str]:
    """The input file that the calculation was made from; each line is 256 bytes, with garbage after a NUL."""
    lines = int(data.ints(1)[0])
    raw = data.take("u1", lines, _LINE)
    return [bytes(line).split(b"\0")[0].decode("utf-8", "replace").strip() for line in raw]


def _species(path: Path, text: list[str], orbitals: NDArray[np.int32]) -> tuple[list[int], list[tuple[int, ...]]]:
    """Atomic number and shells of each atom, from the input's words: `C C6.0-s2p2d1 C_PBE19`."""
    kinds: dict[str, tuple[int, tuple[int, ...]]] = {}
    for label, orbital, *potential in _block(text, "Definition.of.Atomic.Species"):
        symbol = re.match(r"[A-Z][a-z]?", (potential or [orbital])[0].split("_")[0])
        if symbol is None or symbol.group() not in SYMBOLS[1:]:
            raise BadInput(f"{path}: the species {label} ({orbital}) is of no element (empty atoms cannot be read)")
        shells = tuple(
            LETTERS.index(l)
            for l, all_, kept in re.findall(r"([spdfg])(\d+)(?:>(\d+))?", orbital.rpartition("-")[2])
            for _ in range(int(kept or all_))
        )
        kinds[label] = SYMBOLS.index(symbol.group()), shells
    atoms = [line[1] for line in _block(text, "Atoms.SpeciesAndCoordinates") if len(line) > 1]
    if len(atoms) != len(orbitals) or any(a not in kinds for a in atoms):
        raise BadInput(
            f"{path}: the input stored in it does not tell the species of its {len(orbitals)} atoms: run OpenMX again with "
            "HS.fileout on"
        )
    for n, label in enumerate(atoms):
        made = sum(2 * l + 1 for l in kinds[label][1])
        if made != orbitals[n]:
            raise BadInput(f"{path}: atom {n} has {orbitals[n]} orbitals, its species {label} makes {made}")
    return [kinds[a][0] for a in atoms], [kinds[a][1] for a in atoms]


def _block(text: list[str], name: str) -> list[list[str]]:
    """The words of the lines between <name and name>; OpenMX ignores case."""
    lowered = [line.lower() for line in text]
    try:
        first = lowered.index("<" + name.lower())
        last = lowered.index(name.lower() + ">", first)
    except ValueError:
        return []
    return [line.split("#")[0].split() for line in text[first + 1 : last] if line.split("#")[0].split()]


def _check_finite(path: Path, *arrays: NDArray[Any]) -> None:
    if not all(np.isfinite(a).all() for a in arrays):
        raise BadInput(f"{path} holds numbers that are not finite: it is damaged, or no .scfout of OpenMX 3.8 or 3.9")
