"""Items of data sets as one array of bytes each, and back, exactly: type, dtype, shape, order of keys, every bit.

Taken are None, bool, int, float, complex, str, bytes, NumPy scalars and arrays, CPU tensors, and lists, tuples and
dicts of them, nested. The bytes: a header of 16 (8 of magic, the length of the JSON as uint64), the structure as JSON,
then the contents of arrays, each at a multiple of 64; zeros fill up to one of few sizes, because stores keep entries of
one size together. Nothing of it is code, and nothing is unpickled.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dali_pipes.errors import ConfigError

Bytes = npt.NDArray[np.uint8]

FORMAT = 1
"""Belongs into the keys of what is kept."""

_MAGIC = b"dp-nest1"
_ALIGN = 64
_DEEPEST = 64
_NUMPY_KINDS = "biufcmMSU"
TENSOR_TYPES = {
    name: getattr(torch, name)
    for name in (
        *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
        *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
        *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
    )
}


def pack(item: Any) -> Bytes:
    """uint8[n], all of an item.

    Raises:
        ConfigError: something in it cannot be kept exactly; the message says where and what.
    """
    blobs: list[memoryview] = []
    text = json.dumps(_node(item, "item", blobs, 0), ensure_ascii=False, separators=(",", ":"))
    head = text.encode("utf-8", "surrogatepass")
    start = _aligned(16 + len(head))
    total = start + sum(_aligned(blob.nbytes) for blob in blobs)
    out = np.zeros(_size_class(total), np.uint8)
    out[:8] = np.frombuffer(_MAGIC, np.uint8)
    out[8:16] = np.frombuffer(len(head).to_bytes(8, "little"), np.uint8)
    out[16 : 16 + len(head)] = np.frombuffer(head, np.uint8)
    for blob in blobs:
        out[start : start + blob.nbytes] = np.frombuffer(blob, np.uint8)
        start += _aligned(blob.nbytes)
    return out


def unpack(packed: Bytes) -> Any:
    """Return the item that `pack` took; nothing of it shares memory with `packed`.

    Raises:
        ValueError: these are not the bytes of an item.
    """
    if packed.dtype != np.uint8 or packed.ndim != 1 or packed[:8].tobytes() != _MAGIC:
        raise ValueError("these are not the bytes of a packed item")
    length = int.from_bytes(packed[8:16].tobytes(), "little")
    text = packed[16 : 16 + length].tobytes().decode("utf-8", "surrogatepass")
    start = _aligned(16 + length)
    try:
        return _value(json.loads(text), packed[start:])
    except (LookupError, TypeError, ArithmeticError, SyntaxError, RecursionError) as error:
        raise ValueError(f"the structure of a packed item is damaged: {error}") from error


def difference(one: Any, two: Any, path: str = "item") -> str | None:
    """Where two items first differ and how, or None if they are the same in type and in every bit."""
    if type(one) is not type(two):
        return f"{path} is a {type(one).__name__} one time and a {type(two).__name__} the other"
    if isinstance(one, (torch.Tensor, np.ndarray, np.generic)):
        return _array_difference(one, two, path)
    if isinstance(one, dict):
        if list(one) != list(two):
            return f"{path} has the keys {list(one)} one time and {list(two)} the other"
        found = (difference(one[name], two[name], f"{path}[{name!r}]") for name in one)
        return next(filter(None, found), None)
    if isinstance(one, (list, tuple)):
        if len(one) != len(two):
            return f"{path} has {len(one)} elements one time and {len(two)} the other"
        found = (difference(a, b, f"{path}[{i}]") for i, (a, b) in enumerate(zip(one, two)))
        return next(filter(None, found), None)
    same = _same_number(one, two) if isinstance(one, (float, complex)) else bool(one == two)
    return None if same else f"{path} differs"


def _node(value: Any, path: str, blobs: list[memoryview], depth: int) -> Any:
    """Return the JSON of a value; bytes of arrays go to `blobs`."""
    if depth > _DEEPEST:
        raise ConfigError(f"{path} lies more than {_DEEPEST} levels deep: a data set's items are kept down to that.")
    kind = type(value)
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        return value if abs(value) < 2**63 else ["i", hex(value)]
    if kind is float:
        return ["f", value.hex()]
    if kind is complex:
        return ["c", value.real.hex(), value.imag.hex()]
    if kind in (bytes, bytearray):
        blobs.append(memoryview(value))
        return ["b" if kind is bytes else "B", len(value)]
    if kind in (list, tuple):
        nodes = [_node(each, f"{path}[{i}]", blobs, depth + 1) for i, each in enumerate(value)]
        return ["l" if kind is list else "t", nodes]
    if kind is dict:
        return ["d", [[_node(k, f"a key of {path}", blobs, depth + 1), _node(v, f"{path}[{k!r}]", blobs, depth + 1)]
                      for k, v in value.items()]]  # fmt: skip
    if kind is torch.Tensor:
        return _tensor_node(value, path, blobs)
    if kind is np.ndarray or isinstance(value, np.generic):
        array = np.asarray(value)
        if array.dtype.kind not in _NUMPY_KINDS or array.dtype.hasobject:
            raise ConfigError(f"{path} has dtype {array.dtype}: kept are numbers, times and text; convert it.")
        blobs.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return ["a" if kind is np.ndarray else "s", array.dtype.str, list(array.shape)]
    raise ConfigError(
        f"{path} is a {kind.__module__}.{kind.__qualname__}; kept are tensors, arrays, numbers, strings, bytes, None, "
        "and lists, tuples and dicts of them: let the data set return one of these (an image as an array, say)."
    )


def _tensor_node(tensor: torch.Tensor, path: str, blobs: list[memoryview]) -> Any:
    name = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout is not torch.strided or name not in TENSOR_TYPES:
        raise ConfigError(
            f"{path} is a {tensor.layout} tensor of {tensor.dtype}: kept are dense ones of plain numbers."
        )
    if tensor.device.type != "cpu" or tensor.requires_grad:
        how = (
            "requires a gradient: detach it" if tensor.requires_grad else f"lies on {tensor.device}: move it to the CPU"
        )
        raise ConfigError(f"{path} {how} before the data set returns it.")
    flat = tensor.resolve_conj().resolve_neg().contiguous().reshape(-1)
    blobs.append(flat.view(torch.uint8).numpy().data)
    return ["T", name, list(tensor.shape)]


class _Reader:
    """Takes the contents of arrays one after the other."""

    def __init__(self, data: Bytes) -> None:
        self._data, self._at = data, 0

    def take(self, size: int) -> Bytes:
        part = self._data[self._at : self._at + size]
        if size < 0 or len(part) != size:
            raise ValueError("a packed item ends before its arrays do")
        self._at += _aligned(size)
        return part


def _value(node: Any, data: Bytes | _Reader) -> Any:
    reader = data if isinstance(data, _Reader) else _Reader(data)
    if not isinstance(node, list):
        return node
    tag, *rest = node
    if tag in ("l", "t"):
        values = [_value(each, reader) for each in rest[0]]
        return values if tag == "l" else tuple(values)
    if tag == "d":
        return {_value(key, reader): _value(value, reader) for key, value in rest[0]}
    if tag == "i":
        return int(rest[0], 16)
    if tag == "f":
        return float.fromhex(rest[0])
    if tag == "c":
        return complex(float.fromhex(rest[0]), float.fromhex(rest[1]))
    if tag in ("b", "B"):
        raw = reader.take(rest[0]).tobytes()
        return raw if tag == "b" else bytearray(raw)
    if tag not in ("a", "s", "T"):
        raise ValueError(f"a packed item holds an unknown tag {tag!r}")
    name, shape = rest
    if not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError(f"a packed item holds an array of shape {shape}")
    if tag == "T":
        content = reader.take(math.prod(shape) * TENSOR_TYPES[name].itemsize)
        tensor = torch.empty(shape, dtype=TENSOR_TYPES[name])
        if tensor.numel():
            tensor.reshape(-1).view(torch.uint8).numpy()[:] = content
        return tensor
    dtype = np.dtype(name)
    if dtype.hasobject or dtype.kind not in _NUMPY_KINDS:
        raise ValueError(f"a packed item holds an array of {dtype}")
    content = reader.take(math.prod(shape) * dtype.itemsize)
    array = np.empty(shape, dtype)
    if array.nbytes:
        array.reshape(-1).view(np.uint8)[:] = content
    return array if tag == "a" else array[()]


def _array_difference(one: Any, two: Any, path: str) -> str | None:
    if one.dtype != two.dtype or one.shape != two.shape:
        return f"{path} is {one.dtype} {list(one.shape)} one time and {two.dtype} {list(two.shape)} the other"
    blobs: list[memoryview] = []
    for value in (one, two):
        _node(value, path, blobs, 0)
    same = np.frombuffer(blobs[0], np.uint8) == np.frombuffer(blobs[1], np.uint8)
    if same.all():
        return None
    size = max(1, len(same) // max(1, math.prod(one.shape)))
    wrong = int((~same.reshape(-1, size).all(axis=1)).sum())
    return f"{path} differs in {wrong} of {math.prod(one.shape)} values"


def _same_number(one: complex, two: complex) -> bool:
    pairs = ((one.real, two.real), (one.imag, two.imag))
    return all(a.hex() == b.hex() for a, b in pairs)


def _aligned(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


def _size_class(size: int) -> int:
    """Return the next of eight sizes an octave: at most an eighth is spent on zeros."""
    step = max(_ALIGN, 1 << max(0, size.bit_length() - 4))
    return -(-size // step) * step
