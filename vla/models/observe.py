"""Raw observations, as a robot or a simulator gives them, checked and stacked into an `Observation`.

A raw observation is a dict with LeRobot's keys: `observation.state` [S] and, for every camera the policy was trained
with, `observation.images.<name>` uint8 [Y, X, 3]. A policy with a history of T observations takes [T, S] and
[T, Y, X, 3] instead, oldest first; a single observation then stands for an episode's start.

What is asked for is said in words, or shown by a `Goal`.

Shapes: B batch, T history, V views, S state, G numbers of a goal state, Y X pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from vla.batch import Observation, TaskIdentifier

STATE = "observation.state"
IMAGES = "observation.images."

RawObservation = Mapping[str, np.ndarray]


class ObservationError(ValueError):
    """An observation that doesn't fit the policy. The message names the field, what came and what is expected."""


@dataclass(frozen=True)
class Goal:
    """What is asked for, other than in words. Any of these, each for a policy that was trained to understand it."""

    images: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Camera -> uint8 [Y, X, 3], what it is to see in the end; or [V, Y, X, 3], a video of the way there."""
    state: np.ndarray | None = None
    """[G] what the goal column is to be; the policy must then observe that column, too."""
    task: str | None = None
    """A task of the policy's list."""


@dataclass(frozen=True)
class Layout:
    """What a policy expects."""

    cameras: Mapping[str, Sequence[int]]  # name -> (height, width)
    state_dim: int
    history: int
    kinds: Sequence[str] = ("language",)  # of task identifiers
    tasks: Sequence[str] = ()
    goal_key: str = ""  # of the column that a goal state is a value of
    goal_dim: int = 0
    embodiment: str | None = None  # whose observations these are; None for a policy that knows but one


def stack(observations: Sequence[RawObservation], instructions: Sequence[str], layout: Layout,
          goals: Sequence[Goal | None] | None = None) -> Observation:
    """One `Observation` of batch size B from B raw ones, each told what to do in words, by a goal, or both.

    Raises:
        ObservationError: a field is missing, of the wrong shape or type, or not finite; a goal of a kind that the
            policy wasn't trained with.
    """
    if len(observations) != len(instructions):
        raise ObservationError(f"{len(observations)} observations but {len(instructions)} instructions; give one each")
    for instruction in instructions:
        if not isinstance(instruction, str):
            raise ObservationError(f"instruction: expected a string, got {type(instruction).__name__}")
    history = layout.history
    pairs = [_with_history(_vector(raw, STATE, layout.state_dim), 1, history, STATE) for raw in observations]
    states, valid = zip(*pairs, strict=True)
    images = {}
    for name, size in layout.cameras.items():
        pairs = [_with_history(_image(raw, IMAGES + name, size), 3, history, IMAGES + name) for raw in observations]
        values, seen = zip(*pairs, strict=True)
        if not np.array_equal(seen, valid):
            raise ObservationError(f"{IMAGES}{name}: not as many as of {STATE}; give the same past of each")
        images[name] = torch.from_numpy(np.stack(values))
    given = [goal or Goal() for goal in goals or [None] * len(observations)]
    return Observation(
        state=torch.from_numpy(np.stack(states)),
        task=_task([instruction.strip() for instruction in instructions], observations, given, layout),
        images=images,
        history_valid=torch.from_numpy(np.stack(valid)) if history > 1 else None,
        embodiment=layout.embodiment,
    )


def _task(instructions: list[str], observations: Sequence[RawObservation], goals: Sequence[Goal],
          layout: Layout) -> TaskIdentifier:
    kinds = [_kinds(goal) for goal in goals]
    used = sorted(set().union(*kinds))
    unknown = [kind for kind in used if kind not in layout.kinds]
    if unknown:
        raise ObservationError(f"{unknown[0]}: the policy was trained to be told by {', '.join(layout.kinds)}")
    task = TaskIdentifier(instructions, {kind: torch.tensor([kind in has for has in kinds]) for kind in used})
    if "task_id" in used:
        task.number = torch.tensor([_number(goal.task, layout.tasks) for goal in goals])
    if "goal_state" in used:
        pairs = [_goal_state(raw, goal, layout) for raw, goal in zip(observations, goals, strict=True)]
        task.goal_state = torch.from_numpy(np.stack(pairs))
    if "goal_image" in used or "video" in used:
        for name, size in layout.cameras.items():
            views = [_views(goal, name, size) for goal in goals]
            most = max(map(len, views))
            # The first of them again: a goal image beside videos.
            filled = [np.concatenate([np.repeat(view[:1], most - len(view), axis=0), view]) for view in views]
            task.images[name] = torch.from_numpy(np.stack(filled))
    return task


def _kinds(goal: Goal) -> set[str]:
    kinds = {"task_id"} if goal.task is not None else set()
    kinds |= {"goal_state"} if goal.state is not None else set()
    videos = {np.ndim(image) == 4 for image in goal.images.values()}
    return kinds | {"video" if video else "goal_image" for video in videos}


def _number(task: str | None, tasks: Sequence[str]) -> int:
    if task is None:
        return 0
    if task not in tasks:
        raise ObservationError(f"task: {task!r} is none of the policy's: {', '.join(tasks)}")
    return list(tasks).index(task)


def _goal_state(raw: RawObservation, goal: Goal, layout: Layout) -> np.ndarray:
    """[2, G]: now, and at the goal; zeros where none is given."""
    if goal.state is None:
        return np.zeros((2, layout.goal_dim), np.float32)
    now = _vector(raw, layout.goal_key, layout.goal_dim)
    now = now if now.ndim == 1 else now[-1]
    return np.stack([now, _vector({"goal.state": goal.state}, "goal.state", layout.goal_dim)])


def _views(goal: Goal, name: str, size: Sequence[int]) -> np.ndarray:
    """[V, Y, X, 3]; one blank view where none is given."""
    if not goal.images:
        return np.zeros((1, *size, 3), np.uint8)
    images = {f"goal.images.{camera}": image for camera, image in goal.images.items()}
    image = _image(images, f"goal.images.{name}", size)
    return image if image.ndim == 4 else image[None]


def _vector(raw: RawObservation, key: str, size: int) -> np.ndarray:
    """[size] or [T, size] float32."""
    vector = np.asarray(_field(raw, key), dtype=np.float32)
    if vector.ndim not in (1, 2) or vector.shape[-1] != size:
        raise ObservationError(f"{key}: shape {vector.shape}, but the policy was trained with {size} components")
    bad = np.flatnonzero(~np.isfinite(vector).reshape(-1, size).all(axis=0))
    if len(bad):
        values = vector[..., bad[0]]
        raise ObservationError(f"{key}: component {bad[0]} is {values}; check the sensor before acting on it")
    return vector


def _image(raw: RawObservation, key: str, size: Sequence[int]) -> np.ndarray:
    """[Y, X, 3] or [T, Y, X, 3] uint8."""
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
