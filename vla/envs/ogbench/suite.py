"""The scene as something to be evaluated on: scenes, prompts for each, and what became of them."""

# Shapes: N states of an episode, E numbers a state.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np

from vla.data.layout import ENVIRONMENT_STATE
from vla.envs.ogbench.env import OGBenchSceneEnv
from vla.envs.ogbench.expert import Expert, rollout
from vla.envs.ogbench.instructions import phrase
from vla.envs.ogbench.outcomes import (
    BASE_FAMILIES,
    FAMILIES,
    OUTCOMES,
    Outcome,
    all_outcomes,
    feasible,
    parse_outcome,
)
from vla.envs.ogbench.render import render
from vla.envs.ogbench.state import CUBE, DRAWER, ROBOT, UNLOCKED, WINDOW
from vla.envs.robot import Observation
from vla.evaluation.rollout import (
    PROMPTS,
    Case,
    Combinations,
    Failure,
    Prompt,
    chosen_families,
    refuse_held_out,
    wording,
)
from vla.tasks.outcomes import draw_evenly

_MOVED: Final = 0.03  # metres; what is displaced by less was brushed, not moved


class OGBenchSceneSuite:
    """See `vla.evaluation.rollout.Suite`."""

    name = "ogbench-scene"
    robot = ROBOT
    families: tuple[str, ...] = FAMILIES
    default_families: tuple[str, ...] = BASE_FAMILIES
    prompts: tuple[Prompt, ...] = PROMPTS
    groups: Mapping[str, Sequence[str]] = {}

    def protocol(self, cameras: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        return {}  # it is ours: nothing published to differ from

    def make_env(self, cameras: Mapping[str, Sequence[int]]) -> OGBenchSceneEnv:
        return OGBenchSceneEnv(image_size=ROBOT.image_size(cameras), render_observations=False)

    def images(self, env: OGBenchSceneEnv) -> Observation:
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
        return [_case(prompt, seed + number, families[number % len(families)], families) for number in range(episodes)]

    def achieved(self, outcome: str, states: np.ndarray) -> np.ndarray:
        return parse_outcome(outcome).holds(states)

    def demonstration(self, case: Case) -> np.ndarray:
        states = rollout(_env(), case.seed, dict(case.options)).environment_state
        assert states is not None
        return states

    def failure(self, outcome: str, states: np.ndarray) -> Failure:
        handled = _handled(states)
        if not handled:
            return Failure("nothing", ())
        achieved = tuple(str(o) for o in OUTCOMES if o.holds(states[-1]) and feasible(o, states[0]))
        asked = parse_outcome(outcome)
        return Failure("right object, not there" if asked.thing in handled else "wrong object", achieved)

    def by_chance(self, case: Case) -> bool:
        env = _env()
        observation, _ = env.reset(seed=case.seed, options=dict(case.options))
        rng, original = np.random.default_rng([case.seed, 7]), parse_outcome(case.original)
        purpose = draw_evenly(all_outcomes(observation[ENVIRONMENT_STATE]), rng) or original
        expert = Expert(purpose, env.simulator, rng)
        while not expert.finished:
            observation, _, achieved, truncated, _ = env.step(expert.act())
            if achieved or truncated:
                return achieved
        return False

    def views(self, states: np.ndarray, cameras: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
        return {ROBOT.camera: render(states, cameras[ROBOT.camera][0])}

    def draw(self, states: np.ndarray, size: int) -> np.ndarray:
        return render(states, size)


def _case(prompt: Prompt, seed: int, family: str, families: tuple[str, ...]) -> Case:
    state, original = _scene(seed, family)
    outcome = _other(original, state, families, seed) if prompt == "other" else original
    return Case(
        seed=seed,
        prompt=prompt,
        instruction=wording(prompt, outcome, seed, phrase),
        outcome=str(outcome),
        original=str(original),
        family=outcome.family,
        task=str(outcome),
        options={"family": family},
    )


def _other(original: Outcome, state: np.ndarray, families: Sequence[str], seed: int) -> Outcome:
    """Something else to do in the scene `state [E]`, about other things, so that it can't bring `original` about.

    From the families if they have any; the lock of another thing can always be turned.
    """
    others = [outcome for outcome in all_outcomes(state) if not outcome.about & original.about]
    preferred = [outcome for outcome in others if outcome.family in families]
    other = draw_evenly(preferred or others, np.random.default_rng([seed, 5]))
    assert other is not None
    return other


def _handled(states: np.ndarray) -> set[str]:
    """The things that `states [N, E]` show to have been moved, or locked or unlocked."""
    change = np.abs(states - states[0]).max(axis=0)  # [E]
    turned = change[UNLOCKED] > 0.5
    moved = {
        "cube": bool((change[CUBE] > _MOVED).any()),
        "drawer": bool(change[DRAWER] > _MOVED or turned[0]),
        "window": bool(change[WINDOW] > _MOVED or turned[1]),
    }
    return {thing for thing, was in moved.items() if was}


@lru_cache(maxsize=4096)
def _scene(seed: int, family: str) -> tuple[np.ndarray, Outcome]:
    env = _env()
    observation, info = env.reset(seed=seed, options={"family": family})
    return observation[ENVIRONMENT_STATE], info["outcome"]


@lru_cache(maxsize=1)
def _env() -> OGBenchSceneEnv:
    """To look at scenes and to let the expert act; built once, since that takes a second."""
    return OGBenchSceneEnv(render_observations=False)
