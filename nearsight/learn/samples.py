"""Samples: structures made ready for a model once, kept on the disk, and in memory as far as there is room."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import nearsight
from nearsight.core.display import one_line
from nearsight.core.spin import Spin
from nearsight.learn.cache import DiskCache, matching
from nearsight.learn.data import Source, TrainingData, hash_of
from nearsight.models.contract import HamiltonianModel, Prepared
from nearsight.models.targets import exact as exactly

Record = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Sample:
    """Structures ready to learn from.

    prepared: for the model.  members: their indices in the data.  target: what the prediction's values should be; None
    without labels.  overlap: S as a matrix of the model's spin [components, size]; None where there is no target, or one
    that is no matrix.  on_site: elements between orbitals of one atom [size]; empty where the target is no matrix.
    """

    prepared: Prepared
    members: tuple[int, ...]
    target: Tensor | None
    overlap: Tensor | None
    on_site: Tensor

    __repr__ = one_line

    @property
    def sizes(self) -> tuple[int, ...]:
        """Elements of each structure."""
        return self.prepared.sizes

    @property
    def nbytes(self) -> int:
        """Of all tensors, labels among them."""
        labels = [x for x in (self.target, self.overlap, self.on_site) if x is not None]
        return self.prepared.nbytes + sum(x.numel() * x.element_size() for x in labels)

    @staticmethod
    def batch(samples: Sequence[Sample]) -> Sample:
        """Several samples as one."""
        if len(samples) == 1:
            return samples[0]
        prepared = [s.prepared for s in samples]
        return Sample(
            type(prepared[0]).batch(prepared),
            tuple(k for s in samples for k in s.members),
            _joined([s.target for s in samples]),
            _joined([s.overlap for s in samples]),
            torch.cat([s.on_site for s in samples]),
        )


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    known = [p for p in parts if p is not None]
    return torch.cat(known, -1) if len(known) == len(parts) else None


def exact_record(model: HamiltonianModel, source: Source) -> dict[str, Tensor]:
    """A structure's geometry and labels in float64, on the CPU: what no weight and no fit has a share in."""
    layout = source.layout.to("cpu")
    pairs = layout.pairs
    record = _prefixed("sample.", model.geometry(source.structure, source.layout, source.inputs).tensors())
    elements = model.target.elements
    on_site = ((pairs.i == pairs.j) & (pairs.R == 0).all(1))[layout.pair]
    record["on_site"] = on_site if elements else on_site[:0]
    if source.calculation is not None:
        record["target"] = exactly(model.labels(source.calculation, source.inputs))
        if elements:
            record["overlap"] = source.calculation.require_overlap().on(source.layout).values[0].double()
    return record


def complete_record(model: HamiltonianModel, exact: Record) -> dict[str, Tensor]:
    """The same as the model takes it: with its fitted baseline, in its precision, on its device."""
    kind = type(model).Sample
    record = _prefixed("sample.", model.complete(kind.of_tensors(matching(exact, "sample."))).tensors())
    return record | {k: x.to(model.device, in_precision(x.dtype, model.dtype)) for k, x in _labels(exact)}


def in_precision(kind: torch.dtype, dtype: torch.dtype) -> torch.dtype:
    """What numbers of a kind become in the precision of `dtype`: complex ones stay complex, indices as they are."""
    if kind.is_complex:
        return dtype.to_complex()
    return dtype if kind.is_floating_point else kind


def _labels(record: Record) -> list[tuple[str, Tensor]]:
    return [(k, record[k]) for k in ("on_site", "target", "overlap") if k in record]


def sample_of(record: Record, index: int, kind: type[Prepared], spin: Spin, device: torch.device) -> Sample:
    """The sample of a complete record."""
    labels = {k: x.to(device) for k, x in _labels(record)}
    overlap = labels.get("overlap")
    return Sample(
        kind.of_tensors(matching(record, "sample.")).to(device),
        (index,),
        labels.get("target"),
        None if overlap is None else spin.embed(overlap),
        labels["on_site"],
    )


