"""Arrays that this program keeps for itself: what was altered is not computed with, whatever a zip file's checksums say."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from nearsight.formats.seal import read_arrays, write_arrays

ARRAYS = {"values": np.linspace(0, 1, 36).reshape(1, 36), "table": "{}", "steps": 3}


def kept(path: Path) -> Path:
    with open(path, "wb") as file:
        write_arrays(file, ARRAYS)
    return path


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    found = read_arrays(kept(tmp_path / "a.npz"), sealed_only=True)
    assert found.keys() == ARRAYS.keys()
    assert (
        np.array_equal(found["values"], ARRAYS["values"]) and int(found["steps"]) == 3 and str(found["table"]) == "{}"
    )


def test_a_number_that_no_checksum_of_the_zip_file_looks_after(tmp_path: Path) -> None:
    """The directory says that the array is longer than it is: its end, where the checksum is asked, is never reached."""
    raw = bytearray(kept(tmp_path / "a.npz").read_bytes())
    first = raw.index(struct.pack("<d", ARRAYS["values"][0, 7]))
    raw[first : first + 8] = struct.pack("<d", 0.59)
    entry = raw.index(b"PK\x01\x02")
    for place in (20, 24):  # packed and unpacked sizes of the first entry
        (size,) = struct.unpack_from("<I", raw, entry + place)
        struct.pack_into("<I", raw, entry + place, size + 10**6)
    (tmp_path / "a.npz").write_bytes(bytes(raw))
    with np.load(tmp_path / "a.npz") as file:
        assert file["values"][0, 7] == 0.59  # NumPy takes it
    with pytest.raises(ValueError, match="altered"):
        read_arrays(tmp_path / "a.npz")


def test_files_of_before_there_were_seals(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **ARRAYS)
    assert read_arrays(tmp_path / "a.npz").keys() == ARRAYS.keys()
    with pytest.raises(ValueError, match="altered"):
        read_arrays(tmp_path / "a.npz", sealed_only=True)
