"""What is fuzzed: every reader by its name.

An oracle is independent of the checks it tests: quadratures by splines, ASE's neighbour lists, numpy's eigenvalues, or what
came of the file before it was altered.
"""

from fuzzed import atoms, bases, calculations, models, structures, tables, tasks
from fuzzed.contract import Fuzzed, Unsound

READERS: dict[str, Fuzzed] = {
    name: reader
    for part in (atoms, bases, calculations, structures, tables, tasks, models)
    for name, reader in part.READERS.items()
}
__all__ = ["READERS", "Fuzzed", "Unsound"]
