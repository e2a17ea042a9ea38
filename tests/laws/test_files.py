"""Files and folders are whole or absent, whenever their writer dies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nearsight.core.errors import NearsightError
from nearsight.formats import files
from nearsight.formats.files import locked, whole_file, whole_folder

# Writes `text` into two files of a folder (or one file) and dies at file-system event number `at`, if it comes to so many.
WRITER = """
import os, sys
from pathlib import Path
from nearsight.formats import files

kind, exchanges, text, at = sys.argv[1], sys.argv[2] == "exchange", sys.argv[3], int(sys.argv[4])
if not exchanges:
    files.exchange = lambda a, b: False
seen = 0
def hook(event, arguments):
    global seen
    if event in ("open", "ctypes.dlsym") or event.startswith(("os.", "shutil.", "tempfile.", "fcntl.")):
        seen += 1
        if seen == at:
            os.kill(os.getpid(), 9)
sys.addaudithook(hook)
if kind == "file":
    with files.whole_file("out") as part:
        part.write_text(text)
else:
    with files.whole_folder("out", owned=("stale",)) as part:
        for name in ("one", "two"):
            (part / name).write_text(text)
seen = -10**9
"""


def write(place: Path, kind: str, way: str, text: str, at: int = 0) -> int:
    command = [sys.executable, "-c", WRITER, kind, way, text, str(at)]
    return subprocess.run(command, cwd=place, check=False, capture_output=True).returncode


def content(place: Path) -> dict[str, str] | str | None:
    out = place / "out"
    if out.is_dir():
        return {p.name: p.read_text() for p in sorted(out.iterdir())}
    return out.read_text() if out.exists() else None


@pytest.mark.parametrize(
    ("kind", "way", "old"),
    [
        ("file", "exchange", False),
        ("file", "exchange", True),
        ("folder", "exchange", False),
        ("folder", "exchange", True),
    ],
)
def test_a_kill_at_any_step_leaves_the_old_or_the_new(tmp_path: Path, kind: str, way: str, old: bool) -> None:
    def result(text: str) -> dict[str, str] | str:
        return text if kind == "file" else {**({"mine": "mine"} if old else {}), "one": text, "two": text}

    at, status = 0, -9
    while status != 0:
        at += 1
        place = tmp_path / str(at)
        place.mkdir()
        if old:
            assert write(place, kind, way, "old") == 0
            if kind == "folder":
                (place / "out" / "mine").write_text("mine")
                (place / "out" / "stale").write_text("belongs to the old result")
        before = content(place)
        status = write(place, kind, way, "new", at)
        found = content(place)
        assert found in (before, result("new")), f"killed at event {at}"
        assert write(place, kind, way, "new") == 0
        assert content(place) == result("new")
        assert [p.name for p in place.iterdir()] == ["out"], f"left over after a kill at event {at}"
    assert at > 8  # it did die on the way


def test_without_an_exchange_the_old_folder_comes_back(tmp_path: Path) -> None:
    """On a file system without the call, a death between the two renames is mended by the next writer."""
    at, status, seen = 0, -9, set()
    while status != 0:
        at += 1
        place = tmp_path / str(at)
        place.mkdir()
        assert write(place, "folder", "renames", "old") == 0
        status = write(place, "folder", "renames", "new", at)
        seen.add(str(content(place)))
        files.sweep(place / "out")
        assert content(place) in ({"one": "old", "two": "old"}, {"one": "new", "two": "new"})
        assert [p.name for p in place.iterdir()] == ["out"]
    assert "None" in seen  # it did die there


def test_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "out") as part:
        (part / "x").write_text("1")
        with whole_file(tmp_path / "out.json") as other:
            other.write_text("2")
        with whole_folder(tmp_path / "out") as second:
            (second / "x").write_text("2")
        assert (part / "x").read_text() == "1"
    assert (tmp_path / "out" / "x").read_text() == "1"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "out.json"]


def test_nothing_is_written_through_links(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "link.json").symlink_to(victim)
    with whole_file(tmp_path / "link.json") as part:
        part.write_text("{}")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / ".lock").symlink_to(victim)
    with pytest.raises(NearsightError, match="symbolic link"), locked(folder):
        pass
    assert victim.read_text() == "precious"


def test_a_folder_behind_a_link_is_replaced_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "far")
    with whole_folder(tmp_path / "out") as part:
        (part / "x").write_text("1")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "far" / "x").read_text() == "1"


def test_what_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "out", tmp_path / "file"):
        with pytest.raises(NearsightError, match="cannot write") as told, whole_folder(place) as part:
            (part / "x").write_text("1")
        assert "\n" not in str(told.value)
    with pytest.raises(NearsightError, match="No space left"), whole_file(tmp_path / "x"):
        raise RuntimeError("Unable to synchronously close file (file write failed: errno = 28, ... )")
    with pytest.raises(NearsightError, match="No space left"), whole_file(tmp_path / "x"):
        raise OSError(28, os.strerror(28))
    assert not (tmp_path / "x").exists()


_INTERRUPTED = """
import os, shutil, signal, sys
from pathlib import Path
from nearsight.cli import process
from nearsight.formats import files

moment = sys.argv[1]
place, kill = (os, "mkdir") if moment == "making" else (shutil, "rmtree")
real = getattr(place, kill)

def disturbed(path, *rest, **named):  # another thread takes the signal, so that it is not held
    if moment == "making":
        real(path, *rest, **named)
    if not str(path).endswith(".part"):
        return
    setattr(place, kill, real)
    raise process.Stopped(signal.SIGTERM)

def command():
    setattr(place, kill, disturbed)
    with files.whole_file(Path("out")) as part:
        part.write_text("new")

process.run(command)
"""


@pytest.mark.parametrize("moment", ["making", "removing"])
def test_a_signal_while_a_part_is_made_or_removed_leaves_nothing(tmp_path: Path, moment: str) -> None:
    """A signal that is taken by a thread of a library is told to Python in the midst of what the main thread holds it from."""
    run = subprocess.run([sys.executable, "-c", _INTERRUPTED, moment], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 143, run.stderr
    assert run.stderr == "error: stopped; the same command goes on from here\n"
    assert {p.name for p in tmp_path.iterdir()} <= {"out"}
