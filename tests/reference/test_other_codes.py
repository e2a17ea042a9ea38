"""Agreement with SIESTA on its own orbitals, with plane waves on the same pseudopotentials, with all-electron volumes.

The .npz files hold, for each case, SIESTA's structure, radial tables, overlap, Hamiltonian (Ha) and its reference energies;
SIESTA psml-support branch, PseudoDojo, mesh, k-mesh and kT as in `reference`. Full tables: docs/benchmarks.md.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.species import Orbital, Projector, RadialFunction, Species
from nearsight.core.structure import Structure
from nearsight.core.units import BOHR_ANG, HARTREE_BOHR3_GPA, HARTREE_EV, RYDBERG_EV
from nearsight.dft.forces import forces_and_stress
from nearsight.dft.functional import EnergyFunctional
from nearsight.dft.ground_state import ground_state
from nearsight.dft.run import run_scf
from nearsight.dft.settings import ScfSettings
from nearsight.electrons import kpoints
from nearsight.electrons.eigen import eigenvalues
from nearsight.integrals.ions import ion_energies
from nearsight.integrals.two_center import SIESTA
from tests import cases

HERE = Path(__file__).parent
TERMS = ("Ena", "Ekin", "Enl", "DEna", "DUscf", "Exc", "Eions")


def species_in(data: dict[str, np.ndarray], symbol: str) -> Species:
    about = json.loads(str(data[f"{symbol}/about"]))

    def radial(name: str, l: int = 0) -> RadialFunction:
        return RadialFunction(l, data[f"{symbol}/{name}"], float(data[f"{symbol}/{name}/spacing"]))

    return Species(
        symbol=symbol,
        number=about["number"],
        valence=about["valence"],
        mass=about["mass"],
        orbitals=tuple(
            Orbital(radial(f"orbital{k}", l), n, zeta, population, polarization)
            for k, (l, n, zeta, population, polarization) in enumerate(about["orbitals"])
        ),
        projectors=tuple(Projector(radial(f"projector{k}", l), e) for k, (l, e) in enumerate(about["projectors"])),
        neutral_atom_potential=radial("vna"),
        local_charge=radial("local"),
        core_density=radial("core") if about["core"] else None,
        self_energy=about["self_energy"],
    )


@pytest.mark.parametrize("name", ["graphene_lda_sz", "h2o_pbe_dzp", "o2_pbe_dzp_spin"])
def test_same_orbitals_as_siesta_same_results(name: str) -> None:
    with np.load(HERE / f"{name}.npz") as file:
        data = dict(file)
    reference = json.loads(str(data["reference"]))
    s = Structure(*(torch.as_tensor(data[k]) for k in ("cell", "positions", "numbers")))
    found = [species_in(data, symbol) for symbol in dict.fromkeys(s.symbols)]
    species = {x.number: x for x in found}
    f = EnergyFunctional.of(s, species, reference["xc"], tuple(reference["mesh"]), SIESTA)
    moments = None if reference["spin"] == "none" else [1.0] * len(s)
    k = kpoints.mesh(tuple(reference["kmesh"]))
    gs = ground_state(f, k, reference["kT_eV"] / HARTREE_EV, moments=moments)
    energy, atoms = reference["energy_eV"], len(s)
    assert gs.converged
    assert abs(gs.total * HARTREE_EV - energy["Etot"]) / atoms < 1e-4
    for term in TERMS:
        assert abs(gs.energies[term] * HARTREE_EV - energy[term]) / atoms < 5e-4, term
    table = torch.as_tensor(data["pairs"])
    layout = BlockLayout(
        Basis.of(s.numbers, {z: x.shells for z, x in species.items()}),
        Pairs(table[:, 0], table[:, 1], table[:, 2:], atoms),
    )
    overlap = BlockMatrix(layout, torch.as_tensor(data["overlap"]))
    theirs = BlockMatrix(layout, torch.as_tensor(data["hamiltonian_ha"]), "none" if moments is None else "collinear")
    difference = (gs.hamiltonian.on(layout).values - theirs.values).abs() * HARTREE_EV
    assert float(difference.mean()) < 5e-6 and float(difference.max()) < 1e-4
    assert float((f.overlap.on(layout).values - overlap.values).abs().max()) < 2e-8
    bands = [eigenvalues(h, o, k.k[:5]) for h, o in ((gs.hamiltonian, f.overlap), (theirs, overlap))]
    assert float((bands[0] - bands[1]).abs().max()) * HARTREE_EV < 2e-4
    if moments is not None:
        assert abs(gs.magnetic_moment - 2.0) < 1e-6
    theirs_forces = torch.tensor(reference["forces_eV_per_Ang"], dtype=torch.float64)
    ours = forces_and_stress(gs).forces * HARTREE_EV / BOHR_ANG
    assert float((ours - theirs_forces).abs().max()) < 2e-3


@pytest.mark.parametrize("name", ["fe_bcc_pbe_dzp_spin", "pbte_pbe_dzp_soc"])
def test_the_pair_energy_of_hard_local_charges(name: str) -> None:
    """Ena within 0.005 meV an atom where SIESTA samples the local charge more finely (Fe), and beyond its radius (Fe, PbTe)."""
    with np.load(HERE / "ion_pairs.npz") as file:
        data = {k.removeprefix(f"{name}/"): v for k, v in file.items() if k.startswith(f"{name}/")}
    s = Structure(*(torch.as_tensor(data[k]) for k in ("cell", "positions", "numbers")))

    def radial(key: str) -> RadialFunction:
        return RadialFunction(0, data[key], float(data[f"{key}/spacing"]))

    species = {
        z: Species(
            x, z, float(data[f"{x}/valence"]), 1.0, (), (), radial(f"{x}/vna"), radial(f"{x}/local"), self_energy=0.0
        )
        for x, z in zip(s.symbols, s.numbers.tolist(), strict=True)
    }
    energy = float(ion_energies(s, species, SIESTA)[0]) * HARTREE_EV
    assert abs(energy - float(data["Ena_eV"])) / len(s) < 5e-6


@pytest.mark.parametrize("name", ["diamond", "na_bcc"])
def test_own_orbitals_lie_above_plane_waves_and_come_down(name: str) -> None:
    case = json.loads((HERE / "planewave.json").read_text())[name]
    s = Structure(
        torch.tensor(case["cell_bohr"], dtype=torch.float64),
        torch.tensor(case["positions_bohr"], dtype=torch.float64),
        torch.tensor(case["numbers"]),
    )
    above = []
    for basis in ("sz", "dzp", "tzp"):
        settings = ScfSettings(
            xc=case["xc"], kmesh=case["kmesh"], basis=basis, smearing_ev=case["smearing_ry"] * RYDBERG_EV
        )
        result = run_scf(s, settings)
        energy = 2 * (result.free if case["free_energy"] else result.total)
        above.append((energy - case["energy_ry"]) / 2 / len(s) * 1e3)
    assert above[0] > above[1] > above[2] > 0 and above[1] < 30


def test_the_equation_of_state_of_diamond() -> None:
    """V0 within 1.5 % and B0 within 10 % of all-electron (11.392 Angstrom^3, 433.4 GPa), from five volumes."""
    s = cases.diamond()
    species = cases.species_of(s)
    volumes, energies = [], []
    for scale in (0.94, 0.97, 1.0, 1.03, 1.06):
        x = Structure(s.cell * scale ** (1 / 3), s.positions * scale ** (1 / 3), s.numbers)
        result = run_scf(x, ScfSettings(kmesh=(4, 4, 4), mesh=(24, 24, 24), smearing_ev=0.05), species=species)
        volumes.append(float(x.volume))
        energies.append(result.free)
    v = np.array(volumes)
    fit = np.polynomial.Polynomial.fit(v, energies, 3)
    v0 = next(r.real for r in fit.deriv().roots() if v[0] < r.real < v[-1])
    assert abs(v0 * BOHR_ANG**3 / 11.392 - 1) < 0.015
    assert abs(v0 * fit.deriv(2)(v0) * HARTREE_BOHR3_GPA / 433.4 - 1) < 0.10
