"""Sets of one structure with many patterns of moments, which the engine holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import read as read_atoms

from nearsight.core.configuration import validated
from nearsight.core.errors import BadInput
from nearsight.formats.registry import list_folders
from nearsight.generators.contract import generate
from nearsight.tasks.dataset import SetSettings, build, structures_of

SCF = {"basis": "sz", "kmesh": [1, 1, 1], "mesh_cutoff_ry": 40, "smearing_ev": 0.3}


def triangle() -> Atoms:
    atoms = Atoms("H3", [[0, 1.1, 0], [-0.95, -0.55, 0], [0.95, -0.55, 0]], cell=[5.0, 5.0, 4.0], pbc=True)
    atoms.center()
    return atoms


def chain(n: int = 4) -> Atoms:
    return Atoms(f"Fe{n}", [[2.4 * k, 4.0, 4.0] for k in range(n)], cell=[2.4 * n, 8.0, 8.0], pbc=True)


def moments_of(structure) -> np.ndarray:
    return structure.moments.numpy()


def test_directions_at_random_are_uniform_and_the_same_from_the_same_seed():
    found = np.concatenate([moments_of(s) for s in generate("moments", chain(), sizes={"Fe": [2.0, 3.0]}, count=60)])
    sizes = np.linalg.norm(found, axis=1)
    assert 2 <= sizes.min() < 2.1 and 2.9 < sizes.max() <= 3
    assert np.abs((found / sizes[:, None]).mean(0)).max() < 0.12
    again = np.concatenate([moments_of(s) for s in generate("moments", chain(), sizes={"Fe": [2.0, 3.0]}, count=60)])
    assert (again == found).all()


def test_spirals_turn_along_the_cell_and_cones_stay_near_their_axis():
    for s in generate("moments", chain(), sizes={"Fe": 2.0}, pattern="spiral", turns=(1, 0, 0), angle_deg=60, count=5):
        m = moments_of(s)
        axis = np.cross(m[1] - m[0], m[2] - m[1])
        axis /= np.linalg.norm(axis)
        assert np.allclose(np.abs(m @ axis), 1.0)  # 2 cos 60
        across = m - np.outer(m @ axis, axis)
        assert np.allclose((across * np.roll(across, 1, 0)).sum(1), 0)  # a quarter of a turn from each to the next
    for s in generate("moments", chain(), sizes={"Fe": 2.0}, pattern="cone", axis=(0, 0, 2), angle_deg=20, count=5):
        assert (moments_of(s)[:, 2] >= 2 * np.cos(np.radians(20)) - 1e-12).all()
        assert np.ptp(moments_of(s)[:, 0]) > 0
    for s in generate("moments", chain(), sizes={"Fe": 2.0}, pattern="cone", angle_deg=0, count=2):
        assert np.allclose(moments_of(s), moments_of(s)[0])


def test_a_set_holds_its_patterns_and_goes_on_where_it_was(tmp_path: Path):
    triangle().write(tmp_path / "h3.extxyz")
    table = {
        "structure": [str(tmp_path / "h3.extxyz")],
        "distort": {"count": 1, "sigma_ang": 0.02, "clip_ang": 0.05},
        "moments": {"count": 2, "sizes": {"H": [0.3, 0.5]}, "hold": "moment"},
        "scf": SCF,
        "workers": 1,
    }
    settings = validated(SetSettings, table, "the set")
    report = build(settings, tmp_path / "set")
    assert not report.failed and len(list_folders(tmp_path / "set")) == 2
    wanted = [moments_of(s) for s in structures_of(settings, tmp_path / "set")]
    assert np.abs(wanted[0] - wanted[1]).max() > 0.1
    for folder, m in zip(list_folders(tmp_path / "set"), wanted, strict=True):
        record = json.loads((folder / "result.json").read_text())
        assert np.abs(np.array(record["mulliken_moments"]) - m).max() < 1e-3
        assert np.abs(record["magnetic_forces_eV_per_mu_B"]).max() > 1e-2
        assert (folder / "constrained_hamiltonian.h5").exists()
        told = json.loads((folder / "provenance.json").read_text())
        assert told["generator"] == "moments" and told["ancestors"][0]["generator"] == "rattle"
    assert not build(settings, tmp_path / "set").worked


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"moments": {"sizes": {"Fe": 2}}}, "Fe"),
        ({"moments": {"sizes": {"H": -1}}}, "size"),
        ({"moments": {"sizes": {"H": 0.5}, "hold": "size"}}, "hold"),
        ({"moments": {"sizes": {"H": 0.5}}, "scf": {**SCF, "spin": "collinear"}}, "vectors"),
        ({"moments": {"sizes": {"H": 0.5}}, "scf": {**SCF, "constrain": "direction"}}, "scf"),
        ({"moments": {"sizes": {"H": 0.5}}, "labels": False}, "labels"),
        ({"moments": {"sizes": {"H": 0.5}, "pattern": "spirals"}}, "spiral"),
        ({"moments": {"sizes": {"H": 0.5}, "pattern": "cone", "axis": [0, 0, 0]}}, "axis"),
        ({"moments": {}}, "sizes"),
    ],
)
def test_what_no_set_can_be_made_of_is_said_before_there_is_one(change: dict, said: str, tmp_path: Path):
    triangle().write(tmp_path / "h3.extxyz")
    table = {"structure": [str(tmp_path / "h3.extxyz")], "scf": SCF, "workers": 1, **change}
    with pytest.raises(BadInput) as error:
        build(validated(SetSettings, table, "the set"), tmp_path / "set")
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "set").exists()


def test_files_keep_moments_or_refuse_them(tmp_path: Path):
    from nearsight.generators.output import write_structures

    made = generate("moments", chain(), sizes={"Fe": 2.0}, count=2)
    write_structures(tmp_path / "all.extxyz", made)
    back = read_atoms(tmp_path / "all.extxyz", index=1)
    assert np.abs(back.get_initial_magnetic_moments() - moments_of(made[1])).max() < 1e-6
    with pytest.raises(BadInput, match="no place for magnetic moments"):
        write_structures(tmp_path / "one.vasp", made[:1])
    assert not (tmp_path / "one.vasp").exists()
