"""A trained model on disk, and what it is for: structure in, Hamiltonian out."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import nearsight
from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import PER_ATOM, Calculation
from nearsight.core.display import shortened
from nearsight.core.errors import BadInput, MissingData, Unavailable
from nearsight.core.laws import largest_energy, require_lawful
from nearsight.core.layout import BlockLayout
from nearsight.core.spin import NONE, Spin
from nearsight.core.spin_parts import as_vectors
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.dft.response import density_response
from nearsight.dft.settings import Settings
from nearsight.dft.setup import chosen_kmesh, load_species
from nearsight.formats.files import whole_folder
from nearsight.formats.outputs import claim_folder
from nearsight.formats.registry import find, read, read_structure, write
from nearsight.formats.structures import check_structure
from nearsight.learn import conditioning
from nearsight.learn.charge import charge_state
from nearsight.learn.data import moments_of
from nearsight.learn.domain import Domain, element_pairs
from nearsight.learn.large import Way, in_tiles, predict_in_tiles
from nearsight.learn.model_files import ModelRecord, build, read_weights, weights_size, write_weights
from nearsight.learn.origin import Origin
from nearsight.learn.potential_energy import surface
from nearsight.learn.reference import OrbitalReference, differences, read_species
from nearsight.models.contract import HamiltonianModel
from nearsight.models.targets import Inputs


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A network with what it needs to know of the orbitals.

    architecture: kind, shells and keyword arguments of the network.  reference: the orbitals; None if the data did not
    tell them, and then a prediction needs a layout from elsewhere.  domain: what it was trained on; None in a folder of an
    earlier version.
    """

    network: HamiltonianModel
    architecture: Mapping[str, Any]
    reference: OrbitalReference | None
    domain: Domain | None = None

    @property
    def record(self) -> ModelRecord:
        """What config.json says of the network."""
        settings = None if self.reference is None else self.reference.settings.model_dump(mode="json")
        trained_on = None if self.domain is None else self.domain.table()
        return ModelRecord(self.architecture, self.target, settings, trained_on)

    @property
    def target(self) -> str:
        """What the network's numbers stand for: total or delta."""
        return self.network.target.name

    def __repr__(self) -> str:
        elements = " ".join(SYMBOLS[int(z)] for z in self.architecture["shells"])
        weights = sum(w.numel() for w in self.network.parameters())
        knows = ", from the first step of self-consistency" if "response" in self.network.inputs else ""
        knows += "" if self.reference is not None else ", without its orbitals"
        return shortened(
            f"TrainedModel({self.architecture['kind']} of {elements}, {weights} weights, target {self.target}{knows}",
            ")",
        )

    def check(self, structure: Structure) -> None:
        """Raises NearsightError for a structure with an element that the model never saw, or no sound structure."""
        check_structure(structure)
        self.network.check(structure.numbers)

    def layout(self, structure: Structure) -> BlockLayout:
        """Pairs and elements of a prediction.

        Raises MissingData where the orbitals are not known, NearsightError as `check`.
        """
        self.check(structure)
        if self.reference is None:
            raise MissingData(
                "this model does not know the orbitals of its data, so it cannot compute an overlap: "
                "predict on a folder that has one (nearsight overlap NEW.cif --species ORBITALS -o S), or train with "
                "data.species (a folder of <Symbol>.ion.xml)"
            )
        return self.reference.layout(structure)

    def unseen(self, structure: Structure, layout: BlockLayout) -> str | None:
        """In words, what of a prediction no training structure had, where it is still one; None where all is known.

        Raises BadInput where nothing serves: blocks of target total would be zero.
        """
        domain = self.domain
        names = [] if domain is None else domain.unseen(structure.numbers.tolist(), element_pairs(structure, layout))
        if not names:
            return None
        serves = self.network.target.unlearnt
        if serves is None:
            raise BadInput(
                f"the model never saw {', '.join(names)}, and {structure.formula} has it within the reach of its orbitals: "
                "add such structures to the data and train again"
            )
        return f"the model never saw {', '.join(names)}: {serves}"

    def __call__(self, structure: Structure, layout: BlockLayout | None = None) -> BlockMatrix:
        """The Hamiltonian [Ha], float64, on a layout; without one, on the pairs that the DFT engine would use.

        Raises NearsightError as `check`, `layout` and `unseen`; what `unseen` says is a warning.
        """
        self.check(structure)
        layout = layout or self.layout(structure)
        if said := self.unseen(structure, layout):
            warnings.warn(said, stacklevel=2)
        return self.hamiltonian(structure, layout)

    @torch.no_grad()
    def hamiltonian(self, structure: Structure, layout: BlockLayout) -> BlockMatrix:
        """The Hamiltonian [Ha], float64, on a layout, of a structure that was checked."""
        return self.sound(self.network.matrix(structure, layout, self.inputs(structure, layout)), structure)

    def sound(self, matrix: BlockMatrix, structure: Structure) -> BlockMatrix:
        """The matrix itself. Raises BadInput for numbers that no Hamiltonian of the structure has."""
        if not float(matrix.values.abs().max()) <= largest_energy(structure):
            raise BadInput(
                "the model predicts numbers that no Hamiltonian has: its weights or the structure are not sound"
            )
        return matrix

    def seen(self, found: Calculation) -> Calculation:
        """A calculation as the model sees it: H in its spin, and the structure with the moments that it takes.

        Raises MissingData for a calculation without moments, where it takes them.
        """
        structure = found.structure
        if "moments" in self.network.inputs:
            structure = replace(structure, moments=moments_of(found, found.name))
        return replace(found, structure=structure, hamiltonian=self.network.in_its_spin(found.require_hamiltonian()))

    def moments(self, structure: Structure) -> Tensor:
        """The moment of each atom [atoms, 3], mu_B, for a model that takes them. Raises MissingData where none are stated."""
        return _moments(structure)

    def inputs(self, structure: Structure, layout: BlockLayout) -> Inputs:
        """What the network needs beside structure and pairs. Raises MissingData where the orbitals are not known."""
        names = self.network.inputs
        moments = _moments(structure) if "moments" in names else None
        if not names - {"moments"}:
            return Inputs(moments=moments)
        if self.reference is None:
            raise MissingData("this model needs the orbitals of its data: its folder has lost species/")
        reference = self.reference
        overlap = reference.overlap(structure, layout).values[0] if "overlap" in names else None
        h0 = reference.initial_hamiltonian(structure).on(layout).values if "initial_hamiltonian" in names else None
        device = self.network.device.type
        if "response" in names:
            problem = reference.problem(structure, device)
            return Inputs(overlap, h0, moments, problem.functional, density_response(problem))
        functional = reference.functional(structure, device) if "functional" in names else None
        return Inputs(overlap, h0, moments, functional)

    def start_for(self, structure: Structure, settings: Settings) -> BlockMatrix:
        """The prediction [Ha] as the start of a self-consistency cycle with these settings.

        Raises NearsightError, with the difference spelled out, where xc, orbitals or pseudopotentials are not the model's.
        """
        layout = self.layout(structure)
        assert self.reference is not None
        wrong = differences(
            self.reference, settings, load_species(structure.numbers.tolist(), settings), ["functional.xc"]
        )
        if wrong:
            raise BadInput(
                f"the model was trained with another functional: {'; '.join(wrong)}. Give the run the model's settings "
                "(--species MODEL/species for its orbitals)"
            )
        return self(structure, layout)

    def save(self, folder: Path, about: Mapping[str, Any] | None = None) -> None:
        """model.safetensors, config.json and species/, in one step; what else is in the folder stays.

        about: further entries of config.json (figures, configuration).  Raises Unavailable where it cannot be written.
        """
        with whole_folder(folder) as part:
            write_weights(self.network, self.record, part)
            if self.reference is not None:
                self.reference.write(part / "species")
            self.record.write(part, about or {})

    @staticmethod
    def load(folder: Path | str, device: str = "cpu") -> TrainedModel:
        """The model of a folder, in double precision whatever it was trained in.

        Raises NearsightError for a folder that is no model, one whose files do not fit together, or a missing device.
        """
        folder, place = Path(folder), find_device(device)
        if not folder.is_dir():
            raise MissingData(f"no such model: {folder}")
        record = ModelRecord.read(folder)
        network = build(record.architecture, record.target, stored=weights_size(folder))
        read_weights(network, record, folder)
        reference = None
        if record.reference is not None:
            reference = OrbitalReference(
                read_species(folder / "species", list(record.shells)),
                Settings.stored(record.reference, folder / "config.json"),
            )
        told = record.trained_on
        domain = None if told is None else Domain.of_table(told, folder / "config.json")
        return TrainedModel(network.to(place).eval(), record.architecture, reference, domain)


