"""`dataset add`: calculations of any program, folders of them and other data sets, each taken into a set once."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from nearsight.core import registry as parts
from nearsight.core.errors import BadInput, NearsightError, Unavailable
from nearsight.formats import registry
from nearsight.formats.deeph import OWNED, DeepH
from nearsight.formats.files import flush, locked, sweep_folder, whole_file, whole_folder, workplace
from nearsight.formats.outputs import claim_folder
from nearsight.formats.sets.database import FILE, Database
from nearsight.formats.sets.entry import PROVENANCE, Entry, describe, read_provenance, sha256_of_file, write_provenance
from nearsight.formats.sets.manifest import Manifest, origins
from nearsight.tasks.convert import check_links, holds_runs, is_run, runs_in

Report = Callable[[Path, str | None, int, int], None]
_OURS = frozenset({"species", "modes", "submitted", FILE, "config.yaml"})  # names that belong to the set itself


@dataclass(frozen=True)
class Added:
    """added: (source, name in the set).  there: the same, of those that an earlier call took from the very same source.

    refused: (source, why) of those that were not taken.
    """

    folder: Path
    added: tuple[tuple[Path, str], ...]
    there: tuple[tuple[Path, str], ...]
    refused: tuple[tuple[Path, str], ...]


@dataclass(frozen=True)
class _Run:
    """path: of a calculation.  root: that was given, out of which no link may lead.  prefix: of its name in the set."""

    path: Path
    root: Path
    prefix: str = ""


def add(
    folder: Path | str,
    sources: Sequence[Path | str],
    read_as: str | None = None,
    report: Report = lambda source, error, done, total: None,
    command: str | None = None,
) -> Added:
    """Take calculations into a data set as calculation folders, with a row in its manifest; a new set is made if needed.

    sources: calculations of any known format, folders of them, data sets.  read_as: name of their format, else it is found.
    report: told each source with what was wrong, how many are done and how many there are.  command: for the provenance.
    What cannot be read, or is in the set already (same content) from another source, is refused and the rest goes on: the same
    call again, after it was cut off, takes what is left.  Several processes may add to one set at once.
    Raises BadInput for a folder that is none of a data set; Unavailable where nothing can be written.
    """
    folder = Path(folder)
    if not sources:
        raise BadInput("name what to add: calculations, folders of them, or data sets")
    claim_folder(folder, "data set")
    _begin(folder)
    runs, refused = list[_Run](), list[tuple[Path, str]]()
    for source in map(Path, sources):
        try:
            runs += _runs_of(source, folder, read_as)
        except NearsightError as error:
            refused.append((source, str(error)))
            report(source, str(error), 0, len(sources))
    added, there = list[tuple[Path, str]](), list[tuple[Path, str]]()
    sweep_folder(folder / "species")
    with Manifest.of(folder, create=True) as manifest:
        manifest.refresh()
        for done, run in enumerate(runs):
            said: str | None = None
            try:
                added.append((run.path, _take(manifest, run, read_as, command)))
            except Unavailable:
                raise
            except _There as error:
                there.append((run.path, error.name))
            except NearsightError as error:
                said = " ".join(str(error).split())
                refused.append((run.path, said))
            report(run.path, said, done + 1, len(runs))
        for root in dict.fromkeys(r.root for r in runs if any(r.path == path for path, _ in (*added, *there))):
            for line in _take_species(root, folder):
                report(root, line, len(runs), len(runs))
    return Added(folder, tuple(added), tuple(there), tuple(refused))


class _There(BadInput):
    """An earlier call took this very source: name is of its entry."""

    def __init__(self, name: str) -> None:
        super().__init__(f"is in the set as {name}")
        self.name = name


def _begin(folder: Path) -> None:
    """Make the two files by which a set is known: the database first, then config.yaml."""
    if not (folder / "config.yaml").exists():
        try:
            with locked(folder):
                if not (folder / "config.yaml").exists():
                    Database(folder / FILE).close()
                    with whole_file(folder / "config.yaml") as part:
                        part.write_text(yaml.safe_dump({"schema_version": 2, "added": True}))
        except BadInput:  # another process that adds to it, or builds into it, does the same
            for _ in range(200):
                if (folder / "config.yaml").exists():
                    return
                time.sleep(0.05)
            raise


def _runs_of(source: Path, folder: Path, read_as: str | None) -> Iterator[_Run]:
    if not source.exists():
        raise BadInput(f"no such file or folder: {source}")
    if source.resolve() == folder.resolve():
        raise BadInput(f"{source} is the set itself")
    if source.is_file() or (is_run(source, read_as) and not holds_runs(source, read_as)):
        yield _Run(source, source)
        return
    found = [p for p in runs_in(source, read_as) if p.name not in _OURS]
    if not any(is_run(p, read_as) for p in found):
        known = ", ".join(parts.kinds("formats"))
        raise BadInput(f"{source} holds no calculation of a known format ({known}): name one with --from")
    prefix = f"{source.resolve().name}-"
    yield from (_Run(p, source, prefix if p.name.isdigit() else "") for p in found)


def _take(manifest: Manifest, run: _Run, read_as: str | None, command: str | None) -> str:
    """Write one calculation beside the set's folders, then put it among them if its content is new. Returns its name."""
    check_links(run.path, run.root)
    found = registry.load(read_as) if read_as is not None else registry.find(run.path)
    if found is None:
        raise BadInput(f"{run.path} is of no known format: name it with --from")
    calculation = registry.read(run.path, found.name)
    with workplace(manifest.folder / "added") as place:
        made = place / "entry"
        if isinstance(found, DeepH):
            _copy(run.path, made)
        else:
            registry.write(made, calculation, "deeph")
        told: dict[str, Any] = {
            "program": calculation.provenance.program or (None if isinstance(found, DeepH) else found.name),
            "version": calculation.provenance.version,
            "command": command,
            "source": str(run.path.absolute()),
            "time": time.time(),
        }
        before = read_provenance(run.path) if run.path.is_dir() else {}
        parent = before.get("parent") or _parent_in(run.path)
        source = before.get("source") or told["source"]
        write_provenance(made, {**told, **before, "parent": parent, "source": source})
        entry = describe(made)
        return _enter(manifest, made, entry, f"{run.prefix}{run.path.stem if run.path.is_file() else run.path.name}")


