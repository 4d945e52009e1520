"""The guard against drift: silent with the verified DALI, loud with any that computes otherwise."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from dali_runner import require_dali, run_operator

from dali_pipes.arithmetic import dali_cpu
from dali_pipes.arithmetic.dali.selfcheck import VERIFIED_VERSIONS, Image, compare, probes, selfcheck
from dali_pipes.errors import ParityError

OPERATORS = sorted({probe.operator for probe in probes()})


def twin_instead_of_dali(operator: str, image: Image, arguments: Mapping[str, Any]) -> Image:
    probe = next(
        p for p in probes() if p.operator == operator and p.arguments == arguments and p.dtype == str(image.dtype)
    )
    return probe.twin(torch.from_numpy(image)).numpy()


def test_the_installed_dali_agrees() -> None:
    require_dali()
    compare("installed", lambda operator, image, arguments: run_operator(operator, [image], arguments)[0])


def test_the_installed_dali_is_one_that_the_suite_verifies() -> None:
    require_dali()
    import nvidia.dali

    assert nvidia.dali.__version__ in VERIFIED_VERSIONS, "run the slow comparisons, then add the version"


def test_every_twin_is_probed() -> None:
    assert set(dali_cpu.__all__) - {"crop_offset", "rotated_size"} == set(OPERATORS)


def test_verified_versions_are_not_run() -> None:
    def forbidden(operator: str, image: Image, arguments: Mapping[str, Any]) -> Image:
        raise AssertionError("a verified version was checked")

    for version in VERIFIED_VERSIONS:
        selfcheck(version, forbidden)


def test_an_unknown_version_that_agrees_passes() -> None:
    ran: list[str] = []

    def counting(operator: str, image: Image, arguments: Mapping[str, Any]) -> Image:
        ran.append(operator)
        return twin_instead_of_dali(operator, image, arguments)

    selfcheck("99.1.0", counting)
    assert sorted(set(ran)) == OPERATORS


@pytest.mark.parametrize("changed", OPERATORS)
def test_one_value_that_differs_is_named(changed: str) -> None:
    def drifted(operator: str, image: Image, arguments: Mapping[str, Any]) -> Image:
        output = twin_instead_of_dali(operator, image, arguments).copy()
        if operator == changed:
            output.reshape(-1)[-1] = 1 if output.reshape(-1)[-1] == 0 else 0
        return output

    with pytest.raises(ParityError) as caught:
        selfcheck("99.1.0", drifted)
    message = str(caught.value)
    assert f"DALI 99.1.0 computes {changed} otherwise" in message
    assert f"verified with DALI {VERIFIED_VERSIONS[0]}" in message
    assert "1 of" in message


def test_another_shape_is_named() -> None:
    with pytest.raises(ParityError, match=r"uint8 \(2, 3, 3\) instead of uint8 \(40, 31, 3\)"):
        selfcheck("99.1.0", lambda operator, image, arguments: np.zeros((2, 3, 3), np.uint8))
