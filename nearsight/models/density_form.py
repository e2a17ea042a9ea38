"""The form of a density that networks give: Gaussians times real harmonics on the atoms, and the metric it is judged in.

    dn(r) = sum_a sum_qlm c_aqlm f_ql(|r - R_a|) Y_lm(r - R_a), summed over all cells,
    f_ql(G) = (-i)^l |G|^l exp(-G^2 / 4 alpha_q) / (2 sqrt(alpha_q))^l,
    <a, b> = V sum_G (4 pi / G^2 + 1) conj(a_G) b_G,   G = 0 left out.

The metric is the Coulomb energy of a difference of densities (twice), which bounds what a potential makes of it, and a constant
that keeps short waves. Functions of one atom overlap strongly, and what a network gives are coefficients of combinations that
are orthonormal for one atom alone in this metric: for each l, with M_qq' = (2 pi)^-3 int G^2 dG (4 pi / G^2 + 1) f_ql f_q'l,
c_q = sum_p (M^-1/2)_qp c'_p. A density of a neutral structure is neutral: what charge the coefficients would have is taken
from a function with l = 0 of every atom alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import pi, prod, sqrt
from typing import Any

import torch
from torch import Tensor

from nearsight.core.display import one_line
from nearsight.core.errors import BadInput
from nearsight.core.memory import check_room
from nearsight.core.so3 import spherical_harmonics
from nearsight.core.structure import Structure
from nearsight.integrals.mesh import Mesh

EXPONENTS = (0.15, 0.35, 0.8, 1.8, 4.0)  # Bohr^-2
RIDGE = 1e-3
HIGHEST = 120.0  # G^2 of the shortest wave [Bohr^-2]
CHUNK = 2**22  # numbers in memory at one time

_last: dict[str, Any] = {}  # the metric that was made last, and of what


@dataclass(frozen=True, eq=False)
class DensityForm:
    """exponents: alpha_q [Bohr^-2].  l_max: highest l.  waves: largest G^2 [Bohr^-2]."""

    exponents: tuple[float, ...] = EXPONENTS
    l_max: int = 3
    waves: float = HIGHEST

    __repr__ = one_line

    @property
    def radial(self) -> int:
        """Functions of the distance for each l."""
        return len(self.exponents)

    @property
    def count(self) -> int:
        """Coefficients of an atom: for l = 0, 1, ... a block [2l+1, radial], row m = -l..l."""
        return self.radial * (self.l_max + 1) ** 2

    def blocks(self) -> Iterator[tuple[int, slice]]:
        """(l, its coefficients within an atom's)."""
        start = 0
        for l in range(self.l_max + 1):
            width = (2 * l + 1) * self.radial
            yield l, slice(start, start + width)
            start += width

    def tails(self, l: int, g: Tensor) -> Tensor:
        """|f_ql(G)| [..., q], of wave numbers g [...]."""
        alpha = torch.tensor(self.exponents, dtype=g.dtype, device=g.device)
        scaled = g[..., None] / (2 * alpha.sqrt())
        return scaled**l * torch.exp(-scaled.square())

    @cached_property
    def orthonormal(self) -> tuple[Tensor, ...]:
        """For each l the combinations [p, q] that are orthonormal for one atom alone, float64."""
        g = torch.linspace(0, sqrt(self.waves), 4001, dtype=torch.float64)
        weight = (4 * pi + g.square()) / (2 * pi) ** 3
        found = []
        for l in range(self.l_max + 1):
            f = self.tails(l, g)
            gram = torch.trapezoid(weight[:, None, None] * f[:, :, None] * f[:, None, :], g, dim=0)
            values, vectors = torch.linalg.eigh(gram)
            found.append((vectors / values.clamp(min=1e-12 * float(values[-1])).sqrt()).T.contiguous())
        return tuple(found)

    def functions(self, waves: Tensor) -> Tensor:
        """The orthonormal combinations at wave vectors [n, 3], without the phase of the atom's place and without (-i)^l:
        [n, count], real."""
        harmonics = spherical_harmonics(self.l_max, waves)
        g = waves.norm(dim=1)
        parts = []
        for l, _ in self.blocks():
            radial = self.tails(l, g) @ self.orthonormal[l].to(waves).T
            parts.append((harmonics[l][:, :, None] * radial[:, None, :]).flatten(1))
        return torch.cat(parts, 1)

    @cached_property
    def charges(self) -> Tensor:
        """The integral of each function over space [count], e: f(G = 0) Y_00 for l = 0, nothing for l > 0."""
        found = torch.zeros(self.count, dtype=torch.float64)
        found[: self.radial] = self.orthonormal[0].sum(1) / sqrt(4 * pi)
        return found

    @cached_property
    def carrier(self) -> Tensor:
        """What is added to an atom's coefficients for one unit of charge [count]: along the charges, so that it is least."""
        return self.charges / self.charges.square().sum()

    def neutral(self, coefficients: Tensor, sizes: tuple[int, ...]) -> Tensor:
        """Coefficients [atoms, count] of several structures, without the charge of each. sizes: coefficients of each."""
        atoms = torch.tensor([n // self.count for n in sizes], device=coefficients.device)
        owner = torch.repeat_interleave(torch.arange(len(sizes), device=coefficients.device), atoms)
        charge = coefficients @ self.charges.to(coefficients)
        total = charge.new_zeros(len(sizes)).index_add(0, owner, charge) / atoms
        return coefficients - total[owner][:, None] * self.carrier.to(coefficients)

    def metric(self, structure: Structure) -> Tensor:
        """<f, g> of all functions of a structure [n, n], n = atoms * count, float64, on the structure's device.

        That of the last structure is remembered: a sample asks for it twice.
        """
        key = (
            self.exponents,
            self.l_max,
            self.waves,
            *(x.detach().cpu().numpy().tobytes() for x in (structure.cell, structure.positions)),
        )
        if _last.get("key") != key:
            _last.clear()
            _last.update(key=key, metric=self._metric(structure))
        found: Tensor = _last["metric"]
        return found.to(structure.cell.device)

    def _metric(self, structure: Structure) -> Tensor:
        n = len(structure) * self.count
        check_room(16.0 * n * n, f"the metric of {len(structure)} atoms' densities", "take smaller cells to train on")
        found = structure.cell.new_zeros(n, n, dtype=torch.float64)
        for x, _ in self._waves(structure):
            found.addmm_(x.T, x)
        return found

    def fit(self, structure: Structure, mesh: Mesh, density: Tensor, metric: Tensor) -> tuple[Tensor, float]:
        """Neutral coefficients [n] nearest to a density difference [x, y, z] on a mesh, and the norm of what is left.

        metric: of the structure.  Functions of neighbours overlap so strongly that the metric is singular; RIDGE times the norm
        of the coefficients, which is one for a function of an atom alone, keeps them small: 0.02 meV in H of small crystals
        as without it, where the coefficients grow a hundredfold.
        """
        transform = torch.fft.rfftn(density.double()) / mesh.size
        right = metric.new_zeros(len(metric))
        square = 0.0
        for x, place in self._waves(structure):
            index, weight = place
            d = _at(transform, mesh.shape, index) * weight
            d = torch.cat([d.real, d.imag])
            right += x.T @ d
            square += float(d @ d)
        ridge = RIDGE * torch.eye(len(metric)).to(metric)
        charges = self.charges.to(metric).repeat(len(structure))
        free, pull = torch.linalg.solve(metric + ridge, torch.stack([right, charges], 1)).unbind(1)
        found = free - (charges @ free) / (charges @ pull) * pull
        rest = square - 2 * float(found @ right) + float(found @ (metric @ found))
        return found, sqrt(max(rest, 0.0))

    def project(self, structure: Structure, mesh: Mesh, fields: Sequence[tuple[Tensor, bool]]) -> Tensor:
        """<f, v> of every function of a structure with fields v [x, y, z] on a mesh [fields, n], float64.

        fields: each with whether the product is that of the metric, without G = 0, or else the integral of f v.
        """
        transforms = [torch.fft.rfftn(v.double()) / mesh.size for v, _ in fields]
        found = structure.cell.new_zeros(len(structure) * self.count, len(fields), dtype=torch.float64)
        for x, (index, weight) in self._waves(structure):
            shares = [weight if metric else 2 * structure.volume / weight for _, metric in fields]
            d = torch.stack([_at(t, mesh.shape, index) * w for t, w in zip(transforms, shares, strict=True)], 1)
            found.addmm_(x.T, torch.cat([d.real, d.imag]))
        constants = torch.stack([v.new_zeros(()) if metric else v.double().mean() for v, metric in fields])
        return found.T + constants[:, None] * self.charges.to(found).repeat(len(structure))

    def on_mesh(self, structure: Structure, mesh: Mesh, coefficients: Tensor) -> Tensor:
        """The density of coefficients [n] on the points of a mesh [x, y, z], 1/Bohr^3, without G = 0; differentiable.

        Waves that the mesh has not got are left out.
        """
        half = mesh.shape[2] // 2 + 1
        flat = torch.zeros(mesh.shape[0] * mesh.shape[1] * half, dtype=torch.complex128, device=coefficients.device)
        for part in self._indices(structure):
            index = part[_held(mesh.shape, part)]
            waves = index.to(structure.cell) @ structure.reciprocal
            total = self._sum(structure, waves, index, coefficients.to(torch.float64))
            flat = flat + torch.zeros_like(flat).index_add(0, *_places(mesh.shape, index, total))
        return torch.fft.irfftn(flat.view(*mesh.shape[:2], half) * mesh.size, s=mesh.shape)

    def of_atom(self, structure: Structure, mesh: Mesh, atom: int) -> Tensor:
        """n_G of the functions of one atom on the half-complex grid of a mesh [count, x, y, z // 2 + 1], 1/Bohr^3."""
        half = mesh.shape[2] // 2 + 1
        flat = torch.zeros(mesh.shape[0] * mesh.shape[1] * half, self.count, dtype=torch.complex128)
        flat = flat.to(structure.cell.device)
        factor = torch.cat([torch.full((c.stop - c.start,), (-1j) ** l) for l, c in self.blocks()]).to(flat)
        for part in self._indices(structure):
            index = part[_held(mesh.shape, part)]
            waves = index.to(structure.cell) @ structure.reciprocal
            phase = -(waves @ structure.positions[atom])
            turn = torch.polar(torch.ones_like(phase), phase)
            values = self.functions(waves) * (turn[:, None] * factor) / structure.volume
            place, _ = _places(mesh.shape, index, turn)
            flat.index_add_(0, place, torch.cat([values, values[index[:, 2] == 0].conj()]))
        return flat.T.reshape(self.count, *mesh.shape[:2], half)

    def _sum(self, structure: Structure, waves: Tensor, index: Tensor, coefficients: Tensor) -> Tensor:
        """dn_G [n] = 1/V sum_a exp(-i G.R_a) sum_k (-i)^l f_k(G) c_ak."""
        own = coefficients.view(len(structure), self.count) / structure.volume
        phase = -(waves @ structure.positions.T)
        f = self.functions(waves)
        found = torch.zeros(len(waves), dtype=torch.complex128, device=waves.device)
        for l, columns in self.blocks():
            by_atom = f[:, columns] @ own[:, columns].T  # [waves, atoms]
            found = found + (-1j) ** l * (torch.polar(torch.ones_like(phase), phase) * by_atom).sum(1)
        return found

    def _waves(self, structure: Structure) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor]]]:
        """Real matrices X [2 waves, n] with sum X^T X = the metric, with (integers [waves, 3], sqrt of the weights)."""
        n = len(structure) * self.count
        lower = torch.cat([torch.full((2 * l + 1,), l).repeat_interleave(self.radial) for l in range(self.l_max + 1)])
        turn = lower.to(structure.cell.device) % 4
        for index in self._indices(structure, max(64, CHUNK // n)):
            waves = index.to(structure.cell) @ structure.reciprocal
            weight = (2 * structure.volume * (4 * pi / waves.square().sum(1) + 1)).sqrt()
            phase = -(waves @ structure.positions.T)
            f = self.functions(waves) * (weight / structure.volume)[:, None]
            cos, sin = phase.cos()[:, :, None], phase.sin()[:, :, None]
            # (-i)^l (cos + i sin): (cos, sin), (sin, -cos), (-cos, -sin), (-sin, cos)
            real = torch.stack([cos, sin, -cos, -sin])[turn, :, :, 0].permute(1, 2, 0)
            imag = torch.stack([sin, -cos, -sin, cos])[turn, :, :, 0].permute(1, 2, 0)
            x = torch.cat([(real * f[:, None, :]).flatten(1), (imag * f[:, None, :]).flatten(1)])
            yield x, (index, weight)

    def _indices(self, structure: Structure, chunk: int = 2**16) -> Iterator[Tensor]:
        """Integers m of half of the waves G = m @ reciprocal, in parts [n, 3]: m_3 > 0, or m_3 = 0 and m_2 > 0, ..."""
        reach = [int(x) for x in (sqrt(self.waves) * structure.cell.norm(dim=1) / (2 * pi)).floor().tolist()]
        check_room(8.0 * prod(2 * r + 1 for r in reach), "the waves of a density", "take smaller cells")
        device = structure.cell.device
        first, second = (torch.arange(-r, r + 1, device=device) for r in reach[:2])
        plane = torch.cartesian_prod(first, second)
        kept: list[Tensor] = []
        held = 0
        for third in range(reach[2] + 1):
            m = torch.cat([plane, torch.full((len(plane), 1), third, device=device)], 1)
            if third == 0:
                m = m[(m[:, 1] > 0) | ((m[:, 1] == 0) & (m[:, 0] > 0))]
            inside = (m.to(structure.cell) @ structure.reciprocal).square().sum(1) < self.waves
            kept.append(m[inside])
            held += len(kept[-1])
            if held >= chunk or third == reach[2]:
                yield from torch.cat(kept).split(chunk)
                kept, held = [], 0


def _held(shape: tuple[int, int, int], index: Tensor) -> Tensor:
    """Which waves a mesh holds without folding: |m_i| < N_i / 2."""
    half = torch.tensor([(n - 1) // 2 for n in shape], device=index.device)
    return (index.abs() <= half).all(1)


def _at(transform: Tensor, shape: tuple[int, int, int], index: Tensor) -> Tensor:
    """Entries of a half-complex transform at waves [n, 3]; zero where the mesh has not got them."""
    held = _held(shape, index)
    m = torch.where(held[:, None], index, torch.zeros_like(index))
    return torch.where(held, transform[m[:, 0] % shape[0], m[:, 1] % shape[1], m[:, 2]], 0)


def _places(shape: tuple[int, int, int], index: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Flat indices of a half-complex grid and the values there: in the plane m_3 = 0 both of G and -G."""
    half = shape[2] // 2 + 1
    flat = ((index[:, 0] % shape[0]) * shape[1] + index[:, 1] % shape[1]) * half + index[:, 2]
    level = index[:, 2] == 0
    mirror = -index[level]
    other = ((mirror[:, 0] % shape[0]) * shape[1] + mirror[:, 1] % shape[1]) * half
    return torch.cat([flat, other]), torch.cat([values, values[level].conj()])


def default_form(exponents: tuple[float, ...] | None = None, l_max: int | None = None) -> DensityForm:
    """Of exponents [Bohr^-2] and the highest l. Raises BadInput for those of which no density can be made."""
    chosen = EXPONENTS if exponents is None else tuple(exponents)
    if not chosen or len(chosen) > 16 or not all(0.01 <= a <= 20 for a in chosen) or len(set(chosen)) < len(chosen):
        raise BadInput("model.exponents: give 1 to 16 different ones between 0.01 and 20 Bohr^-2")
    highest = 3 if l_max is None else l_max
    if not 0 <= highest <= 6:
        raise BadInput(f"model.l_max {highest}: it must be from 0 to 6")
    return DensityForm(tuple(sorted(chosen)), highest)
