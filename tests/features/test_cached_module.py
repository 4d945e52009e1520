"""A cached module gives what the module gives, computes each sample once, and refuses what it must not keep."""

from __future__ import annotations

import copy
import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from feature_modules import CALLS, Counting, Pair, Returns, nested
from torch import nn

import dali_pipes as dp
from dali_pipes.items.item_codec import TENSOR_TYPES, difference

MODES = ["memory", "disk", "npy", "tensor-disk", "tensor-memmap", "pinned", "tiered"]


@pytest.fixture(autouse=True)
def _calls() -> None:
    CALLS.clear()


def rows(*names: str) -> torch.Tensor:
    """One row a name; the same for the same name."""
    return torch.stack([torch.rand(4, generator=torch.Generator().manual_seed(sum(name.encode()))) for name in names])


def make(module: nn.Module, folder: Path | None, mode: str = "pinned", **more: Any) -> dp.CachedModule:
    return dp.CachedModule(module, folder, mode, check_batch=False, **more)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_what_the_module_gives(mode: str, tmp_path: Path) -> None:
    module, folder = Counting(), None if mode == "memory" else tmp_path
    x = rows("a", "b", "c")
    with make(module, folder, mode) as cached:
        first = cached(x, cache_ids=["a", "b", "c"])
        again = cached(x.flip(0), cache_ids=["c", "b", "a"])
        assert torch.equal(first, module(x))
        assert torch.equal(again.flip(0), first)
        assert cached.stats()["computed"] == 3
    with make(module, folder, mode) as other:
        assert torch.equal(other(x, cache_ids=["a", "b", "c"]), first)
        assert other.stats()["computed"] == (3 if mode == "memory" else 0)


def test_only_what_misses_is_computed_each_sample_once_and_in_order(tmp_path: Path) -> None:
    with make(Counting(), tmp_path) as cached:
        cached(rows("a", "b"), cache_ids=["a", "b"])
        CALLS.clear()
        names = ["c", "a", "d", "c", "b", "d", "c"]
        found = cached(rows(*names), cache_ids=names)
        assert CALLS == [2]
        assert torch.equal(found, Counting()(rows(*names)))
        stats = cached.stats()
        assert (stats["hits"], stats["misses"], stats["repeated"]) == (2, 4, 3)


def test_batches_that_overlap_while_they_are_written(tmp_path: Path) -> None:
    """What waits for the writer is found as if it were written."""
    cached = make(Counting(), tmp_path)
    hold = cached._writer._change
    with hold:  # the writer cannot finish anything
        cached(rows("a", "b"), cache_ids=["a", "b"])
        got = cached(rows("b", "a", "c"), cache_ids=["b", "a", "c"])
    assert CALLS == [2, 1]
    assert torch.equal(got, Counting()(rows("b", "a", "c")))
    cached.close()


@pytest.mark.parametrize(
    "ids",
    [
        [1, 2, 3],
        torch.tensor([1, 2, 3]),
        torch.tensor([1, 2, 3]).numpy(),
        ("x" * 100_000, "x" * 99_999, ""),
        [b"\0", b"\0\0", b""],
        ["patient/ü\ud800", 1, b"1"],
    ],
)
def test_ids_of_every_kind(ids: Any, tmp_path: Path) -> None:
    x = rows("a", "b", "c")
    with make(Counting(), tmp_path) as cached:
        first = cached(x, cache_ids=ids)
        assert torch.equal(cached(x, cache_ids=ids), first)
        assert cached.stats()["computed"] == 3


def test_ids_of_other_types_are_other_samples(tmp_path: Path) -> None:
    with make(Counting(), tmp_path) as cached:
        cached(rows("a", "b", "c"), cache_ids=[1, "1", b"1"])
        assert cached.stats()["computed"] == 3


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (["a"], "1 cache_ids for 2 samples"),
        ([1.0, 2.0], "a sample's id is a text, a whole number or bytes"),
        ([True, False], "a sample's id is"),
        ([None, None], "cache_ids[0] is a NoneType"),
        ("ab", "cache_ids is a str"),
        (torch.tensor([1.0, 2.0]), "give whole numbers"),
        (torch.tensor([[1], [2]]), "give whole numbers"),
        (None, "cannot tell which samples these are"),
    ],
)
def test_bad_ids_are_refused(ids: Any, says: str, tmp_path: Path) -> None:
    with make(Counting(), tmp_path) as cached, pytest.raises(dp.ConfigError) as error:
        cached(rows("a", "b"), cache_ids=ids)
    assert says in str(error.value)


