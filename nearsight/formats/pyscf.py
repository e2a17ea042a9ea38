"""PySCF: molecules and crystals with any functional, hybrids too, from a checkpoint file or from the object in memory.

A checkpoint holds C and e of F C = S C e, so that S = (C C^dagger)^-1 and F = S C e C^dagger S need no integrals: it is read
without PySCF and without evaluating anything that stands in it.  In a crystal M(R) = 1/N sum_k exp(-2 pi i k.R) M(k) over
the run's k-mesh, on the cells of its supercell nearest to each pair of atoms, those at equal distance sharing it: M(k) is
exact at the mesh, and between as good as what stands at the supercell's edge is small, which the calculation's notes tell.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation, Provenance
from nearsight.core.errors import BadInput
from nearsight.core.spin import COLLINEAR, NONE, SPINOR, Spin
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.core.units import HARTREE_EV
from nearsight.formats.assembly import Assembly, basis_of
from nearsight.formats.format import Format
from nearsight.formats.hdf5 import opened, read_set
from nearsight.formats.orders import PYSCF

PYSCF_BOHR = 0.52917721092  # angstrom, the program's own
_INVERSE = 1e-6  # largest element of C^-1 C - 1
_COEFFICIENT = 1e6  # largest coefficient of an orbital in normalised functions, which nearly dependent ones reach
_ROOM = 20.0  # Bohr of vacuum around a molecule, which has no cell
_MOST_ORBITALS = 20_000


class PySCF(Format):
    """A checkpoint file (`mf.chkfile`), whatever its name."""

    name = "pyscf"
    holds = frozenset({"overlap", "hamiltonian", "density_matrix", "none", "collinear", "spinor"})

    def recognises(self, path: Path) -> bool:
        """An HDF5 file with `mol` and `scf`; or the ending, where it is not HDF5."""
        try:
            if not path.is_file() or not h5py.is_hdf5(path):
                return path.is_file() and path.suffix in (".chk", ".chkfile")
            with h5py.File(path, "r") as file:
                return "mol" in file and "scf" in file
        except (OSError, RuntimeError):
            return False

    def read(self, path: Path) -> Calculation:
        """S, F and D of the orbitals C, e, f of the checkpoint.

        Raises BadInput for a file that is damaged, or whose linearly dependent orbitals were removed.
        """
        with opened(path) as file:
            atoms = _atoms(path, _text(path, file))
            C, e, f = (_listed(path, file, f"scf/{n}") for n in ("mo_coeff", "mo_energy", "mo_occ"))
            kpts = read_set(path, file, "scf/kpts") if atoms.cell is not None and "scf/kpts" in file else None
            if isinstance(atoms.cell, np.ndarray) and kpts is None:
                kpts = read_set(path, file, "scf/kpt").reshape(1, 3) if "scf/kpt" in file else np.zeros((1, 3))
            total = float(np.ravel(read_set(path, file, "scf/e_tot"))[0]) if "scf/e_tot" in file else None
        n = atoms.basis.size
        C, e, f = _by_component(path, C, e, f, n, kpts)
        if C.shape[-1] != C.shape[-2]:
            raise BadInput(
                f"{path} has {C.shape[-1]} orbitals of {C.shape[-2]}: some were removed as linearly dependent, so that S and F "
                "cannot be made of them; take nearsight.formats.pyscf.from_pyscf(mf) while the run is in memory"
            )
        inverse = _inverse(path, C)  # S = (C C^dagger)^-1 = inverse^dagger inverse
        dagger = inverse.conj().swapaxes(-1, -2)
        S, F = dagger[:1] @ inverse[:1], (dagger * e[..., None, :]) @ inverse
        D = (C * f[..., None, :]) @ C.conj().swapaxes(-1, -2)
        return _calculation(atoms, kpts, S, F, D, path, total)


def from_pyscf(mf: Any) -> Calculation:
    """The calculation of a converged mean field in memory: molecules (RKS, UKS, GKS) and crystals (their k-point forms).

    mf: any of PySCF's, hybrids and Hartree-Fock too.  Orbitals may have been removed as linearly dependent.
    Raises BadInput for Cartesian Gaussians and for k-points that are reduced by symmetry.
    """
    mol = mf.mol if not hasattr(mf, "cell") else mf.cell
    if mol.cart:
        raise BadInput("Cartesian Gaussians have no fixed l: build the molecule with cart=False")
    lattice = np.asarray(mol.lattice_vectors()) if hasattr(mol, "lattice_vectors") else None
    shells = [(int(b[0]), int(b[1]), int(b[3])) for b in mol._bas]
    symbols = [mol.atom_pure_symbol(n) for n in range(mol.natm)]
    atoms = _assembled("the molecule", symbols, mol.atom_coords(), shells, lattice)
    kpts = None
    if lattice is not None:
        kpts = np.asarray(mf.kpts if hasattr(mf, "kpts") else mf.kpt, dtype=np.float64).reshape(-1, 3)
    S, F, D = (np.asarray(x) for x in (mf.get_ovlp(), mf.get_fock(), mf.make_rdm1()))
    points, n = 1 if kpts is None else len(kpts), atoms.basis.size
    wide = F.shape[-1]
    S, F, D = S.reshape(-1, points, wide, wide), F.reshape(-1, points, wide, wide), D.reshape(-1, points, wide, wide)
    if wide == 2 * n:
        S = S[..., :n, :n]
    return _calculation(atoms, kpts, S, F, D, None, float(mf.e_tot))


@dataclass(frozen=True, eq=False)
class _Atoms:
    """Structure, orbitals, and the lattice (None for a molecule, whose structure has a box of vacuum)."""

    structure: Structure
    basis: Basis
    cell: NDArray[np.float64] | None


def _text(path: Path, file: h5py.File) -> dict[str, Any]:
    """The molecule, as JSON."""
    found = file["mol"][()]
    try:
        table = json.loads(found.decode() if isinstance(found, bytes) else str(found))
        if not isinstance(table, dict):
            raise ValueError("it is no table")
        return table
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: its molecule cannot be read ({error}): write it with a current PySCF") from error


def _atoms(path: Path, mol: dict[str, Any]) -> _Atoms:
    try:
        if mol.get("cart"):
            raise BadInput(f"{path} has Cartesian Gaussians, which have no fixed l: run PySCF with cart=False")
        symbols = [re.match(r"[A-Za-z]+", str(a[0])).group().capitalize() for a in mol["_atom"]]  # type: ignore[union-attr]
        positions = np.array([a[1] for a in mol["_atom"]], dtype=np.float64)  # Bohr
        shells = [(int(b[0]), int(b[1]), int(b[3])) for b in mol["_bas"]]
        lattice = None
        if mol.get("a") is not None:
            a = mol["a"]
            numbers = re.findall(r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?", a) if isinstance(a, str) else np.ravel(a)
            lattice = np.array(numbers, dtype=np.float64).reshape(3, 3)
            if not re.match(r"b|au", str(mol.get("unit", "angstrom")), re.IGNORECASE):
                lattice = lattice / PYSCF_BOHR
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise BadInput(
            f"{path} does not tell the molecule as PySCF writes it: {type(error).__name__} {error}"
        ) from error
    return _assembled(str(path), symbols, positions, shells, lattice)


def _assembled(
    name: str,
    symbols: list[str],
    positions: NDArray[np.float64],
    shells: list[tuple[int, int, int]],
    lattice: NDArray[np.float64] | None,
) -> _Atoms:
    """shells: (atom, l, contractions) in the order of the orbitals."""
    unknown = [s for s in symbols if s not in SYMBOLS[1:]]
    if unknown:
        raise BadInput(f"{name} has the atom {unknown[0]!r}, which is of no element: ghost atoms cannot be read")
    by_atom: list[list[int]] = [[] for _ in symbols]
    order = [atom for atom, _, _ in shells]
    if order != sorted(order) or any(not 0 <= a < len(symbols) for a in order):
        raise BadInput(f"{name}: its shells are not listed atom by atom")
    if sum((2 * l + 1) * n for _, l, n in shells) > _MOST_ORBITALS or any(l < 0 or n < 1 for _, l, n in shells):
        raise BadInput(f"{name} declares shells that no molecule has")
    for atom, l, contractions in shells:
        by_atom[atom] += [l] * contractions
    numbers = [SYMBOLS.index(s) for s in symbols]
    basis = basis_of(numbers, [tuple(s) for s in by_atom], name)
    box = lattice
    if box is None:
        box = np.diag(positions.max(0) - positions.min(0) + _ROOM)
    structure = Structure(torch.tensor(box), torch.tensor(positions), torch.tensor(numbers, dtype=torch.int64))
    return _Atoms(structure, basis, lattice)


def _listed(path: Path, file: h5py.File, name: str) -> NDArray[Any]:
    """An array, or a list of arrays of one shape (of each k-point, of each spin)."""
    if f"{name}__from_list__" in file:
        group = f"{name}__from_list__"
        parts = []
        for key in sorted(k.removesuffix("__from_list__") for k in file[group]):
            parts.append(_listed(path, file, f"{group}/{key}"))
        if len({p.shape for p in parts}) != 1:
            raise BadInput(
                f"{path}: {name} has another number of orbitals at another k-point: F cannot be made of them"
            )
        return np.stack(parts)
    return read_set(path, file, name)


def _inverse(path: Path, C: NDArray[Any]) -> NDArray[Any]:
    """C^-1, which makes S: of orbitals that are none it is no inverse, or none to any digit."""
    try:
        inverse = np.linalg.inv(C)
        exact = bool(np.abs(inverse @ C - np.eye(C.shape[-1])).max() < _INVERSE and np.abs(C).max() < _COEFFICIENT)
    except np.linalg.LinAlgError:
        exact = False
    if not exact:
        raise BadInput(f"{path}: its orbitals are linearly dependent to all digits: it is damaged, copy it again")
    return inverse


def _by_component(
    path: Path, C: NDArray[Any], e: NDArray[Any], f: NDArray[Any], n: int, kpts: NDArray[Any] | None
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """C [spins, k, rows, columns], e and f [spins, k, columns]; rows are n, or 2n of spinors."""
    points = 1 if kpts is None else len(kpts)
    rows, columns = C.shape[-2:] if C.ndim >= 2 else (0, 0)
    spins = int(C.size // max(1, points * rows * columns))
    if rows not in (n, 2 * n) or spins not in (1, 2) or spins * points * columns != e.size or e.size != f.size:
        raise BadInput(
            f"{path}: coefficients {C.shape}, energies {e.shape} and {points} k-points do not fit {n} orbitals: it was cut "
            "off, or k-points were reduced by symmetry; run PySCF without k-point symmetry"
        )
    return (
        C.reshape(spins, points, rows, columns),
        e.reshape(spins, points, columns).astype(np.float64),
        f.reshape(spins, points, columns).astype(np.float64),
    )


def _calculation(
    atoms: _Atoms,
    kpts: NDArray[np.float64] | None,
    S: NDArray[Any],
    F: NDArray[Any],
    D: NDArray[Any],
    path: Path | None,
    total: float | None,
) -> Calculation:
    """S, F and D: [spins, k, rows, rows] in PySCF's order."""
    n = atoms.basis.size
    spin: Spin = SPINOR if F.shape[-1] == 2 * n else (NONE, COLLINEAR)[len(F) - 1]
    if spin is SPINOR:
        S = S[..., :n, :n]
        F, D = (np.stack([m[0, :, s * n :, t * n :][:, :n, :n] for s, t in SPINOR.blocks]) for m in (F, D))
    elif len(D) == 2 and len(F) == 1:  # restricted open shell
        D = D.sum(0, keepdims=True)
    notes = ["PySCF's order of p orbitals"]
    if kpts is None:
        assembly = _molecule(atoms)
        overlap, H, density = (_elements(assembly, m[:, 0], kind) for m, kind in ((S[:1], NONE), (F, spin), (D, spin)))
        notes.append(f"a molecule, in a box with {_ROOM:g} Bohr of vacuum")
    else:
        mesh = _Mesh.of(kpts, atoms)
        overlap, H = (mesh.to_cells(m, kind, mesh.share) for m, kind in ((S[:1], NONE), (F, spin)))
        density = mesh.to_cells(
            D, spin, np.ones_like(mesh.share)
        )  # periodic in the supercell, for Tr[D M] over M's cells
        edge = mesh.at_edge(H) * HARTREE_EV * 1000
        told = "x".join(map(str, mesh.size))
        notes.append(f"exact on the k-mesh {told}; elements of H at the edge of its supercell reach {edge:.2g} meV")
    electrons = float(density.trace(overlap).real)
    return Calculation(
        atoms.structure,
        overlap=overlap,
        hamiltonian=H,
        density_matrix=density,
        electrons=round(electrons, 6),
        energies={} if total is None else {"total": total},
        provenance=Provenance("PySCF", None, path, tuple(notes)),
    )


