"""Whose forces move the atoms: ours, or any ASE calculator's by its name; and the net force taken out of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from nearsight.core.errors import BadInput, NearsightError, NotConverged, Unavailable


def named_calculator(place: str, settings: Mapping[str, Any] | None = None) -> Calculator:
    """The ASE calculator of a class, by its import path.

    place: such as `ase.calculators.emt:EMT`.  settings: its keywords.
    Raises BadInput for a path without a class, or keywords that it does not take; Unavailable where the module is not there.
    """
    module, _, name = place.partition(":")
    if not module or module.startswith(".") or not name:
        raise BadInput(f"calculator {place!r}: write module:Class, such as ase.calculators.emt:EMT")
    try:
        found = getattr(import_module(module), name)
    except ImportError as error:
        raise Unavailable(
            f"calculator {place}: {module} cannot be loaded ({error}): install it, or correct its name"
        ) from error
    except AttributeError as error:
        raise BadInput(f"calculator {place}: {module} has no {name}") from error
    try:
        made = found(**(settings or {}))
    except NearsightError:
        raise
    except Exception as error:  # a foreign class says in its own words what it does not take
        raise BadInput(f"calculator {place} cannot be made: {_first_line(error)}") from error
    if not hasattr(made, "get_forces") or not hasattr(made, "get_potential_energy"):
        raise BadInput(f"calculator {place} is no ASE calculator: it has no get_forces")
    return made


class Balanced(Calculator):
    """Another calculator, whose forces sum to zero: the atoms' centre feels none.

    share: how the net force is taken out, f_i - w_i sum_j f_j with sum w = 1: `equal`, w = 1/N, are the derivatives of the
    energy at a fixed centre of the positions (relaxation); `mass`, w = m_i/M, at a fixed centre of mass, which dynamics
    conserves; `none` leaves the forces as they are.  largest: the longest net force so far [eV/angstrom].
    Raises what the calculator raises; of one that is not ours as NotConverged.
    """

    def __init__(self, calculator: Calculator, share: str) -> None:
        super().__init__()
        self.inner, self.share = calculator, share
        self.implemented_properties = list(calculator.implemented_properties)
        self.largest = 0.0
        self.also: tuple[str, ...] = ()  # properties that are computed with the forces
        self.past: list[dict[str, Any]] | None = None  # results of all evaluations, where they are to be kept
        self._replayed = 0

    def replay(self, past: list[dict[str, Any]]) -> None:
        """The next evaluations give these results, one after the other, before any is computed."""
        self.past, self._replayed = past, 0

    def preload(self, atoms: Atoms, results: Mapping[str, Any]) -> None:
        """The results at a place are these, and not computed."""
        self.atoms, self.results = atoms.copy(), dict(results)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] | None = None,
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Energy and forces at once, and what else is asked for."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        if self.past is not None and system_changes and self._replayed < len(self.past):
            self.results = dict(self.past[self._replayed])
            self._replayed += 1
            return
        place = self.atoms.copy()
        for name in dict.fromkeys(("forces", "energy", "free_energy", *self.also, *(properties or ()))):
            if name not in self.implemented_properties or name in self.results:
                continue
            try:
                found = self.inner.get_property(name, place)
            except (NearsightError, PropertyNotImplementedError):
                raise
            except Exception as error:  # a foreign program's failure
                raise NotConverged(f"{type(self.inner).__name__} failed: {_first_line(error)}") from error
            if found is not None:
                self.results[name] = self._balanced(np.array(found)) if name == "forces" else found
        if self.past is not None and system_changes:
            self.past.append(dict(self.results))
            self._replayed = len(self.past)

    def _balanced(self, forces: np.ndarray) -> np.ndarray:
        if not np.isfinite(forces).all():
            raise NotConverged(f"{type(self.inner).__name__} gave forces that are no numbers")
        net = forces.sum(0)
        self.largest = max(self.largest, float(np.linalg.norm(net)))
        if self.share == "none":
            return forces
        assert self.atoms is not None
        weights = self.atoms.get_masses() if self.share == "mass" else np.ones(len(forces))
        return forces - np.outer(weights / weights.sum(), net)


def _first_line(error: Exception) -> str:
    """Of a foreign error: its kind, and the first line that it says, if any."""
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])[:200]