def test_an_empty_batch(tmp_path: Path) -> None:
    with make(Counting(), tmp_path) as cached:
        assert cached(torch.rand(0, 4), cache_ids=[]).shape == (0, 3)


def test_nested_outputs_keep_every_type_and_bit(tmp_path: Path) -> None:
    x = rows("a", "b", "c")
    want = nested(x)
    for _ in range(2):
        with make(Returns(nested), tmp_path) as cached:
            for names in (["a", "b", "c"], ["c", "a", "b"], ["b", "b", "a"]):
                order = ["abc".index(name) for name in names]
                got = cached(x[order], cache_ids=names)
                assert type(got["pair"]) is Pair
                assert list(got) == list(want)
                assert difference(_plain(nested(x[order])), _plain(got)) is None
            computed = cached.stats()["computed"]
    assert computed == 0


def _plain(value: Any) -> Any:
    """Named tuples and ordered dicts as what `difference` knows."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return (
        type(value)(_plain(each) for each in value)
        if type(value) in (list, tuple)
        else (tuple(map(_plain, value)) if isinstance(value, tuple) else value)
    )


@pytest.mark.parametrize("name", sorted(TENSOR_TYPES))
@pytest.mark.parametrize("mode", ["pinned", "npy"])
def test_every_dtype_comes_back_bit_for_bit(name: str, mode: str, tmp_path: Path) -> None:
    dtype = TENSOR_TYPES[name]
    size = 8 * dtype.itemsize
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (3, size), dtype=torch.uint8)
    x = raw.view(dtype) if dtype != torch.bool else raw.bool()
    for _ in range(2):
        with make(Returns(torch.clone), tmp_path, mode) as cached:
            got = cached(x, cache_ids=["a", "b", "c"])
            assert got.dtype == dtype
            assert torch.equal(got.view(torch.uint8), x.view(torch.uint8))
            mixed = cached(torch.cat([x[1:], x[:1]]), cache_ids=["b", "c", "d"])  # hits beside a miss
            assert torch.equal(mixed.view(torch.uint8), torch.cat([x[1:], x[:1]]).view(torch.uint8))
    assert cached.stats()["computed"] == 0


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (2, 3)])
def test_rows_of_every_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    x = torch.rand(4, *shape)
    for _ in range(2):
        with make(Returns(torch.clone), tmp_path) as cached:
            assert torch.equal(cached(x, cache_ids=range(4)), x)
    assert cached.stats()["computed"] == 0


def ragged(x: torch.Tensor) -> list[torch.Tensor]:
    return [row[: 1 + int(row[0] * 10) % 4].clone() for row in x]


def detections(x: torch.Tensor) -> list[dict[str, Any]]:
    return [{"boxes": row[: 1 + int(row[0] * 10) % 4].clone(), "text": f"{row[0]:.3f}"} for row in x]


@pytest.mark.parametrize("function", [ragged, detections])
def test_outputs_of_varying_length_come_back_as_a_list(function: Any, tmp_path: Path) -> None:
    names = ["a", "b", "q", "x", "z"]
    x = rows(*names)
    for _ in range(2):
        with make(Returns(function), tmp_path) as cached:
            assert difference(cached(x, cache_ids=names), function(x)) is None
            order = [4, 0, 0, 2]
            got = cached(x[order], cache_ids=[names[at] for at in order])
            assert difference(got, function(x[order])) is None
            got[1] = got[1].zero_() if function is ragged else got[1]
            assert difference(cached(x, cache_ids=names), function(x)) is None
    assert cached.stats()["computed"] == 0


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_list_of_a_fixed_length_is_told_from_one_output_a_sample(count: int, tmp_path: Path) -> None:
    """Two lists that look the same: three levels of a pyramid, and three samples' rows."""

    def pyramid(x: torch.Tensor) -> list[torch.Tensor]:
        return [x[:, :count] * level for level in range(3)]

    def by_sample(x: torch.Tensor) -> list[torch.Tensor]:
        return [x[at].repeat(count, 1) for at in range(len(x))]

    x = torch.rand(count, 4)
    for name, function in (("pyramid", pyramid), ("by_sample", by_sample)):
        with make(Returns(function), tmp_path / name, module_id=f"{name} {count}") as cached:
            cached(x, cache_ids=range(count))
            got = cached(x[-1:], cache_ids=[count - 1])
            assert difference(got, function(x[-1:])) is None


