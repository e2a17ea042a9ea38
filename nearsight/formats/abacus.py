"""ABACUS: H(R), S(R) and D(R) in its sparse text files, of both namings, with the structure from STRU. Rydberg and Bohr.

data-HR-sparse_SPIN0.csr or hrs1_nao.csr, and likewise SR/srs1/sr and DMR/dmrs1; a second file for spin down. With nspin 4 the
elements are complex, up and down alternate.  Levels and Fermi energy are printed with 1 Ry = 13.605698066 eV.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nearsight.core.basis import Basis
from nearsight.core.calculation import Calculation, Provenance
from nearsight.core.errors import BadInput
from nearsight.core.reading import LARGEST, read_text, regular_file
from nearsight.core.spin import COLLINEAR, NONE, SPINOR
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.core.units import BOHR_ANG
from nearsight.formats.assembly import Assembly, basis_of
from nearsight.formats.files import one_inside
from nearsight.formats.format import Format
from nearsight.formats.levels import KEY, levels_beside
from nearsight.formats.orders import ABACUS, LETTERS

#: names of the files of each matrix: without spin or spin up, spin down
NAMES = {
    "overlap": (("data-SR-sparse_SPIN0.csr", "srs1_nao.csr", "sr_nao.csr"), ()),
    "hamiltonian": (
        ("data-HR-sparse_SPIN0.csr", "hrs1_nao.csr"),
        ("data-HR-sparse_SPIN1.csr", "hrs2_nao.csr"),
    ),
    "density_matrix": (
        ("data-DMR-sparse_SPIN0.csr", "dmrs1_nao.csr"),
        ("data-DMR-sparse_SPIN1.csr", "dmrs2_nao.csr"),
    ),
}
RY = 0.5  # Ha
_MOST_ZETAS = 20  # shells of one l that a set of orbitals has
_LATTICES = {
    "sc": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "fcc": ((-0.5, 0, 0.5), (0, 0.5, 0.5), (-0.5, 0.5, 0)),
    "bcc": ((0.5, 0.5, 0.5), (-0.5, 0.5, 0.5), (-0.5, -0.5, 0.5)),
}

Elements = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[Any]]


class Abacus(Format):
    """The folder of a run (with STRU), or its OUT.* folder."""

    name = "abacus"
    holds = frozenset({"overlap", "hamiltonian", "density_matrix", "none", "collinear", "spinor"})

    def recognises(self, path: Path) -> bool:
        """An H(R) or S(R) in the folder or in an OUT.* of it."""
        return _output(path) is not None

    def read(self, path: Path) -> Calculation:
        """Matrices (Ry -> Ha) with the structure and shells of the run; the density matrix of spinors is left out.

        Raises BadInput for a folder without H(R) and S(R), or files that are damaged.
        """
        out = _output(path)
        if out is None:
            raise BadInput(f"{path} has no H(R) or S(R) of ABACUS: run it with out_mat_hs2 1")
        log = _log(out)
        structure, shells = _structure(out, log)
        basis = basis_of(structure.numbers.tolist(), shells, str(out))
        files = {name: [_named(out, names) for names in spins] for name, spins in NAMES.items()}
        matrices, notes = {}, ["ABACUS's order and signs of orbitals"]
        for name, (up, down) in ((n, (*f, None)[:2]) for n, f in files.items()):
            if up is None:
                continue
            row, column, R, values = read_csr(up)
            spinor = np.iscomplexobj(values) or _dimension(up) == 2 * basis.size
            if spinor and name == "density_matrix":
                notes.append("the density matrix of spinors is left out")
                continue
            if spinor:
                matrices[name] = _spinor(basis, up, row, column, R, values)
                continue
            parts = [(row, column, R, values)] + ([read_csr(down)] if down else [])
            unit = RY if name == "hamiltonian" else 1.0
            matrices[name] = _real(basis, up, parts, unit)
        if "overlap" in matrices and matrices["overlap"].spin is SPINOR:
            s = matrices["overlap"]
            matrices["overlap"] = type(s)(s.layout, s.values[:1].real.contiguous(), NONE)
        layout = next(iter(matrices.values())).layout
        pairs = layout.pairs
        for m in matrices.values():
            pairs = pairs.union(m.pairs)
        layout = type(layout)(basis, pairs)
        matrices = {name: m.on(layout) for name, m in matrices.items()}
        if "hamiltonian" in matrices and matrices["hamiltonian"].spin is SPINOR:
            h = matrices["hamiltonian"]
            matrices["hamiltonian"] = h.with_values(h.values * RY)
        fermi = _last(log, r"E_Fermi\s+(\S+)\s+\S+")
        electrons = _last(log, r"number of electrons:\s*=\s*(\S+)")
        levels = levels_beside(out, structure)
        version = re.search(r"ABACUS v(\S+)", log)
        return Calculation(
            structure,
            overlap=matrices.get("overlap"),
            hamiltonian=matrices.get("hamiltonian"),
            density_matrix=matrices.get("density_matrix"),
            fermi_level=None if fermi is None else fermi * RY,
            electrons=electrons,
            provenance=Provenance("ABACUS", version.group(1) if version else None, path, tuple(notes)),
            result={} if levels is None else {KEY: levels.to_record()},
        )


def _output(path: Path) -> Path | None:
    """The folder with the matrices: the path itself, or the OUT.* in it."""
    if not path.is_dir():
        return None
    folders = [path, *sorted(p for p in path.glob("OUT.*") if p.is_dir())]
    return next((f for f in folders if any(_named(f, NAMES[n][0]) for n in ("hamiltonian", "overlap"))), None)


def _named(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / n for n in names if (folder / n).is_file()), None)


def _log(out: Path) -> str:
    found = one_inside(out, "running_scf.log") or one_inside(out, "running_*.log")
    return read_text(found, LARGEST, "log", lossy=True) if found else ""


def _last(text: str, pattern: str) -> float | None:
    found = re.findall(pattern, text)
    try:
        return float(found[-1]) if found else None
    except ValueError:
        return None


def _dimension(path: Path) -> int:
    regular_file(path, LARGEST, "file of sparse matrices")
    with path.open(errors="replace") as file:
        for _, line in zip(range(12), file, strict=False):
            told = re.search(r"Matrix Dimension of \S+:\s*(\d+)|(\d+)\s*# number of localized basis", line)
            if told:
                return int(told.group(1) or told.group(2))
    return 0


def read_csr(path: Path) -> Elements:
    """row, column [elements], R [elements, 3] and values of a file of sparse matrices, one for each R.

    Raises BadInput for a file that is cut off, of another form, or of several ionic steps.
    """
    dimension = _dimension(path)
    if not 0 < dimension <= path.stat().st_size:
        raise BadInput(f"{path} is no file of sparse matrices of ABACUS: it does not begin with a matrix dimension")
    rows, columns, cells, values = [], [], [], []
    lines = _data_lines(path)
    try:
        for line in lines:
            head = [int(w) for w in line.split()]
            if len(head) != 4 or head[3] < 0:
                raise ValueError(f"{line[:60]!r} where R and a count are due")
            if head[3] == 0:
                continue
            value = _take(lines, head[3])
            column, pointer = (_take(lines, n).astype(np.int64) for n in (head[3], dimension + 1))
            counts = np.diff(pointer)
            if (counts < 0).any() or pointer[-1] != head[3] or column.min() < 0 or column.max() >= dimension:
                raise ValueError(f"the matrix of R = {head[:3]} contradicts itself")
            rows.append(np.repeat(np.arange(dimension), counts))
            columns.append(column)
            cells.append(np.tile(head[:3], (head[3], 1)))
            values.append(value)
    except (ValueError, OverflowError) as error:
        raise BadInput(f"{path} is no whole file of sparse matrices of ABACUS: {error}") from error
    if not rows:
        raise BadInput(f"{path} holds no matrix elements")
    joined = np.concatenate(values)
    if not np.isfinite(joined).all():
        raise BadInput(f"{path} holds numbers that are not finite")
    return np.concatenate(rows), np.concatenate(columns), np.concatenate(cells), joined


def _data_lines(path: Path) -> Iterator[str]:
    """Lines of numbers after the header, without comments; an empty matrix's empty lines are left out."""
    text = read_text(path, LARGEST, "file of sparse matrices", lossy=True)
    steps = len(re.findall(r"^\s*(?:STEP:|--- Ionic Step)", text, re.MULTILINE))
    if steps > 1:
        raise BadInput(f"{path} holds {steps} ionic steps: keep the last one alone")
    head = re.search(r"CSR Format[^\n]*\n|Matrix number of [^\n]*\n", text)
    for line in text[head.end() if head else 0 :].splitlines():
        stripped = line.strip()
        if stripped and stripped[0] != "#":
            yield stripped


