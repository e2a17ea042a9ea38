"""Predictions of large structures tile by tile: in bounded memory, resumable, by several processes; the same numbers."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.companion import Companion, as_error
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.core.layout import BlockLayout
from nearsight.core.spin_parts import SpinParts
from nearsight.core.structure import Structure
from nearsight.dft.local import is_local, local_initial_hamiltonian, reach
from nearsight.dft.setup import mesh_shape
from nearsight.formats.files import whole_file
from nearsight.formats.seal import read_arrays, write_arrays
from nearsight.learn.tiles import Tile, elements, tiles
from nearsight.models.contract import Told, silent
from nearsight.models.targets import Inputs

if TYPE_CHECKING:
    from nearsight.learn.model import TrainedModel

WHOLE = {False: 800, True: 100}  # atoms up to which a structure is one piece; True: with H0 on a mesh
ATOMS = {"network": 500, "h0": 200}  # in the core of a tile
SLACK = 1e-6  # Bohr

Kind = Literal["network", "h0"]


@dataclass(frozen=True, eq=False)
class Job:
    """One tile's share. layout: its pairs; found: those that it gives; which: what they are in the whole."""

    kind: Kind
    tile: Tile
    layout: BlockLayout
    found: Tensor
    which: Tensor

    __repr__ = one_line


@dataclass(frozen=True)
class Way:
    """How a prediction is made. atoms: in the core of a tile; None: chosen.  processes: that share the tiles.

    told: how many tiles are done, and all.
    """

    atoms: int | None = None
    processes: int = 1
    told: Told = silent

    def __post_init__(self) -> None:
        if (self.atoms is not None and self.atoms < 1) or not 1 <= self.processes <= 256:
            raise BadInput(
                f"--tile {self.atoms}, --processes {self.processes}: give a number of atoms, and from 1 to 256 processes"
            )


def in_tiles(trained: TrainedModel, structure: Structure, way: Way) -> bool:
    """Whether a prediction is made in tiles. Raises BadInput where that is asked for and cannot be."""
    why = _cannot(trained, structure)
    if way.atoms is not None or way.processes > 1:
        if why:
            raise BadInput(f"this prediction cannot be made in tiles: {why}; leave --tile and --processes out")
        return True
    with_h0 = "initial_hamiltonian" in trained.network.inputs
    return not why and len(structure) > WHOLE[with_h0]


def _cannot(trained: TrainedModel, structure: Structure) -> str | None:
    reference, names = trained.reference, trained.network.inputs
    if reference is None:
        return "the model does not know its orbitals"
    if not trained.network.target.gives_matrix:
        return "its target is an energy, the sum of all atoms'"
    if "functional" in names:
        return "its target is a density, whose potential is that of the whole structure"
    if "initial_hamiltonian" in names and not is_local(reference.settings, reference.present(structure)):
        return "H0 of its settings has waves of the whole mesh (mesh.band_limited)"
    return None


def predict_in_tiles(
    trained: TrainedModel, structure: Structure, layout: BlockLayout, way: Way, place: Path, model: Path | None
) -> tuple[BlockMatrix, BlockMatrix]:
    """(H, S) on a layout, as those of one piece to rounding.

    place: folder that keeps finished tiles until all are there, so that a prediction that was stopped goes on.  model: folder
    of the model, which further processes load; None: this process alone.
    """
    assert trained.reference is not None
    overlap = torch.zeros(1, layout.size, dtype=torch.float64)
    kind = trained.network.spin
    dtype = torch.float64 if SpinParts.of(kind).is_real else torch.complex128
    values = torch.zeros(kind.components, layout.size, dtype=dtype)
    jobs = list(_jobs(trained, structure, layout, way.atoms))
    total = len(jobs)
    folder = place / _digest(trained, structure, layout, way)
    folder.mkdir(parents=True, exist_ok=True)
    way.told(0, total)
    for done, (n, found) in enumerate(_results(trained, jobs, way.processes, folder, model), 1):
        job = jobs[n]
        at = elements(layout, job.which)
        h, s = (torch.from_numpy(x) for x in found)
        values[:, at] += h if len(h) == kind.components else kind.embed(h)
        if job.kind == "network":
            overlap[:, at] = s
        way.told(done, total)
    shutil.rmtree(place, ignore_errors=True)
    return BlockMatrix(layout, values, kind), BlockMatrix(layout, overlap)


def _jobs(trained: TrainedModel, structure: Structure, layout: BlockLayout, atoms: int | None) -> Iterator[Job]:
    """Network tiles with the locality of the model as margin, and those of H0 with its own."""
    reference = trained.reference
    assert reference is not None
    longest = float(layout.pairs.vectors(structure).norm(dim=1).max())
    yield from _of_kind("network", structure, layout, atoms, trained.network.locality + longest + SLACK, None)
    if "initial_hamiltonian" in trained.network.inputs:
        species, settings = reference.present(structure), reference.settings
        shape = settings.mesh.shape or mesh_shape(structure.cell, settings.mesh.cutoff_ry)
        step = float((structure.cell.norm(dim=1) / torch.tensor(shape)).max())
        margin = max(reach(species, step), longest + SLACK)
        yield from _of_kind("h0", structure, layout, atoms, margin, shape)


