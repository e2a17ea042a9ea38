"""YAML of configurations: what it may say, and what is refused in one line, at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nearsight.core.configuration import override, read_table
from nearsight.core.display import shown
from nearsight.core.errors import BadInput
from nearsight.core.yaml import load_yaml


def laughs(value: str = "x") -> str:
    """A kilobyte that stands for 9^10 words."""
    lines = [f"xc:\n  - &a0 [{','.join([value] * 9)}]\n"]
    lines += [f"  - &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)]
    return "".join(lines)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1e-5\nb: [1, 2]\nc: {d: null}", {"a": 1e-5, "b": [1, 2], "c": {"d": None}}),
        ("base: &b {x: 1, y: 2}\nc:\n  <<: *b\n  y: 3", {"base": {"x": 1, "y": 2}, "c": {"x": 1, "y": 3}}),
        ("No: 2\n1: 3", {"No": 2, "1": 3}),  # nobelium, and keys are text
        ("structure: 2024-01-01", {"structure": "2024-01-01"}),
        ("a: [&x 1, *x]", {"a": [1, 1]}),
        ("", None),
    ],
)
def test_what_is_read(text: str, value: object) -> None:
    assert load_yaml(text, "f") == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (laughs(), "stands for more than 100000 values"),
        ("[" * 100_000, "nested more than 24 deep"),
        ("x: " + "{a: " * 30 + "1" + "}" * 30, "nested more than 24 deep"),
        ("x: &a [*a]", "stands within what it names"),
        ("x: *a", "undefined alias"),
        ("a: 1\na: 2", "the key a stands twice"),
        ("s: {b: 1, b: 2}", "the key b stands twice"),
        ("? [a]\n: b", "a key must be a word"),
        ("x: 010", "octal"),
        ("x: 1:30", "base of 60|of base 60"),
        ("x: " + "9" * 5000, "digits"),
        ("x: 0x" + "f" * 3000, "so many digits"),
        ("x: !!python/object:os.system y", "could not determine a constructor"),
        ("x: !!binary abc", "base64"),
        ("a: 1\n---\nb: 2", "another document"),
        ("x: [1, 2", "not a YAML file"),
        ("# " + "x" * 2_000_000, "no configuration"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message) as error:
        load_yaml(text, "f")
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_words_are_bounded_as_files_are() -> None:
    for word in ("a=" + "[" * 50_000, "a=[1, ", ".".join("a" * 50) + "=1", "a=&x [*x]", "xc"):
        with pytest.raises(BadInput) as error:
            override({}, [word])
        assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\0\0", b"xc: \xff\xfe", b"xc: p\0be", b"\xff\xfex\0c\0:\0"])
def test_files_that_are_no_text(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(BadInput, match="is not a YAML file"):
        read_table(tmp_path / "c.yaml")


def test_files_that_never_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in ((tmp_path / "pipe", "a pipe"), (Path("/dev/zero"), "device"), (tmp_path, "a folder")):
        with pytest.raises(BadInput, match=message):
            read_table(path)
    with (tmp_path / "huge.yaml").open("wb") as file:
        file.truncate(10**12)  # holes: nothing is on the disk
    with pytest.raises(BadInput, match="MiB"):
        read_table(tmp_path / "huge.yaml")


def test_values_are_shown_short() -> None:
    assert shown("pbe") == "'pbe'"
    assert len(shown(["x" * 1000] * 1000)) < 700
    assert shown(10**9999) == "a int"
