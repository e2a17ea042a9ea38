"""Is a calculation sound? Laws that any structure with its matrices must keep, each with what was found."""

from __future__ import annotations

import torch

from nearsight.core.blocks import BlockMatrix
from nearsight.core.calculation import Calculation
from nearsight.core.errors import NearsightError
from nearsight.core.laws import Finding, matrix_findings
from nearsight.core.layout import identity
from nearsight.core.units import BOHR_ANG, HARTREE_EV
from nearsight.electrons.kpoints import mesh
from nearsight.electrons.sparse.levels import SparseLevels
from nearsight.formats.structures import check_structure
from nearsight.properties.consistency import consistency
from nearsight.properties.near_fermi import solver_for

TINY = 1e-6  # an eigenvalue of a large S that is not below this is taken for positive


def check(calculation: Calculation) -> list[Finding]:
    """Structure, hermiticity of every matrix, S positive definite, electron count and the place of the Fermi level."""
    findings = [_structure(calculation)]
    whole = _has_volume(calculation)  # else there are no k-points
    findings += matrix_findings(calculation)
    findings.append(_norms(calculation.require_overlap()))
    if whole:
        findings.append(_positive(calculation))
    for test in (_electrons, _fermi) if whole else (_electrons,):
        finding = test(calculation)
        if finding is not None:
            findings.append(finding)
    if whole:
        findings += consistency(calculation)
    converged = calculation.converged
    if converged is not None:
        findings.append(
            Finding("self-consistency was reached", f"converged: {str(converged).lower()}", bool(converged))
        )
    return findings


def _has_volume(c: Calculation) -> bool:
    cell = c.structure.cell
    return bool(torch.isfinite(cell).all()) and float(c.structure.volume) > 1e-6 * float(cell.norm(dim=1).max()) ** 3


def _structure(c: Calculation) -> Finding:
    try:
        check_structure(c.structure)
    except NearsightError as error:
        return Finding("the structure can be computed", str(error), False)
    p = c.require_overlap().pairs
    far = float(p.vectors(c.structure).norm(dim=1).max()) * BOHR_ANG
    return Finding(
        "the structure can be computed", f"{len(c.structure)} atoms, {len(p)} pairs to {far:.2f} angstrom", True
    )


def _norms(overlap: BlockMatrix) -> Finding:
    """<phi|phi> = 1 for every orbital, to the per cent or two that orbitals which are cut off are away from it (OpenMX)."""
    local_row, local_column = overlap.layout.local
    p = overlap.pairs
    on_site = ((p.i == p.j) & (p.R == 0).all(1))[overlap.layout.pair]
    error = float((overlap.values[0, on_site & (local_row == local_column)] - 1).abs().max())
    return Finding("orbitals are normalised", f"largest deviation {error:.1e}", error <= 5e-2)


def _sampling(c: Calculation) -> torch.Tensor:
    """A coarse k-mesh with Gamma and the zone boundary: 2 points along each short axis."""
    size = [2 if float(b) > 0.4 else 1 for b in c.structure.reciprocal.norm(dim=1)]
    return mesh((size[0], size[1], size[2])).k


def _positive(c: Calculation) -> Finding:
    overlap = c.require_overlap()
    if solver_for(overlap) == "sparse":
        return _positive_by_counting(overlap)
    lowest = min(float(torch.linalg.eigvalsh(overlap.at_k(k[None])[0]).min()) for k in _sampling(c))
    return Finding("S is positive definite", f"lowest eigenvalue {lowest:.2e}", lowest > 0)


def _positive_by_counting(overlap: BlockMatrix) -> Finding:
    """Of a large S at Gamma, whether an eigenvalue is below a tiny one: negative pivots of S - x."""
    one = overlap.with_values(identity(overlap.layout))
    below = SparseLevels(overlap, one).count(TINY, torch.zeros(3, dtype=torch.float64))
    text = f"{below} eigenvalues below {TINY:g} at Gamma, counted by inertia"
    return Finding("S is positive definite", text, below == 0)


def _electrons(c: Calculation) -> Finding | None:
    if c.density_matrix is None:
        return None
    overlap = c.require_overlap()
    density = c.density_matrix.on(overlap.layout)
    count = float(density.trace(overlap))
    told = c.electrons if c.electrons is not None else float(round(count))
    return Finding("Tr[D S] is the number of electrons", f"{count:.6f}, expected {told:g}", abs(count - told) <= 1e-3)


def _fermi(c: Calculation) -> Finding | None:
    from nearsight.electrons.eigen import eigenvalues

    if c.hamiltonian is None or c.fermi_level is None:
        return None
    if solver_for(c.hamiltonian) == "sparse":
        return _fermi_by_counting(c)
    try:
        levels = eigenvalues(c.hamiltonian, c.require_overlap(), _sampling(c))
    except NearsightError:
        return None  # S is not positive definite: reported already
    low, high = float(levels.min()) * HARTREE_EV, float(levels.max()) * HARTREE_EV
    fermi = c.fermi_level * HARTREE_EV
    room = c.hamiltonian.spin.electrons_per_level * levels.shape[0] * levels.shape[2]
    if c.electrons is not None and c.electrons > room - 1e-6:
        return Finding(
            "the Fermi level lies above levels that are all filled", f"{fermi:.3f} above {high:.3f} eV", fermi > high
        )
    return Finding(
        "the Fermi level lies among the levels", f"{fermi:.3f} in {low:.3f} .. {high:.3f} eV", low < fermi < high
    )


def _fermi_by_counting(c: Calculation) -> Finding:
    """Of large matrices: how many levels lie below the Fermi level at Gamma, against the electrons."""
    assert c.hamiltonian is not None and c.fermi_level is not None
    solver = SparseLevels(c.hamiltonian, c.require_overlap())
    gamma = torch.zeros(3, dtype=torch.float64)
    below = sum(solver.count(c.fermi_level, gamma, s) for s in range(solver.spins))
    text = f"{c.fermi_level * HARTREE_EV:.3f} eV, above {below} of {solver.rows * solver.spins} levels at Gamma"
    return Finding("the Fermi level lies among the levels", text, 0 < below < solver.rows * solver.spins)
