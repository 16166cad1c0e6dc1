"""Parameter groups, the learning-rate schedule, and the optimizer's state as named tensors."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from vla.config import TrainingConfig
from vla.models.policy import VLAPolicy


def build_optimizer(policy: VLAPolicy, training: TrainingConfig) -> AdamW:
    """AdamW (Loshchilov & Hutter 2019); encoders have their own peak learning rates, vectors no weight decay."""
    model = policy.config.model
    groups = []
    for prefix, peak in (("text.", model.text.learning_rate), ("vision.", model.vision.learning_rate),
                         ("", training.learning_rate)):
        named = [(name, parameter) for name, parameter in trainable(policy).items()
                 if (name.startswith(prefix) if prefix else not name.startswith(("text.", "vision.")))]
        for decay, members in ((training.weight_decay, [p for _, p in named if p.ndim > 1]),
                               (0.0, [p for _, p in named if p.ndim <= 1])):
            if members:
                groups.append({"params": members, "lr": peak, "peak": peak, "weight_decay": decay})
    return AdamW(groups, betas=(0.9, 0.95), fused=True)


def set_learning_rate(optimizer: Optimizer, training: TrainingConfig, step: int, progress: float) -> float:
    """Linear warm-up, then cosine decay; a function of the step and nothing else, so there is no state to save.

    Args:
        progress: share of the run that is over, in [0, 1].

    Returns:
        The factor on every group's peak.
    """
    warm = min(1.0, (step + 1) / training.warmup) if training.warmup else 1.0
    last = training.final_learning_rate
    factor = warm * (last + (1 - last) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    return factor


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """AdamW's moments and step counts, named `<parameter>|<moment>`."""
    return {
        f"{name}|{key}": value
        for name, parameter in trainable(model).items()
        for key, value in optimizer.state[parameter].items()
    }


def restore_optimizer(model: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Inverse of `optimizer_tensors`."""
    parameters = trainable(model)
    states: dict[str, dict[str, Any]] = {}
    for name, value in tensors.items():
        owner, key = name.split("|")
        states.setdefault(owner, {})[key] = value.to(parameters[owner].device, copy=True)
    for owner, state in states.items():
        optimizer.state[parameters[owner]] = state


def gradient_norm(model: nn.Module, clip: float) -> Tensor:
    """Clip the global gradient norm to `clip`; returns it as it was before."""
    return torch.nn.utils.clip_grad_norm_(list(trainable(model).values()), clip)
