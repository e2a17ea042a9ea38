"""What a training begins with: data, network with its statistics, and the losses, as the configuration says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nearsight.core.errors import NearsightError
from nearsight.core.pairs import Pairs
from nearsight.core.structure import Structure
from nearsight.core.units import BOHR_ANG
from nearsight.dft.scf import SCF
from nearsight.dft.settings import Settings
from nearsight.dft.setup import load_species
from nearsight.learn.config import EnergyLossConfig, ModelConfig, TrainingConfig
from nearsight.learn.dataset import HamiltonianData, SampleStore, split
from nearsight.learn.energy import EnergyLoss, ProblemCache
from nearsight.learn.judges import BlocksJudge, EnergyJudge, Judges
from nearsight.learn.model import TrainedModel, build
from nearsight.learn.newton import NewtonSteps
from nearsight.learn.progress import TrainingProgress
from nearsight.learn.reference import (
    OrbitalReference,
    differences,
    find_reference,
    find_species,
    read_species,
    recorded_settings,
)
from nearsight.learn.statistics import LEAST_SHARE, fit_scales, fit_statistics, mean_neighbours
from nearsight.learn.structures import Copies, StructureData, shared_settings
from nearsight.learn.validation import Validator
from nearsight.models.graph import Graph

STATISTICS_FROM = 200  # structures, 399 at most
SURVEYED = 600  # atoms of structures whose first steps of self-consistency set the scales, where there are no labels
FIRST_STEPS = 4  # of them
ENOUGH_FOR_EXPANSION = 8  # structures: an expansion fitted to fewer is exact and says nothing of others


@dataclass
class Assembled:
    """All that the loop needs. validator: None where nothing but labels judges. newton: Gauss-Newton steps, if wanted."""

    trained: TrainedModel
    store: SampleStore
    held_out: SampleStore
    judges: Judges
    validator: Validator | None
    newton: NewtonSteps | None = None


def assemble(settings: TrainingConfig, out: Path, resumed: bool, bar: TrainingProgress) -> Assembled:
    """resumed: a checkpoint holds the weights and the statistics.  bar: told what is noteworthy, and how far it is.

    Raises NearsightError for bad input, or a model to begin with that does not fit the data or the functional.
    """
    start = None if settings.init_from is None else TrainedModel.load(settings.init_from)
    if settings.energy is None:
        return _on_labels(settings, out, resumed, start)
    return _on_energy(settings, settings.energy, out, resumed, start, bar)


def _on_labels(settings: TrainingConfig, out: Path, resumed: bool, start: TrainedModel | None) -> Assembled:
    folders = split(settings.data)
    everything = HamiltonianData(folders.train + folders.validation)
    shells, reach = everything.shells()
    orbitals = find_reference(settings.data, settings.reference, folders.train, shells, out / "cache")
    target = settings.model.target if start is None else start.target
    if target == "delta" and orbitals is None:
        raise NearsightError(
            "model.target delta needs the orbitals of the data: give data.species (a folder of <Symbol>.ion.xml)"
        )
    if start is not None:
        _same_shells(start, shells)
        if orbitals is not None and start.reference is not None:
            _same_functional(settings, start, orbitals.settings, orbitals)
    h0 = orbitals.initial_hamiltonian if target == "delta" and orbitals is not None else None
    train_data, validation_data = (HamiltonianData(f, h0) for f in (folders.train, folders.validation))
    some = [train_data.structure(k) for k in range(min(len(train_data), 20))]
    trained = _network(settings, start, shells, reach, some, target, orbitals)
    store, held_out = _stores(settings, trained, train_data, validation_data)
    if start is None and not resumed:
        used = range(0, len(store), max(1, len(store) // STATISTICS_FROM))
        fit_statistics(trained.network.readout, (store.exact(k) for k in used))
    assert settings.blocks is not None
    return Assembled(trained, store, held_out, Judges([BlocksJudge(settings.blocks)]), None)


def _on_energy(
    settings: TrainingConfig,
    energy: EnergyLossConfig,
    out: Path,
    resumed: bool,
    start: TrainedModel | None,
    bar: TrainingProgress,
) -> Assembled:
    labelled = settings.blocks is not None
    paths = split(settings.data, labelled)
    recorded = recorded_settings(paths.train[0])
    known = None if start is None or start.reference is None else start.reference
    functional = shared_settings(energy.scf, recorded, None if known is None else known.settings)
    functional = functional.model_copy(
        update={"solver": {"device": "cuda" if settings.trainer.device.startswith("cuda") else "cpu"}}
    )
    given = energy.scf
    species = _species(settings, functional, given, paths.train, recorded, known)
    target = settings.model.target if start is None else start.target
    orbitals = OrbitalReference(species, _of_the_operator(functional, energy), out / "cache")
    if start is not None:
        if known is None:
            raise NearsightError(
                f"{settings.init_from} does not know its orbitals, so the energy cannot train it further"
            )
        _same_functional(settings, start, functional, orbitals)
    problems = ProblemCache(functional, species, energy.memory_gb * 1e9)
    common = (functional, given, problems, target == "delta", labelled, settings.data.vacuum_ang)
    copies = Copies(settings.data.copies, settings.data.copies_sigma_ang / BOHR_ANG, settings.data.seed)
    data = StructureData(paths.train, *common, copies)
    held = StructureData(paths.validation, *common)
    loss = EnergyLoss(problems, energy.residual_weight, energy.reuse)
    judge = EnergyJudge(energy, data, loss, bar.note)
    broken = data.broken()
    for k, reason in broken.items():
        judge.set_aside(k, reason)
    judge.data = data = data.without(broken)
    validator = Validator(held)
    for k, reason in (unusable := held.broken()).items():
        validator.skipped[held.name(k)] = reason
        bar.note(f"{held.name(k)} cannot be validated on: {reason}")
    validator.data = held = held.without(unusable)
    if not len(data):
        reason = next(iter(judge.skipped.values()))
        raise NearsightError(f"none of the {len(broken)} structures to train on can be computed: {reason}")
    validator.check()
    shells = {z: tuple(s.shells) for z, s in species.items()}
    some = [data.structure(k) for k in range(min(len(data), 20))]
    pairs = [data.layout(k).pairs.vectors(s).norm(dim=1).max() for k, s in enumerate(some)]
    reach = max(max(float(p) for p in pairs), 2 * max(s.orbital_cutoff for s in species.values()))
    trained = _network(settings, start, shells, reach, some, target, orbitals)
    store, held_out = _stores(settings, trained, data, held)
    if start is None and not resumed:
        share = LEAST_SHARE if settings.trainer.newton_from is None else 1.0
        _statistics(trained, store, data, judge, share, bar.prepared)
    blocks = [] if settings.blocks is None else [BlocksJudge(settings.blocks)]
    newton = None if settings.trainer.newton_from is None else NewtonSteps(data, store)
    return Assembled(trained, store, held_out, Judges([*blocks, judge]), validator, newton)


def _statistics(
    trained: TrainedModel,
    store: SampleStore,
    data: StructureData,
    judge: EnergyJudge,
    share: float,
    prepared: Callable[[int, int], None],
) -> None:
    """Expansion and scales from labels where they are to be learnt, else from the first steps towards self-consistency."""
    readout = trained.network.readout
    used: Sequence[int]
    if data.labelled:
        used = range(0, len(store), max(1, len(store) // STATISTICS_FROM))
    else:
        atoms = sum(len(data.structure(k)) for k in range(len(data))) / len(data)
        surveyed = min(len(data), max(ENOUGH_FOR_EXPANSION, round(SURVEYED / atoms)))
        used = [k * len(data) // surveyed for k in range(surveyed)]
    samples: list[tuple[Graph, Tensor]] = []
    for done, k in enumerate(used):
        prepared(done, len(used))
        if data.labelled:
            samples.append(store.exact(k))
            continue
        try:
            values = first_steps(data, k) - data.offset(k)
        except (NearsightError, torch.linalg.LinAlgError) as error:
            judge.set_aside(k, " ".join(str(error).split()))
            continue
        graph = trained.network.graph(data.structure(k), data.layout(k))
        samples.append((graph, values.to(graph.distance)))
    prepared(len(used), len(used))
    if not samples:
        raise NearsightError(
            f"no structure to train on can be computed, the first because: {next(iter(judge.skipped.values()))}"
        )
    if len(samples) < ENOUGH_FOR_EXPANSION and not data.labelled:
        fit_scales(readout, samples, share)
    else:
        fit_statistics(readout, samples)


def first_steps(data: StructureData, index: int) -> Tensor:
    """H after a few steps of self-consistency from superposed atomic densities [size], Ha: what scales are taken from.

    Raises NearsightError where it is not finite.
    """
    problem = data.problem(index)
    start = problem.kpoints.symmetric(problem.functional.initial_hamiltonian())
    trial, _, _ = SCF(max_iterations=FIRST_STEPS).solve(problem, start, None)
    if not isfinite(trial.free):
        raise NearsightError("the functional gives no finite energy near superposed atomic densities")
    return trial.evaluation.hamiltonian.values[0].cpu()


def _species(
    settings: TrainingConfig,
    functional: Settings,
    given: Settings,
    paths: Sequence[Path],
    recorded: Settings | None,
    known: OrbitalReference | None,
) -> dict[int, Any]:
    """Orbitals of all elements of the training structures (or of the model to begin with)."""
    probe = StructureData(
        paths, functional, given, ProblemCache(functional, {}), False, False, settings.data.vacuum_ang
    )
    numbers: set[int] = set()
    for k in range(len(probe)):
        try:
            numbers |= set(probe.structure(k).numbers.tolist())
        except NearsightError:
            continue  # told and set aside later
    if not numbers:
        probe.structure(0)  # says what is wrong
    chosen = sorted(numbers)
    if given.basis.species is not None:
        return read_species(given.basis.species, chosen)
    found = find_species(settings.data, paths, chosen, recorded) if paths[0].is_dir() or settings.data.species else None
    if found is not None:
        return found
    if known is not None and "basis" not in given.given:
        return {**known.species}
    return load_species(chosen, functional)


def _of_the_operator(functional: Settings, energy: EnergyLossConfig) -> Settings:
    """What predictions need to know to compute H0: not what belongs to one cell, unless one mesh was given for all."""
    shape = {"mesh": {"shape": energy.scf.mesh.shape}}
    return Settings(**functional.of_the_operator).model_copy(update={**shape, "species": None})


def _same_functional(
    settings: TrainingConfig, start: TrainedModel, functional: Settings, orbitals: OrbitalReference
) -> None:
    assert start.reference is not None
    wrong = differences(start.reference, functional, orbitals.species)
    if wrong:
        raise NearsightError(f"{settings.init_from} was trained with another functional: {'; '.join(wrong)}")


def _same_shells(start: TrainedModel, shells: Mapping[int, tuple[int, ...]]) -> None:
    known = start.network.readout.slots.shells
    for z, s in shells.items():
        if known.get(z) != tuple(s):
            raise NearsightError(
                f"the model to begin with has shells {known.get(z)} for element {z}, the data {tuple(s)}"
            )


def _network(
    settings: TrainingConfig,
    start: TrainedModel | None,
    shells: Mapping[int, tuple[int, ...]],
    reach: float,
    some: Sequence[Structure],
    target: str,
    orbitals: OrbitalReference | None,
) -> TrainedModel:
    dtype = getattr(torch, settings.trainer.dtype)
    if start is not None:
        network = start.network.train().to(settings.trainer.device).to(dtype)
        return TrainedModel(network, start.architecture, target, orbitals or start.reference)
    architecture = _architecture(settings.model, shells, reach, some)
    network = build(architecture, settings.trainer.seed).to(dtype)
    return TrainedModel(network.to(settings.trainer.device), architecture, target, orbitals)


def _stores(
    settings: TrainingConfig, trained: TrainedModel, train: Any, validation: Any
) -> tuple[SampleStore, SampleStore]:
    limit = settings.trainer.cache_gb * 1e9
    return SampleStore(train, trained.network, limit), SampleStore(validation, trained.network, limit)


def _architecture(
    model: ModelConfig, shells: Mapping[int, tuple[int, ...]], reach: float, some: Sequence[Structure]
) -> dict[str, Any]:
    cutoff = model.cutoff_ang / BOHR_ANG
    counts = [(len(Pairs.within(s, cutoff)) - len(s), len(s)) for s in some]
    assert model.irreps is not None and model.edge is not None and model.hidden is not None
    arguments = {
        "cutoff": cutoff,
        "reach": reach,
        "irreps": model.irreps,
        "edge": list(model.edge),
        "hidden": list(model.hidden),
        "layers": model.layers,
        "radial": model.radial,
        "width": model.width,
        "neighbours": mean_neighbours(counts),
    }
    return {"kind": model.kind, "shells": {str(z): list(s) for z, s in sorted(shells.items())}, "arguments": arguments}
