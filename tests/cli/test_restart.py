"""Going on from a finished or unfinished calculation."""

from __future__ import annotations

from pathlib import Path

from nearsight.dft.run import run_scf
from nearsight.dft.settings import ScfSettings
from tests import cases


def test_a_restart_from_the_hamiltonian_or_from_the_density_matrix_alone(tmp_path: Path) -> None:
    s = cases.diamond()
    species = cases.species_of(s, "sz")
    settings = ScfSettings(kmesh=(2, 1, 1), mesh_cutoff_ry=60, max_iterations=4, tolerance_ev=1e-6)
    first = run_scf(s, settings, tmp_path / "first", species=species)
    assert not first.converged
    again = settings.model_copy(update={"start": tmp_path / "first", "max_iterations": 50})
    results = [run_scf(s, again, species=species)]
    (tmp_path / "first/hamiltonian.h5").unlink()
    results.append(run_scf(s, again, species=species))
    fresh = run_scf(s, settings.model_copy(update={"max_iterations": 50}), species=species)
    for r in results:
        assert r.converged and abs(r.total - fresh.total) < 1e-9
        assert r.steps[0].residual < 0.1 * fresh.steps[0].residual
