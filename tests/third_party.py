"""Distributions of third parties that exist for a test: a module and the entry points that announce its parts.

    def test_a_foreign_format(third_party):
        third_party("nearsight.formats", toy="toy_package:ToyFormat", source=SOURCE)

`tests/conftest.py` makes `third_party` a fixture of every test.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from nearsight.core import registry

Install = Callable[..., Path]


@pytest.fixture
def third_party(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Install]:
    """Install a distribution into a folder on `sys.path` (and PYTHONPATH, for processes that the test starts).

    third_party(group, source=None, **parts): group: "nearsight.formats", ....  parts: kind="module:name".
    source: text of the module, whose name is that of the first part's; None where parts name modules that are there
    already.  Returns the folder. May be called several times; all is gone after the test.
    """
    made: list[str] = []

    def install(group: str, source: str | None = None, **parts: str) -> Path:
        module = next(iter(parts.values())).partition(":")[0]
        folder = tmp_path_factory.mktemp("site")
        if source is not None:
            (folder / f"{module}.py").write_text(dedent(source))
            made.append(module)
        info = folder / f"{folder.name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {folder.name}\nVersion: 1.0\n")
        lines = [f"[{group}]", *(f"{kind} = {place}" for kind, place in parts.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", str(folder), prepend=":")
        registry.forget()
        return folder

    with pytest.MonkeyPatch.context() as patch:
        yield install
    for module in made:
        sys.modules.pop(module, None)
    registry.forget()
