"""Files of orbitals that are fuzzed: sound originals in the forms of other programs, and what an accepted one must be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fuzzed.contract import Fuzzed, require, text
from nearsight.atoms.orbitals import generate_species
from nearsight.formats.basis_files import read_basis

SHELLS = {"C": "s2p2d1", "H": "s2p1"}


def basis_files(kind: str) -> Callable[[Path], list[Path]]:
    """C.orb and H.orb, or C.pao and H.pao, of our own orbitals."""

    def originals(folder: Path) -> list[Path]:
        from tests.formats.basis_writers import orb_text, pao_text, write

        made = {"orb": orb_text, "pao": lambda s: pao_text(s, points=500)}[kind]
        return [write(folder / f"{symbol}.{kind}", made(generate_species(symbol, "pbe"))) for symbol in SHELLS]

    return originals


def read_basis_file(path: Path) -> Any:
    """By the element in the file's name, as from a folder."""
    symbol = path.name[0]
    return read_basis(path, symbol, SHELLS[symbol] if path.suffix == ".pao" else None)


def judge_basis(basis: Any, original: Path) -> None:
    """The same shells, each within 5 % of what it was."""
    sound = read_basis_file(original)
    require(basis.shells == sound.shells and basis.symbol == sound.symbol, "other shells")
    for o, s in zip(basis.orbitals, sound.orbitals, strict=True):
        r = s.radial.r
        one, two = (np.interp(r, f.r, f.values * f.r**f.l, right=0.0) for f in (o.radial, s.radial))
        require(np.abs(one - two).max() < 0.05 * np.abs(two).max(), f"zeta {o.zeta} of l = {o.l} is another function")


READERS = {kind: Fuzzed(basis_files(kind), text, read_basis_file, judge_basis) for kind in ("pao", "orb")}
