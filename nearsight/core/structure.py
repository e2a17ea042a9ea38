"""Where the atoms are."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nearsight.core.display import drawn_by
from nearsight.core.errors import BadInput, Notice
from nearsight.core.units import BOHR_ANG

if TYPE_CHECKING:
    from ase import Atoms

SYMBOLS = (
    "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo "
    "Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl "
    "Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr"
).split()


def atomic_number(symbol: str) -> int:
    """Of a chemical symbol. Raises BadInput for one that is none."""
    if symbol in SYMBOLS[1:]:
        return SYMBOLS.index(symbol)
    near = symbol.capitalize()
    raise BadInput(f"{symbol!r} is no element" + (f": write {near}" if near in SYMBOLS[1:] else ""))


NOBLE_GASES = (2, 10, 18, 36, 54, 86, 118)  # the ends of the periods

MOST_ATOMS = 1_000_000  # of a supercell
#: what a structure may say of how it was made, under these names in the `info` of ASE's Atoms
PROVENANCE = ("generator", "parameters", "seed", "index", "parent", "prototype", "details", "ancestors")
LARGEST_ANG = 1e5  # of cell vectors and coordinates: ten micrometres
NARROWEST_ANG = 0.3  # between opposite faces of a cell: an atom would lie on its own image
APART_ANG = 2.5  # atoms nearer than this to an image across a direction that is not periodic are bonded to it


def period_of(number: int) -> int:
    """Of the periodic table, from 1, by atomic number."""
    return 1 + sum(number > z for z in NOBLE_GASES)


@dataclass(frozen=True, eq=False, repr=False)
class Structure:
    """A crystal (or a molecule or sheet in a box), periodic in all three directions.

    cell: lattice vectors as rows [3, 3], Bohr.  positions: [atoms, 3], Bohr, Cartesian.  numbers: atomic numbers [atoms].
    moments: initial magnetic moments that the input states, [atoms] along one axis or vectors [atoms, 3] [mu_B]; what a
    calculation with spin begins with if it is told no others.  charges: initial charges that the input states [atoms], e.
    provenance: how it was made, if the input says so (names of `PROVENANCE`); no result depends on it.
    periodic: whether the input says that it goes on along each cell vector. Every calculation is periodic; along one where
    it is said to end one k-point is taken where no mesh is given.
    """

    cell: Tensor
    positions: Tensor
    numbers: Tensor
    moments: Tensor | None = None
    charges: Tensor | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    periodic: tuple[bool, bool, bool] = (True, True, True)

    @staticmethod
    def from_ase(atoms: Atoms) -> Structure:
        """The structure of ASE's Atoms (angstrom), float64 on the CPU; initial moments and charges come along.

        Raises BadInput for what would be lost in silence: sites that are occupied in part or by several elements; a direction
        without a cell vector; one that is said not to be periodic but has atoms within 2.5 angstrom of their images.
        """
        if len(atoms) and not 0 < int(atoms.numbers.min()) <= int(atoms.numbers.max()) < len(SYMBOLS):
            raise BadInput(f"an atom has none of the atomic numbers from 1 to {len(SYMBOLS) - 1}: name its element")
        name = atoms.get_chemical_formula()
        if len(atoms) == 0:
            raise BadInput("the Atoms are empty: give at least one atom")
        _check_occupancy(atoms, name)
        _check_words(atoms, name)
        lengths = np.linalg.norm(atoms.cell.array, axis=1)
        if atoms.cell.volume <= 1e-6 * lengths.max() ** 3:
            raise BadInput(
                f"{name} has no cell in every direction: put it in a box, as atoms.center(vacuum=5) does, or give the cell "
                "three independent vectors (a cell of zero volume has none)"
            )
        gaps = _gaps(atoms)
        for axis in range(3):
            if not atoms.pbc[axis] and gaps[axis] < APART_ANG:
                raise BadInput(
                    f"{name} is not periodic along its cell vector {'abc'[axis]}, but its atoms are {gaps[axis]:.2f} angstrom "
                    f"from their images there: set atoms.pbc = True for a crystal, or atoms.center(vacuum=5, axis={axis})"
                )
        moments, charges = _told_moments(atoms), atoms.get_initial_charges()
        if not charges.any():
            charges = np.full(len(atoms), _told_charge(atoms) / len(atoms))
        return Structure(
            torch.tensor(atoms.cell.array / BOHR_ANG, dtype=torch.float64),
            torch.tensor(atoms.positions / BOHR_ANG, dtype=torch.float64),
            torch.tensor(atoms.numbers, dtype=torch.int64),
            torch.tensor(moments, dtype=torch.float64) if moments.any() else None,
            torch.tensor(charges, dtype=torch.float64) if charges.any() else None,
            {k: plain(atoms.info[k]) for k in PROVENANCE if k in atoms.info} if atoms.info.get("generator") else {},
            (bool(atoms.pbc[0]), bool(atoms.pbc[1]), bool(atoms.pbc[2])),
        )

    def to_ase(self) -> Atoms:
        """The structure as ASE's Atoms (angstrom), periodic in all directions."""
        from ase import Atoms

        cell, positions = (x.detach().cpu().double().numpy() * BOHR_ANG for x in (self.cell, self.positions))
        moments, charges = (None if x is None else x.detach().cpu().numpy() for x in (self.moments, self.charges))
        return Atoms(
            numbers=self.numbers.cpu().numpy(),
            positions=positions,
            cell=cell,
            pbc=True,
            magmoms=moments,
            charges=charges,
            info=dict(self.provenance),
        )

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def symbols(self) -> list[str]:
        """Chemical symbol of each atom."""
        return [SYMBOLS[z] for z in self.numbers.tolist()]

    @property
    def formula(self) -> str:
        """Elements in the order of their first atoms, with their numbers: H2O of H, O, H."""
        symbols = self.symbols
        counts = {s: symbols.count(s) for s in dict.fromkeys(symbols)}
        return "".join(f"{s}{n if n > 1 else ''}" for s, n in counts.items())

    @property
    def volume(self) -> Tensor:
        """[Bohr^3]"""
        return torch.linalg.det(self.cell).abs()

    @property
    def reciprocal(self) -> Tensor:
        """Reciprocal lattice vectors as rows, with 2 pi [1/Bohr]."""
        return 2 * torch.pi * torch.linalg.inv(self.cell).T

    def rotate(self, rotation: Tensor) -> Structure:
        """The structure with every vector turned by an element [3, 3] of O(3); moments are axial vectors."""
        r = rotation.to(self.cell)
        moments = self.moments
        if moments is not None and moments.ndim == 2:
            moments = moments @ (torch.linalg.det(r) * r).T.to(moments)
        return replace(self, cell=self.cell @ r.T, positions=self.positions @ r.T, moments=moments)

    def to(self, *args: Any, **kwargs: Any) -> Structure:
        """Cell and positions moved to a dtype and device; atomic numbers follow the device."""
        cell = self.cell.to(*args, **kwargs)
        moments, charges = (None if x is None else x.to(*args, **kwargs) for x in (self.moments, self.charges))
        return Structure(
            cell,
            self.positions.to(*args, **kwargs),
            self.numbers.to(cell.device),
            moments,
            charges,
            self.provenance,
            self.periodic,
        )

    def reordered(self, order: Sequence[int]) -> Structure:
        """The structure whose atom n is atom order[n] of this one."""
        index = torch.tensor(list(order), dtype=torch.int64, device=self.numbers.device)
        moments, charges = (None if x is None else x[index] for x in (self.moments, self.charges))
        positions, numbers = self.positions[index], self.numbers[index]
        return replace(self, positions=positions, numbers=numbers, moments=moments, charges=charges)

    _repr_html_ = drawn_by("nearsight.report.notebook:structure")

    def __repr__(self) -> str:
        try:
            a, b, c = (self.cell.detach().norm(dim=1) * BOHR_ANG).tolist()
            return f"Structure({self.formula}, {len(self)} atoms, {a:.2f} x {b:.2f} x {c:.2f} angstrom)"
        except (RuntimeError, IndexError, ValueError):  # of no sound structure
            return f"Structure({len(self)} atoms)"


