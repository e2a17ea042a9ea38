"""How data say they were made: functional, orbitals, charge; and whether several can be learnt by one network."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.display import shown
from nearsight.core.errors import BadInput
from nearsight.core.structure import SYMBOLS
from nearsight.dft.settings import Settings
from nearsight.formats.registry import read_settings

SAME_OVERLAP = (
    1e-3  # of normalised orbitals on one atom, and of neighbours: other quadratures differ by a hundredth of it
)
_TOLD = 3  # differences in one message
_OF_A_SPECIES = ("pseudopotential_sha256", "valence", "xc", "sha256", "basis")
_MADE_BY_SIZE = ("size", "energy_shift_ry", "split_norm", "rule")  # paths of files say nothing: their digests do


@dataclass(frozen=True)
class Origin:
    """What a folder says of itself; empty or None where it says nothing, as other programs' folders do.

    settings: tables of what the matrix depends on, as far as they were recorded, and whether orbitals were read or made.
    species: of each element where its orbitals and pseudopotential came from.  on_site: of each element, overlaps of its
    orbitals on one atom between shells of equal l, which tell the orbitals apart whoever made them.
    charge: that was asked for [e].  electrons: in the cell.
    """

    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    species: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    on_site: Mapping[str, Sequence[float]] = field(default_factory=dict)
    charge: float | None = None
    electrons: float | None = None

    @staticmethod
    def of(found: Calculation) -> Origin:
        """Of a calculation with an overlap. Raises BadInput for settings of a later schema, or that are none."""
        settings = Settings.stored(found.settings, found.name) if found.settings else None
        species = found.result.get("species")
        return Origin(
            {} if settings is None else tables_of(settings),
            {
                symbol: {k: about[k] for k in _OF_A_SPECIES if k in about}
                for symbol, about in (species.items() if isinstance(species, Mapping) else ())
                if isinstance(about, Mapping)
            },
            _on_site(found.require_overlap()),
            _charge(settings),
            found.electrons,
        )

    @staticmethod
    def of_settings(path: Path) -> Origin:
        """Of what a folder records beside its structure, without reading a matrix; a file says nothing."""
        table = read_settings(path)
        if not table:
            return Origin()
        settings = Settings.stored(table, path)
        return Origin(tables_of(settings), charge=_charge(settings))

    def without(self, chosen: Mapping[str, Collection[str]]) -> Origin:
        """Without what a user chose in its place: keys, by table."""
        rest = {
            name: {k: v for k, v in t.items() if k not in chosen.get(name, ())} for name, t in self.settings.items()
        }
        return replace(self, settings=rest)

    @property
    def kind(self) -> str:
        """The same for folders that say the same of all that is not one structure's own."""
        return json.dumps([self.settings, self.species], sort_keys=True, default=str)

    def charge_of(self, numbers: Sequence[int], valences: Mapping[int, float]) -> float | None:
        """The charge of the cell [e]: by its electrons where all valences are known, else as it was asked for."""
        if self.electrons is not None and all(z in valences for z in numbers):
            return sum(valences[z] for z in numbers) - self.electrons
        return self.charge

    def table(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "settings": {k: dict(v) for k, v in self.settings.items()},
            "species": {k: dict(v) for k, v in self.species.items()},
            "on_site": {k: list(v) for k, v in self.on_site.items()},
            "charge": self.charge,
            "electrons": self.electrons,
        }

    def differences(self, other: Origin) -> list[str]:
        """What both say and do not agree in, in words."""
        found = []
        both_made = not any(o.settings.get("basis", {}).get("species") for o in (self, other))
        for name, ours in self.settings.items():
            theirs = other.settings.get(name, {})
            keys = [k for k in ours if k in theirs and ours[k] != theirs[k]]
            if name == "basis":
                keys = [k for k in keys if k in _MADE_BY_SIZE and both_made]
            found += [f"{name}.{k} {shown(ours[k])} against {shown(theirs[k])}" for k in keys]
        for symbol in self.species.keys() & other.species.keys() if not found else ():
            if _other_species(self.species[symbol], other.species[symbol]):
                found.append(f"other orbitals or another pseudopotential of {symbol}")
        for symbol in self.on_site.keys() & other.on_site.keys() if not found else ():
            a, b = self.on_site[symbol], other.on_site[symbol]
            if len(a) != len(b) or any(abs(x - y) > SAME_OVERLAP for x, y in zip(a, b, strict=True)):
                found.append(f"orbitals of {symbol} that overlap otherwise on one atom")
        return found


def require_one(origins: Iterable[tuple[object, Origin]], remedy: str) -> None:
    """Refuse data that no one network can learn.

    origins: each with its name.  Raises BadInput, naming two of them with what they differ in.
    """
    seen: list[tuple[object, Origin]] = []
    for name, origin in origins:
        for other, known in seen:
            if wrong := known.differences(origin):
                more = f"; and {len(wrong) - _TOLD} more" if len(wrong) > _TOLD else ""
                raise BadInput(f"{other} and {name} were made differently: {'; '.join(wrong[:_TOLD])}{more}. {remedy}")
        if not any(_says_the_same(origin, known) for _, known in seen):
            seen.append((name, origin))


def _says_the_same(a: Origin, b: Origin) -> bool:
    """Whether `a` says nothing that `b`, which it agrees with, does not say as well."""
    tables = all(k in b.settings and v.keys() <= b.settings[k].keys() for k, v in a.settings.items())
    return tables and a.species.keys() <= b.species.keys() and a.on_site.keys() <= b.on_site.keys()


def _other_species(one: Mapping[str, Any], two: Mapping[str, Any]) -> bool:
    """Whether an element's pseudopotential differs, or a file of its orbitals that was not made by the same words."""
    apart = {k for k in one if k in two and one[k] != two[k]}
    made_apart = "sha256" in apart and one.get("basis") != two.get("basis")
    return made_apart or bool(apart & {"pseudopotential_sha256", "valence", "xc"})


def tables_of(settings: Settings) -> dict[str, dict[str, Any]]:
    """Of settings what H of any structure depends on, of the keys that were recorded, in JSON's types."""
    every = settings.model_dump(mode="json")
    return {name: {k: every[name][k] for k in keys} for name, keys in settings.of_the_operator.items()}


def _charge(settings: Settings | None) -> float | None:
    return (
        None if settings is None or "charge_e" not in settings.of_one_cell["electrons"] else settings.electrons.charge_e
    )


def _on_site(overlap: BlockMatrix) -> dict[str, list[float]]:
    """Of the first atom of each element: between each two of its shells of one l, the mean over m."""
    layout = overlap.layout
    pairs, basis = layout.pairs, layout.basis
    places = ((pairs.i == pairs.j) & (pairs.R == 0).all(1)).nonzero()[:, 0].tolist()
    found: dict[str, list[float]] = {}
    for place in places:
        z = basis.numbers[int(pairs.i[place])]
        if SYMBOLS[z] in found:
            continue
        block = overlap.block(place).detach().cpu()
        if block.ndim == 3:
            block = block[0]
        firsts, first = [], 0
        for l in basis.shells[z]:
            firsts.append((l, first))
            first += 2 * l + 1
        found[SYMBOLS[z]] = [
            float(block[a : a + 2 * l + 1, b : b + 2 * l + 1].diagonal().mean())
            for n, (l, a) in enumerate(firsts)
            for k, b in firsts[n:]
            if k == l
        ]
    return found
