"""From a module's output for a batch to what is kept of each sample, and back.

A layout is the structure of an output: containers, plain values beside the tensors, and leaves. Its leaves are of two
kinds: `rows`, a tensor [N, ...] of which every sample keeps one row as a plain array; and `each`, a list of N outputs,
one a sample, of any structure and length, kept as the bytes of `item_codec`. Types that NumPy lacks (bfloat16, float8)
are kept as integers of the same bits; the layout knows which they are.

A tensor whose first dimension is N holds one row a sample. Of a list of N elements nobody can tell by looking whether
it is `each`: whoever computes asks `unsure` and tries another N.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import torch

from dali_pipes.errors import ConfigError
from dali_pipes.items import item_codec

Tree = tuple[Any, ...]
Column = torch.Tensor | list[Any]
"""What one leaf holds for N samples: a tensor [N, ...], or a list of N rows or items."""

_CONSTANTS = (type(None), bool, int, float, complex, str, bytes)
_BITS = {torch.bfloat16: torch.uint16} | {
    each: torch.uint8 for name, each in item_codec.TENSOR_TYPES.items() if name.startswith("float8")
}
_DEEPEST = 16
Named = dict[tuple[str, str], type]
"""Classes of named tuples by module and name."""


@dataclass(frozen=True)
class Layout:
    """The structure of an output.

    Attributes:
        tree: nested tuples `(kind, ...)` of plain values; leaves are `("rows", dtype)` and `("each",)`.
        leaves: the leaves in their order.
        digest: 16 bytes of all of it.
    """

    tree: Tree
    leaves: tuple[Tree, ...]
    digest: bytes

    @classmethod
    def of(cls, tree: Tree) -> Layout:
        """Return the layout of a tree."""
        digest = blake2b(item_codec.pack(tree).data, digest_size=16, person=b"dali-pipes lay1").digest()
        return cls(tree, tuple(_leaves(tree)), digest)

    def pack(self) -> item_codec.Bytes:
        """Return uint8[n], the layout as an entry of a store."""
        return item_codec.pack(self.tree)

    @classmethod
    def unpack(cls, packed: Any) -> Layout:
        """Return the layout that `pack` made. Raises ValueError for anything else."""
        tree = item_codec.unpack(packed)
        try:
            return cls.of(tree) if _is_tree(tree) else _damaged()
        except (TypeError, IndexError) as error:
            raise ValueError(f"the bytes of a layout are damaged: {error}") from error

    def masks(self) -> list[bytes]:
        """Return 16 bytes a leaf, by which the keys of a sample's leaves differ."""
        return [blake2b(b"%d" % at, digest_size=16, key=self.digest).digest() for at in range(len(self.leaves))]


def split(output: Any, count: int, each: Mapping[str, bool], named: Named) -> tuple[Layout, list[Column]]:
    """Return the layout of an output for `count` samples, and its columns in the order of the leaves.

    Args:
        output: of the module.
        count: N.
        each: for the path of every list of N elements, whether it holds one output a sample.
        named: gets the classes of named tuples in it.

    Raises:
        ConfigError: something in it cannot be kept exactly, or belongs to no sample; the message says where and what.
    """
    columns: list[Column] = []
    tree = _split(output, _Work(count, each, named, columns), "output", 0)
    if not columns:
        raise ConfigError(
            f"the module's output ({type(output).__name__}) holds nothing that belongs to single samples: "
            "CachedModule keeps tensors [N, ...] and lists of N."
        )
    return Layout.of(tree), columns


def unsure(output: Any, count: int, known: Mapping[str, bool]) -> list[str]:
    """Return the paths of lists of `count` elements that are not in `known`; not of those inside of such lists."""
    found = _lists(output, "output", lambda path, value: len(value) != count or known.get(path) is False)
    return [path for path, value in found if len(value) == count and path not in known]


def length_at(output: Any, path: str) -> int | None:
    """Return the length of the list at a path, or None where there is none."""
    found = _lists(output, "output", lambda inner, _: path.startswith(inner))
    return next((len(value) for inner, value in found if inner == path), None)


