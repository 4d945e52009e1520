"""Points and boxes of a source picture, brought to where `batch.matrix` says that they went."""

from __future__ import annotations

import torch

from dali_pipes.errors import ConfigError


def transform_points(points: torch.Tensor, matrix: torch.Tensor | None) -> torch.Tensor:
    """Bring points from source to output pixels.

    >>> matrix = torch.tensor([[0.5, 0.0, 1.0], [0.0, 0.5, 2.0]])
    >>> transform_points(torch.tensor([[4.0, 8.0]]), matrix)
    tensor([[3., 6.]], dtype=torch.float64)

    Args:
        points: [..., P, 2], (x, y) in pixels, where (0, 0) is the outer corner of the first pixel and (0.5, 0.5) its
            centre.
        matrix: float64[..., 2, 3], one of `batch.matrix`, or several with the same leading sizes as `points` (or ones
            that broadcast with them).

    Returns:
        float64[..., P, 2]. Points may lie outside of the output.

    Raises:
        ConfigError: other shapes, or no matrix.
    """
    if matrix is None:
        raise ConfigError(
            "there is no matrix: the recipe does not need the sizes of the sources, so the loader did not keep them; "
            "give Loader(matrix=True)."
        )
    if points.shape[-1:] != (2,) or points.dim() < 2 or matrix.shape[-2:] != (2, 3):
        raise ConfigError(
            f"points are {list(points.shape)} and the matrix {list(matrix.shape)}; give [..., P, 2] and [..., 2, 3]."
        )
    exact, by = points.to(torch.float64), matrix.to(torch.float64)
    return exact @ by[..., :2].transpose(-1, -2) + by[..., 2].unsqueeze(-2)


def transform_boxes(
    boxes: torch.Tensor, matrix: torch.Tensor | None, size: tuple[int, int] | None = None
) -> torch.Tensor:
    """Bring boxes from source to output pixels: the smallest upright boxes around their four corners.

    >>> matrix = torch.tensor([[0.0, -1.0, 10.0], [1.0, 0.0, 0.0]])
    >>> transform_boxes(torch.tensor([[1.0, 2.0, 3.0, 6.0]]), matrix)
    tensor([[4., 1., 8., 3.]], dtype=torch.float64)

    Args:
        boxes: [..., P, 4], (left, top, right, bottom).
        matrix: as for `transform_points`.
        size: (height, width) of the output, to cut boxes off at its edges; one that lies outside becomes empty.

    Returns:
        float64[..., P, 4].

    Raises:
        ConfigError: other shapes, or no matrix.
    """
    if boxes.shape[-1:] != (4,) or boxes.dim() < 2:
        raise ConfigError(f"boxes are {list(boxes.shape)}; give [..., P, 4]: left, top, right, bottom.")
    corners = boxes[..., [0, 1, 2, 1, 2, 3, 0, 3]].unflatten(-1, (4, 2)).flatten(-3, -2)
    moved = transform_points(corners, matrix).unflatten(-2, (-1, 4))
    found = torch.cat([moved.amin(-2), moved.amax(-2)], dim=-1)
    if size is None:
        return found
    height, width = size
    return found.clamp_min(0).minimum(found.new_tensor([width, height, width, height]))
