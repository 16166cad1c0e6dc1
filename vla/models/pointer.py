"""Where a motion leads to, as a choice among the things in the picture.

A regression averages over everything that could be meant; a choice among image cells learns what is meant several times
sooner. Each cell stands for a state of the robot (its tip over that cell), and the pointer predicts a mixture over
them (Bishop 1994) with one more component for what no cell shows.

Shapes: B batch, W keyframes, N image cells (all frames and cameras), D width, S state.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from vla.config import ModelConfig

SPREAD = 0.15  # standard deviation of every component, normalised units: about half a cell of an 8 x 8 grid


@dataclass
class Guess:
    """A mixture of normal distributions over the states at the next keyframes."""

    log_weight: Tensor  # [B, W, N + 1]
    state: Tensor  # [B, W, N + 1, S] means, normalised

    @property
    def mean(self) -> Tensor:
        """[B, W, S]."""
        return (self.log_weight.exp()[..., None] * self.state).sum(dim=2)

    def surprise(self, state: Tensor, seen: Tensor) -> Tensor:
        """Negative log-likelihood [B] of the true states [B, W, S], averaged over keyframes and state components.

        Without its constant: 0 for a certain guess that is right. `seen` [S] is 1 for components that count, else 0.
        """
        distance = (((rearrange(state, "b w s -> b w 1 s") - self.state) / SPREAD).square() * seen).sum(dim=-1)
        return -(self.log_weight - distance / 2).logsumexp(dim=2).mean(dim=1) / seen.sum()


class Pointer(nn.Module):
    """Tokens choose cells by what these show, and take along what is there and where it is."""

    def __init__(self, config: ModelConfig, state_dim: int) -> None:
        super().__init__()
        width = config.width
        self.query = nn.Sequential(nn.Linear(width, width, bias=False), nn.LayerNorm(width))
        self.key = nn.Sequential(nn.Linear(width, width, bias=False), nn.LayerNorm(width))
        self.elsewhere = nn.Linear(width, 1)
        self.detail = nn.Linear(width, state_dim)  # where in its cell a thing is
        self.offset = _mlp(width, state_dim)  # how far from the thing the motion leads
        self.unseen = _mlp(width, state_dim)  # the state that no cell stands for
        nn.init.zeros_(self.detail.weight)
        nn.init.zeros_(self.detail.bias)
        self.content = nn.Linear(width, width)
        self.place = nn.Linear(state_dim, width)

    def forward(
        self, tokens: Tensor, cells: Tensor, placed: Tensor, states: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Guess]:
        """
        Args:
            tokens: [B, W, D], one a keyframe. cells: [B, N, D] contents; placed: [B, N, D] contents with places.
            states: [N, S] the state that each cell stands for. mask: [B, N] bool, None where every cell exists.

        Returns:
            Tokens [B, W, D] that have seen what they point at, and the guess.
        """
        agreement = self.query(tokens) @ rearrange(self.key(cells), "b n d -> b d n") / tokens.shape[-1] ** 0.5
        if mask is not None:
            agreement = agreement.masked_fill(~rearrange(mask, "b n -> b 1 n"), -torch.inf)
        log_weight = torch.cat([agreement, self.elsewhere(tokens)], dim=-1).log_softmax(dim=-1)
        shown = rearrange(states + self.detail(cells), "b n s -> b 1 n s") + self.offset(tokens)[:, :, None]
        guess = Guess(log_weight, torch.cat([shown, self.unseen(tokens)[:, :, None]], dim=2))
        read = log_weight[..., :-1].exp() @ self.content(placed)
        return tokens + read + self.place(guess.mean), guess


def locate(motion: Tensor, positions: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The affine map from image positions to states that agrees best with where the image changed while robots moved.

    Args:
        motion: [n, N] how much each cell changed (at least 0). positions: [N, 2]. state: [n, S] meanwhile.

    Returns:
        Slopes [S, 2], intercepts [S], and the share [S] of each component's variance that it explains: near 1 for what
        the camera sees, near 0 for what it can't (a gripper's force) or where the camera moves along.
    """
    share = (motion + 1e-6) / (motion + 1e-6).sum(dim=1, keepdim=True)
    centre = torch.cat([share @ positions, torch.ones(len(motion), 1)], dim=1)
    solution = torch.linalg.lstsq(centre, state).solution
    missed = (state - centre @ solution).var(dim=0, correction=0)
    explained = 1 - missed / state.var(dim=0, correction=0).clamp(min=1e-6)
    return solution[:2].T, solution[2], explained


def _mlp(width: int, out: int) -> nn.Sequential:
    """A hidden layer, and nothing but zeros to begin with."""
    last = nn.Linear(width, out)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), last)
