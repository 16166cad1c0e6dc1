"""The scene as a place to type prompts at: how things stand, and what became of a prompt."""

# Shapes: E numbers a state.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from vla.envs.ogbench.instructions import parse_instruction
from vla.envs.ogbench.outcomes import OUTCOMES, Outcome, locked_out
from vla.envs.ogbench.state import ROBOT
from vla.envs.ogbench.suite import OGBenchSceneSuite
from vla.envs.stage import SceneStage
from vla.inference.stage import PromptError

_SENTENCES: Final = {
    "open": "the {x} is open",
    "close": "the {x} is closed",
    "unlock": "the {x} is unlocked",
    "lock": "the {x} is locked",
    "place": "the {x} is on the {w}",
    "stow": "the {x} is in the drawer",
}


class OGBenchSceneStage(SceneStage):
    """See `vla.inference.stage.Stage`. Raises ValueError for cameras that the scene doesn't have."""

    robot = ROBOT

    def __init__(self, cameras: Mapping[str, Sequence[int]]) -> None:
        super().__init__(OGBenchSceneSuite(), cameras)
        self.max_steps = self._env.max_steps
        self.reset()

    def reset(self, seed: int | None = None, prompt: str | None = None) -> None:
        options = {"outcome": parse_instruction(prompt or "")} if seed is None else None
        self._show(seed, options)
        self._outcome: Outcome | None = None

    def scene(self) -> str:
        return ", ".join(_facts(self._state))

    def begin(self, prompt: str) -> bool:
        if not prompt.strip():
            raise PromptError("the prompt is empty: say what to do, for example 'open the drawer'")
        self._outcome = parse_instruction(prompt)
        if self._outcome is not None and locked_out(self._outcome, self._state):
            raise PromptError(f"the {self._outcome.thing} is locked: try 'unlock the {self._outcome.thing}' first")
        self._begin_anew()
        return self._outcome is not None

    @property
    def done(self) -> bool:
        return self._outcome is not None and bool(self._outcome.holds(self._state))

    def verdict(self) -> str:
        if self._outcome is not None and self._outcome.holds(self._states[0]):
            return f"it was so already: {_sentence(self._outcome)}"
        if self._outcome is not None and self.done:
            return f"done: {_sentence(self._outcome)}"
        before = _facts(self._states[0])
        new = [fact for fact in _facts(self._state) if fact not in before]
        became = f"now {', '.join(new)}" if new else "all is as it was"
        return became if self._outcome is None else f"not done; {became}"


def _facts(state: np.ndarray) -> list[str]:
    """Every outcome that holds in `state [E]`, as a statement."""
    return [_sentence(outcome) for outcome in OUTCOMES if outcome.holds(state)]


def _sentence(outcome: Outcome) -> str:
    return _SENTENCES[outcome.family].format(x=outcome.thing, w=outcome.where)
