"""An ASE calculator: energies, forces and stresses of our ground states for ASE's optimisers, dynamics and phonons."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, Parameters, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from torch import Tensor

from nearsight.core.configuration import validated
from nearsight.core.errors import BadInput, NotConverged
from nearsight.core.species import Species
from nearsight.core.spin import NONE
from nearsight.core.structure import Structure
from nearsight.core.units import BOHR_ANG, HARTREE_EV
from nearsight.dft.extrapolation import History, Place
from nearsight.dft.forces import forces_and_stress
from nearsight.dft.ground_state import GroundState
from nearsight.dft.problem import Step
from nearsight.dft.settings import Settings
from nearsight.dft.setup import MOMENTS_WITHOUT_SPIN, Setup, check_charge, load_species, resolved, with_meshes
from nearsight.formats.structures import check_structure

_HELD = 0.1
_LEFT = 0.03  # of the tolerance: what the Hamiltonian that a cycle ends with is off by, of the one that it ended for


class Nearsight(Calculator):
    """Density functional theory of this project as an ASE calculator, for cells that are periodic in three directions.

    energy: E(T -> 0) by the rule of the smearing [eV].  free_energy: Omega = E - T S [eV], of which forces [eV/Angstrom]
    and stress are the exact derivatives.  stress: dOmega/d(strain) / V in ASE's order xx yy zz yz xz xy [eV/Angstrom^3],
    positive for a cell that wants to shrink.  With collinear spin also magmom and magmoms (Mulliken) [mu_B].

    settings: the keywords of `Settings`, such as xc, basis, kmesh, mesh_cutoff_ry, smearing_ev, spin.
    net_force: `removed`: a share of 1/N of it is taken from each atom's force, which are then the derivatives of the energy at
    a fixed centre of the positions (for phonons and optimisers of other programs); `kept`: the forces are those of the energy.
    history: how many places before the present one a cycle's first Hamiltonian is made from (see `dft.extrapolation`); 0:
    superposed atoms.
    The mesh and k-mesh of the first structure are kept while no height of the cell differs by more than a tenth from
    it, so that energies along a relaxation are on one surface and agree with the stress; species are made once.
    Raises NearsightError: an unknown or wrong setting; from a calculation: atoms without a cell, or a cycle that does
    not converge.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress", "magmom", "magmoms"]  # noqa: RUF012  # ASE's type

    def __init__(
        self,
        *,
        atoms: Atoms | None = None,
        device: str | None = None,
        progress: Callable[[Step], None] | None = None,
        history: int = 8,
        net_force: Literal["kept", "removed"] = "kept",
        **settings: Any,
    ) -> None:
        if net_force not in ("kept", "removed"):
            raise BadInput(f"Nearsight(net_force={net_force!r}): it is kept or removed")
        self.net_force = net_force
        self.settings = validated(Settings, {**settings, **({"device": device} if device else {})}, "Nearsight")
        given = self.settings.given
        for table, name, reason in (
            ("solver", "start", "the calculator begins with its own last state"),
            ("outputs", "forces", "they are computed where ASE asks for them"),
            ("outputs", "stress", "it is computed where ASE asks for it"),
        ):
            if name in given.get(table, {}):
                raise BadInput(f"Nearsight({name}=...): leave it out, {reason}")
        self.progress = progress
        self.state: GroundState | None = None
        self._species: dict[int, Species] = {}
        self._history = History(history, _LEFT * self.settings.solver.tolerance_ev / HARTREE_EV)
        self._meshes: tuple[list[int], Tensor, Settings] | None = None
        super().__init__(atoms=atoms)
        self.parameters = Parameters(self.settings.model_dump(mode="json", exclude_defaults=True))

    def set(self, **settings: Any) -> dict[str, Any]:
        """Settings are those that the calculator was made with. Raises NearsightError for any."""
        if settings:
            raise BadInput(f"{', '.join(settings)} cannot be changed: make a new Nearsight(...) with them")
        return {}

    def reset(self) -> None:
        """Forget the results of the last structure; the Hamiltonian to begin with and the meshes are kept."""
        super().reset()
        self.state = None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] | None = None,
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Find the ground state of `atoms`, and the derivatives that `properties` ask for, into `results`."""
        super().calculate(atoms, properties, system_changes)
        if self.state is None or system_changes:
            assert self.atoms is not None
            self.state = self._ground_state(self.atoms)
        state = self.state
        self.results["energy"] = state.extrapolated * HARTREE_EV
        self.results["free_energy"] = state.free * HARTREE_EV
        spin = state.density_matrix.spin
        if spin is not NONE:
            moments = state.moments.cpu().numpy()
            self.results["magmom"] = state.magnetic_moment  # ASE has a number here, along z
            self.results["magmoms"] = moments if spin.turns else moments[:, 2]
        if {"forces", "stress"} & set(properties or ()) and not {"forces", "stress"} <= set(self.results):
            found = forces_and_stress(state)
            stress = found.stress.cpu().numpy() * HARTREE_EV / BOHR_ANG**3
            forces = found.forces.cpu().numpy() * HARTREE_EV / BOHR_ANG
            self.results["forces"] = forces - forces.mean(0) if self.net_force == "removed" else forces
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress)

    def _ground_state(self, atoms: Atoms) -> GroundState:
        structure = check_structure(Structure.from_ase(atoms), atoms.get_chemical_formula())
        settings = self._settings_for(structure)
        if structure.moments is not None and settings.electrons.spin == "none":
            warnings.warn(MOMENTS_WITHOUT_SPIN, stacklevel=2)
        check_charge(structure, self.settings)
        setup = Setup.of(structure, settings, self._species_for(structure))
        functional = setup.functional
        superposed = functional.initial_hamiltonian()
        start = self._history.start(superposed)
        state = setup.ground_state(start, self.progress, near=start is not None)
        if not state.converged:
            raise NotConverged(
                f"not converged in {len(state.steps)} iterations ({state.why_not()}): give the calculator "
                "mixing={'weight': 0.1}, a larger smearing_ev, more max_iterations, or method='variational'"
            )
        self._history.add(Place.of(state.hamiltonian, superposed))
        return state

    def memory(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What the next calculation depends on beside its structure: arrays by name, and a table that JSON holds."""
        held = self._meshes
        table: dict[str, Any] = {"orbitals": self._history.orbitals}
        if held is not None:
            mesh, kmesh = held[2].mesh.shape, held[2].kpoints.mesh
            table["meshes"] = {"numbers": held[0], "heights": held[1].tolist(), "mesh": mesh, "kmesh": kmesh}
        return self._history.to_arrays(), table

    def recall(self, arrays: Mapping[str, np.ndarray], table: Mapping[str, Any]) -> None:
        """Go on from what `memory` of a calculator with the same settings gave: the next result is the same to the last bit."""
        self.reset()
        self._history.recall(arrays, table["orbitals"], self.settings.solver.device)
        self._meshes = None
        if (held := table.get("meshes")) is not None:
            settings = with_meshes(self.settings, tuple(held["mesh"]), tuple(held["kmesh"]))
            self._meshes = (held["numbers"], torch.tensor(held["heights"], dtype=torch.float64), settings)

    def _species_for(self, structure: Structure) -> dict[int, Species]:
        numbers = sorted(set(structure.numbers.tolist()))
        if missing := [z for z in numbers if z not in self._species]:
            self._species |= load_species(missing, self.settings)
        return {z: self._species[z] for z in numbers}

    def _settings_for(self, structure: Structure) -> Settings:
        """The settings with the meshes of the structure that they were chosen for."""
        numbers, heights = structure.numbers.tolist(), 1 / torch.linalg.inv(structure.cell).norm(dim=0)
        held = self._meshes
        if held is None or held[0] != numbers or float((heights / held[1] - 1).abs().max()) > _HELD:
            held = self._meshes = (numbers, heights, resolved(structure, self.settings))
        return held[2]
