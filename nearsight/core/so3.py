"""Rotations: the one convention for real spherical harmonics, Wigner matrices and coupling coefficients.

Convention. Real harmonics Y_lm, m = -l..l, orthonormal on the sphere, without the (-1)^m of Condon and Shortley:
p = (y, z, x), d = (xy, yz, z2, xz, x2-y2).  Y_l(R x) = D^l(R) Y_l(x) defines the Wigner matrix D^l(R), orthogonal.
Other programs' orders and signs are undone in `io/`; e3nn's harmonics are ours with its axes (y, z, x) renamed to (x, y, z).
"""

from __future__ import annotations

from functools import cache
from math import factorial, pi, sqrt

import numpy as np
import torch
from torch import Tensor


def solid_harmonics(l_max: int, vectors: Tensor) -> list[Tensor]:
    """r^l Y_lm(r) for l = 0..l_max: a list of [..., 2l+1], polynomials in x, y, z (smooth at the origin).

    vectors: [..., 3].  Recursion for sin/cos parts in (x, y) and for Legendre functions in (z, r^2), both exact polynomials.
    """
    x, y, z = vectors.unbind(-1)
    r2 = (vectors * vectors).sum(-1)
    one = torch.ones_like(x)
    cos_m, sin_m = [one], [torch.zeros_like(x)]  # Re, Im of (x + iy)^m
    for _ in range(l_max):
        cos_m.append(x * cos_m[-1] - y * sin_m[-1])
        sin_m.append(x * sin_m[-1] + y * cos_m[-2])
    # q[l][m] = r^(l-m) P_lm(z/r) / sin^m, without the (-1)^m
    q: list[list[Tensor]] = []
    for l in range(l_max + 1):
        row = []
        for m in range(l + 1):
            if m == l:
                row.append(one * float(np.prod(np.arange(1, 2 * l, 2))))
            elif m == l - 1:
                row.append((2 * l - 1) * z * q[l - 1][m])
            else:
                row.append(((2 * l - 1) * z * q[l - 1][m] - (l + m - 1) * r2 * q[l - 2][m]) / (l - m))
        q.append(row)
    result = []
    for l in range(l_max + 1):
        columns: list[Tensor] = [one] * (2 * l + 1)
        for m in range(l + 1):
            norm = sqrt((2 * l + 1) / (4 * pi) * factorial(l - m) / factorial(l + m))
            if m == 0:
                columns[l] = norm * q[l][0]
            else:
                columns[l + m] = sqrt(2) * norm * q[l][m] * cos_m[m]
                columns[l - m] = sqrt(2) * norm * q[l][m] * sin_m[m]
        result.append(torch.stack(columns, -1))
    return result


def spherical_harmonics(l_max: int, vectors: Tensor) -> list[Tensor]:
    """Y_lm of the directions of `vectors` [..., 3]: a list over l of [..., 2l+1]. A zero vector counts as +z."""
    r = vectors.norm(dim=-1, keepdim=True)
    up = vectors.new_tensor([0.0, 0.0, 1.0])
    direction = torch.where(r > 0, vectors / torch.where(r > 0, r, torch.ones_like(r)), up)
    return solid_harmonics(l_max, direction)


@cache
def _wigner_sample(l: int) -> tuple[np.ndarray, np.ndarray]:
    """Directions [s, 3] and the pseudo-inverse [s, 2l+1] of Y_l on them, well conditioned for every l."""
    count = 4 * (2 * l + 1)
    i = np.arange(count) + 0.5
    z, phi = 1 - 2 * i / count, np.pi * (1 + sqrt(5)) * i
    s = np.sqrt(1 - z * z)
    directions = np.stack([s * np.cos(phi), s * np.sin(phi), z], -1)
    values = solid_harmonics(l, torch.as_tensor(directions))[l].numpy()
    return directions, np.linalg.pinv(values).T


def wigner(l: int, rotation: Tensor) -> Tensor:
    """D^l(R) [..., 2l+1, 2l+1] for any element R [..., 3, 3] of O(3), by interpolation of Y_l(R x) on fixed directions x.

    Exact to round-off: Y_l(R x_s) = D Y_l(x_s) for more directions than unknowns, with a constant pseudo-inverse.
    """
    directions, inverse = _wigner_sample(l)
    x = rotation.new_tensor(directions)
    rotated = torch.einsum("...ab,sb->...sa", rotation, x)
    return torch.einsum("...sm,sn->...mn", solid_harmonics(l, rotated)[l], rotation.new_tensor(inverse))


