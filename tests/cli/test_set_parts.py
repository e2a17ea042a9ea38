"""A set divided, counted, packed, written in other formats, and trained on in part."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ase import Atoms
from ase.build import bulk, graphene, molecule

from nearsight.core.errors import BadInput
from nearsight.core.structure import Structure, supercell
from nearsight.formats.poscar import write_poscar
from nearsight.formats.registry import read
from nearsight.formats.sets.entry import write_provenance
from nearsight.formats.sets.manifest import Manifest
from nearsight.formats.sets.pack import packed
from nearsight.formats.sets.split import Split
from nearsight.learn.config import DataConfig
from nearsight.learn.data import read_labelled
from nearsight.learn.split import split as paths_of
from nearsight.tasks.convert import convert_one
from nearsight.tasks.sets.prototypes import bonding, prototype
from nearsight.tasks.sets.splitting import dealt, split_set
from tests.cli.test_bad_input import refused

DATA = Path(__file__).parents[1] / "formats" / "data"
H2O, CHAIN, GRAPHENE = DATA / "openmx" / "h2o", DATA / "openmx" / "n_chain", DATA / "graphene_lda_sz"
WATERS = DATA / "version1" / "set"


def rattled(s: Structure, sigma: float, seed: int) -> Structure:
    steps = torch.randn(s.positions.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return replace(s, positions=s.positions + sigma * steps)


def of(atoms: Atoms) -> Structure:
    return Structure.from_ase(atoms)


DIAMOND, SHEET = of(bulk("C", "diamond", 3.57)), of(graphene(vacuum=8.0))
SALT, OXIDE, BLENDE = (
    of(bulk("NaCl", "rocksalt", 5.64)),
    of(bulk("MgO", "rocksalt", 4.21)),
    of(bulk("ZnS", "zincblende", 5.41)),
)


def test_a_kind_of_structure_survives_supercells_strain_and_displacements():
    for s in (DIAMOND, SHEET, BLENDE):
        strained = replace(s, cell=1.03 * s.cell, positions=1.03 * s.positions)
        same = [supercell(s, (2, 1, 3)), strained, rattled(supercell(s, (2, 2, 1)), 0.08, 1)]
        assert {bonding(x) for x in same} == {bonding(s)}
        assert prototype(supercell(s, (2, 1, 1))) == prototype(s) == prototype(strained)
    assert bonding(DIAMOND) != bonding(SHEET) and prototype(DIAMOND) != prototype(SHEET)
    assert prototype(SALT) == prototype(OXIDE) != prototype(BLENDE) and bonding(SALT) != bonding(OXIDE)
    assert bonding(SALT, anonymous=True) == bonding(rattled(supercell(SALT, (2, 1, 1)), 0.05, 4), anonymous=True)
    assert prototype(rattled(DIAMOND, 0.3, 1)) is None


@pytest.fixture
def crystals(tmp_path: Path) -> Path:
    """Structures without labels: two polymorphs of carbon with rattled copies, two salts of one kind, a molecule, a vacancy."""
    made = {
        "diamond": DIAMOND,
        "diamond-a": rattled(DIAMOND, 0.05, 1),
        "diamond-b": rattled(supercell(DIAMOND, (2, 1, 1)), 0.05, 2),
        "sheet": SHEET,
        "sheet-a": rattled(SHEET, 0.05, 3),
        "salt": SALT,
        "oxide": OXIDE,
        "blende": BLENDE,
        "methane": of(molecule("CH4", vacuum=4.0)),
        "vacancy": supercell(BLENDE, (2, 1, 1)).reordered([0, 1, 2]),
    }
    for name, s in made.items():
        folder = tmp_path / "crystals" / name
        folder.mkdir(parents=True)
        (folder / "settings.json").write_text("{}")
        write_poscar(folder / "POSCAR", s)
    write_provenance(tmp_path / "crystals" / "vacancy", {"parent": "blende.cif"})
    write_provenance(tmp_path / "crystals" / "blende", {"parent": "blende.cif"})
    return tmp_path / "crystals"


def sides(split: Split) -> dict[str, str]:
    return {name: part for part, names in split.parts.items() for name in names}


@pytest.mark.parametrize("seed", range(6))
def test_what_belongs_together_stays_on_one_side(crystals, seed):
    for by in ("structure", "composition", "prototype"):
        split = split_set(crystals, by, (0.5, 0.25, 0.25), seed)
        side = sides(split)
        assert len(side) == 10 and all(split.parts.values())
        assert side["diamond"] == side["diamond-a"] == side["diamond-b"] and side["sheet"] == side["sheet-a"]
        assert side["blende"] == side["vacancy"]
        if by != "structure":
            assert side["diamond"] == side["sheet"]
        if by == "prototype":
            assert side["salt"] == side["oxide"]
        assert split.parts == split_set(crystals, by, (0.5, 0.25, 0.25), seed).parts
    assert split_set(crystals, "entry", (0.5, 0.5), seed).parts["test"] == ()


def test_groups_are_dealt_by_the_seed_and_no_part_is_empty():
    groups = [[f"{k}-{n}" for n in range(1 + k % 4)] for k in range(40)]
    seen = set()
    for seed in range(20):
        parts = dealt(groups, (0.8, 0.1, 0.1), seed)
        assert sorted(n for p in parts.values() for n in p) == sorted(n for g in groups for n in g)
        assert abs(len(parts["train"]) - 80) <= 4 and abs(len(parts["test"]) - 10) <= 4
        seen.add(parts["test"])
    assert len(seen) > 15
    assert all(dealt([["a"], ["b"], ["c"]], (0.98, 0.01, 0.01), 0).values())


def test_bad_splits_are_one_line(nearsight, crystals, tmp_path):
    split = ("dataset", "split", crystals)
    for words, said in (
        (("--by", "compositon"), "did you mean composition"),
        (("--fractions", "0.8", "0.1", "0.2"), "add to 1"),
        (("--fractions", "nan", "0.5", "0.5"), "add to 1"),
        (("--fractions", "0", "0.5", "0.5"), "train on"),
        (("--seed", "-1"), "--seed"),
        (("--where", "n_atoms > 99"), "no entry"),
        (("--where", "composition == 'C'", "--by", "composition"), "would be empty"),
        (("-o", crystals), "is a folder"),
    ):
        refused(nearsight(*split, *words), said)
    assert not (crystals / "split.json").exists()
    torn = tmp_path / "split.json"
    for text in ("[]", '{"train": 3}', '{"train": ["a", "a"]}', '{"train": [], "schema_version": 9}', "{"):
        torn.write_text(text)
        with pytest.raises(BadInput):
            Split.read(torn)


def test_a_set_is_counted(nearsight, tmp_path):
    assert nearsight("dataset", "add", tmp_path / "set", H2O, CHAIN, WATERS).status == 0
    shutil.copytree(tmp_path / "set" / "h2o", tmp_path / "set" / "double")
    record = tmp_path / "set" / "set-0001" / "result.json"
    record.write_text(record.read_text().replace('"converged": true', '"converged": false'))
    told = json.loads(nearsight("dataset", "stats", tmp_path / "set", "--json").out)
    assert told["entries"] == 6 and told["atoms"] == 17 and told["elements"] == {"H": 5, "O": 5, "N": 1}
    assert told["counts"]["spin"] == {"none": 5, "spinor": 1} and told["counts"]["composition"] == {"H2O": 5, "N": 1}
    assert told["unconverged"] == ["set-0001"] and told["duplicates"] == [["double", "h2o"]]
    energies = [e.energy_per_atom for e in entries(tmp_path / "set") if e.energy_per_atom is not None]
    assert told["ranges"]["energy_per_atom"] == {
        "least": min(energies), "median": sorted(energies)[1], "largest": max(energies), "known": 3
    }  # fmt: skip
    assert told["pairs"]["H-O"] == sum(e.pairs["H-O"] for e in entries(tmp_path / "set") if "O" in e.elements)
    assert told["ranges"]["max_h"]["largest"] == pytest.approx(max(e.max_h for e in entries(tmp_path / "set")))
    text = nearsight("dataset", "stats", tmp_path / "set", "--where", '"N" in elements').out
    assert "1 entries of 2 atoms" in text and "N-N" in text


def entries(folder: Path) -> list:
    with Manifest.of(folder) as manifest:
        manifest.refresh()
        return manifest.entries()


def test_a_packed_set_is_read_in_place_of_its_folders(nearsight, tmp_path):
    made = tmp_path / "set"
    assert nearsight("dataset", "add", made, H2O, CHAIN, GRAPHENE, DATA / "version1" / "bare").status == 0
    assert packed(made / "h2o") is None
    told = nearsight("dataset", "pack", made)
    assert told.status == 0 and "3 entries" in told.out
    for name in ("h2o", "n_chain", "graphene_lda_sz"):
        a, b = packed(made / name), read(made / name)
        assert a is not None and a.spin is b.spin and a.basis.same_as(b.basis) and a.electrons == b.electrons
        for x, y in ((a.hamiltonian, b.hamiltonian), (a.overlap, b.overlap)):
            assert torch.equal(x.pairs.R, y.pairs.R) and torch.equal(x.values, y.values)
        assert torch.equal(a.structure.positions, b.structure.positions) and a.fermi_level == b.fermi_level
    h = made / "h2o" / "hamiltonian.h5"
    h.write_bytes(h.read_bytes()[:-1] + b"x")
    assert packed(made / "h2o") is None
    (made / ".packed" / "0000.bin").write_bytes(b"cut")
    assert nearsight("dataset", "pack", made).status == 0
    assert packed(made / "n_chain") is not None
    (made / ".packed" / "index.json").write_text("[torn")
    assert packed(made / "n_chain") is None and read_labelled(made / "n_chain").hamiltonian is not None
    refused(nearsight("dataset", "pack", DATA / "version1" / "bare"), "nothing to pack")


def test_a_set_is_written_in_another_format_with_its_split(nearsight, tmp_path):
    made, out = tmp_path / "set", tmp_path / "old"
    assert nearsight("dataset", "add", made, H2O, GRAPHENE, WATERS).status == 0
    assert nearsight("dataset", "split", made, "--by", "entry", "--fractions", "0.6", "0.2", "0.2").status == 0
    export = ("dataset", "export", made, "-o", out, "--workers", "1")
    done = nearsight(*export, "--to", "deeph-old", "--where", "n_atoms == 3")
    assert done.status == 0 and "4 entries" in done.out
    split = Split.read(out / "split.json")
    assert sorted(sides(split)) == ["h2o", "set-0000", "set-0001", "set-0002"]
    whole = sides(Split.read(made / "split.json"))
    assert all(whole[n] == part for n, part in sides(split).items())
    assert float((read(out / "h2o").hamiltonian - read(H2O).hamiltonian).values.abs().max()) < 1e-14
    before = (out / "h2o" / "hamiltonians.h5").stat().st_mtime_ns
    shutil.rmtree(out / "set-0001")
    assert nearsight(*export, "--to", "deeph-old").status == 0
    assert (out / "h2o" / "hamiltonians.h5").stat().st_mtime_ns == before and (out / "set-0001").is_dir()
    convert_one((str(made), str(made / "set-0001"), str(tmp_path / "same"), None, "deeph"))
    assert [e.parent for e in entries(tmp_path / "same")] == ["h2.xyz"]
    refused(nearsight(*export, "--to", "deep"), "did you mean deeph")
    refused(nearsight(*export, "--where", "n_atoms > 99"), "no entry")


def test_training_takes_what_a_split_and_a_condition_say(tmp_path):
    made = shutil.copytree(WATERS, tmp_path / "set")
    file = tmp_path / "split.json"
    split = split_set(made, "entry", (0.34, 0.33, 0.33), 3, out=file)
    found = paths_of(DataConfig(train=str(made), split=file))
    assert [p.name for p in found.train] == list(split.parts["train"])
    assert [p.name for p in found.validation] == list(split.parts["validation"])
    held = split.parts["validation"][0]
    some = paths_of(DataConfig(train=str(made), where=f"name != '{held}'", validation_fraction=0))
    assert sorted(p.name for p in some.train) == sorted({"0000", "0001", "0002"} - {held})
    some = paths_of(DataConfig(train=str(made), split=file, where=f"name != '{held}'"))
    assert some.validation == () and len(some.train) == 1
    one = paths_of(DataConfig(train=str(made / "0001"), where="'O' in elements", validation_fraction=0))
    assert [p.name for p in one.train] == ["0001"]
    for config, said in (
        ({"train": str(made), "where": "n_atoms > 3"}, "holds for none"),
        ({"train": [str(made), str(WATERS)], "split": file}, "one data set"),
        ({"train": str(DATA / "openmx"), "split": file}, "split the set again"),
        ({"train": str(made), "split": tmp_path / "none.json"}, "no such file"),
    ):
        with pytest.raises(BadInput, match=said):
            paths_of(DataConfig(**config))
    with pytest.raises(BadInput, match=r"data\.where"):
        DataConfig(train=str(made), where="n_atoms <")
