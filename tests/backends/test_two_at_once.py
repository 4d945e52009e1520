"""Backends that take a batch before the one before it is complete: the bits of one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dali_pipes import Augment, Recipe, backends
from dali_pipes.backends import Overlapping
from dali_pipes.draws import draw
from dali_pipes.errors import BackendError
from dali_pipes.finish.finish import Finish

RECIPES = {
    "uint8": Recipe((12, 10)),
    "flips": Recipe((12, 10), augment=Augment(horizontal_flip=0.5, vertical_flip=0.5)),
    "float32": Recipe((12, 10), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1)),
    "float16, channels last": Recipe((12, 10), mean=0.5, std=0.2, dtype="float16", memory_format="channels_last"),
    "warped": Recipe((12, 10), augment=Augment(rotation=30.0, brightness=0.5)),
    "warped by DALI": Recipe((12, 10), parity="fast", augment=Augment(rotation=30.0)),
}


def images(seed: int, count: int) -> list[Any]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, 3, 12, 10), np.uint8))


def open_backend(name: str, recipe: Recipe) -> Any:
    pytest.importorskip("nvidia.dali") if name == "dali-cpu" else None
    return backends.create(name, recipe, batch_size=5, threads=2, decode=False)


both = pytest.mark.parametrize("name", ["torch", "dali-cpu"])


@both
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_two_at_once_have_the_bits_of_one_after_the_other(name: str, recipe: Recipe) -> None:
    batches = [(images(i, count), draw(recipe.augment, 1, i, np.arange(count))) for i, count in enumerate([5, 1, 4, 5])]
    slow, fast = open_backend(name, recipe), open_backend(name, recipe)
    expected = [slow.run(*each) for each in batches]
    assert isinstance(fast, Overlapping)
    assert fast.at_once == 2
    begun, found = [], []
    for each in batches:
        begun.append(fast.begin(*each))
        if len(begun) == 2:
            found.append(begun.pop(0)())
    found.append(begun.pop()())
    for left, right in zip(found, expected):
        assert left.dtype == right.dtype
        assert left.stride() == right.stride()
        assert torch.equal(left, right)
    assert torch.equal(fast.run(*batches[0]), expected[0]), "nothing was left in work"
    slow.close()
    fast.close()


@both
def test_what_is_held_is_not_written_again(name: str) -> None:
    """Batches that the caller keeps stay as they are while others are begun."""
    recipe = RECIPES["float32"]
    backend = open_backend(name, recipe)
    begun, held = [], []
    for i in range(12):
        begun.append(backend.begin(images(i, 3), draw(None, 0, 0, np.arange(3))))
        if len(begun) == 2:
            batch = begun.pop(0)()
            held.append((batch, batch.clone()))
    begun.pop()()
    for batch, copy in held:
        assert torch.equal(batch, copy)
    assert len({batch.data_ptr() for batch, _ in held}) == len(held)
    backend.close()


@both
def test_a_batch_that_cannot_begin_leaves_the_one_before_it_alone(name: str) -> None:
    backend = open_backend(name, RECIPES["uint8"])
    given = images(0, 2)
    first = backend.begin(given, draw(None, 0, 0, np.arange(2)))
    with pytest.raises(BackendError, match="base image"):
        backend.begin([given[0][:, :5]], draw(None, 0, 0, np.arange(1)))()
    assert torch.equal(first(), torch.from_numpy(np.stack(given)))
    backend.close()


@both
def test_after_a_failure_the_next_batch_starts_clean(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = RECIPES["warped"]
    backend = open_backend(name, recipe)
    given = [(images(i, 3), draw(recipe.augment, 0, i, np.arange(3))) for i in range(3)]
    expected = [backend.run(*each) for each in given]
    vary = Finish.vary

    def broken(self: Finish, image: Any, *rest: Any) -> Any:
        if np.array_equal(image[:, ::-1] if rest[0] is None else image, given[0][0][1]):
            raise ValueError("broken on purpose")
        return vary(self, image, *rest)

    monkeypatch.setattr(Finish, "vary", broken)
    first, second = backend.begin(*given[0]), backend.begin(*given[1])
    with pytest.raises(Exception, match="broken on purpose"):
        first()
    try:
        assert torch.equal(second(), expected[1])
    except BackendError as error:
        assert "lost, because an earlier one failed" in str(error)  # noqa: PT017 : one of the two
    monkeypatch.undo()
    assert torch.equal(backend.begin(*given[2])(), expected[2])
    backend.close()


def test_where_jpegs_are_decoded_each_batch_is_answered_for() -> None:
    pytest.importorskip("nvidia.dali")
    backend: Any = backends.create("dali-cpu", RECIPES["uint8"], batch_size=5, threads=2, decode=True)
    assert backend.takes_encoded
    assert backend.at_once == 1
    backend.close()
