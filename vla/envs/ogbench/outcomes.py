"""What can be brought about in the scene: thirteen outcomes in six families, as signed slacks in metres.

Each outcome is one function that says by how much its condition is met (positive: met). The locks decide what is
feasible: a locked drawer or window can't be moved until its button has been pressed.
"""

# Shapes: ... any leading axes, E numbers a state.

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from vla.envs.ogbench.state import (
    CUBE,
    DRAWER,
    OPEN_DRAWER,
    OPEN_WINDOW,
    TOLERANCE,
    UNLOCKED_DRAWER,
    UNLOCKED_WINDOW,
    WINDOW,
    drawer_box,
    held,
)

FAMILIES: Final = ("open", "close", "unlock", "lock", "place", "stow")
BASE_FAMILIES: Final = FAMILIES
# Where the cube can be put on the table, seen from the camera: the inner border, and which coordinate is beyond it.
BORDERS: Final = {"left": (1, -1, 0.01), "right": (1, 1, 0.085), "front": (0, 1, 0.41), "back": (0, -1, 0.34)}
# The cube can be taken from here: x and y of the corners, metres.
REACH: Final = np.array([[0.27, -0.11], [0.50, 0.21]])
_LYING: Final = 0.03  # height of the centre of a cube that lies on the table; its half edge is 0.02


@dataclass(frozen=True)
class Outcome:
    """One predicate over states `[..., E]`. Written `open(drawer)`, `lock(window)`, `place(cube, left)`, `stow(cube)`.

    Raises ValueError for anything else.
    """

    family: str
    thing: str
    where: str | None = None  # of `place`

    def __post_init__(self) -> None:
        if (self.family, self.thing, self.where) not in _KINDS:
            raise ValueError(f"outcome {self!s} is unknown: use one of {', '.join(map(_written, _KINDS))}")

    def __str__(self) -> str:
        return _written((self.family, self.thing, self.where))

    @property
    def intention_free(self) -> bool:
        """The states alone show each of them (see `vla.tasks.outcomes`)."""
        return True

    @property
    def about(self) -> frozenset[str]:
        """The things that its instruction names."""
        return frozenset({self.thing, "drawer"} if self.family == "stow" else {self.thing})

    def holds(self, states: np.ndarray, by: float = 0.0) -> np.ndarray:
        """Whether it holds: `states [..., E]` -> bool `[...]`. `by` asks for more than that much slack."""
        met = self.slack(states) > by
        if self.family == "place":
            return met & ~held(states) & (states[..., CUBE][..., 2] < _LYING)
        return met & ~held(states) if self.family == "stow" else met

    def slack(self, states: np.ndarray) -> np.ndarray:
        """By how much its geometry is met, whatever is held: `[..., E]` -> `[...]`."""
        return self._kind.slack(states)

    @property
    def clearly_true(self) -> float:
        """The slack from which on nobody doubts that it holds."""
        return self._kind.clearly_true

    @property
    def clearly_false(self) -> float:
        """It counts as not yet done where its slack is below minus this."""
        return self._kind.clearly_false

    @property
    def _kind(self) -> _Kind:
        return _KINDS[self.family, self.thing, self.where]


def parse_outcome(text: str) -> Outcome:
    """The inverse of `str(outcome)`. Raises ValueError for anything else."""
    match = re.fullmatch(r"(\w+)\((\w+)(?:, (\w+))?\)", text)
    if match is None:
        raise ValueError(f"outcome {text!r} is not of the form family(thing)")
    return Outcome(match[1], match[2], match[3])


def feasible(outcome: Outcome, state: np.ndarray) -> bool:
    """Whether it is clearly false in `state [E]` and nothing stands in its way."""
    return _clearly_false(outcome, state) and _admits(outcome, state)


def locked_out(outcome: Outcome, state: np.ndarray) -> bool:
    """Whether it is clearly false in `state [E]` and only a lock stands in its way."""
    return _clearly_false(outcome, state) and outcome.family in ("open", "close") and not _admits(outcome, state)


def all_outcomes(state: np.ndarray, families: Sequence[str] = BASE_FAMILIES) -> list[Outcome]:
    """Every feasible outcome of the families in `state [E]`, in a fixed order."""
    return [outcome for outcome in OUTCOMES if outcome.family in families and feasible(outcome, state)]


