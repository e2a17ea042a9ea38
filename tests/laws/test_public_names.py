"""The public names: each loads, is documented, and is what a type checker sees."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import ase.build
import numpy as np
import pytest
import torch

import nearsight as ns
from nearsight.core.errors import BadInput, NotConverged
from tests import cases


def seen_by_type_checkers() -> dict[str, str]:
    """Public name -> module (and name there), from the imports that only type checkers follow."""
    tree = ast.parse(Path(ns.__file__).read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If))
    found = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname, f"{alias.name}: `import X as X` tells a type checker that the name is public"
            same = alias.name == alias.asname
            found[alias.asname] = str(node.module) if same else f"{node.module}:{alias.name}"
    return found


def test_type_checkers_see_the_names_that_load():
    assert seen_by_type_checkers() == ns._HOME
    assert (Path(ns.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize("name", [n for n in ns.__all__ if n != "__version__"])
def test_every_name_is_documented_and_typed(name):
    thing = getattr(ns, name)
    said = inspect.getdoc(thing)
    assert said and len(said) > 20
    assert not said.startswith(f"{name}("), "the generated docstring of a dataclass says nothing"
    if inspect.isfunction(thing):
        signature = inspect.signature(thing)
        assert signature.return_annotation is not inspect.Signature.empty
        assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())


def test_from_ase_and_back():
    atoms = ase.build.bulk("NaCl", "rocksalt", 5.64)
    atoms.set_initial_magnetic_moments([1.0, -0.5])
    atoms.set_initial_charges([1.0, -1.0])
    s = ns.Structure.from_ase(atoms)
    assert (s.symbols, s.formula) == (["Na", "Cl"], "NaCl")
    assert s.moments.tolist() == [1.0, -0.5]
    assert s.charges.tolist() == [1.0, -1.0]
    back = s.to_ase()
    assert np.allclose(back.positions, atoms.positions)
    assert np.allclose(back.cell.array, atoms.cell.array)
    assert back.get_initial_magnetic_moments().tolist() == [1.0, -0.5]
    assert back.get_initial_charges().tolist() == [1.0, -1.0]
    assert ns.supercell(s, (2, 1, 1)).moments.tolist() == [1.0, -0.5, 1.0, -0.5]
    assert s.reordered([1, 0]).moments.tolist() == [-0.5, 1.0]
    assert ns.Structure.from_ase(ase.build.bulk("Si")).moments is None


def test_vector_moments_turn_as_axial_vectors():
    atoms = ase.build.bulk("NaCl", "rocksalt", 5.64)
    atoms.set_initial_magnetic_moments([[0.0, 0, 1], [0, 1, 0]])
    s = ns.Structure.from_ase(atoms)
    inversion = -torch.eye(3, dtype=torch.float64)
    assert torch.equal(s.rotate(inversion).moments, s.moments)
    assert torch.equal(s.rotate(inversion).positions, -s.positions)
    turn = cases.random_rotation(1)
    assert torch.allclose(s.rotate(turn).moments, s.moments @ turn.T)


def _partly_occupied():
    atoms = ase.build.bulk("Si")
    atoms.info["occupancy"] = {"0": {"Si": 0.5, "Ge": 0.5}}
    return atoms


def _not_periodic():
    atoms = ase.build.bulk("Si")
    atoms.pbc = (True, True, False)
    return atoms


@pytest.mark.parametrize(
    ("atoms", "words"),
    [
        (_partly_occupied(), ("occupied in part", "0.5 Ge")),
        (_not_periodic(), ("not periodic", "pbc = True")),
        (ase.build.molecule("H2O"), ("no cell", "center(vacuum=5)")),
        (ase.build.graphene(), ("no cell", "zero volume")),
        (ase.Atoms(), ("empty",)),
    ],
)
def test_what_would_be_lost_is_refused(atoms, words):
    with pytest.raises(BadInput) as refused:
        ns.Structure.from_ase(atoms)
    assert "\n" not in str(refused.value)
    for word in words:
        assert word in str(refused.value)


def test_a_molecule_in_its_box_and_a_sheet_are_taken():
    water = ase.build.molecule("H2O", vacuum=3.0)
    assert not water.pbc.any()
    assert ns.Structure.from_ase(water).formula == "OH2"
    sheet = ase.build.graphene(vacuum=6.0)
    assert len(ns.Structure.from_ase(sheet)) == 2


def test_the_verbs():
    s, species = cases.diamond(), cases.species_of(cases.diamond(), "sz")
    quick = {"basis": "sz", "mesh_cutoff_ry": 50, "kmesh": (1, 1, 1)}
    state = ns.ground_state(s, **quick)
    assert state.converged
    both = ns.forces_and_stress(state)
    assert torch.allclose(ns.forces(state), both.forces, atol=1e-12)
    assert torch.allclose(ns.stress(state), both.stress, atol=1e-12)
    of_state, of_calculation = ns.bands(state, points=4), ns.bands(state.as_calculation(), points=4)
    assert torch.allclose(of_state.energies, of_calculation.energies, atol=1e-12)
    assert of_state.fermi_level == state.fermi_level
    again = ns.ground_state(s, ns.ScfSettings(**quick))
    assert again.total == pytest.approx(state.total, abs=1e-9)
    assert species[6].valence * 2 == state.as_calculation().electrons
    with pytest.raises(BadInput, match="not both"):
        ns.ground_state(s, ns.ScfSettings(), basis="sz")
    with pytest.raises(NotConverged, match="not converged in 1 iterations"):
        ns.ground_state(s, **quick, max_iterations=1)
    with pytest.raises(ns.NearsightError, match="did you mean kmesh"):
        ns.ground_state(s, kmsh=(1, 1, 1))


def test_a_file_of_many_frames_is_read_once(tmp_path, monkeypatch):
    import ase.io

    frames = [ase.build.bulk("Si") for _ in range(40)]
    for n, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=n)
    ase.io.write(tmp_path / "md.xyz", frames)
    count, iread = [], ase.io.iread
    monkeypatch.setattr(ase.io, "iread", lambda *a, **k: count.append(1) or iread(*a, **k))
    from nearsight.formats.registry import list_structures

    paths = list_structures(tmp_path / "md.xyz")
    found = [ns.read_structure(p) for p in paths]
    assert len(count) == 1
    for structure, atoms in zip(found, frames, strict=True):
        assert np.allclose(structure.to_ase().positions, atoms.positions, atol=1e-6)
    streamed = list(ns.read_frames(tmp_path / "md.xyz"))
    assert all(torch.equal(a.positions, b.positions) for a, b in zip(found, streamed, strict=True))
    ase.io.write(tmp_path / "md.xyz", frames[:3])
    assert len(list_structures(tmp_path / "md.xyz")) == 3
    with pytest.raises(BadInput, match="has 3 structures"):
        ns.read_structure(tmp_path / "md.xyz" / "7")


def test_moments_that_a_structure_states_begin_a_calculation_with_spin():
    from nearsight.dft.setup import Setup

    atoms = ase.Atoms("O2", [[0, 0, 0], [0, 0, 1.21]], cell=[4, 4, 5], pbc=True)
    atoms.set_initial_magnetic_moments([2.0, -2.0])
    s = ns.Structure.from_ase(atoms)
    species = cases.species_of(s, "sz")
    quick = {"basis": "sz", "mesh_cutoff_ry": 50, "kmesh": (1, 1, 1)}
    assert Setup.of(s, ns.ScfSettings(**quick, spin="collinear"), species).moments == [2.0, -2.0]
    told = ns.ScfSettings(**quick, spin="collinear", moments=(1.0, 1.0))
    assert Setup.of(s, told, species).moments == [1.0, 1.0]
    said: list[str] = []
    hydrogen = ase.Atoms("H2", [[0, 0, 0], [0, 0, 0.74]], cell=[4, 4, 4], pbc=True, magmoms=[1, -1])
    ns.run_scf(ns.Structure.from_ase(hydrogen), ns.ScfSettings(**quick), warn=said.append)
    assert any("states initial magnetic moments" in x for x in said)
    atoms = ase.Atoms("O2", [[0, 0, 0], [0, 0, 1.21]], cell=[4, 4, 5], pbc=True, magmoms=[[0.0, 0, 2], [0, 2, 0]])
    with pytest.raises(BadInput, match="vectors"):
        Setup.of(ns.Structure.from_ase(atoms), ns.ScfSettings(**quick, spin="collinear"), species)
