"""The tables of docs/orbitals.md and docs/benchmarks.md, from the results of bench/eos.py.

    python bench/eos_tables.py [--results bench/results/eos_all.json]

Rewrites what stands between the marks of both pages, and leaves the rest: of the preset `standard` by today's rule.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from eos import RESULTS

from nearsight.atoms.sizes import RULE
from nearsight.formats.files import read_json

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = {
    "orbitals.md": ("<!-- figures: python bench/eos_tables.py -->", "<!-- end of figures -->"),
    "benchmarks.md": ("<!-- figures of orbitals.md, short -->", "<!-- end of short figures -->"),
}
FORMS = "FCC BCC SC Diamond XO X2O XO2 XO3 X2O3 X2O5".split()


def three(rows: list[dict], key: str) -> str:
    """Mean, median and largest of absolute values."""
    values = [abs(r[key]) for r in rows]
    return f"{statistics.mean(values):.2f}, {statistics.median(values):.2f}, {max(values):.2f}"


def line(name: str, rows: list[dict]) -> str:
    """Ours with SIESTA's of the same systems in brackets."""
    v, b = "volume_error_percent", "bulk_modulus_error_percent"
    return (
        f"| {name} | {len(rows)} | {three(rows, v)} | {three(rows, f'siesta_{v}')} | {three(rows, f'plane_wave_{v}')} "
        f"| {three(rows, b)} | {three(rows, f'siesta_{b}')} | {statistics.mean(r['orbitals_over_rule_1'] for r in rows):.2f} |"
    )


def summaries(rows: list[dict]) -> list[str]:
    """All systems, the halves by element, the forms."""
    elements = sorted({r["system"].split("-")[0] for r in rows})
    parts = {
        "all": rows,
        "half A": [r for r in rows if r["system"].split("-")[0] in elements[::2]],
        "half B": [r for r in rows if r["system"].split("-")[0] in elements[1::2]],
        "elements": [r for r in rows if "O" not in r["system"].split("-")[1]],
        "oxides": [r for r in rows if "O" in r["system"].split("-")[1]],
        **{form: [r for r in rows if r["system"].split("-")[1] == form] for form in FORMS},
    }
    return [
        "| | systems | V0, %: mean, median, largest | SIESTA | plane waves | B0, % | SIESTA | orbitals over rule 1's |",
        "|---|---|---|---|---|---|---|---|",
        "| asked, of all | 190 | 0.8, 0.5, 4 | (1.21, 0.67, 17.88) | (0.24, 0.14) | 3.5, 1.4 | (4.1, 1.4) | 1.3 |",
        *(line(name, part) for name, part in parts.items() if part),
    ]


def by_system(rows: list[dict]) -> list[str]:
    """Each system's errors."""
    order = {form: n for n, form in enumerate(FORMS)}
    keys = [f"{w}{q}_error_percent" for q in ("volume", "bulk_modulus") for w in ("", "siesta_", "plane_wave_")]
    return [
        "| error, % | V0 | SIESTA | plane waves | B0 | SIESTA | plane waves |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {r['system']} | " + " | ".join(f"{r[k]:+.2f}" for k in keys[:3]) + " | "
            + " | ".join(f"{r[k]:+.1f}" for k in keys[3:]) + " |"
            for r in sorted(rows, key=lambda r: (r["system"].split("-")[0], order[r["system"].split("-")[1]]))
        ),
    ]  # fmt: skip


def main() -> None:
    """Rewrite both pages."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--results", type=Path, default=RESULTS / "eos_all.json")
    table = read_json(parser.parse_args().results)
    today = {"size": "standard", "rule": RULE}.items()
    entry = max((e for e in table.values() if today <= e["settings"]["basis"].items()), key=lambda e: len(e["rows"]))
    rows = [r for r in entry["rows"].values() if "failed" not in r]
    short = summaries(rows)
    for page, (begin, end) in PAGES.items():
        text = (DOCS / page).read_text(encoding="utf-8")
        head, rest = text.split(begin)
        _, tail = rest.split(end)
        lines = short if page == "benchmarks.md" else [*short, "", *by_system(rows)]
        (DOCS / page).write_text(f"{head}{begin}\n\n" + "\n".join(lines) + f"\n\n{end}{tail}", encoding="utf-8")
    print("\n".join(short))


if __name__ == "__main__":
    main()
