"""Running policies: what they get to see, and that nothing depends on how many run at once."""

from dataclasses import replace

import numpy as np
import pytest
from policies import STATE, FakePolicy, Oracle, PeekingSuite, Random

from vla.envs.tabletop.suite import TabletopSuite
from vla.evaluation.rollout import PROMPTS, Observation, rollout

SUITE = TabletopSuite()


def test_results_do_not_depend_on_how_many_run_side_by_side() -> None:
    cases = [case for prompt in ("right", "other") for case in SUITE.cases(prompt, 5)]
    alone, together = (rollout(Random(), SUITE, cases, num_envs=num_envs) for num_envs in (1, 4))
    assert [run.case for run in alone] == cases
    for a, b in zip(alone, together, strict=True):
        assert (a.case, a.success, a.original, a.steps) == (b.case, b.success, b.original, b.steps)
        np.testing.assert_array_equal(a.states, b.states)


def test_prompts_share_their_noise_and_predictions_do_not() -> None:
    cases = [SUITE.cases(prompt, 1)[0] for prompt in PROMPTS]
    policy = FakePolicy()
    rollout(policy, SUITE, cases)
    assert all(len(set(seeds)) == 1 for _, _, seeds in policy.calls)
    assert len({seeds[0] for _, _, seeds in policy.calls}) == len(policy.calls)


def test_the_horizon_recedes() -> None:
    policy = FakePolicy()
    (run,) = rollout(policy, SUITE, SUITE.cases("right", 1), execute=7)
    assert len(run.states) == 61
    assert len(policy.calls) == -(-60 // 7)
    for number, (observations, _, _) in enumerate(policy.calls):
        np.testing.assert_array_equal(observations[0][STATE][:2], run.states[7 * number, :2])


@pytest.mark.parametrize("execute", [0, 17])
def test_more_than_the_horizon_cannot_be_played(execute: int) -> None:
    with pytest.raises(ValueError, match="choose 1 to 16"):
        rollout(FakePolicy(), SUITE, SUITE.cases("right", 1), execute=execute)


def test_the_policy_sees_images_of_its_size_but_not_the_simulator() -> None:
    policy = FakePolicy()
    rollout(policy, SUITE, SUITE.cases("right", 2))
    (observation, _), _, _ = policy.calls[0]
    assert set(observation) == {"observation.images.top", STATE}
    assert observation["observation.images.top"].shape == (64, 64, 3)


@pytest.mark.parametrize("execute", [2, 5])
def test_history_is_the_last_observations_of_every_step(execute: int) -> None:
    class Mover(FakePolicy):
        def chunk(self, observation: Observation, instruction: str, seed: int) -> np.ndarray:
            return np.tile([0.3, 0.1, -1.0], (16, 1))

    policy = Mover(history=3)
    (run,) = rollout(policy, SUITE, SUITE.cases("right", 1), execute=execute)
    for number, (observations, _, _) in enumerate(policy.calls):
        now = execute * number
        steps = range(max(now - 2, 0), now + 1)
        np.testing.assert_array_equal(observations[0][STATE][:, :2], run.states[steps, :2])
        assert observations[0]["observation.images.top"].shape == (len(steps), 64, 64, 3)


def test_success_ends_the_episode_only_where_nothing_else_is_watched_for() -> None:
    suite = PeekingSuite()
    cases = [suite.cases(prompt, 4)[number] for number in range(4) for prompt in ("right", "other")]
    for run in rollout(Oracle(), suite, cases):
        assert run.success
        assert run.original == (run.case.prompt == "right")  # doing the other does not do the original
        assert len(run.states) - 1 == (run.steps if run.case.prompt == "right" else 60)
        assert suite.achieved(run.case.outcome, run.states)[run.steps]
        assert not suite.achieved(run.case.outcome, run.states)[: run.steps].any()


def test_crashes_are_not_failures() -> None:
    class Broken(FakePolicy):
        def chunk(self, observation: Observation, instruction: str, seed: int) -> np.ndarray:
            return np.full((16, 3), np.nan)

    with pytest.raises(ValueError, match="'dx' is NaN"):
        rollout(Broken(), SUITE, SUITE.cases("right", 2))


def test_progress_counts_to_the_end() -> None:
    seen: list[tuple[int, int]] = []
    rollout(FakePolicy(), SUITE, SUITE.cases("right", 3), num_envs=2, progress=lambda *counts: seen.append(counts))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_nothing_to_run_is_fine() -> None:
    assert rollout(FakePolicy(), SUITE, []) == []


def test_an_impossible_scene_is_an_error() -> None:
    case = replace(SUITE.cases("right", 1)[0], options={"family": "juggle"})
    with pytest.raises(ValueError, match="juggle"):
        rollout(FakePolicy(), SUITE, [case])