def test_values_of_each_sample_beside_tensors(tmp_path: Path) -> None:
    def function(x: torch.Tensor) -> dict[str, Any]:
        return {"feature": x, "caption": [f"{row.sum():.2f}" for row in x], "size": [3, 224, 224]}

    x = rows("a", "b", "c")
    with make(Returns(function), tmp_path) as cached:
        cached(x, cache_ids=["a", "b", "c"])
        got = cached(x[[2, 0]], cache_ids=["c", "a"])
        assert difference(got, function(x[[2, 0]])) is None


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda x: x.sum(), "output is a tensor [] for 3 samples"),
        (lambda x: (x, x[:2]), "output[1] is a tensor [2, 4] for 3 samples"),
        (lambda x: {"a": x, "b": {1, 2}}, "output['b'] is a builtins.set"),
        (lambda x: torch.max(x, 1), "torch.return_types.max"),
        (lambda x: (x, object()), "output[1] is a builtins.object"),
        (lambda x: x.to_sparse(), "layout torch.sparse_coo"),
        (lambda x: "text", "holds nothing that belongs to single samples"),
        (lambda x: {(1, 2): x}, "output is a builtins.dict"),
    ],
)
def test_what_cannot_be_kept_is_a_clear_error(function: Any, says: str, tmp_path: Path) -> None:
    with make(Returns(function), tmp_path, module_id="m") as cached, pytest.raises(dp.ConfigError) as error:
        cached(rows("a", "b", "c"), cache_ids=["a", "b", "c"])
    assert says in str(error.value)


def test_results_are_the_callers_own(tmp_path: Path) -> None:
    x = rows("a", "b")
    for module in (Counting(), nn.Identity(), nn.Flatten()):
        with make(module, tmp_path / type(module).__name__) as cached:
            for ids in (["a", "b"], ["a", "b"], ["a", "a"]):
                want = module(x if ids[1] == "b" else x[[0, 0]]).clone()
                got = cached(x if ids[1] == "b" else x[[0, 0]], cache_ids=ids)
                assert torch.equal(got, want)
                got.add_(100)
                assert got[0].data_ptr() != got[1].data_ptr()
            assert float(x.max()) <= 1


def test_more_inputs_belong_to_samples_or_to_the_key(tmp_path: Path) -> None:
    def function(x: torch.Tensor, mask: torch.Tensor, *, scale: float, shared: torch.Tensor) -> torch.Tensor:
        return x * mask * scale + shared.sum()

    x, mask = rows("a", "b", "c"), torch.tensor([[1.0], [0.0], [2.0]])
    with make(Returns(function), tmp_path) as cached:
        for scale in (1.0, 2.0):
            for shared in (torch.ones(2), torch.zeros(2)):
                more = {"scale": scale, "shared": shared}
                cached(x[:1], mask[:1], cache_ids=["a"], **more)
                got = cached(x, mask, cache_ids=["a", "b", "c"], **more)
                assert torch.equal(got, function(x, mask, **more))
        assert cached.stats()["computed"] == 12
        with pytest.raises(dp.ConfigError, match="argument"):
            cached(x, mask, cache_ids=["a", "b", "c"], scale=object(), shared=mask)


def test_inputs_of_other_types_are_other_samples(tmp_path: Path) -> None:
    with make(Returns(torch.clone), tmp_path) as cached:
        x = rows("a", "b")
        assert cached(x, cache_ids=["a", "b"]).dtype == torch.float32
        assert cached(x.half(), cache_ids=["a", "b"]).dtype == torch.float16


def test_nests_of_inputs_and_lists_of_one_a_sample(tmp_path: Path) -> None:
    def function(batch: dict[str, Any]) -> torch.Tensor:
        return torch.stack([x.sum() + len(text) for x, text in zip(batch["x"], batch["text"])])

    batch = {"x": [torch.ones(n + 1) for n in range(4)], "text": ["", "a", "bb", "ccc"], "id": [4, 5, 6, 7]}
    with make(Returns(function), tmp_path, key_from_batch=lambda batch: batch["id"]) as cached:
        part = {name: value[1:3] for name, value in batch.items()}
        assert torch.equal(cached(part), function(part))
        assert torch.equal(cached(batch), function(batch))
        assert cached.stats()["computed"] == 4


