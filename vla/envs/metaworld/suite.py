"""The tasks as something to be evaluated on: scenes, prompts for each, and what became of them."""

# Shapes: N states of an episode, E numbers a state.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from vla.envs.metaworld.env import MetaWorldEnv
from vla.envs.metaworld.expert import rollout
from vla.envs.metaworld.protocol import Protocol
from vla.envs.metaworld.render import render
from vla.envs.metaworld.state import QPOS, ROBOT, ROBOT_QPOS, SUCCESS, TASK
from vla.envs.metaworld.tasks import MT10, MT50, NUMBER, TIERS
from vla.envs.robot import Observation
from vla.evaluation.rollout import Case, Combinations, Failure, Prompt, chosen_families, refuse_held_out

_MOVED: Final = 0.03  # metres or radians; what is displaced by less was brushed, not moved


class MT50Suite:
    """See `vla.evaluation.rollout.Suite`. An outcome is the name of a task, and Meta-World says whether it is done."""

    name = "metaworld-mt50"
    robot = ROBOT
    families: tuple[str, ...] = MT50
    default_families: tuple[str, ...] = MT50
    prompts: tuple[Prompt, ...] = ("right", "shuffled", "empty")
    groups: Mapping[str, Sequence[str]] = TIERS

    def __init__(self, protocol: Protocol | None = None) -> None:
        self._protocol = protocol or Protocol()

    def protocol(self, cameras: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        return replace(self._protocol, image_size=cameras[ROBOT.camera][0]).to_json()

    def make_env(self, cameras: Mapping[str, Sequence[int]]) -> MetaWorldEnv:
        protocol = replace(self._protocol, image_size=ROBOT.image_size(cameras))
        return MetaWorldEnv(tasks=self.families, protocol=protocol, render_observations=False)

    def images(self, env: MetaWorldEnv) -> Observation:
        return {ROBOT.image: env.image()}

    def cases(
        self,
        prompt: Prompt,
        episodes: int,
        families: Sequence[str] | None = None,
        seed: int = 1_000_000,
        combinations: Combinations = "all",
    ) -> list[Case]:
        families = chosen_families(self, families)
        refuse_held_out(self, combinations)
        return [self._case(prompt, seed + number, families[number % len(families)]) for number in range(episodes)]

    def achieved(self, outcome: str, states: np.ndarray) -> np.ndarray:
        return (states[:, TASK] == NUMBER[outcome]) & (states[:, SUCCESS] > 0.5)

    def demonstration(self, case: Case) -> np.ndarray:
        env = MetaWorldEnv(protocol=self._protocol, render_observations=False)
        states = rollout(env, case.seed, dict(case.options)).environment_state
        assert states is not None
        return states

    def failure(self, outcome: str, states: np.ndarray) -> Failure:
        """A scene has a single task, so nothing else can be brought about, and what was moved is the right thing."""
        things = states[:, QPOS + ROBOT_QPOS :]
        moved = bool((np.abs(things - things[0]) > _MOVED).any())
        return Failure("right object, not there" if moved else "nothing", ())

    def by_chance(self, case: Case) -> bool:
        return True  # nothing else is feasible in its scene

    def views(self, states: np.ndarray, cameras: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
        return {ROBOT.camera: render(states, cameras[ROBOT.camera][0], self._protocol)}

    def draw(self, states: np.ndarray, size: int) -> np.ndarray:
        return render(states, size, self._protocol)

    def _case(self, prompt: Prompt, seed: int, family: str) -> Case:
        told = {"right": self._protocol.instruction(family), "shuffled": self._another_text(family, seed)}
        return Case(
            seed=seed,
            prompt=prompt,
            instruction=told.get(prompt, ""),
            outcome=family,
            original=family,
            family=family,
            task=family,
            options={"family": family},
        )

    def _another_text(self, family: str, seed: int) -> str:
        """What another task of the suite is told, drawn evenly."""
        texts = {task: self._protocol.instruction(task) for task in self.families}
        others = [text for text in texts.values() if text != texts[family]]
        return str(np.random.default_rng([seed, 5]).choice(others))


class MT10Suite(MT50Suite):
    name = "metaworld-mt10"
    families = default_families = MT10
