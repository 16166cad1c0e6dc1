"""The expert: it succeeds, it fails on request, and what it does is a function of what it sees."""

import numpy as np
import pytest

from vla.data.layout import ENVIRONMENT_STATE
from vla.envs.tabletop import FAMILIES, Expert, TabletopEnv, achievements, all_outcomes, play, rollout
from vla.envs.tabletop.env import MAX_STEP
from vla.envs.tabletop.state import objects, positions, slot_of, tip_position


def env(**kwargs) -> TabletopEnv:
    return TabletopEnv(render_observations=False, **kwargs)


@pytest.mark.parametrize("family", FAMILIES)
def test_succeeds_through_disturbances(family: str) -> None:
    table = env(actuation_noise=0.15)
    episodes = [rollout(table, seed, {"family": family}) for seed in range(20)]
    assert np.mean([episode.success[-1] for episode in episodes]) >= 0.9
    assert np.median([len(episode.action) for episode in episodes]) <= 27


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 0.15])
@pytest.mark.parametrize("family", FAMILIES)
def test_success_rate(family: str, noise: float) -> None:
    table = env(actuation_noise=noise)
    rate = np.mean([rollout(table, seed, {"family": family}).success[-1] for seed in range(300)])
    assert rate >= 0.98


def test_an_episode_has_one_row_a_step_and_stays_still_after_success() -> None:
    table = TabletopEnv(image_size=64)
    for seed, family in enumerate(FAMILIES):
        episode = rollout(table, seed, {"family": family})
        steps = len(episode.action)
        assert episode.images["top"].shape == (steps, 64, 64, 3) and episode.images["top"].dtype == np.uint8
        assert episode.state.shape == (steps, 4) and episode.environment_state.shape[0] == steps
        assert episode.action.dtype == episode.state.dtype == episode.environment_state.dtype == np.float32
        np.testing.assert_array_equal(episode.success, [False] * (steps - 3) + [True] * 3)
        np.testing.assert_array_equal(episode.action[-2:, :2], 0)
        assert episode.outcome.holds(episode.environment_state)[-2:].all()
        assert not episode.outcome.holds(episode.environment_state)[:-2].any()
        assert (np.abs(episode.action) <= 1).all()


def test_a_false_start_is_not_recorded_but_what_to_do_about_it_is() -> None:
    table, moved, succeeded = env(), 0, 0
    for seed in range(60):
        straight, again = (rollout(table, seed, {"family": "direction"}, false_start=flag) for flag in (False, True))
        before, after = straight.environment_state[0], again.environment_state[0]
        assert again.outcome == straight.outcome and not again.outcome.holds(after)
        for state, action in zip(again.environment_state, again.action, strict=True):
            np.testing.assert_array_equal(action, Expert(again.outcome, np.random.default_rng(0)).act(state))
        moved += np.abs(positions(after) - positions(before)).max() > 0.05
        succeeded += again.success[-1]
    assert moved >= 40 and succeeded >= 54


def test_a_rollout_is_a_pure_function_of_its_arguments() -> None:
    table = TabletopEnv(image_size=48, actuation_noise=0.15)
    first = rollout(table, 7, {"family": "direction"})
    rollout(table, 8)
    second = rollout(TabletopEnv(image_size=48, actuation_noise=0.15), 7, {"family": "direction"})
    np.testing.assert_array_equal(first.images["top"], second.images["top"])
    np.testing.assert_array_equal(first.action, second.action)
    np.testing.assert_array_equal(first.environment_state, second.environment_state)
    assert (first.instruction, first.outcome) == (second.instruction, second.outcome)


def test_recorded_actions_are_the_intended_ones_not_the_disturbed() -> None:
    episode = rollout(env(actuation_noise=0.15), 3, {"family": "region"})
    expert = Expert(episode.outcome, np.random.default_rng(0))
    np.testing.assert_array_equal(episode.action, [expert.act(state) for state in episode.environment_state])
    executed = np.diff(tip_position(episode.environment_state), axis=0)
    assert np.abs(executed - MAX_STEP * episode.action[:-1, :2]).max() > 0.005


def test_touches_little_else() -> None:
    """Where the way is free of disturbances, other things are hardly ever moved."""
    moved = []
    for seed in range(40):
        episode = rollout(env(), seed)
        first, last = episode.environment_state[[0, -1]]
        named = [int(slot_of(first, thing)) for thing in (episode.outcome.thing, *episode.outcome.others)]
        others = [slot for slot in range(6) if slot not in named and objects(first)[slot, 0]]
        moved += np.linalg.norm(positions(last)[others] - positions(first)[others], axis=1).tolist()
    assert np.mean(np.array(moved) > 0.01) < 0.05


@pytest.mark.parametrize("failure", ["wrong_object", "drops", "stops", "wrong_target"])
def test_fails_on_request(failure: str) -> None:
    failed = steps = 0
    for seed in range(16):
        episode = rollout(env(), seed, expert_kwargs={"failure": failure})
        failed += not episode.success[-1]
        steps += len(episode.action)
    assert failed >= 14  # now and then a failure achieves the outcome by accident, and says so
    assert steps / 16 < 35


def test_recovers_from_any_outcome_being_asked_at_any_time() -> None:
    """A new outcome in the middle of another, as when a person types a prompt."""
    table = env(max_steps=200)
    for seed in range(6):
        observation, info = table.reset(seed=seed, options={"family": "next_to"})
        expert = Expert(info["outcome"], np.random.default_rng(0))
        for _ in range(8):
            observation, *_ = table.step(expert.act(observation[ENVIRONMENT_STATE]))
        choices = all_outcomes(observation[ENVIRONMENT_STATE], ("region", "direction"))
        table.set_outcome(choices[seed % len(choices)])
        expert = Expert(table.outcome, np.random.default_rng(0))
        for _ in range(60):
            observation, _, terminated, *_ = table.step(expert.act(observation[ENVIRONMENT_STATE]))
            if terminated:
                break
        assert terminated, table.outcome


def test_play_brings_one_thing_about_after_the_other_and_claims_none() -> None:
    table = env(actuation_noise=0.15)
    for seed in range(4):
        episode = play(table, seed, purposes=6)
        assert len(episode.action) == len(episode.state) and not episode.success.any() and episode.outcome is None
        found = achievements(episode.environment_state, np.arange(len(episode.state)) == 0)
        assert len({claim.end for claim in found}) >= 5
        np.testing.assert_array_equal(episode.action, play(table, seed, purposes=6).action)
