"""One run of `peers.py`, in a process of its own: epochs of a peer or a bound, timed, with what they cost.

cold      nothing is there yet: an epoch that decodes and prepares, then warm epochs
again     a new process over what `cold` left: its first epoch, warm epochs, and one with a busy training loop
dropped   the same, after the system's page cache has let go of it: its first epoch
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer_loaders import PEERS, load
from peer_work import WORKERS, Epoch, Work, decoded

NEAR = 2.0
"""Levels by which a peer's pixels may differ from PyTorch's, on average."""

BUSY = 0.008
"""Seconds of Python a batch, in the busy loop."""

TICK = os.sysconf("SC_CLK_TCK")


def run_one(job: dict[str, Any]) -> dict[str, Any]:
    """The figures of one job, with the share of the machine that others took meanwhile."""
    before, ours, start = busy_seconds(), used_seconds(), time.perf_counter()
    if job["peer"] in BOUNDS:
        found = BOUNDS[job["peer"]](job)
    else:
        found = run_peer(job)
    there = (time.perf_counter() - start) * (os.cpu_count() or 1)
    found["share of others"] = round(max(0.0, busy_seconds() - before - (used_seconds() - ours)) / there, 3)
    return found


def run_peer(job: dict[str, Any]) -> dict[str, Any]:
    """One peer's epochs."""
    try:
        start = time.perf_counter()
        for module in PEERS[job["peer"]].needs:
            load(module)
        imported = time.perf_counter() - start
    except Exception as error:  # whatever a package does when it does not fit what else is installed
        return {"absent": f"{type(error).__name__}: {error}"[:200]}
    work = Work(tuple(job["files"]), job["side"], job["batch"], job["dtype"], Path(job["folder"]))
    start = time.perf_counter()
    epoch = PEERS[job["peer"]].make(work)
    first, count = None, 0
    for batch in epoch():
        if first is None:
            first, first_batch = batch.clone(), age()
        count += len(batch)
    taken = time.perf_counter() - start
    if first is None or count != len(work.files):
        raise SystemExit(f"{job['peer']} gave {count} of {len(work.files)} images")
    stage, kind = job["stage"], f"warm {job['dtype']}"
    found: dict[str, Any] = {stage: count / taken, f"start to first batch, {stage}, s": first_batch}
    found["import, s"] = imported
    if not PEERS[job["peer"]].other_pixels:
        found |= check(work, first)
    if stage == "dropped":
        return found
    if PEERS[job["peer"]].keeps:
        found |= again(epoch, first, count)
    found[kind] = statistics.median(count / seconds(epoch) for _ in range(job["epochs"]))
    if stage == "again":
        found[f"busy {job['dtype']}"] = statistics.median(count / seconds(epoch, BUSY) for _ in range(job["epochs"]))
    whole, own = memory()
    found |= {f"PSS, {stage}, MiB": whole, f"PSS of its own, {stage}, MiB": own}
    return found


def check(work: Work, batch: torch.Tensor) -> dict[str, Any]:
    """Compare a first batch with what PyTorch makes of its first images; resizing differs between libraries."""
    size = min(len(work.files), work.batch)
    shape, dtype = (size, 3, work.side, work.side), getattr(torch, work.dtype)
    if batch.shape != shape or batch.dtype != dtype:
        return {"error": f"it gave {batch.dtype}{list(batch.shape)} and not {dtype}{list(shape)}"}
    expected = work.out(torch.stack([decoded(path, work.side) for path in work.files[:2]]))
    distance = float((batch[:2].float() - expected.float()).abs().mean())
    far = distance > (NEAR if work.dtype == "uint8" else NEAR / 57)  # a deviation is about 57 levels
    return {"error": f"other pixels: {distance:.2f} from PyTorch's on average"} if far else {}


def again(epoch: Epoch, first: torch.Tensor, count: int) -> dict[str, Any]:
    """Compare a warm epoch with the first one: as many images, and the same first batch."""
    given, same = 0, False
    for batch in epoch():
        same = same or (not given and torch.equal(batch, first))
        given += len(batch)
    if given != count:
        return {"error": f"a warm epoch gave {given} images, the first one {count}"}
    return {} if same else {"error": "a warm epoch gave other pixels than the first one"}


