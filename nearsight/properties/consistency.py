"""Do the matrices belong together, to the structure, and to what the program printed? And if not, which convention mends it?"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from ase.data import covalent_radii
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.errors import NearsightError
from nearsight.core.laws import Finding
from nearsight.core.pairs import Pairs
from nearsight.core.spin import COLLINEAR, NONE
from nearsight.core.two_centre import S_AXIAL, axial_violation
from nearsight.core.units import BOHR_ANG, HARTREE_EV
from nearsight.electrons.eigen import eigenvalues
from nearsight.electrons.symmetry import SpaceGroup, Symmetrisation
from nearsight.formats.levels import Levels, levels_beside
from nearsight.properties.conventions import best_reading, spin_exchanged
from nearsight.properties.near_fermi import solver_for

H_AXIAL = 0.45  # of H, a three-centre matrix: sound sets have 0.35 at most
MENDED = 0.6  # another reading must break the law by so much less to be named
LEVELS_EV = 1e-3
BONDED, NEAR = 1.3, 2.5  # sums of covalent radii; Bohr: nearer atoms than either have orbitals that overlap
SYMMETRY_EV, SYMMETRY_S = 0.1, 5e-3  # meshes break the symmetry of H by some 10 meV
RANGE_EV, SPREAD_EV = 13.0, (2.0, 150.0)  # of all levels; of the middle half: sound sets have 15 to 2000, and 3 to 94
UNITS = (("27.2114 (hartree for eV)", HARTREE_EV), ("13.6057 (rydberg for eV)", HARTREE_EV / 2), ("2", 2.0))


def consistency(calculation: Calculation) -> Iterator[Finding]:
    """Two-centre law of S and H, symmetry, completeness, scale of energies, spin of H and D, the program's own levels."""
    yield from _two_centre(calculation)
    yield from _symmetry(calculation)
    yield from _complete(calculation)
    yield from _spins(calculation)
    yield from _scale(calculation)
    yield from _levels(calculation)


def _spinless(matrix: BlockMatrix) -> BlockMatrix:
    """The part of up and up, real."""
    first = matrix.values[:1]
    return BlockMatrix(matrix.layout, (first.real if first.is_complex() else first).contiguous(), NONE)


def _two_centre(c: Calculation) -> Iterator[Finding]:
    S = c.require_overlap()
    broken = axial_violation(S, c.structure)
    if broken is None:
        return
    mended = best_reading(S, c.structure) if broken > S_AXIAL else None
    if broken <= S_AXIAL:
        text = f"all but {broken:.1e} of it"
    elif mended is not None and mended[1] <= max(S_AXIAL, 0.05 * broken):
        text = f"{broken:.2f} of it does not; {mended[0]}"
    else:
        text = (
            f"{broken:.2f} of it does not, and no known order or sign of orbitals mends that: S of another structure, or "
            "atoms in another order"
        )
    yield Finding("S between two atoms follows the line that joins them", text, broken <= S_AXIAL)
    if c.hamiltonian is None or broken > S_AXIAL:
        return
    H = _spinless(c.hamiltonian)
    share = axial_violation(H, c.structure)
    if share is None:
        return
    text, holds = f"{share:.2f} of it is off the line, as of three-centre matrices", True
    if share > H_AXIAL:
        other = best_reading(H, c.structure)
        if other is not None and other[1] < MENDED * share:
            text, holds = f"{share:.2f} of it is off the line; unlike those of S, {other[0]}", False
    yield Finding("H has the orbitals of S", text, holds)


def _symmetry(c: Calculation) -> Iterator[Finding]:
    try:
        group = group_of(c)
    except NearsightError:
        return
    if group is None or len(group) == 1:
        return
    for name, matrix, unit, limit, words in (
        ("S", c.overlap, 1.0, SYMMETRY_S, ""),
        ("H", c.hamiltonian, HARTREE_EV, SYMMETRY_EV, " eV"),
    ):
        if matrix is None:
            continue
        try:
            average = Symmetrisation.of(group, matrix.layout)(matrix)
        except NearsightError:
            return
        off = float((average - matrix).values.abs().max()) * unit
        yield Finding(
            f"{name} has the symmetry of the crystal",
            f"{len(group)} operations of {group.symbol}, largest deviation {off:.1e}{words}",
            off <= limit,
        )


