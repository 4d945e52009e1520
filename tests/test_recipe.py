"""Recipes: what is allowed, digests that change if and only if pixels can, and files that read back equal."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dali_pipes as dp
from dali_pipes.errors import ConfigError

BASE: dict[str, Any] = {"size": (32, 24), "mean": 0.5, "std": 0.25}

CHANGES: dict[str, tuple[dict[str, Any], bool]] = {
    "height": ({"size": (33, 24)}, True),
    "width": ({"size": (32, 25)}, True),
    "sides": ({"size": (24, 32)}, True),
    "channels": ({"channels": 1}, True),
    "fit": ({"fit": "crop"}, True),
    "fit-pad": ({"fit": "pad"}, True),
    "no-window": ({"window": None}, True),
    "percentiles": ({"window": dp.PercentileWindow(1, 99)}, True),
    "rounding": ({"window": dp.PercentileWindow(rounding="floor")}, True),
    "fixed": ({"window": dp.FixedWindow(40, 400)}, True),
    "fixed-exact": ({"window": dp.FixedWindow(40, 400, "linear_exact")}, True),
    "voi": ({"window": dp.VOIWindow()}, True),
    "voi-index": ({"window": dp.VOIWindow(1)}, True),
    "voi-source": ({"window": dp.VOIWindow(source="lut")}, True),
    "interpolation": ({"interpolation": "bicubic"}, True),
    "depth": ({"depth": 16}, True),
    "reduce": ({"reduce": True}, True),
    "mean": ({"mean": 0.51}, False),
    "means": ({"mean": (0.5, 0.5, 0.6)}, False),
    "std": ({"std": 0.26}, False),
    "integers": ({"mean": None, "std": None}, False),
    "augment": ({"augment": dp.Augment(0.5)}, False),
    "augment-vertical": ({"augment": dp.Augment(0, 0.5)}, False),
    "augment-rotation": ({"augment": dp.Augment(rotation=10)}, False),
    "augment-scale": ({"augment": dp.Augment(scale=(0.9, 1))}, False),
    "augment-shift": ({"augment": dp.Augment(shift=0.1)}, False),
    "augment-brightness": ({"augment": dp.Augment(brightness=0.1)}, False),
    "augment-contrast": ({"augment": dp.Augment(contrast=0.1)}, False),
    "augment-saturation": ({"augment": dp.Augment(saturation=0.1)}, False),
    "augment-hue": ({"augment": dp.Augment(hue=10)}, False),
    "augment-shear": ({"augment": dp.Augment(shear=10)}, False),
    "augment-quarter-turns": ({"augment": dp.Augment(quarter_turns=0.5)}, False),
    "augment-resized-crop": ({"augment": dp.Augment(resized_crop=(0.5, 1))}, False),
    "augment-ratio": ({"augment": dp.Augment(resized_crop=(0.5, 1), ratio=(1, 1))}, False),
    "augment-crop": ({"augment": dp.Augment(crop=True)}, False),
    "augment-gamma": ({"augment": dp.Augment(gamma=0.5)}, False),
    "augment-blur": ({"augment": dp.Augment(blur=(0, 1))}, False),
    "augment-noise": ({"augment": dp.Augment(noise=0.5)}, False),
    "augment-erasing": ({"augment": dp.Augment(erasing=(0.1, 0.5))}, False),
    "augment-grayscale": ({"augment": dp.Augment(grayscale=0.5)}, False),
    "augment-solarize": ({"augment": dp.Augment(solarize=0.5)}, False),
    "augment-posterize": ({"augment": dp.Augment(posterize=5)}, False),
    "augment-autocontrast": ({"augment": dp.Augment(autocontrast=0.5)}, False),
    "augment-sharpness": ({"augment": dp.Augment(sharpness=0.5)}, False),
    "augment-policy": ({"augment": dp.Augment(policy="trivial")}, False),
    "augment-window-jitter": ({"depth": 16, "augment": dp.Augment(window_jitter=0.5)}, True),
    "augment-probability": ({"augment": dp.Augment(rotation=10, probability={"rotation": 0.5})}, False),
    "base-size": ({"base_size": 48}, True),
    "views": ({"views": 2}, False),
    "dtype": ({"dtype": "float16"}, False),
    "parity": ({"parity": "fast"}, False),
    "emulate": ({"parity": "fast", "emulate": "dali-gpu"}, False),
}
"""Changes of `BASE`: all change pixels; the second value says whether they change cached base images too."""

windows = st.one_of(
    st.none(),
    st.builds(
        dp.PercentileWindow,
        st.floats(0, 49, allow_nan=False),
        st.floats(50, 100, allow_nan=False),
        st.sampled_from(["nearest", "floor"]),
    ),
    st.builds(
        dp.FixedWindow,
        st.floats(-1e5, 1e5) | st.integers(-5000, 5000),
        st.floats(1, 1e5) | st.integers(1, 5000),
        st.sampled_from(["linear", "linear_exact", "sigmoid"]),
    ),
    st.builds(dp.VOIWindow, st.integers(0, 9), st.sampled_from(["auto", "window", "lut"])),
)
probabilities = st.floats(0, 1)
deviations = st.floats(0, 9)
flips = st.builds(dp.Augment, probabilities, probabilities)
augments = st.builds(
    dp.Augment,
    probabilities,
    probabilities,
    st.floats(0, 180),
    st.tuples(st.floats(0.1, 1), st.floats(1, 10)),
    probabilities,
    deviations,
    deviations,
    deviations,
    st.floats(0, 180),
)
sides = st.integers(1, 16384)


@st.composite
def recipes(draw: st.DrawFn) -> dp.Recipe:
    channels = draw(st.sampled_from([1, 3]))
    means = st.floats(-10, 1) | st.lists(st.floats(-10, 1), min_size=channels, max_size=channels).map(tuple)
    stds = st.floats(1e-6, 10) | st.lists(st.floats(1e-6, 10), min_size=channels, max_size=channels)
    mean, std = draw(st.none() | means), None
    if mean is not None:
        std = draw(stds)
    parity = draw(st.sampled_from(["exact", "fast"]))
    return dp.Recipe(
        size=draw(sides | st.tuples(sides, sides)),
        channels=channels,
        fit=draw(st.sampled_from(["stretch", "crop", "pad"])),
        window=draw(windows),
        mean=mean,
        std=std,
        interpolation=draw(st.sampled_from(["bilinear", "bicubic"])),
        depth=draw(st.sampled_from([8, 16])),
        augment=draw(st.none() | (augments if (channels, parity) == (3, "exact") else flips)),
        parity=parity,
        emulate=draw(st.sampled_from(["dali-cpu", "dali-gpu"])) if parity == "fast" else "dali-cpu",
        reduce=draw(st.booleans()),
    )


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_pixels_changes_the_digest(name: str) -> None:
    change, _ = CHANGES[name]
    assert dp.Recipe(**{**BASE, **change}).digest != dp.Recipe(**BASE).digest


@pytest.mark.parametrize("name", CHANGES)
def test_only_what_changes_base_images_changes_their_digest(name: str) -> None:
    change, of_base = CHANGES[name]
    assert (dp.Recipe(**{**BASE, **change}).base_digest != dp.Recipe(**BASE).base_digest) == of_base


def test_every_field_is_among_the_changes() -> None:
    assert {f.name for f in dataclasses.fields(dp.Recipe)} - {"memory_format"} == {
        name for change, _ in CHANGES.values() for name in change
    }


def test_all_changes_differ_from_each_other() -> None:
    digests = [dp.Recipe(**{**BASE, **change}).digest for change, _ in CHANGES.values()]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("window", [None, dp.PercentileWindow(2, 98), dp.VOIWindow(), dp.FixedWindow(1, 2)])
def test_at_depth_16_the_window_is_not_part_of_the_base_image(window: Any) -> None:
    deep, other = dp.Recipe(32, depth=16), dp.Recipe(32, depth=16, window=window)
    assert other.base_digest == deep.base_digest
    assert other.digest != deep.digest


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ({"size": 32}, {"size": (32, 32)}),
        ({"size": 32}, {"size": [32, 32]}),
        ({"mean": 0.5, "std": 1}, {"mean": (0.5, 0.5, 0.5), "std": [1.0, 1.0, 1.0]}),
        ({"mean": 0.0, "std": 1}, {"mean": -0.0, "std": 1}),
        ({"window": dp.PercentileWindow(1, 99)}, {"window": dp.PercentileWindow(1.0, 99.0)}),
        ({"window": dp.FixedWindow(40, 400)}, {"window": dp.FixedWindow(40.0, 400.0)}),
        ({"channels": 1}, {"channels": 1.0}),
        ({"augment": dp.Augment(1, 0)}, {"augment": dp.Augment(1.0, -0.0)}),
        ({"size": (np.int64(5), 6)}, {"size": (5, 6)}),
        ({"size": np.uint8(5)}, {"size": 5}),
        ({"mean": np.array([0.1, 0.2, 0.3]), "std": torch.tensor(0.5)}, {"mean": (0.1, 0.2, 0.3), "std": 0.5}),
    ],
)
def test_equal_recipes_have_equal_digests(left: dict[str, Any], right: dict[str, Any]) -> None:
    a, b = dp.Recipe(**{"size": 16, **left}), dp.Recipe(**{"size": 16, **right})
    assert a == b
    assert hash(a) == hash(b)
    assert a.digest == b.digest
    assert a.base_digest == b.base_digest


def test_augmentation_that_never_happens_changes_no_pixels() -> None:
    assert dp.Recipe(32, augment=dp.Augment(0, 0)).digest == dp.Recipe(32).digest


@given(recipes())
def test_json_reads_back_equal(recipe: dp.Recipe) -> None:
    again = dp.Recipe.from_json(recipe.to_json())
    assert again == recipe
    assert again.digest == recipe.digest
    assert again.base_digest == recipe.base_digest
    json.loads(recipe.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@given(recipes())
def test_toml_reads_back_equal(recipe: dp.Recipe) -> None:
    again = dp.Recipe.from_toml(recipe.to_toml())
    assert again == recipe
    assert again.digest == recipe.digest


@given(recipes(), recipes())
def test_digests_differ_where_recipes_do(left: dp.Recipe, right: dp.Recipe) -> None:
    if left == right:
        assert left.digest == right.digest
    elif dataclasses.replace(left, augment=None) != dataclasses.replace(right, augment=None):
        assert left.digest != right.digest


@pytest.mark.parametrize("suffix", [".json", ".toml"])
def test_load_reads_files(tmp_path: Path, suffix: str) -> None:
    recipe = dp.Recipe((8, 9), window=None, augment=dp.Augment(0.5))
    path = tmp_path / f"recipe{suffix}"
    path.write_text(recipe.to_json() if suffix == ".json" else recipe.to_toml())
    assert dp.Recipe.load(path) == recipe
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(ConfigError, match="recipe"):
        dp.Recipe.load(path)


def test_absent_fields_take_their_defaults() -> None:
    assert dp.Recipe.from_json('{"size": 5}') == dp.Recipe(5)
    assert dp.Recipe.from_toml("size = [5, 6]\n[window]\nkind = 'voi'\n") == dp.Recipe((5, 6), window=dp.VOIWindow())
    assert dp.Recipe.from_toml("size = 5\nwindow = 'none'") == dp.Recipe(5, window=None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, r"size=0\): give \(height, width\), or one number, from 1 to 16384"),
        ({"size": (5,)}, "size="),
        ({"size": (5, 16385)}, "size="),
        ({"size": 5.0}, "size="),
        ({"size": "5"}, "size="),
        ({"size": True}, "size="),
        ({"size": None}, "size="),
        ({"channels": 2}, r"channels=2\): allowed are 1, 3"),
        ({"fit": "squash"}, "allowed are 'stretch', 'crop', 'pad'"),
        ({"interpolation": "nearest"}, "allowed are 'bilinear', 'bicubic'"),
        ({"depth": 12}, "allowed are 8, 16"),
        ({"parity": "near"}, "allowed are 'exact', 'fast'"),
        ({"window": "percentile"}, "give a PercentileWindow"),
        ({"window": (0, 1)}, "give a PercentileWindow"),
        ({"augment": {"horizontal_flip": 1}}, "give an Augment or None"),
        ({"channels": 1, "augment": dp.Augment(hue=1)}, "gray has no saturation and no hue"),
        ({"emulate": "dali-gpu"}, "give parity='fast'"),
        ({"emulate": "gpu", "parity": "fast"}, "allowed are 'dali-cpu', 'dali-gpu'"),
        (
            {"parity": "fast", "depth": 16, "window": None, "augment": dp.Augment(rotation=1)},
            "neither turns nor recolours 16-bit",
        ),
        ({"parity": "fast", "emulate": "dali-gpu", "augment": dp.Augment(brightness=0.1)}, "have a twin"),
        ({"mean": 0.5}, "both mean and std, or neither"),
        ({"std": 0.5}, "both mean and std, or neither"),
        ({"mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4)}, "in units of full scale"),
        ({"mean": 0.5, "std": 0}, "greater than 0"),
        ({"mean": 0.5, "std": (1, 1, -1)}, "greater than 0"),
        ({"mean": (1, 2), "std": 1}, "1 or 3 finite numbers"),
        ({"mean": (1, 2, 3), "std": 1, "channels": 1}, "give 1 finite number,"),
        ({"mean": float("nan"), "std": 1}, "finite"),
        ({"mean": 0, "std": float("inf")}, "finite"),
        ({"mean": "half", "std": 1}, "mean='half'"),
        ({"mean": (0.5, "x", 0.5), "std": 1}, "mean="),
        ({"mean": (), "std": 1}, "mean="),
        ({"mean": "0.5", "std": 1}, "mean='0.5'"),
        ({"mean": ("0.5",), "std": 1}, "mean="),
    ],
)
def test_what_cannot_work_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dp.Recipe(**{"size": 8, **arguments})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "5",
        "{}",
        '{"size": 5, "colour": 1}',
        '{"size": 5, "window": 3}',
        '{"size": 5, "window": {"kind": "magic"}}',
        '{"size": 5, "window": {"kind": ["fixed"]}}',
        '{"size": 5, "window": {"kind": "fixed"}}',
        '{"size": 5, "window": {"kind": "fixed", "center": "a", "width": 3}}',
        '{"size": 5, "window": {"kind": "percentile", "low": 60, "high": 40}}',
        '{"size": 5, "augment": {"slant": 1}}',
        '{"size": 5, "augment": {"horizontal_flip": "often"}}',
        '{"size": 5, "augment": 1}',
        '{"size": [5, [5]]}',
        '{"size": 5, "mean": "x", "std": 1}',
        '{"size": 5, "mean": [[0.5]], "std": 1}',
        '{"size": 5, "channels": [3]}',
    ],
)
def test_documents_that_are_no_recipe(text: str) -> None:
    with pytest.raises(ConfigError):
        dp.Recipe.from_json(text)


@pytest.mark.parametrize("text", ["size = ", "size = 5\nsize = 6", "", "size = 5\n[window]\nkind = 'x'"])
def test_toml_that_is_no_recipe(text: str) -> None:
    with pytest.raises(ConfigError):
        dp.Recipe.from_toml(text)


def test_an_unknown_augmentation_is_answered_with_those_that_exist() -> None:
    with pytest.raises(
        ConfigError,
        match=r"Augment has no 'rotate'\. Do you mean rotation\? Its fields are horizontal_flip, .*rotation",
    ):
        dp.Recipe.from_toml("size = 5\n[augment]\nrotate = 10")
    with pytest.raises(ConfigError, match="expected a table of fields, found str"):
        dp.Recipe.from_json('{"size": 5, "augment": "flips"}')


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
field_names = st.sampled_from([f.name for f in dataclasses.fields(dp.Recipe)])


@given(st.dictionaries(field_names, json_values, max_size=4))
def test_only_our_errors_come_out_of_any_document(plain: dict[str, Any]) -> None:
    try:
        recipe = dp.Recipe.from_json(json.dumps({"size": 5, **plain}))
    except ConfigError:
        return
    assert dp.Recipe.from_json(recipe.to_json()) == recipe


def test_what_follows_from_a_recipe() -> None:
    assert (dp.Recipe((5, 7)).height, dp.Recipe((5, 7)).width) == (5, 7)
    assert dp.Recipe(5).integer_dtype is torch.uint8
    assert dp.Recipe(5, depth=16).integer_dtype is torch.uint8
    assert dp.Recipe(5, depth=16, window=None).integer_dtype is torch.uint16
    assert dp.Recipe(5, depth=16, window=None).full_scale == 65535
    assert dp.Recipe(5).full_scale == 255
    with pytest.raises(dataclasses.FrozenInstanceError):
        dp.Recipe(5).size = 6  # type: ignore[misc]


def test_the_base_is_what_is_cached() -> None:
    """One cache for all output sizes, crops and augmentations, and for an output of the base's size."""
    recipe = dp.Recipe(224, base_size=(320, 300))
    assert recipe.base == (320, 300)
    others = [
        dp.Recipe((320, 300)),
        dp.Recipe(96, base_size=(320, 300), augment=dp.Augment(resized_crop=(0.5, 1)), views=3),
    ]
    assert {other.base_digest for other in others} == {recipe.base_digest}
    assert recipe.base_digest != dp.Recipe(224).base_digest


