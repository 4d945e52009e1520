"""Small frozen modules for the tests of features."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import torch
from torch import nn


class Pair(NamedTuple):
    """A named tuple that modules return."""

    first: torch.Tensor
    second: torch.Tensor


class Counting(nn.Module):
    """A frozen linear map that counts, outside of itself, the samples it is called with."""

    def __init__(self, inputs: int = 4, outputs: int = 3, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, generator=generator), requires_grad=False)
        self.register_forward_pre_hook(count)

    def forward(self, x: torch.Tensor) -> Any:
        # One row at a time: the rounding of a row must not depend on how many there are.
        return torch.stack([self.weight @ row for row in x]) if len(x) else x.new_zeros(0, len(self.weight))


CALLS: list[int] = []


def count(module: nn.Module, args: tuple[Any, ...]) -> None:
    CALLS.append(len(args[0]))


class Returns(nn.Module):
    """Calls a function of the input, given when it is made."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def nested(x: torch.Tensor) -> dict[str, Any]:
    """Tensors and plain values in every container that is kept."""
    return {
        "plain": ("resnet", 3, 2.5, None, True, b"raw"),
        "pair": Pair(x * 2, x.double()),
        "list": [x[:, 0], x.to(torch.int64)],
        "ordered": OrderedDict(b=x > 0.5, a=x.to(torch.complex64)),
        7: (x.half(), x.bfloat16()),
    }
