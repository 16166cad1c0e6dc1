"""Keyframes: where something is taken or let go, and where a segment ends (James & Davison 2022).

They are the places that a motion leads to, so a policy that has to say where they are must find what its instruction
names.

Shapes: n frames, e episodes, A action, m switches, b queries, W keyframes.
"""

from __future__ import annotations

import numpy as np

AT_REST = 0.95  # share of frames in which a component must be at one of its two positions to be a switch
NEAR = 0.1  # of the way from one position to the other still counts as there
STILL = 0.02  # share of its reach in the data set within which a component counts as not moved in an episode


def switch_frames(actions: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Frames [m] at which a component of `actions` [n, A] that knows two positions (a gripper) goes to the other.

    Which two may differ between episodes: some things are to be held less tightly.

    Args:
        starts: first frames of the episodes [e], which follow on each other.
    """
    lengths = np.diff(np.append(starts, len(actions)))
    low = np.repeat(np.minimum.reduceat(actions, starts), lengths, axis=0)
    way = np.repeat(np.maximum.reduceat(actions, starts), lengths, axis=0) - low
    moves = way > STILL * np.ptp(actions, axis=0)
    position = np.divide(actions - low, way, out=np.zeros_like(actions), where=moves)  # in [0, 1]
    at_rest = (np.abs(position - 0.5) >= 0.5 - NEAR).mean(axis=0)
    on = position[:, at_rest >= AT_REST] > 0.5
    return np.flatnonzero((on[1:] != on[:-1]).any(axis=1)) + 1


def next_keyframes(switches: np.ndarray, frame: np.ndarray, last: np.ndarray, count: int) -> np.ndarray:
    """The `count` keyframes [b, W] after `frame` [b] in segments whose last frames are `last` [b].

    Those are the segment's switches in order, then its last frame as often as there are too few.
    """
    after = np.searchsorted(switches, frame, side="right")[:, None] + np.arange(count)
    endless = np.append(switches, np.iinfo(np.int64).max)
    return np.minimum(endless[np.minimum(after, len(switches))], last[:, None])
