"""From a structure and settings to a ground state and its calculation folder."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import torch

from nearsight.atoms.orbitals import BasisSettings, generate_species
from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import PER_ATOM, Calculation, Provenance
from nearsight.core.errors import NearsightError
from nearsight.core.species import Species
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.core.units import BOHR_ANG, HARTREE_EV
from nearsight.dft.dielectric import Dielectric
from nearsight.dft.forces import forces_and_stress
from nearsight.dft.functional import EnergyFunctional
from nearsight.dft.ground_state import GroundState, ground_state
from nearsight.dft.minimisation import DirectMinimisation
from nearsight.dft.mixing import Kerker, Pulay
from nearsight.dft.problem import SCFState, Step
from nearsight.dft.scf import SCF
from nearsight.dft.settings import ScfSettings
from nearsight.electrons import kpoints
from nearsight.electrons.kpoints import KPoints
from nearsight.electrons.smearing import SMEARINGS
from nearsight.electrons.symmetry import SpaceGroup, reduced_mesh
from nearsight.formats.ion_xml import read_ion_xml
from nearsight.formats.registry import read, write
from nearsight.formats.structures import check_structure
from nearsight.integrals.mesh import mesh_shape
from nearsight.integrals.two_center import EXACT, SIESTA, Quadrature


def load_species(numbers: list[int], settings: ScfSettings) -> dict[int, Species]:
    """The species of the elements present: read from a folder of .ion.xml files, or generated.

    Raises NearsightError for an element without a file or pseudopotential, or a file of another element.
    """
    species = {}
    for z in sorted(set(numbers)):
        symbol = SYMBOLS[z]
        if settings.species is None:
            basis = BasisSettings(
                size=settings.basis, energy_shift=settings.energy_shift_ry, split_norm=settings.split_norm
            )
            species[z] = generate_species(symbol, settings.xc, basis, settings.pseudopotentials)
        else:
            path = settings.species / f"{symbol}.ion.xml"
            if not settings.species.is_dir():
                raise NearsightError(f"no such folder of species: {settings.species}")
            if not path.is_file():
                raise NearsightError(f"{settings.species} has no {symbol}.ion.xml: add it, or leave --species out")
            species[z] = read_ion_xml(path, symbol)
    return species


def quadrature_for(species: Mapping[int, Species], choice: str) -> Quadrature:
    """SIESTA's quadrature where asked for, or where all species are SIESTA's own (auto)."""
    if choice == "auto":
        choice = "siesta" if all("pseudopotential" not in s.provenance for s in species.values()) else "exact"
    return SIESTA if choice == "siesta" else EXACT


def chosen_kmesh(structure: Structure, settings: ScfSettings) -> tuple[int, int, int]:
    """The mesh that was asked for, or the smallest with steps below `kspacing` along each reciprocal vector."""
    if settings.kmesh is not None:
        return settings.kmesh
    lengths = structure.reciprocal.norm(dim=1) / BOHR_ANG  # 1/Angstrom
    a, b, c = (max(1, ceil(x / settings.kspacing - 1e-6)) for x in lengths.tolist())
    return a, b, c


def resolved(structure: Structure, settings: ScfSettings) -> ScfSettings:
    """The settings with every choice that was left open filled in."""
    mesh = settings.mesh or mesh_shape(structure.cell, settings.mesh_cutoff_ry)
    mixing = settings.mixing
    weight = mixing.weight or (0.4 if mixing.kerker or mixing.dielectric is None else 1.0)
    mixing = mixing.model_copy(update={"weight": weight})
    return settings.model_copy(update={"kmesh": chosen_kmesh(structure, settings), "mesh": mesh, "mixing": mixing})


def functional_for(
    structure: Structure, settings: ScfSettings, species: Mapping[int, Species] | None = None
) -> EnergyFunctional:
    """The energy functional that settings describe, on their device."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise NearsightError("--device cuda: this machine has no CUDA device that PyTorch can use; take --device cpu")
    species = species or load_species(structure.numbers.tolist(), settings)
    mesh = settings.mesh or mesh_shape(structure.cell, settings.mesh_cutoff_ry)
    quadrature = quadrature_for(species, settings.two_center)
    return EnergyFunctional.of(
        structure.to(settings.device),
        species,
        settings.xc,
        mesh,
        quadrature,
        settings.charge,
        quadrature == EXACT if settings.band_limited is None else settings.band_limited,
        settings.xc_refinement,
        settings.sheet,
    )


