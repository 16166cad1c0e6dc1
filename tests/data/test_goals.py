"""Goals come from what was reached later, and rewards follow from the goal and not from the recording."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.data.goals import Strategy, draw_goals, goal_reward, lasting_ends

STRATEGIES: tuple[Strategy, ...] = ("final", "future", "geometric")


@given(
    st.sampled_from(STRATEGIES),
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 80)), min_size=1, max_size=20),
    st.integers(1, 5),
    st.floats(0.5, 0.999),
    st.integers(0, 2**32 - 1),
)
def test_a_goal_is_later_and_within_the_trajectory(
    strategy: Strategy, spans: list[tuple[int, int]], count: int, discount: float, seed: int
) -> None:
    frame = np.array([first for first, _ in spans])
    last = frame + np.array([left for _, left in spans])
    goals = draw_goals(frame, last, strategy, np.random.default_rng(seed).random((len(spans), count)), discount)
    assert goals.shape == (len(spans), count)
    assert ((goals > frame[:, None]) | (frame == last)[:, None]).all()
    assert (goals <= last[:, None]).all()
    if strategy == "final":
        assert (goals == last[:, None]).all()


def test_every_later_frame_comes_and_as_often_as_it_should() -> None:
    uniform = np.random.default_rng(0).random((1, 60_000))
    frame, last = np.array([10]), np.array([18])
    future = np.bincount(draw_goals(frame, last, "future", uniform)[0] - 11, minlength=8) / 60_000
    np.testing.assert_allclose(future, np.full(8, 1 / 8), atol=0.006)
    near = np.bincount(draw_goals(frame, last, "geometric", uniform, 0.7)[0] - 11, minlength=8) / 60_000
    expected = 0.7 ** np.arange(8)
    np.testing.assert_allclose(near, expected / expected.sum(), atol=0.006)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_ends_of_chance_are_the_ends_of_the_trajectory(strategy: Strategy) -> None:
    uniform = np.array([[0.0, np.nextafter(1, 0)]])
    goals = draw_goals(np.array([3]), np.array([9]), strategy, uniform)
    assert goals.tolist() == [[9, 9] if strategy == "final" else [4, 9]]


@given(st.lists(st.lists(st.integers(0, 1), min_size=3, max_size=3), min_size=2, max_size=12))
def test_a_lasting_goal_shows_what_its_segment_changed(path: list[list[int]]) -> None:
    states = np.array(path, dtype=np.float32)
    first, last = np.arange(len(path) - 1), np.arange(1, len(path))
    found = lasting_ends(first, last, states, [[0], [1, 2]])
    for begin, end, goals in zip(first, last, found, strict=True):
        changed = [numbers for numbers in ([0], [1, 2]) if (states[begin] != states[end])[numbers].any()]
        same = [later for later in range(end, len(path))
                if all((states[later] == states[end])[numbers].all() for numbers in changed)]  # fmt: skip
        assert goals.tolist() == (same if changed else [end])


def test_what_makes_no_sense_is_refused() -> None:
    uniform = np.zeros((1, 1))
    with pytest.raises(ValueError, match="frame 5 lies after 4"):
        draw_goals(np.array([5]), np.array([4]), "final", uniform)
    with pytest.raises(ValueError, match="discount is 1"):
        draw_goals(np.array([1]), np.array([4]), "geometric", uniform, 1.0)
    with pytest.raises(ValueError, match="'past' is unknown"):
        draw_goals(np.array([1]), np.array([4]), "past", uniform)  # type: ignore[arg-type]


@given(st.integers(1, 6), st.floats(0.01, 1), st.integers(0, 2**32 - 1))
def test_rewards_follow_from_the_distance_to_the_goal(size: int, tolerance: float, seed: int) -> None:
    state, goal = np.random.default_rng(seed).normal(size=(2, 30, size)).astype(np.float32)
    distance = np.sqrt(((state.astype(np.float64) - goal) ** 2).sum(axis=-1))
    sparse, done = goal_reward(state, goal, "sparse", tolerance)
    dense, same = goal_reward(state, goal, "dense", tolerance)
    assert (done == (distance <= tolerance)).all() and (same == done).all()
    assert (sparse == done).all()
    np.testing.assert_allclose(dense, -distance, rtol=1e-6)
    assert goal_reward(goal, goal, "sparse", tolerance)[1].all()
