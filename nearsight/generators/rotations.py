"""Random orientations of a molecule in its box, and whether the box has room for all of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import torch
from torch import Tensor

from nearsight.core.errors import BadInput
from nearsight.core.structure import Structure
from nearsight.core.units import BOHR_ANG

APART_ANG = 2.5  # a molecule whose atoms come nearer to an image than this is bonded to it, or cut by the cell's face


def random_rotation(random: np.random.Generator) -> Tensor:
    """A rotation [3, 3], uniform over all."""
    q, r = np.linalg.qr(random.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    q[:, 0] *= np.sign(np.linalg.det(q))
    return torch.from_numpy(q)


def turned(structure: Structure, rotation: Tensor) -> Structure:
    """The atoms turned about their centre by R [3, 3]; the cell stays."""
    centre = structure.positions.mean(0)
    moments = structure.moments
    if moments is not None and moments.ndim == 2:
        moments = moments @ rotation.T
    return replace(structure, positions=centre + (structure.positions - centre) @ rotation.T, moments=moments)


def check_room(structure: Structure, name: str, apart: float = APART_ANG / BOHR_ANG) -> None:
    """That in every orientation all atoms stay `apart` [Bohr] from the images of the molecule.

    Two atoms d from each other come as near as |R| - d through a lattice vector R, in some orientation: the longest d of the
    molecule and the shortest R decide.
    Raises BadInput for a box that is too small, or a crystal, which is no molecule.
    """
    p = structure.positions
    longest = float(torch.cdist(p, p).max()) if len(p) > 1 else 0.0
    steps = torch.tensor([s for s in product((-2, -1, 0, 1, 2), repeat=3) if any(s)], dtype=p.dtype)
    shortest = float((steps @ structure.cell).norm(dim=1).min())
    if shortest - longest < apart:
        need = (longest + apart) * BOHR_ANG
        raise BadInput(
            f"{name}: rotate turns atoms to within {APART_ANG} angstrom of the molecule's images in some orientations: its "
            f"atoms are up to {longest * BOHR_ANG:.2f} apart in a box of {shortest * BOHR_ANG:.2f} angstrom; give a box of at "
            f"least {need:.2f} in every direction (a larger vacuum_ang), or leave rotate out (for a crystal always)"
        )
