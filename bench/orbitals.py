"""The orbitals of every element of the pseudopotential library, as the table of docs/orbitals.md.

    python bench/orbitals.py [--out docs/orbitals.md]

Rewrites what stands between the two marks of the page, and leaves the rest.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nearsight.atoms.library import available
from nearsight.atoms.orbitals import BasisSettings, generate_species
from nearsight.core.errors import NearsightError
from nearsight.core.species import Species

BEGIN, END = "<!-- table: python bench/orbitals.py -->", "<!-- end of table -->"
SIZES = ("light", "standard", "tight")
FUNCTIONALS = ("pbe", "pbesol", "lda")


def made(symbol: str, basis: BasisSettings) -> tuple[Species | None, str]:
    """The species for the first functional whose file can be used, and that functional."""
    for xc in FUNCTIONALS:
        try:
            return generate_species(symbol, xc, basis), xc
        except NearsightError:
            continue
    return None, ""


def shells(species: Species) -> str:
    """Each shell with the radii of its zetas [Bohr]; polarisation shells with a star."""
    found: dict[str, list[str]] = {}
    for o in species.orbitals:
        name = f"{o.n}{'spdf'[o.l]}{'*' if o.polarization else ''}"
        found.setdefault(name, []).append(f"{o.radial.cutoff:.1f}")
    return ", ".join(f"{name} {'/'.join(radii)}" for name, radii in found.items())


def row(symbol: str) -> str:
    """One line of the table."""
    species = {size: made(symbol, BasisSettings(size=size)) for size in SIZES}  # type: ignore[arg-type]
    standard, xc = species["standard"]
    if standard is None:
        return f"| {symbol} | refused | | | | | |"
    before, _ = made(symbol, BasisSettings(size="dzp", rule=1))
    counts = [species[size][0].orbital_count for size in SIZES]
    radii = [f"{species[size][0].orbital_cutoff:.1f}" for size in SIZES]
    name = symbol if xc == "pbe" else f"{symbol} ({xc})"
    old = "" if before is None else before.orbital_count
    costs = "" if before is None else " / ".join(f"{cost(species[size][0], before):.1f}" for size in SIZES)
    return f"| {name} | {shells(standard)} | {' / '.join(map(str, counts))} | {old} | {' / '.join(radii)} | {costs} |"


def cost(species: Species, before: Species) -> float:
    """Elements of the matrices beside those of rule 1: orbitals squared times the volume of a sphere of the longest radius."""
    count, radius = (getattr(species, k) / getattr(before, k) for k in ("orbital_count", "orbital_cutoff"))
    return float(count**2 * radius**3)


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs/orbitals.md")
    arguments = parser.parse_args()
    elements = sorted({s for xc in FUNCTIONALS for s in available(xc)}, key=_number)
    lines = [
        "| element | shells of `standard`, radii in Bohr | orbitals: light / standard / tight "
        "| rule 1, dzp | longest radius: light / standard / tight | matrix elements over rule 1's: light / standard / tight |",
        "|---|---|---|---|---|---|",
        *(row(s) for s in elements),
    ]
    text = arguments.out.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    arguments.out.write_text(
        head + BEGIN + "\n\n" + "\n".join(lines) + "\n\n" + END + rest.split(END)[1], encoding="utf-8"
    )


def _number(symbol: str) -> int:
    from ase.data import atomic_numbers

    return int(atomic_numbers[symbol])


if __name__ == "__main__":
    main()
