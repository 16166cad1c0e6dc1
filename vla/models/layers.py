"""Attention, feed-forward and position embeddings shared by the context reader and the diffusion head.

Shapes: B batch, N queries, M keys, D width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017) with normalised queries and keys (Dehghani et al. 2023).

    The normalisation gives attention a scale worth learning from at the first step; without it, finding what an
    instruction names took longer.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.query_norm = nn.LayerNorm(width // heads)
        self.key_norm = nn.LayerNorm(width // heads)
        self.out = nn.Linear(width, width)

    def forward(
        self, queries: Tensor, memory: Tensor, mask: Tensor | None = None, values: Tensor | None = None
    ) -> Tensor:
        """Queries [B, N, D] look in memory [B, M, D] where mask [B, M] is True -> [B, N, D].

        What they find there is read from `values` [B, M, D]; by default from the memory itself.
        """
        values = memory if values is None else values
        q, k, v = (
            rearrange(project(x), "b n (h d) -> b h n d", h=self.heads)
            for project, x in ((self.query, queries), (self.key, memory), (self.value, values))
        )
        mask = None if mask is None else rearrange(mask, "b m -> b 1 1 m")
        read = F.scaled_dot_product_attention(self.query_norm(q), self.key_norm(k), v, attn_mask=mask)
        return self.out(rearrange(read, "b h n d -> b n (h d)"))


class FeedForward(nn.Sequential):
    def __init__(self, width: int, dropout: float, expansion: int = 4) -> None:
        super().__init__(
            nn.Linear(width, expansion * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(expansion * width, width)
        )


def zeros(linear: nn.Linear) -> nn.Linear:
    """The layer, answering zero to begin with."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def sinusoidal(positions: Tensor, width: int, longest: float = 10_000.0) -> Tensor:
    """Sine and cosine features of real positions [...] -> [..., width] (Vaswani et al. 2017)."""
    frequencies = torch.exp(-math.log(longest) * torch.arange(width // 2, device=positions.device) / (width // 2))
    angles = positions[..., None].float() * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def fourier(values: Tensor, slowest: float, count: int) -> Tensor:
    """Values [..., S] with sine and cosine at `count` angular frequencies, each twice the one before:
    [..., S * (1 + 2 * count)]."""
    frequencies = slowest * 2.0 ** torch.arange(count, device=values.device)
    angles = (values[..., None] * frequencies).flatten(-2)
    return torch.cat([values, angles.sin(), angles.cos()], dim=-1)


def grid_centres(height: int, width: int) -> Tensor:
    """Row and column of cell centres in [-1, 1], row by row: [height * width, 2]."""
    y = (torch.arange(height) + 0.5) / height * 2 - 1
    x = (torch.arange(width) + 0.5) / width * 2 - 1
    return torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).flatten(0, 1)
