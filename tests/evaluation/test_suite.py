"""The four prompts of Tabletop, and what it says about failures."""

from typing import get_args

import numpy as np
import pytest

from vla.config import EnvironmentName
from vla.data.layout import ENVIRONMENT_STATE
from vla.envs import GRAMMARS, RECORDERS, SUITES, load_suite
from vla.envs.tabletop import feasible, held_out_combination, instructions, parse_instruction, parse_outcome
from vla.envs.tabletop import rollout as expert_rollout
from vla.envs.tabletop.env import TabletopEnv
from vla.envs.tabletop.suite import TabletopSuite
from vla.evaluation.rollout import PROMPTS, Case

FAMILIES = TabletopSuite.families


@pytest.fixture(scope="module")
def scenes() -> list[dict[str, Case]]:
    suite = TabletopSuite()
    cases = {prompt: suite.cases(prompt, 48, FAMILIES) for prompt in PROMPTS}
    return [dict(zip(PROMPTS, scene, strict=True)) for scene in zip(*cases.values(), strict=True)]


def initial_state(case: Case) -> np.ndarray:
    env = TabletopEnv(render_observations=False)
    observation, info = env.reset(seed=case.seed, options=dict(case.options))
    assert str(info["outcome"]) == case.original
    return observation[ENVIRONMENT_STATE]


def test_all_prompts_of_a_scene_start_from_the_same_state(scenes: list[dict[str, Case]]) -> None:
    for scene in scenes[:16]:
        states = [initial_state(case) for case in scene.values()]
        for state in states[1:]:
            np.testing.assert_array_equal(state, states[0])


def test_prompts_say_what_they_should(scenes: list[dict[str, Case]]) -> None:
    for scene in scenes:
        original = parse_outcome(scene["right"].original)
        assert scene["right"].instruction in instructions(original, "train")
        assert scene["held_out"].instruction in instructions(original, "held_out")
        assert scene["empty"].instruction == ""
        assert {scene[prompt].outcome for prompt in ("right", "held_out", "empty")} == {str(original)}
        assert parse_instruction(scene["other"].instruction) == parse_outcome(scene["other"].outcome)


def test_the_other_outcome_is_feasible_and_about_another_thing(scenes: list[dict[str, Case]]) -> None:
    for scene in scenes:
        other, original = parse_outcome(scene["other"].outcome), parse_outcome(scene["other"].original)
        assert feasible(other, initial_state(scene["other"]))
        assert other.thing != original.thing
        assert other.family == "touch" or other.thing not in original.others


def test_families_are_spread_evenly(scenes: list[dict[str, Case]]) -> None:
    counts = np.unique([scene["right"].family for scene in scenes], return_counts=True)[1]
    assert len(counts) == len(FAMILIES)
    assert counts.max() - counts.min() <= 1


def test_fewer_episodes_are_the_first_of_more() -> None:
    suite = TabletopSuite()
    assert suite.cases("other", 6) == suite.cases("other", 12)[:6]


@pytest.mark.parametrize("combinations", ["train", "held_out"])
def test_combinations_follow_the_rule(combinations: str) -> None:
    suite = TabletopSuite()
    right = [parse_outcome(case.outcome) for case in suite.cases("right", 24, combinations=combinations)]
    assert {held_out_combination(outcome) for outcome in right} == {combinations == "held_out"}
    if combinations == "train":
        others = [parse_outcome(case.outcome) for case in suite.cases("other", 24, combinations="train")]
        assert not any(map(held_out_combination, others))


@pytest.mark.parametrize(
    ("failure", "kind"), [("wrong_object", "wrong object"), ("wrong_target", "right object, not there")]
)
def test_deliberate_failures_are_told_apart(failure: str, kind: str) -> None:
    suite, env = TabletopSuite(), TabletopEnv(render_observations=False)
    for seed in range(8):
        episode = expert_rollout(env, seed, {"family": "region"}, {"failure": failure})
        found = suite.failure(str(episode.outcome), episode.environment_state)
        assert found.kind == kind
        assert found.achieved and str(episode.outcome) not in found.achieved


def test_standing_still_is_nothing() -> None:
    state = initial_state(TabletopSuite().cases("right", 1)[0])
    failure = TabletopSuite().failure("region(red disc, top left)", np.stack([state] * 5))
    assert (failure.kind, failure.achieved) == ("nothing", ())


def test_every_environment_can_be_named() -> None:
    assert get_args(EnvironmentName) == tuple(SUITES)
    assert set(GRAMMARS) <= set(RECORDERS) <= set(SUITES)


def test_unfit_requests_are_refused() -> None:
    suite = load_suite("tabletop")
    with pytest.raises(ValueError, match="'juggle' is unknown"):
        suite.cases("right", 2, ["juggle"])
    with pytest.raises(ValueError, match="one camera, 'top'"):
        suite.make_env({"wrist": [64, 64]})
    with pytest.raises(ValueError, match="square"):
        suite.make_env({"top": [64, 80]})
    with pytest.raises(ValueError, match="'moonbase' is unknown: use one of tabletop"):
        load_suite("moonbase")
