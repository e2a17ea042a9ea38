"""SIESTA: H, S and D of a run, from `.nc`, `.HSX` or `.TSHS` with the `.DM` beside it, for any spin.

What the files hold is in Rydberg and Bohr, so SIESTA's own eV and angstrom do not come in.  Real harmonics of odd m have
the opposite sign (p = -y, z, -x).  H and D of spinors are put together as docs/conventions.md says.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from nearsight.core.basis import Basis
from nearsight.core.calculation import Calculation, Provenance
from nearsight.core.errors import BadInput
from nearsight.core.reading import LARGEST, read_text, regular_file
from nearsight.core.spin import COLLINEAR, NONE, SPINOR, Spin
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.formats.assembly import Assembly, basis_of
from nearsight.formats.files import one_inside
from nearsight.formats.format import Format
from nearsight.formats.levels import KEY, levels_beside
from nearsight.formats.orders import SIESTA
from nearsight.formats.siesta_files import (
    Kind,
    SiestaMatrices,
    read_dm,
    read_hsx,
    read_netcdf,
    read_tshs,
    shells_of,
)

_READERS: dict[str, Callable[[Path], SiestaMatrices]] = {".nc": read_netcdf, ".HSX": read_hsx, ".TSHS": read_tshs}
RY = 0.5  # Ha


class Siesta(Format):
    """A folder of a run, or one of its files `.nc`, `.HSX`, `.TSHS`."""

    name = "siesta"
    holds = frozenset({"overlap", "hamiltonian", "density_matrix", "none", "collinear", "spinor"})

    def recognises(self, path: Path) -> bool:
        """One of the three files, itself or in the folder; a `.nc` must be SIESTA's."""
        return _main_file(path) is not None

    def read(self, path: Path) -> Calculation:
        """Of the fullest file of a run (Ry -> Ha); the density matrix also from a .DM beside it.

        Raises BadInput where there is none, where structure or orbitals are not told, or for a file that is damaged.
        """
        file = _main_file(path)
        if file is None:
            raise BadInput(f"{path} holds none of SIESTA's {', '.join(_READERS)}: run SIESTA with SaveHS or CDF.Save")
        found = _with_structure(_READERS[file.suffix](file), file)
        if found.cell is None or found.positions is None or found.kind_of is None:
            raise BadInput(f"{file} does not tell the structure: put the run's .XV and .ORB_INDX beside it")
        numbers = [_number(found.kinds[n], file) for n in found.kind_of.tolist()]
        basis = basis_of(numbers, [found.kinds[n].shells for n in found.kind_of.tolist()], str(file))
        _check_orbitals(found, basis, file)
        structure = Structure(
            torch.tensor(found.cell, dtype=torch.float64),
            torch.tensor(found.positions, dtype=torch.float64),
            torch.tensor(numbers, dtype=torch.int64),
        )
        assembly = Assembly.of_elements(basis, SIESTA, found.row, found.column, found.R, str(file))
        matrices: dict[str, Any] = {}
        if found.S is not None:
            matrices["overlap"] = assembly.matrix(_finite(found.S, file)[None], NONE)
        if found.H is not None:
            spin, values = _hamiltonian(_finite(found.H, file) * RY)
            matrices["hamiltonian"] = assembly.matrix(values, spin)
        D, listed = found.D, assembly
        beside = file.with_suffix(".DM")
        if D is None and beside.is_file():
            density = read_dm(beside)
            D = density.D
            listed = Assembly.of_elements(basis, SIESTA, density.row, density.column, density.R, str(beside))
        if D is not None:
            spin, values = _density_matrix(_finite(D, file))
            matrix = listed.matrix(values, spin)
            matrices["density_matrix"] = matrix if listed is assembly else matrix.on(assembly.layout)
        levels = levels_beside(file, structure, None if found.fermi is None else found.fermi * RY)
        return Calculation(
            structure,
            **matrices,
            fermi_level=None if found.fermi is None else found.fermi * RY,
            electrons=found.electrons,
            provenance=Provenance("SIESTA", None, path, ("SIESTA's signs of orbitals", *found.notes)),
            result={} if levels is None else {KEY: levels.to_record()},
        )


