"""Records of tensors: dataclasses that can be moved, cast, counted, and laid flat for a file and made again from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, Self, get_args, get_origin, get_type_hints

import torch
from torch import Tensor


class TensorRecord:
    """To be inherited by frozen dataclasses whose fields are tensors, records, integers, or tuples of one of these."""

    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same record with every tensor changed."""
        changed = {f.name: _each(getattr(self, f.name), change) for f in fields(self)}  # type: ignore[arg-type]
        return replace(self, **changed)  # type: ignore[type-var]

    def to(self, device: torch.device | str) -> Self:
        """The same record on a device."""
        return self.each(lambda x: x.to(device))

    def cast(self, dtype: torch.dtype) -> Self:
        """Real numbers in another precision; indices stay."""
        return self.each(lambda x: x.to(dtype) if x.is_floating_point() else x)

    @property
    def nbytes(self) -> int:
        """Of all tensors."""
        return sum(x.numel() * x.element_size() for x in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        """All fields by name, those within others as `outer.inner`; integers as tensors without dimensions."""
        found: dict[str, Tensor] = {}
        for f in fields(self):  # type: ignore[arg-type]
            _flatten(f.name, getattr(self, f.name), found)
        return found

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The record that `tensors` came from. Raises KeyError where one is missing."""
        kinds = _kinds(cls)  # type: ignore[arg-type]
        return cls(**{name: _restored(name, kind, tensors) for name, kind in kinds.items()})


@cache
def _kinds(cls: Any) -> dict[str, Any]:
    assert is_dataclass(cls)
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in fields(cls)}


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, TensorRecord):
        return value.each(change)
    return tuple(_each(x, change) for x in value) if isinstance(value, tuple) else value


def _flatten(name: str, value: Any, found: dict[str, Tensor]) -> None:
    if isinstance(value, TensorRecord):
        found |= {f"{name}.{k}": x for k, x in value.tensors().items()}
    elif isinstance(value, tuple):
        found[f"{name}.count"] = torch.tensor(len(value))
        for k, x in enumerate(value):
            _flatten(f"{name}.{k}", x, found)
    else:
        found[name] = value if isinstance(value, Tensor) else torch.tensor(value)


def _restored(name: str, kind: Any, tensors: Mapping[str, Tensor]) -> Any:
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        return tuple(_restored(f"{name}.{k}", inner, tensors) for k in range(int(tensors[f"{name}.count"])))
    if isinstance(kind, type) and issubclass(kind, TensorRecord):
        prefix = f"{name}."
        return kind.of_tensors({k[len(prefix) :]: x for k, x in tensors.items() if k.startswith(prefix)})
    return tensors[name] if kind is Tensor else tensors[name].item()
