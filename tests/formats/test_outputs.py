"""A result's place is asked for before the work."""

from __future__ import annotations

from pathlib import Path

import pytest

from nearsight.core.errors import BadInput, NearsightError, Unavailable
from nearsight.formats.outputs import claim_file, claim_folder, distinct_names, kind_of

OLD = Path(__file__).parent / "data" / "version1"


def test_kinds_of_folders() -> None:
    assert kind_of(OLD / "calculation") == kind_of(OLD / "set" / "0000") == "calculation"
    assert kind_of(OLD / "model") == "model"
    assert kind_of(OLD / "set") == "data set"
    assert kind_of(OLD) is None


@pytest.mark.parametrize("place", ["", " ", ".", "..", "/", "../..", "./"])
def test_places_that_are_nobodys(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    with pytest.raises(BadInput, match="-o"):
        claim_folder(place, "calculation")


def test_folders_of_another_kind_and_the_users_own(tmp_path: Path) -> None:
    for folder, kind in ((OLD / "model", "calculation"), (OLD / "set", "model"), (OLD / "calculation", "data set")):
        with pytest.raises(BadInput, match="holds a"):
            claim_folder(folder, kind)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "POSCAR").write_text("a user's")
    with pytest.raises(BadInput, match="POSCAR"):
        claim_folder(tmp_path / "mine", "calculation")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "graphene.cif").write_text("a user's")
    with pytest.raises(BadInput, match=r"graphene\.cif"):
        claim_folder(tmp_path / "notes", "calculation", [tmp_path / "notes" / "graphene.cif"])
    for place in (tmp_path / "notes", tmp_path / "new" / "deep", OLD / "calculation"):
        assert claim_folder(place, "calculation", [None, OLD / "calculation"]) == place
    assert not (tmp_path / "new").exists()


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for ask in (lambda: claim_folder(tmp_path / "file" / "out", "calculation"), lambda: claim_file("/proc/x.png")):
        with pytest.raises(Unavailable, match="cannot write"):
            ask()
    for bad in (tmp_path, tmp_path / "bands.txt", ""):
        with pytest.raises(NearsightError):
            claim_file(bad, [".png", ".pdf"])
    assert claim_file(tmp_path / "bands.PNG", [".png"]) == tmp_path / "bands.PNG"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_paths_are_called_by_as_many_parts_as_tell_them_apart() -> None:
    assert distinct_names(["runs/a/out", "b"]) == ["out", "b"]
    assert distinct_names(["runs/a/out", "runs/b/out", "c/"]) == ["a/out", "b/out", f"{Path.cwd().name}/c"]
    assert distinct_names(["a/out", "a/../a/out", "b/out"]) == ["a/out", "a/out", "b/out"]
