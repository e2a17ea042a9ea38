"""Equations of state beside all-electron and SIESTA's, from the ACWF verification of PBE: ten crystals, or all of the table.

    python bench/eos.py ../shared/structures/acwf [SYSTEM ...] [--all] [--half A|B] [--only Mg Zn] [--basis standard]

The folder holds the structures of the verification (`Si-Diamond.xsf`); `../../reference/acwf.json` the numbers: V0, B0, B1 of
all electrons, of SIESTA and of plane waves (both with PseudoDojo's pseudopotentials, not ours). Volumes from 94 to 106 % of the
structure's own; free energies at Fermi-Dirac smearing of 0.0045 Ry. The numbers of mesh points and of k-points are those of the
largest (mesh) and of the smallest (k) volume and stay the same over the volumes, so that the energy is smooth in the volume.

Every system is written as it is done, under a key of its settings, with the digest of its pseudopotentials and orbitals; a run
goes on where the last one stopped, small cells first, and repeats what failed or was made of other orbitals. --half A takes
every second element of the sorted list (the rule of the orbitals was chosen on these), B the rest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from nearsight.atoms.sizes import RULE
from nearsight.core.errors import NearsightError
from nearsight.core.species import RadialFunction, Species
from nearsight.core.structure import Structure
from nearsight.core.units import BOHR_ANG, HARTREE_BOHR3_GPA, HARTREE_EV, RYDBERG_EV
from nearsight.dft.extrapolation import History, Place
from nearsight.dft.settings import Settings
from nearsight.dft.setup import Setup, chosen_kmesh, load_species
from nearsight.formats.files import read_json, write_json
from nearsight.formats.registry import read_structure
from nearsight.integrals.mesh import mesh_shape

TEN = "Al-FCC Li-BCC Na-BCC Cu-FCC C-Diamond Si-Diamond Ge-Diamond Mg-XO Ca-XO Li-X2O".split()
RESULTS = Path(__file__).parent / "results"


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


def equation_of_state(central: Structure, settings: Settings, scales: Iterable[float]) -> dict:
    """V0 [A^3 an atom], B0 [GPa], B1 and how they were found.  Raises NearsightError where a volume does not converge."""
    start, scales = time.process_time(), sorted(scales)
    shape = mesh_shape(scaled(central, scales[-1]).cell, settings.mesh.cutoff_ry)
    kmesh = chosen_kmesh(scaled(central, scales[0]), settings)
    fixed = settings.model_copy(update={"mesh": shape, "kmesh": kmesh})
    species = load_species(central.numbers.tolist(), fixed)
    atoms = len(central.numbers)
    volumes, energies, iterations = [], [], []
    past = History(error=fixed.solver.tolerance_ev / HARTREE_EV)
    for scale in scales:
        structure = scaled(central, scale)
        setup = Setup.of(structure, fixed, species)
        superposed = setup.functional.initial_hamiltonian()
        first = past.start(superposed)
        state = setup.ground_state(first, near=first is not None)
        if not state.converged and first is not None:
            state = setup.ground_state()
        if not state.converged:
            raise NearsightError(f"at {scale} of its volume: not converged")
        past.add(Place.of(state.hamiltonian, superposed))
        volumes.append(float(structure.volume) / atoms)
        energies.append(state.free / atoms)
        iterations.append(len(state.steps))
    v0, b0, b1, deviation = birch_murnaghan(np.array(volumes), np.array(energies))
    return {
        "volume_A3": v0 * BOHR_ANG**3,
        "bulk_modulus_GPa": b0 * HARTREE_BOHR3_GPA,
        "bulk_modulus_derivative": b1,
        "fit_deviation_meV": deviation * HARTREE_EV * 1000,
        "volumes_A3": [v * BOHR_ANG**3 for v in volumes],
        "free_energies_eV": [e * HARTREE_EV for e in energies],
        "mesh": list(shape),
        "kmesh": list(kmesh),
        "orbitals_per_atom": sum(species[z].orbital_count for z in central.numbers.tolist()) / atoms,
        "basis": {s.symbol: s.provenance.get("basis") for s in species.values()},
        "pseudopotentials": {s.symbol: s.provenance.get("pseudopotential_sha256") for s in species.values()},
        "iterations": iterations,
        "seconds": time.process_time() - start,
    }


def made_of(species: Iterable[Species]) -> str:
    """Digest of the pseudopotentials and of the orbitals' tables: whatever changes the rule of the orbitals changes it."""
    found = [
        [s.symbol, s.provenance["pseudopotential_sha256"], s.provenance["orbital_rule"]]
        + [
            [o.n, o.l, o.zeta, o.polarization, round(o.radial.cutoff, 2), round(mean_radius(o.radial), 3)]
            for o in s.orbitals
        ]
        for s in species
    ]
    return hashlib.sha256(json.dumps(sorted(found), sort_keys=True).encode()).hexdigest()[:12]


