"""Counts what makes a program wait for its device: numbers, lists and masks that the host has to know."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

#: operations whose result, or its size, the host needs
WAITING = ("_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "unique_consecutive", "masked_select", "equal")


class Transfers(TorchDispatchMode):
    """While entered, `count` grows by one with each transfer; `kinds` tells of what sort they were.

    Counted on the CPU as a GPU would need them. The error checks of torch.linalg are not among them: they are its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kinds: Counter[str] = Counter()
        self._tolist = torch.Tensor.tolist

    @property
    def count(self) -> int:
        return sum(self.kinds.values())

    def __enter__(self) -> Any:
        def tolist(tensor: torch.Tensor) -> Any:
            self.kinds["tolist"] += 1
            return self._tolist(tensor)

        torch.Tensor.tolist = tolist  # type: ignore[method-assign, assignment]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch.Tensor.tolist = self._tolist  # type: ignore[method-assign]
        super().__exit__(*error)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name in WAITING:
            self.kinds[name] += 1
        if name in ("index", "index_put", "index_put_"):
            masks = [i for i in args[1] if i is not None and i.dtype == torch.bool]
            self.kinds["index by a mask"] += bool(masks)
        return function(*args, **(kwargs or {}))
