"""How far apart two Hamiltonians of one structure are: by element, up to the zero of energy, and in their bands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.errors import BadInput
from nearsight.core.gauge import gauge_shift
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.core.units import BOHR_ANG, HARTREE_EV
from nearsight.electrons.kpoints import band_path
from nearsight.properties.spectra import Bands, affordable_points, bands, fermi_level_of

MEV = 1000 * HARTREE_EV  # 1 Ha in meV
SAME_PLACE_ANG = 0.01


@dataclass(frozen=True)
class Comparison:
    """Differences other - reference; energies in meV, over all elements of all pairs that either has (else zero).

    gauge_mae_meV: the smallest MAE of H_other + mu S - H_ref over mu (gauge_shift_meV): the zero of energy has no
        meaning in a periodic system.  bands_*: matched by index at each k of the path, levels within window_eV of the
        reference's Fermi level; None where no Fermi level is known.  bands_aligned_mae_meV: the same after that shift.
    """

    hamiltonian_mae_meV: float
    hamiltonian_max_meV: float
    gauge_mae_meV: float
    gauge_shift_meV: float
    overlap_max: float
    bands_mae_meV: float | None
    bands_max_meV: float | None
    bands_aligned_mae_meV: float | None
    bands_levels: int
    bands_kpoints: int
    window_eV: float
    fermi_energy_eV: float | None
    fermi_difference_meV: float | None
    on_site_mae_meV: float
    off_site_mae_meV: float
    atoms: int
    orbitals: int
    pairs: int
    pairs_only_in_reference: int
    pairs_only_in_other: int
    structure_max_ang: float
    energy_per_atom_meV: float | None = None
    mae_by_elements_meV: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """All fields under their names."""
        return asdict(self)


def compare(
    reference: Calculation,
    other: Calculation,
    *,
    window_ev: float = 5.0,
    spectra: tuple[Bands, Bands] | None = None,
) -> Comparison:
    """Compare two calculations of one structure in one basis.

    window_ev: half width of the band window around the Fermi level [eV].  spectra: bands of both on one path, if they are
        known already; otherwise they are computed on the standard path, with as many points as a minute allows.
    Raises NearsightError where the structures or the bases differ, or a Hamiltonian is missing.
    """
    if not 0 < window_ev < 1e6:
        raise BadInput(f"window {window_ev:g} eV: give the half width of the energies to compare, above zero")
    distance, cells = _same_structure(reference.structure, other.structure)
    if not reference.basis.same_as(other.basis):
        raise BadInput(
            f"two bases cannot be compared element by element: {_orbitals(reference)} and {_orbitals(other)}"
        )
    h_ref, h_other = reference.require_hamiltonian(), _moved(other.require_hamiltonian(), cells)
    s_ref, s_other = reference.require_overlap(), _moved(other.require_overlap(), cells)
    if h_ref.spin is not h_other.spin:
        raise BadInput(f"spin {h_ref.spin} cannot be compared with spin {h_other.spin}")
    layout = BlockLayout(h_ref.basis, _union(h_ref.pairs, h_other.pairs, s_ref.pairs, s_other.pairs))
    difference = (h_other.on(layout) - h_ref.on(layout)).values
    overlap = h_ref.spin.embed(s_ref.on(layout).values)
    shift = gauge_shift(difference, overlap)
    on_site = (layout.pairs.i == layout.pairs.j) & (layout.pairs.R == 0).all(1)
    error = difference.abs() * MEV
    fermi = fermi_level_of(reference)
    other_fermi = fermi_level_of(other)
    if spectra is None:
        path = band_path(reference.structure, affordable_points(reference.basis.size))
        spectra = (bands(h_ref, s_ref, path), bands(h_other, s_other, path))
    band_error = _band_differences(*spectra, fermi, window_ev) * MEV
    return Comparison(
        hamiltonian_mae_meV=float(error.mean()),
        hamiltonian_max_meV=float(error.max()),
        gauge_mae_meV=float((difference + shift * overlap).abs().mean()) * MEV,
        gauge_shift_meV=shift * MEV,
        overlap_max=float((s_other.on(layout) - s_ref.on(layout)).values.abs().max()),
        bands_mae_meV=_mean(band_error.abs()),
        bands_max_meV=float(band_error.abs().max()) if len(band_error) else None,
        bands_aligned_mae_meV=_mean((band_error + shift * MEV).abs()),
        bands_levels=len(band_error),
        bands_kpoints=len(spectra[0].path.k),
        window_eV=window_ev,
        fermi_energy_eV=None if fermi is None else fermi * HARTREE_EV,
        fermi_difference_meV=None if fermi is None or other_fermi is None else (other_fermi - fermi) * MEV,
        on_site_mae_meV=_mean(error[:, on_site[layout.pair]]) or 0.0,
        off_site_mae_meV=_mean(error[:, ~on_site[layout.pair]]) or 0.0,
        atoms=len(reference.structure),
        orbitals=reference.basis.size,
        pairs=len(layout.pairs),
        pairs_only_in_reference=_missing(h_ref.pairs, h_other.pairs),
        pairs_only_in_other=_missing(h_other.pairs, h_ref.pairs),
        structure_max_ang=distance,
        energy_per_atom_meV=_energy_difference(reference, other),
        mae_by_elements_meV=_by_elements(layout, error),
    )


def _same_structure(a: Structure, b: Structure) -> tuple[float, Tensor]:
    """The longest displacement [angstrom], and the cells [atoms, 3] by which b's atoms were moved against a's."""
    if len(a) != len(b) or not torch.equal(a.numbers, b.numbers):
        raise BadInput(
            f"two different structures: {_formula(a)} and {_formula(b)} (or their atoms are in another order)"
        )
    cell = float((a.cell - b.cell).norm(dim=1).max()) * BOHR_ANG
    fractional = (b.positions - a.positions) @ torch.linalg.inv(a.cell)
    cells = torch.round(fractional)
    moved = float(((fractional - cells) @ a.cell).norm(dim=1).max()) * BOHR_ANG
    if max(cell, moved) > SAME_PLACE_ANG:
        raise BadInput(
            f"two different structures: cell vectors differ by {cell:.3f} and atoms by {moved:.3f} angstrom "
            f"(allowed: {SAME_PLACE_ANG}); compare calculations of the same geometry"
        )
    return max(cell, moved), cells.to(torch.int64)


def _moved(matrix: BlockMatrix, cells: Tensor) -> BlockMatrix:
    """The matrix after each atom went back by its whole cells: R' = R + cells_j - cells_i."""
    if not bool(cells.any()):
        return matrix
    p = matrix.pairs
    R = p.R + cells[p.j] - cells[p.i]
    order = Pairs.of(p.i, p.j, R, p.atoms)
    place = order.find(p.i, p.j, R)
    source = torch.empty_like(place)
    source[place] = torch.arange(len(place))
    layout = BlockLayout(matrix.basis, order)
    index = matrix.layout.boundaries[source][layout.pair] + torch.arange(layout.size) - layout.boundaries[layout.pair]
    return BlockMatrix(layout, matrix.values[:, index], matrix.spin)


