"""What the benchmarks share: their options, the document that they write, and how single operations are compared."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dali_pipes.tools.bench import machine


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """With the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="few and small data, one repeat: only to see that it runs")
    parser.add_argument("--json", type=Path, help="write the figures and the machine's facts here")
    return parser


def write(path: Path | None, benchmark: str, **figures: Any) -> None:
    """Writes the document, if one is asked for."""
    if path:
        path.write_text(json.dumps({"benchmark": benchmark, "machine": machine(), **figures}, indent=1) + "\n")


def in_turns(work: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of processor time of each, all run in turns: a busy machine slows all of them."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats + 1):
        for name, run in work.items():
            start = time.process_time()
            run()
            times[name].append(1e3 * (time.process_time() - start))
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def dali(image: np.ndarray, operator: Callable[[Any], Any]) -> Callable[[], np.ndarray]:
    """One run, in one thread, of a DALI pipeline with one operator over [H, W, C]."""
    from nvidia.dali import fn, pipeline_def

    @pipeline_def(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1, exec_dynamic=False)
    def graph() -> Any:
        return operator(fn.external_source(lambda: [image], batch=True, no_copy=True, layout="HWC"))

    pipeline = graph()
    pipeline.build()
    return lambda: np.asarray(pipeline.run()[0].at(0))
