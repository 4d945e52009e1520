"""A module around another one, that looks like it: its state, its attributes, and a mode of its own."""

from __future__ import annotations

from typing import Any, Self

from torch import nn

_PREFIX = "module."


class Wrapping(nn.Module):
    """Holds `module`, which keeps its mode when `train` is called on a model that contains this one."""

    module: nn.Module

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.training = module.training
        self._register_state_dict_hook(_own_names)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_inner_names)  # type: ignore[no-untyped-call]

    def train(self, mode: bool = True) -> Self:
        """Set the mode of this module alone: what it holds is frozen and keeps its own."""
        self.training = mode
        return self

    def __getattr__(self, name: str) -> Any:
        """Return what the module offers (`fc.in_features`, say)."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or name == "module":
                raise
            return getattr(self.module, name)


def _own_names(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Write the names of the module alone into a state."""
    _rename(state, prefix + _PREFIX, prefix)


def _inner_names(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Find the names of the module alone in a state."""
    _rename(state, prefix, prefix + _PREFIX)


def _rename(state: dict[str, Any], old: str, new: str) -> None:
    taken = {name: state.pop(name) for name in list(state) if name.startswith(old)}
    state.update({new + name[len(old) :]: value for name, value in taken.items()})
