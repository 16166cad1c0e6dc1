"""OGBench's scene with one instruction about it. Registered as `vla/OGBenchScene-v0`."""

# Shapes: E numbers in the environment state, S robot state, A action, H = W = image_size.

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import gymnasium
import numpy as np

from vla.data.layout import ENVIRONMENT_STATE, STATE
from vla.envs.ogbench.instructions import phrase
from vla.envs.ogbench.outcomes import BASE_FAMILIES, OUTCOMES, Outcome, feasible, locked_out
from vla.envs.ogbench.render import render
from vla.envs.ogbench.simulator import Simulator
from vla.envs.ogbench.state import ROBOT
from vla.envs.robot import Drift, Observation
from vla.tasks.outcomes import draw_evenly

_SCENES: Final = 500  # are drawn until one admits the task


class OGBenchSceneEnv(gymnasium.Env[Observation, np.ndarray]):
    """A UR5e arm over a table with a cube, a drawer, a window, and two buttons that lock and unlock these.

    Observations:
    - `observation.images.front`: uint8 [H, W, 3]; absent with `render_observations=False` (`image()` draws on demand)
    - `observation.state`: float32 [S], what the robot feels: `vla.envs.ogbench.state.ROBOT`
    - `observation.environment_state`: float32 [E], laid out as `vla.envs.ogbench.state` says

    Actions: float32 [A], `ROBOT.action_names`, clipped to [-1, 1]: at most 5 cm along an axis, 0.3 rad, and the
    gripper's whole way in a step of 50 ms. The reward is 1 where the outcome holds after the step, which ends the
    episode; stepping on is allowed.

    Options of `reset`: `family` or `families` (of the outcome), `outcome`, `locked` (draw one that a lock makes
    impossible), `phrasings` ("train" or "held_out"). Scene, outcome, instruction and disturbances are pure functions of
    the seed and these.

    `actuation_noise` is the standard deviation of a disturbance of the executed motion in shares of the largest motion,
    correlated in time, so that demonstrations visit states off the ideal path.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": ROBOT.fps}  # noqa: RUF012 (gymnasium's interface)

    def __init__(
        self,
        *,
        image_size: int = 128,
        max_steps: int = 150,
        actuation_noise: float = 0.0,
        render_observations: bool = True,
        render_mode: str | None = None,
    ) -> None:
        self.image_size, self.max_steps, self.actuation_noise = image_size, max_steps, actuation_noise
        self.render_observations, self.render_mode = render_observations, render_mode
        self.simulator = Simulator()
        self.action_space = ROBOT.action_space
        self.observation_space: gymnasium.spaces.Dict = ROBOT.observation_space(  # type: ignore[assignment]
            image_size if render_observations else None
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A new scene and outcome. Raises ValueError for an unknown option or one no scene admits."""
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**32))
        options = {key: value for key, value in (options or {}).items() if value is not None}
        unknown = options.keys() - {"family", "families", "outcome", "locked", "phrasings"}
        if unknown:
            raise ValueError(f"reset option {sorted(unknown)[0]!r} is unknown: see OGBenchSceneEnv")
        phrasings = options.pop("phrasings", "train")
        self.outcome = self._sample_task(seed, **options)
        self.instruction = phrase(self.outcome, np.random.default_rng([seed, 2]), phrasings)
        self._disturbance = Drift(np.random.default_rng([seed, 3]), 4, self.actuation_noise)
        self._steps = 0
        return self._observation(), self._info()

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Raises ValueError, naming the component, for an action with a NaN; clips what is out of range."""
        executed = ROBOT.checked(action)
        executed[:4] += self._disturbance.next()
        self.simulator.step(np.clip(executed, -1, 1))
        self._steps += 1
        info = self._info()
        return self._observation(), float(info["success"]), info["success"], self._steps >= self.max_steps, info

    def set_outcome(self, outcome: Outcome, instruction: str | None = None) -> None:
        """Change what counts as success; the scene stays."""
        self.outcome = outcome
        self.instruction = phrase(outcome, np.random.default_rng(0)) if instruction is None else instruction

    @property
    def state(self) -> np.ndarray:
        """The environment state `[E]`."""
        return self.simulator.state()

    def image(self, size: int | None = None) -> np.ndarray:
        """The scene from the front at any size: uint8 `[size, size, 3]`."""
        return render(self.state[None], size or self.image_size)[0]

    def render(self) -> np.ndarray | None:
        return self.image() if self.render_mode == "rgb_array" else None

    def _sample_task(
        self,
        seed: int,
        family: str | None = None,
        families: Sequence[str] = BASE_FAMILIES,
        outcome: Outcome | None = None,
        locked: bool = False,
    ) -> Outcome:
        """Draw scenes until one admits the task, and show it."""
        if family is None:
            family = str(np.random.default_rng([seed, 0]).choice(list(families)))
        wanted = [o for o in OUTCOMES if o.family == family] if outcome is None else [outcome]
        admits: Callable[[Outcome, np.ndarray], bool] = locked_out if locked else feasible
        for scene in range(_SCENES):
            rng = np.random.default_rng([seed, 1, scene])
            self.simulator.reset(seed=int(rng.integers(2**32)))
            state = self.state
            drawn = draw_evenly([o for o in wanted if admits(o, state)], rng)
            if drawn is not None:
                return drawn
        raise ValueError(f"no scene of {_SCENES} admits {outcome or family}: ask for another outcome")

    def _observation(self) -> Observation:
        vectors = {STATE: self.simulator.robot(), ENVIRONMENT_STATE: self.state}
        return {ROBOT.image: self.image(), **vectors} if self.render_observations else vectors

    def _info(self) -> dict[str, Any]:
        return {
            "outcome": self.outcome,
            "instruction": self.instruction,
            "family": self.outcome.family,
            "success": bool(self.outcome.holds(self.state)),
        }
