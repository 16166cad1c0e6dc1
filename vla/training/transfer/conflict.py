"""Do tasks pull the weights that they share in different directions?

Two tasks are in conflict where the cosine of their gradients is negative: a step that helps one hurts the other
(PCGrad, Yu et al. 2020). A gradient from a few batches is noisy, and noise draws every cosine towards 0. The cosine
between two halves of one task's own batches says how much of 1 the noise has left.

Shapes: K tasks, P trainable numbers that all tasks share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from vla.batch import Batch
from vla.models.policy import VLAPolicy
from vla.training.optim import trainable

# Batch k of one task, in a batch for every embodiment: `BatchSource.batches`.
TaskBatches = Callable[[int], Sequence[Batch]]


@dataclass(frozen=True)
class Conflict:
    """Between the gradients of the tasks' losses at one moment of training."""

    step: int
    cosine: np.ndarray  # [K, K] float64, symmetric: of the means over all batches; 1 on the diagonal
    agreement: np.ndarray  # [K] float64: of a task with itself, between the means over two halves of its batches

    @property
    def pairs(self) -> np.ndarray:
        """[K (K - 1) / 2]: the cosine of every pair of tasks."""
        return self.cosine[np.triu_indices(len(self.cosine), 1)]

    def to_json(self) -> dict[str, Any]:
        return {"step": self.step, "cosine": self.cosine.tolist(), "agreement": self.agreement.tolist()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Conflict:
        return cls(value["step"], np.array(value["cosine"]), np.array(value["agreement"]))


def measure_conflict(policy: VLAPolicy, tasks: Sequence[TaskBatches], step: int, batches: int) -> Conflict:
    """Of K tasks, on the trainable parameters that the loss of every one of them depends on.

    Adapters of an embodiment that some task doesn't have are thereby left out. The policy's gradients are overwritten.

    Args:
        batches: how many of each task, an even number.
    """
    halves = [[mean_gradient(policy, task, range(half, batches, 2)) for half in (0, 1)] for task in tasks]
    shared = sorted(set.intersection(*(set(gradient) for pair in halves for gradient in pair)))
    one, other = (torch.stack([_vector(pair[half], shared) for pair in halves]) for half in (0, 1))  # [K, P]
    mean = normalize(one + other, dim=-1)
    cosine = mean @ mean.T
    cosine = (cosine + cosine.T) / 2  # a product's two halves may differ in the last bit: some processors' sums do
    return Conflict(step, _numbers(cosine), _numbers(cosine_similarity(one, other, dim=-1)))


def mean_gradient(policy: VLAPolicy, task: TaskBatches, numbers: Sequence[int]) -> dict[str, Tensor]:
    """By parameter, of the mean loss of these batches; without parameters that the loss doesn't depend on."""
    policy.zero_grad()
    for number in numbers:
        parts = task(number)
        sums, _ = policy(*(part.to(policy.device) for part in parts))
        (sums.sum() / parts[0].total / len(numbers)).backward()
    gradient = {name: parameter.grad for name, parameter in trainable(policy).items() if parameter.grad is not None}
    policy.zero_grad()
    return gradient


def _vector(gradient: dict[str, Tensor], names: Sequence[str]) -> Tensor:
    return torch.cat([gradient[name].flatten() for name in names])


def _numbers(cosines: Tensor) -> np.ndarray:
    return cosines.clamp(-1, 1).double().cpu().numpy()
