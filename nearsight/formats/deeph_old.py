"""The old layout of DeepH-pack, DeepH-E3 and xDeepH: one data set a hop, atoms from 1, OpenMX's order. eV and angstrom.

element.dat, lat.dat (lattice vectors as columns), site_positions.dat (columns), orbital_types.dat, info.json,
hamiltonians.h5, overlaps.h5, of a known density density_matrixs.h5, of xDeepH magmom.txt (docs/conventions.md).
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

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation, Provenance
from nearsight.core.errors import BadInput
from nearsight.core.reading import LARGEST, read_text
from nearsight.core.spin import COLLINEAR, NONE, SPINOR, SPINS, Spin
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.core.units import BOHR_ANG, HARTREE_EV
from nearsight.formats.assembly import Assembly, basis_of, to_program
from nearsight.formats.files import whole_folder
from nearsight.formats.format import Format
from nearsight.formats.hdf5 import opened, read_set
from nearsight.formats.orders import OPENMX
from nearsight.formats.tables import number_in, read_info, read_table

FILES = {"overlap": "overlaps.h5", "hamiltonian": "hamiltonians.h5", "density_matrix": "density_matrixs.h5"}
PREDICTED = "hamiltonians_pred.h5"  # taken where there is no hamiltonians.h5
OWNED = (
    *("element.dat", "lat.dat", "rlat.dat", "site_positions.dat", "orbital_types.dat", "info.json", "magmom.txt"),
    *(*FILES.values(), PREDICTED),
)
_KEY = re.compile(r"\[\s*" + r"\s*,\s*".join([r"(-?\d{1,9})"] * 5) + r"\s*\]")
_LARGEST_L, _MOST_ORBITALS = 3, 2000


class OldDeepH(Format):
    """A folder in the old layout."""

    name = "deeph-old"
    holds = frozenset({"overlap", "hamiltonian", "density_matrix", "none", "collinear", "spinor"})

    def recognises(self, path: Path) -> bool:
        """The lists of elements and of orbitals."""
        return (path / "element.dat").is_file() and (path / "orbital_types.dat").is_file()

    def read(self, path: Path) -> Calculation:
        """Matrices in OpenMX's order (H: eV -> Ha), each on the pairs that any of them has.

        Raises BadInput for files that are missing, damaged or of a spin that is not known.
        """
        structure = self.read_structure(path)
        info = read_info(path / "info.json")
        spinful, fermi = bool(info.get("isspinful", False)), number_in(info, "fermi_level", path / "info.json")
        told = SPINS.get(str(info.get("spin")))
        shells = _shells(path / "orbital_types.dat", len(structure))
        basis = basis_of(structure.numbers.tolist(), shells, str(path))
        matrices: dict[str, BlockMatrix] = {}
        known: list[tuple[NDArray[np.int64], Assembly]] = []
        for field, name in FILES.items():
            place = path / name
            if field == "hamiltonian" and not place.exists():
                place = path / PREDICTED
            if place.exists():
                keys, blocks = _blocks(place, basis.counts.numpy(), spinful and field != "overlap")
                assembly = next((a for k, a in known if np.array_equal(k, keys)), None)
                if assembly is None:
                    assembly = Assembly.of_blocks(basis, OPENMX, keys[:, 3], keys[:, 4], keys[:, :3], str(place))
                    known.append((keys, assembly))
                unit = 1 / HARTREE_EV if field == "hamiltonian" else 1.0
                matrices[field] = _matrix(assembly, blocks, spinful and field != "overlap", unit, told)
        if "spin" in info and told is None:
            raise BadInput(f"{path / 'info.json'}: spin is {info['spin']!r}, none that is known")
        if not matrices:
            raise BadInput(f"{path} has neither overlaps.h5 nor hamiltonians.h5: write or copy it again")
        return Calculation(
            structure,
            **_on_one_layout(matrices),
            fermi_level=None if fermi is None else fermi / HARTREE_EV,
            electrons=number_in(info, "occupation", path / "info.json"),
            moments=_read_moments(path / "magmom.txt", len(structure)),
            provenance=Provenance("DeepH", "old layout", path, ("OpenMX's order of orbitals",)),
        )

    def read_structure(self, path: Path) -> Structure:
        """The crystal of element.dat, lat.dat and site_positions.dat, vectors as columns (angstrom -> Bohr).

        Raises BadInput for an unknown element, tables of other sizes, or an rlat.dat that is not the reciprocal.
        """
        numbers = [int(n) for n in read_table(path / "element.dat", 1)[:, 0]]
        if any(not 0 < n < len(SYMBOLS) for n in numbers):
            raise BadInput(f"{path / 'element.dat'} names an element that does not exist")
        cell, positions = read_table(path / "lat.dat", 3), read_table(path / "site_positions.dat", len(numbers))
        if cell.shape != (3, 3) or positions.shape != (3, len(numbers)):
            raise BadInput(f"{path}: lat.dat must be 3 x 3 and site_positions.dat 3 x {len(numbers)} numbers")
        if (path / "rlat.dat").exists():
            reciprocal = read_table(path / "rlat.dat", 3)
            if reciprocal.shape != (3, 3) or np.abs(cell.T @ reciprocal / (2 * np.pi) - np.eye(3)).max() > 1e-3:
                raise BadInput(f"{path}: rlat.dat is not the reciprocal of lat.dat, with 2 pi: write or copy it again")
        return Structure(
            torch.tensor(cell.T / BOHR_ANG),
            torch.tensor(positions.T / BOHR_ANG),
            torch.tensor(numbers, dtype=torch.int64),
        )

    def write(self, path: Path, calculation: Calculation) -> None:
        """All matrices, H in eV, with moments and Fermi level where they are known."""
        c = calculation
        cell, positions = (x.detach().cpu().double() * BOHR_ANG for x in (c.structure.cell, c.structure.positions))
        spinful = c.spin is not NONE
        fermi = None if c.fermi_level is None else float(c.fermi_level) * HARTREE_EV
        info: dict[str, Any] = {
            "nsites": len(c.structure),
            "isorthogonal": False,
            "isspinful": spinful,
            "fermi_level": fermi,
        }
        info |= {"spin": c.spin.name} if spinful else {}
        info |= {} if c.electrons is None else {"occupation": c.electrons}
        tables = {
            "element.dat": c.structure.numbers.cpu()[:, None],
            "lat.dat": cell.T,
            "rlat.dat": 2 * torch.pi * torch.linalg.inv(cell),
            "site_positions.dat": positions.T,
        }
        with whole_folder(path, owned=OWNED) as part:
            for name, table in tables.items():
                (part / name).write_text("".join(" ".join(map(repr, row)) + "\n" for row in table.tolist()))
            lines = ["  ".join(map(str, c.basis.shells[z])) for z in c.basis.numbers]
            (part / "orbital_types.dat").write_text("\n".join(lines) + "\n")
            if c.moments is not None:
                (part / "magmom.txt").write_text(_moments_text(c.moments))
            for field, matrix in c.matrices.items():
                if field not in FILES:
                    continue
                unit = HARTREE_EV if field == "hamiltonian" else 1.0
                _write_blocks(part / FILES[field], matrix, unit, spinful and field != "overlap")
            (part / "info.json").write_text(json.dumps(info) + "\n")


def _shells(path: Path, atoms: int) -> list[tuple[int, ...]]:
    try:
        rows = [
            tuple(int(w) for w in line.split())
            for line in read_text(path, LARGEST, "table of numbers").splitlines()
            if line.split()
        ]
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is not a list of angular momenta for each atom: {error}") from error
    sound = all(0 <= l <= _LARGEST_L for row in rows for l in row) and all(
        sum(2 * l + 1 for l in row) <= _MOST_ORBITALS for row in rows
    )
    if len(rows) != atoms or not sound:
        raise BadInput(f"{path} must give each of the {atoms} atoms its shells, l from 0 to {_LARGEST_L}, a line each")
    return rows


def _blocks(path: Path, counts: NDArray[np.int64], spinful: bool) -> tuple[NDArray[np.int64], list[NDArray[Any]]]:
    """Keys [pairs, 5] R1 R2 R3 i j, atoms from 0, and their blocks. The keys are matched, never evaluated."""
    keys, blocks = [], []
    with opened(path) as file:
        for name in file:
            match = _KEY.fullmatch(name)
            if match is None:
                raise BadInput(
                    f"{path} has the key {name[:60]!r}, which is no [R1, R2, R3, i, j]: is it another program's?"
                )
            *R, i, j = (int(w) for w in match.groups())
            if not (1 <= i <= len(counts) and 1 <= j <= len(counts)):
                raise BadInput(f"{path} has the key {name}, whose atoms are not among the {len(counts)} (from 1)")
            shape = (int(counts[i - 1]), int(counts[j - 1]))
            told = getattr(file.get(name), "shape", None)
            doubled = (2 * shape[0], 2 * shape[1])
            if told != (doubled if spinful else shape) and not (told == doubled and path.name == FILES["overlap"]):
                raise BadInput(
                    f"{path}: the block {name} is {told}, its orbitals make it {doubled if spinful else shape}"
                )
            block = read_set(path, file, name)
            keys.append([*R, i - 1, j - 1])
            blocks.append(block if spinful or told == shape else block[: shape[0], : shape[1]])
    if not keys:
        raise BadInput(f"{path} holds no blocks")
    return np.array(keys, dtype=np.int64), blocks


def _matrix(
    assembly: Assembly, blocks: list[NDArray[Any]], spinful: bool, unit: float, told: Spin | None
) -> BlockMatrix:
    if not spinful:
        return assembly.matrix(np.concatenate([b.ravel().real for b in blocks])[None] * unit, NONE)
    parts = []
    for s, t in SPINOR.blocks:
        halves = [(b.shape[0] // 2, b.shape[1] // 2) for b in blocks]
        parts.append(
            np.concatenate(
                [b[s * n : (s + 1) * n, t * m : (t + 1) * m].ravel() for b, (n, m) in zip(blocks, halves, strict=True)]
            )
        )
    values = np.stack(parts) * unit
    if told is not SPINOR and not values[1:3].any() and not (np.iscomplexobj(values) and values.imag.any()):
        return assembly.matrix(values[[0, 3]].real, COLLINEAR)
    return assembly.matrix(values.astype(np.complex128), SPINOR)


def _on_one_layout(matrices: dict[str, BlockMatrix]) -> dict[str, Any]:
    """All on the pairs that any of them has, so that they add without ado."""
    layouts = {id(m.layout): m.layout for m in matrices.values()}
    if len(layouts) == 1:
        return dict(matrices)
    first, *others = layouts.values()
    pairs = first.pairs
    for other in others:
        pairs = pairs.union(other.pairs)
    layout = type(first)(first.basis, pairs)
    return {name: m.on(layout) for name, m in matrices.items()}


def _write_blocks(path: Path, matrix: BlockMatrix, unit: float, spinful: bool) -> None:
    layout, spin = matrix.layout.to("cpu"), matrix.spin
    values = (to_program(matrix, OPENMX) * unit).numpy()
    R, i, j = (x.tolist() for x in (layout.pairs.R, layout.pairs.i, layout.pairs.j))
    bounds, shapes = layout.boundaries.tolist(), layout.shapes.tolist()
    with h5py.File(path, "w") as file:
        for p in range(len(layout.pairs)):
            n, m = shapes[p]
            part = values[:, bounds[p] : bounds[p + 1]].reshape(-1, n, m)
            if spinful:
                block = np.zeros((2 * n, 2 * m), dtype=np.complex128)
                for component, (s, t) in zip(part, spin.blocks, strict=True):
                    block[s * n : (s + 1) * n, t * m : (t + 1) * m] = component
                if spin is NONE:
                    block[n:, m:] = part[0]
            else:
                block = part[0]
            file[str([*R[p], i[p] + 1, j[p] + 1])] = block


def _read_moments(path: Path, atoms: int) -> torch.Tensor | None:
    """magmom.txt: for each atom whether it is magnetic, |m| [mu_B], theta and phi [degrees]."""
    if not path.exists():
        return None
    table = read_table(path, 4)
    if len(table) != atoms:
        raise BadInput(f"{path} has {len(table)} lines for {atoms} atoms")
    there, size, theta, phi = torch.tensor(table).T
    theta, phi = torch.deg2rad(theta), torch.deg2rad(phi)
    direction = torch.stack([theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()], 1)
    return torch.where(there != 0, size, 0.0)[:, None] * direction


def _moments_text(moments: torch.Tensor) -> str:
    m = moments.detach().cpu().double()
    if m.ndim == 1:
        m = torch.stack([0 * m, 0 * m, m], 1)
    size = m.norm(dim=1)
    theta = torch.rad2deg(torch.atan2(m[:, :2].norm(dim=1), m[:, 2]))
    phi = torch.rad2deg(torch.atan2(m[:, 1], m[:, 0]))
    rows = torch.stack([size, theta, phi], 1).tolist()
    return "".join(f"{int(s > 0)} {s!r} {t!r} {p!r}\n" for s, t, p in rows)
