"""Features and several processes: ranks of a distributed run, and writers that are killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from feature_modules import Counting

import dali_pipes as dp
from dali_pipes.cache import upkeep

BATCH = 4

WRITES = """
import sys; sys.path.insert(0, sys.argv[1])
import torch
from feature_modules import Counting
import dali_pipes as dp
torch.set_num_threads(1)
with dp.CachedModule(Counting(), sys.argv[2], check_batch=False) as cached:
    start = int(sys.argv[3])
    while True:
        names = range(start, start + 4)
        cached(torch.stack([torch.full((4,), float(at)) for at in names]), cache_ids=names)
        start += 4
        if start % 3 == 0:
            cached.flush()
            sys.stdout.write(f"{start}\\n")
            sys.stdout.flush()
"""


def x_of(start: int, stop: int) -> torch.Tensor:
    return torch.stack([torch.full((4,), float(at)) for at in range(start, stop)])


def kill_writers(folder: Path, kills: int) -> None:
    """After each kill what was flushed is there, and nothing is wrong."""
    rng, flushed, want = random.Random(0), 0, Counting()
    for _ in range(kills):
        command = [sys.executable, "-c", WRITES, str(Path(__file__).parent), str(folder), str(flushed)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(rng.randint(1, 6)):
                flushed = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            told = writer.stdout.read().split()  # what it flushed before it died
        flushed = int(told[-1]) if told else flushed
        with dp.CachedModule(want, folder, check_batch=False, cache_options={"read_only": True}) as cached:
            beyond = flushed + 40
            assert torch.equal(cached(x_of(0, beyond), cache_ids=range(beyond)), want(x_of(0, beyond)))
            assert cached.stats()["misses"] <= beyond - flushed
    assert upkeep.verify(folder)["corrupt"] == 0


def test_killed_writers_lose_nothing_that_was_flushed(tmp_path: Path) -> None:
    kill_writers(tmp_path, 4)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_writers_at_length(tmp_path: Path) -> None:
    kill_writers(tmp_path, 200)


RANK = """
import sys; sys.path.insert(0, sys.argv[1])
import torch
import torch.distributed as dist
from feature_modules import Counting
import dali_pipes as dp
dist.init_process_group("gloo", init_method="file://" + sys.argv[3], rank=int(sys.argv[4]), world_size=2)
rank = dist.get_rank()
writer_rank = None if sys.argv[5] == "all" else int(sys.argv[5])
cached = dp.CachedModule(Counting(), sys.argv[2], check_batch=False, writer_rank=writer_rank)
for epoch in range(3):
    names = [at for at in range(20) if (at + epoch) % 2 == rank]
    x = torch.stack([torch.full((4,), float(at)) for at in names])
    assert torch.equal(cached(x, cache_ids=names), Counting()(x))
    cached.flush()
    dist.barrier()
print(cached.stats()["computed"])
cached.close()
dist.destroy_process_group()
"""


@pytest.mark.parametrize(("writers", "computed"), [("all", [10, 10]), ("0", [20, 10])])
def test_two_ranks_share_what_each_computes(writers: str, computed: list[int], tmp_path: Path) -> None:
    """All write: each sample is computed by one rank. One writes: what the other computes it computes again."""
    ranks = [
        subprocess.Popen(
            [
                *(sys.executable, "-c", RANK, str(Path(__file__).parent)),
                *(str(tmp_path / "features"), str(tmp_path / "meet"), str(rank), writers),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    done = [rank.communicate() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], done
    found = [int(out) for out, _ in done]
    assert found == computed
