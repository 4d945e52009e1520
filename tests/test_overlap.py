"""Two batches in work at once: order, errors, and what is left behind, with a backend that notes each step."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from archives import CPU_BACKENDS, coded, manifest_of, pictures

import dali_pipes as dp
from dali_pipes.draws import Draws
from dali_pipes.errors import BackendError
from dali_pipes.loader.epoch import Epoch

COUNT, SIZE = 8, 2
PLAN = [np.arange(at, at + SIZE) for at in range(0, COUNT, SIZE)]


class Noting:
    """A backend that takes two batches at once, and notes what it is asked for, by the number of the batch."""

    name = "noting"
    takes_encoded = False
    at_once = 2

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.fails: set[str] = set()
        self._begun = 0

    def begin(self, items: Sequence[Any], draws: Draws) -> Callable[[], torch.Tensor]:
        number, self._begun = self._begun, self._begun + 1
        self._note(f"begin {number}")
        values = torch.from_numpy(np.stack(items))

        def wait() -> torch.Tensor:
            self._note(f"wait {number}")
            return values

        return wait

    def _note(self, step: str) -> None:
        self.steps.append(step)
        if step in self.fails:
            raise BackendError(step)

    def run(self, items: Sequence[Any], draws: Draws) -> torch.Tensor:
        raise AssertionError("it is begun, not run")

    def beside(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def mark(self) -> None: ...

    def close(self) -> None: ...


class Late(Future[Any]):
    """A future that may not be waited for."""

    def result(self, timeout: float | None = None) -> Any:
        assert self.done(), "a batch that was complete waited for another's files"
        return super().result(timeout)


def image(sample: int) -> Any:
    return np.full((3, 8, 8), sample, np.uint8)


class Images:
    """A fetcher that has every image; `late` are to come."""

    def __init__(self) -> None:
        self.late: dict[int, Late] = {}

    def requests(self, samples: Sequence[int]) -> list[Any]:
        return [self.late.get(sample, image(sample)) for sample in samples]

    def extents(self, samples: Any) -> None:
        return None

    def made(self, samples: Any) -> Any:
        return np.zeros((len(samples), 32), np.uint8)


@pytest.fixture
def made(tmp_path: Path) -> SimpleNamespace:
    manifest = manifest_of(tmp_path, {f"{i}.jpg": coded(i) for i in range(COUNT)})
    backend, fetcher = Noting(), Images()
    epoch = Epoch(manifest, dp.Recipe(8), fetcher, backend, "raise", 0, 0, np.arange(COUNT))  # type: ignore[arg-type]
    return SimpleNamespace(backend=backend, fetcher=fetcher, epoch=epoch, batches=lambda: epoch.batches(PLAN, ahead=1))


def first_samples(batches: Iterator[Any]) -> Iterator[int]:
    """The first sample of each batch, whose pixels must be its own."""
    for batch in batches:
        assert batch.image[:, 0, 0, 0].tolist() == batch.index.tolist()
        yield int(batch.index[0])


def test_each_batch_is_begun_before_the_one_before_it_is_waited_for(made: SimpleNamespace) -> None:
    assert list(first_samples(made.batches())) == [0, 2, 4, 6]
    expected = ["begin 0", "begin 1", "wait 0", "begin 2", "wait 1", "begin 3", "wait 2", "wait 3"]
    assert made.backend.steps == expected


def test_a_batch_does_not_wait_for_the_files_of_the_next(made: SimpleNamespace) -> None:
    made.fetcher.late[2] = Late()
    batches = first_samples(made.batches())
    assert next(batches) == 0
    made.fetcher.late[2].set_result(image(2))
    assert list(batches) == [2, 4, 6]


def test_a_batch_does_not_wait_for_the_masks_of_the_next(made: SimpleNamespace) -> None:
    late = Late()

    class OfImages:
        """Masks, of which the third is to come."""

        def requests(self, samples: Sequence[int]) -> list[Any]:
            return [late if sample == 2 else np.zeros((1, 8, 8), np.uint8) for sample in samples]

        def checked(self, sample: int, requested: Any, images: Any) -> Any:
            return requested.result() if isinstance(requested, Late) else requested

        def finish(self, masks: Sequence[Any], plans: Any) -> Any:
            return np.stack(masks)

    batches = first_samples(replace(made.epoch, masks=OfImages()).batches(PLAN, ahead=1))
    assert next(batches) == 0
    late.set_result(np.ones((1, 8, 8), np.uint8))
    assert list(batches) == [2, 4, 6]


def test_an_error_in_beginning_comes_after_the_batches_before_it(made: SimpleNamespace) -> None:
    made.backend.fails.add("begin 2")
    with pytest.raises(BackendError, match="begin 2"):
        list(made.batches())
    assert made.backend.steps == ["begin 0", "begin 1", "wait 0", "begin 2", "wait 1"]


@pytest.mark.parametrize("number", range(4))
def test_an_error_in_waiting_is_that_batchs_own(made: SimpleNamespace, number: int) -> None:
    made.backend.fails.add(f"wait {number}")
    batches = first_samples(made.batches())
    assert list(itertools.islice(batches, number)) == [0, 2, 4, 6][:number]
    with pytest.raises(BackendError, match=f"wait {number}"):
        next(batches)
    assert _waited(made.backend.steps) == _begun(made.backend.steps), "nothing is left in work"


@pytest.mark.parametrize("number", range(4))
def test_an_error_in_beginning_leaves_nothing_in_work(made: SimpleNamespace, number: int) -> None:
    made.backend.fails.add(f"begin {number}")
    batches = first_samples(made.batches())
    assert list(itertools.islice(batches, number)) == [0, 2, 4, 6][:number]
    with pytest.raises(BackendError, match=f"begin {number}"):
        next(batches)
    assert _waited(made.backend.steps) == _begun(made.backend.steps)[:-1]


@pytest.mark.parametrize("taken", range(1, 5))
def test_an_epoch_that_is_broken_off_leaves_nothing_in_work(made: SimpleNamespace, taken: int) -> None:
    batches = made.batches()
    for _ in range(taken):
        next(batches)
    batches.close()
    assert _waited(made.backend.steps) == _begun(made.backend.steps)


def _waited(steps: list[str]) -> list[str]:
    return [step.removeprefix("wait ") for step in steps if step.startswith("wait")]


def _begun(steps: list[str]) -> list[str]:
    return [step.removeprefix("begin ") for step in steps if step.startswith("begin")]


@pytest.mark.parametrize("taken", range(1, 4))
def test_a_backend_is_given_back_when_nothing_is_in_work(tmp_path: Path, taken: int) -> None:
    """Else the next iteration would find another's batches in it."""
    manifest = manifest_of(tmp_path, {f"{i}.jpg": coded(i) for i in range(COUNT)})
    backend, left = Noting(), []

    class Pool:
        @contextlib.contextmanager
        def lent(self) -> Iterator[Noting]:
            try:
                yield backend
            finally:
                left.append(set(_begun(backend.steps)) - set(_waited(backend.steps)))

        def close(self) -> None: ...

    with dp.Loader(manifest, dp.Recipe(8), batch_size=SIZE, cache_mode="memory", backend="torch") as loader:
        list(loader.warm())
        loader._backends = Pool()  # type: ignore[assignment]
        batches = iter(loader)
        for _ in range(taken):
            next(batches)
        batches.close()  # type: ignore[attr-defined]
        for run in list(loader._runs):
            run.close()
    assert left == [set()]
    assert len(_begun(backend.steps)) >= 2, "more than one was in work"


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_epochs_that_are_broken_off_leave_nothing_to_the_next(tmp_path: Path, backend: str) -> None:
    manifest = manifest_of(tmp_path, pictures(3 * COUNT))
    options: dict[str, Any] = {"batch_size": SIZE, "shuffle": True, "seed": 3, "cache_mode": "memory"}
    recipe = dp.Recipe(8, augment=dp.Augment(horizontal_flip=0.5))
    with (
        dp.Loader(manifest, recipe, backend="torch", **options) as whole,
        dp.Loader(manifest, recipe, backend=backend, **options) as broken,
    ):
        for epoch in range(12):
            whole.set_epoch(epoch)
            broken.set_epoch(epoch)
            expected = itertools.islice(whole, 1 + epoch % 5)
            for left, right in zip(itertools.islice(broken, 1 + epoch % 5), expected, strict=True):
                assert left.index.tolist() == right.index.tolist()
                assert torch.equal(left.image, right.image)
