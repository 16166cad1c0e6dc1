"""Raw observations, as a robot or a simulator gives them, checked and stacked into an `Observation`.

A raw observation is a dict with LeRobot's keys: `observation.state` [S] and, for every camera the policy was trained
with, `observation.images.<name>` uint8 [Y, X, 3]. A policy with a history of T observations takes [T, S] and
[T, Y, X, 3] instead, oldest first; a single observation then stands for an episode's start.

Shapes: B batch, T history, S state, Y X pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from vla.batch import Observation

STATE = "observation.state"
IMAGES = "observation.images."

RawObservation = Mapping[str, np.ndarray]


class ObservationError(ValueError):
    """An observation that doesn't fit the policy. The message names the field, what came and what is expected."""


def stack(observations: Sequence[RawObservation], instructions: Sequence[str], *, cameras: Mapping[str, Sequence[int]],
          state_dim: int, history: int) -> Observation:
    """One `Observation` of batch size B from B raw ones.

    Args:
        cameras: name -> (height, width) that the policy expects.

    Raises:
        ObservationError: a field is missing, of the wrong shape or type, or not finite.
    """
    if len(observations) != len(instructions):
        raise ObservationError(f"{len(observations)} observations but {len(instructions)} instructions; give one each")
    for instruction in instructions:
        if not isinstance(instruction, str):
            raise ObservationError(f"instruction: expected a string, got {type(instruction).__name__}")
    pairs = [_with_history(_state(raw, state_dim), 1, history, STATE) for raw in observations]
    states, valid = zip(*pairs, strict=True)
    images = {}
    for name, size in cameras.items():
        pairs = [_with_history(_image(raw, name, size), 3, history, IMAGES + name) for raw in observations]
        values, seen = zip(*pairs, strict=True)
        if not np.array_equal(seen, valid):
            raise ObservationError(f"{IMAGES}{name}: not as many as of {STATE}; give the same past of each")
        images[name] = torch.from_numpy(np.stack(values))
    return Observation(
        state=torch.from_numpy(np.stack(states)),
        instruction=[instruction.strip() for instruction in instructions],
        images=images,
        history_valid=torch.from_numpy(np.stack(valid)) if history > 1 else None,
    )


def _state(raw: RawObservation, size: int) -> np.ndarray:
    """[S] or [T, S] float32."""
    state = np.asarray(_field(raw, STATE), dtype=np.float32)
    if state.ndim not in (1, 2) or state.shape[-1] != size:
        raise ObservationError(f"{STATE}: shape {state.shape}, but the policy was trained with {size} components")
    bad = np.flatnonzero(~np.isfinite(state).reshape(-1, size).all(axis=0))
    if len(bad):
        values = state[..., bad[0]]
        raise ObservationError(f"{STATE}: component {bad[0]} is {values}; check the sensor before acting on it")
    return state


def _image(raw: RawObservation, name: str, size: Sequence[int]) -> np.ndarray:
    """[Y, X, 3] or [T, Y, X, 3] uint8."""
    key = IMAGES + name
    image = np.asarray(_field(raw, key))
    expected = (*size, 3)
    if image.ndim not in (3, 4) or image.shape[-3:] != expected:
        raise ObservationError(
            f"{key}: shape {image.shape}, but the policy was trained on {expected} (height, width, RGB); "
            "resize the image before calling the policy"
        )
    if image.dtype != np.uint8:
        raise ObservationError(f"{key}: type {image.dtype}, expected uint8 with values 0..255")
    return image


def _field(raw: RawObservation, key: str) -> np.ndarray:
    if key not in raw:
        raise ObservationError(f"{key}: missing from the observation, which has {', '.join(raw) or 'nothing'}")
    return raw[key]


def _with_history(value: np.ndarray, ndim: int, history: int, key: str) -> tuple[np.ndarray, np.ndarray]:
    """`value` as [T, ...] and which of the T exist; what came before the first observation repeats it."""
    steps = value if value.ndim > ndim else value[None]
    if len(steps) > history:
        raise ObservationError(
            f"{key}: {len(steps)} observations, but the policy was trained with a history of {history}"
        )
    missing = history - len(steps)
    padded = np.concatenate([np.repeat(steps[:1], missing, axis=0), steps])
    return padded, np.arange(history) >= missing
