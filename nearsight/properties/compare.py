"""How far apart two Hamiltonians of one structure are: by element, up to the zero of energy, and in their bands.

Beside them, where the reference tells how it was made, the figures of superposed atoms (H0): what is known without any network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.errors import BadInput, NearsightError
from nearsight.core.gauge import gauge_shift
from nearsight.core.layout import BlockLayout
from nearsight.core.pairs import Pairs
from nearsight.core.spin import NONE, Spin
from nearsight.core.spin_parts import alike
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.core.units import BOHR_ANG, HARTREE_EV
from nearsight.dft.settings import Settings
from nearsight.dft.setup import initial_hamiltonian
from nearsight.electrons.kpoints import band_path
from nearsight.properties.near_levels import near_levels
from nearsight.properties.spectra import Bands, affordable_points, bands, electrons_of, fermi_level_of

MEV = 1000 * HARTREE_EV  # 1 Ha in meV
SAME_PLACE_ANG = 0.01
OVERLAPPING = 1e-8  # of an element of S
WHOLE = 1e-3  # bands: what a number of electrons may be off a whole number of filled ones


@dataclass(frozen=True)
class Comparison:
    """Differences other - reference; energies in meV, over all elements of all pairs that either has (else zero).

    gauge_mae_meV: the smallest MAE of H_other + mu S - H_ref over mu (gauge_shift_meV): the zero of energy has no
        meaning in a periodic system.  bands_*: matched by index at each k of the path, levels within window_eV of the
        reference's Fermi level; None where no Fermi level is known.  bands_aligned_mae_meV: the same after that shift.
    overlapping_mae_meV: of elements between orbitals that overlap.  bands_near_mae_meV: mean error of all levels up to
        window_eV above the Fermi level, within the span of the reference's states up to 15 eV above it (near_levels.py), both
        from their own Fermi level; there is no ghost in it.  gap_*_eV: between the bands that the electrons fill on the path
        and the next, 0 where they overlap; None for an odd number of electrons.
    mae_by_elements_meV, mae_by_shells_meV: by pair of elements, and of shells (of the element's shells the first is 0).
    superposed_atoms: the same figures of H0 in place of the other; None where the reference does not tell how it was made.
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
    overlapping_mae_meV: float | None = None
    bands_near_mae_meV: float | None = None
    gap_reference_eV: float | None = None
    gap_other_eV: float | None = None
    mae_by_shells_meV: Mapping[str, float] = field(default_factory=dict)
    superposed_atoms: Comparison | None = None

    def to_json(self) -> dict[str, object]:
        """All fields under their names."""
        return asdict(self)


def compare(
    reference: Calculation,
    other: Calculation,
    *,
    window_ev: float = 5.0,
    spectra: tuple[Bands, Bands] | None = None,
    superposed: Calculation | None = None,
    beside: Comparison | None = None,
) -> Comparison:
    """Compare two calculations of one structure in one basis.

    window_ev: half width of the band window around the Fermi level [eV].  spectra: bands of both on one path, if they are
        known already; otherwise they are computed on the standard path, with as many points as a minute allows.
    superposed: H0 and S of the structure (`superposed_atoms`), to be compared too; or `beside`, that comparison.
    Spins that differ are compared as the richer of both, a single axis along z.
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
    h_ref, h_other = alike(h_ref, h_other)
    layout = BlockLayout(h_ref.basis, _union(h_ref.pairs, h_other.pairs, s_ref.pairs, s_other.pairs))
    difference = (h_other.on(layout) - h_ref.on(layout)).values
    overlap = h_ref.spin.embed(s_ref.on(layout).values)
    shift = gauge_shift(difference, overlap)
    on_site = (layout.pairs.i == layout.pairs.j) & (layout.pairs.R == 0).all(1)
    error = difference.abs() * MEV
    fermi = fermi_level_of(reference)
    other_fermi = fermi_level_of(other)
    if spectra is None:
        path = band_path(reference.structure, affordable_points(reference.basis.size * h_ref.spin.size_factor))
        spectra = (bands(h_ref, s_ref, path), bands(h_other, s_other, path))
    band_error = _band_differences(*spectra, fermi, window_ev) * MEV
    electrons = electrons_of(reference)
    touching = overlap.abs() > OVERLAPPING
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
        overlapping_mae_meV=_mean(error[touching]),
        bands_near_mae_meV=_near_error(h_ref, h_other, s_ref, spectra[0].path.k, (fermi, other_fermi), window_ev),
        gap_reference_eV=_gap(spectra[0], h_ref.spin, electrons),
        gap_other_eV=_gap(spectra[1], h_other.spin, electrons),
        mae_by_shells_meV=_by_shells(layout, error),
        superposed_atoms=beside if superposed is None else compare(reference, superposed, window_ev=window_ev),
    )


def superposed_atoms(calculation: Calculation) -> Calculation | None:
    """H0 of superposed atomic densities and S, by the settings that a calculation records.

    None where it records none, has spin, or its orbitals are no longer where they were.
    """
    found = calculation
    if not found.settings or found.hamiltonian is None or found.hamiltonian.spin is not NONE:
        return None
    try:
        settings = Settings.stored(found.settings, found.name)
        h0, overlap = initial_hamiltonian(found.structure, settings)
        if not h0.basis.same_as(found.basis):
            return None
    except NearsightError:
        return None
    return Calculation(found.structure, overlap, h0, electrons=electrons_of(found))


def _near_error(
    reference: BlockMatrix,
    other: BlockMatrix,
    overlap: BlockMatrix,
    k: Tensor,
    fermi: tuple[float | None, float | None],
    window_ev: float,
) -> float | None:
    """Mean |e_other - e_reference| [meV] in the reference's occupied and near states, each from its own Fermi level."""
    level, others = fermi
    if level is None:
        return None
    shift, total, count = (others if others is not None else level) - level, 0.0, 0
    for at in near_levels(reference, overlap, level, k, [other]):
        window = at.known < level + window_ev / HARTREE_EV
        total += float((at.others[0] - shift - at.known)[window].abs().sum())
        count += int(window.sum())
    return total / count * MEV if count else None


def _gap(found: Bands, spin: Spin, electrons: float | None) -> float | None:
    """[eV] between the bands that are filled on the path and the next; None where no number of bands is filled."""
    e = found.energies.transpose(0, 1).flatten(1).sort(1).values
    filled = None if electrons is None else electrons / spin.electrons_per_level
    if filled is None or abs(filled - round(filled)) > WHOLE or not 0 < round(filled) < e.shape[1]:
        return None
    n = round(filled)
    return max(0.0, float(e[:, n].min() - e[:, n - 1].max())) * HARTREE_EV


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


def _by_shells(layout: BlockLayout, error: Tensor) -> dict[str, float]:
    """Of each pair of shells, such as `O 0s - H 1p`: the shell's place among those of its element, and its l."""
    names, first, of_orbital = list[str](), dict[int, int](), dict[int, Tensor]()
    for z, shells in layout.basis.shells.items():
        first[z] = len(names)
        names += [f"{SYMBOLS[z]} {k}{'spdfghi'[l]}" for k, l in enumerate(shells)]
        of_orbital[z] = torch.repeat_interleave(torch.arange(len(shells)), torch.tensor([2 * l + 1 for l in shells]))
    numbers = layout.basis.numbers
    row, column = layout.local
    widest = max(len(x) for x in of_orbital.values())
    table = torch.zeros(max(of_orbital) + 1, widest, dtype=torch.int64)
    for z, shells_of in of_orbital.items():
        table[z, : len(shells_of)] = first[z] + shells_of
    atoms = torch.tensor(numbers)
    a = table[atoms[layout.pairs.i][layout.pair], row]
    b = table[atoms[layout.pairs.j][layout.pair], column]
    key = torch.minimum(a, b) * len(names) + torch.maximum(a, b)
    mean = error.mean(0)
    total = mean.new_zeros(len(names) ** 2).index_add(0, key, mean)
    number = torch.bincount(key, minlength=len(total))
    present = number.nonzero()[:, 0].tolist()
    return {f"{names[k // len(names)]} - {names[k % len(names)]}": float(total[k] / number[k]) for k in present}


def _mean(x: Tensor) -> float | None:
    return float(x.mean()) if x.numel() else None


def _formula(structure: Structure) -> str:
    symbols = structure.symbols
    return "".join(f"{s}{symbols.count(s)}" for s in dict.fromkeys(symbols))


def _orbitals(c: Calculation) -> str:
    return ", ".join(f"{SYMBOLS[z]} l = {list(shells)}" for z, shells in c.basis.shells.items())