def _complex_clebsch_gordan(l1: int, m1: int, l2: int, m2: int, l3: int, m3: int) -> float:
    """<l1 m1 l2 m2 | l3 m3> by Racah's formula, in exact integers up to the final square root."""
    if m1 + m2 != m3 or not abs(l1 - l2) <= l3 <= l1 + l2:
        return 0.0
    f = factorial
    total = 0.0
    for k in range(max(0, l2 - l3 - m1, l1 - l3 + m2), min(l1 + l2 - l3, l1 - m1, l2 + m2) + 1):
        denominator = f(k) * f(l1 + l2 - l3 - k) * f(l1 - m1 - k) * f(l2 + m2 - k)
        total += (-1) ** k / (denominator * f(l3 - l2 + m1 + k) * f(l3 - l1 - m2 + k))
    triangle = f(l1 + l2 - l3) * f(l1 - l2 + l3) * f(-l1 + l2 + l3) / f(l1 + l2 + l3 + 1)
    states = f(l1 + m1) * f(l1 - m1) * f(l2 + m2) * f(l2 - m2) * f(l3 + m3) * f(l3 - m3)
    return sqrt((2 * l3 + 1) * triangle * states) * total


def real_from_complex(l: int) -> np.ndarray:
    """Unitary U with Y_real = U Y_complex (Condon-Shortley phase), rows m = -l..l."""
    u = np.zeros((2 * l + 1, 2 * l + 1), dtype=complex)
    u[l, l] = 1
    for m in range(1, l + 1):
        u[l + m, l + m], u[l + m, l - m] = (-1) ** m / sqrt(2), 1 / sqrt(2)
        u[l - m, l + m], u[l - m, l - m] = -1j * (-1) ** m / sqrt(2), 1j / sqrt(2)
    return u


@cache
def angular_momentum(l: int) -> np.ndarray:
    """(L_x, L_y, L_z) [3, 2l+1, 2l+1] between real harmonics m = -l..l, complex128: imaginary and antisymmetric."""
    m = np.arange(-l, l + 1)
    up = np.diag(np.sqrt(l * (l + 1) - m[:-1] * (m[:-1] + 1)), -1)  # <m + 1| L_+ |m>
    parts = np.stack([(up + up.T) / 2, (up - up.T) / 2j, np.diag(m)])
    u = real_from_complex(l).conj()  # the real functions are sum_m U Y_m: <a| L |b> = conj(U) L U^T
    return np.ascontiguousarray(u @ parts @ u.conj().T)


@cache
def clebsch_gordan(l1: int, l2: int, l3: int) -> np.ndarray:
    """Real coupling tensor C [2l1+1, 2l2+1, 2l3+1], float64: sum_{m1 m2} C C' = delta over (l3, m3).

    Invariant: C = C contracted with D^l1, D^l2, D^l3 of any proper rotation. For l1 + l2 + l3 odd the phase i is dropped
    (the tensor is then a pseudo-tensor, e.g. the cross product for 1 x 1 -> 1).
    """
    c = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1), dtype=complex)
    for m1 in range(-l1, l1 + 1):
        for m2 in range(-l2, l2 + 1):
            if abs(m1 + m2) <= l3:
                c[m1 + l1, m2 + l2, m1 + m2 + l3] = _complex_clebsch_gordan(l1, m1, l2, m2, l3, m1 + m2)
    u1, u2, u3 = real_from_complex(l1), real_from_complex(l2), real_from_complex(l3)
    real = np.einsum("am,bn,ck,mnk->abc", u1.conj(), u2.conj(), u3, c)
    return np.ascontiguousarray(real.imag if (l1 + l2 + l3) % 2 else real.real)


@cache
def gaunt(l1: int, l2: int, l3: int) -> np.ndarray:
    """Integral of Y_l1m1 Y_l2m2 Y_l3m3 over the sphere [2l1+1, 2l2+1, 2l3+1], float64; zero unless l1 + l2 + l3 is even."""
    if (l1 + l2 + l3) % 2 or not abs(l1 - l2) <= l3 <= l1 + l2:
        return np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1))
    scale = sqrt((2 * l1 + 1) * (2 * l2 + 1) / (4 * pi * (2 * l3 + 1)))
    return scale * _complex_clebsch_gordan(l1, 0, l2, 0, l3, 0) * clebsch_gordan(l1, l2, l3)


def spin_half(rotation: Tensor) -> Tensor:
    """D(1/2) [2, 2] of a rotation R [3, 3], complex128 in SU(2): U (v.sigma) U^dagger = (R v).sigma, up to the sign of U.

    An improper R counts as -R: inversion leaves spin alone. By the quaternion of R, from its largest component.
    """
    r = rotation.detach().to("cpu", torch.float64)
    r = r * torch.sign(torch.linalg.det(r))
    t = float(r.trace())
    k = torch.stack(
        [
            torch.stack([r.new_tensor(t), r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]]),
            torch.stack([r[2, 1] - r[1, 2], 2 * r[0, 0] - t, r[0, 1] + r[1, 0], r[0, 2] + r[2, 0]]),
            torch.stack([r[0, 2] - r[2, 0], r[0, 1] + r[1, 0], 2 * r[1, 1] - t, r[1, 2] + r[2, 1]]),
            torch.stack([r[1, 0] - r[0, 1], r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], 2 * r[2, 2] - t]),
        ]
    )
    w, x, y, z = torch.linalg.eigh(k)[1][:, -1].to(torch.complex128)
    return torch.stack([torch.stack([w - 1j * z, -y - 1j * x]), torch.stack([y - 1j * x, w + 1j * z])])
