"""The contract between data and model: what a policy sees, what is asked of it, and what it learns from.

Shapes: B batch, T history, F flat image features (all cameras), H horizon, K noise samples, A action, S state,
W keyframes, V views, G numbers of a goal state, Y X pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass
class TaskIdentifier:
    """What is asked for (z): in words, and in the other kinds of `vla.tasks.kinds`, each given or not row by row."""

    instruction: list[str]  # B strings; "" where nothing is said
    given: dict[str, Tensor] = field(default_factory=dict)  # kind other than language -> [B] bool
    number: Tensor | None = None  # [B] int64: in the policy's list of tasks
    goal_state: Tensor | None = None  # [B, 2, G] float32: the state now, and the one to be reached
    images: dict[str, Tensor] = field(default_factory=dict)  # camera -> [B, V, Y, X, 3] uint8, the goal last
    features: Tensor | None = None  # [B, V, F] float16, in place of `images`

    def __len__(self) -> int:
        return len(self.instruction)

    def to(self, device: torch.device) -> TaskIdentifier:
        return _mapped(self, lambda tensor: tensor.to(device))

    def repeat(self, count: int) -> TaskIdentifier:
        """Every row `count` times in a row."""
        rows = _mapped(self, lambda tensor: tensor.repeat_interleave(count, dim=0))
        return replace(rows, instruction=[text for text in self.instruction for _ in range(count)])

    def withheld(self) -> TaskIdentifier:
        """Nothing is asked for, in no row."""
        return TaskIdentifier([""] * len(self))


@dataclass
class Observation:
    """What the policy sees. Either `images` or, from a frozen encoder's cache, `features`."""

    state: Tensor  # [B, T, S] float32, robot units
    task: TaskIdentifier
    images: dict[str, Tensor] = field(default_factory=dict)  # camera -> [B, T, Y, X, 3] uint8
    features: Tensor | None = None  # [B, T, F] float16
    history_valid: Tensor | None = None  # [B, T] bool; False before the episode's first frame
    embodiment: str | None = None  # the robot that sees this, by name; None for a policy that knows but one

    def to(self, device: torch.device) -> Observation:
        return _mapped(self, lambda tensor: tensor.to(device))

    def repeat(self, count: int) -> Observation:
        """Every row `count` times in a row."""
        rows = _mapped(self, lambda tensor: tensor.repeat_interleave(count, dim=0))
        return replace(rows, task=self.task.repeat(count))


@dataclass
class Consequence:
    """What came of the actions that a critic judges."""

    reward: Tensor  # [B] float32, discounted to the time of the observation
    discount: Tensor  # [B] float32: of what follows; 0 where the attempt was over
    after: Observation


@dataclass
class Batch:
    """Observations of one embodiment with the actions that followed, and everything random about a training step."""

    observation: Observation
    action: Tensor  # [B, H, A] float32, robot units; anything beyond the segment's end
    valid: Tensor  # [B, H] bool; False beyond the segment's end
    keyframes: Tensor  # [B, W, S] float32: states at the next keyframes, robot units
    stratum: Tensor  # [B] int64
    total: int  # valid action components of all processes and accumulation steps together: the loss is divided by it
    noise: Tensor  # [B, K, H, A] float32, standard normal
    time: Tensor  # [B, K] float32 in [0, 1): diffusion times, 1 is pure noise
    shift: Tensor | None = None  # [2] int64: rows and columns that the grid of image cells is moved by
    imitated: Tensor | None = None  # [B] bool: the others are only for the critic; None where all are
    consequence: Consequence | None = None  # for a critic

    def to(self, device: torch.device) -> Batch:
        return _mapped(self, lambda tensor: tensor.to(device))


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A copy of a data class, or of a mapping, with every tensor in it changed; what else it holds stays."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(entry, change) for key, entry in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{part.name: _mapped(getattr(value, part.name), change) for part in fields(value)})
    return value
