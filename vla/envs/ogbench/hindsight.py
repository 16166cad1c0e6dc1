"""What trajectories achieved: every outcome of the scene, for many frames at once. Relabelling reads it.

A *deed* is a time in which something other than the arm moves, with pauses of at most `PAUSE` frames; an *attempt* is a
deed and the approach to it: the last `APPROACH` frames before, or fewer if another deed was over later. What an attempt
achieved was clearly false at its start and clearly true at its end.
"""

# Shapes: N frames (of several episodes), E numbers a state.

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from vla.envs.ogbench.outcomes import BASE_FAMILIES, OUTCOMES
from vla.envs.ogbench.state import BUTTONS, CUBE, DRAWER, WINDOW
from vla.tasks.outcomes import Achievement

LABELLER: Final = "ogbench-scene-outcomes"
VERSION: Final = "1"  # another one wherever the same states would get other labels

PAUSE: Final = 12  # frames
APPROACH: Final = 25  # frames; the oracles need no more, so what comes before was on the way to something else
_MOVED: Final = 0.002  # metres in a frame; what is locked or merely rests moves less


def achievements(states: np.ndarray, first: np.ndarray, families: Sequence[str] = BASE_FAMILIES) -> list[Achievement]:
    """What `states [N, E]` of episodes that begin where `first [N]` is True achieved, in order of their ends."""
    since = _attempt_begins(states, first)
    found = []
    for outcome in OUTCOMES:
        if outcome.family not in families:
            continue
        holds = outcome.holds(states, outcome.clearly_true)
        ends = np.flatnonzero(holds[1:] & ~holds[:-1] & ~first[1:]) + 1
        starts, once = np.unique(since[ends], return_index=True)  # what comes and goes in an attempt is claimed once
        false = outcome.slack(states[starts]) <= -outcome.clearly_false
        found += [
            Achievement(start, end, outcome)
            for start, end in zip(starts[false].tolist(), ends[once][false].tolist(), strict=True)
        ]
    return sorted(found, key=lambda achievement: achievement.end)  # stable: outcomes in order within a frame


def _attempt_begins(states: np.ndarray, first: np.ndarray) -> np.ndarray:
    """[N] int: the frame in which the attempt that a frame belongs to began."""
    frames = np.arange(len(states))
    episode = np.maximum.accumulate(np.where(first, frames, 0))
    moves = _something_moved(states) & ~first
    last_move = np.maximum.accumulate(np.where(moves, frames, -1))
    before = np.maximum(np.append(-1, last_move[:-1]), episode)  # the last frame with motion, or the episode's first
    untouched = np.append(-1, last_move[:-1]) < episode  # nothing has moved in this episode yet
    deeds = moves & (untouched | (frames - before > PAUSE))
    # A frame belongs to the last deed that has begun.
    latest = np.maximum.accumulate(np.where(deeds | first, frames, 0))
    return np.maximum(before, frames - APPROACH)[latest]


def _something_moved(states: np.ndarray) -> np.ndarray:
    """[N] bool: since the frame before."""
    things = np.concatenate([states[:, CUBE], states[:, BUTTONS], states[:, [DRAWER, WINDOW]]], axis=1)
    return np.append(False, (np.abs(np.diff(things, axis=0)) > _MOVED).any(axis=1))
