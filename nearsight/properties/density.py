"""Density and potential of a finished calculation on its real-space mesh, from its density matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.configuration import near_miss
from nearsight.core.errors import NearsightError
from nearsight.core.spin import NONE, SPINOR
from nearsight.core.units import HARTREE_EV
from nearsight.dft.functional import EnergyFunctional
from nearsight.dft.settings import Settings
from nearsight.dft.setup import functional_for, load_species
from nearsight.dft.wavefunction import orbital_on_mesh
from nearsight.electrons.eigen import factorise
from nearsight.formats.registry import read
from nearsight.formats.volumetric import Quantity, Volume, write_volume

What = Literal["density", "spin", "potential", "electrostatic"]

_WORDS: dict[str, tuple[str, Quantity]] = {
    "density": ("valence electron density", "density"),
    "spin": ("spin density, up minus down", "density"),
    "potential": ("Kohn-Sham potential: local pseudopotentials + Hartree + exchange-correlation", "energy"),
    "electrostatic": ("electrostatic potential energy of an electron: local pseudopotentials + Hartree", "energy"),
}


def field_on_mesh(functional: EnergyFunctional, density_matrix: BlockMatrix, what: What = "density") -> Tensor:
    """A field [x, y, z] of a density matrix on the mesh of a functional, in atomic units.

    density: n(r) of the valence electrons [1/Bohr^3], both spins.  spin: n_up - n_down; zero without spin.
    potential: V_NA + V_H[dn] + v_xc [Ha], the mean of both spins: all of the Kohn-Sham potential but its non-local part.
    electrostatic: V_NA + V_H[dn] [Ha]; the average over the cell is not zero, since V_NA is that of whole atoms.
    Raises NearsightError for another word.
    """
    if what not in _WORDS:
        raise NearsightError(f"{what!r} is no field{near_miss(what, _WORDS)} (known: {', '.join(get_args(What))})")
    with torch.no_grad():
        state = functional.state(density_matrix.on(functional.layout))
        if what == "density":
            return state.charge
        if what == "spin":
            return state.spin.channel_moment(state.density)[2]
        return state.spin.charge_part(functional.potential(state, electrostatic=what == "electrostatic"))


def functional_of(calculation: Calculation, name: str = "the calculation") -> EnergyFunctional:
    """The energy functional that a calculation of ours was done with: its mesh, species and functional, on the CPU.

    Raises NearsightError: another program's calculation, which does not say them; species that are there no more, or
    are others now.
    """
    config = calculation.result.get("config")
    if not isinstance(config, dict) or not {"xc", "functional"} & set(config):
        raise NearsightError(f"{name} does not say its mesh and functional: only folders of `nearsight scf` do")
    settings = Settings.stored(config, name).model_copy(update={"solver": {"device": "cpu", "start": None}})
    species = load_species(calculation.structure.numbers.tolist(), settings)
    for s in species.values():
        told = calculation.result.get("species", {}).get(s.symbol, {})
        for key in ("pseudopotential_sha256", "sha256"):
            if told.get(key) not in (None, s.provenance.get(key)):
                raise NearsightError(f"{name} was done with another file for {s.symbol} than the one that is there now")
    functional = functional_for(calculation.structure, settings, species)
    if not functional.layout.basis.same_as(calculation.basis):
        raise NearsightError(f"{name}: its orbitals are not those that its own settings make now; compute it again")
    return functional


def write_density(folder: Path | str, out: Path | str, what: What = "density") -> Volume:
    """Write the density or potential of a calculation folder as a cube or XSF file, as the name of `out` asks.

    what: see `field_on_mesh`. Cube files are in atomic units, XSF files in angstrom and eV.  Returns the field written,
    in atomic units.  Raises NearsightError: a folder without a density matrix, another program's folder, another word.
    """
    calculation = read(folder)
    density_matrix = calculation.require_density_matrix()
    if what == "spin" and density_matrix.spin is NONE:
        raise NearsightError(
            f"{folder} was computed without spin, so that its spin density is zero; take another field"
        )
    functional = functional_of(calculation, str(folder))
    field = field_on_mesh(functional, density_matrix, what)
    words, quantity = _WORDS[what]
    volume = Volume(calculation.structure, field, words)
    write_volume(out, volume, quantity)
    return volume


def write_orbital(
    folder: Path | str, out: Path | str, band: int, k: tuple[float, float, float] = (0.0, 0.0, 0.0), spin: int = 0
) -> Volume:
    """Write one Kohn-Sham orbital of a calculation folder (a prediction's too) as a cube or XSF file: Re psi_nk(r).

    band: from 0, by energy.  k: fractional.  spin: 0 up, 1 down.  psi is normalised to one electron in a cell [1/Bohr^(3/2)];
    its phase makes the largest value real and positive, so that at Gamma the imaginary part is zero.
    Raises NearsightError: a band or spin that is not there, and as `write_density`.
    """
    calculation = read(folder)
    hamiltonian = calculation.require_hamiltonian()
    if hamiltonian.spin is SPINOR:
        raise NearsightError(f"{folder} has spinor orbitals: only orbitals without spin-orbit coupling can be drawn")
    functional = functional_of(calculation, str(folder))
    size, spins = calculation.basis.size, len(hamiltonian.values)
    if not 0 <= band < size or not 0 <= spin < spins:
        raise NearsightError(
            f"{folder} has bands 0 to {size - 1} and spins 0 to {spins - 1}, not band {band} of spin {spin}"
        )
    at = torch.tensor([k], dtype=torch.float64)
    energies, coefficients = factorise(calculation.require_overlap(), at).solve(hamiltonian.at_k(at))
    psi = orbital_on_mesh(functional, coefficients[spin, 0, :, band], at[0])
    energy = float(energies[spin, 0, band]) * HARTREE_EV
    words = f"Re psi of band {band} at k = {k[0]:g} {k[1]:g} {k[2]:g}, {energy:.4f} eV"
    volume = Volume(calculation.structure, psi.real.contiguous(), words)
    write_volume(out, volume, "amplitude")
    return volume
