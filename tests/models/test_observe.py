"""An observation that doesn't fit is refused by the name of its field."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import IMAGE, STATE, raw_observation

from vla.models.observe import Layout, ObservationError, stack

LAYOUT = Layout({"top": (64, 64)}, state_dim=3, history=2)


def changed(**fields: np.ndarray) -> dict[str, np.ndarray]:
    return raw_observation() | {{"state": STATE, "image": IMAGE}[name]: value for name, value in fields.items()}


def without(key: str) -> dict[str, np.ndarray]:
    return {name: value for name, value in raw_observation().items() if name != key}


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (changed(image=np.zeros((32, 64, 3), np.uint8)), rf"{IMAGE}: shape \(32, 64, 3\).*\(64, 64, 3\).*resize"),
        (changed(image=np.zeros((3, 64, 64), np.uint8)), rf"{IMAGE}: shape"),
        (changed(image=np.zeros((64, 64, 3), np.float32)), rf"{IMAGE}: type float32, expected uint8"),
        (changed(image=np.zeros((3, 64, 64, 3), np.uint8)), rf"{IMAGE}: 3 observations.*history of 2"),
        (changed(state=np.array([0, np.nan, 0])), rf"{STATE}: component 1 is nan"),
        (changed(state=np.array([0, 0, -np.inf])), rf"{STATE}: component 2 is -inf"),
        (changed(state=np.zeros(4)), rf"{STATE}: shape \(4,\).*3 components"),
        (changed(state=np.zeros((3, 3))), rf"{STATE}: 3 observations.*history of 2"),
        (changed(state=np.zeros((2, 3))), rf"{IMAGE}: not as many as of {STATE}"),
        (without(IMAGE), rf"{IMAGE}: missing.*{STATE}"),
        (without(STATE), rf"{STATE}: missing.*{IMAGE}"),
    ],
)
def test_the_field_is_named(observation: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ObservationError, match=message):
        stack([observation], ["touch it"], LAYOUT)


def test_instructions_are_strings_and_one_each() -> None:
    with pytest.raises(ObservationError, match="1 observations but 2 instructions"):
        stack([raw_observation()], ["touch it", "move it"], LAYOUT)
    with pytest.raises(ObservationError, match="instruction: expected a string, got NoneType"):
        stack([raw_observation()], [None], LAYOUT)  # type: ignore[list-item]


def test_a_first_observation_stands_for_the_past_there_was_not() -> None:
    observation = stack([raw_observation()], ["  touch it "], LAYOUT)
    assert observation.task.instruction == ["touch it"]
    assert observation.state.shape == (1, 2, 3) and observation.images["top"].shape == (1, 2, 64, 64, 3)
    assert observation.history_valid is not None and observation.history_valid.tolist() == [[False, True]]
    np.testing.assert_array_equal(observation.state[0, 0], observation.state[0, 1])
