"""Occupations and the density matrix as one differentiable function of the Hamiltonian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.errors import NearsightError
from nearsight.electrons.eigen import InverseCholeskyFactor
from nearsight.electrons.kpoints import KPoints
from nearsight.electrons.smearing import FERMI_DIRAC, Smearing


def fermi_level(
    energies: Tensor, weights: Tensor, electrons: float, kT: float, smearing: Smearing = FERMI_DIRAC
) -> Tensor:
    """mu with sum_k w_k g f((e - mu) / kT) = electrons, by bisection (energies [s, k, n]; g = 2 / s).

    Raises NearsightError when the bands cannot hold the electrons.
    """
    degeneracy = 2.0 / len(energies) if len(energies) <= 2 else 1.0
    w = degeneracy * weights[None, :, None].expand_as(energies)
    capacity = float(w.sum())
    if not 0 < electrons <= capacity + 1e-9:
        raise NearsightError(f"{electrons:g} electrons do not fit into {capacity:g} states: choose a larger basis")
    if electrons > capacity - 1e-9:
        return energies.max() + 40 * kT
    low, high = energies.min() - 40 * kT, energies.max() + 40 * kT
    for _ in range(200):
        mu = 0.5 * (low + high)
        count = (w * smearing.occupation((energies - mu) / kT)).sum()
        low, high = torch.where(count < electrons, mu, low), torch.where(count < electrons, high, mu)
        if bool((high - low) <= 4e-16 * (high.abs() + low.abs())):
            break
    mu = 0.5 * (low + high)
    # in a gap every mu counts the same to rounding: take its middle
    below, above = energies[energies <= mu], energies[energies > mu]
    if len(below) and len(above):
        middle = 0.5 * (below.max() + above.min())
        if bool(((w * smearing.occupation((energies - middle) / kT)).sum() - electrons).abs() < 1e-11 * electrons):
            return middle
    return mu


def _one_spin_level(energies: Tensor, weights: Tensor, electrons: float, kT: float, smearing: Smearing) -> Tensor:
    """Fermi level of one spin [k, n] that holds `electrons`; far below its levels when it holds none."""
    if electrons < 1e-12:
        return energies.min() - 60 * kT
    return fermi_level(energies[None], weights, 2 * electrons, kT, smearing)


@dataclass(frozen=True, eq=False)
class Occupied:
    """What diagonalisation gives: energies [s, k, n] (Ha), occupations f in 0..1, coefficients C [s, k, n, n], mu (Ha).

    entropy_term: T S of the electrons [Ha].
    """

    energies: Tensor
    occupations: Tensor
    coefficients: Tensor
    fermi_level: Tensor
    entropy_term: Tensor
    kT: float
    weights: Tensor
    smearing: Smearing = FERMI_DIRAC
    fixed_moment: bool = False  # each spin has a Fermi level of its own: fermi_level is [s, 1, 1]

    @property
    def degeneracy(self) -> float:
        """Electrons a full state holds: 2 without spin, 1 with."""
        return 2.0 if len(self.energies) == 1 else 1.0


def occupy(
    factor: InverseCholeskyFactor,
    h_k: Tensor,
    weights: Tensor,
    electrons: float,
    kT: float,
    moment: float | None = None,
    smearing: Smearing = FERMI_DIRAC,
) -> Occupied:
    """Diagonalise dense H(k) [s, k, n, n] and fill the levels at fixed electron number.

    moment: total magnetic moment [mu_B] to hold fixed (collinear spin); None lets it go where the energy leads.
    """
    e, c = factor.solve(h_k)
    if moment is None or len(e) == 1:
        mu = fermi_level(e, weights, electrons, kT, smearing)
    else:  # each spin fills levels of its own; fermi_level counts two electrons a level for a single component
        each = [0.5 * (electrons + moment), 0.5 * (electrons - moment)]
        mu = torch.stack([_one_spin_level(x, weights, n, kT, smearing) for x, n in zip(e, each, strict=True)])[
            :, None, None
        ]
    x = (e - mu) / kT
    f = smearing.occupation(x)
    g = 2.0 if len(e) == 1 else 1.0
    ts = kT * g * torch.einsum("skn,k->", smearing.entropy(x), weights)
    return Occupied(e, f, c, mu, ts, kT, weights, smearing, moment is not None and len(e) == 2)


def response(state: Occupied, f_tilde: Tensor) -> Tensor:
    """P = K o F~ + dmu-term, so that d Tr[G D] = Tr[C P C^dagger dH] where F~ = C^dagger G C; per unit degeneracy and weight.

    The second term is the shift of the Fermi level at fixed electron number:
    dmu-term_ii = -f'_i sum_kj w f'_j F~_jj / sum_kj w f'_j.
    """
    x = (state.energies - state.fermi_level) / state.kT
    kernel = state.smearing.divided_difference(x, state.occupations) / state.kT
    slope = torch.diagonal(kernel, dim1=-2, dim2=-1)
    diagonal = torch.diagonal(f_tilde, dim1=-2, dim2=-1).real
    result = kernel * f_tilde
    return result - torch.diag_embed(_level_shift(state, slope, diagonal).to(result.dtype))


def _level_shift(state: Occupied, slope: Tensor, diagonal: Tensor) -> Tensor:
    """f'_i sum_kj w f'_j F~_jj / sum_kj w f'_j [s, k, m] of the slopes and diagonal elements of the m lowest states."""
    w = state.weights[None, :, None]
    axes = (1, 2) if state.fixed_moment else (0, 1, 2)
    total = (w * slope).sum(axes, keepdim=True)
    mean = (w * slope * diagonal).sum(axes, keepdim=True) / torch.where(
        total != 0, total, torch.full_like(total, -1e-300)
    )
    return slope * mean


