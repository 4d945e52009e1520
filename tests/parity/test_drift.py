"""At its first use a DALI that the tests have not seen is checked; one that computes otherwise is refused."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from parity_samples import noise, require_dali

from dali_pipes.arithmetic.dali import selfcheck
from dali_pipes.arithmetic.dali.selfcheck import VERIFIED_VERSIONS
from dali_pipes.backends import dali_check, dali_operators
from dali_pipes.backends.dali import DaliBackend
from dali_pipes.backends.graphs import Graph
from dali_pipes.draws import draw
from dali_pipes.errors import ParityError
from dali_pipes.recipe import Recipe

require_dali()


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    dali_check.check.cache_clear()
    yield
    dali_check.check.cache_clear()


@pytest.fixture
def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dali_operators, "dali_version", lambda: "99.1.0")


def run(parity: str) -> None:
    backend = DaliBackend(Recipe(size=8, parity=parity), device="cpu", batch_size=1, threads=1, decode=False)
    backend.run([np.ascontiguousarray(noise(8, 8).transpose(2, 0, 1))], draw(None, 0, 0, np.arange(1)))


@pytest.mark.parametrize("parity", ["exact", "fast"])
def test_the_installed_dali_passes_as_if_unseen(unseen: None, parity: str) -> None:
    run(parity)


def test_a_verified_version_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dali_operators, "dali_version", lambda: VERIFIED_VERSIONS[-1])
    monkeypatch.setattr(selfcheck, "compare", lambda *_: pytest.fail("a verified version was checked"))
    monkeypatch.setattr(dali_check, "_run", lambda *_: pytest.fail("a verified version was checked"))
    run("exact")
    run("fast")


def test_a_gpu_is_checked_whatever_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests run without one."""
    checked: list[tuple] = []
    monkeypatch.setattr(dali_operators, "dali_version", lambda: VERIFIED_VERSIONS[-1])
    for part in ("_check_finish", "_check_decoding"):
        monkeypatch.setattr(dali_check, part, lambda *given: checked.append(given))
    dali_check.check("exact", "gpu", 1)
    assert checked == [(VERIFIED_VERSIONS[-1], "gpu", 1), (VERIFIED_VERSIONS[-1], "exact", "gpu", 1)]


@pytest.mark.parametrize("operator", ["resize", "crop_mirror_normalize", "flip"])
def test_fast_refuses_a_drifted_operator(unseen: None, monkeypatch: pytest.MonkeyPatch, operator: str) -> None:
    genuine = dali_operators.run_operator

    def drifted(name: str, image: Any, arguments: Any, device: str = "cpu") -> Any:
        output = genuine(name, image, arguments, device)
        if name == operator:
            output.reshape(-1)[0] += 1
        return output

    monkeypatch.setattr(dali_operators, "run_operator", drifted)
    with pytest.raises(
        ParityError, match=rf"DALI 99\.1\.0 computes {operator} otherwise .* verified with DALI {VERIFIED_VERSIONS[0]}"
    ):
        run("fast")


@pytest.mark.parametrize(
    ("operator", "drifts"),
    [
        ("flip", lambda graph: graph.recipe.augment is not None and not graph.recipe.augment.warps),
        ("python_function", lambda graph: graph.recipe.augment is not None and graph.recipe.augment.warps),
        ("normalize", lambda graph: graph.recipe.mean is not None),
        ("normalize", lambda graph: graph.recipe.mean is not None and graph.recipe.depth == 16),
        ("decoders.image", lambda graph: graph.decode),
    ],
)
def test_exact_refuses_a_drifted_graph(
    unseen: None, monkeypatch: pytest.MonkeyPatch, operator: str, drifts: Any
) -> None:
    genuine = dali_check._run

    def drifted(graph: Graph, inputs: dict[str, list[Any]]) -> list[Any]:
        outputs = genuine(graph, inputs)
        if drifts(graph):
            outputs[-1].reshape(-1)[-1] += 1
        return outputs

    monkeypatch.setattr(dali_check, "_run", drifted)
    with pytest.raises(ParityError, match=rf"DALI 99\.1\.0 computes {operator} otherwise .*1 of \d+ values differ"):
        run("exact")


def test_a_failed_check_is_made_again(unseen: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(dali_check, "_run", lambda graph, inputs: [np.zeros((1, 1, 1), np.uint8)] * len(inputs["image"]))
        for _ in range(2):
            with pytest.raises(ParityError, match="instead of"):
                run("exact")
    run("exact")
