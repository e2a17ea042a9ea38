"""Settings: nested tables, the flat keys of the first schema, and what a change of either means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nearsight.core.configuration import from_beside, layered, stored, validated
from nearsight.core.errors import BadInput, NotConverged
from nearsight.core.tables import settings_of
from nearsight.dft.settings import Settings, differing
from nearsight.dft.setup import Setup, basis_settings, method_for, resolved
from nearsight.electrons.solvers.dense import Dense
from nearsight.learn.config import TrainingConfig
from nearsight.tasks.digest import Origin
from tests import cases

IONS = Path(__file__).parents[1] / "formats" / "data" / "version1" / "set" / "species"
FLAT = {
    "xc": "lda",
    "kmesh": (2, 1, 1),
    "kspacing": 0.3,
    "kshift": (0.5, 0.0, 0.0),
    "symmetry": "space-group",
    "mesh_cutoff_ry": 60.0,
    "mesh": (10, 12, 14),
    "basis": "sz",
    "energy_shift_ry": 0.02,
    "split_norm": 0.2,
    "species": "ions",
    "pseudopotentials": "psp",
    "smearing_ev": 0.1,
    "smearing": "cold",
    "charge": 1.0,
    "device": "cuda",
    "max_iterations": 7,
    "tolerance_ev": 1e-3,
    "mixing": {"weight": 0.3, "history": 4, "dielectric": None, "kerker": 1.5},
    "two_center": "siesta",
    "sheet": True,
    "band_limited": False,
    "xc_refinement": 2,
    "start": "before",
    "spin": "collinear",
    "moments": (1.0, -1.0),
    "total_moment": 0.0,
    "method": "variational",
    "forces": True,
    "stress": True,
}
NESTED = {
    "schema_version": 2,
    "basis": {
        "size": "sz",
        "energy_shift_ry": 0.02,
        "split_norm": 0.2,
        "pseudopotentials": Path("psp"),
        "species": Path("ions"),
    },
    "functional": {"xc": "lda", "electrostatics": "sheet"},
    "mesh": {
        "cutoff_ry": 60.0,
        "shape": (10, 12, 14),
        "band_limited": False,
        "xc_refinement": 2,
        "two_center": "siesta",
    },
    "kpoints": {
        "mesh": (2, 1, 1),
        "spacing_per_ang": 0.3,
        "shift": (0.5, 0.0, 0.0),
        "symmetry": "space-group",
    },
    "electrons": {
        "charge_e": 1.0,
        "smearing": "cold",
        "width_ev": 0.1,
        "spin": "collinear",
        "moments_mu_b": (1.0, -1.0),
        "total_moment_mu_b": 0.0,
    },
    "solver": {
        "method": "variational",
        "tolerance_ev": 1e-3,
        "max_iterations": 7,
        "mixing": {"weight": 0.3, "history": 4, "dielectric_ry": None, "kerker_per_ang": 1.5},
        "start": Path("before"),
        "device": "cuda",
    },
    "outputs": {"forces": True, "stress": True},
}


FLAT_3 = {"schema_version": 3, "xc": "lda", "basis": "dzp"}


def test_flat_keys_are_the_nested_ones() -> None:
    flat, nested = Settings(**FLAT), Settings(**NESTED)
    assert flat == nested
    every = {(table, key) for table, keys in NESTED.items() if isinstance(keys, dict) for key in keys}
    known = {(table, key) for table, keys in Settings().model_dump().items() if isinstance(keys, dict) for key in keys}
    assert every <= known  # terms and solvers that have no flat key may come
    for key, value in FLAT.items():  # and each alone
        [(table, inner)] = Settings(**{key: value}).given.items()
        assert inner.keys() <= NESTED[table].keys() and all(NESTED[table][k] == v for k, v in inner.items())  # type: ignore[index,attr-defined]


def test_what_is_written_is_read_again_and_states_its_schema() -> None:
    settings = Settings(**FLAT)
    table = settings.model_dump(mode="json")
    assert table["schema_version"] == 3 and set(table) == set(NESTED)
    assert Settings.stored(table, "file") == settings == validated(Settings, table)


def test_one_setting_given_twice() -> None:
    assert Settings(xc="lda", functional={"xc": "lda"}).functional.xc == "lda"
    for table in ({"xc": "lda", "functional": {"xc": "pbe"}}, {"functional": {"xc": "pbe"}, "xc": "lda"}):
        with pytest.raises(BadInput, match=r"scf: .*functional\.xc.*one setting.*leave one out"):
            validated(Settings, table, "scf")
    both = {"mixing": {"kerker": 1.0}, "solver": {"mixing": {"kerker_per_ang": 2.0}, "max_iterations": 3}}
    with pytest.raises(BadInput, match="kerker_per_ang.*one setting"):  # noqa: RUF043
        validated(Settings, both)
    del both["solver"]["mixing"]["kerker_per_ang"]  # type: ignore[attr-defined]
    found = validated(Settings, both).solver
    assert (found.mixing.kerker_per_ang, found.max_iterations) == (1.0, 3)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"kmehs": 1}, "unknown key scf.kmehs; did you mean kmesh?"),
        ({"basis": "dpz"}, "scf.basis: 'dpz' is not known; did you mean dzp?"),
        ({"basis": {"size": "dpz"}}, "scf.basis.size: 'dpz' is not known; did you mean dzp?"),
        ({"mixing": {"wieght": 1}}, "unknown key scf.mixing.wieght; did you mean weight?"),
        ({"solver": {"mixing": {"wieght": 1}}}, "unknown key scf.solver.mixing.wieght; did you mean weight?"),
        ({"electrons": {"smearing_ev": 1}}, "unknown key scf.electrons.smearing_ev; did you mean smearing?"),
        ({"mesh": (0, 1, 1)}, "scf.mesh: 0 1 1: every number must be at least 1"),
        ({"mesh": {"shape": (0, 1, 1)}}, "scf.mesh.shape: 0 1 1: every number must be at least 1"),
        ({"sheet": "maybe"}, "scf.sheet: 'maybe' is not known"),
        ({"schema_version": 4}, "this configuration needs a later Nearsight"),
    ],
)
def test_mistakes_are_told_in_the_words_of_the_user(table: dict, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        validated(Settings, table, "scf")
    assert str(caught.value).startswith(words)


def test_later_layers_win_in_whatever_keys_each_is_written() -> None:
    found = layered(
        Settings,
        [{"xc": "lda", "basis": "sz", "mixing": {"history": 3}}, {"functional": {"xc": "pbesol"}}],
        ["xc=pbe", "basis.energy_shift_ry=0.1", "solver.mixing.weight=0.1", "kmesh=[2, 2, 2]"],
    )
    assert found.given == {
        "basis": {"size": "sz", "energy_shift_ry": 0.1},
        "functional": {"xc": "pbe"},
        "kpoints": {"mesh": (2, 2, 2)},
        "solver": {"mixing": {"history": 3, "weight": 0.1}},
    }
    with pytest.raises(BadInput, match=r"^xc: 'pbee' is not known; did you mean pbe"):
        layered(Settings, [{"xc": "lda"}], ["xc=pbee"])


def test_changes_of_a_copy_are_validated() -> None:
    settings = Settings(xc="lda", mixing={"weight": 0.5})
    changed = settings.model_copy(update={"solver": {"start": "x"}, "stress": True})
    assert changed.given["outputs"] == {"forces": False, "stress": True}
    assert (changed.solver.mixing.weight, changed.solver.start, changed.functional.xc) == (0.5, Path("x"), "lda")
    with pytest.raises(ValueError, match="nonsense"):
        settings.model_copy(update={"nonsense": 1})


def test_stored_settings_outlive_keys_that_come_and_go() -> None:
    later = {"schema_version": 3, "xc": "lda", "solver": {"mixing": {"weight": 0.2, "momentum": 1}}, "hybrid": {"a": 1}}
    assert Settings.stored(later, "file").given == {"functional": {"xc": "lda"}, "solver": {"mixing": {"weight": 0.2}}}
    with pytest.raises(BadInput, match=r"^folder needs a later Nearsight"):
        Settings.stored({"schema_version": 4}, "folder")
    with pytest.raises(BadInput, match=r"^folder does not hold"):
        Settings.stored({"functional": {"xc": "nonsense"}}, "folder")
    training = {"schema_version": 2, "data": {"train": "x", "later": 1}, "loss": [{"kind": "energy", "new": 2}]}
    assert stored(TrainingConfig, training, "file").data.train == "x"


def test_settings_of_before_have_the_orbitals_of_before(tmp_path: Path) -> None:
    """A file of an earlier schema, or of none, was computed with orbitals by rule 1; the presets are made by today's rule."""
    assert Settings(basis="dzp").basis.rule == 1
    assert Settings().basis.rule == Settings(basis="standard").basis.rule == Settings(basis="tight").basis.rule == 5
    for table in ({"basis": "dzp"}, {"schema_version": 2, "basis": {"size": "dzp"}}, {"xc": "lda"}, {}):
        found = Settings.stored(table, "file")
        assert found.basis.rule == 1
        assert Settings.stored(found.model_dump(mode="json"), "file") == found  # and stays so
        made = basis_settings(found.basis)
        assert (made.count.zetas, made.count.polarization, made.shift) == (2, 1, 0.01)
    assert Settings(schema_version=1, basis="sz").basis.rule == 1
    assert Settings(schema_version=2, basis={"rule": 2}).basis.rule == 2
    assert "rule" not in Settings.stored({"basis": {"species": "ions"}}, "file").given["basis"]
    old, new = (Origin(Settings(basis={"size": "dzp", "rule": rule})) for rule in (1, 2))
    water = cases.water(11.0)
    before = Settings(basis={"size": "standard", "rule": 2})
    assert old.digest(water) != new.digest(water) == Origin(before).digest(water)
    assert new.digest(water) != Origin(Settings(basis="standard")).digest(water)
    assert old.digest(water) == Origin(Settings.stored({}, "file")).digest(water)
    with pytest.raises(BadInput, match="rule 1 of orbitals has no size 'tight'"):
        basis_settings(Settings(basis={"size": "tight", "rule": 1}).basis)