def group_of(c: Calculation) -> SpaceGroup | None:
    """Operations that keep the structure and the moments; None where moments are not known but may be there."""
    if c.spin is NONE:
        return SpaceGroup.of(c.structure, tolerance=1e-3)
    if c.density_matrix is None or c.overlap is None:
        return None
    D = c.density_matrix if c.density_matrix.same_layout(c.overlap) else c.density_matrix.on(c.overlap.layout)
    atom = c.overlap.pairs.i[c.overlap.layout.pair]
    populations = D.spin.moment(D.values * c.overlap.values[0])
    m = populations.real.new_zeros(3, len(c.structure)).index_add(1, atom, populations.real)
    if c.spin is COLLINEAR:
        return SpaceGroup.of(c.structure, (m[2] * 20).round().div(20).tolist(), tolerance=1e-3)
    group = SpaceGroup.of(c.structure, tolerance=1e-3)
    axial = torch.linalg.det(group.cartesian)[:, None, None] * group.cartesian
    turned = torch.einsum("gab,bi->gai", axial, m)
    image = torch.stack([m[:, group.atoms[g]] for g in range(len(group))])
    return group.only(((turned - image).abs() < 0.02).all(1).all(1))


def _complete(c: Calculation) -> Iterator[Finding]:
    """A block that is zero though blocks of the same elements at as large a distance, or S there, are not."""
    S = c.require_overlap()
    lost: list[str] = []
    for name, matrix in (("S", S), ("H", c.hamiltonian)):
        if matrix is None:
            continue
        found = _lost_blocks(c, matrix)
        lost += [
            f"{name} has none for atoms {i}, {j} in cell {R}, {d * BOHR_ANG:.2f} angstrom apart" for i, j, R, d in found
        ]
    text = (
        f"{len(lost)} blocks are zero or missing where their like are not: {lost[0]}"
        if lost
        else "none of their like lacks"
    )
    yield Finding("no block is missing", text, not lost)


def _lost_blocks(c: Calculation, matrix: BlockMatrix) -> list[tuple[int, int, list[int], float]]:
    layout = matrix.layout.to("cpu")
    norms = torch.zeros(len(layout.pairs), dtype=torch.float64)
    norms = norms.index_add(0, layout.pair, matrix.values.abs().square().sum(0).cpu().double()).sqrt()
    listed = layout.pairs
    farthest = float(listed.vectors(c.structure).norm(dim=1).max())
    pairs = listed.union(Pairs.within(c.structure, min(farthest, 25.0) + 1e-3))
    distance = pairs.vectors(c.structure).norm(dim=1)
    place = listed.find(pairs.i, pairs.j, pairs.R)
    norm = torch.where(place < len(listed), norms[place.clamp(max=len(listed) - 1)], 0.0)
    numbers = torch.tensor(matrix.basis.numbers)
    kind = numbers[pairs.i] * 200 + numbers[pairs.j]
    radii = torch.as_tensor(covalent_radii)[numbers] / BOHR_ANG
    reach = (BONDED * (radii[pairs.i] + radii[pairs.j])).clamp(min=NEAR)
    bonded = (distance < reach) & (norm == 0)  # also an atom with itself
    found = [
        (int(pairs.i[p]), int(pairs.j[p]), pairs.R[p].tolist(), float(distance[p])) for p in bonded.nonzero()[:, 0]
    ]
    for k in torch.unique(kind).tolist():
        which = (kind == k).nonzero()[:, 0]
        order = which[torch.argsort(distance[which], descending=True)]
        largest = torch.cummax(norm[order], 0).values  # among those at least as far
        nearly = torch.searchsorted(-distance[order], -0.95 * distance[order], right=True) - 1
        bad = ~bonded[order] & (norm[order] < 0.02 * torch.where(largest[nearly] > 1e-3, largest[nearly], 0.0))
        found += [
            (int(pairs.i[p]), int(pairs.j[p]), pairs.R[p].tolist(), float(distance[p])) for p in order[bad].tolist()
        ]
    return found


