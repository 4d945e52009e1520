"""What every peer has to do, and what they share: the images, their decoding, PyTorch's DataLoader.

Also the designs that only need PyTorch: a file an item in a folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

MEAN = torch.tensor([0.485, 0.456, 0.406]).mul(255).view(1, 3, 1, 1)
INVERSE = torch.tensor([0.229, 0.224, 0.225]).mul(255).reciprocal().view(1, 3, 1, 1)
WORKERS = 2

Epoch = Callable[[], Iterator[torch.Tensor]]


@dataclass(frozen=True)
class Work:
    """What is to be loaded: files, the side of the square output, its dtype, the batch, and a folder for caches.

    A folder that another process has filled is used as it is.
    """

    files: tuple[str, ...]
    side: int
    batch: int
    dtype: str
    folder: Path

    def out(self, batch: torch.Tensor) -> torch.Tensor:
        """Normalise a uint8 batch, if float32 is wanted."""
        return batch if self.dtype == "uint8" else batch.float().sub_(MEAN).mul_(INVERSE)


def decoded(path: str, side: int) -> torch.Tensor:
    """uint8[3, side, side]: Pillow or pydicom, the 0.5 and 99.5 percentiles as window, torch's antialiased resize."""
    if path.endswith(".dcm"):
        import pydicom

        stored = pydicom.dcmread(path).pixel_array.astype(np.float32)
        low, high = np.percentile(stored, (0.5, 99.5))
        plane = np.clip((stored - low) / max(high - low, 1) * 255 + 0.5, 0, 255).astype(np.uint8)
        image = torch.from_numpy(plane)[None]
    else:
        from PIL import Image

        with Image.open(path) as picture:
            image = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    small = F.interpolate(image[None], (side, side), mode="bilinear", antialias=True)[0]
    return small.expand(3, -1, -1).contiguous()


class Decoding(Dataset[torch.Tensor]):
    """Decodes each item, or keeps it as the seeds' designs do: a file an item in a folder, read back every epoch."""

    def __init__(self, work: Work, kept: str = "") -> None:
        self.work, self.kept = work, kept
        (work.folder / "kept").mkdir(exist_ok=True)

    def __len__(self) -> int:
        return len(self.work.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        if not self.kept:
            return decoded(self.work.files[index], self.work.side)
        path = self.work.folder / "kept" / f"{index}.{self.kept}"
        if not path.exists():
            image = decoded(self.work.files[index], self.work.side)
            self._write(path, image)
            return image
        return self._read(path)

    def _write(self, path: Path, image: torch.Tensor) -> None:
        if self.kept == "npy":
            np.save(path, image.numpy())
        elif self.kept == "pt":
            torch.save(image, path)
        elif self.kept == "png":
            from PIL import Image

            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
        else:
            image.numpy().tofile(path)

    def _read(self, path: Path) -> torch.Tensor:
        if self.kept == "npy":
            return torch.from_numpy(np.load(path))
        if self.kept == "pt":
            return torch.load(path, weights_only=True)  # type: ignore[no-any-return]
        if self.kept == "png":
            from PIL import Image

            with Image.open(path) as picture:
                return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        shape = (3, self.work.side, self.work.side)
        return torch.from_numpy(np.memmap(path, np.uint8, "r", shape=shape).copy())


def data_loader(dataset: Any, work: Work, workers: int = WORKERS, **options: Any) -> Epoch:
    """PyTorch's DataLoader, its workers kept from epoch to epoch."""
    keep = {"persistent_workers": True, "prefetch_factor": 2} if workers else {}
    loader: Any = DataLoader(dataset, work.batch, num_workers=workers, **keep, **options)
    return lambda: map(work.out, iter(loader))
