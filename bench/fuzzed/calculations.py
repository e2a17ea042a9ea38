"""Calculation folders of ours, and the runs of other programs: what is read keeps the laws of matrices."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fuzzed.contract import ROOT, STORED, Fuzzed, altered, require
from fuzzed.structures import judge_structure
from nearsight.core.calculation import Calculation
from nearsight.core.errors import NearsightError
from nearsight.core.spin import COLLINEAR, NONE, SPINOR
from nearsight.formats import registry
from nearsight.properties.check import check

DATA = ROOT / "tests" / "formats" / "data"
LABELS = {8: "O", 14: "Si"}


def _calculations(folder: Path) -> list[Path]:
    """A ground state, a prediction, one of two spins and one of spinors."""
    found = []
    for name in ("calculation", "predicted"):
        shutil.copytree(STORED / name, folder / name)
        found.append(folder / name)
    for name, spin in (("collinear", COLLINEAR), ("spinor", SPINOR)):
        registry.write(folder / name, _invented(spin))
        found.append(folder / name)
    return found


def _invented(spin: Any, density: bool = True) -> Calculation:
    from tests.formats import test_programs

    return test_programs.invented(spin, density=density, reach=4.0)


def _read_calculation(path: Path) -> Any:
    """With what `check` finds, but for the invented matrices, in which it would look for another convention."""
    c = registry.read(path)
    return c, check(c) if c.overlap is not None and c.spin is NONE else []


def _judge(c: Any, original: Path) -> None:
    judge_structure(c.structure, original)
    for name, matrix in c.matrices.items():
        values = matrix.values.numpy()
        require(bool(np.isfinite(values).all()), f"{name} is not finite")
        M = matrix.at_k(torch.tensor([[0.13, 0.27, 0.41]], dtype=torch.float64))[0].numpy()
        require(abs(M - np.conj(np.swapaxes(M, -1, -2))).max() < 1e-3, f"{name} is not hermitian")
        require(abs(values).max() < 1e5, f"{name} of {abs(values).max():.1e}")
    if c.overlap is not None:
        S = c.overlap.at_k(torch.zeros(1, 3, dtype=torch.float64))[0].numpy()
        require(S.diagonal(axis1=-2, axis2=-1).real.min() > 0, "a norm that is not positive")
    for number in (c.fermi_level, c.electrons):
        require(number is None or abs(number) < 1e4, f"a number of {number}")
    for table in (c.forces, c.moments, c.stress):
        require(table is None or bool(torch.isfinite(table).all()), "forces, moments or stress are not finite")


def _judge_calculation(read: Any, original: Path) -> None:
    _judge(read[0], original)


# --- other programs: three atoms with shells to f, as the tests write them; of OpenMX a real run too


def _openmx(folder: Path) -> list[Path]:
    from tests.formats import test_programs, writers

    found = [folder / "h2o"]
    shutil.copytree(DATA / "openmx" / "h2o", found[0])
    for name, spin, version in (("38", NONE, 0), ("39", COLLINEAR, 3)):
        found.append(folder / f"{name}.scfout")
        writers.write_scfout(found[-1], _invented(spin), version, test_programs.WORDS)
    return found


def _siesta(folder: Path) -> list[Path]:
    """HSX of three versions with its XV and DM, NetCDF, and TSHS with ORB_INDX where sisl is there to write it."""
    from importlib.util import find_spec

    from tests.formats import test_programs, writers

    found = [folder / name for name in ("hsx2", "hsx1", "hsx0", "netcdf")]
    for place in found:
        place.mkdir()
    for version in (2, 1, 0):
        writers.write_hsx(folder / f"hsx{version}" / "x.HSX", _invented(NONE), LABELS, version)
    writers.write_dm(folder / "hsx2" / "x.DM", _invented(NONE))
    writers.write_netcdf(folder / "netcdf" / "siesta.nc", _invented(COLLINEAR), LABELS)
    if find_spec("sisl") is not None:
        import sisl

        c = _invented(NONE, density=False)
        found.append(folder / "tshs")
        found[-1].mkdir()
        with sisl.get_sile(found[-1] / "x.TSHS", "w") as file:
            test_programs.sisl_hamiltonian(c).write(file)
        writers.write_orbital_index(found[-1] / "x.ORB_INDX", c)
    return found


def _abacus(folder: Path) -> list[Path]:
    from tests.formats import writers

    found = []
    for name, spin, new in (("new", NONE, True), ("old", COLLINEAR, False), ("spinor", SPINOR, True)):
        found.append(folder / name)
        writers.write_abacus(found[-1], _invented(spin, density=False).reordered([0, 2, 1]), LABELS, new)
    return found


def _aims(folder: Path) -> list[Path]:
    from tests.formats import writers

    found = [folder / "none", folder / "collinear"]
    for place, spin in zip(found, (NONE, COLLINEAR), strict=True):
        writers.write_aims(place, _invented(spin, density=False))
    return found


def _pyscf(folder: Path) -> list[Path]:
    """A molecule and a crystal."""
    from tests.formats import test_programs

    c = _invented(NONE, density=False)
    found = [folder / "molecule.chk", folder / "crystal.chk"]
    test_programs.write_chk(found[0], c.reordered([0, 1, 2]), torch.zeros(1, 3, dtype=torch.float64))
    k = torch.tensor([[i / 2, j / 3, 0.0] for i in range(2) for j in range(3)], dtype=torch.float64)
    test_programs.write_chk(found[1], c, k)
    return found


def _written(name: str) -> Callable[[Path], list[Path]]:
    """Formats that are written too."""

    def originals(folder: Path) -> list[Path]:
        found = []
        for spin in (NONE, COLLINEAR):
            c = _invented(spin)
            if name == "deeph-old" and spin is COLLINEAR:
                c = replace(c, moments=torch.zeros(3, 3, dtype=torch.float64) + 0.5)
            place = folder / spin.name
            try:
                registry.write(place, c, name)
            except NearsightError:  # a spin that the format does not hold
                continue
            found.append(place)
        return found

    return originals


def _levels(folder: Path) -> list[Path]:
    """Levels that a program printed beside its files, of every kind that is known."""
    from nearsight.electrons.eigen import eigenvalues

    c = registry.read(DATA / "graphene_lda_sz")
    k = torch.tensor([[0.0, 0.0, 0.0], [0.25, 0.5, 0.0]], dtype=torch.float64)
    levels = (eigenvalues(c.hamiltonian, c.overlap, k)[0] * 27.211386245988).tolist()
    cartesian = (k @ c.structure.reciprocal).tolist()
    siesta = folder / "siesta"
    siesta.mkdir()
    rows = [f"{n + 1} " + " ".join(f"{e:.9E}" for e in levels[n]) for n in range(2)]
    (siesta / "x.EIG").write_text("\n".join(["-4.0", f"{c.basis.size} 1 2", *rows]) + "\n")
    points = [f"{n + 1} " + " ".join(f"{v:.6E}" for v in cartesian[n]) + " 0.5" for n in range(2)]
    (siesta / "x.KP").write_text("\n".join(["2", *points]) + "\n")
    openmx = []
    for name in ("h2o", "n_chain"):
        openmx.append(folder / name)
        openmx[-1].mkdir()
        for file in (DATA / "openmx" / name).iterdir():
            if file.suffix != ".scfout":
                shutil.copy(file, openmx[-1])
    return [siesta, *openmx]


def _read_levels(path: Path) -> Any:
    from nearsight.formats.levels import levels_beside

    return levels_beside(path, registry.read_structure(DATA / "graphene_lda_sz"), -0.15)


def _judge_levels(levels: Any, original: Path) -> None:
    if levels is None:
        return
    require(bool(torch.isfinite(levels.k).all() and torch.isfinite(levels.energies).all()), "levels are not finite")
    require(levels.energies.shape[1] == len(levels.k) and float(levels.energies.abs().max()) < 1e4, "levels")


READERS = {
    "calculation": Fuzzed(_calculations, altered, _read_calculation, _judge_calculation),
    **{
        name: Fuzzed(originals, altered, registry.read, _judge)
        for name, originals in {
            "deeph-old": _written("deeph-old"),
            "openmx": _openmx,
            "siesta": _siesta,
            "abacus": _abacus,
            "aims": _aims,
            "pyscf": _pyscf,
            "deeptb": _written("deeptb"),
        }.items()
    },
    "levels": Fuzzed(_levels, altered, _read_levels, _judge_levels),
}
