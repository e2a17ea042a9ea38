"""`dataset list`: the entries of a set, those that a condition means, and the jobs that failed for good."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nearsight.core.errors import BadInput, NearsightError
from nearsight.core.units import HARTREE_EV
from nearsight.formats.sets.database import FILE, Database
from nearsight.formats.sets.entry import Entry
from nearsight.formats.sets.manifest import Manifest
from nearsight.formats.sets.where import NAMES, Where
from nearsight.tasks.engines.task import read_tries

Told = Callable[[str, int, int], None]
SHOWN = ("name", "formula", "n_atoms", "spin", "functional", "energy_per_atom", "converged", "parent")


@dataclass(frozen=True)
class Listing:
    """entries: those that were asked for, by name.  total: in the set.  broken: (name, why) of folders that cannot be read."""

    folder: Path
    entries: tuple[Entry, ...]
    total: int
    broken: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Failure:
    """A job of `dataset build` without a result. tries: rung, error and seconds of each rung of the ladder."""

    name: str
    error: str
    seconds: float
    tries: tuple[Mapping[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Everything."""
        return {"name": self.name, "error": self.error, "seconds": self.seconds, "tries": list(self.tries)}


def list_set(
    folder: Path | str,
    where: str | None = None,
    rebuild: bool = False,
    told: Told = lambda what, done, total: None,
) -> Listing:
    """What a data set (or any folder of calculations) holds, by its manifest, which is brought up to date first.

    where: a condition, see `formats.sets.where`; one on gaps computes those that are not known yet, and keeps them.
    rebuild: make the manifest anew from the folders.  told: what is done, how far, of how much.
    Raises BadInput for no folder, a condition that is none, a damaged manifest; Unavailable where it cannot be written.
    """
    condition = None if where is None else Where.parse(where)
    folder = Path(folder)
    with Manifest.of(folder, rebuild=rebuild) as manifest:
        manifest.refresh(lambda done, total: told("folders", done, total))
        if condition is not None and "gap" in condition.names:
            find_gaps(manifest, lambda done, total: told("gaps", done, total))
        everything = manifest.entries()
        chosen = everything if condition is None else [e for e in everything if condition(e)]
        return Listing(folder, tuple(chosen), len(everything), tuple(manifest.broken()))


def find_gaps(manifest: Manifest, told: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Compute the band gap of every entry with a Hamiltonian that has none yet; what has no gap to be found is left."""
    from nearsight.formats.registry import read
    from nearsight.properties.gap import gap

    missing = [e for e in manifest.entries() if e.gap is None and "hamiltonian" in e.matrices]
    for done, entry in enumerate(missing):
        told(done, len(missing))
        try:
            manifest.set_gap(entry.name, gap(read(manifest.folder / entry.name)).gap * HARTREE_EV)
        except NearsightError:  # neither electrons nor a Fermi level: no gap
            continue
    told(len(missing), len(missing))


def columns(words: str | None) -> tuple[str, ...]:
    """Columns by their names, with commas between. Raises BadInput for one that is not known."""
    chosen = SHOWN if words is None else tuple(w.strip() for w in words.split(",") if w.strip())
    unknown = [w for w in chosen if w not in NAMES and w != "sha256"]
    if unknown or not chosen:
        raise BadInput(f"--columns: no column {', '.join(unknown)[:80]!r}; columns: {', '.join(NAMES)}, sha256")
    return chosen


def failures(folder: Path | str) -> list[Failure]:
    """The jobs of a built or converted set that failed, by name; the next build tries them again.

    Raises BadInput for a folder that is no data set.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(f"no such folder: {folder}")
    if not (folder / FILE).is_file():
        raise BadInput(f"{folder} has no jobs: it is not a data set of `nearsight dataset build`")
    database = Database(folder / FILE)
    try:
        if not database.query("SELECT 1 FROM sqlite_master WHERE name = 'job'"):
            return []
        query = "SELECT name, error, seconds FROM job WHERE state = 'failed' ORDER BY name"
        return [Failure(n, e or "?", s or 0.0, tuple(read_tries(folder, n))) for n, e, s in database.query(query)]
    finally:
        database.close()
