"""Results that are either whole or absent: written beside their place, flushed to the disk, put there by one rename.

A folder that replaces another is exchanged with it in one step of the file system, so that whoever looks, and whenever the
writer dies, sees the old folder whole or the new one whole. What a dead writer leaves (`.NAME.xxxxxxxx.part`) is told from
what a living one works on by a lock that the living one holds, and removed by the next writer of the same name.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import re
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nearsight.core.errors import DISK_FULL, BadInput, NearsightError, Unavailable
from nearsight.core.reading import MEBIBYTE, read_text
from nearsight.formats.exchange import exchange

_LARGEST_JSON = 1024 * MEBIBYTE
_AT_WORK: set[tuple[int, Path]] = set()  # process (a fork inherits its parent's), and the part that it writes
ASIDE = ".previous"  # ending of the old folder's name where the file system cannot exchange two folders in one step


#: how the system, HDF5, torch and safetensors tell of a full disk
_FULL = re.compile(r"No space left on device|file write failed|Unable to.*flush|os error 28")


def _reason(error: Exception) -> str:
    """What went wrong in a few words; HDF5 hides the system's in a paragraph."""
    if _FULL.search(str(error)):
        return DISK_FULL
    hidden = re.search(r"error message = '([^']*)'", str(error))
    said = getattr(error, "strerror", None) or str(error).splitlines()[0] if str(error) else type(error).__name__
    return hidden.group(1) if hidden else said


def first_line(error: BaseException) -> str:
    """What an exception of another library says, in one line."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def flush(path: Path) -> None:
    """Wait until a file (or the entries of a directory) is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Whatever a library says of a disk that is full or a place that cannot be written, in one line.

    h5py tells of a full disk by a RuntimeError when it closes a file, torch by a RuntimeError, safetensors by its own kind.
    """
    try:
        yield
    except NearsightError:
        raise
    except OSError as error:
        raise Unavailable(f"cannot write {path}: {_reason(error)}") from error
    except Exception as error:
        if not _FULL.search(str(error)):
            raise
        raise Unavailable(f"cannot write {path}: {DISK_FULL}") from error


@contextmanager
def workplace(path: Path) -> Iterator[Path]:
    """A locked temporary folder beside `path`, `.NAME.xxxxxxxx.part`, gone when the block ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    with _signals_held() as release:
        while True:
            part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
            key = os.getpid(), part
            _AT_WORK.add(key)  # before it is there: a signal that another thread takes is not held
            try:
                part.mkdir(mode=0o700)
                lock = os.open(part, os.O_RDONLY)
            except (FileExistsError, FileNotFoundError):  # another's, or swept away before it was locked
                _AT_WORK.discard(key)
                continue
            fcntl.flock(lock, fcntl.LOCK_EX)
            if part.exists():
                break
            os.close(lock)
            _AT_WORK.discard(key)
        try:
            release()
            yield part
        finally:
            with _signals_held():
                shutil.rmtree(part, ignore_errors=True)
                os.close(lock)
                _AT_WORK.discard(key)


def abandon() -> None:
    """Remove what this process is at work on, in its last moment.

    A signal may come between the end of a block and the removal, where no `finally` is left to see it.
    """
    for process, part in list(_AT_WORK):
        if process == os.getpid():
            shutil.rmtree(part, ignore_errors=True)
            _AT_WORK.discard((process, part))


atexit.register(abandon)


