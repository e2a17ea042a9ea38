"""Modes that must be zero: translations and rotations of molecules, acoustic modes of crystals at Gamma.

    python bench/vibrations.py [--only "H2O, 10" diamond]

A molecule is relaxed in a box to 2e-4 eV/Angstrom, with the net force removed. Force constants are central differences of 0.005
and 0.01 Angstrom, extrapolated to none (4 of the former less the latter, over 3): beside a stiff bond k of length r, a step d
across it alone would add k d^2 / (2 r^2) to the constant of a rotation, 26 cm^-1 for water at 0.01 Angstrom. What rotations
are off by then is how the molecule turns in the field of its images (by the fifth power of the box, in squares), and the part
of the mesh.

Crystals, at equilibrium by symmetry, have three acoustic modes, of the forces as they are and of those without net force.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.build import molecule as of_molecule
from ase.optimize import BFGS

from nearsight import Nearsight

HERE = Path(__file__).parent
STEPS = (0.005, 0.01)  # Angstrom
Array = np.ndarray


def molecules() -> dict[str, Atoms]:
    found = {}
    for name, formula, box in (("H2O, 10", "H2O", 10.0), ("H2O, 14", "H2O", 14.0), ("NH3, 14", "NH3", 14.0)):
        atoms = of_molecule(formula, cell=[box] * 3, pbc=True)
        atoms.center()
        found[f"{name} A"] = atoms
    return found


def crystals() -> dict[str, tuple[Atoms, tuple[int, int, int]]]:
    return {
        "diamond": (bulk("C", "diamond", 3.57), (4, 4, 4)),
        "MgO": (bulk("MgO", "rocksalt", 4.26), (4, 4, 4)),
        "Al, cubic": (bulk("Al", "fcc", 4.05, cubic=True), (4, 4, 4)),
    }


def force_constants(atoms: Atoms, step: float) -> Array:
    """-dF/dx by central differences [3 atoms, 3 atoms] in eV/Angstrom^2, one row a displacement."""
    home, rows = atoms.positions.copy(), []
    for n in range(home.size):
        move = np.zeros(home.size)
        move[n] = step
        forces = []
        for sign in (1, -1):
            atoms.positions = home + sign * move.reshape(home.shape)
            forces.append(atoms.get_forces().ravel())
        rows.append((forces[1] - forces[0]) / (2 * step))
    atoms.positions = home
    return np.array(rows)


def wavenumbers(constants: Array, masses: Array) -> Array:
    """Of all modes, ascending; negative where they are imaginary [cm^-1]."""
    weights = np.repeat(masses, 3) ** -0.5
    values = np.linalg.eigvalsh(0.5 * (constants + constants.T) * weights[:, None] * weights)
    angular = np.sign(values) * np.sqrt(np.abs(values) * units._e / units._amu) * 1e10
    return np.asarray(angular / (2 * np.pi * units._c * 100))


def of_a_molecule(atoms: Atoms) -> dict:
    atoms.calc = Nearsight(kmesh=(1, 1, 1), tolerance_ev=1e-7, net_force="removed")
    BFGS(atoms, logfile=None).run(fmax=2e-4, steps=60)
    left = float(np.abs(atoms.get_forces()).max())
    small, large = (force_constants(atoms, step) for step in STEPS)
    masses = atoms.get_masses()
    modes = {
        "0.005 A": wavenumbers(small, masses).tolist(),
        "0.01 A": wavenumbers(large, masses).tolist(),
        "extrapolated": wavenumbers((4 * small - large) / 3, masses).tolist(),
    }
    return {"largest_force_eV_per_Ang": left, "modes_per_cm": modes}


def of_a_crystal(atoms: Atoms, kmesh: tuple[int, int, int]) -> dict:
    modes = {}
    for net_force in ("kept", "removed"):
        atoms.calc = Nearsight(kmesh=kmesh, tolerance_ev=1e-6, net_force=net_force)
        found = wavenumbers(force_constants(atoms, STEPS[1]), atoms.get_masses())
        modes[net_force] = sorted(found.tolist(), key=abs)[:3]
    return {"acoustic_per_cm": modes}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", help="beginnings of names")
    chosen = parser.parse_args().only
    path = HERE / "results/vibrations.json"
    rows = json.loads(path.read_text()) if path.exists() else {}
    for name, case in (molecules() | crystals()).items():
        if chosen and not any(name.startswith(c) for c in chosen):
            continue
        row = of_a_molecule(case) if isinstance(case, Atoms) else of_a_crystal(*case)
        rows[name] = row
        path.write_text(json.dumps(rows, indent=1) + "\n")
        print(name, json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
