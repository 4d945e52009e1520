"""All backends, all stages: who differs from the reference, where it begins, and whether the promise is kept.

The promise of `parity="exact"` is that no bit differs. That of `parity="fast"` is that no bit differs between PyTorch
and DALI on the CPU, and that DALI on a GPU stays within `GPU_BOUND` up to the base image.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from dali_pipes.manifest.manifest import Manifest
from dali_pipes.parity.decoding import decoded_twice
from dali_pipes.parity.stages import STAGES, checked, outputs, stage_recipes
from dali_pipes.parity.tally import Difference, Tally, Worst
from dali_pipes.recipe import Recipe

GPU_BOUND = 32
"""Largest difference, in levels of 255, that nvJPEG may make under `parity="fast"`. Reports say up to 29; it was not
measured, for no GPU was at hand."""

Watch = Callable[[str, str, int, npt.NDArray[Any]], None]
"""Is told (stage, backend, sample, output) of everything that is computed."""


@dataclass(frozen=True)
class StageResult:
    """One stage, compared.

    Attributes:
        name: one of `STAGES`.
        note: why there was nothing to compare, or "".
        differences: one for each backend but the reference; empty where there was nothing to compare.
        worst: for each difference, the sample that lies farthest apart.
    """

    name: str
    note: str
    differences: tuple[Difference, ...] = ()
    worst: tuple[Worst | None, ...] = field(default=(), repr=False, compare=False)

    @property
    def identical(self) -> bool:
        """Whether no backend differs here."""
        return all(difference.identical for difference in self.differences)


@dataclass(frozen=True)
class Verdict:
    """The outcome of a comparison.

    Attributes:
        parity: what was promised, "exact" or "fast".
        backends: what was compared; the first is the reference.
        samples: how many samples the reference gave.
        failed: samples that it could not decode.
        stages: every stage, in order.
    """

    parity: str
    backends: tuple[str, ...]
    samples: int
    failed: int
    stages: tuple[StageResult, ...]

    @property
    def identical(self) -> bool:
        """Whether every backend gave the reference's bits at every stage."""
        return all(stage.identical for stage in self.stages)

    @property
    def first_difference(self) -> str | None:
        """The first stage at which a backend differs."""
        return next((stage.name for stage in self.stages if not stage.identical), None)

    @property
    def kept(self) -> bool:
        """Whether the promise is kept."""
        return self.identical or all(
            self.excused(stage.name, difference) for stage in self.stages for difference in stage.differences
        )

    def excused(self, stage: str, difference: Difference) -> bool:
        """Whether a difference is inside of the promise."""
        if difference.identical:
            return True
        gpu = self.parity == "fast" and difference.backend == "dali-gpu" and not difference.missing
        return gpu and (stage in ("photometry", "normalise") or difference.largest <= GPU_BOUND)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        stages = [
            {
                "stage": stage.name,
                "identical": stage.identical,
                "note": stage.note,
                "differences": [each.as_dict() for each in stage.differences],
            }
            for stage in self.stages
        ]
        return {
            "identical": self.identical,
            "kept": self.kept,
            "parity": self.parity,
            "backends": list(self.backends),
            "samples": self.samples,
            "failed": self.failed,
            "first_difference": self.first_difference,
            "stages": stages,
        }


def compare(
    manifest: Manifest,
    recipe: Recipe,
    backends: list[str],
    *,
    batch_size: int = 16,
    cache_mode: str = "none",
    watch: Watch | None = None,
    **loading: Any,
) -> Iterator[int | Verdict]:
    """Run every stage of the recipe on every backend and compare the outputs with those of the last one, bit for bit.

    Yields the number of samples done: after each JPEG at the stage "decode", then anew after each sample at the others;
    and the `Verdict` at the end. Samples that do not decode are skipped; a backend that skips others than the reference
    does differs.

    Args:
        manifest, recipe: what to load.
        backends: names; the last is the reference.
        batch_size: samples at a time.
        cache_mode: as for `Loader`; DALI decodes nothing itself if there is a cache.
        watch: told of every output.
        loading: `cache_dir` and `num_workers`, as for `Loader`.
    """
    order = [backends[-1], *backends[:-1]]
    seen = watch or _unseen
    results: dict[str, StageResult] = {}
    workers = checked(batch_size, loading.get("num_workers"))
    size = batch_size if cache_mode == "none" else 0
    results["decode"] = yield from _decoding(manifest, recipe, order, size, workers, seen)
    results["window"] = StageResult("window", "the same code on the host, whatever the backend")
    recipes = stage_recipes(recipe)
    tallies = {(stage, name): Tally() for stage in recipes for name in order[1:]}
    done, last = 0, [*recipes][-1]
    for index, found in outputs(manifest, recipes, order, batch_size=batch_size, cache_mode=cache_mode, **loading):
        for (stage, name), output in found.items():
            seen(stage, name, index, output)
        for (stage, name), tally in tallies.items():
            tally.add(index, found.get((stage, order[0])), found.get((stage, name)))
        done += (last, order[0]) in found
        yield index + 1
    for stage in recipes:
        results[stage] = _result(stage, "", {name: tallies[stage, name] for name in order[1:]}, order[0])
    absent = {"photometry": "the recipe varies nothing at random", "normalise": "the recipe does not normalise"}
    stages = tuple(results.get(name) or StageResult(name, absent[name]) for name in STAGES)
    yield Verdict(recipe.parity, tuple(order), done, len(manifest) - done, stages)


def _decoding(
    manifest: Manifest, recipe: Recipe, order: list[str], batch_size: int, workers: int, seen: Watch
) -> Generator[int, None, StageResult]:
    if not batch_size:
        return StageResult("decode", "the canonical decoder fills the cache, whatever the backend")
    tallies = {name: Tally() for name in order if name.startswith("dali-")}
    if not tallies and seen is _unseen:
        return StageResult("decode", "the canonical decoder alone")
    count = 0
    for index, pixels, others in decoded_twice(manifest, recipe, order, batch_size, workers):
        count += 1
        seen("decode", "canonical", index, pixels)
        for name, theirs in others.items():
            if theirs is not None:
                seen("decode", name, index, theirs)
                tallies[name].add(index, pixels, theirs)
        yield index + 1
    if not count:
        return StageResult("decode", "no file is decoded by DALI; the canonical decoder serves every backend")
    return _result("decode", f"{count} JPEGs that DALI decodes; the rest has one decoder", tallies, "canonical")


def _unseen(stage: str, backend: str, index: int, output: npt.NDArray[Any]) -> None:
    """Where nobody watches."""


def _result(stage: str, note: str, tallies: dict[str, Tally], reference: str) -> StageResult:
    return StageResult(
        stage,
        note,
        tuple(tally.difference(name, reference) for name, tally in tallies.items()),
        tuple(tally.worst for tally in tallies.values()),
    )
