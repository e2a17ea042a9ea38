"""The part of a periodic mesh that holds something: a molecule in a large box, a sheet with vacuum."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nearsight.core.display import one_line
from nearsight.integrals.mesh import STENCIL, Mesh


@dataclass(frozen=True, eq=False)
class Window:
    """A box of mesh points, along each axis either all of them (periodic) or a stretch that may wrap around the cell.

    Functions cut to it are zero outside; their finite differences inside need no more than that.
    """

    mesh: Mesh
    starts: tuple[int, int, int]
    lengths: tuple[int, int, int]

    __repr__ = one_line

    @staticmethod
    def around(mesh: Mesh, occupied: Tensor) -> Window:
        """The smallest window with all true points of a boolean [x, y, z]; at least a stencil's width of them left out."""
        starts, lengths = [], []
        for axis, n in enumerate(mesh.shape):
            line = occupied.any(dim=tuple(x for x in range(3) if x != axis)).nonzero()[:, 0].tolist()
            start, length = 0, n
            if line:
                gaps = [(b - a - 1, b) for a, b in zip(line, [*line[1:], line[0] + n], strict=True)]
                widest, after = max(gaps)
                if widest >= 2 * len(STENCIL):
                    start, length = after % n, n - widest
            starts.append(start)
            lengths.append(length)
        return Window(mesh, (starts[0], starts[1], starts[2]), (lengths[0], lengths[1], lengths[2]))

    def _indices(self, axis: int) -> Tensor:
        n = self.mesh.shape[axis]
        return (self.starts[axis] + torch.arange(self.lengths[axis], device=self.mesh.cell.device)) % n

    def cut(self, f: Tensor) -> Tensor:
        """The values of f [..., x, y, z] in the window."""
        for axis in range(3):
            if self.lengths[axis] < self.mesh.shape[axis]:
                f = f.index_select(f.ndim - 3 + axis, self._indices(axis))
        return f

    def paste(self, f: Tensor) -> Tensor:
        """f [x, y, z] of the window on the whole mesh, zero elsewhere."""
        for axis in (2, 1, 0):
            n = self.mesh.shape[axis]
            if self.lengths[axis] < n:
                shape = list(f.shape)
                shape[axis] = n
                f = f.new_zeros(shape).index_copy(axis, self._indices(axis), f)
        return f

    def _difference(self, f: Tensor, axis: int) -> Tensor:
        """df/dm along one axis by the seven-point stencil."""
        n = f.shape[axis]
        periodic = n == self.mesh.shape[axis]
        if periodic and n < 3:
            index = torch.arange(-3, n + 3, device=f.device) % n
            padded = f.index_select(axis, index)
        elif periodic:
            padded = torch.cat([f.narrow(axis, n - 3, 3), f, f.narrow(axis, 0, 3)], axis)
        else:
            shape = list(f.shape)
            shape[axis] = 3
            zeros = f.new_zeros(shape)
            padded = torch.cat([zeros, f, zeros], axis)
        result = (padded.narrow(axis, 4, n) - padded.narrow(axis, 2, n)).mul_(STENCIL[0])
        for s in (2, 3):
            result.add_(padded.narrow(axis, 3 + s, n) - padded.narrow(axis, 3 - s, n), alpha=STENCIL[s - 1])
        return result

    def gradient(self, f: Tensor) -> Tensor:
        """Cartesian gradient [3, x, y, z] by seven-point finite differences along the mesh lines."""
        d = torch.stack([self._difference(f, x) for x in range(3)])
        return (self.mesh.inverse_steps @ d.flatten(1)).reshape(d.shape)

    def divergence(self, vector: Tensor) -> Tensor:
        """sum_a d v_a / dr_a for v [3, x, y, z]: minus the exact adjoint of `gradient` (the stencil is antisymmetric)."""
        total: Tensor | None = None
        for x, direction in enumerate(self.mesh.inverse_steps.T):  # one after another: a field is large
            part = self._difference((direction @ vector.flatten(1)).reshape(vector.shape[1:]), x)
            total = part if total is None else total + part
        assert total is not None
        return total
