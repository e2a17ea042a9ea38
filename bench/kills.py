"""Every command that writes, killed at every event of the file system: the old result or the new one is whole.

    python bench/kills.py [CASE ...] [--most N] [--seed S]        (needs a C compiler, `cc`, for bench/kills.c)

A case is a command, into a new place or over an old result. Its events (opening to write, writing, truncating, flushing,
renaming, exchanging, linking, removing) are counted in an undisturbed run by a library that is loaded before all others, and
SIGKILL comes before the n-th, for every n or for a sample of N. Afterwards the result is read: it is what was there, or what
was to be. Then the command runs again: it succeeds, and leaves nothing that an undisturbed run does not leave.
Results go to bench/results/kills.json.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import mmap
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "kills.json"
STORED = ROOT / "tests" / "formats" / "data" / "version1"
SECONDS = 300
Content = Any


@dataclass(frozen=True)
class Case:
    """A command in a folder of its own.

    words: of the command line.  prepare(folder): what is there before.  content(folder): what a reader makes of the result, of
    which None is none at all; it raises for one that is not whole.  most: events that are tried, if there are more.
    goes_on: between, a part of the result may stand (each part whole), and the next run goes on with it.
    needs: the case whose result it begins with.
    """

    words: list[str]
    prepare: Callable[[Path], None]
    content: Callable[[Path], Content]
    most: int = 10**6
    goes_on: bool = False
    needs: str | None = None


# --- what readers make of results: digests of numbers, without the times of the clock


def _calculation(name: str) -> Callable[[Path], Content]:
    def content(folder: Path) -> Content:
        from nearsight.formats import registry

        if not (folder / name).exists():
            return None
        c = registry.read(folder / name)
        numbers = [np.round(m.values.numpy(), 7) + 0.0 for m in c.matrices.values()]
        return _digest(
            sorted(c.matrices), numbers, c.energies.get("total") and round(c.energies["total"], 7), c.electrons
        )

    return content


def _file(name: str) -> Callable[[Path], Content]:
    """A picture, a table or a field: it is whole if its bytes are those of one that is."""

    def content(folder: Path) -> Content:
        path = folder / name
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None

    return content


def _several(*parts: Callable[[Path], Content]) -> Callable[[Path], Content]:
    """Results of which each is whole for itself."""
    return lambda folder: tuple(part(folder) for part in parts)


def _model(folder: Path) -> Content:
    from nearsight.learn.model import TrainedModel

    place = folder / "model"
    if not (place / "model.safetensors").exists():
        return None
    model = TrainedModel.load(place)
    return _digest([w.detach().numpy() for w in model.network.state_dict().values()])


def _set(folder: Path) -> Content:
    """Every calculation that is there is whole; None until all are."""
    from nearsight.formats import registry

    found = sorted(p for p in (folder / "set").glob("0*") if p.is_dir())
    read = [registry.read(p) if (p / "info.json").exists() else registry.read_structure(p) for p in found]
    return None if len(read) < 2 or not (folder / "set" / "failures.json").exists() else len(read)


def _digest(*parts: Any) -> str:
    found = hashlib.sha256()
    for part in parts:
        for x in part if isinstance(part, list) else [part]:
            found.update(x.tobytes() if isinstance(x, np.ndarray) else repr(x).encode())
    return found.hexdigest()


# --- the cases

H2 = '2\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 pbc="T T T"\nH 0 0 0\nH 0 0 0.8\n'
SCF = ["--basis", "sz", "--mesh-cutoff", "60", "--kmesh", "1", "1", "1"]


def _structure(folder: Path) -> None:
    (folder / "h2.xyz").write_text(H2)


def _with_old(old: str, name: str) -> Callable[[Path], None]:
    """The structure, and a calculation in the result's place: another one."""

    def prepare(folder: Path) -> None:
        _structure(folder)
        shutil.copytree(STORED / old, folder / name)

    return prepare


def _with_scf(folder: Path) -> None:
    _structure(folder)
    shutil.copytree(_made("scf") / "out", folder / "out")


def _with_calculation(folder: Path) -> None:
    shutil.copytree(STORED / "calculation", folder / "out")


