"""Stage by stage: identical where it must be; where not, the stage, the count, the size and the sample are named."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from make_images import jpeg
from parity_samples import manifest_of, mixed, noise, require_dali

import dali_pipes as dp
from dali_pipes.backends import dali_operators
from dali_pipes.backends.dali import DaliBackend
from dali_pipes.fetch import fetcher as fetch
from dali_pipes.loader.epoch import Epoch
from dali_pipes.parity import GPU_BOUND, Difference, StageResult, Verdict, Worst, compare
from dali_pipes.parity.pictures import difference_map, side_by_side
from dali_pipes.parity.tally import Tally
from dali_pipes.recipe import Recipe

require_dali()

pytestmark = pytest.mark.filterwarnings("ignore:.*it is left out:dali_pipes.errors.DaliPipesWarning")

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
FULL = Recipe(size=(24, 31), augment=dp.Augment(0.5, 0.5), **IMAGENET)
VARIED = dp.Augment(0.5, 0.5, 45, (0.7, 1.4), 0.2, 0.4, 0.4, 0.8, 120)
BACKENDS = ["dali-cpu", "torch"]


def verdict_of(steps: Iterator[Any]) -> Verdict:
    *_, verdict = steps
    assert isinstance(verdict, Verdict)
    return verdict


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dp.Manifest:
    return mixed(tmp_path_factory.mktemp("mixed"))


@pytest.mark.parametrize("augment", [FULL.augment, VARIED], ids=["flips", "everything"])
@pytest.mark.parametrize("parity", ["exact", "fast"])
def test_every_stage_is_identical(samples: dp.Manifest, parity: str, augment: dp.Augment) -> None:
    recipe = Recipe(**{**FULL.__dict__, "parity": parity, "augment": augment})
    verdict = verdict_of(compare(samples, recipe, BACKENDS, batch_size=3, num_workers=1))
    assert verdict.identical
    assert verdict.kept
    assert verdict.first_difference is None
    assert verdict.backends == ("torch", "dali-cpu")
    assert (verdict.samples, verdict.failed) == (6, 1)
    counts = {stage.name: [each.compared for each in stage.differences] for stage in verdict.stages}
    assert counts == {"decode": [4], "window": [], "geometry": [6], "photometry": [6], "normalise": [6]}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_outputs_of_16_bits_are_compared_too(samples: dp.Manifest, dtype: str) -> None:
    recipe = Recipe(**{**FULL.__dict__, "dtype": dtype, "memory_format": "channels_last"})
    verdict = verdict_of(compare(samples, recipe, BACKENDS, batch_size=3, num_workers=1))
    assert verdict.identical
    assert {stage.name for stage in verdict.stages if stage.differences} >= {"geometry", "normalise"}


def test_a_file_is_decoded_once_for_all_stages_and_backends(
    samples: dp.Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But JPEGs in the graphs of DALI, whose decoding is part of what is compared; and for the stage of decoding."""
    decoded: Counter[Any] = Counter()
    genuine, run = fetch.decode, DaliBackend.run

    def decode(data: bytes, *more: Any) -> Any:
        decoded[bytes(data)] += 1
        return genuine(data, *more)

    def by_dali(self: DaliBackend, items: Any, draws: Any) -> torch.Tensor:
        decoded.update("graph" for item in items if isinstance(item, fetch.Encoded))
        return run(self, items, draws)

    monkeypatch.setattr(fetch, "decode", decode)
    monkeypatch.setattr(DaliBackend, "run", by_dali)
    assert verdict_of(compare(samples, FULL, BACKENDS, batch_size=3, num_workers=2)).identical
    files = [samples.resolve(i).read_bytes() for i in range(6)]  # the last one is refused undecoded
    assert decoded == {**dict.fromkeys(files, 1), "graph": 4 * 3}


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"num_workers": -1}])
def test_numbers_that_cannot_work(samples: dp.Manifest, wrong: dict[str, int]) -> None:
    with pytest.raises(dp.ConfigError, match="at least"):
        verdict_of(compare(samples, Recipe(size=16), BACKENDS, **wrong))


