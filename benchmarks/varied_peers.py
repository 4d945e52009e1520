"""Random resized crops, flips and normalisation by others, from images that were decoded before: for `varied_bound.py`.

Each peer is set as a competent user of it would set it: images of the base size are prepared once, in the form that the
peer reads fastest; then every epoch cuts, resizes, mirrors and normalises them to float32 [N, 3, side, side].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
WORKERS = 2

Epoch = Callable[[], Iterator[torch.Tensor]]


@dataclass(frozen=True)
class Work:
    """What is to be loaded: files, the sides of base and output, the batch, and a folder for what a peer prepares."""

    files: tuple[str, ...]
    base: int
    side: int
    batch: int
    folder: Path

    def image(self, index: int) -> np.ndarray:
        """uint8[base, base, 3]."""
        with Image.open(self.files[index]) as picture:
            small = picture.convert("RGB").resize((self.base, self.base), Image.Resampling.BILINEAR)
            return np.asarray(small)

    @cached_property
    def arrays(self) -> list[str]:
        """The images as `.npy` files."""
        folder = self.folder / "arrays"
        folder.mkdir(exist_ok=True)
        paths = [folder / f"{i}.npy" for i in range(len(self.files))]
        for i, path in enumerate(paths):
            np.save(path, self.image(i))
        return [str(path) for path in paths]


def ffcv(colours: bool) -> Callable[[Work], Epoch]:
    """FFCV: raw images in its own format, `RandomResizedCropRGBImageDecoder`, a flip, all compiled by Numba.

    Its output is channels last. Its operations must be in this order: `NormalizeImage` after `ToTensor`, as FFCV's
    examples have it for a GPU, sends version 1.0.2 into an endless loop on the CPU.
    """

    def make(work: Work) -> Epoch:
        from ffcv.fields import IntField, RGBImageField
        from ffcv.fields.basics import IntDecoder
        from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
        from ffcv.loader import Loader, OrderOption
        from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, ToTensor, ToTorchImage
        from ffcv.transforms.color_jitter import RandomBrightness, RandomContrast, RandomSaturation
        from ffcv.writer import DatasetWriter

        path = work.folder / "images.beton"
        if not path.exists():
            fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
            DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(_Pairs(work), shuffle_indices=False)
        shift, scale = (np.array(values) * 255 for values in (MEAN, STD))
        jitter = [kind(0.4, 1.0) for kind in (RandomBrightness, RandomContrast, RandomSaturation)] if colours else []
        image = [
            RandomResizedCropRGBImageDecoder((work.side, work.side), AREA, RATIO),
            RandomHorizontalFlip(),
            *jitter,
            NormalizeImage(shift, scale, np.float32),
            ToTensor(),
            ToTorchImage(convert_back_int16=False),
        ]
        loader = Loader(
            str(path),
            batch_size=work.batch,
            num_workers=WORKERS,
            order=OrderOption.SEQUENTIAL,
            os_cache=True,
            drop_last=False,
            pipelines={"image": image, "label": [IntDecoder(), ToTensor()]},
        )
        return lambda: (batch[0] for batch in loader)

    return make


class _Pairs(Dataset[tuple[np.ndarray, int]]):
    def __init__(self, work: Work) -> None:
        self.work = work

    def __len__(self) -> int:
        return len(self.work.files)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.work.image(index), 0


def dali(work: Work) -> Epoch:
    """DALI on the CPU: its reader of `.npy` files, `random_resized_crop`, and a flip within `crop_mirror_normalize`."""
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.plugin.base_iterator import LastBatchPolicy
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    @pipeline_def(batch_size=work.batch, num_threads=WORKERS, device_id=None, exec_dynamic=True, seed=0)
    def graph() -> Any:
        image = fn.reinterpret(fn.readers.numpy(files=work.arrays, name="reader"), layout="HWC")
        image = fn.random_resized_crop(image, size=work.side, random_area=AREA, random_aspect_ratio=RATIO)
        mean, std = ([255 * each for each in values] for values in (MEAN, STD))
        mirror = fn.random.coin_flip()
        return fn.crop_mirror_normalize(
            image, dtype=types.FLOAT, output_layout="CHW", mean=mean, std=std, mirror=mirror
        )

    batches = DALIGenericIterator(
        graph(), ["image"], reader_name="reader", auto_reset=True, last_batch_policy=LastBatchPolicy.PARTIAL
    )
    return lambda: (batch[0]["image"] for batch in batches)


def pillow(work: Work) -> Epoch:
    """Pillow's resize of a crop in the workers of PyTorch's DataLoader, as torchvision does it on PIL images."""
    loader: Any = DataLoader(
        _Cropped(work), work.batch, num_workers=WORKERS, persistent_workers=True, prefetch_factor=2
    )
    return lambda: iter(loader)


class _Cropped(Dataset[torch.Tensor]):
    def __init__(self, work: Work) -> None:
        self.arrays, self.side = work.arrays, work.side
        self.mean, self.std = (torch.tensor(values).mul(255).view(3, 1, 1) for values in (MEAN, STD))

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = np.load(self.arrays[index])
        height, width = image.shape[:2]
        area = height * width * float(torch.empty(1).uniform_(*AREA))
        ratio = float(torch.empty(1).uniform_(*np.log(RATIO).tolist()).exp())
        w = min(width, max(1, round((area * ratio) ** 0.5)))
        h = min(height, max(1, round((area / ratio) ** 0.5)))
        top, left = (int(torch.randint(free + 1, (1,))) for free in (height - h, width - w))
        part = Image.fromarray(image[top : top + h, left : left + w])
        small = np.asarray(part.resize((self.side, self.side), Image.Resampling.BILINEAR))
        pixels = torch.from_numpy(small[:, ::-1].copy() if torch.rand(()) < 0.5 else small.copy()).permute(2, 0, 1)
        return pixels.float().sub_(self.mean).div_(self.std)


PEERS: dict[str, tuple[str, Callable[[Work], Epoch]]] = {
    "FFCV: resized crop, flip": ("ffcv", ffcv(colours=False)),
    "FFCV: photo": ("ffcv", ffcv(colours=True)),
    "DALI: resized crop, flip": ("nvidia.dali", dali),
    "Pillow, DataLoader: resized crop, flip": ("PIL", pillow),
}
"""By name: the module that it needs, and what makes its epochs."""
