"""The context reader: state and a few learned tokens hear the instruction and read the full image grid.

The grid is long and the head is called many times (noise samples, denoising steps), so the reading is done once, by a
few tokens that know what they look for; the head then attends only to those and to the instruction.

Shapes: B batch, T history, F flat features, N image cells (all frames and cameras), L instruction tokens, Q latents,
M = T + Q + L context tokens, D width, S state, W waypoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from vla.config import ModelConfig
from vla.models.layers import Attention, FeedForward, grid_positions
from vla.models.normalizer import Normalizer
from vla.models.vision import Grid, to_grid


@dataclass
class Context:
    """What the head cross-attends into."""

    tokens: Tensor  # [B, M, D]
    mask: Tensor  # [B, M] bool, True where there is a token
    waypoints: Tensor  # [B, W, S] predicted future states, normalised


class ContextReader(nn.Module):
    def __init__(self, config: ModelConfig, grids: dict[str, list[Grid]], text_channels: int, state_dim: int) -> None:
        """`grids`: layout of the taps of every camera."""
        super().__init__()
        if config.latents < len(config.waypoints):
            raise ValueError(
                f"model.latents is {config.latents}, but each of the {len(config.waypoints)} model.waypoints needs one"
            )
        self.images = ImageTokens(config, grids)
        self.mention = MentionBlock(config)
        self.text = nn.Sequential(nn.Linear(text_channels, config.width), nn.LayerNorm(config.width))
        self.withheld = nn.Parameter(torch.randn(1, config.width) * 0.02)  # stands in for an empty instruction
        self.state = nn.Sequential(
            nn.Linear(state_dim, config.width), nn.GELU(), nn.Linear(config.width, config.width)
        )
        self.state_age = nn.Parameter(torch.randn(config.history, config.width) * 0.02)
        self.latents = nn.Parameter(torch.randn(config.latents, config.width) * 0.02)
        self.blocks = nn.ModuleList(ReaderBlock(config) for _ in range(config.reader_layers))
        self.norm = nn.LayerNorm(config.width)
        self.waypoint_count = len(config.waypoints)
        self.waypoints = nn.Linear(config.width, state_dim)

    def forward(self, text: Tensor, text_mask: Tensor, features: dict[str, Tensor], state: Tensor,
                history_valid: Tensor | None) -> Context:
        """
        Args:
            text: [B, L, E] instruction tokens; text_mask: [B, L]. A row without any token is a withheld instruction.
            features: camera -> [B, T, F] flat features.
            state: [B, T, S] normalised. history_valid: [B, T] bool, None where every frame exists.
        """
        batch, history = state.shape[:2]
        words = self.text(text)
        empty = ~text_mask.any(dim=1)
        words = torch.where(empty[:, None, None], self.withheld.expand_as(words), words)
        text_mask = text_mask.clone()
        text_mask[:, 0] |= empty
        if history_valid is None:
            history_valid = torch.ones(batch, history, dtype=torch.bool, device=state.device)
        cells, places, cells_mask = self.images(features, history_valid)
        cells = self.mention(cells, words, text_mask)
        tokens = torch.cat([self.state(state) + self.state_age, repeat(self.latents, "q d -> b q d", b=batch)], dim=1)
        mask = torch.cat([history_valid, text_mask.new_ones(batch, len(self.latents)), text_mask], dim=1)
        for block in self.blocks:
            tokens = block(tokens, words, mask, cells, cells + places, cells_mask)
        tokens = self.norm(tokens)
        waypoints = self.waypoints(tokens[:, history : history + self.waypoint_count])
        return Context(torch.cat([tokens, words], dim=1), mask, waypoints)


class ImageTokens(nn.Module):
    """Encoder features of all cameras and frames: what is in every cell, and apart from it where and when that is.

    Kept apart, so that cells are found by what they show and not by where they lie: a policy that could look a place up
    would remember scenes instead of reading instructions.
    """

    def __init__(self, config: ModelConfig, grids: dict[str, list[Grid]]) -> None:
        super().__init__()
        self.grids = grids
        self.merge = config.vision.merge
        channels = {camera: sum(grid.channels for grid in taps) * self.merge**2 for camera, taps in grids.items()}
        self.project = nn.ModuleDict({
            camera: nn.Sequential(nn.Linear(n, config.width), nn.GELU(), nn.Linear(config.width, config.width))
            for camera, n in channels.items()
        })
        self.normalize = nn.ModuleDict({
            camera: Normalizer(sum(grid.channels for grid in taps)) for camera, taps in grids.items()
        })
        for camera, taps in grids.items():
            height, width = max((grid.height, grid.width) for grid in taps)
            if height % self.merge or width % self.merge:
                raise ValueError(
                    f"model.vision.merge {self.merge} doesn't divide the {height} x {width} grid of camera {camera}"
                )
            positions = grid_positions(height // self.merge, width // self.merge)
            self.register_buffer(f"positions_{camera}", positions, persistent=False)
        fourier = grid_positions(1, 1).shape[1]
        self.position = nn.ModuleDict({camera: nn.Linear(fourier, config.width) for camera in grids})
        self.age = nn.Parameter(torch.zeros(config.history, config.width))

    def fit(self, camera: str, features: Tensor) -> None:
        """Standardise every channel by its mean and spread over `features` [n, F], a sample of the data.

        Channels of a pretrained encoder differ in scale by orders of magnitude, and an empty table is most of an image.
        """
        cells = to_grid(features.float(), self.grids[camera])
        spread, mean = torch.std_mean(cells, dim=(0, 2, 3))
        normalizer = cast(Normalizer, self.normalize[camera])
        normalizer.fit(mean, spread.clamp(min=1e-3), cells.amin((0, 2, 3)), cells.amax((0, 2, 3)))

    def forward(self, features: dict[str, Tensor], history_valid: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Contents [B, N, D], places [N, D], and a mask [B, N] (None where every frame exists)."""
        cells = torch.cat([self._contents(camera, features[camera]) for camera in self.grids], dim=2)
        places = torch.cat([self._places(camera) for camera in self.grids])
        places = rearrange(self.age, "t d -> t 1 d") + places
        mask = None if history_valid.all() else repeat(history_valid, "b t -> b (t n)", n=cells.shape[2])
        return rearrange(cells, "b t n d -> b (t n) d"), rearrange(places, "t n d -> (t n) d"), mask

    def _places(self, camera: str) -> Tensor:
        """[h * w, D]."""
        positions = self.get_buffer(f"positions_{camera}")
        return self.position[camera](positions)

    def _contents(self, camera: str, features: Tensor) -> Tensor:
        """[B, T, F] -> [B, T, h * w, D]."""
        batch = len(features)
        cells = to_grid(rearrange(features, "b t f -> (b t) f").float(), self.grids[camera])
        cells = self.normalize[camera](rearrange(cells, "bt c h w -> bt h w c"))
        cells = rearrange(cells, "bt (h i) (w j) c -> bt (h w) (i j c)", i=self.merge, j=self.merge)
        return rearrange(self.project[camera](cells), "(b t) n d -> b t n d", b=batch)


