"""The ring of batches on a GPU that does everything as late as it may: bits, order, reuse, errors, what is kept."""

from __future__ import annotations

import ctypes
import gc
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fake_gpu import FakeGpu, FakeMark
from hypothesis import given, settings
from hypothesis import strategies as st

import dali_pipes as dp
from dali_pipes.backends import Named, dali_check, shelf
from dali_pipes.backends.ring import Ring
from dali_pipes.draws import draw
from dali_pipes.errors import BackendError, ParityError
from dali_pipes.finish.finish import Finish

VARIED = dp.Augment(0.5, 0.5, rotation=30, scale=(0.8, 1.2), brightness=0.3, saturation=0.4, hue=20)
RECIPES: dict[str, dict[str, Any]] = {
    "uint8": {},
    "float": {"mean": 0.5, "std": 0.25, "augment": dp.Augment(0.5)},
    "varied": {"mean": (0.4, 0.5, 0.6), "std": 0.25, "augment": VARIED},
    "gray": {"channels": 1, "mean": 0.5, "std": 0.25, "augment": dp.Augment(rotation=9)},
    "uint16": {"depth": 16, "window": None, "augment": VARIED},
    "uint16-float": {"depth": 16, "window": None, "mean": 0.5, "std": 0.25},
    "crops": {"base_size": (13, 15), "mean": 0.5, "std": 0.25, "augment": dp.Augment(0.5, resized_crop=(0.3, 1.0))},
    "planned": {"depth": 16, "window": None, "base_size": 9, "augment": dp.Augment(rotation=20, quarter_turns=0.5)},
}
SIZE = (7, 11)


def recipe_of(which: str) -> dp.Recipe:
    return dp.Recipe(SIZE, **RECIPES[which])


def images_of(recipe: dp.Recipe, count: int, seed: int = 0) -> list[np.ndarray]:
    kind = np.uint16 if recipe.integer_dtype is torch.uint16 else np.uint8
    rng = np.random.default_rng(seed)
    shape = (count, recipe.channels, *recipe.base)
    return list(rng.integers(0, np.iinfo(kind).max, shape, dtype=kind, endpoint=True))


def expected(recipe: dp.Recipe, images: list[np.ndarray], samples: list[int]) -> np.ndarray:
    """The reference, sample by sample."""
    finish = Finish(recipe)
    changes = finish.changes(drawn(recipe, samples))
    out = torch.empty((len(images), *finish.shape), dtype=finish.dtype).numpy()
    for i, image in enumerate(images):
        finish.write(out[i], image, changes, i)
    return out


def drawn(recipe: dp.Recipe, samples: list[int]) -> Any:
    numbers = np.array(samples)
    source = np.stack([30 + numbers, 40 + 2 * numbers], axis=1) if recipe.needs_source else None
    return replace(draw(recipe.augment, 0, 0, numbers), source=source)


@pytest.mark.parametrize("which", RECIPES)
@pytest.mark.parametrize("locked", ["all", "none", "some"])
def test_batches_have_the_references_bits(which: str, locked: str, compiled: ctypes.CDLL) -> None:
    """More batches than slots, of several sizes, all of them done at the very end or where the ring waits."""
    recipe, gpu = recipe_of(which), FakeGpu(compiled)
    ring = Ring(recipe, gpu, threads=2)
    images = images_of(recipe, 40)
    for i, image in enumerate(images):
        if locked == "all" or (locked == "some" and i % 3):
            gpu.lock(image)
    batches = [
        list(range(0, 5)),
        list(range(5, 12)),
        [12],
        *(list(range(i, i + 4)) for i in range(13, 37, 4)),
        [38, 39],
    ]
    found = [ring.run([images[i] for i in batch], drawn(recipe, batch)) for batch in batches]
    gpu.advance()
    for batch, out in zip(batches, found):
        assert out.numpy().tobytes() == expected(recipe, [images[i] for i in batch], batch).tobytes()
    assert sum(entry[0] == "launch" for entry in gpu.log) == len(batches), "one launch a batch"
    assert sum(entry[0] == "wait" for entry in gpu.log) == len(batches) - 3, "nothing waits but for a slot's last use"
    staged = [entry for entry in gpu.log if entry[0] == "host" and entry[1] % images[0].nbytes == 0]
    assert bool(staged) is (locked != "all"), "page-locked buffers are made where they are needed"
    ring.close()


