"""What is said of a model: figures of what was held out, of a prediction beside its ground state, H0 beside both; no ghosts."""

import json

import pytest
import torch

from nearsight.cli.commands import train
from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix
from nearsight.core.errors import BadInput
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.structure import Structure
from nearsight.core.units import HARTREE_EV
from nearsight.dft.run import run_scf
from nearsight.dft.settings import Settings
from nearsight.formats.registry import read
from nearsight.properties.compare import compare, superposed_atoms
from nearsight.properties.eigenstates import levels
from nearsight.properties.near_levels import near_levels
from nearsight.tasks import held_out


@pytest.fixture(scope="module")
def small_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    settings = Settings(xc="lda", basis="dzp", mesh_cutoff_ry=90, kmesh=(1, 1, 1))
    cell = torch.diag(torch.tensor([9.5, 7.5, 7.5], dtype=torch.float64))
    for k in range(6):
        places = torch.tensor([[0.0, 0.0, 0.0], [0.4, 0.2, 1.8 + 0.03 * k]], dtype=torch.float64)
        run_scf(Structure(cell, places, torch.tensor([1, 9])), settings, folder / f"set/{k:04d}")
    (folder / "model.yaml").write_text(
        "data: {train: set, validation_fraction: 0.34}\nmodel: {target: delta, preset: small, width: 16}\n"
        "trainer: {max_minutes: null, max_epochs: 1, validations: 1}\n"
    )
    return folder


def test_a_training_ends_with_figures_of_what_was_held_out(nearsight, small_set):
    trained = nearsight("train", small_set / "model.yaml", "-o", small_set / "model")
    assert trained.status == 0 and "superposed atoms" in trained.out, trained
    told = json.loads((small_set / "model/held_out.json").read_text())
    assert told["structures"] == told["held_out"] == 2
    name, each = next(iter(told["each"].items()))
    out = small_set / "predicted"
    said = nearsight("predict", small_set / "model", name, "-o", out)
    assert said.status == 0 and "superposed atoms" in said.out and "bands_near_mae_meV" in said.out, said
    known = read(name)
    error = (read(out).require_hamiltonian() - known.require_hamiltonian()).values.abs().mean() * 1000 * HARTREE_EV
    assert each["hamiltonian_mae_meV"] == pytest.approx(float(error), rel=1e-6)
    h0 = superposed_atoms(known).require_hamiltonian()
    error = (h0 - known.require_hamiltonian()).values.abs().mean() * 1000 * HARTREE_EV
    assert each["superposed_atoms"]["hamiltonian_mae_meV"] == pytest.approx(float(error), rel=1e-5)
    shown = json.loads(nearsight("compare", name, out, "--json").out)
    assert shown["superposed_atoms"]["on_site_mae_meV"] == pytest.approx(each["superposed_atoms"]["on_site_mae_meV"])


def test_what_has_no_figures_is_told_with_the_reason(small_set, monkeypatch, capsys):
    def without_bands(model, folder):
        raise BadInput("S(k) is not positive definite")

    monkeypatch.setattr(held_out, "_compared", without_bands)
    train(small_set / "model.yaml", small_set / "without")
    said = capsys.readouterr()
    assert said.err.count("warning: no figures of") == 2 and "S(k) is not positive definite" in said.err
    assert "of what was held out" not in said.out
    told = json.loads((small_set / "without/held_out.json").read_text())
    assert told["structures"] == 0 and told["held_out"] == len(told["failed"]) == 2


def test_shells_and_overlaps_add_up(small_set):
    known = read(small_set / "set/0000")
    found = compare(known, superposed_atoms(known))
    layout = known.require_hamiltonian().layout
    error = (superposed_atoms(known).require_hamiltonian() - known.require_hamiltonian()).values[0].abs()
    one = error[(layout.pairs.i[layout.pair] == 1) & (layout.pairs.j[layout.pair] == 1)]
    s = one[
        (layout.local[0] + layout.local[1] == 0)[
            (layout.pairs.i == 1)[layout.pair] & (layout.pairs.j == 1)[layout.pair]
        ]
    ]
    assert found.mae_by_shells_meV["F 0s - F 0s"] == pytest.approx(float(s.mean()) * 1000 * HARTREE_EV)
    assert found.mae_by_elements_meV["F-F"] == pytest.approx(float(one.mean()) * 1000 * HARTREE_EV)
    assert found.overlapping_mae_meV > found.hamiltonian_mae_meV
    assert found.gap_reference_eV > 5 and abs(found.gap_other_eV - found.gap_reference_eV) < 2


def test_nearly_vanishing_combinations_make_no_ghosts():
    """Two functions 1e-5 apart: 1 meV an element is 200 eV in the level of their difference, and a few meV in the span."""
    box = Structure(9 * torch.eye(3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64), torch.tensor([1]))
    layout = BlockLayout(Basis.of(box.numbers, {1: (0, 0, 0)}), Pairs.within(box, 1.0))

    def matrix(rows):
        return BlockMatrix(layout, torch.tensor(rows, dtype=torch.float64).reshape(1, -1))

    near = 1 - 1e-5
    overlap = matrix([[1, near, 0], [near, 1, 0], [0, 0, 1]])
    h = matrix([[-0.4, -0.4 - 3e-5, 0.0], [-0.4 - 3e-5, -0.4, 0.0], [0.0, 0.0, -0.3]])
    error = 1e-3 / HARTREE_EV
    wrong = h + matrix([[-error, error, error], [error, -error, error], [error, error, -error]])
    gamma = torch.zeros(1, 3, dtype=torch.float64)
    full = (levels(wrong, overlap, gamma) - levels(h, overlap, gamma)).abs().max() * HARTREE_EV
    assert float(full) > 50
    [found] = near_levels(h, overlap, -0.35, gamma, [h, wrong], above_ev=5.0)
    assert float((found.others[0] - found.known).abs().max()) < 1e-9
    assert float((found.others[1] - found.known).abs().max()) * HARTREE_EV < 5e-3
