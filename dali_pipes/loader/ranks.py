"""Which share of the samples this process takes: its rank, and how many ranks there are.

Asked for whenever an iteration begins, because a loader is often made before `torch.distributed` is initialised.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass

import torch

from dali_pipes.errors import ConfigError, DaliPipesWarning


@dataclass(frozen=True)
class Place:
    """One rank of a run.

    Attributes:
        rank: 0 to world_size - 1.
        world_size: number of ranks.
    """

    rank: int
    world_size: int


def place_of(rank: int | None, world_size: int | None, *, distributed: bool = True) -> Place:
    """Return this process's place in the run.

    The first that is known counts: the arguments, `torch.distributed` where it is initialised, torchrun's RANK and
    WORLD_SIZE, Slurm's SLURM_PROCID and SLURM_STEP_NUM_TASKS (or SLURM_NTASKS). Without any of them there is one rank.

    Args:
        rank, world_size: both or neither.
        distributed: False lets the arguments alone count; without them there is one rank.

    Raises:
        ConfigError: a rank outside of the world, one of the two alone, or two sources that disagree. Slurm's variables
            are not compared with others: under torchrun they tell of nodes.
    """
    if (rank is None) != (world_size is None):
        raise ConfigError(f"rank={rank!r}, world_size={world_size!r}: give both or neither.")
    given = None if rank is None or world_size is None else Place(rank, world_size)
    if given is not None and (given.world_size < 1 or not 0 <= given.rank < given.world_size):
        raise ConfigError(f"rank={rank} of world_size={world_size}: rank must lie in 0..world_size-1.")
    if not distributed:
        return given or Place(0, 1)
    found = {"the arguments": given, "torch.distributed": _initialised(), "RANK and WORLD_SIZE": _torchrun()}
    known = {source: place for source, place in found.items() if place is not None}
    if len(set(known.values())) > 1:
        said = "; ".join(f"{source}: rank {place.rank} of {place.world_size}" for source, place in known.items())
        raise ConfigError(
            f"this process's share of the samples is not clear ({said}). Leave out rank= and world_size=, or mend what "
            "is wrong; distributed=False lets the arguments alone decide (without them every process takes all)."
        )
    return next(iter(known.values()), None) or _slurm() or Place(0, 1)


def _initialised() -> Place | None:
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return None
    return Place(torch.distributed.get_rank(), torch.distributed.get_world_size())


def _torchrun() -> Place | None:
    return _from_environment("RANK", "WORLD_SIZE")


def _slurm() -> Place | None:
    step = _from_environment("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
    if step is not None:
        return step
    job = _from_environment("SLURM_PROCID", "SLURM_NTASKS")
    if job is not None and job.world_size > 1:
        # In a batch script these tell of the job, though the script itself is one process.
        warnings.warn(
            f"this process takes the samples of rank {job.rank} of {job.world_size}, as SLURM_PROCID and SLURM_NTASKS "
            "say. If it runs alone, and not under srun, give distributed=False.",
            DaliPipesWarning,
            stacklevel=4,
        )
    return job


def _from_environment(rank: str, world_size: str) -> Place | None:
    texts = os.environ.get(rank), os.environ.get(world_size)
    if texts[0] is None or texts[1] is None:
        return None
    try:
        place = Place(int(texts[0]), int(texts[1]))
    except ValueError:
        place = Place(-1, 0)
    if not 0 <= place.rank < place.world_size:
        raise ConfigError(
            f"{rank}={texts[0]!r} and {world_size}={texts[1]!r} in the environment name no rank of a run: mend them, "
            "or give distributed=False."
        )
    return place
