"""The pointer's mixture, and the calibration from motion."""

from __future__ import annotations

import math

import torch

from vla.models.layers import grid_positions
from vla.models.pointer import SPREAD, Guess, locate

POSITIONS = grid_positions(8, 8)[:, :2]


def moving_robot(frames: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    """Where a robot is seen [n, 2] in [-0.8, 0.8], and how much every cell changes there [n, 64]."""
    generator = torch.Generator().manual_seed(0)
    seen = torch.rand(frames, 2, generator=generator) * 1.6 - 0.8
    distance = (seen[:, None] - POSITIONS).square().sum(dim=-1)
    return seen, torch.exp(-distance / 0.08)


def test_a_camera_is_calibrated_from_where_the_image_moves() -> None:
    seen, motion = moving_robot()
    slopes, intercepts = torch.tensor([[0.0, 2.0], [-3.0, 0.5]]), torch.tensor([0.3, -1.0])
    hidden = torch.rand(len(seen), 1, generator=torch.Generator().manual_seed(1))
    state = torch.cat([seen @ slopes.T + intercepts, hidden, torch.ones_like(hidden)], dim=1)
    found, offset, explained = locate(motion, POSITIONS, state)
    torch.testing.assert_close(found[:2], slopes, atol=0.1, rtol=0)
    torch.testing.assert_close(offset[:2], intercepts, atol=0.05, rtol=0)
    assert explained[:2].min() > 0.95
    assert explained[2] < 0.1


def test_a_still_image_explains_nothing() -> None:
    seen, motion = moving_robot()
    slopes, _, explained = locate(torch.zeros_like(motion), POSITIONS, seen)
    assert slopes.isfinite().all()
    assert explained.abs().max() < 0.01


def test_surprise_is_the_likelihood_of_a_mixture_over_what_is_seen() -> None:
    weight = torch.tensor([0.7, 0.3])
    means = torch.tensor([[0.0, 5.0], [1.0, -5.0]])
    guess = Guess(weight.log()[None, None], means[None, None])
    true = torch.tensor([[[0.9, 0.0]]])
    densities = weight * torch.exp(-(((0.9 - means[:, 0]) / SPREAD) ** 2) / 2)
    expected = -math.log(densities.sum())
    assert math.isclose(guess.surprise(true, torch.tensor([1.0, 0.0])).item(), expected, rel_tol=1e-5)
    torch.testing.assert_close(guess.mean, (weight @ means)[None, None])
