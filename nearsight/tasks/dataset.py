"""Data sets: one DFT ground state for each of many structures, resumable at any point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, SerializeAsAny, field_validator, model_validator

from nearsight.core.configuration import absolute, layered, read_table
from nearsight.core.errors import BadInput
from nearsight.core.spin import NON_COLLINEAR, spin
from nearsight.core.structure import Structure, supercell
from nearsight.core.tables import PATH, Table, Versioned
from nearsight.core.versions import KEY, checked_version
from nearsight.dft.settings import Settings
from nearsight.formats.outputs import claim_folder
from nearsight.formats.registry import list_structures, read_structure
from nearsight.formats.structures import check_structure, read_atoms
from nearsight.generators.contract import Generator, Recipe, applied, named_parents
from nearsight.generators.moments import Moments
from nearsight.generators.rattle import displaced
from nearsight.generators.rotations import check_room
from nearsight.tasks.batch import Report
from nearsight.tasks.engines.contract import EngineTable
from nearsight.tasks.engines.task import Rung
from nearsight.tasks.executors.contract import ExecutorTable, Limits
from nearsight.tasks.ground_states import BuildReport, Plan, Workers, ground_states
from nearsight.tasks.modes import MOST_COPIES, Harmonic, Modes, harmonic_of, taken_harmonic, thermal


class Distort(Table):
    """Random copies of a structure: every atom is displaced along x, y and z by Gaussian steps, clipped.

    count: how many.  sigma_ang, clip_ang: width and largest step [angstrom].  seed: copy n depends on (seed, n) alone.
    supercell: repeats first.  rotate: turn the atoms about their centre by a random rotation (a molecule in its box).
    """

    count: int = Field(gt=0, le=MOST_COPIES)
    sigma_ang: float = Field(ge=0, le=2)
    clip_ang: float = Field(gt=0, le=5)
    seed: int = Field(0, ge=0)
    supercell: tuple[int, int, int] = (1, 1, 1)
    rotate: bool = False


class HeldMoments(Moments):
    """Patterns of moments for every structure of a set, each held by the engine: see `generators.moments`."""

    hold: Literal["direction", "moment", "none"] = Field(
        "direction", description="What of them is held: the direction, all of the moment, or none."
    )

    def scf(self, given: Settings) -> Settings:
        """The settings of ground states in which they are held. Raises ValueError for settings that say otherwise."""
        electrons = given.electrons
        stated = electrons.constrain.model_fields_set or electrons.moments_mu_b is not None
        if stated:
            raise ValueError(
                "moments and scf.moments or scf.constrain both say what moments are: leave those of scf out"
            )
        if "spin" in electrons.model_fields_set and not spin(electrons.spin).turns:
            raise ValueError(f"moments are vectors, scf.spin is {electrons.spin}: take non-collinear or spinor")
        kind = electrons.spin if "spin" in electrons.model_fields_set else NON_COLLINEAR
        held = {} if self.hold == "none" else {"constrain": {"hold": self.hold, "atoms": list(self.sizes)}}
        return given.model_copy(update={"electrons": {"spin": kind, **held}})


class SetSettings(Versioned):
    """What `dataset build` is told: `set.yaml`.

    structure: a file, or a list of files.  generate: structures to make of them (or of nothing) by a generator, or by a list
    of them one after the other, each from what the one before has made.  distort, modes: copies to make of each, at random or
    by thermal motion (one of the three).  moments: patterns of magnetic moments for each of these, which ground states hold.
    scf: the settings of every ground state.  labels: false writes the structures alone,
    with these settings beside them: what training on the energy begins from.
    vacuum_ang: box around molecules without a cell.  workers: processes; `auto` takes one for each core.
    engine: the program that computes, with its own keys (nearsight, which takes `scf`; pyscf, siesta, openmx, abacus).
    executor: where: local, dask or slurm-array.  limits: of each job.  retry: what is tried after a first try that did not
    converge: mixing, variational, smearing, kmesh, or tables of settings; [] tries once, null takes what leaves the physics.
    """

    schema_version: int = 2
    structure: str | list[str] = Field([], json_schema_extra={PATH: True})
    generate: Recipe | list[Recipe] | None = None
    distort: Distort | None = None
    modes: Modes | None = None
    moments: HeldMoments | None = None
    scf: Settings = Settings()
    labels: bool = True
    vacuum_ang: float | None = Field(None, gt=0)
    workers: Workers = "auto"
    engine: SerializeAsAny[EngineTable] = EngineTable()
    executor: SerializeAsAny[ExecutorTable] = ExecutorTable()
    limits: Limits = Limits()
    retry: list[Rung] | None = None

    @field_validator("engine", mode="before")
    @classmethod
    def _engine_of_its_kind(cls, given: Any) -> Any:
        return EngineTable.told(given)

    @field_validator("executor", mode="before")
    @classmethod
    def _executor_of_its_kind(cls, given: Any) -> Any:
        return ExecutorTable.told(given)

    @model_validator(mode="after")
    def _one_recipe(self) -> SetSettings:
        given = [k for k in ("generate", "distort", "modes") if getattr(self, k)]
        if len(given) > 1:
            raise ValueError(f"{given[0]} and {given[1]} both make copies: leave one of them out")
        if self.moments is not None:
            self.moments.scf(self.scf)
            if self.engine.kind != "nearsight" or not self.labels:
                raise ValueError("moments are held by the engine nearsight, with labels: leave them out")
        first = next(iter(self.generators), None)
        if "structure" not in self.model_fields_set and (first is None or first.parents != "none"):
            raise ValueError("structure is missing")
        return self

    @property
    def files(self) -> list[str]:
        """The structure files."""
        return [self.structure] if isinstance(self.structure, str) else self.structure

    @property
    def generators(self) -> list[Generator]:
        """What `generate` asks for, in its order. Raises BadInput for keys that a generator does not take."""
        recipes = [self.generate] if isinstance(self.generate, Recipe) else self.generate or []
        return [recipe.build() for recipe in recipes]


def distorted(structure: Structure, recipe: Distort, index: int, name: str | None = None) -> Structure:
    """Copy `index` of the recipe: supercell, rotation, displacements, in this order.  name: of the structure's file."""
    random = np.random.default_rng([recipe.seed, index])
    s = supercell(structure, recipe.supercell)
    told: dict[str, Any] = {"generator": "rattle", "parameters": recipe.model_dump(mode="json", exclude={"seed"})}
    told |= {"seed": recipe.seed, "index": index, "parent": name or structure.formula}
    told |= {"ancestors": [dict(structure.provenance)]} if structure.provenance else {}
    return replace(displaced(s, random, recipe.sigma_ang, recipe.clip_ang, recipe.rotate), provenance=told)


