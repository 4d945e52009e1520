"""Time of the `dali-cpu` twins of resize and warp_affine against DALI's own CPU operators: per image, one thread,
medians of one run.

    python benchmarks/micro_dali_twins.py [--repeats 11] [--tiny] [--json FILE]

Processor time, and both in turns, for machines that others use too: compare the ratios, not the milliseconds. Outputs
are compared too.
"""

import statistics
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import argument_parser, dali, in_turns, write
from nvidia.dali import fn

from dali_pipes.arithmetic import dali_cpu

SIZES = (
    ((768, 1024, 3), (512, 512)),
    ((768, 1024, 3), (224, 224)),
    ((1200, 1600, 3), (512, 512)),
    ((3328, 2560, 1), (512, 512)),
    ((300, 400, 3), (512, 512)),
    ((64, 48, 3), (32, 32)),
)
TURN = ((0.854, -0.311, 100.0), (0.311, 0.854, -60.0))
"""20 degrees, and 1.1 times as large."""


def measure(
    name: str,
    image: np.ndarray,
    operator: Callable[[Any], Any],
    twin: Callable[[torch.Tensor], torch.Tensor],
    count: int,
) -> dict[str, Any]:
    """Median milliseconds of both over the same image."""
    tensor = torch.from_numpy(image)
    work = {"dali": dali(image, operator), "twin": lambda: twin(tensor).numpy()}
    identical = len({run().tobytes() for run in work.values()}) == 1
    dali_ms, twin_ms = in_turns(work, count).values()
    ratio, bits = twin_ms / dali_ms, "identical" if identical else "DIFFERENT"
    print(f"{name:44s} DALI {dali_ms:8.2f} ms  twin {twin_ms:8.2f} ms  ratio {ratio:5.2f}  {bits}", flush=True)
    found = {"dali_ms": round(dali_ms, 3), "twin_ms": round(twin_ms, 3), "ratio": round(ratio, 2)}
    return {"operation": name, "identical": identical, **found}


def main(arguments: list[str]) -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=11, help="timed runs a case")
    options = parser.parse_args(arguments)
    count, sizes, side = (1, SIZES[-1:], 32) if options.tiny else (options.repeats, SIZES, 512)
    torch.set_num_threads(1)
    results = []

    def run(name: str, shape: tuple[int, ...], dtype: str, operator: Any, twin: Any) -> None:
        image = np.random.default_rng(0).integers(0, 255, shape).astype(dtype)
        results.append(measure(f"{name} {'x'.join(map(str, shape))} {dtype}", image, operator, twin, count))

    for shape, (height, width) in sizes:
        for dtype in ("uint8", "uint16", "float32"):
            run(
                f"resize to {height}x{width},",
                shape,
                dtype,
                lambda x, size=(height, width): fn.resize(x, size=size),
                lambda x, size=(float(height), float(width)): dali_cpu.resize(x, size),
            )
    flat = [value for row in TURN for value in row]
    for dtype in ("uint8", "float32"):
        run(
            "warp_affine,",
            (side, side, 3),
            dtype,
            lambda x: fn.warp_affine(x, matrix=flat, fill_value=0),
            lambda x: dali_cpu.warp_affine(x, TURN, fill_value=0),
        )
    print(f"geometric mean of the ratios: {statistics.geometric_mean([r['ratio'] for r in results]):.2f}")
    write(options.json, "micro_dali_twins", results=results)
    return 0 if all(result["identical"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
