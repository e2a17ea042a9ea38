"""The manifest of a data set: a row for each of its folders, in the set's one SQLite file; found out anew whenever needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nearsight.core.configuration import read_table
from nearsight.core.errors import BadInput, MissingData, NearsightError, Unavailable
from nearsight.formats.files import locked
from nearsight.formats.sets.database import FILE, Database
from nearsight.formats.sets.entry import COLUMNS, SQL, Entry, describe, stamp_of
from nearsight.formats.sets.where import Where

Told = Callable[[int, int], None]
SCHEMA = 1  # of the table; a table of another one is made anew
AT_ONCE = 100  # rows in one transaction
_NOT_ENTRIES = frozenset({"species", "modes", "submitted", FILE})
_NOT_ENDINGS = (
    ".json",
    ".yaml",
    ".yml",
    ".sqlite-wal",
    ".sqlite-shm",
    ".damaged",
    ".md",
    ".txt",
    ".sh",
    ".png",
    ".log",
)


def _silent(done: int, total: int) -> None:
    return None


class Manifest:
    """What is known of every folder of a data set, or of any folder that holds calculations.

    Rows are told from the folders by their files' sizes and times: `refresh` looks at what is new or changed. Several
    processes of one machine may write at once. A folder that is no data set, or cannot be written, has its manifest in memory.
    """

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder, self.database = folder, database
        with database.transaction():
            database.change("CREATE TABLE IF NOT EXISTS manifest (schema INTEGER)")
            found = database.query("SELECT max(schema) FROM manifest")[0][0]
            if found is not None and found > SCHEMA:
                raise BadInput(f"{folder} has a manifest of a later Nearsight: pip install --upgrade nearsight")
            if found != SCHEMA:
                for sql in ("DROP TABLE IF EXISTS entry", "DELETE FROM manifest"):
                    database.change(sql)
                database.change("INSERT INTO manifest VALUES (?)", [(SCHEMA,)])
            database.change(f"CREATE TABLE IF NOT EXISTS entry ({SQL})")
            database.change("CREATE INDEX IF NOT EXISTS entry_sha256 ON entry (sha256)")

    @staticmethod
    @contextmanager
    def of(folder: Path | str, create: bool = False, rebuild: bool = False) -> Iterator[Manifest]:
        """The manifest of a folder, closed when the block ends.

        create: make the file where there is none.  rebuild: forget all rows, and put a damaged file aside.
        Raises BadInput for no folder, or a damaged file.
        """
        folder = Path(folder)
        if not folder.exists():
            raise BadInput(f"no such folder: {folder}")
        if not folder.is_dir():
            raise BadInput(f"{folder} is a file, not a data set: give the folder that holds the calculations")
        if rebuild and (folder / FILE).exists():
            create = True
            with locked(folder):
                _forget(folder)
        manifest = Manifest(folder, _database(folder, create))
        try:
            yield manifest
        finally:
            manifest.database.close()

    @property
    def stored(self) -> bool:
        """Whether the rows are kept in the set's own file."""
        return self.database.path is not None

    def refresh(self, told: Told = _silent) -> None:
        """Look at folders that are new or changed since they were entered, and forget those that are gone.

        told: folders looked at, and all that are to be.
        """
        known = dict(self.database.query("SELECT name, stamp FROM entry"))
        there = {p.name: stamp_of(p) for p in _places(self.folder)}
        changed = [n for n, stamp in there.items() if not stamp or known.get(n) != stamp]
        parents = origins(self.folder) if changed else {}
        if gone := [(n,) for n in known if n not in there]:
            self.database.change("DELETE FROM entry WHERE name = ?", gone)
        rows: list[Entry] = []
        for done, name in enumerate(changed):
            told(done, len(changed))
            if (found := look_at(self.folder / name, self.folder, parents.get(name))) is not None:
                rows.append(found)
            if len(rows) >= AT_ONCE:
                self.put(rows)
                rows = []
        self.put(rows)
        told(len(changed), len(changed))

    def put(self, entries: Sequence[Entry]) -> None:
        """Enter rows, in place of those of the same names, in one transaction."""
        if entries:
            with self.database.transaction():
                self.enter(*entries)

    def enter(self, *entries: Entry) -> None:
        """The same within a transaction of the caller's."""
        marks = ", ".join("?" * len(COLUMNS))
        self.database.change(f"INSERT OR REPLACE INTO entry VALUES ({marks})", [e.to_row() for e in entries])

    def set_gap(self, name: str, gap: float) -> None:
        """gap: [eV]"""
        self.database.change("UPDATE entry SET gap = ? WHERE name = ?", [(gap, name)])

    def entries(self, where: Where | str | None = None) -> list[Entry]:
        """Those that a condition means, by name; folders that cannot be read are left out.

        Raises BadInput for a condition that is none, MissingData where it asks for gaps that nobody has computed yet.
        """
        rows = self.database.query(f"SELECT {', '.join(COLUMNS)} FROM entry WHERE error IS NULL ORDER BY name")
        try:
            found = [Entry.of_row(row) for row in rows]
        except (ValueError, TypeError) as error:
            raise BadInput(
                f"the manifest of {self.folder} is damaged: `nearsight dataset list {self.folder} --rebuild` makes it anew"
            ) from error
        if where is None:
            return found
        condition = Where.parse(where) if isinstance(where, str) else where
        if "gap" in condition.names and any(e.gap is None and "hamiltonian" in e.matrices for e in found):
            raise MissingData(
                f"not all gaps of {self.folder} are known yet: `nearsight dataset list {self.folder} --where 'gap > 0'` "
                "computes and keeps them"
            )
        return [e for e in found if condition(e)]

    def broken(self) -> list[tuple[str, str]]:
        """Folders that cannot be read, with the reason."""
        return self.database.query("SELECT name, error FROM entry WHERE error IS NOT NULL ORDER BY name")

    def holder(self, sha256: str) -> str | None:
        """The folder that already has this content."""
        found = self.database.query("SELECT name FROM entry WHERE sha256 = ? AND error IS NULL LIMIT 1", (sha256,))
        return str(found[0][0]) if found else None

    def names(self) -> set[str]:
        """Of all folders, also those that cannot be read."""
        return {n for (n,) in self.database.query("SELECT name FROM entry")}


