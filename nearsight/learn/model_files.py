"""The files of a trained model: config.json, checked as a table, and weights that know which table they belong to.

The weights' file holds a digest of its numbers and of what they are for (architecture, target, settings of the orbitals), so
that a bit that flipped, or a key that was edited, is not computed with. Files of the first release have none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

import nearsight
from nearsight.core.display import shown
from nearsight.core.errors import BadInput, MissingData
from nearsight.core.memory import check_room, limited
from nearsight.core.reading import MEBIBYTE, regular_file
from nearsight.core.registry import load
from nearsight.core.structure import SYMBOLS
from nearsight.core.versions import KEY, checked_version
from nearsight.formats.files import read_json, whole_file, write_json
from nearsight.models.contract import HamiltonianModel

FORMAT = "nearsight-model-1"
SCHEMA = 1  # raised where an older reader would misread config.json
_LARGEST = 65536 * MEBIBYTE
_ROOM, _TIMES = 512 * MEBIBYTE, 4  # memory to make a network in, beside so many times the file of its weights
_HIGHEST_L = 8
_LARGEST_NUMBER = 1e6  # of an architecture's arguments


@dataclass(frozen=True)
class ModelRecord:
    """What a network is, and what for: the part of config.json that its weights belong to.

    architecture: {kind, shells, arguments}.  target: what its numbers stand for.  reference: settings of the orbitals, or None.
    trained_on: what the data were (domain.py); None in folders of earlier versions.
    """

    architecture: Mapping[str, Any]
    target: str
    reference: Mapping[str, Any] | None = None
    trained_on: Mapping[str, Any] | None = None

    @property
    def shells(self) -> dict[int, tuple[int, ...]]:
        """Angular momenta of each element's shells, by atomic number."""
        return {int(z): tuple(s) for z, s in self.architecture["shells"].items()}

    def table(self) -> dict[str, Any]:
        """As JSON can hold it; without `trained_on` where that is not known."""
        table = {"architecture": dict(self.architecture), "target": self.target, "reference": self.reference}
        return table if self.trained_on is None else {**table, "trained_on": dict(self.trained_on)}

    def write(self, folder: Path, about: Mapping[str, Any]) -> None:
        """config.json, with further entries `about` the training."""
        record = self.table()
        versions = {"nearsight": nearsight.__version__, "torch": torch.__version__}
        write_json(folder / "config.json", {"format": FORMAT, KEY: SCHEMA, **record, "versions": versions, **about})

    @staticmethod
    def read(folder: Path) -> ModelRecord:
        """Raises MissingData without config.json, BadInput for one that describes no model or is of a later version."""
        path = folder / "config.json"
        if not path.exists():
            raise MissingData(f"{folder} is not a trained model: it has no config.json (train writes one)")
        config = read_json(path)
        if not isinstance(config, dict) or config.get("format") != FORMAT:
            raise BadInput(f"{path} is not a model's configuration of the form {FORMAT}")
        versions = config.get("versions")
        by = versions.get("nearsight") if isinstance(versions, dict) else None
        checked_version(config.get(KEY), SCHEMA, path, by)
        for key in ("architecture", "target"):
            if key not in config:
                raise BadInput(f"{path} has no {key}: the file is damaged")
        record = ModelRecord(
            config["architecture"], config["target"], config.get("reference"), config.get("trained_on")
        )
        record._check(path)
        return record

    def _check(self, path: Path) -> None:
        def refuse(what: str, value: Any) -> BadInput:
            return BadInput(f"{path}: {what} cannot be {shown(value)}: the file is damaged, copy the model again")

        a = self.architecture
        for name, kind in (("kind", str), ("shells", dict), ("arguments", dict)):
            if not isinstance(a, dict) or not isinstance(a.get(name), kind):
                raise refuse(f"architecture.{name}", a.get(name) if isinstance(a, dict) else a)
        for z, shells in a["shells"].items():
            known = str(z).isdecimal() and 0 < int(z) < len(SYMBOLS)
            listed = isinstance(shells, list) and len(shells) > 0
            if not known or not listed or any(type(l) is not int or not 0 <= l <= _HIGHEST_L for l in shells):
                raise refuse(f"architecture.shells of {shown(z)}", shells)
        if not a["shells"]:
            raise refuse("architecture.shells", a["shells"])
        for name, value in a["arguments"].items():
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, int | float) and not abs(number) <= _LARGEST_NUMBER:
                    raise refuse(f"architecture.arguments.{name:.40}", value)
        if not isinstance(self.target, str):
            raise refuse("target", self.target)
        for name in ("reference", "trained_on"):
            if not isinstance(found := getattr(self, name), dict | None):
                raise refuse(name, found)