def load_model(path: Path | str, device: str = "cpu") -> TrainedModel:
    """A trained model from its folder: called with a structure, it gives H [Ha]; see `TrainedModel`.

    device: cpu, cuda or cuda:N.  Raises NearsightError as `TrainedModel.load`.
    """
    return TrainedModel.load(path, device)


def predict(
    model: TrainedModel | Path | str,
    structure: Structure | Path | str,
    out: Path | str,
    device: str = "cpu",
    charge: float | None = None,
    warn: Callable[[str], None] = warnings.warn,
    moments: Tensor | None = None,
    way: Way | None = None,
) -> None:
    """Write the calculation folder of a prediction: hamiltonian.h5, overlap.h5, result.json; of target energy no Hamiltonian.

    structure: a Structure, a file that ASE reads, or a calculation folder (whose overlap and pairs serve a model that does
    not know its orbitals).  charge: of the cell [e]; None: that of the data, as far as they tell it (see `Domain`).  warn:
    told what result.json lists under `warnings`.  moments: of each atom, [atoms] along z or [atoms, 3], mu_B, for a model
    that takes them; None: those that the structure states, else those of the calculation.  way: large structures are
    predicted in tiles, whose numbers are those of one piece; finished ones are kept beside `out` until all are there.
    Raises NearsightError for elements, or a charge, that the model never saw.
    """
    started = time.perf_counter()
    source = None if isinstance(structure, Structure) else Path(structure)
    claim_folder(out, "calculation", [source if source is not None and source.is_file() else None])
    if (Path(out) / "info.json").exists() and not read(out).result.get("prediction"):
        raise BadInput(f"{out} holds a calculation that is no prediction: predict into a folder of its own")
    found = read_structure(source) if source is not None else structure
    assert isinstance(found, Structure)
    name = None if isinstance(model, TrainedModel) else str(model)
    trained = model if isinstance(model, TrainedModel) else TrainedModel.load(model, device)
    trained.check(found)
    takes = "moments" in trained.network.inputs
    if takes:
        found = _with_moments(found, source, moments)
    elif moments is not None:
        raise BadInput("this model takes no magnetic moments: leave --moments out, or take a model of kind xdeeph")
    recorded = None if source is None else Origin.of_settings(source).charge
    tiled, chosen = False, way or Way()
    overlap: BlockMatrix | None
    if trained.reference is None and source is not None and find(source) is not None:
        given = read(source)
        overlap, electrons = given.require_overlap(), given.electrons
        layout = overlap.layout
        _same_basis(given.basis, trained)
        neutral = None if electrons is None else electrons + (recorded or 0.0)
    else:
        layout = trained.layout(found)
        assert trained.reference is not None
        tiled = in_tiles(trained, found, chosen)
        overlap = None if tiled else trained.reference.overlap(found, layout)
        neutral = trained.reference.electrons(found)
    told: dict[str, Any] = {"moments_mu_b": _moments(found).tolist()} if takes else {}
    if "response" in trained.network.inputs and trained.reference is not None:
        told |= {"baseline": {"kind": "response", "kmesh": list(chosen_kmesh(found, trained.reference.settings))}}
    state = charge_state(trained.domain, found, neutral, recorded, charge)
    ignored = None if takes or found.moments is None else _ignored(trained.network.spin)
    lowest = None
    target = trained.network.target
    if overlap is not None and trained.reference is not None and target.elements:
        lowest = conditioning.ill_conditioned(overlap)
    ghosts = None if lowest is None else conditioning.warning(lowest)
    remarks = (trained.unseen(found, layout), state.warning, ignored, ghosts)
    said = [words for words in remarks if words is not None]
    for words in said:
        warn(words)
    hamiltonian: BlockMatrix | None = None
    if not target.gives_matrix:
        told |= surface(trained.network, found, trained.moments(found)).record()
    elif tiled:
        place = Path(out).absolute()
        folder = None if isinstance(model, TrainedModel) or device != "cpu" else Path(model)
        hamiltonian, overlap = predict_in_tiles(
            trained, found, layout, chosen, place.with_name(f".{place.name}.tiles"), folder
        )
    else:
        hamiltonian = trained.hamiltonian(found, layout)
    if lowest is not None and trained.reference is not None:
        place_of = None if name is None else Path(name)
        told |= {"near_levels": conditioning.near_levels_record(lowest, trained.reference, place_of)}
    record = {
        "prediction": True,
        "per_atom": [*PER_ATOM, "moments_mu_b"],
        "model": name,
        "target": trained.target,
        "charge_e": state.charge,
        **told,
        "warnings": said,
        "trained_on": trained.record.trained_on,
        "wall_seconds": time.perf_counter() - started,
        "versions": {"nearsight": nearsight.__version__, "torch": torch.__version__},
    }
    predicted = Calculation(found, overlap, hamiltonian, electrons=state.electrons, result=record)
    write(out, require_lawful(predicted, "the prediction"))


