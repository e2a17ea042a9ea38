"""The valence levels of the elements, to tell a pseudopotential that was altered where its file states no density of its own.

From the ONCV pseudopotentials that we use, in PBE and in their own configurations [Ha]; other functionals move them by a few
hundredths of a Hartree, other configurations of the d metals by up to 0.27.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

_TABLE = """
H 1s-0.239; He 1s-0.579; Li 1s-1.906 2s-0.106; Be 1s-3.903 2s-0.206; B 2p-0.133 2s-0.347; C 2p-0.194 2s-0.505;
N 2p-0.261 2s-0.683; O 2p-0.332 2s-0.881; F 2p-0.408 2s-1.099; Ne 2p-0.49 2s-1.338;
Na 2p-1.054 2s-2.086 3s-0.101; Mg 2p-1.713 2s-2.934 3s-0.173; Al 2p-2.559 2s-3.975 3p-0.1 3s-0.285;
Si 3p-0.15 3s-0.397; P 3p-0.202 3s-0.513; S 3p-0.258 3s-0.634; Cl 3p-0.316 3s-0.76; Ar 3p-0.377 3s-0.892;
K 3p-0.691 3s-1.299 4s-0.085; Ca 3p-1.029 3s-1.73 4s-0.138; Sc 3d-0.119 3p-1.236 3s-2.022 4s-0.154;
Ti 3d-0.157 3p-1.428 3s-2.301 4s-0.164; V 3d-0.19 3p-1.618 3s-2.581 4s-0.173;
Cr 3d-0.22 3p-1.81 3s-2.865 4s-0.18; Mn 3d-0.249 3p-2.006 3s-3.155 4s-0.188;
Fe 3d-0.285 3p-2.202 3s-3.437 4s-0.202; Co 3d-0.301 3p-2.412 3s-3.762 4s-0.201;
Ni 3d-0.326 3p-2.623 3s-4.08 4s-0.207; Cu 3d-0.35 3p-2.841 3s-4.409 4s-0.214;
Zn 3d-0.373 3p-3.065 3s-4.748 4s-0.22; Ga 3d-0.704 4p-0.095 4s-0.329; Ge 3d-1.077 4p-0.143 4s-0.431;
As 3d-1.503 4p-0.191 4s-0.532; Se 3d-1.962 4p-0.239 4s-0.635; Br 4p-0.289 4s-0.74; Kr 4p-0.34 4s-0.847;
Rb 4p-0.587 4s-1.172 5s-0.082; Sr 4p-0.84 4s-1.504 5s-0.134; Y 4d-0.092 4p-1.026 4s-1.763 5s-0.151;
Zr 4d-0.132 4p-1.193 4s-2.002 5s-0.163; Nb 4d-0.17 4p-1.353 4s-2.235 5s-0.172;
Mo 4d-0.208 4p-1.51 4s-2.465 5s-0.179; Tc 4d-0.245 4p-1.667 4s-2.695 5s-0.185;
Ru 4d-0.282 4p-1.823 4s-2.927 5s-0.191; Rh 4d-0.319 4p-1.981 4s-3.162 5s-0.195;
Pd 4d-0.356 4p-2.14 4s-3.401 5s-0.2; Ag 4d-0.393 4p-2.301 4s-3.643 5s-0.204;
Cd 4d-0.431 4p-2.464 4s-3.889 5s-0.208; In 4d-0.684 5p-0.093 5s-0.302; Sn 4d-0.949 5p-0.136 5s-0.387;
Sb 4d-1.23 5p-0.177 5s-0.471; Te 4d-1.529 5p-0.219 5s-0.555; I 4d-1.845 5p-0.261 5s-0.639;
Xe 4d-2.18 5p-0.303 5s-0.725; Cs 5p-0.5 5s-0.989 6s-0.082; Ba 5p-0.689 5s-1.236 6s-0.119;
La 5d-0.079 5p-0.77 5s-1.37 6s-0.115; Lu 4f-0.355 5d-0.065 5p-1.164 5s-2.245 6s-0.172;
Hf 4f-0.616 5d-0.099 5p-1.311 5s-2.458 6s-0.188; Ta 4f-0.904 5d-0.132 5p-1.454 5s-2.677 6s-0.2;
W 4f-1.215 5d-0.164 5p-1.596 5s-2.9 6s-0.21; Re 5d-0.197 5p-1.737 5s-3.126 6s-0.218;
Os 5d-0.229 5p-1.878 5s-3.357 6s-0.226; Ir 5d-0.262 5p-2.024 5s-3.592 6s-0.233;
Pt 5d-0.295 5p-2.173 5s-3.831 6s-0.239; Au 5d-0.328 5p-2.325 5s-4.077 6s-0.245;
Hg 5d-0.361 5p-2.473 5s-4.329 6s-0.251; Tl 5d-0.568 6p-0.087 6s-0.35; Pb 5d-0.776 6p-0.129 6s-0.441;
Bi 5d-0.992 6p-0.168 6s-0.53; Po 5d-1.214 6p-0.207 6s-0.618; Rn 5d-1.705 6p-0.29 6s-0.815
"""


@cache
def reference_levels() -> dict[str, dict[tuple[int, int], float]]:
    """Symbol -> (n, l) -> level [Ha]."""
    return {
        entry.split()[0]: {
            (int(n), "spdf".index(l)): float(e) for n, l, e in re.findall(r"(\d)([spdf])(-[\d.]+)", entry)
        }
        for entry in _TABLE.split(";")
    }


def strange_level(
    symbol: str, number: int, levels: Iterable[tuple[int, int, float]]
) -> tuple[int, int, float, float] | None:
    """The first of levels (n, l, energy [Ha]) that is none of the element, with the energy that it should have about."""
    known = reference_levels().get(symbol, {})
    d_metal = 21 <= number <= 30 or 39 <= number <= 48 or 57 <= number <= 80
    for n, l, energy in levels:
        about = known.get((n, l))
        if about is not None and abs(energy - about) > 0.05 + 0.1 * abs(about) + (0.25 if d_metal else 0.0):
            return n, l, energy, about
    return None
