"""Everything that a GPU has to prove, in one command: correctness, rates against the bus, training, races, recovery.

    python benchmarks/gpu_acceptance.py --out FILE [--tiny] [--only STEP ...] [--work FOLDER] [--list]

Under 8 minutes on an H100, without a network. Each step runs in a process of its own with a limit of time, so neither a
crash nor a hang of one hides another; FILE is written after each, with what a step had found before it broke off.
Steps that need a GPU do without one what they can, and report "no GPU".

Exit status: 0 all passed; 1 a step failed; 2 nothing failed, but there is no GPU, so most was not proved.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parent.parent))  # a GPU host may have the project as a folder only

from gpu.context import Context, NoGpu, StepFailed  # noqa: E402

STEPS = {
    "facts": ("gpu.facts", 60),
    "compile": ("gpu.checks", 90),
    "tests": ("gpu.checks", 210),
    "digests": ("gpu.checks", 150),
    "recovery": ("gpu.checks", 60),
    "first_use": ("gpu.checks", 90),
    "bandwidth": ("gpu.rates", 60),
    "warm": ("gpu.rates", 120),
    "nvjpeg": ("gpu.rates", 60),
    "races": ("gpu.races", 90),
    "training": ("gpu.training", 120),
}
"""Name: the module that holds the function of that name, and the most seconds that it may take."""

PASSED, FAILED, NO_GPU = "passed", "failed", "no GPU"


def run_here(name: str, context: Context) -> dict[str, Any]:
    """One step, in this process."""
    module = __import__(STEPS[name][0], fromlist=[name])
    started = time.perf_counter()
    found: dict[str, Any] = {"status": PASSED}
    try:
        found["figures"] = getattr(module, name)(context)
    except NoGpu as error:
        found.update(status=NO_GPU, figures=error.figures)
    except StepFailed as error:
        found.update(status=FAILED, error=str(error), figures=error.figures)
    except Exception as error:  # a step's own fault too is a finding, and no reason to stop
        found.update(status=FAILED, error=f"{type(error).__name__}: {error}", trace=traceback.format_exc()[-4000:])
        found["figures"] = context.kept(name)
    return {**found, "seconds": round(time.perf_counter() - started, 2)}


def run_apart(name: str, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """One step, in a process of its own."""
    result, log = work / f"{name}.json", work / f"{name}.log"
    for old in (result, work / f"{name}.part.json"):
        old.unlink(missing_ok=True)
    command = [sys.executable, str(HERE), "--step", name, "--out", str(result), "--work", str(work)]
    limit, path = STEPS[name][1], (str(HERE.parent.parent), os.environ.get("PYTHONPATH"))
    started = time.perf_counter()
    with open(log, "w", encoding="utf-8") as output:
        step = subprocess.Popen(
            [*command, *(["--tiny"] if options.tiny else [])],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
            start_new_session=True,
        )
        try:
            status: int | None = step.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(step.pid, 9)
            step.wait()
            status = None
    if result.exists():
        return dict(json.loads(result.read_text("utf-8")))
    why = f"took longer than {limit} s" if status is None else f"ended with status {status} and no result"
    tail = log.read_text("utf-8", errors="replace")[-4000:]
    seconds, figures = round(time.perf_counter() - started, 2), Context(work, options.tiny).kept(name)
    return {"status": FAILED, "error": why, "output": tail, "figures": figures, "seconds": seconds}


def verdict(results: dict[str, dict[str, Any]]) -> int:
    """The exit status."""
    states = {result["status"] for result in results.values()}
    return 1 if FAILED in states else 2 if NO_GPU in states else 0


def main(arguments: list[str]) -> int:
    """Run the steps, or within a step's own process that one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the findings here, after each step")
    parser.add_argument("--tiny", action="store_true", help="few and small data: only to see that it runs")
    parser.add_argument("--only", nargs="+", choices=list(STEPS), default=list(STEPS), help="these steps alone")
    parser.add_argument("--work", type=Path, help="folder of the data that is made (default: a temporary one)")
    parser.add_argument("--list", action="store_true", help="name the steps")
    parser.add_argument("--step", choices=list(STEPS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(STEPS))
        return 0
    if options.out is None:
        parser.error("give --out FILE")
    if options.step:
        found = run_here(options.step, Context(options.work, options.tiny))
        options.out.write_text(json.dumps(found, indent=1, default=str) + "\n", encoding="utf-8")
        return 0
    with tempfile.TemporaryDirectory(prefix="gpu-acceptance-") as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        results: dict[str, dict[str, Any]] = {}
        for name in STEPS:
            if name not in options.only:
                continue
            results[name] = run_apart(name, options, work)
            document = {"benchmark": "gpu_acceptance", "tiny": options.tiny, "exit": verdict(results), "steps": results}
            options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            error = results[name].get("error", "")
            print(f"{name:10} {results[name]['status']:7} {results[name]['seconds']:7.1f} s  {error}", flush=True)
    return verdict(results)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
