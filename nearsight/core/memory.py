"""How much memory there is, asked before it is taken: a size in an input must not bring the machine down."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from nearsight.core.errors import Unavailable

GIBIBYTE = 1024**3
NEGLIGIBLE = 2**28  # bytes that are not asked for
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def available(device: torch.device | str = "cpu") -> float:
    """Bytes that can still be taken: of the machine (without swapping), of the container, and of this process' limits.

    A CUDA device is asked for its own. Infinite where the system does not tell.
    """
    if torch.device(device).type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return float(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    return min(_bounds(), default=float("inf"))


def check_room(needed: float, what: str, remedy: str, device: torch.device | str = "cpu") -> None:
    """Raises Unavailable, in one line with both figures, where `needed` bytes are more than there are.

    A forecast should be what is taken at least, so that nothing is refused that would have gone well.

    what: what takes them, such as "the mesh of 432x432x432 points"; remedy: what to change.
    """
    if needed < NEGLIGIBLE:
        return
    free = available(device)
    if needed > free:
        raise Unavailable(f"{what} needs about {written(needed)} of memory, {written(free)} is free: {remedy}")


@contextmanager
def limited(extra: float) -> Iterator[None]:
    """Let this process take only so many further bytes, for as long as the block lasts: above, Python raises MemoryError.

    For readers of others that believe the counts in a file. Where the system has no such limit, nothing is done.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    try:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        yield
        return
    most = taken + int(extra)
    resource.setrlimit(resource.RLIMIT_AS, (most if soft == resource.RLIM_INFINITY else min(soft, most), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def written(count: float) -> str:
    """A number of bytes as people read it: `6.2 GiB`."""
    if count < GIBIBYTE:
        return f"{count / 1024**2:.0f} MiB"
    return f"{count / GIBIBYTE:.1f} GiB" if count < 1e4 * GIBIBYTE else f"{count / GIBIBYTE:.0e} GiB"


def _bounds() -> Iterator[float]:
    told = _table("/proc/meminfo", "MemAvailable")
    if told is not None:
        yield told
    elif sys.platform == "darwin":
        yield float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
    for most, used in _CGROUPS:
        limit, now = _number(most), _number(used)
        if limit is not None and now is not None:
            yield max(0.0, limit - now) + (_table("/sys/fs/cgroup/memory.stat", "inactive_file", 1.0) or 0.0)
    for kind, field in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft, _ = resource.getrlimit(kind)
        taken = _table("/proc/self/status", field)
        if soft != resource.RLIM_INFINITY:
            yield max(0.0, soft - (taken or 0.0))


def _table(path: str, name: str, unit: float = 1024.0) -> float | None:
    """A number [bytes] of a table of `name: number` lines, in `unit` bytes; None where there is none."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        words = line.replace(":", " ").split()
        if words[:1] == [name] and words[1].isdigit():
            return unit * int(words[1])
    return None


def _number(path: str) -> float | None:
    try:
        word = Path(path).read_text().strip()
    except OSError:
        return None
    return float(word) if word.isdigit() else None
