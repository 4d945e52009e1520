"""How each peer loads the same images, set as a competent user of it would set it. `peers.py` runs and compares them.

A peer is a function from a `Work` to something that is called once an epoch and gives batches, uint8 or float32
[N, 3, side, side]. What it prepares (a cache, shards) it prepares in that call or in its first epoch, inside of
`work.folder`, so that the cold figure holds it; what is there already it takes. Peers that know nothing of images get
decoded ones from `decoded`.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from peer_dali import dali_external_source, dali_file_reader, dali_numpy_reader
from peer_work import WORKERS, Decoding, Epoch, Work, data_loader, decoded


@dataclass(frozen=True)
class Peer:
    """A way to load images.

    Attributes:
        make: see above.
        needs: what has to be installed; imported before the clock starts.
        kinds: the kinds of file with which it is compared, see `peers.py`.
        keeps: whether later epochs decode nothing; one that does not is run once.
        other_pixels: whether it gives other pixels than the others, on purpose.
    """

    make: Callable[[Work], Epoch]
    needs: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ("photos",)
    keeps: bool = True
    other_pixels: bool = False


ALL = ("photos", "mammograms", "small", "many")


def load(module: str) -> None:
    """Import what a peer needs."""
    if module == "streaming":  # its data sets of pictures want a torchvision built like this torch, and are not used
        sys.modules.setdefault("streaming.vision", ModuleType("streaming.vision"))
    importlib.import_module(module)


def ours(backend: str, mode: str, **parts: Any) -> Callable[[Work], Epoch]:
    """This package."""

    def make(work: Work) -> Epoch:
        import dali_pipes as dp

        rows = [{"path": path, "label": 0} for path in work.files]
        norm = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)} if work.dtype == "float32" else {}
        recipe = dp.Recipe(size=work.side, **norm, **parts)  # type: ignore[arg-type]
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

    made: list[Any] = []

    def epoch() -> Iterator[torch.Tensor]:
        if not made:
            options = {"num_workers": WORKERS, "progress": False, "copy_cache": False}
            made.append(data_loader(CacheDataset(list(work.files), _monai(work), **options), work, workers=0))
        return made[0]()  # type: ignore[no-any-return]

    return epoch


def monai_persistent(work: Work) -> Epoch:
    """MONAI's PersistentDataset: a `.pt` file an item."""
    from monai.data import PersistentDataset

    return data_loader(PersistentDataset(list(work.files), _monai(work), cache_dir=work.folder / "monai"), work)


def _monai(work: Work) -> Any:
    """A step of MONAI's: what comes after one that is none of its own is not kept."""
    from monai.transforms import Transform

    class Load(Transform):
        def __call__(self, path: str) -> torch.Tensor:
            return decoded(path, work.side)

    return Load()


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
            if not Path(folder, "index.json").exists():
                optimise()
            dataset = ld.StreamingDataset(folder, shuffle=False)
            loading = {"batch_size": work.batch, "num_workers": WORKERS, "persistent_workers": True}
            made.append(ld.StreamingDataLoader(dataset, **loading))
        return map(work.out, iter(made[0]))

    return epoch