def held_out_combination(outcome: Outcome) -> bool:
    """None is kept out of training: thirteen outcomes are too few."""
    return False


def _clearly_false(outcome: Outcome, state: np.ndarray) -> bool:
    return bool(outcome.slack(state) <= -outcome.clearly_false)


def _admits(outcome: Outcome, state: np.ndarray) -> bool:
    if outcome.family in ("open", "close"):
        return bool(state[UNLOCKED_DRAWER if outcome.thing == "drawer" else UNLOCKED_WINDOW] > 0.5)
    if outcome.family in ("lock", "unlock"):
        return True
    x_y, height = state[CUBE][:2], state[CUBE][2]
    in_reach = height < _LYING and (x_y >= REACH[0]).all() and (x_y <= REACH[1]).all()
    return bool(in_reach and (outcome.family == "place" or _OPEN_DRAWER.holds(state, _OPEN_DRAWER.clearly_true)))


# The slacks: states [..., E] -> [...].


def _drawer_is_open(states: np.ndarray) -> np.ndarray:
    return OPEN_DRAWER + TOLERANCE - states[..., DRAWER]


def _drawer_is_closed(states: np.ndarray) -> np.ndarray:
    return states[..., DRAWER] + TOLERANCE


def _window_is_open(states: np.ndarray) -> np.ndarray:
    return states[..., WINDOW] - (OPEN_WINDOW - TOLERANCE)


def _window_is_closed(states: np.ndarray) -> np.ndarray:
    return TOLERANCE - states[..., WINDOW]


def _unlocked(number: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda states: states[..., number] - 0.5


def _locked(number: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda states: 0.5 - states[..., number]


def _beyond(where: str) -> Callable[[np.ndarray], np.ndarray]:
    axis, sign, border = BORDERS[where]
    return lambda states: sign * (states[..., CUBE][..., axis] - border)


def _in_drawer(states: np.ndarray) -> np.ndarray:
    low, high = drawer_box(states)
    cube = states[..., CUBE]
    return np.minimum(cube - low, high - cube).min(axis=-1)


@dataclass(frozen=True)
class _Kind:
    slack: Callable[[np.ndarray], np.ndarray]
    clearly_false: float
    clearly_true: float


# What is about half open (0.08 of the drawer, 0.1 of the window) is neither open nor closed, and can become both.
_DRAWER: Final = {"clearly_false": 0.03, "clearly_true": TOLERANCE / 2}
_WINDOW: Final = {"clearly_false": 0.05, "clearly_true": TOLERANCE / 2}
_LOCK: Final = {"clearly_false": 0.4, "clearly_true": 0.4}  # a lock knows no degrees
_KINDS: Final[dict[tuple[str, str, str | None], _Kind]] = {
    ("open", "drawer", None): _Kind(_drawer_is_open, **_DRAWER),
    ("open", "window", None): _Kind(_window_is_open, **_WINDOW),
    ("close", "drawer", None): _Kind(_drawer_is_closed, **_DRAWER),
    ("close", "window", None): _Kind(_window_is_closed, **_WINDOW),
    ("unlock", "drawer", None): _Kind(_unlocked(UNLOCKED_DRAWER), **_LOCK),
    ("unlock", "window", None): _Kind(_unlocked(UNLOCKED_WINDOW), **_LOCK),
    ("lock", "drawer", None): _Kind(_locked(UNLOCKED_DRAWER), **_LOCK),
    ("lock", "window", None): _Kind(_locked(UNLOCKED_WINDOW), **_LOCK),
    **{("place", "cube", where): _Kind(_beyond(where), clearly_false=0.03, clearly_true=0.015) for where in BORDERS},
    ("stow", "cube", None): _Kind(_in_drawer, clearly_false=0.02, clearly_true=0.01),
}


def _written(key: tuple[str, str, str | None]) -> str:
    family, thing, where = key
    return f"{family}({thing})" if where is None else f"{family}({thing}, {where})"


OUTCOMES: Final = tuple(Outcome(*key) for key in _KINDS)
_OPEN_DRAWER: Final = Outcome("open", "drawer")
