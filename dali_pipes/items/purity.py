"""Does a data set give the same item twice? What draws random numbers must not be cached.

Two readings that agree prove little: a mirror image with probability one half agrees half of the time. So the states of
the three global generators (Python, NumPy, PyTorch) are watched too: the second reading starts from other states than
the first, and a generator that has moved, and ends in different states, was drawn from. A data set that seeds a
generator itself ends both in the same state, and is let through.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from dali_pipes.errors import ConfigError
from dali_pipes.items.item_codec import difference

_ATTRIBUTES = ("transform", "transforms", "target_transform", "augment", "augmentation", "augmentations", "preprocess")
_RANDOM = re.compile(r"Random|Jitter|Augment|Noise|Elastic|Dropout|Erasing|Shuffle|Mix|Cutout|Distort")
_OTHER_SEED = 0x5EED
_DEEPEST = 8


def settled_item(dataset: Any, index: int) -> Any:
    """Return the item at `index`, read twice; the global generators are left as they were found.

    Raises:
        ConfigError: the readings differ, or random numbers were drawn; the message names the field and the transform.
    """
    before = _states()
    try:
        first = dataset[index]
        after_first = _states()
        _reseed()
        second = dataset[index]
        after_second = _states()
    finally:
        _restore(before)
    differs = difference(first, second)
    drawn = [name for name in before if after_first[name] not in (before[name], after_second[name])]
    if differs is None and not drawn:
        return first
    what = f"{differs} between two readings of sample {index}" if differs else f"sample {index} draws from {drawn[0]}"
    suspects = list(random_transforms(dataset))
    named = f" (look at {', '.join(suspects)})" if suspects else ""
    raise ConfigError(
        f"this data set draws random numbers and cannot be cached: {what}{named}. Cache it without its random "
        "transforms, and apply those to what the cache gives."
    )


def random_transforms(dataset: Any, path: str = "dataset", depth: int = 0) -> Iterator[str]:
    """`attribute: ClassName` of each transform of a data set, or of one that it wraps, that is random by its name."""
    for name in _ATTRIBUTES:
        if (found := getattr(dataset, name, None)) is not None:
            yield from _walk(found, f"{path}.{name}", depth)
    inner = getattr(dataset, "dataset", None)
    if inner is not None and depth < _DEEPEST:
        yield from random_transforms(inner, f"{path}.dataset", depth + 1)


def _walk(transform: Any, path: str, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        return
    parts = transform if isinstance(transform, (list, tuple)) else getattr(transform, "transforms", None)
    if _RANDOM.search(type(transform).__name__) or _RANDOM.search(getattr(transform, "__name__", "")):
        yield f"{getattr(transform, '__name__', type(transform).__name__)} in {path}"
    elif isinstance(parts, (list, tuple)):
        for part in parts:
            yield from _walk(part, path, depth + 1)


def _states() -> dict[str, Any]:
    numpy_state = np.random.get_state(legacy=False)
    inner = numpy_state["state"]
    return {
        "Python's random": random.getstate(),
        "numpy.random": (inner["key"].tobytes(), inner["pos"], numpy_state["has_gauss"], numpy_state["gauss"]),
        "torch's generator": torch.default_generator.get_state().numpy().tobytes(),
    }


def _reseed() -> None:
    random.seed(_OTHER_SEED)
    np.random.seed(_OTHER_SEED)
    torch.default_generator.manual_seed(_OTHER_SEED)


def _restore(states: dict[str, Any]) -> None:
    random.setstate(states["Python's random"])
    key, position, has_gauss, gauss = states["numpy.random"]
    np.random.set_state(("MT19937", np.frombuffer(key, np.uint32), position, has_gauss, gauss))
    torch.default_generator.set_state(torch.frombuffer(bytearray(states["torch's generator"]), dtype=torch.uint8))