def _spins(c: Calculation) -> Iterator[Finding]:
    """Tr[D H] is the least that as many electrons can have; exchanging the spins of D must not lower it."""
    H, D = c.hamiltonian, c.density_matrix
    if H is None or D is None or H.spin is NONE or D.spin is not H.spin:
        return
    D = D if D.same_layout(H) else D.on(H.layout)
    told, other = (float(d.trace(H).real) * HARTREE_EV for d in (D, spin_exchanged(D)))
    holds = other >= told - 1e-6
    text = f"Tr[D H] = {told:.6f} eV, with the spins of D exchanged {other:.6f}"
    yield Finding(
        "spins of H and D agree", text + ("" if holds else ": spin up and down of H (or of D) are exchanged"), holds
    )


def _scale(c: Calculation) -> Iterator[Finding]:
    try:
        e = _at_gamma(c)
    except NearsightError:
        return
    if e is None or len(e) < 4:
        return
    holds, spread = _is_of_atoms(e)
    told = f"levels from {float(e.min()):.1f} to {float(e.max()):.1f} eV, their middle half within {spread:.1f}"
    remedy = ""
    fermi = None if c.fermi_level is None else c.fermi_level * HARTREE_EV
    if not holds:
        small = float(e.max() - e.min()) < RANGE_EV or spread < SPREAD_EV[0]
        remedy = (
            f": too {'close' if small else 'wide'} for electrons in atoms, H looks off by 27.2 (hartree for eV) or 13.6"
        )
    elif fermi is not None and not float(e.min()) < fermi < float(e.max()):
        for words, unit in UNITS[:2]:
            for factor in (unit, 1 / unit):
                if _is_of_atoms(e * factor)[0] and float(e.min()) * factor < fermi < float(e.max()) * factor:
                    holds, remedy = False, f": with them the Fermi level is among none; H looks off by {words}"
    yield Finding("energies have the scale of electrons in atoms", told + remedy, holds)


def _at_gamma(c: Calculation) -> Tensor | None:
    if c.hamiltonian is None or solver_for(c.hamiltonian) == "sparse":
        return None  # all levels of a large system are not to be had
    gamma = torch.zeros(1, 3, dtype=torch.float64)
    return eigenvalues(c.hamiltonian, c.require_overlap(), gamma).flatten() * HARTREE_EV


def _is_of_atoms(e: Tensor) -> tuple[bool, float]:
    low, high = torch.quantile(e, e.new_tensor([0.25, 0.75])).tolist()
    wide = float(e.max() - e.min()) >= RANGE_EV
    return wide and SPREAD_EV[0] <= high - low <= SPREAD_EV[1], high - low


def _levels(c: Calculation) -> Iterator[Finding]:
    levels = Levels.of_record(c.result)
    if levels is None and c.provenance.path is not None and c.hamiltonian is not None:
        levels = levels_beside(c.provenance.path, c.structure, c.fermi_level)
    if levels is None or c.hamiltonian is None or solver_for(c.hamiltonian) == "sparse":
        return
    try:
        found = eigenvalues(c.hamiltonian, c.require_overlap(), levels.k)[:, :, : levels.energies.shape[2]]
    except NearsightError:
        return  # S is not positive definite: reported already
    told = levels.energies
    if len(told) != len(found):
        if len(found) == 1:
            return  # levels of both spins, of a matrix without
        told = told.expand_as(found)
    off = float((found - told).abs().max()) * HARTREE_EV
    limit = max(LEVELS_EV, 20 * levels.resolution * HARTREE_EV)
    text = f"{found.numel()} levels of {levels.source}, largest difference {off:.1e} eV"
    yield Finding("eigenvalues are those that the program printed", text + _remedy(found, told, off), off <= limit)


def _remedy(found: Tensor, told: Tensor, off: float) -> str:
    """What would make the levels equal, where that is a number, a shift or an exchange."""
    if off <= LEVELS_EV:
        return ""
    exchanged = float((found.flip(0) - told).abs().max()) * HARTREE_EV
    if len(found) == 2 and exchanged < 0.1 * off:
        return ": spin up and down are exchanged"
    shift = (told - found).mean()
    if float((found + shift - told).abs().max()) * HARTREE_EV < 0.02 * off:
        return f": H is shifted by {-float(shift) * HARTREE_EV:.4f} eV times S, as sisl's H - E_F S is"
    ratio = float((found * told).sum() / told.square().sum())
    for words, unit in UNITS:
        for factor in (unit, 1 / unit):
            if abs(ratio / factor - 1) < 5e-3 and float((found / ratio - told).abs().max()) < 0.05 * float(
                told.abs().max()
            ):
                return f": H is off by a factor of {words}"
    return ""