def _enter(manifest: Manifest, made: Path, entry: Entry, wanted: str) -> str:
    """Put a finished folder in its place under a free name and enter it, in one transaction with the question for doubles."""
    with manifest.database.transaction():
        if (holder := manifest.holder(entry.sha256)) is not None:
            if read_provenance(manifest.folder / holder).get("source") == read_provenance(made).get("source"):
                raise _There(holder)
            raise BadInput(f"the same content (sha256 {entry.sha256[:12]}) is in the set as {holder}: not added again")
        name = _free_name(manifest, wanted)
        try:
            made.rename(manifest.folder / name)
        except OSError as error:
            raise Unavailable(f"cannot write {manifest.folder / name}: {error.strerror or error}") from error
        flush(manifest.folder)
        manifest.enter(replace(entry, name=name))
    return name


def _free_name(manifest: Manifest, wanted: str) -> str:
    """The name itself where it may stand in the set; whole numbers alone are names that `dataset build` gives."""
    base = wanted.lstrip(".")[:100] or "entry"
    if base.isdigit() or base in _OURS or Path(base).suffix:
        base = "added-" + base.replace(".", "-")
    taken = manifest.names()
    n, name = 1, base
    while name in taken or (manifest.folder / name).exists() or (manifest.folder / name).is_symlink():
        n += 1
        name = f"{base}-{n}"
    return name


def _copy(source: Path, target: Path) -> None:
    """The files of a calculation folder, as they are."""
    with whole_folder(target) as part:
        for name in (*OWNED, "settings.json"):
            if name != PROVENANCE and (source / name).is_file():
                shutil.copyfile(source / name, part / name)


def _parent_in(path: Path) -> str | None:
    """What the set that a folder is in says that it is a copy of."""
    found: Mapping[str, Any] = origins(path.parent).get(path.name, {}) if path.is_dir() else {}
    return found.get("parent")


def _take_species(source: Path, folder: Path) -> Iterator[str]:
    """The orbitals of a set that was added, for elements that this one has none of; a line for each that differs."""
    for path in sorted((source / "species").glob("*.ion.xml")) if (source / "species").is_dir() else ():
        ours = folder / "species" / path.name
        if not ours.exists():
            with whole_file(ours) as part:
                shutil.copyfile(path, part)
        elif sha256_of_file(ours) != sha256_of_file(path):
            yield f"its orbitals {path.name} are not those of {ours}: give data.species when training on both"
