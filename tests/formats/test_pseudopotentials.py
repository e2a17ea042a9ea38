"""psp8, PSML and GTH files: they give the atom that they were made from; what is damaged is refused in one line.

The psp8 and PSML files are our UPF data in the other form, so that the atom's levels are those that the UPF file states.
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest

from nearsight.atoms.library import pseudopotential
from nearsight.atoms.orbitals import BasisSettings, species_from
from nearsight.atoms.radial import solve_atom, sound_channels
from nearsight.core.errors import NearsightError
from nearsight.formats.pseudopotential import Pseudopotential, SeparableChannel
from nearsight.formats.pseudopotential_files import read_pseudopotential
from nearsight.formats.valence import ground_configuration, possible_cores, shells_of

#: CP2K's data/GTH_POTENTIALS (PADE: Phys. Rev. B 54, 1703; 58, 3641).
GTH = """# a comment
C GTH-PADE-q4 GTH-LDA-q4 GTH-PADE GTH-LDA
    2    2
     0.34883045    2    -8.51377110     1.22843203
    2
     0.30455321    1     9.52284179
     0.23267730    0
#
Si GTH-PADE-q4 GTH-LDA-q4 GTH-PADE GTH-LDA
    2    2
     0.44000000    1    -7.33610297
    2
     0.42273813    2     5.90692831    -1.26189397
                                        3.25819622
     0.48427842    1     2.72701346
#
Cu GTH-PADE-q1 GTH-LDA-q1
    1
     0.58000000    0
    3
     0.84328288    3     0.97578662     0.31838619    -0.03250652
                                       -0.82206962     0.08393147
                                                      -0.13323707
     1.08954266    2     0.02457986     0.10522210
                                       -0.24900093
     1.29160225    1    -0.06529209
#
Cu GTH-PADE-q11 GTH-LDA-q11 GTH-PADE GTH-LDA
    1    0   10
     0.53000000    0
    3
     0.42373431    3     3.88805001    -1.26901549     0.55872509
                                        3.27658391    -1.44262198
                                                       2.29009139
     0.57217697    2     1.75127242    -0.15844220
                                        0.37494269
     0.26614275    1   -12.67695749
#
Ga GTH-PADE-q13 GTH-LDA-q13
    2    1   10
     0.49000000    0
    3
     0.39530156    3    12.45703651    -7.08541671     1.84712738
                                       12.15158654    -4.76926238
                                                       3.78548466
     0.58085441    2     1.57898606     0.32869270
                                       -0.38891444
     0.23908100    1   -16.13575103
#
Ga GTH-PADE-q3 GTH-LDA-q3
    2    1
     0.56000000    0
    3
     0.61079074    3     2.36932516     0.09644314    -0.13462450
                                       -0.24901512     0.34759896
                                                      -0.55179624
     0.70459583    2     0.74630529     0.21683799
                                       -0.51313234
     0.98257967    1     0.07543656
