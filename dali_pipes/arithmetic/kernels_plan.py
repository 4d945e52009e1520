"""What a plan says, on a GPU, through CuPy: the bits of `plan.varied`, a batch at a time. See `varied.cu`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dali_pipes.arithmetic import kernels
from dali_pipes.arithmetic.geometry import Size
from dali_pipes.arithmetic.packing_plan import pack_plan
from dali_pipes.arithmetic.plan import PLAN, Plan
from dali_pipes.arithmetic.tables import Interpolation
from dali_pipes.errors import ConfigError


def planned_batch(images: Sequence[Any], plans: Plan, size: Size, interpolation: Interpolation = "bilinear") -> Any:
    """Do to base pictures what their records say, on the device that holds them.

    Args:
        images: CuPy uint8 or uint16 [C, H, W], C-contiguous, up to 3 channels, one shape and type.
        plans: one record of `PLAN` each, in main memory.
        size: (height, width) of the output.
        interpolation: of resizing.

    Returns:
        A CuPy array [N, C, *size] of the input's type.

    Raises:
        ConfigError: pictures that do not fit together, or not as many as records. BackendError: there is no CuPy.
    """
    if not len(images) or len(images) != len(plans):
        raise ConfigError(f"{len(images)} pictures and {len(plans)} records; give one of each, and at least one")
    kind = str(images[0].dtype)
    if kind not in ("uint8", "uint16") or images[0].shape[0] > 3:
        raise ConfigError(
            f"pictures are {kind} {list(images[0].shape)}; give uint8 or uint16 [C, H, W], up to 3 channels"
        )
    planes, base_height, base_width = kernels._common(images, kind, 0)
    with images[0].device:
        addresses = [image.data.ptr for image in images]
        return planned_at(addresses, plans, (planes, base_height, base_width), size, interpolation, kind)


def planned_at(
    addresses: Sequence[int],
    plans: Plan,
    base: tuple[int, int, int],
    size: Size,
    interpolation: Interpolation,
    kind: str,
) -> Any:
    """Do what `planned_batch` does to base pictures that lie on the current device, on CuPy's current stream.

    Args:
        addresses: where each picture's planes start.
        plans, size, interpolation: as for `planned_batch`.
        base: (C, H, W) of the pictures.
        kind: "uint8" or "uint16".

    Returns:
        A CuPy array [N, C, *size] of that type.
    """
    packed = pack_plan(addresses, plans, size, base[0], interpolation, 8 if kind == "uint8" else 16)
    return _steps(packed, kind, base, size, len(addresses))


def planned_images(images: Sequence[Any], words: Sequence[Any], size: Size, interpolation: Interpolation) -> list[Any]:
    """`planned_batch` as a list, complete when it returns: for callers on another stream.

    words: CuPy int64[WORDS] for each picture.
    """
    records = kernels._cupy().stack(list(words)).get()
    return kernels._complete(planned_batch(images, np.ascontiguousarray(records).view(PLAN)[:, 0], size, interpolation))


def _steps(packed: Any, kind: str, base: tuple[int, int, int], size: Size, count: int) -> Any:
    cupy, short = kernels._cupy(), {"uint8": "u8", "uint16": "u16"}[kind]
    planes, (height, width) = base[0], size
    device = kernels._upload(packed)
    plans, tables = device[packed.plans :], device[packed.tables :]
    shape = (planes, height, width)
    one, other = (cupy.empty((count, *shape), kind) for _ in range(2))

    def launch(name: str, columns: int, rows: int, *passed: Any) -> None:
        given = tuple(np.int32(value) if isinstance(value, int) else value for value in passed)
        kernels._launch(f"{name}_{short}", columns, rows, count, given)

    if packed.crops:
        between = cupy.empty(max(1, packed.between), kind)
        launch("crop_across", packed.columns, packed.rows, device, plans, tables, between, *base)
        launch("crop_down", max(size), max(size), device, tables, between, other, planes)
    launch("vary_place", width, height, device, plans, other, one, *base, height, width)
    if packed.blurs:
        launch("blur_across", width, planes * height, plans, one, other, *shape)
        launch("blur_down", width, planes * height, plans, other, one, *shape)
    if packed.sharpens:
        launch("vary_sharpen", width, planes * height, plans, one, other, *shape)
        one, other = other, one
    if packed.values:
        extremes = cupy.zeros((count, planes, 2), "uint32")
        if packed.stretches:
            launch("vary_extremes", width, planes * height, one, extremes, *shape)
        launch("vary_values", width, planes * height, device, plans, extremes, one, other, *shape)
        one, other = other, one
    return one
