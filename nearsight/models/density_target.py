"""The target `density`: labels are best fits of n less what the engine knows of it, and the matrix is F[n], differentiable.

What the engine knows is n_atoms, or, with the first step of self-consistency as the baseline, n_1 (dft/response.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.errors import BadInput
from nearsight.models.density_form import DensityForm
from nearsight.models.targets import Inputs, Target

NEUTRAL = 0.01  # e, as near as the mesh holds the charge of a cell


class DensityTarget(Target):
    """Coefficients of n - n_atoms; n_atoms is that of the functional's own orbitals.

    labels need the density matrix beside the Hamiltonian, and the functional (dft/functional.py) whose mesh n is on.
    """

    name, needs, elements = "density", frozenset({"functional"}), False
    unlearnt = "H is the functional of a density that it has to extrapolate there"

    def __init__(self, form: DensityForm | None = None) -> None:
        self.form = form or DensityForm()

    def baseline(self, inputs: Inputs) -> Tensor:
        """The density that coefficients are added to, on the mesh [x, y, z]: of superposed atoms."""
        density: Tensor = inputs.require("functional").system.atomic_density
        return density

    def labels(self, calculation: Calculation, inputs: Inputs) -> Tensor:
        """Coefficients [1, size], float64. Raises MissingData without a density matrix, BadInput for a charged cell."""
        functional = inputs.require("functional")
        density = functional.grid.density(calculation.require_density_matrix())[0]
        excess = density - self.baseline(inputs).to(density)
        charge = -float(excess.sum() * functional.mesh.volume_element)
        if abs(charge) > NEUTRAL:
            raise BadInput(
                f"{calculation.name} has a charge of {charge:+.3f} e, and target density learns neutral cells: leave it out, "
                "or take target delta"
            )
        structure = functional.structure
        found, _ = self.form.fit(structure, functional.mesh, excess, self.form.metric(structure))
        return found[None].cpu()

    def matrix(self, values: Tensor, inputs: Inputs) -> Tensor:
        """F[baseline + dn] [1, size], Ha, on the functional's layout; its derivative goes through F."""
        functional = inputs.require("functional")
        where = functional.mesh.cell.device
        density = self.form.on_mesh(functional.structure, functional.mesh, values[0].to(where))
        found: Tensor = _KohnSham.apply(self.baseline(inputs).to(density) + density, functional)
        return found.to(values.device)


class ResponseDensityTarget(DensityTarget):
    """Coefficients of n - n_1, n_1 of the first step of self-consistency."""

    needs = frozenset({"functional", "response"})
    unlearnt = "H is that of the first step of self-consistency, with a correction that it has to extrapolate there"

    def baseline(self, inputs: Inputs) -> Tensor:
        """n_1 [x, y, z]."""
        response: Tensor = inputs.require("response")
        return super().baseline(inputs) + response[0]


class _KohnSham(torch.autograd.Function):
    """n -> F[n], and back: the gradient of <g, F[n]> is how F's potential would move with a density of g."""

    @staticmethod
    def forward(ctx: Any, density: Tensor, functional: Any) -> Tensor:
        ctx.functional = functional
        ctx.save_for_backward(density)
        matrix = functional.hamiltonian_of_density(density[None], functional.initial_density_matrix())
        return matrix.values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        [density] = ctx.saved_tensors
        functional = ctx.functional
        slope = BlockMatrix(functional.layout, gradient.to(density))
        return functional.density_gradient(density[None], slope)[0], None
