"""Wannier90's `_hr.dat` with the `.win` and `_centres.xyz` beside it: what PythTB, TBmodels and others read. Written only.

The atomic orbitals are Loewdin-orthogonalised first, and the file's first line says so.  Spinors: all up, then all down.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nearsight.core.calculation import Calculation
from nearsight.core.errors import BadInput
from nearsight.core.units import BOHR_ANG, HARTREE_EV
from nearsight.formats.files import whole_folder
from nearsight.formats.format import Format
from nearsight.formats.orthogonal import OrthogonalModel, orthogonal_models, spin_suffixes


class Wannier90(Format):
    """A folder with NAME_hr.dat, NAME.win and NAME_centres.xyz, NAME that of the folder; _up and _dn of collinear spin."""

    name = "wannier90"
    holds = frozenset({"hamiltonian", "none", "collinear", "spinor"})

    def recognises(self, path: Path) -> bool:
        """Never: it is only written."""
        return False

    def read(self, path: Path) -> Calculation:
        """Raises BadInput: it is only written."""
        raise BadInput("the format wannier90 is only written: it has no atomic orbitals and no overlap")

    def write(self, path: Path, calculation: Calculation) -> None:
        """The orthogonal model of each spin, in eV and angstrom. Raises NearsightError as `orthogonal_models`."""
        models = orthogonal_models(calculation)
        with whole_folder(path) as part:
            for suffix, model in zip(spin_suffixes(calculation), models, strict=True):
                prefix = f"{Path(path).name}{suffix}"
                (part / f"{prefix}_hr.dat").write_text(hr_text(model))
                (part / f"{prefix}_centres.xyz").write_text(_centres(model, calculation))
                (part / f"{prefix}.win").write_text(_win(model, calculation))


def hr_text(model: OrthogonalModel) -> str:
    """num_wann, number of R, degeneracies (all 1: shared cells carry their weight), then R, i, j, Re, Im [eV], i fastest."""
    cells, n, _ = model.hoppings.shape
    lines = [f"written by nearsight; {model.note}", f"{n:12d}", f"{cells:12d}"]
    for first in range(0, cells, 15):
        lines.append("    1" * min(15, cells - first))
    energies = model.hoppings * HARTREE_EV
    j, i = np.meshgrid(np.arange(1, n + 1), np.arange(1, n + 1), indexing="ij")
    for R, h in zip(model.R.tolist(), energies, strict=True):
        head = "".join(f"{x:5d}" for x in R)
        values = h.T.ravel()
        lines += [
            f"{head}{a:5d}{b:5d} {v.real:22.15E} {v.imag:22.15E}"
            for a, b, v in zip(i.ravel().tolist(), j.ravel().tolist(), values.tolist(), strict=True)
        ]
    return "\n".join(lines) + "\n"


def _centres(model: OrthogonalModel, calculation: Calculation) -> str:
    rows = [("X", x) for x in (model.centres * BOHR_ANG).tolist()]
    s = calculation.structure
    rows += list(zip(s.symbols, (s.positions.double() * BOHR_ANG).tolist(), strict=True))
    lines = [f"{name:<6}" + "".join(f"{v:22.14f}" for v in x) for name, x in rows]
    return "\n".join([str(len(rows)), " atomic orbitals, then atoms", *lines]) + "\n"


def _win(model: OrthogonalModel, calculation: Calculation) -> str:
    s = calculation.structure
    cell, x = ((v.double() * BOHR_ANG).tolist() for v in (s.cell, s.positions))
    lines = [f"num_wann = {len(model.centres)}", "mp_grid = " + " ".join(map(str, model.mesh))]
    lines += [
        "begin unit_cell_cart",
        "ang",
        *("".join(f"{v:22.14f}" for v in row) for row in cell),
        "end unit_cell_cart",
    ]
    lines += ["begin atoms_cart", "ang"]
    lines += [f"{n:<4}" + "".join(f"{v:22.14f}" for v in r) for n, r in zip(s.symbols, x, strict=True)]
    return "\n".join([*lines, "end atoms_cart"]) + "\n"
