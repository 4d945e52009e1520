"""How each peer loads the same images, set as a competent user of it would set it. `peers.py` runs and compares them.

A peer is a function from a `Work` to something that is called once an epoch and gives batches, uint8 or float32
[N, 3, side, side]. What it prepares (a cache, shards) it prepares in that call or in its first epoch, inside of
`work.folder`, so that the cold figure holds it. Peers that know nothing of images get decoded ones from `decoded`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
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
    """What is to be loaded: files, the side of the square output, its dtype, the batch, and a folder for caches."""

    files: tuple[str, ...]
    side: int
    batch: int
    dtype: str
    folder: Path

    def out(self, batch: torch.Tensor) -> torch.Tensor:
        """Normalise a uint8 batch, if float32 is wanted."""
        return batch if self.dtype == "uint8" else batch.float().sub_(MEAN).mul_(INVERSE)


@dataclass(frozen=True)
class Peer:
    """A way to load images: what it needs installed, and which dtypes and kinds of file it can take."""

    make: Callable[[Work], Epoch]
    needs: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ("photos", "mammograms", "thumbnails")


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


def ours(backend: str, mode: str) -> Callable[[Work], Epoch]:
    """This package."""

    def make(work: Work) -> Epoch:
        import dali_pipes as dp

        rows = [{"path": path, "label": 0} for path in work.files]
        norm = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)} if work.dtype == "float32" else {}
        recipe = dp.Recipe(size=work.side, **norm)  # type: ignore[arg-type]
        from dali_pipes.loader.dataset import manifest_of_rows

        loader = dp.Loader(
            manifest_of_rows(rows, Path(work.files[0]).parent),
            recipe,
            batch_size=work.batch,
            backend=backend,
            num_workers=WORKERS,
            cache_mode=mode,
            **({"cache_dir": work.folder / "ours"} if mode != "none" else {}),
        )
        return lambda: (batch.image for batch in loader)

    return make


def monai_cache(work: Work) -> Epoch:
    """MONAI's CacheDataset: items in RAM, filled by threads when it is made."""
    from monai.data import CacheDataset

    def load(path: str) -> torch.Tensor:
        return decoded(path, work.side)

    made: list[Any] = []

    def epoch() -> Iterator[torch.Tensor]:
        if not made:
            dataset = CacheDataset(list(work.files), load, num_workers=WORKERS, progress=False, copy_cache=False)
            made.append(data_loader(dataset, work, workers=0))
        return made[0]()  # type: ignore[no-any-return]

    return epoch


def monai_persistent(work: Work) -> Epoch:
    """MONAI's PersistentDataset: a `.pt` file an item."""
    from monai.data import PersistentDataset

    dataset = PersistentDataset(list(work.files), _Load(work.side), cache_dir=work.folder / "monai")
    return data_loader(dataset, work)


class _Load:
    """A picklable transform."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, path: str) -> torch.Tensor:
        return decoded(path, self.side)


def litdata(work: Work) -> Epoch:
    """LitData: arrays optimised into chunks once, then streamed from the local folder."""
    import litdata as ld

    folder = str(work.folder / "litdata")

    def optimise() -> None:
        ld.optimize(
            fn=_Item(work.side),
            inputs=list(work.files),
            output_dir=folder,
            num_workers=WORKERS,
            chunk_bytes="64MB",
            verbose=False,
        )

    made: list[Any] = []

    def epoch() -> Iterator[torch.Tensor]:
        if not made:
            optimise()
            dataset = ld.StreamingDataset(folder, shuffle=False)
            made.append(ld.StreamingDataLoader(dataset, batch_size=work.batch, num_workers=WORKERS))
        return map(work.out, iter(made[0]))

    return epoch


class _Item(_Load):
    """For LitData, which pickles the function: the tensor itself is the item."""


def mosaic(work: Work) -> Epoch:
    """Mosaic Streaming: MDS shards with raw arrays, read from the local folder."""
    from streaming import MDSWriter, StreamingDataset

    folder = str(work.folder / "mds")
    made: list[Epoch] = []

    def collate(rows: list[dict[str, np.ndarray]]) -> torch.Tensor:
        return torch.stack([torch.from_numpy(row["image"].copy()) for row in rows])

    def epoch() -> Iterator[torch.Tensor]:
        if not made:
            shape = f"ndarray:uint8:3,{work.side},{work.side}"
            with MDSWriter(out=folder, columns={"image": shape}) as writer:
                for path in work.files:
                    writer.write({"image": decoded(path, work.side).numpy()})
            dataset = StreamingDataset(local=folder, shuffle=False, batch_size=work.batch)
            made.append(data_loader(dataset, work, collate_fn=collate))
        return made[0]()

    return epoch


def webdataset(work: Work) -> Epoch:
    """WebDataset: tar shards of .npy members, a shard a worker at least."""
    import webdataset as wds

    folder = work.folder / "wds"
    folder.mkdir(exist_ok=True)
    made: list[Epoch] = []

    def array(data: bytes) -> torch.Tensor:
        return torch.from_numpy(np.load(io.BytesIO(data)))

    def epoch() -> Iterator[torch.Tensor]:
        if not made:
            for number, share in enumerate(np.array_split(np.arange(len(work.files)), WORKERS)):
                with wds.TarWriter(str(folder / f"{number}.tar")) as writer:
                    for index in share.tolist():
                        buffer = io.BytesIO()
                        np.save(buffer, decoded(work.files[index], work.side).numpy())
                        writer.write({"__key__": f"{index:08d}", "npy": buffer.getvalue()})
            urls = [str(folder / f"{number}.tar") for number in range(WORKERS)]
            dataset = wds.WebDataset(urls, shardshuffle=False).map(lambda row: array(row["npy"]))
            made.append(data_loader(dataset.batched(work.batch, collation_fn=torch.stack), _unbatched(work)))
        return made[0]()

    return epoch


def _unbatched(work: Work) -> Any:
    """For datasets that give batches: DataLoader's own batching is off."""
    from dataclasses import replace

    return replace(work, batch=None)  # type: ignore[arg-type]


