"""Play: the oracles pursue one purpose after the other, and nobody writes down which. Hindsight finds out."""

# Shapes: E numbers a state.

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from vla.data.layout import ENVIRONMENT_STATE
from vla.data.writer import Episode
from vla.envs.ogbench.env import OGBenchSceneEnv
from vla.envs.ogbench.expert import IN_VAIN, Expert, record
from vla.envs.ogbench.outcomes import BASE_FAMILIES, OUTCOMES, all_outcomes, locked_out
from vla.tasks.outcomes import draw_evenly

INSTRUCTION: Final = "play with the things in the scene"
_LOCKED_SHARE: Final = 0.1  # of purposes are to move what is locked, where anything is


def play(env: OGBenchSceneEnv, seed: int, purposes: int, families: Sequence[str] = BASE_FAMILIES) -> Episode:
    """One episode of so many purposes in one scene, a pure function of its arguments. Its success is never claimed.

    Purposes come from the families with equal chance, among what is feasible at the time.
    """
    rng = np.random.default_rng([seed, 6])
    observation, _ = env.reset(seed=seed, options={"families": families})
    observations, actions = [observation], []
    for _ in range(purposes):
        state = observation[ENVIRONMENT_STATE]
        stuck = [o for o in OUTCOMES if o.family in families and locked_out(o, state)]
        in_vain = bool(stuck) and rng.random() < _LOCKED_SHARE
        purpose = draw_evenly(stuck if in_vain else all_outcomes(state, families), rng)
        if purpose is None:
            break
        expert, steps = Expert(purpose, env.simulator, rng), 0
        while not expert.finished and (steps < IN_VAIN or not in_vain):
            actions.append(expert.act())
            observation, *_ = env.step(actions[-1])
            observations.append(observation)
            steps += 1
    actions.append(np.zeros_like(actions[-1]))  # the last state is seen
    return record(observations, actions, [False] * len(actions), INSTRUCTION, None)
