"""Tabletop as something to be evaluated on: scenes, prompts for each, and what became of them."""

# Shapes: N states of an episode, E numbers a state.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np

from vla.data.layout import ENVIRONMENT_STATE
from vla.envs.robot import Observation
from vla.envs.tabletop.env import ROBOT, TabletopEnv
from vla.envs.tabletop.expert import expert_action, rollout
from vla.envs.tabletop.instructions import phrase
from vla.envs.tabletop.outcomes import (
    BASE_FAMILIES,
    COMBINATIONS,
    FAMILIES,
    Outcome,
    brought_about,
    draw_outcome,
    outcomes_about,
    parse_outcome,
    trained_combination,
)
from vla.envs.tabletop.render import render
from vla.envs.tabletop.scenes import sample_task
from vla.envs.tabletop.state import CONTACT, HELD, SHAPES, Thing, positions, things_on_table, tip_gap
from vla.evaluation.rollout import PROMPTS, Case, Combinations, Failure, Prompt, chosen_families, wording

_MOVED: Final = 0.03  # a thing that is displaced by less was brushed, not moved


class TabletopSuite:
    """See `vla.evaluation.rollout.Suite`."""

    name = "tabletop"
    robot = ROBOT
    families = FAMILIES
    default_families = BASE_FAMILIES
    prompts = PROMPTS
    groups: Mapping[str, Sequence[str]] = {}

    def protocol(self, cameras: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        return {}  # it is ours: nothing published to differ from

    def make_env(self, cameras: Mapping[str, Sequence[int]]) -> TabletopEnv:
        return TabletopEnv(image_size=ROBOT.image_size(cameras), render_observations=False)

    def images(self, env: TabletopEnv) -> Observation:
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
        return [
            _case(prompt, seed + number, families[number % len(families)], families, combinations)
            for number in range(episodes)
        ]

    def achieved(self, outcome: str, states: np.ndarray) -> np.ndarray:
        return _parse(outcome).holds(states)

    def demonstration(self, case: Case) -> np.ndarray:
        env = TabletopEnv(render_observations=False)
        return rollout(env, case.seed, dict(case.options)).environment_state

    def failure(self, outcome: str, states: np.ndarray) -> Failure:
        asked = _parse(outcome)
        handled = _handled(states, touching=asked.family == "touch")
        if not handled:
            return Failure("nothing", ())
        things = list(things_on_table(states[0]))
        about_handled = [o for family in BASE_FAMILIES for o in outcomes_about(things, family) if o.thing in handled]
        achieved = tuple(str(o) for o in about_handled if brought_about(o, states))
        return Failure("right object, not there" if asked.thing in handled else "wrong object", achieved)

    def by_chance(self, case: Case) -> bool:
        env = TabletopEnv(render_observations=False)
        observation, _ = env.reset(seed=case.seed, options=dict(case.options))
        rng, original = np.random.default_rng([case.seed, 7]), _parse(case.original)
        purpose = draw_outcome(observation[ENVIRONMENT_STATE], BASE_FAMILIES, None, rng) or original
        for _ in range(env.max_steps):
            observation, *_ = env.step(expert_action(purpose, observation[ENVIRONMENT_STATE]))
            if original.holds(observation[ENVIRONMENT_STATE]):
                return True
        return False

    def views(self, states: np.ndarray, cameras: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
        return {ROBOT.camera: self.draw(states, cameras[ROBOT.camera][0])}

    def draw(self, states: np.ndarray, size: int) -> np.ndarray:
        return np.stack([render(state, size) for state in states])


def other_outcome(
    original: Outcome, state: np.ndarray, families: Sequence[str], seed: int, combinations: Combinations = "all"
) -> Outcome:
    """Something else to do in the scene `state [E]`: drawn by `seed`, about another thing, feasible.

    Doing it leaves everything that `original` is about where it is, so that it can't bring that about. With "train",
    it isn't a combination kept out of training either. Families are equally likely; those beyond `families` are used
    only in a scene that admits nothing else.
    """

    def allowed(outcome: Outcome) -> bool:
        return _leaves_alone(outcome, original) and (combinations != "train" or trained_combination(outcome))

    for choice in (families, BASE_FAMILIES):
        drawn = draw_outcome(state, tuple(choice), allowed, np.random.default_rng([seed, 5]))
        if drawn is not None:
            return drawn
    raise ValueError(f"the scene of seed {seed} admits nothing but {original!s}: choose another first seed")


def _case(prompt: Prompt, seed: int, family: str, families: tuple[str, ...], combinations: Combinations) -> Case:
    allowed = COMBINATIONS[combinations]
    state, original = _scene(seed, family, allowed)
    outcome = other_outcome(original, state, families, seed, combinations) if prompt == "other" else original
    return Case(
        seed=seed,
        prompt=prompt,
        instruction=wording(prompt, outcome, seed, phrase),
        outcome=str(outcome),
        original=str(original),
        family=outcome.family,
        task=outcome.family if outcome.where is None else f"{outcome.family}/{outcome.where}",
        options={"family": family, "allowed": allowed},
    )


def _leaves_alone(outcome: Outcome, original: Outcome) -> bool:
    if outcome.thing == original.thing:
        return False
    return outcome.family == "touch" or outcome.thing not in original.others


def _handled(states: np.ndarray, touching: bool) -> set[Thing]:
    """The things the arm was after in `states [N, E]`: those it held; if none, those it moved.

    With `touching`, those it touched count as well.
    """
    things = things_on_table(states[0])
    moved = np.linalg.norm(positions(states) - positions(states[0]), axis=-1).max(axis=0) > _MOVED  # [O]
    held = {thing for thing, slot in things.items() if (states[:, HELD] == slot).any()}
    pushed = {thing for thing, slot in things.items() if moved[slot]}
    touched = {thing for thing, slot in things.items() if touching and _touches(states, thing, slot)}
    return touched | (held or pushed)


def _touches(states: np.ndarray, thing: Thing, slot: int) -> bool:
    slots = np.full(len(states), slot)
    return bool((tip_gap(states, slots, SHAPES.index(thing.shape)) < CONTACT).any())


@lru_cache(maxsize=4096)
def _scene(seed: int, family: str, allowed: Callable[[Outcome], bool] | None) -> tuple[np.ndarray, Outcome]:
    return sample_task(seed, family=family, allowed=allowed)


@lru_cache(maxsize=4096)
def _parse(text: str) -> Outcome:
    return parse_outcome(text)