def _take(lines: Iterator[str], count: int) -> NDArray[Any]:
    """The next so many numbers; complex ones stand as (re,im)."""
    found: list[NDArray[Any]] = []
    have = 0
    while have < count:
        line = next(lines, None)
        if line is None:
            raise ValueError("it ends within a matrix")
        if "(" in line:
            pairs = np.array(re.sub(r"[(),]", " ", line).split(), dtype=np.float64)
            found.append(pairs[0::2] + 1j * pairs[1::2])
        else:
            found.append(np.array(line.split(), dtype=np.float64))
        have += len(found[-1])
    if have != count:
        raise ValueError(f"{have} numbers where {count} are due")
    return np.concatenate(found)


def _real(basis: Basis, path: Path, parts: list[Elements], unit: float) -> Any:
    """A matrix without spin, or of up and down, which may list different elements."""
    made = []
    for row, column, R, values in parts:
        assembly = Assembly.of_elements(basis, ABACUS, row, column, R, str(path))
        made.append(assembly.matrix(values[None] * unit, NONE))
    if len(made) == 1:
        return made[0]
    pairs = made[0].pairs.union(made[1].pairs)
    layout = type(made[0].layout)(basis, pairs)
    both = torch.cat([m.on(layout).values for m in made])
    return type(made[0])(layout, both, COLLINEAR)