def spdl(work: Work) -> Epoch:
    """SPDL: a thread pipeline over `.npy` files, which its first epoch writes."""
    from spdl.pipeline import PipelineBuilder

    dataset = Decoding(work, "npy")

    def stack(images: Sequence[torch.Tensor]) -> torch.Tensor:
        return work.out(torch.stack(list(images)))

    def epoch() -> Iterator[torch.Tensor]:
        pipeline = (
            PipelineBuilder()
            .add_source(range(len(dataset)))
            .pipe(dataset.__getitem__, concurrency=WORKERS, output_order="input")
            .aggregate(work.batch)
            .pipe(stack)
            .add_sink(2)
            .build(num_threads=WORKERS)
        )
        with pipeline.auto_stop():
            yield from pipeline.get_iterator(timeout=120)

    return epoch


def hf_datasets(work: Work) -> Epoch:
    """Hugging Face datasets: an Arrow table of arrays, memory-mapped, in torch format."""
    import datasets

    made: list[Epoch] = []

    def epoch() -> Iterator[torch.Tensor]:
        if not made:
            shape = datasets.Array3D((3, work.side, work.side), "uint8")

            def rows() -> Iterator[dict[str, np.ndarray]]:
                for path in work.files:
                    yield {"image": decoded(path, work.side).numpy()}

            table = datasets.Dataset.from_generator(
                rows, features=datasets.Features({"image": shape}), cache_dir=str(work.folder / "hf")
            ).with_format("torch")
            made.append(data_loader(table, work, collate_fn=lambda rows: torch.stack([row["image"] for row in rows])))
        return made[0]()

    return epoch


def dali_file_reader(work: Work) -> Epoch:
    """DALI's own reader, decoder and resize on the CPU; decodes every epoch."""
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    @pipeline_def(batch_size=work.batch, num_threads=WORKERS, device_id=None)
    def graph() -> Any:
        data, _ = fn.readers.file(files=list(work.files), name="reader")
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
        image = fn.readers.numpy(files=files, name="reader", dont_use_mmap=False)
        return _dali_output(fn.reinterpret(image, layout="CHW"), work, "CHW")

    made: list[Epoch] = []

    def epoch() -> Iterator[torch.Tensor]:
        if not made:
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


PEERS: dict[str, Peer] = {
    "ours, torch": Peer(ours("torch", "pinned")),
    "ours, dali-cpu": Peer(ours("dali-cpu", "pinned"), ("nvidia.dali",)),
    "ours, no cache": Peer(ours("torch", "none")),
    "torch, PIL and pydicom": Peer(lambda work: data_loader(Decoding(work), work)),
    "seed: PNG files": Peer(lambda work: data_loader(Decoding(work, "png"), work)),
    "seed: .npy files": Peer(lambda work: data_loader(Decoding(work, "npy"), work)),
    "seed: .pt files": Peer(lambda work: data_loader(Decoding(work, "pt"), work)),
    "seed: memory maps": Peer(lambda work: data_loader(Decoding(work, "dat"), work)),
    "MONAI CacheDataset": Peer(monai_cache, ("monai",)),
    "MONAI PersistentDataset": Peer(monai_persistent, ("monai",)),
    "LitData": Peer(litdata, ("litdata",)),
    "Mosaic Streaming": Peer(mosaic, ("streaming",)),
    "WebDataset": Peer(webdataset, ("webdataset",)),
    "SPDL": Peer(spdl, ("spdl",)),
    "HF datasets": Peer(hf_datasets, ("datasets",)),
    "DALI readers.file": Peer(dali_file_reader, ("nvidia.dali",), ("photos", "thumbnails")),
    "DALI readers.numpy": Peer(dali_numpy_reader, ("nvidia.dali",)),
}
