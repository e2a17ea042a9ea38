"""k-points shared among processes: each holds its states, and gives energies and sums over its k-points.

What crosses between processes are elements of matrices on their layout, energies and occupations; states stay where they are.
"""

from __future__ import annotations

import os
import pickle
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.companion import Companion, as_error
from nearsight.core.display import one_line
from nearsight.core.layout import BlockLayout
from nearsight.core.spin import Spin
from nearsight.electrons.kpoints import KPoints
from nearsight.electrons.solvers.share import Share, Solved


def remote_shares(overlap: BlockMatrix, kpoints: KPoints, chunk: int, processes: int) -> tuple[RemoteShare, ...]:
    """The k-points in so many processes, in order, as evenly as may be. Raises NearsightError as `Share.of`."""
    threads = max(1, torch.get_num_threads() // processes)
    parts = zip(kpoints.k.tensor_split(processes), kpoints.weights.tensor_split(processes), strict=True)
    layout = overlap.layout
    shares = []
    for k, weights in parts:
        share = RemoteShare(Companion(__name__, threads), layout, len(k))
        share.companion.send((_fresh(layout), _packed(overlap.values), _packed(k), _packed(weights), chunk))
        shares.append(share)
    for share in shares:
        share.companion.receive()
    return tuple(shares)


@dataclass(frozen=True, eq=False)
class RemoteShare:
    """A `Share` of another process. layout: that of the overlap, which it knows.  dropped: states that are not wanted more."""

    companion: Companion
    layout: BlockLayout
    size: int
    dropped: deque[int] = field(default_factory=deque)

    __repr__ = one_line

    def __post_init__(self) -> None:
        weakref.finalize(self, self.companion.close)

    def __len__(self) -> int:
        return self.size

    def ask(self, method: str, *arguments: Any) -> Callable[[], Any]:
        """Send a call; what is returned waits for the answer."""
        return self.call(None, method, arguments)

    def call(self, key: int | None, method: str, arguments: tuple[Any, ...]) -> Callable[[], Any]:
        """As `ask`, of the states of a key."""
        dropped = [self.dropped.popleft() for _ in range(len(self.dropped))]
        self.companion.send((dropped, key, method, tuple(self._sent(a) for a in arguments)))
        return lambda: self._received(self.companion.receive())

    def _sent(self, x: Any) -> Any:
        if isinstance(x, BlockMatrix):
            return _Sent(_packed(x.values), x.spin, None if x.layout is self.layout else _fresh(x.layout))
        return _packed(x)

    def _received(self, x: Any) -> Any:
        if isinstance(x, _Kept):
            return RemoteSolved(self, x.key)
        if isinstance(x, tuple):
            return tuple(self._received(y) for y in x)
        return torch.from_numpy(x) if isinstance(x, np.ndarray) else x


@dataclass(frozen=True, eq=False)
class RemoteSolved:
    """`Solved` of another process, kept there under a key as long as this lives."""

    share: RemoteShare
    key: int

    __repr__ = one_line

    def __post_init__(self) -> None:
        weakref.finalize(self, self.share.dropped.append, self.key)

    def __len__(self) -> int:
        return self.share.size

    def ask(self, method: str, *arguments: Any) -> Callable[[], Any]:
        """As `RemoteShare.ask`."""
        return self.share.call(self.key, method, arguments)


@dataclass(frozen=True)
class _Sent:
    """A matrix on its way; layout: None for the overlap's."""

    values: Any
    spin: Spin
    layout: BlockLayout | None


@dataclass(frozen=True)
class _Kept:
    """In place of states that stay where they are."""

    key: int


def _fresh(layout: BlockLayout) -> BlockLayout:
    """Without what it remembers."""
    return BlockLayout(layout.basis, layout.pairs.to("cpu"))


def _packed(x: Any) -> Any:
    return x.detach().resolve_conj().numpy() if isinstance(x, Tensor) else x


def serve(channel: Connection) -> None:
    """The life of such a process: first the overlap and its k-points, then calls until the channel closes."""
    layout, *arrays, chunk = pickle.loads(channel.recv_bytes())
    values, k, weights = (_writable(a) for a in arrays)
    kept: dict[int, Solved] = {}
    share: Share | None = None

    def answer(found: Any) -> None:
        channel.send_bytes(pickle.dumps(found, protocol=pickle.HIGHEST_PROTOCOL))

    def own(x: Any) -> Any:
        if isinstance(x, _Sent):
            return BlockMatrix(x.layout or layout, _writable(x.values), x.spin)
        return _writable(x) if isinstance(x, np.ndarray) else x

    def outward(x: Any) -> Any:
        if isinstance(x, Solved):
            key = max(kept, default=0) + 1
            kept[key] = x
            return _Kept(key)
        return tuple(outward(y) for y in x) if isinstance(x, tuple) else _packed(x)

    try:
        share = Share.of(BlockMatrix(layout, values), k, weights, chunk)
        answer(os.getpid())
    except Exception as error:
        answer(as_error(error))
        return
    with torch.no_grad():
        while True:
            dropped, key, method, arguments = pickle.loads(channel.recv_bytes())
            for old in dropped:
                del kept[old]
            try:
                found = getattr(share if key is None else kept[key], method)(*map(own, arguments))
                answer(outward(found))
            except Exception as error:
                answer(as_error(error))


def _writable(x: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(x))
