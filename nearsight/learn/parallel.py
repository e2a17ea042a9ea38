"""Several processes that train one network, started by torchrun: each takes its share of a batch, gradients are summed."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Item = TypeVar("Item")


@dataclass(frozen=True)
class Ranks:
    """rank of this process among `world`; the first one writes and speaks."""

    rank: int = 0
    world: int = 1

    @staticmethod
    def join(device: str) -> Ranks:
        """As torchrun says by its environment variables; alone without them."""
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1:
            return Ranks()
        if not dist.is_initialized():
            on_gpu = device.startswith("cuda")
            if device == "cuda":
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
            atexit.register(_leave)
        return Ranks(dist.get_rank(), world)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> list[Item]:
        """What of a list this process does."""
        return list(items[self.rank :: self.world])

    def own(self, indices: Sequence[int]) -> list[int]:
        """Of a batch, the structures that are always this process's: what it keeps of them the others need not."""
        return [k for k in indices if self.owns(k)]

    def owns(self, index: int) -> bool:
        """Whether a structure is always this process's."""
        return index % self.world == self.rank

    def total(self, numbers: Iterable[float], device: torch.device | str = "cpu") -> list[float]:
        """Each number summed over all processes."""
        values = torch.tensor(list(numbers), dtype=torch.float64, device=device)
        if self.world > 1:
            dist.all_reduce(values)
        return [float(x) for x in values]

    def add_gradients(self, network: nn.Module) -> None:
        """The sum over processes in place of each one's own gradient; a parameter without one counts as zero."""
        if self.world == 1:
            return
        parameters = [p for p in network.parameters() if p.requires_grad]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        dist.all_reduce(flat)
        for p, g in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.grad = g.view_as(p)

    def together(self, found: dict[str, str]) -> dict[str, str]:
        """The union of all processes' tables."""
        if self.world == 1:
            return found
        tables: list[dict[str, str]] = [{} for _ in range(self.world)]
        dist.all_gather_object(tables, found)
        return {k: v for table in tables for k, v in table.items()}

    def gathered(self, found: list[Item]) -> list[Item]:
        """All processes' lists, one after another."""
        if self.world == 1:
            return found
        lists: list[list[Item]] = [[] for _ in range(self.world)]
        dist.all_gather_object(lists, found)
        return [x for one in lists for x in one]

    def everyone(self, tensor: Tensor) -> Tensor:
        """The first process's tensor."""
        if self.world > 1:
            dist.broadcast(tensor, 0)
        return tensor

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            dist.barrier()


def _leave() -> None:
    """Join the threads of the process group: a process that ends before they do may abort."""
    if dist.is_initialized():
        dist.destroy_process_group()
