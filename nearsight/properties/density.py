"""Density and potential of a finished calculation on its real-space mesh, from its density matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.configuration import near_miss
from nearsight.core.errors import BadInput, MissingData
from nearsight.core.spin import NONE, SPINOR, Spin
from nearsight.core.units import HARTREE_EV
from nearsight.dft.functional import EnergyFunctional
from nearsight.dft.setup import functional_for
from nearsight.dft.wavefunction import orbital_on_mesh
from nearsight.electrons.eigen import factorise
from nearsight.formats.outputs import FIELDS, claim_file
from nearsight.formats.registry import read
from nearsight.formats.volumetric import Quantity, Volume, write_volume
from nearsight.properties.mesh_orbitals import MeshOrbitals, settings_of, species_of

What = Literal["density", "spin", "mx", "my", "mz", "m", "potential", "electrostatic"]

FARTHEST_K = 1000.0  # zones
POTENTIALS = ("potential", "electrostatic")
_WORDS: dict[str, tuple[str, Quantity]] = {
    "density": ("valence electron density", "density"),
    "spin": ("spin density, up minus down", "density"),
    "mx": ("spin density along x", "density"),
    "my": ("spin density along y", "density"),
    "mz": ("spin density along z", "density"),
    "m": ("length of the spin density", "density"),
    "potential": ("Kohn-Sham potential: local pseudopotentials + Hartree + exchange-correlation", "energy"),
    "electrostatic": ("electrostatic potential energy of an electron: local pseudopotentials + Hartree", "energy"),
}


def field_on_mesh(functional: EnergyFunctional, density_matrix: BlockMatrix, what: What = "density") -> Tensor:
    """A field [x, y, z] of a density matrix on the mesh of a functional, in atomic units.

    density: n(r) of the valence electrons [1/Bohr^3].  spin, mx, my, mz, m: see `spin_field`.
    potential: V_NA + V_H[dn] + v_xc [Ha], the mean of both spins: all of the Kohn-Sham potential but its non-local part.
    electrostatic: V_NA + V_H[dn] [Ha]; the average over the cell is not zero, since V_NA is that of whole atoms.
    Raises NearsightError for another word.
    """
    if what not in _WORDS:
        raise BadInput(f"{what!r} is no field{near_miss(what, _WORDS)} (known: {', '.join(get_args(What))})")
    with torch.no_grad():
        state = functional.state(density_matrix.on(functional.layout))
        if what not in POTENTIALS:
            return spin_field(state.spin, state.density, what)
        return state.spin.charge_part(functional.potential(state, electrostatic=what == "electrostatic"))


def functional_of(calculation: Calculation, name: str = "the calculation") -> EnergyFunctional:
    """The energy functional that a calculation of ours was done with: its mesh, species and functional, on the CPU.

    Raises NearsightError: another program's calculation, which does not say them; species that are there no more, or
    are others now.
    """
    settings = settings_of(calculation)
    if settings is None:
        raise MissingData(f"{name} does not say its mesh and functional: only folders of `nearsight scf` do")
    species = species_of(calculation)
    functional = functional_for(calculation.structure, settings, species)
    if not functional.layout.basis.same_as(calculation.basis):
        raise BadInput(f"{name}: its orbitals are not those that its own settings make now; compute it again")
    return functional


def spin_field(kind: Spin, channels: Tensor, what: str) -> Tensor:
    """A field [x, y, z] of the channels of a density [channels, x, y, z], 1/Bohr^3.

    density: n.  mx, my, mz: m = Tr[sigma D] on the mesh.  m: its length.  spin: m_z of collinear spin, n_up - n_down; the
    length of spinors, which have no axis of their own.
    """
    if what == "density":
        return kind.channel_charge(channels)
    moment = kind.channel_moment(channels)
    if what == "m" or (what == "spin" and kind.turns):
        return moment.norm(dim=0)
    return moment[{"mx": 0, "my": 1}.get(what, 2)]


def fields_of(
    calculation: Calculation, words: Sequence[str], mesh_cutoff_ry: float | None = None
) -> dict[str, tuple[Volume, Quantity]]:
    """Fields of a calculation on its mesh, in atomic units, by their words: see `field_on_mesh` and `spin_field`.

    Densities can be made of every calculation whose orbitals are known: by its settings, or from `species/<Symbol>.ion.xml`
    in its folder, as beside SIESTA's; potentials of our own alone.
    mesh_cutoff_ry: of the mesh of densities [Ry]; None: the calculation's own mesh.
    Raises NearsightError: no density matrix, orbitals or mesh; another word.
    """
    _check_words(words)
    density_matrix = calculation.require_density_matrix()
    kind, name = density_matrix.spin, calculation.name
    potentials = [w for w in words if w in POTENTIALS]
    if potentials and mesh_cutoff_ry is not None:
        raise BadInput(f"--mesh-cutoff: the {potentials[0]} is on the mesh of the calculation; leave the option out")
    if kind is NONE and any(w not in ("density", *potentials) for w in words):
        raise BadInput(f"{name} was computed without spin, so that its spin density is zero; take another field")
    functional = functional_of(calculation, name) if potentials else None
    channels = None
    if len(potentials) < len(words):
        channels = MeshOrbitals.of(calculation, mesh_cutoff_ry).density(density_matrix)
    found = {}
    for what in words:
        text, quantity = _WORDS["m" if what == "spin" and kind.turns else what]
        if what in potentials and functional is not None:
            field = field_on_mesh(functional, density_matrix, cast(What, what))
        elif channels is not None:
            field = spin_field(kind, channels, what)
        found[what] = Volume(calculation.structure, field, text), quantity
    return found


def _check_words(words: Sequence[str]) -> None:
    for what in words:
        if what not in _WORDS:
            raise BadInput(f"{what!r} is no field{near_miss(what, _WORDS)} (known: {', '.join(get_args(What))})")


def write_density(
    folder: Path | str, out: Path | str, what: str = "density", mesh_cutoff_ry: float | None = None
) -> Volume:
    """Write a density or potential of a calculation folder as a cube or XSF file, as the name of `out` asks.

    what: see `fields_of`; several, with commas, go into files of the same name with the word before its ending.
    Cube files are in atomic units, XSF files in angstrom and eV.  Returns the first field written, in atomic units.
    Raises NearsightError as `fields_of` does, and where a file cannot be written.
    """
    words = [w.strip() for w in what.split(",")]
    _check_words(words)
    if mesh_cutoff_ry is not None and not mesh_cutoff_ry >= 10:
        raise BadInput(f"a mesh cutoff of {mesh_cutoff_ry:g} Ry: give 10 or more, as scf takes them")
    path = claim_file(out, FIELDS, [folder])
    places = {w: path if len(words) == 1 else path.with_name(f"{path.stem}-{w}{path.suffix}") for w in words}
    for place in places.values():
        claim_file(place, FIELDS, [folder])
    found = fields_of(read(folder), words, mesh_cutoff_ry)
    for word, (volume, quantity) in found.items():
        write_volume(places[word], volume, quantity)
    return found[words[0]][0]


def write_orbital(
    folder: Path | str, out: Path | str, band: int, k: tuple[float, float, float] = (0.0, 0.0, 0.0), spin: int = 0
) -> Volume:
    """Write one Kohn-Sham orbital of a calculation folder (a prediction's too) as a cube or XSF file: Re psi_nk(r).

    band: from 0, by energy.  k: fractional.  spin: 0 up, 1 down.  psi is normalised to one electron in a cell [1/Bohr^(3/2)];
    its phase makes the largest value real and positive, so that at Gamma the imaginary part is zero.
    Raises NearsightError: a band or spin that is not there, and as `write_density`.
    """
    claim_file(out, FIELDS, [folder])
    if not all(abs(x) <= FARTHEST_K for x in k):
        raise BadInput(
            f"k = {' '.join(f'{x:g}' for x in k)}: fractions of the reciprocal vectors are small, finite numbers"
        )
    calculation = read(folder)
    hamiltonian = calculation.require_hamiltonian()
    if hamiltonian.spin is SPINOR:
        raise BadInput(f"{folder} has spinor orbitals: only orbitals without spin-orbit coupling can be drawn")
    functional = functional_of(calculation, str(folder))
    size, spins = calculation.basis.size, len(hamiltonian.values)
    if not 0 <= band < size or not 0 <= spin < spins:
        raise BadInput(f"{folder} has bands 0 to {size - 1} and spins 0 to {spins - 1}, not band {band} of spin {spin}")
    at = torch.tensor([k], dtype=torch.float64)
    energies, coefficients = factorise(calculation.require_overlap(), at).solve(hamiltonian.at_k(at))
    psi = orbital_on_mesh(functional, coefficients[spin, 0, :, band], at[0])
    energy = float(energies[spin, 0, band]) * HARTREE_EV
    words = f"Re psi of band {band} at k = {k[0]:g} {k[1]:g} {k[2]:g}, {energy:.4f} eV"
    volume = Volume(calculation.structure, psi.real.contiguous(), words)
    write_volume(out, volume, "amplitude")
    return volume
