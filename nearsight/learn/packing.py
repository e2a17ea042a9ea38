"""Samples packed into batches by their number of edges, shuffled as the seed says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from nearsight.learn.samples import Sample, SampleStore


def packed(edges: Callable[[int], int], budget: int, order: Sequence[int]) -> list[list[int]]:
    """Indices packed, in this order, so that a batch has at most `budget` edges (but at least one structure)."""
    result: list[list[int]] = []
    total = 0
    for index in order:
        own = edges(index)
        if not result or total + own > budget:
            result.append([])
            total = 0
        result[-1].append(index)
        total += own
    return result


def shuffled(store: SampleStore, budget: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of an epoch: a function of (seed, epoch) alone, so that a resumed training sees the same ones."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    return packed(store.edges, budget, torch.randperm(len(store), generator=generator).tolist())


def in_order(store: SampleStore, budget: int) -> Iterator[Sample]:
    """All samples in batches of at most `budget` edges."""
    for indices in packed(store.edges, budget, range(len(store))):
        yield store.together(indices)
