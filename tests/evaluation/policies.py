"""Policies without a network: they know, or don't care, what is on the table."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from vla.data.layout import ENVIRONMENT_STATE
from vla.envs.tabletop import TabletopEnv, parse_instruction
from vla.envs.tabletop.expert import expert_action
from vla.envs.tabletop.suite import TabletopSuite
from vla.envs.tabletop.world import World
from vla.evaluation.rollout import Observation
from vla.models.observe import Goal

HORIZON, STATE = 16, "observation.state"


class PeekingSuite(TabletopSuite):
    """Lets a policy see the environment's state under another name."""

    def images(self, env: TabletopEnv) -> Observation:
        return {"peek": env._observation()[ENVIRONMENT_STATE]}


class FakePolicy:
    """Stands still."""

    def __init__(self, history: int = 1, tasks: Sequence[str] = ()) -> None:
        model = SimpleNamespace(horizon=HORIZON, history=history, diffusion=SimpleNamespace(inference_steps=1))
        self.config = SimpleNamespace(cameras={"top": [64, 64]}, tasks=list(tasks), model=model)
        self.calls: list[tuple[list[Observation], list[str], list[int]]] = []
        self.explored: list[float] = []

    def parameters(self) -> list[Any]:
        return []

    def act_batch(
        self,
        observations: list[Observation],
        instructions: list[str],
        seeds: Sequence[int],
        guidance: float = 1.0,
        goals: Sequence[Goal | None] | None = None,
        candidates: int = 1,
        embodiment: str | None = None,
        explore: float = 0.0,
    ) -> np.ndarray:
        self.explored.append(explore)
        assert embodiment == "tabletop"
        self.calls.append((observations, instructions, list(seeds)))
        rows = zip(observations, instructions, seeds, strict=True)
        return np.stack([self.chunk(*row) for row in rows]).astype(np.float32)

    def chunk(self, observation: Observation, instruction: str, seed: int) -> np.ndarray:
        """[H, 3]"""
        return np.tile([0.0, 0.0, -1.0], (HORIZON, 1))


class Random(FakePolicy):
    """Strays, as its seed and what it sees say."""

    def chunk(self, observation: Observation, instruction: str, seed: int) -> np.ndarray:
        drift = np.random.default_rng(seed).uniform(-1, 1, 3) + observation[STATE][:3] - 0.5
        return np.tile(drift, (HORIZON, 1))


class Oracle(FakePolicy):
    """Plans each chunk with the scripted expert in its own copy of the world; strays where nothing is said."""

    def chunk(self, observation: Observation, instruction: str, seed: int) -> np.ndarray:
        outcome = parse_instruction(instruction)
        if outcome is None:
            return super().chunk(observation, instruction, seed)
        world, state, actions = World(observation["peek"]), observation["peek"], []
        for _ in range(HORIZON):
            actions.append(expert_action(outcome, state))
            world.step(0.07 * actions[-1][:2].astype(float), suction=bool(actions[-1][2] > 0))
            state = world.state()
        return np.stack(actions)
