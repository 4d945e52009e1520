"""What identifies a module: its parameters, buffers, architecture and settings, each by name with a digest of its own.

Taken in: every parameter and buffer (type, shape, every bit); tensors and plain values that lie in attributes; the
classes of all submodules; the compiled code of their methods, where they are not PyTorch's own, with the functions and
constants (globals that are plain values, tuples, tensors, arrays or modules) that these use; hooks; and the training
mode where it makes a difference. Left out: devices, strides, whether a gradient is wanted, comments and docstrings.
Other objects count by their type and attributes.

Contents are taken with XXH3-128: it finds accidents, not attacks.
"""

from __future__ import annotations

import dis
import enum
import functools
import types
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
import xxhash
from torch import nn

from dali_pipes.errors import ConfigError

Parts = dict[str, bytes]
"""Name of a part of a module, as `layer1.0.conv1.weight`, and its digest."""

_OWN = frozenset(
    (*nn.Module().__dict__, "_is_torch_compile", "_compile_kwargs")
)  # what compiling leaves, Lightning too
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_DEEPEST = 24
_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_ARRAYS = (torch.Tensor, np.ndarray, np.generic)
_USED = (types.FunctionType, functools.partial, nn.Module, torch.dtype, tuple, *_ARRAYS, *_PLAIN)
"""Globals that functions may use as constants. Lists and dicts are not among them: they may be logs or counters."""