def mean_radius(radial: RadialFunction) -> float:
    """<r> of an orbital [Bohr]."""
    return float(np.trapezoid(radial.values**2 * radial.r ** (2 * radial.l + 3), radial.r))


def key_of(settings: Settings, volumes: int) -> str:
    """Of the settings of a row; what its species are made of is `made_of`."""
    said = settings.model_dump(mode="json", include={"basis", "functional", "mesh", "kpoints", "electrons"})
    return hashlib.sha256(json.dumps([said, volumes], sort_keys=True).encode()).hexdigest()[:12]


def orbitals_of_rule_1(central: Structure) -> float:
    """Orbitals an atom of the dzp of before (rule 1)."""
    species = load_species(central.numbers.tolist(), Settings(basis={"size": "dzp", "rule": 1}))
    return sum(species[z].orbital_count for z in central.numbers.tolist()) / len(central.numbers)


def errors(row: dict, reference: dict) -> dict:
    """Errors of V0 and B0 in % of the all-electron ones: ours, SIESTA's, and of plane waves with their pseudopotential."""
    v, b, _ = reference["all_electron"]
    found = {"volume_error_percent": row["volume_A3"] / v, "bulk_modulus_error_percent": row["bulk_modulus_GPa"] / b}
    for name, label in (("siesta", "siesta"), ("quantum_espresso", "plane_wave")):
        found[f"{label}_volume_error_percent"] = reference[name][0] / v
        found[f"{label}_bulk_modulus_error_percent"] = reference[name][1] / b
    return {k: 100 * (x - 1) for k, x in found.items()}


def summary(rows: list[dict]) -> dict:
    """Mean, median and largest of absolute errors of V0 and B0, ours and SIESTA's of the same systems."""
    found: dict = {"systems": len(rows), "failed": sum("failed" in r for r in rows)}
    rows = [r for r in rows if "failed" not in r]
    for name in ("volume_error_percent", "bulk_modulus_error_percent"):
        for whose in ("", "siesta_", "plane_wave_"):
            values = [abs(r[whose + name]) for r in rows]
            if values:
                found[whose + name] = {
                    "mean": statistics.mean(values),
                    "median": statistics.median(values),
                    "largest": max(values),
                }
    if rows:
        found["orbitals_over_rule_1"] = statistics.mean(r["orbitals_over_rule_1"] for r in rows)
        found["worst"] = max(rows, key=lambda r: abs(r["volume_error_percent"]))["system"]
        found["seconds"] = sum(r["seconds"] for r in rows)
    return found


def told(name: str, row: dict) -> str:
    """One line of the table."""
    if "failed" in row:
        return f"{name:11s} {row['failed']}"
    return (
        f"{name:11s} V0 {row['volume_A3']:8.3f} {row['volume_error_percent']:+6.2f}% "
        f"(SIESTA {row['siesta_volume_error_percent']:+6.2f}, plane waves {row['plane_wave_volume_error_percent']:+6.2f})  "
        f"B0 {row['bulk_modulus_GPa']:7.1f} {row['bulk_modulus_error_percent']:+6.1f}% "
        f"({row['siesta_bulk_modulus_error_percent']:+6.1f}, {row['plane_wave_bulk_modulus_error_percent']:+6.1f})  "
        f"B1 {row['bulk_modulus_derivative']:5.2f}  {row['fit_deviation_meV']:6.3f} meV {row['seconds']:6.1f} s"
    )


