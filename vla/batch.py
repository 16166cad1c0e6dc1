"""The contract between data and model: what a policy sees, what is asked of it, and what it learns from.

Shapes: B batch, T history, F flat image features (all cameras), H horizon, K noise samples, A action, S state,
W keyframes, V views, G numbers of a goal state, Y X pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

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
        return replace(
            self,
            given={kind: given.to(device) for kind, given in self.given.items()},
            number=None if self.number is None else self.number.to(device),
            goal_state=None if self.goal_state is None else self.goal_state.to(device),
            images={name: image.to(device) for name, image in self.images.items()},
            features=None if self.features is None else self.features.to(device),
        )

    def repeat(self, count: int) -> TaskIdentifier:
        """Every row `count` times in a row."""
        return TaskIdentifier(
            [text for text in self.instruction for _ in range(count)],
            {kind: _repeat(given, count) for kind, given in self.given.items()},
            None if self.number is None else _repeat(self.number, count),
            None if self.goal_state is None else _repeat(self.goal_state, count),
            {name: _repeat(image, count) for name, image in self.images.items()},
            None if self.features is None else _repeat(self.features, count),
        )

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

    def to(self, device: torch.device) -> Observation:
        return replace(
            self,
            state=self.state.to(device),
            task=self.task.to(device),
            images={name: image.to(device) for name, image in self.images.items()},
            features=None if self.features is None else self.features.to(device),
            history_valid=None if self.history_valid is None else self.history_valid.to(device),
        )


    def repeat(self, count: int) -> Observation:
        """Every row `count` times in a row."""
        return Observation(
            _repeat(self.state, count),
            self.task.repeat(count),
            {name: _repeat(image, count) for name, image in self.images.items()},
            None if self.features is None else _repeat(self.features, count),
            None if self.history_valid is None else _repeat(self.history_valid, count),
        )


def _repeat(rows: Tensor, count: int) -> Tensor:
    return rows.repeat_interleave(count, dim=0)


@dataclass
class Consequence:
    """What came of the actions that a critic judges."""

    reward: Tensor  # [B] float32, discounted to the time of the observation
    discount: Tensor  # [B] float32: of what follows; 0 where the attempt was over
    after: Observation

    def to(self, device: torch.device) -> Consequence:
        return Consequence(self.reward.to(device), self.discount.to(device), self.after.to(device))


@dataclass
class Batch:
    """Observations with the actions that followed, and everything random about one training step."""

    observation: Observation
    action: Tensor  # [B, H, A] float32, robot units; anything beyond the segment's end
    valid: Tensor  # [B, H] bool; False beyond the segment's end
    keyframes: Tensor  # [B, W, S] float32: states at the next keyframes, robot units
    stratum: Tensor  # [B] int64
    total: int  # valid action components of all processes and accumulation steps together: the loss is divided by it
    noise: Tensor  # [B, K, H, A] float32, standard normal
    time: Tensor  # [B, K] float32 in [0, 1): diffusion times, 1 is pure noise
    imitated: Tensor | None = None  # [B] bool: the others are only for the critic; None where all are
    consequence: Consequence | None = None  # for a critic

    def to(self, device: torch.device) -> Batch:
        return replace(
            self,
            observation=self.observation.to(device),
            action=self.action.to(device),
            valid=self.valid.to(device),
            keyframes=self.keyframes.to(device),
            stratum=self.stratum.to(device),
            noise=self.noise.to(device),
            time=self.time.to(device),
            imitated=None if self.imitated is None else self.imitated.to(device),
            consequence=None if self.consequence is None else self.consequence.to(device),
        )