def test_stages_in_which_nothing_happens_say_so(samples: dp.Manifest) -> None:
    verdict = verdict_of(compare(samples, Recipe(size=16), BACKENDS, cache_mode="memory", num_workers=1))
    notes = {stage.name: stage.note for stage in verdict.stages if not stage.differences}
    assert set(notes) == {"decode", "window", "photometry", "normalise"}
    assert "fills the cache" in notes["decode"]
    assert verdict.identical


def broken(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes DALI wrong from a stage on, in the last sample of each batch."""
    if stage == "decode":
        decode = dali_operators.decode_jpegs

        def wrong(files: Any, **more: Any) -> Any:
            return [pixels ^ np.uint8(4) for pixels in decode(files, **more)]

        monkeypatch.setattr(dali_operators, "decode_jpegs", wrong)
        return
    genuine = DaliBackend.run

    def run(self: DaliBackend, items: Any, draws: Any) -> torch.Tensor:
        image = genuine(self, items, draws).clone()
        recipe = self._graph.recipe
        reached = {"geometry": True, "photometry": recipe.augment is not None, "normalise": recipe.mean is not None}
        if reached[stage]:
            image[-1, 0, 0, 0] += 3
        return image

    monkeypatch.setattr(DaliBackend, "run", run)


@pytest.mark.parametrize("stage", ["decode", "geometry", "photometry", "normalise"])
def test_a_broken_backend_is_caught_at_its_stage(
    samples: dp.Manifest, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    broken(stage, monkeypatch)
    verdict = verdict_of(compare(samples, FULL, BACKENDS, batch_size=8, num_workers=1))
    assert not verdict.identical
    assert not verdict.kept
    assert verdict.first_difference == stage
    found = next(each for each in verdict.stages if each.name == stage)
    (difference,), (worst,) = found.differences, found.worst
    assert worst is not None
    assert worst.index == difference.worst
    if stage == "decode":
        assert difference.largest == 4
        assert difference.samples == 4
    else:
        assert (difference.samples, difference.values, difference.worst) == (1, 1, 5)
        assert difference.largest == pytest.approx(3, rel=1e-6) or difference.largest == 253
        assert difference.mean == pytest.approx(difference.largest / (6 * 3 * 24 * 31))


def test_a_backend_that_loses_a_sample_differs(samples: dp.Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = Epoch.batch

    def batch(self: Epoch, samples: Any, items: list[Any], *more: Any) -> Any:
        kept = slice(None, -2 if self.backend.name == "dali-cpu" else None)
        return genuine(self, samples[kept], items[kept], *more)

    monkeypatch.setattr(Epoch, "batch", batch)
    verdict = verdict_of(compare(samples, Recipe(size=16), BACKENDS, num_workers=1))
    assert not verdict.kept
    assert verdict.stages[2].differences[0].missing == 1


def test_a_jpeg_that_dali_refuses_is_left_out_of_decoding(
    samples: dp.Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = dali_operators.decode_jpegs

    def picky(files: Any, **more: Any) -> Any:
        if any(len(file) == len(samples.resolve(1).read_bytes()) for file in files):
            raise RuntimeError("Failed to decode sample #1")
        return genuine(files, **more)

    monkeypatch.setattr(dali_operators, "decode_jpegs", picky)
    verdict = verdict_of(compare(samples, Recipe(size=16), BACKENDS, num_workers=1))
    assert verdict.identical
    assert verdict.stages[0].differences[0].compared == 3


def difference(backend: str, largest: float, missing: int = 0) -> Difference:
    return Difference(backend, "torch", 9, 1, missing, 1, largest, 0.1, 0, ())


@pytest.mark.parametrize(
    ("parity", "stage", "found", "kept"),
    [
        ("exact", "decode", difference("dali-gpu", 1), False),
        ("fast", "decode", difference("dali-gpu", GPU_BOUND), True),
        ("fast", "decode", difference("dali-gpu", GPU_BOUND + 1), False),
        ("fast", "geometry", difference("dali-cpu", 1), False),
        ("fast", "geometry", difference("dali-gpu", 1, missing=1), False),
        ("fast", "normalise", difference("dali-gpu", 2.5), True),
    ],
)
def test_what_each_promise_excuses(parity: str, stage: str, found: Difference, kept: bool) -> None:
    assert Verdict(parity, ("torch",), 9, 0, (StageResult(stage, "", (found,)),)).kept is kept


def test_tally_counts_bits() -> None:
    tally = Tally()
    zero, minus = np.zeros((1, 1, 2), np.float32), np.array([[[0.0, -0.0]]], np.float32)
    tally.add(0, zero, minus)
    found = tally.difference("a", "b")
    assert (found.values, found.largest, found.identical) == (1, 0, False)
    nan = np.full((1, 1, 2), np.nan, np.float32)
    tally = Tally()
    tally.add(0, nan, nan.copy())
    assert tally.difference("a", "b").identical


def test_tally_of_what_is_no_number() -> None:
    """Values with the same bits are no difference, whatever they are; an infinite one can be written as JSON."""
    tally = Tally()
    tally.add(0, np.array([[[np.nan, np.inf, 1.0]]], np.float32), np.array([[[np.nan, np.inf, 3.0]]], np.float32))
    found = tally.difference("a", "b")
    assert (found.values, found.largest, found.mean, found.histogram) == (1, 2, 2 / 3, ((2.0, 1),))
    tally.add(1, np.zeros((1, 1, 3), np.float32), np.array([[[np.nan, 0, 0]]], np.float32))
    found = tally.difference("a", "b")
    assert (found.values, found.largest, found.worst) == (2, np.inf, 1)
    plain = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert (plain["largest"], plain["mean"], plain["values"], plain["identical"]) == (None, None, 2, False)


def test_tally_histogram_and_worst() -> None:
    tally = Tally()
    reference = np.zeros((1, 2, 2), np.uint8)
    tally.add(4, reference, np.array([[[0, 1], [2, 2]]], np.uint8))
    tally.add(7, reference, np.array([[[0, 0], [0, 200]]], np.uint8))
    tally.add(9, reference, np.zeros((1, 2, 3), np.uint8))
    found = tally.difference("a", "b")
    assert found.histogram == ((1.0, 1), (2.0, 2), (129.0, 1))
    assert (found.worst, found.missing, found.samples, found.values) == (7, 1, 2, 4)
    assert found.mean == 205 / 8


def test_pictures_show_where() -> None:
    reference = np.zeros((3, 40, 50), np.uint8)
    other = reference.copy()
    other[1, 10, 20] = 9
    worst = Worst(0, reference, other)
    heat = difference_map(worst)
    assert heat.shape == (40, 50, 3)
    assert heat[10, 20].tolist() == [255, 255, 255]
    assert heat.any(2).sum() == 1
    image = side_by_side(worst)
    factor = image.height // 40
    assert image.size == (factor * (3 * 50 + 2 * 4), factor * 40)
    assert image.getpixel((factor * (54 + 20), factor * 10)) == (0, 9, 0)


def test_pictures_of_one_gray_float_pixel() -> None:
    one = np.full((1, 1, 1), 0.25, np.float32)
    assert side_by_side(Worst(0, one, one * np.float32(np.nan))).mode == "RGB"


def test_many_batches_stay_aligned(tmp_path: Path) -> None:
    files = [(f"{i}.jpg", jpeg(noise(20, 20 + i, i))[: None if i % 3 else 200]) for i in range(8)]
    verdict = verdict_of(compare(manifest_of(tmp_path, files), FULL, BACKENDS, batch_size=2, num_workers=1))
    assert verdict.identical
    assert (verdict.samples, verdict.failed) == (5, 3)
