"""Pseudopotential files of any form, told apart by one table: our own forms, and third parties' by entry point."""

from __future__ import annotations

import os
from pathlib import Path

from nearsight.core import registry
from nearsight.core.errors import STUMBLES, BadInput, NearsightError
from nearsight.core.reading import regular_file
from nearsight.formats.files import first_line
from nearsight.formats.pseudopotential import Pseudopotential, PseudopotentialFormat
from nearsight.formats.soundness import check_pseudopotential
from nearsight.formats.xml import LARGEST

GROUP = "pseudopotentials"
_HEAD = 4096  # bytes that a form is recognised by


def forms() -> list[PseudopotentialFormat]:
    """All forms, in the order in which a file is asked whether it is one. Raises Unavailable as `core.registry.load`."""
    return [registry.load(GROUP, kind)() for kind in registry.kinds(GROUP)]


def read_pseudopotential(
    path: str | os.PathLike[str], symbol: str | None = None, xc: str | None = None
) -> Pseudopotential:
    """A pseudopotential file of any form that is known, told by its content: UPF version 2, PSML, GTH, psp8.

    symbol: the element that is meant; needed for a GTH file of many, an error if another one is in the file.
    xc: chooses among the potentials of a GTH file; the others state their functional, in `Pseudopotential.xc`.
    Raises BadInput: see the readers; a file of no such form; a pseudopotential that cannot be: see `soundness`.
    """
    path = Path(path)
    regular_file(path, LARGEST, "pseudopotential file")
    with path.open("rb") as file:
        head = file.read(_HEAD)
    known = forms()
    form = next((f for f in known if f.recognises(path, head)), None)
    if form is None:
        names = [f.name for f in known]
        raise BadInput(
            f"{path}: is no pseudopotential that is known here; {', '.join(names[:-1])} and {names[-1]} files are read"
        )
    try:
        pp = form.read(path, symbol, xc)
    except NearsightError:
        raise
    except STUMBLES as error:
        raise BadInput(
            f"{path} is not whole, or is not what {form.name} files are: {first_line(error):.120}"
        ) from error
    if symbol is not None and pp.symbol != symbol:
        raise BadInput(f"{path}: holds {pp.symbol}, not {symbol}; rename the file")
    return check_pseudopotential(pp)
