"""Nearsight: electronic structure from local atomic orbitals, by density functional theory or an equivariant network.

The public names load on first use, so that `import nearsight` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from nearsight.moved import install as _answer_for_old_names

_answer_for_old_names()

__version__ = "0.1.0"

_HOME = {
    "NearsightError": "nearsight.core.errors",
    "Structure": "nearsight.core.structure",
    "Pairs": "nearsight.core.structure",
    "supercell": "nearsight.core.structure",
    "Species": "nearsight.core.species",
    "Basis": "nearsight.core.basis",
    "BlockMatrix": "nearsight.core.blocks",
    "Calculation": "nearsight.core.calculation",
    "read": "nearsight.formats.registry",
    "write": "nearsight.formats.registry",
    "read_structure": "nearsight.formats.registry",
    "generate_species": "nearsight.atoms.orbitals",
    "read_ion_xml": "nearsight.formats.ion_xml",
    "write_ion_xml": "nearsight.formats.ion_xml",
    "ScfSettings": "nearsight.dft.settings",
    "Settings": "nearsight.dft.settings",
    "run_scf": "nearsight.dft.run",
    "functional_for": "nearsight.dft.setup",
    "EnergyFunctional": "nearsight.dft.functional",
    "SCF": "nearsight.dft.scf",
    "DirectMinimisation": "nearsight.dft.minimisation",
    "ground_state": "nearsight.dft.ground_state",
    "forces_and_stress": "nearsight.dft.forces",
    "Nearsight": "nearsight.calculator",
    "train": "nearsight.learn.train",
    "TrainedModel": "nearsight.learn.model",
    "predict": "nearsight.learn.model",
    "band_path": "nearsight.electrons.kpoints",
    "bands": "nearsight.properties.spectra",
    "write_density": "nearsight.properties.density",
    "write_orbital": "nearsight.properties.density",
    "compare": "nearsight.properties.compare",
    "check": "nearsight.properties.check",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'nearsight' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
