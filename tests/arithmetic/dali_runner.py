"""Runs one operator of the installed DALI over a batch of images, for the tests of the twins."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

DTYPES = {"uint8": "UINT8", "uint16": "UINT16", "int16": "INT16", "float16": "FLOAT16", "float32": "FLOAT"}


def require_dali() -> None:
    """Skip the calling module when DALI is not installed."""
    pytest.importorskip("nvidia.dali", reason="the twins are compared with NVIDIA DALI, which is not installed")


def run_operator(
    operator: str,
    images: Sequence[np.ndarray],
    fixed: Mapping[str, Any] | None = None,
    per_image: Mapping[str, Sequence[np.ndarray]] | None = None,
    device: str = "cpu",
) -> list[np.ndarray]:
    """Outputs of `nvidia.dali.fn.<operator>`, one an image.

    fixed: arguments of the graph; `dtype` by NumPy's name and `interp_type` in lower case. per_image: tensor
    arguments.
    """
    from nvidia.dali import fn, pipeline_def, types

    arguments = dict(fixed or {})
    if "dtype" in arguments:
        arguments["dtype"] = getattr(types, DTYPES[arguments["dtype"]])
    if "interp_type" in arguments:
        arguments["interp_type"] = getattr(types, f"INTERP_{arguments['interp_type'].upper()}")
    feeds = dict(per_image or {})

    @pipeline_def(
        batch_size=len(images), num_threads=1, device_id=0 if device == "gpu" else None, prefetch_queue_depth=1
    )
    def graph():
        nodes = {name: fn.external_source(name=name) for name in feeds}
        images = fn.external_source(name="images", layout="HWC")
        return getattr(fn, operator)(images.gpu() if device == "gpu" else images, **nodes, **arguments)

    pipeline = graph()
    pipeline.build()
    pipeline.feed_input("images", [np.ascontiguousarray(image) for image in images], layout="HWC")
    for name, values in feeds.items():
        pipeline.feed_input(name, [np.asarray(value) for value in values])
    (outputs,) = pipeline.run()
    outputs = outputs.as_cpu() if device == "gpu" else outputs
    return [np.array(outputs.at(i)) for i in range(len(images))]
