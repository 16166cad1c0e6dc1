"""OGBench's own five goals in its scene (`scene-v0`, Park et al. 2025): all is to be as in a picture or a state.

Several things are to be changed, in an order that the locks decide, and nobody says which. Scenes, goals and what
counts are OGBench's; its pictures are 64 pixels wide and show the arm, ours do not (see `vla.envs.ogbench.render`).
"""

# Shapes: N states, E numbers a state.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np

from vla.data.layout import ENVIRONMENT_STATE
from vla.envs.ogbench.env import OGBenchSceneEnv
from vla.envs.ogbench.simulator import Simulator
from vla.envs.ogbench.state import CUBE, DRAWER, ROBOT, STATE_SIZE, TOLERANCE, UNLOCKED, WINDOW
from vla.envs.ogbench.suite import OGBenchSceneSuite
from vla.envs.robot import Drift, Observation
from vla.evaluation.rollout import Case, Combinations, Failure, Prompt, chosen_families, refuse_held_out

# OGBench's names, in its order; none is an instruction family, or who learnt that would be asked for it alone.
CHALLENGES: Final = ("task1_open", "task2_unlock_and_lock", "task3_rearrange_medium", "task4_put_in_drawer",
                     "task5_rearrange_hard")  # fmt: skip
PARTS: Final = ("cube", "drawer's lock", "window's lock", "drawer", "window")
MAX_STEPS: Final = 750  # OGBench's


class ChallengeEnv(OGBenchSceneEnv):
    """The scene with one of OGBench's goals, `options={"challenge": NAME}` of `reset`; `info["goal"]` is its state."""

    def __init__(self, *, image_size: int = 128) -> None:
        super().__init__(image_size=image_size, max_steps=MAX_STEPS, render_observations=False)
        self.simulator = Simulator(mode="task")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A scene whose small differences follow the seed. Raises ValueError for an unknown challenge."""
        name = (options or {}).get("challenge")
        if name not in CHALLENGES:
            raise ValueError(f"challenge {name!r} is unknown: OGBench has {', '.join(CHALLENGES)}")
        self.simulator.action_space.seed(seed)  # two random steps make the goal's state settle
        _, info = self.simulator.reset(seed=seed, options={"task_id": 1 + CHALLENGES.index(name)})
        self._name, self._goal, self._steps = name, info["goal"], 0
        self._disturbance = Drift(np.random.default_rng([seed or 0, 3]), 4, self.actuation_noise)
        return self._observation(), self._info()

    def _info(self) -> dict[str, Any]:
        return {"goal": self._goal, "success": bool(in_place(self.state, _target(self._name)).all())}


class ChallengeSuite(OGBenchSceneSuite):
    """See `vla.evaluation.rollout.Suite`. Told by a picture or a state of the goal; there are no words for it."""

    name = "ogbench-challenges"
    prompts: tuple[Prompt, ...] = ("goal_image", "goal_state")
    families: tuple[str, ...] = CHALLENGES
    default_families: tuple[str, ...] = CHALLENGES

    def protocol(self, cameras: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        return {
            "scenes, goals and what counts": "OGBench's scene-v0, five goals, 750 steps",
            "data": "play by OGBench's oracles under our disturbances, not its own data set",
            "pictures": f"{cameras[ROBOT.camera][0]} pixels, arm hidden and fingers shown; OGBench's are 64 pixels",
        }

    def make_env(self, cameras: Mapping[str, Sequence[int]]) -> ChallengeEnv:
        return ChallengeEnv(image_size=super().make_env(cameras).image_size)

    def cases(
        self,
        prompt: Prompt,
        episodes: int,
        families: Sequence[str] | None = None,
        seed: int = 1_000_000,
        combinations: Combinations = "all",
    ) -> list[Case]:
        if prompt not in self.prompts:
            raise ValueError(f"{self.name} has no {prompt!r} prompt, only {' and '.join(self.prompts)}")
        names = chosen_families(self, families)
        refuse_held_out(self, combinations)
        return [_case(prompt, seed + number, names[number % len(names)]) for number in range(episodes)]

    def achieved(self, outcome: str, states: np.ndarray) -> np.ndarray:
        return np.asarray(in_place(states, _target(outcome)).all(axis=-1))

    def demonstration(self, case: Case) -> np.ndarray:
        env = _env()
        observation, info = env.reset(seed=case.seed, options=dict(case.options))
        return np.stack([observation[ENVIRONMENT_STATE], info["goal"]])

    def failure(self, outcome: str, states: np.ndarray) -> Failure:
        """What is in place that wasn't."""
        first, last = in_place(states[[0, -1]], _target(outcome))
        achieved = tuple(name for name, new in zip(PARTS, last & ~first, strict=True) if new)
        return Failure("right object, not there" if achieved else "nothing", achieved)


def in_place(states: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Whether each of PARTS is as in the `target` [E], by OGBench's measure: `states [..., E]` -> bool `[..., 5]`."""
    cube = np.linalg.norm(states[..., CUBE] - target[CUBE], axis=-1, keepdims=True) <= TOLERANCE
    locks = np.rint(states[..., UNLOCKED]) == target[UNLOCKED]
    slides = np.abs(states[..., [DRAWER, WINDOW]] - target[[DRAWER, WINDOW]]) <= TOLERANCE
    return np.concatenate([cube, locks, slides], axis=-1)


def _case(prompt: Prompt, seed: int, name: str) -> Case:
    return Case(seed=seed, prompt=prompt, instruction="", outcome=name, original=name, family=name, task=name,
                options={"challenge": name})  # fmt: skip


@lru_cache(maxsize=len(CHALLENGES))
def _target(name: str) -> np.ndarray:
    """Where things are to be: a state [E] in which nothing else is set."""
    goal, target = _env().simulator.task_infos[CHALLENGES.index(name)]["goal"], np.zeros(STATE_SIZE)
    target[CUBE], target[UNLOCKED] = goal["block_xyzs"][0], goal["button_states"]
    target[DRAWER], target[WINDOW] = goal["drawer_pos"], goal["window_pos"]
    return target


@lru_cache(maxsize=1)
def _env() -> ChallengeEnv:
    """To look at scenes; built once, since that takes a second."""
    return ChallengeEnv()
