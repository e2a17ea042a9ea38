"""Large eigenproblems: sparse H(k), factors, inertia, states near an energy; against dense matrices."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import torch

import nearsight
from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix
from nearsight.core.errors import BadInput, NearsightError, Unavailable
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.spin import COLLINEAR, NONE, SPINOR
from nearsight.core.units import HARTREE_EV
from nearsight.electrons.eigen import eigenvalues
from nearsight.electrons.sparse import cayley, kpm
from nearsight.electrons.sparse import factor as factors
from nearsight.electrons.sparse.factor import Shift, factor_for
from nearsight.electrons.sparse.levels import SparseLevels
from nearsight.electrons.sparse.pardiso import library
from nearsight.electrons.sparse.pencil import SparseProblem
from nearsight.formats.deeph import write_folder
from nearsight.properties import near_fermi
from nearsight.properties.brillouin import Thermal, fermi_energy, sampling
from nearsight.properties.near_fermi import NearFermi
from nearsight.properties.projections import layers_of
from nearsight.properties.spectra import bands
from tests import cases
from tests.laws.properties import KINDS, graphene, with_spin

K = torch.tensor([[0.0, 0.0, 0.0], [0.13, -0.27, 0.4]], dtype=torch.float64)
M = torch.tensor([0.5, 0.0, -0.5], dtype=torch.float64)  # the same point as -M
with_mkl = pytest.mark.skipif(library() is None, reason="MKL is not installed")
EV = 1e-6 / HARTREE_EV


def crystal(kind=NONE, elements=(6, 6), atoms=40, cell=16.0):
    """A random crystal with random H and an overlap near 1, hermitian; complex elements where there are spinors."""
    g = torch.Generator().manual_seed(1)
    positions = torch.rand(atoms, 3, generator=g, dtype=torch.float64) * cell
    numbers = [elements[n % len(elements)] for n in range(atoms)]
    s = cases.structure([[cell, 0, 0], [0, cell, 0], [1.0, 2.0, cell]], positions.tolist(), numbers)
    layout = BlockLayout(Basis.of(s.numbers, {6: (0, 1), 1: (0,), 8: (0, 0, 1)}), Pairs.within(s, 7.0))
    dtype = torch.complex128 if kind is SPINOR else torch.float64
    h = 0.1 * torch.randn(kind.components, layout.size, generator=g, dtype=dtype)
    overlap = BlockMatrix(layout, 0.01 * torch.randn(1, layout.size, generator=g, dtype=torch.float64)).hermitian()
    values = overlap.values.clone()
    for pair in layout.pairs.on_site.tolist():
        n, a = int(layout.shapes[pair, 0]), int(layout.boundaries[pair])
        values[0, a : a + n * n] += torch.eye(n, dtype=values.dtype).flatten()
    return BlockMatrix(layout, h, kind).hermitian(), overlap.with_values(values)


@pytest.mark.parametrize("kind", KINDS, ids=repr)
@pytest.mark.parametrize("elements", [(6, 6), (6, 1)], ids=["blocks", "elements"])
def test_sparse_matrices_are_the_dense_ones(kind, elements):
    h, s = crystal(kind, elements, atoms=7, cell=6.0)
    problem = SparseProblem.of(h, s)
    assert problem.at(M).complex == (kind is SPINOR)
    for k in (*K, M):
        for spin in range(kind.matrices):
            dense = h.at_k(k[None])[spin, 0].numpy(), s.embed(kind).at_k(k[None])[spin, 0].numpy()
            pencil = problem.at(k, spin)
            found = pencil.hamiltonian.scipy.toarray(), pencil.overlap.scipy.toarray()
            for a, b in zip(dense, found, strict=True):
                assert np.abs(np.linalg.eigvalsh(a) - np.linalg.eigvalsh(b)).max() < 1e-12
                for part in (np.real, np.imag):
                    assert np.abs(np.sort(part(a).ravel()) - np.sort(part(b).ravel())).max() < 1e-12


def small(monkeypatch):
    """As if MKL were not there."""
    monkeypatch.setattr(factors, "library", lambda: None)


@pytest.mark.parametrize("by", [pytest.param("mkl", marks=with_mkl), "scipy"])
@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("elements", [(6, 6), (6, 1)], ids=["blocks", "elements"])
def test_inertia_counts_the_levels_below(by, single, elements, monkeypatch):
    if by == "scipy":
        small(monkeypatch)
    h, s = crystal(elements=elements)
    problem = SparseProblem.of(h, s)
    for k in (*K, M):
        e = eigenvalues(h, s, k[None]).flatten()
        pencil = problem.at(k)
        shift = Shift(pencil, factor_for(pencil, single), single)
        for n in (0, 3, len(e) // 2, len(e) - 2):
            sigma = 0.5 * float(e[n] + e[n + 1])
            assert shift.at(sigma) == n + 1
            b = np.random.default_rng(0).normal(size=(len(e), 3))
            assert np.abs(shift.apply(shift.solve(b)) - b).max() < (1e-3 if single else 1e-8)


@pytest.mark.parametrize("by", [pytest.param("mkl", marks=with_mkl), "scipy"])
@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_the_window_is_that_of_all_states(kind, by, monkeypatch):
    """More rows than the small systems that are diagonalised whole."""
    if by == "scipy":
        small(monkeypatch)
    h, s = crystal(kind, atoms=90 if kind is not SPINOR else 60, cell=20.0)
    e = eigenvalues(h, s, K)
    first = tuple(int(n) for n in (e[:, 0] < 0.1).sum(1) - 10)
    found = SparseLevels(h, s).window(K, first, 24, 0.1)
    for spin, a in enumerate(first):
        assert float((found.energies[spin] - e[spin, :, a : a + 24]).abs().max()) < EV


@with_mkl
def test_levels_of_high_multiplicity_are_all_found():
    """Twelve copies of a molecule: every level twelve times, more than a block of the Krylov method sees at once."""
    copies, atoms = 12, 10
    g = torch.Generator().manual_seed(2)
    one = torch.rand(atoms, 3, generator=g, dtype=torch.float64) * 8
    positions = [(one + torch.tensor([30.0 * n, 0, 0], dtype=torch.float64)) for n in range(copies)]
    cell = [[30.0 * copies, 0, 0], [0, 60, 0], [0, 0, 60]]
    s = cases.structure(cell, torch.cat(positions).tolist(), [6] * atoms * copies)
    layout = BlockLayout(Basis.of(s.numbers, {6: (0, 1)}), Pairs.within(s, 7.0))
    p = layout.pairs
    first = p.find(p.i % atoms, p.j % atoms, p.R)
    size = 16 * int(layout.pairs.on_site[atoms]) if atoms < len(layout.pairs.on_site) else layout.size
    some = torch.randn(1, size, generator=g, dtype=torch.float64)
    index = (16 * first[:, None] + torch.arange(16)).flatten()
    h = BlockMatrix(layout, 0.1 * some[:, index]).hermitian()
    values = torch.zeros(1, layout.size, dtype=torch.float64)
    for pair in p.on_site.tolist():
        values[0, 16 * pair : 16 * pair + 16] = torch.eye(4, dtype=torch.float64).flatten()
    overlap = BlockMatrix(layout, values)
    e = eigenvalues(h, overlap, K[:1])[0, 0]
    assert float((e[:12] - e[0]).abs().max()) < 1e-9
    found = SparseLevels(h, overlap).window(K[:1], (100,), 44, float(e[120])).energies[0, 0]
    assert float((found - e[100:144]).abs().max()) < EV


@with_mkl
def test_electrons_are_counted_without_levels():
    h, s = crystal(COLLINEAR)
    solver, e = SparseLevels(h, s), eigenvalues(h, s, K[:1])
    at = solver.zero_temperature(31.0, K[0], within=0)
    assert int((e < at).sum()) == 31
    with pytest.raises(BadInput, match="do not fit"):
        solver.zero_temperature(1e4, K[0])


def test_what_is_not_there_is_said(monkeypatch):
    h, s = crystal()
    small(monkeypatch)
    monkeypatch.setattr(factors, "SCIPY_ROWS", 10)
    with pytest.raises(Unavailable, match="nearsight\\[sparse\\]"):
        SparseLevels(h, s).count(0.0, K[0])
    broken = h.values.clone()
    broken[0, 0] = torch.nan
    with pytest.raises(BadInput, match="not finite"):
        SparseLevels(h.with_values(broken), s)


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_bands_of_few_states_are_those_of_all(kind):
    c = with_spin(graphene(), kind)
    every = bands(c, path="GAMMA-M-K", points=5)
    few = bands(c, path="GAMMA-M-K", points=5, solver="sparse", states=4)
    cut = bands(c, path="GAMMA-M-K", points=5, solver="dense", states=4)
    assert few.first == cut.first and few.solver == "sparse" and every.first == ()
    assert float((few.energies - cut.energies).abs().max()) < EV
    with pytest.raises(NearsightError, match="--states"):
        bands(c, path="GAMMA-M-K", points=5, solver="sparse", states=1000)


@pytest.mark.parametrize("k", [(0, 0, 0), (1 / 3, 1 / 3, 0)], ids=["Gamma", "K"])
@pytest.mark.parametrize("asked", [{"states": 4}, {"window": (-5.0, 6.0)}, {"window": (-30.0, 90.0)}], ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_levels_of_both_solvers_are_the_same_ones(kind, asked, k):
    """As many and the same in a window at each k, though there are others in it at Gamma."""
    c = with_spin(replace(graphene(), electrons=8.0), kind)
    dense, sparse = (nearsight.levels(c, k=k, solver=solver, **asked) for solver in ("dense", "sparse"))
    assert dense.first == sparse.first and dense.energies.shape == sparse.energies.shape
    assert float((dense.energies - sparse.energies).abs().max()) < EV


@pytest.mark.parametrize("solver", ["auto", "dense"])
def test_few_bands_have_their_shares(solver):
    words = {"path": "GAMMA-M-K", "points": 5, "solver": solver, "project": "l"}
    every, few = bands(graphene(), **words), bands(graphene(), **words, states=4)
    a = few.first[0]
    assert few.energies.shape[2] == 4
    assert torch.equal(few.shares, every.shares[..., a : a + 4])


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_the_density_of_states_of_a_window_is_that_of_all_states(kind):
    c = with_spin(replace(graphene(), electrons=8.0), kind)
    words = {"method": "gaussian", "width_ev": 0.05, "kmesh": (3, 3, 1), "window": (-3.0, 4.0)}
    whole, few = (nearsight.dos(c, solver=solver, **words) for solver in ("dense", "sparse"))
    at = [x.edges - x.fermi_level for x in (whole, few)]
    assert float((at[0] - at[1]).abs().max()) < 1e-12
    moved = replace(c, fermi_level=whole.fermi_level)
    few = nearsight.dos(moved, solver="sparse", **words)
    assert float((few.below - whole.below).abs().max()) < 1e-6


def test_the_fermi_level_is_that_of_all_levels(monkeypatch):
    monkeypatch.setattr(near_fermi, "FEW", 3)
    c = replace(graphene(), fermi_level=None, electrons=8.0)
    dense = nearsight.properties.spectra.fermi_level_of(c)
    near = NearFermi.of(c, 8.0, 0.25, 0.025 / HARTREE_EV)
    assert abs(near.fermi_level - dense) < 1e-6 / HARTREE_EV
    wide, k = 2.0 / HARTREE_EV, sampling(c.structure, c.hamiltonian, None, 0.25)  # it reaches all levels
    e = eigenvalues(c.hamiltonian, c.overlap, k.k)
    every = fermi_energy(e, Thermal(k.weights, wide), 8.0, 2.0)
    assert abs(NearFermi.of(c, 8.0, 0.25, wide).fermi_level - every) < 1e-6 / HARTREE_EV


@pytest.fixture
def run(capsys, monkeypatch):
    from nearsight.cli.commands import main

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["nearsight", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return run


def test_the_command_says_which_solver(tmp_path, run):
    write_folder(tmp_path / "g", graphene())
    for solver in ("dense", "sparse"):
        status, out, err = run("levels", tmp_path / "g", "--states", 4, "--solver", solver, "--json", tmp_path / solver)
        assert status == 0 and f"4 states at k = 0 0 0, {solver} solver" in out, err
    a, b = (json.loads((tmp_path / solver).read_text()) for solver in ("dense", "sparse"))
    assert a["first_state"] == b["first_state"]
    assert np.abs(np.array(a["energies_eV"]) - b["energies_eV"]).max() < 1e-6
    status, out, err = run(
        "bands", tmp_path / "g", "--states", 4, "--solver", "sparse", "--points", 4, "-o", tmp_path / "b.png"
    )
    assert status == 0 and "4 states at each k by the sparse solver" in out, err
    status, _, err = run("bands", tmp_path / "g", "--solver", "sparsest")
    assert status == 1 and "auto, dense or sparse" in err


def spread_evenly(found, exact, error):
    """Whether deviations are what the standard errors say: a mean square near 1, none beyond 6."""
    z = (found - exact) / error
    return 0.5 < float(z.square().mean().sqrt()) < 1.6 and float(z.abs().max()) < 6


@pytest.mark.parametrize("kind", KINDS, ids=repr)
@pytest.mark.parametrize("project", [None, "atom", "l,spin"])
def test_moments_give_the_density_of_states_within_their_error(kind, project):
    """Gaussians of one width, at Gamma and at a general k."""
    if project == "l,spin" and kind is NONE:
        project = "l"
    c = with_spin(replace(graphene(), fermi_level=-0.15, electrons=8.0), kind)
    words = {"width_ev": 0.8, "kmesh": (2, 1, 1), "window": (-10.0, 10.0), "step_ev": 1.0, "project": project}
    exact = nearsight.dos(replace(c, electrons=None, density_matrix=None), method="gaussian", solver="dense", **words)
    found = nearsight.dos(c, method="kpm", vectors=60, **words)
    assert torch.equal(found.edges, exact.edges) and found.names == exact.names
    assert spread_evenly(found.total, exact.total, found.error)
    assert abs(float(found.at_fermi(found.below).sum()) - 8) < 1e-9
    if project is not None:
        large = (
            found.projected_error > 1e-3 * found.error.max()
        )  # orbitals that have no share by symmetry err by nothing
        assert spread_evenly(found.projections[large], exact.projections[large], found.projected_error[large])
        assert float((found.projections.sum(0) - found.total.sum(0)).abs().max()) < 1e-3 * float(found.total.max())
    assert "standard error" in " ".join(found.summary()) and "dos_error_per_eV" in found.to_json()


@pytest.mark.parametrize("by", [pytest.param("mkl", marks=with_mkl), "scipy", "series"])
def test_a_sampled_count_of_all_states_is_exact(by, monkeypatch):
    """E[x^H S x] of signs is the number of rows, whichever way S is inverted; all moments together are those of the levels."""
    if by != "mkl":
        monkeypatch.setattr(factors, "library", lambda: None)
    if by == "series":
        monkeypatch.setattr(factors, "SCIPY_ROWS", 10)
    h, s = crystal(elements=(6, 1))
    for k in K:
        e = eigenvalues(h, s, k[None]).flatten().numpy()
        found = kpm.moments_of(SparseProblem.of(h, s).at(k), 0.1, 40)
        edges = np.linspace(e[0] - 1, e[-1] + 1, 9)
        below = found.below(edges, 0.1)[:, 0]
        assert np.abs(below[:, -1] - len(e)).max() < 1e-3 * len(e)
        exact = 0.5 * scipy.special.erfc((e[:, None] - edges) / 0.1 / 2**0.5).sum(0)
        error = below.std(0, ddof=1) / 40**0.5
        assert (np.abs(below.mean(0) - exact) < 5 * error + 1e-3 * len(e)).all()


@with_mkl
@pytest.mark.parametrize("elements", [(6, 6), (6, 1)], ids=["blocks", "elements"])
def test_moments_of_a_window_are_those_of_its_levels(elements):
    """For each random vector: sum_j (c_j^T S x)^2 g(e_j), but for what is far below the window."""
    h, s = crystal(elements=elements)
    pencil = SparseProblem.of(h, s).at(K[0])
    e, c = scipy.linalg.eigh(pencil.hamiltonian.scipy.toarray(), pencil.overlap.scipy.toarray())
    window, width = (e[len(e) // 3] - 1e-3, e[len(e) // 2] + 1e-3), 0.01 * (e[-1] - e[0])
    factor = cayley.factor_of_window(pencil, window)
    found = cayley.moments_of_window(pencil, factor, window, width, 5)
    assert (
        len(found.values) == cayley.moments_for(window, width) < len(kpm.moments_of(pencil, width, 1).values)
    )  # fewer than of the whole spectrum
    edges = np.linspace(*window, 9)
    low, high = np.linalg.eigvalsh(pencil.overlap.scipy.toarray())[[0, -1]]
    x = kpm.Series(pencil.overlap, lambda t: t**-0.5, low, high)(
        np.random.default_rng(0).choice([-1.0, 1.0], size=(len(e), 5))
    )
    shares = (c.T @ (pencil.overlap @ x)) ** 2
    exact = shares.T @ (0.5 * scipy.special.erfc((e[:, None] - edges) / width / 2**0.5))
    apart = np.diff(found.below(edges, width)[:, 0] - exact, axis=1)
    assert np.diff(exact, axis=1).min() > 0.1 and np.abs(apart).max() < 1e-3
    assert cayley.factor_of_window(pencil, (window[0], window[0] + 2)) is None  # wide: the spectrum as a whole
    assert cayley.factor_of_window(SparseProblem.of(h, s).at(K[1]), window) is None


def test_layers_are_told_apart_by_their_heights():
    flat = [[0.0, 0, 18.0], [2.0, 1.0, 18.3], [0, 0, 24.5], [2, 1, 24.2]]
    s = cases.structure([[5.0, 0, 0], [0, 5.0, 0], [0, 0, 40.0]], flat, [6, 6, 6, 6])
    assert layers_of(s).tolist() == [0, 0, 1, 1]
    through = cases.structure([[5.0, 0, 0], [0, 5.0, 0], [0, 0, 40.0]], [[x, y, z - 20] for x, y, z in flat], [6] * 4)
    assert layers_of(through).tolist() == [0, 0, 1, 1]
    bulk = cases.structure([[5.0, 0, 0], [0, 5.0, 0], [0, 0, 6.0]], [[0, 0, 0], [2, 2, 3.0]], [6, 6])
    with pytest.raises(BadInput, match="sheet"):
        layers_of(bulk)


def test_the_speed_of_a_cone_is_the_slope_of_its_levels():
    c = replace(graphene(), fermi_level=None, electrons=8.0)
    found = nearsight.moire(c, flat=2, points=9)
    dense = bands(c, path="GAMMA-M-K-GAMMA", points=9, solver="dense").energies[:, :, 1:7]
    assert float((found.bands.energies - dense).abs().max()) < EV and found.cone == 2
    cell, slopes, step = c.structure.cell.double(), [], 1e-5
    for angle in np.pi * np.arange(12) / 12:
        q = step * torch.tensor([np.cos(angle), np.sin(angle), 0.0], dtype=torch.float64)
        e = eigenvalues(c.hamiltonian, c.overlap, (found.k + cell @ q / (2 * np.pi))[None])[0, 0]
        slopes.append(float(e[4] - e[3]) / (2 * step))
    assert abs(found.speed / np.mean(slopes) - 1) < 1e-3
    assert 0.7e6 < found.to_json()["speed_m_per_s"] < 1.1e6 and "m/s" in found.summary()[-2]
    assert abs(found.width - float(dense[0, :, 2:4].max() - dense[0, :, 2:4].min())) < EV
    for wrong in ({"flat": 3}, {"flat": 8}):
        with pytest.raises(BadInput):
            nearsight.moire(c, **wrong)
    with pytest.raises(BadInput, match="spin"):
        nearsight.moire(with_spin(c, COLLINEAR))


def test_the_shares_of_atoms_in_flat_states_are_those_of_dense_states():
    c = replace(graphene(), fermi_level=None, electrons=8.0)
    h = c.hamiltonian.values.clone()
    start = int(c.hamiltonian.layout.boundaries[c.hamiltonian.pairs.on_site[0]])
    h[0, start : start + int(c.hamiltonian.basis.counts[0]) ** 2] *= 1.2  # so that the atoms differ
    c = replace(c, hamiltonian=c.hamiltonian.with_values(h).hermitian())
    found = nearsight.moire(c, flat=4, points=3)
    problem = SparseProblem.of(c.hamiltonian, c.overlap).at(found.k)
    dense = [m.scipy.toarray() for m in (problem.hamiltonian, problem.overlap)]
    own = scipy.linalg.eigh(*dense)[1][:, 2:6]
    shares = (own.conj() * (dense[1] @ own)).real.sum(1).reshape(2, -1).sum(1) / 4
    assert np.abs(found.shares.numpy() - shares).max() < 1e-6 and abs(shares[0] - 0.5) > 0.01
    assert abs(found.gathered - 2 * shares.max()) < 1e-5
    assert "% of them" in found.summary()[-1] and len(found.to_json()["shares_of_atoms_at_K"]) == 2


def test_a_fermi_level_among_more_levels_than_are_computed_is_refused(monkeypatch):
    monkeypatch.setattr(near_fermi, "MOST_STATES", 5)
    c = replace(graphene(), fermi_level=None, electrons=8.0)
    with pytest.raises(BadInput, match=r"neither full nor empty.*fermi_energy_eV"):
        NearFermi.of(c, 8.0, 0.25, 2.0 / HARTREE_EV)
