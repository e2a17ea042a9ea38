"""A calculation as an object of another package for tight-binding models: sisl, PythTB, Kwant, TBmodels. eV and angstrom.

sisl keeps S.  The others know no overlap: their orbitals are Loewdin's (formats/orthogonal.py).  Each package is imported
when it is asked for.  As formats: `sisl` writes a file of any kind that sisl writes (by its ending, .nc of sisl's own, .TSHS,
.HSX), `tbmodels` its HDF5; PythTB reads `wannier90`.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from nearsight.core.calculation import Calculation
from nearsight.core.errors import BadInput, Unavailable
from nearsight.core.spin import COLLINEAR, SPINOR
from nearsight.core.units import BOHR_ANG, HARTREE_EV
from nearsight.formats.assembly import to_program
from nearsight.formats.files import whole_file
from nearsight.formats.format import Format
from nearsight.formats.orders import SIESTA
from nearsight.formats.orthogonal import OrthogonalModel, orthogonal_models


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise Unavailable(f"{name} is not installed: pip install {name}") from error


def to_sisl(calculation: Calculation) -> Any:
    """sisl.Hamiltonian with S [eV, angstrom], orbitals in sisl's order, which is SIESTA's. Raises Unavailable without sisl."""
    sisl = _package("sisl")
    H, S = calculation.require_hamiltonian(), calculation.require_overlap()
    S = S if S.same_layout(H) else S.on(H.layout)
    s, layout = calculation.structure, H.layout.to("cpu")
    reach = layout.pairs.R.abs().amax(0).numpy()
    lattice = sisl.Lattice(s.cell.double().numpy() * BOHR_ANG, nsc=2 * reach + 1)
    far = (layout.pairs.vectors(s).norm(dim=1).max().item() / 2 + 1e-3) * BOHR_ANG
    kinds = {}
    for z, shells in H.basis.shells.items():
        orbitals = []
        for n, l in enumerate(shells):
            zeta = 1 + list(shells[:n]).count(l)
            orbitals += [sisl.AtomicOrbital(n=l + 1, l=l, m=m, zeta=zeta, R=far) for m in range(-l, l + 1)]
        kinds[z] = sisl.Atom(z, orbitals=orbitals)
    geometry = sisl.Geometry(s.positions.double().numpy() * BOHR_ANG, [kinds[z] for z in H.basis.numbers], lattice)
    spin = "spin-orbit" if H.spin is SPINOR else "polarized" if H.spin is COLLINEAR else "unpolarized"
    made = sisl.Hamiltonian(geometry, orthogonal=False, spin=spin)
    values, overlap = (to_program(m, SIESTA).numpy() for m in (H, S))
    components = _sisl_components(values * HARTREE_EV) if H.spin is SPINOR else values.real * HARTREE_EV
    cell = geometry.lattice.sc_index(layout.pairs.R[layout.pair].numpy())
    column = layout.column.numpy() + cell * geometry.no
    from scipy.sparse import csr_matrix

    shape = (geometry.no, geometry.no * geometry.n_s)
    where = (layout.row.numpy(), column)
    # explicit zeros are kept by the pattern of ones, so that every matrix has the same one
    parts = [csr_matrix((c, where), shape=shape) for c in (*components, overlap[0])]
    return sisl.Hamiltonian.fromsp(geometry, parts[:-1], S=parts[-1], spin=made.spin)


def _sisl_components(values: Any) -> list[Any]:
    """Re uu, Re dd, Re ud, Im ud, Im uu, Im dd, Re du, Im du: sisl's eight components with spin-orbit coupling."""
    uu, ud, du, dd = values
    return [uu.real, dd.real, ud.real, ud.imag, uu.imag, dd.imag, du.real, du.imag]


def to_pythtb(calculation: Calculation) -> list[Any]:
    """pythtb.tb_model of each spin (one, or up and down), Loewdin-orthogonalised. Raises Unavailable without PythTB."""
    pythtb = _package("pythtb")
    made = []
    for model in orthogonal_models(calculation):
        cell = model.cell * BOHR_ANG
        tb = pythtb.tb_model(3, 3, cell.tolist(), (model.centres @ np.linalg.inv(model.cell)).tolist())
        hoppings = model.hoppings * HARTREE_EV
        home = int(np.flatnonzero((model.R == 0).all(1))[0])
        tb.set_onsite(np.diagonal(hoppings[home]).real.tolist())
        for R, h in _half(model, hoppings):
            for i, j in zip(*np.nonzero(np.triu(h, 1) if not any(R) else h), strict=True):
                tb.set_hop(complex(h[i, j]), int(i), int(j), list(R), allow_conjugate_pair=True)
        made.append(tb)
    return made


