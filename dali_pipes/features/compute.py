"""Computing what is missing: some samples of a call, taken apart into columns, and watched while it is done."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from dali_pipes.errors import ConfigError, DaliPipesWarning
from dali_pipes.features import checks, inputs
from dali_pipes.features.call import Call
from dali_pipes.features.layout import Column, Layout, Named, length_at, map_tensors, split, unsure

Made = tuple[Layout, list[Column]]


@dataclass
class Computer:
    """Calls a module.

    Attributes:
        module: what is called.
        check: whether the first batch is still to be computed twice, in search of modules that mix samples.
        each: for paths of lists in outputs, whether they hold one output a sample.
        named: classes of named tuples that came out.
        computed, checked: samples so far, for callers and for checks.
    """

    module: nn.Module
    check: bool
    each: dict[str, bool] = field(default_factory=dict)
    named: Named = field(default_factory=dict)
    computed: int = 0
    checked: int = 0

    def run(self, call: Call) -> Any:
        """Return the module's output, in tensors that share no memory with its inputs and weights."""
        self.computed += call.count
        return self._run(call)

    def _run(self, call: Call) -> Any:
        output = self.module(*call.args, **call.kwargs)
        used = {_place(each) for each in (*inputs.tensors((call.args, call.kwargs)), *_weights(self.module))}
        return map_tensors(output, lambda tensor: _own(tensor, used))

    def columns(self, call: Call) -> Made:
        """Return layout and columns of the output for a call.

        Raises:
            ConfigError: an output that cannot be kept.
        """
        output = self.run(call)
        self._learn_lists(call, output)
        made = split(output, call.count, self.each, self.named)
        if self.check and call.count > 1 and call.parts_are_clear:
            self.check = False
            before = torch.default_generator.get_state()
            checks.warn_if_mixed(self.module, *made, call.count, lambda rows: self._part(call.some(rows)))
            torch.default_generator.set_state(before)
        return made

    def _part(self, call: Call) -> Made:
        self.checked += call.count
        return split(self._run(call), call.count, self.each, self.named)

    def _learn_lists(self, call: Call, output: Any) -> None:
        """Find out by another number of samples which lists hold one output a sample."""
        paths = unsure(output, call.count, self.each)
        if not paths:
            return
        count = 1 if call.count > 1 else 2
        self.checked += count
        other = self._run(call.some(torch.zeros(count, dtype=torch.int64)))
        while paths:
            for path in paths:
                length = length_at(other, path)
                if length not in (count, call.count):
                    raise ConfigError(
                        f"{path} is a list of {call.count} elements for {call.count} samples and of {length} for "
                        f"{count}: a list of one output a sample, or one of a fixed length can be kept."
                    )
                self.each[path] = length == count
            paths = unsure(output, call.count, self.each)


def warn_of_structure() -> None:
    """Warn that the samples of a batch have outputs of different structure."""
    warnings.warn(
        "the samples of a batch were kept with outputs of different structure (other types, or other plain values "
        "beside the tensors), which cannot be one output: such batches are computed anew.",
        DaliPipesWarning,
        stacklevel=5,
    )


def _weights(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _place(tensor: torch.Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # no storage of its own: sparse tensors
        return 0


def _own(tensor: torch.Tensor, used: set[int]) -> torch.Tensor:
    """Return the tensor, or a copy if its memory is already somebody's."""
    place = _place(tensor)
    if place in used and place:
        return tensor.detach().clone()
    used.add(place)
    return tensor.detach()
