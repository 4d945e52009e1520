"""The portable arithmetic on a GPU, through CuPy, a batch at a time.

The bits are those of `base_image`, `warp`, `recolour` and `normalise_into`.

`resize_batch` brings decoded pictures of any sizes to one batch: two launches, one upload, whatever the number of
pictures. `finish_batch` brings base pictures to one batch: one launch.

The source is `portable.cu`, compiled by NVRTC at first use on each device (CuPy keeps the result on disk). Everything
is queued on CuPy's current stream of the device that holds the pictures, and nothing waits. CuPy is imported by the
functions, not by the module.
"""

from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np

from dali_pipes.arithmetic.geometry import Fit, Size, as_size
from dali_pipes.arithmetic.normalise import Floats
from dali_pipes.arithmetic.packing import Packed, flip_bits, pack_finish, pack_resize
from dali_pipes.arithmetic.packing_plan import PackedPlan
from dali_pipes.arithmetic.tables import Interpolation
from dali_pipes.errors import BackendError, ConfigError

COMPILE_OPTIONS = ("--std=c++14", "--fmad=false", "--prec-div=true", "--prec-sqrt=true")
"""Nothing fused, divisions and roots rounded correctly. CuPy adds `-ftz=true` to whatever it is given, which NVRTC 12.8
refuses beside another `--ftz`; so the kernels' float steps are PTX that keeps denormals, whatever the option."""

REMEDY = "pip install 'dali-pipes[cuda]'"
"""What brings CuPy and an NVRTC that it can load."""

SOURCES = ("portable.cu", "varied.cu")
"""Files of CUDA source, in the order in which they are compiled as one."""

_COLUMNS, _ROWS = 64, 4
"""Threads of a block."""

_SHORT = {"uint8": "u8", "uint16": "u16", "float32": "f32", "float16": "f16"}

Normalise = tuple[Floats, Floats]


def source() -> str:
    """Return the CUDA source of all kernels."""
    folder = files("dali_pipes.arithmetic")
    return "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in SOURCES)


def resize_batch(
    images: Sequence[Any],
    size: int | Size,
    fit: Fit,
    interpolation: Interpolation = "bilinear",
    *,
    hflip: Sequence[bool] | None = None,
    vflip: Sequence[bool] | None = None,
    gray: bool = False,
    normalise: Normalise | None = None,
    dtype: str | None = None,
) -> Any:
    """Resize, crop or pad, flip and normalise a batch on the device that holds it.

    images: CuPy uint8 [h, w, C], C-contiguous, C the same for all. gray: 3 channels become 1 first, as in `gray`.
    hflip, vflip: one flag per picture; the finished picture is flipped. normalise: `(m, inv)` of `normalisation`, or
    None. dtype: "uint8" without normalise (the default then), "float32" (the default) or "float16" with it. Returns a
    CuPy array [N, C, h, w]. Raises ConfigError for pictures that do not fit together, BackendError without CuPy.
    """
    cupy = _cupy()
    kind = _out_type("uint8", normalise, dtype)
    height, width = as_size(size)
    channels = _common(images, "uint8", 3)[2] if images else 1
    if gray and channels != 3:
        raise ConfigError(f"gray=True needs pictures of 3 channels, not {channels}")
    planes = 1 if gray else channels
    place = [(image.data.ptr, image.shape[0], image.shape[1]) for image in images]
    packed = pack_resize(place, planes, size, fit, interpolation, flip_bits(len(images), hflip, vflip), normalise)
    if not images:
        return cupy.empty((0, planes, height, width), kind)
    with images[0].device:
        out = cupy.empty((len(images), planes, height, width), kind)
        device = _upload(packed)
        between = cupy.empty(packed.between, "uint8")
        tables, m, inv = (device[part:] for part in (packed.tables, packed.m, packed.inv))
        passed = (device, tables, between, *_ints(channels, gray))
        _launch("resize_across", packed.columns, packed.rows, len(images), passed)
        passed = (device, tables, between, out, *_ints(planes, height, width), m, inv)
        _launch(f"resize_down_{_SHORT[kind]}", width, height, len(images), passed)
    return out


def base_images(
    images: Sequence[Any], size: int | Size, fit: Fit, interpolation: Interpolation = "bilinear", *, gray: bool = False
) -> list[Any]:
    """`resize_batch` as a list of N CuPy uint8 [C, h, w], complete when it returns: for callers on another stream."""
    return _complete(resize_batch(images, size, fit, interpolation, gray=gray))


def finish_batch(
    images: Sequence[Any] | Any,
    *,
    hflip: Sequence[bool] | None = None,
    vflip: Sequence[bool] | None = None,
    warps: Sequence[Any] | Any | None = None,
    maps: Sequence[Any] | Any | None = None,
    normalise: Normalise | None = None,
    dtype: str | None = None,
) -> Any:
    """Flip, warp, recolour and normalise base pictures on the device that holds them.

    images: CuPy uint8 or uint16 [C, h, w], C-contiguous, one shape and type; a list of them, or one array [N, C, h,
    w]. warps: CuPy int64[6] for each picture, rows of `quantise`, or None. maps: CuPy int64[C, C + 1] for each picture,
    of `colour_maps` with the type's full scale, or None. normalise: `(m, inv)` of `normalisation` with the type's full
    scale, or None. dtype: the input's without it, else "float32" or "float16". Returns a CuPy array [N, C, h, w].
    Raises ConfigError for pictures that do not fit together, warps and maps that do not fit the pictures, BackendError
    without CuPy.
    """
    cupy = _cupy()
    if not len(images):
        raise ConfigError("finish_batch got no pictures, so it can't tell the shape of the batch")
    given = str(images[0].dtype)
    if given not in ("uint8", "uint16"):
        raise ConfigError(f"base pictures are uint8 or uint16, not {given}")
    kind = _out_type(given, normalise, dtype)
    _common(images, given, 0)
    planes, height, width = images[0].shape
    packed = pack_finish(
        [image.data.ptr for image in images],
        planes,
        flip_bits(len(images), hflip, vflip),
        normalise,
        _addresses("warps", warps, len(images), (6,)),
        _addresses("maps", maps, len(images), (planes, planes + 1)),
    )
    with images[0].device:
        device = _upload(packed)
        out = cupy.empty((len(images), planes, height, width), kind)
        passed = (device, out, *_ints(planes, height, width), device[packed.m :], device[packed.inv :])
        _launch(f"finish_{_SHORT[given]}_{_SHORT[kind]}", width, height, len(images), passed)
    return out


