"""Equations of state of ten crystals: V0, B0 and B1 beside all-electron and SIESTA's, from the ACWF verification of PBE.

    python bench/eos.py ../shared/structures/acwf [SYSTEM ...] [--basis dzp] [--energy-shift 0.01] [--out FILE.json]

The folder holds the structures of the verification (`Si-Diamond.xsf`). Seven volumes, 94 to 106 % of the structure's own; free
energies at Fermi-Dirac smearing of 0.0045 Ry. The numbers of mesh points and of k-points are those of the largest (mesh) and
of the smallest (k) volume and stay the same over the volumes, so that the energy is smooth in the volume.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from nearsight.core.structure import Structure
from nearsight.core.units import BOHR_ANG, HARTREE_BOHR3_GPA, HARTREE_EV, RYDBERG_EV
from nearsight.dft.run import run_scf
from nearsight.dft.settings import ScfSettings
from nearsight.dft.setup import chosen_kmesh, load_species
from nearsight.formats.files import write_json
from nearsight.formats.registry import read_structure
from nearsight.integrals.mesh import mesh_shape

SCALES = (0.94, 0.96, 0.98, 1.00, 1.02, 1.04, 1.06)
METALS = ("Al-FCC", "Cu-FCC", "Na-BCC", "Li-BCC")
# Bosoni et al., Nature Reviews Physics 6, 45 (2024): all-electron (mean of FLEUR and WIEN2k) and SIESTA (PseudoDojo 0.4);
# V0 [A^3 per primitive cell], B0 [GPa], B1
REFERENCE = {
    "Al-FCC": {"all_electron": (16.495, 77.5, 4.62), "siesta": (16.578, 81.6), "espresso_v0": 16.444},
    "Li-BCC": {"all_electron": (20.267, 13.9, 3.35), "siesta": (20.225, 13.8), "espresso_v0": 20.286},
    "Na-BCC": {"all_electron": (37.015, 7.8, 3.69), "siesta": (37.415, 7.8), "espresso_v0": 37.060},
    "Cu-FCC": {"all_electron": (11.952, 141.0, 5.06), "siesta": (11.925, 149.7), "espresso_v0": 12.190},
    "C-Diamond": {"all_electron": (11.392, 433.4, 3.71), "siesta": (11.430, 433.4), "espresso_v0": 11.397},
    "Si-Diamond": {"all_electron": (40.915, 88.5, 4.31), "siesta": (41.108, 88.2), "espresso_v0": 40.894},
    "Ge-Diamond": {"all_electron": (47.827, 58.9, 4.86), "siesta": (49.017, 52.7), "espresso_v0": 47.881},
    "Mg-XO": {"all_electron": (19.249, 149.0, 4.09), "siesta": (19.501, 156.4), "espresso_v0": 19.233},
    "Ca-XO": {"all_electron": (28.190, 105.2, 4.34), "siesta": (28.334, 102.2), "espresso_v0": 28.112},
    "Li-X2O": {"all_electron": (24.722, 79.3, 3.89), "siesta": (24.819, 79.9), "espresso_v0": 24.693},
}


def birch_murnaghan(volumes: np.ndarray, energies: np.ndarray) -> tuple[float, float, float, float]:
    """V0, B0, B1 and the largest deviation of the third-order Birch-Murnaghan equation, a cubic in x = V^(-2/3).

    With dx/dV = -(2/3) x^(5/2) and E' = dE/dx = 0 at V0:  B0 = V E_VV = (4/9) x^(7/2) E'',
    B1 = -1 - V E_VVV / E_VV with E_VVV = -(20/9) x^(13/2) E'' - (8/27) x^(15/2) E'''.
    """
    x = volumes ** (-2 / 3)
    middle = energies.mean()
    cubic = np.polynomial.Polynomial.fit(x, energies - middle, 3)
    deviation = float(np.abs(cubic(x) - energies + middle).max())
    minima = [r.real for r in cubic.deriv().roots() if abs(r.imag) < 1e-12 and cubic.deriv(2)(r.real) > 0]
    (x0,) = minima
    second, third = cubic.deriv(2)(x0), cubic.deriv(3)(x0)
    e_vv = 4 / 9 * x0**5 * second
    e_vvv = -20 / 9 * x0**6.5 * second - 8 / 27 * x0**7.5 * third
    v0 = x0**-1.5
    return v0, v0 * e_vv, -1 - v0 * e_vvv / e_vv, deviation


def scaled(structure: Structure, volume: float) -> Structure:
    """The structure with its volume times a factor."""
    s = volume ** (1 / 3)
    return replace(structure, cell=structure.cell * s, positions=structure.positions * s)


def equation_of_state(name: str, central: Structure, settings: ScfSettings) -> dict:
    """One row of the table."""
    start = time.perf_counter()
    shape = mesh_shape(scaled(central, SCALES[-1]).cell, settings.mesh.cutoff_ry)
    kmesh = chosen_kmesh(scaled(central, SCALES[0]), settings)
    fixed = settings.model_copy(update={"mesh": shape, "kmesh": kmesh})
    species = load_species(central.numbers.tolist(), fixed)
    volumes, energies, iterations = [], [], []
    for scale in SCALES:
        structure = scaled(central, scale)
        state = run_scf(structure, fixed, species=species)
        if not state.converged:
            raise SystemExit(f"{name} at {scale} of its volume: not converged")
        volumes.append(float(structure.volume))
        energies.append(state.free)
        iterations.append(len(state.steps))
    v0, b0, b1, deviation = birch_murnaghan(np.array(volumes), np.array(energies))
    reference = REFERENCE[name]
    row = {
        "system": name,
        "volume_A3": v0 * BOHR_ANG**3,
        "bulk_modulus_GPa": b0 * HARTREE_BOHR3_GPA,
        "bulk_modulus_derivative": b1,
        **{k: list(v) if isinstance(v, tuple) else v for k, v in reference.items()},
    }
    ae = reference["all_electron"]
    row["volume_error_percent"] = 100 * (row["volume_A3"] / ae[0] - 1)
    row["bulk_modulus_error_percent"] = 100 * (row["bulk_modulus_GPa"] / ae[1] - 1)
    row["siesta_volume_error_percent"] = 100 * (reference["siesta"][0] / ae[0] - 1)
    row["pseudopotential_volume_error_percent"] = 100 * (reference["espresso_v0"] / ae[0] - 1)
    return row | {
        "fit_deviation_meV": deviation * HARTREE_EV * 1000,
        "volumes_A3": [v * BOHR_ANG**3 for v in volumes],
        "free_energies_eV": [e * HARTREE_EV for e in energies],
        "basis": settings.basis.size,
        "energy_shift_ry": settings.basis.energy_shift_ry,
        "split_norm": settings.basis.split_norm,
        "mesh": list(shape),
        "kmesh": list(kmesh),
        "pseudopotentials": {s.symbol: s.provenance.get("pseudopotential") for s in species.values()},
        "orbitals": {s.symbol: s.orbital_count for s in species.values()},
        "iterations": iterations,
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("structures", type=Path)
    parser.add_argument("systems", nargs="*", default=list(REFERENCE))
    parser.add_argument("--basis", default="dzp")
    parser.add_argument("--energy-shift", type=float, default=0.01, help="Ry")
    parser.add_argument("--split-norm", type=float, default=0.15)
    parser.add_argument("--mesh-cutoff", type=float, default=350.0, help="Ry, at the largest volume")
    parser.add_argument("--kspacing", type=float, default=0.2, help="1/Angstrom, of metals; insulators take 0.35")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/eos.json")
    arguments = parser.parse_args()
    rows = []
    print(
        f"{'system':11s} {'V0':>8s} {'all-el.':>8s} {'error':>7s} {'SIESTA':>7s} {'QE':>7s}   {'B0':>6s} {'all-el.':>7s}"
        f" {'error':>6s} {'SIESTA':>7s}   {'B1':>5s} {'all-el.':>7s}  {'fit meV':>7s} {'seconds':>7s}"
    )
    for name in arguments.systems:
        settings = ScfSettings(
            xc="pbe",
            basis=arguments.basis,
            energy_shift_ry=arguments.energy_shift,
            split_norm=arguments.split_norm,
            mesh_cutoff_ry=arguments.mesh_cutoff,
            kspacing=arguments.kspacing if name in METALS else 0.35,
            smearing_ev=0.0045 * RYDBERG_EV,
            symmetry="space-group",
        )
        row = equation_of_state(name, read_structure(arguments.structures / f"{name}.xsf"), settings)
        rows.append(row)
        ae, siesta = row["all_electron"], row["siesta"]
        print(
            f"{name:11s} {row['volume_A3']:8.3f} {ae[0]:8.3f} {row['volume_error_percent']:+6.2f}%"
            f" {row['siesta_volume_error_percent']:+6.2f}% {row['pseudopotential_volume_error_percent']:+5.2f}%"
            f"   {row['bulk_modulus_GPa']:6.1f} {ae[1]:7.1f} {row['bulk_modulus_error_percent']:+5.1f}% {siesta[1]:7.1f}"
            f"   {row['bulk_modulus_derivative']:5.2f} {ae[2]:7.2f}  {row['fit_deviation_meV']:7.3f} {row['seconds']:7.1f}",
            flush=True,
        )
        errors = {k: [abs(r[k]) for r in rows] for k in ("volume_error_percent", "siesta_volume_error_percent")}
        mean, theirs = (sum(e) / len(e) for e in errors.values())
        summary = {
            "mean_absolute_volume_error_percent": mean,
            "siesta_mean_absolute_volume_error_percent": theirs,
            "largest_volume_error_percent": max(errors["volume_error_percent"]),
        }
        write_json(arguments.out, summary | {"rows": rows})
    print(
        f"mean |error of V0|: {mean:.2f} %, SIESTA {theirs:.2f} %; largest {max(errors['volume_error_percent']):.2f} %"
    )


if __name__ == "__main__":
    main()