def check_bounds(structure: Structure, name: str = "the structure") -> Structure:
    """The structure itself, if its numbers can be those of one; whether atoms lie on each other is not asked.

    Raises BadInput: no atoms; an element that is none; coordinates that are not finite or beyond 10^5 angstrom; a cell of
    zero volume, or flatter than 0.3 angstrom.
    """
    cell, positions, numbers = (
        x.detach().cpu().numpy() for x in (structure.cell, structure.positions, structure.numbers)
    )
    if len(numbers) == 0:
        raise BadInput(f"{name} holds no atoms")
    if cell.shape != (3, 3) or positions.shape != (len(numbers), 3):
        raise BadInput(f"{name} needs three lattice vectors and a position for each atom, of three numbers each")
    if not (np.isfinite(cell).all() and np.isfinite(positions).all()):
        raise BadInput(f"{name} has coordinates that are not finite")
    largest = max(float(np.abs(cell).max()), float(np.abs(positions).max())) * BOHR_ANG
    if largest > LARGEST_ANG:
        raise BadInput(
            f"{name} has a coordinate of {largest:.3g} angstrom: {LARGEST_ANG:g} is the most that can be meant"
        )
    unknown = np.flatnonzero((numbers <= 0) | (numbers >= len(SYMBOLS)))
    if len(unknown):
        raise BadInput(f"{name}: atom {unknown[0]} is of no known element")
    faces = np.cross(cell[[1, 2, 0]], cell[[2, 0, 1]])
    volume = abs(float(cell[0] @ faces[0]))
    if volume <= 1e-6 * float(np.linalg.norm(cell, axis=1).max()) ** 3:
        raise BadInput(
            f"{name} has a cell of zero volume: give three independent lattice vectors "
            "(a sheet or a wire needs a vector through the empty space too)"
        )
    height = volume / float(np.linalg.norm(faces, axis=1).max()) * BOHR_ANG
    if height < NARROWEST_ANG:
        raise BadInput(f"{name} has a cell that is {height:.2g} angstrom high: are its vectors in angstrom?")
    return structure


