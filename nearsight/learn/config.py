"""The configuration of a training: tables, validated, with every choice resolved and written beside the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, SerializeAsAny, field_serializer, field_validator, model_validator

from nearsight.core.configuration import validated
from nearsight.core.errors import BadInput, NearsightError
from nearsight.core.registry import load
from nearsight.core.tables import PATH, Table, Versioned
from nearsight.dft.settings import FunctionalName, Settings
from nearsight.formats.sets.where import Where
from nearsight.models.contract import ModelConfig


class PreparationConfig(Table):
    """The part of `data` that may change where a training is resumed: where prepared samples are kept, and who makes them.

    See DataConfig.
    """

    cache: Path | None = None
    cache_gb: float = Field(10.0, ge=0)
    workers: int | None = Field(None, ge=1, le=1024)


class DataConfig(PreparationConfig):
    """Folders of calculation folders (or calculation folders themselves).

    For the energy loss alone, structure files too: any that ASE reads, each frame of it; Hamiltonians are not needed.
    train: what to train on, one or several.
    where: a condition on the entries of data sets, such as `n_atoms < 50 and "C" in elements` (formats/sets/where.py), for
    training and validation alike.  split: split.json of `dataset split`, which divides the one set of `train`; its test part is
    left out.
    validation_fraction: share of `train` that is validated on where neither `validation` nor `split` is given.
    seed: of what is drawn for validation, and of displaced copies.
    validation: folders never trained on; without them or a split, `validation_fraction` of `train`, drawn with `seed`. The
    energy loss looks at no label, so with it a folder that is named in both is trained on and validated on.
    copies, copies_sigma_ang: for the energy loss alone, which needs no labels: how many copies of each training structure to
    train on beside it, every atom displaced along x, y and z by Gaussian steps of this width [Angstrom], at most 2.5 of it.
    vacuum_ang: box around molecules of structure files without a cell [Angstrom].
    cache, cache_gb: folder of prepared samples and H0, which every training may share, and what it may hold; by default
    nearsight/ in the user's cache (XDG_CACHE_HOME or ~/.cache). It may be deleted at any time.
    workers: processes that prepare samples where that takes long; null counts the cores.
    mixed_charges: learn from cells of several charges, of which nothing tells the network: where the formula tells the charge.
    species: folder of <Symbol>.ion.xml of the orbitals, so that a prediction can compute overlaps (and H0). Without it:
    `species/` beside the samples, or the settings that the samples' result.json records.
    """

    train: str | list[str] = Field(json_schema_extra={PATH: True})
    validation: str | list[str] | None = Field(None, json_schema_extra={PATH: True})
    validation_fraction: float = Field(0.1, ge=0, lt=1)
    species: Path | None = None
    copies: int = Field(0, ge=0, le=10_000)
    copies_sigma_ang: float = Field(0.05, gt=0, le=2)
    vacuum_ang: float | None = Field(None, gt=0)
    mixed_charges: bool = False
    seed: int = Field(0, ge=0)
    where: str | None = None
    split: Path | None = None

    @model_validator(mode="after")
    def _one_validation(self) -> DataConfig:
        if self.where is not None:
            Where.parse(self.where, "data.where")
        if self.split is not None and self.validation is not None:
            raise ValueError("split names what is validated on: leave validation out")
        return self


class BlocksLossConfig(Table):
    """Elements of the Hamiltonian against those of the data.

    error: of the elements in meV; `mixed` is the mean of MAE and root mean square.  gauge_invariant: blind to H + mu S.
    weight: of this loss among several.
    """

    kind: Literal["blocks"] = "blocks"
    error: Literal["mae", "mse", "mixed"] = "mae"
    gauge_invariant: bool = False
    weight: float = Field(1.0, gt=0)


class EnergyLossConfig(Table):
    """The energy functional itself, without labels (energy.py).

    residual_weight: lambda [1/Ha] of the generalised gradient; 0 is the bare energy.  measure: `energy` is the energy above
    the minimum; `root` its square root, which weighs structures alike, however far each is from its minimum.
    reuse: visits of a structure that share one evaluation of the functional, by its quadratic model; 1 evaluates always.
    scf: keys of an `scf` configuration (xc, basis, kmesh, smearing_ev, mesh_cutoff_ry, ...) in place of what the samples
    record.  memory_gb: what functionals may take; above it the least recently used are computed again.
    """

    kind: Literal["energy"]
    residual_weight: float = Field(1.0, ge=0)
    measure: Literal["energy", "root"] = "energy"
    reuse: int = Field(1, ge=1)
    scf: Settings = Settings()
    memory_gb: float = Field(8.0, gt=0)
    weight: float = Field(1.0, gt=0)

    @field_serializer("scf")
    def _given(self, scf: Settings) -> dict[str, Any]:
        """Without the defaults: in place of these, what the samples record holds."""
        return scf.model_dump(mode="json", exclude_unset=True)


def model_config(table: Mapping[str, Any]) -> ModelConfig:
    """The table `model:` as the class that its kind declares. Raises NearsightError, with the near miss of a key or kind."""
    try:
        kind = load("models", str(table.get("kind", "deeph2")))
    except BadInput as error:
        raise BadInput(f"model.kind: {error}") from error
    target = table.get("target")
    if isinstance(target, str) and target in kind.Config.elsewhere:
        return model_config({**table, "kind": kind.Config.elsewhere[target]})
    found: ModelConfig = validated(kind.Config, table, "model")
    return found


class DensityLossConfig(Table):
    """Coefficients of the density against those that fit the data best: the loss of target density.

    The root of |dn - dn_data|^2 in the metric of the model (`model.metric`), averaged over structures.
    weight: of this loss among several.
    """

    kind: Literal["density"] = "density"
    weight: float = Field(1.0, gt=0)


class PotentialEnergyLossConfig(Table):
    """Energies with their derivatives against those of the data: the loss of target energy.

    energy, forces, magnetic_forces: weights of the mean errors in meV per atom, meV/angstrom and meV/mu_B; 0 leaves one out.
    weight: of this loss among several.
    """

    kind: Literal["potential-energy"] = "potential-energy"
    energy: float = Field(1.0, ge=0)
    forces: float = Field(1.0, ge=0)
    magnetic_forces: float = Field(1.0, ge=0)
    weight: float = Field(1.0, gt=0)

    @model_validator(mode="after")
    def _something(self) -> PotentialEnergyLossConfig:
        if not self.energy + self.forces + self.magnetic_forces:
            raise ValueError("energy, forces and magnetic_forces are all 0: nothing would be learnt; give one a weight")
        return self


LabelLossConfig = BlocksLossConfig | DensityLossConfig | PotentialEnergyLossConfig
LossConfig = Annotated[LabelLossConfig | EnergyLossConfig, Discriminator("kind")]


class ReferenceConfig(Table):
    """How H0 is computed for target delta.

    xc, mesh_cutoff_ry: null takes what the samples record, else PBE and 300 Ry.
    """

    xc: FunctionalName | None = None
    mesh_cutoff_ry: float | None = Field(None, gt=0)


class BudgetConfig(Table):
    """The part of `trainer` that may change where a training is resumed: how long, how often it is looked at, and on what.

    max_minutes, max_epochs: whichever comes first ends the training; schedules run over that budget.  validations: how many
    over the budget.  resume: go on from the checkpoint in the output folder.  cache_gb: what samples may take in memory.
    device: cpu or cuda.
    clock: what minutes are counted by: `wall`, or `cpu`, the time that this process had a core, which is the same on a machine
    that others use too.
    """

    max_minutes: float | None = Field(20.0, gt=0)
    max_epochs: int | None = Field(None, ge=1)
    validations: int = Field(40, ge=1)
    device: str = "cpu"
    cache_gb: float = Field(4.0, gt=0)
    clock: Literal["wall", "cpu"] = "wall"
    resume: bool = True


class TrainerConfig(BudgetConfig):
    """How the weights are found, within the budget.

    learning_rate: of AdamW, at its highest.  weight_decay: of AdamW.  gradient_clip: largest norm of a step's gradient;
    a longer one is shortened to it.  dtype: of the weights.  seed: of the first weights and of the order of samples.
    minimum_learning_rate, plateau_factor, plateau_patience: see schedule.
    schedule: `cosine` and `linear` fall from learning_rate to nothing at the end of the budget; `plateau` multiplies by
    `plateau_factor` after `plateau_patience` validations without a better one, down to `minimum_learning_rate`.
    warmup: share of the budget.  batch_edges: structures are packed into batches of at most so many edges (at least one
    structure).  ema: decay of the averaged weights, which are those that are kept.  newton_from: share of the budget after
    which Gauss-Newton steps on all structures at once, an epoch each, take the place of AdamW (for one structure or a
    handful, in float64), until the energies are at their minima; null: never.  freeze: parts of the network that stay as they
    are, by the first words of their weights' names (`interactions`, `embedding`, ...): for a model that begins with another.
    """

    learning_rate: float = Field(3e-3, gt=0)
    minimum_learning_rate: float = Field(1e-6, ge=0)
    weight_decay: float = Field(1e-3, ge=0)
    schedule: Literal["cosine", "linear", "plateau", "constant"] = "cosine"
    warmup: float = Field(0.02, ge=0, lt=1)
    plateau_factor: float = Field(0.5, gt=0, lt=1)
    plateau_patience: int = Field(10, ge=1)
    batch_edges: int = Field(64, ge=1)
    newton_from: float | None = Field(None, ge=0, lt=1)
    gradient_clip: float = Field(1.0, gt=0)
    ema: float = Field(0.998, ge=0, lt=1)
    dtype: Literal["float32", "float64"] = "float32"
    seed: int = Field(0, ge=0)
    freeze: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _ends(self) -> TrainerConfig:
        if self.max_minutes is None and self.max_epochs is None:
            raise ValueError("a training needs an end: give max_minutes, max_epochs or both")
        return self


class TrainingConfig(Versioned):
    """A training file: data, model, loss, trainer, and for target delta the reference.

    loss: blocks, energy, or a table with `kind`; a list adds several.  init_from: a trained model to begin with, whose
    network, target and orbitals then hold.
    """

    schema_version: int = 2
    data: DataConfig
    model: SerializeAsAny[ModelConfig] = Field(default_factory=lambda: model_config({}))
    loss: tuple[LossConfig, ...] = (BlocksLossConfig(),)
    init_from: Path | None = None
    reference: ReferenceConfig = ReferenceConfig()
    trainer: TrainerConfig = TrainerConfig()

    @model_validator(mode="before")
    @classmethod
    def _loss_of_the_target(cls, given: Any) -> Any:
        """Without a loss, that of the model's labels."""
        if not isinstance(given, Mapping) or "loss" in given or "model" not in given:
            return given
        try:
            model = cls._of_its_kind(given["model"])
        except NearsightError:
            return given  # told where the model's table is read
        return {**given, "loss": model.loss} if isinstance(model, ModelConfig) else given

    @field_validator("model", mode="before")
    @classmethod
    def _of_its_kind(cls, table: Any) -> Any:
        return model_config(table) if isinstance(table, Mapping) else table

    @field_validator("loss", mode="before")
    @classmethod
    def _list_of_tables(cls, given: Any) -> Any:
        several = [given] if isinstance(given, str | Mapping | BaseModel) else given
        if not isinstance(several, list | tuple):
            return several
        return [{"kind": x} if isinstance(x, str) else x for x in several]

    @model_validator(mode="after")
    def _one_of_each(self) -> TrainingConfig:
        kinds = [x.kind for x in self.loss]
        if not kinds or len(set(kinds)) < len(kinds):
            raise ValueError(
                "loss: give blocks (with target density: density; with target energy: potential-energy), energy, or one of each"
            )
        if self.init_from is None and self.labels is not None and self.labels.kind != self.model.loss:
            other = "" if self.model.target == "energy" else ", or energy"
            raise ValueError(
                f"loss {self.labels.kind} does not serve target {self.model.target}: take {self.model.loss}{other}"
            )
        if self.model.target == "energy" and self.energy is not None:
            raise ValueError(
                "loss energy puts a Hamiltonian into the energy functional, and target energy gives none: take potential-energy"
            )
        if self.data.copies and kinds != ["energy"]:
            raise ValueError("data.copies have no labels: they serve loss energy alone")
        return self

    @model_validator(mode="after")
    def _newton_needs(self) -> TrainingConfig:
        t = self.trainer
        if t.newton_from is not None and (self.energy is None or self.labels is not None or t.dtype != "float64"):
            raise ValueError("trainer.newton_from needs loss energy, without blocks, and trainer.dtype float64")
        if t.newton_from is not None and t.freeze:
            raise ValueError("trainer.newton_from moves the last layers as a whole: leave trainer.freeze out")
        return self

    def that_matters(self) -> dict[str, Any]:
        """The tables on which a resumed training must agree with the one before: no budget, no solver, no outputs."""
        unbound: Any = {
            "schema_version": True,
            "data": set(PreparationConfig.model_fields),
            "trainer": set(BudgetConfig.model_fields),
        }
        table = self.model_dump(mode="json", exclude=unbound)
        for loss in table["loss"]:
            loss["scf"] = {
                k: v for k, v in loss.get("scf", {}).items() if k not in ("schema_version", "solver", "outputs")
            }
        return table

    @property
    def energy(self) -> EnergyLossConfig | None:
        """The loss of energies, or None."""
        return next((x for x in self.loss if isinstance(x, EnergyLossConfig)), None)

    @property
    def labels(self) -> LabelLossConfig | None:
        """The loss of labels, or None."""
        return next((x for x in self.loss if not isinstance(x, EnergyLossConfig)), None)
