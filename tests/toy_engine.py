"""An engine of a third party, for the tests: a real calculation folder in milliseconds, or trouble where it is asked for."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from nearsight.core.basis import Basis
from nearsight.core.blocks import BlockMatrix
from nearsight.core.errors import NotConverged
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.formats.deeph import write_folder
from nearsight.tasks.engines.contract import Engine, EngineTable


class ToyTable(EngineTable):
    """log: file to which a line is added when a calculation is finished.  seconds: of each.  trouble: kind of it."""

    kind: Literal["toy"] = "toy"
    log: str | None = None
    seconds: float = 0.0
    trouble: Literal["sleep", "memory", "unconverged", "full"] | None = None
    needs: int = 0
    step: int = 0


class Toy(Engine):
    """S = 1 + a decay with distance, H likewise: lawful, and another one for each structure."""

    name: ClassVar[str] = "toy"
    Table: ClassVar[type[EngineTable]] = ToyTable
    ladder: ClassVar[tuple[str, ...]] = ("mixing",)

    def rung(self, word: str) -> dict[str, Any]:
        """Each rung is a step."""
        return {"step": self.table.step + 1}

    def compute(self, structure: Any, folder: Path) -> None:
        """See Engine."""
        time.sleep(self.table.seconds)
        if self.table.trouble == "sleep":
            time.sleep(1000)
        if self.table.trouble == "memory":
            bytearray(8_000_000_000)
        if self.table.trouble == "full":
            raise OSError(28, os.strerror(28))
        if self.table.step < self.table.needs:
            raise NotConverged(f"step {self.table.step} of {self.table.needs}")
        shells = {int(z): (0,) for z in structure.numbers.tolist()}
        layout = BlockLayout(Basis.of(structure.numbers, shells), Pairs.within(structure, 5.0))
        distance = layout.pairs.vectors(structure).norm(dim=1)[layout.pair]
        s = BlockMatrix(layout, torch.exp(-2.0 * distance)[None])
        write_folder(folder, structure, s, -0.5 * s, electrons=float(len(structure)), converged=True)
        if self.table.log:
            with open(self.table.log, "a") as file:
                file.write(f"{folder.name}\n")