def _molecule(atoms: _Atoms) -> Assembly:
    n = atoms.basis.size
    row, column = (x.ravel() for x in np.meshgrid(np.arange(n), np.arange(n), indexing="ij"))
    return Assembly.of_elements(atoms.basis, PYSCF, row, column, np.zeros((n * n, 3), np.int64), "the molecule")


def _elements(assembly: Assembly, values: NDArray[Any], spin: Spin) -> BlockMatrix:
    """[components, n, n] as a matrix; real unless spinors are complex."""
    flat = values.reshape(len(values), -1)
    return assembly.matrix(flat.astype(np.complex128) if spin is SPINOR else flat.real, spin)


@dataclass(frozen=True, eq=False)
class _Mesh:
    """k-points of a whole mesh, and for each pair of atoms the cells of its supercell nearest to it.

    size: points along each axis.  k: fractional [k, 3].  i, j: [entries] atoms.  R: [entries, 3].  share: 1 / number of cells
    at the same distance that stand for one class [entries].  distance: [entries], Bohr.
    """

    atoms: _Atoms
    size: tuple[int, int, int]
    k: NDArray[np.float64]
    i: NDArray[np.int64]
    j: NDArray[np.int64]
    R: NDArray[np.int64]
    share: NDArray[np.float64]
    distance: NDArray[np.float64]

    @staticmethod
    def of(kpts: NDArray[np.float64], atoms: _Atoms) -> _Mesh:
        """Raises BadInput for k-points that are no whole uniform mesh."""
        cell = atoms.structure.cell.numpy()
        k = kpts @ cell.T / (2 * np.pi)
        size = _mesh_size(k)
        x = atoms.structure.positions.numpy()
        count = len(x)
        classes = np.array(list(product(*map(range, size))))
        images = np.array(list(product(range(-2, 3), repeat=3))) * size
        found: list[tuple[Any, ...]] = []
        for i, j in product(range(count), repeat=2):
            # the cell of each class that is nearest by fractional coordinates, then its images
            between = np.linalg.solve(cell.T, x[j] - x[i])
            near = classes - size * np.round((classes + between) / size).astype(np.int64)
            R = near[:, None] + images[None]
            r = np.linalg.norm(x[j] - x[i] + R @ cell, axis=-1)
            closest = r < r.min(1, keepdims=True) + 1e-5
            which, image = np.nonzero(closest)
            found.append(
                (
                    np.full(len(which), i),
                    np.full(len(which), j),
                    R[which, image],
                    1 / closest.sum(1)[which],
                    r[which, image],
                )
            )
        return _Mesh(atoms, size, k, *(np.concatenate(part) for part in zip(*found, strict=True)))

    def to_cells(self, dense: NDArray[Any], spin: Spin, weights: NDArray[np.float64]) -> BlockMatrix:
        """M(k) [components, k, n, n] -> M(R), each entry with its weight [entries]."""
        basis = self.atoms.basis
        phases = np.exp(-2j * np.pi * self.R @ self.k.T) / len(self.k)  # [entries, k]
        offsets = basis.offsets.numpy()
        values = []
        for e in range(len(self.i)):
            a, b = (slice(offsets[n], offsets[n + 1]) for n in (self.i[e], self.j[e]))
            block = np.einsum("k,ckab->cab", phases[e], dense[:, :, a, b]) * weights[e]
            values.append(block.reshape(len(dense), -1))
        assembly = Assembly.of_blocks(basis, PYSCF, self.i, self.j, self.R, "the k-mesh")
        flat = np.concatenate(values, axis=1)
        return assembly.matrix(flat if spin is SPINOR else flat.real, spin).hermitian()

    def at_edge(self, matrix: BlockMatrix) -> float:
        """The largest element among cells that share their class with others: what the supercell cuts."""
        shared = self.share < 1 - 1e-9
        if not shared.any():
            return 0.0
        pairs = matrix.pairs
        place = pairs.find(*(torch.as_tensor(v[shared]) for v in (self.i, self.j, self.R)))
        marked = torch.zeros(len(pairs), dtype=torch.bool)
        marked[place] = True
        return float(matrix.values[:, marked[matrix.layout.pair]].abs().max())


def _mesh_size(k: NDArray[np.float64]) -> tuple[int, int, int]:
    sizes = []
    for axis in (k - k[0]).T:
        steps = np.unique(np.round(axis % 1 % (1 - 1e-9), 6))
        sizes.append(len(steps))
    size = (sizes[0], sizes[1], sizes[2])
    steps = (k - k[0]) * size
    whole = np.unique(np.round(steps).astype(np.int64) % size, axis=0)
    if np.abs(steps - np.round(steps)).max() > 1e-5 or len(whole) != len(k) or len(k) != np.prod(size):
        raise BadInput(
            f"{len(k)} k-points are no whole uniform mesh, which M(R) needs: run PySCF with cell.make_kpts([n, n, n]), "
            "without k-point symmetry"
        )
    return size
