"""Which structures a training learns from, and which are held out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from nearsight.core.errors import BadInput
from nearsight.formats.registry import list_folders, list_structures
from nearsight.learn.config import DataConfig
from nearsight.learn.subset import parts_of, those


@dataclass(frozen=True)
class Split:
    """Paths to train on, and paths that are held out."""

    train: tuple[Path, ...]
    validation: tuple[Path, ...]


def split(config: DataConfig, labelled: bool = True) -> Split:
    """Which structures to train on and which to hold out.

    labelled: folders with Hamiltonians are wanted, and none is both trained on and validated on.
    Raises NearsightError for missing or empty folders, or too few; a condition or a split file that leaves nothing.
    """
    find = _folders if labelled else _structures
    train = _once(those(find(config.train), config.train, config.where), "data.train")
    if config.split is not None:
        train, validation = parts_of(train, config.train, config.split)
        if not train:
            raise BadInput(f"no structures are left to train on: {config.split} and data.where leave none")
    elif config.validation is not None:
        validation = _once(those(find(config.validation), config.validation, config.where), "data.validation")
        held = {p.resolve() for p in validation} if labelled else set()
        train = [p for p in train if p.resolve() not in held]
    else:
        count = min(len(train) - 1, max(1, round(config.validation_fraction * len(train))))
        count = count if config.validation_fraction > 0 else 0
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(config.seed)).tolist()
        validation = [train[k] for k in sorted(order[:count])]
        train = [train[k] for k in sorted(order[count:])]
    if not train:
        raise BadInput("no structures are left to train on: the validation set holds all of data.train")
    return Split(tuple(train), tuple(validation))


def _once(paths: list[Path], what: str) -> list[Path]:
    """The paths. Raises BadInput where one stands there twice: it would count double, or be trained on and held out."""
    seen: set[Path] = set()
    for path in paths:
        real = path.resolve()
        if real in seen:
            raise BadInput(f"{path} stands twice in {what}: name it once")
        seen.add(real)
    return paths


def _folders(paths: str | list[str]) -> list[Path]:
    found = [f for p in ([paths] if isinstance(paths, str) else paths) for f in list_folders(p)]
    return list(dict.fromkeys(found))


def _structures(paths: str | list[str]) -> list[Path]:
    """Structures, whether they have matrices or not, and frames of structure files."""
    found = [p for path in ([paths] if isinstance(paths, str) else paths) for p in list_structures(path)]
    return list(dict.fromkeys(found))
