"""Charges and moments of atoms by Mulliken, Loewdin and Hirshfeld, Mayer's bond orders, the dipole of a molecule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearsight.core.calculation import Calculation
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput, MissingData, NearsightError
from nearsight.core.spin import Spin
from nearsight.core.structure import Structure
from nearsight.core.units import BOHR_ANG, DEBYE_AU, HARTREE_EV
from nearsight.properties.brillouin import periodic_axes
from nearsight.properties.contract import SILENT, Options, Progress, Property, Result, option
from nearsight.properties.drawing import COLOURS
from nearsight.properties.mesh_orbitals import MeshOrbitals, settings_of, species_of
from nearsight.properties.occupied import Occupied
from nearsight.properties.partition import Bond, bond_orders, dipole_moment, hirshfeld, mulliken

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_BONDS = 24  # that a summary shows
LEAST_SHOWN = 0.05  # e or mu_B: a picture does not magnify what is less


class ChargesOptions(Options):
    """How states are sampled, and the mesh of integrals over space."""

    kmesh: tuple[int, int, int] | None = option(
        None, "Gamma-centred k-mesh, else that of the calculation", unit="N N N"
    )
    mesh_cutoff_ry: float | None = option(
        None, "cutoff of the real-space mesh, else the calculation's", unit="Ry", gt=0
    )
    hirshfeld: bool = option(True, "charges and moments by shares of the density on the mesh")
    dipole: bool | None = option(None, "dipole of a molecule; by default where there is one")


@dataclass(frozen=True, eq=False, repr=False)
class Charges(Result):
    """What each atom has, by each scheme that could be computed.

    electrons: [atoms] of each scheme.  moments: (m_x, m_y, m_z) of each [atoms, 3], mu_B; zero without spin.
    valence: electrons of the neutral atoms [atoms]; None where the pseudopotentials are not known, and so no charges.
    bonds: those above 0.05, the strongest first.  valences: sum of the orders of the bonds of each atom [atoms]; empty
    without H.
    dipole: of a molecule [3], e Bohr; from `origin` [3], Bohr, on which it depends where the molecule is charged.
    notes: what could not be computed, and why.
    """

    structure: Structure
    kind: Spin
    electrons: dict[str, Tensor]
    moments: dict[str, Tensor]
    valence: Tensor | None
    bonds: tuple[Bond, ...]
    valences: Tensor
    dipole: Tensor | None
    origin: Tensor | None
    charge: float | None
    notes: tuple[str, ...]

    __repr__ = one_line

    @property
    def charges(self) -> dict[str, Tensor]:
        """Valence minus electrons [atoms] of each scheme, e; empty where the valence is not known."""
        return {} if self.valence is None else {name: self.valence - n for name, n in self.electrons.items()}

    def to_json(self) -> dict[str, Any]:
        """Charges [e], moments [mu_B], distances [angstrom], dipole [e Bohr and Debye]."""
        dipole = self.dipole
        return {
            "version": self.version,
            "spin": self.kind.name,
            "symbols": self.structure.symbols,
            "electrons": {name: n.tolist() for name, n in self.electrons.items()},
            "charges_e": {name: q.tolist() for name, q in self.charges.items()},
            "moments_muB": {name: m.tolist() for name, m in self.moments.items()},
            "bonds": [
                {"i": b.i, "j": b.j, "R": list(b.R), "order": b.order, "distance_ang": b.distance * BOHR_ANG}
                for b in self.bonds
            ],
            "valences": self.valences.tolist(),
            "cell_charge_e": self.charge,
            "dipole_e_bohr": None if dipole is None else dipole.tolist(),
            "dipole_debye": None if dipole is None else (dipole / DEBYE_AU).tolist(),
            "dipole_origin_ang": None if self.origin is None else (self.origin * BOHR_ANG).tolist(),
            "notes": list(self.notes),
        }

    def summary(self) -> list[str]:
        """A table of atoms, the bonds, the dipole."""
        values = self.charges or self.electrons
        what = "charge (e)" if self.charges else "electrons"
        spinful = self.kind.components > 1
        names = list(values)
        lines = [f"{'atom':8s}" + "".join(f"{name:>12s}" for name in names) + f"   {what}"]
        for a, symbol in enumerate(self.structure.symbols):
            lines.append(f"{symbol}{a + 1:<7d}"[:8] + "".join(f"{float(values[name][a]):12.4f}" for name in names))
        lines.append(f"{'sum':8s}" + "".join(f"{float(values[name].sum()):12.4f}" for name in names))
        if spinful:
            vectors = self.kind.components == 4
            lines.append(
                f"{'moment':8s}" + "".join(f"{name:>{24 if vectors else 12}s}" for name in names) + "   (mu_B)"
            )
            for a, symbol in enumerate(self.structure.symbols):
                row = ""
                for name in names:
                    m = self.moments[name][a]
                    row += "".join(f"{float(x):8.3f}" for x in m) if vectors else f"{float(m[2]):12.4f}"
                lines.append(f"{symbol}{a + 1:<7d}"[:8] + row)
        symbols = self.structure.symbols
        for b in self.bonds[:MOST_BONDS]:
            cell = "" if b.R == (0, 0, 0) else f" in cell {' '.join(map(str, b.R))}"
            ends = f"{symbols[b.i]}{b.i + 1}-{symbols[b.j]}{b.j + 1}{cell}"
            lines.append(f"bond {ends}: order {b.order:.3f}, {b.distance * BOHR_ANG:.3f} angstrom")
        if len(self.bonds) > MOST_BONDS:
            lines.append(f"and {len(self.bonds) - MOST_BONDS} weaker bonds")
        if self.dipole is not None:
            debye = self.dipole / DEBYE_AU
            lines.append(
                f"dipole {float(self.dipole.norm()):.4f} e Bohr = {float(debye.norm()):.4f} Debye "
                f"({' '.join(f'{x:.4f}' for x in (debye + 0.0).tolist())})"
            )
        return [*lines, *self.notes]

    def draw(self, figure: Figure) -> None:
        """A bar for each atom and scheme: charges, and below them the length of the moments where there is spin."""
        import numpy as np
        from matplotlib.ticker import MaxNLocator

        spinful = self.kind.components > 1
        values = self.charges or self.electrons
        panels = [("charge (e)" if self.charges else "electrons", values)]
        if spinful:
            size = {n: m[:, 2] if self.kind.components == 2 else m.norm(dim=1) for n, m in self.moments.items()}
            panels.append(("moment ($\\mu_B$)", size))
        all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        atoms = np.arange(len(self.structure))
        for axes, (label, table) in zip(all_axes, panels, strict=True):
            for n, (name, numbers) in enumerate(table.items()):
                width = 0.8 / len(table)
                place = atoms + (n - 0.5 * (len(table) - 1)) * width
                axes.bar(place, numbers.numpy(), width, color=COLOURS[n], label=name)
            axes.axhline(0, color="0.3", lw=0.6)
            axes.update_datalim([(0, -LEAST_SHOWN), (0, LEAST_SHOWN)])
            axes.autoscale_view()
            axes.set_ylabel(label)
        all_axes[0].legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=8)
        if len(atoms) <= 24:
            names = [f"{s}{a + 1}" for a, s in enumerate(self.structure.symbols)]
            all_axes[-1].set_xticks(atoms, names, fontsize=8)
        else:
            all_axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
            all_axes[-1].set_xlabel("atom")


class AtomicCharges(Property[ChargesOptions, Charges]):
    """Shares of the electrons, by orbitals (Mulliken, Loewdin) and by the density on a mesh (Hirshfeld)."""

    name = "charges"
    options = ChargesOptions

    def compute(self, calculation: Calculation, options: ChargesOptions, progress: Progress = SILENT) -> Charges:
        """The charges of a calculation: of its density matrix, and of its Hamiltonian's states.

        What needs something that the calculation lacks is left out, and said in the notes.
        Raises NearsightError: neither H nor D; a dipole that was asked for and has no meaning, of a periodic system.
        """
        c = calculation
        notes: list[str] = []
        axes = periodic_axes(c.structure, c.hamiltonian, c.density_matrix)
        if options.dipole and axes:
            raise BadInput(
                f"--dipole: the system is periodic along {' '.join('abc'[x] for x in axes)}, and has no dipole of a "
                "molecule; leave --dipole out"
            )
        settings = settings_of(c)
        occupied = None
        if c.hamiltonian is not None:
            kT = None if settings is None else settings.electrons.width_ev / HARTREE_EV
            kmesh = options.kmesh or (None if settings is None else settings.kpoints.mesh)
            occupied = Occupied.of(c, kmesh, kT, progress)
        else:
            notes.append("no Hamiltonian, so no Loewdin charges and no bond orders")
        density = c.density_matrix
        if density is None:
            if occupied is None:
                raise MissingData("the calculation has neither a density matrix nor a Hamiltonian: no charges")
            density = occupied.density_matrix
        kind = density.spin
        channels = {"mulliken": mulliken(density, c.require_overlap())}
        if occupied is not None:
            channels["lowdin"] = _by_atom(occupied.lowdin, c)
        valence, orbitals = self._species(c, options, notes, progress)
        dipole = origin = None
        if orbitals is not None:
            field = orbitals.density(density)
            channels["hirshfeld"] = hirshfeld(orbitals, kind, field)
            if not axes and options.dipole is not False:
                dipole, origin = dipole_moment(orbitals, kind.channel_charge(field))
        elif options.dipole:
            raise MissingData(f"no dipole: {notes[-1]}")
        electrons = {name: kind.channel_charge(x) for name, x in channels.items()}
        charge = None if valence is None else float((valence - electrons["mulliken"]).sum())
        if dipole is not None and charge is not None and abs(charge) > 1e-3:
            notes.append(
                f"the molecule is charged ({charge:+.3f} e), so that its dipole depends on the origin: the centre of the nuclei"
            )
        bonds: tuple[Bond, ...] = ()
        valences = torch.zeros(0, dtype=torch.float64)
        if occupied is not None:
            bonds, valences = bond_orders(occupied, c.structure)
        return Charges(
            structure=c.structure,
            kind=kind,
            electrons=electrons,
            moments={name: kind.channel_moment(x).T for name, x in channels.items()},
            valence=valence,
            bonds=bonds,
            valences=valences,
            dipole=dipole,
            origin=origin,
            charge=charge,
            notes=tuple(notes),
        )

    def _species(
        self, c: Calculation, options: ChargesOptions, notes: list[str], progress: Progress
    ) -> tuple[Tensor | None, MeshOrbitals | None]:
        """Valence electrons of each atom, and orbitals on the mesh, where they can be had; else a note says why not."""
        try:
            species = species_of(c)
        except NearsightError as error:
            notes.append(f"no charges but electrons, and no Hirshfeld shares: {error}")
            return None, None
        valence = torch.tensor([species[z].valence for z in c.structure.numbers.tolist()], dtype=torch.float64)
        if not options.hirshfeld and not options.dipole:
            return valence, None
        progress.stage("mesh")
        try:
            return valence, MeshOrbitals.of(c, options.mesh_cutoff_ry)
        except NearsightError as error:
            notes.append(f"no Hirshfeld charges and no dipole: {error}")
            return valence, None


def _by_atom(values: Tensor, calculation: Calculation) -> Tensor:
    """[channels, orbitals] summed on atoms [channels, atoms]."""
    total = values.new_zeros(len(values), len(calculation.structure))
    return total.index_add(1, calculation.basis.atom_of_orbital.to(values.device), values)


charges = AtomicCharges()
