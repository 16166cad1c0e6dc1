"""Who learns how fast, and an optimizer that goes on where it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vla.config import TrainingConfig
from vla.training.optim import (
    build_optimizer,
    gradient_norm,
    optimizer_tensors,
    restore_optimizer,
    set_learning_rate,
    trainable,
)

TRAINING = TrainingConfig(steps=100, learning_rate=1e-3, warmup=10, final_learning_rate=0.1, weight_decay=0.05)


def factors(training: TrainingConfig) -> list[float]:
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "peak": 2.0}], lr=0.0)
    return [set_learning_rate(optimizer, training, step, step / training.steps) for step in range(training.steps)]


def test_the_learning_rate_warms_up_then_decays_to_its_end() -> None:
    values = factors(TRAINING)
    assert values[:10] == sorted(values[:10]) and values[0] == pytest.approx(0.1, rel=1e-3)
    assert values[9:] == sorted(values[9:], reverse=True)
    assert values[9] > 0.97 and values[-1] == pytest.approx(0.1, abs=2e-3)
    assert values[50] == pytest.approx(0.55)


@given(warmup=st.integers(0, 30), last=st.floats(0, 1), progress=st.floats(0, 2), step=st.integers(0, 200))
def test_the_learning_rate_is_never_above_its_peak_nor_negative(
    warmup: int, last: float, progress: float, step: int
) -> None:
    training = TRAINING.model_copy(update={"warmup": warmup, "final_learning_rate": last})
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "peak": 2.0}], lr=0.0)
    factor = set_learning_rate(optimizer, training, step, progress)
    assert 0 <= factor <= 1
    assert optimizer.param_groups[0]["lr"] == 2.0 * factor


def test_every_parameter_that_learns_is_in_one_group(encoders: dict[str, str]) -> None:
    model = tiny.model_config(
        encoders, text__train="all", text__learning_rate=1e-5, vision__train=1, vision__learning_rate=1e-6
    )
    policy = tiny.build(model)
    optimizer = build_optimizer(policy, TRAINING)
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(groups) == len(trainable(policy))
    for name, parameter in trainable(policy).items():
        group = groups[id(parameter)]
        peak = 1e-5 if name.startswith("text.") else 1e-6 if name.startswith("vision.") else 1e-3
        assert group["peak"] == peak, name
        assert group["weight_decay"] == (0.05 if parameter.ndim > 1 else 0.0), name


def make_model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.ModuleDict({"used": nn.Linear(3, 3), "unused": nn.Linear(2, 2), "frozen": nn.Linear(2, 2)})
    model["frozen"].requires_grad_(False)
    return model


def take_steps(model: Any, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        model["used"](inputs).square().sum().backward()
        gradient_norm(model, 1.0)
        optimizer.step()
        optimizer.zero_grad()


def test_a_restored_optimizer_takes_the_same_steps() -> None:
    """Also where parameters never had a gradient."""
    model = make_model()
    optimizer = torch.optim.AdamW(trainable(model).values(), lr=0.1)
    take_steps(model, optimizer, range(3))
    tensors = {name: value.clone() for name, value in optimizer_tensors(model, optimizer).items()}
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    take_steps(model, optimizer, range(3, 6))

    other = make_model()
    other.load_state_dict(weights)
    continued = torch.optim.AdamW(trainable(other).values(), lr=0.1)
    restore_optimizer(other, continued, tensors)
    take_steps(other, continued, range(3, 6))
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    assert set(tensors) == {f"used.{p}|{key}" for p in ("weight", "bias") for key in ("exp_avg", "exp_avg_sq", "step")}


def test_gradients_are_clipped_to_their_norm(tmp_path: Path) -> None:
    model = make_model()
    (1e3 * model["used"](torch.ones(1, 3))).sum().backward()
    before = float(gradient_norm(model, 0.5))
    assert before > 100
    assert float(gradient_norm(model, 0.5)) == pytest.approx(0.5, rel=1e-4)
