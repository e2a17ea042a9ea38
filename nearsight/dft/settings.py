"""What a user says of a ground-state calculation: validated, resolved, and written beside every result."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

BasisSize = Literal["sz", "dz", "szp", "dzp", "tz", "tzp"]


class MixingSettings(BaseModel):
    """weight, history: of Pulay's method; weight null: 1 with the dielectric preconditioner, 0.4 without.

    dielectric: cutoff [Ry] of the mesh on which the dielectric operator is applied; null: no such preconditioner.
    kerker: q0 [1/Angstrom] of a Kerker preconditioner on the density in its place; null: none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    weight: float | None = Field(None, gt=0, le=1)
    history: int = Field(8, ge=1)
    dielectric: float | None = Field(35.0, gt=0)
    kerker: float | None = Field(None, gt=0)


class ScfSettings(BaseModel):
    """The `scf` table. Energies in eV unless the name says Ry (mesh cutoff, energy shift: as the field has them).

    kmesh: null chooses the smallest Gamma-centred mesh with steps below `kspacing` [1/Angstrom].
    mesh: null takes it from `mesh_cutoff_ry`.  species: folder of <Symbol>.ion.xml; null generates orbitals
    (basis, energy_shift_ry) from `pseudopotentials`, a folder of UPF, psp8, PSML or GTH files; null: the installed package.
    smearing_ev: its width kT.  charge: of the cell [e], neutralised by a uniform background: positive, electrons missing;
    the energy then converges with the cell's size only as charge^2 / length, and no correction is applied.
    two_center: how two-centre integrals are done; auto is `siesta` where every species comes from SIESTA's own files.
    sheet: electrostatics without images along the third lattice vector, for sheets and slabs, charged or polar.
    band_limited: remove from the neutral-atom potential what the mesh cannot hold; null: unless the species are SIESTA's.
    xc_refinement: evaluate exchange and correlation on a mesh so many times finer (2 leaves an egg box below 0.2 meV an atom
    at 200 Ry).
    symmetry: what reduces the k-mesh; `space-group` solves only one k-point of each star and symmetrises what is summed.
    start: a calculation folder whose Hamiltonian begins the cycle.  forces, stress: compute them at the end.
    moments: initial moment of each atom [mu_B], in the order of the structure; null with collinear spin: Hund's rule for
    each atom, all parallel.  total_moment: to hold fixed [mu_B]; null: free.  method: mixing, or direct minimisation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    xc: Literal["lda", "pbe", "pbesol"] = "pbe"
    kmesh: tuple[int, int, int] | None = None
    kspacing: float = Field(0.25, gt=0)
    kshift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    symmetry: Literal["time-reversal", "space-group"] = "time-reversal"
    mesh_cutoff_ry: float = Field(300.0, gt=0)
    mesh: tuple[int, int, int] | None = None
    basis: BasisSize = "dzp"
    energy_shift_ry: float = Field(0.01, gt=0)
    split_norm: float = Field(0.15, gt=0, lt=1)
    species: Path | None = None
    pseudopotentials: Path | None = None
    smearing_ev: float = Field(0.025, gt=0)
    smearing: Literal["fermi-dirac", "gaussian", "methfessel-paxton", "cold"] = "fermi-dirac"
    charge: float = 0.0
    device: Literal["cpu", "cuda"] = "cpu"
    max_iterations: int = Field(100, ge=1)
    tolerance_ev: float = Field(1e-5, gt=0)
    mixing: MixingSettings = MixingSettings()
    two_center: Literal["auto", "exact", "siesta"] = "auto"
    sheet: bool = False
    band_limited: bool | None = None
    xc_refinement: int = Field(1, ge=1, le=4)
    start: Path | None = None
    spin: Literal["none", "collinear"] = "none"
    moments: tuple[float, ...] | None = None
    total_moment: float | None = None
    method: Literal["scf", "variational"] = "scf"
    forces: bool = False
    stress: bool = False

    @field_validator("kmesh", "mesh")
    @classmethod
    def _positive_mesh(cls, size: tuple[int, int, int] | None) -> tuple[int, int, int] | None:
        if size is not None and min(size) < 1:
            raise ValueError(f"{' '.join(map(str, size))}: every number must be at least 1")
        return size
