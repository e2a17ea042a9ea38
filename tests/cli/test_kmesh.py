"""The k-mesh of a run that was told none: as dense as asked where states depend on k, one point along vacuum."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk, graphene, molecule, nanotube

import nearsight as ns
from nearsight.core.structure import Structure, supercell
from nearsight.dft.settings import Settings
from nearsight.dft.setup import chosen_kmesh, why_kmesh
from nearsight.properties.brillouin import periodic_axes


def boxed(atoms: Atoms, vacuum: float, axes: tuple[int, ...] = (0, 1, 2), pbc: bool = True) -> Structure:
    atoms.center(vacuum=vacuum, axis=axes)
    atoms.pbc = [pbc or x not in axes for x in range(3)]
    return Structure.from_ase(atoms)


TUBE = nanotube(4, 0, length=1)
CASES = {
    "molecule": (boxed(molecule("H2O"), 3.0), (1, 1, 1), "Gamma alone: vacuum on all sides"),
    "molecule in a narrow box": (boxed(molecule("H2O"), 2.0), (7, 5, 6), "steps below 0.25 1/Angstrom"),
    "molecule that is not periodic": (boxed(molecule("H2O"), 2.0, pbc=False), (1, 1, 1), "Gamma alone"),
    "sheet": (boxed(graphene(), 6.0, (2,)), (12, 12, 1), "steps below 0.25 1/Angstrom, one point along c: vacuum"),
    "thin slab said not to be periodic": (boxed(graphene(), 2.0, (2,), pbc=False), (12, 12, 1), "along c: vacuum"),
    "sheet standing upright": (boxed(Atoms("C", cell=[20, 2.5, 2.5]), 8.0, (0,)), (1, 11, 11), "along a: vacuum"),
    "wire": (boxed(TUBE.copy(), 5.0, (0, 1)), (1, 1, 6), "one point along a and b: vacuum"),
    "crystal": (Structure.from_ase(bulk("Si", a=5.43)), (9, 9, 9), "steps below 0.25 1/Angstrom"),
    "layers": (boxed(graphene(), 3.4 / 2, (2,)), (12, 12, 8), "steps below 0.25 1/Angstrom"),
}


@pytest.mark.parametrize("name", CASES)
def test_one_point_along_what_is_vacuum(name: str) -> None:
    structure, mesh, why = CASES[name]
    assert chosen_kmesh(structure, Settings()) == mesh
    assert why in why_kmesh(structure, Settings())
    assert periodic_axes(structure) == [x for x in range(3) if mesh[x] > 1]
    given = Settings(kmesh=(2, 3, 4))
    assert (chosen_kmesh(structure, given), why_kmesh(structure, given)) == ((2, 3, 4), "given")


def test_what_is_said_not_to_be_periodic_stays_so() -> None:
    structure = boxed(molecule("H2O", vacuum=3.0), 2.0, (0,), pbc=False)
    assert structure.periodic == (False, True, True)
    for made in (structure.to("cpu"), structure.reordered([2, 0, 1]), supercell(structure, (1, 1, 2))):
        assert made.periodic == structure.periodic


def test_the_choice_is_told(nearsight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    molecule("H2").write("h2.xyz")
    words = ("scf", "h2.xyz", "--vacuum", 2, "--basis", "sz", "--mesh-cutoff", 60, "-o")
    done = nearsight(*words, "out")
    assert "k-mesh 1x1x1 (Gamma alone: vacuum on all sides), mesh" in done.out
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (record["kmesh"], record["k_points"]) == ([1, 1, 1], 1)
    assert record["kmesh_choice"] == "Gamma alone: vacuum on all sides"
    assert "(given)" in nearsight(*words, "other", "--kmesh", 2, 1, 1).out
    atoms = molecule("H2", vacuum=2.0)
    atoms.calc = ns.Nearsight(basis="sz", mesh_cutoff_ry=60)
    assert atoms.get_potential_energy() == pytest.approx(record["energy_eV"]["zero_smearing"], abs=1e-5)
    assert atoms.calc.state is not None and len(atoms.calc.state.kpoints) == 1
