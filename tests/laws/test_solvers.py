"""The law of density solvers for all that are registered, and what is the dense one's own."""

from __future__ import annotations

import gc
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nearsight.core import memory
from nearsight.core.companion import Companion
from nearsight.core.errors import BadInput, NearsightError, NotConverged, Unavailable
from nearsight.core.registry import kinds
from nearsight.core.spin import NONE, SPINOR, SPINS
from nearsight.dft.ground_state import ground_state
from nearsight.dft.minimisation import DirectMinimisation
from nearsight.dft.mixing import Kerker, Pulay
from nearsight.dft.scf import SCF
from nearsight.electrons import kpoints
from nearsight.electrons.eigen import eigenvalues, factorise
from nearsight.electrons.levels import Filling
from nearsight.electrons.solvers.dense import HELD_AT_ONCE, Dense
from tests.laws.solvers import SolverLaws
from tests.laws.spin import random_matrix, random_overlap
from tests.laws.test_dft import functional
from tests.laws.transfers import Transfers

close = torch.testing.assert_close
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("registered", kinds("solvers"))
class TestRegistered(SolverLaws):
    @pytest.fixture(autouse=True)
    def _kind(self, registered):
        self.kind = registered


@pytest.mark.cuda
@NEEDS_CUDA
@pytest.mark.parametrize("registered", kinds("solvers"))
class TestOnCuda(SolverLaws):
    device = "cuda"

    @pytest.fixture(autouse=True)
    def _kind(self, registered):
        self.kind = registered


class TestOnePointAtATime(SolverLaws):
    """No memory for more."""

    kind, settings = "dense", {"memory": 1.0}


@pytest.mark.parametrize("spin", SPINS.values(), ids=repr)
def test_two_processes_give_what_one_gives(spin):
    h, s = random_matrix(spin, complex_values=spin is SPINOR), random_overlap()
    change = random_matrix(spin, 3, complex_values=spin is SPINOR)
    k = kpoints.mesh((3, 1, 1), time_reversal=spin is not SPINOR)
    one, two = (x.bind(s, k, Filling(9.0, 0.02)) for x in (Dense(), Dense(processes=2, worth=0)))
    assert (len(one.shares), len(two.shares)) == (1, 2)
    a, b = one.solve(h), two.solve(h)
    for name in ("density_matrix", "energy_weighted"):
        close(getattr(b, name).values, getattr(a, name).values, atol=1e-13, rtol=0)
    close(b.fermi_level, a.fermi_level)
    close(b.coefficients, a.coefficients, atol=1e-10, rtol=0)
    close(b.response()(change).values, a.response()(change).values, atol=1e-11, rtol=0)
    wider = h.on(random_matrix(spin, complex_values=spin is SPINOR).layout)  # another object with the same pairs
    close(two.solve(wider).density_matrix.values, a.density_matrix.values, atol=1e-13, rtol=0)
    del b
    gc.collect()
    two.solve(h)  # which tells the others what to drop
    with pytest.raises(BadInput, match="not finite"):
        two.solve(h.with_values(h.values * torch.nan))
    close(two.solve(h).density_matrix.values, a.density_matrix.values, atol=1e-13, rtol=0)


def test_processes_begin_where_they_pay_only():
    s, k = random_overlap(), kpoints.mesh((3, 1, 1))
    assert len(Dense(processes=4).bind(s, k, Filling(9.0, 0.02)).shares) == 1
    for bad in ({"processes": 0}, {"memory": 0.0}):
        with pytest.raises(BadInput, match="positive"):
            Dense(**bad)


@pytest.mark.parametrize("spin", SPINS.values(), ids=repr)
def test_room_is_that_of_the_matrices_of_the_spin(spin, monkeypatch):
    h, s, k = random_matrix(spin, complex_values=spin is SPINOR), random_overlap(), kpoints.mesh((3, 1, 1))
    k = replace(k, time_reversal=False)
    states = 16 * (spin.size_factor * s.basis.size) ** 2 * (HELD_AT_ONCE + spin.matrices * len(k))
    monkeypatch.setattr(memory, "NEGLIGIBLE", 0)
    monkeypatch.setattr(memory, "available", lambda device="cpu": states - 1.0)
    with pytest.raises(Unavailable, match="k-points needs about"):
        Dense().bind(s, k, Filling(9.0, 0.02)).solve(h)
    monkeypatch.setattr(memory, "available", lambda device="cpu": states)
    Dense().bind(s, k, Filling(9.0, 0.02)).solve(h)