def build(
    architecture: Mapping[str, Any], target: str = "total", seed: int = 0, stored: int | None = None
) -> HamiltonianModel:
    """The network of an architecture {kind, shells, arguments}; first weights are drawn from `seed` alone.

    stored: bytes of the file of its weights, where there is one: a network that wants many times as many is not made.

    Raises BadInput for a kind that is not known or arguments that make no network, Unavailable for a kind whose package
    cannot be loaded, or a network that is larger than the memory.
    """
    kind, arguments = load("models", architecture["kind"]), architecture["arguments"]
    shells = ModelRecord(architecture, target).shells
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            if stored is None:
                size = _weights_of(lambda: kind(shells, target=target, **arguments))
                check_room(8 * size, f"a network of {size} weights", "take fewer channels or layers")
            with nullcontext() if stored is None else limited(_ROOM + _TIMES * stored):
                made: HamiltonianModel = kind(shells, target=target, **arguments)
        except MemoryError as error:
            raise BadInput(
                "these arguments make another network than that of the weights: one of them is wrong"
            ) from error
        except TypeError as error:
            said = " ".join(str(error).split())
            raise BadInput(f"a {architecture['kind']} of another version is needed: {said:.120}") from error
        except (ValueError, RuntimeError, LookupError, AttributeError, ArithmeticError, AssertionError) as error:
            said = " ".join(str(error).split())
            raise BadInput(f"no {architecture['kind']} can be made from these arguments: {said:.120}") from error
        return made


def _weights_of(make: Callable[[], torch.nn.Module]) -> int:
    """How many weights a network would have, found without memory for them; 0 for one that cannot be made so."""
    state = torch.random.get_rng_state()
    try:
        with torch.device("meta"):
            return sum(w.numel() for w in make().parameters())
    except (NotImplementedError, RuntimeError):  # a constructor that looks at numbers
        return 0
    finally:
        torch.random.set_rng_state(state)


def write_weights(network: torch.nn.Module, record: ModelRecord, folder: Path) -> None:
    """model.safetensors, whole or absent."""
    weights = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    with whole_file(folder / "model.safetensors") as part:
        save_file(weights, part, {"sha256": _digest(weights, record)})


def weights_size(folder: Path) -> int:
    """Bytes of a model's weights. Raises BadInput without any."""
    return regular_file(folder / "model.safetensors", _LARGEST, "file of weights")


def read_weights(network: HamiltonianModel, record: ModelRecord, folder: Path) -> None:
    """Put the weights of a folder into a network, in double precision whatever they were stored in.

    Raises BadInput for weights that do not fit the network, are not finite, or are not those that were saved with `record`.
    """
    path = folder / "model.safetensors"
    try:
        with safe_open(path, "pt") as file:
            told = (file.metadata() or {}).get("sha256")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        network.double().load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadInput(f"{path} does not fit its config.json: {reason:.200}") from error
    real = {name: w for name, w in weights.items() if w.is_floating_point()}
    for name, norm in zip(real, torch._foreach_norm(list(real.values())), strict=True):
        if not isfinite(norm):
            raise BadInput(f"{path}: {name} holds weights that are not finite: copy the model again, or train it again")
    if told is not None and told != _digest(weights, record):
        raise BadInput(
            f"{path} and config.json are not as they were saved together: one of them was altered; copy the model again"
        )


def _digest(weights: Mapping[str, torch.Tensor], record: ModelRecord) -> str:
    digest = hashlib.sha256(json.dumps(record.table(), sort_keys=True).encode())
    for name in sorted(weights):
        w = weights[name]
        digest.update(f"{name} {w.dtype} {tuple(w.shape)}".encode())
        digest.update(w.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