class _Item:
    """For LitData, which pickles the function: the tensor itself is the item."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, path: str) -> torch.Tensor:
        return decoded(path, self.side)


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
            if not Path(folder, "index.json").exists():
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
                if (folder / f"{number}.tar").exists():
                    continue
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

    folder = work.folder / "arrow"
    made: list[Epoch] = []

    def epoch() -> Iterator[torch.Tensor]:
        if not made:
            if not folder.exists():
                shape = datasets.Array3D((3, work.side, work.side), "uint8")

                def rows() -> Iterator[dict[str, np.ndarray]]:
                    for path in work.files:
                        yield {"image": decoded(path, work.side).numpy()}

                features = datasets.Features({"image": shape})
                datasets.Dataset.from_generator(
                    rows, features=features, cache_dir=str(work.folder / "hf")
                ).save_to_disk(folder)
            table = datasets.load_from_disk(folder).with_format("torch", dtype=torch.uint8)
            made.append(data_loader(table, work, collate_fn=lambda rows: torch.stack([row["image"] for row in rows])))
        return made[0]()

    return epoch


def ffcv(work: Work) -> Epoch:
    """FFCV: raw arrays in its own format, read through the page cache; normalised by PyTorch."""
    from ffcv.fields import NDArrayField
    from ffcv.fields.decoders import NDArrayDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import ToTensor
    from ffcv.writer import DatasetWriter

    path = str(work.folder / "images.beton")
    made: list[Any] = []

    def epoch() -> Iterator[torch.Tensor]:
        if not made:
            if not os.path.exists(path):
                field = NDArrayField(np.dtype(np.uint8), (3, work.side, work.side))
                writer = DatasetWriter(path, {"image": field}, num_workers=WORKERS)
                writer.from_indexed_dataset(_Rows(work), chunksize=8)
            pipelines = {"image": [NDArrayDecoder(), ToTensor()]}
            options = {"num_workers": WORKERS, "order": OrderOption.SEQUENTIAL, "os_cache": True, "drop_last": False}
            made.append(Loader(path, batch_size=work.batch, pipelines=pipelines, **options))
        return (work.out(batch) for (batch,) in made[0])

    return epoch


class _Rows:
    """Decoded images as FFCV's writer takes them: a tuple of fields."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __len__(self) -> int:
        return len(self.work.files)

    def __getitem__(self, index: int) -> tuple[np.ndarray]:
        torch.set_num_threads(1)  # it is one of several processes
        return (decoded(self.work.files[index], self.work.side).numpy(),)


FAST = ("photos", "small", "many")
OURS = ("dali_pipes.loader.loader", "dali_pipes.loader.dataset", "dali_pipes.backends.torch")
PEERS: dict[str, Peer] = {
    "ours, torch": Peer(ours("torch", "pinned"), OURS, ALL),
    "ours, dali-cpu": Peer(ours("dali-cpu", "pinned"), (*OURS, "dali_pipes.backends.dali", "nvidia.dali"), ALL),
    "ours, no cache": Peer(ours("torch", "none"), OURS, ("photos", "mammograms"), keeps=False),
    "ours, reduced": Peer(ours("torch", "pinned", reduce=True), OURS, ("mammograms",), other_pixels=True),
    "torch, PIL and pydicom": Peer(lambda work: data_loader(Decoding(work), work), kinds=ALL, keeps=False),
    "PyTorch over PNG files": Peer(lambda work: data_loader(Decoding(work, "png"), work)),
    "PyTorch over .npy files": Peer(lambda work: data_loader(Decoding(work, "npy"), work), kinds=ALL),
    "PyTorch over .pt files": Peer(lambda work: data_loader(Decoding(work, "pt"), work)),
    "PyTorch over memory maps": Peer(lambda work: data_loader(Decoding(work, "dat"), work), kinds=("photos", "small")),
    "MONAI CacheDataset": Peer(monai_cache, ("monai",), ALL),
    "MONAI PersistentDataset": Peer(monai_persistent, ("monai",), ("photos", "mammograms")),
    "FFCV": Peer(ffcv, ("ffcv",), FAST),
    "LitData": Peer(litdata, ("litdata",)),
    "Mosaic Streaming": Peer(mosaic, ("streaming",)),
    "WebDataset": Peer(webdataset, ("webdataset",), FAST),
    "SPDL": Peer(spdl, ("spdl",)),
    "HF datasets": Peer(hf_datasets, ("datasets",)),
    "DALI readers.file": Peer(dali_file_reader, ("nvidia.dali",), FAST, keeps=False),
    "DALI readers.numpy": Peer(dali_numpy_reader, ("nvidia.dali",), ("photos", "small")),
    "DALI external source": Peer(dali_external_source, ("nvidia.dali",), ("photos", "small")),
}
