"""What a model was trained on, kept in its folder: elements, pairs of them, functional, charge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from nearsight.core.display import shown
from nearsight.core.errors import BadInput
from nearsight.core.layout import BlockLayout
from nearsight.core.spin import NONE, Spin
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.core.units import BOHR_ANG
from nearsight.learn.origin import Origin

NEUTRAL = "all"  # in place of every formula, where all cells are neutral
_TOLD = 5


def element_pairs(structure: Structure, layout: BlockLayout) -> dict[tuple[int, int], float]:
    """Pairs of elements (the lower atomic number first) that share blocks of a matrix, with their longest distance [Bohr]."""
    pairs = layout.pairs.to("cpu")
    away = ~((pairs.i == pairs.j) & (pairs.R == 0).all(1))
    numbers, length = structure.numbers.cpu(), pairs.vectors(structure.to("cpu")).norm(dim=1)[away]
    a, b = numbers[pairs.i[away]], numbers[pairs.j[away]]
    kind = torch.minimum(a, b) * len(SYMBOLS) + torch.maximum(a, b)
    return {divmod(k, len(SYMBOLS)): float(length[kind == k].max()) for k in torch.unique(kind).tolist()}


@dataclass(frozen=True)
class Domain:
    """What the training data of a model were.

    elements: atomic numbers.  pairs: of elements that shared blocks, with their longest distance [Bohr].  structures: how many.
    settings: tables of what H depends on, as the data record them.  charges: of each formula (by alphabet) those of its cells
    [e]; empty where the data do not say.  spin: of the matrices.
    """

    elements: tuple[int, ...]
    pairs: Mapping[tuple[int, int], float]
    structures: int = 0
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    charges: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    spin: str = "none"

    @staticmethod
    def of(
        found: Iterable[tuple[Structure, Mapping[tuple[int, int], float], float | None]],
        origin: Origin,
        spin: Spin = NONE,
    ) -> Domain:
        """found: of each structure its pairs of elements and its charge, if that is known.  origin, spin: that all share."""
        elements: set[int] = set()
        reach: dict[tuple[int, int], float] = {}
        charges: dict[str, set[float]] = {}
        count = 0
        for structure, pairs, charge in found:
            count += 1
            elements |= set(structure.numbers.tolist())
            for kind, r in pairs.items():
                reach[kind] = max(r, reach.get(kind, 0.0))
            if charge is not None:
                charges.setdefault(_formula(structure), set()).add(_rounded(charge))
        table = {formula: tuple(sorted(q)) for formula, q in sorted(charges.items())}
        if table and set(table.values()) == {(0.0,)}:
            table = {NEUTRAL: (0.0,)}
        return Domain(tuple(sorted(elements)), dict(sorted(reach.items())), count, origin.settings, table, spin.name)

    def joined(self, earlier: Domain | None) -> Domain:
        """With the elements and pairs of a model that this training began with; the charge is that of the later data."""
        if earlier is None:
            return self
        pairs = {
            k: max(self.pairs.get(k, 0.0), earlier.pairs.get(k, 0.0)) for k in self.pairs.keys() | earlier.pairs.keys()
        }
        elements = tuple(sorted({*self.elements, *earlier.elements}))
        settings = self.settings or earlier.settings
        charges = self.charges or earlier.charges
        return replace(self, elements=elements, pairs=dict(sorted(pairs.items())), settings=settings, charges=charges)

    def table(self) -> dict[str, Any]:
        """As config.json holds it."""
        pairs = {_name(kind): {"farthest_ang": r * BOHR_ANG} for kind, r in self.pairs.items()}
        return {
            "elements": [SYMBOLS[z] for z in self.elements],
            "pairs": pairs,
            "structures": self.structures,
            "settings": {k: dict(v) for k, v in self.settings.items()},
            "charges_e": {k: list(v) for k, v in self.charges.items()},
            "spin": self.spin,
        }

    @staticmethod
    def of_table(table: Mapping[str, Any], path: Path) -> Domain:
        """Raises BadInput for what `table` never made."""
        try:
            elements = tuple(SYMBOLS.index(s) for s in table["elements"])
            pairs = {}
            for name, about in table["pairs"].items():
                a, b = name.split("-")
                pairs[_ordered(SYMBOLS.index(a), SYMBOLS.index(b))] = float(about["farthest_ang"]) / BOHR_ANG
            charges = {str(k): tuple(float(q) for q in v) for k, v in table["charges_e"].items()}
            settings = {str(k): dict(v) for k, v in table["settings"].items()}
            return Domain(elements, pairs, int(table["structures"]), settings, charges, str(table["spin"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(
                f"{path}: trained_on cannot be {shown(table)}: the file is damaged, copy the model again"
            ) from error

    def unseen(self, numbers: Iterable[int], pairs: Iterable[tuple[int, int]]) -> list[str]:
        """Elements, and pairs of elements with blocks in a matrix, that no training structure had: as C, or C-H."""
        elements = [SYMBOLS[z] for z in sorted(set(numbers) - set(self.elements))]
        return elements + [_name(kind) for kind in sorted(set(pairs) - self.pairs.keys())]

    def charges_of(self, structure: Structure) -> list[float]:
        """Charges of the training cells of a structure's formula, of all where there was none [e], ascending."""
        own = self.charges.get(_formula(structure))
        return list(own) if own else sorted({q for charges in self.charges.values() for q in charges})

    def charge_of(self, structure: Structure) -> float | None:
        """The charge of the data [e], where that says the structure's: 0 for neutral data, else that of its formula.

        None where the data do not say.  Raises BadInput, with the remedy, where they leave it open.
        """
        known, formula = self.charges_of(structure), structure.formula
        if not known:
            return None
        if known == [0.0] or (len(known) == 1 and _formula(structure) in self.charges):
            return known[0]
        told = ", ".join(f"{q:+g}" for q in known[:_TOLD])
        which = f"cells of {formula}" if _formula(structure) in self.charges else "cells of other formulas,"
        raise BadInput(
            f"the charge of {formula} is not known: the model was trained on {which} with the charge {told} e. Give --charge"
        )


def require_one_charge(charges: Iterable[tuple[object, float | None]]) -> None:
    """Refuse cells of several charges, or of which some are charged and some do not say.

    charges: of each structure, with its name.  Raises BadInput, naming two.
    """
    first: dict[float | None, object] = {}
    for name, charge in charges:
        first.setdefault(None if charge is None else _rounded(charge), name)
    if len(first) > 1 and set(first) != {None, 0.0}:
        (a, one), (b, two) = list(first.items())[:2]
        said = ("says no charge" if q is None else f"has the charge {q:+g} e" for q in (a, b))
        raise BadInput(
            f"{one} {next(said)}, {two} {next(said)}: nothing tells a network the charge of a cell. Train one model for each, "
            "or, where the formula tells the charge, give data.mixed_charges: true"
        )


def _rounded(charge: float) -> float:
    return round(charge, 6) or 0.0


def _formula(structure: Structure) -> str:
    symbols = structure.symbols
    return "".join(f"{s}{symbols.count(s)}" for s in sorted(set(symbols)))


def _ordered(a: int, b: int) -> tuple[int, int]:
    return min(a, b), max(a, b)


def _name(kind: tuple[int, int]) -> str:
    """Heavier element first, as in O-H."""
    return f"{SYMBOLS[kind[1]]}-{SYMBOLS[kind[0]]}"
