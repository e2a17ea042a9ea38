"""What is fuzzed: for each reader sound originals, ways to alter them, how they are read, and what an accepted one must be.

An oracle is independent of the checks it tests: quadratures by splines, ASE's neighbour lists, numpy's eigenvalues.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mutations
import numpy as np
import torch
from ase.io import write as write_ase
from fuzzed_bases import basis_files, judge_basis, read_basis_file
from mutations import Random, pick
from scipy.interpolate import CubicSpline

from nearsight.atoms.library import pseudopotential
from nearsight.atoms.orbitals import generate_species
from nearsight.atoms.radial import solve_atom
from nearsight.core.species import RadialFunction, Species
from nearsight.core.structure import Structure
from nearsight.core.units import BOHR_ANG, HARTREE_EV
from nearsight.formats import registry
from nearsight.formats.ion_xml import read_ion_xml, write_ion_xml
from nearsight.formats.pseudopotential_files import read_pseudopotential
from nearsight.formats.structures import read_structure
from nearsight.formats.volumetric import read_cube, read_xsf, write_cube, write_xsf

ROOT = Path(__file__).resolve().parent.parent
STORED = ROOT / "tests" / "formats" / "data" / "version1"


class Unsound(Exception):  # noqa: N818
    """What a reader accepted and must not have."""


@dataclass(frozen=True)
class Fuzzed:
    """One reader.

    originals(folder): writes sound files there.  alter(path, random): spoils a copy of one.  read(path): the reader; what it
    raises besides NearsightError is a fault.  judge(read, original path): raises Unsound.
    tame: the same reader for a try without a process of its own, quick and without native code that may crash; None: itself.
    """

    originals: Callable[[Path], list[Path]]
    alter: Callable[[Path, Random], None]
    read: Callable[[Path], Any]
    judge: Callable[[Any, Path], None]
    tame: Fuzzed | None = None


def require(holds: bool, what: str) -> None:
    if not holds:
        raise Unsound(what)


def textual(*ways: mutations.Mutation) -> Callable[[Path, Random], None]:
    def alter(path: Path, random: Random) -> None:
        raw = path.read_bytes()
        for _ in range(1 if random.random() < 0.7 else 2):
            raw = pick(random, ways)(raw, random)
        path.write_bytes(raw)

    return alter


# --- species and pseudopotentials


def _species_files(folder: Path) -> list[Path]:
    made = []
    for symbol in ("H", "O", "Na"):
        made.append(folder / f"{symbol}.ion.xml")
        write_ion_xml(generate_species(symbol, "pbe"), made[-1])
    return made


def _integral(f: RadialFunction, power: int) -> float:
    u = (f.values * f.r**f.l) ** power * f.r**2
    return float(CubicSpline(f.r, u).integrate(0, f.r[-1]))


def _atomic_energy(s: Species) -> float:
    """sum over shells of population <phi| T + V_NA + V_NL |phi> [Ha]: what the engine would make of the tables."""
    total = 0.0
    for o in s.orbitals:
        if o.population > 0:
            f, r = o.radial, o.radial.r
            u = CubicSpline(r, f.values * r ** (f.l + 1))
            v = s.neutral_atom_potential
            potential = np.where(r <= v.cutoff, CubicSpline(v.r, v.values)(np.minimum(r, v.cutoff)), 0)
            centrifugal = 0.5 * f.l * (f.l + 1) * f.values**2 * r ** (2 * f.l)
            e = np.trapezoid(0.5 * u(r, 1) ** 2 + centrifugal + potential * u(r) ** 2, r)
            for p in s.projectors:
                if p.l == f.l:
                    q = p.radial
                    chi = np.where(r <= q.cutoff, CubicSpline(q.r, q.values)(np.minimum(r, q.cutoff)), 0) * r ** (
                        p.l + 1
                    )
                    e += p.energy * np.trapezoid(chi * u(r), r) ** 2
            total += o.population * float(e)
    return total


def _judge_species(s: Species, original: Path) -> None:
    for o in s.orbitals:
        require(abs(_integral(o.radial, 2) - 1) < 5e-3, f"norm {_integral(o.radial, 2):.4f}")
        require(abs(o.radial.values[-1]) < 1e-3 * abs(o.radial.values).max(), "no end")
        require(0 <= o.l <= 3 and 0 <= o.population <= 4 * o.l + 2, "population or l")
    require(abs(sum(o.population for o in s.orbitals) - s.valence) < 1e-2, "populations")
    require(abs(4 * np.pi * _integral(s.local_charge, 1) + s.valence) < 2e-2, "local charge")
    for p in s.projectors:
        require(abs(_integral(p.radial, 2) - 1) < 5e-3, "norm of a projector")
    sound = read_ion_xml(original)
    require((s.symbol, s.number) == (sound.symbol, sound.number), "element")
    if len(s.orbitals) == len(sound.orbitals):
        shift = (_atomic_energy(s) - _atomic_energy(sound)) * HARTREE_EV
        require(abs(shift) < 1.0, f"energy off by {shift:.2f} eV")


def _pseudopotential_files(kind: str) -> Callable[[Path], list[Path]]:
    def originals(folder: Path) -> list[Path]:
        from tests.formats import test_pseudopotentials as made

        if kind == "gth":
            (folder / "C.gth").write_text(made.GTH[made.GTH.index("C GTH") : made.GTH.index("#\nSi")])
            (folder / "Si.gth").write_text(made.GTH[made.GTH.index("Si GTH") : made.GTH.index("#\nCu")])
            return [folder / "C.gth", folder / "Si.gth"]
        files = []
        for symbol in ("C", "Na"):
            pp = pseudopotential(symbol)
            files.append(folder / f"{symbol}.{kind}")
            if kind == "upf":
                shutil.copy(pp.path, files[-1])
            else:
                files[-1].write_text(getattr(made, kind)(pp))
        return files

    return originals


@cache
def _levels(path: Path) -> dict[tuple[int, int], float]:
    return {(s.n, s.l): s.energy for s in solve_atom(read_pseudopotential(path)).shells if s.occupation > 0}


def _judge_pseudopotential(read: Any, original: Path) -> None:
    _, atom = read
    found = {(s.n, s.l): s.energy for s in atom.shells if s.occupation > 0}
    known = _levels(original)
    require(set(found) == set(known), f"shells {sorted(found)} for {sorted(known)}")
    worst = max(abs(found[k] - known[k]) for k in known)
    require(worst < (0.15 if original.suffix == ".gth" else 0.1), f"a level is off by {worst:.3f} Ha")


def _read_and_solve(path: Path) -> Any:
    pp = read_pseudopotential(path)
    return pp, solve_atom(pp)


# --- calculations


def _calculations(folder: Path) -> list[Path]:
    found = []
    for name in ("calculation", "predicted"):
        shutil.copytree(STORED / name, folder / name)
        found.append(folder / name)
    return found


def _alter_calculation(folder: Path, random: Random, raw: float = 0.4) -> None:
    """raw: share of the HDF5 files that are altered byte by byte, which is for a process of its own."""
    file = pick(random, sorted(p for p in folder.iterdir() if p.is_file()))
    if file.suffix == ".h5":
        if random.random() >= raw:
            mutations.hdf5(file, random)
        else:
            textual(mutations.flipped, mutations.overwritten, mutations.cut)(file, random)
    elif file.suffix == ".json" and random.random() < 0.6:
        textual(mutations.json_tree)(file, random)
    else:
        textual(*mutations.TEXT)(file, random)


def _read_calculation(path: Path) -> Any:
    from nearsight.properties.check import check

    c = registry.read(path)
    return c, check(c) if c.overlap is not None else []


def _judge_calculation(read: Any, original: Path) -> None:
    c, _ = read
    _judge_structure(c.structure, original)
    for name, matrix in c.matrices.items():
        values = matrix.values.numpy()
        require(bool(np.isfinite(values).all()), f"{name} is not finite")
        M = matrix.at_k(torch.tensor([[0.13, 0.27, 0.41]], dtype=torch.float64))[0].numpy()
        require(abs(M - np.conj(np.swapaxes(M, -1, -2))).max() < 1e-3, f"{name} is not hermitian")
        require(abs(values).max() < 1e5, f"{name} of {abs(values).max():.1e}")
    for number in (c.fermi_level, c.electrons):
        require(number is None or abs(number) < 1e4, f"a number of {number}")
    for table in (c.forces, c.moments, c.stress):
        require(table is None or bool(torch.isfinite(table).all()), "forces, moments or stress are not finite")


def _of_programs(name: str) -> Callable[[Path], list[Path]]:
    """A run of another program, as the tests write it: three atoms with shells to f."""

    def originals(folder: Path) -> list[Path]:
        from tests.formats import test_programs, writers

        c, labels = test_programs.invented(density=name in ("deeph-old", "deeptb", "openmx")), {8: "O", 14: "Si"}
        place = folder / {"openmx": "x.scfout", "pyscf": "x.chk"}.get(name, "run")
        if name in ("deeph-old", "deeptb"):
            registry.write(place, c, name)
        elif name == "openmx":
            writers.write_scfout(place, c, 3, test_programs.WORDS)
        elif name == "pyscf":
            test_programs.write_chk(place, c.reordered([0, 1, 2]), torch.zeros(1, 3, dtype=torch.float64))
        elif name == "siesta":
            place.mkdir()
            writers.write_hsx(place / "x.HSX", c, labels, 2)
        elif name == "abacus":
            writers.write_abacus(place, c.reordered([0, 2, 1]), labels, True)
        else:
            writers.write_aims(place, c)
        return [place]

    return originals


def _alter_program(path: Path, random: Random, raw: float = 0.4) -> None:
    file = path if path.is_file() else pick(random, sorted(p for p in path.rglob("*") if p.is_file()))
    if file.suffix in (".h5", ".chk"):
        if random.random() >= raw:
            mutations.hdf5(file, random)
        else:
            textual(mutations.flipped, mutations.overwritten, mutations.cut)(file, random)
    elif file.suffix in (".scfout", ".HSX"):
        textual(mutations.flipped, mutations.overwritten, mutations.cut, mutations.moved)(file, random)
    else:
        textual(*mutations.TEXT)(file, random)


def _judge_program(c: Any, original: Path) -> None:
    _judge_calculation((c, []), original)


# --- structures


def _structures(kind: str) -> Callable[[Path], list[Path]]:
    def originals(folder: Path) -> list[Path]:
        from ase.build import bulk, molecule

        water = molecule("H2O", vacuum=3.0, pbc=True)
        salt = bulk("NaCl", "rocksalt", a=5.64)
        name = {"poscar": "POSCAR", "xyz": "s.xyz", "cif": "s.cif"}[kind]
        files = []
        for n, atoms in enumerate((water, salt)):
            (folder / str(n)).mkdir()
            files.append(folder / str(n) / name)
            write_ase(files[-1], atoms, format={"poscar": "vasp", "xyz": "extxyz", "cif": "cif"}[kind])
        return files

    return originals


def _judge_structure(s: Structure, original: Path) -> None:
    cell, positions = s.cell.numpy() * BOHR_ANG, s.positions.numpy() * BOHR_ANG
    require(bool(np.isfinite(cell).all() and np.isfinite(positions).all()), "not finite")
    require(abs(np.linalg.det(cell)) > 1e-3 and abs(positions).max() <= 1e5, "cell or positions")
    require(0 < len(s) < 1000 and int(s.numbers.min()) > 0 and int(s.numbers.max()) < 104, "atoms")


def _read_structure(path: Path) -> Structure:
    s = read_structure(path)
    near = s.to_ase().get_all_distances(mic=True)
    np.fill_diagonal(near, 9)
    require(near.min() > 0.29, f"atoms {near.min():.3f} angstrom apart")
    return s


# --- configurations


def _yaml_file(name: str, text: str) -> Callable[[Path], list[Path]]:
    def originals(folder: Path) -> list[Path]:
        (folder / name).write_text(text)
        return [folder / name]

    return originals


SETTINGS = (
    "xc: pbe\nbasis: dzp\nkmesh: [2, 2, 1]\nmesh_cutoff_ry: 200\nsmearing_ev: 0.05\n"
    "mixing: {weight: 0.3, history: 6}\nspin: none\n"
)
NESTED = (
    "basis: {size: sz, energy_shift_ry: 0.01}\nfunctional: {xc: lda, electrostatics: crystal}\n"
    "mesh: {cutoff_ry: 60, band_limited: true, xc_refinement: 1, two_center: exact}\n"
    "kpoints: {mesh: [1, 1, 2], shift: [0, 0, 0.5], symmetry: time-reversal}\n"
    "electrons: {charge_e: 0, smearing: cold, width_ev: 0.05, spin: collinear, moments_mu_b: [0, 1, -1]}\n"
    "solver: {method: scf, tolerance_ev: 0.00001, max_iterations: 50, mixing: {weight: 0.3, history: 6, dielectric_ry: 20},"
    " density: {kind: dense, memory: 1000000000, processes: 1}}\noutputs: {forces: true}\n"
)
SET = (
    "structure: POSCAR\ndistort: {count: 3, sigma_ang: 0.05, clip_ang: 0.1, seed: 1, supercell: [1, 1, 2]}\n"
    "scf: {xc: lda, basis: sz, kmesh: [1, 1, 1], mesh_cutoff_ry: 60}\nlabels: true\nworkers: 1\n"
)
MODEL = (
    "data: {train: set, validation_fraction: 0.25, seed: 0}\nmodel: {preset: small, target: total}\n"
    "trainer: {max_epochs: 2, max_minutes: 5}\n"
)


def _read_settings(path: Path) -> Any:
    from nearsight.core.configuration import read_table, validated
    from nearsight.dft import settings

    model = getattr(settings, "Settings", None) or settings.ScfSettings
    return validated(model, read_table(path))


def _read_setup(path: Path) -> Any:
    """Settings, and the parts of the engine that are made from them, where those are small."""
    from nearsight.dft.setup import Setup, resolved

    settings = _read_settings(path)
    structure = registry.read_structure(STORED / "calculation")
    chosen = resolved(structure, settings)
    small = np.prod(chosen.mesh.shape) * chosen.mesh.xc_refinement**3 < 2e6 and np.prod(chosen.kpoints.mesh) < 1e4
    if small:
        Setup.of(structure, settings).problem()
    return settings


def _read_set(path: Path) -> Any:
    from nearsight.tasks import dataset

    settings = dataset.read_settings(path)
    found = registry.read_structure(STORED / "calculation")  # the first copy stands for all: there may be 100,000
    return settings, [found if settings.distort is None else dataset.distorted(found, settings.distort, 0)]


def _read_training(path: Path) -> Any:
    from nearsight.core.configuration import read_table, validated
    from nearsight.learn.config import TrainingConfig

    return validated(TrainingConfig, read_table(path))


def _judge_settings(read: Any, original: Path) -> None:
    settings = read[0] if isinstance(read, tuple) else read
    json.loads(json.dumps(settings.model_dump(mode="json"), allow_nan=False))
    if isinstance(read, tuple):
        require(len(read[1][0]) <= 10**6 and bool(torch.isfinite(read[1][0].positions).all()), "a copy")


# --- models


def _models(folder: Path) -> list[Path]:
    shutil.copytree(STORED / "model", folder / "model")
    return [folder / "model"]


def _alter_model(folder: Path, random: Random) -> None:
    files = [folder / "config.json", folder / "model.safetensors", pick(random, sorted((folder / "species").iterdir()))]
    file = files[min(2, int(random.choice(3, p=[0.6, 0.3, 0.1])))]
    if file.suffix == ".json" and random.random() < 0.8:
        textual(mutations.json_tree)(file, random)
    elif file.suffix == ".safetensors":
        textual(mutations.flipped, mutations.overwritten, mutations.cut, mutations.early_number, mutations.words)(
            file, random
        )
    else:
        textual(*mutations.TEXT)(file, random)


def _read_model(path: Path) -> Any:
    place = "nearsight.models.trained" if find_spec("nearsight.models.trained") else "nearsight.learn.model"
    trained = import_module(place).TrainedModel.load(path)
    return trained, trained(registry.read_structure(STORED / "calculation"))


def _judge_model(read: Any, original: Path) -> None:
    values = read[1].values
    require(bool(torch.isfinite(values).all()), "the prediction is not finite")
    require(float(values.abs().max()) < 1e4, f"an element of {float(values.abs().max()):.1e} Ha")


# --- fields


def _volumes(write: Callable[..., None], name: str) -> Callable[[Path], list[Path]]:
    def originals(folder: Path) -> list[Path]:
        from nearsight.formats.volumetric import Volume

        structure = registry.read_structure(STORED / "calculation")
        values = torch.rand(4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        write(folder / name, Volume(structure, values))
        return [folder / name]

    return originals


def _judge_volume(volume: Any, original: Path) -> None:
    _judge_structure(volume.structure, original)
    require(volume.values.numel() < 10**4 and bool(torch.isfinite(volume.values).all()), "values")


text = textual(*mutations.TEXT)
table = textual(mutations.yaml_tree, mutations.yaml_tree, *mutations.TEXT)
READERS: dict[str, Fuzzed] = {
    "ion_xml": Fuzzed(_species_files, text, read_ion_xml, _judge_species),
    **{
        kind: Fuzzed(
            made := _pseudopotential_files(kind),
            text,
            _read_and_solve,
            _judge_pseudopotential,
            Fuzzed(made, text, read_pseudopotential, lambda pp, original: None),
        )
        for kind in ("upf", "psml", "psp8", "gth")
    },
    "calculation": Fuzzed(
        _calculations,
        _alter_calculation,
        _read_calculation,
        _judge_calculation,
        Fuzzed(_calculations, partial(_alter_calculation, raw=0.0), _read_calculation, _judge_calculation),
    ),
    **{
        name: Fuzzed(
            made := _of_programs(name),
            _alter_program,
            registry.read,
            _judge_program,
            Fuzzed(made, partial(_alter_program, raw=0.0), registry.read, _judge_program),
        )
        for name in ("deeph-old", "openmx", "siesta", "abacus", "aims", "pyscf", "deeptb")
    },
    **{kind: Fuzzed(_structures(kind), text, _read_structure, _judge_structure) for kind in ("poscar", "xyz", "cif")},
    "settings": Fuzzed(_yaml_file("scf.yaml", SETTINGS), table, _read_settings, _judge_settings),
    "setup": Fuzzed(
        made := _yaml_file("scf.yaml", NESTED),
        table,
        _read_setup,
        _judge_settings,
        Fuzzed(made, table, _read_settings, _judge_settings),
    ),
    "set": Fuzzed(_yaml_file("set.yaml", SET), table, _read_set, _judge_settings),
    "training": Fuzzed(_yaml_file("model.yaml", MODEL), table, _read_training, _judge_settings),
    "model": Fuzzed(_models, _alter_model, _read_model, _judge_model),
    **{kind: Fuzzed(basis_files(kind), text, read_basis_file, judge_basis) for kind in ("pao", "orb")},
    "cube": Fuzzed(_volumes(write_cube, "n.cube"), text, read_cube, _judge_volume),
    "xsf": Fuzzed(_volumes(write_xsf, "n.xsf"), text, read_xsf, _judge_volume),
}
