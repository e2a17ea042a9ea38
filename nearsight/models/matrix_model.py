"""Models that give the elements of a matrix by the readout of readout.py: what they share, whatever their layers are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from nearsight.core.layout import BlockLayout
from nearsight.core.spin import NONE, Spin
from nearsight.core.structure import Structure
from nearsight.models.baseline import SURROUNDED
from nearsight.models.contract import Prepared, Setting, Told, silent
from nearsight.models.graph import Graph
from nearsight.models.local_model import LocalModel
from nearsight.models.readout import BlockReadout
from nearsight.models.statistics import fit_scales, fit_statistics
from nearsight.models.targets import Inputs


class MatrixModel(LocalModel):
    """A local model of a structure alone, with baseline, scales and spin of a `BlockReadout`.

    readout: of the parts that its spin gives H without moments.  irreps: whose highest l is that of the samples' frames.
    """

    Sample: ClassVar[type[Prepared]] = Graph
    readout: BlockReadout

    @classmethod
    def arguments(cls, config: Any, setting: Setting) -> dict[str, Any]:
        """Keyword arguments of the constructor, from the table and the data; the spin is that of the data."""
        spin = {} if setting.spin is NONE else {"spin": setting.spin.name}
        return super().arguments(config, setting) | spin | {"surroundings": len(setting.shells) <= SURROUNDED}

    @property
    def spin(self) -> Spin:
        """That of its training data."""
        return self.readout.parts.spin

    def learnable(self, values: Tensor) -> Tensor:
        """Values [components, size] without what its parts cannot hold: of spinors, what time reversal turns."""
        return self.readout.parts.values(self.readout.parts.of_values(values))

    @property
    def geometry_settings(self) -> dict[str, Any]:
        """Cutoff, orbitals, and the highest l of the frames."""
        return {"cutoff": self.cutoff, "shells": self.shells, "l_max": self.irreps.l_max, "spin": self.spin}

    def geometry(self, structure: Structure, layout: BlockLayout, inputs: Inputs) -> Graph:
        """Edges and frames. Raises BadInput for an element that the model does not know."""
        self.check(structure.numbers)
        return Graph.of(structure.to("cpu"), layout.to("cpu"), self.readout.slots, self.cutoff, self.irreps.l_max)

    def complete(self, sample: Graph) -> Graph:
        """With the cluster expansion's values and the scales, on the network's device, in its precision."""
        return self.readout.complete(sample.to(self.device))

    @torch.no_grad()
    def fit_baseline(self, samples: Iterable[tuple[Graph, Tensor]], told: Told = silent) -> None:
        """Cluster expansion and scales from samples and labels [components, size], Ha."""
        fit_statistics(self.readout, self._on_device(samples), told)

    @torch.no_grad()
    def fit_scales(self, samples: Iterable[tuple[Graph, Tensor]], share: float) -> None:
        """Scales from samples and labels [components, size], Ha, none below `share` of the largest; no expansion."""
        fit_scales(self.readout, self._on_device(samples), share)

    def _on_device(self, samples: Iterable[tuple[Graph, Tensor]]) -> list[tuple[Graph, Tensor]]:
        parts = self.readout.parts
        return [(graph.to(self.device), parts.of_values(labels).to(self.device)) for graph, labels in samples]

    def fitted(self) -> dict[str, Tensor]:
        """Coefficients of the cluster expansion, and scales of edges."""
        return self.readout.fitted()
