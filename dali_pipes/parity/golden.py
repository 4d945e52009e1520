"""Golden digests: what one machine computed, stage by stage, to be compared on another.

A record holds no pixels and no names: the recipe, the digest of the manifest, and for each sample (by its position),
stage and backend the digest of the output. It also holds the digests of DALI's operators over the small images of
`arithmetic.dali.selfcheck`, so that a machine without a GPU can compare the twin of DALI's GPU arithmetic with what a
GPU gave.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dali_pipes import backends
from dali_pipes.arithmetic import dali_gpu
from dali_pipes.arithmetic.dali.selfcheck import Probe, probes
from dali_pipes.errors import ConfigError
from dali_pipes.manifest.manifest import Manifest
from dali_pipes.parity.fingerprint import digest
from dali_pipes.recipe import Recipe

VERSION = 1

_PACKAGES = ("torch", "numpy", "Pillow", "simplejpeg", "pydicom", "nvidia-dali-cuda120", "nvidia-dali-cuda130")


def facts() -> dict[str, Any]:
    """Return this machine and the libraries that decide pixels, as plain values."""
    found: dict[str, Any] = {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    return found | {package: version for package in _PACKAGES if (version := _version(package))}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


class Recorder:
    """Collects digests; its `watch` is for `compare`.

    Attributes:
        digests: by sample, stage and backend.
    """

    def __init__(self) -> None:
        self.digests: dict[int, dict[str, dict[str, str]]] = {}

    def watch(self, stage: str, backend: str, index: int, output: npt.NDArray[Any]) -> None:
        """Note one output."""
        self.digests.setdefault(index, {}).setdefault(stage, {})[backend] = digest(output)

    def document(self, manifest: Manifest, recipe: Recipe) -> dict[str, Any]:
        """Return the record, as JSON values."""
        return {
            "version": VERSION,
            "machine": facts(),
            "recipe": recipe.to_dict(),
            "manifest": manifest.digest(),
            "samples": {str(index): stages for index, stages in sorted(self.digests.items())},
            "operators": operator_digests(),
        }


@dataclass(frozen=True)
class Mismatch:
    """Outputs that are not those of the record.

    Attributes:
        stage: a stage, or "operator" and its name.
        recorded, here: the backend of each.
        samples: how many samples differ.
        first: the first of them, or None for an operator.
    """

    stage: str
    recorded: str
    here: str
    samples: int
    first: int | None


@dataclass(frozen=True)
class Replay:
    """The outcome of a comparison with a record.

    Attributes:
        compared: how many digests were compared.
        mismatches: what differs, by stage in the order of the flow.
        alone: recorded backends that have no counterpart here under the recipe's parity.
        lone: samples that gave an output on one of the two machines only, at a stage that both computed.
        machine: where the record was made.
    """

    compared: int
    mismatches: tuple[Mismatch, ...]
    alone: tuple[str, ...]
    lone: tuple[int, ...]
    machine: dict[str, Any]

    @property
    def identical(self) -> bool:
        """Whether something was compared, and nothing differs or is missing."""
        return self.compared > 0 and not self.mismatches and not self.lone

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"identical": self.identical, **asdict(self)}


def load(path: Path, manifest: Manifest, recipe: Recipe) -> dict[str, Any]:
    """Return a record, checked to be of these samples and this recipe; raise ConfigError otherwise."""
    try:
        record = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not a record of `dali-pipes parity --record`: {error}") from error
    if not isinstance(record, dict) or record.get("version") != VERSION:
        raise ConfigError(f"{path}: not a record of version {VERSION} of `dali-pipes parity --record`.")
    if record.get("recipe") != json.loads(json.dumps(recipe.to_dict())):
        raise ConfigError(f"{path} was recorded with another recipe: {record.get('recipe')}; give the same one.")
    if record.get("manifest") != manifest.digest():
        raise ConfigError(f"{path} was recorded with other samples (paths, frames, labels); give the same manifest.")
    return record


def replay(record: dict[str, Any], recorder: Recorder, recipe: Recipe) -> Replay:
    """Compare what `recorder` saw here with a record: every pair of backends that promises the same bits."""
    compared = 0
    wrong: dict[tuple[str, str, str], list[int]] = {}
    recorded_names: set[str] = set()
    matched: set[str] = set()
    for key, stages in record["samples"].items():
        for stage, theirs in stages.items():
            ours = recorder.digests.get(int(key), {}).get(stage, {})
            for recorded, expected in theirs.items():
                recorded_names.add(recorded)
                for here, found in ours.items():
                    if _promised(recorded, here, recipe):
                        matched.add(recorded)
                        compared += 1
                        if found != expected:
                            wrong.setdefault((stage, recorded, here), []).append(int(key))
    mismatches = [Mismatch(*names, len(samples), min(samples)) for names, samples in wrong.items()]
    for device, recorded, name, found in _twins(record.get("operators", {})):
        compared += 1
        if recorded != found:
            mismatches.append(Mismatch(f"operator {name}", f"dali-{device}", "PyTorch twin", 1, None))
    lone = _lone({int(key): set(stages) for key, stages in record["samples"].items()}, recorder)
    return Replay(compared, tuple(mismatches), tuple(sorted(recorded_names - matched)), lone, record["machine"])


def _lone(there: dict[int, set[str]], recorder: Recorder) -> tuple[int, ...]:
    here = {index: set(stages) for index, stages in recorder.digests.items()}
    both = set().union(*there.values()) & set().union(*here.values())
    return tuple(i for i in sorted(there | here) if (there.get(i, set()) ^ here.get(i, set())) & both)


def _promised(recorded: str, here: str, recipe: Recipe) -> bool:
    """Whether two backends promise the same bits."""
    return recipe.parity == "exact" or recorded == here or "dali-gpu" not in (recorded, here)


def operator_digests() -> dict[str, dict[str, str]]:
    """Digests of DALI's operators over the probes, by device and probe; of the devices that are here."""
    from dali_pipes.backends.dali_operators import run_operator

    found: dict[str, dict[str, str]] = {}
    for device in ("cpu", "gpu"):
        if backends.missing(f"dali-{device}") is None:
            found[device] = {
                _name(i, probe): digest(run_operator(probe.operator, probe.image(), probe.arguments, device))
                for i, probe in _probes(device)
            }
    return found


def _twins(recorded: dict[str, dict[str, str]]) -> Iterator[tuple[str, str, str, str]]:
    """(device, recorded digest, probe, digest of the twin) of every operator in a record."""
    for device, digests in recorded.items():
        for i, probe in _probes(device):
            if _name(i, probe) in digests:
                image = torch.from_numpy(probe.image())
                twin = (
                    getattr(dali_gpu, probe.operator)(image, **probe.arguments)
                    if device == "gpu"
                    else probe.twin(image)
                )
                yield device, digests[_name(i, probe)], _name(i, probe), digest(np.asarray(twin.numpy()))


def _probes(device: str) -> list[tuple[int, Probe]]:
    """Return the probes that have a twin of the device's arithmetic."""
    return [(i, probe) for i, probe in enumerate(probes()) if device == "cpu" or probe.operator in dali_gpu.__all__]


def _name(place: int, probe: Probe) -> str:
    return f"{probe.operator} {place}"