def _union(first: Pairs, *rest: Pairs) -> Pairs:
    for pairs in rest:
        if pairs is not first and _missing(pairs, first):
            first = first.union(pairs)
    return first


def _missing(these: Pairs, those: Pairs) -> int:
    """How many of these are not among those."""
    return int((those.find(these.i, these.j, these.R) == len(those)).sum())


def _band_differences(wanted: Bands, found: Bands, fermi: float | None, window_ev: float) -> Tensor:
    """e_found - e_wanted [levels] in Ha, of the levels within the window; none where no Fermi level is known."""
    if fermi is None:
        return torch.zeros(0)
    inside = (wanted.energies - fermi).abs() * HARTREE_EV <= window_ev
    return (found.energies - wanted.energies)[inside]


def _energy_difference(reference: Calculation, other: Calculation) -> float | None:
    a, b = (c.energies.get("total") for c in (reference, other))
    return None if a is None or b is None else (b - a) * MEV / len(reference.structure)


def _by_elements(layout: BlockLayout, error: Tensor) -> dict[str, float]:
    numbers = torch.tensor(layout.basis.numbers)
    zi, zj = numbers[layout.pairs.i][layout.pair], numbers[layout.pairs.j][layout.pair]
    table = {}
    for a, b in combinations_with_replacement(sorted(set(layout.basis.numbers)), 2):
        which = ((zi == a) & (zj == b)) | ((zi == b) & (zj == a))
        if bool(which.any()):
            table[f"{SYMBOLS[a]}-{SYMBOLS[b]}"] = float(error[:, which].mean())
    return table


def _mean(x: Tensor) -> float | None:
    return float(x.mean()) if x.numel() else None


def _formula(structure: Structure) -> str:
    symbols = structure.symbols
    return "".join(f"{s}{symbols.count(s)}" for s in dict.fromkeys(symbols))


def _orbitals(c: Calculation) -> str:
    return ", ".join(f"{SYMBOLS[z]} l = {list(shells)}" for z, shells in c.basis.shells.items())