def test_a_base_of_the_outputs_size_is_no_other_recipe() -> None:
    assert dp.Recipe(32, base_size=(32, 32)) == dp.Recipe(32)
    assert dp.Recipe(32, base_size=(32, 32)).digest == dp.Recipe(32).digest


def test_reduced_decoding_reaches_for_the_base() -> None:
    assert dp.Recipe(32, base_size=64, reduce=True).decode_policy.reduce == (64, 64)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"augment": dp.Augment(window_jitter=0.1)}, "only a recipe of depth=16 with a window has one to move"),
        ({"base_size": 0}, r"Recipe\(base_size=0\): give \(height, width\)"),
        ({"base_size": "x"}, r"Recipe\(base_size='x'\)"),
        ({"views": 0}, r"Recipe\(views=0\): give a whole number from 1 to 64\."),
        ({"views": True}, r"Recipe\(views=True\)"),
        ({"base_size": (20, 40), "augment": dp.Augment(crop=True)}, "give a base_size at least as large"),
        ({"size": (32, 64), "augment": dp.Augment(crop=True, quarter_turns=0.5)}, "give a base_size at least as large"),
    ],
)
def test_bases_and_views_that_cannot_be(parts: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        dp.Recipe(**{"size": 32, **parts})


def test_documents_of_crops_and_views() -> None:
    augment = dp.Augment(resized_crop=(0.1, 0.9), ratio=(1, 2), rotation=9, probability={"rotation": 0.5})
    recipe = dp.Recipe((8, 9), base_size=32, views=2, augment=augment)
    assert dp.Recipe.from_toml(recipe.to_toml()) == dp.Recipe.from_json(recipe.to_json()) == recipe


def test_what_has_no_effect_makes_no_difference() -> None:
    assert dp.Augment(0.5, ratio=(1, 2), probability={"rotation": 0.5}) == dp.Augment(0.5)
