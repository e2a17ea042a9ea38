"""Networks that give the density: H is the engine's F[n], so that pair physics, Madelung fields and the basis are exact.

Atoms pass messages as in deeph2, and what is read from them are coefficients of n - n_atoms (density_form.py), 80 numbers an
atom: no edges of the matrix are carried through the network, so that a step costs a tenth of one of deeph2. The coefficients
are in the scale of the data: for each element, l and radial combination the spread of the best fits, and for l = 0 their mean.

What limits such a network is the number of structures, not of weights: it fits those it is trained on better than others,
each network in a way of its own. So there are several of them, each trained in turn on what the others are not trained
on at that step, and the density is their mean, which costs nothing beside F[n].

With the baseline `response` the density begins with n_1, that of the first step of self-consistency (dft/response.py), and
networks give what is left. That is not local, and costs a diagonalisation of the structure at its k-points. What is left is of
second order in how strongly electrons answer, so that each atom's coefficients are in units of that: of the part of n_out - n_1
on it, root mean square in units of the data's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from nearsight.core.calculation import Calculation
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.structure import Structure
from nearsight.core.units import HARTREE_EV
from nearsight.models.atom_fields import AtomFields, atom_fields
from nearsight.models.contract import Prepared, Setting, Told, silent
from nearsight.models.deeph2 import DeepH2Config
from nearsight.models.density_form import DensityForm, default_form
from nearsight.models.density_metric import potential_metric
from nearsight.models.density_target import DensityTarget, ResponseDensityTarget
from nearsight.models.edges import Edges, edgewise
from nearsight.models.interactions import BondFrameModel
from nearsight.models.layers import Gate, Irreps, Linear
from nearsight.models.so2 import edge_rotations, wigner_matrices
from nearsight.models.targets import Inputs, Prediction, Target

LEAST_SPREAD = 0.05  # of the largest spread of an l
BASELINES = {"atoms": DensityTarget, "response": ResponseDensityTarget}
UNITS = {"coulomb": "mHa^(1/2) per atom", "potential": "meV of potential"}  # of the loss, by metric


class DensityConfig(DeepH2Config):
    """Keys of deeph2, and those of the form of the density.

    target: density.  exponents: of the Gaussians [Bohr^-2].  l_max: highest l of the density on an atom.  members: networks
    whose mean the density is, trained in turn.  metric: what the loss takes for the size of an error: `coulomb`, its Coulomb
    energy and a constant (density_form.py), or `potential`, the potential that it makes over the electrons (density_metric.py).
    inputs: fields that atoms see beside elements and distances (atom_fields.py): `potential`, of superposed atoms.
    baseline: what the density's difference is from: `atoms`, superposed ones, or `response`, the first step of self-consistency
    from them, which atoms then see as well; that step is not local, and costs one diagonalisation for each prediction.
    """

    elsewhere: ClassVar[Mapping[str, str]] = {}
    loss: ClassVar[str] = "density"

    kind: Literal["deeph2-density"] = "deeph2-density"  # type: ignore[assignment]
    target: Literal["density"] = "density"
    preset: Literal["small", "base", "large"] = "small"
    cutoff_ang: float = Field(5.5, gt=0, le=50)
    exponents: tuple[float, ...] | None = None
    l_max: int = Field(3, ge=0, le=6)
    members: int = Field(4, ge=1, le=64)
    metric: Literal["coulomb", "potential"] = "coulomb"
    inputs: tuple[Literal["potential"], ...] = ()
    baseline: Literal["atoms", "response"] = "atoms"

    @property
    def needs_levels(self) -> bool:
        """With the baseline `response`."""
        return self.baseline == "response"


@dataclass(frozen=True, eq=False)
class DensitySample(Prepared):
    """A structure ready for a network of its density, or several.

    edges: those that carry messages.  wigner: D^l, l = 1.., into each edge's frame.  metric: of the coefficients of each
    structure, flat and one after the other.  sizes: coefficients of each structure.  fields: what atoms see of the
    model's inputs [atoms, dim].
    """

    edges: Edges
    wigner: tuple[Tensor, ...]
    metric: Tensor
    sizes: tuple[int, ...]
    fields: Tensor

    __repr__ = one_line

    @property
    def edge_count(self) -> int:
        """Edges that carry messages, and no fewer than the atoms."""
        return max(len(self.edges), self.edges.atoms)

    def metrics(self) -> list[Tensor]:
        """Of each structure [n, n]."""
        parts = self.metric.split([n * n for n in self.sizes])
        return [m.view(n, n) for m, n in zip(parts, self.sizes, strict=True)]

    @classmethod
    def batch(cls, samples: Sequence[DensitySample]) -> DensitySample:
        """Several samples as one."""
        if len(samples) == 1:
            return samples[0]
        edges = [s.edges for s in samples]
        return DensitySample(
            edges=Edges.batch(edges),
            wigner=tuple(edgewise(w, edges) for w in zip(*(s.wigner for s in samples), strict=True)),
            metric=torch.cat([s.metric for s in samples]),
            sizes=tuple(n for s in samples for n in s.sizes),
            fields=torch.cat([s.fields for s in samples]),
        )


class DeepH2Density(BondFrameModel):
    """Structure -> coefficients of n - n_atoms, equivariant under all of O(3), strictly local but for the neutrality.

    Arguments as of DeepH2; exponents [Bohr^-2], l_max: of the form of the density; members: networks, this one and others like
    it, whose mean is given.  inputs, baseline: see DensityConfig.  A new network gives the mean of the data, and with the
    baseline `response` that alone.
    """

    Config = DensityConfig
    Sample = DensitySample
    mean: Tensor
    scale: Tensor
    column: Tensor

    def __init__(
        self,
        shells: Mapping[int, Sequence[int]],
        target: str | Target = "density",
        *,
        cutoff: float,
        irreps: str,
        edge: Sequence[int],
        hidden: Sequence[int],
        layers: int,
        radial: int = 16,
        width: int = 64,
        neighbours: float = 12.0,
        exponents: Sequence[float] | None = None,
        l_max: int = 3,
        members: int = 1,
        metric: str = "coulomb",
        inputs: Sequence[str] = (),
        baseline: str = "atoms",
    ) -> None:
        if metric not in UNITS:
            raise BadInput(f"model.metric {metric!r} is not known: take one of {', '.join(UNITS)}")
        if baseline not in BASELINES:
            raise BadInput(f"model.baseline {baseline!r} is not known: take one of {', '.join(BASELINES)}")
        self.metric, self.baseline, self.extra = metric, baseline, tuple(inputs)
        self.form: DensityForm = default_form(None if exponents is None else tuple(exponents), l_max)
        name = target.name if isinstance(target, Target) else target
        if name != "density":
            raise BadInput(f"model.kind deeph2-density has target density, not {name}")
        super().__init__(shells, BASELINES[baseline](self.form))
        node, _, _ = self.begin(
            l_max,
            cutoff=cutoff,
            reach=cutoff,
            irreps=irreps,
            edge=edge,
            hidden=hidden,
            layers=layers,
            radial=radial,
            width=width,
            neighbours=neighbours,
        )
        elements = len(self.shells)
        given = Irreps((self.form.radial,) * (l_max + 1), (0,) * (l_max + 1))
        self.gate = Gate(node)
        self.enter, self.leave = Linear(node, self.gate.source), Linear(node, given, 0.0)
        self.factor = nn.Parameter(torch.ones(elements, sum(node.channels)))
        self.register_buffer("column", node.channel_of_column(), persistent=False)
        self.register_buffer("mean", torch.zeros(elements, self.form.count))
        self.register_buffer("scale", torch.ones(elements, self.form.count))
        alike: dict[str, Any] = {"cutoff": cutoff, "irreps": irreps, "edge": edge, "hidden": hidden, "layers": layers}
        alike |= {
            "metric": metric,
            "radial": radial,
            "width": width,
            "neighbours": neighbours,
            "exponents": exponents,
            "l_max": l_max,
            "inputs": inputs,
            "baseline": baseline,
        }
        names = (*inputs, *(["response"] if baseline == "response" else []))
        self.needs = frozenset({"functional"} | set(names) & {"response"}) if names else frozenset()
        self.seen = AtomFields(self.form, names, elements) if names else None
        self.see = None if self.seen is None else self.seen.entrance(node)
        self.others = nn.ModuleList(type(self)(shells, target, **alike) for _ in range(members - 1))
        self.trained: int | None = None

    @classmethod
    def arguments(cls, config: DensityConfig, setting: Setting) -> dict[str, Any]:
        """Keyword arguments of the constructor, from the table and the data."""
        shared = {k: v for k, v in super().arguments(config, setting).items() if k != "reach"}  # no edge of the matrix
        form = default_form(config.exponents, config.l_max)
        return {
            **shared,
            "exponents": list(form.exponents),
            "l_max": form.l_max,
            "members": config.members,
            "metric": config.metric,
            **({"inputs": list(config.inputs)} if config.inputs else {}),
            **({"baseline": config.baseline} if config.baseline != "atoms" else {}),
        }

    @property
    def locality(self) -> float:
        """Infinite: F[n] has the Hartree potential of all atoms, and the charge is shared by all of them."""
        return float("inf")

    @property
    def geometry_settings(self) -> dict[str, Any]:
        """Cutoff, elements, highest l of the frames, and the form of the density."""
        form = self.form
        known = {"exponents": form.exponents, "l_max": form.l_max, "waves": form.waves}
        own = {"cutoff": self.cutoff, "elements": list(self.shells), "l_max": self.irreps.l_max, "form": known}
        seen = {} if self.seen is None else {"fields": self.seen.names}
        return {**own, "metric": self.metric, **seen}

    def geometry(self, structure: Structure, layout: BlockLayout, inputs: Inputs) -> DensitySample:
        """Edges, frames and the metric.

        Raises BadInput for an element that the model does not know, MissingData for `potential` without the functional.
        """
        self.check(structure.numbers)
        sample = self.seeing(self.frames(structure), inputs)
        if self.metric == "coulomb":
            metric = self.form.metric(structure.to("cpu"))
        else:  # such that 1000 sqrt(c.M.c / atoms) is in meV
            metric = potential_metric(self.form, inputs.require("functional")) * (len(structure) * HARTREE_EV**2)
        return replace(sample, metric=metric.flatten())

    def frames(self, structure: Structure) -> DensitySample:
        """Edges and frames, without the metric, and with no fields."""
        structure = structure.to("cpu").to(torch.float64)
        numbers = {z: k for k, z in enumerate(self.shells)}
        species = torch.tensor([numbers[z] for z in structure.numbers.tolist()])
        pairs = Pairs.within(structure, self.cutoff)
        other = ~((pairs.i == pairs.j) & (pairs.R == 0).all(1))
        vectors = pairs.vectors(structure)[other]
        edges = Edges(species, pairs.i[other], pairs.j[other], len(vectors), vectors.norm(dim=1))
        wigner = wigner_matrices(self.irreps.l_max, edge_rotations(vectors))
        nothing, unseen = structure.cell.new_zeros(0), structure.cell.new_zeros(len(structure), 0)
        sizes = (len(structure) * self.form.count,)
        return DensitySample(edges, wigner[: self.irreps.l_max], nothing, sizes, unseen)

    def seeing(self, sample: DensitySample, inputs: Inputs) -> DensitySample:
        """With the fields that atoms see. Raises MissingData where their inputs are not given."""
        if self.seen is None:
            return sample
        return replace(sample, fields=atom_fields(self.form, self.seen.names, inputs))

    def prepare(self, structure: Structure, layout: BlockLayout, inputs: Inputs | None = None) -> DensitySample:
        """For a prediction: without the metric, which only a training needs."""
        self.check(structure.numbers)
        found: DensitySample = self.complete(self.seeing(self.frames(structure), inputs or Inputs()))
        return found

    def labels(self, calculation: Calculation, inputs: Inputs) -> Tensor:
        """Coefficients of the best fit [1, size], float64."""
        return self.target.labels(calculation, inputs)

    @torch.no_grad()
    def fit_baseline(self, samples: Iterable[tuple[DensitySample, Tensor]], told: Told = silent) -> None:
        """Means (l = 0) and spreads of the coefficients of each element from samples and labels [1, size]."""
        self._fit(samples, LEAST_SPREAD, means=self.baseline == "atoms")

    @torch.no_grad()
    def fit_scales(self, samples: Iterable[tuple[DensitySample, Tensor]], share: float) -> None:
        """Spreads alone, none below `share` of the largest of its l: a new network gives superposed atoms."""
        self._fit(samples, max(share, LEAST_SPREAD), means=False)

    def _fit(self, samples: Iterable[tuple[DensitySample, Tensor]], least: float, means: bool) -> None:
        samples = list(samples)
        for member in self.members if self.seen is not None else []:
            assert member.seen is not None
            member.seen.fit((s.edges.species.cpu(), s.fields) for s, _ in samples)
        kept = [(s.edges.species.cpu(), labels.view(-1, self.form.count).double().cpu()) for s, labels in samples]
        species, values = torch.cat([s for s, _ in kept]), torch.cat([v for _, v in kept])
        strength = torch.cat([self.strength(s.fields.to(self.mean)).double().cpu() for s, _ in samples])
        for z in range(len(self.shells)):
            own = values[species == z]
            if not len(own):
                continue
            unit = strength[species == z].square().mean().sqrt()
            for l, columns in self.form.blocks():
                part = own[:, columns].view(len(own), 2 * l + 1, self.form.radial) / unit
                mean = part.mean((0, 1)) if l == 0 and means else part.new_zeros(self.form.radial)
                spread = (part - mean).square().mean((0, 1)).sqrt()
                spread = spread.clamp(min=least * float(spread.max()) + 1e-6)
                for member in self.members:
                    member.mean[z, columns] = mean.repeat(2 * l + 1).to(self.mean)
                    member.scale[z, columns] = spread.repeat(2 * l + 1).to(self.scale)

    def strength(self, fields: Tensor) -> Tensor:
        """What the coefficients of atoms are in units of [atoms, 1]: 1 where the difference is from superposed atoms."""
        if self.baseline == "atoms":
            return fields.new_ones(len(fields), 1)
        assert self.seen is not None
        return self.seen.strength(fields)

    def fitted(self) -> dict[str, Tensor]:
        """Nothing that a sample depends on."""
        return {}

    @property
    def members(self) -> list[DeepH2Density]:
        """The networks whose mean is given."""
        return [self, *cast("Iterable[DeepH2Density]", self.others)]

    def at_step(self, step: int | None) -> None:
        """One member is trained at a step, and `forward` gives it alone; None: all are, and it gives their mean."""
        self.trained = None if step is None else step % len(self.members)
        for k, member in enumerate(self.members):
            for name, p in member.named_parameters():
                if not name.startswith("others."):
                    p.requires_grad_(self.trained in (None, k))

    def within(self, weight: str, part: str) -> bool:
        """As of one network: a part of this one, and the same of the others."""
        member, _, own = weight.removeprefix("others.").partition(".")
        shared = weight.startswith("others.") and member.isdigit() and super().within(own, part)
        return shared or super().within(weight, part)

    def forward(self, sample: DensitySample) -> Prediction:
        """Coefficients [1, size] of the density's difference from atoms, each structure neutral."""
        chosen = self.members if self.trained is None else [self.members[self.trained]]
        values = torch.stack([member.coefficients(sample) for member in chosen]).mean(0)
        return Prediction(values.flatten()[None], sample.sizes, self.target)

    def coefficients(self, sample: DensitySample) -> Tensor:
        """Of this member alone [atoms, count]."""
        edges = sample.edges
        seen = None if self.seen is None or self.see is None else self.see(self.seen(sample.fields, edges.species))
        x, _, _, _ = self.pass_messages(edges, sample.wigner, seen)
        site = self.gate(self.enter(x)) * self.factor[edges.species][:, self.column]
        values = self.leave(site) * self.scale[edges.species] + self.mean[edges.species]
        values = values * self.strength(sample.fields)
        return self.form.neutral(values, sample.sizes)
