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
