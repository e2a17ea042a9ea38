"""Gaussian basis sets by the names that PySCF knows (def2-svp, cc-pvdz, 6-31g*, gth-dzvp, ...)."""

from __future__ import annotations

import warnings
from functools import lru_cache
from math import gamma
from typing import Any

import numpy as np

from nearsight.core.errors import BadInput, MissingData, Unavailable
from nearsight.core.gaussians import GaussianBasis, GaussianShell
from nearsight.core.structure import SYMBOLS

HIGHEST_L = 6


@lru_cache(maxsize=256)
def gaussian_basis(symbol: str, name: str) -> GaussianBasis:
    """The basis of an element: spherical functions, each of unit norm, in PySCF's order of shells (by l).

    Raises Unavailable without PySCF, BadInput for a name that it does not know, MissingData for an element without that basis.
    """
    library = _library()
    entries = _entries(library, symbol, name)
    electrons = float(SYMBOLS.index(symbol)) - _core(library, symbol, name)
    shells = list[GaussianShell]()
    for l in sorted({int(e[0]) for e in entries}):
        if l > HIGHEST_L:
            raise BadInput(f"{name} has orbitals of l = {l} for {symbol}, where 0 to {HIGHEST_L} can be computed")
        for entry in (e for e in entries if e[0] == l):
            rows = np.array([row for row in entry[1:] if not isinstance(row, int)], dtype=np.float64)
            shells += [_normalised(l, rows[:, 0], rows[:, 1 + k]) for k in range(rows.shape[1] - 1)]
    if not shells:
        raise MissingData(f"{name} has no orbitals for {symbol}: take another basis")
    return GaussianBasis(symbol, SYMBOLS.index(symbol), tuple(shells), electrons, {"gaussian": name})


def _normalised(l: int, a: np.ndarray, c: np.ndarray) -> GaussianShell:
    """Coefficients are of primitives of unit norm: int r^(2l+2) exp(-2 a r^2) dr = Gamma(l + 3/2) / 2 (2a)^(l + 3/2)."""
    half = gamma(l + 1.5) / 2
    weights = c * np.sqrt((2 * a) ** (l + 1.5) / half)
    norm = weights @ (half / (a[:, None] + a[None]) ** (l + 1.5)) @ weights
    return GaussianShell(l, a, weights / np.sqrt(norm))


def _library() -> Any:
    try:
        from pyscf.gto import basis
    except ImportError as error:
        raise Unavailable("Gaussian basis sets come from PySCF: pip install pyscf (or nearsight[pyscf])") from error
    return basis


def _entries(library: Any, symbol: str, name: str) -> list[Any]:
    """[[l, (kappa,) [exponent, coefficient, ...], ...], ...] as PySCF has it."""
    known = _key(name) in {_key(k) for k in library.ALIAS} | {_key(k) for k in getattr(library, "GTH_ALIAS", ())}
    try:
        with warnings.catch_warnings(action="ignore"):  # of further packages that it could ask
            found = library.load(name, symbol)
    except Exception as error:  # whatever PySCF stumbles over: a name, an element, a file
        if known:
            raise MissingData(f"the basis {name} has no orbitals for {symbol}: take another basis") from error
        raise BadInput(f"PySCF knows no basis {name!r}: give one of its names, such as def2-svp or cc-pvdz") from error
    if not found:
        raise MissingData(f"the basis {name} has no orbitals for {symbol}: take another basis")
    return list(found)


def _key(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def _core(library: Any, symbol: str, name: str) -> float:
    """Electrons of the effective core potential that belongs to the basis; 0 without one."""
    try:
        if _key(name).startswith("gth"):  # [electrons of s, p, d, ...]
            return float(SYMBOLS.index(symbol) - sum(library.load_pseudo("gth-pbe", symbol)[0]))
        found = library.load_ecp(name, symbol)
    except Exception:  # there is none
        return 0.0
    return float(found[0]) if found else 0.0