@dataclass(frozen=True, eq=False)
class LinearResponse:
    """chi0: the first-order change of D(k) with H(k) at fixed overlap and electron number.

    dD = g C [K o (C^dagger dH C) + dmu-term] C^dagger as in `response`, of which only pairs with an occupied state are made.
    kernel: K [s, k, m, n] of the m lowest states, above which none is occupied.
    """

    state: Occupied
    kernel: Tensor

    @staticmethod
    def of(state: Occupied, negligible: float = 1e-12) -> LinearResponse:
        filled = (state.occupations.abs() > negligible).flatten(0, 1).any(0)
        m = int(filled.nonzero().max()) + 1
        x = (state.energies - state.fermi_level) / state.kT
        kernel = state.smearing.divided_difference(x, state.occupations) / state.kT
        return LinearResponse(state, kernel[..., :m, :].clone())

    def __call__(self, change: Tensor) -> Tensor:
        """dD(k) [s, k, n, n] of dH(k) [s, k, n, n], both hermitian."""
        state, m = self.state, self.kernel.shape[-2]
        lowest = state.coefficients[..., :m]
        p = lowest.mH @ change @ state.coefficients
        slope = torch.diagonal(self.kernel, dim1=-2, dim2=-1)
        shift = _level_shift(state, slope, torch.diagonal(p, dim1=-2, dim2=-1).real)
        p = self.kernel * p
        torch.diagonal(p, dim1=-2, dim2=-1).sub_(shift)
        p[..., :m] *= 0.5  # the pairs of occupied states come twice below
        half = lowest @ p @ state.coefficients.mH
        return state.degeneracy * (half + half.mH)


class _DensityMatrix(torch.autograd.Function):
    """(D values, T S) from H values; the backward pass is the closed form of `response`, with no 1/(e_i - e_j)."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        hamiltonian: BlockMatrix,
        factor: InverseCholeskyFactor,
        kpoints: KPoints,
        electrons: float,
        kT: float,
        smearing: Smearing,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h = kpoints.symmetric(hamiltonian.with_values(values))
        state = occupy(factor, h.at_k(kpoints.k), kpoints.weights, electrons, kT, None, smearing)
        density = density_from(state, h, kpoints)
        ctx.state, ctx.hamiltonian, ctx.kpoints = state, h, kpoints
        ctx.mark_non_differentiable(state.energies, state.fermi_level)
        return density.values, state.entropy_term, state.energies, state.fermi_level

    @staticmethod
    def backward(
        ctx: Any, grad_density: Tensor, grad_entropy: Tensor, _energies: Tensor, _mu: Tensor
    ) -> tuple[Tensor, None, None, None, None, None, None]:
        state: Occupied = ctx.state
        gradient = ctx.kpoints.symmetric(ctx.hamiltonian.with_values(grad_density))
        f_tilde = state.coefficients.mH @ gradient.at_k(ctx.kpoints.k) @ state.coefficients
        # d(TS) = sum_i e_i df_i at fixed electron number: the entropy adds g e_i to the diagonal
        f_tilde = f_tilde + torch.diag_embed((grad_entropy * state.energies).to(f_tilde.dtype))
        dense = state.coefficients @ response(state, f_tilde) @ state.coefficients.mH
        result = ctx.kpoints.integrate(state.degeneracy * dense, ctx.hamiltonian)
        return result.values, None, None, None, None, None, None


def density_from(state: Occupied, like: BlockMatrix, kpoints: KPoints) -> BlockMatrix:
    """D_ij(R) = sum_k w_k g Re[exp(-2 pi i k.R) sum_n f_n C_in C*_jn] on the layout of `like`, over the whole zone."""
    filled = state.coefficients * (state.degeneracy * state.occupations).to(state.coefficients.dtype)[..., None, :]
    return kpoints.integrate(filled @ state.coefficients.mH, like)


@dataclass(frozen=True, eq=False)
class DensityMatrix:
    """D = f(H) with the entropy term T S [Ha], both differentiable in H; the levels [s, k, n] and mu [Ha] are not."""

    matrix: BlockMatrix
    entropy_term: Tensor
    energies: Tensor
    fermi_level: Tensor


def density_matrix(
    hamiltonian: BlockMatrix,
    factor: InverseCholeskyFactor,
    kpoints: KPoints,
    electrons: float,
    kT: float,
    smearing: Smearing = FERMI_DIRAC,
) -> DensityMatrix:
    """The density matrix of a Hamiltonian at fixed electron number, with the derivative of docs/conventions.md.

    For Omega = E[D] - T S, autograd through this gives dOmega/dH = C [K o (F~ - diag e) + dmu-term] C^dagger, which is exact
    for degenerate levels too (eigenvectors are never differentiated).  kT in Ha, > 0.
    """
    if not kT > 0:
        raise NearsightError(
            f"smearing kT must be positive, not {kT:g}; an insulator may take a very small one (0.001 eV)"
        )
    d, ts, e, mu = _DensityMatrix.apply(hamiltonian.values, hamiltonian, factor, kpoints, electrons, kT, smearing)
    return DensityMatrix(hamiltonian.with_values(d), ts, e, mu)