def chosen(arguments: argparse.Namespace, reference: dict) -> list[str]:
    """The systems to compute, small cells first."""
    if not (arguments.all or arguments.half or arguments.only or arguments.form):
        return arguments.systems or TEN
    elements = sorted({name.split("-")[0] for name in reference})
    half = {"A": elements[::2], "B": elements[1::2], None: elements}[arguments.half]
    found = [
        name
        for name in arguments.systems or reference
        if (element := name.split("-")[0]) in half
        and (not arguments.only or element in arguments.only)
        and (not arguments.form or name.split("-")[1] in arguments.form)
    ]
    return sorted(found, key=lambda name: reference[name]["atoms"])


def main() -> None:
    """Compute what is missing; print what there is."""
    parser = argparse.ArgumentParser()
    parser.add_argument("structures", type=Path)
    parser.add_argument("systems", nargs="*")
    parser.add_argument("--reference", type=Path, help="acwf.json; default: ../../reference/acwf.json of the folder")
    parser.add_argument("--all", action="store_true", help="all systems of the reference")
    parser.add_argument("--half", choices=("A", "B"))
    parser.add_argument("--only", nargs="+", metavar="ELEMENT")
    parser.add_argument("--form", nargs="+", metavar="FORM", help="FCC, BCC, SC, Diamond, XO, X2O, ...")
    parser.add_argument("--basis", default="standard")
    parser.add_argument("--rule", type=int, default=RULE)
    parser.add_argument("--energy-shift", type=float, help="Ry")
    parser.add_argument("--volumes", type=int, default=7)
    parser.add_argument("--mesh-cutoff", type=float, default=350.0, help="Ry, at the largest volume")
    parser.add_argument("--kspacing", type=float, default=0.2, help="1/Angstrom")
    parser.add_argument("--report", action="store_true", help="compute nothing: what is there")
    parser.add_argument("--out", type=Path, default=RESULTS / "eos_all.json")
    arguments = parser.parse_args()
    reference = json.loads(
        (arguments.reference or arguments.structures / "../../reference/acwf.json").read_text(encoding="utf-8")
    )["systems"]
    settings = Settings(
        xc="pbe",
        basis={"size": arguments.basis, "energy_shift_ry": arguments.energy_shift, "rule": arguments.rule},
        mesh_cutoff_ry=arguments.mesh_cutoff,
        kspacing=arguments.kspacing,
        smearing_ev=0.0045 * RYDBERG_EV,
        symmetry="space-group",
    )
    key, names = key_of(settings, arguments.volumes), chosen(arguments, reference)
    for name in names:
        central = read_structure(arguments.structures / f"{name}.xsf")
        if arguments.report:
            continue
        row: dict = {"system": name}
        try:
            row["made_of"] = made_of(load_species(central.numbers.tolist(), settings).values())
            before = stored_rows(arguments.out, key).get(name, {})
            if before.get("made_of") == row["made_of"] and "failed" not in before:
                continue
            row |= equation_of_state(central, settings, np.linspace(0.94, 1.06, arguments.volumes))
            row |= errors(row, reference[name])
            row["orbitals_over_rule_1"] = row["orbitals_per_atom"] / orbitals_of_rule_1(central)
        except NearsightError as error:
            row["failed"] = str(error)
        keep(arguments.out, key, settings, row)
        print(told(name, row), flush=True)
    rows = [row for name, row in stored_rows(arguments.out, key).items() if name in names]
    if arguments.report:
        print("\n".join(told(r["system"], r) for r in rows))
    print(f"{len(rows)} of {len(names)}: {json.dumps(summary(rows), indent=1)}")


def stored_rows(file: Path, key: str) -> dict[str, dict]:
    """System -> row, of one key."""
    return read_json(file).get(key, {}).get("rows", {}) if file.exists() else {}


def keep(file: Path, key: str, settings: Settings, row: dict) -> None:
    """Add a row to what is there now, whoever wrote it."""
    table = read_json(file) if file.exists() else {}
    entry = table.setdefault(key, {"settings": settings.model_dump(mode="json"), "rows": {}})
    entry["rows"][row["system"]] = row
    entry["summary"] = summary(list(entry["rows"].values()))
    write_json(file, table)


if __name__ == "__main__":
    main()
