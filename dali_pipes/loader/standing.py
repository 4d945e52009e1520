"""Where an iteration stands: which epoch comes next, and how many positions of its order are consumed.

The numbers are those of the whole run, not of a rank: they are the same on all ranks, and any number of ranks can go on
from them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dali_pipes.errors import StateError

STATE_VERSION = 2


class Turn:
    """One iteration. Only the one that began last moves the standing, and only while nobody sets it anew.

    Attributes:
        epoch: its epoch.
        start: the position where it begins.
    """

    def __init__(self, standing: Standing, epoch: int, start: int) -> None:
        self.epoch, self.start = epoch, start
        self._standing = standing

    def consumed(self, position: int) -> None:
        """Note that everything before `position` has been handed out."""
        if self._standing.current is self:
            self._standing.epoch, self._standing.position = self.epoch, position
            self._standing.chosen = None

    def finish(self, count: int) -> None:
        """Note that the epoch is over: nothing of its `count` positions remains."""
        self.consumed(count)


class Standing:
    """Epoch and position of a loader.

    Without `set_epoch` or `load` each iteration that hands something out is followed by the next epoch.

    Attributes:
        epoch, position: what has been consumed so far.
        current: the iteration that moves them.
        chosen: (epoch, position, whether it was asked for by its number) of the next iteration; None: the next epoch.
    """

    def __init__(self) -> None:
        self.epoch = self.position = 0
        self.current: Turn | None = None
        self.chosen: tuple[int, int, bool] | None = (0, 0, True)

    def next_turn(self, remains: Callable[[int], int]) -> Turn:
        """Return the iteration that comes next.

        Args:
            remains: gives how many batches remain of an epoch from a position on.
        """
        if self.chosen is not None:
            epoch, position, exactly = self.chosen
            if exactly or position == 0 or remains(position):
                return Turn(self, epoch, position)
            return Turn(self, epoch + 1, 0)  # the state was saved when its epoch was over
        return Turn(self, self.epoch + 1, 0)

    def begin(self, remains: Callable[[int], int]) -> Turn:
        """Begin the iteration that comes next: it moves the standing from here on, and earlier ones do not."""
        self.current = self.next_turn(remains)
        return self.current

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; of an epoch that was resumed, what remains of it."""
        resumed = self.chosen is not None and self.chosen[0] == epoch
        self._choose(epoch, self.position if resumed else 0, exactly=True)

    def state(self, belongs_to: dict[str, Any]) -> dict[str, Any]:
        """Return the state as plain JSON values, with what it belongs to."""
        return {"version": STATE_VERSION, "epoch": self.epoch, "position": self.position, **belongs_to}

    def load(self, state: Any, belongs_to: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            StateError: it is malformed, or does not belong to what `belongs_to` says.
        """
        expected = {"version": STATE_VERSION, **belongs_to}
        found = {name: state.get(name) for name in expected} if isinstance(state, dict) else {}
        if found != expected:
            wrong = [
                f"{name} is {found.get(name)!r}, here {value!r}"
                for name, value in expected.items()
                if found.get(name) != value
            ]
            raise StateError(f"this state belongs to another run: {'; '.join(wrong)}.")
        epoch, position, count = state.get("epoch"), state.get("position"), belongs_to["count"]
        if type(epoch) is not int or type(position) is not int or not 0 <= position <= count:
            raise StateError(
                f"state: epoch={epoch!r}, position={position!r}; both must be whole numbers, and the position one of "
                f"0 to {count}."
            )
        self._choose(epoch, position, exactly=False)

    def _choose(self, epoch: int, position: int, *, exactly: bool) -> None:
        self.epoch, self.position, self.current = epoch, position, None
        self.chosen = (epoch, position, exactly)
