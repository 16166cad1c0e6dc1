"""Robot units to model units and back, saved with the weights so that a checkpoint undoes exactly what training did."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Normalizer(nn.Module):
    """`(x - offset) / scale` for one feature; also remembers the range that the data covered."""

    offset: Tensor  # [size]
    scale: Tensor  # [size]
    low: Tensor  # [size]
    high: Tensor  # [size]

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("offset", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.register_buffer("low", torch.full((size,), -torch.inf))
        self.register_buffer("high", torch.full((size,), torch.inf))

    @torch.no_grad()
    def fit(self, offset: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> None:
        """Copy parameters of shape [size] in; `low` and `high` are the extremes seen in the data."""
        for name, value in (("offset", offset), ("scale", scale), ("low", low), ("high", high)):
            getattr(self, name).copy_(torch.as_tensor(value))

    @torch.no_grad()
    def widen(self, low: Tensor, high: Tensor) -> None:
        """Remember that the range reaches from `low` to `high` too, [size] each."""
        self.low.copy_(torch.minimum(self.low, low))
        self.high.copy_(torch.maximum(self.high, high))

    @torch.no_grad()
    def share(self, things: Tensor) -> None:
        """Let things of a sort have the same units, so wide that they fit all: [n, K] indices of their K quantities."""
        low, high = (self.offset - self.scale)[things].amin(dim=0), (self.offset + self.scale)[things].amax(dim=0)
        self.offset[things], self.scale[things] = (low + high) / 2, (high - low) / 2

    def forward(self, values: Tensor) -> Tensor:
        """Robot units [..., size] -> model units."""
        return (values - self.offset) / self.scale

    def inverse(self, values: Tensor) -> Tensor:
        """Model units [..., size] -> robot units, kept inside the range of the data."""
        return (values * self.scale + self.offset).clamp(self.low, self.high)
