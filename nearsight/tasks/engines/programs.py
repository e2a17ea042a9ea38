"""Engines that start another program: SIESTA and OpenMX, whose input ASE writes; their output is read by the formats."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from nearsight.core.errors import BadInput, NotConverged, Unavailable
from nearsight.core.structure import Structure
from nearsight.core.tables import PATH
from nearsight.formats import registry
from nearsight.formats.files import whole_folder
from nearsight.tasks.engines.contract import Engine, EngineTable, denser

_TAIL = 2000  # bytes of what a program printed that are looked at for its last words


class ProgramTable(EngineTable):
    """command: that starts the program in the folder of its input, such as `mpirun -n 4 siesta`; its output is caught.

    data: folder of the program's pseudopotentials (and orbitals).  parameters: of the program, by its own names (of ASE's
    calculator where it writes the input).  kmesh: Gamma-centred.
    """

    command: str = ""
    data: Path | None = Field(None, json_schema_extra={PATH: True})
    parameters: dict[str, Any] = Field({})
    kmesh: tuple[int, int, int] = (1, 1, 1)


class Program(Engine):
    """One run in a folder of its own, `run/` beside the calculation.

    format: by which the output is read.  executable: the program, where no command says another.  not_converged: words by
    which it says so.  rungs: the parameters that a word of the ladder sets.
    """

    Table: ClassVar[type[EngineTable]] = ProgramTable
    format: ClassVar[str]
    executable: ClassVar[str]
    not_converged: ClassVar[tuple[str, ...]] = ()
    ladder: ClassVar[tuple[str, ...]] = ("mixing",)
    rungs: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @abstractmethod
    def write_input(self, structure: Structure, folder: Path) -> None:
        """Everything that the program reads. Raises BadInput for settings that make no input."""

    def arguments(self) -> list[str]:
        """Of the program."""
        return []

    def input(self) -> str | None:
        """The file that is its standard input, if any."""
        return None

    def rung(self, word: str) -> Mapping[str, Any]:
        """See Engine: parameters by `rungs`; kmesh: half as many points again."""
        if word in self.rungs:
            return {"parameters": self.rungs[word]}
        return {"kmesh": denser(self.table.kmesh)} if word == "kmesh" else super().rung(word)

    @property
    def command(self) -> list[str]:
        """The program with all that stands before it."""
        return shlex.split(self.table.command) or [self.executable]

    def check(self, structures: Sequence[Structure]) -> None:
        """Raises Unavailable where the program, or the folder of its data, is not there."""
        try:
            program = self.command[0]
        except ValueError as error:
            raise BadInput(f"engine.command: {error}") from error
        if shutil.which(program) is None:
            raise Unavailable(
                f"the engine {self.name} needs the program {program}, which is not there: install it, or give "
                f"engine.command, such as 'mpirun -n 4 /path/to/{self.executable}'"
            )
        if self.table.data is not None and not self.table.data.is_dir():
            raise BadInput(f"engine.data: no such folder: {self.table.data}")

    def compute(self, structure: Structure, folder: Path) -> None:
        """See Engine."""
        place = folder.parent / f"{folder.name}.run"
        shutil.rmtree(place, ignore_errors=True)
        with whole_folder(place) as part:
            self.write_input(structure, part)
        printed = self._start(place)
        if any(words in printed for words in self.not_converged):
            raise NotConverged(f"{self.executable} did not converge; its files are in {place}")
        found = registry.read(place, self.format)
        if found.converged is False:
            raise NotConverged(f"{self.executable} did not converge; its files are in {place}")
        if found.hamiltonian is None:
            raise BadInput(f"{self.executable} wrote no Hamiltonian in {place}: its parameters must ask for it")
        settings = {"parameters": dict(self.table.parameters), **found.settings}
        registry.write(folder, replace(found, settings=settings, converged=True), "deeph")
        shutil.rmtree(place, ignore_errors=True)

    def _start(self, place: Path) -> str:
        """Run it to its end. Returns the end of what it printed; raises BadInput, with its last words, where it failed."""
        given = self.input()
        log = place / f"{self.executable}.out"
        threads = {k: os.environ.get(k, "1") for k in ("OMP_NUM_THREADS",)}
        with log.open("wb") as out, open(place / given if given else os.devnull, "rb") as stdin:
            try:
                done = subprocess.run(
                    [*self.command, *self.arguments()],
                    cwd=place,
                    stdin=stdin,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **threads},
                    check=False,
                )
            except OSError as error:
                raise Unavailable(f"{self.command[0]} cannot be started: {error.strerror or error}") from error
        text = log.read_bytes().decode("utf-8", "replace")
        if done.returncode:
            words = " ".join(text[-_TAIL:].split())[-200:]
            kind = NotConverged if any(w in text for w in self.not_converged) else BadInput
            raise kind(f"{self.executable} ended with status {done.returncode}: {words or 'it printed nothing'}")
        return text


class SiestaTable(ProgramTable):
    """xc, basis_set, mesh_cutoff_ry: of ASE's calculator; parameters: further keys of the fdf file."""

    kind: Literal["siesta"] = "siesta"
    xc: str = "PBE"
    basis_set: str = "DZP"
    mesh_cutoff_ry: float = Field(200.0, gt=0)


