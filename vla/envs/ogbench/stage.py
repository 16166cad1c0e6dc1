"""The scene as a place to type prompts at: how things stand, and what became of a prompt."""

# Shapes: A action, E numbers a state, Y X pixels.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from vla.data.layout import ENVIRONMENT_STATE
from vla.envs.ogbench.instructions import parse_instruction
from vla.envs.ogbench.outcomes import OUTCOMES, Outcome, locked_out
from vla.envs.ogbench.state import ROBOT
from vla.envs.ogbench.suite import OGBenchSceneSuite
from vla.envs.robot import Observation
from vla.inference.stage import PromptError

FIRST_SCENE: Final = 1_000_000  # play and demonstrations have smaller seeds, so no policy was trained on these scenes

_SENTENCES: Final = {
    "open": "the {x} is open",
    "close": "the {x} is closed",
    "unlock": "the {x} is unlocked",
    "lock": "the {x} is locked",
    "place": "the {x} is on the {w}",
    "stow": "the {x} is in the drawer",
}


class OGBenchSceneStage:
    """See `vla.inference.stage.Stage`. Raises ValueError for cameras that the scene doesn't have."""

    robot = ROBOT

    def __init__(self, cameras: Mapping[str, Sequence[int]]) -> None:
        self._suite = OGBenchSceneSuite()
        self._env = self._suite.make_env(cameras)
        self.max_steps = self._env.max_steps
        self.reset()

    def reset(self, seed: int | None = None, prompt: str | None = None) -> None:
        options = {"outcome": parse_instruction(prompt or "")} if seed is None else None
        self._observation, _ = self._env.reset(seed=FIRST_SCENE if seed is None else seed, options=options)
        self._outcome: Outcome | None = None
        self._before = self._state

    def scene(self) -> str:
        return ", ".join(_facts(self._state))

    def begin(self, prompt: str) -> bool:
        if not prompt.strip():
            raise PromptError("the prompt is empty: say what to do, for example 'open the drawer'")
        self._outcome = parse_instruction(prompt)
        if self._outcome is not None and locked_out(self._outcome, self._state):
            raise PromptError(f"the {self._outcome.thing} is locked: try 'unlock the {self._outcome.thing}' first")
        self._before = self._state
        return self._outcome is not None

    @property
    def done(self) -> bool:
        return self._outcome is not None and bool(self._outcome.holds(self._state))

    def observe(self) -> Observation:
        return {**self._observation, **self._suite.images(self._env)}

    def step(self, action: np.ndarray) -> None:
        self._observation, *_ = self._env.step(action)

    def picture(self, size: int) -> np.ndarray:
        return self._env.image(size)

    def verdict(self) -> str:
        if self._outcome is not None and self._outcome.holds(self._before):
            return f"it was so already: {_sentence(self._outcome)}"
        if self._outcome is not None and self.done:
            return f"done: {_sentence(self._outcome)}"
        before = _facts(self._before)
        new = [fact for fact in _facts(self._state) if fact not in before]
        became = f"now {', '.join(new)}" if new else "all is as it was"
        return became if self._outcome is None else f"not done; {became}"

    @property
    def _state(self) -> np.ndarray:
        return self._observation[ENVIRONMENT_STATE]


def _facts(state: np.ndarray) -> list[str]:
    """Every outcome that holds in `state [E]`, as a statement."""
    return [_sentence(outcome) for outcome in OUTCOMES if outcome.holds(state)]


def _sentence(outcome: Outcome) -> str:
    return _SENTENCES[outcome.family].format(x=outcome.thing, w=outcome.where)
