"""Other programs' data, proved by physics: every real set is read, checked, and written again (damage: bench/damage.py).

    python bench/formats.py /path/to/external [/path/to/reference/siesta]

The first folder holds runs of OpenMX, SIESTA, ABACUS and FHI-aims and sets in both DeepH layouts, the second calculation
folders of SIESTA.  For each: what Tr[D S] and the eigenvalues are off the program's own, the share of S off the two-centre
law, and whether what is written is read again.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from nearsight.core.calculation import Calculation
from nearsight.core.two_centre import axial_violation
from nearsight.core.units import HARTREE_EV
from nearsight.electrons.eigen import eigenvalues
from nearsight.formats import registry
from nearsight.formats.levels import Levels, levels_beside
from nearsight.formats.matrix_file import MatrixFile
from nearsight.properties.check import check


def main(*roots: str) -> None:
    rows = [row(path, Path(root)) for root in roots for path in runs(Path(root))]
    table = {"sets": rows, "old_equals_new_eV": old_and_new(Path(roots[0]))}
    place = Path(__file__).parent / "results" / "formats.json"
    place.write_text(json.dumps(table, indent=1) + "\n")
    print(f"old DeepH layout against the published conversion: {table['old_equals_new_eV']:.1e} eV; written to {place}")


def runs(root: Path) -> list[Path]:
    """Every run below a folder, however deep."""
    if registry.find(root) is not None:
        return [root]
    return [found for path in sorted(root.iterdir()) if path.is_dir() for found in runs(path)]


def row(path: Path, root: Path) -> dict[str, Any]:
    """One line of the table."""
    begun = time.perf_counter()
    c = registry.read(path)
    seconds = time.perf_counter() - begun
    levels = Levels.of_record(c.result) or levels_beside(path, c.structure, c.fermi_level)
    found = {
        "set": str(path.relative_to(root)) if path != root else path.name,
        "format": registry.find(path).name,  # type: ignore[union-attr]
        "formula": c.structure.formula,
        "spin": c.spin.name,
        "levels_off_eV": None if levels is None else off(c, levels),
        "electrons_off": None if c.density_matrix is None or not c.electrons else count(c),
        "axial": axial_violation(c.require_overlap(), c.structure),
        "broken_laws": [f.law for f in check(c) if not f.holds],
        "read_again_eV": read_again(c),
        "seconds": seconds,
    }
    text = {k: "-" if found[k] is None else f"{found[k]:.1e}" for k in ("levels_off_eV", "electrons_off", "axial")}
    print(
        f"{found['set']:<38} {found['format']:<9} {found['formula']:<7} {found['spin']:<9} levels {text['levels_off_eV']:<8} "
        f"N {text['electrons_off']:<8} axial {text['axial']:<8} laws broken {len(found['broken_laws'])} "
        f"again {found['read_again_eV']:.0e} {seconds:.2f} s",
        flush=True,
    )
    return found


def off(c: Calculation, levels: Levels) -> float:
    e = eigenvalues(c.require_hamiltonian(), c.require_overlap(), levels.k)[:, :, : levels.energies.shape[2]]
    return float((e - levels.energies).abs().max()) * HARTREE_EV


def count(c: Calculation) -> float:
    D = c.require_density_matrix().on(c.require_overlap().layout)
    return abs(float(D.trace(c.require_overlap()).real) - float(c.electrons or 0))


def read_again(c: Calculation) -> float:
    """The largest difference [eV] after writing and reading both DeepH layouts."""
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("deeph", "deeph-old"):
            registry.write(Path(folder) / kind, c, kind)
            again = registry.read(Path(folder) / kind).in_original_order()
            for name, m in c.in_original_order().matrices.items():
                other = getattr(again, name).on(m.layout)
                worst = max(worst, float((other.values - m.values).abs().max()) * HARTREE_EV)
    return worst


def old_and_new(root: Path) -> float:
    """The largest difference of an entry between our conversion of the old layout and the published one [eV]."""
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        registry.write(Path(folder) / "x", registry.read(root / "openmx_MoTe2_old"))
        for name in ("overlap.h5", "hamiltonian.h5"):
            ours, theirs = MatrixFile.read(Path(folder) / "x" / name), MatrixFile.read(root / "openmx_MoTe2_new" / name)
            place = {tuple(k): n for n, k in enumerate(ours.atom_pairs.tolist())}
            for n, key in enumerate(theirs.atom_pairs.tolist()):
                worst = max(worst, float(abs(ours.block(place[tuple(key)]) - theirs.block(n)).max()))
    return worst


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
