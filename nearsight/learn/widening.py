"""A trained network taken to elements that it never saw: what it knows of an element near in the table is the first guess."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nearsight.core.errors import BadInput
from nearsight.core.structure import NOBLE_GASES, SYMBOLS, period_of
from nearsight.learn.model_files import build
from nearsight.models.contract import HamiltonianModel


def nearest_element(number: int, known: Sequence[int]) -> int:
    """Among known atomic numbers the one of the nearest group, then of the nearest period."""
    return min(sorted(known), key=lambda z: (abs(_group(number) - _group(z)), abs(period_of(number) - period_of(z)), z))


def widened(
    network: HamiltonianModel, architecture: Mapping[str, Any], shells: Mapping[int, Sequence[int]]
) -> tuple[HamiltonianModel, dict[str, Any]]:
    """The network and its architecture with the elements of `shells` beside its own.

    What a network holds for each element, or pair of elements, begins for a new one as that of its nearest known element.
    Raises BadInput where the network holds something of all its elements together, which other elements change.
    """
    new = sorted(z for z in shells if z not in network.shells)
    if not new:
        return network, dict(architecture)
    union = {z: list((network.shells | {k: tuple(s) for k, s in shells.items()})[z]) for z in {*network.shells, *new}}
    wider = {**architecture, "shells": {str(z): union[z] for z in sorted(union)}}
    made = build(wider, network.target.name)
    old = list(network.shells)
    rows = torch.tensor([old.index(z if z in network.shells else nearest_element(z, old)) for z in sorted(union)])
    before, after, n = network.state_dict(), made.state_dict(), len(old)
    found = {}
    for name, value in after.items():
        known = before.get(name)
        if known is None or known.shape[1:] != value.shape[1:]:
            raise _joint(architecture, new, name)
        if known.shape == value.shape:
            found[name] = known
        elif (len(known), len(value)) == (n, len(rows)):
            found[name] = known[rows.to(known.device)]
        elif (len(known), len(value)) == (n * n, len(rows) ** 2):
            table = known.view(n, n, *known.shape[1:])
            index = rows.to(known.device)
            found[name] = table[index][:, index].flatten(0, 1)
        else:
            raise _joint(architecture, new, name)
    made.to(network.dtype).load_state_dict(found)
    return made.to(network.device), wider


def _joint(architecture: Mapping[str, Any], new: Sequence[int], name: str) -> BadInput:
    elements = ", ".join(SYMBOLS[z] for z in new)
    return BadInput(
        f"init_from: this {architecture['kind']} cannot be taken to {elements}: its {name} is of all its elements or shells "
        "together. Begin with a model that was trained on these elements, or with one of target density"
    )


def _group(z: int) -> int:
    """1 to 18; 3 for the lanthanides and actinides."""
    first, last = (0, *NOBLE_GASES)[period_of(z) - 1 :][:2]
    left, right = z - first, last - z
    if right == 0:
        return 18
    return left if left <= 2 else max(3, 18 - right)
