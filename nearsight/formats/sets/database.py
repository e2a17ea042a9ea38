"""A SQLite file that several processes of one machine may write at once, and whose faults are told in one line."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nearsight.core.errors import DISK_FULL, BadInput, NearsightError, Unavailable
from nearsight.core.versions import checked_version

FILE = "ledger.sqlite"  # in the folder of a data set: its jobs (tasks/ledger.py) and its entries (manifest.py)
VERSION = 2  # of what is stored, in the database's own `user_version`; 1 (none): digests of flat settings
PATIENCE = 60.0  # seconds that a process waits for another's transaction
REMEDY = "`nearsight dataset list {} --rebuild` makes it anew from the folders"


class Database:
    """One connection to a SQLite file in WAL mode, or to a database in memory.

    path: the file, in the folder of a data set; None: in memory.  write: False opens a file that is there for reading.
    Raises BadInput for a file that is none or of a later version, Unavailable for one that cannot be written.
    """

    def __init__(self, path: Path | None, write: bool = True) -> None:
        self.path = path
        if path is not None and (path.is_symlink() or (path.exists() and not path.is_file())):
            raise BadInput(f"{path} is no file of its own (a link or a folder): remove it")
        with self._faults():
            place = ":memory:" if path is None else path.absolute().as_uri() + ("" if write else "?mode=ro")
            self.connection = sqlite3.connect(place, PATIENCE, isolation_level=None, uri=path is not None)
            if write:
                self.connection.execute("PRAGMA journal_mode=WAL")
                self.connection.execute("PRAGMA synchronous=FULL")
            [version] = self.connection.execute("PRAGMA user_version").fetchone()
            checked_version(version or None, VERSION, "" if path is None else path.parent)
            if write and version != VERSION:
                self.connection.execute(f"PRAGMA user_version={VERSION}")

    def close(self) -> None:
        """Give the file back."""
        self.connection.close()

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a question."""
        with self._faults():
            return self.connection.execute(sql, values).fetchall()

    def change(self, sql: str, rows: Iterable[Sequence[Any]] = ((),)) -> None:
        """A statement for each row of values."""
        with self._faults():
            self.connection.executemany(sql, list(rows)) if "?" in sql else self.connection.execute(sql)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing of what is changed inside, while no other process changes anything."""
        with self._faults():
            self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self.connection.in_transaction:  # SQLite itself rolls back where the disk is full
                self.connection.execute("ROLLBACK")
            raise
        with self._faults():
            self.connection.execute("COMMIT")

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except NearsightError:
            raise
        except sqlite3.OperationalError as error:
            told = str(error)
            if "locked" in told or "busy" in told:
                told = f"another process has held it for {PATIENCE:.0f} seconds"
            elif "disk is full" in told:
                told = DISK_FULL
            elif "no such column" in told or "decode" in told or "syntax" in told or "already exists" in told:
                raise self._damaged(error) from error
            raise Unavailable(f"cannot write {self.path}: {told}") from error
        except (sqlite3.Error, UnicodeError) as error:  # names in the file come into SQLite's messages as they are
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> BadInput:
        folder = "SET" if self.path is None else self.path.parent
        return BadInput(f"{self.path} cannot be used as a ledger ({error}): {REMEDY.format(folder)}")
