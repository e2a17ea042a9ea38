"""Names of the first layout: what others import by them goes on working, with a word on the new name."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

#: module of version 0.1 -> where its names are now; what is not listed keeps its last word in a moved room
MOVED = {
    "nearsight.io": "nearsight.formats",
    "nearsight.io.atomic": "nearsight.formats.files",
    "nearsight.io.configuration": "nearsight.core.configuration",
    "nearsight.io.formats": "nearsight.formats.registry",
    "nearsight.solve": "nearsight.electrons",
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


def new_name(old: str) -> str | None:
    """Where a module of the first layout is now; None for one that never moved."""
    if old in MOVED:
        return MOVED[old]
    room, _, name = old.rpartition(".")
    return f"{MOVED[room]}.{name}" if room in MOVED else None


class _Moved(MetaPathFinder, Loader):
    """Finds a module by its old name and gives the one that it has become, not a copy."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith("nearsight.") or new_name(fullname) is None:
            return None
        return ModuleSpec(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        new = new_name(module.__name__)
        assert new is not None
        sys.modules[module.__name__] = import_module(new)
        warnings.warn(f"{module.__name__} has moved to {new}", DeprecationWarning, stacklevel=2)


def install() -> None:
    """Answer for the old names from now on in this process."""
    if not any(isinstance(f, _Moved) for f in sys.meta_path):
        sys.meta_path.insert(0, _Moved())
