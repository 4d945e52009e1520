"""Ours against its peers: the same files to the same outputs, cold and warm, each in a fresh process.

    python benchmarks/peers.py [--kinds photos mammograms thumbnails] [--dtypes uint8 float32] [--only NAME ...]
                               [--rounds 3] [--tiny] [--json FILE]

    photos      JPEGs of 1.9 megapixels to 512x512; mammograms: 3328x2560 DICOM; thumbnails: many 64x64 JPEGs to 224x224

A round runs each peer once, in a process of its own: a cold epoch (decoding, and whatever the peer prepares), then warm
epochs. Rounds interleave the peers, so a busy machine slows all of them; before each run the machine copies memory for
a moment, and runs during which that differs by more than a third from the best are marked. A run counts the processor
time and memory of all its processes. Peers that are not installed are named and left out (the extra `peers`).

Outputs are compared: each peer's first batch has our shape and dtype, and lies within two levels of ours on average,
because resizing differs between libraries.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import argument_parser, write
from data import MAMMOGRAM, PHOTO, write_mammograms, write_photos, write_thumbnails
from peer_loaders import PEERS, Work

KINDS = ("photos", "mammograms", "thumbnails")
DTYPES = ("uint8", "float32")
NOISY = 1.33


def run_one(job: dict[str, Any]) -> dict[str, Any]:
    """In the child: one peer's epochs."""
    work = Work(tuple(job["files"]), job["side"], job["batch"], job["dtype"], Path(job["folder"]))
    for module in PEERS[job["peer"]].needs:
        importlib.import_module(module)  # how long imports take is no part of an epoch
    start = time.perf_counter()
    epoch = PEERS[job["peer"]].make(work)
    first, count = None, 0
    for batch in epoch():
        if first is None:
            first = batch.clone()
            first_batch = time.perf_counter() - start
        count += len(batch)
    cold = time.perf_counter() - start
    if first is None or count != len(work.files):
        raise SystemExit(f"{job['peer']} gave {count} of {len(work.files)} images")
    warm = []
    for _ in range(job["epochs"]):
        start = time.perf_counter()
        for _batch in epoch():
            pass
        warm.append(len(work.files) / (time.perf_counter() - start))
    np.save(job["out"], first.float().numpy())
    return {
        "cold": len(work.files) / cold,
        "first_batch_seconds": first_batch,
        "warm": statistics.median(warm),
        "peak_mib": sum(map(peak_mib, family())),
        "shape": list(first.shape),
        "dtype": str(first.dtype),
    }


def family() -> list[str]:
    """This process and its children that live; workers are kept to the end."""
    tasks = Path("/proc/self/task").glob("*/children")
    return ["self", *(child for task in tasks for child in task.read_text().split())]


