"""What a policy did, kept as a data set: successes and failures alike, for hindsight to learn from.

Shapes: N states of an episode (the first included), A action.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vla.data.episodes import EpisodeDataset
from vla.data.segments import ATTEMPT
from vla.data.writer import Episode, EpisodeWriter
from vla.evaluation.rollout import Combinations, Policy, Progress, Rollout, Suite, rollout

GROUP = 100  # episodes committed together
SEED = 500_000  # of the first scene: neither those that evaluation uses nor, mostly, those of demonstrations


def harvest(
    policy: Policy,
    suite: Suite,
    out: Path,
    episodes: int,
    families: Sequence[str] | None = None,
    *,
    combinations: Combinations = "train",
    execute: int = 8,
    explore: float = 0.0,
    seed: int = SEED,
    progress: Progress = lambda done, total: None,
) -> EpisodeDataset:
    """Roll the policy out on the right prompts of so many scenes and record what it did into `out`.

    With a chance of `explore` a chunk goes for something else that the policy thinks possible (`VLAPolicy.act_batch`):
    of a policy that always does what it likes best, no critic learns what the rest is worth.
    Each episode is a pure function of the policy and the scene; an unfinished recording is gone on with. Raises
    ValueError for a chance that is none.
    """
    if not 0 <= explore <= 1:
        raise ValueError(f"explore is {explore}, it is a chance between 0 and 1")
    cameras = policy.config.cameras
    cases = suite.cases("right", episodes, families, seed, combinations)
    with EpisodeWriter(out, episodes_per_file=GROUP, **suite.robot.layout(suite.robot.image_size(cameras))) as writer:
        while writer.num_episodes < episodes:
            begun = writer.num_episodes
            for run in rollout(policy, suite, cases[begun : begun + GROUP], execute=execute, explore=explore):
                writer.add_episode(_episode(run, suite, cameras))
            progress(writer.num_episodes, episodes)
    return EpisodeDataset(out)


def _episode(run: Rollout, suite: Suite, cameras: Mapping[str, Sequence[int]]) -> Episode:
    """All N states, the last with the action before it once more: what that led to must be seen to be believed."""
    reached = np.logical_or.accumulate(suite.achieved(run.case.outcome, run.states)[1:])
    return Episode(
        images=suite.views(run.states, cameras),
        state=run.robot,
        action=np.concatenate([run.actions, run.actions[-1:]]),
        success=np.append(reached, reached[-1:]),
        instruction=run.case.instruction,
        environment_state=run.states,
        task=run.case.family,
        outcome=run.case.outcome,
        source=ATTEMPT,
    )
