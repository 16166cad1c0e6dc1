"""One of Meta-World's tasks with its instruction. Registered as `vla/MetaWorld-v0`."""

# Shapes: E numbers in the environment state, S robot state, A action, H = W = image size.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from vla.data.layout import ENVIRONMENT_STATE, STATE
from vla.envs.metaworld.protocol import Protocol
from vla.envs.metaworld.render import render
from vla.envs.metaworld.simulator import Simulator
from vla.envs.metaworld.state import ROBOT, SCENES
from vla.envs.metaworld.tasks import MT50, NUMBER
from vla.envs.robot import Drift, Observation


class MetaWorldEnv(gymnasium.Env[Observation, np.ndarray]):
    """A Sawyer arm and one task, another one after every reset.

    Observations:
    - `observation.images.corner2`: uint8 [H, W, 3]; absent with `render_observations=False` (`image()` draws on demand)
    - `observation.state`: float32 [S], what the robot feels: `vla.envs.metaworld.state.ROBOT`
    - `observation.environment_state`: float32 [E], laid out as `vla.envs.metaworld.state` says

    Actions: float32 [A], `ROBOT.action_names`, clipped to [-1, 1]. The reward is 1 where Meta-World says that the task
    is done after the step, which ends the episode; stepping on is allowed.

    Option of `reset`: `family`, the name of the task; by default one of `tasks` is drawn. Task, scene and disturbances
    are pure functions of the seed and this.

    `actuation_noise` is the standard deviation of a disturbance of the hand's executed motion in shares of the largest
    one, correlated in time, so that demonstrations visit states off the ideal path.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": ROBOT.fps}  # noqa: RUF012 (gymnasium's interface)

    def __init__(
        self,
        *,
        tasks: Sequence[str] = MT50,
        protocol: Protocol | None = None,
        actuation_noise: float = 0.0,
        render_observations: bool = True,
        render_mode: str | None = None,
    ) -> None:
        self.tasks, self.protocol, self.actuation_noise = tuple(tasks), protocol or Protocol(), actuation_noise
        self.render_observations, self.render_mode = render_observations, render_mode
        self._simulator: Simulator | None = None
        self.action_space = ROBOT.action_space
        self.observation_space: gymnasium.spaces.Dict = ROBOT.observation_space(  # type: ignore[assignment]
            self.protocol.image_size if render_observations else None
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A new scene. Raises ValueError for an unknown option or task, or a seed beyond 2**24."""
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(SCENES))
        options = {key: value for key, value in (options or {}).items() if value is not None}
        unknown = options.keys() - {"family"}
        if unknown:
            raise ValueError(f"reset option {sorted(unknown)[0]!r} is unknown: see MetaWorldEnv")
        family = options.get("family") or str(np.random.default_rng([seed, 0]).choice(self.tasks))
        if family not in NUMBER:
            raise ValueError(f"family {family!r} is unknown: Meta-World has {', '.join(MT50)}")
        if self._simulator is None or self._simulator.task != family:
            self._simulator = Simulator(family)
        self._simulator.reset(seed)
        self.instruction = self.protocol.instruction(family)
        self._disturbance = Drift(np.random.default_rng([seed, 3]), 3, self.actuation_noise)
        self._steps = 0
        return self._observation(), self._info()

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Raises ValueError, naming the component, for an action with a NaN; clips what is out of range."""
        executed = ROBOT.checked(action)
        executed[:3] += self._disturbance.next()
        self.simulator.step(np.clip(executed, -1, 1))
        self._steps += 1
        info = self._info()
        truncated = self._steps >= self.protocol.max_steps
        return self._observation(), float(info["success"]), info["success"], truncated, info

    @property
    def simulator(self) -> Simulator:
        """Raises RuntimeError before the first reset."""
        if self._simulator is None:
            raise RuntimeError("no task yet: call reset first")
        return self._simulator

    @property
    def state(self) -> np.ndarray:
        """The environment state `[E]`."""
        return self.simulator.state()

    def image(self, size: int | None = None) -> np.ndarray:
        """The scene at any size: uint8 `[size, size, 3]`."""
        return render(self.state[None], size or self.protocol.image_size, self.protocol)[0]

    def render(self) -> np.ndarray | None:
        return self.image() if self.render_mode == "rgb_array" else None

    def _observation(self) -> Observation:
        vectors = {STATE: self.simulator.robot(), ENVIRONMENT_STATE: self.state}
        return {ROBOT.image: self.image(), **vectors} if self.render_observations else vectors

    def _info(self) -> dict[str, Any]:
        simulator = self.simulator
        return {"instruction": self.instruction, "family": simulator.task, "success": simulator.success}
