"""Names of the first layout: what others import by them goes on working, with a word on the new name."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

#: module of version 0.1 -> where its names are now; what is not listed keeps its last word in a moved room
MOVED = {
    "nearsight.io": "nearsight.formats",
    "nearsight.io.atomic": "nearsight.formats.files",
    "nearsight.io.configuration": "nearsight.core.configuration",
    "nearsight.io.formats": "nearsight.formats.registry",
    "nearsight.solve": "nearsight.electrons",
    "nearsight.solve.occupations": "nearsight.electrons.density_matrix",
    "nearsight.nn": "nearsight.models",
    "nearsight.nn.cluster": "nearsight.models.baseline",
    "nearsight.learn.dataset": "nearsight.learn.data",
    "nearsight.learn.judges": "nearsight.learn.losses",
    "nearsight.learn.statistics": "nearsight.models.statistics",
    "nearsight.workflows": "nearsight.tasks",
    "nearsight.atoms.gth": "nearsight.formats.gth",
    "nearsight.atoms.ion_xml": "nearsight.formats.ion_xml",
    "nearsight.atoms.pseudopotential": "nearsight.formats.pseudopotential",
    "nearsight.atoms.psml": "nearsight.formats.psml",
    "nearsight.atoms.psp8": "nearsight.formats.psp8",
    "nearsight.atoms.radial_xc": "nearsight.xc.radial",
    "nearsight.atoms.valence": "nearsight.formats.valence",
    "nearsight.dft.band_limited": "nearsight.integrals.band_limited",
    "nearsight.dft.grid": "nearsight.integrals.grid",
    "nearsight.dft.ions": "nearsight.integrals.ions",
    "nearsight.dft.mesh": "nearsight.integrals.mesh",
    "nearsight.dft.splines": "nearsight.integrals.splines",
    "nearsight.dft.two_center": "nearsight.integrals.two_center",
    "nearsight.dft.window": "nearsight.integrals.window",
    "nearsight.dft.xc": "nearsight.xc.functionals",
    "nearsight.dft.xc_spin": "nearsight.xc.functionals",
    "nearsight.plot": "nearsight.report.plot",
    "nearsight.console": "nearsight.cli.console",
}

_ERROR = {"nearsight.core.errors": "NearsightError"}
_SETTINGS = {"nearsight.dft.settings": "ScfSettings"}
_FOLDERS = {"nearsight.formats.deeph": "read_folder write_folder"}
_FILES = {"nearsight.formats.files": "whole_file read_json write_json"}
_PARTS = {"nearsight.electrons.smearing": "SMEARINGS"}

#: module of today -> where the names are that one of its places in the first layout gave too; `new=old` for another name
NAMES: dict[str, dict[str, str]] = {
    "nearsight.atoms.library": {
        **_ERROR,
        "nearsight.formats.gth": "read_gth",
        "nearsight.formats.psml": "read_psml",
        "nearsight.formats.psp8": "read_psp8",
        "nearsight.formats.upf": "read_upf",
    },
    "nearsight.atoms.neutral_atom": _ERROR,
    "nearsight.atoms.orbitals": _ERROR,
    "nearsight.atoms.radial": _ERROR,
    "nearsight.calculator": {
        **_ERROR,
        **_SETTINGS,
        **_PARTS,
        "nearsight.dft.ground_state": "ground_state",
        "nearsight.dft.moments": "initial_moments",
        "nearsight.dft.setup": "chosen_kpoints functional_for method_for",
    },
    "nearsight.cli": {
        **_ERROR,
        "nearsight.cli.commands": "Json bands check compare demo density predict root train",
        "nearsight.cli.dataset": "dataset_app build=dataset_build",
        "nearsight.cli.console": "Bars figure print_json progress_bars spinner",
        "nearsight.cli.settings": "Set",
    },
    "nearsight.core.basis": _ERROR,
    "nearsight.core.blocks": _ERROR,
    "nearsight.core.configuration": _ERROR,
    "nearsight.core.structure": {"nearsight.core.pairs": "Pairs neighbours"},
    "nearsight.dft.dielectric": {"nearsight.dft.problem": "SCFState=Trial"},
    "nearsight.dft.forces": {
        "nearsight.dft.functional": "EnergyFunctional",
        "nearsight.integrals.mesh": "Mesh",
        "nearsight.integrals.splines": "UniformSplines",
    },
    "nearsight.dft.functional": {
        **_ERROR,
        "nearsight.dft.terms.exchange_correlation": "ExchangeCorrelation",
        "nearsight.dft.terms.hartree": "Hartree",
        "nearsight.dft.terms.ions": "Ions",
        "nearsight.dft.terms.neutral_atom": "NeutralAtom",
        "nearsight.dft.terms.one_body": "Kinetic NonLocal",
    },
    "nearsight.dft.ground_state": {**_ERROR, "nearsight.dft.problem": "SCFState=Trial"},
    "nearsight.dft.minimisation": {"nearsight.dft.problem": "SCFState=Trial"},
    "nearsight.dft.problem": {
        "nearsight.dft.problem": "SCFState=Trial",
        "nearsight.electrons.eigen": "factorise",
    },
    "nearsight.dft.run": {
        **_ERROR,
        **_SETTINGS,
        **_FOLDERS,
        **_PARTS,
        "nearsight.atoms.orbitals": "BasisSettings generate_species",
        "nearsight.core.structure": "SYMBOLS",
        "nearsight.core.units": "BOHR_ANG HARTREE_EV",
        "nearsight.dft.dielectric": "Dielectric",
        "nearsight.dft.forces": "forces_and_stress",
        "nearsight.dft.ground_state": "ground_state",
        "nearsight.dft.minimisation": "DirectMinimisation",
        "nearsight.dft.mixing": "Kerker Pulay",
        "nearsight.dft.problem": "SCFState=Trial",
        "nearsight.dft.scf": "SCF",
        "nearsight.dft.moments": "initial_moments",
        "nearsight.dft.setup": "chosen_kmesh chosen_kpoints functional_for initial_hamiltonian load_species method_for "
        "quadrature_for resolved",
        "nearsight.electrons.kpoints": "KPoints",
        "nearsight.electrons.symmetry": "SpaceGroup reduced_mesh",
        "nearsight.formats.ion_xml": "read_ion_xml",
        "nearsight.integrals.mesh": "mesh_shape",
        "nearsight.integrals.two_center": "EXACT SIESTA Quadrature",
    },
    "nearsight.dft.scf": {"nearsight.dft.problem": "SCFState=Trial"},
    "nearsight.dft.settings": {"nearsight.dft.settings": "MixingTable=MixingSettings"},
    "nearsight.dft.terms": {"nearsight.core.blocks": "BlockMatrix", "nearsight.integrals.mesh": "Mesh"},
    "nearsight.dft.trace": {"nearsight.dft.problem": "SCFState=Trial"},
    "nearsight.electrons.density_matrix": {"nearsight.electrons.levels": "fermi_level"},
    "nearsight.electrons.kpoints": _ERROR,
    "nearsight.electrons.symmetry": _ERROR,
    "nearsight.formats.deeph": {
        **_ERROR,
        **_FILES,
        "nearsight.core.pairs": "Pairs",
        "nearsight.core.spin": "Spin",
        "nearsight.formats.registry": "list_folders",
        "nearsight.moved": "is_folder",
    },
    "nearsight.formats.gth": _ERROR,
    "nearsight.formats.ion_xml": _ERROR,
    "nearsight.formats.pseudopotential": {"nearsight.formats.upf": "RYDBERG read_upf"},
    "nearsight.formats.psml": _ERROR,
    "nearsight.formats.psp8": _ERROR,
    "nearsight.formats.structures": {**_ERROR, "nearsight.core.structure": "SYMBOLS Structure.to_ase=to_ase"},
    "nearsight.formats.valence": _ERROR,
    "nearsight.formats.volumetric": _ERROR,
    "nearsight.integrals.grid": {
        "nearsight.integrals.boxes": "box_edge",
        "nearsight.integrals.splines": "UniformSplines",
    },
    "nearsight.integrals.mesh": {
        **_ERROR,
        "nearsight.core.species": "RadialFunction",
        "nearsight.core.structure": "Structure",
        "nearsight.integrals.splines": "UniformSplines",
    },
    "nearsight.integrals.two_center": {"nearsight.integrals.projections": "nonlocal_potential"},
    "nearsight.learn.assembly": {**_SETTINGS, "nearsight.models.edges": "mean_neighbours"},
    "nearsight.learn.config": {"nearsight.models.deeph2": "PRESETS"},
    "nearsight.learn.data": {
        **_FOLDERS,
        "nearsight.learn.packing": "in_order shuffled",
        "nearsight.learn.samples": "Sample SampleStore",
        "nearsight.models.deeph2": "DeepH2",
    },
    "nearsight.learn.energy": {
        **_ERROR,
        **_SETTINGS,
        **_PARTS,
        "nearsight.core.units": "HARTREE_EV",
        "nearsight.dft.problem": "SCFState=Trial",
        "nearsight.dft.setup": "chosen_kpoints functional_for resolved",
    },
    "nearsight.learn.gauss_newton": {**_ERROR, "nearsight.models.deeph2": "DeepH2"},
    "nearsight.learn.model": {
        **_ERROR,
        **_SETTINGS,
        **_FOLDERS,
        **_FILES,
        "nearsight.learn.model_files": "FORMAT",
        "nearsight.moved": "is_folder",
        "nearsight.models.deeph2": "DeepH2",
    },
    "nearsight.learn.newton": {
        **_ERROR,
        "nearsight.models.deeph2": "DeepH2",
        "nearsight.dft.problem": "SCFState=Trial",
    },
    "nearsight.learn.reference": {**_ERROR, **_SETTINGS, **_FILES},
    "nearsight.learn.structures": {
        **_SETTINGS,
        **_FOLDERS,
        "nearsight.core.configuration": "validated",
        "nearsight.moved": "is_folder",
    },
    "nearsight.learn.train": {
        **_FILES,
        "nearsight.core.configuration": "override",
        "nearsight.learn.config": "TrainerConfig",
        "nearsight.learn.packing": "shuffled",
        "nearsight.learn.trainer": "GOOD_EVERY PATIENCE RECENT UNBOUNDED",
        "nearsight.models.deeph2": "DeepH2",
    },
    "nearsight.models.deeph2": {
        "nearsight.core.basis": "Basis",
        "nearsight.core.blocks": "BlockMatrix",
        "nearsight.core.pairs": "Pairs",
    },
    "nearsight.models.graph": {"nearsight.core.pairs": "Pairs"},
    "nearsight.models.layers": _ERROR,
    "nearsight.models.readout": {**_ERROR, "nearsight.core.structure": "SYMBOLS"},
    "nearsight.models.statistics": {"nearsight.models.edges": "mean_neighbours"},
    "nearsight.properties.compare": _ERROR,
    "nearsight.properties.density": {
        **_ERROR,
        **_SETTINGS,
        **_FOLDERS,
        "nearsight.core.configuration": "validated",
        "nearsight.dft.setup": "load_species",
    },
    "nearsight.properties.spectra": {
        "nearsight.core.units": "BOHR_ANG",
        "nearsight.electrons.eigen": "eigenvalues",
        "nearsight.electrons.kpoints": "mesh",
        "nearsight.electrons.levels": "fermi_level",
        "nearsight.moved": "bands_of",
    },
    "nearsight.report.plot": {**_ERROR, "nearsight.core.units": "HARTREE_EV"},
    "nearsight.tasks.dataset": {**_ERROR, **_SETTINGS, "nearsight.core.configuration": "override validated"},
    "nearsight.tasks.demo": {**_ERROR, **_SETTINGS, **_FOLDERS},
    "nearsight.tasks.ground_states": {**_ERROR, **_SETTINGS},
    "nearsight.tasks.ledger": {"nearsight.formats.files": "locked"},
    "nearsight.tasks.modes": {**_ERROR, **_SETTINGS, "nearsight.core.structure": "Structure.to_ase=to_ase"},
}


def new_name(old: str) -> str | None:
    """Where a module of the first layout is now; None for one that never moved."""
    if old in MOVED:
        return MOVED[old]
    room, _, name = old.rpartition(".")
    return f"{MOVED[room]}.{name}" if room in MOVED else None


def old_name(module: str, name: str) -> Any:
    """What a name of the first layout stands for, in the module (by its name of today) that gave it then.

    Raises AttributeError for one that it never gave, or that has no equal any more.
    """
    for home, words in NAMES[module].items():
        for new, _, old in (word.partition("=") for word in words.split()):
            if name == (old or new):
                found: Any = import_module(home)
                for part in new.split("."):
                    found = getattr(found, part)
                warnings.warn(f"{module}.{name} is {home}.{new} now", DeprecationWarning, stacklevel=3)
                return found
    raise AttributeError(f"module {module!r} has no attribute {name!r}")


class _WithOldNames(SourceFileLoader):
    """Loads a module that answers for the names it had in the first layout, too."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        if "__getattr__" not in vars(module):
            vars(module)["__getattr__"] = partial(old_name, module.__name__)