def test_what_belongs_to_one_cell_and_what_to_all() -> None:
    settings = Settings(**FLAT)
    assert settings.of_one_cell == {
        "basis": {},
        "functional": {},
        "mesh": {"shape": (10, 12, 14)},
        "kpoints": {"mesh": (2, 1, 1), "shift": (0.5, 0.0, 0.0)},
        "electrons": {"charge_e": 1.0, "moments_mu_b": (1.0, -1.0), "total_moment_mu_b": 0.0},
        "solver": {},
        "outputs": {},
    }
    assert set(settings.of_the_operator) == {"basis", "functional", "mesh"}
    assert settings.of_the_operator["mesh"] == {k: v for k, v in NESTED["mesh"].items() if k != "shape"}  # type: ignore[attr-defined]
    other = settings.model_copy(update={"xc": "pbe", "mesh": (20, 20, 20), "max_iterations": 50})
    assert differing(settings, other, ("functional", "mesh")) == [("functional.xc", "lda", "pbe")]


def test_paths_of_a_file_count_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here / "both", here / "only-here", there / "both", there / "ions"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    found = from_beside(
        Settings, {"species": "ions", "basis": {"pseudopotentials": "both"}, "start": "only-here"}, there
    )
    assert found == {
        "species": str(there / "ions"),
        "basis": {"pseudopotentials": str(there / "both")},
        "start": "only-here",
    }
    table = {"data": {"train": ["ions", "only-here"]}, "loss": [{"kind": "energy", "scf": {"species": "ions"}}]}
    found = from_beside(TrainingConfig, table, there)
    assert found["data"]["train"] == [str(there / "ions"), "only-here"]
    assert found["loss"][0]["scf"]["species"] == str(there / "ions")