def initial_hamiltonian(
    structure: Structure, settings: ScfSettings, species: Mapping[int, Species] | None = None
) -> tuple[BlockMatrix, BlockMatrix]:
    """(H0, S): the Kohn-Sham matrix of superposed atomic densities [Ha], and the overlap. No self-consistency."""
    functional = functional_for(structure, settings, species)
    return functional.initial_hamiltonian(), functional.overlap


def run_scf(
    structure: Structure,
    settings: ScfSettings,
    out: Path | None = None,
    progress: Callable[[Step], None] | None = None,
    species: Mapping[int, Species] | None = None,
    warn: Callable[[str], None] | None = None,
    observe: Callable[[SCFState], None] | None = None,
    start: BlockMatrix | None = None,
    about: Mapping[str, Any] | None = None,
) -> GroundState:
    """Compute a ground state; write its calculation folder to `out`, converged or not (result.json says which).

    start: Hamiltonian to begin with [Ha], in place of `settings.start`.  progress: told each step; observe: each state.
    about: further entries of result.json.
    Raises NearsightError for bad input; not for a run that does not converge: see GroundState.converged.
    """
    started = time.perf_counter()
    check_structure(structure)
    settings = resolved(structure, settings)
    functional = functional_for(structure, settings, species)
    if warn and settings.spin == "none" and round(functional.electrons) % 2 == 1:
        warn(
            f"{functional.electrons:g} electrons without spin: half-filled levels are spread over both spins; "
            "the energy is that of no magnetic moment"
        )
    moments = initial_moments(functional, settings)
    k = chosen_kpoints(functional, settings, moments)
    if start is None and settings.start is not None:
        start = _start_from(settings.start, functional, settings.spin)
    result = ground_state(
        functional,
        k,
        settings.smearing_ev / HARTREE_EV,
        method_for(settings),
        start,
        progress,
        moments,
        settings.total_moment,
        observe,
        SMEARINGS[settings.smearing],
    )
    if out is not None:
        write_result(out, result, settings, time.perf_counter() - started, about)
    return result


def method_for(settings: ScfSettings) -> SCF | DirectMinimisation:
    """The way to self-consistency that resolved settings describe."""
    tolerance = settings.tolerance_ev / HARTREE_EV
    if settings.method == "variational":
        return DirectMinimisation(tolerance, settings.max_iterations)
    mixing = settings.mixing
    kerker = None if mixing.kerker is None else Kerker(mixing.kerker * BOHR_ANG)
    dielectric = None if mixing.dielectric is None or kerker else Dielectric(mixing.dielectric)
    assert mixing.weight is not None
    return SCF(Pulay(mixing.weight, mixing.history, kerker, dielectric), tolerance, settings.max_iterations)


def chosen_kpoints(
    functional: EnergyFunctional, settings: ScfSettings, moments: Sequence[float] | None = None
) -> KPoints:
    """The k-points of settings whose mesh is resolved; where the space group reduces them, by what keeps mesh and moments.

    An operation that does not map the real-space mesh onto itself is left out: a glide by a quarter of the cell, for
    example, needs a number of mesh points that is a multiple of 4.
    """
    assert settings.kmesh is not None
    if settings.symmetry == "time-reversal":
        return kpoints.mesh(settings.kmesh, settings.kshift).to(settings.device)
    group = SpaceGroup.of(functional.structure, moments).on_mesh(functional.mesh.shape)
    return reduced_mesh(settings.kmesh, settings.kshift, group, functional.layout)


def initial_moments(functional: EnergyFunctional, settings: ScfSettings) -> list[float] | None:
    """The moment of each atom to begin with [mu_B]; None without spin."""
    if settings.spin == "none":
        if settings.moments is not None or settings.total_moment is not None:
            raise NearsightError("moments are given but spin is none: add --spin collinear")
        return None
    if settings.moments is not None:
        return list(settings.moments)
    hund = {
        z: sum(min(o.population, 2 * (2 * o.l + 1) - o.population) for o in s.orbitals)
        for z, s in functional.species.items()
    }
    return [hund[z] for z in functional.structure.numbers.tolist()]


