"""OGBench's scene, its expert and its recordings. Skipped where the extra or a GL library is missing."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
from robots import Still

from vla.config import EvaluationConfig
from vla.data.collect import CollectSettings, collect
from vla.data.layout import ENVIRONMENT_STATE, STATE
from vla.data.segments import Segments
from vla.envs.ogbench import OUTCOMES, Outcome, achievements, feasible, parse_instruction, parse_outcome
from vla.envs.ogbench.state import CUBE, DRAWER, ROBOT
from vla.evaluation.report import write_report
from vla.evaluation.rollout import PROMPTS
from vla.evaluation.summary import evaluate
from vla.inference.stage import PromptError, make_stage
from vla.tasks.audit import audit
from vla.tasks.relabel import relabel

try:
    from vla.envs.ogbench.env import OGBenchSceneEnv
    from vla.envs.ogbench.expert import Expert, Failure, rollout
    from vla.envs.ogbench.play import play
    from vla.envs.ogbench.render import render
    from vla.envs.ogbench.stage import OGBenchSceneStage
    from vla.envs.ogbench.suite import OGBenchSceneSuite
except RuntimeError as missing:
    pytest.skip(str(missing), allow_module_level=True)


@pytest.fixture(scope="module")
def env() -> OGBenchSceneEnv:
    return OGBenchSceneEnv(render_observations=False, actuation_noise=0.15)


def claims_of(states: np.ndarray) -> list[tuple[int, int, Outcome]]:
    return [(c.start, c.end, c.outcome) for c in achievements(states, np.arange(len(states)) == 0)]


@pytest.mark.parametrize("outcome", OUTCOMES, ids=str)
def test_the_expert_brings_it_about_and_hindsight_sees_it(env: OGBenchSceneEnv, outcome: Outcome) -> None:
    episodes = [rollout(env, seed, {"outcome": outcome}) for seed in range(3)]
    assert sum(bool(episode.success[-1]) for episode in episodes) >= 2
    for episode in episodes:
        states = episode.environment_state
        assert states is not None and feasible(outcome, states[0])
        assert episode.success[-1] == outcome.holds(states).any()
        assert parse_instruction(episode.instruction) == outcome
        if outcome.holds(states[-1], outcome.clearly_true):
            assert outcome in {claimed for *_, claimed in claims_of(states)}


def test_what_hindsight_claims_of_play_is_true(env: OGBenchSceneEnv) -> None:
    episode = play(env, seed=1, purposes=8)
    states = episode.environment_state
    assert states is not None and not episode.success.any() and episode.outcome == ""
    claims = claims_of(states)
    assert len({outcome.family for *_, outcome in claims}) >= 3
    for start, end, outcome in claims:
        assert not outcome.holds(states[start]) and outcome.holds(states[end])
        assert not outcome.holds(states[start:end], outcome.clearly_true).all()


def test_a_locked_drawer_is_a_failure_that_moves_nothing(env: OGBenchSceneEnv) -> None:
    episode = rollout(env, 0, {"outcome": Outcome("open", "drawer"), "family": "open"}, failure="locked")
    states = episode.environment_state
    assert states is not None and not episode.success.any()
    assert np.ptp(states[:, DRAWER]) < 0.005
    assert claims_of(states) == []
    assert OGBenchSceneSuite().failure("open(drawer)", states).kind == "nothing"


@pytest.mark.parametrize("failure", ["wrong_thing", "stops"])
def test_deliberate_failures_fail(env: OGBenchSceneEnv, failure: Failure) -> None:
    """Placing a cube takes longer than the patience of one that stops."""
    episodes = [rollout(env, seed, {"family": "place"}, failure) for seed in range(3)]
    assert not any(episode.success.any() for episode in episodes)


def test_a_typed_prompt_is_followed_and_judged() -> None:
    stage = cast(OGBenchSceneStage, make_stage("ogbench-scene", {ROBOT.camera: [48, 48]}))
    stage.reset(prompt="Lock the window.")
    assert "the window is unlocked" in stage.scene()
    assert stage.begin("lock the window") and stage.verdict() == "not done; all is as it was"
    expert = Expert(Outcome("lock", "window"), stage._env.simulator, np.random.default_rng(0))
    for _ in range(stage.max_steps):
        if stage.done:
            break
        stage.step(expert.act())
    assert stage.verdict() == "done: the window is locked"
    assert stage.observe()[ROBOT.image].shape == (48, 48, 3) and stage.picture(64).shape == (64, 64, 3)
    assert stage.begin("the window has to be locked") and stage.verdict().startswith("it was so already")
    assert not stage.begin("sing") and stage.verdict() == "all is as it was"
    is_closed = "the window is closed" in stage.scene()
    with pytest.raises(PromptError, match="try 'unlock the window' first"):
        stage.begin("open the window" if is_closed else "close the window")
    with pytest.raises(PromptError, match="empty"):
        stage.begin(" ")


def test_scenes_and_what_follows_depend_on_the_seed_alone(env: OGBenchSceneEnv) -> None:
    fresh, actions = OGBenchSceneEnv(render_observations=False, actuation_noise=0.15), np.eye(5).repeat(3, axis=0)

    def states(place: OGBenchSceneEnv, seed: int) -> np.ndarray:
        observation, _ = place.reset(seed=seed)
        return np.stack([observation[ENVIRONMENT_STATE], *(place.step(a)[0][ENVIRONMENT_STATE] for a in actions)])

    once, other, again = states(env, 3), states(env, 4), states(env, 3)
    np.testing.assert_array_equal(once, again)
    np.testing.assert_array_equal(once, states(fresh, 3))
    assert not np.array_equal(once[0], other[0])


def test_observations_show_the_scene_and_tell_only_what_the_robot_feels() -> None:
    env = OGBenchSceneEnv(image_size=48)
    observation, info = env.reset(seed=5)
    assert env.observation_space.contains(observation) and observation[STATE].shape == (7,)
    moved = observation[ENVIRONMENT_STATE].copy()
    moved[CUBE] = (0.42, 0.15, 0.02)
    picture, with_cube_elsewhere = render(np.stack([observation[ENVIRONMENT_STATE], moved]), 48)
    np.testing.assert_array_equal(picture, observation[ROBOT.image])
    assert (picture != with_cube_elsewhere).any()
    render(moved[None], 32)  # another size in between, another scene: nothing of either is left in the picture
    np.testing.assert_array_equal(render(observation[ENVIRONMENT_STATE][None], 48)[0], picture)
    assert info["instruction"] and not info["success"]


@pytest.mark.parametrize(("action", "hint"), [(np.zeros(3), "5 numbers"), (np.array([0, 0, np.nan, 0, 0]), "'dz'")])
def test_unusable_actions_are_refused(env: OGBenchSceneEnv, action: np.ndarray, hint: str) -> None:
    env.reset(seed=0)
    with pytest.raises(ValueError, match=hint):
        env.step(action)


def test_unfit_requests_are_refused(env: OGBenchSceneEnv, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'colour' is unknown"):
        env.reset(seed=0, options={"colour": "red"})
    with pytest.raises(ValueError, match="one camera, 'front'"):
        OGBenchSceneSuite().make_env({"top": [64, 64]})
    with pytest.raises(ValueError, match="'juggle' is unknown"):
        OGBenchSceneSuite().cases("right", 2, ["juggle"])
    with pytest.raises(ValueError, match="none out of training"):
        collect(CollectSettings(tmp_path, env="ogbench-scene", combinations="held_out", num_workers=0))


def test_the_prompts_of_a_scene() -> None:
    suite = OGBenchSceneSuite()
    scenes = zip(*(suite.cases(prompt, 12) for prompt in PROMPTS), strict=True)
    for right, other, empty, held_out in scenes:
        original = parse_outcome(right.original)
        assert {case.seed for case in (right, other, empty, held_out)} == {right.seed}
        assert parse_instruction(right.instruction) == parse_instruction(held_out.instruction) == original
        assert right.instruction != held_out.instruction and empty.instruction == "" and empty.outcome == right.outcome
        asked = parse_outcome(other.outcome)
        assert parse_instruction(other.instruction) == asked and not asked.about & original.about
    case = suite.cases("right", 1)[0]
    states = suite.demonstration(case)
    assert suite.achieved(case.original, states)[-1] and not suite.achieved(case.original, states)[0]


def test_a_policy_is_evaluated_in_words_and_pictures(tmp_path: Path) -> None:
    settings = EvaluationConfig(episodes=1, execute=16, num_envs=1)
    assert ROBOT.name == "ogbench-scene" and (ROBOT.camera, len(ROBOT.action_names)) == ("front", 5)
    evaluation = evaluate(Still(ROBOT), OGBenchSceneSuite(), settings, prompts=("right", "other", "goal_image"))
    assert {rate.mean for rate in evaluation.prompts.values()} == {0.0}
    assert {failed.kind for failed in evaluation.failures} == {"nothing"} and evaluation.fps == 20
    assert write_report(evaluation, OGBenchSceneSuite(), tmp_path).is_file()


def test_recordings_are_relabelled_and_stand_the_audit(tmp_path: Path) -> None:
    settings = {"env": "ogbench-scene", "image_size": 32, "num_workers": 0}
    playing = collect(CollectSettings(tmp_path / "play", episodes=2, play=5, **settings))
    found = relabel(playing)
    assert found.segments >= 5 and found.failures_used == found.failures == 2
    assert audit(playing) == []
    told = collect(CollectSettings(tmp_path / "told", episodes=6, failure_rate=0.4, **settings))
    relabel(told)
    assert audit(told) == []
    segments = Segments.load(told)
    recorded = segments.source == "demonstration"
    assert 0 < segments.success[recorded].sum() < 6 and set(segments.embodiment) == {"ogbench-scene"}
