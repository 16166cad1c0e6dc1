"""Keyframes are the switches of two-valued components and the ends of segments."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vla.data.keyframes import next_keyframes, switch_frames


def test_only_components_that_know_two_positions_switch() -> None:
    rng = np.random.default_rng(0)
    gripper = np.repeat([-1.0, 1.0, -1.0], [40, 25, 35]) + rng.uniform(-0.05, 0.05, 100)
    actions = np.stack([rng.uniform(-1, 1, 100), gripper, np.full(100, 0.3)], axis=1)
    assert switch_frames(actions, np.array([0])).tolist() == [40, 65]
    assert switch_frames(actions[:, [0, 2]], np.array([0])).tolist() == []


def test_every_episode_may_know_two_positions_of_its_own() -> None:
    rng = np.random.default_rng(0)
    gripper = np.concatenate([np.repeat([0.0, 1.0], 20), np.full(30, -1.0), np.repeat([-1.0, 0.6], [10, 20])])
    actions = np.stack([rng.uniform(-1, 1, 100), gripper], axis=1)
    starts = np.array([0, 40, 70])
    assert np.setdiff1d(switch_frames(actions, starts), starts).tolist() == [20, 80]


@given(st.sets(st.integers(1, 60)), st.integers(0, 59), st.integers(0, 30), st.integers(1, 4))
def test_the_next_ones_in_order_and_then_the_end(switches: set[int], frame: int, left: int, count: int) -> None:
    last = frame + left
    expected = sorted(switch for switch in switches if frame < switch < last)[:count]
    expected += [last] * (count - len(expected))
    found = next_keyframes(np.array(sorted(switches), dtype=np.int64), np.array([frame]), np.array([last]), count)
    assert found.tolist() == [expected]
