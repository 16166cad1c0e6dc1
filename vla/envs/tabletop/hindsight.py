"""What trajectories achieved: every outcome of every thing, for many frames at once. Relabelling reads it.

An *attempt* is the part of a trajectory between two releases: the arm sets out with nothing in hand and does something.
What an attempt achieved was clearly false when it set out and clearly true at its end, by moving the thing it is about:
a thing that comes to lie just inside of where it counts shows nobody where to put it. Nor does one that was carried on
when it was there already, or a touch on the way to something else: what was done next was for another purpose, and who
imitates it under this name puts things farther off than asked for.
"""

# Shapes: N frames (of several episodes), M moments, L frames looked at, O slots, C candidates, V events, T frames of
# the longest attempt.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Final

import numpy as np

from vla.envs.tabletop.outcomes import (
    BASE_FAMILIES,
    CLEARLY_FALSE,
    CLEARLY_TRUE,
    OTHERS,
    WHERES,
    Outcome,
    slack_at,
    slack_of_slots,
)
from vla.envs.tabletop.state import (
    COLOUR,
    COLOURS,
    HELD,
    MAX_OBJECTS,
    PRESENT,
    SHAPE,
    SHAPES,
    Thing,
    objects,
    positions,
)
from vla.tasks.outcomes import Achievement

LABELLER: Final = "tabletop-outcomes"
VERSION: Final = "3"  # another one wherever the same states would get other labels

_ABOUT_THE_TIP: Final = ("touch", "lift")  # the other families are about where things lie
_FARTHER: Final = 0.08  # a thing may come to rest this far from where it was first right, in table units: about a step


def achievements(states: np.ndarray, first: np.ndarray, families: Sequence[str] = BASE_FAMILIES) -> list[Achievement]:
    """What `states [N, E]` of episodes that begin where `first [N]` is True achieved, in order of their ends.

    As `brought_about` of the same frames, clearly so; it need not be asked whether that was feasible: it was done.
    """
    begins = _attempt_begins(states, first)
    # The attempt that a frame ends is the one the frame before belongs to: a release ends one and begins another.
    since = np.maximum.accumulate(np.where(begins, np.arange(len(states)), 0))
    later, moved = _Moments.of(states, ~first), _Moments.of(states, ~first & _something_moved(states))
    found = [
        achievement
        for family in families
        for candidates in _candidates(family)
        for achievement in _achieved(candidates, states, later if family in _ABOUT_THE_TIP else moved, since)
    ]
    return sorted(found, key=lambda achievement: achievement.end)  # stable: families in order within a frame


@dataclass(frozen=True)
class _Candidates:
    """The outcomes of a family and `where`, for any things: which slots they are about."""

    family: str
    where: str | None
    slots: np.ndarray  # [1 + others, C] int64


@dataclass(frozen=True)
class _Moments:
    """Frames at which something may have come about, and all that has to be looked at to know."""

    frames: np.ndarray  # [M] int64
    looked_at: np.ndarray  # [L, E] the states of these and of the frames before them, each once
    now: np.ndarray  # [M] int64, rows of `looked_at`
    before: np.ndarray  # [M] int64

    @classmethod
    def of(cls, states: np.ndarray, may: np.ndarray) -> _Moments:
        """`may [N]`: not in the first frame of an episode."""
        looked_at = may.copy()
        looked_at[:-1] |= may[1:]
        row = np.cumsum(looked_at) - 1
        frames = np.flatnonzero(may)
        return cls(frames, states[looked_at], row[frames], row[frames - 1])


@lru_cache
def _candidates(family: str) -> list[_Candidates]:
    slots = range(MAX_OBJECTS)
    # The others are given in one order only: `between` is the same of both.
    named = [
        (slot, *others)
        for slot in slots
        for others in combinations([other for other in slots if other != slot], OTHERS[family])
    ]
    return [_Candidates(family, where, np.array(named).T) for where in WHERES[family] or (None,)]


def _attempt_begins(states: np.ndarray, first: np.ndarray) -> np.ndarray:
    """[N] bool: the frames with which an episode begins or a thing has been let go."""
    holding = states[:, HELD] >= 0
    released = np.zeros(len(states), bool)
    released[1:] = holding[:-1] & ~holding[1:]
    return first | released


