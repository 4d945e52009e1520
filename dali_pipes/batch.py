"""What the training loop receives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, eq=False)
class Batch:
    """N samples; also reads as a dictionary, `batch["image"]`.

    Attributes:
        image: float32[N, C, H, W], normalised; uint8 or uint16 where the recipe has no mean.
        label: int64[N]; -1 where a sample has none.
        index: int64[N], positions in the manifest.
        id: N names, as in the manifest.
    """

    image: torch.Tensor
    label: torch.Tensor
    index: torch.Tensor
    id: list[str]

    def __getitem__(self, name: str) -> Any:
        if name not in tuple(self):
            raise KeyError(f"{name!r}; a batch has {', '.join(self)}")
        return getattr(self, name)

    def keys(self) -> tuple[str, ...]:
        """The names that `batch[name]` takes."""
        return tuple(self)

    def __iter__(self) -> Iterator[str]:
        return iter(("image", "label", "index", "id"))

    def __len__(self) -> int:
        return len(self.id)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors on `device`."""
        image, label, index = (t.to(device, non_blocking=non_blocking) for t in (self.image, self.label, self.index))
        return Batch(image, label, index, self.id)

    def __repr__(self) -> str:
        kind = str(self.image.dtype).removeprefix("torch.")
        return f"Batch(image={kind}{list(self.image.shape)} on {self.image.device}, label={self.label.tolist()})"
