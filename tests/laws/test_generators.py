"""Generated structures: known counts, distances that stay, the same from the same seed, refusals beforehand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, molecule, mx2, nanotube
from ase.neighborlist import neighbor_list

from nearsight.core.errors import BadInput
from nearsight.core.registry import kinds, load
from nearsight.generators.contract import Generator, generate, generator
from nearsight.generators.prototypes import PROTOTYPES
from nearsight.generators.twist import commensurate_angles

A = 2.46


def sheet(formula: str = "C2", a: float = A) -> Atoms:
    atoms = graphene(formula, a=a, vacuum=7.5)
    atoms.pbc = True
    return atoms


def dichalcogenide(formula: str = "MoS2", a: float = 3.18) -> Atoms:
    atoms = mx2(formula, "2H", a, 3.13, vacuum=7.5)
    atoms.pbc = True
    return atoms


def bonds(atoms: Atoms, cutoff: float) -> np.ndarray:
    """How many neighbours each atom has within a cutoff."""
    return np.bincount(neighbor_list("i", atoms, cutoff), minlength=len(atoms))


# twisted bilayers


@pytest.mark.parametrize(
    ("indices", "atoms", "angle"),
    [
        ((2, 1), 28, 21.787),
        ((3, 2), 76, 13.174),
        ((7, 6), 508, 5.086),
        ((10, 9), 1084, 3.481),
        ((16, 15), 2884, 2.134),
        ((31, 30), 11164, 1.085),
        ((4, 1), 28, 38.213),
        ((5, 2), 52, 27.796),
    ],
)
def test_known_cells_of_twisted_graphene(indices, atoms, angle):
    [s] = generate("twist", sheet(), indices=indices)
    details = s.provenance["details"]
    assert (len(s), details["atoms_of_layers"]) == (atoms, [atoms // 2] * 2)
    assert details["angle_deg"] == pytest.approx(angle, abs=6e-4)
    assert details["largest_strain"] < 1e-7
    made = s.to_ase()
    assert (bonds(made, 1.5) == 3).all()  # each layer is a whole sheet, through the faces of the cell too
    lower = made.positions[:, 2] < made.positions[:, 2].mean()
    assert lower.sum() == atoms // 2
    assert np.ptp(made.positions[:, 2]) == pytest.approx(3.35)


def test_m_and_r_are_the_indices_m_and_m_less_r():
    [a], [b] = generate("twist", sheet(), m=7, r=1), generate("twist", sheet(), indices=(7, 6))
    assert a.cell.tolist() == b.cell.tolist()
    assert a.positions.tolist() == b.positions.tolist()


def test_layers_are_turned_by_the_angle_that_is_told():
    [s] = generate("twist", sheet(), indices=(3, 2))
    made = s.to_ase()
    directions = []
    for layer in (made[:38], made[38:]):
        vectors = neighbor_list("D", layer, 1.5)
        directions.append(np.degrees(np.arctan2(vectors[:, 1], vectors[:, 0])) % 60)
    spread = [np.ptp((d - d[0] + 30) % 60) for d in directions]
    turn = (directions[1][0] - directions[0][0]) % 60
    assert max(spread) < 1e-4
    assert turn == pytest.approx(13.17355, abs=1e-3)


def test_the_list_of_angles_has_each_cell_once_and_its_atoms():
    found = commensurate_angles(sheet(), most_atoms=200)
    assert [(c.indices, c.atoms) for c in found[:6]] == [
        ((2, 1), 28),
        ((4, 1), 28),
        ((5, 2), 52),
        ((3, 1), 52),
        ((3, 2), 76),
        ((7, 1), 76),
    ]
    for c in found:
        assert len(generate("twist", sheet(), indices=c.indices)[0]) == c.atoms <= 200
    assert len({round(c.angle_deg, 6) for c in found}) == len(found)


def test_square_sheets():
    square = Atoms("FeSe", cell=[3.8, 3.8, 18], scaled_positions=[[0, 0, 0.5], [0.5, 0.5, 0.55]], pbc=True)
    [s] = generate("twist", square, indices=(2, 1))
    assert (len(s), s.provenance["details"]["angle_deg"]) == (20, pytest.approx(36.8699, abs=1e-4))
    [s] = generate("twist", square, indices=(3, 1))  # both odd: half of 10 cells
    assert (len(s), s.provenance["details"]["angle_deg"]) == (20, pytest.approx(53.1301, abs=1e-4))


def test_unlike_sheets_are_searched_and_the_second_is_strained():
    first, second = sheet(), dichalcogenide()
    [s] = generate("twist", first, second, angle_deg=14.5, within_deg=0.2, strain=0.03, most_atoms=300)
    details, made = s.provenance["details"], s.to_ase()
    assert 0 < details["largest_strain"] <= 0.03
    assert details["angle_deg"] == pytest.approx(14.5, abs=0.2)
    carbon = made[made.numbers == 6]
    assert neighbor_list("d", carbon, 1.5) == pytest.approx(A / 3**0.5, abs=1e-6)  # the first is as it was given
    assert (bonds(carbon, 1.5) == 3).all()
    sulphur, metal = (made[made.numbers == z].positions[:, 2] for z in (16, 42))
    assert sulphur.min() - carbon.positions[:, 2].max() == pytest.approx(3.35)
    assert len(sulphur) == 2 * len(metal)
    [same] = generate("twist", first, sheet("BN", 2.5), indices=(2, 1), strain=0.02)
    assert len(same) == 28
    with pytest.raises(BadInput, match=r"strained by 0\.0160 .* strain allows 0\.01"):
        generate("twist", first, sheet("BN", 2.5), indices=(2, 1))


def test_shift_and_corrugation():
    from nearsight.generators.sheets import Sheet

    [aa], [ab] = (generate("twist", sheet(), angle_deg=0, shift=x)[0:1] for x in ((0, 0), (1 / 3, 1 / 3)))
    lateral = []
    for s in (aa, ab):
        gaps = [s.to_ase().get_distances(n, [2, 3], mic=True, vector=True)[:, :2] for n in (0, 1)]
        lateral.append(sorted(float(np.linalg.norm(g, axis=1).min()) for g in gaps))
    assert lateral[0] == pytest.approx([0, 0], abs=1e-6)  # every atom over an atom
    assert lateral[1] == pytest.approx([0, A / 3**0.5], abs=1e-6)  # one over an atom, one over a hole
    [s] = generate("twist", sheet(), indices=(7, 6), corrugation_ang=0.3)
    made = s.to_ase()
    low, high = made.positions[:254], made.positions[254:]
    gaps = []
    for corner in ((0, 0), (1 / 3, 1 / 3), (2 / 3, 2 / 3)):  # AA, AB, BA
        place = np.array(corner) @ made.cell.array[:2, :2]
        near = [
            layer[np.linalg.norm(_nearest(layer[:, :2] - place, made), axis=1).argmin(), 2] for layer in (low, high)
        ]
        gaps.append(near[1] - near[0])
    assert gaps[0] - gaps[1] == pytest.approx(0.3, abs=0.02)
    assert gaps[1] == pytest.approx(gaps[2], abs=0.02)
    assert high[:, 2].mean() - low[:, 2].mean() == pytest.approx(3.35)
    assert Sheet.of(sheet()).lattice == "hexagonal"


def _nearest(vectors: np.ndarray, atoms: Atoms) -> np.ndarray:
    cell = atoms.cell.array[:2, :2]
    fractions = vectors @ np.linalg.inv(cell)
    return (fractions - np.round(fractions)) @ cell


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"indices": (2, 4)}, r"give m >= n"),
        ({"indices": (4, 2)}, r"cell of \(2, 1\) repeated"),
        ({"m": 3}, "m and r belong together"),
        ({}, "give one of indices"),
        ({"indices": (2, 1), "angle_deg": 3}, "give one of indices"),
        (
            {"angle_deg": 1.7, "within_deg": 0.01, "most_atoms": 500, "strain": 0},
            "no cell of at most 500 atoms.*nearest found is",
        ),
        ({"indices": (300, 299)}, "1076404 atoms, of which most_atoms allows 100000"),
        ({"indices": (2, 1), "distance_ang": 0.5}, "apart.*of the sum of their covalent radii"),
        ({"indexes": (2, 1)}, "unknown key twist.indexes; did you mean indices"),
    ],
)
def test_twists_that_cannot_be(options, message):
    with pytest.raises(BadInput, match=message):
        generate("twist", sheet(), **options)


def test_what_is_no_sheet():
    for atoms in (bulk("Si"), molecule("H2O", vacuum=5, pbc=True)):
        with pytest.raises(BadInput, match="is no sheet"):
            generate("twist", atoms, indices=(2, 1))


# tubes and ribbons


@pytest.mark.parametrize(("indices", "atoms"), [((6, 6), 24), ((10, 0), 40), ((6, 4), 152), ((4, 2), 56)])
def test_tubes_are_those_of_ase(indices, atoms):
    [s] = generate("nanotube", sheet(), indices=indices)
    made, theirs = s.to_ase(), nanotube(*indices, bond=A / 3**0.5)
    assert len(s) == atoms == len(theirs)
    assert made.cell.lengths()[2] == pytest.approx(theirs.cell.lengths()[2], abs=1e-4)
    assert (bonds(made, 1.6) == 3).all()
    rows = [np.sort(a.get_all_distances(mic=True)[np.triu_indices(atoms, 1)]) for a in (made, _wide(theirs))]
    assert rows[0] == pytest.approx(rows[1], abs=1e-3)


def _wide(tube: Atoms) -> Atoms:
    tube.center(vacuum=7.5, axis=(0, 1))
    tube.pbc = True
    return tube


def test_a_tube_of_a_thick_sheet_keeps_its_composition():
    [s] = generate("nanotube", dichalcogenide(), indices=(12, 0), periods=2)
    assert Counter(s.symbols) == {"Mo": 48, "S": 96}
    with pytest.raises(BadInput, match="take larger indices"):
        generate("nanotube", dichalcogenide(), indices=(2, 0))


@pytest.mark.parametrize(("indices", "formula"), [((1, 0), {"C": 12, "H": 2}), ((1, 1), {"C": 16, "H": 4})])
def test_ribbons_are_saturated(indices, formula):
    [s] = generate("ribbon", sheet(), indices=indices, width=3 if indices == (1, 0) else 4, saturate="H")
    assert Counter(s.symbols) == formula
    made = s.to_ase()
    carbon = made.numbers == 6
    assert (bonds(made, 1.5)[carbon] == 3).all()
    assert (bonds(made, 1.5)[~carbon] == 1).all()


# the others


def test_rattle_is_the_same_from_the_same_seed():
    a, b, c = (generate("rattle", bulk("Si"), count=3, sigma_ang=0.1, seed=n) for n in (1, 1, 2))
    assert [s.positions.tolist() for s in a] == [s.positions.tolist() for s in b]
    assert a[0].positions.tolist() != c[0].positions.tolist()
    assert (
        generate("rattle", bulk("Si"), count=1, sigma_ang=0.1, seed=1)[0].positions.tolist() == a[0].positions.tolist()
    )


def test_atoms_are_never_too_close():
    for s in generate("rattle", bulk("Si").repeat(2), count=20, sigma_ang=0.45, closest=0.7):
        made = s.to_ase()
        assert neighbor_list("d", made, 3.0).min() >= 0.7 * 2 * 1.11
    with pytest.raises(BadInput, match=r"in each of 100 tries at structure 0"):
        generate("rattle", bulk("Si").repeat(3), count=1, sigma_ang=2.0, closest=0.9)


def test_strain_of_a_sheet_leaves_heights_and_the_third_vector():
    parent = dichalcogenide()
    for s in generate("strain", parent, count=4, sheet=True, largest=0.05):
        made, e = s.to_ase(), np.array(s.provenance["details"]["strain"])
        assert e == pytest.approx(e.T)
        assert not e[2].any()
        assert made.cell.array[2] == pytest.approx(parent.cell.array[2])
        assert made.positions[:, 2] == pytest.approx(parent.positions[:, 2])
    volumes = [float(s.volume) for s in generate("strain", bulk("Si"), mode="volume", count=5, range=(0.9, 1.1))]
    assert np.array(volumes) / volumes[2] == pytest.approx([0.9, 0.95, 1, 1.05, 1.1])


@pytest.mark.parametrize("repeat", [(2, 1, 3), (1, 1, 0, -1, 1, 0, 0, 0, 2), (-1, 1, 1, 1, -1, 1, 1, 1, -1)])
def test_supercells_have_the_same_surroundings(repeat):
    [s] = generate("supercell", bulk("Si"), repeat=repeat)
    size = np.prod(repeat) if len(repeat) == 3 else round(np.linalg.det(np.reshape(repeat, (3, 3))))
    assert len(s) == 2 * size
    assert (bonds(s.to_ase(), 2.5) == 4).all()
    assert (bonds(s.to_ase(), 4.0) == 16).all()


@pytest.mark.parametrize(
    ("repeat", "message"),
    [
        ((2, 2), "2 integers: give 3, or the 9"),
        ((0, 1, 1), "at least 1"),
        ((1, 0, 0, 2, 0, 0, 0, 0, 1), "determinant 0"),
        ((0, 1, 0, 1, 0, 0, 0, 0, 1), "determinant -1"),
        ((100, 100, 100), "2000000 atoms, of which most_atoms allows 100000"),
    ],
)
def test_supercells_that_cannot_be(repeat, message):
    with pytest.raises(BadInput, match=message):
        generate("supercell", bulk("Si"), repeat=repeat)


@pytest.mark.parametrize("name", PROTOTYPES)
def test_prototypes_stand_at_covalent_distances(name):
    import spglib
    from ase.data import covalent_radii

    letters = PROTOTYPES[name].letters
    elements = ("Ga", "N", "O")[: len(letters)]
    made = generate("decorate", prototypes=name, elements=elements)
    same = 2 if PROTOTYPES[name].alike else 1
    assert len(made) == {1: 1, 2: 2, 3: 6}[len(letters)] // same
    atoms = made[0].to_ase()
    i, j, d = neighbor_list("ijd", atoms, 4.0)
    shares = d / (covalent_radii[atoms.numbers[i]] + covalent_radii[atoms.numbers[j]])
    assert shares.min() == pytest.approx(1, abs=1e-6)
    groups = {"sc": 221, "bcc": 229, "fcc": 225, "hcp": 194, "diamond": 227, "rocksalt": 225, "zincblende": 216}
    groups |= {
        "cesiumchloride": 221,
        "wurtzite": 186,
        "nickeline": 194,
        "fluorite": 225,
        "rutile": 136,
        "perovskite": 221,
    }
    groups |= {"graphene": 191, "silicene": 164, "hbn": 187, "mx2-2h": 187, "mx2-1t": 164}
    found = spglib.get_symmetry_dataset((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), symprec=1e-4)
    assert found.number == groups[name]


def test_decorations_are_scaled_and_rattled_within_bounds():
    made = generate("decorate", prototypes="rocksalt", elements="Na,Cl,K", count=4, scale=(0.95, 1.05), sigma_ang=0.02)
    assert len(made) == 12
    assert {tuple(s.provenance["details"]["elements"]) for s in made} == {("Na", "Cl"), ("Na", "K"), ("Cl", "K")}
    scales = [s.provenance["details"]["scale"] for s in made]
    assert min(scales) >= 0.95
    assert max(scales) <= 1.05
    assert len(set(scales)) == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prototypes": "rock", "elements": "Na,Cl"}, "no prototype 'rock'; did you mean rocksalt"),
        ({"prototypes": "rocksalt", "elements": "Na"}, "needs 2 elements, 1 are given"),
        ({"prototypes": "fcc", "elements": "Xx"}, "'Xx' is no element"),
        ({"prototypes": "fcc", "elements": "Al", "scale": (1, 0.9)}, "two positive factors"),
    ],
)
def test_decorations_that_cannot_be(options, message):
    with pytest.raises(BadInput, match=message):
        generate("decorate", **options)


def test_slabs():
    [s] = generate("slab", bulk("Si"), miller=(1, 1, 1), layers=3, conventional=True, repeat=(2, 1))
    made = s.to_ase()
    assert len(s) == 48
    assert made.cell.array[2, :2] == pytest.approx(0, abs=1e-9)
    assert made.cell.array[2, 2] - np.ptp(made.positions[:, 2]) == pytest.approx(15, abs=1e-6)
    with pytest.raises(BadInput, match="without a common factor"):
        generate("slab", bulk("Si"), miller=(2, 2, 0))
    for sheet in (graphene(vacuum=6), mx2(vacuum=6)):
        with pytest.raises(BadInput, match="has empty space along c"):
            generate("slab", sheet, miller=(0, 0, 1))


def test_sites_that_symmetry_tells_apart():
    salt = bulk("NaCl", "rocksalt", 5.64, cubic=True)
    made = generate("vacancies", salt, sites=1, distinct=True)
    assert [s.formula for s in made] == ["Cl4Na3", "Na4Cl3"] or len(made) == 2
    assert sum(s.provenance["details"]["multiplicity"] for s in made) == 8
    pairs = generate("substitutions", bulk("Si").repeat(2), by="Ge", sites=2, distinct=True)
    assert sum(s.provenance["details"]["multiplicity"] for s in pairs) == 120
    gaps = [neighbor_list("d", s.to_ase()[[n for n, z in enumerate(s.symbols) if z == "Ge"]], 8.0) for s in pairs]
    assert len({tuple(np.sort(g).round(4)) for g in gaps}) == len(pairs)  # distances tell them apart too


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("vacancies", {"sites": 9}, "9 of 8 sites"),
        ("vacancies", {"sites": 8}, "leave one at least"),
        ("vacancies", {}, "either sites, a number, or fraction"),
        ("vacancies", {"sites": 1, "of": "K"}, "has no K"),
        ("substitutions", {"sites": 1}, "substitutions.by is missing"),
        ("substitutions", {"fraction": 0.01, "by": "K"}, "0 of 8 sites.*supercell first"),
    ],
)
def test_sites_that_cannot_be(kind, options, message):
    with pytest.raises(BadInput, match=message):
        generate(kind, bulk("NaCl", "rocksalt", 5.64, cubic=True), **options)


def test_all_that_are_registered_say_how_they_made_what_they_made():
    for kind in kinds("generators"):
        made = load("generators", kind)
        assert issubclass(made, Generator)
        assert made.kind == kind
    [s] = generate("supercell", *generate("rattle", bulk("Si"), seed=4), repeat=(2, 1, 1))
    assert (s.provenance["generator"], s.provenance["parameters"]["repeat"]) == ("supercell", [2, 1, 1])
    [before] = s.provenance["ancestors"]
    assert (before["generator"], before["seed"], before["parent"]) == ("rattle", 4, "Si2")
    with pytest.raises(BadInput, match="did you mean rattle"):
        generator("ratle")


def test_frames_of_dynamics_are_warm_and_the_same_from_the_same_seed():
    copper = bulk("Cu", cubic=True)
    told = {"count": 4, "temperature_K": 600, "timestep_fs": 4, "every": 5, "calculator": "ase.calculators.emt:EMT"}
    a, b, c = (generate("dynamics", copper, copper, seed=n, **told) for n in (1, 1, 2))
    assert len(a) == 8
    assert [s.positions.tolist() for s in a] == [s.positions.tolist() for s in b]
    assert a[0].positions.tolist() != c[0].positions.tolist()
    assert a[0].positions.tolist() != a[4].positions.tolist()  # another path for the second parent
    moved = [np.abs(s.to_ase().positions - copper.positions).max() for s in a]
    assert 0.02 < max(moved) < 1.0
    assert [s.provenance["details"]["time_fs"] for s in a[:4]] == [20, 40, 60, 80]
    hydrogen = Atoms("H2", positions=[[2.5, 2.5, 2.0], [2.5, 2.5, 2.8]], cell=[5, 5, 5], pbc=True)
    ours = {"basis": "sz", "mesh_cutoff_ry": 60, "kmesh": (1, 1, 1)}
    made = generate("dynamics", hydrogen, temperature_K=300, count=2, every=2, timestep_fs=0.5, scf=ours)
    lengths = [s.to_ase().get_distance(0, 1) for s in made]
    assert all(0.6 < x < 1.0 for x in lengths)
    assert len(set(lengths)) == 2
    with pytest.raises(BadInput, match="both given"):
        generate("dynamics", hydrogen, temperature_K=300, scf=ours, calculator="ase.calculators.emt:EMT")
    with pytest.raises(BadInput, match="did you mean basis"):
        generate("dynamics", hydrogen, temperature_K=300, scf={"bais": "sz"})
