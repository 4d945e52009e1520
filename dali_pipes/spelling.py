"""Names that other libraries give to our settings, answered with the name that is meant here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, Self, cast

from dali_pipes.errors import ConfigError

ELSEWHERE = {
    "img_size": "size",
    "image_size": "size",
    "input_size": "size",
    "resolution": "size",
    "resize": "size",
    "input_channels": "channels",
    "in_chans": "channels",
    "augmentation": "augment",
    "augmentations": "augment",
    "normalize": "mean and std",
    "normalise": "mean and std",
    "resize_mode": "fit",
    "antialias": "interpolation (always antialiased)",
    "hflip": "horizontal_flip",
    "flip": "horizontal_flip",
    "fliplr": "horizontal_flip",
    "vflip": "vertical_flip",
    "flipud": "vertical_flip",
    "rotate": "rotation",
    "degrees": "rotation",
    "translate": "shift",
    "zoom": "scale",
    "random_resized_crop": "resized_crop",
}
"""What a setting is called elsewhere, and what it is called here."""


def unknown_name(owner: str, name: str, known: Iterable[str]) -> str:
    """Return the words that answer a name which no setting has."""
    names = list(known)
    meant = ELSEWHERE.get(name)
    if meant is None or meant.split()[0] not in names:
        meant = next(iter(difflib.get_close_matches(name, names, 1)), None)
    hint = f" Do you mean {meant}?" if meant else ""
    return f"{owner} has no {name!r}.{hint} Its fields are {', '.join(names)}."


class Spelled:
    """What a frozen dataclass inherits so that a field it lacks is an error in words."""

    def __new__(cls, *values: Any, **given: Any) -> Self:
        """Make an instance; raise ConfigError for a name that is no field."""
        known = [field.name for field in fields(cast(Any, cls))]
        for name in given:
            if name not in known:
                raise ConfigError(unknown_name(cls.__name__, name, known))
        return super().__new__(cls)


class NotPickled:
    """What an object inherits that holds threads and open files."""

    def __reduce__(self) -> Any:
        """Refuse to be pickled or copied."""
        what = type(self).__name__
        raise ConfigError(
            f"a {what} holds threads, processes and open files, and cannot be pickled or copied; make one in each "
            "process from the same arguments, hand over state_dict(), or use ImageDataset, which may be pickled."
        )
