"""Some tries of the fuzz bench: whatever goes wrong in a file is refused in one line, or what is read is sound."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SLOW = ("model", "sealed", "samples", "resumed", "h0", "setup")  # a fifth of the tries


def test_files_that_went_wrong(tmp_path: Path) -> None:
    """In processes of their own, where a crash, a hang or a hunger for memory is seen and harms nothing."""
    told = tmp_path / "fuzz.json"
    command = [sys.executable, "bench/fuzz.py", "all", "12", "--slow", *SLOW, "--results", str(told)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    readers = json.loads(told.read_text())["readers"]
    assert sum(row["tries"] for row in readers.values()) > 300
    assert all(row["refused"] + row["accepted"] == row["tries"] for row in readers.values())
    assert sum(row["refused"] for row in readers.values()) > 100