"""

Term = tuple[int, np.ndarray, float]


def terms(channels: tuple[SeparableChannel, ...], weight: float = 1.0) -> list[Term]:
    return [(c.l, w, weight * e) for c in channels for w, e in zip(c.waves, c.energies, strict=True)]


def spin_orbit(pp: Pseudopotential) -> list[Term]:
    """V_SO = 2 (V_{l+1/2} - V_{l-1/2}) / (2l + 1), not diagonalised."""
    channels = [c for c in pp.relativistic_channels() if c.l > 0]
    return [t for c in channels for t in terms((c,), (2 if c.j is not None and c.j > c.l else -2) / (2 * c.l + 1))]


def psp8(pp: Pseudopotential, *, with_spin_orbit: bool = False, with_input: bool = True) -> str:
    scalar, so = terms(pp.scalar_channels()), spin_orbit(pp) if with_spin_orbit else []
    lmax, points = max(l for l, _, _ in scalar), len(pp.r)

    def count(which: list[Term], l: int) -> int:
        return sum(t[0] == l for t in which)

    def table(*columns: np.ndarray) -> list[str]:
        rows = enumerate(zip(pp.r, *columns, strict=True), start=1)
        return [f"{n:6d}" + "".join(f"{x:22.13E}" for x in row).replace("E", "D") for n, row in rows]

    def blocks(which: list[Term], first: int) -> list[str]:
        lines = []
        for l in range(first, lmax + 1):
            if mine := [t for t in which if t[0] == l]:
                lines.append(f"{l:4d}" + "".join(f"{e:22.13E}" for _, _, e in mine).replace("E", "D"))
                lines += table(*(w for _, w, _ in mine))
        return lines

    nlcc = 0.0 if pp.core_density is None else 4.0
    lines = [
        "a title, 8 of it",
        f"{pp.number:10.4f}  {pp.valence:.4f}  211126   zatom,zion,pspd",
        f"     8      11    {lmax}     4   {points}     0    pspcod,pspxc,lmax,lloc,mmax,r2well",
        f"  5.99  {nlcc}  0.0    rchrg fchrg qchrg",
        "".join(f"{count(scalar, l):6d}" for l in range(5)) + "  nproj",
        f"     {3 if with_spin_orbit else 1}     1   extension_switch",
    ]
    if with_spin_orbit:
        lines.append("".join(f"{count(so, l):6d}" for l in range(1, lmax + 1)) + "   nprojso")
    lines += [*blocks(scalar, 0), "   4", *table(pp.local), *blocks(so, 1)]
    if pp.core_density is not None:
        lines += table(4 * np.pi * pp.core_density, *(0 * pp.r for _ in range(4)))
    n = np.zeros_like(pp.r)
    n[1:] = pp.radial_density[1:] / pp.r[1:] ** 2
    lines += table(n, n, 0 * n)
    if with_input:
        shells = sorted({(s.n, s.l): None for s in pp.shells})
        occupations = {key: sum(s.occupation for s in pp.shells if (s.n, s.l) == key) for key in shells}
        lines += [
            "<INPUT>",
            "# atsym z nc nv iexc psfile",
            f"{pp.symbol} {pp.number} 0 {len(shells)} 4 psp8",
            "# n l f",
        ]
        lines += [f"{n_} {l} {occupations[n_, l]}" for n_, l in shells] + ["</INPUT>"]
    return "\n".join(lines) + "\n"


def psml(pp: Pseudopotential) -> str:
    """Both the set by j and the scalar-relativistic and spin-orbit ones, as ONCVPSP writes them."""
    stop = int(np.searchsorted(pp.r, 6.0))  # functions that have ended stop before the grid does

    def radfunc(values: np.ndarray) -> str:
        data = " ".join(f"{x:.13E}" for x in values)
        return f'<radfunc><data npts="{len(values)}">{data}</data></radfunc>'

    def projectors(name: str, which: list[tuple[int, np.ndarray, float, float | None]]) -> str:
        lines = [f'<nonlocal-projectors set="{name}">']
        for seq, (l, wave, e, j) in enumerate(which, start=1):
            chi = wave.copy()
            chi[1:] /= pp.r[1:]
            chi[0] = chi[1] if l == 0 else 0.0
            spin = "" if j is None else f' j="{j}"'
            lines.append(
                f'<proj l="{"spdf"[l]}"{spin} seq="{seq}" ekb="{e:.15g}" type="oncv">{radfunc(chi[:stop])}</proj>'
            )
        return "".join([*lines, "</nonlocal-projectors>"])

    n = np.zeros_like(pp.r)
    n[1:] = pp.radial_density[1:] / pp.r[1:] ** 2
    n[0] = n[1]
    by_j = [
        (c.l, w, float(e), c.j) for c in pp.relativistic_channels() for w, e in zip(c.waves, c.energies, strict=True)
    ]
    keys = sorted({(s.n, s.l) for s in pp.shells})
    shells = "".join(
        f'<shell n="{n_}" l="{"spdf"[l]}" occupation="{sum(s.occupation for s in pp.shells if (s.n, s.l) == (n_, l))}"/>'
        for n_, l in keys
    )
    core = (
        ""
        if pp.core_density is None
        else f"<pseudocore-charge>{radfunc(4 * np.pi * pp.core_density)}</pseudocore-charge>"
    )
    return f"""<?xml version="1.0" encoding="UTF-8" ?>
