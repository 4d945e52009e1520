"""A module's digest changes when what it computes may change, and with nothing else."""

from __future__ import annotations

import copy
import functools
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from feature_modules import Counting, Returns
from torch import nn

import dali_pipes as dp
from dali_pipes.features.digest import Anatomy, combined
from dali_pipes.features.watch import SMALL, ModuleWatch


def digest(module: nn.Module) -> bytes:
    return combined(Anatomy(module).parts)


class Scaled(nn.Module):
    """Holds what changes an output outside of parameters and buffers."""

    factor = 2.0

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.act, self.table = 1.0, torch.relu, {"a": [1, 2.5]}
        self.mean, self.array = torch.zeros(3), np.zeros(3)
        self.register_buffer("shift", torch.zeros(3), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(helper(x)) * self.scale * self.factor - self.mean + self.shift


OFFSET = 1
SHIFT, ARRAY, INNER = torch.zeros(1), np.zeros(1), nn.PReLU()


def helper(x: torch.Tensor) -> torch.Tensor:
    return INNER(x + OFFSET + SHIFT + float(ARRAY[0]))


def other_helper(x: torch.Tensor) -> torch.Tensor:
    return x - OFFSET


def backbone() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), Scaled()).eval().requires_grad_(False)


def flip_one_bit(module: nn.Sequential) -> None:
    bits = module[0].weight.view(torch.int32)
    with torch.no_grad():
        bits.view(-1)[17] ^= 1


def set_on(part: int, name: str, value: Any) -> Any:
    return lambda module: setattr(module[part], name, value)


def in_place(change: Any) -> Any:
    def apply(module: nn.Sequential) -> None:
        with torch.no_grad():
            change(module)

    return apply


