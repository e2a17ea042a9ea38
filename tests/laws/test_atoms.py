"""Laws of species made from pseudopotentials: the pseudo-atom, its orbitals, its local part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from nearsight.atoms.library import available, pseudopotential
from nearsight.atoms.neutral_atom import LocalPart
from nearsight.atoms.orbitals import (
    BasisSettings,
    HardWall,
    SmoothWall,
    SoftWall,
    confined_state,
    confinement_radius,
    generate_species,
    matching_radius,
)
from nearsight.atoms.radial import Sphere, bessel_zeros, hartree, solve_atom, sound_channels
from nearsight.atoms.shells import shells_of
from nearsight.atoms.sizes import Rule
from nearsight.atoms.zetas import split_radius
from nearsight.core.errors import NearsightError
from nearsight.core.species import RadialFunction, Species
from nearsight.formats.upf import read_upf
from nearsight.xc.radial import derivatives

RYDBERG = 0.5
ELEMENTS = [("H", "pbe"), ("C", "pbe"), ("C", "lda"), ("O", "pbe"), ("Na", "pbe"), ("Mo", "pbe"), ("Pb", "pbe")]


@pytest.fixture(params=ELEMENTS, ids="-".join)
def species(request: pytest.FixtureRequest) -> Species:
    return generate_species(*request.param, BasisSettings("standard"))


def integral(f: RadialFunction, g: RadialFunction | None = None) -> float:
    """int f g r^2 dr of two radial functions of the same l, or 4 pi int f r^2 dr of one density."""
    if g is None:
        return float(4 * np.pi * CubicSpline(f.r, f.values * f.r**2).integrate(0, f.cutoff))
    r = np.linspace(0, min(f.cutoff, g.cutoff), 4001)
    product = CubicSpline(f.r, f.values)(r) * CubicSpline(g.r, g.values)(r) * r ** (2 * f.l + 2)
    return float(CubicSpline(r, product).integrate(0, r[-1]))


def upf(symbol: str) -> str:
    return pseudopotential(symbol, "pbe").path.read_text()


# --- parts


def test_zeros_of_spherical_bessel_functions() -> None:
    assert bessel_zeros(1, 2) == pytest.approx([4.493409457909064, 7.725251836937707], abs=1e-12)
    assert bessel_zeros(3, 1) == pytest.approx([6.987932000500519], abs=1e-12)


@pytest.mark.parametrize("l", [0, 1, 2, 3])
def test_sphere_functions_are_orthonormal(l: int) -> None:
    s = Sphere(l, 5.3)
    assert (s.phi * s.weight) @ s.phi.T == pytest.approx(np.eye(len(s.k)), abs=3e-5)
    low = len(s.k) // 2
    assert ((s.phi * s.weight) @ s.phi.T)[:low, :low] == pytest.approx(np.eye(low), abs=1e-6)


@pytest.mark.parametrize("xc", ["lda", "pbe", "pbesol"])
def test_xc_derivatives_are_those_of_the_energy(xc: str) -> None:
    n, slope = np.array([1e-4, 0.03, 0.4, 2.0]), np.array([1e-4, -0.05, -1.0, 3.0])
    _, by_density, by_slope = derivatives(n, slope, xc)
    d = 1e-5 * n
    numeric = (derivatives(n + d, slope, xc)[0] - derivatives(n - d, slope, xc)[0]) / (2 * d)
    assert by_density == pytest.approx(numeric, rel=1e-7)
    d = 1e-5 * slope
    numeric = (derivatives(n, slope + d, xc)[0] - derivatives(n, slope - d, xc)[0]) / (2 * d)
    assert by_slope == pytest.approx(numeric, rel=1e-6, abs=1e-12)


def test_hartree_potential_of_a_gaussian() -> None:
    from scipy.special import erf

    r = np.linspace(0, 12, 601)
    potential = hartree(r, np.exp(-(r**2)) / np.pi**1.5)
    assert potential[1:] == pytest.approx(erf(r[1:]) / r[1:], abs=1e-6)


# --- the pseudo-atom


@pytest.mark.parametrize(
    ("symbol", "xc", "relativistic"),
    [
        *((symbol, "pbe", True) for symbol in ("C", "O", "Si", "Na", "Pb")),
        *((symbol, "pbe", False) for symbol in ("C", "O", "Si", "Na")),
        ("C", "lda", False),
        ("Cu", "lda", False),
        ("Si", "pbesol", False),
    ],
)
def test_eigenvalues_are_the_files(symbol: str, xc: str, relativistic: bool) -> None:
    atom = solve_atom(pseudopotential(symbol, xc), relativistic=relativistic)
    for shell in atom.shells:
        assert shell.energy == pytest.approx(shell.reference_energy, abs=5e-5 * RYDBERG)


def test_scalar_average_is_exact_as_an_operator() -> None:
    pp = pseudopotential("Pb", "pbe")
    for channel in pp.scalar_channels():
        l, dense = channel.l, np.zeros((len(pp.r), len(pp.r)))
        for i, b in enumerate(pp.betas):
            if b.l == l:
                weight = ((b.j or 0) + 0.5) / (2 * l + 1)
                dense += weight * pp.coupling[i, i] * np.outer(b.r_beta, b.r_beta)
        made = channel.waves.T * channel.energies @ channel.waves
        assert np.abs(made - dense).max() < 1e-4 * np.abs(dense).max()
        assert np.trapezoid(channel.waves[:, None] * channel.waves, pp.r, axis=2) == pytest.approx(
            np.eye(len(channel.energies)), abs=1e-8
        )


# --- orbitals


def test_orbitals_are_normalised_and_end_smoothly(species: Species) -> None:
    for o in species.orbitals:
        f = o.radial
        assert integral(f, f) == pytest.approx(1, abs=1e-8)
        assert f.cutoff < 12
        assert f.values[-1] == 0
        # Value, slope and curvature vanish: f goes as (r_c - r)^3.
        assert f.values[-3] / f.values[-2] == pytest.approx(8, rel=0.1)
        assert f.values[-4] / f.values[-2] == pytest.approx(27, rel=0.15)


def test_shells_are_in_the_projects_order(species: Species) -> None:
    keys = [(o.polarization, o.l, o.n, o.zeta) for o in species.orbitals]
    assert keys == sorted(keys)
    assert sum(o.population for o in species.orbitals) == pytest.approx(species.valence)
    assert sum(o.polarization for o in species.orbitals) == {"Na": 3, "O": 2, "Pb": 2}.get(species.symbol, 1)


def test_basis_of_known_elements() -> None:
    def names(symbol: str, size: str = "standard", rule: Rule | None = None) -> list[str]:
        found = generate_species(symbol, basis=BasisSettings(size=size, rule=rule)).orbitals  # type: ignore[arg-type]
        return [f"{o.n}{'spdf'[o.l]}{'*' if o.polarization else ''}{o.zeta}" for o in found]

    assert names("C") == ["2s1", "2s2", "2p1", "2p2", "3d*1"]
    assert names("H") == ["1s1", "1s2", "2p*1"]
    assert names("Na") == ["2s1", "3s1", "3s2", "2p1", "3p*1", "3p*2", "3d*1"]
    assert names("Ca") == ["3s1", "4s1", "4s2", "3p1", "4p*1", "4p*2", "3d*1", "3d*2"]
    assert names("Mo") == ["4s1", "5s1", "5s2", "4p1", "4d1", "4d2", "5p*1"]
    assert names("Ga") == ["4s1", "4s2", "4p1", "4p2", "3d1", "4d*1", "4d*2"]
    assert names("Ga", rule=2) == names("Ga", "light") == ["4s1", "4s2", "4p1", "4p2", "3d1", "4d*1"]
    assert names("O") == names("F") == ["2s1", "2s2", "2p1", "2p2", "3d*1", "3d*2"]
    assert names("Zn") == ["3s1", "4s1", "4s2", "3p1", "3d1", "3d2", "4p*1", "4p*2"]
    assert names("H", "tight") == ["1s1", "1s2", "1s3", "2p*1", "2p*2"]
    assert names("C", "light") == names("C", "standard") == names("C")
    assert names("C", "sz") == ["2s1", "2p1"]
    assert names("C", "tzp") == ["2s1", "2s2", "2s3", "2p1", "2p2", "2p3", "3d*1"]


def test_energy_shift_sets_the_radius() -> None:
    potential = solve_atom(pseudopotential("C", "pbe")).potential
    sphere = Sphere(1, potential.radius)
    free = float(np.linalg.eigvalsh(potential.hamiltonian(sphere))[0])
    for wall in (HardWall(), SmoothWall()):
        radii = [confinement_radius(potential, 1, 0, free, s, wall) for s in (0.01, 0.005, 0.001)]
        assert radii == sorted(radii)
        confined = confined_state(potential, 1, 0, radii[1], wall)
        assert confined.energy - free == pytest.approx(0.005, abs=1e-6)


def test_an_empty_d_ends_before_s() -> None:
    """At 0.7 of the radius by rule 3 and today's, with it by rule 2; a d that the atom binds (Ca) where its wall is today."""

    def radii(symbol: str, rule: Rule) -> tuple[float, float]:
        made = generate_species(symbol, basis=BasisSettings("standard", rule=rule)).orbitals
        s = max(o.radial.cutoff for o in made if o.l == 0)
        return s, next(o.radial.cutoff for o in made if o.l == 2)

    for symbol in ("Na", "Ca"):
        (s, d), (same, before) = radii(symbol, 3), radii(symbol, 2)
        assert s == same and d == pytest.approx(0.7 * before, rel=2e-3)
    assert radii("Na", 2)[0] == pytest.approx(radii("Na", 2)[1])
    assert radii("Na", 5) == radii("Na", 3) and radii("Ca", 5) == radii("Ca", 2)