def test_disabled_it_is_the_module(tmp_path: Path) -> None:
    module = Counting()
    module.weight.requires_grad_(True)
    with make(module, tmp_path, enforce_stateless=False, enabled=False) as cached:
        y = cached(rows("a"))
        assert y.requires_grad
        assert cached.stats()["cache"]["entries"] == 0
        cached.enabled = True
        assert not cached(rows("a"), cache_ids=["a"]).requires_grad


def test_state_dict_is_the_modules_own(tmp_path: Path) -> None:
    module = nn.Sequential(OrderedNames(), nn.BatchNorm1d(4)).eval().requires_grad_(False)
    with make(module, tmp_path) as cached:
        assert list(cached.state_dict()) == list(module.state_dict())
        model = nn.Sequential(cached, nn.Linear(4, 2))
        plain = nn.Sequential(copy.deepcopy(module), nn.Linear(4, 2))
        assert list(model.state_dict()) == list(plain.state_dict())
        with torch.no_grad():
            for value in plain.state_dict().values():
                value.fill_(3)
        model.load_state_dict(plain.state_dict())
        assert all((value == 3).all() for value in model.state_dict().values())
        plain.load_state_dict(model.state_dict())
        cached.load_state_dict(module.state_dict())


class OrderedNames(nn.Module):
    """Has a parameter in a child that is called as our own is."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(4, 4)
        self.weight = nn.Parameter(torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x) + self.weight


def test_training_a_model_leaves_the_frozen_part_alone(tmp_path: Path) -> None:
    backbone = nn.Sequential(nn.Linear(4, 4), nn.Dropout()).eval().requires_grad_(False)
    with make(backbone, tmp_path) as cached:
        model = nn.Sequential(cached, nn.Linear(4, 2))
        model.train()
        assert model[1].training
        assert not backbone.training
        model.eval()
        assert cached[1] is backbone[1] if hasattr(cached, "__getitem__") else True
        assert not list(filter(lambda p: p.requires_grad, cached.parameters()))


def test_attributes_of_the_module_are_there(tmp_path: Path) -> None:
    with make(Counting(), tmp_path) as cached:
        assert cached.weight is cached.module.weight
        with pytest.raises(AttributeError, match="nothing"):
            cached.nothing  # noqa: B018


@pytest.mark.parametrize("module", [nn.Dropout(), nn.BatchNorm1d(4), nn.GRU(4, 4, 2, dropout=0.1), nn.AlphaDropout()])
def test_modules_in_training_mode_are_refused_by_name(module: nn.Module, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), module).requires_grad_(False)
    with pytest.raises(dp.ConfigError) as error:
        make(model, tmp_path)
    assert f"1: {type(module).__name__}" in str(error.value)
    assert "call module.eval() first" in str(error.value)
    make(model.eval(), tmp_path).close()
    make(model.train(), tmp_path, enforce_stateless=False).close()


def test_trainable_parameters_are_refused_by_name_then_and_later(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].requires_grad_(False)
    with pytest.raises(dp.ConfigError) as error:
        make(model, tmp_path)
    assert "trainable parameters (1.weight, 1.bias)" in str(error.value)
    for module_id in ("auto", "mine"):
        model.requires_grad_(False)
        with make(model, tmp_path, module_id=module_id) as cached:
            cached(rows("a"), cache_ids=["a"])
            model[1].weight.requires_grad_(True)
            with pytest.raises(dp.ConfigError, match=r"1\.weight"):
                cached(rows("a"), cache_ids=["a"])


def test_training_mode_that_comes_later_is_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).requires_grad_(False).eval()
    with make(model, tmp_path) as cached:
        cached(rows("a", "b"), cache_ids=["a", "b"])
        model.train()
        with pytest.raises(dp.ConfigError, match="1: BatchNorm1d"):
            cached(rows("a", "b"), cache_ids=["a", "b"])


def test_inputs_that_want_gradients_are_refused(tmp_path: Path) -> None:
    with make(Counting(), tmp_path) as cached:
        x = rows("a").requires_grad_(True)
        with pytest.raises(dp.ConfigError, match="requires a gradient"):
            cached(x, cache_ids=["a"])
        with torch.no_grad():
            cached(x, cache_ids=["a"])


class Centred(nn.Module):
    """Mixes the samples of a batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0)