def test_every_setting_says_what_it_is() -> None:
    for setting in settings_of(Settings):
        assert setting.description.endswith("."), setting.path
    units = {s.path: s.unit for s in settings_of(Settings)}
    assert units["kpoints.spacing_per_ang"] == "1/Angstrom" and units["electrons.total_moment_mu_b"] == "mu_B"
    assert units["basis.size"] == "" and units["solver.tolerance_ev"] == "eV"


def test_a_run_that_diverges_or_begins_with_numbers_that_are_none() -> None:
    settings = Settings(xc="lda", basis="sz", kmesh=(1, 1, 1), mesh_cutoff_ry=60)
    setup = Setup.of(cases.water(11.0), settings)
    start = setup.functional.initial_hamiltonian()
    with pytest.raises(BadInput, match="not finite: begin without it"):
        setup.ground_state(start.with_values(start.values * float("nan")))
    with pytest.raises(NotConverged, match=r"^the run diverged.*mixing\.weight") as caught:
        setup.ground_state(start.with_values(start.values * 1e200))
    assert "\n" not in str(caught.value)


def test_the_method_that_settings_describe() -> None:
    for method in (method_for(Settings().solver), method_for(resolved(cases.diamond(), Settings()).solver)):
        assert method == method_for(Settings(mixing={"weight": 1.0, "dielectric": 35.0}).solver)


