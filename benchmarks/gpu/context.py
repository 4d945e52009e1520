"""What the steps share: data, whether there is a GPU, and how a step ends."""

import json
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import dali_pipes as dp

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class NoGpu(Exception):
    """What a step did without a GPU, and nothing more can be done."""

    def __init__(self, figures: dict[str, Any]) -> None:
        super().__init__("no GPU")
        self.figures = figures


class StepFailed(Exception):
    """What a step found wrong."""

    def __init__(self, message: str, figures: dict[str, Any]) -> None:
        super().__init__(message)
        self.figures = figures


@dataclass(frozen=True)
class Context:
    """A folder for data, and how much of it.

    Attributes:
        work: the folder.
        tiny: only to see that it runs.
    """

    work: Path
    tiny: bool

    @property
    def gpu(self) -> bool:
        """Whether PyTorch finds a CUDA device."""
        return torch.cuda.is_available()

    @property
    def backend(self) -> str:
        """The backend under test; without a GPU its stand-in, so that the step's own code runs."""
        return "dali-gpu" if self.gpu else "dali-cpu"

    @property
    def device(self) -> torch.device:
        """Where its batches lie."""
        return torch.device("cuda", torch.cuda.current_device()) if self.gpu else torch.device("cpu")

    def need_gpu(self, **figures: Any) -> None:
        """End the step where there is no GPU; `figures`: what it has found."""
        if not self.gpu:
            raise NoGpu(figures)

    def keep(self, step: str, figures: dict[str, Any]) -> None:
        """Write what a step has found so far, for the case that it does not come to its end."""
        self._part(step).write_text(json.dumps(figures, default=str), encoding="utf-8")

    def kept(self, step: str) -> dict[str, Any]:
        """Return what `keep` wrote last; nothing where it was not called."""
        path = self._part(step)
        return dict(json.loads(path.read_text("utf-8"))) if path.exists() else {}

    def _part(self, step: str) -> Path:
        return self.work / f"{step}.part.json"

    def size(self, full: int, tiny: int) -> int:
        """One number or the other."""
        return tiny if self.tiny or not self.gpu else full

    def synchronize(self) -> None:
        """Wait for the GPU, if there is one."""
        if self.gpu:
            torch.cuda.synchronize()

    def small_jpegs(self, count: int) -> dp.Manifest:
        """Small JPEGs: for what comes after decoding."""
        from data import manifest_of, write_thumbnails

        folder = self.work / "thumbnails"
        folder.mkdir(exist_ok=True)
        return manifest_of(folder, write_thumbnails(folder, count))

    def photos(self, count: int, shape: tuple[int, int]) -> dp.Manifest:
        """JPEGs like photographs."""
        from data import manifest_of, write_photos

        folder = self.work / f"photos-{shape[0]}x{shape[1]}"
        folder.mkdir(exist_ok=True)
        return manifest_of(folder, write_photos(folder, count, shape))

    def median_seconds(self, work: Callable[[], object], repeats: int = 5) -> float:
        """Median seconds of `work` and of what it leaves to the GPU, after a first run that does not count."""
        times = []
        for _ in range(repeats + 1):
            self.synchronize()
            started = time.perf_counter()
            work()
            self.synchronize()
            times.append(time.perf_counter() - started)
        return statistics.median(times[1:])

    def rate(self, epoch: Callable[[int], Iterable[Any]], epochs: int = 3) -> float:
        """Images per second of later epochs, the median; `epoch` gives batches (a tensor, or with `image`)."""
        rates = []
        for number in range(epochs + 1):
            self.synchronize()
            started, count = time.perf_counter(), 0
            for batch in epoch(number):
                count += len(batch)
            self.synchronize()
            rates.append(count / (time.perf_counter() - started))
        return round(statistics.median(rates[1:]), 1)
