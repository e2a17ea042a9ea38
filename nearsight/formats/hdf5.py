"""HDF5 files of other people: opened and read without trust in what they declare."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from nearsight.core.errors import BadInput
from nearsight.core.reading import LARGEST, regular_file
from nearsight.formats.files import first_line

ROOM, DENSEST = 2**20, 32  # a data set beyond so many bytes is refused where it declares so many times its file


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The file, open to be read. Raises BadInput for a missing, truncated or foreign one, there and while it is read."""
    regular_file(path, LARGEST, "HDF5 file")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise BadInput(f"{path} is not a whole HDF5 file of its kind: {first_line(error):.120}") from error


def read_set(path: Path, file: h5py.File, name: str) -> NDArray[Any]:
    """A numeric data set of the file itself; complex numbers may also be stored as a pair of real fields.

    Raises BadInput for a link to another file, for a size that the file cannot hold, and for numbers that are not finite.
    """
    found = data_set(path, file, name)
    refuse_declared(path, name, found)
    values = np.asarray(file[name][()])
    if values.dtype.names is not None and len(values.dtype.names) == 2:
        real, imaginary = (values[n].astype(np.float64) for n in values.dtype.names)
        values = real + 1j * imaginary
    if values.dtype.kind not in "iufc":
        raise BadInput(f"{path}: {name} does not hold numbers")
    if not np.isfinite(values).all():
        raise BadInput(f"{path}: {name} holds numbers that are not finite")
    return values


def data_set(path: Path, file: h5py.File, name: str) -> h5py.h5d.DatasetID:
    """A data set of the file's own. Raises BadInput where there is none, or its numbers would come from somewhere else."""
    place, links = file.id, name.split("/")
    for depth, link in enumerate(link.encode() for link in links):
        if not place.links.exists(link):
            raise BadInput(f"{path} has no {name}: it is another program's, or was cut off")
        if place.links.get_info(link).type != h5py.h5l.TYPE_HARD:
            raise BadInput(f"{path}: {name} is a link to somewhere else, which is not followed: copy the data in")
        place = h5py.h5o.open(place, link)
        if not isinstance(place, h5py.h5g.GroupID if depth < len(links) - 1 else h5py.h5d.DatasetID):
            raise BadInput(f"{path}: {name} is no data set")
    made = place.get_create_plist()
    if made.get_layout() == h5py.h5d.VIRTUAL or made.get_external_count():
        raise BadInput(f"{path}: {name} is stored in other files, which are not followed: copy the data in")
    return place


def refuse_declared(path: Path, name: str, data: h5py.h5d.DatasetID) -> None:
    """Raises BadInput where a data set declares more numbers than its file can hold."""
    count, width = math.prod(data.shape), data.get_type().get_size()
    if count * width <= ROOM:
        return
    size = path.stat().st_size
    if count * width > DENSEST * size:
        raise BadInput(
            f"{path} declares {count} numbers in {name} but has {size} bytes: the file is damaged, copy it again"
        )


def content(data: h5py.h5d.DatasetID, kind: np.dtype[Any]) -> NDArray[Any]:
    """All numbers of a data set, converted to a kind of this machine's byte order."""
    found = np.empty(data.shape, kind)
    data.read(h5py.h5s.ALL, h5py.h5s.ALL, found)
    return found
