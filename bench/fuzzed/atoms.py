"""Files of species and of pseudopotentials, judged by what an atom makes of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.interpolate import CubicSpline

from fuzzed.contract import Fuzzed, require, text
from nearsight.atoms.library import pseudopotential
from nearsight.atoms.orbitals import generate_species
from nearsight.atoms.radial import solve_atom
from nearsight.core.species import RadialFunction, Species
from nearsight.core.units import HARTREE_EV
from nearsight.formats.ion_xml import read_ion_xml, write_ion_xml
from nearsight.formats.pseudopotential_files import read_pseudopotential


def _species_files(folder: Path) -> list[Path]:
    made = []
    for symbol in ("H", "O", "Na"):
        made.append(folder / f"{symbol}.ion.xml")
        write_ion_xml(generate_species(symbol, "pbe"), made[-1])
    return made


def _integral(f: RadialFunction, power: int) -> float:
    u = (f.values * f.r**f.l) ** power * f.r**2
    return float(CubicSpline(f.r, u).integrate(0, f.r[-1]))


def _atomic_energy(s: Species) -> float:
    """sum over shells of population <phi| T + V_NA + V_NL |phi> [Ha]: what the engine would make of the tables."""
    total = 0.0
    for o in s.orbitals:
        if o.population > 0:
            f, r = o.radial, o.radial.r
            u = CubicSpline(r, f.values * r ** (f.l + 1))
            v = s.neutral_atom_potential
            potential = np.where(r <= v.cutoff, CubicSpline(v.r, v.values)(np.minimum(r, v.cutoff)), 0)
            centrifugal = 0.5 * f.l * (f.l + 1) * f.values**2 * r ** (2 * f.l)
            e = np.trapezoid(0.5 * u(r, 1) ** 2 + centrifugal + potential * u(r) ** 2, r)
            for p in s.projectors:
                if p.l == f.l:
                    q = p.radial
                    chi = np.where(r <= q.cutoff, CubicSpline(q.r, q.values)(np.minimum(r, q.cutoff)), 0) * r ** (
                        p.l + 1
                    )
                    e += p.energy * np.trapezoid(chi * u(r), r) ** 2
            total += o.population * float(e)
    return total


def _judge_species(s: Species, original: Path) -> None:
    for o in s.orbitals:
        require(abs(_integral(o.radial, 2) - 1) < 5e-3, f"norm {_integral(o.radial, 2):.4f}")
        require(abs(o.radial.values[-1]) < 1e-3 * abs(o.radial.values).max(), "no end")
        require(0 <= o.l <= 3 and 0 <= o.population <= 4 * o.l + 2, "population or l")
    require(abs(sum(o.population for o in s.orbitals) - s.valence) < 1e-2, "populations")
    require(abs(4 * np.pi * _integral(s.local_charge, 1) + s.valence) < 2e-2, "local charge")
    for p in s.projectors:
        require(abs(_integral(p.radial, 2) - 1) < 5e-3, "norm of a projector")
    sound = read_ion_xml(original)
    require((s.symbol, s.number) == (sound.symbol, sound.number), "element")
    if len(s.orbitals) == len(sound.orbitals):
        shift = (_atomic_energy(s) - _atomic_energy(sound)) * HARTREE_EV
        require(abs(shift) < 1.0, f"energy off by {shift:.2f} eV")


def _pseudopotential_files(kind: str) -> Callable[[Path], list[Path]]:
    def originals(folder: Path) -> list[Path]:
        from tests.formats import test_pseudopotentials as made

        if kind == "gth":
            (folder / "C.gth").write_text(made.GTH[made.GTH.index("C GTH") : made.GTH.index("#\nSi")])
            (folder / "Si.gth").write_text(made.GTH[made.GTH.index("Si GTH") : made.GTH.index("#\nCu")])
            return [folder / "C.gth", folder / "Si.gth"]
        files = []
        for symbol in ("C", "Na"):
            pp = pseudopotential(symbol)
            files.append(folder / f"{symbol}.{kind}")
            if kind == "upf":
                shutil.copy(pp.path, files[-1])
            else:
                files[-1].write_text(getattr(made, kind)(pp))
        return files

    return originals


@cache
def _levels(path: Path) -> dict[tuple[int, int], float]:
    return {(s.n, s.l): s.energy for s in solve_atom(read_pseudopotential(path)).shells if s.occupation > 0}


def _judge_pseudopotential(read: Any, original: Path) -> None:
    _, atom = read
    found = {(s.n, s.l): s.energy for s in atom.shells if s.occupation > 0}
    known = _levels(original)
    require(set(found) == set(known), f"shells {sorted(found)} for {sorted(known)}")
    worst = max(abs(found[k] - known[k]) for k in known)
    require(worst < (0.15 if original.suffix == ".gth" else 0.1), f"a level is off by {worst:.3f} Ha")


def _read_and_solve(path: Path) -> Any:
    pp = read_pseudopotential(path)
    return pp, solve_atom(pp)


READERS = {
    "ion_xml": Fuzzed(_species_files, text, read_ion_xml, _judge_species),
    **{
        kind: Fuzzed(_pseudopotential_files(kind), text, _read_and_solve, _judge_pseudopotential)
        for kind in ("upf", "psml", "psp8", "gth")
    },
}
