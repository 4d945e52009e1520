"""What must not be cached: modules that learn, change, draw at random, or mix the samples of a batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dali_pipes.errors import ConfigError, DaliPipesWarning
from dali_pipes.features.digest import has_state
from dali_pipes.features.layout import Column, Layout

_NAMED = 5
"""How many parameters or modules a message names."""

_TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 1e-1, torch.float64: 1e-6, torch.complex128: 1e-6}
"""Differences relative to the largest value that rounding may make where sums are taken in another order; 4e-3 for all
other types, which leaves room for TF32."""


def check_stateless(module: nn.Module) -> None:
    """Raise ConfigError for trainable parameters, and for modules in training mode that change or draw."""
    trainable = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    if trainable:
        raise ConfigError(
            f"the module has trainable parameters ({_some(trainable)}), whose features change as they learn: freeze "
            "them with module.requires_grad_(False), or give enforce_stateless=False."
        )
    changing = [
        f"{name or 'itself'}: {type(each).__name__}"
        for name, each in module.named_modules()
        if each.training and has_state(each)
    ]
    if changing:
        raise ConfigError(
            f"the module is in training mode and holds {_some(changing)}, which then depend on chance or on the batch: "
            "call module.eval() first, or give enforce_stateless=False."
        )


def refuse_changed(names: list[str]) -> None:
    """Raise ConfigError for parameters and buffers that computing has changed."""
    if names:
        raise ConfigError(
            f"computing changes the module's own {_some(names)}, so its features are not those of its samples alone: "
            "call module.eval() first, or give enforce_stateless=False."
        )


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def warn_if_mixed(
    module: nn.Module, layout: Layout, columns: list[Column], count: int, again: Callable[[torch.Tensor], Any]
) -> None:
    """Compute a batch once more in two parts and warn where a sample's output is another one then.

    Args:
        module: to name what may be the reason.
        layout: of the output for all samples at once.
        columns: of the same output.
        count: how many samples, at least 2.
        again: gives (layout, columns) of some samples.
    """
    rows = torch.arange(count)
    middle = (count + 1) // 2
    parts = [again(rows[:middle]), again(rows[middle:])]
    why = next((f"the output's {how}" for other, _ in parts if (how := _structure(layout, other))), None)
    if why is None:
        for at, column in enumerate(columns):
            joined = [row for _, found in parts for row in found[at]]
            why = why or _difference(f"leaf {at}", list(column), joined)
    if why is None:
        return
    suspects = [f"{name}: {type(each).__name__}" for name, each in module.named_modules() if _is_suspect(each)]
    named = f" (look at {_some(suspects)})" if suspects else ""
    warnings.warn(
        f"the outputs of {type(module).__name__} for a sample depend on the batch that it comes in, or on chance: "
        f"{why} when a batch of {count} was computed again in two parts{named}. What is kept of a sample is "
        "what came out for it first.",
        DaliPipesWarning,
        stacklevel=4,
    )


def _is_suspect(module: nn.Module) -> bool:
    norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
    return has_state(module) and (module.training or (norm and not module.track_running_stats))


def _structure(one: Layout, two: Layout) -> str | None:
    if one.digest == two.digest:
        return None
    if len(one.leaves) == len(two.leaves):
        return "plain values or types differ"
    return "structure differs"


def _difference(name: str, one: list[Any], two: list[Any]) -> str | None:
    if not all(isinstance(each, torch.Tensor) for each in (*one, *two)):
        return None
    if any(a.shape != b.shape for a, b in zip(one, two)):
        return f"{name} has other shapes"
    off = max((_distance(a, b) for a, b in zip(one, two) if a.numel()), default=0.0)
    return f"{name} differs by {off:.2g} of its largest value" if off > _TOLERANCE.get(one[0].dtype, 4e-3) else None


def _distance(one: torch.Tensor, two: torch.Tensor) -> float:
    """Return the largest difference as a part of the largest value; for whole numbers the share that differs."""
    if not (one.is_floating_point() or one.is_complex()):
        return float((one != two).double().mean())
    kind = torch.complex128 if one.is_complex() else torch.float64
    a, b = one.to(kind), two.to(kind)
    finite = a.isfinite() & b.isfinite()
    if not finite.any():
        return 0.0
    largest = float(a[finite].abs().max())
    return float((a[finite] - b[finite]).abs().max()) / largest if largest else float(b[finite].abs().max() > 0)
