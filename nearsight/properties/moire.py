"""Moire bands: the few bands about the Fermi level of a twisted sheet, how flat they are, how far from all others, how fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nearsight.core.calculation import Calculation
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput, MissingData
from nearsight.core.structure import Structure
from nearsight.core.units import ATOMIC_VELOCITY_M_S, BOHR_ANG, HARTREE_EV
from nearsight.electrons.kpoints import band_path
from nearsight.electrons.sparse.levels import Window
from nearsight.properties.contract import SILENT, Options, Progress, Property, Result, option
from nearsight.properties.drawing import draw_bands
from nearsight.properties.near_fermi import NearFermi
from nearsight.properties.spectra import K_SPACING, SMEARING_EV, Bands, electrons_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DIRECTIONS = 12  # over which the speed of a cone is averaged
REMOTE = 2  # bands on either side of the flat ones


class MoireOptions(Options):
    """Which bands are meant, and where they are followed."""

    flat: int = option(4, "how many bands about the Fermi level, half of them filled", ge=2, le=400)
    path: str = option("GAMMA-M-K-GAMMA", "corners of the moire zone to visit")
    points: int = option(16, "k-points on the path", ge=3, le=2000)
    degeneracy_ev: float = option(2e-3, "levels at K nearer than this are one cone", unit="eV", gt=0, le=1)


@dataclass(frozen=True, eq=False, repr=False)
class MoireBands(Result):
    """bands: of which the middle ones, `flat` in number, are meant.  k: the point K of the zone [3], or None without one.

    cone: levels that meet there at the Fermi level.  speed: of the fastest, the mean over directions [Ha Bohr], or None.
    shares: of each atom in the flat states at K, Mulliken's, in sum 1 [atoms]; None without one.  structure: the sheet.
    """

    bands: Bands
    flat: int
    k: Tensor | None
    cone: int
    speed: float | None
    shares: Tensor | None
    structure: Structure

    __repr__ = one_line

    @property
    def _edges(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Highest below the flat bands, their lowest and highest, and lowest above, over the path [Ha]."""
        e = self.bands.energies[0]
        a, b = REMOTE, REMOTE + self.flat
        return e[:, a - 1].max(), e[:, a].min(), e[:, b - 1].max(), e[:, b].min()

    @property
    def width(self) -> float:
        """From the lowest to the highest energy of the flat bands along the path [Ha]."""
        _, low, high, _ = self._edges
        return float(high - low)

    @property
    def gaps(self) -> tuple[float, float]:
        """To the bands below and above [Ha]; negative where they overlap in energy."""
        under, low, high, over = self._edges
        return float(low - under), float(over - high)

    def to_json(self) -> dict[str, Any]:
        """Energies [eV], speed [m/s], the bands."""
        return {
            "version": self.version,
            "flat_bands": self.flat,
            "width_eV": self.width * HARTREE_EV,
            "gap_below_eV": self.gaps[0] * HARTREE_EV,
            "gap_above_eV": self.gaps[1] * HARTREE_EV,
            "K_fractional": None if self.k is None else self.k.tolist(),
            "levels_of_cone": self.cone,
            "speed_m_per_s": None if self.speed is None else self.speed * ATOMIC_VELOCITY_M_S,
            "shares_of_atoms_at_K": None if self.shares is None else self.shares.tolist(),
            "bands": self.bands.to_json(),
        }

    @property
    def gathered(self) -> float | None:
        """How many tenths of the flat states at K are on the tenth of the atoms with the largest shares: 1 if all are alike."""
        if self.shares is None:
            return None
        tenth = max(1, len(self.shares) // 10)
        return float(self.shares.topk(tenth).values.sum()) * len(self.shares) / tenth

    def summary(self) -> list[str]:
        """Width, gaps, speed."""
        below, above = (x * HARTREE_EV * 1e3 for x in self.gaps)
        lines = [
            f"{self.flat} bands about the Fermi level are {self.width * HARTREE_EV * 1e3:.2f} meV wide along "
            f"{len(self.bands.path.k)} points; gaps to the others {below:.2f} meV below, {above:.2f} meV above"
        ]
        if self.speed is not None:
            lines.append(f"{self.cone} levels meet at K and leave with {self.speed * ATOMIC_VELOCITY_M_S:.4g} m/s")
        if self.gathered is not None:
            lines.append(
                f"the tenth of the atoms with most of the flat states at K has {10 * self.gathered:.1f} % of them"
            )
        return lines

    def draw(self, figure: Figure) -> None:
        """The bands with the energies of the flat ones as a stripe; beside them the shares of atoms in the flat states at K."""
        axes = figure.subplots(1, 1 if self.shares is None else 2, squeeze=False)[0]
        if self.shares is not None:
            draw_shares(axes[1], self.structure, self.shares)
        axes = axes[0]
        zero = self.bands.fermi_level or 0.0
        e = (self.bands.energies - zero) * HARTREE_EV
        room = 0.05 * float(e.max() - e.min())
        draw_bands(axes, [("", self.bands)], (float(e.min()) - room, float(e.max()) + room))
        _, low, high, _ = self._edges
        axes.axhspan(float(low - zero) * HARTREE_EV, float(high - zero) * HARTREE_EV, color="#e09f3e", alpha=0.15, lw=0)


class Moire(Property[MoireOptions, MoireBands]):
    """Bands about the Fermi level along a path of the moire zone; the speed of the cone at K by perturbation theory."""

    name = "moire"
    options = MoireOptions
    size = (7.6, 4.2)

    def compute(self, calculation: Calculation, options: MoireOptions, progress: Progress = SILENT) -> MoireBands:
        """The moire bands of a calculation without spin.

        Raises NearsightError: no Hamiltonian, no number of electrons, or one that fills no bands in full; spin.
        """
        c = calculation
        hamiltonian, electrons = c.require_hamiltonian(), electrons_of(c)
        if hamiltonian.spin.components != 1:
            raise BadInput("moire: bands of calculations without spin; take `bands --states` for others")
        if electrons is None:
            raise MissingData("moire: the number of electrons is not known: add `occupation` to info.json")
        filled, half = round(electrons / 2), options.flat // 2
        if abs(filled - electrons / 2) > 1e-3 or options.flat % 2:
            raise BadInput(f"moire: {electrons:g} electrons and {options.flat} bands: give even numbers of both")
        path = band_path(c.structure, options.points, options.path)
        near = NearFermi.of(c, electrons, K_SPACING, SMEARING_EV / HARTREE_EV, progress)
        first, states = filled - half - REMOTE, options.flat + 2 * REMOTE
        if first < 0 or first + states > near.levels.rows:
            raise BadInput(f"--flat {options.flat}: there are {near.levels.rows} bands, {filled} of them filled")
        corner = next((path.k[n] for n, name in path.labels if name == "K"), None)
        cone, speed, shares = 0, None, None
        if corner is not None:
            progress.stage("states at K")
            found = near.levels.window(corner[None], (first,), states, near.fermi_level, vectors=True)
            cone, speed = _speed(near, c, corner, found, filled - first, options.degeneracy_ev / HARTREE_EV)
            own = found.vectors[0][0][:, REMOTE : REMOTE + options.flat]
            weights = (own.conj() * (near.levels.problem.at(corner).overlap @ own)).real.sum(1) / options.flat
            atoms = torch.repeat_interleave(torch.arange(len(c.structure)), hamiltonian.basis.counts.cpu())
            shares = torch.zeros(len(c.structure), dtype=torch.float64).index_add_(0, atoms, torch.from_numpy(weights))
        progress.stage(f"{states} states at each k")
        energies = near.at(path.k, (first,), states, progress)
        bands = Bands(path, energies, near.fermi_level, first=(first,), solver="sparse")
        return MoireBands(bands, options.flat, corner, cone, speed, shares, c.structure)


def draw_shares(axes: Axes, structure: Structure, shares: Tensor) -> None:
    """Atoms of 2 x 2 moire cells seen from above, in colours of their shares times the number of atoms."""
    cell = structure.cell.detach().cpu().numpy() * BOHR_ANG
    home = structure.positions.detach().cpu().numpy() * BOHR_ANG
    xy = np.concatenate([home[:, :2] + i * cell[0, :2] + j * cell[1, :2] for i in range(2) for j in range(2)])
    colours = np.tile(shares.numpy() * len(shares), 4)
    order = np.argsort(colours)
    size = min(12.0, 6000 / len(order))
    x, y = xy[order].T
    drawn = axes.scatter(x, y, c=colours[order], s=size, cmap="magma_r", lw=0, rasterized=True)
    axes.set_aspect("equal")
    axes.set_xlabel("x (\u00c5)")
    axes.set_ylabel("y (\u00c5)")
    axes.figure.colorbar(drawn, ax=axes, shrink=0.6, label="share of the flat states at K / mean")


def _speed(
    near: NearFermi, c: Calculation, k: Tensor, found: Window, filled: int, degeneracy: float
) -> tuple[int, float | None]:
    """How many levels meet at k where the filled ones end, and their speed [Ha Bohr]; None where these levels are apart.

    found: states at k, of which so many are filled.
    The speed is the largest eigenvalue of sum_a q_a W_a, W_a = C^H (H_a - e S_a) C, its mean over directions q in the plane.
    """
    e = found.energies[0, 0].numpy()
    middle = 0.5 * (e[filled - 1] + e[filled])
    chosen = np.flatnonzero(abs(e - middle) < degeneracy)
    if filled not in chosen:
        return 0, None
    x = found.vectors[0][0][:, chosen]
    cell = c.structure.cell.detach().cpu().double()
    plane = torch.linalg.qr(cell[:2].T).Q.T  # two directions that span the sheet
    matrices = []
    for direction in plane:
        slope = near.levels.problem.slope(k, cell @ direction)
        matrices.append(x.conj().T @ (slope.hamiltonian @ x - middle * (slope.overlap @ x)))
    angles = np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    turned = [np.cos(a) * matrices[0] + np.sin(a) * matrices[1] for a in angles]
    return len(chosen), float(np.mean([np.abs(np.linalg.eigvalsh(0.5 * (w + w.conj().T))).max() for w in turned]))


moire = Moire()