@pytest.mark.parametrize("symbol", ["Na", "Al", "C", "O", "Zn"])
def test_a_second_zeta_ends_at_the_bonds(symbol: str) -> None:
    """At 3.6 Bohr, between 0.4 and 0.5 of the first's radius; an empty d at 4, up to 0.6; a d with electrons at half of it."""
    made = {(o.n, o.l, o.zeta): o for o in generate_species(symbol, basis=BasisSettings("standard")).orbitals}
    seconds = [(made[n, l, 1].radial.cutoff, o) for (n, l, zeta), o in made.items() if zeta == 2]
    assert seconds
    for radius, o in seconds:
        occupied_d = o.l == 2 and not o.polarization
        bond, most = (4.0, 0.6) if o.l == 2 else (3.6, 0.5)
        expected = 0.5 * radius if occupied_d else min(max(bond, 0.4 * radius), most * radius)
        assert o.radial.cutoff == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("symbol", ["C", "Na", "Zn"])
def test_a_wall_costs_all_electrons_of_a_shell_the_energy_shift(symbol: str) -> None:
    settings = BasisSettings("standard", energy_shift=0.01)
    species = generate_species(symbol, basis=settings)
    atom = solve_atom(pseudopotential(symbol, "pbe"))
    for s in shells_of(pseudopotential(symbol, "pbe"), atom):
        [made] = [o for o in species.orbitals if (o.n, o.l, o.zeta) == (s.n, s.l, 1)]
        confined = confined_state(atom.potential, s.l, s.index, made.radial.cutoff, settings.confinement)
        electrons = s.occupation**0.5 if s.l == 2 else s.occupation  # of a d shell each by 1/sqrt(N)
        assert electrons * (confined.energy - s.energy) == pytest.approx(0.005, rel=1e-3)


