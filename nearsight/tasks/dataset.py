"""Data sets: one DFT ground state for each of many structures, resumable at any point."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pydantic import Field, model_validator

from nearsight.core.configuration import absolute, layered, read_table
from nearsight.core.errors import BadInput
from nearsight.core.structure import Structure, supercell
from nearsight.core.tables import PATH, Table, Versioned
from nearsight.core.units import BOHR_ANG
from nearsight.core.versions import KEY, checked_version
from nearsight.dft.settings import Settings
from nearsight.formats.outputs import claim_folder
from nearsight.formats.registry import read_structure
from nearsight.formats.structures import check_structure
from nearsight.tasks.ground_states import BuildReport, Report, Workers, ground_states
from nearsight.tasks.modes import MOST_COPIES, Harmonic, Modes, harmonic_of, taken_harmonic, thermal
from nearsight.tasks.rotations import check_room, random_rotation, turned


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


class SetSettings(Versioned):
    """What `dataset build` is told: `set.yaml`.

    structure: a file, or a list of files.  distort, modes: copies to make of each, at random or by thermal motion (one of
    the two).  scf: the settings of every ground state.  labels: false writes the structures alone, with these settings beside
    them: what training on the energy begins from.
    vacuum_ang: box around molecules without a cell.  workers: processes; `auto` takes one for each core.
    """

    schema_version: int = 2
    structure: str | list[str] = Field(json_schema_extra={PATH: True})
    distort: Distort | None = None
    modes: Modes | None = None
    scf: Settings = Settings()
    labels: bool = True
    vacuum_ang: float | None = Field(None, gt=0)
    workers: Workers = "auto"

    @model_validator(mode="after")
    def _one_recipe(self) -> SetSettings:
        if self.distort and self.modes:
            raise ValueError("distort and modes both make copies: leave one of them out")
        return self


def distorted(structure: Structure, recipe: Distort, index: int) -> Structure:
    """Copy `index` of the recipe: supercell, rotation, displacements, in this order."""
    random = np.random.default_rng([recipe.seed, index])
    s = supercell(structure, recipe.supercell)
    if recipe.rotate:
        s = turned(s, random_rotation(random))
    steps = np.clip(random.normal(0, recipe.sigma_ang, (len(s), 3)), -recipe.clip_ang, recipe.clip_ang)
    return replace(s, positions=s.positions + torch.from_numpy(steps / BOHR_ANG))


def read_settings(path: Path | str, words: tuple[str, ...] = ()) -> SetSettings:
    """`set.yaml`, with `key=value` words put in; paths count from its folder, see `from_beside`.

    Raises BadInput with the near miss of an unknown key.
    """
    return layered(SetSettings, [read_table(path)], words, Path(path).parent)


def structures_of(
    settings: SetSettings, out: Path, report: Report = lambda outcome, done, total: None
) -> list[Structure]:
    """All structures of a set, in order: for each file its copies.

    out: the folder of the set, which keeps the modes of file n in `modes/n`.
    Raises NearsightError for one that cannot be computed.
    """
    files = [settings.structure] if isinstance(settings.structure, str) else settings.structure
    if not files:
        raise BadInput("the list of structures is empty")
    made = []
    for n, file in enumerate(files):
        structure = read_structure(file, settings.vacuum_ang)
        if settings.modes is not None:
            harmonic = _harmonic(structure, settings, out, n, report)
            for index in range(settings.modes.count):
                copy = thermal(harmonic, settings.modes, n * settings.modes.count + index)
                made.append(check_structure(copy, f"thermal copy {index} of {file}"))
        elif settings.distort is not None:
            if settings.distort.rotate:
                check_room(supercell(structure, settings.distort.supercell), f"distort: {file}")
            for index in range(settings.distort.count):
                copy = distorted(structure, settings.distort, n * settings.distort.count + index)
                made.append(check_structure(copy, f"distorted copy {index} of {file}"))
        else:
            made.append(structure)
    return made


def _harmonic(structure: Structure, settings: SetSettings, out: Path, n: int, report: Report) -> Harmonic:
    recipe = settings.modes
    assert recipe is not None
    if recipe.hessian is not None:
        return taken_harmonic(structure, recipe, recipe.hessian / "modes" / str(n))
    return harmonic_of(structure, recipe, settings.scf, out / "modes" / str(n), settings.workers, report)


def build(settings: SetSettings, out: Path | str, report: Report = lambda outcome, done, total: None) -> BuildReport:
    """Compute every structure of a set into `out/0000`, `out/0001`, ...: see `ground_states`.

    report: called after each job (before them, each displaced structure of `modes`) with its outcome, the number of jobs
    that are done and the number of all.
    Raises NearsightError for bad settings, or a folder that another build is using or used otherwise.
    """
    out = Path(out)
    files = [settings.structure] if isinstance(settings.structure, str) else settings.structure
    claim_folder(out, "data set", files)
    _same_kind(settings, out / "config.yaml")
    structures = structures_of(settings, out, report)
    config = absolute(SetSettings, settings.model_dump(mode="json"))
    return ground_states(structures, settings.scf, out, settings.workers, config, report, settings.labels)


def _same_kind(settings: SetSettings, config: Path) -> None:
    """Raises BadInput for a set that a later program built here, or one with labels where these have none, or the reverse."""
    if not config.exists():
        return
    before = read_table(config)
    checked_version(before.get(KEY), settings.schema_version, config.parent)
    if (made_as := before.get("labels", True)) != settings.labels:
        raise BadInput(f"{config.parent} was built {'with' if made_as else 'without'} labels: build into a new folder")
