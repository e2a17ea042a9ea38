"""Samples made by worker processes into the cache on the disk, where the work is worth their start."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

import torch

from nearsight.core.errors import BadInput
from nearsight.learn.cache import DiskCache
from nearsight.learn.samples import SampleStore, complete_record, exact_record
from nearsight.models.contract import HamiltonianModel

Told = Callable[[int, int], None]
WORTH = 20.0  # seconds of work in one process that are worth the start of others
TRIED = 3  # samples whose time tells

_model: HamiltonianModel  # of a worker process
_disk: DiskCache


def cores() -> int:
    """That this process may use, its share where torchrun starts several on a machine."""
    free = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, free // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def prepare(store: SampleStore, indices: Sequence[int], exact: bool, workers: int | None, told: Told) -> None:
    """Put samples on the disk that are not there yet.

    exact: only what no fit has a share in.  workers: processes; None counts the cores.  told: samples done, and all.
    Without a disk nothing is done: each sample is then made when it is asked for.
    Raises NearsightError for a structure that cannot be prepared.
    """
    disk = store.disk
    if disk is None:
        return
    missing = [k for k in indices if store.keys(k)[not exact] not in disk]
    done, started = 0, time.perf_counter()
    crew = cores() if workers is None else workers
    for k in missing:
        rest = len(missing) - done
        if crew > 1 and done >= TRIED and (time.perf_counter() - started) / done * rest > WORTH:
            break
        told(done, len(missing))
        if disk.full:
            return
        store.make(k, exact)
        done += 1
    try:
        for _ in _by_workers(store, disk, missing[done:], exact, crew):
            done += 1
            told(done, len(missing))
    except BrokenProcessPool:
        disk.say("worker processes ended: samples are prepared by this process alone")
    if missing:
        told(len(missing), len(missing))


def _by_workers(
    store: SampleStore, disk: DiskCache, indices: Sequence[int], exact: bool, workers: int
) -> Iterator[None]:
    """One item for each sample that is ready, in any order."""
    if not indices:
        return
    context = multiprocessing.get_context("spawn")
    model = pickle.dumps(copy.deepcopy(store.model).to("cpu"))
    with ProcessPoolExecutor(workers, context, _begin, (model, disk)) as pool:
        running: set[Future[None]] = set()
        try:
            for k in indices:
                if len(running) >= 2 * workers:
                    finished, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (f.result() for f in finished)
                # pickled here, not by torch, which would pass tensors through shared memory
                job = pickle.dumps(store.data.job(k, store.model))
                running.add(pool.submit(_work, job, store.keys(k), exact))
            while running:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (f.result() for f in finished)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _begin(model: bytes, disk: DiskCache) -> None:
    global _model, _disk
    torch.set_num_threads(1)
    _model, _disk = pickle.loads(model), disk


@torch.no_grad()
def _work(job: bytes, keys: tuple[str, str], exact: bool) -> None:
    record = _disk.load(keys[0])
    if record is None:
        record = exact_record(_model, pickle.loads(job)())
        _disk.save(keys[0], record)
    if not exact:
        _disk.save(keys[1], complete_record(_model, record))


def refuse_import() -> None:
    """Raises BadInput in a worker process that imports a script which trains as soon as it is imported."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise BadInput(
            'a script that trains needs its work under `if __name__ == "__main__":`; worker processes import it'
        )
