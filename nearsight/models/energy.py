"""Energies of magnetic structures, functions of positions and moments, with forces -dE/dr and magnetic forces -dE/dm.

After Yuan et al. (magnetic forces of equivariant networks, 2024) on the features of xdeeph.py: layers of the structure alone,
then one layer of moments, and an invariant of each atom, whose sum is the energy. Both kinds of forces are its derivatives, in
training too, so that the law of energies holds whatever the weights are.

Time reversal leaves an energy as it is: of the moment layer's features of m and -m their mean is taken. What a turn of all
spins alone leaves, nearly all of it, comes from invariants (|m_i|, m_i.m_j, and those of sums of moments over neighbours).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from nearsight.core.calculation import Calculation
from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.spin import NONE, SPINOR, Spin
from nearsight.core.structure import Structure
from nearsight.models.contract import Prepared, Setting, Told, silent
from nearsight.models.deeph2 import SPINOR_PSEUDO, DeepH2Config
from nearsight.models.edges import Edges
from nearsight.models.energy_target import ENERGY, PER_ATOM, atoms_of, in_parts
from nearsight.models.interactions import BondFrameModel, Interaction
from nearsight.models.layers import MLP, envelope
from nearsight.models.moments import SMALLEST, TENSORS, MomentInputs, as_vectors, edge_tensors, yzx
from nearsight.models.so2 import FrameIrreps, edge_rotations, joined, joined_irreps, wigner_matrices
from nearsight.models.targets import Inputs, Prediction, Target

TIED = 0.1  # how much of what ties spins to space a new network lets through
LEAST = 1e-4  # Ha, the least scale of an atom's energy

PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "irreps": "32x0e+16x1o+8x2e+4x1e+4x2o",
        "edge": (32, 4, 16, 8),
        "hidden": (48, 4, 24, 16),
        "layers": 1,
        "width": 48,
    },
    "base": {
        "irreps": "64x0e+32x1o+16x2e+8x3o+8x1e+8x2o+4x3e",
        "edge": (64, 8, 32, 16, 8),
        "hidden": (64, 8, 40, 24, 12),
        "layers": 2,
        "width": 64,
    },
    "large": {
        "irreps": "96x0e+64x1o+32x2e+16x3o+16x1e+16x2o+8x3e",
        "edge": (96, 16, 64, 32, 16),
        "hidden": (128, 16, 80, 48, 24),
        "layers": 3,
        "width": 96,
    },
}


class XDeepHEnergyConfig(DeepH2Config):
    """Keys of deeph2, and those of the moments.

    gaussians: trainable functions of a moment's size.  sums: weighted sums of its neighbours' moments that each atom forms.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    elsewhere: ClassVar[Mapping[str, str]] = {"total": "xdeeph", "delta": "xdeeph"}
    loss: ClassVar[str] = "potential-energy"

    kind: Literal["xdeeph-energy"] = "xdeeph-energy"  # type: ignore[assignment]
    target: Literal["energy"] = "energy"
    preset: Literal["small", "base", "large"] = "small"
    gaussians: int = Field(8, ge=1, le=256)
    sums: int = Field(4, ge=1, le=16)


@dataclass(frozen=True, eq=False)
class EnergySample(Prepared):
    """A structure whose energy can be derived in its positions and moments, or several.

    species: index of each atom's element [atoms].  positions: [atoms, 3], Bohr.  moments: [atoms, 3], mu_B.  i, j: atoms of
    each edge, and shift: the lattice vector to j's cell [edges, 3], Bohr.  owner: structure of each atom [atoms].
    sizes: numbers of each structure's prediction.
    """

    species: Tensor
    positions: Tensor
    moments: Tensor
    i: Tensor
    j: Tensor
    shift: Tensor
    owner: Tensor
    sizes: tuple[int, ...]

    __repr__ = one_line

    @property
    def edge_count(self) -> int:
        """Edges that carry messages, and no fewer than the atoms."""
        return max(len(self.i), len(self.species))

    @classmethod
    def batch(cls, samples: Sequence[EnergySample]) -> EnergySample:
        """Several samples as one."""
        atoms, structures = 0, 0
        i, j, owner = [], [], []
        for s in samples:
            i.append(s.i + atoms)
            j.append(s.j + atoms)
            owner.append(s.owner + structures)
            atoms, structures = atoms + len(s.species), structures + len(s.sizes)
        alike = {n: torch.cat([getattr(s, n) for s in samples]) for n in ("species", "positions", "moments", "shift")}
        sizes = tuple(n for s in samples for n in s.sizes)
        return cls(i=torch.cat(i), j=torch.cat(j), owner=torch.cat(owner), sizes=sizes, **alike)