class Siesta(Program):
    """SIESTA 4 or 5: its HSX file is read."""

    name: ClassVar[str] = "siesta"
    Table: ClassVar[type[EngineTable]] = SiestaTable
    format: ClassVar[str] = "siesta"
    executable: ClassVar[str] = "siesta"
    not_converged: ClassVar[tuple[str, ...]] = ("SCF_NOT_CONV", "SCF did not converge", "SCF cycle did not converge")
    rungs: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mixing": {"SCF.Mixer.Weight": 0.05, "SCF.Mixer.History": 8, "Max.SCF.Iterations": 500},
        "smearing": {"ElectronicTemperature": "600 K"},
    }

    def input(self) -> str | None:
        """See Program."""
        return "siesta.fdf"

    def write_input(self, structure: Structure, folder: Path) -> None:
        """See Program."""
        from ase.calculators.siesta import Siesta as Writer
        from ase.units import Ry

        t = self.table
        arguments = {"SaveHS": True, "XML.Write": True, **t.parameters}
        _written(
            self,
            lambda: Writer(
                label="siesta",
                directory=str(folder),
                command=self.executable,
                xc=t.xc,
                basis_set=t.basis_set,
                mesh_cutoff=t.mesh_cutoff_ry * Ry,
                kpts=list(t.kmesh),
                pseudo_path=str((t.data or folder).absolute()),
                fdf_arguments=arguments,
                symlink_pseudos=False,
            ).write_input(structure.to_ase(), ["energy"], None),
        )


class OpenMXTable(ProgramTable):
    """xc, energy_cutoff_ry: of ASE's calculator; parameters: its further keywords, and those of OpenMX."""

    kind: Literal["openmx"] = "openmx"
    xc: str = "PBE"
    energy_cutoff_ry: float = Field(150.0, gt=0)


class OpenMX(Program):
    """OpenMX 3.8 or 3.9: its .scfout is read."""

    name: ClassVar[str] = "openmx"
    Table: ClassVar[type[EngineTable]] = OpenMXTable
    format: ClassVar[str] = "openmx"
    executable: ClassVar[str] = "openmx"
    not_converged: ClassVar[tuple[str, ...]] = ("The SCF was not achieved",)
    rungs: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mixing": {"scf_init_mixing_weight": 0.02, "scf_mixing_history": 20, "scf_maxiter": 500},
        "smearing": {"scf_electronic_temperature": 600},
    }

    def check(self, structures: Sequence[Structure]) -> None:
        """See Program; ASE reads the valence of every species in OpenMX's own folder of data."""
        super().check(structures)
        if self.table.data is None or "DFT_DATA" not in self.table.data.name:
            raise BadInput("engine.data: name OpenMX's folder of data, such as /path/to/DFT_DATA19")

    def arguments(self) -> list[str]:
        """See Program."""
        return ["openmx.dat"]

    def write_input(self, structure: Structure, folder: Path) -> None:
        """See Program."""
        from ase.calculators.openmx import OpenMX as Writer
        from ase.units import Ry

        t = self.table

        def write() -> None:
            writer = Writer(
                label=str(folder / "openmx"),
                command=self.executable,
                xc=t.xc,
                energy_cutoff=t.energy_cutoff_ry * Ry,
                kpts=t.kmesh,
                data_path=str((t.data or folder).absolute()),
                **{"hs_fileout": True, "system_currentdirectory": "./", **t.parameters},
            )
            writer.write_input(structure.to_ase())

        _written(self, write)


def _written(engine: Program, write: Any) -> None:
    """Whatever ASE says of settings that make no input, in one line."""
    try:
        write()
    except Exception as error:  # of every kind: KeyError, AssertionError, ASE's own
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise BadInput(
            f"ASE cannot write the input of {engine.executable}: {said} (engine.parameters, engine.data)"
        ) from error
