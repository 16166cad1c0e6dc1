"""What simulated robots share: one camera with square pictures, named vectors, actions in [-1, 1], disturbances."""

# Shapes: T steps, A action, H = W = image size, n components.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from vla.data.layout import CAMERA_PREFIX, ENVIRONMENT_STATE, STATE

Observation = dict[str, np.ndarray]


@dataclass(frozen=True)
class Robot:
    """One in its scene, as recordings and policies know it."""

    name: str  # the embodiment
    fps: int
    camera: str
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    environment_state_names: tuple[str, ...]  # `thing.quantity` where it is a thing's
    state_range: tuple[float, float] = (-np.inf, np.inf)

    @property
    def environment_state_dim(self) -> int:
        return len(self.environment_state_names)

    @property
    def image(self) -> str:
        """The key of its picture in an observation."""
        return f"{CAMERA_PREFIX}{self.camera}"

    def layout(self, image_size: int) -> dict[str, Any]:
        """How its episodes are recorded: what `EpisodeWriter` needs to know."""
        return {
            "fps": self.fps,
            "cameras": {self.camera: (image_size, image_size)},
            "state_dim": len(self.state_names),
            "action_dim": len(self.action_names),
            "environment_state_dim": self.environment_state_dim,
            "environment_state_names": self.environment_state_names,
            "state_names": self.state_names,
            "action_names": self.action_names,
            "robot_type": self.name,
        }

    def image_size(self, cameras: Mapping[str, Sequence[int]]) -> int:
        """Pixels a side, for a policy with these cameras (name -> [Y, X]). Raises ValueError for cameras it hasn't."""
        sizes = {name: tuple(size) for name, size in cameras.items()}
        height, width = sizes.get(self.camera, (0, -1))
        if set(sizes) != {self.camera} or height != width:
            raise ValueError(
                f"{self.name} has one camera, {self.camera!r}, with square images; the policy expects {sizes}"
            )
        return height

    def pictures(self, observations: Sequence[Observation]) -> dict[str, np.ndarray]:
        """camera -> [T, H, W, 3], none where nothing was drawn."""
        if self.image not in observations[0]:
            return {}
        return {self.camera: np.stack([observation[self.image] for observation in observations])}

    @property
    def action_space(self) -> gymnasium.spaces.Box:
        return gymnasium.spaces.Box(-1, 1, (len(self.action_names),), np.float32)

    def observation_space(self, image_size: int | None) -> gymnasium.spaces.Dict:
        """With a picture of that size; None shows none."""
        box = gymnasium.spaces.Box
        vectors: dict[str, gymnasium.Space[Any]] = {
            STATE: box(*self.state_range, (len(self.state_names),), np.float32),
            ENVIRONMENT_STATE: box(-np.inf, np.inf, (self.environment_state_dim,), np.float32),
        }
        picture = {} if image_size is None else {self.image: box(0, 255, (image_size, image_size, 3), np.uint8)}
        return gymnasium.spaces.Dict({**picture, **vectors})

    def checked(self, action: np.ndarray) -> np.ndarray:
        """A copy of the action `[A]`, clipped. Raises ValueError, naming the component, for a NaN or another shape."""
        action, count = np.asarray(action, np.float64), len(self.action_names)
        if action.shape != (count,):
            raise ValueError(f"action has shape {action.shape}: give {count} numbers, ({', '.join(self.action_names)})")
        for name, value in zip(self.action_names, action, strict=True):
            if np.isnan(value):
                raise ValueError(f"action component {name!r} is NaN: check the policy's output")
        return np.clip(action, -1, 1)


class Drift:
    """A disturbance that is correlated from step to step, of standard deviation `scale` in each of `n` components."""

    def __init__(self, rng: np.random.Generator, n: int, scale: float) -> None:
        self._rng, self._scale, self._now = rng, scale, np.zeros(n)

    def next(self) -> np.ndarray:
        """`[n]`."""
        self._now = 0.7 * self._now + np.sqrt(1 - 0.7**2) * self._rng.standard_normal(len(self._now))
        return self._scale * self._now
