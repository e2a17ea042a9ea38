"""The engine `pyscf`: molecules, and crystals with k-points, in Gaussian orbitals, with any functional that PySCF has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from nearsight.core.errors import BadInput, NotConverged, Unavailable
from nearsight.core.laws import require_lawful
from nearsight.core.structure import Structure
from nearsight.formats.deeph import write_folder
from nearsight.formats.pyscf import PYSCF_BOHR, from_pyscf
from nearsight.tasks.engines.contract import Engine, EngineTable, denser


class PySCFTable(EngineTable):
    """xc, basis, pseudo: PySCF's names (pseudo only with bases that are made for it, such as gth-dzvp and gth-pbe).

    kmesh: of a crystal, Gamma-centred; null: a molecule, whose box is dropped.  charge: of the cell.  spin: unpaired electrons.
    tolerance_ha: of the energy.  level_shift_ha, damping: of the cycle.  newton: second-order solver.  smearing_ha: width of
    Fermi-Dirac.  max_cycles: of the cycle.
    """

    kind: Literal["pyscf"] = "pyscf"
    xc: str = "pbe"
    basis: str = "def2-svp"
    pseudo: str | None = None
    kmesh: tuple[int, int, int] | None = None
    charge: int = Field(0, ge=-100, le=100)
    spin: int = Field(0, ge=0, le=1000)
    tolerance_ha: float = Field(1e-9, gt=0, le=1e-3)
    max_cycles: int = Field(50, ge=1, le=100_000)
    level_shift_ha: float = Field(0.0, ge=0, le=10)
    damping: float = Field(0.0, ge=0, lt=1)
    newton: bool = False
    smearing_ha: float | None = Field(None, gt=0, le=1)


class PySCF(Engine):
    """Restricted without unpaired electrons, unrestricted with them."""

    name: ClassVar[str] = "pyscf"
    Table: ClassVar[type[EngineTable]] = PySCFTable

    def check(self, structures: Sequence[Structure]) -> None:
        """Raises Unavailable without PySCF; BadInput for a functional or basis that it does not know."""
        _installed()
        from pyscf import dft

        try:
            dft.libxc.parse_xc(self.table.xc)
        except (KeyError, ValueError) as error:
            raise BadInput(f"engine.xc: PySCF knows no functional {self.table.xc!r}") from error
        seen: set[tuple[int, ...]] = set()
        for s in structures:
            kind = tuple(sorted(set(s.numbers.tolist())))
            if kind not in seen:
                seen.add(kind)
                self._built(s)

    def rung(self, word: str) -> Mapping[str, Any]:
        """mixing: damping, a level shift and twice the cycles; variational: the second-order solver; smearing: 0.005 Ha, or
        twice as wide; kmesh: half as many points again."""
        t = self.table
        if word == "mixing":
            return {"damping": 0.3, "level_shift_ha": 0.2, "max_cycles": 2 * t.max_cycles}
        if word == "variational":
            return {"newton": True, "damping": 0.0, "level_shift_ha": 0.0}
        if word == "smearing":
            return {"smearing_ha": 2 * (t.smearing_ha or 0.0025), "newton": False}
        if word == "kmesh" and t.kmesh is not None:
            return {"kmesh": denser(t.kmesh)}
        return super().rung(word)

    def compute(self, structure: Structure, folder: Path) -> None:
        """See Engine."""
        _installed()
        mf = self._mean_field(structure)
        mf.conv_tol, mf.max_cycle, mf.verbose = self.table.tolerance_ha, self.table.max_cycles, 0
        mf.level_shift, mf.damp = self.table.level_shift_ha, self.table.damping
        if self.table.smearing_ha is not None:
            from pyscf.scf.addons import smearing

            mf = smearing(mf, self.table.smearing_ha, "fermi")
        if self.table.newton:
            mf = mf.newton()
            mf.verbose = 0
        try:
            mf.kernel()
        except (ArithmeticError, RuntimeError, ValueError) as error:
            raise NotConverged(f"PySCF stopped: {' '.join(str(error).split())[:200]}") from error
        if not mf.converged:
            raise NotConverged(f"PySCF did not converge in {self.table.max_cycles} cycles")
        found = from_pyscf(mf)
        try:
            require_lawful(found, structure.formula)
        except BadInput as error:
            raise BadInput(
                f"{error}; with k-points: a denser engine.kmesh, whose supercell the orbitals fit in"
            ) from error
        settings = {"functional": {"xc": self.table.xc}, "basis": {"size": self.table.basis}}
        settings["electrons"] = {"charge_e": float(self.table.charge)}
        write_folder(folder, found.structure, **_fields(found, settings))

    def _mean_field(self, structure: Structure) -> Any:
        from pyscf import dft

        mol = self._built(structure)
        if self.table.kmesh is None:
            return (dft.UKS if self.table.spin else dft.RKS)(mol, xc=self.table.xc)
        from pyscf.pbc import dft as periodic

        kpts = mol.make_kpts(self.table.kmesh)
        kind = periodic.KUKS if self.table.spin else periodic.KRKS
        mf = kind(mol, kpts, xc=self.table.xc)
        return mf if self.table.pseudo is not None else mf.density_fit()

    def _built(self, structure: Structure) -> Any:
        from nearsight.core.units import BOHR_ANG

        t = self.table
        places = (structure.positions.double() * BOHR_ANG / PYSCF_BOHR).tolist()
        atoms = list(zip(structure.symbols, places, strict=True))
        common = {"unit": "Bohr", "charge": t.charge, "spin": t.spin, "verbose": 0, "cart": False}
        try:
            if t.kmesh is None:
                from pyscf import gto

                return gto.M(atom=atoms, basis=t.basis, ecp=t.pseudo or {}, **common)
            from pyscf.pbc import gto as periodic

            a = (structure.cell.double() * BOHR_ANG / PYSCF_BOHR).tolist()
            return periodic.M(atom=atoms, a=a, basis=t.basis, pseudo=t.pseudo, **common)
        except Exception as error:  # PySCF's own kinds, of names of bases and of counts of electrons
            raise BadInput(
                f"engine: PySCF cannot build {structure.formula} with basis {t.basis!r}, charge {t.charge}, spin {t.spin}: "
                f"{' '.join(str(error).split())[:200]}"
            ) from error


def _fields(found: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    names = ("overlap", "hamiltonian", "density_matrix", "fermi_level", "electrons", "energies", "moments")
    return {**{n: getattr(found, n) for n in names}, "converged": True, "settings": settings}


def _installed() -> None:
    try:
        import pyscf  # noqa: F401
    except ImportError as error:
        raise Unavailable("the engine pyscf needs PySCF: pip install 'nearsight[pyscf]'") from error
