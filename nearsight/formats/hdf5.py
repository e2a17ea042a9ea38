"""HDF5 files of other people: opened and read without trust in what they declare."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from nearsight.core.errors import BadInput
from nearsight.formats.files import first_line

ROOM, DENSEST = 2**26, 100  # a data set beyond so many bytes is refused where it declares so many times its file


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The file, open to be read. Raises BadInput for a missing, truncated or foreign one, there and while it is read."""
    if not path.is_file():
        raise BadInput(f"no such file: {path}")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise BadInput(f"{path} is not a whole HDF5 file of its kind: {first_line(error)}") from error


def read_set(path: Path, file: h5py.File, name: str) -> NDArray[Any]:
    """A numeric data set of the file itself; complex numbers may also be stored as a pair of real fields.

    Raises BadInput for a link to another file, for a size that the file cannot hold, and for numbers that are not finite.
    """
    parts = name.split("/")
    for depth in range(1, len(parts) + 1):
        link = file.get("/".join(parts[:depth]), getlink=True)
        if link is None:
            raise BadInput(f"{path} has no {name}: it is another program's, or was cut off")
        if not isinstance(link, h5py.HardLink):
            raise BadInput(f"{path}: {name} is a link to somewhere else, which is not followed: copy the data in")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise BadInput(f"{path}: {name} is no data set")
    if found.is_virtual or found.external:
        raise BadInput(f"{path}: {name} is stored in other files, which are not followed: copy the data in")
    if found.nbytes > max(ROOM, DENSEST * path.stat().st_size):
        raise BadInput(
            f"{path} declares {found.size} numbers in {name} but has {path.stat().st_size} bytes: the file is damaged, copy it "
            "again"
        )
    values = np.asarray(found[()])
    if values.dtype.names is not None and len(values.dtype.names) == 2:
        real, imaginary = (values[n].astype(np.float64) for n in values.dtype.names)
        values = real + 1j * imaginary
    if values.dtype.kind not in "iufc":
        raise BadInput(f"{path}: {name} does not hold numbers")
    if not np.isfinite(values).all():
        raise BadInput(f"{path}: {name} holds numbers that are not finite")
    return values
