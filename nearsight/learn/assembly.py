"""What a training begins with: data, network with its statistics, and the losses, as the configuration says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.errors import BadInput, MissingData, NearsightError, NotConverged
from nearsight.core.registry import load
from nearsight.core.spin import NONE, spin
from nearsight.core.structure import Structure
from nearsight.core.units import BOHR_ANG
from nearsight.dft.scf import SCF
from nearsight.dft.settings import Settings
from nearsight.dft.setup import load_species
from nearsight.formats.files import sweep_folder
from nearsight.learn.cache import DiskCache, default_folder
from nearsight.learn.config import EnergyLossConfig, LabelLossConfig, TrainingConfig
from nearsight.learn.data import OF_ORBITALS, LabelledData, Reader, TrainingData, digest_of_orbitals
from nearsight.learn.data_record import DataRecord
from nearsight.learn.density import DensityTerm
from nearsight.learn.domain import Domain, element_pairs, require_one_charge
from nearsight.learn.energy import EnergyLoss, ProblemCache
from nearsight.learn.losses import BlocksTerm, EnergyTerm, LabelTerm, Loss, LossTerm
from nearsight.learn.model import TrainedModel
from nearsight.learn.model_files import ModelRecord, build
from nearsight.learn.newton import NewtonSteps
from nearsight.learn.origin import Origin, require_one, tables_of
from nearsight.learn.parallel import Ranks
from nearsight.learn.potential_energy import PotentialEnergyTerm
from nearsight.learn.preparation import prepare
from nearsight.learn.progress import TrainingProgress
from nearsight.learn.reference import (
    OrbitalReference,
    differences,
    find_reference,
    find_species,
    of_predictions,
    read_species,
    recorded_settings,
)
from nearsight.learn.samples import SampleStore
from nearsight.learn.split import split
from nearsight.learn.structures import Copies, StructureData, shared_settings
from nearsight.learn.validation import Validator
from nearsight.learn.widening import widened
from nearsight.models.contract import LEAST_SHARE, HamiltonianModel, ModelConfig, Prepared, Setting

STATISTICS_FROM = 200  # structures, 399 at most
SURVEYED = 600  # atoms of structures whose first steps of self-consistency set the scales, where there are no labels
FIRST_STEPS = 4  # of them
NO_REACH = 1.0  # Bohr, in place of the longest distance of a pair where atoms are all isolated
ENOUGH_FOR_EXPANSION = 8  # structures: an expansion fitted to fewer is exact and says nothing of others


@dataclass
class Assembled:
    """All that the loop needs.

    validator: None where only labels are trained on.  record: of the data.  newton: Gauss-Newton steps, if wanted.
    """

    trained: TrainedModel
    store: SampleStore
    held_out: SampleStore
    loss: Loss
    validator: Validator | None
    record: DataRecord
    newton: NewtonSteps | None = None


@dataclass(frozen=True)
class _Given:
    """What every step of the assembly is told: configuration, folder, whether a checkpoint has weights and statistics."""

    settings: TrainingConfig
    out: Path
    resumed: bool
    bar: TrainingProgress
    ranks: Ranks
    disk: DiskCache
    start: TrainedModel | None


def assemble(settings: TrainingConfig, out: Path, resumed: bool, bar: TrainingProgress, ranks: Ranks) -> Assembled:
    """resumed: a checkpoint holds the weights and the statistics.  bar: told what is noteworthy, and how far it is.

    Raises NearsightError for bad input, or a model to begin with that does not fit the data or the functional.
    """
    start = None if settings.init_from is None else TrainedModel.load(settings.init_from)
    disk = DiskCache(settings.data.cache or default_folder(), settings.data.cache_gb * 1e9, bar.note)
    if ranks.first:
        sweep_folder(disk.folder)
    given = _Given(settings, out, resumed, bar, ranks, disk, start)
    return _on_labels(given) if settings.energy is None else _on_energy(given, settings.energy)


def _on_labels(given: _Given) -> Assembled:
    settings, start = given.settings, given.start
    folders = split(settings.data)
    reader = Reader(settings.trainer.cache_gb * 1e9, given.disk.folder / "folders")
    everything = LabelledData(folders.train + folders.validation, reader)
    shells, reach = everything.shells(lambda done, total: given.bar.prepared(done, total, "folders read"))
    names = everything.folders
    origins = [everything.survey(k).origin for k in range(len(everything))]
    require_one(
        zip(names, origins, strict=True), "One network learns one functional and one basis: leave one of the sets out"
    )
    orbitals = find_reference(settings.data, settings.reference, folders.train, shells, None, _needs_levels(given))
    known = "" if orbitals is None else digest_of_orbitals(orbitals)
    if orbitals is not None:
        orbitals = replace(orbitals, cache=given.disk.folder / "h0" / known[:16])
        if start is not None and start.reference is not None:
            _same_functional(settings, start, orbitals.settings, orbitals)
    train_data, validation_data = (everything.part(f, orbitals, known) for f in (folders.train, folders.validation))
    contents = [(str(names[k]), everything.survey(k).digest) for k in range(len(everything))]
    record = _recorded(given, contents[: len(train_data)], contents[len(train_data) :], known)
    charges = _charges(everything, orbitals)
    if orbitals is not None:
        everything.check_orbitals(orbitals)
    if not settings.data.mixed_charges:
        require_one_charge(zip(names, charges, strict=True))
    surveys = [everything.survey(k) for k in range(len(folders.train))]  # what is held out was not learnt
    seen = ((s.structure, s.pairs, q) for s, q in zip(surveys, charges, strict=False))
    domain = Domain.of(seen, origins[0], everything.spin)
    held = [everything.survey(k) for k in range(len(folders.train), len(everything))]
    _tell_unseen(given, domain, ((s.structure, s.pairs) for s in held))
    some = partial(map, train_data.structure, range(min(len(train_data), 20)))
    trained = _network(given, shells, reach, some, orbitals, domain)
    if orbitals is None and trained.network.inputs & OF_ORBITALS:
        raise MissingData(
            f"target {trained.target} needs the orbitals of the data: give data.species (a folder of <Symbol>.ion.xml)"
        )
    everything.check(trained.network)
    store, held_out = _stores(given, trained, train_data, validation_data)
    if start is None and not given.resumed:
        used = range(0, len(store), max(1, len(store) // STATISTICS_FROM))
        _fit(given, trained, _labelled(given, store, used))
    assert settings.labels is not None
    return Assembled(trained, store, held_out, Loss([_label_term(settings.labels, trained)]), None, record)


#: by the loss's kind
LABEL_TERMS: dict[str, Callable[[Any, HamiltonianModel], LabelTerm]] = {
    "blocks": lambda config, network: BlocksTerm(config),
    "density": lambda config, network: DensityTerm(config, getattr(network, "metric", "coulomb")),
    "potential-energy": lambda config, network: PotentialEnergyTerm(config),
}


def _label_term(config: LabelLossConfig, trained: TrainedModel) -> LabelTerm:
    """Raises BadInput for a loss that does not serve the model's target."""
    right = trained.network.Config.loss
    if config.kind != right:
        raise BadInput(f"loss {config.kind} does not serve target {trained.target}: give loss {right}")
    return LABEL_TERMS[right](config, trained.network)


