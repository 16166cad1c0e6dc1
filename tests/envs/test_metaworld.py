"""Meta-World, its experts, recordings and evaluation. Skipped where the extra or a GL library is missing."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from robots import Still
from tiny import run_config

from vla.config import EvaluationConfig
from vla.data.collect import CollectSettings, collect
from vla.data.layout import ENVIRONMENT_STATE, STATE
from vla.data.segments import Segments
from vla.envs import load_grammar, load_suite
from vla.envs.metaworld import LEROBOT, MT10, MT50, TASKS, TIERS, Protocol
from vla.envs.metaworld.state import QPOS, ROBOT, SCENE, SUCCESS
from vla.envs.metaworld.tasks import NUMBER
from vla.evaluation.report import write_report
from vla.evaluation.statistics import Rate
from vla.evaluation.summary import evaluate
from vla.inference.stage import PromptError, make_stage
from vla.models.policy import VLAPolicy
from vla.training.trainer import train

try:
    from vla.envs.metaworld.env import MetaWorldEnv
    from vla.envs.metaworld.expert import rollout
    from vla.envs.metaworld.render import render
    from vla.envs.metaworld.simulator import Simulator
    from vla.envs.metaworld.stage import MT10Stage
    from vla.envs.metaworld.suite import MT10Suite, MT50Suite
except RuntimeError as missing:
    pytest.skip(str(missing), allow_module_level=True)

# What resets move differs: positions, bodies, sites, the camera's neighbours; the first is drawn again and again.
SOME = ("drawer-close", "reach", "basketball", "peg-insert-side", "stick-pull")


@pytest.fixture(scope="module")
def env() -> MetaWorldEnv:
    return MetaWorldEnv(render_observations=False, actuation_noise=0.15)


def test_the_tasks_are_grouped_as_published() -> None:
    assert Counter(task.tier for task in TASKS) == {"easy": 28, "medium": 11, "hard": 6, "very_hard": 5}
    assert set(MT10) < set(MT50) and len(MT10) == 10 and len(MT50) == 50
    assert set().union(*TIERS.values()) == set(MT50)


def test_deviations_from_the_protocol_are_said() -> None:
    instead = Protocol().to_json()["lerobot_instead"]
    assert instead == {
        "image_size": 480, "shadows": True, "multisampling": True, "push_back_text": "Push the puck to a goal",
    }  # fmt: skip
    assert LEROBOT.to_json() == {**asdict(LEROBOT), "lerobot_instead": {}}
    assert len({Protocol().instruction(task) for task in MT50}) == 50
    assert LEROBOT.instruction("push-back") == LEROBOT.instruction("push")


def test_a_typed_prompt_says_which_scene_and_is_followed() -> None:
    from metaworld.policies import ENV_POLICY_MAP  # imports MuJoCo, which must know its GL library by then

    stage = cast(MT10Stage, make_stage("metaworld-mt10", {ROBOT.camera: [48, 48]}))
    stage.reset(prompt="open a drawer.")
    assert stage.scene() == "drawer-open, made for 'Open a drawer'"
    assert stage.begin("Open a drawer") and not stage.done
    assert stage.verdict() == "not done; it moved nothing"
    expert = cast(Any, ENV_POLICY_MAP["drawer-open-v3"])()
    for _ in range(stage.max_steps):
        if stage.done:
            break
        stage.step(np.clip(expert.get_action(stage._env.simulator.observation), -1, 1))
    assert stage.verdict() == "done: Open a drawer"
    assert stage.observe()[ROBOT.image].shape == (48, 48, 3) and stage.picture(64).shape == (64, 64, 3)
    assert not stage.begin("dance") and not stage.done
    with pytest.raises(PromptError, match="no drawer-close here but drawer-open"):
        stage.begin("Push and close a drawer")
    with pytest.raises(PromptError, match="Open a drawer"):
        stage.begin(" ")


@pytest.mark.parametrize("task", SOME)
def test_the_expert_does_it(env: MetaWorldEnv, task: str) -> None:
    episodes = [rollout(env, seed, {"family": task}, false_start=seed == 2) for seed in range(3)]
    assert sum(bool(episode.success[-1]) for episode in episodes) >= 2
    for episode in episodes:
        states = episode.environment_state
        assert states is not None and episode.outcome == episode.task == task
        assert episode.success[-1] == (states[:, SUCCESS] > 0).any() and not episode.success[0]
        assert np.abs(episode.action).max() <= 1 and len(episode) <= 401


@pytest.mark.parametrize("task", SOME)
def test_scenes_and_what_follows_depend_on_task_and_seed_alone(env: MetaWorldEnv, task: str) -> None:
    actions = np.eye(4).repeat(3, axis=0)

    def states(place: MetaWorldEnv, seed: int) -> np.ndarray:
        observation, _ = place.reset(seed=seed, options={"family": task})
        return np.stack([observation[ENVIRONMENT_STATE], *(place.step(a)[0][ENVIRONMENT_STATE] for a in actions)])

    once, other, again = states(env, 3), states(env, 4), states(env, 3)
    fresh = MetaWorldEnv(render_observations=False, actuation_noise=0.15)
    np.testing.assert_array_equal(once, again)
    np.testing.assert_array_equal(once, states(fresh, 3))  # in another simulator: `env` keeps its own
    assert not np.array_equal(render(once[:1], 32, Protocol()), render(other[:1], 32, Protocol()))


@pytest.mark.parametrize("task", SOME)
def test_a_picture_is_a_function_of_the_recorded_state(task: str) -> None:
    env = MetaWorldEnv(protocol=Protocol(image_size=48))
    observations = [env.reset(seed=seed, options={"family": task})[0] for seed in (5, 6)]
    observations += [env.step(np.array([1, -1, 0, 1]))[0] for _ in range(8)]
    assert env.observation_space.contains(observations[0]) and observations[0][STATE].shape == (4,)
    states = np.stack([observation[ENVIRONMENT_STATE] for observation in observations])
    render(states[:1], 32, Protocol())  # another size in between leaves nothing in the pictures
    pictures = MT50Suite().views(states[::-1], {ROBOT.camera: [48, 48]})[ROBOT.camera][::-1]
    np.testing.assert_array_equal(pictures, np.stack([observation[ROBOT.image] for observation in observations]))
    assert (pictures[0] != pictures[1]).any() and (pictures[-1] != pictures[1]).any()


def test_the_picture_is_lerobots() -> None:
    """Drawn as LeRobot does: Meta-World's own renderer, its camera moved, both axes flipped."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    size, seed = 96, 7
    shown = {"render_mode": "rgb_array", "camera_name": ROBOT.camera, "width": size, "height": size}
    theirs = ALL_V3_ENVIRONMENTS["door-open-v3"](**shown)
    theirs._set_task_called, theirs._freeze_rand_vec, theirs.seeded_rand_vec = True, False, True
    theirs.model.cam_pos[2] = [0.75, 0.075, 0.7]
    theirs.seed(seed)
    theirs.reset()
    ours = MetaWorldEnv(protocol=replace(LEROBOT, image_size=size))
    ours.reset(seed=seed, options={"family": "door-open"})
    action = np.array([0.3, 0.5, -0.2, 1.0])
    for _ in range(5):
        felt, *_ = theirs.step(action)
        observation, *_ = ours.step(action)
    np.testing.assert_allclose(observation[STATE], felt[:4], atol=1e-7)
    difference = np.abs(np.flip(theirs.render(), (0, 1)).astype(int) - observation[ROBOT.image])
    assert (difference > 2).mean() < 1e-3  # positions were rounded to float32 on the way
    theirs.close()


