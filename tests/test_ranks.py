"""Rank and world size: where they come from, when, and what happens where sources disagree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from archives import coded, indices, manifest_of

import dali_pipes as dp
from dali_pipes.loader.ranks import Place, place_of

VARIABLES = ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Any]:
    """Makes this process rank 0 of a group of one, when called."""

    def begin() -> None:
        torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)

    yield begin
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def test_alone_there_is_one_rank() -> None:
    assert place_of(None, None) == Place(0, 1)


def test_arguments() -> None:
    assert place_of(1, 3) == Place(1, 3)


def test_torchruns_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "2")
    assert place_of(None, None) == Place(0, 1), "one of the two says nothing"
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert place_of(None, None) == place_of(2, 4) == Place(2, 4)
    assert place_of(None, None, distributed=False) == Place(0, 1)
    assert place_of(1, 2, distributed=False) == Place(1, 2)


def test_slurms_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    with pytest.warns(dp.DaliPipesWarning, match="rank 1 of 8, as SLURM_PROCID and SLURM_NTASKS say"):
        assert place_of(None, None) == Place(1, 8)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")  # what srun says of the step counts, and is sure
    assert place_of(None, None) == Place(1, 2)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert place_of(None, None) == Place(3, 4), "torchrun in a job of Slurm, whose tasks are nodes"


def test_torch_distributed(group: Any) -> None:
    group()
    assert place_of(None, None) == place_of(0, 1) == Place(0, 1)


def test_sources_that_disagree_are_refused(group: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(dp.ConfigError, match="the arguments: rank 0 of 2; RANK and WORLD_SIZE: rank 1 of 2"):
        place_of(0, 2)
    group()
    with pytest.raises(dp.ConfigError, match=r"distributed: rank 0 of 1; RANK and WORLD_SIZE: rank 1 of 2"):
        place_of(None, None)
    monkeypatch.delenv("RANK")
    with pytest.raises(dp.ConfigError, match=r"the arguments: rank 1 of 2; torch\.distributed: rank 0 of 1"):
        place_of(1, 2)
    assert place_of(1, 2, distributed=False) == Place(1, 2)


@pytest.mark.parametrize(("rank", "world"), [(2, 2), (-1, 2), (0, 0), (0, -1)])
def test_a_rank_outside_the_world_is_refused(rank: int, world: int) -> None:
    with pytest.raises(dp.ConfigError, match=r"rank must lie in 0\.\.world_size-1"):
        place_of(rank, world)


def test_one_argument_alone_is_refused() -> None:
    with pytest.raises(dp.ConfigError, match="give both or neither"):
        place_of(None, 2)


@pytest.mark.parametrize(("rank", "world"), [("x", "2"), ("2", "2"), ("0", "0"), ("", "1")])
def test_variables_that_name_no_rank_are_refused(rank: str, world: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(dp.ConfigError, match="in the environment name no rank"):
        place_of(None, None)


def test_a_loader_asks_when_an_iteration_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be made before anybody knows the rank."""
    manifest = manifest_of(tmp_path, {f"{i}.img": coded(i) for i in range(7)})
    with dp.Loader(manifest, dp.Recipe(4), batch_size=2, backend="torch") as loader:
        assert len(loader) == 4
        assert indices(loader) == list(range(7))
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert len(loader) == 2
        assert list(loader.sampler) == [1, 3, 5, 0]
        assert indices(loader) == [1, 3, 5, 0]
    with dp.Loader(manifest, dp.Recipe(4), batch_size=2, backend="torch", pad=False) as loader:
        assert (len(loader), indices(loader)) == (2, [1, 3, 5])
    with dp.Loader(manifest, dp.Recipe(4), batch_size=2, backend="torch", distributed=False) as loader:
        assert indices(loader) == list(range(7))
