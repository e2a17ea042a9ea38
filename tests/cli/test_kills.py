"""A few kills of the bench of kills: the old result or the new one is whole, and the next run leaves nothing behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CASES = ("example", "convert over old")


@pytest.mark.skipif(shutil.which("cc") is None, reason="the bench preloads a library in C")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the bench looks at /proc")
def test_a_kill_at_any_event_loses_nothing(tmp_path: Path) -> None:
    told = tmp_path / "kills.json"
    command = [sys.executable, "bench/kills.py", *CASES, "--most", "3", "--states", "6", "--results", str(told)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    rows = json.loads(told.read_text())["cases"]
    assert all(row["kills"] == row["alike"] == 3 and row["tried"] >= 4 for row in rows.values())
    assert all(row["lost"] == row["leftovers"] == 0 for row in rows.values())
    assert rows["example"]["every"] and {"old", "new"} <= {
        kind for row in rows.values() for kind in ("old", "new") if row[kind]
    }
