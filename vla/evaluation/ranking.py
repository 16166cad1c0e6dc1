"""Does the critic know success from failure? Recorded attempts that it never saw are put in the order of their worth.

Shapes: n observations, H horizon, A action, P successes, F failures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from vla.data.episodes import EpisodeDataset
from vla.data.observations import recorded_observation
from vla.data.segments import Segments
from vla.evaluation.statistics import Z95
from vla.models.policy import VLAPolicy

GROUP = 64  # observations judged at once

Progress = Callable[[int, int], None]  # (finished, all) segments


@dataclass(frozen=True)
class Ranking:
    """How well worth tells successes from failures."""

    auc: float  # chance that a success is worth more than a failure
    ci95: tuple[float, float]
    successes: int
    failures: int
    worth: np.ndarray  # [P + F], of the successes first


def rank(
    policy: VLAPolicy, dataset: EpisodeDataset, stride: int = 1, progress: Progress = lambda done, total: None
) -> Ranking:
    """Judge every recorded attempt by the mean Q of its chunks, taken every `stride` frames.

    Raises:
        ValueError: the policy has no critic, or the data set no failure or no success.
    """
    if policy.critic is None:
        raise ValueError("the policy has no critic; train one with model.critic")
    policy.check_layout(dataset.cameras, dataset.state_dim, dataset.action_dim, dataset.fps, dataset.embodiment)
    segments = Segments.load(dataset)
    segments = segments.select(segments.recorded)
    if segments.success.all() or not segments.success.any():
        missing = "failure" if segments.success.all() else "success"
        raise ValueError(f"{dataset.root}: no {missing} among its {len(segments)} attempts, so nothing to rank")
    worth = np.empty(len(segments))
    for row in range(len(segments)):
        frames = np.arange(segments.start[row], segments.stop[row], stride)
        last = int(segments.stop[row]) - 1
        values = [_quality(policy, dataset, group, last, segments.instruction[row])
                  for group in np.array_split(frames, -(-len(frames) // GROUP))]  # fmt: skip
        worth[row] = np.concatenate(values).mean()
        progress(row + 1, len(segments))
    good, bad = worth[segments.success], worth[~segments.success]
    area = auc(good, bad)
    return Ranking(area, auc_interval(area, len(good), len(bad)), len(good), len(bad), np.concatenate([good, bad]))


def auc(good: np.ndarray, bad: np.ndarray) -> float:
    """Chance that one of `good` [P] is more than one of `bad` [F]; ties count half (Mann & Whitney 1947)."""
    difference = good[:, None] - bad
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def auc_interval(area: float, good: int, bad: int) -> tuple[float, float]:
    """The 95 % interval of an AUC from so many of each (Hanley & McNeil 1982)."""
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (good - 1) * (first - area**2) + (bad - 1) * (second - area**2)
    reach = Z95 * (max(spread, 0.0) / (good * bad)) ** 0.5
    return max(area - reach, 0.0), min(area + reach, 1.0)


@torch.no_grad()
def _quality(
    policy: VLAPolicy, dataset: EpisodeDataset, frames: np.ndarray, last: int, instruction: str
) -> np.ndarray:
    """Q [n] of what was done from `frames` [n] on in an attempt that ended with frame `last`."""
    history, horizon = policy.config.model.history, policy.config.model.horizon
    observation = recorded_observation(dataset, frames, [instruction] * len(frames), history)
    chunk = np.minimum(frames[:, None] + np.arange(horizon), last)
    actions = torch.from_numpy(dataset.action(chunk.ravel()).reshape(*chunk.shape, -1))
    assert policy.critic is not None
    context = policy.read(observation.to(policy.device))
    chunks = policy.normalize_action[context.embodiment](actions.to(policy.device))
    return policy.critic.quality(context, chunks[:, None])[:, 0].cpu().numpy()
