"""What the kernels of a plan read, laid out on the host in one buffer: jobs, plans, resampling tables and curves.

NumPy only, as `packing`, so that the same buffer drives the kernels compiled for the CPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dali_pipes.arithmetic.curves import curve
from dali_pipes.arithmetic.geometry import Size
from dali_pipes.arithmetic.packing import _ALIGN, _AXIS, _Shelf
from dali_pipes.arithmetic.plan import Plan
from dali_pipes.arithmetic.tables import Interpolation, table

_PLACE = [("source", "u8"), ("curve", "i8"), ("between", "i8"), ("first", "i4"), ("rows", "i4")]
CROP_JOB = np.dtype([*_PLACE, ("across", _AXIS), ("down", _AXIS)])


@dataclass(frozen=True, eq=False)
class PackedPlan:
    """One batch, ready for the device.

    Attributes:
        buffer: uint8, holding the parts that start at byte `plans` and `tables`; the jobs start at 0.
        plans, tables: bytes.
        between: elements of the buffer between the passes.
        columns, rows: the largest extent of the first pass.
        crops, blurs, sharpens, stretches, values: whether any picture needs these steps.
    """

    buffer: npt.NDArray[np.uint8]
    plans: int
    tables: int
    between: int
    columns: int
    rows: int
    crops: bool
    blurs: bool
    sharpens: bool
    stretches: bool
    values: bool


def pack_plan(
    addresses: Sequence[int], plans: Plan, size: Size, planes: int, interpolation: Interpolation, depth: int
) -> PackedPlan:
    """Lay out a batch. addresses: where each base picture's planes start; plans: one record of `PLAN` each."""
    shelf, jobs, between = _Shelf(), np.zeros(len(addresses), CROP_JOB), 0
    jobs["source"] = addresses
    for job, plan in zip(jobs, plans):
        if plan["warped"]:
            continue
        nh, nw = size[::-1] if plan["turns"] % 2 else size
        _, _, height, width = plan["box"].tolist()
        down, across = table(height, nh, interpolation, depth), table(width, nw, interpolation, depth)
        first, last = down.covers()
        job["between"], job["first"], job["rows"] = between, first, last - first
        job["across"], job["down"] = shelf.add(across), shelf.add(down)
        between += planes * (last - first) * nw
    full_scale = (1 << depth) - 1
    curved = ((plans["exponent"] != 0) & (plans["exponent"] != 1)) | (plans["lost"] > 0)
    curved |= (plans["threshold"] > 0) & (plans["threshold"] <= full_scale)
    parts = [jobs, np.ascontiguousarray(plans), shelf.values()]
    starts = [0]
    for part in parts:
        starts.append(-(-(starts[-1] + part.nbytes) // _ALIGN) * _ALIGN)
    for i in np.flatnonzero(curved).tolist():
        exponent, threshold, lost = (
            float(plans["exponent"][i]) or 1.0,
            int(plans["threshold"][i]),
            int(plans["lost"][i]),
        )
        jobs["curve"][i] = starts[-1]
        parts.append(curve(exponent, threshold or full_scale + 1, lost, np.uint8 if depth == 8 else np.uint16))
        starts.append(-(-(starts[-1] + parts[-1].nbytes) // _ALIGN) * _ALIGN)
    buffer = np.zeros(starts[-1], np.uint8)
    for start, part in zip(starts, parts):
        buffer[start : start + part.nbytes] = part.reshape(-1).view(np.uint8)
    noisy = (plans["noise"] > 0) | (plans["erased"][:, 2] > 0)
    return PackedPlan(
        buffer,
        plans=starts[1],
        tables=starts[2],
        between=between,
        columns=int(jobs["across"]["n"].max(initial=0)),
        rows=int(jobs["rows"].max(initial=0)),
        crops=bool((jobs["rows"] > 0).any()),
        blurs=bool((plans["blur"][:, 1] > 0).any()),
        sharpens=bool((plans["sharpen"] != 0).any()),
        stretches=bool((plans["autocontrast"] > 0).any()),
        values=bool((curved | noisy | (plans["autocontrast"] > 0)).any()),
    )
