"""Laws of the all-electron Dirac atom, and of the coupling that it gives scalar-relativistic pseudopotentials."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy.linalg import eigh

from nearsight.atoms.dirac import LIGHT, _Channel, _splines, configuration, dirac_atom
from nearsight.atoms.library import pseudopotential
from nearsight.atoms.orbitals import generate_species
from nearsight.atoms.radial import separable, solve_atom
from nearsight.atoms.spin_orbit import coupling_channels
from nearsight.core.errors import BadInput
from nearsight.core.spin import SPINOR
from nearsight.core.units import HARTREE_EV
from nearsight.dft.functional import EnergyFunctional
from nearsight.dft.settings import Settings
from nearsight.dft.setup import Setup, load_species
from nearsight.dft.terms.one_body import NonLocal, SpinOrbit
from nearsight.formats.pseudopotential import SeparableChannel
from tests import cases

close = torch.testing.assert_close
# e(j = l + 1/2) - e(j = l - 1/2) [eV] of atoms whose fully relativistic PSML files (PseudoDojo 0.4, PBE) were solved by j
SPLIT = {("Te", 5, 1): 0.7921, ("Te", 4, 2): 1.4667, ("Pb", 6, 1): 1.4623, ("Pb", 5, 2): 2.5821}


@pytest.mark.parametrize("kappa", [-1, 1, -2, 2, -3])
def test_levels_of_one_electron_are_those_of_sommerfeld(kappa):
    z, count = 60, 3
    energies, _ = _Channel(kappa).levels(-z / _splines().r, np.zeros_like(_splines().r), count)
    gamma = np.sqrt(kappa**2 - (z / LIGHT) ** 2)
    first = 0 if kappa < 0 else 1  # radial nodes
    nodes = np.arange(first, first + count)
    exact = LIGHT**2 * (1 / np.sqrt(1 + (z / LIGHT / (nodes + gamma)) ** 2) - 1)
    assert np.abs(energies / exact - 1).max() < 1e-6


def test_a_light_atom_is_that_of_schroedinger_and_shells_fill_up():
    atom = dirac_atom(2, ((1, 0, 2.0),), "lda")
    pp = pseudopotential("He", "lda")
    [shell] = solve_atom(pp).shells
    assert abs(atom.levels[1, 0, 0.5] - shell.energy) < 2e-4
    assert configuration(82, ((5, 2, 10.0), (6, 0, 2.0), (6, 1, 2.0)))[4, 3] == 14
    assert configuration(26, ((3, 0, 2.0), (3, 1, 6.0), (3, 2, 6.0), (4, 0, 2.0))).get((2, 1)) == 6


@cache
def valence(symbol: str) -> tuple[tuple[int, int, float], ...]:
    merged: dict[tuple[int, int], float] = {}
    for s in pseudopotential(symbol, "pbe").shells:
        merged[s.n, s.l] = merged.get((s.n, s.l), 0.0) + s.occupation
    return tuple((n, l, x) for (n, l), x in sorted(merged.items()))


@pytest.mark.parametrize("symbol", ["Te", "Pb"])
def test_splittings_are_those_of_relativistic_files(symbol):
    pp = pseudopotential(symbol, "pbe")
    atom = dirac_atom(pp.number, valence(symbol), "pbe")
    for (name, n, l), wanted in SPLIT.items():
        if name == symbol:
            assert atom.splittings[n, l] * HARTREE_EV == pytest.approx(wanted, rel=2e-3)


def test_the_free_atom_splits_as_the_dirac_atom_does_in_every_shell():
    """Of tellurium's scalar-relativistic LDA file: 5p, and 4d of the semicore."""
    pp = pseudopotential("Te", "lda")
    assert not pp.fully_relativistic
    atom = solve_atom(pp)
    merged = {(s.n, s.l): s.occupation for s in pp.shells}
    dirac = dirac_atom(52, tuple((n, l, x) for (n, l), x in sorted(merged.items())), "lda")
    seen = 0
    for channel, strength in coupling_channels(pp, atom):
        l = channel.l
        sphere = atom.potential.sphere(l, atom.potential.radius)
        H = atom.potential.hamiltonian(sphere)
        levels = []
        for factor in (0.5 * l, -0.5 * (l + 1)):
            own = SeparableChannel(l, None, channel.waves, np.array([strength * factor]))
            levels.append(eigh(H + separable(sphere, (own,), pp.r, None), eigvals_only=True)[0])
        n = {1: 5, 2: 4}[l]
        assert levels[0] - levels[1] == pytest.approx(dirac.splittings[n, l], rel=1e-4)
        seen += 1
    assert seen == 2


def test_coupling_has_the_scalar_potential_as_its_average_and_time_reversal():
    s = cases.structure([[7.0, 0, 0], [0, 7.5, 0], [0.3, 0, 8.0]], [[0.0, 0.0, 0.0], [2.9, 3.1, 3.4]], [52, 16])
    settings = Settings(xc="lda", basis="sz", spin="spinor", spin_orbit="auto")
    species = load_species([52, 16], settings)
    f = EnergyFunctional.of(s, species, "lda", (30, 30, 32), spin_orbit=True)
    v, scalar = SpinOrbit().on(f.system).matrix, NonLocal().on(f.system).matrix
    close((0.5 * (v.values[0] + v.values[3])).real, scalar.values[0], rtol=0, atol=1e-12)
    close(v.time_reversed().values, v.values, rtol=0, atol=1e-13 * float(v.values.abs().max()))
    assert float((v.values[1].abs()).max()) > 1e-3 and v.spin is SPINOR
    plain = generate_species("Te", "lda", replace_basis("sz"))
    assert not plain.relativistic_projectors and plain.projectors[0].radial.l == species[52].projectors[0].radial.l


def replace_basis(size: str):
    from nearsight.atoms.basis_settings import STANDARD

    return replace(STANDARD, size=size)


def test_a_scalar_file_has_coupling_where_it_is_asked_for_and_is_refused_where_the_file_is_meant():
    s = cases.structure([[7.0, 0, 0], [0, 7, 0], [0, 0, 7]], [[0.0, 0, 0]], [16])
    keys = {"xc": "lda", "basis": "sz", "mesh_cutoff_ry": 60, "kmesh": (1, 1, 1), "spin": "spinor"}
    with pytest.raises(BadInput, match=r"spin_orbit auto") as refused:
        Setup.of(s, Settings(**keys, spin_orbit="file"))
    assert "\n" not in str(refused.value)
    assert Setup.of(s, Settings(**keys, spin_orbit="auto")).functional.least_spin is SPINOR
    scalar = load_species([16], Settings(**{**keys, "spin_orbit": "none"}))
    with pytest.raises(BadInput, match="in place of it"):
        Setup.of(s, Settings(**keys, spin_orbit="auto"), scalar)
