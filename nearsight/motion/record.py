"""The folder of a relaxation or of dynamics: written as it goes, so that it can be cut off at any point and gone on with.

`trajectory.extxyz` and `steps.jsonl` grow by one frame and one line a step. `relaxation.npz` (`dynamics.npz`), replaced in one
step, has all that the next step depends on, and how long the two files were: what a killed run wrote after it is cut off
again. `result.json` comes last.
"""

from __future__ import annotations

import io
import json
import os
import time
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from nearsight.core.configuration import read_table
from nearsight.core.errors import BadInput, Unavailable
from nearsight.core.reading import MEBIBYTE
from nearsight.core.structure import plain
from nearsight.formats.files import read_json, sweep_folder, whole_file, write_json
from nearsight.formats.outputs import claim_folder
from nearsight.formats.seal import read_arrays, write_arrays

if TYPE_CHECKING:
    from ase import Atoms

TRAJECTORY, STEPS, CONFIG, RESULT = "trajectory.extxyz", "steps.jsonl", "config.yaml", "result.json"
_GROWING = (TRAJECTORY, STEPS)
_LARGEST = 16 * 1024 * MEBIBYTE
_APART = 1.0  # seconds between two saved states, at least
_SHARE = 20.0  # and so many times what saving takes


class Record:
    """The folder of one run (mutable).

    kind: relaxation or dynamics, which names the state's file.  config: what the run is told; `free`: those of its keys under
    `run` in which a run that goes on may differ from before.
    Raises BadInput for a folder that holds something else, or was begun with another configuration; Unavailable where nothing
    can be written.
    """

    def __init__(self, folder: Path | str, kind: str, config: Mapping[str, Any], free: tuple[str, ...]) -> None:
        self.folder, self.kind = Path(folder), kind
        self.config, self.free = plain(config), free
        claim_folder(folder, kind, [])
        self._saved, self._cost = 0.0, 0.0

    def open(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Begin, or go on: the last state as arrays and a table, None of a new run. The folder must be held (`locked`)."""
        sweep_folder(self.folder)  # a run that was killed as it wrote its last state writes none again
        path = self.folder / f"{self.kind}.npz"
        if not path.exists():
            self._write({}, {"step": -1}, dict.fromkeys(_GROWING, 0))
        arrays, table = self._read(path)
        if (self.folder / CONFIG).exists():
            self._compare(read_table(self.folder / CONFIG))
        with whole_file(self.folder / CONFIG) as part:
            part.write_text(yaml.safe_dump(self.config, sort_keys=False))
        (self.folder / RESULT).unlink(missing_ok=True)
        for name, length in table["lengths"].items():
            self._cut(self.folder / name, length)
        return None if table["step"] < 0 else (arrays, table)

    def _compare(self, before: Mapping[str, Any]) -> None:
        for name in ("run", "scf", "calculator", "calculator_settings", "structure_sha256"):
            ours, theirs = self.config.get(name), before.get(name)
            if name == "run" and isinstance(ours, dict) and isinstance(theirs, dict):
                ours, theirs = ({k: v for k, v in x.items() if k not in self.free} for x in (ours, theirs))
            if ours != theirs:
                told = "structure" if name == "structure_sha256" else _difference(ours, theirs, name)
                raise BadInput(
                    f"{self.folder} was begun with another {told}: give a new folder, or what it was begun with "
                    f"({self.folder / CONFIG})"
                )

    def _read(self, path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        try:
            with zipfile.ZipFile(path) as file_:
                if sum(x.file_size for x in file_.infolist()) > _LARGEST:
                    raise ValueError("it unpacks to more than a state can have")
            arrays = read_arrays(path)
            table = json.loads(str(arrays.pop("table")))
            if table["schema_version"] != 1:
                raise ValueError(f"it is of schema {table['schema_version']}")
        except Exception as error:  # whatever NumPy and zipfile stumble over
            raise BadInput(
                f"{path} is not a state to go on from ({error!s:.100}): remove the folder to begin anew"
            ) from error
        return arrays, table

    def _cut(self, path: Path, length: int) -> None:
        if not path.exists():
            path.touch()
        size = path.stat().st_size
        if size < length:
            raise BadInput(f"{path} is shorter than the run left it: remove the folder to begin anew")
        if size > length:
            os.truncate(path, length)

    def append(self, atoms: Atoms | None, line: Mapping[str, Any]) -> None:
        """A frame (or none) and a line, at the ends of their files. Raises Unavailable for a full disk."""
        try:
            if atoms is not None:
                with open(self.folder / TRAJECTORY, "ab") as file:
                    file.write(frame(atoms))
            with open(self.folder / STEPS, "ab") as file:
                file.write(json.dumps(plain(line)).encode() + b"\n")
        except OSError as error:
            raise Unavailable(f"cannot write in {self.folder}: {error.strerror or error}") from error

    def save(self, arrays: Mapping[str, np.ndarray], table: Mapping[str, Any], at_once: bool = False) -> None:
        """Keep the state that the next step depends on: not more often than is cheap, unless `at_once`."""
        began = time.monotonic()
        if not at_once and began - self._saved < max(_APART, _SHARE * self._cost):
            return
        lengths = {}
        try:
            for name in _GROWING:
                with open(self.folder / name, "ab") as file:
                    os.fsync(file.fileno())
                    lengths[name] = file.tell()
        except OSError as error:
            raise Unavailable(f"cannot write in {self.folder}: {error.strerror or error}") from error
        self._write(arrays, table, lengths)
        self._saved = time.monotonic()
        self._cost = self._saved - began

    def _write(self, arrays: Mapping[str, np.ndarray], table: Mapping[str, Any], lengths: Mapping[str, int]) -> None:
        told = json.dumps({"schema_version": 1, **plain(table), "lengths": lengths})
        with whole_file(self.folder / f"{self.kind}.npz") as part, open(part, "wb") as file:
            write_arrays(file, {"table": told, **arrays})

    def lines(self) -> list[dict[str, Any]]:
        """All lines so far."""
        found = []
        with suppress(FileNotFoundError):
            for line in (self.folder / STEPS).read_text().splitlines():
                found.append(json.loads(line))
        return found

    def result(self) -> dict[str, Any] | None:
        """What `finish` wrote; None of a run that has not come to its end."""
        path = self.folder / RESULT
        return read_json(path) if path.exists() else None

    def finish(self, result: Mapping[str, Any]) -> None:
        """The summary, last of all."""
        write_json(self.folder / RESULT, plain(result))


def frame(atoms: Atoms) -> bytes:
    """One structure as extended xyz, with the calculator's energy, forces and stress where they are known."""
    from ase.io.extxyz import write_xyz

    text = io.StringIO()
    write_xyz(text, [atoms])
    return text.getvalue().encode()


def _difference(ours: Any, theirs: Any, name: str) -> str:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        key = next(k for k in {**ours, **theirs} if ours.get(k) != theirs.get(k))
        return _difference(ours.get(key), theirs.get(key), f"{name}.{key}")
    return f"{name} ({theirs}, not {ours})"