def supercell(structure: Structure, repeats: tuple[int, int, int]) -> Structure:
    """The structure repeated along its lattice vectors; atoms of one cell stay together.

    Raises BadInput for repeats below 1, or so many that no calculation can follow.
    """
    if min(repeats) < 1 or prod(repeats) * len(structure) > MOST_ATOMS:
        raise BadInput(
            f"a supercell of {'x'.join(map(str, repeats))} cells of {len(structure)} atoms: take at least 1 along each vector, "
            f"and at most {MOST_ATOMS} atoms in all"
        )
    cells = structure.cell.new_tensor(list(product(*(range(n) for n in repeats))))
    positions = (structure.positions[None] + (cells @ structure.cell)[:, None]).reshape(-1, 3)
    scale = structure.cell.new_tensor(repeats)[:, None]
    moments, charges = (
        None if x is None else x.repeat(len(cells), *(1 for _ in x.shape[1:]))
        for x in (structure.moments, structure.charges)
    )
    numbers = structure.numbers.repeat(len(cells))
    return Structure(structure.cell * scale, positions, numbers, moments, charges, periodic=structure.periodic)


def plain(value: Any) -> Any:
    """Numbers, words, lists and tables alone, as JSON has them."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _told_charge(atoms: Atoms) -> float:
    """Of the whole cell [e], where the file's table says it, as the comment of an extended xyz file does; else 0."""
    told = [atoms.info[key] for key in ("charge", "total_charge") if key in atoms.info]
    return float(told[0]) if told and isinstance(told[0], int | float | np.number) else 0.0


def _told_moments(atoms: Atoms) -> np.ndarray:
    """Initial moments [mu_B], by ASE's name or those of other programs' columns."""
    for name in ("initial_magmoms", *MOMENTS):
        found = np.asarray(atoms.arrays.get(name, ()))
        if found.shape in ((len(atoms),), (len(atoms), 3)) and found.dtype.kind in "if" and found.any():
            return found.astype(float)
    return np.zeros(len(atoms))


#: columns of extended xyz files that hold moments of atoms
MOMENTS = ("magmom", "magmoms", "initial_magmom", "magnetic_moment", "magnetic_moments")
#: words of a file's table for the spin of the cell, on whose meaning (2S, 2S + 1, S) programs differ, and what says nothing
_SPINS = {"multiplicity": 1, "spin_multiplicity": 1, "spin": 0, "total_spin": 0, "total_magnetization": 0}
_ANGSTROM = ("angstrom", "angstroms", "ang", "a", "\u00e5")


def _check_words(atoms: Atoms, name: str) -> None:
    """Words of a file's table that alter what its numbers mean: another unit is refused, a spin told that it is not taken."""
    for key, value in atoms.info.items():
        word = str(key).lower()
        if word in ("unit", "units", "length_unit", "length_units", "pos_unit") and isinstance(value, str):
            if value.lower() not in _ANGSTROM:
                raise BadInput(
                    f"{name}: its file says {key}={value}; coordinates are read in angstrom: write them in angstrom"
                )
        elif word in _SPINS and isinstance(value, int | float | np.number) and value != _SPINS[word]:
            warnings.warn(
                f"{name}: {key}={value} of its file is not taken up: give --spin collinear and --total-moment or --moments",
                Notice,
                stacklevel=3,
            )


def _check_occupancy(atoms: Atoms, name: str) -> None:
    """Raises BadInput for sites that ASE's readers say are occupied in part."""
    for site, occupants in (atoms.info.get("occupancy") or {}).items():
        if len(occupants) != 1 or not all(_is_full(x) for x in occupants.values()):
            mixed = ", ".join(f"{x} {symbol}" for symbol, x in occupants.items())
            raise BadInput(
                f"{name}: site {site} is occupied in part ({mixed}): make an ordered cell, such as a supercell of whole atoms"
            )


def _is_full(occupancy: object) -> bool:
    """Whether an occupancy of a CIF is 1, or not stated."""
    try:
        return str(occupancy) in (".", "?") or abs(float(str(occupancy)) - 1) <= 1e-3
    except ValueError:
        return False


def _gaps(atoms: Atoms) -> list[float]:
    """Along each cell vector, the empty height between the atoms and their images [angstrom]."""
    normals = np.linalg.inv(atoms.cell.array).T
    heights = 1 / np.linalg.norm(normals, axis=1)
    along = atoms.positions @ normals.T  # fractional
    return [float((1 - (x.max() - x.min())) * h) for x, h in zip(along.T, heights, strict=True)]
