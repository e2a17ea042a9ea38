"""A species or pseudopotential that cannot be is refused where it enters, in one line; those that can be are not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nearsight.atoms.library import available, pseudopotential
from nearsight.atoms.orbitals import BasisSettings, HardWall, SoftWall, generate_species
from nearsight.atoms.radial import solve_atom
from nearsight.atoms.reference_levels import reference_levels
from nearsight.core.errors import BadInput
from nearsight.core.species import Projector, RadialFunction, Species
from nearsight.formats.ion_xml import read_ion_xml
from nearsight.formats.pseudopotential import Pseudopotential
from nearsight.formats.soundness import check_pseudopotential, check_species
from tests.cases import species

Change = Callable[[Species], Species]


@pytest.mark.parametrize("symbol", ["H", "He", "Li", "C", "Na", "Mo", "Pb"])
@pytest.mark.parametrize(
    "settings",
    [BasisSettings(), BasisSettings(size="tzp", confinement=HardWall()), BasisSettings("sz", confinement=SoftWall())],
)
def test_what_is_generated_is_sound(symbol: str, settings: BasisSettings) -> None:
    check_species(generate_species(symbol, "pbe", settings), symbol)


def of_orbital(index: int, change: Callable[[RadialFunction], RadialFunction]) -> Change:
    def changed(s: Species) -> Species:
        orbitals = list(s.orbitals)
        orbitals[index] = replace(orbitals[index], radial=change(orbitals[index].radial))
        return replace(s, orbitals=tuple(orbitals))

    return changed


def with_orbital(index: int, **fields: object) -> Change:
    def changed(s: Species) -> Species:
        orbitals = list(s.orbitals)
        orbitals[index] = replace(orbitals[index], **fields)  # type: ignore[arg-type]
        return replace(s, orbitals=tuple(orbitals))

    return changed


def of_projectors(change: Callable[[int, Projector], Projector]) -> Change:
    return lambda s: replace(s, projectors=tuple(change(n, p) for n, p in enumerate(s.projectors)))


def table(name: str, change: Callable[[RadialFunction], RadialFunction]) -> Change:
    return lambda s: replace(s, **{name: change(getattr(s, name))})


def times(factor: float) -> Callable[[RadialFunction], RadialFunction]:
    return lambda f: replace(f, values=factor * f.values)


def at(place: float, factor: float) -> Callable[[RadialFunction], RadialFunction]:
    def changed(f: RadialFunction) -> RadialFunction:
        values = f.values.copy()
        values[int(place * len(values))] *= factor
        return replace(f, values=values)

    return changed


def bent(f: RadialFunction) -> RadialFunction:
    """Smooth, and another function."""
    return replace(f, values=f.values * (1 + 0.2 * np.cos(2 * np.pi * f.r / f.cutoff)))


CANNOT_BE: dict[str, tuple[Change, str]] = {
    "half an orbital": (
        of_orbital(0, lambda f: replace(f, values=f.values[: len(f.values) // 2])),
        "not zero at its end",
    ),
    "doubled": (of_orbital(0, times(2)), "has the norm 4.0000"),
    "stretched": (of_orbital(2, lambda f: replace(f, spacing=2 * f.spacing)), "has the norm"),
    "a spike": (of_orbital(0, at(0.3, 50)), "jump or spike at"),
    "a digit": (of_orbital(2, at(0.4, 1.02)), "jump or spike at"),
    "negative at once": (of_orbital(0, at(0.5, -1)), "jump or spike at"),
    "bent": (of_orbital(0, bent), "has the norm|is no state"),
    "l of another": (of_orbital(0, lambda f: replace(f, l=3)), "n = 2, l = 3|has the norm"),
    "l = 9": (of_orbital(0, lambda f: replace(f, l=9)), "l = 9"),
    "nothing": (of_orbital(0, times(0)), "holds nothing"),
    "nan": (of_orbital(0, at(0.3, float("nan"))), "not finite"),
    "too long": (of_orbital(0, lambda f: replace(f, spacing=1.0)), "out to"),
    "population -2": (with_orbital(0, population=-2.0), "-2 electrons in the shell 2s"),
    "population 3": (with_orbital(0, population=3.0), "3 electrons in the shell 2s"),
    "another population": (with_orbital(0, population=1.0), "sum to 3, not to the valence 4"),
    "electrons moved": (
        lambda s: with_orbital(2, population=3.0)(with_orbital(0, population=1.0)(s)),
        "V_NA is not the potential",
    ),
    "n = 1 of p": (with_orbital(2, n=1), "n = 1, l = 1"),
    "a second first zeta": (with_orbital(1, zeta=1), "the zetas of 2s"),
    "a shell twice": (lambda s: replace(s, orbitals=(*s.orbitals, s.orbitals[0])), "the zetas of 2s|sum to"),
    "mass": (lambda s: replace(s, mass=-12.0), "a mass of -12 u"),
    "valence": (lambda s: replace(s, valence=7.0), "a valence of 7"),
    "another element": (lambda s: replace(s, number=14), "Z = 14 is not C"),
    "projectors negated": (
        of_projectors(lambda n, p: replace(p, energy=-p.energy)),
        "is no state of its pseudopotential",
    ),
    "one energy": (of_projectors(lambda n, p: replace(p, energy=p.energy * (2 if n == 0 else 1))), "is no state"),
    "a zero energy": (of_projectors(lambda n, p: replace(p, energy=0.0)), "has the energy 0"),
    "a scaled projector": (
        of_projectors(lambda n, p: replace(p, radial=times(3)(p.radial))),
        "a projector of l = 0 has the norm 9",
    ),
    "another j": (of_projectors(lambda n, p: replace(p, j=2.5)), "with j = 2.5"),
    "V_NA scaled": (table("neutral_atom_potential", times(1.1)), "V_NA is not the potential"),
    "V_NA with a spike": (table("neutral_atom_potential", at(0.3, 2)), "V_NA has a jump"),
    "V_NA of no end": (
        table("neutral_atom_potential", lambda f: replace(f, values=f.values[: len(f.values) // 2])),
        "not zero at its end",
    ),
    "charge scaled": (table("local_charge", times(1.02)), "local charge integrates to -4.08"),
    "charge bent": (
        table("local_charge", lambda f: replace(f, values=f.values * (1 - 0.15 * (f.r / f.cutoff)), spacing=f.spacing)),
        "integrates to|V_NA is not",
    ),
}


@pytest.mark.parametrize("name", CANNOT_BE)
def test_what_cannot_be_is_refused(name: str) -> None:
    change, message = CANNOT_BE[name]
    with pytest.raises(BadInput, match=message) as error:
        check_species(change(species("C")), "C.ion.xml")
    assert str(error.value).startswith("C.ion.xml: ")
    assert "\n" not in str(error.value)


def test_the_core_density_is_positive_and_less_than_the_core() -> None:
    r = np.linspace(0, 2, 201)
    core = RadialFunction(0, np.exp(-((2 * r) ** 2)) - np.exp(-16), 0.01)
    check_species(replace(species("C"), core_density=core), "C")
    for change, message in ((times(-1.0), "negative"), (times(9.0), "the core has 2")):
        with pytest.raises(BadInput, match=message):
            check_species(replace(species("C"), core_density=change(core)), "C")


def test_orbitals_of_projectors_by_j() -> None:
    """Projectors by j count as their average over j: two copies of a scalar one are that one."""
    carbon = species("C")
    by_j = tuple(replace(p, j=j) for p in carbon.projectors for j in ((p.l - 0.5, p.l + 0.5) if p.l else (0.5,)))
    check_species(replace(carbon, projectors=by_j), "C")
    with pytest.raises(BadInput, match="is no state"):
        check_species(replace(carbon, projectors=tuple(replace(p, energy=-p.energy) for p in by_j)), "C")


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ('<?xml version="1.0" encoding="UTF1e5"?>', "an encoding that is not known"),
        ('<?xml version="1.0" encoding="utf-16"?>', "is not a|not known"),
        ('<!DOCTYPE ion [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>', "document type"),
        ('<!DOCTYPE ion SYSTEM "http://example.org/x">', "document type"),
        ("<a>" * 30, "nested too deeply"),
    ],
)
def test_xml_that_is_more_than_elements(head: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "C.ion.xml"
    path.write_text(head + "<ion></ion>")
    with pytest.raises(BadInput, match=message):
        read_ion_xml(path)


def negated(pp: Pseudopotential) -> Pseudopotential:
    return replace(pp, coupling=-pp.coupling)


@pytest.mark.parametrize("symbol", ["H", "C", "Na", "Si", "Cu", "Pb"])
def test_projectors_of_another_sign_are_not_those_of_the_density(symbol: str) -> None:
    """A published table has eleven files with wrong projector energies; the file's own density tells."""
    with pytest.raises(BadInput, match=r"electrons elsewhere|ghost state"):
        solve_atom(negated(pseudopotential(symbol)))