def age() -> float:
    """How long ago this process began."""
    began = int(read(Path("/proc/self/stat")).rpartition(")")[2].split()[19]) / TICK
    return float(read(Path("/proc/uptime")).split()[0]) - began


def seconds(epoch: Epoch, busy: float = 0.0) -> float:
    """How long an epoch takes, with so many seconds of Python a batch."""
    start = time.perf_counter()
    for _batch in epoch():
        end = time.perf_counter() + busy
        while busy and time.perf_counter() < end:
            pass
    return time.perf_counter() - start


def family() -> list[str]:
    """This process, its children and theirs, as far as they live."""
    found, new = ["self"], ["self"]
    while new:
        new = [child for process in new for child in children(process)]
        found += new
    return found


def children(process: str) -> list[str]:
    """The children of a process that live."""
    found: list[str] = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        found += read(task).split()
    return found


def read(path: Path) -> str:
    """Text of a file of /proc; nothing where its process has just ended."""
    try:
        return path.read_text()
    except OSError:
        return ""


def used_seconds() -> float:
    """Processor time of the family, and of children that have ended: decoders and workers too."""
    total = 0
    for process in family():
        fields = read(Path(f"/proc/{process}/stat")).rpartition(")")[2].split()
        total += sum(map(int, fields[11:15]))
    return total / TICK


def busy_seconds() -> float:
    """Processor time that the machine has given to anybody, or that a hypervisor has kept."""
    user, nice, system, _idle, _wait, interrupts, soft, stolen = map(int, read(Path("/proc/stat")).split()[1:9])
    return (user + nice + system + interrupts + soft + stolen) / TICK


def memory() -> tuple[float, float]:
    """MiB of the family: shared pages divided among those who share them; and of that, what no file holds."""
    sums = {"Pss:": 0, "Pss_Anon:": 0, "Pss_Shmem:": 0}
    for process in family():
        for line in read(Path(f"/proc/{process}/smaps_rollup")).splitlines():
            name, *rest = line.split()
            if name in sums:
                sums[name] += int(rest[0])
    return sums["Pss:"] / 1024, (sums["Pss_Anon:"] + sums["Pss_Shmem:"]) / 1024


def copies(job: dict[str, Any]) -> dict[str, Any]:
    """Bound of warm epochs: two threads that copy from a map into a ring of aligned batch buffers, or fill floats."""
    from warm_bound import copying, filling

    count, shape = min(len(job["files"]), 512), (3, job["side"], job["side"])
    with tempfile.NamedTemporaryFile(dir=job["folder"]) as file:
        images = np.memmap(file, np.uint8, "w+", shape=(count, *shape))
        images[:] = 7
        works: dict[str, Callable[[], None]] = {
            "warm uint8": copying(list(images), job["batch"], WORKERS, ring=4),
            "warm float32": filling(count, shape, job["batch"], WORKERS),
        }
        found = {}
        for name, run in works.items():
            run()
            found[name] = statistics.median(count / once(run) for _ in range(job["epochs"]))
    return found


def once(run: Callable[[], None]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def codecs(job: dict[str, Any]) -> dict[str, Any]:
    """Bound of cold epochs: the decoders alone on all files, and resizing where that runs on two threads as well."""
    from cold_bound import codecs_bound, photos_bound

    if job["files"][0].endswith(".dcm"):
        with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
            codecs_bound(pool, job["files"][:4])  # starts the processes, loads the codecs
            return {"cold": codecs_bound(pool, job["files"]).rate}
    with ThreadPoolExecutor(WORKERS) as threads:
        files = [Path(path).read_bytes() for path in job["files"]]
        photos_bound(threads, files[:2], job["side"])
        return {"cold": photos_bound(threads, files, job["side"]).rate}


BOUNDS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "bound: two threads copy": copies,
    "bound: codecs alone": codecs,
}


def main() -> None:
    """Read a job from standard input, write its figures as one line."""
    import json

    found = run_one(json.loads(sys.stdin.read()))
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