CHANGES: dict[str, Any] = {
    "one bit of one weight": flip_one_bit,
    "a buffer": in_place(lambda m: m[1].running_mean.add_(1)),
    "a buffer that is not saved": in_place(lambda m: m[3].shift.add_(1)),
    "a tensor that is an attribute": in_place(lambda m: m[3].mean.add_(1)),
    "a parameter replaced": set_on(0, "weight", nn.Parameter(torch.ones(4, 3, 3, 3), requires_grad=False)),
    "another layer": lambda m: m.__setitem__(2, nn.GELU()),
    "a layer more": lambda m: m.append(nn.ReLU()),
    "a number": set_on(3, "scale", 3.0),
    "a number of another type": set_on(3, "scale", 1),
    "a function": set_on(3, "act", torch.tanh),
    "an option of a layer": set_on(0, "stride", (2, 2)),
    "the type of weights": lambda m: m.half(),
    "a hook": lambda m: m[2].register_forward_hook(lambda module, args, out: out + 1),
    "a method of its own": lambda m: setattr(m[3], "forward", types.MethodType(lambda self, x: x, m[3])),
    "loaded weights": lambda m: m.load_state_dict({k: v + 1 for k, v in m.state_dict().items()}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_changes_the_output_changes_the_digest_at_the_next_look(change: Any) -> None:
    module = backbone()
    watch = ModuleWatch(module)
    before = watch.digest
    assert before == digest(backbone())
    assert not watch.look()
    change(module)
    assert watch.look()
    assert watch.digest != before
    assert watch.digest == digest(module)
    assert not watch.silent
    assert not watch.look()


DEEP: dict[str, Any] = {
    "a list inside of an attribute": lambda m, _: m[3].table["a"].append(3),
    "an array": lambda m, _: m[3].array.__setitem__(0, 1),
    "a class": lambda m, patch: patch.setattr(Scaled, "factor", 3.0),
    "a method of the class": lambda m, patch: patch.setattr(Scaled, "forward", lambda self, x: x),
    "a function that a method calls": lambda m, patch: patch.setattr(sys.modules[__name__], "helper", other_helper),
    "a constant that it uses": lambda m, patch: patch.setattr(sys.modules[__name__], "OFFSET", 2),
    "a tensor that it uses": lambda m, patch: patch.setattr(sys.modules[__name__], "SHIFT", torch.ones(1)),
    "an array that it uses": lambda m, patch: patch.setattr(sys.modules[__name__], "ARRAY", np.ones(1)),
    "a module that it uses": lambda m, patch: patch.setattr(sys.modules[__name__], "INNER", nn.PReLU(init=0.5)),
}


@pytest.mark.parametrize("change", DEEP.values(), ids=DEEP)
def test_what_no_look_can_see_is_found_by_reading_everything(change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = backbone()
    watch = ModuleWatch(module)
    before = watch.digest
    change(module, monkeypatch)
    assert not watch.confirm()
    assert watch.silent
    assert watch.digest != before
    assert watch.look()
    assert watch.confirm()


SAME: dict[str, Any] = {
    "a copy": copy.deepcopy,
    "loaded from its own state": lambda m: (m.load_state_dict(m.state_dict()), m)[1],
    "other strides": lambda m: m.to(memory_format=torch.channels_last),
    "a gradient wanted": lambda m: m.requires_grad_(True),
    "compiled": lambda m: torch.compile(m, backend="eager"),
    "compiled where Lightning is imported": lambda m: (setattr(m, "_compile_kwargs", {"backend": "eager"}), m)[1],
    "on another device and back": lambda m: m.to("cpu"),
    "used": lambda m: (m(torch.rand(2, 3, 5, 5)) if False else None, m)[1],
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_what_changes_nothing_keeps_the_digest(change: Any) -> None:
    assert digest(change(backbone())) == digest(backbone())


def test_training_mode_counts_where_it_makes_a_difference() -> None:
    plain = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    assert digest(plain.train()) == digest(copy.deepcopy(plain).eval())
    norm = nn.Sequential(nn.BatchNorm1d(3))
    assert digest(norm.train()) != digest(copy.deepcopy(norm).eval())
    own = Scaled()
    assert digest(own.train()) != digest(copy.deepcopy(own).eval())


def test_modules_used_twice_and_functions_of_every_kind() -> None:
    shared = nn.Linear(3, 3)
    one = nn.ModuleList([shared, shared])
    two = nn.ModuleList([shared, copy.deepcopy(shared)])
    assert digest(one) != digest(two)
    partial = functools.partial(torch.clamp, min=0)
    assert digest(Returns(partial)) != digest(Returns(functools.partial(torch.clamp, min=1)))
    assert digest(Returns(lambda x: x + 1)) != digest(Returns(lambda x: x + 2))
    assert digest(Returns(lambda x: x + 1)) == digest(Returns(lambda x: x + 1))

    def adds(number: float) -> Any:
        return lambda x: x + number

    assert digest(Returns(adds(1))) != digest(Returns(adds(2)))


def test_another_process_finds_the_same_digest() -> None:
    """Sets, dictionaries and addresses differ from process to process."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_module_digest import backbone, digest\n"
        "module = backbone(); module.options = {'z', 'b', 'a'}; module.nothing = object()\n"
        "print(digest(module).hex())"
    )
    here = str(Path(__file__).parent)
    found = {
        subprocess.run(
            [sys.executable, "-c", code, here],
            env={"PYTHONHASHSEED": seed, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    module = backbone()
    module.options, module.nothing = {"a", "z", "b"}, object()  # type: ignore[assignment]
    assert found == {digest(module).hex() + "\n"}


def test_small_weights_changed_through_data_are_found_at_once(tmp_path: Path) -> None:
    """`.data` and NumPy views change no version counter."""
    module = Counting()
    with dp.CachedModule(module, tmp_path, check_batch=False) as cached:
        x = torch.rand(2, 4)
        cached(x, cache_ids=[0, 1])
        module.weight.data.view(torch.int32).view(-1)[0] ^= 1
        with pytest.warns(dp.DaliPipesWarning, match=r"weight of the module was changed through \.data"):
            assert torch.equal(cached(x, cache_ids=[0, 1]), module(x))
        module.weight.numpy()[0, 0] += 1
        with pytest.warns(dp.DaliPipesWarning, match="weight"):
            assert torch.equal(cached(x, cache_ids=[0, 1]), module(x))


def test_large_weights_changed_through_data_leave_nothing_wrong_behind(tmp_path: Path) -> None:
    """Found at the next full reading; what was computed since the last one is removed then."""
    module = Counting(4, SMALL)
    with dp.CachedModule(module, tmp_path, check_batch=False) as cached:
        assert cached._watch is not None
        x = torch.rand(2, 4)
        cached._watch._next = float("inf")
        cached(x[:1], cache_ids=[0])
        cached.flush()
        cached._watch._next = float("inf")
        module.weight.data[0, 0] += 1
        cached(x[1:], cache_ids=[1])  # under the old digest
        with pytest.warns(dp.DaliPipesWarning, match="removed"):
            cached.flush()
        module.weight.data[0, 0] -= 1
        with pytest.warns(dp.DaliPipesWarning, match="removed"):
            cached.flush()
    with dp.CachedModule(module, tmp_path, check_batch=False) as again:
        assert torch.equal(again(x, cache_ids=[0, 1]), module(x))
        assert again.stats()["computed"] == 1  # sample 0 was right, and stayed


@pytest.mark.parametrize("seen_by", ["look", "flush"])
def test_a_change_that_pytorch_knows_hides_none_that_it_does_not(tmp_path: Path, seen_by: str) -> None:
    module = nn.Sequential(Counting(4, SMALL), nn.Dropout()).eval()
    x = torch.rand(2, 4)
    right = module(x)
    with dp.CachedModule(module, tmp_path, check_batch=False) as cached:
        assert cached._watch is not None
        cached._watch._next = float("inf")
        module[0].weight.data[0, 0] += 1
        cached(x, cache_ids=[0, 1])  # under the old digest
        module.register_buffer("more", torch.zeros(1))
        with pytest.warns(dp.DaliPipesWarning, match="removed"):
            _ = cached.flush() if seen_by == "flush" else cached(x, cache_ids=[0, 1])
    del module.more
    module[0].weight.data[0, 0] -= 1
    with dp.CachedModule(module, tmp_path, check_batch=False) as again:
        assert torch.equal(again(x, cache_ids=[0, 1]), right)
        assert again.stats()["computed"] == 2


class Remembers(nn.Module):
    """Changes an attribute, or a buffer, whenever it computes."""

    def __init__(self, buffer: bool) -> None:
        super().__init__()
        self.calls: Any = 0
        self.tables: dict[int, torch.Tensor] = {}
        if buffer:
            self.register_buffer("seen", torch.zeros(()))
        self.buffer = buffer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.tables[len(x)] = torch.ones(len(x), 1)
        if self.buffer:
            self.seen += len(x)
        return x * self.tables[len(x)]


def test_attributes_that_computing_changes_do_not_count(tmp_path: Path) -> None:
    x = torch.rand(4, 3)
    for run in range(2):
        with dp.CachedModule(Remembers(False), tmp_path, check_batch=False) as cached:
            for part in (slice(0, 1), slice(1, 4)):
                cached(x[part], cache_ids=range(4)[part])
            assert torch.equal(cached(x, cache_ids=range(4)), x)
            assert cached.stats()["computed"] == (0 if run else 4)


def test_buffers_that_computing_changes_are_refused_by_name(tmp_path: Path) -> None:
    x = torch.rand(4, 3)
    with (
        dp.CachedModule(Remembers(True), tmp_path, check_batch=False) as cached,
        pytest.raises(dp.ConfigError, match="computing changes the module's own seen"),
    ):
        cached(x, cache_ids=range(4))
    with dp.CachedModule(Remembers(True), tmp_path, check_batch=False, enforce_stateless=False) as cached:
        cached(x, cache_ids=range(4))
        assert torch.equal(cached(x, cache_ids=range(4)), x)
        assert cached.stats()["computed"] == 4


def test_weights_without_plain_bits_need_a_name(tmp_path: Path) -> None:
    module = nn.Linear(3, 3, device="meta").requires_grad_(False)
    with pytest.raises(dp.ConfigError, match=r"weight is a Parameter.*module_id="):
        dp.CachedModule(module, tmp_path)
    dp.CachedModule(module, tmp_path, module_id="mine").close()


def test_autocast_and_the_default_type_are_in_the_key(tmp_path: Path) -> None:
    module = nn.Linear(4, 4).requires_grad_(False)
    x = torch.rand(2, 4)
    with dp.CachedModule(module, tmp_path, check_batch=False) as cached:
        for _ in range(2):
            assert cached(x, cache_ids=[0, 1]).dtype == torch.float32
            with torch.autocast("cpu", dtype=torch.bfloat16):
                assert cached(x, cache_ids=[0, 1]).dtype == torch.bfloat16
            with torch.autocast("cpu", dtype=torch.float16):
                assert cached(x, cache_ids=[0, 1]).dtype == torch.float16
        assert cached.stats()["computed"] == 6


def test_a_name_of_ones_own_is_shared_by_modules_and_never_changes_by_itself(tmp_path: Path) -> None:
    x = torch.rand(2, 4)
    with dp.CachedModule(Counting(), tmp_path, module_id="v1") as one:
        want = one(x, cache_ids=[0, 1])
    with dp.CachedModule(Counting(seed=1), tmp_path, module_id="v1") as two:
        assert torch.equal(two(x, cache_ids=[0, 1]), want)
    with dp.CachedModule(Counting(), tmp_path, module_id="v2") as three:
        three(x, cache_ids=[0, 1])
        assert three.stats()["misses"] == 2