def _check_orbitals(found: SiestaMatrices, basis: Basis, file: Path) -> None:
    """As many orbitals as rows, and each atom's where the file puts them."""
    last = basis.offsets[1:].numpy()
    told = last if found.last_orbital is None else found.last_orbital
    if int(found.row.max(initial=-1)) + 1 != basis.size or told.tolist() != last.tolist():
        raise BadInput(f"{file}: the orbitals of its atoms do not make the {basis.size} of its shells: it is damaged")


def _main_file(path: Path) -> Path | None:
    """The file that holds H and S: itself, or the fullest in a folder."""
    if path.is_file():
        known = path.suffix in _READERS and (path.suffix != ".nc" or _is_siesta_netcdf(path))
        return path if known else None
    for suffix in _READERS:
        found = one_inside(path, f"*{suffix}")
        if found is not None and (suffix != ".nc" or _is_siesta_netcdf(found)):
            return found
    return None


def _is_siesta_netcdf(path: Path) -> bool:
    try:
        with h5py.File(path, "r") as file:
            return "SPARSE" in file and "BASIS" in file
    except (OSError, RuntimeError, KeyError):
        return path.name == "siesta.nc" or one_inside(path.parent, "*.fdf") is not None  # damaged: said when it is read


def _hamiltonian(H: NDArray[np.float64]) -> tuple[Spin, NDArray[Any]]:
    """1, 2, 4 (non-collinear) or 8 (spin-orbit) components as the matrices of a spin."""
    if len(H) <= 2:
        return (NONE, COLLINEAR)[len(H) - 1], H
    if len(H) == 4:
        return SPINOR, np.stack([H[0] + 0j, H[2] - 1j * H[3], H[2] + 1j * H[3], H[1] + 0j])
    return SPINOR, np.stack([H[0] - 1j * H[4], H[6] - 1j * H[7], H[2] + 1j * H[3], H[1] - 1j * H[5]])


def _density_matrix(D: NDArray[np.float64]) -> tuple[Spin, NDArray[Any]]:
    """A non-collinear D without spin-orbit coupling is SIESTA's average over orbital transposition."""
    if len(D) <= 2:
        return (NONE, COLLINEAR)[len(D) - 1], D
    if len(D) == 4:
        return SPINOR, np.stack([D[0] + 0j, D[2] - 1j * D[3], D[2] + 1j * D[3], D[1] + 0j])
    return SPINOR, np.stack([D[0] + 1j * D[4], D[2] - 1j * D[3], D[6] + 1j * D[7], D[1] + 1j * D[5]])


def _with_structure(found: SiestaMatrices, file: Path) -> SiestaMatrices:
    """With what the main file does not tell, from `.XV` and `.ORB_INDX` beside it."""
    if found.cell is None:
        cell, positions, kind_of, numbers = _read_xv(file.with_suffix(".XV"))
        kinds = tuple(
            replace(k, number=next((z for z, s in zip(numbers, kind_of.tolist(), strict=True) if s == n), None))
            for n, k in enumerate(found.kinds)
        )
        found = replace(found, cell=cell, positions=positions, kind_of=kind_of, kinds=kinds)
    if found.positions is not None and not found.kinds:
        kinds, kind_of = _read_orbital_index(file.with_suffix(".ORB_INDX"), len(found.positions))
        found = replace(found, kinds=kinds, kind_of=kind_of)
    if "distances" in found.notes:  # r_j + R - r_i in place of R
        assert found.cell is not None and found.positions is not None and found.kind_of is not None
        counts = [sum(2 * l + 1 for l in found.kinds[n].shells) for n in found.kind_of.tolist()]
        atom = np.repeat(np.arange(len(counts)), counts)
        if len(atom) <= max(found.row.max(), found.column.max()):
            raise BadInput(
                f"{file.with_suffix('.XV')} has too few atoms for the orbitals of {file.name}: is it another run's?"
            )
        shift = found.R - (found.positions[atom[found.column]] - found.positions[atom[found.row]])
        fractional = shift @ np.linalg.inv(found.cell)
        if not found.R.any():
            fractional = np.zeros_like(fractional)  # Gamma alone: everything is folded into one cell
        if len(fractional) and np.abs(fractional - fractional.round()).max() > 1e-3:
            raise BadInput(f"{file} and {file.with_suffix('.XV')} are not of one structure: run SIESTA again")
        notes = tuple(n for n in found.notes if n != "distances")
        found = replace(found, R=fractional.round().astype(np.int64), notes=notes)
    return replace(found, kinds=tuple(_known(k, file) for k in found.kinds))


