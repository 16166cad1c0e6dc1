"""Training and sampling share one convention: a head that learnt one batch gives that batch back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vla.config import DiffusionConfig, ModelConfig
from vla.data.batches import LATEST_TIME
from vla.models.context import Context
from vla.models.embodiment import Embodiment
from vla.models.head import DiffusionHead, inference_scheduler
from vla.models.pointer import Guess

B, K, H, A, D = 3, 8, 4, 2, 32
COMBINATIONS = [("flow", "euler"), ("diffusion", "ddpm"), ("diffusion", "ddim"), ("diffusion", "dpm++")]
BOUNDS = (torch.full((A,), -1.0), torch.full((A,), 1.0))


def make_head(objective: str, sampler: str, prediction: str, inference_steps: int = 20) -> DiffusionHead:
    torch.manual_seed(0)
    diffusion = DiffusionConfig(
        objective=objective, sampler=sampler, prediction=prediction, inference_steps=inference_steps
    )
    config = ModelConfig(width=D, heads=2, head_layers=1, horizon=H, actions_per_token=2, diffusion=diffusion)
    return DiffusionHead(config, [Embodiment("robot", state_dim=1, action_dim=A, fps=10)])


def make_context() -> Context:
    """Three observations as different as can be."""
    tokens = torch.randn(B, 5, D, generator=torch.Generator().manual_seed(1))
    nowhere = Guess(torch.zeros(B, 0, 1), torch.zeros(B, 0, 1, 1), torch.ones(1))
    return Context(tokens, torch.ones(B, 5, dtype=torch.bool), nowhere, torch.zeros(B, 1), torch.zeros(B, 0, 1))


def overfit(head: DiffusionHead, context: Context, action: torch.Tensor, steps: int = 250) -> None:
    generator = torch.Generator().manual_seed(2)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / steps)
        noise = torch.randn(B, K, H, A, generator=generator)
        time = (torch.arange(K) + torch.rand(B, K, generator=generator)) / K
        optimizer.zero_grad()
        head.loss(context, action, noise, time).mean().backward()
        optimizer.step()


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "velocity"])
@pytest.mark.parametrize("objective", ["flow", "diffusion"])
def test_what_was_learnt_is_sampled(objective: str, prediction: str) -> None:
    samplers = [sampler for known, sampler in COMBINATIONS if known == objective]
    head, context = make_head(objective, samplers[0], prediction), make_context()
    action = torch.rand(B, H, A, generator=torch.Generator().manual_seed(3)) * 2 - 1
    overfit(head, context, action)
    for sampler in samplers:
        head.config = head.config.model_copy(update={"sampler": sampler})
        miss = (head.sample(context, noise(), BOUNDS) - action).abs()
        # A wrong sign or time is off by 0.5; what this short training leaves is not.
        assert miss.mean() < 0.06, (sampler, miss.mean())


@pytest.mark.parametrize(("objective", "sampler"), COMBINATIONS)
def test_a_chunk_depends_on_its_noise_and_context_only(objective: str, sampler: str) -> None:
    head, context = lively(make_head(objective, sampler, "velocity", inference_steps=4)), make_context()
    torch.manual_seed(1)
    chunks = head.sample(context, noise(), BOUNDS)
    torch.manual_seed(2)
    torch.testing.assert_close(head.sample(context, noise(), BOUNDS), chunks, rtol=0, atol=0)
    last = replace(context, tokens=context.tokens[2:], mask=context.mask[2:])
    torch.testing.assert_close(head.sample(last, noise()[2:], BOUNDS), chunks[2:])
    assert (head.sample(context, noise() + 1, BOUNDS) - chunks).abs().max() > 1e-3


def test_guidance_goes_from_unconditional_over_conditional_beyond() -> None:
    head, context = lively(make_head("flow", "euler", "sample", inference_steps=2)), make_context()
    other = replace(context, tokens=context.tokens.flip(0))
    plain, withheld = head.sample(context, noise(), BOUNDS), head.sample(other, noise(), BOUNDS)
    torch.testing.assert_close(head.sample(context, noise(), BOUNDS, other, guidance=1.0), plain, rtol=0, atol=0)
    torch.testing.assert_close(head.sample(context, noise(), BOUNDS, other, guidance=0.0), withheld)
    torch.testing.assert_close(head.sample(context, noise(), BOUNDS, context, guidance=3.0), plain)
    assert (head.sample(context, noise(), BOUNDS, other, guidance=2.0) - plain).abs().max() > 1e-3


@pytest.mark.parametrize(("objective", "sampler"), COMBINATIONS)
@pytest.mark.parametrize("steps", [1, 6, 10])
def test_solvers_begin_at_noise_and_take_the_steps_they_are_told(objective: str, sampler: str, steps: int) -> None:
    config = make_head(objective, sampler, "sample", steps).config
    times = inference_scheduler(config).timesteps.float() / config.train_steps
    assert len(times) == steps
    assert times[0] >= 1 - 1 / config.train_steps
    torch.testing.assert_close(times, torch.linspace(1, 1 / steps, steps), atol=2e-3, rtol=0)


@pytest.mark.parametrize("objective", ["flow", "diffusion"])
def test_times_from_end_to_end_are_learnt_from(objective: str) -> None:
    head = make_head(objective, "euler" if objective == "flow" else "ddim", "epsilon")
    times = torch.tensor([[0.0, 0.5, float(LATEST_TIME)]]).expand(B, 3)
    loss = head.loss(make_context(), torch.zeros(B, H, A), torch.randn(B, 3, H, A), times)
    assert loss.isfinite().all()


def noise() -> torch.Tensor:
    return torch.randn(B, H, A, generator=torch.Generator().manual_seed(4))


def lively(head: DiffusionHead) -> DiffusionHead:
    """Random weights everywhere: a fresh head answers zero."""
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return head
