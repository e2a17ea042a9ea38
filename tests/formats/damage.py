"""Deliberate damage to a calculation, and what a check must say of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.errors import NearsightError
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.spin import NONE
from nearsight.electrons.eigen import eigenvalues
from nearsight.formats.orders import OPENMX, SIESTA
from nearsight.properties.conventions import reordered, spin_exchanged


def _each(c: Calculation, change: Callable[[BlockMatrix], BlockMatrix]) -> Calculation:
    return replace(c, **{name: change(m) for name, m in c.matrices.items()})


def order_permuted(c: Calculation) -> Calculation:
    """As if OpenMX's orbitals had been taken as they are."""
    return _each(c, lambda m: reordered(m, OPENMX, back=True))


def sign_flipped(c: Calculation) -> Calculation:
    """As if SIESTA's orbitals had been taken as they are."""
    return _each(c, lambda m: reordered(m, SIESTA))


def R_negated(c: Calculation) -> Calculation:
    """H_ij(R) stands at -R."""

    def change(m: BlockMatrix) -> BlockMatrix:
        old = m.pairs
        pairs = Pairs.of(old.i, old.j, -old.R, old.atoms)
        layout = BlockLayout(m.basis, pairs)
        source = old.find(pairs.i, pairs.j, -pairs.R)
        within = torch.arange(layout.size) - layout.boundaries[layout.pair]
        return BlockMatrix(layout, m.values[:, m.layout.boundaries[source][layout.pair] + within], m.spin)

    return _each(c, change)


def units_off(c: Calculation) -> Calculation:
    """Hartree taken for eV."""
    return replace(c, hamiltonian=c.hamiltonian * (1 / 27.211386))


def units_off_the_other_way(c: Calculation) -> Calculation:
    return replace(c, hamiltonian=c.hamiltonian * 27.211386)


def block_lost(c: Calculation) -> Calculation:
    """The largest block of S between two sites, and its reverse, in every matrix."""
    s = c.overlap
    size = torch.zeros(len(s.pairs), dtype=torch.float64).index_add(0, s.layout.pair, s.values[0].square())
    size[s.pairs.on_site] = 0
    worst = int(size.argmax()) if float(size.max()) > 0 else 0
    i, j, R = s.pairs.i[worst], s.pairs.j[worst], s.pairs.R[worst]

    def change(m: BlockMatrix) -> BlockMatrix:
        p = int(m.pairs.find(i[None], j[None], R[None])[0])
        if p == len(m.pairs):
            return m
        gone = (m.layout.pair == p) | (m.layout.pair == m.pairs.reverse[p])
        return m.with_values(torch.where(gone, 0, m.values))

    return _each(c, change)


def spin_swapped(c: Calculation) -> Calculation:
    return c if c.hamiltonian.spin is NONE else replace(c, hamiltonian=spin_exchanged(c.hamiltonian))


def overlap_of_another(c: Calculation) -> Calculation:
    """S of the structure turned by 40 degrees about an axis that is none of its own."""
    axis = torch.tensor([0.36, 0.48, 0.8], dtype=torch.float64)
    K = torch.linalg.cross(torch.eye(3, dtype=torch.float64), axis.expand(3, 3))
    turn = torch.linalg.matrix_exp(0.7 * K)
    return replace(c, overlap=c.overlap.rotate(turn))


#: name -> the damage, and words of which one must stand in what is found
DAMAGES: dict[str, tuple[Callable[[Calculation], Calculation], tuple[str, ...]]] = {
    "orbital order": (order_permuted, ("order",)),
    "sign": (sign_flipped, ("sign",)),
    "R negated": (R_negated, ("R looks negated",)),
    "units / 27.2": (units_off, ("27.2",)),
    "units x 27.2": (units_off_the_other_way, ("27.2",)),
    "block lost": (block_lost, ("zero or missing",)),
    "spin swapped": (spin_swapped, ("exchanged",)),
    "S of another": (overlap_of_another, ("S of another structure",)),
}


def changes_nothing(before: Calculation, after: Calculation) -> bool:
    """Whether what was done is no damage: the same numbers, or the same crystal in other words (the same bands everywhere)."""
    k = torch.rand(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) - 0.5
    for name, m in before.matrices.items():
        other = after.matrices[name]
        layout = BlockLayout(m.basis, m.pairs.union(other.pairs))
        if float((m.on(layout).values - other.on(layout).values).abs().max()) > 1e-6:
            break
    else:
        return True
    try:
        one, two = (eigenvalues(c.hamiltonian, c.overlap, k) for c in (before, after))
    except (NearsightError, RuntimeError):  # an overlap that is no longer positive, which LinAlgError tells
        return False
    return float((one - two).abs().max()) < 1e-6