def _of_kind(
    kind: Kind,
    structure: Structure,
    layout: BlockLayout,
    atoms: int | None,
    margin: float,
    mesh: tuple[int, int, int] | None,
) -> Iterator[Job]:
    for tile in tiles(structure, atoms or ATOMS[kind], margin, mesh):
        which = tile.pairs_of(layout)
        own, found = tile.layout(layout, which)
        yield Job(kind, tile, own, found, which)


def compute(trained: TrainedModel, job: Job) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of a tile: H [components, elements], S [1, elements] (none of H0). Raises NearsightError as a prediction."""
    reference, at = trained.reference, elements(job.layout, job.found)
    assert reference is not None
    structure = job.tile.structure
    if job.kind == "h0":
        species = reference.present(structure)
        h = local_initial_hamiltonian(structure, species, reference.settings, job.layout, job.tile.core, job.tile.shape)
        return h.values[:, at].numpy(), np.zeros((1, 0))
    overlap = reference.overlap(structure, job.layout)
    names = trained.network.inputs
    zero = torch.zeros_like(overlap.values) if "initial_hamiltonian" in names else None
    moments = trained.moments(structure) if "moments" in names else None
    inputs = Inputs(overlap.values[0] if "overlap" in names else None, zero, moments, None)
    with torch.no_grad():
        h = trained.sound(trained.network.matrix(structure, job.layout, inputs), structure)
    return h.values[:, at].numpy(), overlap.values[:, at].numpy()


def _results(
    trained: TrainedModel, jobs: list[Job], processes: int, folder: Path, model: Path | None
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Of every job, in the order in which they are done; those on the disk first."""
    left = []
    for n in range(len(jobs)):
        kept = _kept(folder / f"{n}.npz")
        if kept is None:
            left.append(n)
        else:
            yield n, kept
    if processes == 1 or model is None or len(left) < 2:
        for n in left:
            yield n, _keep(folder / f"{n}.npz", compute(trained, jobs[n]))
        return
    threads = max(1, torch.get_num_threads() // processes)
    workers = [Companion(__name__, threads) for _ in range(min(processes, len(left)))]
    try:
        busy: dict[Any, tuple[Companion, int]] = {}
        for worker in workers:
            worker.send(str(model))
        for worker in workers:
            worker.receive()
            _send(worker, jobs, left, busy)
        while busy:
            for channel in wait(list(busy)):
                worker, n = busy.pop(channel)
                found = worker.receive()
                _send(worker, jobs, left, busy)
                yield n, _keep(folder / f"{n}.npz", found)
    finally:
        for worker in workers:
            worker.close()


def _send(worker: Companion, jobs: list[Job], left: list[int], busy: dict[Any, tuple[Companion, int]]) -> None:
    if left:
        n = left.pop(0)
        job = jobs[n]
        worker.send(Job(job.kind, job.tile, BlockLayout(job.layout.basis, job.layout.pairs), job.found, job.which[:0]))
        busy[worker.channel] = (worker, n)


def serve(channel: Connection) -> None:
    """The life of a process that computes tiles: first the model's folder, then tiles until the channel closes."""
    from nearsight.learn.model import TrainedModel

    def answer(work: Callable[[], Any]) -> None:
        try:
            found = work()
        except Exception as error:
            found = as_error(error)
        channel.send_bytes(pickle.dumps(found, protocol=pickle.HIGHEST_PROTOCOL))

    trained: list[TrainedModel] = []
    folder = pickle.loads(channel.recv_bytes())
    answer(lambda: trained.append(TrainedModel.load(folder)))
    while True:
        job = pickle.loads(channel.recv_bytes())
        answer(partial(compute, trained[0], job))


def _keep(file: Path, found: Any) -> list[np.ndarray]:
    h, s = found
    with whole_file(file) as part, open(part, "wb") as handle:
        write_arrays(handle, {"h": h, "s": s})
    return [h, s]


def _kept(file: Path) -> list[np.ndarray] | None:
    """What a file holds; None where it is not there, or damaged."""
    try:
        kept = read_arrays(file, sealed_only=True)
        return [kept["h"], kept["s"]]
    except Exception:  # whatever a damaged file makes NumPy stumble over: computed again
        return None


def _digest(trained: TrainedModel, structure: Structure, layout: BlockLayout, way: Way) -> str:
    """Of all that the tiles depend on."""
    digest = hashlib.sha256(repr((trained.record, way.atoms, ATOMS, len(layout.pairs))).encode())
    for x in (*trained.network.state_dict().values(), structure.cell, structure.positions, structure.numbers):
        digest.update(np.ascontiguousarray(x.detach().cpu().numpy()).tobytes())
    if structure.moments is not None:
        digest.update(structure.moments.numpy().tobytes())
    return digest.hexdigest()[:16]
