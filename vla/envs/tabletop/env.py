"""Tabletop: a suction tip, coloured shapes, and one instruction about them. Registered as `vla/Tabletop-v0`."""

# Shapes: E numbers in the environment state, H = W = image_size.

from __future__ import annotations

from typing import Any, Final

import gymnasium
import numpy as np

from vla.data.layout import ENVIRONMENT_STATE, STATE
from vla.envs.robot import Drift, Observation, Robot
from vla.envs.tabletop.instructions import phrase
from vla.envs.tabletop.outcomes import Outcome
from vla.envs.tabletop.render import render
from vla.envs.tabletop.scenes import sample_task
from vla.envs.tabletop.state import HELD, STATE_NAMES, SUCTION, TIP_X, TIP_Y, Thing, empty_state, things_on_table
from vla.envs.tabletop.world import STEP_SECONDS, World

MAX_STEP: Final = 0.07  # the farthest the tip moves along an axis in one step, in table units
ROBOT: Final = Robot(
    name="tabletop",
    fps=round(1 / STEP_SECONDS),
    camera="top",
    state_names=("tip_x", "tip_y", "suction", "holding"),
    action_names=("dx", "dy", "hold"),
    environment_state_names=STATE_NAMES,
    state_range=(0, 1),
)


class TabletopEnv(gymnasium.Env[Observation, np.ndarray]):
    """The tip moves by `MAX_STEP * (dx, dy)` a step; `hold > 0` is suction on, which lifts what the tip touches.

    Observations:
    - `observation.images.top`: uint8 [H, W, 3]; absent with `render_observations=False` (draw on demand with `image()`)
    - `observation.state`: float32 [4] = (tip x, tip y, suction, holding)
    - `observation.environment_state`: float32 [E], laid out as `vla.envs.tabletop.state` says

    Actions: float32 [3] = (dx, dy, hold), clipped to [-1, 1]. The reward is 1 where the outcome holds after the
    step, which ends the episode; stepping on is allowed.

    Options of `reset`: `family`, `outcome`, `families`, `allowed` (see `sample_task`), `phrasings` ("train" or
    "held_out"). Table, outcome, instruction and disturbances are pure functions of the seed and these.

    `actuation_noise` is the standard deviation of a disturbance of the executed motion, as a fraction of `MAX_STEP`:
    correlated in time, with occasional short kicks, so that demonstrations visit states off the ideal path.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": ROBOT.fps}  # noqa: RUF012 (gymnasium's interface)

    def __init__(
        self,
        *,
        image_size: int = 128,
        max_steps: int = 60,
        actuation_noise: float = 0.0,
        render_observations: bool = True,
        render_mode: str | None = None,
    ) -> None:
        self.image_size = image_size
        self.max_steps = max_steps
        self.actuation_noise = actuation_noise
        self.render_observations = render_observations
        self.render_mode = render_mode
        self.action_space = ROBOT.action_space
        self.observation_space: gymnasium.spaces.Dict = ROBOT.observation_space(  # type: ignore[assignment]
            image_size if render_observations else None
        )
        self._world = World(empty_state())
        self._state = empty_state()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A new table and outcome. Raises ValueError for an unknown option or one no table admits."""
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**32))
        options = {key: value for key, value in (options or {}).items() if value is not None}
        unknown = options.keys() - {"family", "outcome", "families", "allowed", "phrasings"}
        if unknown:
            raise ValueError(f"reset option {sorted(unknown)[0]!r} is unknown: see TabletopEnv")
        phrasings = options.pop("phrasings", "train")
        self._state, self.outcome = sample_task(seed, **options)
        self.instruction = phrase(self.outcome, np.random.default_rng([seed, 2]), phrasings)
        self._world = World(self._state)
        self._disturbance = _Disturbance(np.random.default_rng([seed, 3]), self.actuation_noise)
        self._steps = 0
        return self._observation(), self._info()

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Raises ValueError, naming the component, for an action with a NaN; clips what is out of range."""
        dx, dy, hold = ROBOT.checked(action)
        displacement = MAX_STEP * (np.array([dx, dy]) + self._disturbance.next())
        self._world.step(displacement, suction=hold > 0)
        self._state = self._world.state()
        self._steps += 1
        info = self._info()
        return self._observation(), float(info["success"]), info["success"], self._steps >= self.max_steps, info

    def set_outcome(self, outcome: Outcome, instruction: str | None = None) -> None:
        """Change what counts as success; the table stays. Raises ValueError if it names a thing that is not on it."""
        missing = {outcome.thing, *outcome.others} - set(self.scene())
        if missing:
            raise ValueError(f"cannot set {outcome!s}: there is no {min(missing)!s} on the table")
        self.outcome = outcome
        self.instruction = phrase(outcome, np.random.default_rng(0)) if instruction is None else instruction

    def scene(self) -> list[Thing]:
        """The things on the table."""
        return list(things_on_table(self._state))

    def image(self, size: int | None = None) -> np.ndarray:
        """The table from above at any size: uint8 `[size, size, 3]`."""
        return render(self._state, size or self.image_size)

    def render(self) -> np.ndarray | None:
        return self.image() if self.render_mode == "rgb_array" else None

    def _observation(self) -> Observation:
        held = self._state[HELD] >= 0
        observation = {
            STATE: np.append(self._state[[TIP_X, TIP_Y, SUCTION]], np.float32(held)),
            ENVIRONMENT_STATE: self._state.copy(),
        }
        return {ROBOT.image: self.image(), **observation} if self.render_observations else observation

    def _info(self) -> dict[str, Any]:
        return {
            "outcome": self.outcome,
            "instruction": self.instruction,
            "family": self.outcome.family,
            "success": bool(self.outcome.holds(self._state)),
        }


class _Disturbance:
    """An autoregressive drift with standard deviation `scale`, and kicks of four times that for two steps."""

    def __init__(self, rng: np.random.Generator, scale: float) -> None:
        self._rng = rng
        self._scale = scale
        self._drift = Drift(rng, 2, 1.0)
        self._kick = np.zeros(2)
        self._kick_steps = 0

    def next(self) -> np.ndarray:
        """The displacement to add in this step, in units of `MAX_STEP`: `[2]`."""
        drift = self._drift.next()
        bearing, chance = self._rng.uniform(0, 2 * np.pi), self._rng.uniform()
        if self._kick_steps == 0 and chance < 0.05:
            self._kick, self._kick_steps = 4 * np.array([np.cos(bearing), np.sin(bearing)]), 2
        kick = self._kick if self._kick_steps else np.zeros(2)
        self._kick_steps = max(0, self._kick_steps - 1)
        return self._scale * (drift + kick)
