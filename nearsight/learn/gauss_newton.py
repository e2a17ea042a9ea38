"""Gauss-Newton steps in the weights of a network's last layers: self-consistency whose unknown is the weights.

For H_theta with the matrix F = dE/dD of its own density matrix, R = F - H is the steepest descent direction of Omega (see
dft/minimisation.py). A step moves the prediction by dH, which Pulay's method makes from R and from the H reached before:
    theta <- theta + M J^T y,   J M J^T y = dH   (conjugate residuals until |dH - J M J^T y| <= accuracy |dH|),
J = dH_theta/dtheta. In the last layers H is linear, so that nothing is lost in the step, and M is the inverse of the Gram
matrices of their inputs, the metric of K-FAC (Martens and Grosse, arXiv:1503.05671): J M J^T is then close to a projector
onto what the layers can express, and a few products are enough where the features tell all edges apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nearsight.core.errors import BadInput
from nearsight.dft.mixing import Pulay, PulayState
from nearsight.models.contract import HamiltonianModel, LastLayer, Prepared
from nearsight.models.decompositions import singular_values

Map = Callable[[Tensor], Tensor]
Factors = tuple[Tensor, Tensor]  # V, d of V^T d V: the product itself would lose what d spans
OUT_OF_REACH = 1e-8  # Rayleigh quotient of J M J^T, which is about 1 for what the layers express and 0 for all else
ABSENT = 1e-10  # features of an irrep smaller than so much of the layer's largest are rounding


@dataclass(frozen=True)
class Move:
    """One step. reached: H_theta (or what the network gives of it) after the step [size], Ha.

    left: |reached - target| / |target - before|; close to 1 where the network cannot follow.  products: with J M J^T.
    length: |M J^T y|, of the weights.  retreat: the weights went back to the best ones instead.
    """

    reached: Tensor
    left: float
    products: int
    length: float
    retreat: bool = False


@dataclass(frozen=True)
class GaussNewton:
    """accuracy: of a move, relative.  limit: most products with J M J^T in a move.

    cut: singular values of the features below so much of the largest are damped; weights grow with their inverse.
    """

    accuracy: float = 0.1
    limit: int = 100
    cut: float = 1e-7

    def move(self, network: HamiltonianModel, sample: Prepared, difference: Tensor) -> Move:
        """Change the weights so that the prediction for a prepared sample (or several in one) moves by `difference` [size].

        Raises NearsightError for a network that is not float64.
        """
        layers = LastLayers(network, sample, self.cut)
        y = _conjugate_residuals(layers.kernel, difference, self.accuracy, self.limit)
        step = layers.metric(layers.pull(y))
        layers.add(network, step)
        with torch.no_grad():
            reached = network(sample).values.flatten()
        left = float((layers.values + difference - reached).norm() / difference.norm())
        if not left < 1:  # rounding has won
            layers.add(network, [torch.zeros_like(x) for x in step])
            return Move(layers.values, 1.0, layers.products, 0.0)
        length = math.sqrt(sum(float(x.square().sum()) for x in step))
        return Move(reached, left, layers.products, length)


class LastLayers:
    """The prediction of a sample as a (linear) function of the last layers' weights.

    values: [size].  weights: by name.  push(v): J v [size].  pull(u): J^T u.  metric(v): M v.
    """

    def __init__(self, network: HamiltonianModel, sample: Prepared, cut: float) -> None:
        if network.dtype != torch.float64:
            raise BadInput("Gauss-Newton steps need a network in float64: network.to(torch.float64), then prepare")
        every = dict(network.named_parameters())
        with torch.no_grad():
            last = network.last_layers(sample)
            self.inverse = {name: value for layer in last for name, value in _inverse_grams(layer, cut)}
        self.weights = {name: every[name].detach().clone().requires_grad_() for name in self.inverse}
        fixed = {name: x.detach() for name, x in every.items()}
        values = torch.func.functional_call(network, fixed | self.weights, (sample,)).values.flatten()
        # J^T u is linear in u, and the derivative of v . J^T u by u is J v
        dual = torch.zeros_like(values, requires_grad=True)
        pulled = torch.autograd.grad(values, list(self.weights.values()), dual, create_graph=True)
        self._values, self._dual, self._pulled = values, dual, pulled
        self.values = values.detach()
        self.products = 0

    def pull(self, u: Tensor) -> list[Tensor]:
        """J^T u, in the order of `weights`, for u [size]."""
        return list(torch.autograd.grad(self._values, list(self.weights.values()), u, retain_graph=True))

    def push(self, v: list[Tensor]) -> Tensor:
        """J v [size]."""
        [result] = torch.autograd.grad(self._pulled, self._dual, v, retain_graph=True)
        return result

    def metric(self, v: list[Tensor]) -> list[Tensor]:
        """M v: (X^T X)^-1 of each of the weights, but for directions that the features hardly have."""
        factors = zip(self.inverse.values(), v, strict=True)
        return [vectors.T @ (d * (vectors @ x)) for (vectors, d), x in factors]

    def kernel(self, u: Tensor) -> Tensor:
        """J M J^T u"""
        self.products += 1
        return self.push(self.metric(self.pull(u)))

    @torch.no_grad()
    def add(self, network: HamiltonianModel, step: list[Tensor]) -> None:
        """Give a network the weights that stand here, plus a step."""
        every = dict(network.named_parameters())
        for (name, x), d in zip(self.weights.items(), step, strict=True):
            every[name].copy_(x + d)


def _inverse_grams(layer: LastLayer, cut: float) -> Iterator[tuple[str, Factors]]:
    """M of each of the weights, in factors: (X^T X)^-1, X: features [rows, inputs] in the scale of what they make."""
    largest = max(float(f.rows.norm()) for f in layer.features)
    for f in layer.features:
        parts = [_inverse_gram(part, cut, ABSENT * largest) for part in (f.rows[:, : f.first], f.rows[:, f.first :])]
        v, inverse = zip(*parts, strict=True)  # parities do not mix
        yield f"{layer.name}.{f.name}", (torch.block_diag(*v), torch.cat(inverse)[:, None])
    yield f"{layer.name}.bias", (torch.eye(len(layer.bias)).to(layer.bias), 1 / layer.bias.clamp(min=1e-300))


def _inverse_gram(x: Tensor, cut: float, absent: float) -> tuple[Tensor, Tensor]:
    """(V, d) with (X^T X + (cut s_1)^2)^-1 = V^T d V by the singular values s of X [rows, n]; d = 0 where X is rounding."""
    n = x.shape[1]
    if n == 0 or float(x.norm()) <= absent:
        return x.new_zeros(n, n), x.new_zeros(n)
    s, v = singular_values(x)
    s = torch.nn.functional.pad(s, (0, n - len(s)))
    return v, 1 / (s.square() + (cut * s[0]).square())


def _conjugate_residuals(kernel: Map, goal: Tensor, accuracy: float, limit: int) -> Tensor:
    """y with |goal - K y| <= accuracy |goal| for a positive semidefinite K, or what `limit` products bring: never a worse y."""
    y, residual = torch.zeros_like(goal), goal
    image = kernel(residual)
    direction, moved, slope = residual, image, float(residual @ image)
    enough = accuracy * float(goal.norm())
    for _ in range(limit - 1):
        if not slope > OUT_OF_REACH * float(residual @ residual):
            break
        length = slope / float(moved @ moved)
        y, residual = y + length * direction, residual - length * moved
        if float(residual.norm()) <= enough:
            break
        image = kernel(residual)
        slope, before = float(residual @ image), slope
        direction, moved = residual + (slope / before) * direction, image + (slope / before) * moved
    return y


@dataclass
class WeightCycle:
    """A self-consistency cycle in the weights of a network, for one structure or several in one sample (mutable).

    mixing: how dH is made, for each structure on its own; its inputs are predictions that the network has reached.
    rise: a residual so many times the least one (or without a number) sends the last layers back to where it was least,
    forgets the history and halves `share`, of each further dH.
    """

    method: GaussNewton = GaussNewton()
    mixing: Pulay = Pulay(weight=1.0)
    rise: float = 5.0
    share: float = 1.0
    least: float = math.inf
    best: dict[str, Tensor] = field(default_factory=dict)
    histories: list[PulayState] = field(default_factory=list)

    def step(
        self, network: HamiltonianModel, sample: Prepared, residual: Tensor, preconditions: Sequence[Map] | None = None
    ) -> Move:
        """One step, from F - H [size] of what the network now predicts for the sample, in which H may stand for H - H0.

        preconditions: for each structure, of its residual (dft/dielectric.py).
        """
        with torch.no_grad():
            predicted = network(sample).values
        values = predicted.flatten()
        size = float(residual.norm())
        if not size <= self.rise * self.least:
            return self._retreat(network, sample)
        if size < self.least:
            self.least, self.best = size, {k: x.detach().clone() for k, x in _last(network).items()}
        if size == 0:
            return Move(values, 0.0, 0, 0.0)
        self.histories = self.histories or [PulayState(self.mixing) for _ in sample.sizes]
        pieces = (x.view_as(predicted).split(list(sample.sizes), -1) for x in (values, residual))
        targets = [
            history.next(h.flatten(), r.flatten(), *(preconditions[k : k + 1] if preconditions else ())).view_as(h)
            for k, (history, h, r) in enumerate(zip(self.histories, *pieces, strict=True))
        ]
        return self.method.move(network, sample, self.share * (torch.cat(targets, -1).flatten() - values))

    def _retreat(self, network: HamiltonianModel, sample: Prepared) -> Move:
        self.share *= 0.5
        for history in self.histories:
            history.forget()
        with torch.no_grad():
            for k, x in _last(network).items():
                x.copy_(self.best.get(k, x))
            return Move(network(sample).values.flatten(), 1.0, 0, 0.0, retreat=True)

    def state_dict(self) -> dict[str, Any]:
        """What a cycle that was cut off goes on from; the weights are the network's own."""
        histories = [{"inputs": list(h.inputs), "residuals": list(h.residuals)} for h in self.histories]
        return {"share": self.share, "least": self.least, "best": dict(self.best), "histories": histories}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.share, self.least, self.best = state["share"], state["least"], dict(state["best"])
        self.histories = [PulayState(self.mixing, list(h["inputs"]), list(h["residuals"])) for h in state["histories"]]


def _last(network: HamiltonianModel) -> dict[str, nn.Parameter]:
    return {k: x for k, x in network.named_parameters() if k.startswith(network.last_layer_names)}
