"""The diffusion head: a transformer over action-chunk tokens that cross-attends into the context (Peebles & Xie 2023).

Training and sampling stand side by side, so that signs and time conventions can be checked by eye. Time `u` runs from 0
(data) to 1 (noise) for both objectives:

    flow       x_u = (1 - u) a + u e                   velocity = e - a           (Lipman et al. 2022)
    diffusion  x_u = sqrt(c_u) a + sqrt(1 - c_u) e     v = sqrt(c) e - sqrt(1-c) a (Ho et al. 2020, Salimans & Ho 2022)

Shapes: B batch, K noise samples, H horizon, A action, M context tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from einops import rearrange, repeat
from torch import Tensor, nn

from vla.config import DiffusionConfig, ModelConfig
from vla.models.context import Context
from vla.models.embodiment import Adapters, Embodiment
from vla.models.layers import Attention, FeedForward, sinusoidal, zeros

BETAS = "squaredcos_cap_v2"  # Nichol & Dhariwal 2021


class DiffusionHead(nn.Module):
    alphas: Tensor  # [train_steps]

    def __init__(self, config: ModelConfig, embodiments: Sequence[Embodiment]) -> None:
        super().__init__()
        self.config = config.diffusion
        self.width = config.width
        self.patch = config.actions_per_token
        self.action_in = Adapters(embodiments, lambda robot: nn.Linear(self.patch * robot.action_dim, config.width))
        self.position = nn.Parameter(torch.randn(config.horizon // self.patch, config.width) * 0.02)
        self.time = nn.Sequential(
            nn.Linear(config.width, config.width), nn.SiLU(), nn.Linear(config.width, config.width)
        )
        blocks = [HeadBlock(config) for _ in range(config.head_layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(config.width, elementwise_affine=False)
        self.modulation = nn.Linear(config.width, 2 * config.width)
        self.action_out = Adapters(
            embodiments, lambda robot: zeros(nn.Linear(config.width, self.patch * robot.action_dim))
        )
        for layer in (self.modulation, *(block.modulation for block in blocks)):
            zeros(layer)
        # Alpha-bar of the discrete diffusion; unused by flow matching.
        noise_schedule: Any = DDPMScheduler(self.config.train_steps, beta_schedule=BETAS)
        self.register_buffer("alphas", noise_schedule.alphas_cumprod, persistent=False)

    def loss(self, context: Context, action: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Squared error per action component, not yet masked or averaged.

        Args:
            action: [B, H, A] normalised. noise: [B, K, H, A] standard normal. time: [B, K] in [0, 1).
        Returns:
            [B, H, A], averaged over the K noise samples.
        """
        time = self._on_schedule(time)
        signal, spread = self._scales(time)
        clean = repeat(action, "b h a -> b k h a", k=noise.shape[1])
        predicted = self(signal * clean + spread * noise, time, context)
        target = self._target(clean, noise, signal, spread)
        return (predicted - target).square().mean(dim=1)

    @torch.no_grad()
    def sample(
        self,
        context: Context,
        noise: Tensor,
        bounds: tuple[Tensor, Tensor],
        unconditional: Context | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """Chunks [B, H, A], normalised, from `noise` [B, H, A].

        With `guidance` w != 1, predictions are `u + w (c - u)` of the conditional c and unconditional u (Ho & Salimans
        2022).

        Args:
            bounds: least and greatest normalised action of the data, [A] each. At every step the clean chunk that the
                prediction stands for is kept inside (Ho et al. 2020): near pure noise, an epsilon says little about it.
        """
        scheduler = inference_scheduler(self.config)
        options = _step_options(self.config, noise)
        chunk = noise
        for timestep in scheduler.timesteps:
            time = (timestep / self.config.train_steps).to(noise).expand(len(chunk), 1)
            noisy = chunk[:, None]
            predicted = self(noisy, time, context)
            if unconditional is not None and guidance != 1.0:
                withheld = self(noisy, time, unconditional)
                predicted = withheld + guidance * (predicted - withheld)
            signal, spread = self._scales(time)
            clean = self._clean(predicted, noisy, signal, spread).clamp(*bounds)
            # Flow's solver takes the velocity that leads to the clean chunk, the others the chunk itself.
            output = (noisy - clean) / spread if self.config.objective == "flow" else clean
            chunk = scheduler.step(output[:, 0], timestep, chunk, **options).prev_sample
        return chunk

    def forward(self, noisy: Tensor, time: Tensor, context: Context) -> Tensor:
        """Prediction [B, K, H, A] for noisy chunks [B, K, H, A] at times [B, K]."""
        patches = rearrange(noisy, "b k (h p) a -> b k h (p a)", p=self.patch)
        tokens = self.action_in[context.embodiment](patches) + self.position
        condition = self.time(sinusoidal(1000 * time, self.width))
        for block in self.blocks:
            tokens = block(tokens, condition, context)
        shift, scale = rearrange(self.modulation(condition), "b k (two d) -> two b k 1 d", two=2)
        predicted = self.action_out[context.embodiment](self.norm(tokens) * (1 + scale) + shift)
        return rearrange(predicted, "b k h (p a) -> b k (h p) a", p=self.patch)

    def _on_schedule(self, time: Tensor) -> Tensor:
        """`time` as the network is told it: diffusion knows only `train_steps` discrete ones."""
        steps = self.config.train_steps
        return time if self.config.objective == "flow" else (time * steps).floor() / steps

    def _scales(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """Scale of signal and noise, [B, K, 1, 1] each, at `time` [B, K]."""
        if self.config.objective == "flow":
            signal, spread = 1 - time, time
        else:
            alpha = self.alphas[(time * self.config.train_steps).round().long()]
            signal, spread = alpha.sqrt(), (1 - alpha).sqrt()
        return signal[:, :, None, None], spread[:, :, None, None]

    def _target(self, clean: Tensor, noise: Tensor, signal: Tensor, spread: Tensor) -> Tensor:
        """What the network is to predict."""
        if self.config.prediction == "sample":
            return clean
        if self.config.prediction == "epsilon":
            return noise
        return noise - clean if self.config.objective == "flow" else signal * noise - spread * clean

    def _clean(self, predicted: Tensor, noisy: Tensor, signal: Tensor, spread: Tensor) -> Tensor:
        """The chunk without noise that a prediction stands for: `_target` solved for `clean`."""
        if self.config.prediction == "sample":
            return predicted
        if self.config.prediction == "epsilon":
            return (noisy - spread * predicted) / signal.clamp(min=1e-6)
        return noisy - spread * predicted if self.config.objective == "flow" else signal * noisy - spread * predicted


class HeadBlock(nn.Module):
    """Self-attention over the chunk, cross-attention into the context, feed-forward; diffusion time by adaLN-zero."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(config.width, elementwise_affine=False) for _ in range(3))
        self.modulation = nn.Linear(config.width, 9 * config.width)
        self.talk = Attention(config.width, config.heads)
        self.read = Attention(config.width, config.heads)
        self.think = FeedForward(config.width, config.dropout)

    def forward(self, tokens: Tensor, condition: Tensor, context: Context) -> Tensor:
        """tokens [B, K, H, D], condition [B, K, D]."""
        samples = tokens.shape[1]
        modulations = rearrange(self.modulation(condition), "b k (n d) -> n b k 1 d", n=9).unbind()
        talk_in, read_in, think_in = (
            lambda x, norm=norm, shift=shift, scale=scale: norm(x) * (1 + scale) + shift
            for norm, shift, scale in zip(self.norms, modulations[0:3], modulations[3:6], strict=True)
        )
        talk_gate, read_gate, think_gate = modulations[6:9]

        chunk = rearrange(talk_in(tokens), "b k h d -> (b k) h d")
        tokens = tokens + talk_gate * rearrange(self.talk(chunk, chunk), "(b k) h d -> b k h d", k=samples)
        # All noise samples of an observation query one context, whose keys and values are computed once.
        queries = rearrange(read_in(tokens), "b k h d -> b (k h) d")
        read = self.read(queries, context.tokens, context.mask)
        tokens = tokens + read_gate * rearrange(read, "b (k h) d -> b k h d", k=samples)
        return tokens + think_gate * self.think(think_in(tokens))


def inference_scheduler(config: DiffusionConfig) -> Any:
    """The diffusers solver that `config` names, its time steps set; it is fed clean chunks (velocities for flow)."""
    if config.sampler == "euler":
        euler: Any = FlowMatchEulerDiscreteScheduler(config.train_steps)
        # Equal steps that end at the data; diffusers' own grid spends its last one on the last thousandth.
        euler.set_timesteps(sigmas=np.linspace(1, 1 / config.inference_steps, config.inference_steps))
        return euler
    options = {"beta_schedule": BETAS, "prediction_type": "sample", "timestep_spacing": "trailing"}
    solver: Any
    if config.sampler == "dpm++":
        solver = DPMSolverMultistepScheduler(config.train_steps, **options)
    elif config.sampler == "ddim":
        solver = DDIMScheduler(config.train_steps, clip_sample=False, **options)
    else:
        solver = DDPMScheduler(config.train_steps, clip_sample=False, **options)
    solver.set_timesteps(config.inference_steps)
    return solver


def _step_options(config: DiffusionConfig, noise: Tensor) -> dict[str, Any]:
    """ddpm adds noise on the way. Its generators are seeded by each chunk's initial noise, so that a chunk depends on
    nothing else: not on global state, not on the other chunks of its batch."""
    if config.sampler != "ddpm":
        return {}
    seeds = noise.flatten(1)[:, 0].cpu().view(torch.int32).tolist()
    return {"generator": [torch.Generator().manual_seed(seed) for seed in seeds]}
