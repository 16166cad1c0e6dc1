"""Embodiments: robots with a state and an action layout of their own, several of which one policy can act with.

What depends on a layout in its shape or its meaning is the embodiment's own, in `Adapters`: normalisation, the layers
by which states and actions come in and go out, and the calibration of image against state. All else is shared: the
encoders, what the words mean and name, how the picture is read and a chunk denoised.

Shapes: S state, A action, G numbers of a goal state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import nn

Part = TypeVar("Part", bound=nn.Module)


@dataclass(frozen=True)
class Embodiment:
    """What a policy must know about a robot before it can act with it."""

    name: str  # the `robot_type` of its data sets
    state_dim: int  # S
    action_dim: int  # A
    fps: float  # actions a second
    goal_dim: int = 0  # G; 0 where the policy isn't told by a goal state
    goal_things: Sequence[Sequence[Sequence[int]]] = ()  # of every sort of things, of each of the sort: its numbers


def things_of(names: Sequence[str], ignored: Sequence[str] = ()) -> list[list[list[int]]]:
    """The things that numbers named `thing.quantity` are of: for every sort, which has the same quantities, and each
    thing of it, where its numbers are. One without a dot in its name is a thing of its own.

    Raises:
        ValueError: there is no thing of an `ignored` name.
    """
    numbers: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        numbers.setdefault(name.rpartition(".")[0] or name, []).append(number)
    for name in ignored:
        if name not in numbers:
            raise ValueError(f"there is no {name!r}, only {', '.join(numbers)}")
        del numbers[name]
    things: dict[str, list[list[int]]] = {}
    for own in numbers.values():
        things.setdefault(" ".join(names[number].rpartition(".")[2] for number in own), []).append(own)
    return list(things.values())


class Adapters(nn.ModuleList, Generic[Part]):
    """The same part of a policy for every embodiment, in the order of the policy's list."""

    def __init__(self, embodiments: Sequence[Embodiment], make: Callable[[Embodiment], Part]) -> None:
        super().__init__(make(embodiment) for embodiment in embodiments)
        self._make = make

    def add(self, embodiment: Embodiment) -> None:
        """A fresh part for one more."""
        self.append(self._make(embodiment))

    def __getitem__(self, number: int) -> Part:  # type: ignore[override]
        return super().__getitem__(number)  # type: ignore[return-value]
