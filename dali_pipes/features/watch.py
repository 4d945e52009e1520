"""Is a module still what it was? Told in microseconds at every call, and for certain now and then.

A look compares the version counter, address and gradient flag of every tensor and the identity of every attribute:
that finds whatever PyTorch knows of, loading of weights included. Writes behind its back (through `.data` or a NumPy
view) change none of these: contents are read again at every call where they are small, and else as often as costs a
twentieth of the time at most, and at every `confirm`.
"""

from __future__ import annotations

import operator
import time

import torch
from torch import nn

from dali_pipes.features.digest import Anatomy, Parts, combined, content

SMALL = 1 << 20
"""Bytes of tensors up to which contents are read again at every call."""

_SHARE = 20
"""How many times as long as a full reading no other one is made."""


class ModuleWatch:
    """The digest of a module, kept up to date.

    Attributes:
        digest: 32 bytes that name the module as it was at the last look.
        silent: names of the parts that were found changed, behind PyTorch's back.
        certain: whether that look read all contents.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = getattr(module, "_orig_mod", module)  # of torch.compile
        self._pinned: Parts = {}  # parts that computing itself changes: they stay what they were before
        self.silent: list[str] = []
        self.certain = True
        self._changed = False  # found by a confirmation, and not yet told by a look
        self._take()

    def look(self) -> bool:
        """Bring `digest` up to date; return whether the module may have been another one since the last look."""
        self.silent, self.certain = [], False
        if self._moved():
            self._read_again()
            self.certain = changed = True
        elif self._bytes <= SMALL:
            changed = not self._contents_same()
            self.certain = True
        else:
            changed = time.monotonic() >= self._next and not self.confirm()
        changed, self._changed = changed or self._changed, False
        return changed

    def confirm(self) -> bool:
        """Read everything again; return whether it is what the last look saw."""
        moved = self._moved()
        changed = self._read_again()
        self.silent = self.silent if moved else changed
        self.certain = True
        self._changed = self._changed or bool(changed)
        return not changed

    def after_computing(self, allowed: bool = False) -> list[str]:
        """Return the names of the parameters and buffers that computing has changed.

        Other attributes that it changed (counters, tables made at first use) are from now on taken to be what they
        were before, so that the digest is the same in every process; with `allowed` parameters and buffers too.
        """
        self.silent, self.certain = [], False
        if not self._moved():
            return []
        before = self._parts
        changed = self._read_again()
        self.certain = True
        state = [name for name in changed if name in self._state]
        self._pinned |= {name: before.get(name, b"") for name in changed if allowed or name not in state}
        self._settle()
        return state

    def _read_again(self) -> list[str]:
        """Take the digest anew, and tell in `silent` which tensors changed without a mark; return all changed parts."""
        before, marks = self._parts, dict(zip(self._names, self._marks))
        self._take()
        now = dict(zip(self._names, self._marks))
        changed = sorted(name for name in before.keys() | self._parts if before.get(name) != self._parts.get(name))
        self.silent = [name for name in changed if name in marks and marks[name] == now.get(name)]
        return changed

    def _take(self) -> None:
        start = time.monotonic()
        anatomy = Anatomy(self._module)
        self._parts, self._tables = anatomy.parts, anatomy.tables
        self._names, self._tensors = list(anatomy.tensors), list(anatomy.tensors.values())
        self._state = {name for name, _ in (*self._module.named_parameters(), *self._module.named_buffers())}
        self._marks = self._marks_now()
        self._bytes = sum(tensor.nbytes for tensor in self._tensors)
        self._settle()
        now = time.monotonic()
        self._next = now + _SHARE * (now - start)

    def _settle(self) -> None:
        if self._pinned:
            self._parts = {name: part for name, part in {**self._parts, **self._pinned}.items() if part}
        self.digest = combined(self._parts)

    def _moved(self) -> bool:
        for table, values in self._tables:
            if len(table) != len(values) or not all(map(operator.is_, table.values(), values)):
                return True
        return self._marks_now() != self._marks

    def _marks_now(self) -> list[tuple[int, int, bool]]:
        return [(_version(tensor), tensor.data_ptr(), tensor.requires_grad) for tensor in self._tensors]

    def _contents_same(self) -> bool:
        for name, tensor in zip(self._names, self._tensors):
            part = self._parts.get(name)
            if part is not None and name not in self._pinned and content(tensor, name) != part:
                self._take()
                self.silent = [name]
                return False
        return True


def _version(tensor: torch.Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version