def _with_picture(*names: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        _with_calculation(folder)
        for name in names:
            (folder / name).write_bytes(b"an old result")

    return prepare


def _with_model(folder: Path) -> None:
    shutil.copytree(STORED / "model", folder / "model")
    shutil.copytree(STORED / "calculation", folder / "in")


def _set_yaml(folder: Path) -> None:
    _structure(folder)
    (folder / "set.yaml").write_text(
        "structure: h2.xyz\ndistort: {count: 2, sigma_ang: 0.02, clip_ang: 0.1, seed: 1}\nlabels: true\nworkers: 1\n"
        "scf: {basis: sz, mesh_cutoff_ry: 60, kmesh: [1, 1, 1]}\n"
    )


def _bare_yaml(folder: Path) -> None:
    _set_yaml(folder)
    file = folder / "set.yaml"
    file.write_text(file.read_text().replace("labels: true", "labels: false"))


def _model_yaml(folder: Path) -> None:
    sets = STORED / "set"
    (folder / "model.yaml").write_text(
        f"data: {{train: [{sets / '0000'}, {sets / '0001'}], validation: {sets / '0002'}, cache: cache, workers: 1}}\n"
        "model: {preset: small, target: total, irreps: 4x0e+2x1o+1x2e, edge: [4, 2, 2], hidden: [4, 2, 2], layers: 1}\n"
        "trainer: {max_epochs: 3, validations: 3, dtype: float64, schedule: constant}\n"
    )


def _model_again(folder: Path) -> None:
    _model_yaml(folder)
    shutil.copytree(_made("train") / "model", folder / "model")


def _modes_yaml(folder: Path) -> None:
    _structure(folder)
    (folder / "set.yaml").write_text(
        "structure: h2.xyz\nmodes: {count: 2, temperature_K: [300, 300], molecule: true, relax_ev_per_ang: null}\n"
        "labels: false\nworkers: 1\nscf: {basis: sz, mesh_cutoff_ry: 60, kmesh: [1, 1, 1]}\n"
    )


OUT = _calculation("out")
CASES: dict[str, Case] = {
    "example": Case(["example", "graphene"], lambda folder: None, _file("graphene.cif")),
    "scf": Case(["scf", "h2.xyz", "-o", "out", *SCF], _structure, OUT),
    "scf over old": Case(["scf", "h2.xyz", "-o", "out", *SCF], _with_old("calculation", "out"), OUT),
    "scf --restart out -o out": Case(
        ["scf", "h2.xyz", "-o", "out", "--restart", "out", "--smearing", "3", *SCF], _with_scf, OUT, needs="scf"
    ),
    "scf --trace": Case(["scf", "h2.xyz", "-o", "out", "--trace", "t.jsonl", *SCF], _structure, _several(OUT), most=40),
    "convert": Case(["convert", "in", "out"], _with_old("calculation", "in"), OUT),
    "convert over old": Case(
        ["convert", "in", "out"],
        lambda folder: (_with_old("calculation", "in")(folder), _with_old("predicted", "out")(folder))[0],
        OUT,
    ),
    "convert a folder of many": Case(
        ["convert", "in", "out"],
        lambda folder: shutil.copytree(STORED / "set", folder / "in") and None,
        _several(),
        60,
        True,
    ),
    "predict": Case(["predict", "model", "in", "-o", "out"], _with_model, OUT, most=40),
    "predict over old": Case(
        ["predict", "model", "in", "-o", "out"],
        lambda folder: (_with_model(folder), shutil.copytree(STORED / "calculation", folder / "out"))[0],
        OUT,
        most=40,
    ),
    "bands": Case(["bands", "out", "-o", "b.png"], _with_calculation, _file("b.png")),
    "bands over old": Case(["bands", "out", "-o", "b.png"], _with_picture("b.png"), _file("b.png")),
    "density": Case(["density", "out", "-o", "n.cube"], _with_calculation, _file("n.cube"), most=40),
    "density over old": Case(["density", "out", "-o", "n.cube"], _with_picture("n.cube"), _file("n.cube"), most=40),
    "dos over old": Case(["dos", "out", "-o", "d.png"], _with_picture("d.png"), _file("d.png")),
    "train": Case(["train", "model.yaml", "-o", "model"], _model_yaml, _model, 120, True),
    "train anew over old": Case(
        ["train", "model.yaml", "-o", "model", "--set", "trainer.resume=false"],
        _model_again,
        _model,
        120,
        True,
        "train",
    ),
    "dataset build": Case(["dataset", "build", "set.yaml", "-o", "set"], _set_yaml, _set, 40, True),
    "dataset build, no labels": Case(["dataset", "build", "set.yaml", "-o", "set"], _bare_yaml, _set, 40, True),
    "dataset build, modes": Case(["dataset", "build", "set.yaml", "-o", "set"], _modes_yaml, _set, 30, True),
}


# --- a process that can be killed


class Control:
    """What bench/kills.c looks at: whether it counts, how far it is, where it kills, where it writes the events."""

    @staticmethod
    def write(path: Path, folder: Path) -> None:
        """A file that counts what happens below a folder."""
        path.write_bytes(struct.pack("4i", 0, 0, 0, 0) + str(folder).encode().ljust(8176, b"\0"))

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self.map = mmap.mmap(file.fileno(), 8192)

    def arm(self, at: int, log: int) -> None:
        """Count from 0, and kill at an event (0: at none)."""
        self.map[:16] = struct.pack("4i", 1, 0, at, log)

    def disarm(self) -> int:
        """Stop counting: how many there were."""
        _, count, _, _ = struct.unpack("4i", self.map[:16])
        self.map[:16] = struct.pack("4i", 0, 0, 0, 0)
        return count


def _command(words: list[str], folder: Path, control: Control, at: int = 0, log: int = 0) -> tuple[int, int]:
    """Run a command in a forked group of processes: its wait status, and its events."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.chdir(folder)
        out = os.open(folder.parent / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.argv = ["nearsight", *words]
        status = 0
        control.arm(at, log)
        try:
            from nearsight.cli.commands import main

            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            import traceback

            traceback.print_exc()
            status = 99
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    with contextlib.suppress(OSError):
        os.setpgid(child, child)
    end = time.monotonic() + SECONDS
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status, control.disarm()
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            raise SystemExit(f"{words} takes more than {SECONDS} s")
        time.sleep(0.005)


_KEPT: dict[str, Path] = {}


def _made(name: str) -> Path:
    """The folder of a case's undisturbed run."""
    return _KEPT[name]


def _listed(folder: Path) -> set[str]:
    """What is there; the names of cached samples aside, which may be more or fewer."""
    names = {str(p.relative_to(folder)) for p in folder.rglob("*")}
    return {n for n in names if not n.startswith("cache/")} | {n for n in names if ".part" in n}


def kill(name: str, place: Path, control: Control, most: int, seed: int) -> dict[str, Any]:
    """Counts of what became of a case."""
    case, folder = CASES[name], place / "run"
    started = time.perf_counter()

    def fresh() -> Content:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        case.prepare(folder)
        return case.content(folder)

    if case.needs is not None and case.needs not in _KEPT:
        kill(case.needs, place, control, 0, seed)
    old = fresh()
    log = os.open(place / "events.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    status, events = _command(case.words, folder, control, 0, log)
    os.close(log)
    if status:
        raise SystemExit(f"{name}: {(place / 'said.txt').read_text()}")
    new, names = case.content(folder), _listed(folder)
    _KEPT[name] = place / f"made-{len(_KEPT)}"
    shutil.copytree(folder, _KEPT[name])
    random = np.random.default_rng(seed)
    most = min(most, case.most)
    chosen = range(1, events + 1)
    if events > most:
        chosen = [] if not most else sorted({1, events, *(1 + random.choice(events, most, replace=False)).tolist()})
    row = {"events": events, "kills": 0, "old": 0, "new": 0, "part": 0, "lost": 0, "leftovers": 0, "failed": []}
    for n in chosen:
        fresh()
        status, _ = _command(case.words, folder, control, n)
        if status == 0:  # fewer events than before
            continue
        row["kills"] += 1
        what = _judged(case, folder, old, new)
        row[what.split(":")[0]] += 1
        left = sorted(_listed(folder) - names)
        status, _ = _command(case.words, folder, control)
        again = "" if status == 0 else f"the next run: {(place / 'said.txt').read_text().strip()[-300:]}"
        if not again and _judged(case, folder, None, new) != "new":
            again = f"the next run: {_judged(case, folder, None, new)}"
        remains = sorted(_listed(folder) - names)
        row["leftovers"] += bool(remains)
        row["lost"] += bool(again) and not what.startswith("lost")
        if what.startswith("lost") or remains or again:
            row["failed"].append({"event": n, "after": what, "then": again, "left": left, "remains": remains})
            print(f"{name}, event {n}: {what}; {again}; {remains}", flush=True)
    return row | {"seconds": round(time.perf_counter() - started, 1)}


def _judged(case: Case, folder: Path, old: Content, new: Content) -> str:
    """old, new, part (of one that goes on), or lost: and how."""
    try:
        found = case.content(folder)
    except Exception as error:
        return f"lost: {type(error).__name__} {str(error)[:300]}"
    if found == new:
        return "new"
    if found == old:
        return "old"
    return "part" if case.goes_on and (found is not None or old is None) else f"lost: {found}"


def main() -> None:
    """Start again with the library that counts, then the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--most", type=int, default=10**6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if "KILLS" not in os.environ:
        with tempfile.TemporaryDirectory(prefix="kills-") as place:
            library = Path(place, "kills.so")
            subprocess.run(
                ["cc", "-shared", "-fPIC", "-O1", "-o", library, ROOT / "bench" / "kills.c", "-ldl"], check=True
            )
            control = Path(place, "control")
            Control.write(control, Path(place, "run"))
            settings = {
                "KILLS": str(control),
                "LD_PRELOAD": str(library),
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
            }
            raise SystemExit(subprocess.run([sys.executable, *sys.argv], env={**os.environ, **settings}).returncode)
    place = Path(os.environ["KILLS"]).parent
    control = Control(Path(os.environ["KILLS"]))
    os.environ["XDG_CACHE_HOME"] = str(place / "home")
    import matplotlib.pyplot  # noqa: F401

    import nearsight.dft.run
    import nearsight.learn.train  # noqa: F401
    # loaded once, before the forks

    rows = json.loads(arguments.results.read_text())["cases"] if arguments.results.exists() else {}
    names = arguments.cases or list(CASES)
    for name in names:
        rows[name] = row = kill(name, place, control, arguments.most, arguments.seed)
        told = " ".join(
            f"{k} {row[k]}" for k in ("events", "kills", "old", "new", "part", "lost", "leftovers", "seconds")
        )
        print(f"{name:28s} {told}", flush=True)
        arguments.results.write_text(json.dumps({"cases": rows}, indent=1) + "\n")
    if any(rows[name]["lost"] or rows[name]["leftovers"] for name in names):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