def test_second_zeta_meets_the_first_in_value_slope_and_curvature() -> None:
    """first - c * second is r^l times an even polynomial inside r_m, and the first zeta itself outside."""
    first, second = (o.radial for o in generate_species("C", basis=BasisSettings("standard")).orbitals if o.l == 1)
    match = 0.5 * first.cutoff
    assert second.cutoff == pytest.approx(match)
    f, g = CubicSpline(first.r, first.values), CubicSpline(second.r, second.values)
    x = np.linspace(0, match, 50)
    # Solve f = c g + a + b r^2 + d r^4 for its four coefficients.
    A = np.column_stack([g(x), np.ones_like(x), x**2, x**4])
    solution, *_ = np.linalg.lstsq(A, f(x), rcond=None)
    assert np.abs(A @ solution - f(x)).max() < 1e-6 * np.abs(first.values).max()
    a, b, d = solution[1:]
    assert a + b * match**2 + d * match**4 == pytest.approx(float(f(match)), rel=1e-5)
    assert 2 * b * match + 4 * d * match**3 == pytest.approx(float(f(match, 1)), rel=1e-4)


def test_a_split_norm_is_the_norm_outside_within_bounds() -> None:
    first, second = (
        o.radial for o in generate_species("C", basis=BasisSettings("standard", split_norm=0.2)).orbitals if o.l == 1
    )
    inner = CubicSpline(first.r, (first.values * first.r**2) ** 2).integrate(0, second.cutoff)
    assert 1 - inner == pytest.approx(0.2, abs=1e-6)
    for norm, share in ((1e-9, 0.8), (0.9999, 0.3)):
        assert split_radius(first, 0.5, norm) == pytest.approx(share * first.cutoff)


