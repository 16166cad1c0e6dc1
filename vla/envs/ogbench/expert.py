"""OGBench's closed-loop oracles, told what to bring about; on request they fail; and the episodes they record.

The oracles are told where to go, not by the simulator's own random target but by an outcome: what they read of a target
is replaced.
"""

# Shapes: T steps, E numbers a state, A action.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
from ogbench.manipspace.oracles.markov.button_markov import ButtonMarkovOracle
from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle
from ogbench.manipspace.oracles.markov.drawer_markov import DrawerMarkovOracle
from ogbench.manipspace.oracles.markov.window_markov import WindowMarkovOracle

from vla.data.layout import ENVIRONMENT_STATE, STATE
from vla.data.writer import Episode
from vla.envs.ogbench.env import OGBenchSceneEnv
from vla.envs.ogbench.outcomes import BORDERS, Outcome, all_outcomes, feasible
from vla.envs.ogbench.simulator import Simulator
from vla.envs.ogbench.state import OPEN_DRAWER, OPEN_WINDOW, ROBOT
from vla.envs.robot import Observation

Failure = Literal["locked", "wrong_thing", "stops"]
FAILURES: Final[tuple[Failure, ...]] = ("locked", "wrong_thing", "stops")

IN_VAIN: Final = 40  # steps after which moving what is locked is given up
_PATIENCE: Final = 150  # steps after which an oracle gives up
_INSIDE: Final = 0.035  # metres beyond the border of where it counts that the cube is put
# The cube is put within this part of the table (x and y, metres) as far as the outcome leaves it open: clear of the
# handles, on which the hand would get stuck.
_CLEAR: Final = np.array([[0.30, -0.05], [0.40, 0.08]])
_TABLE: Final = 0.02  # height of the centre of a cube that lies on the table
_EXTRA_STEPS: Final = 2  # after the outcome has clearly come about
_GIVES_UP: Final = (5, 25)  # steps, at least and fewer than
_FALSE_START_STEPS: Final = (5, 40)


class Expert:
    """Acts towards `outcome` in the scene as it is now, and when that is done moves the hand out of the way.

    What is left open (where exactly the cube goes, where the hand goes in the end) is drawn by `rng`.
    """

    def __init__(self, outcome: Outcome, simulator: Simulator, rng: np.random.Generator) -> None:
        self._simulator = simulator
        self._targets = _targets(outcome, simulator, rng)
        self._oracle = _ORACLES[_kind(outcome)](env=simulator, max_step=_PATIENCE)
        self._oracle.reset(None, self._info())
        # Oracles draw their last position from numpy's global generator, and offer no other way to set it.
        self._oracle._final_pos = rng.uniform(*simulator._arm_sampling_bounds)
        self._oracle._final_yaw = rng.uniform(-np.pi, np.pi)

    @property
    def finished(self) -> bool:
        """Whether the hand is where it was to go in the end, or patience is exhausted."""
        return bool(self._oracle.done)

    def act(self) -> np.ndarray:
        """The action float32 [A] in the present state."""
        return np.asarray(self._oracle.select_action(None, self._info()), np.float32)

    def _info(self) -> dict[str, Any]:
        return {**self._simulator.info(), **self._targets}


def rollout(
    env: OGBenchSceneEnv,
    seed: int,
    options: dict[str, Any] | None = None,
    failure: Failure | None = None,
    false_start: bool = False,
) -> Episode:
    """One episode of the expert, a pure function of its arguments.

    With the failure `locked`, a lock makes it impossible (where nothing can be locked it stops instead), `wrong_thing`
    does something else, `stops` gives up on the way. After a `false_start` the record begins somewhere on the way to
    something else.
    """
    options = dict(options or {})
    if failure == "locked":
        options["locked"] = options.get("family") in ("open", "close")
    observation, info = env.reset(seed=seed, options=options)
    outcome, rng = info["outcome"], np.random.default_rng([seed, 4])
    if false_start and failure != "locked":
        observation = _false_start(env, observation, rng)
        if not feasible(outcome, observation[ENVIRONMENT_STATE]):
            observation, _ = env.reset(seed=seed, options=options)
    pursued = _something_else(outcome, env.state, rng) if failure == "wrong_thing" else outcome
    steps = env.max_steps
    if failure is not None and pursued == outcome:
        steps = IN_VAIN if options.get("locked") else int(rng.integers(*_GIVES_UP))
    expert = Expert(pursued, env.simulator, rng)
    observations: list[Observation] = [observation]
    actions: list[np.ndarray] = []
    success: list[bool] = []
    extra_steps = _EXTRA_STEPS
    while len(actions) < steps and extra_steps > 0 and not expert.finished:
        extra_steps -= bool(pursued.holds(env.state, pursued.clearly_true))
        actions.append(expert.act())
        observation, _, succeeded, truncated, _ = env.step(actions[-1])
        success.append(succeeded or any(success))
        observations.append(observation)
        if truncated:
            break
    # What the last action led to must be seen, or its success could not be checked.
    return record(observations, [*actions, actions[-1]], [*success, success[-1]], info["instruction"], outcome)


