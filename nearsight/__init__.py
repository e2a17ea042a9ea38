"""Nearsight: electronic structure from local atomic orbitals, by density functional theory or an equivariant network.

The public names load on first use, so that `import nearsight` is quick.

    import nearsight as ns
    structure = ns.read_structure("graphene.cif")              # or ns.Structure.from_ase(atoms)
    state = ns.ground_state(structure, xc="pbe", kmesh=(12, 12, 1))
    ns.forces(state), ns.stress(state), ns.bands(state)
    calculation = ns.read("out")                               # any program's, whose format is known
    model = ns.load_model("model"); ns.predict(model, structure, "predicted")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nearsight.moved import install as _answer_for_old_names

if TYPE_CHECKING:  # for type checkers and editors, which see what __getattr__ gives below
    from nearsight.atoms.orbitals import generate_species as generate_species
    from nearsight.calculator import Nearsight as Nearsight
    from nearsight.core.basis import Basis as Basis
    from nearsight.core.blocks import BlockMatrix as BlockMatrix
    from nearsight.core.calculation import Calculation as Calculation
    from nearsight.core.errors import BadInput as BadInput
    from nearsight.core.errors import MissingData as MissingData
    from nearsight.core.errors import NearsightError as NearsightError
    from nearsight.core.errors import NotConverged as NotConverged
    from nearsight.core.errors import Unavailable as Unavailable
    from nearsight.core.pairs import Pairs as Pairs
    from nearsight.core.species import Species as Species
    from nearsight.core.structure import Structure as Structure
    from nearsight.core.structure import supercell as supercell
    from nearsight.dft.forces import forces_and_stress as forces_and_stress
    from nearsight.dft.functional import EnergyFunctional as EnergyFunctional
    from nearsight.dft.ground_state import GroundState as GroundState
    from nearsight.dft.ground_state import ground_state as solve  # noqa: F401
    from nearsight.dft.minimisation import DirectMinimisation as DirectMinimisation
    from nearsight.dft.overlap import overlap as overlap
    from nearsight.dft.run import run_scf as run_scf
    from nearsight.dft.scf import SCF as SCF
    from nearsight.dft.settings import ScfSettings as ScfSettings
    from nearsight.dft.settings import Settings as Settings
    from nearsight.dft.setup import functional_for as functional_for
    from nearsight.electrons.kpoints import band_path as band_path
    from nearsight.formats.format import Format as Format
    from nearsight.formats.ion_xml import read_ion_xml as read_ion_xml
    from nearsight.formats.ion_xml import write_ion_xml as write_ion_xml
    from nearsight.formats.pseudopotential_files import read_pseudopotential as read_pseudopotential
    from nearsight.formats.pyscf import from_pyscf as from_pyscf
    from nearsight.formats.registry import list_folders as list_folders
    from nearsight.formats.registry import read as read
    from nearsight.formats.registry import read_structure as read_structure
    from nearsight.formats.registry import write as write
    from nearsight.formats.structures import read_frames as read_frames
    from nearsight.formats.tight_binding import to_kwant as to_kwant
    from nearsight.formats.tight_binding import to_pythtb as to_pythtb
    from nearsight.formats.tight_binding import to_sisl as to_sisl
    from nearsight.formats.tight_binding import to_tbmodels as to_tbmodels
    from nearsight.generators.contract import generate as generate
    from nearsight.learn.model import TrainedModel as TrainedModel
    from nearsight.learn.model import load_model as load_model
    from nearsight.learn.model import predict as predict
    from nearsight.learn.train import train as train
    from nearsight.motion.dynamics import Motion as Motion
    from nearsight.motion.dynamics import run_dynamics as run_dynamics
    from nearsight.motion.relaxation import Relaxation as Relaxation
    from nearsight.motion.relaxation import relax as relax
    from nearsight.motion.run import Mover as Mover
    from nearsight.properties.charges import charges as charges
    from nearsight.properties.check import check as check
    from nearsight.properties.compare import compare as compare
    from nearsight.properties.density import write_density as write_density
    from nearsight.properties.density import write_orbital as write_orbital
    from nearsight.properties.dos import dos as dos
    from nearsight.properties.gap import gap as gap
    from nearsight.properties.spectra import bands as bands
    from nearsight.tasks.convert import convert as convert
    from nearsight.tasks.ground_state import forces as forces
    from nearsight.tasks.ground_state import ground_state as ground_state
    from nearsight.tasks.ground_state import stress as stress

_answer_for_old_names()

__version__ = "0.1.0"

#: public name -> the module that it is in, with its name there where that is another one
_HOME = {
    "generate_species": "nearsight.atoms.orbitals",
    "Nearsight": "nearsight.calculator",
    "Basis": "nearsight.core.basis",
    "BlockMatrix": "nearsight.core.blocks",
    "Calculation": "nearsight.core.calculation",
    "NearsightError": "nearsight.core.errors",
    "BadInput": "nearsight.core.errors",
    "MissingData": "nearsight.core.errors",
    "NotConverged": "nearsight.core.errors",
    "Unavailable": "nearsight.core.errors",
    "Pairs": "nearsight.core.pairs",
    "Species": "nearsight.core.species",
    "Structure": "nearsight.core.structure",
    "supercell": "nearsight.core.structure",
    "forces_and_stress": "nearsight.dft.forces",
    "EnergyFunctional": "nearsight.dft.functional",
    "GroundState": "nearsight.dft.ground_state",
    "solve": "nearsight.dft.ground_state:ground_state",
    "DirectMinimisation": "nearsight.dft.minimisation",
    "overlap": "nearsight.dft.overlap",
    "run_scf": "nearsight.dft.run",
    "SCF": "nearsight.dft.scf",
    "ScfSettings": "nearsight.dft.settings",
    "Settings": "nearsight.dft.settings",
    "functional_for": "nearsight.dft.setup",
    "band_path": "nearsight.electrons.kpoints",
    "Format": "nearsight.formats.format",
    "read_ion_xml": "nearsight.formats.ion_xml",
    "write_ion_xml": "nearsight.formats.ion_xml",
    "read_pseudopotential": "nearsight.formats.pseudopotential_files",
    "from_pyscf": "nearsight.formats.pyscf",
    "to_kwant": "nearsight.formats.tight_binding",
    "to_pythtb": "nearsight.formats.tight_binding",
    "to_sisl": "nearsight.formats.tight_binding",
    "to_tbmodels": "nearsight.formats.tight_binding",
    "convert": "nearsight.tasks.convert",
    "read": "nearsight.formats.registry",
    "write": "nearsight.formats.registry",
    "read_structure": "nearsight.formats.registry",
    "list_folders": "nearsight.formats.registry",
    "read_frames": "nearsight.formats.structures",
    "generate": "nearsight.generators.contract",
    "Motion": "nearsight.motion.dynamics",
    "run_dynamics": "nearsight.motion.dynamics",
    "Relaxation": "nearsight.motion.relaxation",
    "relax": "nearsight.motion.relaxation",
    "Mover": "nearsight.motion.run",
    "TrainedModel": "nearsight.learn.model",
    "load_model": "nearsight.learn.model",
    "predict": "nearsight.learn.model",
    "train": "nearsight.learn.train",
    "charges": "nearsight.properties.charges",
    "check": "nearsight.properties.check",
    "compare": "nearsight.properties.compare",
    "write_density": "nearsight.properties.density",
    "write_orbital": "nearsight.properties.density",
    "dos": "nearsight.properties.dos",
    "gap": "nearsight.properties.gap",
    "bands": "nearsight.properties.spectra",
    "ground_state": "nearsight.tasks.ground_state",
    "forces": "nearsight.tasks.ground_state",
    "stress": "nearsight.tasks.ground_state",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        module, _, inside = _HOME[name].partition(":")
        return getattr(import_module(module), inside or name)
    if not name.startswith("_") and name in import_module("nearsight.core.registry").kinds("properties"):
        return import_module("nearsight.properties.contract").property_named(name)
    raise AttributeError(f"module 'nearsight' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
