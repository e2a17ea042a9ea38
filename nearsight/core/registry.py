"""One way to find a part by its name: our own, and those that other distributions register as entry points.

A third party writes into its pyproject.toml, for example,

    [project.entry-points."nearsight.formats"]
    toy = "toy_package.toy:ToyFormat"

and `kind: toy` is known wherever a kind of that group is asked for (docs/extending.md).
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from nearsight.core.configuration import near_miss
from nearsight.core.errors import BadInput, Unavailable

#: group -> kind -> "module:name". Modules load when a kind is asked for.
BUILT_IN: dict[str, dict[str, str]] = {
    "models": {
        "deeph": "nearsight.models.deeph:DeepH",
        "deeph2": "nearsight.models.deeph2:DeepH2",
        "xdeeph": "nearsight.models.xdeeph:XDeepH",
        "deeph2-density": "nearsight.models.density:DeepH2Density",
        "xdeeph-energy": "nearsight.models.energy:XDeepHEnergy",
        "deeph_e3": "nearsight.models.deeph_e3:DeepHE3",
    },
    "terms": {
        "ions": "nearsight.dft.terms.ions:Ions",
        "kinetic": "nearsight.dft.terms.one_body:Kinetic",
        "nonlocal": "nearsight.dft.terms.one_body:NonLocal",
        "neutral_atom": "nearsight.dft.terms.neutral_atom:NeutralAtom",
        "hartree": "nearsight.dft.terms.hartree:Hartree",
        "exchange_correlation": "nearsight.dft.terms.exchange_correlation:ExchangeCorrelation",
        "moment-field": "nearsight.dft.terms.moment_field:MomentField",
    },
    "formats": {
        "deeph": "nearsight.formats.deeph:DeepH",
        "deeph-old": "nearsight.formats.deeph_old:OldDeepH",
        "openmx": "nearsight.formats.openmx:OpenMX",
        "siesta": "nearsight.formats.siesta:Siesta",
        "abacus": "nearsight.formats.abacus:Abacus",
        "aims": "nearsight.formats.aims:Aims",
        "pyscf": "nearsight.formats.pyscf:PySCF",
        "deeptb": "nearsight.formats.deeptb:DeePTB",
        "wannier90": "nearsight.formats.wannier90:Wannier90",
        "sisl": "nearsight.formats.tight_binding:Sisl",
        "tbmodels": "nearsight.formats.tight_binding:TBmodels",
    },
    "pseudopotentials": {
        "upf": "nearsight.formats.upf:UPF",
        "psml": "nearsight.formats.psml:PSML",
        "gth": "nearsight.formats.gth:GTH",
        "psp8": "nearsight.formats.psp8:PSP8",
    },
    "bases": {
        "ion.xml": "nearsight.formats.ion_xml:IonXML",
        "pao": "nearsight.formats.pao:PAO",
        "orb": "nearsight.formats.orb:ORB",
    },
    "functionals": {
        "lda": "nearsight.xc.functionals:LDA",
        "pbe": "nearsight.xc.functionals:PBE",
        "pbesol": "nearsight.xc.functionals:PBESOL",
    },
    "executors": {
        "local": "nearsight.tasks.executors.local:Local",
        "dask": "nearsight.tasks.executors.dask:Dask",
        "slurm-array": "nearsight.tasks.executors.slurm_array:SlurmArray",
    },
    "engines": {
        "nearsight": "nearsight.tasks.engines.own:Own",
        "pyscf": "nearsight.tasks.engines.pyscf:PySCF",
        "siesta": "nearsight.tasks.engines.programs:Siesta",
        "openmx": "nearsight.tasks.engines.programs:OpenMX",
        "abacus": "nearsight.tasks.engines.abacus:Abacus",
    },
    "solvers": {"dense": "nearsight.electrons.solvers.dense:Dense"},
    "properties": {
        "dos": "nearsight.properties.dos:dos",
        "gap": "nearsight.properties.gap:gap",
        "charges": "nearsight.properties.charges:charges",
        "levels": "nearsight.properties.levels:levels",
        "moire": "nearsight.properties.moire:moire",
    },
    "generators": {
        "rattle": "nearsight.generators.rattle:Rattle",
        "strain": "nearsight.generators.strain:Strain",
        "supercell": "nearsight.generators.supercell:Supercell",
        "dynamics": "nearsight.generators.dynamics:Dynamics",
        "twist": "nearsight.generators.twist:Twist",
        "nanotube": "nearsight.generators.nanotube:Nanotube",
        "ribbon": "nearsight.generators.ribbon:Ribbon",
        "decorate": "nearsight.generators.decorate:Decorate",
        "slab": "nearsight.generators.slab:Slab",
        "vacancies": "nearsight.generators.vacancies:Vacancies",
        "substitutions": "nearsight.generators.substitutions:Substitutions",
        "moments": "nearsight.generators.moments:Moments",
    },
}


def kinds(group: str) -> tuple[str, ...]:
    """Names of all parts of a group, our own first; nothing is loaded."""
    return (*BUILT_IN[group], *(name for name in _foreign(group) if name not in BUILT_IN[group]))


def home(group: str, kind: str) -> str:
    """Where a part is, as "module:name"; nothing is loaded. Raises BadInput for a name that is not known."""
    if kind in BUILT_IN[group]:
        return BUILT_IN[group][kind]
    if kind not in _foreign(group):
        known = kinds(group)
        raise BadInput(f"{kind!r} is not known among {group}{near_miss(kind, known)} (known: {', '.join(known)})")
    return _foreign(group)[kind].value


def load(group: str, kind: str) -> Any:
    """The part that is registered under a name.

    group: models, terms, formats, pseudopotentials, bases (files of orbitals), functionals (exchange and correlation),
    solvers, properties, generators, engines or executors.
    Raises BadInput for a name that is not known, with the near miss; Unavailable for an entry point that cannot be loaded.
    """
    if kind in BUILT_IN[group]:
        module, _, name = BUILT_IN[group][kind].partition(":")
        return getattr(import_module(module), name)
    found = _foreign(group).get(kind)
    if found is None:
        known = kinds(group)
        raise BadInput(f"{kind!r} is not known among {group}{near_miss(kind, known)} (known: {', '.join(known)})")
    try:
        return found.load()
    except Exception as error:  # whatever a foreign package stumbles over
        raise Unavailable(
            f"{group} {kind!r} of {found.value} cannot be loaded: {type(error).__name__}: {error}"
        ) from error


@cache
def _foreign(group: str) -> dict[str, EntryPoint]:
    return {e.name: e for e in entry_points(group=f"nearsight.{group}")}


def forget() -> None:
    """Look for entry points anew, after a distribution was installed while this process runs."""
    _foreign.cache_clear()