class Noisy(nn.Module):
    """Draws random numbers whatever its mode."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


@pytest.mark.parametrize("kind", [Centred, Noisy])
def test_modules_that_mix_samples_or_draw_are_found_at_the_first_batch(kind: Any, tmp_path: Path) -> None:
    with dp.CachedModule(kind(), tmp_path) as cached:
        with pytest.warns(
            dp.DaliPipesWarning, match=f"the outputs of {kind.__name__} for a sample depend on the batch"
        ):
            cached(torch.rand(5, 4), cache_ids=range(5))
        cached(torch.rand(5, 4), cache_ids=range(5, 10))  # said once


def test_batch_norm_without_statistics_is_named(tmp_path: Path) -> None:
    module = nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False)).eval().requires_grad_(False)
    with dp.CachedModule(module, tmp_path) as cached, pytest.warns(dp.DaliPipesWarning, match="look at 0: BatchNorm1d"):
        cached(torch.rand(5, 4), cache_ids=range(5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_rounding_alone_is_no_reason_to_warn(dtype: torch.dtype, tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 32))
    module = module.to(dtype).eval().requires_grad_(False)
    with dp.CachedModule(module, tmp_path) as cached:
        cached(torch.rand(7, 3, 8, 8, dtype=dtype), cache_ids=range(7))
        assert cached.stats()["checked"] == 7


def test_random_numbers_of_the_caller_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    with dp.CachedModule(Counting(), tmp_path) as cached:
        cached(torch.ones(4, 4), cache_ids=range(4))
        assert torch.equal(torch.rand(3), want)


def test_copies_and_forgotten_ones_work(tmp_path: Path) -> None:
    cached = make(Counting(), tmp_path)
    want = cached(rows("a"), cache_ids=["a"])
    cached.flush()
    other = copy.deepcopy(cached)
    assert torch.equal(other(rows("a"), cache_ids=["a"]), want)
    assert other.stats()["computed"] == 0
    other(rows("b"), cache_ids=["b"])
    del other
    gc.collect()  # what waited was written
    assert torch.equal(cached(rows("b"), cache_ids=["b"]), Counting()(rows("b")))
    assert cached.stats()["computed"] == 1
    cached.close()


def test_closed_it_says_so(tmp_path: Path) -> None:
    cached = make(Counting(), tmp_path)
    cached.close()
    cached.close()
    with pytest.raises(dp.ConfigError, match="closed"):
        cached(rows("a"), cache_ids=["a"])
    with pytest.raises(dp.ConfigError, match="closed"):
        cached.flush()
    cached.enabled = False
    assert torch.equal(cached(rows("a")), Counting()(rows("a")))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"module_id": ""}, "module_id=''"),
        ({"module_id": 3}, "module_id=3"),
        ({"cache_options": {"nonsense": 1}}, "nonsense"),
    ],
)
def test_arguments_that_cannot_work(more: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(dp.ConfigError) as error:
        dp.CachedModule(Counting(), tmp_path, **more)
    assert says in str(error.value)
    with pytest.raises(dp.ConfigError, match=r"give an nn\.Module"):
        dp.CachedModule(nested, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(dp.CacheError, match="say which"):
        dp.CachedModule(Counting())


def test_a_store_that_keeps_nothing(tmp_path: Path) -> None:
    with make(Counting(), None, "none") as cached:
        assert torch.equal(cached(rows("a", "a"), cache_ids=["a", "a"]), Counting()(rows("a", "a")))


def test_outputs_of_another_type_under_one_name_are_not_cast(tmp_path: Path) -> None:
    """Half of a batch was kept as float32 and the other half would be float64: the batch is the module's own."""
    x = rows("a", "b")
    with make(Returns(torch.clone), tmp_path, module_id="v1") as cached:
        assert cached(x[:1], cache_ids=["a"]).dtype == torch.float32
    with make(Returns(lambda x: x.double()), tmp_path, module_id="v1") as cached:
        with pytest.warns(dp.DaliPipesWarning, match="outputs of different structure"):
            got = cached(x, cache_ids=["a", "b"])
        assert got.dtype == torch.float64
        assert torch.equal(got, x.double())
        assert cached(x[1:], cache_ids=["b"]).dtype == torch.float64
