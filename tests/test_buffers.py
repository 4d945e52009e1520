"""Recycled memory: used again when nobody looks, never while somebody does."""

import gc

import pytest
import torch

from dali_pipes.backends.buffers import BufferPool


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 1, 1, 1)])
def test_shape_and_dtype(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    taken = BufferPool().take(shape, dtype)
    assert taken.shape == shape
    assert taken.dtype == dtype
    assert taken.is_contiguous()


def test_large_buffers_begin_at_a_page() -> None:
    for size in (1, 4096, 3 * 512 * 512):
        assert BufferPool().take((size,), torch.uint8).data_ptr() % 4096 == 0


def test_memory_comes_back_when_the_tensor_is_gone() -> None:
    pool = BufferPool()
    first = pool.take((64,), torch.float32)
    where = first.data_ptr()
    del first
    gc.collect()
    assert pool.take((64,), torch.float32).data_ptr() == where


@pytest.mark.parametrize(
    "look",
    [
        lambda tensor: tensor[3:5],
        lambda tensor: tensor.view(8, 8),
        lambda tensor: tensor.numpy(),
        lambda tensor: tensor.detach(),
        lambda tensor: {"kept": [tensor]},
        lambda tensor: torch.from_dlpack(tensor),
    ],
    ids=["slice", "view", "numpy", "detach", "container", "dlpack"],
)
def test_memory_that_somebody_looks_at_is_not_given_again(look: object) -> None:
    pool = BufferPool()
    tensor = pool.take((64,), torch.float32)
    tensor.fill_(7)
    where = tensor.data_ptr()
    kept = look(tensor)  # type: ignore[operator]
    del tensor
    gc.collect()
    others = [pool.take((64,), torch.float32).fill_(9) for _ in range(8)]
    assert where not in [other.data_ptr() for other in others]
    assert kept is not None


def test_two_tensors_never_share_memory() -> None:
    pool = BufferPool()
    taken = [pool.take((16,), torch.uint8) for _ in range(20)]
    assert len({tensor.data_ptr() for tensor in taken}) == 20
    del taken
    taken = [pool.take((16,), torch.uint8) for _ in range(20)]
    assert len({tensor.data_ptr() for tensor in taken}) == 20


def test_shapes_and_dtypes_are_kept_apart() -> None:
    pool = BufferPool()
    del (first := [pool.take((4, 2), torch.float32)])[:]
    gc.collect()
    assert first == []
    assert pool.take((2, 4), torch.float32).shape == (2, 4)
    assert pool.take((4, 2), torch.uint8).dtype == torch.uint8


def test_no_more_is_kept_than_asked() -> None:
    pool = BufferPool(keep=2)
    taken = [pool.take((16,), torch.uint8) for _ in range(6)]
    del taken
    gc.collect()
    assert [len(idle) for idle in pool._idle.values()] == [2]


def test_tensors_outlive_the_pool() -> None:
    pool = BufferPool()
    tensor = pool.take((16,), torch.uint8).fill_(5)
    del pool
    gc.collect()
    assert tensor.tolist() == [5] * 16