def _fit(given: _Given, trained: TrainedModel, samples: list[tuple[Prepared, Tensor]]) -> None:
    trained.network.fit_baseline(samples, partial(given.bar.prepared, what="parts of the baseline"))


def _labelled(given: _Given, store: SampleStore, used: Sequence[int]) -> list[tuple[Prepared, Tensor]]:
    """Samples with their labels in float64, the work shared between processes."""
    told = partial(given.bar.prepared, what="samples to fit")
    prepare(store, given.ranks.share(used), True, given.settings.data.workers, told)
    given.ranks.wait()
    found = (store.exact(k) for k in used)
    return [(sample, target) for sample, target in found if target is not None]


def _on_energy(given: _Given, energy: EnergyLossConfig) -> Assembled:
    settings, start, bar = given.settings, given.start, given.bar
    labelled = settings.labels is not None
    paths = split(settings.data, labelled)
    recorded = recorded_settings(paths.train[0])
    given_keys = {name: set(table) for name, table in energy.scf.given.items() if isinstance(table, dict)}
    require_one(
        ((p, Origin.of_settings(p).without(given_keys)) for p in paths.train),
        "Say which holds, in loss.scf, or leave one of the sets out",
    )
    known = None if start is None or start.reference is None else start.reference
    functional = shared_settings(energy.scf, recorded, None if known is None else known.settings)
    functional = functional.model_copy(
        update={"solver": {"device": "cuda" if settings.trainer.device.startswith("cuda") else "cpu"}}
    )
    chosen = energy.scf
    species = _species(settings, functional, chosen, paths.train, recorded, known)
    orbitals = OrbitalReference(species, _of_predictions(functional, energy, _needs_levels(given)))
    if start is not None:
        if known is None:
            raise MissingData(f"{settings.init_from} does not know its orbitals, so the energy cannot train it further")
        _same_functional(settings, start, functional, orbitals)
    problems = ProblemCache(functional, species, energy.memory_gb * 1e9)
    common = (functional, chosen, problems, labelled, settings.data.vacuum_ang)
    copies = Copies(settings.data.copies, settings.data.copies_sigma_ang / BOHR_ANG, settings.data.seed)
    data = StructureData(paths.train, *common, copies)
    held = StructureData(paths.validation, *common, looked_at=True)
    loss = EnergyLoss(problems, energy.residual_weight, energy.reuse)
    term = EnergyTerm(energy, data, loss, bar.note)
    broken = data.broken()
    for k, reason in broken.items():
        term.set_aside(k, reason)
    term.data = data = data.without(broken)
    validator = Validator(held)
    for k, reason in (unusable := held.broken()).items():
        validator.skipped[held.name(k)] = reason
        bar.note(f"{held.name(k)} cannot be validated on: {reason}")
    validator.data = held = held.without(unusable)
    if not len(data):
        reason = next(iter(term.skipped.values()))
        raise BadInput(f"none of the {len(broken)} structures to train on can be computed: {reason}")
    validator.check()
    trained_on, held_out_ = ([(d.name(k), d.content(k)) for k in range(len(d))] for d in (data, held))
    record = _recorded(given, trained_on, held_out_, digest_of_orbitals(orbitals))
    charges = [(k, d.settings(k).electrons.charge_e) for d in (data, held) for k in range(len(d))]
    if not settings.data.mixed_charges:
        names_ = (d.name(k) for d in (data, held) for k in range(len(d)))
        require_one_charge((name, q) for name, (_, q) in zip(names_, charges, strict=True))
    shells = {z: tuple(s.shells) for z, s in species.items()}
    some = [data.structure(k) for k in range(min(len(data), 20))]
    pairs = [data.layout(k).pairs.vectors(s).norm(dim=1).max() for k, s in enumerate(some)]
    reach = max(max(float(p) for p in pairs), 2 * max(s.orbital_cutoff for s in species.values()))
    seen = (
        (data.structure(k), element_pairs(data.structure(k), data.layout(k)), charge)
        for k, charge in charges[: len(data)]
    )
    domain = Domain.of(seen, Origin(tables_of(functional)))
    _tell_unseen(
        given, domain, ((s, element_pairs(s, held.layout(k))) for k in range(len(held)) for s in [held.structure(k)])
    )
    trained = _network(given, shells, reach, lambda: some, orbitals, domain)
    if trained.network.spin is not NONE:
        raise BadInput(
            f"loss energy trains networks without spin, this one is {trained.network.spin}: take loss blocks"
        )
    store, held_out = _stores(given, trained, data, held)
    if start is None and not given.resumed:
        _statistics(given, trained, store, data, term)
    terms: list[LossTerm] = [] if settings.labels is None else [_label_term(settings.labels, trained)]
    newton = None if settings.trainer.newton_from is None else NewtonSteps(data, store)
    return Assembled(trained, store, held_out, Loss([*terms, term]), validator, record, newton)


