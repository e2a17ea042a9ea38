"""Ghost states of separable pseudopotentials, lifted where that changes nothing else.

A ghost |g> is an eigenstate of the atom's own H_l = T + V + sum_k |chi_k> D_k <chi_k| that belongs to no shell. It lies within
the reach of the projectors, and every other eigenstate of H_l, bound or not, is orthogonal to it: |g> (E - e_g) <g|, added to
the separable part, moves the ghost from e_g to E and leaves all other levels, and the scattering at all energies but E.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from nearsight.atoms.switch import switch
from nearsight.formats.pseudopotential import SeparableChannel

if TYPE_CHECKING:
    from nearsight.atoms.radial import Sphere

_LIFTED_TO = 10.0  # Ha: far above all that a crystal fills or mixes in
BELOW = 0.1  # Ha below its level from which on a state is a ghost
_SAME = 0.03  # Ha: averaging over j moves a level by 0.02
_OF_ONE_J = 0.3  # of a level: what spin-orbit coupling moves it by at most
_OUTSIDE = 1e-4  # of its norm, that a ghost may have outside the projectors


def without_ghost(
    channel: SeparableChannel,
    grid: NDArray[np.float64],
    sphere: Sphere,
    hamiltonian: NDArray[np.float64],
    expected: list[float],
) -> SeparableChannel:
    """The channel with its ghost lifted; itself where it has none, or one that is not alone or not within the projectors.

    hamiltonian: H_ij of the file's own atom in the functions of the sphere, channel included.  expected: levels of this l [Ha].
    """
    energies, vectors = eigh(hamiltonian, subset_by_index=[0, len(expected)])
    margin = np.array([_SAME if channel.j is None else _SAME + _OF_ONE_J * abs(e) for e in expected])
    if energies[0] > expected[0] - BELOW - margin[0] or (np.abs(energies[1:] - expected) > margin).any():
        return channel
    ghost = vectors[:, 0]
    reach = float(grid[np.nonzero(np.abs(channel.waves) > 1e-3 * np.abs(channel.waves).max())[1].max()])
    norm = sphere.weight * (ghost @ sphere.phi) ** 2
    if norm[sphere.r > reach].sum() > _OUTSIDE:
        return channel
    inside = grid <= sphere.radius
    wave = np.zeros_like(grid)
    wave[inside] = sphere.reduced(ghost, grid[inside]) * grid[inside] ** (channel.l + 1)
    wave *= switch(grid, reach, reach + 0.5)
    return _diagonal(
        channel, np.vstack([channel.waves, wave]), np.append(channel.energies, _LIFTED_TO - energies[0]), grid
    )


def _diagonal(
    channel: SeparableChannel, waves: NDArray[np.float64], energies: NDArray[np.float64], grid: NDArray[np.float64]
) -> SeparableChannel:
    """sum_k |w_k> e_k <w_k| of any waves, in orthonormal ones: what nearly cancels is then cancelled once for all."""
    s, U = np.linalg.eigh(np.trapezoid(waves[:, None] * waves[None], grid, axis=2))
    keep = s > 1e-12
    root, U = np.sqrt(s[keep]), U[:, keep]
    found, mix = np.linalg.eigh(root[:, None] * (U.T @ (energies[:, None] * U)) * root[None, :])
    order = np.argsort(-np.abs(found))
    return replace(channel, waves=(mix.T @ ((U / root).T @ waves))[order], energies=found[order])
