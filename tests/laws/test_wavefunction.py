"""Laws of Kohn-Sham orbitals on the mesh."""

from __future__ import annotations

import torch

from nearsight.dft.functional import EnergyFunctional
from nearsight.dft.ground_state import ground_state
from nearsight.dft.wavefunction import orbital_on_mesh
from nearsight.electrons import kpoints
from nearsight.integrals.mesh import mesh_shape
from tests import cases

close = torch.testing.assert_close


def test_orbitals_are_normalised_orthogonal_and_add_up_to_the_density():
    s = cases.diamond()
    f = EnergyFunctional.of(s, cases.species_of(s, "szp"), "lda", mesh_shape(s.cell, 250.0))
    gs = ground_state(f, kpoints.mesh((3, 1, 1)), 0.0005)
    total = torch.zeros(f.mesh.shape, dtype=torch.float64)
    for n, (k, weight) in enumerate(zip(gs.kpoints.k, gs.kpoints.weights, strict=True)):
        psi = [orbital_on_mesh(f, gs.electrons.coefficients[0, n, :, band], k) for band in range(4)]
        overlaps = torch.stack([torch.stack([(a.conj() * b).sum() for b in psi]) for a in psi]) * f.mesh.volume_element
        close(overlaps, torch.eye(4, dtype=overlaps.dtype), atol=2e-4, rtol=0)
        total += 2 * weight * sum(p.abs().square() for p in psi)
    # psi_-k = psi_k^*: the half that time reversal leaves out has the same density
    close(total, gs.density[0], atol=1e-6, rtol=0)