def join(layout: Layout, columns: list[Column], named: Named) -> Any:
    """Return the output that `columns` hold; the inverse of `split`."""
    return _join(layout.tree, iter(columns), named)


def has_types(layout: Layout, named: Named) -> bool:
    """Return whether this process has the classes of all named tuples in a layout, in `named` or anywhere else."""
    return all(_class_of(each, named) is not None for each in _nodes(layout.tree) if each[0] == "named")


def leaf_names(layout: Layout) -> list[str]:
    """Return a name for each leaf: where it lies in the output (`visual`, `pair.first`), `feature` for the output."""
    return [".".join(path) or "feature" for path, node in _paths(layout.tree, ()) if node[0] in ("rows", "each")]


def _paths(tree: Tree, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Tree]]:
    yield path, tree
    if tree[0] in ("list", "tuple", "named"):
        names = tree[3] if tree[0] == "named" else map(str, range(len(tree[-1])))
        for name, inner in zip(names, tree[-1]):
            yield from _paths(inner, (*path, name))
    elif tree[0] in ("dict", "OrderedDict"):
        for key, inner in tree[1]:
            yield from _paths(inner, (*path, str(key)))


def to_array(column: torch.Tensor) -> np.ndarray[Any, Any]:
    """Return the plain array of a CPU tensor; shares its memory."""
    bits = _BITS.get(column.dtype)
    array: np.ndarray[Any, Any] = (column if bits is None else column.view(bits)).numpy()
    return array


def from_array(array: np.ndarray[Any, Any], leaf: Tree) -> torch.Tensor:
    """Return the tensor of a `rows` leaf that is kept in `array`; shares its memory.

    Raises:
        ValueError: the array is not of that leaf.
    """
    dtype = item_codec.TENSOR_TYPES[leaf[1]]
    tensor = torch.from_numpy(array)
    if tensor.dtype != _BITS.get(dtype, dtype):
        raise ValueError(f"a kept array is of {array.dtype}, and the layout says {leaf[1]}")
    return tensor.view(dtype)


@dataclass(frozen=True)
class _Work:
    count: int
    each: Mapping[str, bool]
    named: Named
    columns: list[Column]


def _split(value: Any, work: _Work, path: str, depth: int) -> Tree:
    if depth > _DEEPEST:
        raise ConfigError(f"{path} lies more than {_DEEPEST} levels deep: outputs are kept down to that.")
    if isinstance(value, torch.Tensor):
        work.columns.append(_checked(value, work.count, path))
        return ("rows", str(value.dtype).removeprefix("torch."))
    kind = type(value)
    if kind in _CONSTANTS:
        return ("value", value)
    if kind is list and work.each.get(path) and len(value) == work.count:
        for at, item in enumerate(value):
            item_codec.pack(_on_cpu(item, f"{path}[{at}]"))  # or the message would come from another thread
        work.columns.append(value)
        return ("each",)

    def inside(name: str, inner: Any) -> Tree:
        return _split(inner, work, name, depth + 1)

    if kind in (list, tuple):
        return (kind.__name__, tuple(inside(f"{path}[{at}]", inner) for at, inner in enumerate(value)))
    if kind in (dict, OrderedDict) and all(type(key) in (str, int, bool) for key in value):
        return (kind.__name__, tuple((key, inside(f"{path}[{key!r}]", inner)) for key, inner in value.items()))
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        work.named[kind.__module__, kind.__qualname__] = kind
        inner = tuple(inside(f"{path}.{name}", field) for name, field in zip(kind._fields, value))
        return ("named", kind.__module__, kind.__qualname__, tuple(kind._fields), inner)
    raise ConfigError(
        f"{path} is a {kind.__module__}.{kind.__qualname__}, which cannot be kept exactly: kept are tensors, numbers, "
        "texts, bytes, None, and tuples, lists, dicts and named tuples of them. Wrap the module in one that returns "
        "these."
    )


