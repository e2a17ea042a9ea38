"""Band gap, direct and indirect, and where; band edges, effective masses and velocities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearsight.core.calculation import Calculation
from nearsight.core.display import one_line
from nearsight.core.errors import MissingData
from nearsight.core.spin import Spin
from nearsight.core.units import ATOMIC_VELOCITY_M_S, HARTREE_EV
from nearsight.electrons.kpoints import band_path
from nearsight.properties.brillouin import Sampling, Thermal, fermi_energy, periodic_axes, sampling
from nearsight.properties.contract import SILENT, Options, Progress, Property, Result, option
from nearsight.properties.corners import Corners
from nearsight.properties.drawing import COLOURS, draw_bands
from nearsight.properties.edges import SPINS, Edge, Surroundings
from nearsight.properties.eigenstates import eigenstates, levels
from nearsight.properties.extrema import Objective, Search
from nearsight.properties.kdotp import Lattice
from nearsight.properties.spectra import Bands, affordable_points, bands, electrons_of
from nearsight.properties.subspace import without_ghosts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOUCHING_EV = 1e-3  # valence and conduction nearer than this are one point: no gap
MARKED_EV = 0.02  # a path that comes so near to an edge shows it
COLD_EV, WARM_EV = 0.003, 0.05  # k_B T of the Fermi level, and of averages at it
SAME_ENERGY = 1e-9  # Ha: of two places as good as each other the one of a smaller direct gap


class GapOptions(Options):
    """Where the search for the edges begins, and which levels count as one."""

    kmesh: tuple[int, int, int] | None = option(None, "Gamma-centred k-mesh of the search", unit="N N N")
    spacing: float = option(0.2, "largest step of the k-mesh, where none is given", unit="1/angstrom", gt=0)
    degeneracy_ev: float = option(1e-3, "levels nearer than this are degenerate", unit="eV", gt=0, le=1)
    points: int = option(80, "k-points on the path of the picture", ge=2)


@dataclass(frozen=True, eq=False, repr=False)
class Gap(Result):
    """The gap and its edges, or what a metal is by.

    metal: why there is no gap, or None.  valence, conduction: edges; None where the number of electrons fills no set of bands.
    direct: smallest difference of conduction and valence bands at one k [Ha], at direct_k with direct_label.
    fermi_level: [Ha].  fermi_speed: root of the mean square velocity at the Fermi level of a metal [Ha Bohr], or None.
    """

    kind: Spin
    metal: str | None
    valence: Edge | None
    conduction: Edge | None
    direct: float | None
    direct_k: Tensor | None
    direct_label: str | None
    fermi_level: float
    fermi_speed: float | None
    kmesh: tuple[int, int, int]
    bands: Bands
    same_k: bool

    __repr__ = one_line

    @property
    def gap(self) -> float:
        """Lowest conduction minus highest valence level [Ha]; 0 of a metal."""
        if self.metal is not None or self.valence is None or self.conduction is None:
            return 0.0
        return self.conduction.energy - self.valence.energy

    def to_json(self) -> dict[str, Any]:
        """Energies [eV], k fractional, masses [m_e], velocities [m/s]."""
        return {
            "version": self.version,
            "kmesh": list(self.kmesh),
            "spin": self.kind.name,
            "metal": self.metal,
            "gap_eV": self.gap * HARTREE_EV,
            "gap_is_direct": self.same_k if self.metal is None else None,
            "direct_gap_eV": None if self.direct is None else self.direct * HARTREE_EV,
            "direct_gap_k_fractional": None if self.direct_k is None else self.direct_k.tolist(),
            "direct_gap_label": self.direct_label,
            "fermi_energy_eV": self.fermi_level * HARTREE_EV,
            "fermi_speed_m_per_s": None if self.fermi_speed is None else self.fermi_speed * ATOMIC_VELOCITY_M_S,
            "valence": None if self.valence is None else self.valence.to_json(),
            "conduction": None if self.conduction is None else self.conduction.to_json(),
        }

    def summary(self) -> list[str]:
        """Gap, edges, masses."""
        if self.metal is not None:
            lines = [f"metal: {self.metal}", f"Fermi level {self.fermi_level * HARTREE_EV:.4f} eV"]
            if self.fermi_speed is not None:
                lines.append(f"mean speed at the Fermi level {self.fermi_speed * ATOMIC_VELOCITY_M_S:.3e} m/s")
        else:
            lines = [f"gap {self.gap * HARTREE_EV:.4f} eV, {'direct' if self.same_k else 'indirect'}"]
        if self.direct is not None and self.direct_k is not None:
            at = f"({' '.join(f'{x:.4f}' for x in (self.direct_k + 0.0).tolist())})"
            lines.append(f"smallest direct gap {self.direct * HARTREE_EV:.4f} eV at {self.direct_label or ''} {at}")
        for name, edge in (("valence top", self.valence), ("conduction bottom", self.conduction)):
            if edge is not None:
                lines += edge.summary(name)
        return lines

    def draw(self, figure: Figure) -> None:
        """The bands around the gap; the edges where the path meets them."""
        axes = figure.subplots()
        width = max(3.0, 1.5 * self.gap * HARTREE_EV)
        draw_bands(axes, [("", self.bands)], (-width, width))
        zero = self.bands.fermi_level or 0.0
        if self.valence is None or self.conduction is None:
            return
        if self.metal is None:
            ends = [(e.energy - zero) * HARTREE_EV for e in (self.valence, self.conduction)]
            axes.axhspan(*ends, color="#e09f3e", alpha=0.15, lw=0)
        x = self.bands.path.distance
        for edge, colour in ((self.valence, COLOURS[1]), (self.conduction, COLOURS[2])):
            energies = self.bands.energies[SPINS.index(edge.spin) if edge.spin else 0, :, edge.band]
            nearest = int((energies - edge.energy).abs().argmin())
            if float((energies[nearest] - edge.energy).abs()) < MARKED_EV / HARTREE_EV:
                axes.plot(x[nearest], (edge.energy - zero) * HARTREE_EV, "o", ms=5, color=colour, zorder=3)


class BandGap(Property[GapOptions, Gap]):
    """The extrema of the bands beside the gap, found from a mesh by gradients of H(k), and their expansions."""

    name = "gap"
    options = GapOptions

    def compute(self, calculation: Calculation, options: GapOptions, progress: Progress = SILENT) -> Gap:
        """The gap of a calculation.

        Raises NearsightError: no Hamiltonian, neither a number of electrons nor a Fermi level, or no level that is empty.
        """
        calculation = without_ghosts(calculation)
        hamiltonian, overlap = calculation.require_hamiltonian(), calculation.require_overlap().hermitian()
        structure, kind = calculation.structure, hamiltonian.spin
        axes = periodic_axes(structure, hamiltonian)
        mesh = sampling(structure, hamiltonian, options.kmesh, options.spacing)
        lattice, corners = Lattice(hamiltonian, overlap, structure), Corners.of(structure, axes)
        points = torch.cat([mesh.k, *(p[None] for p in corners.points.values())])
        progress.stage("diagonalising")
        e = levels(hamiltonian, overlap, points, progress)
        electrons, room = electrons_of(calculation), kind.electrons_per_level * e.shape[0] * e.shape[2]
        if electrons is not None and electrons > room - 1e-6:
            raise MissingData(
                f"{electrons:g} electrons fill all {overlap.basis.size} orbitals: there is no empty level and so no gap; "
                "take a larger basis, such as dzp"
            )
        fermi = _fermi_level(calculation, e[:, : len(mesh.k)], mesh, kind)
        filled = _filled(e, electrons_of(calculation), fermi, kind)
        path = band_path(structure, min(options.points, affordable_points(overlap.basis.size * kind.size_factor)))
        if filled is None:
            progress.stage("velocities")
            speed = _fermi_speed(lattice, mesh, e[:, : len(mesh.k)], fermi, kind)
            drawn = bands(hamiltonian, overlap, path, fermi)
            return Gap(
                kind, "bands cross the Fermi level", None, None, None, None, None, fermi, speed, mesh.size, drawn, False
            )
        progress.stage("edges")
        plane = torch.linalg.qr(structure.reciprocal.detach().cpu().double()[axes].T)[0].T
        around = Surroundings(lattice, corners, plane, options.degeneracy_ev / HARTREE_EV)
        search = Search(lattice, axes, 1 / torch.tensor(mesh.size, dtype=torch.float64))
        tops, bottoms, direct = _extrema(search, e, points, filled, progress)
        valence = around.edge(tops[0], tops[2], filled[tops[2]] - 1, -1)
        conduction = around.edge(bottoms[0], bottoms[2], filled[bottoms[2]], 1)
        gap = conduction.energy - valence.energy
        metal = None
        if gap * HARTREE_EV < TOUCHING_EV:
            touch = gap * HARTREE_EV > -TOUCHING_EV
            place = corners.label(conduction.k) or "one k"
            metal = (
                f"valence and conduction bands touch at {place}"
                if touch
                else f"valence and conduction bands overlap by {-gap * HARTREE_EV:.4f} eV"
            )
        level = fermi if metal else 0.5 * (valence.energy + conduction.energy)
        return Gap(
            kind=kind,
            metal=metal,
            valence=valence,
            conduction=conduction,
            direct=direct[1],
            direct_k=direct[0],
            direct_label=corners.label(direct[0]),
            fermi_level=level,
            fermi_speed=None,
            kmesh=mesh.size,
            bands=bands(hamiltonian, overlap, path, level),
            same_k=gap > direct[1] - TOUCHING_EV / HARTREE_EV,
        )


def _fermi_level(calculation: Calculation, e: Tensor, mesh: Sampling, kind: Spin) -> float:
    """From the number of electrons at k_B T = 0.003 eV where that is known; else what the calculation says [Ha]."""
    electrons = electrons_of(calculation)
    if electrons is not None:
        return fermi_energy(e, Thermal(mesh.weights, COLD_EV / HARTREE_EV), electrons, kind.electrons_per_level)
    if calculation.fermi_level is None:
        raise MissingData("neither the number of electrons nor the Fermi level is known: no band edges can be told")
    return calculation.fermi_level


def _filled(e: Tensor, electrons: float | None, fermi: float, kind: Spin) -> tuple[int, ...] | None:
    """Number of filled bands of each matrix [s], if some set of bands holds just the electrons and is below the others, or
    touches them; None for a metal.

    e: [s, k, n].  Collinear spins share the electrons as they leave the widest gap.
    """
    spins, _, n = e.shape
    highest, lowest = e.amax(1), e.amin(1)
    if electrons is None:
        count = (e < fermi).sum(2)
        return tuple(count[:, 0].tolist()) if bool((count == count[:, :1]).all()) else None
    total = electrons / kind.electrons_per_level
    whole = round(total)
    if abs(total - whole) > 1e-3:
        return None
    shares: list[tuple[int, ...]] = [(whole,)]
    if spins == 2:
        shares = [(up, whole - up) for up in range(max(0, whole - n), min(n, whole) + 1)]
    best: tuple[int, ...] | None = None
    widest = -0.1 / HARTREE_EV
    for share in shares:
        tops = [float(highest[s, m - 1]) for s, m in enumerate(share) if m > 0]
        bottoms = [float(lowest[s, m]) for s, m in enumerate(share) if m < n]
        if tops and bottoms and min(bottoms) - max(tops) > widest:
            best, widest = share, min(bottoms) - max(tops)
    return best


Place = tuple[Tensor, float, int]  # k, energy, which matrix


def _extrema(
    search: Search, e: Tensor, points: Tensor, filled: tuple[int, ...], progress: Progress
) -> tuple[Place, Place, tuple[Tensor, float]]:
    """Top of the filled and bottom of the empty bands, and the smallest difference of the two at one k.

    e: [s, k, n] at points [k, 3].  filled: bands of each matrix.
    """
    n = e.shape[2]
    below = [s for s, m in enumerate(filled) if m > 0]
    above = [s for s, m in enumerate(filled) if m < n]

    def edges_at(energies: Tensor) -> tuple[int, int]:
        """Which matrix has the highest filled, and which the lowest empty level, of energies [s, n]."""
        top = max(below, key=lambda s: float(energies[s, filled[s] - 1]))
        return top, min(above, key=lambda s: float(energies[s, filled[s]]))

    def difference(energies: Tensor, v: Tensor) -> tuple[float, Tensor]:
        t, b = edges_at(energies)
        gap = float(energies[b, filled[b]] - energies[t, filled[t] - 1])
        return gap * gap, 2 * gap * (v[:, b, filled[b]] - v[:, t, filled[t] - 1])

    steps = len(below) + len(above) + 1
    highest = torch.stack([e[s, :, filled[s] - 1] for s in below]).amax(0)
    lowest = torch.stack([e[s, :, filled[s]] for s in above]).amin(0)
    place, square = search.minimum(difference, (lowest - highest).square(), points)
    progress.advance(1, steps)
    energies = search.lattice.states(place)[0].cpu()
    t, b = edges_at(energies)
    top: Place = (place, float(energies[t, filled[t] - 1]), t)
    bottom: Place = (place, float(energies[b, filled[b]]), b)
    for done, s in enumerate(below):
        m = filled[s] - 1
        k, value = search.minimum(_level(s, m, -1), -e[s, :, m], points)
        top = (k, -value, s) if -value > top[1] + SAME_ENERGY else top
        progress.advance(2 + done, steps)
    for done, s in enumerate(above):
        m = filled[s]
        k, value = search.minimum(_level(s, m, 1), e[s, :, m], points)
        bottom = (k, value, s) if value < bottom[1] - SAME_ENERGY else bottom
        progress.advance(2 + len(below) + done, steps)
    return top, bottom, (place, square**0.5)


def _level(matrix: int, band: int, sign: int) -> Objective:
    """Plus or minus a level, and its gradient."""

    def objective(energies: Tensor, velocities: Tensor) -> tuple[float, Tensor]:
        return sign * float(energies[matrix, band]), sign * velocities[:, matrix, band]

    return objective


def _fermi_speed(lattice: Lattice, mesh: Sampling, e: Tensor, fermi: float, kind: Spin) -> float | None:
    """Root of the mean of v^2 over states weighted by -f'(e) at k_B T = 0.05 eV [Ha Bohr]; None without states there."""
    kT = WARM_EV / HARTREE_EV
    near = ((e - fermi).abs() < 20 * kT).any(2).any(0)
    weight = square = 0.0
    index = near.nonzero()[:, 0]
    done = 0
    for states in eigenstates(lattice.hamiltonian, lattice.overlap, mesh.k[index]):
        w = mesh.weights[index[done : done + len(states.k)]].to(states.energies)
        x = (states.energies - fermi) / kT
        slope = torch.sigmoid(x) * torch.sigmoid(-x) * w[:, None]
        v = lattice.velocities(states.k, states.energies, states.coefficients)
        weight += float(slope.sum())
        square += float((slope * v.square().sum(0)).sum())
        done += len(states.k)
    return (square / weight) ** 0.5 if weight > 1e-12 else None


gap = BandGap()
