"""The diffusion head: a transformer over action-chunk tokens that cross-attends into the context (Peebles & Xie 2023).

Training and sampling stand side by side, so that signs and time conventions can be checked by eye. Time `u` runs from 0
(data) to 1 (noise) for both objectives:

    flow       x_u = (1 - u) a + u e                   velocity = e - a           (Lipman et al. 2022)
    diffusion  x_u = sqrt(c_u) a + sqrt(1 - c_u) e     v = sqrt(c) e - sqrt(1-c) a (Ho et al. 2020, Salimans & Ho 2022)

Shapes: B batch, K noise samples, H horizon, A action, M context tokens, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from einops import rearrange, repeat
from torch import Tensor, nn

from vla.config import DiffusionConfig, ModelConfig
from vla.models.context import Context
from vla.models.layers import Attention, FeedForward, sinusoidal

PREDICTION_TYPES = {"epsilon": "epsilon", "sample": "sample", "velocity": "v_prediction"}  # diffusers' names


class DiffusionHead(nn.Module):
    alphas: Tensor  # [train_steps]

    def __init__(self, config: ModelConfig, action_dim: int) -> None:
        super().__init__()
        self.config = config.diffusion
        self.width = config.width
        self.patch = config.actions_per_token
        self.action_in = nn.Linear(self.patch * action_dim, config.width)
        self.position = nn.Parameter(torch.randn(config.horizon // self.patch, config.width) * 0.02)
        self.time = nn.Sequential(
            nn.Linear(config.width, config.width), nn.SiLU(), nn.Linear(config.width, config.width)
        )
        blocks = [HeadBlock(config) for _ in range(config.head_layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(config.width, elementwise_affine=False)
        self.modulation = nn.Linear(config.width, 2 * config.width)
        self.action_out = nn.Linear(config.width, self.patch * action_dim)
        for layer in (self.modulation, self.action_out, *(block.modulation for block in blocks)):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        # Alpha-bar of the discrete diffusion; unused by flow matching.
        noise_schedule: Any = DDPMScheduler(self.config.train_steps, beta_schedule="squaredcos_cap_v2")
        self.register_buffer("alphas", noise_schedule.alphas_cumprod, persistent=False)

    def loss(self, context: Context, action: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Squared error per action component, not yet masked or averaged.

        Args:
            action: [B, H, A] normalised. noise: [B, K, H, A] standard normal. time: [B, K] in [0, 1).
        Returns:
            [B, H, A], averaged over the K noise samples.
        """
        clean = repeat(action, "b h a -> b k h a", k=noise.shape[1])
        signal, spread, condition = self._schedule(time)
        noisy = signal * clean + spread * noise
        predicted = self(noisy, condition, context)
        if self.config.prediction == "sample":
            target = clean
        elif self.config.prediction == "epsilon":
            target = noise
        elif self.config.objective == "flow":
            target = noise - clean
        else:
            target = signal * noise - spread * clean
        return (predicted - target).square().mean(dim=1)

    @torch.no_grad()
    def sample(
        self, context: Context, noise: Tensor, unconditional: Context | None = None, guidance: float = 1.0
    ) -> Tensor:
        """Chunks [B, H, A], normalised, from `noise` [B, H, A].

        With `guidance` w != 1, predictions are `u + w (c - u)` of the conditional c and unconditional u (Ho & Salimans
        2022).
        """
        scheduler = inference_scheduler(self.config)
        scheduler.set_timesteps(self.config.inference_steps, device=noise.device)
        chunk = noise
        for timestep in scheduler.timesteps:
            time = (timestep.float() / self.config.train_steps).expand(len(chunk), 1)
            predicted = self(chunk[:, None], time, context)[:, 0]
            if unconditional is not None and guidance != 1.0:
                withheld = self(chunk[:, None], time, unconditional)[:, 0]
                predicted = withheld + guidance * (predicted - withheld)
            if self.config.objective == "flow":
                predicted = self._velocity(predicted, chunk, time[:, :, None])
            chunk = scheduler.step(predicted, timestep, chunk).prev_sample
        return chunk

    def forward(self, noisy: Tensor, time: Tensor, context: Context) -> Tensor:
        """Prediction [B, K, H, A] for noisy chunks [B, K, H, A] at times [B, K]."""
        tokens = self.action_in(rearrange(noisy, "b k (h p) a -> b k h (p a)", p=self.patch)) + self.position
        condition = self.time(sinusoidal(1000 * time, self.width))
        for block in self.blocks:
            tokens = block(tokens, condition, context)
        shift, scale = rearrange(self.modulation(condition), "b k (two d) -> two b k 1 d", two=2)
        predicted = self.action_out(self.norm(tokens) * (1 + scale) + shift)
        return rearrange(predicted, "b k h (p a) -> b k (h p) a", p=self.patch)

    def _schedule(self, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Signal and noise scale [B, K, 1, 1] at `time`, and the time the network is told."""
        if self.config.objective == "flow":
            return (1 - time)[:, :, None, None], time[:, :, None, None], time
        step = (time * self.config.train_steps).long()
        alpha = self.alphas[step][:, :, None, None]
        return alpha.sqrt(), (1 - alpha).sqrt(), step.float() / self.config.train_steps

    def _velocity(self, predicted: Tensor, noisy: Tensor, time: Tensor) -> Tensor:
        """Flow velocity e - a from what the network predicts; x_u = (1 - u) a + u e solved for the missing one."""
        if self.config.prediction == "sample":
            return (noisy - predicted) / time
        if self.config.prediction == "epsilon":
            return (predicted - noisy) / (1 - time).clamp(min=1e-3)
        return predicted


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
    """The diffusers solver that `config` names; diffusers' schedulers share no useful base class."""
    if config.sampler == "euler":
        return FlowMatchEulerDiscreteScheduler(config.train_steps)
    scheduler = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler, "dpm++": DPMSolverMultistepScheduler}[config.sampler]
    extra = {} if config.sampler == "dpm++" else {"clip_sample": False}
    return scheduler(
        config.train_steps,
        beta_schedule="squaredcos_cap_v2",
        prediction_type=PREDICTION_TYPES[config.prediction],
        **extra,
    )