def test_one_wrong_energy_is_seen() -> None:
    pp = pseudopotential("C")
    coupling = pp.coupling.copy()
    coupling[1, 1] *= 0.7
    with pytest.raises(BadInput, match="electrons elsewhere"):
        solve_atom(replace(pp, coupling=coupling))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pp: replace(pp, valence=5.0), "does not end as -Z/r"),
        (lambda pp: replace(pp, valence=-4.0), "a valence of -4"),
        (lambda pp: replace(pp, local=np.where(pp.r < 1, np.inf, pp.local)), "local potential holds numbers"),
        (lambda pp: replace(pp, number=14), "Z = 14 is not C"),
        (lambda pp: replace(pp, r=pp.r[::-1]), "does not rise"),
        (lambda pp: replace(pp, local=0.9 * pp.local), "does not end as"),
        (lambda pp: replace(pp, betas=(replace(pp.betas[0], l=9), *pp.betas[1:])), "a projector of l = 9"),
        (lambda pp: replace(pp, betas=(replace(pp.betas[0], j=1.5), *pp.betas[1:])), "j = 1.5"),
        (lambda pp: replace(pp, betas=(replace(pp.betas[0], r_beta=0 * pp.r), *pp.betas[1:])), "is zero"),
        (lambda pp: replace(pp, coupling=1e6 * pp.coupling), "beyond all bounds"),
        (lambda pp: replace(pp, radial_density=2 * pp.radial_density), "holds 8.000 electrons"),
        (lambda pp: replace(pp, core_density=-np.exp(-(pp.r**2))), "core density is negative"),
        (lambda pp: replace(pp, core_density=9 * np.exp(-(pp.r**2))), "more than a core's 2 electrons"),
        (
            lambda pp: replace(pp, shells=(replace(pp.shells[0], occupation=7.0), *pp.shells[1:])),
            "7 electrons in a shell",
        ),
        (lambda pp: replace(pp, shells=(*pp.shells, pp.shells[0])), "stands twice"),
    ],
)
def test_pseudopotentials_that_cannot_be(change: Callable[[Pseudopotential], Pseudopotential], message: str) -> None:
    pp = pseudopotential("C")
    assert check_pseudopotential(pp) is pp
    with pytest.raises(BadInput, match=message):
        check_pseudopotential(change(pp))


def test_levels_tell_where_no_density_is_stated() -> None:
    """A GTH file has no density; psp8 files may have none."""
    pp = replace(pseudopotential("C"), states_density=False)
    solve_atom(pp)
    coupling = pp.coupling.copy()
    coupling[0, 0] *= 0.4
    coupling[1, 1] *= 0.4
    with pytest.raises(BadInput, match=r"has the level 2s at -0\.\d+ Ha, where C has it at about -0\.5|ghost"):
        solve_atom(replace(pp, coupling=coupling))
    assert reference_levels()["Cu"][3, 2] == -0.35


def test_levels_of_every_element_that_the_package_has() -> None:
    assert set(reference_levels()) >= set(available("pbe")) - {"Fe", "Sr"}  # ghosts
    assert all(e < 0 and l < n for table in reference_levels().values() for (n, l), e in table.items())
