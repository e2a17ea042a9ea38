"""The engine `abacus`: ABACUS in numerical atomic orbitals; its INPUT, STRU and KPT are written here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from nearsight.core.errors import BadInput
from nearsight.core.structure import SYMBOLS, Structure
from nearsight.tasks.engines.programs import Program, ProgramTable


class AbacusTable(ProgramTable):
    """pseudopotentials, orbitals: by element, files in `data`.  ecutwfc_ry, xc: of INPUT.

    parameters: further keys of INPUT.
    """

    kind: Literal["abacus"] = "abacus"
    pseudopotentials: dict[str, str] = Field({})
    orbitals: dict[str, str] = Field({})
    xc: str = "pbe"
    ecutwfc_ry: float = Field(100.0, gt=0)


class Abacus(Program):
    """ABACUS 3: H(R) and S(R) as csr files."""

    name: ClassVar[str] = "abacus"
    Table: ClassVar[type[ProgramTable]] = AbacusTable
    format: ClassVar[str] = "abacus"
    executable: ClassVar[str] = "abacus"
    not_converged: ClassVar[tuple[str, ...]] = ("convergence has NOT been achieved", "NOT CONVERGED")
    rungs: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mixing": {"mixing_beta": 0.1, "mixing_gg0": 1.0, "scf_nmax": 500},
        "smearing": {"smearing_method": "gauss", "smearing_sigma": 0.02},
    }

    def write_input(self, structure: Structure, folder: Path) -> None:
        """INPUT, STRU (Bohr, Cartesian) and KPT (Gamma-centred). Raises BadInput for an element without its two files."""
        t = self.table
        symbols = list(dict.fromkeys(structure.symbols))
        for what, table in (("pseudopotentials", t.pseudopotentials), ("orbitals", t.orbitals)):
            missing = [s for s in symbols if s not in table]
            if missing:
                raise BadInput(f"engine.{what} names no file for {', '.join(missing)}, such as {missing[0]}: file")
        place = str((t.data or Path.cwd()).absolute())
        given: dict[str, Any] = {
            "suffix": "set",
            "calculation": "scf",
            "basis_type": "lcao",
            "ntype": len(symbols),
            "dft_functional": t.xc,
            "ecutwfc": t.ecutwfc_ry,
            "pseudo_dir": place,
            "orbital_dir": place,
            "scf_thr": 1e-8,
            "out_mat_hs2": 1,
            **t.parameters,
        }
        lines = ["INPUT_PARAMETERS", *(f"{k} {_word(k, v)}" for k, v in given.items())]
        (folder / "INPUT").write_text("\n".join(lines) + "\n")
        (folder / "KPT").write_text(f"K_POINTS\n0\nGamma\n{' '.join(map(str, t.kmesh))} 0 0 0\n")
        (folder / "STRU").write_text(_stru(structure, symbols, t.pseudopotentials, t.orbitals))


def _word(key: str, value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    if any(c in f"{key}{text}" for c in "\n\r") or not key.isidentifier():
        raise BadInput(f"engine.parameters: {key[:40]!r} is no key of INPUT with a value in one line")
    return text


def _stru(
    structure: Structure, symbols: list[str], pseudopotentials: Mapping[str, str], orbitals: Mapping[str, str]
) -> str:
    from ase.data import atomic_masses

    lines = ["ATOMIC_SPECIES"]
    lines += [f"{s} {atomic_masses[SYMBOLS.index(s)]:.6f} {pseudopotentials[s]}" for s in symbols]
    lines += [
        "",
        "NUMERICAL_ORBITAL",
        *(orbitals[s] for s in symbols),
        "",
        "LATTICE_CONSTANT",
        "1.0",
        "",
        "LATTICE_VECTORS",
    ]
    lines += [" ".join(f"{x:.15f}" for x in row) for row in structure.cell.tolist()]
    lines += ["", "ATOMIC_POSITIONS", "Cartesian"]
    for s in symbols:
        places = [p for p, name in zip(structure.positions.tolist(), structure.symbols, strict=True) if name == s]
        lines += [s, "0.0", str(len(places)), *(" ".join(f"{x:.15f}" for x in p) + " 1 1 1" for p in places)]
    return "\n".join(lines) + "\n"