def _read_xv(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], list[int]]:
    """Cell and positions [Bohr], species from 0, atomic numbers."""
    try:
        lines = read_text(path, LARGEST, "file of SIESTA's").splitlines()
        cell = np.array([[float(w) for w in line.split()[:3]] for line in lines[:3]])
        rows = [line.split() for line in lines[4 : 4 + int(lines[3].split()[0])]]
        positions = np.array([[float(w) for w in row[2:5]] for row in rows])
        return cell, positions, np.array([int(r[0]) - 1 for r in rows]), [int(r[1]) for r in rows]
    except (OSError, ValueError, IndexError) as error:
        raise BadInput(
            f"{path} is needed for the structure (HSX had none before SIESTA 5) but cannot be read"
        ) from error


def _read_orbital_index(path: Path, atoms: int) -> tuple[tuple[Kind, ...], NDArray[np.int64]]:
    """Species by their orbitals' angular momenta, of the atoms of the unit cell."""
    per_atom: dict[int, tuple[str, int, list[int]]] = {}
    try:
        lines = read_text(path, LARGEST, "file of SIESTA's").splitlines()
        orbitals = int(lines[0].split()[0])
        for line in [line for line in lines[1:] if line.split() and line.split()[0].isdigit()][:orbitals]:
            _, atom, species, label, _, _, l = line.split()[:7]
            per_atom.setdefault(int(atom) - 1, (label, int(species) - 1, []))[2].append(int(l))
        kinds = {s: Kind(label, None, shells_of(ls, path)) for label, s, ls in per_atom.values()}
        kind_of = np.array([sorted(kinds).index(per_atom[n][1]) for n in range(atoms)])
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise BadInput(f"{path} is needed for the angular momenta of the orbitals but cannot be read") from error
    return tuple(kinds[n] for n in sorted(kinds)), kind_of


def _known(kind: Kind, file: Path) -> Kind:
    """With its atomic number: from the .ion.xml of its label, the input's species, or the label itself (Fe.1, C_surface)."""
    if kind.number is not None:
        return kind
    ion = file.parent / f"{kind.label}.ion.xml"
    if ion.is_file():
        found = _number_in_ion_xml(ion)
        if found is not None:
            return replace(kind, number=found)
    for text in sorted(file.parent.glob("*.fdf")):
        line = re.search(
            rf"^\s*\d+\s+(-?\d+)\s+{re.escape(kind.label)}(?:\s|$)",
            read_text(text, what="fdf file", lossy=True),
            re.MULTILINE,
        )
        if line:
            return replace(kind, number=abs(int(line.group(1))) % 200)
    symbol = re.match(r"[A-Z][a-z]?", kind.label)
    for candidate in (symbol.group(), symbol.group()[:1]) if symbol else ():
        if candidate in SYMBOLS[1:]:
            return replace(kind, number=SYMBOLS.index(candidate))
    return kind


def _number_in_ion_xml(path: Path) -> int | None:
    regular_file(path, LARGEST, ".ion.xml")
    with path.open(errors="replace") as file:
        head = re.search(r"<z>\s*(\d+)\s*</z>", file.read(100_000))
    return int(head.group(1)) if head else None


def _number(kind: Kind, file: Path) -> int:
    if kind.number is None or not 0 < kind.number < len(SYMBOLS):
        raise BadInput(
            f"{file}: the element of the species {kind.label!r} is not known: put the run's .fdf or .ion.xml files beside it"
        )
    return kind.number


def _finite(values: NDArray[np.float64], file: Path) -> NDArray[np.float64]:
    if not np.isfinite(values).all():
        raise BadInput(f"{file} holds numbers that are not finite: it is damaged, copy it again")
    return values