def test_orbitals_that_depend_on_each_other_are_refused_by_every_process():
    s, k = random_overlap(), kpoints.mesh((3, 1, 1))
    with pytest.raises(NearsightError, match="not positive definite"):
        Dense(processes=2, worth=0).bind(s - s - s, k, Filling(9.0, 0.02))


def test_a_process_that_dies_is_said_in_one_line():
    bound = Dense(processes=2, worth=0).bind(random_overlap(), kpoints.mesh((3, 1, 1)), Filling(9.0, 0.02))
    companion: Companion = bound.shares[1].companion
    companion.process.kill()
    companion.process.wait()
    with pytest.raises(Unavailable, match="died"):
        bound.solve(random_matrix(NONE, complex_values=False))


def test_a_script_without_a_guard_may_share_its_k_points(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from nearsight.electrons import kpoints\n"
        "from nearsight.electrons.levels import Filling\n"
        "from nearsight.electrons.solvers.dense import Dense\n"
        "from tests.laws.spin import NONE, random_matrix, random_overlap\n"
        "bound = Dense(processes=2, worth=0).bind(random_overlap(), kpoints.mesh((3, 1, 1)), Filling(9.0, 0.02))\n"
        "e = bound.solve(random_matrix(NONE, complex_values=False))\n"
        "print(len(bound.shares), round(float(e.density_matrix.trace(bound.overlap)), 9))\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, script], env={"PYTHONPATH": str(root)}, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("2 9.0\n", 0), done.stderr


def test_an_overlap_that_is_nearly_singular_says_so():
    h = random_matrix(NONE, complex_values=False)
    k = torch.zeros(1, 3, dtype=torch.float64)
    s = random_overlap()
    lowest, state = (x[0] for x in torch.linalg.eigh(s.at_k(k)[0]))
    project = torch.outer(state[:, 0], state[:, 0])
    dense = s.at_k(k)[0, 0] - (lowest[0] - 1e-13) * project
    alone = s.with_values(torch.zeros_like(s.values))
    for pair in s.pairs.on_site.tolist():
        n, a = int(s.layout.shapes[pair, 0]), int(s.layout.boundaries[pair])
        o = int(s.basis.offsets[int(s.pairs.i[pair])])
        alone.values[0, a : a + n * n] = dense[o : o + n, o : o + n].flatten()
    same = (s.pairs.R == 0).all(1)[s.layout.pair]
    gamma = alone.with_values(torch.where(same, dense.flatten()[s.layout.place.long()], 0.0)[None])
    with pytest.raises(NearsightError, match="ill-conditioned"):
        factorise(gamma, k)
    with pytest.raises(BadInput, match="overlap matrix has elements that are not finite"):
        factorise(s.with_values(s.values * torch.nan), k)
    with pytest.raises(BadInput, match="Hamiltonian has elements that are not finite"):
        eigenvalues(h.with_values(h.values * torch.inf), s, k)


METHODS = [SCF(), SCF(Pulay()), SCF(Pulay(kerker=Kerker())), DirectMinimisation()]


@pytest.mark.parametrize("method", METHODS, ids=["dielectric", "plain", "kerker", "variational"])
def test_a_cycle_that_comes_to_no_number_says_so(method):
    f, k = functional("water"), kpoints.mesh((1, 1, 1))
    h = f.initial_hamiltonian()
    with pytest.raises(BadInput, match="to begin with is not finite"):
        ground_state(f, k, 0.002, method, h.with_values(h.values * torch.nan))
    with pytest.raises(NotConverged, match="iteration 1"):
        ground_state(_without_energy(f), k, 0.002, method, h)


def _without_energy(f):
    """Terms whose energies are no numbers."""
    return replace(f, terms=tuple(_Broken(t) for t in f.terms))


class _Broken:
    def __init__(self, term):
        self.term = term

    def __getattr__(self, name):
        return getattr(self.term, name)

    def evaluate(self, state):
        energy, gradient = self.term.evaluate(state)
        return energy * torch.nan, gradient


@pytest.mark.parametrize("moments", [None, [1.0, 0.0, 0.0]], ids=["plain", "spin"])
@pytest.mark.parametrize("method", METHODS[:3], ids=["dielectric", "plain", "kerker"])
def test_an_iteration_takes_one_transfer_from_the_device(method, moments):
    f, k = functional("skew"), kpoints.mesh((2, 1, 1))
    seen = []
    with Transfers() as transfers:
        ground_state(f, k, 0.01, method, moments=moments, on_step=lambda _: seen.append(dict(transfers.kinds)))
    for before, after in zip(seen[1:-1], seen[2:], strict=True):
        new = {name: n - before.get(name, 0) for name, n in after.items() if n != before.get(name, 0)}
        assert new == {"tolist": 1}
    assert len(seen) > 3