class _Moved(MetaPathFinder, Loader):
    """Finds a module by its old name and gives the one that it has become, not a copy."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith("nearsight."):
            return None
        if NAMES.get(fullname):
            spec = PathFinder.find_spec(fullname, path, target)
            if spec is not None and type(spec.loader) is SourceFileLoader:
                spec.loader = _WithOldNames(fullname, spec.loader.path)
            return spec
        if new_name(fullname) is None:
            return None
        return ModuleSpec(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        new = new_name(module.__name__)
        assert new is not None
        sys.modules[module.__name__] = import_module(new)
        warnings.warn(f"{module.__name__} has moved to {new}", DeprecationWarning, stacklevel=2)


class _Package(ModuleType):
    """The package, whose public names an old room of the same name does not hide: `solve` stays the function."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, ModuleType) and name in MOVED_ROOMS and name in self.__all__):
            super().__setattr__(name, value)


MOVED_ROOMS = frozenset(old.split(".")[1] for old in MOVED if old.count(".") == 1)


def install() -> None:
    """Answer for the old names from now on in this process."""
    sys.modules["nearsight"].__class__ = _Package
    if not any(isinstance(f, _Moved) for f in sys.meta_path):
        sys.meta_path.insert(0, _Moved())


def is_folder(path: Any) -> bool:
    """Whether a path looks like a calculation folder."""
    return bool(import_module("nearsight.formats.outputs").kind_of(path) == "calculation")


def bands_of(calculation: Any, points: int | None = None, labels: str | None = None) -> Any:
    """Bands of a calculation along its standard path, or between the corners that `labels` names."""
    return import_module("nearsight.properties.spectra").bands(calculation, path=labels, points=points)
