"""Learning a density: what a folder's Hamiltonian makes of it, the loss, and the error of held-out structures."""

from __future__ import annotations

from math import nan

import torch
from torch import Tensor

from nearsight.learn.config import DensityLossConfig
from nearsight.learn.losses import LossTerm, LossValue
from nearsight.learn.packing import in_order
from nearsight.learn.samples import Sample, SampleStore
from nearsight.models.contract import HamiltonianModel
from nearsight.models.density import DensitySample
from nearsight.models.targets import Prediction

MILLI = 1000.0


def norms(values: Tensor, labels: Tensor, sample: DensitySample) -> Tensor:
    """|dn - dn_data| of each structure [structures], the root of its square per atom, in the metric; differentiable."""
    error = (values - labels.to(values))[0].split(list(sample.sizes))
    squares = [e @ (m.to(e) @ e) for e, m in zip(error, sample.metrics(), strict=True)]
    atoms = torch.bincount(_owners(sample), minlength=len(sample.sizes)).to(values)
    return (torch.stack(squares).clamp(min=0) / atoms + 1e-12).sqrt()


def _owners(sample: DensitySample) -> Tensor:
    per_atom = sum(sample.sizes) // sample.edges.atoms
    counts = torch.tensor([n // per_atom for n in sample.sizes], device=sample.edges.species.device)
    return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)


class DensityTerm(LossTerm):
    """The mean over structures of the root of |dn - dn_data|^2 per atom, in thousandths of Ha^(1/2)."""

    def __init__(self, config: DensityLossConfig) -> None:
        self.weight = config.weight

    def size(self, sample: Sample) -> float:
        """Structures."""
        return float(len(sample.sizes))

    def __call__(self, predicted: Prediction, sample: Sample) -> LossValue:
        """For a sample that has labels."""
        assert sample.target is not None and isinstance(sample.prepared, DensitySample)
        free = predicted.values.detach().requires_grad_()
        with torch.enable_grad():
            loss = MILLI * norms(free, sample.target, sample.prepared).mean()
        [gradient] = torch.autograd.grad(loss, free)
        return LossValue(float(loss.detach()), gradient)


def density_errors(network: HamiltonianModel, held_out: SampleStore, edges: int) -> tuple[float, float, float]:
    """The loss's figure over all held-out structures (nan without any), in the place of errors of matrix elements."""
    total, count = 0.0, 0
    for sample in in_order(held_out, edges):
        assert sample.target is not None and isinstance(sample.prepared, DensitySample)
        found = norms(network(sample.prepared).values, sample.target, sample.prepared)
        total, count = total + MILLI * float(found.sum()), count + len(found)
    return (total / count if count else nan), nan, nan
