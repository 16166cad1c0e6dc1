"""Play: an expert that pursues one purpose after the other, and nobody writes down which. Hindsight finds out."""

# Shapes: T steps, E numbers a state.

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from vla.data.layout import ENVIRONMENT_STATE
from vla.envs.tabletop.env import TabletopEnv
from vla.envs.tabletop.expert import EpisodeArrays, expert_action, record
from vla.envs.tabletop.outcomes import BASE_FAMILIES, Outcome, draw_outcome

INSTRUCTION: Final = "play with the things on the table"
PURPOSE_STEPS: Final = 60  # an unreached purpose is given up after so many


def play(
    env: TabletopEnv,
    seed: int,
    purposes: int,
    families: Sequence[str] = BASE_FAMILIES,
    allowed: Callable[[Outcome], bool] | None = None,
) -> EpisodeArrays:
    """One episode of so many purposes on one table, a pure function of its arguments. Its success is never claimed.

    Purposes come from the families with equal chance, among what is feasible and `allowed` at the time.
    """
    rng = np.random.default_rng([seed, 6])
    observation, _ = env.reset(seed=seed, options={"families": families, "allowed": allowed})
    observations, actions = [observation], []
    for _ in range(purposes):
        purpose = draw_outcome(observation[ENVIRONMENT_STATE], families, allowed, rng)
        for _ in range(PURPOSE_STEPS):
            if purpose is None or purpose.holds(observation[ENVIRONMENT_STATE]):
                break
            actions.append(expert_action(purpose, observation[ENVIRONMENT_STATE]))
            observation, *_ = env.step(actions[-1])
            observations.append(observation)
    actions.append(np.array([0, 0, -1], np.float32))  # the last state is seen, with the arm at rest
    return record(observations, actions, [False] * len(actions), INSTRUCTION, None, "play")
