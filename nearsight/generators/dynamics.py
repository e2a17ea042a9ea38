"""Frames of molecular dynamics: on our own forces, or on those of any ASE calculator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from nearsight.core.configuration import layered, validated
from nearsight.core.errors import BadInput
from nearsight.dft.settings import Settings
from nearsight.generators.contract import Generator, Keys
from nearsight.properties.contract import option

if TYPE_CHECKING:
    from ase import Atoms

    from nearsight.motion.run import Mover


class Dynamics(Generator):
    """Structures along a path at a temperature, `every` steps apart, after `first_steps`.

    scf: keywords of our own ground state; calculator: `module:Class` of an ASE calculator in its place, with its keywords.
    The path of parent n depends on (seed, n) alone.
    """

    kind: ClassVar[str] = "dynamics"

    count: int = option(10, "Structures of each parent.", ge=1)
    temperature_K: float = option(..., "Of the bath, or of the first velocities.", unit="K", gt=0, le=1e6)
    ensemble: Literal["langevin", "nve"] = option("langevin", "langevin or nve.")
    timestep_fs: float = option(1.0, "Time step.", unit="fs", gt=0, le=100)
    every: int = option(20, "Steps between structures.", ge=1)
    first_steps: int = option(0, "Steps before the first, in which the path forgets its beginning.", ge=0)
    friction_per_fs: float = option(0.01, "Of Langevin's equation.", gt=0, le=10)
    seed: int = option(0, "Of velocities and random forces.", ge=0)
    calculator: str | None = option(None, "module:Class of an ASE calculator, such as ase.calculators.emt:EMT.")
    calculator_settings: Keys = Field(default_factory=dict, description="Its keywords, such as {a: 1}.")
    scf: Keys = Field(default_factory=dict, description="Settings of our own ground state, such as {basis: sz}.")

    def _mover(self) -> Mover:
        from nearsight.motion.run import Mover

        if self.calculator is not None and self.scf:
            raise BadInput("dynamics: calculator and scf are both given: leave one of them out")
        told = {"calculator": self.calculator, "calculator_settings": self.calculator_settings}
        return validated(Mover, {**told, "scf": layered(Settings, [self.scf])}, "dynamics")

    def number(self, parents: Sequence[Atoms]) -> int:
        """See `Generator`."""
        self._mover()
        return self.count

    def size(self, parents: Sequence[Atoms]) -> int:
        """See `Generator`."""
        return len(parents[0])

    def structures(self, parents: Sequence[Atoms], first: int = 0) -> Iterator[Atoms]:
        """See `Generator`."""
        from nearsight.motion.dynamics import Motion, frames

        atoms = parents[0].copy()
        atoms.set_momenta(None)
        told = {"ensemble": self.ensemble, "temperature_K": self.temperature_K, "timestep_fs": self.timestep_fs}
        told |= {"seed": self.seed, "every": self.every}
        told |= {"friction_per_fs": self.friction_per_fs} if self.ensemble == "langevin" else {}
        options = validated(Motion, told, "dynamics")
        path = frames(atoms, self._mover().build(), options, (self.seed, first // self.count), self.first_steps)
        for n, made in enumerate(islice(path, self.count)):
            energy = float(made.calc.results["energy"])
            steps = self.first_steps + (n + 1) * self.every
            made.info = {"details": {"time_fs": steps * self.timestep_fs, "energy_eV": energy}}
            made.set_momenta(None)
            yield made