def _moments(structure: Structure) -> Tensor:
    """The moment of each atom [atoms, 3], mu_B. Raises MissingData for a structure that states none."""
    if structure.moments is None:
        raise MissingData(
            f"{structure.formula} states no magnetic moments, and this model needs each atom's: give --moments, or initial "
            "magnetic moments in the file (extxyz: initial_magmoms), or a calculation folder that has them"
        )
    return as_vectors(structure.moments)


def _with_moments(structure: Structure, source: Path | None, given: Tensor | None) -> Structure:
    """A structure with the moments that are given, that it states, or that its calculation has. Raises BadInput for others."""
    if given is None and structure.moments is None and source is not None and find(source) is not None:
        given = read(source).moments
    if given is None:
        return structure
    if given.shape not in ((len(structure),), (len(structure), 3)) or not bool(torch.isfinite(given).all()):
        raise BadInput(f"{len(given)} moments for the {len(structure)} atoms of {structure.formula}: give one for each")
    return replace(structure, moments=given)


def _ignored(spin: Spin) -> str:
    """What a model says to moments that a structure states where it takes none."""
    if spin is NONE:
        return "the structure states magnetic moments, the model is one without spin: they are not predicted"
    return f"the structure states magnetic moments, the model takes none: it predicts the {spin} state of its training data"


predict_folder = predict


def _same_basis(basis: Basis, trained: TrainedModel) -> None:
    for z, shells in basis.shells.items():
        known = trained.network.shells[z]
        if tuple(shells) != known:
            raise BadInput(
                f"{SYMBOLS[z]} has shells {list(shells)} in this folder, the model was trained on {list(known)}"
            )


def find_device(name: str) -> torch.device:
    """cpu, cuda or cuda:N. Raises NearsightError for one that is not there, or that nothing here is tested on."""
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (":" in name and not index.isdecimal()):
        raise BadInput(f"device {name!r} is not known: take cpu or cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        raise Unavailable(f"device {name}: this machine has no CUDA device that PyTorch can use; take cpu")
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise Unavailable(f"device {name}: this machine has {torch.cuda.device_count()} CUDA devices, from cuda:0 on")
    return torch.device(name)