def look_at(path: Path, root: Path, more: dict[str, Any] | None = None) -> Entry | None:
    """The entry of a path, with an error where it cannot be read; None for what is no calculation of any format."""
    from nearsight.formats import registry

    try:
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
            raise BadInput(f"{path} is a link out of {root}, which is not followed: copy what it names into the set")
        if registry.find(path) is None:
            return None
        return describe(path, more)
    except (NearsightError, OSError) as error:
        return Entry(name=path.name, stamp=stamp_of(path), error=" ".join(str(error).split())[:500])


def _places(folder: Path) -> list[Path]:
    """What may be an entry, by name: folders, and files that are not of a data set itself."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.name[0] == "." or path.name in _NOT_ENTRIES:
            continue
        if path.is_dir() or path.is_symlink() or not path.name.endswith(_NOT_ENDINGS):
            found.append(path)
    return found


def _database(folder: Path, create: bool) -> Database:
    """The set's own file if it is there (or is to be), else one in memory."""
    path = folder / FILE
    if not create and not path.exists() and not path.is_symlink():
        return Database(None)
    try:
        found = Database(path)
        with found.transaction():
            found.change("CREATE TABLE IF NOT EXISTS manifest (schema INTEGER)")
        return found
    except Unavailable:
        if create:
            raise
        return Database(None)


def _forget(folder: Path) -> None:
    """Drop the manifest's tables; put a file aside that is damaged."""
    path = folder / FILE
    try:
        database = Database(path)
        try:
            sound = database.query("PRAGMA quick_check") == [("ok",)]
            if sound:
                for table in ("entry", "manifest"):
                    database.change(f"DROP TABLE IF EXISTS {table}")
        finally:
            database.close()
    except BadInput:
        sound = False
    if not sound:
        path.rename(folder / f"{FILE}.damaged")
        for ending in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                (folder / f"{FILE}{ending}").unlink()


def origins(folder: Path) -> dict[str, dict[str, Any]]:
    """Whose copies the folders of a built set are, as its config.yaml says; for sets from before folders said so themselves."""
    try:
        config = read_table(folder / "config.yaml")
    except NearsightError:
        return {}
    files, recipe = config.get("structure"), config.get("distort") or config.get("modes")
    files = [files] if isinstance(files, str) else files
    count = recipe.get("count") if isinstance(recipe, dict) else None
    if not isinstance(files, list) or not isinstance(count, int) or not 0 < count <= 1_000_000:
        return {}
    names = sorted(p.name for p in folder.iterdir() if p.name.isdigit())
    return {n: {"parent": str(files[int(n) // count])} for n in names if int(n) // count < len(files)}