def _prefixed(prefix: str, tensors: Record) -> dict[str, Tensor]:
    return {f"{prefix}{k}": x for k, x in tensors.items()}


class SampleStore:
    """The samples of a data set for one model, least recently used dropped first from memory.

    limit: bytes in memory.  disk: where they are kept beside, for the next start, other processes and other models.
    """

    def __init__(
        self, data: TrainingData, model: HamiltonianModel, limit: float, disk: DiskCache | None = None
    ) -> None:
        self.data, self.model, self.limit, self.disk = data, model, limit, disk
        self._kept: OrderedDict[int, Sample] = OrderedDict()
        self._bytes = 0
        self._edges: dict[int, int] = {}
        self._hashed: tuple[tuple[tuple[str, int, int], ...], str] | None = None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Sample:
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        sample = sample_of(self._complete(index), index, type(self.model).Sample, self.model.spin, self.model.device)
        self._edges[index] = sample.prepared.edge_count
        self._kept[index] = sample
        self._bytes += sample.nbytes
        while self._bytes > self.limit and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return sample

    def edges(self, index: int) -> int:
        """Of a sample's graph, remembered when the sample itself no longer is."""
        return self._edges[index] if index in self._edges else self[index].prepared.edge_count

    def together(self, indices: Sequence[int]) -> Sample:
        """Several samples as one."""
        return Sample.batch([self[k] for k in indices])

    def exact(self, index: int) -> tuple[Prepared, Tensor | None]:
        """Geometry and labels in float64: what baselines are fitted to."""
        record = self._exact(index)
        return type(self.model).Sample.of_tensors(matching(record, "sample.")), record.get("target")

    def make(self, index: int, exact: bool) -> None:
        """Put a sample on the disk. exact: only what no fit has a share in."""
        _ = self._exact(index) if exact else self._complete(index)

    def keys(self, index: int) -> tuple[str, str]:
        """Names of the exact and of the complete record on the disk."""
        exact = _digest(self._geometry, self.data.digest(index, self.model))
        return exact, _digest(exact, self._fit)

    def _exact(self, index: int) -> Record:
        return self._remembered(
            self.keys(index)[0], lambda: exact_record(self.model, self.data.source(index, self.model))
        )

    def _complete(self, index: int) -> Record:
        return self._remembered(self.keys(index)[1], lambda: complete_record(self.model, self._exact(index)))

    def _remembered(self, key: str, make: Any) -> Record:
        found = self.disk.load(key) if self.disk is not None else None
        if found is None:
            found = make()
            if self.disk is not None:
                self.disk.save(key, found)
        return found

    @cached_property
    def _geometry(self) -> str:
        kind = type(self.model)
        return _digest(
            f"{kind.__module__}.{kind.__qualname__}",
            _code(kind.__module__),
            nearsight.__version__,
            {k: str(v) for k, v in self.model.geometry_settings.items()},
        )

    @property
    def _fit(self) -> str:
        """Changes with the fitted baseline."""
        fitted = self.model.fitted()
        state = tuple((k, x.data_ptr(), x._version) for k, x in fitted.items())
        if self._hashed is None or self._hashed[0] != state:
            found = _digest(str(self.model.dtype), {k: hash_of(x) for k, x in sorted(fitted.items())})
            self._hashed = state, found
        return self._hashed[1]


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]


@cache
def _code(module: str) -> str:
    """Of the source of all of our models and of a model's own module: what another code makes is another sample."""
    digest = hashlib.sha256()
    own = getattr(import_module(module), "__file__", None)
    ours = Path(import_module("nearsight.models").__file__ or "").parent
    for path in sorted({*ours.glob("*.py"), *([Path(own)] if own else [])}):
        digest.update(path.read_bytes())
    return digest.hexdigest()
