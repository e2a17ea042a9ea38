"""Records of tensors kept on the disk by the digest of what they were made of: disposable, bounded, never half written."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nearsight.core.errors import NearsightError
from nearsight.core.reading import LARGEST, regular_file
from nearsight.formats.files import whole_file

MAPPED_FROM = 1 << 20  # bytes; smaller files are read whole, so that many samples do not need as many mappings
COMPLEX = "@complex"  # ends the name of complex numbers, of which the file holds real and imaginary parts
LOOK_AGAIN = 0.05  # share of the limit that may be written between two looks at what there is


def default_folder() -> Path:
    """nearsight/ in the user's cache: XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nearsight"


def _silent(text: str) -> None:
    return None


@dataclass
class DiskCache:
    """A folder of safetensors files, a record each, named by a digest (mutable: it counts what it wrote).

    limit: bytes that all files in the folder may take; the least recently used give way, but none that was used since this
    training began: once those alone fill it, nothing more is written.  A disk that cannot be written to is said once, by
    `say`, and then done without.
    """

    folder: Path
    limit: float
    say: Callable[[str], None] = _silent
    began: float = field(default_factory=time.time)
    full: bool = False
    written: float = float("inf")  # bytes since the last look at what there is

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "say": _silent}  # what speaks belongs to one process

    def file(self, key: str) -> Path:
        """Where the record of a key is, or would be."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def __contains__(self, key: str) -> bool:
        return self.file(key).exists()

    def load(self, key: str) -> dict[str, Tensor] | None:
        """The record, its tensors mapped from the file where they are large; None without one, or with a broken file."""
        path = self.file(key)
        try:
            size = regular_file(path, LARGEST, "prepared sample")
            with safe_open(path, framework="pt") as file:
                names = file.keys()  # no dictionary
                found = {k: file.get_tensor(k) for k in names}
                if (file.metadata() or {}).get("crc32") != _checksum(found):
                    raise ValueError("altered")
            os.utime(path)
        except (OSError, SafetensorError, RuntimeError, ValueError, NearsightError):
            with suppress(OSError):
                path.unlink()
            return None
        kept = found if size >= MAPPED_FROM else {k: x.clone() for k, x in found.items()}
        return {
            k.removesuffix(COMPLEX): torch.view_as_complex(x) if k.endswith(COMPLEX) else x for k, x in kept.items()
        }

    def save(self, key: str, record: Mapping[str, Tensor]) -> None:
        """Keep a record, if there is room for it."""
        record = {
            k + COMPLEX * x.is_complex(): torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
            for k, x in record.items()
        }
        size = sum(x.numel() * x.element_size() for x in record.values())
        if self.full or not self._room_for(size):
            return
        try:
            with whole_file(self.file(key)) as part:
                save_file(
                    {k: x.detach().cpu().contiguous() for k, x in record.items()}, part, {"crc32": _checksum(record)}
                )
        except (NearsightError, OSError, SafetensorError, RuntimeError) as error:
            self.full = True
            self.say(f"prepared samples are not kept: {str(error).splitlines()[0]} (data.cache names another folder)")
        self.written += size

    def _room_for(self, size: float) -> bool:
        """Whether a file of this size fits, after those not used since this training began have given way."""
        if self.written + size < LOOK_AGAIN * self.limit:
            return True
        files = []
        for path in self.folder.rglob("*"):
            try:
                found = path.stat()
            except OSError:
                continue  # another process took it away
            if path.is_file():
                files.append((max(found.st_mtime, found.st_atime), found.st_size, path))
        total = sum(s for _, s, _ in files) + (1 + LOOK_AGAIN) * size
        for used, freed, path in sorted(files):
            if total <= self.limit or used >= self.began:
                break
            path.unlink(missing_ok=True)
            total -= freed
        self.full = total > self.limit
        if self.full:
            self.say(f"prepared samples fill {self.folder}: the rest is made anew when needed (data.cache_gb)")
        self.written = 0.0
        return not self.full


def _checksum(record: Mapping[str, Tensor]) -> str:
    """Of names, kinds, shapes and numbers."""
    found = 0
    for name in sorted(record):
        x = record[name].detach().cpu().contiguous()
        found = zlib.crc32(f"{name} {x.dtype} {tuple(x.shape)}".encode(), found)
        if x.numel():
            found = zlib.crc32(x.reshape(-1).view(torch.uint8).numpy().tobytes(), found)
    return f"{found:08x}"


def matching(record: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of a part of a record, by their names in it."""
    return {k.removeprefix(prefix): x for k, x in record.items() if k.startswith(prefix)}
