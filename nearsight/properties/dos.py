"""Density of states, total and projected on atoms, elements, angular momenta, orbitals and spins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from nearsight.core.calculation import Calculation
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput, MissingData
from nearsight.core.spin import Spin
from nearsight.core.units import HARTREE_EV
from nearsight.properties.brillouin import (
    Gaussian,
    Sampling,
    Spreading,
    Tetrahedra,
    electrons_below,
    fermi_energy,
    sampling,
)
from nearsight.properties.contract import SILENT, Options, Progress, Property, Result, option
from nearsight.properties.drawing import COLOURS
from nearsight.properties.eigenstates import levels
from nearsight.properties.kernel_polynomial import sampled_below
from nearsight.properties.near_fermi import NearFermi, solver_for
from nearsight.properties.projections import POPULATIONS, Projection, states_and_shares
from nearsight.properties.spectra import K_SPACING, SMEARING_EV, electrons_of, fermi_level_of
from nearsight.properties.subspace import without_ghosts

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class DosOptions(Options):
    """How the zone is sampled, how levels are spread, and what they are projected on."""

    method: Literal["tetrahedron", "gaussian", "kpm"] = option(
        "tetrahedron",
        "linear tetrahedron method, each level a Gaussian, or that by Chebyshev moments of random vectors: no levels, any size",
    )
    vectors: int = option(8, "random vectors of kpm, whose scatter is its error", ge=2, le=10_000)
    width_ev: float = option(0.1, "standard deviation of the Gaussian", unit="eV", gt=0, le=100)
    project: str | None = option(None, "project on atom, element, l, orbital, spin, or several: element,l")
    populations: Literal["mulliken", "lowdin"] = option("mulliken", "rule of the projection: mulliken or lowdin")
    kmesh: tuple[int, int, int] | None = option(None, "Gamma-centred k-mesh", unit="N N N")
    spacing: float = option(0.15, "largest step of the k-mesh, where none is given", unit="1/angstrom", gt=0)
    window: tuple[float, float] = option((-15.0, 10.0), "energies shown, from the Fermi level", unit="eV eV")
    solver: Literal["auto", "dense", "sparse"] = option(
        "auto", "dense, sparse (a window of large systems), or what fits"
    )
    step_ev: float = option(0.02, "width of an energy bin", unit="eV", gt=0, le=10)


@dataclass(frozen=True, eq=False, repr=False)
class DensityOfStates(Result):
    """Electrons that the states below an energy hold, and their differences: densities that integrate exactly.

    edges: of the bins of energy [E + 1], Ha, equally spaced; the Fermi level is one of them, where it is known.
    below: electrons below each edge, of each independent spin [s, E + 1].  projected: of the groups `names` [groups, E + 1].
    fermi_level: [Ha], from the number of electrons where that is known, by the same method and mesh.
    error, projected_error: standard errors of `total` [s, E] and `projections` [groups, E] where these are sampled.
    """

    kind: Spin
    edges: Tensor
    below: Tensor
    names: tuple[str, ...]
    projected: Tensor
    fermi_level: float | None
    electrons: float | None
    kmesh: tuple[int, int, int]
    method: str
    error: Tensor | None = None
    projected_error: Tensor | None = None

    __repr__ = one_line

    @property
    def step(self) -> float:
        """Width of a bin [Ha]."""
        return float(self.edges[1] - self.edges[0])

    @property
    def energies(self) -> Tensor:
        """Middles of the bins [E], Ha."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])

    @property
    def total(self) -> Tensor:
        """Density of states of each spin, the mean over each bin [s, E], electrons/Ha in a cell."""
        return self.below.diff(dim=-1) / self.step

    @property
    def projections(self) -> Tensor:
        """Of the groups [groups, E], electrons/Ha in a cell."""
        return self.projected.diff(dim=-1) / self.step

    def at_fermi(self, below: Tensor) -> Tensor:
        """What is below the Fermi level [...] of cumulated curves [..., E + 1]. Raises MissingData where it is not known."""
        if self.fermi_level is None:
            raise MissingData("the Fermi level is not known: the calculation tells neither it nor its electrons")
        return below[..., int((self.edges - self.fermi_level).abs().argmin())]

    def density_at_fermi(self) -> float:
        """Mean of the bins at both sides of the Fermi level [electrons/Ha]."""
        if self.fermi_level is None:
            raise MissingData("the Fermi level is not known: the calculation tells neither it nor its electrons")
        at = int((self.edges - self.fermi_level).abs().argmin())
        return float(self.total.sum(0)[max(at - 1, 0) : at + 1].mean())

    def to_json(self) -> dict[str, Any]:
        """Energies [eV], densities [electrons/eV in a cell], electrons below the first bin and below the Fermi level."""
        spins = ["total"] if len(self.total) == 1 else ["up", "down"]
        known = self.fermi_level is not None
        return {
            "version": self.version,
            "method": self.method,
            "kmesh": list(self.kmesh),
            "spin": self.kind.name,
            "electrons": self.electrons,
            "fermi_energy_eV": None if self.fermi_level is None else self.fermi_level * HARTREE_EV,
            "dos_at_fermi_per_eV": self.density_at_fermi() / HARTREE_EV if known else None,
            "electrons_below_fermi": float(self.at_fermi(self.below).sum()) if known else None,
            "projected_electrons_below_fermi": _named(self.names, self.at_fermi(self.projected)) if known else None,
            "step_eV": self.step * HARTREE_EV,
            "energies_eV": (self.energies * HARTREE_EV).tolist(),
            "dos_per_eV": _named(spins, self.total / HARTREE_EV),
            "electrons_below_first_bin": _named(spins, self.below[:, 0]),
            "projected_dos_per_eV": _named(self.names, self.projections / HARTREE_EV),
            "projected_electrons_below_first_bin": _named(self.names, self.projected[:, 0]),
        } | self._errors(spins)

    def _errors(self, spins: Sequence[str]) -> dict[str, Any]:
        if self.error is None or self.projected_error is None:
            return {}
        return {
            "dos_error_per_eV": _named(spins, self.error / HARTREE_EV),
            "projected_dos_error_per_eV": _named(self.names, self.projected_error / HARTREE_EV),
        }

    def summary(self) -> list[str]:
        """k-mesh, Fermi level and what stands there, electrons of each group."""
        lines = [f"k-mesh {'x'.join(map(str, self.kmesh))}, {self.method}, bins of {self.step * HARTREE_EV:.3g} eV"]
        if self.fermi_level is not None:
            lines.append(
                f"Fermi level {self.fermi_level * HARTREE_EV:.4f} eV: {self.density_at_fermi() / HARTREE_EV:.4g} "
                f"electrons/eV in a cell there, {float(self.at_fermi(self.below).sum()):.6f} electrons below"
            )
            held = self.at_fermi(self.projected).tolist()
            lines += [f"{name}: {n:.4f} electrons" for name, n in zip(self.names, held, strict=True)]
        if self.error is not None:
            share = float(self.error.sum() / self.total.sum())
            lines.append(
                f"standard error of the density of states {100 * share:.2g} % on average: more --vectors lower it; where only "
                "one to four levels lie within --width it is too small"
            )
        return lines

    def draw(self, figure: Figure) -> None:
        """Densities against the energy; of collinear spin, down is drawn downwards."""
        axes = figure.subplots()
        x = ((self.energies - (self.fermi_level or 0.0)) * HARTREE_EV).numpy()
        both = len(self.total) == 2
        for sign, density in zip((1, -1), (self.total / HARTREE_EV).numpy(), strict=False):
            axes.fill_between(x, sign * density, color="0.88", lw=0, zorder=0)
            axes.plot(x, sign * density, color="0.45", lw=0.8, label="total" if sign > 0 else None)
        if self.error is not None:
            for sign, density, error in zip((1, -1), self.total, self.error, strict=False):
                low, high = ((sign * (density + e) / HARTREE_EV).numpy() for e in (-error, error))
                axes.fill_between(x, low, high, color="0.45", alpha=0.4, lw=0)
        height = float(self.total.max()) / HARTREE_EV
        densities = zip(self.names, (self.projections / HARTREE_EV).numpy(), strict=True)
        shown = [(name, d) for name, d in densities if abs(d).max() > 0.01 * height]
        for n, (name, density) in enumerate(shown):
            sign = -1 if both and name.split(" ")[-1] == "down" else 1
            line = "-" if n < len(COLOURS) else (0, (3, 1.5))
            axes.plot(x, sign * density, lw=1.0, ls=line, color=COLOURS[n % len(COLOURS)], label=name)
        axes.axvline(0, color="0.55", lw=0.6, ls=":", zorder=0)
        axes.set_xlim(x[0], x[-1])
        if both:
            axes.axhline(0, color="0.3", lw=0.6)
        elif all(d.min() > -0.02 * height for _, d in shown):
            axes.set_ylim(bottom=0)
        axes.set_xlabel("$E - E_F$ (eV)" if self.fermi_level is not None else "E (eV)")
        axes.set_ylabel("electrons / eV")
        if self.names:
            figure.legend(loc="outside right upper", fontsize=7)


