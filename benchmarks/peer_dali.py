"""DALI alone, on the CPU, as its own users would set it: see `peer_loaders.py`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from peer_work import INVERSE, MEAN, WORKERS, Decoding, Epoch, Work, data_loader
from torch.utils.data import DataLoader


def dali_file_reader(work: Work) -> Epoch:
    """DALI's own reader, decoder and resize on the CPU; decodes every epoch."""
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    @pipeline_def(batch_size=work.batch, num_threads=WORKERS, device_id=None)
    def graph() -> Any:
        data, _ = fn.readers.file(files=list(work.files), name="reader", pad_last_batch=True)
        image = fn.decoders.image(data, output_type=types.RGB)
        image = fn.resize(image, resize_x=work.side, resize_y=work.side, antialias=True)
        return _dali_output(image, work, "HWC")

    return _dali_epochs(graph, DALIGenericIterator, work)


def dali_numpy_reader(work: Work) -> Epoch:
    """DALI's reader of .npy files, which the first epoch writes."""
    from nvidia.dali import fn, pipeline_def
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    dataset = Decoding(work, "npy")
    files = [str(work.folder / "kept" / f"{index}.npy") for index in range(len(dataset))]

    @pipeline_def(batch_size=work.batch, num_threads=WORKERS, device_id=None)
    def graph() -> Any:
        image = fn.readers.numpy(files=files, name="reader", dont_use_mmap=False, pad_last_batch=True)
        return _dali_output(fn.reinterpret(image, layout="CHW"), work, "CHW")

    made: list[Epoch] = []

    def epoch() -> Iterator[torch.Tensor]:
        if not made:
            if not all(map(os.path.exists, files)):
                for _ in data_loader(dataset, work)():
                    pass
            made.append(_dali_epochs(graph, DALIGenericIterator, work))
        return made[0]()

    return epoch


def _dali_output(image: Any, work: Work, layout: str) -> Any:
    from nvidia.dali import fn, types

    if work.dtype == "uint8":
        return image if layout == "CHW" else fn.transpose(image, perm=[2, 0, 1])
    mean, std = (MEAN.flatten().tolist(), INVERSE.reciprocal().flatten().tolist())
    return fn.crop_mirror_normalize(image, dtype=types.FLOAT, output_layout="CHW", mean=mean, std=std)


def _dali_epochs(graph: Any, iterator: Any, work: Work) -> Epoch:
    batches = iterator(graph(), ["image"], reader_name="reader", auto_reset=True, last_batch_policy=_partial())
    return lambda: (batch[0]["image"] for batch in batches)


def _partial() -> Any:
    from nvidia.dali.plugin.base_iterator import LastBatchPolicy

    return LastBatchPolicy.PARTIAL


def dali_external_source(work: Work) -> Epoch:
    """DALI's external source over a memory map of all images, which the first epoch writes; batches are not copied."""
    from nvidia.dali import fn, pipeline_def
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    images = packed(work)
    count = -(-len(images) // work.batch)

    def batch(info: Any) -> Any:
        if info.iteration >= count:
            raise StopIteration
        return list(images[info.iteration * work.batch : (info.iteration + 1) * work.batch])

    @pipeline_def(batch_size=work.batch, num_threads=WORKERS, device_id=None, exec_dynamic=True)
    def graph() -> Any:
        image = fn.external_source(source=batch, batch=True, batch_info=True, no_copy=True, layout="CHW")
        return _dali_output(fn.copy(image) if work.dtype == "uint8" else image, work, "CHW")

    batches = DALIGenericIterator(graph(), ["image"], auto_reset=True, last_batch_policy=_partial())
    return lambda: (batch[0]["image"] for batch in batches)


def packed(work: Work) -> np.ndarray:
    """uint8[N, 3, side, side], mapped; written by two workers where it is not there."""
    path = work.folder / "packed.npy"
    if not path.exists():
        shape = (len(work.files), 3, work.side, work.side)
        images = np.lib.format.open_memmap(path.with_suffix(".part"), "w+", np.uint8, shape)
        done = 0
        for batch in DataLoader(Decoding(work), work.batch, num_workers=WORKERS):
            images[done : done + len(batch)] = batch.numpy()
            done += len(batch)
        images.flush()
        path.with_suffix(".part").rename(path)
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]
