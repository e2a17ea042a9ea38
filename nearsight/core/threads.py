"""Work shared among the threads of a process: many small pieces, each of them too small to be worth several threads.

PyTorch shares out single operations, which pays for large ones alone. Here each thread takes every n-th piece, and all
operations on a piece run on its thread, so that numbers do not depend on how fast the threads are; PyTorch lets go of the
interpreter's lock while it computes. How many threads there are is `torch.get_num_threads()`, set by OMP_NUM_THREADS.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, local
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")

_here = local()  # .helper: whether this thread is one of a pool
_pools: dict[int, ThreadPoolExecutor] = {}


def share(work: Callable[[Sequence[Piece]], Result], pieces: Sequence[Piece]) -> list[Result]:
    """work(pieces[0::n]), work(pieces[1::n]), ..., each on a thread of its own; their results in that order.

    Of n threads as many as there are pieces; one for tensors' operations each.  Gradients are recorded where they are in the
    calling thread, and what a piece raises is raised there.  Work must not write where that on other pieces does.
    """
    n = min(torch.get_num_threads(), len(pieces))
    if n <= 1 or getattr(_here, "helper", False):
        return [work(pieces)]
    recorded = torch.is_grad_enabled()

    def apart(first: int) -> Result:
        with torch.set_grad_enabled(recorded):
            return work(pieces[first::n])

    return list(_pool(n).map(apart, range(n)))


def each(work: Callable[[Piece], Result], pieces: Sequence[Piece]) -> list[Result]:
    """work(piece) of every piece, in their order, shared among threads as `share` does it."""
    parts = share(lambda own: [work(piece) for piece in own], pieces)
    return [parts[place % len(parts)][place // len(parts)] for place in range(len(pieces))]


def _pool(n: int) -> ThreadPoolExecutor:
    """n threads that each do one operation at a time on themselves alone; kept, as a thread takes a while to begin."""
    if n not in _pools:
        kept = torch.get_num_threads()
        _pools[n] = ThreadPoolExecutor(n, "nearsight", initializer=_begin)
        all_there = Barrier(n)
        list(_pools[n].map(lambda _: all_there.wait(), range(n)))
        torch.set_num_threads(kept)  # what the helpers have set is also that of threads which are still to come
    return _pools[n]


def _begin() -> None:
    _here.helper = True
    torch.get_num_threads()  # a thread takes over the number of the process when it first asks
    torch.set_num_threads(1)


def _forget() -> None:
    """The child of a fork has no threads but its own."""
    _pools.clear()


os.register_at_fork(after_in_child=_forget)