@pytest.mark.parametrize("symbol", ["Na", "Mg", "Ni", "Ca", "Cd", "Au", "C", "O"])
def test_zetas_of_a_shell_never_fall_together(symbol: str) -> None:
    """Those of one shell, three zetas each: the least eigenvalue of their overlap (rule 1: 1e-5 for Ni 4s and eight others)."""
    shells: dict[tuple[int, int], list[RadialFunction]] = {}
    for o in generate_species(symbol, basis=BasisSettings(size="tight")).orbitals:
        shells.setdefault((o.n, o.l), []).append(o.radial)
    for zetas in shells.values():
        overlap = np.array([[integral(f, g) for g in zetas] for f in zetas])
        assert np.linalg.eigvalsh(overlap)[0] > 3e-3


def test_orbitals_of_rule_1_are_made_as_they_were() -> None:
    """Radii [Bohr] of before there was another rule; a hollow shell is split by its tail, and says so."""
    made = generate_species("Na", basis=BasisSettings(size="dzp", rule=1))
    assert "3s zeta 2" in made.provenance["notes"] and made.provenance["orbital_rule"] == "1"
    assert [round(o.radial.cutoff, 2) for o in made.orbitals] == [3.21, 8.89, 6.38, 3.84, 8.89, 6.9]
    assert "notes" not in generate_species("C").provenance
    first, second = (o.radial for o in generate_species("C", basis=BasisSettings("dzp", rule=1)).orbitals if o.l == 1)
    match, regular = matching_radius(first, 0.15)
    assert regular and second.cutoff == pytest.approx(match)


def test_larger_bases_contain_smaller_ones() -> None:
    small = generate_species("O", basis=BasisSettings(size="dzp"))
    large = generate_species("O", basis=BasisSettings(size="tzp"))
    for o in small.orbitals:
        twin = next(p for p in large.orbitals if (p.n, p.l, p.zeta) == (o.n, o.l, o.zeta))
        assert np.array_equal(o.radial.values, twin.radial.values)


def test_walls_and_polarisation_by_choice() -> None:
    for settings in (
        BasisSettings(confinement=HardWall()),
        BasisSettings(confinement=SoftWall()),
        BasisSettings(polarization="state"),
    ):
        for o in generate_species("O", basis=settings).orbitals:
            assert integral(o.radial, o.radial) == pytest.approx(1, abs=1e-8)


# --- the local part


def test_local_charge_and_neutral_atom(species: Species) -> None:
    assert integral(species.local_charge) == pytest.approx(-species.valence, abs=1e-7)
    v = species.neutral_atom_potential
    assert v.values[-1] == 0
    assert np.abs(v.values[-5:]).max() < 1e-8
    # V_NA is the potential of the local charge and the electrons together, which is neutral: no Coulomb tail.
    longest = max(o.radial.cutoff for o in species.orbitals if o.population)
    assert v.cutoff == pytest.approx(max(longest, species.local_charge.cutoff))


def test_neutral_atom_potential_is_the_potential_of_its_charges(species: Species) -> None:
    v = species.neutral_atom_potential
    r = v.r
    density = np.zeros_like(r)
    for o in species.orbitals:
        inside = r <= o.radial.cutoff
        wave = CubicSpline(o.radial.r, o.radial.values)(r[inside]) * r[inside] ** o.l
        density[inside] += o.population * wave**2 / (4 * np.pi)
    inside = r <= species.local_charge.cutoff
    density[inside] += CubicSpline(species.local_charge.r, species.local_charge.values)(r[inside])
    assert hartree(r, density)[5:] == pytest.approx(v.values[5:], abs=2e-4 * species.valence)


