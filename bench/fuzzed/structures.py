"""Files of structures and of fields on a mesh."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.io import write as write_ase

from fuzzed.contract import STORED, Fuzzed, altered, require
from nearsight.core.structure import Structure
from nearsight.core.units import BOHR_ANG
from nearsight.formats import registry
from nearsight.formats.structures import frames, read_structure
from nearsight.formats.volumetric import read_cube, read_xsf, write_cube, write_xsf

#: kind -> files: the name and ASE's word for the format
FILES = {
    "poscar": {"POSCAR": "vasp"},
    "xyz": {"s.xyz": "extxyz", "frames.xyz": "extxyz"},
    "cif": {"s.cif": "cif"},
    "ase": {
        "s.traj": "traj",
        "geometry.in": "aims",
        "s.pdb": "proteindatabank",
        "s.gen": "gen",
        "XDATCAR": "vasp-xdatcar",
        "s.xsf": "xsf",
        "s.json": "json",
        "s.res": "res",
        "packed.xyz.gz": "extxyz",
    },
}


def _structures(kind: str) -> Callable[[Path], list[Path]]:
    """Water in a box and rock salt, with moments where a file can hold them."""

    def originals(folder: Path) -> list[Path]:
        from ase.build import bulk, molecule

        water = molecule("H2O", vacuum=3.0, pbc=True)
        salt = bulk("NaCl", "rocksalt", a=5.64)
        salt.set_initial_magnetic_moments([0.5, -0.5])
        files = []
        for name, format in FILES[kind].items():
            for n, atoms in enumerate((water, salt)):
                (folder / f"{n}{name}").mkdir()
                files.append(folder / f"{n}{name}" / name)
                several = format == "vasp-xdatcar" or name in ("frames.xyz", "packed.xyz.gz")
                write_ase(files[-1], [atoms, atoms] if several else atoms, format=format)
        return files

    return originals


def judge_structure(s: Structure, original: Path) -> None:
    cell, positions = s.cell.numpy() * BOHR_ANG, s.positions.numpy() * BOHR_ANG
    require(bool(np.isfinite(cell).all() and np.isfinite(positions).all()), "not finite")
    require(abs(np.linalg.det(cell)) > 1e-3 and abs(positions).max() <= 1e5, "cell or positions")
    require(0 < len(s) < 1000 and int(s.numbers.min()) > 0 and int(s.numbers.max()) < 104, "atoms")


def _read_structure(path: Path) -> Structure:
    frames(path)
    s = read_structure(path)
    near = s.to_ase().get_all_distances(mic=True)
    np.fill_diagonal(near, 9)
    require(near.min() > 0.29, f"atoms {near.min():.3f} angstrom apart")
    return s


def _volumes(write: Callable[..., None], name: str) -> Callable[[Path], list[Path]]:
    def originals(folder: Path) -> list[Path]:
        from nearsight.formats.volumetric import Volume

        structure = registry.read_structure(STORED / "calculation")
        values = torch.rand(4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        write(folder / name, Volume(structure, values))
        return [folder / name]

    return originals


def _judge_volume(volume: Any, original: Path) -> None:
    judge_structure(volume.structure, original)
    require(volume.values.numel() < 10**4 and bool(torch.isfinite(volume.values).all()), "values")


READERS = {
    **{kind: Fuzzed(_structures(kind), altered, _read_structure, judge_structure) for kind in FILES},
    "cube": Fuzzed(_volumes(write_cube, "n.cube"), altered, read_cube, _judge_volume),
    "xsf": Fuzzed(_volumes(write_xsf, "n.xsf"), altered, read_xsf, _judge_volume),
}