def _statistics(
    given: _Given, trained: TrainedModel, store: SampleStore, data: StructureData, term: EnergyTerm
) -> None:
    """Baseline and scales from labels where they are to be learnt, else from the first steps towards self-consistency."""
    network = trained.network
    if data.labelled:
        used = range(0, len(store), max(1, len(store) // STATISTICS_FROM))
        _fit(given, trained, _labelled(given, store, used))
        return
    atoms = sum(len(data.structure(k)) for k in range(len(data))) / len(data)
    surveyed = min(len(data), max(ENOUGH_FOR_EXPANSION, round(SURVEYED / atoms)))
    samples: list[tuple[Prepared, Tensor]] = []
    for done in range(surveyed):
        given.bar.prepared(done, surveyed)
        k = done * len(data) // surveyed
        try:
            calculation = data.calculation(k, first_steps(data, k), network.target.needs)
            labels = network.labels(calculation, data.inputs(k, network.target.needs))
        except (NearsightError, torch.linalg.LinAlgError) as error:
            term.set_aside(k, " ".join(str(error).split()))
            continue
        source = data.source(k, network)
        samples.append((network.geometry(source.structure, source.layout, source.inputs), labels))
    given.bar.prepared(surveyed, surveyed)
    if not samples:
        raise BadInput(
            f"no structure to train on can be computed, the first because: {next(iter(term.skipped.values()))}"
        )
    if len(samples) < ENOUGH_FOR_EXPANSION:
        network.fit_scales(samples, LEAST_SHARE if given.settings.trainer.newton_from is None else 1.0)
    else:
        _fit(given, trained, samples)


def first_steps(data: StructureData, index: int) -> BlockMatrix:
    """H [Ha] after a few steps of self-consistency from superposed atomic densities: what scales are taken from.

    Raises NearsightError where it is not finite.
    """
    problem = data.problem(index)
    start = problem.kpoints.symmetric(problem.functional.initial_hamiltonian())
    trial, _, _ = SCF(max_iterations=FIRST_STEPS).solve(problem, start, None)
    if not isfinite(trial.free):
        raise NotConverged("the functional gives no finite energy near superposed atomic densities")
    return trial.evaluation.hamiltonian.to("cpu")


def _species(
    settings: TrainingConfig,
    functional: Settings,
    given: Settings,
    paths: Sequence[Path],
    recorded: Settings | None,
    known: OrbitalReference | None,
) -> dict[int, Any]:
    """Orbitals of all elements of the training structures (or of the model to begin with)."""
    probe = StructureData(paths, functional, given, ProblemCache(functional, {}), False, settings.data.vacuum_ang)
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


def _of_predictions(functional: Settings, energy: EnergyLossConfig, levels: bool) -> Settings:
    """What predictions need to know to compute H0: not what belongs to one cell, unless one mesh was given for all."""
    shape = {"mesh": {"shape": energy.scf.mesh.shape}}
    return Settings(**of_predictions(functional, levels)).model_copy(update={**shape, "species": None})


def _needs_levels(given: _Given) -> bool:
    """Whether the model takes an input that levels are needed for."""
    return given.settings.model.needs_levels if given.start is None else "response" in given.start.network.inputs


def _same_functional(
    settings: TrainingConfig, start: TrainedModel, functional: Settings, orbitals: OrbitalReference
) -> None:
    assert start.reference is not None
    known = {z: s for z, s in orbitals.species.items() if z in start.reference.species}
    wrong = differences(start.reference, functional, known)
    if wrong:
        raise BadInput(f"{settings.init_from} was trained with another functional: {'; '.join(wrong)}")


def _network(
    given: _Given,
    shells: Mapping[int, tuple[int, ...]],
    reach: float,
    some: Callable[[], Iterable[Structure]],
    orbitals: OrbitalReference | None,
    domain: Domain,
) -> TrainedModel:
    """The network to begin or go on with. some: structures to train on, if they are asked for.  domain: of the data."""
    settings, start = given.settings, given.start
    dtype = getattr(torch, settings.trainer.dtype)
    if start is not None:
        found, wider = widened(start.network, start.architecture, shells)
        network = found.train().to(settings.trainer.device).to(dtype)
        return TrainedModel(network, wider, _joined(orbitals, start.reference), domain.joined(start.domain))
    architecture = _remembered(given) or _architecture(
        settings.model, Setting(shells, reach or NO_REACH, list(some()), spin(domain.spin))
    )
    network = build(architecture, settings.model.target, settings.trainer.seed).to(dtype)
    return TrainedModel(network.to(settings.trainer.device), architecture, orbitals, domain)


def _joined(orbitals: OrbitalReference | None, before: OrbitalReference | None) -> OrbitalReference | None:
    """The data's orbitals, and those of the elements that only the model to begin with has seen."""
    if orbitals is None or before is None:
        return orbitals or before
    return replace(orbitals, species={**before.species, **orbitals.species})


def _charges(data: LabelledData, orbitals: OrbitalReference | None) -> list[float | None]:
    """Of each cell [e], by its electrons where the valences are known, else as it was asked for."""
    valences = {} if orbitals is None else {z: s.valence for z, s in orbitals.species.items()}
    surveys = [data.survey(k) for k in range(len(data))]
    return [s.origin.charge_of(s.structure.numbers.tolist(), valences) for s in surveys]


def _tell_unseen(
    given: _Given, domain: Domain, held: Iterable[tuple[Structure, Mapping[tuple[int, int], float]]]
) -> None:
    """Say what is held out and yet never trained on: errors of it tell nothing of the network."""
    unseen = sorted({name for s, pairs in held for name in domain.unseen(s.numbers.tolist(), pairs)})
    if unseen:
        given.bar.note(f"structures that are held out have what no structure to train on has: {', '.join(unseen)}")


def _recorded(
    given: _Given, train: Sequence[tuple[str, str]], validation: Sequence[tuple[str, str]], orbitals: str
) -> DataRecord:
    """The record of names and digests. Raises BadInput where a training that is gone on with had others."""
    record = DataRecord(tuple(train), tuple(validation), orbitals)
    if given.resumed:
        record.require_same(given.out)
    return record


def _remembered(given: _Given) -> Mapping[str, Any] | None:
    """The architecture of a training that is gone on with. Raises BadInput for one that describes no network."""
    if not given.resumed or not (given.out / "config.json").exists():
        return None
    return ModelRecord.read(given.out).architecture


def _architecture(model: ModelConfig, setting: Setting) -> dict[str, Any]:
    kind = load("models", model.kind)
    shells = {str(z): list(s) for z, s in sorted(setting.shells.items())}
    return {"kind": model.kind, "shells": shells, "arguments": kind.arguments(model, setting)}


def _stores(
    given: _Given, trained: TrainedModel, train: TrainingData, validation: TrainingData
) -> tuple[SampleStore, SampleStore]:
    limit, disk = given.settings.trainer.cache_gb * 1e9, given.disk
    return SampleStore(train, trained.network, limit, disk), SampleStore(validation, trained.network, limit, disk)
