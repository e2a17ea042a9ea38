"""Other programs' files of a calculation, written block by block from a literal list of each program's orbitals.

Nothing here knows the tables of nearsight/formats/orders.py: what the readers make of these files must be the calculation.
"""

from __future__ import annotations

import struct
from pathlib import Path

import h5py
import numpy as np

from nearsight.core.calculation import Calculation
from nearsight.core.spin import SPINOR
from nearsight.core.units import BOHR_ANG

F = ["y(3x2-y2)", "xyz", "yz2", "z3", "xz2", "z(x2-y2)", "x(x2-3y2)"]
OURS = {0: ["s"], 1: ["y", "z", "x"], 2: ["xy", "yz", "z2", "xz", "x2-y2"], 3: F}
THEIRS = {
    "openmx": {
        1: ["x", "y", "z"],
        2: ["z2", "x2-y2", "xy", "xz", "yz"],
        3: ["z3", "xz2", "yz2", "z(x2-y2)", "xyz", "x(x2-3y2)", "y(3x2-y2)"],
    },
    "siesta": {
        1: ["-y", "z", "-x"],
        2: ["xy", "-yz", "z2", "-xz", "x2-y2"],
        3: ["-y(3x2-y2)", "xyz", "-yz2", "z3", "-xz2", "z(x2-y2)", "-x(x2-3y2)"],
    },
    "abacus": {
        1: ["z", "-x", "-y"],
        2: ["z2", "-xz", "-yz", "x2-y2", "xy"],
        3: ["z3", "-xz2", "-yz2", "z(x2-y2)", "xyz", "-x(x2-3y2)", "-y(3x2-y2)"],
    },
    "aims": {
        1: ["y", "z", "-x"],
        2: ["xy", "yz", "z2", "-xz", "x2-y2"],
        3: ["y(3x2-y2)", "xyz", "yz2", "z3", "-xz2", "z(x2-y2)", "-x(x2-3y2)"],
    },
    "pyscf": {1: ["x", "y", "z"]},
}


def turn(program: str, shells: tuple[int, ...]) -> np.ndarray:
    """T with theirs = T ours, for the orbitals of an atom."""
    size = sum(2 * l + 1 for l in shells)
    T, at = np.zeros((size, size)), 0
    for l in shells:
        for row, name in enumerate(THEIRS[program].get(l, OURS[l])):
            T[at + row, at + OURS[l].index(name.lstrip("-"))] = -1 if name[0] == "-" else 1
        at += 2 * l + 1
    return T


def blocks(c: Calculation, name: str, program: str, component: int) -> dict[tuple[int, ...], np.ndarray]:
    """(R1, R2, R3, i, j) -> block in the program's order, in atomic units."""
    m = getattr(c, name)
    T = {z: turn(program, shells) for z, shells in m.basis.shells.items()}
    found = {}
    for p in range(len(m.pairs)):
        i, j = int(m.pairs.i[p]), int(m.pairs.j[p])
        block = m.block(p)[component].numpy()
        found[*m.pairs.R[p].tolist(), i, j] = T[m.basis.numbers[i]] @ block @ T[m.basis.numbers[j]].T
    return found


def record(*parts: bytes) -> bytes:
    """One record of a Fortran unformatted file."""
    content = b"".join(parts)
    mark = struct.pack("<i", len(content))
    return mark + content + mark


def ints(*values) -> bytes:
    return np.array(values, dtype="<i4").tobytes()


def floats(values, kind="<f8") -> bytes:
    return np.ascontiguousarray(values, dtype=kind).tobytes()


def dense(c: Calculation, found: dict, R: tuple[int, ...]) -> np.ndarray:
    """M(R) [orbitals, orbitals]."""
    offsets = c.basis.offsets.tolist()
    M = np.zeros((offsets[-1], offsets[-1]), dtype=next(iter(found.values())).dtype)
    for (*cell, i, j), block in found.items():
        if tuple(cell) == R:
            M[offsets[i] : offsets[i + 1], offsets[j] : offsets[j + 1]] = block
    return M


def cells(c: Calculation) -> list[tuple[int, ...]]:
    """Every R of the calculation, the home cell first."""
    found = {tuple(r) for r in c.overlap.pairs.R.tolist()}
    return sorted(found, key=lambda r: (r != (0, 0, 0), r))


