"""Every state that a folder has while a command runs: what a SIGKILL before each of its events would leave behind.

A killed process has done what it had done and no more, so that the folder as it is before an event is what a kill there leaves.
One run that is held at each event therefore shows all of them. Equal states are one: many events (opening, flushing) alter
nothing.  States that differ in nothing but the bytes of files within `.NAME.xxxxxxxx.part` are one kind: the next writer of
NAME removes these unread.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

PART = re.compile(r"\.[a-z0-9_]{8}\.part")


def copied(source: Path, target: Path) -> None:
    """A folder with its times and hard links, in place of what is at the target."""
    subprocess.run(["rm", "-rf", str(target)], check=True)
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


@dataclass(frozen=True)
class State:
    """events: before which it stood.  folder: a copy of it.  kind: the same for states that differ within parts alone."""

    events: list[int]
    folder: Path
    kind: str


@dataclass
class States:
    """What was seen of a folder: call it before each event."""

    folder: Path
    place: Path
    seen: dict[str, State] = field(default_factory=dict)

    def __call__(self, event: int) -> None:
        """Look at the folder, and keep a copy of what was not seen before."""
        time.sleep(0.0005)  # another process may be about to finish the event before
        for _ in range(20):
            try:
                whole, kind = _digests(self.folder)
                if whole not in self.seen:
                    target = self.place / f"{event:05d}"
                    copied(self.folder, target)
                    self.seen[whole] = State([], target, kind)
                break
            except (OSError, subprocess.CalledProcessError):  # another process is at work in there
                time.sleep(0.002)
        else:
            raise SystemExit(f"{self.folder} does not hold still before event {event}")
        self.seen[whole].events.append(event)

    def kinds(self) -> list[list[State]]:
        """The states, those of one kind together, in the order of their first events."""
        found: dict[str, list[State]] = {}
        for state in self.seen.values():
            found.setdefault(state.kind, []).append(state)
        return list(found.values())


def _digests(folder: Path) -> tuple[str, str]:
    """Of names, kinds of file and contents: of all, and without what files in parts hold."""
    whole, kind = hashlib.sha256(), hashlib.sha256()
    for root, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(folders + files):
            path = os.path.join(root, name)
            found = os.lstat(path)
            label = f"{os.path.relpath(path, folder)} {stat.S_IFMT(found.st_mode)}\n".encode()
            whole.update(label)
            kind.update(label)
            if stat.S_ISLNK(found.st_mode):
                content = os.readlink(path).encode()
            elif stat.S_ISREG(found.st_mode):
                with open(path, "rb") as file:
                    content = hashlib.sha256(file.read()).digest()
            else:
                continue
            whole.update(content)
            if not PART.search(os.path.relpath(path, folder)):
                kind.update(content)
    return whole.hexdigest(), kind.hexdigest()