def read_settings(path: Path | str, words: tuple[str, ...] = ()) -> SetSettings:
    """`set.yaml`, with `key=value` words put in; paths count from its folder, see `from_beside`.

    Raises BadInput with the near miss of an unknown key.
    """
    return layered(SetSettings, [read_table(path)], words, Path(path).parent)


def structures_of(
    settings: SetSettings, out: Path, report: Report = lambda outcome, done, total: None
) -> list[Structure]:
    """All structures of a set, in order: for each structure of each file its copies.

    out: the folder of the set, which keeps the modes of file n in `modes/n`.
    Raises NearsightError for one that cannot be computed.
    """
    made = _without_moments(settings, out, report)
    if settings.moments is None:
        return made
    parents = [(_name(s), s.to_ase()) for s in made]
    for structure in made:
        _check_elements(structure, settings.moments)
    return list(applied(settings.moments, parents))


def _name(structure: Structure) -> str:
    return str(structure.provenance.get("parent") or structure.formula)


def _check_elements(structure: Structure, moments: HeldMoments) -> None:
    """Raises BadInput where a structure lacks an element whose moments are to be held."""
    missing = [x for x in moments.sizes if x not in structure.symbols]
    if missing and moments.hold != "none":
        raise BadInput(
            f"moments: {structure.formula} has no {missing[0]}, whose moments are to be held: build it by itself"
        )


def _without_moments(settings: SetSettings, out: Path, report: Report) -> list[Structure]:
    """The atoms of a set."""
    if settings.generate:
        return generated(settings)
    if not settings.files:
        raise BadInput("the list of structures is empty")
    files = [
        str(name) for file in settings.files for name in (list_structures(file) if Path(file).exists() else [file])
    ]
    made = []
    for n, file in enumerate(files):
        structure = read_structure(file, settings.vacuum_ang)
        if settings.modes is not None:
            if Path(file).is_file() and read_atoms(file, settings.vacuum_ang).has("masses"):
                raise BadInput(f"modes: {file} states masses, and modes take those of the elements: leave masses out")
            harmonic = _harmonic(structure, settings, out, n, report)
            for index in range(settings.modes.count):
                copy = thermal(harmonic, settings.modes, n * settings.modes.count + index)
                made.append(check_structure(copy, f"thermal copy {index} of {file}"))
        elif settings.distort is not None:
            if settings.distort.rotate:
                check_room(supercell(structure, settings.distort.supercell), f"distort: {file}")
            for index in range(settings.distort.count):
                copy = distorted(structure, settings.distort, n * settings.distort.count + index, file)
                made.append(check_structure(copy, f"distorted copy {index} of {file}"))
        else:
            made.append(structure)
    return made


