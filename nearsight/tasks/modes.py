"""Thermal structures: classical harmonic motion in the normal modes of a minimum, with the engine's own forces.

With masses M and second derivatives H of the energy at the minimum, D = M^-1/2 H M^-1/2 has eigenvalues omega_i^2 and
eigenvectors e_i. The Boltzmann distribution of the harmonic energy, exp(-u H u / (2 k_B T)), is that of
    u = M^-1/2 sum_i e_i q_i,    q_i = sqrt(k_B T) / omega_i * N(0, 1),
so that every mode carries k_B T / 2 of potential energy. Nuclei are classical: at these temperatures the quantum motion
of light atoms is wider.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from nearsight.core.display import one_line
from nearsight.core.errors import BadInput, MissingData, NotConverged
from nearsight.core.pairs import neighbours
from nearsight.core.structure import Structure, supercell
from nearsight.core.tables import Table
from nearsight.core.units import AMU_ME, BOHR_ANG, BOLTZMANN_HA, HARTREE_EV
from nearsight.dft.settings import Settings
from nearsight.formats.files import read_json, write_json
from nearsight.formats.registry import read
from nearsight.formats.seal import is_whole, sealed
from nearsight.formats.structures import check_structure
from nearsight.generators.rotations import APART_ANG, check_room, random_rotation, turned
from nearsight.tasks.batch import Report
from nearsight.tasks.digest import Origin, former_digest
from nearsight.tasks.ground_states import Workers, ground_states, origin_before

_FORCE_CONSTANT = HARTREE_EV / BOHR_ANG**2  # Ha/Bohr^2 in eV/angstrom^2
_EQUAL = 2e-5  # gap of omega^2, as a share of it, below which modes are taken as equal
_GENERIC_SEED = 15  # of the matrix that settles signs and bases of equal modes; it must never change: sets depend on it
_STEPS = 200
MOST_COPIES = 100_000  # of one structure


class Modes(Table):
    """Thermal copies of a structure: classical harmonic motion about its minimum.

    count: how many.  temperature_K: of each copy, uniform between these two.  seed: copy n depends on (seed, n) alone.
    supercell: repeats first; only the atoms of the given cell are displaced for the second derivatives.
    molecule: a molecule in its box: rigid rotations cost nothing and are left out, as rigid translations always are.
    rotate: turn each copy of a molecule about its centre by a random rotation.
    relax_ev_per_ang: the largest force that the minimum may have left (the cell stays); null: the structure is one.
    step_ang: displacement for the central differences of forces.
    floor_mev: modes of a lower energy hbar omega, and imaginary ones, move as if they had this one: their amplitude
    sqrt(k_B T) / omega is without bound, where the energy is no longer harmonic, or omega is the error of the forces.
    hessian: folder of another set whose minimum and second derivatives are taken, instead of computing them.
    """

    count: int = Field(gt=0, le=MOST_COPIES)
    temperature_K: tuple[float, float]
    seed: int = Field(0, ge=0)
    supercell: tuple[int, int, int] = (1, 1, 1)
    molecule: bool = False
    rotate: bool = False
    relax_ev_per_ang: float | None = Field(0.01, gt=0)
    step_ang: float = Field(0.02, gt=0, le=0.2)
    floor_mev: float = Field(10.0, gt=0)
    hessian: Path | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Modes:
        low, high = self.temperature_K
        if not 0 < low <= high:
            raise ValueError(f"temperature_K: [{low:g}, {high:g}] must be positive and ascending")
        if min(self.supercell) < 1:
            raise ValueError(f"supercell: {list(self.supercell)} must be at least 1 in each direction")
        if self.rotate and not self.molecule:
            raise ValueError("rotate turns a molecule in its box: add molecule: true, or leave rotate out")
        if self.molecule and self.supercell != (1, 1, 1):
            raise ValueError("a molecule in its box has no supercell: leave one of them out")
        return self


@dataclass(frozen=True, eq=False)
class Harmonic:
    """A minimum and the second derivatives of its energy.

    minimum: the structure.  hessian: d2E/dr dr [3 atoms, 3 atoms], Ha/Bohr^2, symmetric.  molecule: rotations cost nothing.
    """

    minimum: Structure
    hessian: Tensor
    molecule: bool

    __repr__ = one_line

    @cached_property
    def masses(self) -> Tensor:
        """Of each coordinate [3 atoms], in electron masses (ASE's standard atomic weights)."""
        from ase.data import atomic_masses

        return torch.from_numpy(atomic_masses[self.minimum.numbers.numpy()] * AMU_ME).repeat_interleave(3)

    @cached_property
    def rigid(self) -> Tensor:
        """Orthonormal mass-weighted rigid motions [3 atoms, n]: 3 translations; of a molecule 3 rotations, or 2 (linear)."""
        root, n = self.masses.sqrt(), len(self.minimum)
        axes = torch.eye(3, dtype=torch.float64)
        motions = [axes.repeat(n, 1)]
        if self.molecule:
            weights = self.masses[::3, None] / self.masses[::3].sum()
            arms = self.minimum.positions - (weights * self.minimum.positions).sum(0)
            motions.append(torch.stack([torch.linalg.cross(axis.expand(n, 3), arms).flatten() for axis in axes], 1))
        u, s, _ = torch.linalg.svd(root[:, None] * torch.cat(motions, 1), full_matrices=False)
        return u[:, s > 1e-4 * s[0]]

    @cached_property
    def modes(self) -> tuple[Tensor, Tensor]:
        """omega^2 [modes] (Ha^2, ascending) and mass-weighted vectors [3 atoms, modes], without the rigid motions."""
        root = self.masses.sqrt()
        free = torch.linalg.svd(self.rigid)[0][:, self.rigid.shape[1] :]
        squares, vectors = torch.linalg.eigh(free.T @ (self.hessian / root[:, None] / root) @ free)
        return squares, settled(squares, free @ vectors)

    @property
    def energies(self) -> Tensor:
        """hbar omega [modes], Ha; of imaginary modes negative."""
        squares = self.modes[0]
        return squares.sign() * squares.abs().sqrt()

    def displacements(self, kT: float, floor: float, random: np.random.Generator) -> Tensor:
        """u [atoms, 3], Bohr, at k_B T [Ha]; modes below hbar omega = floor [Ha] move as if they had it."""
        q = kT**0.5 / self.energies.clamp(min=floor) * torch.from_numpy(random.normal(size=len(self.energies)))
        return (self.modes[1] @ q / self.masses.sqrt()).reshape(-1, 3)


def settled(squares: Tensor, vectors: Tensor) -> Tensor:
    """Vectors [n, modes] with what eigenvalues leave open chosen the same way everywhere: signs, and bases of equal modes.

    Within each group of equal omega^2 [modes] (ascending), V Q with Q the orthogonal factor of V^T G and G a fixed random
    matrix: of all bases the one nearest to G's projection, whichever V was given.
    """
    generic = torch.from_numpy(np.random.default_rng(_GENERIC_SEED).normal(size=tuple(vectors.shape)))
    gaps = squares.diff() > _EQUAL * squares[1:].abs()
    ends = [*(gaps.nonzero().flatten() + 1).tolist(), len(squares)]
    made, start = [], 0
    for end in ends:
        v = vectors[:, start:end]
        left, _, right = torch.linalg.svd(v.T @ generic[:, start:end])
        made.append(v @ (left @ right))
        start = end
    return torch.cat(made, 1)


def thermal(harmonic: Harmonic, recipe: Modes, index: int) -> Structure:
    """Copy `index` of the recipe: its temperature, its displacements, its rotation, drawn in this order."""
    random = np.random.default_rng([recipe.seed, index])
    kT = BOLTZMANN_HA * float(random.uniform(*recipe.temperature_K))
    steps = harmonic.displacements(kT, recipe.floor_mev / (1000 * HARTREE_EV), random)
    s = harmonic.minimum
    moved = replace(s, positions=s.positions + steps)
    return turned(moved, random_rotation(random)) if recipe.rotate else moved


def harmonic_of(
    structure: Structure, recipe: Modes, scf: Settings, folder: Path, workers: Workers, report: Report
) -> Harmonic:
    """The minimum of the (repeated) structure and its second derivatives, kept in `folder`; what is there is not redone.

    `minimum.json` has the relaxed structure, `0000`, ... the displaced ones with their forces, `modes.json` what came of
    them.  Raises NearsightError: a molecule that touches its images; a relaxation or ground state that does not
    converge; a folder that was used otherwise.
    """
    repeated = _checked(supercell(structure, recipe.supercell), recipe)
    origin = Origin(scf)
    made_from = origin.digest(repeated, _steps(recipe))
    former = former_digest(repeated, origin, _without_outputs(origin_before(folder) or origin), _steps(recipe))
    if (folder / "modes.json").exists():
        kept = _kept(folder / "modes.json")
        if kept.get("digest") not in (made_from, former):
            raise BadInput(f"{folder} was made from another configuration: build into a new folder, or remove it")
        return _of_this(_read(kept, folder, recipe), repeated, folder)
    minimum = _minimum(repeated, recipe, scf, folder / "minimum.json", (made_from, former))
    h, displaced = recipe.step_ang / BOHR_ANG, []
    for coordinate, sign in product(range(3 * len(structure)), (1, -1)):
        step = torch.zeros_like(minimum.positions)
        step.view(-1)[coordinate] = sign * h
        displaced.append(replace(minimum, positions=minimum.positions + step))
    settings = scf.model_copy(update={"outputs": {"forces": True}})
    made = ground_states(displaced, settings, folder, workers, {"scf": settings.model_dump(mode="json")}, report)
    if made.failed:
        name, error = made.failed[0]
        raise NotConverged(
            f"{len(made.failed)} of {made.jobs} displaced structures failed, first {folder / name}: {error}"
        )
    names = [f"{n:0{max(4, len(str(len(displaced) - 1)))}d}" for n in range(len(displaced))]
    forces = np.array([_forces(folder / name) for name in names])
    rows = -(forces[::2] - forces[1::2]) / (2 * recipe.step_ang)  # [3 atoms of the cell, all atoms, 3]
    kept = _table(minimum) | {"supercell": list(recipe.supercell), "hessian_eV_per_Ang2": rows.tolist()}
    harmonic = _read(kept, folder, recipe)
    energies = (1000 * HARTREE_EV * harmonic.energies).tolist()
    write_json(folder / "modes.json", sealed({"digest": made_from, "energies_meV": energies, **kept}))
    return harmonic


def _forces(folder: Path) -> list[list[float]]:
    """Of a displaced structure [atoms, 3], in its own order of atoms [eV/angstrom]."""
    forces = read(folder).in_original_order().forces
    if forces is None:
        raise MissingData(f"{folder} has no forces: remove it, so that it is computed again")
    return (forces * HARTREE_EV / BOHR_ANG).tolist()


def taken_harmonic(structure: Structure, recipe: Modes, folder: Path) -> Harmonic:
    """The minimum and second derivatives that the build of another set left in `folder`, for the same atoms and cell.

    Raises NearsightError where they are of another structure, or not there.
    """
    harmonic = _read(_kept(folder / "modes.json"), folder, recipe)
    return _of_this(harmonic, _checked(supercell(structure, recipe.supercell), recipe), folder)


def _of_this(harmonic: Harmonic, asked: Structure, folder: Path) -> Harmonic:
    found = harmonic.minimum
    if asked.numbers.tolist() != found.numbers.tolist() or not torch.allclose(
        asked.cell, found.cell, rtol=0, atol=1e-6
    ):
        raise BadInput(f"modes: {folder} is of another structure, cell or supercell than this set")
    return harmonic


def second_derivatives(rows: Tensor, repeats: tuple[int, int, int]) -> Tensor:
    """The symmetric Hessian [3 atoms, 3 atoms] of a supercell from the rows of its first cell.

    rows: [3 atoms of a cell, atoms of all cells, 3].  H(a T, b T') = H(a 0, b T' - T), cells T in the order of `supercell`.
    """
    cells = list(product(*(range(n) for n in repeats)))
    place = {cell: n for n, cell in enumerate(cells)}
    size = rows.shape[0]
    blocks = rows.reshape(size, len(cells), size)
    order = [[place[tuple((b - a) % n for a, b, n in zip(t, u, repeats, strict=True))] for u in cells] for t in cells]
    full = torch.stack([blocks[:, row].reshape(size, -1) for row in order]).reshape(size * len(cells), -1)
    return 0.5 * (full + full.T)


def _minimum(
    structure: Structure, recipe: Modes, scf: Settings, place: Path, digests: tuple[str, str | None]
) -> Structure:
    """The structure itself, or relaxed (once: it is kept at `place`).  digests: that it is kept under, and the former."""
    if recipe.relax_ev_per_ang is None:
        return structure
    if place.exists() and (kept := _kept(place)).get("digest") in digests:
        return _structure(kept, place)
    relaxed = _checked(_relaxed(structure, recipe.supercell, scf, recipe.relax_ev_per_ang), recipe)
    write_json(place, sealed({"digest": digests[0], **_table(relaxed)}))
    return relaxed


def _relaxed(structure: Structure, repeats: tuple[int, int, int], scf: Settings, largest: float) -> Structure:
    from ase.optimize import BFGS

    from nearsight.calculator import Nearsight

    settings = scf.model_dump(exclude_unset=True, exclude={"solver": {"start"}, "outputs": True})
    atoms = structure.to_ase()
    atoms.pbc = structure.periodic
    atoms.calc = Nearsight(**settings)
    atoms.set_constraint(_ImagesTogether(repeats))
    if not BFGS(atoms, logfile=None).run(fmax=largest, steps=_STEPS):
        raise NotConverged(
            f"modes: forces above {largest:g} eV/angstrom are left after {_STEPS} steps of relaxation: give a structure "
            "nearer to its minimum, a larger relax_ev_per_ang, or a finer mesh (scf.mesh_cutoff_ry, scf.xc_refinement)"
        )
    return replace(structure, positions=torch.from_numpy(atoms.positions / BOHR_ANG))


class _ImagesTogether:
    """A constraint of ASE: images of an atom in a supercell move alike, and the whole does not drift on the mesh."""

    def __init__(self, repeats: tuple[int, int, int]) -> None:
        self.cells = int(np.prod(repeats))

    def _mean(self, vectors: np.ndarray) -> np.ndarray:
        mean = vectors.reshape(self.cells, -1, 3).mean(0)
        return np.tile(mean - mean.mean(0), (self.cells, 1))

    def adjust_forces(self, atoms: Any, forces: np.ndarray) -> None:
        forces[:] = self._mean(forces)

    def adjust_positions(self, atoms: Any, new: np.ndarray) -> None:
        new[:] = atoms.positions + self._mean(new - atoms.positions)


def _checked(structure: Structure, recipe: Modes) -> Structure:
    """Raises NearsightError for a molecule that touches its images, and for a lone atom, which has no modes."""
    if len(structure) == 1:
        raise BadInput("modes: a single atom has none: give a supercell")
    if recipe.molecule:
        i, j, R = neighbours(structure, APART_ANG / BOHR_ANG)
        through = R.any(1).nonzero().flatten().tolist()
        if through:
            a, b = int(i[through[0]]), int(j[through[0]])
            raise BadInput(
                f"modes: atoms {a} and {b} are within {APART_ANG} angstrom through a face of the cell: put the molecule "
                "whole into a larger box, or leave out molecule: true (atoms count from 0)"
            )
    if recipe.rotate:
        check_room(structure, "modes")
    return structure


def _steps(recipe: Modes) -> dict[str, Any]:
    """What the second derivatives depend on, beside the structure and the settings."""
    return {
        "supercell": recipe.supercell,
        "relax_ev_per_ang": recipe.relax_ev_per_ang,
        "step_ang": recipe.step_ang,
    }


def _without_outputs(origin: Origin) -> Origin:
    return Origin(origin.settings.model_copy(update={"outputs": {"forces": False, "stress": False}}))


def _kept(path: Path) -> dict[str, Any]:
    table = read_json(path)
    if not isinstance(table, dict) or not is_whole(table):
        raise BadInput(f"{path} is damaged: remove it, and it is made again")
    return table


def _table(structure: Structure) -> dict[str, Any]:
    return {
        "numbers": structure.numbers.tolist(),
        "cell_Ang": (structure.cell * BOHR_ANG).tolist(),
        "positions_Ang": (structure.positions * BOHR_ANG).tolist(),
    } | ({} if all(structure.periodic) else {"periodic": list(structure.periodic)})


def _structure(table: Mapping[str, Any], place: Path) -> Structure:
    try:
        cell, positions = (
            torch.tensor(table[k], dtype=torch.float64) / BOHR_ANG for k in ("cell_Ang", "positions_Ang")
        )
        a, b, c = (bool(x) for x in table.get("periodic", (True, True, True)))
        numbers = torch.tensor(table["numbers"])
        found = Structure(cell.reshape(3, 3), positions.reshape(-1, 3), numbers, periodic=(a, b, c))
        return check_structure(found, str(place))
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise BadInput(f"{place} is damaged: remove it, and it is made again") from error


def _read(table: Mapping[str, Any], place: Path, recipe: Modes) -> Harmonic:
    minimum = _structure(table, place)
    try:
        rows = torch.tensor(table["hessian_eV_per_Ang2"], dtype=torch.float64) / _FORCE_CONSTANT
        a, b, c = table["supercell"]
        hessian = second_derivatives(rows, (a, b, c))
        if hessian.shape != (3 * len(minimum), 3 * len(minimum)) or not bool(torch.isfinite(hessian).all()):
            raise ValueError("not of this structure")
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise BadInput(f"{place} is damaged: remove it, and it is made again") from error
    return Harmonic(minimum, hessian, recipe.molecule)
