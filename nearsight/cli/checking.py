"""`nearsight check`: is a calculation, or every one of a folder, sound; in words, as JSON, or as a page with pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nearsight.cli.console import console, print_json, spinner
from nearsight.core.errors import BadInput, NearsightError

if TYPE_CHECKING:
    from nearsight.report.page import Entry

MOST_PICTURES = 40  # sound calculations of one page that have pictures; broken ones always have


def check(
    folder: Annotated[Path, typer.Argument(help="A calculation in any format that is known, or a folder of them.")],
    html: Annotated[
        Path | None, typer.Option(help="Write a page with pictures of the matrices here.", metavar="FILE.html")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Is a calculation sound, in its orders, signs, units, symmetry and levels? Exit 1 if not, with what would mend it."""
    from nearsight.formats.outputs import claim_file
    from nearsight.formats.registry import find, list_folders, read_unchecked
    from nearsight.properties.check import check as examine

    if html is not None:
        claim_file(html, [".html", ".htm"])
    places = list_folders(folder) if folder.is_dir() and find(folder) is None else [folder]
    broken: list[tuple[Path, str]] = []
    told: dict[str, Any] = {}
    entries: list[Entry] = []
    for place in places:
        with spinner(f"checking {place.name}"):
            try:
                calculation = read_unchecked(place)
                findings = examine(calculation)
            except NearsightError as error:
                if len(places) == 1:
                    raise
                calculation, findings = None, []
                broken.append((place, str(error)))
            if html is not None:
                fault = broken[-1][1] if calculation is None else ""
                entries.append(_entry(place.name or str(place), findings, calculation, fault, entries))
        broken += [(place, f"{f.law} is broken ({f.found})") for f in findings if not f.holds]
        told[place.name] = {"sound": all(f.holds for f in findings), "findings": [f.to_json() for f in findings]}
        if not json and len(places) == 1:
            for f in findings:
                sign = "[green]holds[/]" if f.holds else "[bold red]broken[/]"
                console().print(f"{sign:<20} {f.law}: {f.found}", highlight=False, soft_wrap=True)
        elif not json:
            wrong = [words for where, words in broken if where == place]
            console().print(
                f"{place.name}: {'; '.join(wrong) or 'sound'}", highlight=False, soft_wrap=True, markup=False
            )
    if html is not None:
        from nearsight.report.page import write_page

        write_page(html, entries)
    if json:
        print_json(told[places[0].name] if len(places) == 1 else told)
    elif html is not None:
        print(f"page in {html}")
    if broken:
        count = len({place for place, _ in broken})
        more = f" ({count} of {len(places)} are not)" if len(places) > 1 else ""
        raise BadInput(f"{broken[0][0]} is not sound: {broken[0][1]}{more}")


def _entry(name: str, findings: list[Any], calculation: Any, fault: str, before: list[Entry]) -> Entry:
    """With pictures for the first calculations, and for those that are broken."""
    from nearsight.properties.portrait import Portrait
    from nearsight.report.page import Entry

    if calculation is None:
        return Entry(name, fault=fault)
    drawn = len(before) < MOST_PICTURES or any(not f.holds for f in findings)
    try:
        portrait = Portrait.of(calculation) if drawn else None
    except NearsightError:  # what is broken is told by the findings
        portrait = None
    return Entry.of(name, findings, calculation, portrait)
