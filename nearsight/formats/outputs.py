"""Where a result may be written: asked before the work, so that nothing of the user's is replaced and no work is lost."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from nearsight.core.errors import BadInput, Unavailable

#: what each kind of folder is known by, and the names in it that belong to its kind
_MARKS: dict[str, tuple[tuple[str, ...], ...]] = {
    "calculation": (("POSCAR", "info.json"),),
    "model": (("config.json", "model.safetensors"), ("config.yaml", "checkpoint.pt"), ("config.yaml", "metrics.jsonl")),
    "data set": (("ledger.sqlite", "config.yaml"), ("ledger.sqlite", ".lock")),
    "structures": (("structures.json",),),
    "relaxation": (("relaxation.npz",),),
    "dynamics": (("dynamics.npz",),),
}
_NAMES = {
    "calculation": ("POSCAR", "info.json", "result.json", "overlap.h5", "hamiltonian.h5", "density_matrix.h5"),
    "model": ("config.json", "config.yaml", "model.safetensors", "checkpoint.pt", "metrics.jsonl", "report.json"),
    "data set": ("config.yaml", "ledger.sqlite", "failures.json"),
    "structures": ("structures.json",),
    "relaxation": ("relaxation.npz", "trajectory.extxyz", "config.yaml", "result.json", "relaxed.extxyz", "POSCAR"),
    "dynamics": ("dynamics.npz", "trajectory.extxyz", "config.yaml", "result.json"),
}


_LONGEST_KIND = 64
PICTURES = (".png", ".pdf", ".svg")
FIELDS = (".cube", ".cub", ".xsf")  # what formats/volumetric.py writes


def kind_of(folder: Path | str) -> str | None:
    """calculation, model, data set or structures, by the files in it; None for anything else."""
    folder = Path(folder)
    for kind, marks in _MARKS.items():
        if any(all((folder / name).is_file() for name in names) for names in marks):
            return kind
    return _kind_of_lock(folder / ".lock")


def _kind_of_lock(path: Path) -> str | None:
    """The kind that a lock names (`files.locked`): of a result that was cut off before it had its marks."""
    try:
        found = path.read_bytes().decode() if path.is_file() and path.stat().st_size < _LONGEST_KIND else ""
    except (OSError, ValueError):
        return None
    return found if found in _MARKS else None


def claim_folder(out: Path | str, kind: str, inputs: Iterable[Path | str | None] = ()) -> Path:
    """The folder of a result, if it may stand there. Nothing is left on the disk.

    kind: calculation, model, data set or structures.  inputs: what the result is made from; None is passed over.
    Raises BadInput for a place that is no folder of its own (empty, `.`, `..`, `/`, a folder above the working one), one that
    holds something else or an input; Unavailable for one that cannot be written.
    """
    text, path = str(out), _own_place(out, f"a new one, such as -o {_example(kind)}")
    if path.exists() and not path.is_dir():
        raise BadInput(f"{text} is a file: name a folder for the {kind}")
    found = kind_of(path) if path.is_dir() else None
    if found is not None and found != kind:
        raise BadInput(f"{text} holds a {found}: give the {kind} a folder of its own")
    if found is None and path.is_dir():
        taken = [name for name in _NAMES[kind] if (path / name).exists()]
        if taken:
            raise BadInput(f"{text} holds a {taken[0]} that is not of a {kind} of ours: give a new folder")
    for source in inputs:
        if source is None or found is not None:
            continue
        real = Path(os.path.realpath(source))
        if real == path or path in real.parents:
            raise BadInput(f"{text} holds the input {source}: give the result a folder of its own")
    can_write(path, text)
    return Path(out)


def claim_place(out: Path | str, inputs: Iterable[Path | str | None] = ()) -> Path:
    """The file or folder of a result of any kind, if it may stand there. Nothing is left on the disk.

    Raises BadInput for a place that is not the result's own (empty, `.`, `..`, `/`, a folder above the working one, an input or
    a folder that holds one); Unavailable for one that cannot be written.
    """
    path = _own_place(out, "a new one")
    for source in inputs:
        real = None if source is None else Path(os.path.realpath(source))
        if real is not None and (real == path or path in real.parents):
            raise BadInput(f"{out} is or holds the input {source}: give the result a place of its own")
    can_write(path, str(out))
    return Path(out)


def _own_place(out: Path | str, instead: str) -> Path:
    """The real path of a place that can be a result's own."""
    text = str(out)
    if not text.strip():
        raise BadInput(f"the place of the result is empty: name {instead}")
    path = Path(os.path.realpath(text))
    here = Path(os.path.realpath("."))
    if path == here or path in here.parents or path == Path(os.path.expanduser("~")):
        raise BadInput(f"{text} is not a place of the result's own: name {instead}")
    return path


def claim_file(out: Path | str, endings: Iterable[str] = (), inputs: Iterable[Path | str | None] = ()) -> Path:
    """The file of a result, if it may stand there. Nothing is left on the disk.

    endings: that its name may have, such as .png.  inputs: what it is made from, and other results; None is passed over.
    Raises BadInput for another ending, a folder of that name, an input, or a file within a folder that is one and belongs to it
    (its POSCAR); Unavailable for a place that cannot be written.
    """
    text, path = str(out), Path(out)
    if not text.strip():
        raise BadInput("the name of the file to write is empty")
    if path.is_dir():
        raise BadInput(f"{text} is a folder: name a file")
    if path.exists() and not path.is_file():
        raise BadInput(f"{text} is no ordinary file: name another one")
    known = list(endings)
    if known and path.suffix.lower() not in known:
        raise BadInput(f"{text}: its name must end in {', '.join(known)}")
    real = Path(os.path.realpath(text))
    for source in inputs:
        if source is not None and real == Path(os.path.realpath(source)):
            raise BadInput(
                f"{text} is {'read' if Path(source).exists() else 'written'} by this command: name another file"
            )
    kind = kind_of(real.parent)
    if kind is not None and (real.name in _NAMES[kind] or real.suffix == ".h5"):
        raise BadInput(f"{text} is part of a {kind}: name another file")
    can_write(real, text)
    return path


def distinct_names(paths: Sequence[Path | str]) -> list[str]:
    """What each of several paths is called: its last part, or as many as tell it from all that lead elsewhere."""
    parts = [Path(os.path.abspath(p)).parts for p in paths]
    for n in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-n:]) for p in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names


def can_write(path: Path, told: str) -> None:
    """Raises Unavailable where nothing can be written at a path, by trying in the nearest folder that exists.

    Raises BadInput for a name that no file can have.
    """
    if "\0" in told or len(os.fsencode(path.name)) > 240:
        raise BadInput(f"{told[:40]}... cannot be the name of a file: give a shorter one")
    place = path if path.is_dir() else path.parent
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise Unavailable(f"cannot write {told}: {place} is a file, not a folder")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise Unavailable(f"cannot write {told}: {error.strerror or error}") from error


def _example(kind: str) -> str:
    return {"calculation": "out", "model": "model", "data set": "set", "structures": "structures"}.get(kind, kind)