def test_local_potential_of_the_file_is_kept() -> None:
    pp = pseudopotential("C", "lda")
    local = LocalPart(pp)
    inside = pp.r < local.cutoff - 1
    assert local.potential(pp.r[inside]) == pytest.approx(pp.local[inside], abs=1e-5)
    assert local.potential(np.array([7.0])) == pytest.approx([-4 / 7], abs=1e-12)


def test_core_density_only_with_core_correction() -> None:
    assert generate_species("C", "pbe").core_density is None
    core = generate_species("C", "lda").core_density
    assert core is not None
    assert core.values[-1] == 0
    assert 0.1 < integral(core) < 2


def test_spin_orbit_projectors_are_kept() -> None:
    species = generate_species("Pb")
    assert {(p.l, p.j) for p in species.relativistic_projectors} == {
        (0, 0.5), (1, 0.5), (1, 1.5), (2, 1.5), (2, 2.5), (3, 2.5), (3, 3.5)
    }  # fmt: skip
    assert all(p.j is None for p in species.projectors)
    longest = max(p.radial.cutoff for p in species.relativistic_projectors)
    assert species.projector_cutoff >= longest == replace(species, projectors=()).projector_cutoff > 0
    for p in species.projectors:
        assert integral(p.radial, p.radial) == pytest.approx(1, abs=1e-4)


def test_a_sample_of_the_periodic_table() -> None:
    """The hard ones: alkalis, 3d with semicore, 4f in the valence, an empty 5s."""
    for symbol, xc in [("Li", "pbe"), ("K", "pbe"), ("Cs", "lda"), ("Fe", "lda"), ("Hf", "pbe"), ("Pd", "lda")]:
        species = generate_species(symbol, xc)
        assert species.orbital_cutoff < 13  # caesium's 6s, the widest
        assert min(o.radial.cutoff for o in species.orbitals) > 1
    assert [o.population for o in species.orbitals if o.l == 0] == [2.0, 0.0, 0.0]  # Pd: 4s2 5s0


# --- errors


@pytest.mark.parametrize(
    ("symbol", "xc", "l", "depth"), [("Fe", "pbe", 0, 60), ("Sr", "pbe", 1, 3000), ("Ir", "pbesol", 0, 300)]
)
def test_a_ghost_is_lifted_and_nothing_else_moves(symbol: str, xc: str, l: int, depth: float) -> None:
    """The file's levels are found to 3e-4 Ha, and all levels of a sphere but the ghost's stay, up to 3 Ha."""
    pp = pseudopotential(symbol, xc)
    atom = solve_atom(pp)
    for s in atom.shells:
        assert s.energy == pytest.approx(s.reference_energy, abs=3e-4)
    bound = {False: replace(atom.potential, channels=pp.scalar_channels()), True: atom.potential}
    sphere = atom.potential.sphere(l, 6.0)
    before, after = (np.linalg.eigvalsh(bound[lifted].hamiltonian(sphere)) for lifted in (False, True))
    assert before[0] < -depth
    many = int((before < 3).sum())
    assert many > 4
    assert after[: many - 1] == pytest.approx(before[1:many], abs=2e-3)
    assert min(np.abs(c.energies).max() for c in pp.scalar_channels() if c.l == l) > depth
    assert max(np.abs(c.energies).max() for c in atom.potential.channels) < 20  # what nearly cancelled is gone
    species = generate_species(symbol, xc)
    assert species.projectors and max(abs(p.energy) for p in species.projectors) < 20
    for channel in sound_channels(pp, True):  # by j, for spin-orbit coupling
        assert channel.energies.min() > -20


def test_a_ghost_that_is_not_alone_is_refused() -> None:
    """A projector that binds a ghost and moves the levels too: the file is damaged."""
    pp = pseudopotential("C", "pbe")
    with pytest.raises(NearsightError, match=r"ghost state of C, l = 0"):
        solve_atom(replace(pp, coupling=pp.coupling * -20))