def test_a_part_is_named_with_its_arguments() -> None:
    settings = layered(Settings, [{"solver": {"density": "dense"}}], ["solver.density.processes=3"])
    assert settings.solver.density.build() == Dense(processes=3)
    assert settings == Settings.stored(settings.model_dump(mode="json"), "file")
    assert settings.given == {"solver": {"density": {"kind": "dense", "processes": 3}}}
    with pytest.raises(BadInput, match=r"density.kind: 'dens' is not known; did you mean dense"):
        validated(Settings, {"solver": {"density": "dens"}})
    wrong = validated(Settings, {"solver": {"density": {"kind": "dense", "procesess": 2}}})
    with pytest.raises(BadInput, match=r"no procesess; did you mean processes"):
        Setup.of(cases.water(11.0), wrong.model_copy(update={"basis": "sz", "mesh_cutoff_ry": 40})).problem()


def test_a_foreign_term_is_named_in_the_settings(third_party) -> None:
    third_party("nearsight.terms", sine="tests.laws.test_terms:SinePotential")
    plain = Settings(xc="lda", basis="sz", kmesh=(1, 1, 1), mesh_cutoff_ry=60)
    settings = plain.model_copy(update={"functional": {"terms": [{"kind": "sine", "amplitude": 0.05}]}})
    assert Settings.stored(settings.model_dump(mode="json"), "file") == settings != plain
    assert differing(plain, settings, ["functional"])[0][0] == "functional.terms"
    water = cases.water(11.0)
    assert Origin(settings).digest(water) != Origin(plain).digest(water)
    functional = Setup.of(water, settings).functional
    assert [t.name for t in functional.terms][-1] == "Esine"
    with pytest.raises(BadInput, match=r"Esine does not keep it"):
        Setup.of(water, settings.model_copy(update={"symmetry": "space-group"}))
    with pytest.raises(BadInput, match=r"terms\.0\.kind: 'sin' is not known; did you mean sine"):
        validated(Settings, {"functional": {"terms": [{"kind": "sin"}]}})
    wrong = settings.model_copy(update={"functional": {"terms": [{"kind": "sine", "amplitud": 1}]}})
    with pytest.raises(BadInput, match=r"no amplitud; did you mean amplitude"):
        Setup.of(water, wrong)


def test_a_foreign_functional_is_named_in_the_settings(third_party) -> None:
    source = """
    from nearsight.xc.functionals import PBE

    mine = PBE
    """
    with pytest.raises(BadInput, match="xc: 'mine' is not known"):
        validated(Settings, {"xc": "mine"})
    third_party("nearsight.functionals", source, mine="my_functional:mine")
    energies = []
    for xc in ("pbe", "mine"):
        settings = Settings(xc=xc, basis="sz", kmesh=(1, 1, 1), mesh_cutoff_ry=60, species=IONS)
        functional = Setup.of(cases.water(11.0), settings).functional
        energies.append(float(functional.evaluate(functional.overlap).total))
    assert energies[0] == energies[1]


def test_beside_species_keys_that_make_orbitals_agree_or_are_refused(tmp_path: Path) -> None:
    """The files say sz of pbe with a shift of 0.02 Ry."""

    def setup(**keys: Any) -> Setup:
        return Setup.of(cases.water(11.0), Settings(kmesh=(1, 1, 1), mesh_cutoff_ry=60, species=IONS, **keys))

    assert "size" not in setup().settings.model_dump(mode="json")["basis"]
    with pytest.raises(BadInput, match=r"H.ion.xml was made for pbe, this calculation is of lda: take xc pbe"):
        setup(xc="lda")
    with pytest.raises(
        BadInput, match=r"basis.size dzp has no effect beside species .* has sz: leave one of the two out"
    ):
        setup(basis="dzp")
    with pytest.raises(BadInput, match=r"basis.split_norm 0.3 has no effect beside species .* has 0.15"):
        setup(split_norm=0.3)
    with pytest.raises(BadInput, match="two sources: leave one out"):
        setup(pseudopotentials=tmp_path)
    agreed = setup(basis="sz").settings.model_dump(mode="json")
    assert agreed["basis"] == {"size": "sz", "species": str(IONS)}
    assert Settings.stored({"basis": {"size": "dzp", "species": "ions"}}, "file").given["basis"] == {
        "species": Path("ions")
    }


def test_the_header_of_a_file_of_siesta_tells_its_functional(tmp_path: Path) -> None:
    for symbol in "HO":
        text = (IONS / f"{symbol}.ion.xml").read_text()
        start, end = text.index("<provenance>"), text.index("</provenance>") + len("</provenance>")
        header = f"<preamble><pseudopotential_header> {symbol} ca nrl nc</pseudopotential_header></preamble>"
        (tmp_path / f"{symbol}.ion.xml").write_text(text[:start] + header + text[end:])
    with pytest.raises(BadInput, match="was made for lda, this calculation is of pbe"):
        Setup.of(cases.water(11.0), Settings(species=tmp_path, mesh_cutoff_ry=60))