class MentionBlock(nn.Module):
    """Every image cell hears the instruction and learns whether it is spoken of, before anybody looks for it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(3))
        self.hear = Attention(config.width, config.heads)
        self.think = FeedForward(config.width, config.dropout, expansion=2)

    def forward(self, cells: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """cells [B, N, D], words [B, L, D], mask [B, L] -> [B, N, D]."""
        hear, think, out = self.norms
        cells = cells + self.hear(hear(cells), words, mask)
        return out(cells + self.think(think(cells)))


class ReaderBlock(nn.Module):
    """Tokens talk to each other and hear the instruction, read the image, think."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(3))
        self.talk = Attention(config.width, config.heads)
        self.read = Attention(config.width, config.heads)
        self.think = FeedForward(config.width, config.dropout)

    def forward(self, tokens: Tensor, words: Tensor, mask: Tensor, cells: Tensor, placed: Tensor,
                cells_mask: Tensor | None) -> Tensor:
        """tokens [B, T + Q, D], words [B, L, D]; mask [B, T + Q + L] covers both. Cells and placed cells [B, N, D]."""
        talk, read, think = self.norms
        normed = talk(tokens)
        tokens = tokens + self.talk(normed, torch.cat([normed, words], dim=1), mask)
        tokens = tokens + self.read(read(tokens), cells, cells_mask, placed)
        return tokens + self.think(think(tokens))