def write_scfout(path: Path, c: Calculation, version: int, words: str) -> None:
    """OpenMX, spin none or collinear; words: the input, which tells species and orbitals."""
    spin = c.hamiltonian.spin.components - 1
    n = len(c.structure)
    rows = cells(c)
    H = [blocks(c, "hamiltonian", "openmx", s) for s in range(spin + 1)]
    S = blocks(c, "overlap", "openmx", 0)
    D = [blocks(c, "density_matrix", "openmx", s) for s in range(spin + 1)]
    neighbours = [[(0, 0, 0, i, i), *sorted(k for k in S if k[3] == i and k != (0, 0, 0, i, i))] for i in range(n)]
    counts = c.basis.counts.tolist()
    cell = c.structure.cell.numpy()
    out = ints(n, spin + 4 * version, n, 0, 0, len(rows) - 1)
    out += ints(1) if version else b""
    padded = np.zeros((len(rows), 4))
    padded[:, 1:] = np.array(rows) @ cell
    out += floats(padded) + np.array([[77, *r] for r in rows], dtype="<i4").tobytes() + ints(*counts)
    out += ints(*(len(x) - 1 for x in neighbours))
    out += b"".join(ints(*(k[4] + 1 for k in x)) for x in neighbours)
    out += b"".join(ints(*(rows.index(k[:3]) for k in x)) for x in neighbours)
    box = np.zeros((3, 4))
    box[:, 1:] = cell
    atoms = np.zeros((n, 4))
    atoms[:, 1:] = c.structure.positions.numpy()
    out += floats(box) + floats(box) + floats(atoms)

    def listed(found: dict, factor: float = 1.0) -> bytes:
        return b"".join(floats(found[k] * factor) for x in neighbours for k in x)

    nothing = {k: np.zeros_like(b) for k, b in S.items()}
    out += b"".join(map(listed, H)) + listed(S) + listed(nothing) * 3 + (listed(nothing) * 3 if version else b"")
    out += b"".join(listed(d, 0.5 if spin == 0 else 1.0) for d in D) + (listed(nothing) * 2 if version else b"")
    out += ints(3) + floats([c.fermi_level, 300, 0, 0, 0, 0, 0, 0, c.electrons, 0])
    lines = words.splitlines()
    out += (
        ints(len(lines)) + b"".join(line.encode().ljust(256, b"\0") for line in lines) + b"appended by another program"
    )
    path.write_bytes(out)


