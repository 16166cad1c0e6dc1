"""What can be brought about on the table: eight families of outcomes, as signed slacks in table units.

Each family is one function that says by how much its condition is met (positive: met). `holds` is its sign, `feasible`
asks for a free spot where it is positive, and the expert aims at the nearest free spot where it is comfortably so.
"""

# Shapes: ... any leading axes, E numbers a state, M spots of the placement grid.

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from vla.envs.tabletop.state import (
    COLOURS,
    CONTACT,
    HELD,
    PRESENT,
    SHAPE,
    SHAPES,
    TIP_RADIUS,
    Thing,
    X,
    Y,
    in_slot,
    objects,
    positions,
    radii,
    slot_of,
    things_on_table,
    tip_gap,
)
from vla.tasks.outcomes import draw_evenly

PLACES: Final = (
    "top left", "top middle", "top right",
    "middle left", "centre", "middle right",
    "bottom left", "bottom middle", "bottom right",
)  # fmt: skip
RELATIONS: Final = ("left of", "right of", "above", "below")
LANDMARKS: Final = ("centre", "edge")


@dataclass(frozen=True)
class Outcome:
    """One predicate over states `[..., E]`. Written `next_to(red disc, blue star)`, `region(red disc, top left)`,
    `direction(red disc, left of, blue star)`.

    Raises ValueError for an unknown family, a wrong number of things, a repeated thing or a wrong `where`.
    """

    family: str
    thing: Thing  # the one that is moved or touched
    others: tuple[Thing, ...] = ()  # what it is put next to, between, ...
    where: str | None = None  # a place (region), a relation (direction) or a landmark (away)

    def __post_init__(self) -> None:
        if self.family not in _FAMILIES:
            raise ValueError(f"outcome family {self.family!r} is unknown: use one of {', '.join(_FAMILIES)}")
        family = _FAMILIES[self.family]
        if len(self.others) != family.others or len({self.thing, *self.others}) != 1 + family.others:
            raise ValueError(f"outcome {self!s}: {self.family} takes {1 + family.others} different things")
        if self.where not in (family.wheres or (None,)):
            choices = ", ".join(family.wheres) or "none"
            raise ValueError(f"outcome {self!s}: {self.where!r} is not a `where` of {self.family}; choices: {choices}")
        if self.family == "between":
            object.__setattr__(self, "others", tuple(sorted(self.others)))

    def __str__(self) -> str:
        arguments = [self.thing, *([self.where] if self.where else []), *self.others]
        return f"{self.family}({', '.join(map(str, arguments))})"

    @classmethod
    def parse(cls, text: str) -> Outcome:
        """The inverse of `str(outcome)`. Raises ValueError for anything else."""
        match = re.fullmatch(r"(\w+)\((.+)\)", text)
        if match is None:
            raise ValueError(f"outcome {text!r} is not of the form family(thing, ...)")
        thing, *arguments = match[2].split(", ")
        wheres = [argument for argument in arguments if argument in _WHERES]
        others = tuple(Thing.parse(argument) for argument in arguments if argument not in _WHERES)
        if len(wheres) > 1:
            raise ValueError(f"outcome {text!r} has more than one place")
        return cls(match[1], Thing.parse(thing), others, wheres[0] if wheres else None)

    @property
    def intention_free(self) -> bool:
        """Whether the states alone show it (see `vla.tasks.outcomes`)."""
        return _FAMILIES[self.family].intention_free

    @property
    def places(self) -> bool:
        """Whether it is about where the thing ends up after it has been put down."""
        return _FAMILIES[self.family].placement is not None

    @property
    def margin(self) -> float:
        """The slack a careful placement aims at, in table units."""
        return _FAMILIES[self.family].margin

    def holds(self, states: np.ndarray, by: float = 0.0) -> np.ndarray:
        """Whether it holds: `states [..., E]` -> bool `[...]`; False where one of its things is not on the table.

        `by` asks for more than that much slack.
        """
        slots = self._slots(states)
        slot, *others = slots
        present = slot >= 0
        for other in others:
            present &= other >= 0
        held = states[..., HELD]
        if self.family == "lift":
            return present & (held == slot)
        put_down = held < 0 if self.family == "touch" else held != slot
        return present & put_down & (self._slack(states, slots) > by)

    def slack(self, states: np.ndarray) -> np.ndarray:
        """By how much its geometry is met, whatever is held: `[..., E]` -> `[...]`. Needs its things present."""
        return self._slack(states, self._slots(states))

    def slack_at(self, position: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
        """The slack if the thing lay at `position [..., 2]` and the others at theirs. Only where `places`."""
        return slack_at(self.family, self.where, position, others)

    def _slots(self, states: np.ndarray) -> list[np.ndarray]:
        """The slots `[...]` of its things."""
        return [slot_of(states, thing) for thing in (self.thing, *self.others)]

    def _slack(self, states: np.ndarray, slots: Sequence[np.ndarray]) -> np.ndarray:
        if self.family == "lift":
            return np.where(states[..., HELD] == slots[0], 1.0, -1.0)
        if self.family == "touch":
            return CONTACT - tip_gap(states, slots[0], SHAPES.index(self.thing.shape))
        position, *others = (in_slot(positions(states), slot) for slot in slots)
        return self.slack_at(position, others)


def parse_outcome(text: str) -> Outcome:
    """The inverse of `str(outcome)`. Raises ValueError for anything else."""
    return Outcome.parse(text)


def feasible(outcome: Outcome, state: np.ndarray) -> bool:
    """Whether it is clearly false in `state [E]`, and there is a free spot on the table where it would be true."""
    if not {outcome.thing, *outcome.others} <= things_on_table(state).keys():
        return False
    return _feasible(outcome, state, free_spots(outcome.thing, state))


def all_outcomes(state: np.ndarray, families: Sequence[str] | None = None) -> list[Outcome]:
    """Every feasible outcome of the families (default: the base ones) in `state [E]`, in a fixed order."""
    spots = {thing: free_spots(thing, state) for thing in things_on_table(state)}
    outcomes = (outcome for name in families or BASE_FAMILIES for outcome in outcomes_about(list(spots), name))
    return [outcome for outcome in outcomes if _feasible(outcome, state, spots[outcome.thing])]


def draw_outcome(
    state: np.ndarray, families: Sequence[str], allowed: Callable[[Outcome], bool] | None, rng: np.random.Generator
) -> Outcome | None:
    """Something `allowed` and feasible in `state [E]`; families that have any are equally likely. None if none has."""
    candidates = [o for o in all_outcomes(state, families) if allowed is None or allowed(o)]
    return draw_evenly(candidates, rng)


def brought_about(outcome: Outcome, states: np.ndarray) -> bool:
    """Whether an episode `states [T, E]` did it: feasible at first, true at last, and by moving the thing it is about.

    The last clause keeps `next_to(red disc, blue star)` from being claimed of an arm that moved the blue star.
    """
    first, last = states[0], states[-1]
    if not outcome.holds(last) or not feasible(outcome, first):
        return False
    moved = np.linalg.norm(positions(last) - positions(first), axis=-1)
    rest = [moved[int(slot_of(first, other))] for other in outcome.others]
    return not outcome.places or moved[int(slot_of(first, outcome.thing))] > max(rest, default=0.0)


def outcomes_about(things: Sequence[Thing], family: str) -> list[Outcome]:
    """Every outcome of the family about these things, feasible or not, in a fixed order."""
    if family not in _FAMILIES:
        raise ValueError(f"outcome family {family!r} is unknown: use one of {', '.join(FAMILIES)}")
    wheres = _FAMILIES[family].wheres or (None,)
    named = itertools.permutations(things, 1 + _FAMILIES[family].others)
    outcomes = [Outcome(family, thing, tuple(others), where) for thing, *others in named for where in wheres]
    return list(dict.fromkeys(outcomes))


def free_spots(thing: Thing, state: np.ndarray) -> np.ndarray:
    """Where the thing could be put down in `state [E]`, clear of all others, on a fixed grid: `[M, 2]`.

    Not so near the edge of the table that it matters from which side the tip holds it.
    """
    spots = _SPOTS[np.abs(_SPOTS - 0.5).max(axis=1) <= 0.5 - thing.radius - 2 * TIP_RADIUS - CONTACT]
    rows, radius = objects(state), radii(state)
    free = np.ones(len(spots), bool)
    for slot in set(np.flatnonzero(rows[:, PRESENT]).tolist()) - {int(slot_of(state, thing))}:
        offset = spots - rows[slot, X : Y + 1]
        free &= offset[:, 0] ** 2 + offset[:, 1] ** 2 > (thing.radius + radius[slot] + _CLEARANCE) ** 2
    return spots[free]


def slack_at_spots(outcome: Outcome, state: np.ndarray, spots: np.ndarray) -> np.ndarray:
    """The slack if its thing lay at each of `spots [M, 2]`, all else as in `state [E]`: `[M]`."""
    others = [positions(state)[int(slot_of(state, other))] for other in outcome.others]
    return outcome.slack_at(spots, others)


def slack_of_slots(family: str, where: str | None, states: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """The slack `[N, C]` of a family's outcomes in `states [N, E]`, about whatever is in `slots [1 + others, C]`.

    Meaningless where a slot is empty.
    """
    if family == "lift":
        return np.where(states[:, HELD, None] == slots[0], 1.0, -1.0)
    if family == "touch":
        return CONTACT - np.stack([tip_gap(states, *_slot_and_shape(states, slot)) for slot in slots[0]], axis=1)
    position, *others = (positions(states)[:, slot] for slot in slots)
    return slack_at(family, where, position, others)


def slack_at(family: str, where: str | None, position: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """The slack `[...]` of a family's outcomes if the thing lay at `position [..., 2]` and the others at theirs."""
    placement = _FAMILIES[family].placement
    if placement is None:
        raise ValueError(f"{family} is not about a position")
    return placement(position, others, where or "")


def _slot_and_shape(states: np.ndarray, slot: int) -> tuple[np.ndarray, np.ndarray]:
    """The slot for each of `states [N, E]`, and what shape is in it: `[N]` both."""
    return np.full(len(states), slot), objects(states)[:, slot, SHAPE].astype(np.int64)


def _feasible(outcome: Outcome, state: np.ndarray, spots: np.ndarray) -> bool:
    if outcome.slack(state) > -_FAMILIES[outcome.family].clearly_false:
        return False
    return not outcome.places or bool((slack_at_spots(outcome, state, spots) > _FEASIBLE_SLACK).any())


def held_out_combination(outcome: Outcome) -> bool:
    """The fixed rule for combinations to keep out of training: an eighth of all (thing, family) pairs.

    Two things a family; every thing, colour, shape and family still occurs in training, in other combinations.
    """
    colour = COLOURS.index(outcome.thing.colour)
    shape = SHAPES.index(outcome.thing.shape)
    return (colour + 4 * shape + 3 * FAMILIES.index(outcome.family)) % 8 == 0


def trained_combination(outcome: Outcome) -> bool:
    """Whether it may occur in training."""
    return not held_out_combination(outcome)


# What each choice of combinations allows; None is everything.
COMBINATIONS: Final[dict[str, Callable[[Outcome], bool] | None]] = {
    "all": None,
    "train": trained_combination,
    "held_out": held_out_combination,
}


# The placement functions: position [..., 2] of the thing, positions [..., 2] of the others, where -> slack [...].

_NEAR = 0.22
_FAR = 0.36
_CELL = 1 / 3


def _region(position: np.ndarray, others: Sequence[np.ndarray], where: str) -> np.ndarray:
    row, column = divmod(PLACES.index(where), 3)
    return np.minimum(_inside_third(position[..., 0], column), _inside_third(position[..., 1], 2 - row))


def _inside_third(coordinate: np.ndarray, third: int) -> np.ndarray:
    if third == 0:
        return _CELL - coordinate
    if third == 2:
        return coordinate - 2 * _CELL
    return _CELL / 2 - np.abs(coordinate - 0.5)


def _next_to(position: np.ndarray, others: Sequence[np.ndarray], where: str) -> np.ndarray:
    return _NEAR - _distance(position, others[0])


def _direction(position: np.ndarray, others: Sequence[np.ndarray], where: str) -> np.ndarray:
    offset = position - others[0]
    axis = 0 if where in ("left of", "right of") else 1
    sign = 1 if where in ("right of", "above") else -1
    along, lateral = sign * offset[..., axis], np.abs(offset[..., 1 - axis])
    return np.minimum(np.minimum(along - 0.08, 0.11 - lateral), _FAR - np.hypot(along, lateral))


def _separate(position: np.ndarray, others: Sequence[np.ndarray], where: str) -> np.ndarray:
    return _distance(position, others[0]) - _FAR


def _away(position: np.ndarray, others: Sequence[np.ndarray], where: str) -> np.ndarray:
    if where == "centre":
        return np.hypot(position[..., 0] - 0.5, position[..., 1] - 0.5) - 0.34
    from_centre = np.maximum(np.abs(position[..., 0] - 0.5), np.abs(position[..., 1] - 0.5))
    return 0.22 - from_centre


def _between(position: np.ndarray, others: Sequence[np.ndarray], where: str) -> np.ndarray:
    span = others[1] - others[0]
    length = np.maximum(np.hypot(span[..., 0], span[..., 1]), 1e-6)
    offset = position - others[0]
    along = (offset * span).sum(axis=-1) / length
    lateral = np.abs(offset[..., 0] * span[..., 1] - offset[..., 1] * span[..., 0]) / length
    return np.minimum(np.minimum(along - 0.1, length - 0.1 - along), 0.08 - lateral)


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.hypot(a[..., 0] - b[..., 0], a[..., 1] - b[..., 1])


@dataclass(frozen=True)
class _Family:
    placement: (
        Callable[[np.ndarray, Sequence[np.ndarray], str], np.ndarray] | None
    )  # None: about the tip, not a position
    clearly_false: float  # it counts as not yet done when its slack is below minus this
    margin: float = 0.0  # the slack a careful placement aims at
    others: int = 0
    wheres: tuple[str, ...] = ()
    intention_free: bool = True


_FAMILIES: Final = {
    "region": _Family(_region, clearly_false=0.04, margin=0.08, wheres=PLACES),
    "next_to": _Family(_next_to, clearly_false=0.06, margin=0.035, others=1),
    "direction": _Family(_direction, clearly_false=0.04, margin=0.05, others=1, wheres=RELATIONS),
    "separate": _Family(_separate, clearly_false=_FAR - 0.21, margin=0.05, others=1),
    "touch": _Family(None, clearly_false=0.04),
    "away": _Family(_away, clearly_false=0.12, margin=0.05, wheres=LANDMARKS),
    "lift": _Family(None, clearly_false=0.5),
    "between": _Family(_between, clearly_false=0.04, margin=0.03, others=2),
}
FAMILIES: Final = tuple(_FAMILIES)
WHERES: Final = {name: family.wheres for name, family in _FAMILIES.items()}
OTHERS: Final = {name: family.others for name, family in _FAMILIES.items()}
CLEARLY_TRUE: Final = {name: 0.65 * family.margin for name, family in _FAMILIES.items()}
CLEARLY_FALSE: Final = {name: family.clearly_false for name, family in _FAMILIES.items()}
BASE_FAMILIES: Final = FAMILIES[:6]
_WHERES: Final = frozenset(PLACES + RELATIONS + LANDMARKS)

_FEASIBLE_SLACK: Final = 0.015
_CLEARANCE: Final = 0.01
_SPOTS: Final = np.stack(np.meshgrid(np.arange(0.04, 0.97, 0.02), np.arange(0.04, 0.97, 0.02)), axis=-1).reshape(-1, 2)
