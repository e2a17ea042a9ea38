"""Files of orbitals in the forms of other programs, made from a species of ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nearsight.core.species import Species
from nearsight.integrals.splines import radial_values


def orb_text(species: Species, spacing: float = 0.01, scale: float = 1.0) -> str:
    """ABACUS's .orb with the first orbitals of each l, on one grid to the longest radius."""
    shells = [[o for o in species.orbitals if o.l == l] for l in range(max(species.shells) + 1)]
    points = round(species.orbital_cutoff / spacing) + 2
    r = spacing * np.arange(points)
    rule = "-" * 75
    lines = [rule, f"Element                     {species.symbol}", "Energy Cutoff(Ry)          100"]
    lines += [f"Radius Cutoff(a.u.)         {r[-1]:g}", f"Lmax                        {len(shells) - 1}"]
    lines += [f"Number of {'SPDF'[l]}orbital-->       {len(own)}" for l, own in enumerate(shells)]
    lines += [
        rule,
        "SUMMARY  END",
        "",
        f"Mesh                        {points}",
        f"dr                          {spacing:g}",
    ]
    for l, own in enumerate(shells):
        for n, o in enumerate(own):
            lines += ["                Type                   L                   N", f"{0:20d}{l:20d}{n:20d}"]
            values = scale * radial_values(o.radial, r) * r**l
            lines += [" ".join(f"{v:.14e}" for v in values[k : k + 4]) for k in range(0, points, 4)]
    return "\n".join(lines) + "\n"


def pao_text(species: Species, points: int = 1500, columns: int = 3, cutoff: float | None = None) -> str:
    """OpenMX's .pao: the first orbitals of each l, then columns of another function, on a logarithmic grid."""
    cutoff = cutoff or species.orbital_cutoff
    x = np.linspace(-7.8, np.log(1.5 * cutoff), points)
    r = np.exp(x)
    lines = [
        "number.optpao 1",
        "# made up",
        "",
        f"AtomSpecies             {species.number}",
        f"valence.electron {species.valence}",
    ]
    lines += [
        f"radial.cutoff.pao   {cutoff:.15g}    # default=5.0 (Bohr)",
        "",
        f"PAO.Lmax {max(species.shells)}",
        f"PAO.Mul {columns}",
    ]
    for l in range(max(species.shells) + 1):
        own = [radial_values(o.radial, r) * r**l for o in species.orbitals if o.l == l][:columns]
        own += [0.1 * np.exp(-r) * np.cos(9 * r)] * (columns - len(own))
        lines.append(f"<pseudo.atomic.orbitals.L={l}")
        lines += [
            f"{a:.15f} {b:.15f} " + " ".join(f"{f[n]:.15f}" for f in own)
            for n, (a, b) in enumerate(zip(x, r, strict=True))
        ]
        lines.append(f"pseudo.atomic.orbitals.L={l}>")
    return "\n".join(lines) + "\n"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path