def peak_mib(process: str) -> float:
    """The most memory that a process had at once (VmHWM; getrusage would count what it inherited)."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:  # it has just ended
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def noise() -> float:
    """GB/s of copying 64 MiB for a moment: how free the machine is."""
    source = np.ones(1 << 26, np.uint8)
    target = np.empty_like(source)
    taken = []
    for _ in range(8):
        start = time.perf_counter()
        np.copyto(target, source)
        taken.append(time.perf_counter() - start)
    return source.nbytes / 1e9 / min(taken)


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--child"]:
        print(json.dumps(run_one(json.loads(sys.stdin.read()))))
        sys.stdout.flush()
        return 0
    parser = argument_parser(__doc__)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS[:2]), choices=KINDS)
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--only", nargs="+", choices=list(PEERS), default=list(PEERS), metavar="NAME")
    parser.add_argument("--photos", type=int, default=192)
    parser.add_argument("--mammograms", type=int, default=24)
    parser.add_argument("--thumbnails", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3, help="warm epochs a run (default: 3)")
    parser.add_argument("--timeout", type=int, default=600, help="seconds a run may take (default: 600)")
    parser.add_argument("--dir", type=Path, help="where to keep the files (default: a temporary folder)")
    options = parser.parse_args(arguments)
    if options.tiny:
        options.photos, options.mammograms, options.thumbnails = 4, 3, 6
        options.rounds, options.epochs = 1, 1
    names = [name for name in options.only if not lacks(name)]
    absent = {name: lacks(name) for name in options.only if lacks(name)}
    for name, module in absent.items():
        print(f"{name}: left out, {module} is not installed", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.dir or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        results = {
            f"{kind} {dtype}": compare(options, folder, kind, dtype, names)
            for kind in options.kinds
            for dtype in options.dtypes
        }
    write(options.json, "peers", rounds=options.rounds, left_out=absent, results=results)
    wrong = [f"{name}: {what}" for name, peers in results.items() for what, found in peers.items() if "error" in found]
    return 1 if wrong else 0


def lacks(name: str) -> str | None:
    """Find the module that a peer needs and that is not installed."""
    return next((module for module in PEERS[name].needs if importlib.util.find_spec(module) is None), None)


def compare(options: argparse.Namespace, folder: Path, kind: str, dtype: str, names: list[str]) -> dict[str, Any]:
    """All peers in turns; medians, and ratios to the best that is not ours."""
    side, batch = (224, 256) if kind == "thumbnails" else (512, 32)
    if options.tiny:
        side, batch = 16, 2
    files = write_files(options, folder, kind)
    chosen = [name for name in names if kind in PEERS[name].kinds]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    first: dict[str, np.ndarray] = {}
    for _ in range(options.rounds):
        for name in chosen:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                out = Path(place) / "first.npy"
                job = {"peer": name, "files": files, "side": side, "batch": batch, "dtype": dtype, "folder": place}
                free = noise()
                found = child({**job, "epochs": options.epochs, "out": str(out)}, options.timeout)
                runs[name].append({**found, "free": free})
                if "error" not in found:
                    first[name] = np.load(out)
    return report(f"{kind} {dtype}", runs, first, 2.0 if dtype == "uint8" else 2.0 / 57)


def write_files(options: argparse.Namespace, folder: Path, kind: str) -> list[str]:
    """Make the files of a kind; absolute paths."""
    if kind == "photos":
        found = write_photos(folder, options.photos, (60, 80) if options.tiny else PHOTO)
    elif kind == "mammograms":
        found = write_mammograms(folder, options.mammograms, (64, 48) if options.tiny else MAMMOGRAM)
    else:
        found = write_thumbnails(folder, options.thumbnails)
    return [str(folder / name) for name in found]


def child(job: dict[str, Any], timeout: int) -> dict[str, Any]:
    """Run a job in a fresh process; its figures, or its error."""
    command = [sys.executable, "-W", "ignore", __file__, "--child"]
    try:
        done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {timeout} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        return {"error": (done.stderr.strip().splitlines() or ["it printed nothing"])[-1][:200]}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def report(
    title: str, runs: dict[str, list[dict[str, Any]]], first: dict[str, np.ndarray], near: float
) -> dict[str, Any]:
    """Medians of the good runs, compared and printed."""
    freest = max(run["free"] for each in runs.values() for run in each)
    results: dict[str, Any] = {}
    for name, each in runs.items():
        good = [run for run in each if "error" not in run]
        if not good:
            results[name] = {"error": each[-1]["error"]}
            continue
        medians = ("cold", "warm", "first_batch_seconds", "peak_mib")
        results[name] = {what: round(statistics.median(run[what] for run in good), 2) for what in medians}
        results[name]["noisy_runs"] = sum(run["free"] * NOISY < freest for run in good)
        reference = next((first[other] for other in first if other.startswith("ours")), first[name])
        same = first[name].shape == reference.shape
        distance = float(np.abs(first[name] - reference).mean()) if same else float("inf")
        if distance > near:
            results[name]["error"] = (
                f"other outputs: {good[0]['shape']} {good[0]['dtype']}, mean distance {distance:.2f}"
            )
    print(f"\n{title}: images/s", flush=True)
    for name, found in sorted(results.items(), key=lambda item: -item[1].get("warm", 0)):
        if "warm" not in found:
            print(f"  {name:26s} failed: {found['error']}", flush=True)
            continue
        noisy = f"  {found['noisy_runs']} noisy" if found["noisy_runs"] else ""
        wrong = f"  {found['error']}" if "error" in found else ""
        print(
            f"  {name:26s} cold {found['cold']:8.1f}  warm {found['warm']:8.1f}  first batch "
            f"{found['first_batch_seconds']:5.2f} s  {found['peak_mib']:6.0f} MiB{noisy}{wrong}",
            flush=True,
        )
    return results


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
