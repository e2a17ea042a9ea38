"""`n_atoms < 20 and "C" in elements`: which entries of a data set are meant. Parsed, checked and never evaluated as code."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nearsight.core.configuration import near_miss
from nearsight.core.errors import BadInput
from nearsight.formats.sets.entry import Entry

#: what may be asked for, and what it is
NAMES: dict[str, str] = {
    "name": "of the folder",
    "formula": "such as H2O",
    "composition": "reduced, elements by name",
    "elements": "a set of symbols",
    "n_atoms": "",
    "n_orbitals": "",
    "n_electrons": "",
    "charge": "e",
    "spin": "none, collinear or spinor",
    "functional": "",
    "basis": "",
    "energy": "total, eV",
    "energy_per_atom": "eV",
    "fermi": "eV",
    "gap": "eV",
    "converged": "true or false",
    "residual": "eV",
    "max_h": "largest element of |H|, eV",
    "shortest": "distance of atoms, angstrom",
    "reach": "longest distance of a pair, angstrom",
    "matrices": "a set of names",
    "parent": "",
    "prototype": "",
    "program": "",
    "version": "",
    "source": "",
    "engine": "",
    "tries": "",
    "added": "seconds since 1970",
}
LONGEST = 1000  # characters
_WORDS = {"true": True, "false": False, "none": None}
_COMPARED: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_COMPUTED: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@dataclass(frozen=True)
class Where:
    """A condition on entries. said: what it was given as, and the condition.  names: columns that it asks for."""

    said: str
    tree: ast.expr
    names: frozenset[str]

    @staticmethod
    def parse(text: str, key: str = "--where") -> Where:
        """Comparisons of columns with numbers, texts and {sets}, `in`, + - * /, joined by and, or, not and brackets.

        Raises BadInput, in one line with the columns, for anything else.
        """
        text = text.strip()
        said = f"{key} {text[:80]!r}"
        if not text or len(text) > LONGEST:
            raise _refused(said, f"write a condition of at most {LONGEST} characters")
        try:
            tree = ast.parse(text, mode="eval").body
            names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} - set(_WORDS)
            _check(tree, said)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            hint = " (equality is ==)" if "=" in text and "==" not in text else ""
            raise _refused(said, f"it cannot be read{hint}") from error
        return Where(said, tree, frozenset(names))

    def __call__(self, entry: Entry) -> bool:
        """Whether an entry is meant. What is not known is neither above nor below anything.

        Raises BadInput for a comparison that makes no sense, such as of a text with a number.
        """
        known = {n: getattr(entry, n) for n in self.names}
        for name in ("elements", "matrices"):
            if name in known:
                known[name] = frozenset(known[name])
        try:
            return bool(_value(self.tree, known))
        except TypeError as error:
            raise _refused(self.said, f"it compares what cannot be compared ({error})") from error


def _refused(said: str, why: str) -> BadInput:
    return BadInput(f"{said}: {why}; columns: {', '.join(NAMES)}")


def _check(node: ast.AST, said: str) -> None:
    """Raises BadInput for a part of the expression that is not in the list of what is known."""
    if isinstance(node, ast.Name):
        if node.id not in NAMES and node.id not in _WORDS:
            raise _refused(said, f"unknown column {node.id[:40]}{near_miss(node.id, NAMES)}; text stands in quotes")
    elif isinstance(node, ast.Constant):
        if not isinstance(node.value, str | int | float | None) or len(str(node.value)) > 200:
            raise _refused(said, "values are numbers, texts, true, false and none")
    elif isinstance(node, ast.BoolOp | ast.Compare | ast.Set | ast.List | ast.Tuple):
        for inner in ast.iter_child_nodes(node):
            if isinstance(inner, ast.expr):
                _check(inner, said)
        if isinstance(node, ast.Compare) and any(type(op) not in _COMPARED for op in node.ops):
            raise _refused(said, "compare by == != < <= > >= in, not in")
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        _check(node.operand, said)
    elif isinstance(node, ast.BinOp) and type(node.op) in _COMPUTED:
        _check(node.left, said)
        _check(node.right, said)
    else:
        raise _refused(said, f"{ast.unparse(node)[:40]} is no comparison")


def _value(node: ast.AST, known: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return known[node.id] if node.id in known else _WORDS[node.id]
    if isinstance(node, ast.Set | ast.List | ast.Tuple):
        return frozenset(_value(x, known) for x in node.elts)
    if isinstance(node, ast.BoolOp):
        found = (bool(_value(x, known)) for x in node.values)
        return all(found) if isinstance(node.op, ast.And) else any(found)
    if isinstance(node, ast.UnaryOp):
        inner = _value(node.operand, known)
        if isinstance(node.op, ast.Not):
            return not inner
        return None if inner is None else -inner
    if isinstance(node, ast.BinOp):
        a, b = _value(node.left, known), _value(node.right, known)
        if a is None or b is None or (isinstance(node.op, ast.Div) and b == 0):
            return None
        if not all(isinstance(x, int | float) for x in (a, b)):
            raise TypeError("+ - * / are of numbers")
        return _COMPUTED[type(node.op)](a, b)
    assert isinstance(node, ast.Compare)
    left = _value(node.left, known)
    for op, other in zip(node.ops, node.comparators, strict=True):
        right = _value(other, known)
        if not _holds(op, left, right):
            return False
        left = right
    return True


def _holds(op: ast.cmpop, left: Any, right: Any) -> bool:
    if isinstance(op, ast.Eq | ast.NotEq):
        return _COMPARED[type(op)](left, right)
    if right is None or (left is None and not isinstance(op, ast.In | ast.NotIn)):
        return False
    if isinstance(op, ast.In | ast.NotIn) and isinstance(right, str) and not isinstance(left, str):
        return isinstance(op, ast.NotIn)
    return _COMPARED[type(op)](left, right)