def to_tbmodels(calculation: Calculation) -> list[Any]:
    """tbmodels.Model of each spin, Loewdin-orthogonalised. Raises Unavailable without TBmodels."""
    tbmodels = _package("tbmodels")
    made = []
    for model in orthogonal_models(calculation):
        hoppings = model.hoppings * HARTREE_EV
        made.append(
            tbmodels.Model(
                hop={R: h * (0.5 if not any(R) else 1) for R, h in _half(model, hoppings)},
                contains_cc=False,  # so that it makes the other half, hermitian to the last bit
                uc=model.cell * BOHR_ANG,
                pos=model.centres @ np.linalg.inv(model.cell),
                dim=3,
                size=len(model.centres),
            )
        )
    return made


def to_kwant(calculation: Calculation) -> list[Any]:
    """kwant.Builder of each spin, periodic in three directions, Loewdin-orthogonalised: one site a cell with all orbitals.

    Wrap it with kwant.wraparound.wraparound for bands.  Raises Unavailable without Kwant.
    """
    kwant = _package("kwant")
    made = []
    for model in orthogonal_models(calculation):
        cell = model.cell * BOHR_ANG
        lattice = kwant.lattice.general(cell.tolist(), norbs=len(model.centres))
        system = kwant.Builder(kwant.TranslationalSymmetry(*cell.tolist()))
        hoppings = model.hoppings * HARTREE_EV
        for R, h in _half(model, hoppings):
            if not any(R):
                system[lattice(0, 0, 0)] = (h + h.conj().T) / 2
            else:
                system[lattice(0, 0, 0), lattice(*R)] = h
        made.append(system)
    return made


def _half(model: OrthogonalModel, hoppings: Any) -> list[tuple[tuple[int, ...], Any]]:
    """(R, H'(R)) of one of each R and -R, the home cell among them."""
    return [(tuple(R), h) for R, h in zip(model.R.tolist(), hoppings, strict=True) if tuple(R) >= (0, 0, 0)]


class Sisl(Format):
    """A file of sisl's, by its ending."""

    name = "sisl"
    holds = frozenset({"overlap", "hamiltonian", "none", "collinear", "spinor"})

    def recognises(self, path: Path) -> bool:
        """Never: it is only written."""
        return False

    def read(self, path: Path) -> Calculation:
        """Raises BadInput: it is only written."""
        raise BadInput("the format sisl is only written; files of SIESTA's are read as siesta")

    def write(self, path: Path, calculation: Calculation) -> None:
        """H with S, as `to_sisl`.

        Raises BadInput for an ending that sisl writes no Hamiltonian into, Unavailable without sisl.
        """
        sisl, path = _package("sisl"), Path(path)
        made = to_sisl(calculation)
        try:
            with whole_file(path) as part, sisl.get_sile(part, "w") as file:
                file.write_hamiltonian(made)
        except (NotImplementedError, AttributeError, sisl.SileError) as error:
            raise BadInput(
                f"sisl writes no Hamiltonian into {path.name}: name it .TSHS, .HSX or .nc ({error})"
            ) from error


class TBmodels(Format):
    """TBmodels' HDF5 file; collinear spin gives NAME_up and NAME_dn."""

    name = "tbmodels"
    holds = frozenset({"hamiltonian", "none", "spinor"})

    def recognises(self, path: Path) -> bool:
        """Never: it is only written."""
        return False

    def read(self, path: Path) -> Calculation:
        """Raises BadInput: it is only written."""
        raise BadInput("the format tbmodels is only written: it has no atomic orbitals and no overlap")

    def write(self, path: Path, calculation: Calculation) -> None:
        """A model, or one of each collinear spin, as `to_tbmodels`. Raises Unavailable without TBmodels."""
        models = to_tbmodels(calculation)
        path = Path(path)
        names = [path] if len(models) == 1 else [path.with_stem(f"{path.stem}_{s}") for s in ("up", "dn")]
        for name, model in zip(names, models, strict=True):
            with whole_file(name) as part:
                model.to_hdf5_file(str(part))