<psml version="1.1" energy_unit="hartree" length_unit="bohr" xmlns="http://esl.cecam.org/PSML/ns/1.1">
<pseudo-atom-spec atomic-label={quoteattr(pp.symbol)} atomic-number="{pp.number}" z-pseudo="{pp.valence:g}" relativity="dirac"
 core-corrections="{"yes" if core else "no"}"><exchange-correlation><libxc-info number-of-functionals="2">
<functional name="x" type="exchange" id="101"/><functional name="c" type="correlation" id="130"/>
</libxc-info></exchange-correlation><valence-configuration>{shells}</valence-configuration></pseudo-atom-spec>
<grid npts="{len(pp.r)}"><grid-data>{" ".join(f"{x:.13E}" for x in pp.r)}</grid-data></grid>
<valence-charge total-charge="{pp.valence}">{radfunc(n)}</valence-charge>{core}
<local-potential type="oncv-fit">{radfunc(pp.local[:stop])}</local-potential>
{projectors("scalar_relativistic", [(*t, None) for t in terms(pp.scalar_channels())])}
{projectors("spin_orbit", [(*t, None) for t in spin_orbit(pp)])}
{projectors("lj", by_j)}
</psml>
"""


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def assert_same_levels(made: Pseudopotential, original: Pseudopotential, relativistic: bool = False) -> None:
    """abs: the spline between two grids, and the kinks of projectors that a file ends with zeros."""
    found, expected = (solve_atom(pp, relativistic=relativistic).shells for pp in (made, original))
    assert [(s.n, s.l, s.j) for s in found] == [(s.n, s.l, s.j) for s in expected]
    for a, b in zip(found, expected, strict=True):
        assert a.occupation == pytest.approx(b.occupation, abs=1e-3)
        assert a.energy == pytest.approx(b.energy, abs=2e-5)


# --- psp8


@pytest.mark.parametrize("symbol", ["C", "Na", "Si"])
def test_psp8_gives_the_atom_of_the_upf_file(symbol: str, tmp_path: Path) -> None:
    pp = pseudopotential(symbol)
    made = read_pseudopotential(write(tmp_path, f"{symbol}.psp8", psp8(pp)), symbol)
    assert (made.symbol, made.valence, made.xc, made.fully_relativistic) == (symbol, pp.valence, "pbe", False)
    assert_same_levels(made, pp)


def test_psp8_with_spin_orbit(tmp_path: Path) -> None:
    pp = pseudopotential("Pb")
    made = read_pseudopotential(write(tmp_path, "Pb.psp8", psp8(pp, with_spin_orbit=True)))
    assert made.fully_relativistic
    assert_same_levels(made, pp)
    assert_same_levels(made, pp, relativistic=True)


def test_psp8_without_the_input_of_its_making_fills_shells_in_order(tmp_path: Path) -> None:
    made = read_pseudopotential(write(tmp_path, "Na.psp8", psp8(pseudopotential("Na"), with_input=False)))
    assert [(s.n, s.l, s.occupation) for s in made.shells] == [(2, 0, 2), (3, 0, 1), (2, 1, 6)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[: len(t) // 3], "ends within .*truncated"),
        (lambda t: t[:150], "ends within|not a psp8 file|header is damaged"),
        (lambda t: t.replace("\n     8  ", "\n     6  "), "not a psp8 file"),
        (lambda t: t.replace("\n     3  ", "\n     7  ", 1), "not numbered on a uniform grid"),
        (lambda t: t.replace("2.0000000000000D-02", "2.5000000000000D-02", 1), "not numbered on a uniform grid"),
        (lambda t: _first_energy(t, "0.0"), "energy zero"),
        (lambda t: _first_energy(t, "nan"), "not finite"),
        (lambda t: _first_energy(t, "oops"), "not a number"),
    ],
)
def test_damaged_psp8_is_refused(change, message: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    text = psp8(pseudopotential("C"))
    with pytest.raises(NearsightError, match=message) as error:
        read_pseudopotential(write(tmp_path, "C.psp8", change(text)))
    assert "\n" not in str(error.value)


def _first_energy(text: str, value: str) -> str:
    lines = text.splitlines()
    words = lines[6].split()
    lines[6] = " ".join([words[0], value, *words[2:]])
    return "\n".join(lines)


# --- PSML


@pytest.mark.parametrize("symbol", ["C", "Pb"])
def test_psml_gives_the_atom_of_the_upf_file(symbol: str, tmp_path: Path) -> None:
    pp = pseudopotential(symbol)
    made = read_pseudopotential(write(tmp_path, f"{symbol}.psml", psml(pp)), symbol)
    assert (made.symbol, made.valence, made.xc, made.fully_relativistic) == (symbol, pp.valence, "pbe", True)
    assert_same_levels(made, pp)
    assert_same_levels(made, pp, relativistic=True)


def test_psml_by_j_and_by_spin_orbit_are_one_operator(tmp_path: Path) -> None:
    text = psml(pseudopotential("Pb"))
    start, end = text.index('<nonlocal-projectors set="lj">'), text.index("</psml>")
    both = read_pseudopotential(write(tmp_path, "Pb.psml", text))
    split = read_pseudopotential(write(tmp_path, "Pb2.psml", text[:start] + text[end:]))
    for a, b in zip(both.relativistic_channels(), split.relativistic_channels(), strict=True):
        assert (a.l, a.j) == (b.l, b.j)
        assert np.sort(a.energies) == pytest.approx(np.sort(b.energies), abs=1e-5)


def test_psml_with_scalar_projectors_only(tmp_path: Path) -> None:
    text = psml(pseudopotential("C"))
    start, end = text.index('<nonlocal-projectors set="spin_orbit">'), text.index("</psml>")
    made = read_pseudopotential(write(tmp_path, "C.psml", text[:start] + text[end:]))
    assert not made.fully_relativistic
    assert_same_levels(made, pseudopotential("C"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[: len(t) // 2], "truncated"),
        (lambda t: t.replace("psml", "cml"), "is no pseudopotential|not <psml>"),
        (lambda t: _with_ekb(t, "0.0"), "energy zero"),
        (lambda t: t.replace('energy_unit="hartree"', 'energy_unit="rydberg"'), "a file in hartree and bohr"),
        (lambda t: t.replace("nonlocal-projectors", "nothing"), "no separable projectors"),
        (
            lambda t: t.replace("<local-potential", "<x").replace("</local-potential", "</x"),
            "<local-potential> is missing",
        ),
        (lambda t: t.replace("<shell ", "<shelf "), "states no valence shells"),
        (lambda t: t.replace('n="2" l="s"', 'n="1" l="s"'), "do not fill what is below the shells 1s, 2p"),
    ],
)
def test_damaged_psml_is_refused(change, message: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(NearsightError, match=message) as error:
        read_pseudopotential(write(tmp_path, "C.psml", change(psml(pseudopotential("C")))))
    assert "\n" not in str(error.value)


def _with_ekb(text: str, value: str) -> str:
    start = text.index('ekb="') + 5
    return text[:start] + value + text[text.index('"', start) :]


# --- GTH


@pytest.mark.parametrize(("symbol", "levels"), [("C", (-0.500866, -0.199186)), ("Si", (-0.398139, -0.153293))])
def test_gth_atoms_have_the_levels_of_all_electron_atoms(
    symbol: str, levels: tuple[float, float], tmp_path: Path
) -> None:
    """ns, np in LDA [Ha] from NIST's Atomic Reference Data for Electronic Structure Calculations."""
    atom = solve_atom(read_pseudopotential(write(tmp_path, "GTH_POTENTIALS", GTH), symbol))
    assert [s.energy for s in atom.shells] == pytest.approx(levels, abs=2e-3)
    assert [s.occupation for s in atom.shells] == [2, 2]


