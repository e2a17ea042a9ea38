"""The bytes of a file that somebody gives: of a regular file, and no more of them than its kind can need."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from nearsight.core.errors import BadInput

MEBIBYTE = 1024**2
LARGEST = 2**20 * MEBIBYTE  # of files of matrices


def read_bytes(path: Path | str, most: int = 64 * MEBIBYTE, what: str = "file") -> bytes:
    """The content of a regular file.

    most: bytes that such a file can have at all; what: its kind, for messages.
    Raises BadInput where there is none, where it is a folder, pipe or device (which may never end), or longer than `most`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise BadInput(_said(path, error)) from error
    try:
        found = os.fstat(descriptor)
        refuse_endless(path, found, most, what)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(found.st_size + 1)  # so many bytes are allocated at once
    except OSError as error:
        raise BadInput(_said(path, error)) from error
    finally:
        os.close(descriptor)


def read_text(path: Path | str, most: int = 64 * MEBIBYTE, what: str = "file", lossy: bool = False) -> str:
    """The same as text in UTF-8, with or without a byte order mark. Raises BadInput for what is no text too.

    lossy: with a mark in place of what is no text, for files whose comments may be in another encoding.
    """
    raw = read_bytes(path, most, what)
    if lossy:
        return raw.decode("utf-8-sig", "replace")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not a {what}: byte {error.start} is no text in UTF-8") from error
    if "\0" in text:
        raise BadInput(f"{path} is not a {what}: it holds a NUL byte, so it is no text")
    return text


def regular_file(path: Path | str, most: int, what: str) -> int:
    """The size of a file [bytes] that a library is going to read by its name. Raises BadInput as `read_bytes` does."""
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        raise BadInput(_said(path, error)) from error
    refuse_endless(path, found, most, what)
    return found.st_size


def refuse_endless(path: Path | str, found: os.stat_result, most: int, what: str) -> None:
    """Raises BadInput for what is no regular file, or longer than `most` bytes."""
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, socket or device"
        raise BadInput(f"{path} is {kind}, not a {what}: give a regular file")
    if found.st_size > most:
        raise BadInput(
            f"{path} has {found.st_size / MEBIBYTE:.0f} MiB, more than the {most / MEBIBYTE:.0f} MiB that a {what} "
            "can need: give the right file"
        )


def _said(path: Path | str, error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOENT:
        return f"no such file: {path}"
    return f"{str(path)!r} cannot be read: {getattr(error, 'strerror', None) or error}"