def _something_moved(states: np.ndarray) -> np.ndarray:
    """[N] bool: since the frame before, something was taken or let go, or moved without being held.

    Nothing else can end an attempt at a placement: what is being carried moves more than what it passes.
    """
    held = states[:, HELD].astype(np.int64)
    moved = (positions(states)[1:] != positions(states)[:-1]).any(axis=-1)  # [N - 1, O]
    carried = held[1:, None] == np.arange(MAX_OBJECTS)
    return np.append(False, (moved & ~carried).any(axis=1) | (held[1:] != held[:-1]))


def _achieved(
    candidates: _Candidates, states: np.ndarray, moments: _Moments, since: np.ndarray
) -> Iterator[Achievement]:
    """What came about in one of the moments and not before."""
    holds = _holds(candidates, moments.looked_at)
    row, which = np.nonzero(holds[moments.now] & ~holds[moments.before])
    if not len(row):
        return
    end = moments.frames[row]
    start = since[end - 1]
    attempts, attempt = np.unique(start, return_inverse=True)
    slack = slack_of_slots(candidates.family, candidates.where, states[attempts], candidates.slots)
    done = slack[attempt, which] <= -CLEARLY_FALSE[candidates.family]
    if candidates.family == "touch":
        done &= states[end - 1, HELD] < 0  # or it has just been let go
    if candidates.family not in _ABOUT_THE_TIP:
        done &= _moved_most(states, start, end, candidates.slots[:, which])
        done[done] = _stopped_there(candidates, states, start[done], end[done], candidates.slots[:, which[done]])
    for begin, stop, column in zip(start[done].tolist(), end[done].tolist(), which[done].tolist(), strict=True):
        things = objects(states[stop])[candidates.slots[:, column]]
        named = things[:, COLOUR] * len(SHAPES) + things[:, SHAPE]
        yield Achievement(begin, stop, _outcome(candidates.family, candidates.where, tuple(named.tolist())))


def _holds(candidates: _Candidates, states: np.ndarray) -> np.ndarray:
    """[N, C] bool: clearly."""
    slack = slack_of_slots(candidates.family, candidates.where, states, candidates.slots)
    present = objects(states)[..., PRESENT][:, candidates.slots].all(axis=1) > 0
    return present & (slack > CLEARLY_TRUE[candidates.family]) & _counts(candidates, states)


def _counts(candidates: _Candidates, states: np.ndarray) -> np.ndarray:
    """[N, C] bool: what the outcome's geometry has to come with."""
    held = states[:, HELD, None].astype(np.int64)
    if candidates.family == "lift":
        return held == candidates.slots[0]
    return held < 0 if candidates.family == "touch" else held != candidates.slots[0]


def _moved_most(states: np.ndarray, start: np.ndarray, end: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """[V] bool: of the things in `slots [1 + others, V]` the first moved most from frame `start [V]` to `end [V]`."""
    way = np.linalg.norm(positions(states)[end] - positions(states)[start], axis=-1)  # [V, O]
    moved = way[np.arange(len(way)), slots]  # [1 + others, V]
    return moved[0] > moved[1:].max(axis=0, initial=0.0)


def _stopped_there(
    candidates: _Candidates, states: np.ndarray, start: np.ndarray, end: np.ndarray, slots: np.ndarray
) -> np.ndarray:
    """[V] bool: whether the first of the things in `slots [1 + others, V]` came to rest where it was first right."""
    if not len(start):
        return np.zeros(0, bool)
    frames = np.minimum(start[:, None] + np.arange((end - start).max() + 1), end[:, None])  # [V, T]
    thing, *others = (positions(states)[frames, slot[:, None]] for slot in slots)  # [V, T, 2] each
    right = slack_at(candidates.family, candidates.where, thing, others) > CLEARLY_TRUE[candidates.family]
    entered = thing[np.arange(len(thing)), right.argmax(axis=1)]
    return np.linalg.norm(thing[:, -1] - entered, axis=-1) <= _FARTHER


@lru_cache(maxsize=1 << 16)
def _outcome(family: str, where: str | None, things: tuple[float, ...]) -> Outcome:
    numbers = (divmod(int(number), len(SHAPES)) for number in things)
    thing, *others = (Thing(COLOURS[colour], SHAPES[shape]) for colour, shape in numbers)
    return Outcome(family, thing, tuple(others), where)