def test_gth_copper_is_the_one_named_without_its_electrons(tmp_path: Path) -> None:
    pp = read_pseudopotential(write(tmp_path, "GTH_POTENTIALS", GTH), "Cu", "lda")
    assert pp.valence == 11
    atom = solve_atom(pp)
    assert atom.iterations < 30
    assert [(s.n, s.l, s.occupation) for s in atom.shells] == [(4, 0, 1), (3, 2, 10)]
    assert all(-0.25 < s.energy < -0.15 for s in atom.shells)


def test_gth_projectors_are_normalised(tmp_path: Path) -> None:
    pp = read_pseudopotential(write(tmp_path, "GTH_POTENTIALS", GTH), "Cu")
    assert [b.l for b in pp.betas] == [0, 0, 0, 1, 1, 2]
    assert [np.trapezoid(b.r_beta**2, pp.r) for b in pp.betas] == pytest.approx([1] * 6, abs=1e-6)
    assert pp.coupling[0, 2] == pp.coupling[2, 0] == 0.55872509
    assert pp.local[-1] == pytest.approx(-11 / pp.r[-1])


#: CP2K's data/GTH_POTENTIALS: as hard as they come, and one that it replaced.
HARD = """Mg GTH-PADE-q10_old GTH-LDA-q10_old
    4    6
     0.2    1    -20.0
    0
Mg GTH-PBE-q10 GTH-PBE
    4    6
     0.19275787    2   -20.57539077     3.04016732
    2
     0.14140682    1    41.04729209
     0.10293187    1    -9.98562566
Mg GTH-PBE-q10_old
    4    6
     0.2    1    -20.0
    0
"""


