"""Meta-World as a place to type prompts at: the prompt says which task's scene it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vla.envs.metaworld.state import ROBOT
from vla.envs.metaworld.suite import MT10Suite, MT50Suite
from vla.envs.stage import SceneStage
from vla.inference.stage import PromptError


class MT50Stage(SceneStage):
    """See `vla.inference.stage.Stage`. Raises ValueError for cameras that Meta-World doesn't have."""

    robot = ROBOT
    suite: type[MT50Suite] = MT50Suite

    def __init__(self, cameras: Mapping[str, Sequence[int]]) -> None:
        super().__init__(self.suite(), cameras)
        self.max_steps = self._env.protocol.max_steps
        texts = {task: self._env.protocol.instruction(task) for task in self._suite.families}
        self._meanings = {_plain(text): task for task, text in texts.items()}
        self.reset()

    def reset(self, seed: int | None = None, prompt: str | None = None) -> None:
        self._show(seed, {"family": self._meanings.get(_plain(prompt or ""))})
        self._familiar = False

    def scene(self) -> str:
        return f"{self._task}, made for {self._env.instruction!r}"

    def begin(self, prompt: str) -> bool:
        if not prompt.strip():
            raise PromptError(f"the prompt is empty: say what to do, for example {self._env.instruction!r}")
        meant = self._meanings.get(_plain(prompt))
        if meant not in (None, self._task):
            raise PromptError(f"there is no {meant} here but {self.scene()}; start anew with that prompt for its scene")
        self._familiar = meant is not None
        self._begin_anew()
        return self._familiar

    @property
    def done(self) -> bool:
        return self._familiar and self._succeeded

    def verdict(self) -> str:
        if self.done:
            return f"done: {self._env.instruction}"
        failure = self._suite.failure(self._task, np.stack(self._states))
        deed = "moved nothing" if failure.kind == "nothing" else "moved what is there"
        return f"not done; it {deed}" if self._familiar else f"it {deed}"

    @property
    def _task(self) -> str:
        return self._env.simulator.task


class MT10Stage(MT50Stage):
    suite = MT10Suite


def _plain(text: str) -> str:
    """Case, surrounding space and a final full stop do not matter."""
    return text.strip().rstrip(".").lower()