class Anatomy:
    """The parts of a module, and what must be watched to know whether they are still the same.

    Attributes:
        parts: digests by name.
        tensors: every tensor that was taken in, by the name of its part.
        tables: dictionaries that lead to them, each with the values that it held.
    """

    def __init__(self, module: nn.Module) -> None:
        self.parts: Parts = {}
        self.tensors: dict[str, torch.Tensor] = {}
        self.tables: list[tuple[dict[str, Any], tuple[Any, ...]]] = []
        self._seen: dict[int, str] = {}
        self._path: set[int] = set()  # objects that are being written down
        self._functions: dict[types.FunctionType, bytes] = {}
        self._module("", module)

    def _module(self, name: str, module: nn.Module) -> None:
        module = getattr(module, "_orig_mod", module)  # of torch.compile
        if id(module) in self._seen:
            self.parts[name + "()"] = _digest(b"again " + self._seen[id(module)].encode())
            return
        self._seen[id(module)] = name
        self._watch(module.__dict__)
        self.parts[name + "()"] = _digest(self._class(type(module)) + _mode(module))
        if isinstance(module, torch.jit.ScriptModule):
            self.parts[name + ".code"] = _digest(str(getattr(module, "code", "")).encode())
        for table in ("_parameters", "_buffers"):
            held = getattr(module, table)
            self._watch(held)
            for inner, tensor in held.items():
                if tensor is not None:
                    self._tensor(f"{name}.{inner}".lstrip("."), tensor)
        for hooks in _HOOKS:
            table_of_hooks = module.__dict__.get(hooks)
            self._watch(table_of_hooks)
            if table_of_hooks:
                self.parts[f"{name}.{hooks}"] = _digest(self._value(list(table_of_hooks.values()), 0, name))
        for inner, value in vars(module).items():
            if inner not in _OWN:
                self._attribute(f"{name}.{inner}".lstrip("."), value)
        children = module._modules
        self._watch(children)
        for inner, child in children.items():
            if child is not None:
                self._module(f"{name}.{inner}".lstrip("."), child)

    def _attribute(self, name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            self._tensor(name, value)
        elif isinstance(value, nn.Module):
            self._module(name, value)
        else:
            self.parts[name] = _digest(self._value(value, 0, name))

    def _tensor(self, name: str, tensor: torch.Tensor) -> None:
        self.tensors[name] = tensor
        self.parts[name] = content(tensor, name)

    def _watch(self, table: Any) -> None:
        if isinstance(table, dict):
            self.tables.append((table, tuple(table.values())))

    def _value(self, value: Any, depth: int, name: str) -> bytes:
        """Return a text that differs for values that differ."""
        if isinstance(value, _PLAIN):
            return f"{type(value).__name__}:{value!r};".encode("utf-8", "surrogatepass")
        if isinstance(value, torch.Tensor):
            inner = f"{name}[{len(self.tensors)}]"
            self.tensors[inner] = value
            return content(value, name)
        if isinstance(value, nn.Module):
            self._module(f"{name}[{len(self._seen)}]", value)
            return b"module;"
        if isinstance(value, (torch.dtype, torch.memory_format, torch.Size, range, slice, type(...))):
            return f"{value!r};".encode()
        if isinstance(value, (np.ndarray, np.generic)) and not value.dtype.hasobject:
            return f"{value.dtype.str}{value.shape}".encode() + xxhash.xxh3_128_digest(
                np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
            )
        if depth > _DEEPEST or id(value) in self._path:
            return _name(type(value))
        self._path.add(id(value))
        text = self._structure(value, depth + 1, name)
        self._path.discard(id(value))
        return text

    def _structure(self, value: Any, depth: int, name: str) -> bytes:
        kind = _name(type(value))
        if isinstance(value, Mapping):
            pairs = sorted((self._value(k, depth, name), self._value(v, depth, name)) for k, v in value.items())
            return kind + b"{" + b"".join(key + item for key, item in pairs) + b"}"
        if isinstance(value, (list, tuple)):
            return kind + b"[" + b"".join(self._value(each, depth, name) for each in value) + b"]"
        if isinstance(value, (set, frozenset)):
            return kind + b"{" + b"".join(sorted(self._value(each, depth, name) for each in value)) + b"}"
        if isinstance(value, type):
            return _name(value)
        if isinstance(value, enum.Enum):
            return kind + value.name.encode()
        if isinstance(value, functools.partial):
            return kind + self._value([value.func, value.args, value.keywords], depth, name)
        if isinstance(value, types.MethodType):
            return b"method" + self._value(value.__func__, depth, name)
        if isinstance(value, types.FunctionType):
            if value not in self._functions:
                self._functions[value] = self._function(value, depth, name)
            return self._functions[value]
        if callable(value) and hasattr(value, "__qualname__"):
            return f"{getattr(value, '__module__', '')}.{value.__qualname__};".encode()
        return kind + self._value(dict(getattr(value, "__dict__", {})), depth, name)

    def _class(self, kind: type) -> bytes:
        """Return the name of a class, and what its methods do if it is not one of PyTorch's."""
        text = _name(kind)
        for base in kind.__mro__:
            if not _is_foreign(base):
                break
            for name, value in sorted(vars(base).items()):
                inner = getattr(value, "__func__", value)
                if isinstance(inner, property):
                    inner = inner.fget
                if isinstance(inner, (types.FunctionType, *_PLAIN)) and name not in _NO_MATTER:
                    text += name.encode() + self._value(inner, 1, name)
        return text

    def _function(self, function: types.FunctionType, depth: int, name: str) -> bytes:
        if not _is_foreign(function):
            return f"{function.__module__}.{function.__qualname__};".encode()
        cells = [_contents(cell) for cell in function.__closure__ or ()]
        known = function.__globals__
        used = {each: known[each] for each in sorted(_globals_of(function.__code__)) if each in known}
        used = {each: value for each, value in used.items() if isinstance(value, _USED)}
        more = [function.__defaults__, function.__kwdefaults__, cells, used]
        return _code(function.__code__) + self._value(more, depth, name)


_NO_MATTER = frozenset(("__module__", "__doc__", "__qualname__", "__firstlineno__", "__static_attributes__"))


def content(tensor: torch.Tensor, name: str) -> bytes:
    """16 bytes of a tensor's type, shape and every bit.

    Raises:
        ConfigError: it has no plain bits to read; the message names it.
    """
    try:
        flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
        bits = flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
    except (RuntimeError, NotImplementedError, TypeError) as error:
        raise ConfigError(
            f"{name} is a {type(tensor).__name__} ({tensor.layout}, {tensor.dtype}) whose bits cannot be read "
            f'({str(error).splitlines()[0]}): give CachedModule(module_id="a text that changes with the module").'
        ) from error
    seed = xxhash.xxh3_64_intdigest(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    return xxhash.xxh3_128_digest(bits, seed=seed)


def combined(parts: Mapping[str, bytes]) -> bytes:
    """32 bytes of all parts of a module, in the order of their names."""
    hasher = blake2b(digest_size=32, person=b"dali-pipes modul")
    for name in sorted(parts):
        hasher.update(b"%d:%s" % (len(name), name.encode("utf-8", "surrogatepass")))
        hasher.update(parts[name])
    return hasher.digest()


def has_state(module: nn.Module) -> bool:
    """Whether a module by itself computes something else, or changes, while it is in training mode."""
    if isinstance(module, (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd, nn.RReLU)):
        return not isinstance(module, nn.modules.instancenorm._InstanceNorm) or module.track_running_stats
    if isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
        return bool(module.dropout)
    return any(word in type(module).__name__ for word in ("Drop", "StochasticDepth", "BatchNorm", "SpectralNorm"))


def _mode(module: nn.Module) -> bytes:
    matters = has_state(module) or _is_foreign(type(module))
    return b"training" if matters and module.training else b""


def _is_foreign(what: Any) -> bool:
    """Whether a class or function is not PyTorch's own or Python's."""
    return (what.__module__ or "").split(".")[0] not in ("torch", "builtins", "typing", "collections", "abc")


def _name(kind: type) -> bytes:
    return f"{kind.__module__}.{kind.__qualname__};".encode()


def _digest(text: bytes) -> bytes:
    return xxhash.xxh3_128_digest(text)


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet filled
        return None


def _code(code: types.CodeType) -> bytes:
    consts = code.co_consts[1:] if code.co_consts and isinstance(code.co_consts[0], str) else code.co_consts
    inner = b"".join(map(_constant, consts))
    names = "|".join((*code.co_names, "", *code.co_varnames, "", *code.co_freevars)).encode()
    return code.co_code + names + inner


def _constant(value: Any) -> bytes:
    if isinstance(value, types.CodeType):
        return _code(value)
    if isinstance(value, frozenset):
        return b"{" + b"".join(sorted(map(_constant, value))) + b"}"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_constant, value)) + b")"
    return f"{type(value).__name__}:{value!r};".encode("utf-8", "surrogatepass")


def _globals_of(code: types.CodeType) -> set[str]:
    names = {str(each.argval) for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    inner: Iterable[types.CodeType] = (each for each in code.co_consts if isinstance(each, types.CodeType))
    return names.union(*map(_globals_of, inner))