def test_environments_of_a_task_do_not_disturb_each_other() -> None:
    """They share a model."""

    def play(seeds: list[int]) -> list[np.ndarray]:
        places = [MetaWorldEnv(render_observations=False) for _ in seeds]
        for place, seed in zip(places, seeds, strict=True):
            place.reset(seed=seed, options={"family": "button-press-topdown"})
        for _ in range(40):
            observations = [place.step(np.array([0.1, 0.3, -1, 1]))[0] for place in places]
        return [observation[ENVIRONMENT_STATE] for observation in observations]

    together = play([1, 2])
    np.testing.assert_array_equal(together[0], *play([1]))
    np.testing.assert_array_equal(together[1], *play([2]))


@pytest.mark.parametrize(("action", "hint"), [(np.zeros(3), "4 numbers"), (np.array([0, np.nan, 0, 0]), "'dy'")])
def test_unusable_actions_are_refused(env: MetaWorldEnv, action: np.ndarray, hint: str) -> None:
    env.reset(seed=0, options={"family": "reach"})
    with pytest.raises(ValueError, match=hint):
        env.step(action)


def test_unfit_requests_are_refused(env: MetaWorldEnv, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'colour' is unknown"):
        env.reset(seed=0, options={"colour": "red"})
    with pytest.raises(ValueError, match="'juggle' is unknown"):
        env.reset(seed=0, options={"family": "juggle"})
    with pytest.raises(ValueError, match="scene 16777216 doesn't exist"):
        env.reset(seed=2**24, options={"family": "reach"})
    with pytest.raises(ValueError, match="one camera, 'corner2'"):
        MT10Suite().make_env({"front": [64, 64]})
    with pytest.raises(ValueError, match="'hammer' is unknown: metaworld-mt10 has reach"):
        MT10Suite().cases("right", 2, ["hammer"])
    with pytest.raises(ValueError, match="metaworld-mt10 has right, shuffled, empty"):
        evaluate(Still(ROBOT), MT10Suite(), EvaluationConfig(), prompts=("right", "other"))
    with pytest.raises(ValueError, match="no outcomes are known"):
        load_grammar(ROBOT.name)
    for unfit in ({"combinations": "held_out"}, {"phrasings": "held_out"}, {"play": 3}, {"failure_rate": 0.5}):
        with pytest.raises(ValueError, match=f"{min(unfit)}: not for metaworld-mt10"):
            collect(CollectSettings(tmp_path, env="metaworld-mt10", num_workers=0, **unfit))


def test_the_prompts_of_a_scene() -> None:
    suite = MT50Suite()
    for right, shuffled, empty in zip(*(suite.cases(prompt, 50) for prompt in suite.prompts), strict=True):
        assert right.outcome == shuffled.outcome == empty.outcome == right.family
        assert right.seed == shuffled.seed == empty.seed >= 1_000_000
        assert right.instruction == Protocol().instruction(right.family)
        assert shuffled.instruction != right.instruction and shuffled.instruction and not empty.instruction
    assert [case.family for case in suite.cases("right", 50)] == list(MT50)
    case = MT10Suite().cases("right", 4, seed=1_000_006)[0]
    states = suite.demonstration(case)
    assert suite.achieved(case.original, states)[-1] and not suite.achieved(case.original, states)[0]
    assert not suite.achieved("hammer", states).any() and states[0, SCENE] == case.seed


def test_recordings_are_trained_on_and_the_policy_evaluated(
    tmp_path: Path, encoders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLA_CACHE", str(tmp_path / "cache"))
    families = ("drawer-close", "window-open")
    settings = CollectSettings(
        tmp_path / "data", episodes=4, env="metaworld-mt10", families=families, image_size=64, num_workers=0
    )
    segments = Segments.load(collect(settings))
    assert segments.success.all() and set(segments.embodiment) == {ROBOT.name}
    assert dict(Counter(segments.task)) == dict.fromkeys(families, 2)
    assert set(segments.instruction) == {Protocol().instruction(family) for family in families}
    recorded = json.loads((tmp_path / "data/vla/collection.json").read_text())
    assert recorded["protocol"] == Protocol(image_size=64).to_json()

    policy = VLAPolicy.from_pretrained(
        train(run_config(tmp_path / "data", encoders, tmp_path / "run", training__steps=2))
    )
    suite = load_suite("metaworld-mt10")
    suite._protocol = Protocol(max_steps=32)
    evaluation = evaluate(policy, suite, EvaluationConfig(episodes=2, execute=8, num_envs=2))
    assert set(evaluation.prompts) == {"right", "shuffled", "empty"} and set(evaluation.families) == set(families)
    assert evaluation.tiers == {} and evaluation.chance is evaluation.unasked is None and evaluation.fps == 80
    assert evaluation.protocol["image_size"] == 64 and evaluation.protocol["max_steps"] == 32
    written = write_report(evaluation, suite, tmp_path / "report")
    assert json.loads((written.parent / "evaluation.json").read_text())["protocol"] == evaluation.protocol


def test_tiers_are_reported_where_all_tasks_are_played(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = MT50Suite(Protocol(max_steps=1))
    monkeypatch.setattr(suite, "make_env", lambda cameras: Announced(suite))
    evaluation = evaluate(Still(ROBOT), suite, EvaluationConfig(episodes=50, execute=1), prompts=("right",))
    assert {name: rate.n for name, rate in evaluation.tiers.items()} == {
        "easy": 28, "medium": 11, "hard": 6, "very_hard": 5, "average": 50,
    }  # fmt: skip
    assert evaluation.tiers["easy"] == Rate.of([True] * 28) and evaluation.tiers["average"].mean == 0.25
    low, high = evaluation.tiers["average"].ci95
    assert 0.15 < low < 0.25 < high < 0.5


class Announced:
    """Succeeds in the easy tasks at once, without a simulator."""

    def __init__(self, suite: MT50Suite) -> None:
        self._suite = suite

    def reset(self, *, seed: int, options: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        self._task = options["family"]
        return self._seen(0), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        return self._seen(self._task in TIERS["easy"]), 0.0, False, True, {}

    def image(self) -> np.ndarray:
        return np.zeros((32, 32, 3), np.uint8)

    def _seen(self, success: bool) -> dict[str, np.ndarray]:
        state = np.array([NUMBER[self._task], 0, success, *np.zeros(26)], np.float32)
        return {STATE: np.zeros(4, np.float32), ENVIRONMENT_STATE: state}


def test_every_task_fits_into_a_state() -> None:
    simulator = Simulator("stick-pull")
    assert QPOS + simulator.model.nq <= len(simulator.state())
