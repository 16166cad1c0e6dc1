"""What the simulated stages share: a scene of a suite, and what has happened in it since the prompt."""

# Shapes: A action, E numbers a state, N states since the prompt, Y X pixels.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from vla.data.layout import ENVIRONMENT_STATE
from vla.envs.robot import Observation

FIRST_SCENE: Final = 1_000_000  # what is recorded has smaller seeds, so no policy was trained on these scenes


class SceneStage:
    """The part of `vla.inference.stage.Stage` that doesn't depend on what the scene is about."""

    def __init__(self, suite: Any, cameras: Mapping[str, Sequence[int]]) -> None:
        self._suite, self._env = suite, suite.make_env(cameras)

    def observe(self) -> Observation:
        return {**self._observation, **self._suite.images(self._env)}

    def step(self, action: np.ndarray) -> None:
        self._observation, _, self._succeeded, *_ = self._env.step(action)
        self._states.append(self._state)

    def picture(self, size: int) -> np.ndarray:
        return self._env.image(size)

    def _show(self, seed: int | None, options: dict[str, Any] | None) -> None:
        """The scene of the seed, by default the first one that the options allow."""
        self._observation, _ = self._env.reset(seed=FIRST_SCENE if seed is None else seed, options=options)
        self._begin_anew()

    def _begin_anew(self) -> None:
        """A prompt begins: what was before doesn't count."""
        self._succeeded = False
        self._states = [self._state]  # N of [E]

    @property
    def _state(self) -> np.ndarray:
        return self._observation[ENVIRONMENT_STATE]