def test_a_hard_gth_potential_is_resolved(tmp_path: Path) -> None:
    """Its projectors are 0.1 Bohr wide. The levels are those of the ONCV potential, and so are the radii."""
    pp = read_pseudopotential(write(tmp_path, "GTH_POTENTIALS", HARD), "Mg", "pbe")
    assert pp.coupling[0, 0] == 41.04729209
    assert pp.wave_number > 30
    made, oncv = (species_from(x, BasisSettings(size="sz")) for x in (pp, pseudopotential("Mg")))
    assert [o.radial.cutoff for o in made.orbitals] == pytest.approx([o.radial.cutoff for o in oncv.orbitals], rel=0.03)
    wave = made.projectors[1].radial
    gaussian = np.exp(-0.5 * (wave.r / 0.10293187) ** 2)
    assert wave.values[:40] / wave.values[0] == pytest.approx(gaussian[:40], abs=2e-3)


def test_gth_core_density(tmp_path: Path) -> None:
    text = GTH.replace("1.22843203\n", "1.22843203\n  NLCC 1\n  0.3  1  20.0\n", 1)
    pp = read_pseudopotential(write(tmp_path, "GTH_POTENTIALS", text), "C")
    assert pp.core_density is not None
    charge = np.trapezoid(4 * np.pi * pp.r**2 * pp.core_density, pp.r)
    assert charge == pytest.approx(20 / (4 * np.pi) * (2 * np.pi * 0.3**2) ** 1.5)