def _start_from(folder: Path, functional: EnergyFunctional, spin: str) -> BlockMatrix:
    """H of a folder; of one that has a density matrix only, F[D]."""
    previous = read(folder)
    if not previous.matrices:
        raise NearsightError(f"cannot start from {folder}: it has neither a Hamiltonian nor a density matrix")
    if not previous.basis.same_as(functional.layout.basis):
        previous = previous.in_original_order()
    found = previous.hamiltonian or previous.density_matrix
    if found is None:
        raise NearsightError(f"cannot start from {folder}: it has neither a Hamiltonian nor a density matrix")
    if not found.basis.same_as(functional.layout.basis):
        raise NearsightError(f"cannot start from {folder}: its atoms or orbitals are not those of this calculation")
    if found.spin.name != spin:
        raise NearsightError(f"cannot start from {folder}: it has spin {found.spin}, this calculation spin {spin}")
    found = found.to(functional.structure.cell.device)
    if previous.hamiltonian is None:
        return functional.evaluate(found.on(functional.layout)).hamiltonian
    return found


def report(result: GroundState, settings: ScfSettings, wall_seconds: float) -> dict[str, Any]:
    """The content of result.json: energies by term in eV, the Fermi level, how it was reached, with what."""
    import h5py
    import numpy
    import scipy

    from nearsight import __version__

    energies = {name: e * HARTREE_EV for name, e in result.energies.items()}
    energies |= {
        "total": result.total * HARTREE_EV,
        "free": result.free * HARTREE_EV,
        "harris": result.harris * HARTREE_EV,
        "zero_smearing": result.extrapolated * HARTREE_EV,
    }
    functional = result.functional
    derivatives: dict[str, Any] = {}
    if (settings.forces or settings.stress) and result.converged:
        found = forces_and_stress(result)
        if settings.forces:
            derivatives["forces_eV_per_Ang"] = (found.forces * HARTREE_EV / BOHR_ANG).tolist()
        if settings.stress:
            derivatives["stress_eV_per_Ang3"] = (found.stress * HARTREE_EV / BOHR_ANG**3).tolist()
    symmetry: dict[str, Any] = {}
    if result.kpoints.symmetry is not None:
        group = result.kpoints.symmetry.group
        symmetry = {"space_group": group.symbol, "symmetry_operations": len(group)}
    magnetic: dict[str, Any] = {}
    populations = result.populations
    valences = [functional.species[z].valence for z in functional.structure.numbers.tolist()]
    charges = [v - p for v, p in zip(valences, populations.sum(0).tolist(), strict=True)]
    if settings.spin != "none":
        magnetic = {
            "magnetic_moment": result.magnetic_moment,
            "mulliken_moments": (populations[0] - populations[1]).tolist(),
        }
    return derivatives | {
        "mulliken_charges": charges,
        **magnetic,
        "energy_eV": energies,
        "fermi_energy_eV": result.fermi_level * HARTREE_EV,
        "converged": result.converged,
        "iterations": len(result.steps),
        "residual_eV": result.steps[-1].residual * HARTREE_EV,
        "mesh": list(functional.mesh.shape),
        "kmesh": list(settings.kmesh or ()),
        "k_points": len(result.kpoints),
        **symmetry,
        "electrons": functional.electrons,
        "orbitals": functional.layout.basis.size,
        "history": [
            {
                "iteration": s.iteration,
                "total_eV": s.total * HARTREE_EV,
                "free_eV": s.free * HARTREE_EV,
                "residual_eV": s.residual * HARTREE_EV,
            }
            for s in result.steps
        ],
        "wall_seconds": wall_seconds,
        "config": settings.model_dump(mode="json"),
        "per_atom": list(PER_ATOM),
        "species": {s.symbol: {**s.provenance, "valence": s.valence} for s in functional.species.values()},
        "versions": {
            "nearsight": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "scipy": scipy.__version__,
            "h5py": h5py.__version__,
        },
    }


def calculation_of(
    result: GroundState, settings: ScfSettings, wall_seconds: float, about: Mapping[str, Any] | None = None
) -> Calculation:
    """A ground state as a calculation, with the record of how it was come by. about: further entries of the record."""
    from nearsight import __version__

    record = report(result, settings, wall_seconds) | dict(about or {})
    return replace(
        result.as_calculation(),
        settings=record["config"],
        provenance=Provenance("nearsight", __version__),
        result=record,
    )


def write_result(
    out: Path,
    result: GroundState,
    settings: ScfSettings,
    wall_seconds: float,
    about: Mapping[str, Any] | None = None,
) -> None:
    """The calculation folder of a ground state, whole or not at all."""
    write(out, calculation_of(result, settings, wall_seconds, about))
