"""Fields of a structure as features of its atoms: what superposed atoms, or the first step of self-consistency, say of each.

A field v on the mesh is projected on the functions of every atom that a density is made of (density_form.py),

    v_aqlm = V sum_G conj(f_aqlm(G)) w(G) v_G,   w = 1 for potentials, 4 pi / G^2 + 1 for densities,

numbers that turn with the crystal as the coefficients of a density do. Their scale, and for l = 0 the mean of each element, are
those of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nearsight.core.errors import BadInput
from nearsight.models.density_form import DensityForm
from nearsight.models.layers import Irreps, Linear
from nearsight.models.targets import Inputs

LEAST_SPREAD = 0.03  # of a field's size, where the data hardly tell its spread


def _potential(inputs: Inputs) -> list[Tensor]:
    """Of superposed atoms: electrostatic [Ha], of exchange and correlation [Ha], and their density [1/Bohr^3]."""
    functional = inputs.require("functional")
    electrostatic, whole = functional.initial_potential(electrostatic=True), functional.initial_potential()
    return [electrostatic, whole - electrostatic, functional.system.atomic_density]


def _response(inputs: Inputs) -> list[Tensor]:
    """n_1 - n_atoms and n_out - n_1 of the first step of self-consistency [1/Bohr^3]."""
    return list(inputs.require("response"))


@dataclass(frozen=True)
class Fields:
    """count: of fields that come together.  density: whether they are weighted as densities.  fields: on the mesh [x, y, z]."""

    count: int
    density: bool
    fields: Callable[[Inputs], list[Tensor]]


FIELDS = {"potential": Fields(3, False, _potential), "response": Fields(2, True, _response)}


def atom_fields(form: DensityForm, names: Sequence[str], inputs: Inputs) -> Tensor:
    """Projections of all fields, for each atom by l, m, field and radial function [atoms, dim], float64, on the CPU."""
    functional = inputs.require("functional")
    structure, mesh = functional.structure, functional.mesh
    fields = [(v, FIELDS[name].density) for name in names for v in FIELDS[name].fields(inputs)]
    rows = form.project(structure, mesh, fields).view(-1, len(structure), form.count)
    columns = []
    for l, own in form.blocks():
        part = rows[:, :, own].view(len(rows), len(structure), 2 * l + 1, form.radial)
        columns.append(part.permute(1, 2, 0, 3).flatten(1))
    return torch.cat(columns, 1).cpu()


class AtomFields(nn.Module):
    """The scales of projections [atoms, dim] by what the data have, and their irreps.

    elements: how many.  names: of the fields.  Raises BadInput for a name that is none, or twice the same.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, form: DensityForm, names: Sequence[str], elements: int) -> None:
        super().__init__()
        self.names = tuple(names)
        if not set(names) <= set(FIELDS) or len(set(names)) < len(self.names):
            raise BadInput(f"model.inputs {list(names)}: take each of {', '.join(FIELDS)} once, or none")
        channels = form.radial * sum(FIELDS[n].count for n in names)
        self.irreps = Irreps((channels,) * (form.l_max + 1), (0,) * (form.l_max + 1))
        self.register_buffer("mean", torch.zeros(elements, self.irreps.dim))
        self.register_buffer("scale", torch.ones(self.irreps.dim))

    @torch.no_grad()
    def fit(self, kept: Iterable[tuple[Tensor, Tensor]]) -> None:
        """From elements [atoms] and projections [atoms, dim] of all structures."""
        species, values = (torch.cat(parts) for parts in zip(*kept, strict=True))
        values = values.double().cpu()
        for l, start, c in self.irreps.blocks():
            columns = slice(start, start + (2 * l + 1) * c)
            part = values[:, columns].view(len(values), 2 * l + 1, c)
            size = part.square().mean((0, 1)).sqrt()
            if l == 0:
                means = part.new_zeros(len(self.mean), c)
                for z in species.unique().tolist():
                    means[z] = part[species == z].mean((0, 1))
                part = part - means[species][:, None, :]
                self.mean[:, columns] = means.to(self.mean)
            spread = part.square().mean((0, 1)).sqrt()
            spread = spread.maximum(LEAST_SPREAD * size).clamp(min=1e-3 * float(size.max()) + 1e-9)
            self.scale[columns] = spread.repeat(2 * l + 1).to(self.scale)

    def forward(self, values: Tensor, species: Tensor) -> Tensor:
        """Projections [atoms, dim] in units of their scales."""
        return (values - self.mean[species]) / self.scale

    def strength(self, values: Tensor) -> Tensor:
        """Of projections [atoms, dim] the root mean square over those of the last field, in units of the scales [atoms, 1]."""
        radial = self.irreps.true[0] // sum(FIELDS[n].count for n in self.names)
        last = torch.cat(
            [
                torch.arange(s, s + (2 * l + 1) * c).view(-1, c)[:, -radial:].flatten()
                for l, s, c in self.irreps.blocks()
            ]
        )
        last = last.to(values.device)
        return ((values / self.scale)[:, last].square().mean(1, keepdim=True) + 1e-12).sqrt()

    def entrance(self, features: Irreps) -> Linear:
        """A new linear map into features of atoms."""
        return Linear(self.irreps, features, 1.0)
