"""Time of the `dali-cpu` resize twin against DALI's own CPU resize: per image, one thread, medians of one run.

    python benchmarks/micro_dali_twins.py [--repeats 11] [--tiny] [--json FILE]

The two run in turns, so that a busy machine slows both; compare the ratios, not the milliseconds. Outputs are
compared too.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nvidia import dali
from nvidia.dali import fn, pipeline_def

from dali_pipes.arithmetic import dali_cpu

CASES = (
    ((768, 1024, 3), (512, 512)),
    ((768, 1024, 3), (224, 224)),
    ((1200, 1600, 3), (512, 512)),
    ((3328, 2560, 1), (512, 512)),
    ((300, 400, 3), (512, 512)),
    ((64, 48, 3), (32, 32)),
)
TINY = (((64, 48, 3), (32, 32)),)


def dali_resize(image: np.ndarray, size: tuple[int, int]) -> Callable[[], np.ndarray]:
    @pipeline_def(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1, exec_dynamic=False)
    def graph() -> Any:
        return fn.resize(fn.external_source(lambda: [image], batch=True, no_copy=True, layout="HWC"), size=size)

    pipeline = graph()
    pipeline.build()
    return lambda: np.asarray(pipeline.run()[0].at(0))


def measure(shape: tuple[int, int, int], size: tuple[int, int], dtype: str, repeats: int) -> dict[str, Any]:
    """Median milliseconds of both over the same image."""
    image = np.random.default_rng(0).integers(0, 255, shape).astype(dtype)
    theirs, tensor = dali_resize(image, size), torch.from_numpy(image)
    times: dict[str, list[float]] = {"dali": [], "twin": []}
    same = True
    for _ in range(repeats + 1):
        started = time.perf_counter()
        expected = theirs()
        between = time.perf_counter()
        found = dali_cpu.resize(tensor, (float(size[0]), float(size[1])))
        times["dali"].append(between - started)
        times["twin"].append(time.perf_counter() - between)
        same = same and expected.tobytes() == found.numpy().tobytes()
    dali_ms, twin_ms = (1e3 * statistics.median(times[name][1:]) for name in ("dali", "twin"))
    return {
        "shape": shape,
        "size": size,
        "dtype": dtype,
        "identical": same,
        "dali_ms": round(dali_ms, 3),
        "twin_ms": round(twin_ms, 3),
        "ratio": round(twin_ms / dali_ms, 2),
    }


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=11, help="timed runs a case")
    parser.add_argument("--tiny", action="store_true", help="one small case")
    parser.add_argument("--json", type=Path, help="write the figures and the machine's facts here")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    results = []
    for shape, size in TINY if options.tiny else CASES:
        for dtype in ("uint8", "uint16", "float32"):
            result = measure(shape, size, dtype, options.repeats)
            results.append(result)
            name = f"{'x'.join(map(str, shape))} {dtype} to {size[0]}x{size[1]}"
            bits = "identical" if result["identical"] else "DIFFERENT"
            print(f"{name:36s} DALI {result['dali_ms']:8.2f} ms  twin {result['twin_ms']:8.2f} ms", end="  ")
            print(f"ratio {result['ratio']:5.2f}  {bits}", flush=True)
    print(f"geometric mean of the ratios: {statistics.geometric_mean([r['ratio'] for r in results]):.2f}")
    if options.json:
        machine = {
            "machine": platform.machine(),
            "processor": platform.processor(),
            "python": platform.python_version(),
        }
        versions = {"torch": torch.__version__, "numpy": np.__version__, "dali": dali.__version__}
        options.json.write_text(json.dumps({**machine, **versions, "results": results}, indent=1) + "\n")
    return 0 if all(result["identical"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