def launch_finish(kernel: str, jobs: int, m: int, inv: int, out: int, shape: Sequence[int]) -> None:
    """Queue a kernel `finish_*` over what lies on the current device, on CuPy's current stream.

    kernel: its name. jobs, m, inv: addresses of the parts of `packing.pack_finish`'s buffer. out: address of the batch,
    of `shape` [N, C, h, w].
    """
    count, planes, height, width = shape
    first, last = (np.uint64(address) for address in (jobs, out)), (np.uint64(address) for address in (m, inv))
    _launch(kernel, width, height, count, (*first, *_ints(planes, height, width), *last))


def varied_images(
    images: Sequence[Any], warps: Sequence[Any] | None = None, maps: Sequence[Any] | None = None
) -> list[Any]:
    """Return what `finish_batch` makes without flips and normalising, for callers on another stream.

    That is a list of N CuPy arrays [C, h, w] of the input's type, which are complete when this returns.
    """
    return _complete(finish_batch(images, warps=warps, maps=maps))


def current_stream() -> Any:
    """Return CuPy's stream object in which the calling thread queues now."""
    return _cupy().cuda.get_current_stream()


def problem() -> str | None:
    """Say in words why the kernels cannot be compiled for the device that is current, or return None if they can.

    Compiles them, which takes about a second unless CuPy has the result on disk.
    """
    try:
        cupy = _cupy()
        _module(cupy.cuda.Device().id).get_function("finish_u8_u8")
    except Exception as error:  # CuPy's, NVRTC's, the loader's of libraries: whatever it is, there are no kernels
        first = str(error).strip().partition("\n")[0]
        return f"CuPy is installed but cannot compile the kernels ({type(error).__name__}: {first}); {REMEDY}"
    return None


def _complete(batch: Any) -> list[Any]:
    """Return the pictures of a batch, once the stream that makes it has come to its end."""
    with batch.device:
        current_stream().synchronize()
    return list(batch)


def _addresses(name: str, values: Sequence[Any] | Any | None, count: int, shape: tuple[int, ...]) -> list[int] | None:
    """Return where each picture's numbers lie on the device."""
    if values is None:
        return None
    if len(values) != count:
        raise ConfigError(f"{len(values)} {name} for {count} pictures; give one for each")
    for i, value in enumerate(values):
        if str(value.dtype) != "int64" or tuple(value.shape) != shape or not value.flags.c_contiguous:
            raise ConfigError(
                f"{name}[{i}] is {value.dtype} {list(value.shape)}; it must be int64 {list(shape)}, contiguous"
            )
    return [value.data.ptr for value in values]


def _common(images: Sequence[Any], dtype: str, free: int) -> tuple[int, ...]:
    """Check type, layout and the axes that must agree (all, or from the third on); return the first picture's shape."""
    shape: tuple[int, ...] = tuple(images[0].shape)
    for i, image in enumerate(images):
        alike = len(image.shape) == 3 and image.shape[free and 2 :] == shape[free and 2 :]
        if str(image.dtype) != dtype or not alike or not image.flags.c_contiguous:
            raise ConfigError(
                f"picture {i} is {image.dtype} {list(image.shape)}, contiguous: {bool(image.flags.c_contiguous)}; "
                f"it must be {dtype}, contiguous, and agree with the first one, {list(shape)}"
            )
    return shape


def _out_type(given: str, normalise: Normalise | None, dtype: str | None) -> str:
    allowed = (given,) if normalise is None else ("float32", "float16")
    if dtype is not None and dtype not in allowed:
        how = "without" if normalise is None else "with"
        raise ConfigError(f"dtype is {dtype!r}; {how} normalise, {given} pictures give {' or '.join(allowed)}")
    return dtype or allowed[0]


def _cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        raise BackendError(f"the GPU kernels need CuPy, which is not installed; {REMEDY}") from error
    return cupy


@lru_cache(maxsize=64)
def _module(device: int) -> Any:
    """Return the compiled kernels for one device."""
    return _cupy().RawModule(code=source(), options=COMPILE_OPTIONS, backend="nvrtc")


def _upload(packed: Packed | PackedPlan) -> Any:
    # asarray stages through page-locked memory and copies on the current stream; ndarray.set would wait for the stream.
    return _cupy().asarray(packed.buffer)


def _launch(name: str, columns: int, rows: int, pictures: int, arguments: tuple[Any, ...]) -> None:
    # A grid has at most 65535 rows and pictures: the kernels stride over rows, and batches are smaller.
    grid = (-(-columns // _COLUMNS), min(-(-rows // _ROWS), 65535), pictures)
    _module(_cupy().cuda.Device().id).get_function(name)(grid, (_COLUMNS, _ROWS), arguments)


def _ints(*values: int) -> tuple[np.int32, ...]:
    """C's int; CuPy would pass a Python integer in 64 bits."""
    return tuple(np.int32(value) for value in values)