def generated(settings: SetSettings) -> list[Structure]:
    """The structures that `generate` makes of the files; the parent of each is the file that it began with.

    Raises BadInput as `generators.contract.generate` does.
    """
    parents = named_parents(settings.files, settings.vacuum_ang)
    made: list[Structure] = []
    for generator in settings.generators:
        made = list(applied(generator, parents))
        parents = [(s.provenance["parent"] or f"{generator.kind}/{k}", s.to_ase()) for k, s in enumerate(made)]
    return made


def _harmonic(structure: Structure, settings: SetSettings, out: Path, n: int, report: Report) -> Harmonic:
    recipe = settings.modes
    assert recipe is not None
    if recipe.hessian is not None:
        return taken_harmonic(structure, recipe, recipe.hessian / "modes" / str(n))
    return harmonic_of(structure, recipe, settings.scf, out / "modes" / str(n), settings.workers, report)


def build(
    settings: SetSettings,
    out: Path | str,
    report: Report = lambda outcome, done, total: None,
    command: str | None = None,
) -> BuildReport:
    """Compute every structure of a set into `out/0000`, `out/0001`, ...: see `ground_states`.

    command: for the provenance.  report: called after each job (before them, each displaced structure of `modes`) with its
    outcome, the number of jobs that are done and the number of all.
    Raises NearsightError for bad settings, or a folder that another build is using or used otherwise.
    """
    out = Path(out)
    claim_folder(out, "data set", settings.files)
    _same_kind(settings, out / "config.yaml")
    structures = structures_of(settings, out, report)
    config = absolute(SetSettings, settings.model_dump(mode="json"))
    plan = Plan(settings.engine, settings.executor, settings.limits, settings.retry, command)
    scf = settings.scf if settings.moments is None else settings.moments.scf(settings.scf)
    return ground_states(structures, scf, out, settings.workers, config, report, settings.labels, plan)


def _same_kind(settings: SetSettings, config: Path) -> None:
    """Raises BadInput where what stands in the set would not be what is asked for, and is not made again.

    So it is with a set that a later program built here; one with labels where these have none, or the reverse; one with forces
    or stress, which what is computed now would lack; one of other orbitals; one of a wider tolerance.
    """
    if not config.exists():
        return
    before = read_table(config)
    checked_version(before.get(KEY), settings.schema_version, config.parent)
    if (made_as := before.get("labels", True)) != settings.labels:
        raise BadInput(f"{config.parent} was built {'with' if made_as else 'without'} labels: build into a new folder")
    if not settings.labels or not isinstance(before.get("scf"), Mapping):
        return
    earlier, now = Settings.stored(before["scf"], config), settings.scf
    for key in ("forces", "stress"):
        if getattr(earlier.outputs, key) and not getattr(now.outputs, key):
            raise BadInput(
                f"{config.parent} was begun with scf.outputs.{key}, which the rest would lack: set it to true here too, or "
                "build into a new folder"
            )
    if now.solver.tolerance_ev < earlier.solver.tolerance_ev:
        raise BadInput(
            f"{config.parent} was begun with scf.solver.tolerance_ev {earlier.solver.tolerance_ev:g}, wider than "
            f"{now.solver.tolerance_ev:g}, and what is done is not done again: build into a new folder"
        )
    begun, here = ((b.basis.size, b.basis.rule) for b in (earlier, now))
    if earlier.basis.species is now.basis.species is None and begun != here and {begun[1], here[1]} != {2}:
        raise BadInput(
            f"{config.parent} was begun with orbitals {begun[0]} by rule {begun[1]}, here they are "
            f"{here[0]} by rule {here[1]}: "
            f"set scf.basis to {{size: {begun[0]}, rule: {begun[1]}}} to go on, or build into a new folder"
        )
