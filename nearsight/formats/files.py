"""Results that are either whole or absent: written beside their place, flushed to the disk, renamed."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nearsight.core.errors import NearsightError


def _reason(error: OSError) -> str:
    """What went wrong in a few words; HDF5 hides the system's in a paragraph."""
    hidden = re.search(r"error message = '([^']*)'", str(error))
    return hidden.group(1) if hidden else error.strerror or str(error)


def flush(path: Path) -> None:
    """Wait until a file (or the entries of a directory) is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """A temporary name to write to, which becomes `path` when the block ends well and vanishes when it does not.

    Raises NearsightError for a full disk or a place that cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise NearsightError(f"cannot write {path}: {_reason(error)}") from error
    part = Path(name)
    try:
        yield part
        part.chmod(0o644)
        flush(part)
        part.replace(path)
        flush(path.parent)
    except OSError as error:
        raise NearsightError(f"cannot write {path}: {_reason(error)}") from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path | str, last: tuple[str, ...] = ()) -> Iterator[Path]:
    """A temporary folder to write to, which becomes `path` when the block ends well and vanishes when it does not.

    Where `path` exists, its files of the same names are replaced and others stay. The files named in `last` are taken
    away first and put back last, in that order: a reader that asks for them never sees a mixture of old and new.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_dir():
            raise NearsightError(f"cannot write the folder {path}: a file of that name is in the way")
        part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    except OSError as error:
        raise NearsightError(f"cannot write {path}: {_reason(error)}") from error
    try:
        yield part
        for file in part.rglob("*"):
            flush(file)
        part.chmod(0o755)
        if path.exists():
            _merge(part, path, last)
        else:
            part.rename(path)
        flush(path.parent)
    except OSError as error:
        raise NearsightError(f"cannot write {path}: {_reason(error)}") from error
    except NearsightError as error:
        raise NearsightError(str(error).replace(str(part), str(path))) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _merge(part: Path, path: Path, last: tuple[str, ...]) -> None:
    for name in reversed(last):
        (path / name).unlink(missing_ok=True)
    flush(path)
    files = sorted(p.relative_to(part) for p in part.rglob("*") if p.is_file())
    ordered = [f for f in files if str(f) not in last] + [Path(name) for name in last if Path(name) in files]
    for file in ordered:
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        (part / file).replace(path / file)
    flush(path)


def write_json(path: Path | str, content: Any) -> None:
    """JSON with an indent, whole or absent. Raises NearsightError where it cannot be written."""
    with whole_file(path) as part:
        part.write_text(json.dumps(content, indent=1, default=str) + "\n")


def read_json(path: Path | str) -> Any:
    """Raises NearsightError for a missing file or one that is not JSON."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise NearsightError(f"no such file: {path}") from error
    except (OSError, ValueError) as error:
        raise NearsightError(f"{path} is not a JSON file: {error}") from error