def write_hsx(path: Path, c: Calculation, labels: dict[int, str], version: int) -> None:
    """SIESTA's HSX: versions 1 and 2, and 0, which had single precision, distances in place of cells, and no structure."""
    from nearsight.formats.siesta_files import supercells

    R = np.abs(c.overlap.pairs.R.numpy()).max(0)
    nsc = 2 * R + 1
    isc = supercells(nsc).tolist()
    spins = c.hamiltonian.spin.components
    H = [blocks(c, "hamiltonian", "siesta", s) for s in range(spins)]
    S = blocks(c, "overlap", "siesta", 0)
    size, atoms = c.basis.size, len(c.structure)
    wide = [
        np.hstack([dense(c, m, tuple(r)) for r in isc]) for m in (*[{k: 2 * b for k, b in h.items()} for h in H], S)
    ]
    there = np.hstack([dense(c, {k: np.ones_like(b) for k, b in S.items()}, tuple(r)) for r in isc]) != 0
    columns = [np.flatnonzero(row) for row in there]
    kinds = sorted(labels)
    kind = "<f4" if version == 0 else "<f8"

    def rows(m: np.ndarray) -> bytes:
        return b"".join(record(floats(m[n, columns[n]], kind)) for n in range(size))

    listed = b"".join(record(ints(*(x + 1))) for x in columns)
    numh = record(ints(*map(len, columns)))
    cell, x = c.structure.cell.numpy(), c.structure.positions.numpy()
    species = [
        (labels[z].encode().ljust(20) + struct.pack("<di", 4.0, sum(2 * l + 1 for l in c.basis.shells[z])))
        for z in kinds
    ]
    quantum = [[(9, l, 1) for l in c.basis.shells[z] for _ in range(2 * l + 1)] for z in kinds]
    isa = ints(*(kinds.index(z) + 1 for z in c.basis.numbers))
    if version:
        out = record(ints(version)) + record(ints(-1)) + record(ints(atoms, size, spins, len(kinds), *nsc))
        out += record(floats(cell), floats([2 * c.fermi_level, c.electrons, 0.0]))
        out += record(ints(*np.ravel(isc)), floats(x), isa, ints(*c.basis.offsets[1:].tolist()))
        out += record(*species) + b"".join(record(ints(*np.ravel(q))) for q in quantum)
        out += record(ints(*range(9)), floats([0, 0, 0])) if version == 2 else b""
        out += numh + listed + b"".join(map(rows, wide))
    else:
        out = record(ints(size, size * len(isc), spins, there.sum())) + record(ints(0))
        out += record(ints(*np.tile(np.arange(size) + 1, len(isc)))) + numh + listed + b"".join(map(rows, wide))
        out += record(floats([c.electrons, 0.0]))
        atom = c.basis.atom_of_orbital.numpy()
        for n in range(size):
            j, r = columns[n] % size, np.array(isc)[columns[n] // size]
            out += record(floats(x[atom[j]] + r @ cell - x[atom[n]], kind))
        out += record(ints(len(kinds))) + record(*species)
        out += b"".join(record(ints(*q)) for each in quantum for q in each)
        out += record(ints(atoms)) + record(isa) + record(ints(*range(size)))
        lines = ["  ".join(f"{v:.12f}" for v in (*row, 0, 0, 0)) for row in cell]
        lines += [str(atoms)]
        for n, z in enumerate(c.basis.numbers):
            lines.append(f"{kinds.index(z) + 1} {z} " + " ".join(f"{v:.12f}" for v in (*x[n], 0, 0, 0)))
        path.with_suffix(".XV").write_text("\n".join(lines) + "\n")
    path.write_bytes(out)


def write_abacus(folder: Path, c: Calculation, labels: dict[int, str], new: bool) -> None:
    """ABACUS's csr files with the names before and since 3.10, a STRU beside them; any spin."""
    out = folder / "OUT.ABACUS"
    out.mkdir(parents=True)
    spins = 1 if c.spin is SPINOR else c.hamiltonian.spin.components
    names = (
        ("hrs%d_nao.csr", "srs%d_nao.csr", 1) if new else ("data-HR-sparse_SPIN%d.csr", "data-SR-sparse_SPIN%d.csr", 0)
    )
    for s in range(spins):
        _write_csr(out / (names[0] % (s + names[2])), c, "hamiltonian", s, 2.0, new)
    _write_csr(out / (names[1] % names[2]), c, "overlap", 0, 1.0, new)
    kinds = sorted(labels)
    lines = ["ATOMIC_SPECIES", *(f"{labels[z]} 1.0 x.upf" for z in kinds), "", "NUMERICAL_ORBITAL"]
    for z in kinds:
        shells = c.basis.shells[z]
        lines.append("dir/x_8au_" + "".join(f"{shells.count(l)}{'spdf'[l]}" for l in sorted(set(shells))) + ".orb")
    lines += ["", "LATTICE_CONSTANT", "1.0 // Bohr", "", "LATTICE_VECTORS"]
    lines += [" ".join(map(repr, row)) for row in c.structure.cell.tolist()] + ["", "ATOMIC_POSITIONS", "Cartesian"]
    for z in kinds:
        atoms = [x for x, n in zip(c.structure.positions.tolist(), c.basis.numbers, strict=True) if n == z]
        lines += [labels[z], "0.0", str(len(atoms)), *(" ".join(map(repr, x)) + " m 1 1 1" for x in atoms)]
    (folder / "STRU").write_text("\n".join(lines) + "\n")
    (out / "running_scf.log").write_text(
        f"ABACUS v9\n E_Fermi {2 * c.fermi_level!r} 0.0\n number of electrons: = {c.electrons}\n"
    )


def _write_csr(path: Path, c: Calculation, name: str, component: int, unit: float, new: bool) -> None:
    if c.spin is SPINOR:
        parts = {st: blocks(c, name, "abacus", n if name == "hamiltonian" else 0) for n, st in enumerate(SPINOR.blocks)}
        if name == "overlap":
            parts = {st: {k: b * (st[0] == st[1]) for k, b in part.items()} for st, part in parts.items()}
    else:
        parts = {(0, 0): blocks(c, name, "abacus", component)}
    width = 2 if c.spin is SPINOR else 1
    size = width * c.basis.size
    rows = cells(c)
    label = "H" if name == "hamiltonian" else "S"
    lines = ["STEP: 0", f"Matrix Dimension of {label}(R): {size}", f"Matrix number of {label}(R): {len(rows)}"]
    if new:
        lines = [" --- Ionic Step 1 ---", f" # print {label} matrix in real space", " 1 # number of spin directions"]
        lines += [
            f" {size} # number of localized basis",
            f" {len(rows)} # number of Bravais lattice vector R",
            "",
            "user_lattice",
            "1.0",
        ]
        lines += ["Direct", " 0.0 0.0 0.0", "", "#---#", "#      CSR Format      #", "#---#"]
    for R in rows:
        M = np.zeros((size, size), dtype=complex if width == 2 else float)
        for (s, t), part in parts.items():
            M[s::width, t::width] = dense(c, part, R) * unit
        row, column = np.nonzero(M)
        pointer = np.searchsorted(row, np.arange(size + 1))
        values = [f"({float(v.real)!r},{float(v.imag)!r})" if width == 2 else repr(float(v)) for v in M[row, column]]
        lines.append(" ".join(map(str, (*R, len(row)))))
        for title, content in (("values", values), ("column indices", column), ("row pointers", pointer)):
            lines += ([f" # CSR {title}"] if new else []) + [" " + " ".join(map(str, content))]
    path.write_text("\n".join(lines) + "\n")


def write_aims(folder: Path, c: Calculation) -> None:
    """FHI-aims: the lower triangle of <row, cell R| M |column, cell 0>, spin none or collinear."""
    folder.mkdir()
    spins = c.hamiltonian.spin.components
    H = [blocks(c, "hamiltonian", "aims", s) for s in range(spins)]
    S = blocks(c, "overlap", "aims", 0)
    size, rows = c.basis.size, cells(c)
    begin, end, column, values = [], [], [], [[] for _ in range(spins + 1)]
    for R in rows:
        negative = tuple(-x for x in R)
        matrices = [dense(c, m, negative) for m in (*H, S)]
        for n in range(size):
            there = [m for m in range(n + 1) if any(x[n, m] for x in matrices)]
            begin.append(len(column) + 1 if there else 0)
            # the row runs from its first to its last column, as its elements stand together
            for m in there:
                column.append(m + 1)
                for listed, x in zip(values, matrices, strict=True):
                    listed.append(x[n, m])
            end.append(len(column) if there else -1)
    lines = [
        f"n_hamiltonian_matrix_size: {len(column)}",
        f"n_cells_in_hamiltonian: {len(rows) + 1}",
        f"n_basis: {size}",
    ]
    lines += ["cell_index", *(" ".join(map(str, R)) for R in rows), "999999999 999999999 999999999"]
    zero = " 0" * size
    for n, listed in enumerate((begin, end)):
        lines += [
            f"index_hamiltonian({n + 1},:,:)",
            *(" ".join(map(str, x)) for x in np.reshape(listed, (-1, size))),
            zero,
        ]
    lines += ["column_index_hamiltonian", *map(str, column)]
    (folder / "rs_indices.out").write_text("\n".join(lines) + "\n")
    names = ["rs_hamiltonian.out"] if spins == 1 else ["rs_hamiltonian_up.out", "rs_hamiltonian_dn.out"]
    for name, listed in zip([*names, "rs_overlap.out"], values, strict=True):
        (folder / name).write_text("\n".join(f"{v:.17E}" for v in listed) + "\n")
    table, n = ["", "  fn.   type   at.   n   l   m"], 0
    for atom, z in enumerate(c.basis.numbers):
        for l in c.basis.shells[z]:
            for m in range(-l, l + 1):
                n += 1
                table.append(f"{n} atomic {atom + 1} 9 {l} {m}")
    (folder / "basis-indices.out").write_text("\n".join(table) + "\n")
    bohr = 0.52917721
    geometry = ["lattice_vector " + " ".join(repr(x * bohr) for x in row) for row in c.structure.cell.tolist()]
    for x, s in zip(c.structure.positions.tolist(), c.structure.symbols, strict=True):
        geometry.append("atom " + " ".join(repr(v * bohr) for v in x) + f" {s}")
    (folder / "geometry.in").write_text("\n".join(geometry) + "\n")
    assert BOHR_ANG != bohr


def write_netcdf(path: Path, c: Calculation, labels: dict[int, str]) -> None:
    """SIESTA's NetCDF 4 file of `CDF.Save`, which is HDF5, with D where there is one; spin none or collinear."""
    from nearsight.formats.siesta_files import supercells

    isc = supercells(2 * np.abs(c.overlap.pairs.R.numpy()).max(0) + 1)
    S = blocks(c, "overlap", "siesta", 0)
    there = np.hstack([dense(c, {k: np.ones_like(b) for k, b in S.items()}, tuple(r)) for r in isc.tolist()]) != 0
    row, column = np.nonzero(there)

    def listed(name: str, component: int, factor: float) -> np.ndarray:
        found = blocks(c, name, "siesta", component)
        return factor * np.hstack([dense(c, found, tuple(r)) for r in isc.tolist()])[row, column]

    spins = range(c.hamiltonian.spin.components)
    kinds = sorted(labels)
    with h5py.File(path, "w") as file:
        file["SPARSE/n_col"] = there.sum(1).astype("i4")
        file["SPARSE/list_col"] = (column + 1).astype("i4")
        file["SPARSE/isc_off"] = isc.astype("i4")
        file["SPARSE/S"] = listed("overlap", 0, 1.0)
        file["SPARSE/H"] = np.stack([listed("hamiltonian", s, 2.0) for s in spins])
        if c.density_matrix is not None:
            file["SPARSE/DM"] = np.stack([listed("density_matrix", s, 1.0) for s in spins])
        for n, z in enumerate(kinds):
            file[f"BASIS/{labels[z]}/orbnl_l"] = np.array(c.basis.shells[z], dtype="i4")
            file[f"BASIS/{labels[z]}"].attrs.update({"Atomic_number": np.int32([z]), "ID": np.int32([n + 1])})
        file["BASIS/basis"] = np.array([kinds.index(z) + 1 for z in c.basis.numbers], dtype="i4")
        file["cell"], file["xa"] = c.structure.cell.numpy(), c.structure.positions.numpy()
        file["lasto"] = c.basis.offsets[1:].numpy().astype("i4")
        file["Ef"], file["Qtot"] = np.array([2 * c.fermi_level]), np.array([c.electrons])


def write_dm(path: Path, c: Calculation) -> None:
    """SIESTA's `.DM` with the supercell in its head; spin none or collinear."""
    from nearsight.formats.siesta_files import supercells

    nsc = 2 * np.abs(c.overlap.pairs.R.numpy()).max(0) + 1
    isc = supercells(nsc).tolist()
    spins = c.density_matrix.spin.components
    D = [blocks(c, "density_matrix", "siesta", s) for s in range(spins)]
    wide = [np.hstack([dense(c, d, tuple(r)) for r in isc]) for d in D]
    columns = [np.flatnonzero(np.any([m[n] != 0 for m in wide], 0)) for n in range(c.basis.size)]
    out = record(ints(c.basis.size, spins, *nsc.tolist())) + record(ints(*map(len, columns)))
    out += b"".join(record(ints(*(x + 1))) for x in columns)
    out += b"".join(record(floats(m[n, columns[n]])) for m in wide for n in range(c.basis.size))
    path.write_bytes(out)


def write_orbital_index(path: Path, c: Calculation) -> None:
    """SIESTA's `.ORB_INDX`, which tells the angular momenta that a TSHS has not."""
    rows, n = [f"{c.basis.size} {c.basis.size} = orbitals"], 0
    kinds = sorted(set(c.basis.numbers))
    for atom, z in enumerate(c.basis.numbers):
        for l in c.basis.shells[z]:
            for m in range(-l, l + 1):
                n += 1
                kind, symbol = kinds.index(z) + 1, c.structure.symbols[atom]
                rows.append(f"{n} {atom + 1} {kind} {symbol} 1 4 {l} {m} 1 F x 5.0 0 0 0 {n}")
    path.write_text("\n".join(rows) + "\n")