class XDeepHEnergy(BondFrameModel):
    """Structure and moments -> energy, forces and magnetic forces, invariant under O(3) and time reversal.

        E = sum_i (reference(element of i) + scale * e_i),
        e_i = MLP(invariants of i from |m|, m.m' and the structure, tied * those of features that moments were added to)

    Arguments as of XDeepH.  An atom's energy depends on atoms within (layers + 2) cutoffs.  A new network gives the references.
    """

    Config = XDeepHEnergyConfig
    Sample = EnergySample
    needs = frozenset({"moments"})
    reference: Tensor
    scale: Tensor

    def __init__(
        self,
        shells: Mapping[int, Sequence[int]],
        target: str | Target = "energy",
        *,
        cutoff: float,
        irreps: str,
        edge: Sequence[int],
        hidden: Sequence[int],
        layers: int,
        radial: int = 16,
        width: int = 64,
        neighbours: float = 12.0,
        gaussians: int = 8,
        sums: int = 4,
    ) -> None:
        name = target.name if isinstance(target, Target) else target
        if name != ENERGY.name:
            raise BadInput(f"model.kind xdeeph-energy has target energy, not {name}: take kind xdeeph")
        super().__init__(shells, ENERGY)
        node, edge_irreps, inner = self.begin(
            2,
            cutoff=cutoff,
            reach=cutoff,
            irreps=irreps,
            edge=edge,
            hidden=hidden,
            layers=layers,
            radial=radial,
            width=width,
            neighbours=neighbours,
            pseudo=SPINOR_PSEUDO,
        )
        elements = len(self.shells)
        self.inputs_of_moments = MomentInputs(elements, gaussians, width)
        self.scalars = nn.Linear(width, node.true[0])
        self.vectors = nn.Linear(width, node.pseudo[1])
        self.gathered = nn.Linear(width, sums)
        entering = joined_irreps(edge_irreps, FrameIrreps.of(TENSORS))
        self.moment_layer = Interaction(node, entering, edge_irreps, inner, width, neighbours)
        self.tied = nn.Parameter(torch.tensor(TIED))
        self.head = MLP(2 * node.true[0] + width + 2 * sums, width, width, 1)
        with torch.no_grad():
            last = self.head[-1]
            assert isinstance(last, nn.Linear)
            last.weight.zero_()
            last.bias.zero_()
        self.register_buffer("reference", torch.zeros(elements, 2))
        self.register_buffer("scale", torch.ones(()))

    @classmethod
    def arguments(cls, config: Any, setting: Setting) -> dict[str, Any]:
        """Keyword arguments of the constructor, from the table and the data."""
        shared = {k: v for k, v in super().arguments(config, setting).items() if k != "reach"}  # no edge of a matrix
        return shared | {"gaussians": config.gaussians, "sums": config.sums}

    @property
    def spin(self) -> Spin:
        """Moments are vectors, of collinear data too."""
        return SPINOR

    @property
    def locality(self) -> float:
        """One cutoff for the first features of atoms, one for each interaction, and one for the layer of moments."""
        return (self.layers + 2) * self.cutoff

    @property
    def geometry_settings(self) -> dict[str, Any]:
        """Cutoff and elements."""
        return {"cutoff": self.cutoff, "elements": list(self.shells)}

    def check_spin(self, found: Spin, name: object) -> None:
        """Raises BadInput for data without spin."""
        if found is NONE:
            raise BadInput(f"{name} has spin none, and xdeeph-energy learns magnetic states: compute it with spin")

    def labels(self, calculation: Calculation, inputs: Inputs) -> Tensor:
        """Energy, forces and magnetic forces of a calculation [1, size], float64 (energy_target.py)."""
        return self.target.labels(calculation, inputs)

    def geometry(self, structure: Structure, layout: BlockLayout, inputs: Inputs) -> EnergySample:
        """Edges, positions and moments. Raises BadInput for an unknown element, MissingData without moments."""
        self.check(structure.numbers)
        moments: Tensor = inputs.require("moments")
        structure = structure.to("cpu").to(torch.float64)
        index = {z: k for k, z in enumerate(self.shells)}
        species = torch.tensor([index[z] for z in structure.numbers.tolist()])
        pairs = Pairs.within(structure, self.cutoff)
        other = ~((pairs.i == pairs.j) & (pairs.R == 0).all(1))
        shift = pairs.R[other].to(structure.cell) @ structure.cell
        n = len(structure)
        return EnergySample(
            species,
            structure.positions,
            moments.detach().to("cpu", torch.float64),
            pairs.i[other],
            pairs.j[other],
            shift,
            torch.zeros(n, dtype=torch.int64),
            (2 + PER_ATOM * n,),
        )

    @torch.no_grad()
    def fit_baseline(self, samples: Iterable[tuple[EnergySample, Tensor]], told: Told = silent) -> None:
        """References by least squares over compositions, and a scale, from labels [1, size].

        scale: the largest of the root mean squares of what is left of an atom's energy, of forces times a Bohr, and of magnetic
        forces times a Bohr magneton: where all energies are alike, the forces say how they vary.
        """
        kept = list(samples)
        counts = torch.stack([torch.bincount(s.species, minlength=len(self.shells)).double().cpu() for s, _ in kept])
        energies = torch.stack([labels[0, :2].double().cpu().sum() for _, labels in kept])
        found = torch.linalg.lstsq(counts, energies[:, None], driver="gelsd").solution[:, 0]
        left = (energies - counts @ found) / counts.sum(1)
        self.reference.copy_(in_parts(found))
        slopes = torch.cat([labels[0, 2:].double().cpu() for _, labels in kept])
        columns = torch.cat([(torch.arange(labels.shape[1] - 2) * 2) // (labels.shape[1] - 2) for _, labels in kept])
        known = ~torch.isnan(slopes)
        spreads = [left.square().mean(), *(slopes[known & (columns == k)].square().mean().nan_to_num() for k in (0, 1))]
        self.scale.fill_(max(LEAST, *(float(x.sqrt()) for x in spreads)))

    @torch.no_grad()
    def fit_scales(self, samples: Iterable[tuple[EnergySample, Tensor]], share: float) -> None:
        """As `fit_baseline`."""
        self.fit_baseline(samples)

    def forward(self, sample: EnergySample) -> Prediction:
        """Energy (in whole Ha and the rest), forces, magnetic forces [1, size], each structure's one after the other."""
        trained = torch.is_grad_enabled()
        with torch.enable_grad():
            at, m = (x.detach().requires_grad_() for x in (sample.positions, sample.moments))
            each = self.scale * self.energies(sample, at, m)
            slopes = torch.autograd.grad(each.sum(), (at, m), create_graph=trained)
            structures = each.new_zeros(len(sample.sizes))
            known = self.reference[sample.species]
            whole = structures.index_add(0, sample.owner, known[:, 0])
            rest = structures.index_add(0, sample.owner, known[:, 1] + each)
            atoms = atoms_of(sample.sizes)
            forces, magnetic = ((-x).split(atoms) for x in slopes)
            parts = zip(whole, rest, forces, magnetic, strict=True)
            values = torch.cat([torch.cat([a[None], b[None], f.flatten(), g.flatten()]) for a, b, f, g in parts])[None]
        return Prediction(values if trained else values.detach(), sample.sizes, self.target)

    def energies(self, sample: EnergySample, positions: Tensor, moments: Tensor) -> Tensor:
        """e_i [atoms] beyond the references, in units of `scale`; differentiable in positions and moments [atoms, 3]."""
        i, j, m = sample.i, sample.j, yzx(moments)
        vectors = positions[j] + sample.shift - positions[i]
        edges = Edges(sample.species, i, j, len(i), vectors.norm(dim=1))
        frames = wigner_matrices(self.irreps.l_max, edge_rotations(vectors))
        x, edge, radial, _ = self.pass_messages(edges, frames)
        own = self.inputs_of_moments.atoms(m, edges.species)
        magnetic = self.inputs_of_moments.edges(m, own, radial, edges)
        x = x + torch.nn.functional.pad(self.scalars(own), (0, self.irreps.dim - self.irreps.true[0]))
        vector, tensors = as_vectors(self.vectors(own), m, self.irreps), edge_tensors(m, edges, frames)
        fade = envelope(edges.distance, self.cutoff)[:, None]
        there = FrameIrreps.of(TENSORS)

        def scalars(x: Tensor, of_two: Sequence[Tensor]) -> Tensor:
            near = joined(edge, list(of_two), self.edge_irreps, there)
            y, _ = self.moment_layer(x, near, magnetic, fade, edges, frames)
            return y[:, : self.irreps.true[0]]

        plain = scalars(x, [torch.zeros_like(t) for t in tensors])
        tied = 0.5 * (scalars(x + vector, tensors) + scalars(x - vector, tensors)) - plain
        weights = self.gathered(magnetic) * (fade / self.neighbours**0.5)
        terms = weights[:, :, None] * m[j][:, None]
        sums = m.new_zeros(len(m), terms.shape[1], 3).index_add(0, i, terms)
        along, square = (sums * m[:, None]).sum(2), sums.square().sum(2)
        of_sums = torch.cat([along, square], 1) / (1 + (m.square().sum(1, keepdim=True) + SMALLEST).sqrt())
        found: Tensor = self.head(torch.cat([plain, self.tied * tied, own, of_sums], 1))[:, 0]
        return found
