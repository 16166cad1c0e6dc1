"""The chunk executor against a policy that says what it was asked."""

# Shapes: H horizon, A action, T history, S state, Y X pixels.

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.inference.executor import ChunkExecutor


class Recorder:
    """Actions (number of the prediction, place in the chunk); remembers its arguments."""

    def __init__(self, horizon: int = 4, history: int = 1) -> None:
        self.config = SimpleNamespace(model=SimpleNamespace(horizon=horizon, history=history))
        self.calls: list[tuple[dict[str, np.ndarray], str, int, float]] = []
        self.embodiments: set[str | None] = set()

    def act(self, observation: dict, instruction: str, seed: int = 0, guidance: float = 1.0, *,
            embodiment: str | None = None) -> np.ndarray:
        self.embodiments.add(embodiment)
        self.calls.append((observation, instruction, seed, guidance))
        horizon = self.config.model.horizon
        return np.stack([np.full(horizon, len(self.calls) - 1), np.arange(horizon)], axis=1)


def observation(step: int) -> dict[str, np.ndarray]:
    return {
        "observation.state": np.full(2, step, np.float32),
        "observation.images.top": np.full((3, 4, 3), step, np.uint8),
        "observation.environment_state": np.zeros(5),
    }


@given(horizon=st.integers(1, 8), data=st.data(), steps=st.integers(1, 30))
def test_plays_the_first_actions_of_each_chunk(horizon: int, data: st.DataObject, steps: int) -> None:
    execute = data.draw(st.integers(1, horizon))
    policy = Recorder(horizon)
    executor = ChunkExecutor(policy, execute)
    played = [executor.act(observation(step), "go").tolist() for step in range(steps)]
    assert played == [list(divmod(step, execute)) for step in range(steps)]
    assert len(policy.calls) == -(-steps // execute)


def test_each_prediction_sees_the_newest_observation_and_its_own_noise() -> None:
    policy = Recorder()
    executor = ChunkExecutor(policy, execute=2, guidance=1.5, seed=10, embodiment="robot")
    for step in range(4):
        executor.act(observation(step), "go")
    assert [(seen["observation.state"][0], seed, guidance) for seen, _, seed, guidance in policy.calls] == [
        (0, 10, 1.5), (2, 11, 1.5),
    ]  # fmt: skip
    assert "observation.environment_state" not in policy.calls[0][0]
    assert policy.embodiments == {"robot"}


def test_a_new_instruction_drops_the_rest_of_the_chunk() -> None:
    policy = Recorder()
    executor = ChunkExecutor(policy, execute=4)
    executor.act(observation(0), "go")
    assert executor.act(observation(1), "stop").tolist() == [1, 0]
    assert executor.act(observation(2), "stop").tolist() == [1, 1]
    assert [instruction for _, instruction, _, _ in policy.calls] == ["go", "stop"]


def test_a_reset_begins_anew() -> None:
    policy = Recorder(history=2)
    executor = ChunkExecutor(policy, execute=3, seed=5)
    for step in range(4):
        executor.act(observation(step), "go")
    executor.reset()
    executor.act(observation(9), "go")
    seen, _, seed, _ = policy.calls[-1]
    assert seed == 5 and seen["observation.state"].tolist() == [[9, 9]]


def test_history_is_the_last_observations_oldest_first() -> None:
    policy = Recorder(history=3)
    executor = ChunkExecutor(policy, execute=1)
    for step in range(5):
        executor.act(observation(step), "go")
    states = [seen["observation.state"][:, 0].tolist() for seen, *_ in policy.calls]
    assert states == [[0], [0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert policy.calls[-1][0]["observation.images.top"].shape == (3, 3, 4, 3)


@pytest.mark.parametrize("execute", [0, 5, -1])
def test_more_than_the_horizon_cannot_be_executed(execute: int) -> None:
    with pytest.raises(ValueError, match="predicts 4 actions"):
        ChunkExecutor(Recorder(horizon=4), execute)
