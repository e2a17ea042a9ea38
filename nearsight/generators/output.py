"""Generated structures on the disk: one file, or a folder of them, each with how it was made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearsight.core.errors import BadInput
from nearsight.core.structure import Structure
from nearsight.formats.files import read_json, sweep, whole_file, whole_folder, write_json
from nearsight.formats.outputs import can_write, claim_file, claim_folder
from nearsight.formats.structures import INDEX, provenance_place

if TYPE_CHECKING:
    from ase import Atoms

#: ending of a file -> ASE's name of its format, and whether it holds several structures
ENDINGS = {
    ".extxyz": ("extxyz", True),
    ".xyz": ("extxyz", True),
    ".traj": ("traj", True),
    ".vasp": ("vasp", False),
    ".cif": ("cif", False),
    ".xsf": ("xsf", False),
}
_TELLS = ("extxyz", "traj")


def claim(out: Path | str, inputs: Iterable[Path | str] = (), several: bool = False) -> Path:
    """Where structures may be written: a file by its ending, else a folder. Nothing is left on the disk.

    Raises BadInput for a place that is taken, an ending that is not known, or several structures in a file for one;
    Unavailable for a place that cannot be written.
    """
    path = Path(out)
    sweep(path)  # of a writer that died, when all was in its place too
    if path.exists():
        raise BadInput(f"{out} is there already: remove it, or name another place with -o")
    if not path.suffix:
        claim_folder(path, "structures", inputs)
        return path
    claim_file(path, ENDINGS)
    if several and not ENDINGS[path.suffix.lower()][1]:
        raise BadInput(f"{out} holds one structure, several are made: name a folder, or a file that ends in .extxyz")
    beside = provenance_place(path)
    if not _tells(path) and beside.exists() and not _is_of_a_dead_writer(beside):
        raise BadInput(f"{beside} is there already: remove it, or name another place with -o")
    can_write(path, str(out))
    return path


def _is_of_a_dead_writer(beside: Path) -> bool:
    """Whether a file tells how a structure was made that is not there: it is written first, the structure last."""
    try:
        told = read_json(beside)
    except BadInput:
        return False
    return isinstance(told, dict) and "generator" in told


def _tells(path: Path) -> bool:
    return ENDINGS[path.suffix.lower()][0] in _TELLS


def write_structures(out: Path | str, structures: Sequence[Structure], inputs: Iterable[Path | str] = ()) -> Path:
    """Write structures where `claim` allows: whole or not at all. Raises as `claim` does."""
    path = claim(out, inputs, len(structures) > 1)
    if path.suffix and not _tells(path) and any(s.provenance.get("generator") == "moments" for s in structures):
        raise BadInput(
            f"{out} has no place for magnetic moments: name a file that ends in .extxyz or .traj, or a folder"
        )
    if not path.suffix:
        width = max(4, len(str(len(structures) - 1)))
        names = [f"{n:0{width}d}.extxyz" for n in range(len(structures))]
        with whole_folder(path) as part:
            for name, s in zip(names, structures, strict=True):
                _write(part / name, [s], "extxyz")
            told = [{"file": name, **s.provenance} for name, s in zip(names, structures, strict=True)]
            (part / INDEX).write_text(json.dumps({"schema_version": 1, "structures": told}, indent=1) + "\n")
        return path
    if not _tells(path):
        write_json(provenance_place(path), structures[0].provenance)
    with whole_file(path) as part:
        _write(part, structures, ENDINGS[path.suffix.lower()][0])
    return path


def _write(path: Path, structures: Sequence[Structure], kind: str) -> None:
    import ase.io

    images: list[Atoms] = [s.to_ase() for s in structures]
    for atoms in images:
        atoms.info = {k: v for k, v in atoms.info.items() if v is not None}
    more: dict[str, Any] = {"direct": False} if kind == "vasp" else {}
    ase.io.write(path, images if len(images) > 1 else images[0], format=kind, **more)
