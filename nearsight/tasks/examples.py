"""The files of the documentation's commands, made on request: structures, a data set's and a training's configuration."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nearsight.core.configuration import near_miss
from nearsight.core.errors import BadInput
from nearsight.core.reading import read_bytes
from nearsight.formats.files import whole_file
from nearsight.formats.outputs import claim_file

if TYPE_CHECKING:
    from ase import Atoms

SET = """\
# 30 randomly distorted 3x3 cells of graphene: nearsight dataset build set.yaml -o set
structure: graphene.cif
distort: {count: 30, sigma_ang: 0.05, clip_ang: 0.1, seed: 1, supercell: [3, 3, 1]}
scf: {xc: pbe, basis: dzp, kmesh: [4, 4, 1], mesh_cutoff_ry: 200}
"""
MODEL = """\
# a network trained on them for 20 minutes: nearsight train model.yaml -o model
data: {train: set, validation_fraction: 0.1, seed: 0}
model: {kind: deeph2, preset: base, target: total}   # delta learns H - H0 instead
trainer: {max_minutes: 20}
"""


def _graphene() -> Atoms:
    from ase.build import graphene

    atoms = graphene(a=2.46, vacuum=7.5)
    atoms.pbc = True
    return atoms


def _mos2() -> Atoms:
    from ase.build import mx2

    atoms = mx2(formula="MoS2", kind="2H", a=3.18, thickness=3.13, vacuum=7.5)
    atoms.pbc = True
    return atoms


def _molecule(name: str) -> Callable[[], Atoms]:
    def made() -> Atoms:
        from ase.build import molecule

        atoms = molecule(name)
        atoms.set_initial_magnetic_moments(None)
        return atoms

    return made


def _bulk(name: str, crystal: str, a: float) -> Callable[[], Atoms]:
    def made() -> Atoms:
        from ase.build import bulk

        atoms = bulk(name, crystal, a=a)
        atoms.set_initial_magnetic_moments(None)
        return atoms

    return made


#: file -> what it is, and what makes it
STRUCTURES: dict[str, tuple[str, Callable[[], Atoms]]] = {
    "graphene.cif": ("a sheet of graphene, 15 angstrom to its images", _graphene),
    "mos2.cif": ("a monolayer of MoS2", _mos2),
    "si.cif": ("silicon", _bulk("Si", "diamond", 5.431)),
    "gaas.cif": ("gallium arsenide", _bulk("GaAs", "zincblende", 5.653)),
    "fe.cif": ("bcc iron; magnetic: --spin collinear", _bulk("Fe", "bcc", 2.866)),
    "nacl.cif": ("rock salt", _bulk("NaCl", "rocksalt", 5.64)),
    "water.xyz": ("a water molecule, without a cell: --vacuum 5", _molecule("H2O")),
    "o2.xyz": ("an oxygen molecule; a triplet: --spin collinear --moments 1,1", _molecule("O2")),
    "oh.xyz": ("OH; as an ion: --charge -1", _molecule("OH")),
}
CONFIGURATIONS: dict[str, tuple[str, str]] = {
    "set.yaml": ("a data set of distorted graphene", SET),
    "model.yaml": ("a network trained on it", MODEL),
}


def listed() -> dict[str, str]:
    """Every example by its file's name, with what it is."""
    return {name: what for table in (STRUCTURES, CONFIGURATIONS) for name, (what, _) in table.items()}


def write_example(name: str, folder: Path | str = ".") -> Path:
    """Write one example into a folder; its name may leave the ending out.

    Raises BadInput for a name that is not known, or a file of that name with other content.
    """
    known = listed()
    file = next((f for f in known if name in (f, Path(f).stem)), None)
    if file is None:
        stems = [Path(f).stem for f in known]
        raise BadInput(f"no example named {name}{near_miss(name, stems)} (known: {', '.join(known)})")
    place = claim_file(Path(folder) / file)
    if place.exists() and not _is_it(place, file):
        raise BadInput(f"{place} is there already: remove it, or give another folder with -o")
    with whole_file(place) as part:
        _write(part, file)
    return place


def _write(path: Path, file: str) -> None:
    if file in STRUCTURES:
        STRUCTURES[file][1]().write(path, format=Path(file).suffix.removeprefix("."))
    else:
        path.write_text(CONFIGURATIONS[file][1])


def _is_it(place: Path, file: str) -> bool:
    """Whether a file is the example already: to write it once more changes nothing, and sweeps what a dead writer left."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, file)
        _write(made, file)
        return place.is_file() and read_bytes(place) == made.read_bytes()
