"""Comparisons of a twin with the installed DALI, many pictures to a graph.

What DALI fixes when a graph is built (types, filters, modes) is a `Graph`; what it takes per picture is drawn for
every case.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from dali_pictures import Picture, Random, picture
from dali_runner import require_dali, run_operator

TORCH = {
    "uint8": torch.uint8,
    "uint16": torch.uint16,
    "float32": torch.float32,
    "float16": torch.float16,
    "int16": torch.int16,
}
Arguments = dict[str, Any]

CI_CASES = 200
ALL_CASES = 2000


@dataclass(frozen=True)
class Graph:
    """One DALI graph and the twin's side of it.

    fixed: arguments of DALI's graph. draw: per-picture arguments by DALI's names. twin: (picture, fixed and drawn) to
    the expected.
    """

    operator: str
    dtype: str
    channels: int
    draw: Callable[[Random, Picture], Arguments]
    twin: Callable[[torch.Tensor, Arguments], torch.Tensor]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    make: Callable[[Random, str, int], Picture] = picture
    note: str = ""

    def __str__(self) -> str:
        words = [self.dtype + f"x{self.channels}", *(f"{k}={v}" for k, v in self.fixed.items()), self.note]
        return "-".join(word for word in words if word)


def differences(graph: Graph, count: int, seed: int) -> list[str]:
    """A line for every case in which the twin's bits are not DALI's."""
    random = np.random.default_rng([seed, *str(graph).encode()])
    pictures = [graph.make(random, graph.dtype, graph.channels) for _ in range(count)]
    drawn = [graph.draw(random, image) for image in pictures]
    per_image = {name: [np.asarray(case[name]) for case in drawn] for name in drawn[0]}
    found = run_operator(graph.operator, pictures, graph.fixed, per_image)
    lines = []
    for image, arguments, theirs in zip(pictures, drawn, found):
        ours = graph.twin(torch.from_numpy(image), {**graph.fixed, **arguments}).numpy()
        if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
            lines.append(f"{image.shape} {arguments}: {ours.dtype}{ours.shape}, DALI {theirs.dtype}{theirs.shape}")
        elif ours.tobytes() != theirs.tobytes():
            bits = np.ascontiguousarray(ours).view(f"u{ours.itemsize}") != theirs.view(f"u{ours.itemsize}")
            gap = np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max()
            lines.append(f"{image.shape} {arguments}: {np.count_nonzero(bits)} of {bits.size} values, at most {gap:g}")
    return lines


def identical(*operators: Sequence[Graph]) -> tuple[Callable[..., None], Callable[..., None]]:
    """Two tests of a module, the second one slow: every bit of at least `CI_CASES` and of `ALL_CASES` cases of each
    operator, given as its graphs, which share the cases."""
    cases = [
        pytest.param(graph, len(graphs), id=f"{graph.operator}-{graph}") for graphs in operators for graph in graphs
    ]

    @pytest.mark.parametrize(("graph", "graphs"), cases)
    def at_once(graph: Graph, graphs: int) -> None:
        require_dali()
        assert differences(graph, -(-CI_CASES // graphs), seed=1) == []

    @pytest.mark.slow
    @pytest.mark.parametrize(("graph", "graphs"), cases)
    def at_length(graph: Graph, graphs: int) -> None:
        require_dali()
        assert differences(graph, -(-ALL_CASES // graphs), seed=2) == []

    return at_once, at_length


def as_floats(value: Any) -> tuple[float, ...]:
    """A drawn array as the twin takes it."""
    return tuple(float(v) for v in np.asarray(value))