def test_a_folder_with_a_gth_file_makes_species(tmp_path: Path) -> None:
    write(tmp_path, "GTH_POTENTIALS", GTH)
    species = species_from(pseudopotential("C", "lda", tmp_path), BasisSettings())
    own = species_from(pseudopotential("C", "lda"), BasisSettings())
    assert species.shells == own.shells == (0, 0, 1, 1, 2)
    for a, b in zip(species.orbitals, own.orbitals, strict=True):
        assert a.radial.cutoff == pytest.approx(b.radial.cutoff, rel=0.05)
    with pytest.raises(NearsightError, match="no potential of Ge"):
        pseudopotential("Ge", "lda", tmp_path)
    with pytest.raises(NearsightError, match="has no PBE potential of C"):
        pseudopotential("C", "pbe", tmp_path)
    with pytest.raises(NearsightError, match=r"several potentials of Ga \(GTH-PADE-q13, GTH-PADE-q3\)"):
        pseudopotential("Ga", "lda", tmp_path)
    with pytest.raises(NearsightError, match="4 elements; say which"):
        read_pseudopotential(tmp_path / "GTH_POTENTIALS")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GTH[: GTH.index("0.30455321")], "truncated"),
        (GTH[: GTH.index("    2    2")], "truncated"),
        (GTH.replace("9.52284179", "nine"), "'nine' is not a number"),
        (GTH.replace("0.23267730    0", "0.23267730    0  7.0"), "1 numbers more"),
        (GTH.replace("    2    2\n", "    2    1\n"), "leave a core that is not known"),
        ("nothing of the kind\n", "is not a GTH file"),
    ],
)
def test_damaged_gth_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(NearsightError, match=message) as error:
        read_pseudopotential(write(tmp_path, "GTH_POTENTIALS", text), "C")
    assert "\n" not in str(error.value)


# --- together


def test_a_users_folder_takes_every_form(tmp_path: Path) -> None:
    write(tmp_path, "C.psp8", psp8(pseudopotential("C")))
    write(tmp_path, "Si.psml", psml(pseudopotential("Si")))
    assert pseudopotential("C", "pbe", tmp_path).path.suffix == ".psp8"
    assert pseudopotential("Si", "pbe", tmp_path).path.suffix == ".psml"
    write(tmp_path, "C.upf", pseudopotential("C").path.read_text())
    with pytest.raises(NearsightError, match="several UPF or PSP8 files for C"):
        pseudopotential("C", "lda", tmp_path)


def test_a_file_of_no_known_form(tmp_path: Path) -> None:
    with pytest.raises(NearsightError, match="no pseudopotential that is known"):
        read_pseudopotential(write(tmp_path, "C.txt", "hello\n"))
    with pytest.raises(NearsightError, match="no such file"):
        read_pseudopotential(tmp_path / "absent.psp8")
    with pytest.raises(NearsightError, match="holds C, not Si"):
        read_pseudopotential(write(tmp_path, "Si.psp8", psp8(pseudopotential("C"))), "Si")


def test_valence_shells() -> None:
    assert shells_of(26, (4, 6, 6)) == ((3, 0, 2), (4, 0, 2), (3, 1, 6), (3, 2, 6))
    assert shells_of(79, (1, 0, 10)) == ((6, 0, 1), (5, 2, 10))
    assert possible_cores(2) == [(1, 0, 0, 0)]
    assert possible_cores(49) == [(4, 3, 2)]  # Nd with three f electrons in the core
    assert possible_cores(54) == [(5, 4, 2, 0), (4, 3, 2)]  # Xe, or Tb with eight
    assert possible_cores(45) == []
    assert ground_configuration(14, 4) == (2, 2, 0, 0)
    assert ground_configuration(26, 16) == (4, 6, 6, 0)
    assert ground_configuration(82, 14) == (2, 2, 10, 0)
    with pytest.raises(NearsightError, match="core that is not known"):
        shells_of(14, (2, 1))


def test_an_angular_momentum_without_projectors_binds_nothing(tmp_path):
    """A strength of zero leaves a channel of no projectors, which has no lowest energy."""
    text = GTH[GTH.index("Si GTH") : GTH.index("#\nCu")]
    path = tmp_path / "Si.gth"
    path.write_text(text.replace("2.72701346", "0.0"))
    assert path.read_text() != text
    assert [len(c.energies) for c in sound_channels(read_pseudopotential(path))][-1] == 0
