"""Splittings by spin-orbit coupling of atoms: our all-electron Dirac atom against fully relativistic pseudopotentials.

    python bench/dirac.py FOLDER [Te Pb ...]

FOLDER: fully relativistic files (PSML of PseudoDojo: Mo S Fe Pb Te Bi). Each file's own atom is solved by j; ours has the same
configuration above closed shells, and its splittings are put on the projectors of the file's scalar average
(`functional.spin_orbit: auto`), whose levels are then solved again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.linalg import eigh

from nearsight.atoms.dirac import dirac_atom
from nearsight.atoms.library import pseudopotential
from nearsight.atoms.radial import separable, solve_atom
from nearsight.atoms.spin_orbit import coupling_channels
from nearsight.core.units import HARTREE_EV
from nearsight.formats.pseudopotential import SeparableChannel


def rows(symbol: str, folder: Path) -> list[dict[str, object]]:
    """Of each shell with l > 0 that is occupied: splittings of the file, of our atom, and of our projectors [eV]."""
    pp = pseudopotential(symbol, "pbe", folder)
    merged: dict[tuple[int, int], float] = {}
    for s in pp.shells:
        merged[s.n, s.l] = merged.get((s.n, s.l), 0.0) + s.occupation
    dirac = dirac_atom(pp.number, tuple((n, l, x) for (n, l), x in sorted(merged.items())), pp.xc)
    levels = {(s.n, s.l, s.j): s.energy for s in solve_atom(pp, relativistic=True).shells}
    atom = solve_atom(pp)
    ours = {}
    for channel, strength in coupling_channels(pp, atom):
        l, sphere = channel.l, atom.potential.sphere(channel.l, atom.potential.radius)
        H = atom.potential.hamiltonian(sphere)
        both = []
        for factor in (0.5 * l, -0.5 * (l + 1)):
            own = SeparableChannel(l, None, channel.waves, np.array([strength * factor]))
            both.append(eigh(H + separable(sphere, (own,), pp.r, None), eigvals_only=True, subset_by_index=[0, 3]))
        first = min((s.n for s in pp.shells if s.l == l), default=0)
        ours |= {(first + k, l): float(x) for k, x in enumerate(both[0] - both[1])}
    found = []
    for (n, l), electrons in sorted(merged.items()):
        if l and electrons and (n, l, l + 0.5) in levels:
            wanted = (levels[n, l, l + 0.5] - levels[n, l, l - 0.5]) * HARTREE_EV
            mine, put = dirac.splittings[n, l] * HARTREE_EV, ours[n, l] * HARTREE_EV
            found.append(
                {"atom": symbol, "shell": f"{n}{'spdf'[l]}", "file_eV": wanted, "dirac_eV": mine, "projectors_eV": put}
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("symbols", nargs="*")
    arguments = parser.parse_args()
    place = Path(__file__).parent / "results" / "dirac.json"
    for symbol in arguments.symbols or ["S", "Fe", "Mo", "Te", "Pb", "Bi"]:
        new = rows(symbol, arguments.folder)
        known = json.loads(place.read_text()) if place.exists() else []
        place.write_text(json.dumps([r for r in known if r["atom"] != symbol] + new, indent=1) + "\n")
        for r in new:
            print(*(f"{x:.4f}" if isinstance(x, float) else x for x in r.values()), flush=True)


if __name__ == "__main__":
    main()
