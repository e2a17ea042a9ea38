"""Training data: calculation folders read when needed, turned into graphs once, split, shuffled, packed by edge count."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.errors import NearsightError
from nearsight.core.layout import BlockLayout
from nearsight.core.spin import NONE
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.formats.registry import list_folders, list_structures, read
from nearsight.learn.config import DataConfig
from nearsight.models.deeph2 import DeepH2
from nearsight.models.graph import Graph, batch

Reference = Callable[[Structure], BlockMatrix]  # H0 of a structure


@dataclass(frozen=True, eq=False)
class Sample:
    """Structures ready to learn from.

    members: their indices in the data.  target: elements that the network should give [size], Ha; None without labels.
    overlap: elements on the same layout [size]; None where there is no target.
    """

    graph: Graph
    members: tuple[int, ...]
    target: Tensor | None
    overlap: Tensor | None


@dataclass(frozen=True)
class Split:
    train: tuple[Path, ...]
    validation: tuple[Path, ...]


def split(config: DataConfig, labelled: bool = True) -> Split:
    """Which structures to train on and which to hold out.

    labelled: folders with Hamiltonians are wanted, and none is both trained on and validated on.
    Raises NearsightError for missing or empty folders, or too few.
    """
    find = _folders if labelled else _structures
    train = find(config.train)
    if config.validation is not None:
        validation = find(config.validation)
        held = {p.resolve() for p in validation} if labelled else set()
        train = [p for p in train if p.resolve() not in held]
    else:
        count = min(len(train) - 1, max(1, round(config.validation_fraction * len(train))))
        count = count if config.validation_fraction > 0 else 0
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(config.seed)).tolist()
        validation = [train[k] for k in sorted(order[:count])]
        train = [train[k] for k in sorted(order[count:])]
    if not train:
        raise NearsightError("no structures are left to train on: the validation set holds all of data.train")
    return Split(tuple(train), tuple(validation))


def _folders(paths: str | list[str]) -> list[Path]:
    found = [f for p in ([paths] if isinstance(paths, str) else paths) for f in list_folders(p)]
    return list(dict.fromkeys(found))


def _structures(paths: str | list[str]) -> list[Path]:
    """Structures, whether they have matrices or not, and frames of structure files."""
    found = [p for path in ([paths] if isinstance(paths, str) else paths) for p in list_structures(path)]
    return list(dict.fromkeys(found))


class TrainingData(Protocol):
    """What a store of samples asks of a data set, by index."""

    def __len__(self) -> int: ...

    def structure(self, index: int) -> Structure: ...

    def layout(self, index: int) -> BlockLayout:
        """The pairs on which the network gives elements."""

    def target(self, index: int) -> Tensor | None:
        """Elements that the network should give on the layout [size], Ha; None without a label."""

    def overlap(self, index: int) -> Tensor | None:
        """On the layout [size]; None where there is no target."""


class HamiltonianData:
    """Structures with Hamiltonians, from folders. reference: H0, if the target is H - H0."""

    def __init__(self, folders: Sequence[Path], reference: Reference | None = None) -> None:
        self.folders, self.reference = tuple(folders), reference
        self._last: tuple[int, Calculation] | None = None

    def __len__(self) -> int:
        return len(self.folders)

    def structure(self, index: int) -> Structure:
        return self.calculation(index).structure

    def layout(self, index: int) -> BlockLayout:
        return self.calculation(index).require_hamiltonian().layout

    def overlap(self, index: int) -> Tensor:
        found = self.calculation(index)
        return found.require_overlap().on(found.require_hamiltonian().layout).values[0]

    def calculation(self, index: int) -> Calculation:
        """Raises NearsightError, naming the folder, for one without a (spinless) Hamiltonian."""
        if self._last is None or self._last[0] != index:
            self._last = index, self._read(self.folders[index])
        return self._last[1]

    def _read(self, path: Path) -> Calculation:
        found = read(path)
        if found.hamiltonian is None:
            raise NearsightError(f"{path} has no hamiltonian.h5: there is nothing to learn from it")
        if found.hamiltonian.spin is not NONE:
            raise NearsightError(f"{path} is spinful: networks for spin are not available yet")
        return found

    def target(self, index: int) -> Tensor:
        """Elements that the network should give [size], Ha."""
        found = self.calculation(index)
        hamiltonian = found.require_hamiltonian()
        if self.reference is not None:
            hamiltonian = hamiltonian - self.reference(found.structure).on(hamiltonian.layout)
        return hamiltonian.values[0]

    def shells(self) -> tuple[dict[int, tuple[int, ...]], float]:
        """Orbitals of all elements, and the longest distance of a pair [Bohr]; they must agree between folders."""
        known: dict[int, tuple[int, ...]] = {}
        reach = 0.0
        for index, path in enumerate(self.folders):
            found = self.calculation(index)
            for z, shells in found.basis.shells.items():
                if known.setdefault(z, shells) != shells:
                    raise NearsightError(
                        f"{path}: {SYMBOLS[z]} has shells {list(shells)}, elsewhere {list(known[z])}; "
                        "one model needs one basis"
                    )
            layout = found.require_hamiltonian().layout
            reach = max(reach, float(layout.pairs.vectors(found.structure).norm(dim=1).max()))
        return known, reach


class SampleStore:
    """Samples made by a network's `prepare`, kept in memory up to a number of bytes, least recently used dropped first."""

    def __init__(self, data: TrainingData, network: DeepH2, limit: float) -> None:
        self.data, self.network, self.limit = data, network, limit
        self._kept: OrderedDict[int, Sample] = OrderedDict()
        self._bytes = 0
        self._edges: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Sample:
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        graph = self.network.prepare(self.data.structure(index), self.data.layout(index))
        target, overlap = self.data.target(index), self.data.overlap(index)
        sample = Sample(
            graph,
            (index,),
            None if target is None else target.to(graph.distance),
            None if overlap is None else overlap.to(graph.distance),
        )
        self._edges[index] = graph.edges
        self._kept[index] = sample
        self._bytes += _size(sample)
        while self._bytes > self.limit and len(self._kept) > 1:
            self._bytes -= _size(self._kept.popitem(last=False)[1])
        return sample

    def edges(self, index: int) -> int:
        return self._edges[index] if index in self._edges else self[index].graph.edges

    def exact(self, index: int) -> tuple[Graph, Tensor]:
        """Graph without baseline and target, in float64, not kept: what statistics are made of."""
        graph = self.network.graph(self.data.structure(index), self.data.layout(index))
        target = self.data.target(index)
        assert target is not None
        return graph, target.to(graph.distance)

    def batches(self, budget: int, order: Sequence[int]) -> list[list[int]]:
        """Indices packed, in this order, so that a batch has at most `budget` edges (but at least one structure)."""
        result: list[list[int]] = []
        edges = 0
        for index in order:
            own = self.edges(index)
            if not result or edges + own > budget:
                result.append([])
                edges = 0
            result[-1].append(index)
            edges += own
        return result

    def together(self, indices: Sequence[int]) -> Sample:
        """Several samples as one."""
        samples = [self[k] for k in indices]
        if len(samples) == 1:
            return samples[0]
        return Sample(
            batch([s.graph for s in samples]),
            tuple(indices),
            _joined([s.target for s in samples]),
            _joined([s.overlap for s in samples]),
        )


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    known = [p for p in parts if p is not None]
    return torch.cat(known) if len(known) == len(parts) else None


def _size(sample: Sample) -> int:
    g = sample.graph
    tensors = [g.i, g.j, g.distance, *g.wigner, g.orbital_frames, g.block, g.local, g.transposed, g.baseline, g.scale]
    labels = [t for t in (sample.target, sample.overlap) if t is not None]
    return sum(t.numel() * t.element_size() for t in [*tensors, *labels])


def shuffled(store: SampleStore, budget: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of an epoch: a function of (seed, epoch) alone, so that a resumed training sees the same ones."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    return store.batches(budget, torch.randperm(len(store), generator=generator).tolist())


def in_order(store: SampleStore, budget: int) -> Iterator[Sample]:
    for indices in store.batches(budget, range(len(store))):
        yield store.together(indices)
