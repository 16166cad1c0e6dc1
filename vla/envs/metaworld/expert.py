"""Meta-World's scripted experts, and the episodes they record."""

# Shapes: T steps, A action.

from __future__ import annotations

import warnings
from typing import Any, Final, cast

import numpy as np
from metaworld.policies import ENV_POLICY_MAP

from vla.data.layout import ENVIRONMENT_STATE, STATE
from vla.data.writer import Episode
from vla.envs.metaworld.env import MetaWorldEnv
from vla.envs.robot import Observation

_EXTRA_STEPS: Final = 5  # after success, so that what leads there isn't cut short
_FALSE_START_STEPS: Final = (5, 40)  # at least and fewer than

# The experts ask for more than the largest motion and say so once; environments clip it.
warnings.filterwarnings("ignore", message=r"Constant\(s\) may be too high")


def rollout(env: MetaWorldEnv, seed: int, options: dict[str, Any] | None = None, false_start: bool = False) -> Episode:
    """One episode of the task's expert until shortly after success, a pure function of its arguments; nothing is drawn.

    After a `false_start` the record begins with the hand on its way to somewhere else.
    """
    observation, info = env.reset(seed=seed, options=options)
    if false_start:
        observation = _false_start(env, observation, np.random.default_rng([seed, 4]))
    expert = cast(Any, ENV_POLICY_MAP[f"{info['family']}-v3"])()
    observations: list[Observation] = [observation]
    actions: list[np.ndarray] = []
    success: list[bool] = []
    truncated = False
    while not truncated and sum(success) <= _EXTRA_STEPS:
        wanted = expert.get_action(env.simulator.observation)
        actions.append(np.clip(wanted, -1, 1).astype(np.float32))
        observation, _, succeeded, truncated, _ = env.step(actions[-1])
        success.append(succeeded or any(success))
        observations.append(observation)
    # What the last action led to must be seen, or its success could not be checked.
    return Episode(
        images={},
        state=np.stack([o[STATE] for o in observations]),
        environment_state=np.stack([o[ENVIRONMENT_STATE] for o in observations]),
        action=np.stack([*actions, actions[-1]]),
        success=np.array([*success, success[-1]]),
        instruction=info["instruction"],
        task=info["family"],
        outcome=info["family"],
    )


def _false_start(env: MetaWorldEnv, observation: Observation, rng: np.random.Generator) -> Observation:
    """Move the hand towards a place drawn at random, and stop somewhere on the way: what is then seen."""
    place = rng.uniform(*env.simulator.workspace)
    grip = rng.choice([-1.0, 1.0])
    for _ in range(rng.integers(*_FALSE_START_STEPS)):
        towards = np.clip(10 * (place - observation[STATE][:3]), -1, 1)
        observation, _, succeeded, _, info = env.step(np.append(towards, grip))
        if succeeded:  # it is to be demonstrated, not found done
            return env.reset(seed=env.simulator.scene, options={"family": info["family"]})[0]
    return observation