def test_missing_elements_and_functionals() -> None:
    assert "C" in available("pbe")
    with pytest.raises(NearsightError, match=r"no PBE pseudopotential for U .*folder"):
        generate_species("U")
    with pytest.raises(NearsightError, match="take the functional lda or pbesol"):
        generate_species("Cs", "pbe")
    with pytest.raises(NearsightError, match="is no element"):
        generate_species("Xx")
    with pytest.raises(NearsightError, match="'b3lyp' is not known among functionals"):
        generate_species("C", "b3lyp")


def test_a_users_folder(tmp_path: Path) -> None:
    with pytest.raises(NearsightError, match="no UPF file for C"):
        pseudopotential("C", folder=tmp_path)
    (tmp_path / "C.pbe-sr.upf").write_text(upf("C"))
    assert pseudopotential("C", folder=tmp_path).sha256 == pseudopotential("C").sha256
    with pytest.raises(NearsightError, match="made for PBE, not LDA"):
        pseudopotential("C", "lda", folder=tmp_path)
    (tmp_path / "C_other.UPF").write_text(upf("C"))
    with pytest.raises(NearsightError, match="several UPF files for C"):
        pseudopotential("C", "pbesol", folder=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[: len(t) // 2], "truncated"),
        (lambda t: t.replace('<UPF version="2.0.1">', "<PP_HEADER>", 1), "not a UPF version 2"),
        (lambda t: t.replace('pseudo_type="NC"', 'pseudo_type="US"'), "norm-conserving"),
        (lambda t: t.replace('is_paw="F"', 'is_paw="T"'), "norm-conserving"),
        (lambda t: t.replace('number_of_proj="6"', 'number_of_proj="7"'), "6 projectors where the header announces 7"),
        (lambda t: t.replace("PP_LOCAL", "PP_NOTHING"), "<PP_LOCAL> is missing"),
        (lambda t: t.replace("  </PP_LOCAL>", "NaN </PP_LOCAL>"), "1249 numbers where 1248"),
        (
            lambda t: t.replace("<PP_RAB type", "<PP_RAB kind").replace("0.0100", "NaN", 1),
            "<PP_R> holds a value that is not",
        ),
        (lambda t: t.replace('label="2S"', 'label="S"'), "label 'S'"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "C.UPF"
    path.write_text(change(upf("C")))
    with pytest.raises(NearsightError, match=message):
        read_upf(path)


def test_a_file_without_wavefunctions(tmp_path: Path) -> None:
    """The shells come from ONCVPSP's input then, and the atom is the same."""
    text = pseudopotential("Si", "pbesol").path.read_text()
    start, end = text.index("<PP_PSWFC>"), text.index("</PP_PSWFC>") + len("</PP_PSWFC>")
    path = tmp_path / "Si.UPF"
    path.write_text(text[:start] + text[end:])
    bare = solve_atom(read_upf(path))
    full = solve_atom(pseudopotential("Si", "pbesol"))
    assert [(s.n, s.l, s.occupation) for s in bare.shells] == [(s.n, s.l, s.occupation) for s in full.shells]
    assert [s.energy for s in bare.shells] == pytest.approx([s.energy for s in full.shells], abs=1e-9)
    path.write_text(path.read_text().replace("PP_INPUTFILE", "PP_INPUT"))
    with pytest.raises(NearsightError, match="valence shells are unknown"):
        solve_atom(read_upf(path))


def test_projectors_without_strength_are_refused(tmp_path: Path) -> None:
    text = upf("C")
    start = text.index(">", text.index("<PP_DIJ")) + 1
    end = text.index("</PP_DIJ>")
    path = tmp_path / "C.UPF"
    path.write_text(text[:start] + "\n" + " 0.0" * 36 + "\n" + text[end:])
    with pytest.raises(NearsightError, match="PP_DIJ has a row of zeros"):
        read_upf(path)


@pytest.mark.parametrize("bad", [{"size": "qzp"}, {"energy_shift": 0.0}, {"split_norm": 1.5}, {"polarization": "none"}])
def test_bad_settings_are_refused(bad: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(NearsightError, match="take"):
        BasisSettings(**bad)
