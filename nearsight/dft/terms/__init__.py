"""The terms of the energy functional: the contract, and our own."""

from nearsight.dft.terms.contract import (
    ALL,
    BoundTerm,
    DirectTerm,
    Gradient,
    Slopes,
    State,
    Symmetry,
    System,
    Term,
)
from nearsight.dft.terms.exchange_correlation import ExchangeCorrelation
from nearsight.dft.terms.hartree import Hartree
from nearsight.dft.terms.ions import Ions
from nearsight.dft.terms.local_axis import Axes
from nearsight.dft.terms.neutral_atom import NeutralAtom
from nearsight.dft.terms.one_body import Kinetic, NonLocal, SpinOrbit
from nearsight.xc.functionals import Functional

__all__ = ["ALL", "BoundTerm", "DirectTerm", "Gradient", "Slopes", "State", "Symmetry", "System", "Term", "kohn_sham"]


def kohn_sham(
    functional: Functional,
    xc_refinement: int = 1,
    xc_near_nuclei: int = 1,
    spin_orbit: bool = False,
    axes: Axes = "variational",
) -> tuple[Term, ...]:
    """The terms of Kohn-Sham theory, in the order in which SIESTA prints them.

    spin_orbit: with projectors by j.  axes: see `ExchangeCorrelation`.
    """
    return (
        Ions(),
        Kinetic(),
        SpinOrbit() if spin_orbit else NonLocal(),
        NeutralAtom(),
        Hartree(),
        ExchangeCorrelation(functional, xc_refinement, xc_near_nuclei, axes),
    )
