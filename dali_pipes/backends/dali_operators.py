"""Single operators of the installed DALI, for the guard against drift and the parity command.

Also the decoder that they share with the graphs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_DTYPES = {"uint8": "UINT8", "uint16": "UINT16", "int16": "INT16", "float16": "FLOAT16", "float32": "FLOAT"}


def dali_version() -> str:
    """Return the version of the installed DALI."""
    import nvidia.dali

    return str(nvidia.dali.__version__)


def run_operator(
    operator: str, image: npt.NDArray[Any], arguments: Mapping[str, Any], device: str = "cpu"
) -> npt.NDArray[Any]:
    """`nvidia.dali.fn.<operator>` of one image [H, W, C], as `arithmetic.dali.selfcheck.RunOperator` wants it.

    Args:
        operator: the operator's name.
        image: uint8, uint16 or float32 [H, W, C].
        arguments: DALI's, but `dtype` is NumPy's name and `interp_type` a name in lower case.
        device: "cpu" or "gpu".
    """
    from nvidia.dali import fn, types

    given = dict(arguments)
    if "dtype" in given:
        given["dtype"] = getattr(types, _DTYPES[given["dtype"]])
    if "interp_type" in given:
        given["interp_type"] = getattr(types, f"INTERP_{given['interp_type'].upper()}")

    def graph(source: Any) -> Any:
        return getattr(fn, operator)(source.gpu() if device == "gpu" else source, **given)

    (output,) = _run(graph, [np.ascontiguousarray(image)], "HWC", device, threads=1)
    return output


def decoded(jpegs: Any, *, nvjpeg: bool) -> Any:
    """In a graph: plain JPEGs to uint8 [H, W, 3], RGB, by nvJPEG on the GPU or by DALI's CPU decoder."""
    from nvidia.dali import fn, types

    if nvjpeg:
        return fn.decoders.image(
            jpegs,
            device="mixed",
            output_type=types.RGB,
            jpeg_fancy_upsampling=True,  # nearest to libjpeg-turbo
            hw_decoder_load=0.0,  # a share would give a file to one decoder or the other by its place in the batch
        )
    return fn.decoders.image(jpegs, device="cpu", output_type=types.RGB)


def decode_jpegs(
    files: Sequence[npt.NDArray[np.uint8]], *, device: str, native: bool, threads: int
) -> list[npt.NDArray[np.uint8]]:
    """Plain JPEGs (uint8[bytes] each) to uint8 [H, W, 3] by the decoder that a graph on the device uses.

    Args:
        files: the JPEGs.
        device: "cpu" or "gpu".
        native: on a GPU, by nvJPEG, as under `parity="fast"`; otherwise by DALI's CPU decoder.
        threads: DALI's CPU threads.

    Raises RuntimeError (DALI's own) if it cannot take one of them.
    """
    nvjpeg = device == "gpu" and native
    return _run(lambda jpegs: decoded(jpegs, nvjpeg=nvjpeg), files, None, "gpu" if nvjpeg else "cpu", threads)


def _run(
    graph: Any, inputs: Sequence[npt.NDArray[Any]], layout: str | None, device: str, threads: int
) -> list[npt.NDArray[Any]]:
    from nvidia.dali import fn, pipeline_def

    def outputs() -> Any:
        return graph(fn.external_source(name="source", batch=True))

    device_id = None
    if device == "gpu":
        import torch

        device_id = torch.cuda.current_device()
    define = pipeline_def(
        outputs,
        batch_size=len(inputs),
        num_threads=threads,
        device_id=device_id,
        prefetch_queue_depth=1,
        exec_dynamic=True,
    )
    pipeline = define()
    pipeline.build()
    pipeline.feed_input("source", list(inputs), layout=layout)
    (batch,) = pipeline.run()
    batch = batch.as_cpu() if device == "gpu" else batch
    return [np.array(batch.at(i)) for i in range(len(inputs))]
