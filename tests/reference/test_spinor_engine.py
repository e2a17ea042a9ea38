"""The engine's spinor Hamiltonian against SIESTA's, of SIESTA's own density matrix in its own orbitals.

spinor_species.npz: radial tables of Fe (projectors by j) and H, and SIESTA's mesh and energies; the rest as in test_spinors.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nearsight.core.species import Orbital, Projector, RadialFunction, Species
from nearsight.core.units import HARTREE_EV
from nearsight.dft.functional import EnergyFunctional
from nearsight.dft.ground_state import ground_state
from nearsight.electrons import kpoints
from nearsight.integrals.two_center import SIESTA
from tests.reference.test_spinors import reference

MEV = 1000 * HARTREE_EV
CASES = [("fe_chain_pbe_dzp_soc", "Fe"), ("h3_triangle_pbe_dzp_nc", "H")]


def species_of(symbol: str) -> tuple[Species, dict]:
    with np.load(Path(__file__).parent / "spinor_species.npz") as file:
        data = {k.removeprefix(f"{symbol}/"): v for k, v in file.items() if k.startswith(f"{symbol}/")}
    about = json.loads(str(data["about"]))

    def radial(name: str, l: int = 0) -> RadialFunction:
        return RadialFunction(l, data[name], float(data[f"{name}/spacing"]))

    projectors = tuple(Projector(radial(f"projector{k}", l), e, j) for k, (l, e, j) in enumerate(about["projectors"]))
    scalar = tuple(p for p in projectors if p.j is None)
    species = Species(
        symbol,
        about["number"],
        about["valence"],
        about["mass"],
        tuple(Orbital(radial(f"orbital{k}", o[0]), *o[1:]) for k, o in enumerate(about["orbitals"])),
        scalar,
        radial("vna"),
        radial("local"),
        radial("core") if about["core"] else None,
        () if scalar else projectors,
        about["self_energy"],
    )
    return species, json.loads(str(data["reference"]))


@pytest.mark.parametrize(("name", "symbol"), CASES)
def test_the_hamiltonian_of_its_density_is_that_of_siesta(name, symbol):
    species, about = species_of(symbol)
    c, _, _ = reference(name)
    orbit = bool(species.relativistic_projectors)
    f = EnergyFunctional.of(
        c.structure, {species.number: species}, "pbe", tuple(about["mesh"]), SIESTA, spin_orbit=orbit, axes="siesta"
    )
    found = f.evaluate(c.density_matrix.on(f.layout))
    assert abs(float(found.total) * HARTREE_EV - about["energy_eV"]["Etot"]) / len(c.structure) < 1e-4
    assert abs(float(found.energies["Exc"]) * HARTREE_EV - about["energy_eV"]["Exc"]) < 1e-5
    there = (c.hamiltonian.on(f.layout).values != 0).any(0)
    apart = (found.hamiltonian - c.hamiltonian.on(f.layout)).values[:, there].abs() * MEV
    assert float(apart.mean()) < 2e-3 and float(apart.max()) < 0.05
    assert float(apart[1:3].max()) < 1e-3  # between up and down: coupling, and axes that turn


def test_the_triangle_turns_its_moments_by_itself():
    """H3 with each moment 120 degrees from the next, converged by us on a coarse mesh: SIESTA's moments to 0.01 mu_B."""
    species, _ = species_of("H")
    c, _, _ = reference("h3_triangle_pbe_dzp_nc")
    f = EnergyFunctional.of(c.structure, {1: species}, "pbe", (48, 48, 48), SIESTA, axes="siesta")
    start = [[0.0, 1.0, 0.0], [-0.866, -0.5, 0.0], [0.866, -0.5, 0.0]]
    gs = ground_state(f, kpoints.mesh((1, 1, 1), time_reversal=False), 0.026 / HARTREE_EV, moments=start)
    assert gs.converged
    assert torch.allclose(gs.moments.norm(dim=1), torch.full((3,), 0.7636, dtype=torch.float64), atol=0.01)
    assert float(gs.moments.sum(0).norm()) < 0.01
