"""OGBench's scene with one instruction about it. Registered as `vla/OGBenchScene-v0`."""

# Shapes: E numbers in the environment state, S robot state, A action, H = W = image_size.

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import gymnasium
import numpy as np

from vla.envs.ogbench.instructions import phrase
from vla.envs.ogbench.outcomes import BASE_FAMILIES, OUTCOMES, Outcome, feasible, locked_out
from vla.envs.ogbench.render import render
from vla.envs.ogbench.simulator import Simulator
from vla.envs.ogbench.state import ACTION_NAMES, EMBODIMENT, STATE_NAMES, STATE_SIZE
from vla.tasks.outcomes import draw_evenly

FPS: Final = 20
CAMERA: Final = "front"
IMAGE: Final = f"observation.images.{CAMERA}"
STATE: Final = "observation.state"
ENVIRONMENT_STATE: Final = "observation.environment_state"
_SCENES: Final = 500  # are drawn until one admits the task

Observation = dict[str, np.ndarray]


def layout(image_size: int) -> dict[str, Any]:
    """How episodes of the scene are recorded: what `EpisodeWriter` needs to know."""
    return {
        "fps": FPS,
        "cameras": {CAMERA: (image_size, image_size)},
        "state_dim": len(STATE_NAMES),
        "action_dim": len(ACTION_NAMES),
        "environment_state_dim": STATE_SIZE,
        "state_names": STATE_NAMES,
        "action_names": ACTION_NAMES,
        "robot_type": EMBODIMENT,
    }


class OGBenchSceneEnv(gymnasium.Env[Observation, np.ndarray]):
    """A UR5e arm over a table with a cube, a drawer, a window, and two buttons that lock and unlock these.

    Observations:
    - `observation.images.front`: uint8 [H, W, 3]; absent with `render_observations=False` (`image()` draws on demand)
    - `observation.state`: float32 [S], what the robot feels: `vla.envs.ogbench.state.STATE_NAMES`
    - `observation.environment_state`: float32 [E], laid out as `vla.envs.ogbench.state` says

    Actions: float32 [A], `ACTION_NAMES`, clipped to [-1, 1]: at most 5 cm along an axis, 0.3 rad, and the gripper's
    whole way in a step of 50 ms. The reward is 1 where the outcome holds after the step, which ends the episode;
    stepping on is allowed.

    Options of `reset`: `family` or `families` (of the outcome), `outcome`, `locked` (draw one that a lock makes
    impossible), `phrasings` ("train" or "held_out"). Scene, outcome, instruction and disturbances are pure functions of
    the seed and these.

    `actuation_noise` is the standard deviation of a disturbance of the executed motion in shares of the largest motion,
    correlated in time, so that demonstrations visit states off the ideal path.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": FPS}  # noqa: RUF012 (gymnasium's interface)

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
        self.action_space = gymnasium.spaces.Box(-1, 1, (len(ACTION_NAMES),), np.float32)
        self.observation_space: gymnasium.spaces.Dict = gymnasium.spaces.Dict(  # type: ignore[assignment]
            _spaces(image_size if render_observations else None)
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
        self._noise, self._drift = np.random.default_rng([seed, 3]), np.zeros(4)
        self._steps = 0
        return self._observation(), self._info()

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Raises ValueError, naming the component, for an action with a NaN; clips what is out of range."""
        executed = _checked(action)
        executed[:4] += self._disturbance()
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

    def _disturbance(self) -> np.ndarray:
        """Of the executed motion and turn: `[4]`."""
        self._drift = 0.7 * self._drift + np.sqrt(1 - 0.7**2) * self._noise.standard_normal(4)
        return self.actuation_noise * self._drift

    def _observation(self) -> Observation:
        vectors = {STATE: self.simulator.robot(), ENVIRONMENT_STATE: self.state}
        return {IMAGE: self.image(), **vectors} if self.render_observations else vectors

    def _info(self) -> dict[str, Any]:
        return {
            "outcome": self.outcome,
            "instruction": self.instruction,
            "family": self.outcome.family,
            "success": bool(self.outcome.holds(self.state)),
        }


def _checked(action: np.ndarray) -> np.ndarray:
    action = np.asarray(action, np.float64)
    if action.shape != (len(ACTION_NAMES),):
        raise ValueError(f"action has shape {action.shape}: give five numbers, ({', '.join(ACTION_NAMES)})")
    for name, value in zip(ACTION_NAMES, action, strict=True):
        if np.isnan(value):
            raise ValueError(f"action component {name!r} is NaN: check the policy's output")
    return np.clip(action, -1, 1)


def _spaces(image_size: int | None) -> dict[str, gymnasium.Space[Any]]:
    box = gymnasium.spaces.Box
    vectors: dict[str, gymnasium.Space[Any]] = {
        STATE: box(-np.inf, np.inf, (len(STATE_NAMES),), np.float32),
        ENVIRONMENT_STATE: box(-np.inf, np.inf, (STATE_SIZE,), np.float32),
    }
    image = {} if image_size is None else {IMAGE: box(0, 255, (image_size, image_size, 3), np.uint8)}
    return {**image, **vectors}
