"""What a user says of a ground-state calculation: nested tables, validated, resolved, and written beside every result.

Each table is what one part of the engine is made from (dft/setup.py). H0 and S depend on `basis`, `functional` and `mesh`; a
result on `kpoints` and `electrons` too; `solver` is how one gets there, `outputs` what is computed at the end. Units stand at
the end of a key's name. The flat keys of the first schema (xc, kmesh, mesh_cutoff_ry, basis: dzp, ...) are taken everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    SerializerFunctionWrapHandler,
    StrictBool,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo

from nearsight.atoms.sizes import PRESETS, RULE, Rule, Size
from nearsight.core.configuration import stored
from nearsight.core.errors import BadInput
from nearsight.core.parts import Part, known_kind
from nearsight.core.tables import EarlierKeys, Renamed, Table, Versioned, todays
from nearsight.core.versions import KEY

EARLIER_DEFAULTS = {"size": "dzp", "energy_shift_ry": 0.01, "split_norm": 0.15}  # of schemas 1 and 2
_OF_RULE_1 = 2  # the last schema whose orbitals, where no rule is stated, were made by rule 1
OF_ONE_CELL = "of one cell"  # marks a key that belongs to one structure, and says nothing of another


def _of_one_cell(default: Any, description: str) -> Any:
    return Field(default, description=description, json_schema_extra={OF_ONE_CELL: True})


class BasisTable(Table):
    """Orbitals and pseudopotentials."""

    size: Size = Field(
        "standard",
        description="light, standard or tight (docs/orbitals.md); or zetas of each valence shell, and p for polarisation.",
    )
    energy_shift_ry: float | None = Field(
        None, gt=0, description="Confinement: what it may cost all electrons of a shell; null: the size's own."
    )
    split_norm: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Norm of a first zeta outside the second; null: a fixed share of the radius ends it.",
    )
    rule: Rule = Field(
        RULE,
        description=f"How orbitals are made: {RULE} for light, standard and tight, else 1 unless another is asked for.",
    )
    pseudopotentials: Path | None = Field(
        None, description="Folder of UPF, psp8, PSML or GTH files; null: the installed package."
    )
    species: Path | None = Field(None, description="Folder of <Symbol>.ion.xml, in place of all other keys.")

    @model_validator(mode="after")
    def _rule_of_the_size(self) -> Self:
        """The presets are made by today's rule, all else by the first where none is asked for."""
        if "rule" not in self.model_fields_set and self.size not in PRESETS:
            self.__dict__["rule"] = 1  # a default: not among what was given
        return self

    @model_serializer(mode="wrap")
    def _of_its_source(self, table: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Beside species, the keys that make orbitals are told where they were given only: their defaults say nothing."""
        return {
            k: v for k, v in table(self).items() if self.species is None or k in ("species", *self.model_fields_set)
        }


FunctionalName = Annotated[str, AfterValidator(partial(known_kind, "functionals"))]


class TermPart(Part):
    """A term of the energy beside those of Kohn-Sham theory."""

    group: ClassVar[str] = "terms"


class FunctionalTable(Table):
    """The energy functional, but for what its integrals are done on."""

    xc: FunctionalName = Field("pbe", description="Exchange and correlation: lda, pbe, pbesol, or an entry point's.")
    terms: tuple[TermPart, ...] = Field(
        (), description="Further terms of the energy, each a table with kind and its own keys (docs/extending.md)."
    )
    spin_orbit: Literal["none", "file", "auto"] = Field(
        "none",
        description="Spin-orbit coupling, with spinors. file: by fully relativistic pseudopotentials; auto: where a file is "
        "scalar-relativistic by the splittings of an all-electron Dirac atom.",
    )
    non_collinear: Literal["auto", "variational", "siesta"] = Field(
        "auto",
        description="Gradient corrections where moments turn: potential as the energy's derivative, or with axes held as "
        "SIESTA has it; auto is siesta where all species are from SIESTA's files.",
    )
    electrostatics: Literal["crystal", "sheet"] = Field(
        "crystal",
        description="sheet: no images along the third lattice vector, for sheets and slabs, charged or polar.",
    )


def _positive_mesh(size: tuple[int, int, int] | None) -> tuple[int, int, int] | None:
    if size is not None and min(size) < 1:
        raise ValueError(f"{' '.join(map(str, size))}: every number must be at least 1")
    return size


class MeshTable(Table):
    """The real-space mesh, and how integrals are done on it and between two centres."""

    cutoff_ry: float = Field(300.0, ge=10, description="Cutoff of the real-space mesh.")
    shape: tuple[int, int, int] | None = _of_one_cell(None, "The mesh itself; null takes it from cutoff_ry.")
    band_limited: bool | None = Field(
        None,
        description="Remove from the neutral-atom potential what the mesh cannot hold; null: unless the species are SIESTA's.",
    )
    xc_refinement: int | None = Field(
        None,
        ge=1,
        le=4,
        description="Exchange and correlation on a mesh so many times finer, all over the cell; null: 1.",
    )
    xc_near_nuclei: int | None = Field(
        None,
        ge=1,
        le=4,
        description="The same around nuclei that need it; null: 3, or 1 where xc_refinement is said or species are SIESTA's.",
    )
    two_center: Literal["auto", "exact", "siesta"] = Field(
        "auto",
        description="Quadrature of two-centre integrals; auto is siesta where all species are from SIESTA's files.",
    )

    _positive = field_validator("shape")(staticmethod(_positive_mesh))


class KPointsTable(Table):
    """Points of the Brillouin zone."""

    mesh: tuple[int, int, int] | None = _of_one_cell(
        None, "Gamma-centred k-mesh; null: the smallest with steps below spacing_per_ang, 1 along vacuum."
    )
    spacing_per_ang: float = Field(0.25, gt=0, description="Largest step of a k-mesh that is not given.")
    shift: tuple[float, float, float] = _of_one_cell(
        (0.0, 0.0, 0.0), "Of the k-mesh, in steps (0.5: Monkhorst and Pack's even meshes)."
    )
    symmetry: Literal["time-reversal", "space-group"] = Field(
        "time-reversal", description="What reduces the k-mesh; space-group solves one k-point of each star."
    )

    _positive = field_validator("mesh")(staticmethod(_positive_mesh))


class ConstraintTable(Table):
    """Moments that are held where they begin; a word, such as direction or moment:Fe, is taken too."""

    word: ClassVar[str] = "hold"

    hold: Literal["none", "direction", "moment"] = Field(
        "none", description="What of atoms' moments is held where they begin: the direction, or all of the moment."
    )
    atoms: tuple[StrictBool, ...] | tuple[int, ...] | tuple[str, ...] | None = _of_one_cell(
        None, "Whose: indices from 0, or elements; true or false for each atom; null: of all atoms."
    )

    @model_validator(mode="before")
    @classmethod
    def _of_a_word(cls, given: Any) -> Any:
        """direction:Fe,Cr or moment:0,2, as on the command line."""
        if not isinstance(given, Mapping) or not isinstance(given.get("hold"), str) or ":" not in given["hold"]:
            return given
        hold, whose = given["hold"].split(":", 1)
        if given.get("atoms") is not None:
            raise ValueError(f"the atoms of {given['hold']} are given twice")
        words = [w.strip() for w in whose.split(",")]
        return {"hold": hold, "atoms": [int(w) for w in words] if all(w.isdecimal() for w in words) else words}


class ElectronsTable(Table):
    """How many electrons, their spin, and how levels are filled."""

    charge_e: float = _of_one_cell(
        0.0, "Of the cell, in a uniform background; positive: electrons missing. No correction for images."
    )
    smearing: Literal["fermi-dirac", "gaussian", "methfessel-paxton", "cold"] = Field(
        "fermi-dirac", description="fermi-dirac, gaussian, methfessel-paxton or cold."
    )
    width_ev: float = Field(0.025, gt=0, le=50, description="Width kT of the smearing.")
    spin: Literal["none", "collinear", "non-collinear", "spinor"] = Field(
        "none",
        description="none, collinear, non-collinear (moments as vectors) or spinor (the same, without moments unless given).",
    )
    moments_mu_b: tuple[float, ...] | tuple[tuple[float, float, float], ...] | None = _of_one_cell(
        None,
        "Moment of each atom to begin with, a number or a vector; null: the structure's own, else by Hund's rule, all "
        "parallel, and none for spinor.",
    )
    total_moment_mu_b: float | None = _of_one_cell(None, "Total moment to hold; null: free.")
    constrain: ConstraintTable = ConstraintTable()


class MixingTable(EarlierKeys):
    """Pulay's mixing and its preconditioner."""

    renames: ClassVar[Mapping[str, Renamed]] = {
        "dielectric": Renamed.to("dielectric_ry"),
        "kerker": Renamed.to("kerker_per_ang"),
    }

    weight: float | None = Field(
        None, gt=0, le=1, description="Share of the new; null: 1 with the dielectric preconditioner, 0.4 without."
    )
    history: int = Field(8, ge=1, description="Steps that Pulay's method remembers.")
    dielectric_ry: float | None = Field(
        35.0, gt=0, description="Cutoff of the mesh on which the dielectric operator is applied; null: none."
    )
    kerker_per_ang: float | None = Field(
        None,
        gt=0,
        description="q0 of a Kerker preconditioner on the density, in place of the dielectric one; null: none.",
    )


class DensitySolverPart(Part):
    """What turns a Hamiltonian into a density matrix."""

    group: ClassVar[str] = "solvers"
    kind: str = Field(
        "dense", description="What turns H into a density matrix; further keys are its own (dense: memory, processes)."
    )


class SolverTable(Table):
    """The way to self-consistency: the result does not depend on it."""

    method: Literal["scf", "variational"] = Field(
        "scf", description="scf (mixing) or variational (direct minimisation)."
    )
    tolerance_ev: float = Field(1e-5, gt=0, le=1, description="Largest element of |F - H| at the end.")
    max_iterations: int = Field(100, ge=1, description="Steps after which a run gives up.")
    mixing: MixingTable = MixingTable()
    density: DensitySolverPart = DensitySolverPart()
    start: Path | None = Field(None, description="Calculation folder whose Hamiltonian begins the cycle.")
    device: Literal["cpu", "cuda"] = Field("cpu", description="cpu or cuda.")


class OutputsTable(Table):
    """What is computed of a converged state."""

    forces: bool = Field(False, description="Forces on the atoms.")
    stress: bool = Field(False, description="Stress of the cell.")


class Settings(EarlierKeys, Versioned):
    """The `scf` table: everything that a ground state is computed from, beside the structure."""

    renames: ClassVar[Mapping[str, Renamed]] = {
        "basis": Renamed.to("basis.size"),
        "energy_shift_ry": Renamed.to("basis.energy_shift_ry"),
        "split_norm": Renamed.to("basis.split_norm"),
        "species": Renamed.to("basis.species"),
        "pseudopotentials": Renamed.to("basis.pseudopotentials"),
        "xc": Renamed.to("functional.xc"),
        "sheet": Renamed.to("functional.electrostatics", {False: "crystal", True: "sheet"}),
        "spin_orbit": Renamed.to("functional.spin_orbit", {False: "none", True: "file"}),
        "non_collinear": Renamed.to("functional.non_collinear"),
        "mesh_cutoff_ry": Renamed.to("mesh.cutoff_ry"),
        "mesh": Renamed.to("mesh.shape"),
        "band_limited": Renamed.to("mesh.band_limited"),
        "xc_refinement": Renamed.to("mesh.xc_refinement"),
        "xc_near_nuclei": Renamed.to("mesh.xc_near_nuclei"),
        "two_center": Renamed.to("mesh.two_center"),
        "kmesh": Renamed.to("kpoints.mesh"),
        "kspacing": Renamed.to("kpoints.spacing_per_ang"),
        "kshift": Renamed.to("kpoints.shift"),
        "symmetry": Renamed.to("kpoints.symmetry"),
        "charge": Renamed.to("electrons.charge_e"),
        "smearing": Renamed.to("electrons.smearing"),
        "smearing_ev": Renamed.to("electrons.width_ev"),
        "spin": Renamed.to("electrons.spin"),
        "moments": Renamed.to("electrons.moments_mu_b"),
        "total_moment": Renamed.to("electrons.total_moment_mu_b"),
        "constrain": Renamed.to("electrons.constrain"),
        "method": Renamed.to("solver.method"),
        "tolerance_ev": Renamed.to("solver.tolerance_ev"),
        "max_iterations": Renamed.to("solver.max_iterations"),
        "mixing": Renamed.to("solver.mixing"),
        "start": Renamed.to("solver.start"),
        "device": Renamed.to("solver.device"),
        "forces": Renamed.to("outputs.forces"),
        "stress": Renamed.to("outputs.stress"),
    }

    schema_version: int = 3
    basis: BasisTable = BasisTable()
    functional: FunctionalTable = FunctionalTable()
    mesh: MeshTable = MeshTable()
    kpoints: KPointsTable = KPointsTable()
    electrons: ElectronsTable = ElectronsTable()
    solver: SolverTable = SolverTable()
    outputs: OutputsTable = OutputsTable()

    if TYPE_CHECKING:  # keys of either schema are taken

        def __init__(self, **keys: Any) -> None: ...

    @model_validator(mode="before")
    @classmethod
    def _by_the_rule_of_its_time(cls, given: Any) -> Any:
        """What states a schema of before there were rules has the orbitals of that time: dzp by rule 1 by default."""
        if not isinstance(given, Mapping) or not isinstance(given.get(KEY), int) or given[KEY] > _OF_RULE_1:
            return given
        table = todays(cls, given)
        basis = table.get("basis", {})
        if not isinstance(basis, Mapping) or basis.get("species") is not None:
            return given
        return {**table, "basis": {"size": EARLIER_DEFAULTS["size"], "rule": 1, **basis}}

    @staticmethod
    def stored(table: Mapping[str, Any], what: object) -> Settings:
        """The settings that a file of this or an earlier schema holds; keys that are not known are left out.

        what: the file, for messages.  Raises BadInput for a later schema, or values that are none.
        """
        if not isinstance(table, Mapping):
            raise BadInput(f"{what} does not hold a table of settings: the file is damaged or foreign")
        try:
            table = todays(Settings, table)
        except ValueError as error:
            raise BadInput(f"{what} does not hold what it should: {error}") from error
        basis = table.get("basis")
        if (
            isinstance(basis, Mapping) and basis.get("species") is not None
        ):  # an earlier version told defaults beside it
            defaults = {**BasisTable().model_dump(), **EARLIER_DEFAULTS, "rule": 1}
            table["basis"] = {k: v for k, v in basis.items() if k not in defaults or v != defaults[k]}
        return stored(Settings, {KEY: 1, **table}, what)

    @property
    def given(self) -> dict[str, Any]:
        """The keys that were given, by table: the rest are defaults."""
        return self.model_dump(exclude_unset=True, exclude={KEY})

    @property
    def of_one_cell(self) -> dict[str, Any]:
        """Of the keys that were given, those that belong to one structure, by table: its meshes, charge and moments."""
        return _marked(self, True)

    @property
    def of_all_cells(self) -> dict[str, Any]:
        """Of the keys that were given, those that structures share, by table; those of solver and outputs are left out."""
        return {k: v for k, v in _marked(self, False).items() if k not in ("solver", "outputs")}

    @property
    def of_the_operator(self) -> dict[str, Any]:
        """Of the keys that were given, what H0 and S of any structure depend on: no shape of one cell's mesh is among them."""
        return {k: v for k, v in self.of_all_cells.items() if k in ("basis", "functional", "mesh")}


def differing(a: Settings, b: Settings, tables: Iterable[str]) -> list[tuple[str, Any, Any]]:
    """Settings in which two differ, as (key, of a, of b): of these tables, but for those that belong to one cell."""
    found = []
    for name in tables:
        ours, theirs = getattr(a, name), getattr(b, name)
        for key, entry in type(ours).model_fields.items():
            x, y = getattr(ours, key), getattr(theirs, key)
            if x != y and not _is_of_one_cell(entry):
                found.append((f"{name}.{key}", x, y))
    return found


def _is_of_one_cell(entry: FieldInfo) -> bool:
    return isinstance(entry.json_schema_extra, dict) and OF_ONE_CELL in entry.json_schema_extra


def _marked(table: BaseModel, marked: bool) -> dict[str, Any]:
    """The keys of the inner tables that are marked as of one cell, or those that are not."""
    found: dict[str, Any] = {}
    for name in type(table).model_fields:
        inner = getattr(table, name)
        if isinstance(inner, BaseModel):
            entries = type(inner).model_fields
            keys = inner.model_dump(exclude_unset=True)
            found[name] = {k: v for k, v in keys.items() if _is_of_one_cell(entries[k]) == marked}
    return found


ScfSettings = Settings  # the name of the first release
