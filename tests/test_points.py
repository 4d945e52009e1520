"""Points and boxes follow `batch.matrix`."""

import pytest
import torch

import dali_pipes as dp

TURNED = torch.tensor([[0.0, -2.0, 10.0], [2.0, 0.0, 1.0]], dtype=torch.float64)


def test_points() -> None:
    found = dp.transform_points(torch.tensor([[0.0, 0.0], [1.0, 2.0]]), TURNED)
    assert found.tolist() == [[10, 1], [6, 3]]


def test_a_batch_of_matrices() -> None:
    points = torch.arange(24.0).reshape(3, 4, 2)
    matrices = torch.stack([TURNED, 2 * TURNED, 3 * TURNED])
    found = dp.transform_points(points, matrices)
    for i in range(3):
        assert torch.equal(found[i], dp.transform_points(points[i], matrices[i]))
    assert dp.transform_points(points[0], matrices).shape == (3, 4, 2)


def test_boxes_enclose_their_corners() -> None:
    boxes = torch.tensor([[0.0, 0.0, 1.0, 2.0]])
    assert dp.transform_boxes(boxes, TURNED).tolist() == [[6, 1, 10, 3]]
    slanted = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    assert dp.transform_boxes(boxes, slanted).tolist() == [[0, 0, 3, 2]]
    assert dp.transform_boxes(boxes, TURNED, size=(2, 8)).tolist() == [[6, 1, 8, 2]]
    far = torch.tensor([[-9.0, -9.0, -5.0, -5.0]])
    assert dp.transform_boxes(far, torch.eye(3)[:2], size=(4, 4)).tolist() == [[0, 0, 0, 0]]


def test_boxes_stay_on_their_device() -> None:
    boxes, matrix = torch.zeros(2, 3, 4, device="meta"), torch.zeros(2, 2, 3, device="meta")
    found = dp.transform_boxes(boxes, matrix, size=(4, 4))
    assert found.device.type == "meta"
    assert found.shape == (2, 3, 4)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(dp.ConfigError, match=r"give \[..., P, 2\] and \[..., 2, 3\]"):
        dp.transform_points(torch.zeros(3), TURNED)
    with pytest.raises(dp.ConfigError, match=r"give \[..., P, 2\] and \[..., 2, 3\]"):
        dp.transform_points(torch.zeros(3, 2), torch.eye(3))
    with pytest.raises(dp.ConfigError, match="left, top, right, bottom"):
        dp.transform_boxes(torch.zeros(3, 2), TURNED)