@contextmanager
def _signals_held() -> Iterator[Callable[[], None]]:
    """Ctrl-C and SIGTERM come after the block, or once the function that is given is called: what is made in it is known."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    try:
        yield release
    finally:
        release()


@contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """A temporary name to write to, which becomes `path` when the block ends well and vanishes when it does not.

    A symbolic link at `path` is replaced, not followed.
    Raises Unavailable for a full disk or a place that cannot be written.
    """
    path = Path(path)
    with _writing(path), workplace(path) as place:
        part = place / path.name
        yield part
        part.chmod(0o644)
        flush(part)
        part.replace(path)
        flush(path.parent)


@contextmanager
def whole_folder(path: Path | str, owned: Sequence[str] = ()) -> Iterator[Path]:
    """A temporary folder to write to, which becomes `path` when the block ends well and vanishes when it does not.

    Where `path` exists, it is replaced in one step. Its files that were not written anew stay, but for those named in `owned`:
    names that belong to the kind of result, of which an old one beside new ones would be a mixture.
    Raises Unavailable for a full disk or a place that cannot be written, BadInput where a file is in the way.
    """
    told, path = Path(path), Path(os.path.realpath(path))
    with _writing(told):
        if path.exists() and not path.is_dir():
            raise BadInput(f"cannot write the folder {told}: a file of that name is in the way")
        with workplace(path) as part:
            try:
                yield part
            except NearsightError as error:
                raise type(error)(str(error).replace(str(part), str(told))) from error
            part.chmod(0o755)
            if path.exists():
                _carry_over(path, part, owned)
            for file in part.rglob("*"):
                if not file.is_symlink():
                    flush(file)
            flush(part)
            _put(part, path)
            flush(path.parent)


def _carry_over(old: Path, new: Path, owned: Sequence[str]) -> None:
    """Link (or copy) into the new folder what the old one has besides."""
    for file in old.rglob("*"):
        name = file.relative_to(old)
        if str(name) in owned or (new / name).exists():
            continue
        if file.is_dir() and not file.is_symlink():
            (new / name).mkdir(parents=True, exist_ok=True)
            continue
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        if file.is_symlink():
            os.symlink(os.readlink(file), new / name)
            continue
        try:
            os.link(file, new / name)
        except OSError:
            shutil.copy2(file, new / name)


def _put(part: Path, path: Path) -> None:
    if not path.exists():
        part.rename(path)
    elif not exchange(part, path):  # two steps: `sweep` brings the old one back if the writer dies between them
        aside = path.with_name(f".{path.name}{ASIDE}")
        path.rename(aside)
        part.rename(path)
        shutil.rmtree(aside, ignore_errors=True)


def replace_folder(new: Path, place: Path) -> None:
    """A folder takes its place, in one step; an older one there vanishes."""
    _put(new, place)
    if new.exists():  # the older one
        shutil.rmtree(new, ignore_errors=True)
    flush(place.parent)


def sweep_folder(folder: Path) -> None:
    """Remove what dead writers of any file left in a folder and below it."""
    for part in folder.rglob(".*.part"):
        name = re.fullmatch(r"\.(.+)\.[a-z0-9_]{8}\.part", part.name)
        if name is not None:
            sweep(part.with_name(name[1]))


def sweep(path: Path) -> None:
    """Remove what dead writers of `path` left beside it; bring back a folder that one had put aside."""
    aside = path.with_name(f".{path.name}{ASIDE}")
    if aside.is_dir():
        if path.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(path)
    pattern = re.compile(re.escape(f".{path.name}.") + r"[a-z0-9_]{8}\.part")
    try:
        left = [p for p in path.parent.iterdir() if pattern.fullmatch(p.name)]
    except OSError:
        return
    for part in left:
        with suppress(OSError):
            handle = os.open(part, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if part.is_dir():
                    shutil.rmtree(part, ignore_errors=True)
                else:
                    part.unlink(missing_ok=True)
            finally:
                os.close(handle)


@contextmanager
def locked(folder: Path, kind: str = "") -> Iterator[None]:
    """Hold a folder for this process alone; a dead holder holds nothing.

    kind: of the result, which the lock names from now on: so a folder that was cut off early is known again.
    Raises BadInput where another process is at work, or the lock is a link; Unavailable where nothing can be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        if (folder / ".lock").is_symlink():
            raise BadInput(
                f"{folder / '.lock'} is a symbolic link: remove it, nothing is written through links"
            ) from error
        raise Unavailable(f"cannot write in {folder}: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BadInput(f"another process is at work in {folder}: wait for it, or stop it") from error
        if kind and os.fstat(handle).st_size == 0:
            with suppress(OSError):  # a full disk is told by what is written next
                os.write(handle, kind.encode())
        yield
    finally:
        os.close(handle)


def write_json(path: Path | str, content: Any) -> None:
    """JSON with an indent, whole or absent. Raises Unavailable where it cannot be written."""
    with whole_file(path) as part:
        part.write_text(json.dumps(content, indent=1, default=str) + "\n")


def read_json(path: Path | str) -> Any:
    """Raises BadInput for a missing file, one that is not JSON, and one that is longer than any of ours."""
    text = read_text(path, _LARGEST_JSON, "JSON file")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not a JSON file: {first_line(error):.120}") from error


def one_inside(folder: Path, pattern: str) -> Path | None:
    """The one file in a folder whose name matches; None if it is no folder, or has none or several. Never raises."""
    try:
        found = [p for p in folder.glob(pattern) if p.is_file()] if folder.is_dir() else []
    except OSError:
        return None
    return found[0] if len(found) == 1 else None
