"""Where the tensors of a batch lie, and how a batch made on another CUDA stream is taken over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from archives import manifest_of, pictures

import dali_pipes as dp
from dali_pipes.draws import Draws
from dali_pipes.loader.epoch import Epoch, take_over


class Elsewhere:
    """A backend whose batches lie on another device: PyTorch's, that has no memory."""

    name = "elsewhere"
    takes_encoded = False

    def run(self, items: Sequence[Any], draws: Draws) -> torch.Tensor:
        return torch.empty((len(items), 3, 8, 8), device="meta")

    def beside(self, values: torch.Tensor) -> torch.Tensor:
        return values.to("meta")

    def mark(self) -> None: ...

    def close(self) -> None: ...


def test_all_tensors_of_a_batch_lie_on_one_device(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, pictures(3))
    order = np.arange(3)
    images: list[Any] = [np.zeros((3, 8, 8), np.uint8)] * 3
    fetcher = SimpleNamespace(extents=lambda samples: None, made=lambda samples: np.zeros((len(samples), 32), np.uint8))
    epoch = Epoch(manifest, dp.Recipe(8), fetcher, Elsewhere(), "raise", 0, 0, order)  # type: ignore[arg-type]
    batch = epoch.batch(order, images)
    assert batch is not None
    tensors = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
    assert {"image", "label", "index"} <= tensors.keys()
    assert {name: value.device.type for name, value in tensors.items()} == dict.fromkeys(tensors, "meta")


class Taken(torch.Tensor):
    """A tensor that notes the streams that record it."""

    streams: ClassVar[list[object]] = []

    def record_stream(self, stream: Any) -> None:
        self.streams.append(stream)


def test_a_batch_is_waited_for_by_the_stream_that_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[object] = []

    class Stream:
        def wait_event(self, event: object) -> None:
            waited.append(event)

    stream = Stream()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(Taken, "streams", [])
    image, label, index = (torch.zeros(2).as_subclass(Taken) for _ in range(3))
    batch = dp.Batch(image, label, index, ["a", "b"])
    assert take_over(batch, None) is batch
    assert waited == []
    event: Any = object()
    assert take_over(batch, event) is batch
    assert waited == [event]
    assert Taken.streams == [stream] * 3, "the memory of each tensor is kept until the stream is done with it"
