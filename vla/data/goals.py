"""Goals that are drawn in hindsight from what a trajectory reached later (HER, Andrychowicz et al. 2017).

Shapes: b queries, k goals for each, G numbers of a goal, n segments of one episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Strategy = Literal["final", "future", "geometric"]
RewardKind = Literal["sparse", "dense"]


def draw_goals(
    frame: np.ndarray,
    last: np.ndarray,
    strategy: Strategy,
    uniform: np.ndarray,
    discount: float = 0.98,
) -> np.ndarray:
    """Frames that are goals for `frame` [b], none before it and none after `last` [b]: [b, k].

    Args:
        strategy: `final` takes `last` itself; `future` any later frame with equal chance; `geometric` one that is `n`
            frames later with a chance in proportion to `discount^n` (a goal's discounted state occupancy, Eysenbach et
            al. 2022). A frame that is its trajectory's last is its own goal.
        uniform: [b, k] in [0, 1), what chance there is.

    Raises:
        ValueError: a frame after the last one, a discount outside (0, 1), or an unknown strategy.
    """
    left = (last - frame)[:, None]
    if (left < 0).any():
        row = int(np.flatnonzero(left < 0)[0])
        raise ValueError(f"frame {frame[row]} lies after {last[row]}, the last one a goal could come from")
    if strategy == "final":
        ahead = np.broadcast_to(left, uniform.shape)
    elif strategy == "future":
        ahead = 1 + np.floor(uniform * left)
    elif strategy == "geometric":
        if not 0 < discount < 1:
            raise ValueError(f"discount is {discount}; a geometric draw needs one between 0 and 1")
        # The inverse of the distribution function of n = 1 ... left.
        ahead = np.ceil(np.log1p(-uniform * (1 - discount**left)) / np.log(discount)).clip(min=1)
    else:
        raise ValueError(f"strategy {strategy!r} is unknown: use final, future or geometric")
    return frame[:, None] + np.minimum(ahead, left).astype(np.int64)


def lasting_ends(
    first: np.ndarray, last: np.ndarray, states: np.ndarray, things: Sequence[Sequence[int]], tolerance: float = 0.05
) -> list[np.ndarray]:
    """For each segment of an episode the frames, [1 or more] sorted, that end it or a later one and still show all that
    it changed as it left it.

    Towards such a frame a segment was worth doing, whatever was done in between; what is undone again was a detour.

    Args:
        first, last: [n] frames of the episode with which the segments begin and end.
        states: [frames, G] of the episode. things: which numbers of a state tell of each thing.
        tolerance: a thing whose numbers are further apart (Euclidean distance, units of the states) has changed.
    """
    ends = np.unique(last)

    def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """[..., things] bool."""
        same = [goal_reward(before[..., own], after[..., own], tolerance=tolerance)[1] for own in map(list, things)]
        return ~np.stack(same, axis=-1)

    done = changed(states[first], states[last])  # [n, things]
    undone = changed(states[last][:, None], states[ends])  # [n, ends, things]
    lasts = ~(undone & done[:, None]).any(axis=-1) & done.any(axis=-1, keepdims=True) & (ends >= last[:, None])
    return [ends[lasts[row] | (ends == last[row])] for row in range(len(last))]


def goal_reward(
    state: np.ndarray, goal: np.ndarray, kind: RewardKind = "sparse", tolerance: float = 0.05
) -> tuple[np.ndarray, np.ndarray]:
    """(reward, done) [...] of being in `state` [..., G] when `goal` [..., G] was asked for; units of the states.

    Sparse rewards are 1 within `tolerance` (Euclidean distance) and else 0, dense ones minus the distance. Either way
    what was asked for is done within the tolerance, whatever the recording was done for.
    """
    distance = np.linalg.norm(np.asarray(state, np.float64) - goal, axis=-1)
    done = distance <= tolerance
    return (done.astype(np.float32) if kind == "sparse" else -distance.astype(np.float32)), done
