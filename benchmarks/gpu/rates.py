"""Steps that measure: the bus, warm batches against it and against others, nvJPEG."""

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dali_pipes as dp
from gpu.context import IMAGENET, Context

SIDE = 512
PIECE = 3 * SIDE * SIDE
BATCH = 32


def bandwidth(context: Context) -> dict[str, Any]:
    """GB/s to the GPU: one page-locked block of 32 images, 32 pieces of it, a registered map, pageable memory."""
    context.need_gpu()
    import cupy

    runtime, stream = cupy.cuda.runtime, torch.cuda.current_stream()
    total = BATCH * PIECE
    there = torch.empty(total, dtype=torch.uint8, device="cuda")

    def copies(address: int, pieces: int) -> Callable[[], None]:
        size = total // pieces

        def run() -> None:
            for i in range(pieces):
                here, to = address + i * size, there.data_ptr() + i * size
                runtime.memcpyAsync(to, here, size, runtime.memcpyHostToDevice, stream.cuda_stream)

        return run

    locked = torch.empty(total, dtype=torch.uint8, pin_memory=True).fill_(1)
    pageable = np.ones(total, np.uint8)
    path = context.work / "map.bin"
    path.write_bytes(bytes(total))
    found: dict[str, Any] = {"bytes": total, "GB/s": {}}
    with open(path, "rb") as file:
        mapped = np.frombuffer(mmap.mmap(file.fileno(), total, prot=mmap.PROT_READ), np.uint8)
    addresses = {
        "page-locked, 1 piece": (locked.data_ptr(), 1),
        f"page-locked, {BATCH} pieces": (locked.data_ptr(), BATCH),
        "pageable": (pageable.ctypes.data, 1),
    }
    try:
        runtime.hostRegister(mapped.ctypes.data, total, 8)  # cudaHostRegisterReadOnly
        addresses[f"registered map, {BATCH} pieces"] = (mapped.ctypes.data, BATCH)
    except runtime.CUDARuntimeError as error:
        found["registered map"] = str(error)
    for name, (address, pieces) in addresses.items():
        seconds = context.median_seconds(copies(address, pieces), 20)
        found["GB/s"][name] = round(total / seconds / 1e9, 2)
    if len(addresses) == 4:
        runtime.hostUnregister(mapped.ctypes.data)
    bound = found["GB/s"]["page-locked, 1 piece"] * 1e9 / PIECE
    return {**found, "images/s that the bus allows": round(bound)}


def loader_rate(context: Context, count: int, side: int, floats: bool, **options: Any) -> dict[str, Any]:
    """Later epochs of a loader over the `pinned` cache."""
    manifest = context.small_jpegs(count)
    recipe = dp.Recipe(side, **(IMAGENET if floats else {}), augment=dp.Augment(0.5))
    options |= {"cache_mode": "pinned", "cache_dir": context.work / "pinned", "shuffle": True}
    with dp.Loader(manifest, recipe, batch_size=BATCH, backend="torch", **{**options, "gpu_bytes": 0}) as filling:
        for _ in filling.warm():  # a segment that still grows is not page-locked
            pass
    with dp.Loader(manifest, recipe, batch_size=BATCH, backend=context.backend, **options) as loader:

        def epoch(number: int) -> Iterator[Any]:
            loader.set_epoch(number)
            return iter(loader)

        rate = context.rate(epoch)
        return {"images/s": rate, "share waiting": loader.stats()["epochs"][-1]["share_waiting"]}


def warm(context: Context) -> dict[str, Any]:
    """Warm images/s as a share of what the bus allows, against DALI's readers, its decoder cache, and a DataLoader."""
    count, side = context.size(2048, 64), context.size(SIDE, 64)
    found: dict[str, Any] = {"images": count, "side": side}
    ours = {"uint8": {"floats": False}, "float32": {"floats": True}}
    if context.gpu:
        ours["float32, gpu_bytes"] = {"floats": True, "gpu_bytes": 8 * 2**30}  # type: ignore[dict-item]
    bound = bus_bound(context) if context.gpu else 0.0
    found["images/s that the bus allows"] = round(bound)
    for title, options in ours.items():
        found[title] = loader_rate(context, count, side, **options)
        if bound:
            found[title]["share of the bus"] = round(found[title]["images/s"] / bound, 3)
        context.keep("warm", found)
    folder = context.work / "arrays"
    folder.mkdir(exist_ok=True)
    files = write_arrays(folder, min(count, 1024), side)
    peers: dict[str, Callable[[], float]] = {
        "DataLoader, pinned, normalised on the device": lambda: plain_loader(context, files, side),
        "DALI readers.numpy, cpu": lambda: numpy_reader(context, files, "cpu"),
    }
    if context.gpu:
        peers["DALI readers.numpy, gpu"] = lambda: numpy_reader(context, files, "gpu")
        peers["DALI decoder cache"] = lambda: decoder_cache(context, context.photos(256, (SIDE, SIDE)))
    for title, measure in peers.items():
        try:
            found[title] = {"images/s": measure()}
        except Exception as error:  # one peer that cannot run here hides no other
            found[title] = {"error": f"{type(error).__name__}: {error}"[:500]}
        context.keep("warm", found)
    context.need_gpu(**found)
    return found


def bus_bound(context: Context) -> float:
    """Images per second of one page-locked copy a batch."""
    locked = torch.empty(BATCH * PIECE, dtype=torch.uint8, pin_memory=True)
    there = torch.empty(BATCH * PIECE, dtype=torch.uint8, device="cuda")
    return BATCH / context.median_seconds(lambda: there.copy_(locked, non_blocking=True), 20)