def record(
    observations: Sequence[Observation],
    actions: Sequence[np.ndarray],
    success: Sequence[bool],
    instruction: str,
    outcome: Outcome | None,
) -> Episode:
    """The episode of T observations and what was done on seeing each; without an outcome it is play."""
    return Episode(
        images=ROBOT.pictures(observations),
        state=np.stack([o[STATE] for o in observations]),
        environment_state=np.stack([o[ENVIRONMENT_STATE] for o in observations]),
        action=np.stack(actions),
        success=np.array(success),
        instruction=instruction,
        task=outcome.family if outcome else "play",
        outcome=str(outcome or ""),
    )


def _false_start(env: OGBenchSceneEnv, observation: Observation, rng: np.random.Generator) -> Observation:
    """Set out for anything feasible, and stop somewhere on the way: what is then seen."""
    candidates = all_outcomes(observation[ENVIRONMENT_STATE])
    expert = Expert(candidates[rng.integers(len(candidates))], env.simulator, rng)
    for _ in range(rng.integers(*_FALSE_START_STEPS)):
        observation, *_ = env.step(expert.act())
    return observation


def _something_else(outcome: Outcome, state: np.ndarray, rng: np.random.Generator) -> Outcome:
    """Feasible in `state [E]` and about other things; `outcome` if there is nothing."""
    others = [other for other in all_outcomes(state) if not other.about & outcome.about]
    return others[rng.integers(len(others))] if others else outcome


# What an oracle reads of its target.


def _kind(outcome: Outcome) -> str:
    return "button" if outcome.family in ("lock", "unlock") else outcome.thing


def _targets(outcome: Outcome, simulator: Simulator, rng: np.random.Generator) -> dict[str, Any]:
    targets = {"button": _button, "drawer": _drawer, "window": _window, "cube": _cube}[_kind(outcome)]
    return {f"privileged/target_{name}": value for name, value in targets(outcome, simulator, rng).items()}


def _drawer(outcome: Outcome, simulator: Simulator, rng: np.random.Generator) -> dict[str, Any]:
    target = OPEN_DRAWER if outcome.family == "open" else 0.0
    info = simulator.info()
    shift = [0.0, info["privileged/drawer_pos"][0] - target, 0.0]
    return {"drawer_handle_pos": info["privileged/drawer_handle_pos"] + shift}


def _window(outcome: Outcome, simulator: Simulator, rng: np.random.Generator) -> dict[str, Any]:
    target = OPEN_WINDOW if outcome.family == "open" else 0.0
    info = simulator.info()
    shift = [target - info["privileged/window_pos"][0], 0.0, 0.0]
    return {"window_handle_pos": info["privileged/window_handle_pos"] + shift}


def _button(outcome: Outcome, simulator: Simulator, rng: np.random.Generator) -> dict[str, Any]:
    number = ("drawer", "window").index(outcome.thing)
    top = simulator.data.site(f"btntop_{number}").xpos.copy()
    return {"button": number, "button_state": int(outcome.family == "unlock"), "button_top_pos": top}


def _cube(outcome: Outcome, simulator: Simulator, rng: np.random.Generator) -> dict[str, Any]:
    info = simulator.info()
    position = info["privileged/block_0_pos"].copy()
    if outcome.where is None:
        position = simulator._drawer_center + np.append(rng.uniform(-0.005, 0.005, 2), 0.0)
    else:  # straight over the border
        axis, sign, border = BORDERS[outcome.where]
        position[:2] = np.clip(position[:2], *_CLEAR)
        position[axis] = border + sign * (_INSIDE + rng.uniform(-0.005, 0.005))
        position[2] = _TABLE
    return {"block": 0, "block_pos": position, "block_yaw": info["privileged/block_0_yaw"].copy()}


_ORACLES: Final = {
    "button": ButtonMarkovOracle,
    "drawer": DrawerMarkovOracle,
    "window": WindowMarkovOracle,
    "cube": CubeMarkovOracle,
}
