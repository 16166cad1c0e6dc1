"""Data sets of two robots that have nothing in common but their camera, and a policy for any robot."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from vla.data.writer import Episode, EpisodeWriter
from vla.envs.robot import Robot

LENGTH, SIZE = 12, 64
# robot_type -> numbers of state and action, centre and reach of both
ROBOTS: dict[str, tuple[int, int, float, float]] = {"arm": (3, 2, 0.0, 0.1), "crane": (5, 4, 1000.0, 50.0)}


def write_robot(root: Path, robot: str, episodes: int = 6, camera: str = "top", state_dim: int | None = None) -> Path:
    """Episodes of a square that moves as the first two numbers of the state say."""
    states, actions, centre, reach = ROBOTS[robot]
    states = state_dim or states
    with EpisodeWriter(root, fps=10, cameras={camera: (SIZE, SIZE)}, state_dim=states, action_dim=actions,
                       robot_type=robot, video=False) as writer:  # fmt: skip
        for number in range(episodes):
            rng = np.random.default_rng([len(robot), number])
            way = np.linspace(*rng.uniform(-1, 1, (2, states)), LENGTH)
            writer.add_episode(Episode(
                images={camera: _pictures(way)},
                state=(centre + reach * way).astype(np.float32),
                action=(centre + reach * rng.uniform(-1, 1, (LENGTH, actions))).astype(np.float32),
                success=np.arange(LENGTH) == LENGTH - 1,
                instruction=["touch the red disc", "move the blue star"][number % 2],
            ))
    return root


def _pictures(way: np.ndarray) -> np.ndarray:
    """[T, Y, X, 3] uint8"""
    pictures = np.full((len(way), SIZE, SIZE, 3), 90, np.uint8)
    for picture, (x, y) in zip(pictures, ((way[:, :2] + 1) / 2 * (SIZE - 12)).astype(int), strict=True):
        picture[y : y + 12, x : x + 12] = [250, 30, 60]
    return pictures


class Still:
    """A policy that looks and does nothing."""

    def __init__(self, robot: Robot) -> None:
        self.robot = robot
        model = SimpleNamespace(horizon=16, history=1, diffusion=SimpleNamespace(inference_steps=1))
        self.config = SimpleNamespace(cameras={robot.camera: [32, 32]}, tasks=[], model=model)

    def parameters(self) -> list[Any]:
        return []

    def act_batch(self, observations: list[dict[str, np.ndarray]], *asked: Any) -> np.ndarray:
        assert all(observation[self.robot.image].shape == (32, 32, 3) for observation in observations)
        *_, embodiment, _ = asked
        assert embodiment == self.robot.name
        return np.zeros((len(observations), 16, len(self.robot.action_names)), np.float32)