def write_arrays(folder: Path, count: int, side: int) -> list[str]:
    """One `.npy` of uint8 [3, side, side] an image."""
    rng = np.random.default_rng(0)
    names = [str(folder / f"{i:05d}.npy") for i in range(count)]
    for name in names:
        if not Path(name).exists():
            np.save(name, rng.integers(0, 256, (3, side, side), dtype=np.uint8))
    return names


class Arrays(torch.utils.data.Dataset):
    """Images in memory, as a plain user would keep them."""

    def __init__(self, files: list[str]) -> None:
        self.images = [torch.from_numpy(np.load(name)) for name in files]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images[index]


def plain_loader(context: Context, files: list[str], side: int) -> float:
    """PyTorch's own, page-locked, copied asynchronously, normalised on the device."""
    batches = torch.utils.data.DataLoader(
        Arrays(files), BATCH, shuffle=True, num_workers=context.size(8, 0), pin_memory=context.gpu,
        persistent_workers=context.size(8, 0) > 0,
    )  # fmt: skip
    mean, std = (255 * torch.tensor(IMAGENET[name], device=context.device)[:, None, None] for name in ("mean", "std"))

    def epoch(number: int) -> Iterator[torch.Tensor]:
        for batch in batches:
            yield (batch.to(context.device, non_blocking=True).float() - mean) / std

    return context.rate(epoch)


def dali_epochs(context: Context, pipeline: Any, count: int) -> float:
    """Images per second of a pipeline that gives batches without end."""
    pipeline.build()

    def epoch(number: int) -> Iterator[Any]:
        for _ in range(max(1, count // BATCH)):
            (batch,) = pipeline.run()
            yield batch

    return context.rate(epoch)


def normalised(images: Any) -> Any:
    """DALI's own operator."""
    from nvidia.dali import fn

    mean, std = ([255 * value for value in IMAGENET[name]] for name in ("mean", "std"))
    return fn.crop_mirror_normalize(images, mean=mean, std=std, output_layout="CHW")


def numpy_reader(context: Context, files: list[str], device: str) -> float:
    """DALI's reader of `.npy` files; on the GPU it needs GPUDirect Storage."""
    from nvidia.dali import fn, pipeline_def

    @pipeline_def(batch_size=BATCH, num_threads=8, device_id=0 if context.gpu else None, exec_dynamic=True)
    def graph() -> Any:
        images = fn.reshape(fn.readers.numpy(files=files, device=device, random_shuffle=True), layout="CHW")
        return normalised(images.gpu() if context.gpu and device == "cpu" else images)

    return dali_epochs(context, graph(), len(files))


def decoder_cache(context: Context, manifest: dp.Manifest) -> float:
    """DALI's nvJPEG with its cache of decoded images in GPU memory."""
    from nvidia.dali import fn, pipeline_def, types

    files = [str(manifest.resolve(i)) for i in range(len(manifest))]

    @pipeline_def(batch_size=BATCH, num_threads=8, device_id=0, exec_dynamic=True)
    def graph() -> Any:
        jpegs, _ = fn.readers.file(files=files, labels=[0] * len(files), stick_to_shard=True, random_shuffle=True)
        images = fn.decoders.image(
            jpegs, device="mixed", output_type=types.RGB, cache_size=2000, cache_type="threshold", cache_threshold=0
        )
        return normalised(images)

    return dali_epochs(context, graph(), len(files))


def nvjpeg(context: Context) -> dict[str, Any]:
    """Rate of nvJPEG, and its distance from libjpeg-turbo, with and without fancy upsampling."""
    import simplejpeg
    from nvidia.dali import fn, pipeline_def, types

    manifest = context.photos(context.size(64, 4), (context.size(1200, 60), context.size(1600, 80)))
    data = [np.frombuffer(manifest.resolve(i).read_bytes(), np.uint8) for i in range(len(manifest))]
    expected = [simplejpeg.decode_jpeg(each).astype(np.int16) for each in data]
    found: dict[str, Any] = {"photos": len(data), "shape": list(expected[0].shape)}

    def graph(device: str, **options: Any) -> Any:
        @pipeline_def(batch_size=len(data), num_threads=8, device_id=0 if context.gpu else None, exec_dynamic=True)
        def define() -> Any:
            jpegs = fn.external_source(source=lambda: data, batch=True)
            return fn.decoders.image(jpegs, device=device, output_type=types.RGB, **options)

        pipeline = define()
        pipeline.build()
        return pipeline

    ways: dict[str, Any] = {"DALI on the CPU": ("cpu", {})}
    if context.gpu:
        for fancy in (True, False):
            ways[f"nvJPEG, fancy upsampling {fancy}"] = (
                "mixed", {"jpeg_fancy_upsampling": fancy, "hw_decoder_load": 0.0}
            )  # fmt: skip
        ways["nvJPEG, hardware decoder"] = ("mixed", {"jpeg_fancy_upsampling": True, "hw_decoder_load": 1.0})
    for title, (device, options) in ways.items():
        pipeline = graph(device, **options)
        (batch,) = pipeline.run()
        pixels = batch.as_cpu() if device == "mixed" else batch
        gaps = [np.abs(np.asarray(pixels.at(i)).astype(np.int16) - expected[i]) for i in range(len(data))]
        seconds = context.median_seconds(pipeline.run, 4)
        found[title] = {
            "images/s": round(len(data) / seconds, 1),
            "largest difference": int(max(gap.max() for gap in gaps)),
            "mean difference": round(float(np.mean([gap.mean() for gap in gaps])), 4),
            "share of values that differ": round(float(np.mean([(gap > 0).mean() for gap in gaps])), 4),
        }
        context.keep("nvjpeg", found)
    context.need_gpu(**found)
    return found