def _checked(tensor: torch.Tensor, count: int, path: str) -> torch.Tensor:
    name = str(tensor.dtype).removeprefix("torch.")
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.layout is not torch.strided:
        raise ConfigError(
            f"{path} is a {type(tensor).__name__} of layout {tensor.layout}, which cannot be kept exactly: "
            "return plain dense tensors."
        )
    if name not in item_codec.TENSOR_TYPES:
        raise ConfigError(f"{path} is a tensor of {tensor.dtype}, which cannot be kept exactly: return plain numbers.")
    if not tensor.ndim or len(tensor) != count:
        raise ConfigError(
            f"{path} is a tensor {list(tensor.shape)} for {count} samples: its first dimension must be the samples'. "
            "Return a plain number (float(x)) for what belongs to none, or leave it out."
        )
    return tensor


def _class_of(node: Tree, named: Named) -> type | None:
    """Return the class of a named tuple, if this process has it: nothing is imported."""
    _, module, qualname, names, _ = node
    found: Any = named.get((module, qualname))
    if found is None:
        found = sys.modules.get(module)
        for part in qualname.split("."):
            found = getattr(found, part, None)
    is_one = isinstance(found, type) and issubclass(found, tuple) and getattr(found, "_fields", None) == names
    return found if is_one else None


def _join(node: Tree, columns: Iterator[Column], named: Named) -> Any:
    kind = node[0]
    if kind in ("rows", "each"):
        return next(columns)
    if kind == "value":
        return node[1]
    if kind in ("dict", "OrderedDict"):
        pairs = [(key, _join(inner, columns, named)) for key, inner in node[1]]
        return dict(pairs) if kind == "dict" else OrderedDict(pairs)
    values = [_join(inner, columns, named) for inner in node[-1]]
    if kind == "list":
        return values
    made = _class_of(node, named) if kind == "named" else None
    return tuple(values) if made is None else tuple.__new__(made, values)


def _nodes(tree: Tree) -> Iterator[Tree]:
    return (node for _, node in _paths(tree, ()))


def _leaves(tree: Tree) -> Iterator[Tree]:
    return (node for node in _nodes(tree) if node[0] in ("rows", "each"))


_SIZES = {"rows": 2, "each": 1, "value": 2, "list": 2, "tuple": 2, "dict": 2, "OrderedDict": 2, "named": 5}


def _is_tree(tree: Any) -> bool:
    """Whether this is what `split` gives: an entry of a store may be anything."""
    for node in _nodes(tree):
        if type(node) is not tuple or _SIZES.get(node[0]) != len(node):
            return False
        if node[0] == "rows" and node[1] not in item_codec.TENSOR_TYPES:
            return False
        if node[0] in ("dict", "OrderedDict") and not all(type(key) in (str, int, bool) for key, _ in node[1]):
            return False
        if node[0] == "named" and not (type(node[1]) is type(node[2]) is str and len(node[3]) == len(node[4])):
            return False
    return True


def _damaged() -> Any:
    raise ValueError("the bytes of a layout are damaged")


def _lists(value: Any, path: str, enter: Callable[[str, Any], bool]) -> Iterator[tuple[str, list[Any]]]:
    """Every list with its path; inside of lists only where `enter(path, list)`."""
    pairs: Iterator[tuple[str, Any]] = iter(())
    if type(value) is list:
        yield path, value
    names = getattr(type(value), "_fields", None)
    if isinstance(value, tuple) and names is not None:
        pairs = ((f"{path}.{name}", inner) for name, inner in zip(names, value))
    elif isinstance(value, tuple) or (type(value) is list and enter(path, value)):
        pairs = ((f"{path}[{at}]", inner) for at, inner in enumerate(value))
    elif isinstance(value, dict):
        pairs = ((f"{path}[{key!r}]", inner) for key, inner in value.items())
    for name, inner in pairs:
        yield from _lists(inner, name, enter)


def _on_cpu(item: Any, path: str) -> Any:
    """Return an item of an `each` leaf as `item_codec` takes it."""
    return map_tensors(item, lambda tensor: tensor.detach().cpu())


def map_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Return lists, tuples, named tuples and dicts of the same structure with every tensor changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)(map_tensors(each, change) for each in value)
    if isinstance(value, tuple) and hasattr(type(value), "_fields"):
        return tuple.__new__(type(value), [map_tensors(each, change) for each in value])
    if type(value) in (dict, OrderedDict):
        return type(value)((key, map_tensors(each, change)) for key, each in value.items())
    return value
