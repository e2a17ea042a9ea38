"""The smallest model that keeps the contract, as a third party would write it: elements between equal orbitals only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nearsight.core.pairs import Pairs
from nearsight.core.units import BOHR_ANG
from nearsight.models.contract import HamiltonianModel, ModelConfig, Prepared
from nearsight.models.layers import RadialBasis, envelope
from nearsight.models.targets import Prediction


class Config(ModelConfig):
    """cutoff_ang: reach of an atom's surroundings [Angstrom].  width: functions of the distance."""

    kind: Literal["toy"] = "toy"
    cutoff_ang: float = 2.5
    width: int = 4


@dataclass(frozen=True, eq=False)
class Sample(Prepared):
    """kind: which pair of orbitals each element is between [size].  features: what is linearly combined [size, features]."""

    kind: Tensor
    features: Tensor
    pairs: int
    sizes: tuple[int, ...]

    @property
    def edge_count(self) -> int:
        return self.pairs

    @classmethod
    def batch(cls, samples):
        kind, features = torch.cat([s.kind for s in samples]), torch.cat([s.features for s in samples])
        return cls(kind, features, sum(s.pairs for s in samples), tuple(n for s in samples for n in s.sizes))


class Model(HamiltonianModel):
    """M_ab = w_ab . (functions of the distance, how crowded both atoms are) for a and b of equal l and m, else 0."""

    Config, Sample = Config, Sample

    def __init__(self, shells, target="total", *, cutoff, width=4):
        super().__init__(shells, target)
        self.cutoff, self.basis = cutoff, RadialBasis(width, 30.0)
        every = [(z, k, l, m) for z, s in self.shells.items() for k, l in enumerate(s) for m in range(-l, l + 1)]
        first = [z for z, *_ in every]
        self.first = {z: first.index(z) for z in self.shells}  # row of an element's first orbital
        shells = sorted({(z, k) for z, k, *_ in every})
        self.shell = torch.tensor([shells.index((z, k)) for z, k, *_ in every])
        self.same = torch.tensor([[x[2:] == y[2:] for x in every] for y in every])
        self.count = len(shells)
        self.weight = torch.nn.Parameter(torch.randn(self.count**2, width + 1))

    @classmethod
    def arguments(cls, config, setting):
        return {"cutoff": config.cutoff_ang / BOHR_ANG, "width": config.width}

    @property
    def locality(self):
        return self.cutoff

    @property
    def geometry_settings(self):
        return {"cutoff": self.cutoff, "shells": self.shells, "width": self.weight.shape[1]}

    def geometry(self, structure, layout, inputs):
        self.check(structure.numbers)
        near = Pairs.within(structure, self.cutoff)
        r = near.vectors(structure).norm(dim=1)
        crowd = r.new_zeros(len(structure)).index_add(0, near.i, envelope(r, self.cutoff) * (r > 0))
        first, pairs = torch.tensor([self.first[z] for z in structure.numbers.tolist()]), layout.pairs
        one, other = (first[k[layout.pair]] + o for k, o in zip((pairs.i, pairs.j), layout.local, strict=True))
        distance = self.basis(pairs.vectors(structure).norm(dim=1))
        features = torch.cat([distance, (crowd[pairs.i] + crowd[pairs.j])[:, None]], 1)[layout.pair]
        features = features * self.same[one, other][:, None]
        a, b = self.shell[one], self.shell[other]
        kind = torch.minimum(a, b) * self.count + torch.maximum(a, b)
        return Sample(kind, features, len(pairs), (layout.size,))

    def forward(self, sample):
        values = (self.weight[sample.kind] * sample.features).sum(1)
        return Prediction(values[None], sample.sizes, self.target)
