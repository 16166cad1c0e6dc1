"""Plays action chunks one action at a time and predicts anew in time: receding-horizon control for one robot.

Shapes: T history, H horizon, A action, S state, Y X pixels.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

import numpy as np

Observation = dict[str, np.ndarray]

STATE = "observation.state"
CAMERA_PREFIX = "observation.images."


class Policy(Protocol):
    """What is needed of `vla.models.policy.VLAPolicy`."""

    @property
    def config(self) -> Any:
        """Has `model.history` (T) and `model.horizon` (H)."""

    def act(self, observation: Observation, instruction: str, seed: int = 0, guidance: float = 1.0, *,
            embodiment: str | None = None) -> np.ndarray:
        """An action chunk `[H, A]` in the embodiment's units."""


class ChunkExecutor:
    """Turns a policy that predicts chunks into one that gives the next action.

    Of every chunk the first `execute` actions are played, then the policy looks again. A new instruction drops what is
    left of the chunk at once; `reset()` also forgets the past observations.

    Args:
        execute: actions played of each chunk, at most the policy's horizon.
        guidance: classifier-free guidance scale; 1 is none.
        seed: of the diffusion noise. The n-th prediction after a reset is a function of it, n and the observation.
        embodiment: the robot that acts; by default the only one that the policy was trained with.

    Raises:
        ValueError: `execute` is not between 1 and the horizon.
    """

    def __init__(
        self, policy: Policy, execute: int, guidance: float = 1.0, seed: int = 0, embodiment: str | None = None
    ) -> None:
        horizon = policy.config.model.horizon
        if not 1 <= execute <= horizon:
            raise ValueError(f"execute is {execute}; the policy predicts {horizon} actions, so choose 1 to {horizon}")
        self._policy, self._execute, self._guidance, self._seed = policy, execute, guidance, seed
        self._embodiment = embodiment
        self._past: deque[Observation] = deque(maxlen=policy.config.model.history)
        self._instruction: str | None = None
        self._chunk: deque[np.ndarray] = deque()
        self._predictions = 0

    def act(self, observation: Observation, instruction: str) -> np.ndarray:
        """The next action `[A]`, robot units.

        Args:
            observation: `observation.images.CAMERA` uint8 [Y, X, 3] for each camera and `observation.state` [S]; other
                entries are ignored. Call once every control step, so that the history has no gaps.

        Raises:
            ObservationError: (from the policy, when it predicts) the observation doesn't fit it or isn't finite.
        """
        self._past.append({key: observation[key] for key in observation if _is_seen(key)})
        if instruction != self._instruction:
            self._instruction = instruction
            self._chunk.clear()
        if not self._chunk:
            self._chunk.extend(self._predict(instruction))
        return self._chunk.popleft()

    def reset(self) -> None:
        """Begin anew: no chunk, no history."""
        self._past.clear()
        self._chunk.clear()
        self._instruction = None
        self._predictions = 0

    def _predict(self, instruction: str) -> np.ndarray:
        """The part `[execute, A]` of a new chunk that will be played."""
        seed = self._seed + self._predictions
        chunk = self._policy.act(
            self._history(), instruction, seed=seed, guidance=self._guidance, embodiment=self._embodiment
        )
        self._predictions += 1
        return chunk[: self._execute]

    def _history(self) -> Observation:
        """The last T observations stacked, oldest first (fewer after a reset); without the axis for a T of 1."""
        if self._past.maxlen == 1:
            return self._past[0]
        return {key: np.stack([past[key] for past in self._past]) for key in self._past[-1]}


def _is_seen(key: str) -> bool:
    return key == STATE or key.startswith(CAMERA_PREFIX)