def _named(names: Sequence[str], values: Tensor) -> dict[str, Any]:
    return dict(zip(names, values.tolist(), strict=True))


class Dos(Property[DosOptions, DensityOfStates]):
    """g(E) = sum_nk w_k g_s delta(E - e_nk), and with the populations P_nk of groups of orbitals as further weights."""

    name = "dos"
    options = DosOptions
    size = (5.6, 3.6)

    def compute(self, calculation: Calculation, options: DosOptions, progress: Progress = SILENT) -> DensityOfStates:
        """The density of states of a calculation.

        Raises NearsightError: no Hamiltonian; a window without width; a word of `project` that is not known.
        """
        hamiltonian, overlap = calculation.require_hamiltonian(), calculation.require_overlap()
        kind = hamiltonian.spin
        mesh = sampling(calculation.structure, hamiltonian, options.kmesh, options.spacing)
        groups = None
        if options.project is not None:
            groups = Projection.of(hamiltonian.basis, kind, options.project, calculation.structure)
        if options.method == "kpm":
            return _of_moments(calculation, options, mesh, groups, progress)
        way: Spreading = Gaussian(mesh.weights, options.width_ev / HARTREE_EV)
        if options.method == "tetrahedron":
            way = Tetrahedra.of(mesh, calculation.structure)
        if solver_for(hamiltonian, options.solver) == "sparse":
            if groups is not None:
                raise BadInput(
                    "the sparse solver tells no shares of orbitals yet: leave --project out, or --solver dense"
                )
            return _of_window(calculation, options, mesh, way, progress)
        calculation = without_ghosts(calculation)
        hamiltonian = calculation.require_hamiltonian()
        progress.stage("diagonalising")
        owned = None
        if groups is None:
            e = levels(hamiltonian, overlap, mesh.k, progress)
        else:
            rule = POPULATIONS[options.populations]
            e, owned = states_and_shares(hamiltonian, overlap, mesh.k, groups, rule, progress)
        fermi, electrons = calculation.fermi_level, electrons_of(calculation)
        if electrons is not None:
            fermi = fermi_energy(e, way, electrons, kind.electrons_per_level)
        edges = _edges(options.window, options.step_ev, fermi or 0.0)
        below, projected = electrons_below(edges, e, mesh, way, kind.electrons_per_level, owned)
        return DensityOfStates(
            kind=kind,
            edges=edges,
            below=below,
            names=() if groups is None else groups.names,
            projected=projected,
            fermi_level=fermi,
            electrons=electrons,
            kmesh=mesh.size,
            method=options.method,
        )


