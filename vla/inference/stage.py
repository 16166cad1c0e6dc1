"""Where prompts are typed and followed: one scene, one prompt after another.

Shapes: A action, Y X pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Protocol

import numpy as np

from vla.envs.robot import Observation, Robot


class PromptError(ValueError):
    """A prompt that can't be followed here. The message says why and what could be."""


class Stage(Protocol):
    """A simulated scene in words and pictures."""

    max_steps: int  # actions after which a prompt is given up
    robot: Robot  # that acts in it

    def reset(self, seed: int | None = None, prompt: str | None = None) -> None:
        """The scene of the seed; without one, the first scene in which the prompt can be followed."""

    def scene(self) -> str:
        """What there is, in words."""

    def begin(self, prompt: str) -> bool:
        """From now on the prompt is what is being done; says whether it is a familiar kind of instruction.

        Raises:
            PromptError: it is empty, or about something that isn't there.
        """

    @property
    def done(self) -> bool:
        """Whether what the prompt asks for is so. Never for an unfamiliar prompt: nobody can tell."""

    def observe(self) -> Observation:
        """What the policy sees."""

    def step(self, action: np.ndarray) -> None:
        """Play one action `[A]`."""

    def picture(self, size: int) -> np.ndarray:
        """The scene for people: uint8 `[Y, X, 3]`, `size` pixels high."""

    def verdict(self) -> str:
        """What has happened since the prompt, in words."""


# Environments with a stage, imported when asked for.
STAGES = {
    "tabletop": "vla.envs.tabletop.stage:TabletopStage",
    "ogbench-scene": "vla.envs.ogbench.stage:OGBenchSceneStage",
    "metaworld-mt10": "vla.envs.metaworld.stage:MT10Stage",
    "metaworld-mt50": "vla.envs.metaworld.stage:MT50Stage",
}


def make_stage(name: str, cameras: Mapping[str, Sequence[int]]) -> Stage:
    """The stage of an environment, with the cameras (name -> [Y, X]) that a policy sees.

    Raises:
        ValueError: an unknown environment, or one without such cameras.
    """
    if name not in STAGES:
        raise ValueError(f"environment {name!r} is unknown: use one of {', '.join(STAGES)}")
    module, _, kind = STAGES[name].partition(":")
    return getattr(import_module(module), kind)(cameras)
