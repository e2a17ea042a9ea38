"""Cube and XSF files: written whole, read back by us and by ASE; the density of a folder holds its electrons."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nearsight.core.errors import NearsightError
from nearsight.core.units import BOHR_ANG, HARTREE_EV
from nearsight.dft.run import run_scf
from nearsight.dft.settings import ScfSettings
from nearsight.formats import registry
from nearsight.formats.volumetric import Volume, read_cube, read_xsf, write_cube, write_volume, write_xsf
from nearsight.properties.density import field_on_mesh, functional_of, write_density
from tests.cases import skew, structure


@pytest.fixture
def volume() -> Volume:
    values = torch.randn(4, 7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Volume(skew(), values, "a field")


def assert_same(a: Volume, b: Volume) -> None:
    assert a.values.numpy() == pytest.approx(b.values.numpy(), rel=1e-5)
    for x, y in ((a.structure.cell, b.structure.cell), (a.structure.positions, b.structure.positions)):
        assert x.numpy() == pytest.approx(y.numpy(), abs=1e-6)
    assert torch.equal(a.structure.numbers, b.structure.numbers)


def test_cube_round_trip(volume: Volume, tmp_path: Path) -> None:
    write_cube(tmp_path / "f.cube", volume)
    back = read_cube(tmp_path / "f.cube")
    assert_same(back, volume)
    assert back.comment == "a field"
    assert not list(tmp_path.glob(".*"))


def test_xsf_round_trip(volume: Volume, tmp_path: Path) -> None:
    write_xsf(tmp_path / "f.xsf", volume)
    assert_same(read_xsf(tmp_path / "f.xsf"), volume)
    assert not list(tmp_path.glob(".*"))


def test_ase_reads_the_cube(volume: Volume, tmp_path: Path) -> None:
    from ase.io.cube import read_cube_data

    write_cube(tmp_path / "f.cube", volume)
    data, atoms = read_cube_data(str(tmp_path / "f.cube"))
    assert data == pytest.approx(volume.values.numpy(), rel=1e-5)
    assert atoms.positions == pytest.approx(volume.structure.positions.numpy() * BOHR_ANG, abs=1e-6)
    assert atoms.cell.array == pytest.approx(volume.structure.cell.numpy() * BOHR_ANG, abs=1e-6)
    assert list(atoms.numbers) == [8, 6, 1]


def test_ase_reads_the_xsf(volume: Volume, tmp_path: Path) -> None:
    from ase.io.xsf import read_xsf as read_by_ase

    write_xsf(tmp_path / "f.xsf", volume)
    with (tmp_path / "f.xsf").open() as file:
        data, origin, span, atoms = read_by_ase(file, read_data=True)
    closed = np.pad(volume.values.numpy(), ((0, 1),) * 3, mode="wrap")
    assert data == pytest.approx(closed, rel=1e-7)  # the end points repeat the first
    assert not np.any(origin)
    assert np.asarray(span) == pytest.approx(atoms.cell.array, abs=1e-6)
    assert atoms.positions == pytest.approx(volume.structure.positions.numpy() * BOHR_ANG, abs=1e-6)


@pytest.mark.parametrize(("quantity", "factor"), [("density", BOHR_ANG**-3), ("energy", HARTREE_EV), ("plain", 1.0)])
def test_units_of_the_two_forms(quantity, factor: float, volume: Volume, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write_volume(tmp_path / "f.cube", volume, quantity)
    write_volume(tmp_path / "f.xsf", volume, quantity)
    cube, xsf = read_cube(tmp_path / "f.cube"), read_xsf(tmp_path / "f.xsf")
    assert cube.values.numpy() == pytest.approx(volume.values.numpy(), rel=1e-5)
    assert xsf.values.numpy() == pytest.approx(factor * volume.values.numpy(), rel=1e-7)


def test_what_cannot_be_written(volume: Volume, tmp_path: Path) -> None:
    with pytest.raises(NearsightError, match=r"name the file \.cube or \.xsf"):
        write_volume(tmp_path / "f.dat", volume)
    with pytest.raises(NearsightError, match="not finite"):
        write_cube(tmp_path / "f.cube", replace(volume, values=volume.values / 0))
    with pytest.raises(NearsightError, match=r"field \[x, y, z\]"):
        write_xsf(tmp_path / "f.xsf", replace(volume, values=volume.values[0]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["f.cube", "f.xsf"])
def test_a_file_cut_short(name: str, volume: Volume, tmp_path: Path) -> None:
    read = read_cube if name == "f.cube" else read_xsf
    write_volume(tmp_path / name, volume)
    text = (tmp_path / name).read_text()
    for share in (0.02, 0.3, 0.9):
        (tmp_path / name).write_text(text[: int(share * len(text))])
        with pytest.raises(NearsightError, match="is not a whole"):
            read(tmp_path / name)
    with pytest.raises(NearsightError, match="no such file"):
        read(tmp_path / "absent")


# --- of a calculation folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    h2 = structure([[9.0, 0, 0], [0, 8.0, 0], [0.5, 0, 8.5]], [[4, 4, 3.5], [4, 4, 4.9]], [1, 1])
    out = tmp_path_factory.mktemp("density") / "h2"
    settings = ScfSettings(basis="sz", mesh_cutoff_ry=80, kmesh=(1, 1, 1))
    assert run_scf(h2, settings, out).converged
    return out


def test_the_density_holds_the_electrons(folder: Path, tmp_path: Path) -> None:
    made = write_density(folder, tmp_path / "n.cube")
    back = read_cube(tmp_path / "n.cube")
    element = back.structure.volume / back.values.numel()
    assert float(back.values.sum() * element) == pytest.approx(2, abs=2e-3)
    assert back.values.numpy() == pytest.approx(made.values.numpy(), rel=1e-5, abs=1e-12)
    middle = (
        (np.array([4, 4, 4.2]) @ np.linalg.inv(back.structure.cell.numpy()) * back.values.shape).round().astype(int)
    )
    assert float(back.values[tuple(middle)]) > 0.5 * float(back.values.max())


def test_the_potential_binds(folder: Path, tmp_path: Path) -> None:
    total = write_density(folder, tmp_path / "v.xsf", "potential").values
    electrostatic = write_density(folder, tmp_path / "e.xsf", "electrostatic").values
    assert float(total.min()) < float(electrostatic.min()) < -0.5
    dense = write_density(folder, tmp_path / "n.xsf").values > 0.01
    assert bool((total < electrostatic)[dense].all())  # exchange and correlation attract
    assert read_xsf(tmp_path / "v.xsf").values.numpy() == pytest.approx(total.numpy() * HARTREE_EV, rel=1e-6, abs=1e-9)


def test_the_potential_is_that_of_the_hamiltonian(folder: Path) -> None:
    """H = T + V_KB + <phi| V |phi>."""
    calculation = registry.read(folder)
    functional = functional_of(calculation)
    assert calculation.density_matrix is not None
    potential = field_on_mesh(functional, calculation.density_matrix, "potential")
    total = functional.grid.matrix(potential[None])
    state = functional.state(calculation.density_matrix.on(functional.layout))
    for term in functional.terms:
        matrix = term.evaluate(state)[1].matrix
        total = total if matrix is None else total + matrix
    made = functional.evaluate(calculation.density_matrix.on(functional.layout)).hamiltonian
    assert total.values.numpy() == pytest.approx(made.values.numpy(), abs=1e-12)
    assert made.values.numpy() == pytest.approx(calculation.require_hamiltonian().values.numpy(), abs=1e-9)


def test_folders_without_a_density(folder: Path, tmp_path: Path) -> None:
    import json
    import shutil

    with pytest.raises(NearsightError, match="did you mean density"):
        write_density(folder, tmp_path / "n.cube", "densty")
    with pytest.raises(NearsightError, match="computed without spin"):
        write_density(folder, tmp_path / "n.cube", "spin")
    copy = shutil.copytree(folder, tmp_path / "copy")
    result = json.loads((copy / "result.json").read_text())
    result["species"]["H"]["pseudopotential_sha256"] = "0" * 64
    (copy / "result.json").write_text(json.dumps(result))
    with pytest.raises(NearsightError, match="another file for H"):
        write_density(copy, tmp_path / "n.cube")
    (copy / "result.json").unlink()
    with pytest.raises(NearsightError, match=r"species/H\.ion\.xml"):
        write_density(copy, tmp_path / "n.cube")
    (copy / "density_matrix.h5").unlink()
    with pytest.raises(NearsightError, match=r"no density matrix"):
        write_density(copy, tmp_path / "n.cube")


def test_the_command(folder: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from nearsight.cli import app

    result = CliRunner().invoke(app, ["density", str(folder), "-o", str(tmp_path / "n.cube")])
    assert result.exit_code == 0, result.output
    assert "valence electron density on" in result.output
    assert read_cube(tmp_path / "n.cube").values.ndim == 3