def test_a_slot_that_is_reused_before_its_event_would_be_noticed(
    compiled: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above, on a ring that does not wait, gives wrong bits."""
    recipe, gpu = recipe_of("float"), FakeGpu(compiled)
    monkeypatch.setattr(FakeMark, "synchronize", lambda self: None)
    ring = Ring(recipe, gpu, threads=1)
    images = images_of(recipe, 8)
    found = [ring.run([image], drawn(recipe, [i])) for i, image in enumerate(images)]
    gpu.advance()
    wrong = [out.numpy().tobytes() != expected(recipe, [images[i]], [i]).tobytes() for i, out in enumerate(found)]
    assert any(wrong)


def test_items_live_until_their_slots_event(compiled: ctypes.CDLL) -> None:
    recipe, gpu = recipe_of("uint8"), FakeGpu(compiled)
    ring = Ring(recipe, gpu, threads=1, slots=2)
    watched = []
    for i in range(4):
        buffer = (ctypes.c_ubyte * int(np.prod((3, *SIZE))))()
        image = gpu.lock(np.frombuffer(buffer, np.uint8).reshape(3, *SIZE))
        watched.append(weakref.ref(buffer))
        ring.run([image], drawn(recipe, [i]))
        del buffer, image
        gc.collect()
        alive = [each() is not None for each in watched]
        assert alive == [max(0, i - 1) <= k for k in range(i + 1)], f"after batch {i}"
    ring.close()


def test_a_picture_that_comes_twice_is_copied_once(compiled: ctypes.CDLL) -> None:
    """As views of a sample do."""
    recipe, gpu = recipe_of("varied"), FakeGpu(compiled)
    ring = Ring(recipe, gpu, threads=1)
    (image,) = images_of(recipe, 1)
    out = ring.run([image] * 3, drawn(recipe, [4, 5, 6]))
    gpu.advance()
    assert out.numpy().tobytes() == expected(recipe, [image] * 3, [4, 5, 6]).tobytes()
    assert sum(entry == ("copy", image.nbytes) for entry in gpu.log) == 1
    ring.close()


@pytest.mark.parametrize("at", range(5))
def test_after_an_error_the_next_batch_is_right(at: int, compiled: ctypes.CDLL) -> None:
    """Whichever copy fails (four images, then the numbers): the batch before and the batches after are as they were."""
    recipe = recipe_of("varied")
    gpu = FakeGpu(compiled, failing={2 + at: RuntimeError("the bus is on fire")})
    ring = Ring(recipe, gpu, threads=2, slots=2, keep_bytes=10**6)
    images = images_of(recipe, 12)
    before = ring.run([images[0]], drawn(recipe, [0]))
    with pytest.raises(RuntimeError, match="on fire"):
        ring.run([Named(i, images[i]) for i in range(4)], drawn(recipe, list(range(4))))
    assert [ring.holds(i) for i in range(4)] == [at == 4] * 4, "what may not be there is not said to be"
    again = ring.run([Named(i, None if at == 4 else images[i]) for i in range(4)], drawn(recipe, [0, 1, 2, 3]))
    after = [ring.run([images[i], images[i + 1]], drawn(recipe, [i, i + 1])) for i in range(4, 10)]
    gpu.advance()
    assert before.numpy().tobytes() == expected(recipe, [images[0]], [0]).tobytes()
    assert again.numpy().tobytes() == expected(recipe, images[:4], [0, 1, 2, 3]).tobytes()
    for i, out in zip(range(4, 10), after):
        assert out.numpy().tobytes() == expected(recipe, images[i : i + 2], [i, i + 1]).tobytes()
    ring.close()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 13), st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=9))
def test_what_stays_on_the_gpu_is_not_copied_again(compiled: ctypes.CDLL, room: int, batches: list[list[int]]) -> None:
    """Any batches, any budget: the bits of the reference, and what stays is copied once and fits the budget."""
    recipe, gpu = recipe_of("float"), FakeGpu(compiled)
    images = images_of(recipe, 10)
    size = images[0].nbytes
    ring = Ring(recipe, gpu, threads=1, keep_bytes=room * 256)  # a place is a whole number of 256 bytes
    assert ring.keeps is (room > 0)
    found, copied = [], 0
    for batch in batches:
        given_ = [Named(i, None if ring.holds(i) else images[i]) for i in batch]
        copied += len({item.sample for item in given_ if item.image is not None})
        found.append(ring.run(given_, drawn(recipe, batch)))
    assert sum(ring.holds(i) for i in range(10)) == min(room, len({i for batch in batches for i in batch}))
    gpu.advance()
    for batch, out in zip(batches, found):
        assert out.numpy().tobytes() == expected(recipe, [images[i] for i in batch], batch).tobytes()
    assert sum(entry == ("copy", size) for entry in gpu.log) == copied
    ring.close()


def test_what_stays_lies_in_large_blocks_within_the_budget(
    compiled: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An allocator rounds each block up: many images share one. No block goes beyond the budget."""
    monkeypatch.setattr(shelf, "_BLOCK", 4 * 256 + 1)
    recipe, gpu = recipe_of("float"), FakeGpu(compiled)
    ring = Ring(recipe, gpu, threads=1, keep_bytes=7 * 256 - 1)
    images = images_of(recipe, 10)
    for i, image in enumerate(images):
        ring.run([Named(i, image)], drawn(recipe, [i]))
    blocks = [size for name, size, *_ in gpu.log if name == "memory"]
    slots = 3 * [256, 256 + 4 * 256]  # an image, and its numbers
    assert sorted(blocks) == sorted([*slots, 4 * 256, 2 * 256])
    assert sum(ring.holds(i) for i in range(10)) == 6
    ring.close()


def test_a_device_without_room_ends_the_keeping_and_nothing_else(
    compiled: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shelf, "_BLOCK", 2 * 256)
    recipe, gpu = recipe_of("float"), FakeGpu(compiled)
    ring = Ring(recipe, gpu, threads=1, slots=1, keep_bytes=100 * 256)
    images = images_of(recipe, 6)
    genuine = gpu.memory

    def full(size: int) -> Any:
        if sum(name == "memory" and size == 512 for name, size, *_ in gpu.log) == 1 and size == 512:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return genuine(size)

    monkeypatch.setattr(gpu, "memory", full)
    for _ in range(2):
        found = [ring.run([Named(i, None if ring.holds(i) else images[i])], drawn(recipe, [i])) for i in range(6)]
        gpu.advance()
        for i, out in enumerate(found):
            assert out.numpy().tobytes() == expected(recipe, [images[i]], [i]).tobytes()
    assert [ring.holds(i) for i in range(6)] == [True] * 2 + [False] * 4
    assert [record.message for record in caplog.records] == [
        "no more base images stay in GPU memory: CUDA out of memory"
    ]
    ring.close()


def test_items_that_do_not_fit_are_named_and_nothing_is_queued(compiled: ctypes.CDLL) -> None:
    recipe, gpu = recipe_of("uint8"), FakeGpu(compiled)
    ring = Ring(recipe, gpu, threads=1)
    good = images_of(recipe, 1)[0]
    for wrong, message in (
        (np.zeros((3, 7, 12), np.uint8), r"uint8\[3, 7, 12\]; expected contiguous uint8\[3, 7, 11\]"),
        (np.zeros((3, *SIZE), np.uint16), r"uint16\[3, 7, 11\]"),
        (np.zeros((3, 7, 22), np.uint8)[:, :, ::2], "expected contiguous"),
        (Named(3, None), "not on the device"),
    ):
        with pytest.raises(BackendError, match=message):
            ring.run([good, wrong], drawn(recipe, [0, 1]))
    assert gpu.queue == []
    assert gpu.log == []
    ring.close()


def test_close_waits_for_what_is_under_way(compiled: ctypes.CDLL) -> None:
    recipe, gpu = recipe_of("uint8"), FakeGpu(compiled)
    ring = Ring(recipe, gpu, threads=1)
    for i, image in enumerate(images_of(recipe, 2)):
        ring.run([image], drawn(recipe, [i]))
    assert gpu.done == 0
    ring.close()
    assert gpu.done == len(gpu.queue)


def test_the_check_at_first_use(compiled: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    dali_check.check_rings(lambda recipe: Ring(recipe, FakeGpu(compiled), threads=1))
    genuine = FakeGpu.finish

    def forgetful(self: FakeGpu, kernel: str, jobs: int, m: int, inv: int, out: torch.Tensor) -> None:
        genuine(self, kernel, jobs, m, inv, out)
        self.queue.append(lambda: out[-1, -1, -1, -1:].zero_() and None)

    monkeypatch.setattr(FakeGpu, "finish", forgetful)
    with pytest.raises(ParityError, match="the ring of batches computes finish otherwise than the pixel contract"):
        dali_check.check_rings(lambda recipe: Ring(recipe, FakeGpu(compiled), threads=1))
