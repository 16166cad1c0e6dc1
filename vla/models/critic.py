"""The critic: what an action chunk is worth for a task, `Q(s, chunk, z)`, and what a situation is, `V(s, z)`.

Implicit Q-learning (Kostrikov et al. 2022): V is an upper expectile of Q over the actions that were recorded, Q is what
came of a chunk. No action is judged that nobody took, so it can be learnt from recordings alone, failures included. A
chunk is one action (Li et al. 2025): what comes of it is seen `actions` steps later.

Worth is the discounted chance of doing what is asked for, so it lies in [0, 1] and is learnt as a classification
(Farebrother et al. 2024). An attempt that was given up is worth nothing from there on.

    V(s, z)         -> Q(s, chunk, z)                                     expectile tau of the cross-entropy
    Q(s, chunk, z)  -> reward + discount^n V(s', z), reward alone at the end

The critic reads the policy's context and leaves it alone: its gradient ends there. What it judges by is what the policy
has found without knowing what came after. What is asked for is mostly about where the named things lie, so it is told
that apart: to find them anew in the context would take it as long as it took the policy.

Shapes: B batch, K candidates, H horizon, n judged actions, A action, M context tokens, R references, S state, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from vla.config import CriticConfig, ModelConfig
from vla.models.context import Context
from vla.models.embodiment import Adapters, Embodiment
from vla.models.head import HeadBlock
from vla.models.pointer import feature_size, features


class Critic(nn.Module):
    def __init__(self, config: ModelConfig, settings: CriticConfig, embodiments: Sequence[Embodiment]) -> None:
        super().__init__()
        self.settings = settings
        self.situation = Judge(config, settings.layers, 1)
        self.chunk = Judge(config, settings.layers, 2)  # the lesser of two opinions counts (Fujimoto et al. 2018)
        self.places = Adapters(embodiments, lambda robot: Places(config, robot.state_dim))
        self.action_in = Adapters(embodiments, lambda robot: nn.Linear(robot.action_dim, config.width))
        self.position = nn.Parameter(torch.randn(settings.actions, config.width) * 0.02)

    def value(self, context: Context) -> Tensor:
        """V [B], in [0, 1]."""
        return self._situation(self._seen(context)).sigmoid()

    def quality(self, context: Context, chunks: Tensor) -> Tensor:
        """Q [B, K], in [0, 1], of normalised chunks [B, K, H, A]."""
        return self._opinions(self._seen(context), chunks).sigmoid().amin(dim=-1)

    def loss(self, context: Context, chunk: Tensor, reward: Tensor, discount: Tensor, after: Context) -> Tensor:
        """What both miss, [B].

        Args:
            context: of the observation; after: of the one `actions` later.
            chunk: [B, H, A] normalised, what was done.
            reward: [B] discounted, of those actions. discount: [B] what is left of the worth of `after`; 0 at the end.
        """
        seen = self._seen(context)
        opinions = self._opinions(seen, chunk[:, None])[:, 0]
        situation = self._situation(seen)
        with torch.no_grad():
            came_of_it = (reward + discount * self.value(after)).clamp(0, 1)
            quality = opinions.sigmoid().amin(dim=-1)
            # An upper expectile: to have been too pessimistic weighs more.
            tau = self.settings.expectile
            weight = torch.where(quality > situation.sigmoid(), tau, 1 - tau)
        missed = F.binary_cross_entropy_with_logits(opinions, repeat(came_of_it, "b -> b 2"), reduction="none")
        surprise = F.binary_cross_entropy_with_logits(situation, quality, reduction="none")
        return missed.mean(dim=1) + weight * surprise

    @torch.no_grad()
    def advantage(self, context: Context, chunk: Tensor) -> Tensor:
        """[B]: how much better than usual the chunk [B, H, A] is."""
        return self.quality(context, chunk[:, None])[:, 0] - self.value(context)

    def _situation(self, seen: Context) -> Tensor:
        nothing = seen.tokens.new_zeros(len(seen.tokens), 1, 0, seen.tokens.shape[-1])
        return rearrange(self.situation(nothing, seen), "b 1 1 -> b")

    def _opinions(self, seen: Context, chunks: Tensor) -> Tensor:
        """Logits [B, K, 2]."""
        judged = self.action_in[seen.embodiment](chunks[:, :, : self.settings.actions])
        return self.chunk(judged + self.position, seen)

    def _seen(self, context: Context) -> Context:
        """The context, out of reach of gradients, and a token about where things are."""
        places = self.places[context.embodiment](context.state.detach(), context.named.detach())
        exists = context.mask.new_ones(len(places), 1)
        return replace(
            context,
            tokens=torch.cat([context.tokens.detach(), rearrange(places, "b d -> b 1 d")], dim=1),
            mask=torch.cat([context.mask, exists], dim=1),
        )


class Places(nn.Module):
    """Where the robot and the named things are, each by itself and relative to the others."""

    def __init__(self, config: ModelConfig, state_dim: int) -> None:
        super().__init__()
        count = config.references + 1
        size = (count + count * (count - 1) // 2) * feature_size(state_dim)
        self.think = nn.Sequential(
            nn.Linear(size, config.width), nn.GELU(), nn.Linear(config.width, config.width), nn.LayerNorm(config.width)
        )

    def forward(self, state: Tensor, named: Tensor) -> Tensor:
        """The robot's normalised state [B, S] and the states that stand for the things' places, [B, R, S] -> [B, D]."""
        places = torch.cat([rearrange(state, "b s -> b 1 s"), named], dim=1)
        one, other = torch.triu_indices(places.shape[1], places.shape[1], offset=1)
        known = torch.cat([places, places[:, one] - places[:, other]], dim=1)
        return self.think(rearrange(features(known), "b n f -> b (n f)"))


class Judge(nn.Module):
    """A token that looks at actions and context and says how good that is."""

    def __init__(self, config: ModelConfig, layers: int, opinions: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(config.width) * 0.02)
        self.blocks = nn.ModuleList(HeadBlock(config) for _ in range(layers))
        self.out = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, opinions))

    def forward(self, tokens: Tensor, context: Context) -> Tensor:
        """Action tokens [B, K, n, D] -> logits [B, K, opinions]."""
        batch, candidates = tokens.shape[:2]
        tokens = torch.cat([repeat(self.token, "d -> b k 1 d", b=batch, k=candidates), tokens], dim=2)
        # The blocks are those of the head; here no diffusion time conditions them.
        condition = tokens.new_ones(batch, candidates, tokens.shape[-1])
        for block in self.blocks:
            tokens = block(tokens, condition, context)
        return self.out(tokens[:, :, 0])
