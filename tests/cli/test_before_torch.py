"""Names of files, places of results and keys are checked before PyTorch loads; Ctrl-C while modules load is one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DATA = Path(__file__).parents[1] / "formats" / "data" / "version1"
S, M, ALL = str(DATA / "set" / "0001"), str(DATA / "model"), str(DATA / "set")
SCRIPT = (
    "import sys\n"
    "from nearsight.cli import main\n"
    "for line in sys.stdin.read().splitlines():\n"
    "    sys.argv = ['nearsight', *line.split()]\n"
    "    try: main()\n"
    "    except SystemExit as end: assert end.code == 1, (line, end.code)\n"
    "    else: raise AssertionError(line)\n"
    "    assert 'torch' not in sys.modules, line\n"
)
COMMANDS = f"""\
scf no.xyz -o o
scf no.xyz/3 -o o
scf h2.xyz -o h2.xyz/x
scf h2.xyz -o o --config no.yaml
scf h2.xyz -o o --species no
scf h2.xyz -o o --restart no
scf h2.xyz -o o --start no
scf h2.xyz -o o --trace h2.xyz
scf h2.xyz -o o --set kmehs=1
scf h2.xyz -o o --xc pbee
bands no
bands {S} no
bands {S} -o x.txt
bands {S} --window 1 -1
dos no --width 0.1
gap no
charges no --json x
compare {S} no
compare no {S}
check no
density no -o n.cube
density {S} -o n.txt
density {S} -o n.cube --band 1
predict no h2.xyz -o p
predict {M} no.xyz -o p
train no.yaml -o m
dataset build no.yaml -o s
dataset list no
convert no x
overlap no.xyz -o x
relax no.xyz -o r
md no.xyz -o r
example no
structures rattle no.xyz -o r.extxyz
scf {ALL} -o o
scf {M} -o o
scf empty -o o
scf h2.xyz -o o --restart {M}
scf h2.xyz -o o --start {S}
scf h2.xyz -o=o
scf h2.xyz -o o --set basis=sz --set basis=dz
relax {ALL} -o o
overlap {M} -o o
predict {ALL} h2.xyz -o p
predict {M} {M} -o p
bands {M}
gap {M}
check {M}
compare {S} {M}
convert {M} x
dataset list {M}
"""


@pytest.mark.parametrize(
    "words",
    [
        "scf h2.xyz -o a -o b",
        "scf h2.xyz -o o --forces --no-forces",
        "dataset split s --seed 1 --seed 2",
        "structures no",
    ],
)
def test_usage_errors_are_told_before_torch_loads(tmp_path: Path, words: str) -> None:
    """An option that takes one value and stands twice is one: the last value would win without a word."""
    script = SCRIPT.replace("end.code == 1", "end.code == 2")
    done = subprocess.run([sys.executable, "-c", script], input=words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stderr.splitlines()) == 1


def test_what_is_wrong_is_told_before_torch_loads(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "h2.xyz").write_text("2\nx\nH 0 0 0\nH 0 0 0.74\n")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=COMMANDS, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stderr.splitlines()
    assert len(lines) == len(COMMANDS.splitlines())
    assert all(line.startswith("error: ") for line in lines)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "h2.xyz"]


@pytest.mark.parametrize("module", ["typer", "nearsight.cli.process", "nearsight.cli.commands"])
def test_an_interrupt_while_modules_load_is_one_line(module: str) -> None:
    script = (
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "import nearsight.cli\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "error: stopped; the same command goes on from here\n"
