"""Meta-World as a place to type prompts at: the prompt says which task's scene it is."""

# Shapes: A action, N states since the prompt, Y X pixels.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from vla.data.layout import ENVIRONMENT_STATE
from vla.envs.metaworld.state import ROBOT
from vla.envs.metaworld.suite import MT10Suite, MT50Suite
from vla.envs.robot import Observation
from vla.inference.stage import PromptError

FIRST_SCENE: Final = 1_000_000  # recorded demonstrations have smaller seeds, so no policy was trained on these scenes


class MT50Stage:
    """See `vla.inference.stage.Stage`. Raises ValueError for cameras that Meta-World doesn't have."""

    robot = ROBOT
    suite: type[MT50Suite] = MT50Suite

    def __init__(self, cameras: Mapping[str, Sequence[int]]) -> None:
        self._suite = self.suite()
        self._env = self._suite.make_env(cameras)
        self.max_steps = self._env.protocol.max_steps
        texts = {task: self._env.protocol.instruction(task) for task in self._suite.families}
        self._meanings = {_plain(text): task for task, text in texts.items()}
        self.reset()

    def reset(self, seed: int | None = None, prompt: str | None = None) -> None:
        options = {"family": self._meanings.get(_plain(prompt or ""))}
        self._observation, _ = self._env.reset(seed=FIRST_SCENE if seed is None else seed, options=options)
        self._familiar, self._succeeded = False, False
        self._states = [self._state]  # N of [E], since the prompt

    def scene(self) -> str:
        return f"{self._task}, made for {self._env.instruction!r}"

    def begin(self, prompt: str) -> bool:
        if not prompt.strip():
            raise PromptError(f"the prompt is empty: say what to do, for example {self._env.instruction!r}")
        meant = self._meanings.get(_plain(prompt))
        if meant not in (None, self._task):
            raise PromptError(f"there is no {meant} here but {self.scene()}; start anew with that prompt for its scene")
        self._familiar, self._succeeded = meant is not None, False
        self._states = [self._state]
        return self._familiar

    @property
    def done(self) -> bool:
        return self._familiar and self._succeeded

    def observe(self) -> Observation:
        return {**self._observation, **self._suite.images(self._env)}

    def step(self, action: np.ndarray) -> None:
        self._observation, _, self._succeeded, _, _ = self._env.step(action)
        self._states.append(self._state)

    def picture(self, size: int) -> np.ndarray:
        return self._env.image(size)

    def verdict(self) -> str:
        if self.done:
            return f"done: {self._env.instruction}"
        failure = self._suite.failure(self._task, np.stack(self._states))
        deed = "moved nothing" if failure.kind == "nothing" else "moved what is there"
        return f"not done; it {deed}" if self._familiar else f"it {deed}"

    @property
    def _task(self) -> str:
        return self._env.simulator.task

    @property
    def _state(self) -> np.ndarray:
        return self._observation[ENVIRONMENT_STATE]


class MT10Stage(MT50Stage):
    suite = MT10Suite


def _plain(text: str) -> str:
    """Case, surrounding space and a final full stop do not matter."""
    return text.strip().rstrip(".").lower()
