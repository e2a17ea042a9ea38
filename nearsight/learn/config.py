"""The configuration of a training: three tables, validated, with every choice resolved and written beside the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "irreps": "32x0e+16x1o+8x2e+4x3o+4x4e+4x1e+4x2o",
        "edge": (32, 4, 16, 8, 4, 4),
        "hidden": (48, 4, 24, 16, 8, 4),
        "layers": 1,
        "width": 48,
    },
    "base": {
        "irreps": "64x0e+32x1o+16x2e+8x3o+4x4e+8x1e+8x2o+4x3e",
        "edge": (64, 8, 32, 16, 8, 4),
        "hidden": (64, 8, 40, 24, 12, 6),
        "layers": 2,
        "width": 64,
    },
    "large": {
        "irreps": "96x0e+64x1o+32x2e+16x3o+8x4e+16x1e+16x2o+8x3e",
        "edge": (96, 16, 64, 32, 16, 8),
        "hidden": (128, 16, 80, 48, 24, 12),
        "layers": 3,
        "width": 96,
    },
}


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Table):
    """Folders of calculation folders (or calculation folders themselves).

    validation: folders never trained on; without them, `validation_fraction` of `train`, drawn with `seed`.
    species: folder of <Symbol>.ion.xml of the orbitals, so that a prediction can compute overlaps (and H0). Without it:
    `species/` beside the samples, or the settings that the samples' result.json records.
    """

    train: str | list[str]
    validation: str | list[str] | None = None
    validation_fraction: float = Field(0.1, ge=0, lt=1)
    species: Path | None = None
    seed: int = 0


class ModelConfig(_Table):
    """kind and preset of the network; further keys replace the preset's.

    target: `total` is H; `delta` is H - H0, with H0 of superposed atomic densities computed by the DFT engine.
    cutoff_ang: reach of one message [Angstrom].  irreps: features of atoms.  edge, hidden: channels in the edge's frame
    (m = 0 even, m = 0 odd, m = 1, 2, ...).  layers: interactions.  radial: functions of the distance.  width: of the
    networks on them.
    """

    kind: Literal["deeph2"] = "deeph2"
    preset: Literal["small", "base", "large"] = "base"
    target: Literal["total", "delta"] = "total"
    cutoff_ang: float = Field(4.25, gt=0)
    irreps: str | None = None
    edge: tuple[int, ...] | None = Field(None, min_length=3)
    hidden: tuple[int, ...] | None = Field(None, min_length=3)
    layers: int | None = Field(None, ge=1)
    radial: int = Field(8, ge=1)
    width: int | None = Field(None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, table: Any) -> Any:
        if isinstance(table, Mapping) and table.get("preset", "base") in PRESETS:
            given = {k: v for k, v in table.items() if v is not None}
            return {**PRESETS[table.get("preset", "base")], **given}
        return table


class ReferenceConfig(_Table):
    """How H0 is computed for target delta. xc, mesh cutoff: null takes what the samples record, else PBE and 300 Ry."""

    xc: Literal["lda", "pbe", "pbesol"] | None = None
    mesh_cutoff_ry: float | None = Field(None, gt=0)


class TrainerConfig(_Table):
    """max_minutes, max_epochs: whichever comes first ends the training; schedules run over that budget.

    schedule: `cosine` and `linear` fall from learning_rate to nothing at the end of the budget; `plateau` multiplies by
    `plateau_factor` after `plateau_patience` validations without a better one, down to `minimum_learning_rate`.
    warmup: share of the budget.  batch_edges: structures are packed into batches of at most so many edges (at least one
    structure).  loss: of the elements in meV; `mixed` is the mean of MAE and root mean square.  gauge_invariant: blind to
    H + mu S.  ema: decay of the averaged weights, which are those that are kept.  validations: how many over the budget.
    resume: go on from the checkpoint in the output folder.
    """

    max_minutes: float | None = Field(20.0, gt=0)
    max_epochs: int | None = Field(None, ge=1)
    learning_rate: float = Field(3e-3, gt=0)
    minimum_learning_rate: float = Field(1e-6, ge=0)
    weight_decay: float = Field(1e-3, ge=0)
    schedule: Literal["cosine", "linear", "plateau", "constant"] = "cosine"
    warmup: float = Field(0.02, ge=0, lt=1)
    plateau_factor: float = Field(0.5, gt=0, lt=1)
    plateau_patience: int = Field(10, ge=1)
    batch_edges: int = Field(64, ge=1)
    loss: Literal["mae", "mse", "mixed"] = "mae"
    gauge_invariant: bool = False
    gradient_clip: float = Field(1.0, gt=0)
    ema: float = Field(0.998, ge=0, lt=1)
    validations: int = Field(40, ge=1)
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"
    seed: int = 0
    cache_gb: float = Field(4.0, gt=0)
    resume: bool = True

    @model_validator(mode="after")
    def _ends(self) -> TrainerConfig:
        if self.max_minutes is None and self.max_epochs is None:
            raise ValueError("a training needs an end: give max_minutes, max_epochs or both")
        return self


class TrainingConfig(_Table):
    """A training file: data, model, trainer, and for target delta the reference."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    reference: ReferenceConfig = ReferenceConfig()
    trainer: TrainerConfig = TrainerConfig()