def _of_window(
    calculation: Calculation, options: DosOptions, mesh: Sampling, way: Spreading, progress: Progress
) -> DensityOfStates:
    """From the levels of the window alone, which the sparse solver finds; those below it are counted."""
    c, kind = calculation, calculation.require_hamiltonian().spin
    electrons = electrons_of(c)
    near = NearFermi.of(c, electrons, K_SPACING, SMEARING_EV / HARTREE_EV, progress)
    edges = _edges(options.window, options.step_ev, near.fermi_level)
    progress.stage("states of the window")
    wider = way.margin() * HARTREE_EV / 2
    e, first = near.covering(mesh.k, (options.window[0] - wider, options.window[1] + wider), progress)
    below, projected = electrons_below(edges, e, mesh, way, kind.electrons_per_level)
    below = below + kind.electrons_per_level * torch.tensor(first, dtype=torch.float64)[:, None]
    return DensityOfStates(
        kind, edges, below, (), projected, near.fermi_level, electrons, mesh.size, f"{options.method}, sparse"
    )


def _of_moments(
    c: Calculation, options: DosOptions, mesh: Sampling, groups: Projection | None, progress: Progress
) -> DensityOfStates:
    """By the kernel polynomial method. The electrons below the Fermi level are those that are known, not the sampled ones."""
    if groups is not None and options.populations != "mulliken":
        raise BadInput("--method kpm shares states by Mulliken's rule: leave --populations out")
    hamiltonian = c.require_hamiltonian()
    fermi, electrons = fermi_level_of(c), electrons_of(c)
    edges = _edges(options.window, options.step_ev, fermi or 0.0)
    progress.stage("moments")
    width = options.width_ev / HARTREE_EV
    known = fermi is not None and electrons is not None
    found = sampled_below(
        hamiltonian, c.require_overlap(), edges, mesh, width, options.vectors, groups, progress, differences=known
    )
    below, projected = found.below, found.projected
    if fermi is not None and electrons is not None:
        at = int((edges - fermi).abs().argmin())
        missing = electrons - float(below[:, at].sum())
        below = below + missing / len(below)
        if groups is not None:
            rows = torch.bincount(groups.group.flatten(), minlength=len(groups.names)).double()
            projected = projected + (missing * rows / rows.sum())[:, None]
    return DensityOfStates(
        kind=hamiltonian.spin,
        edges=edges,
        below=below,
        names=() if groups is None else groups.names,
        projected=projected,
        fermi_level=fermi,
        electrons=electrons,
        kmesh=mesh.size,
        method=f"kpm, {options.vectors} vectors",
        error=found.error,
        projected_error=found.projected_error,
    )


def _edges(window: tuple[float, float], step_ev: float, zero: float) -> Tensor:
    """Edges of the bins [Ha] that cover a window [eV] around an energy, which is one of them."""
    low, high = window
    if not low <= 0 <= high or low == high:
        raise BadInput(f"--window {low:g} {high:g}: give energies below and above the Fermi level, such as -10 5")
    first, last = floor(low / step_ev + 1e-9), ceil(high / step_ev - 1e-9)
    if last - first > 1_000_000:
        raise BadInput(f"--step {step_ev:g}: {last - first} bins are too many; take wider ones or a smaller window")
    return zero + torch.arange(first, last + 1, dtype=torch.float64) * (step_ev / HARTREE_EV)


dos = Dos()
