"""Learning a density: the loss, and the error of held-out structures."""

from __future__ import annotations

from math import nan
from typing import cast

import torch
from torch import Tensor

from nearsight.learn.config import DensityLossConfig
from nearsight.learn.losses import LabelTerm, LossValue
from nearsight.learn.packing import in_order
from nearsight.learn.samples import Sample, SampleStore
from nearsight.models.contract import HamiltonianModel
from nearsight.models.density import UNITS, DensitySample
from nearsight.models.targets import Prediction


def norms(predicted: Tensor, sample: Sample) -> Tensor:
    """The root of |dn - dn_data|^2 of each structure [structures] in the metric of the model, 10^-3 Ha^(1/2) per atom or meV of
    potential; differentiable in the predicted coefficients [1, size]."""
    assert sample.target is not None
    error = (predicted - sample.target.to(predicted))[0].split(list(sample.sizes))
    prepared = cast(DensitySample, sample.prepared)
    squares = [e @ (m.to(e) @ e) for e, m in zip(error, prepared.metrics(), strict=True)]
    atoms = torch.tensor(sample.sizes).to(predicted) * prepared.edges.atoms / sum(sample.sizes)
    return 1000 * (torch.stack(squares).clamp(min=0) / atoms + 1e-12).sqrt()


class DensityTerm(LabelTerm):
    """The mean of `norms` over structures."""

    of, unit = "densities", UNITS["coulomb"]

    def __init__(self, config: DensityLossConfig, metric: str = "coulomb") -> None:
        self.weight, self.unit = config.weight, UNITS[metric]
        self.of_training = "mean error of the densities trained on", self.unit

    def size(self, sample: Sample) -> float:
        """Structures."""
        return float(len(sample.sizes))

    def __call__(self, predicted: Prediction, sample: Sample) -> LossValue:
        """For a sample that has labels."""
        free = predicted.values.detach().requires_grad_()
        with torch.enable_grad():
            loss = norms(free, sample).mean()
        [gradient] = torch.autograd.grad(loss, free)
        return LossValue(float(loss.detach()), gradient)

    def errors(self, network: HamiltonianModel, held_out: SampleStore, edges: int) -> tuple[float, float, float]:
        """The mean of `norms`; a density has no on-site and off-site elements."""
        found = [norms(network(sample.prepared).values, sample) for sample in in_order(held_out, edges)]
        return (float(torch.cat(found).mean()) if found else nan), nan, nan