def _spinor(
    basis: Basis,
    path: Path,
    row: NDArray[np.int64],
    column: NDArray[np.int64],
    R: NDArray[np.int64],
    values: NDArray[Any],
) -> Any:
    """Row 2n is orbital n up, row 2n + 1 orbital n down."""
    made = []
    for s, t in SPINOR.blocks:
        here = (row % 2 == s) & (column % 2 == t)
        assembly = Assembly.of_elements(basis, ABACUS, row[here] // 2, column[here] // 2, R[here], str(path))
        made.append(assembly.matrix(values[here][None].astype(np.complex128), NONE))
    pairs = made[0].pairs
    for m in made[1:]:
        pairs = pairs.union(m.pairs)
    layout = type(made[0].layout)(basis, pairs)
    return type(made[0])(layout, torch.cat([m.on(layout).values for m in made]), SPINOR)


def _structure(out: Path, log: str) -> tuple[Structure, list[tuple[int, ...]]]:
    """Structure and shells of each atom, from STRU (beside OUT.* or in it) and the log."""
    stru = next((f for f in (out.parent / "STRU", out / "STRU", out / "STRU_ION_D") if f.is_file()), None)
    if stru is None:
        raise BadInput(f"{out} has no STRU beside it, which tells the structure: put the run's STRU there")
    try:
        sections = _sections(read_text(stru, what="STRU", lossy=True))
        constant = float(sections["LATTICE_CONSTANT"][0][0])
        cell = constant * _lattice(sections, out, log)
        labels, positions = _atoms(sections["ATOMIC_POSITIONS"], cell, constant)
        kinds = [line[0] for line in sections["ATOMIC_SPECIES"]]
        orbitals = [line[0] for line in sections.get("NUMERICAL_ORBITAL", [])]
        shells = {k: _shells(k, log, dict(zip(kinds, orbitals, strict=False)).get(k, ""), stru) for k in kinds}
        numbers = [_number(label, stru) for label in labels]
        structure = Structure(torch.tensor(cell), torch.tensor(positions), torch.tensor(numbers, dtype=torch.int64))
        return structure, [shells[label] for label in labels]
    except (KeyError, ValueError, IndexError, StopIteration) as error:
        raise BadInput(f"{stru} cannot be read as ABACUS's structure file: {type(error).__name__} {error}") from error


def _sections(text: str) -> dict[str, list[list[str]]]:
    sections: dict[str, list[list[str]]] = {}
    name = ""
    for line in text.splitlines():
        words = re.split(r"#|//", line)[0].split()
        if len(words) == 1 and re.fullmatch(r"[A-Z]+_[A-Z_]+", words[0]):
            sections[name := words[0]] = []
        elif words and name:
            sections[name].append(words)
    return sections


def _lattice(sections: dict[str, list[list[str]]], out: Path, log: str) -> NDArray[np.float64]:
    """Lattice vectors as rows, in units of the lattice constant."""
    if "LATTICE_VECTORS" in sections:
        return np.array([[float(w) for w in line[:3]] for line in sections["LATTICE_VECTORS"][:3]])
    given = next((f for f in (out.parent / "INPUT", out / "INPUT") if f.is_file()), None)
    told = (
        re.search(r"^\s*latname\s+(\w+)", read_text(given, what="INPUT", lossy=True), re.MULTILINE) if given else None
    )
    name = told.group(1) if told else ""
    if name in _LATTICES:
        return np.array(_LATTICES[name], dtype=np.float64)
    if name == "hexagonal":
        ratio = float(sections["LATTICE_PARAMETERS"][0][0])
        return np.array([[1, 0, 0], [-0.5, sqrt(3) / 2, 0], [0, 0, ratio]])
    listed = re.search(r"Lattice vectors:[^\n]*\n((?:[^\n]*\n){3})", log)
    if listed is None:
        raise ValueError(f"the lattice {name!r} is not known here: write LATTICE_VECTORS into STRU")
    return np.array([[float(w) for w in line.split()[-3:]] for line in listed.group(1).strip().splitlines()])


def _atoms(lines: list[list[str]], cell: NDArray[np.float64], constant: float) -> tuple[list[str], NDArray[np.float64]]:
    """Label and position [Bohr] of each atom."""
    kind = lines[0][0].lower()
    rest = iter(lines[1:])
    labels: list[str] = []
    coordinates: list[list[float]] = []
    for words in rest:
        label = words[0]
        next(rest)  # magnetism
        count = int(next(rest)[0])
        for _ in range(count):
            coordinates.append([float(w) for w in next(rest)[:3]])
            labels.append(label)
    x = np.array(coordinates, dtype=np.float64)
    if kind.startswith("direct"):
        return labels, x @ cell
    if kind == "cartesian":
        return labels, x * constant
    if kind == "cartesian_au":
        return labels, x
    if kind == "cartesian_angstrom":
        return labels, x / BOHR_ANG
    raise ValueError(f"positions are {kind}: write them as Direct or Cartesian")


def _shells(label: str, log: str, orbital_file: str, stru: Path) -> tuple[int, ...]:
    """From the log (`L=1, number of zeta = 2`), else from the orbital file's name (`..._4s2p2d1f.orb`)."""
    told = re.search(rf"atom label = {re.escape(label)}\n((?:[^\n]*L=\d+, number of zeta = \d+\n)+)", log)
    if told:
        pairs = [(int(l), int(n)) for l, n in re.findall(r"L=(\d+), number of zeta = (\d+)", told.group(1))]
    elif named := re.search(r"((?:\d+[spdfgh])+)(?:\.orb)?$", orbital_file):
        pairs = [(LETTERS.index(l), int(n)) for n, l in re.findall(r"(\d+)([spdfgh])", named.group(1))]
    else:
        raise ValueError(f"the orbitals of {label} are told neither by the log nor by the name {orbital_file!r}")
    if any(n > _MOST_ZETAS for _, n in pairs):
        raise ValueError(f"{label} would have {max(n for _, n in pairs):.3g} shells of one l")
    return tuple(l for l, n in pairs for _ in range(n))


def _number(label: str, stru: Path) -> int:
    symbol = re.match(r"[A-Z][a-z]?", label)
    for candidate in (symbol.group(), symbol.group()[:1]) if symbol else ():
        if candidate in SYMBOLS[1:]:
            return SYMBOLS.index(candidate)
    raise BadInput(f"{stru}: the label {label} is of no element")
