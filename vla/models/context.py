"""The context reader: finds where the motion leads to and reads the full image grid, once for all that the head does.

The grid is long and the head is called many times (noise samples, denoising steps), so the reading is done once: a
pointer chooses the next keyframes, state and a few learned tokens hear the instruction and look around; the head then
attends only to those and to the instruction.

Shapes: B batch, T history, V views of a goal, F flat features, n image cells of one frame (all cameras), N = T n,
L instruction tokens, Z tokens of what is asked for (L and those of other kinds), Q latents, W keyframes,
M = T + Q + W + Z context tokens, D width, S state, G numbers of a goal state.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from vla.batch import TaskIdentifier
from vla.config import ModelConfig
from vla.models.embodiment import Adapters, Embodiment
from vla.models.layers import Attention, FeedForward, fourier, grid_centres
from vla.models.normalizer import Normalizer
from vla.models.pointer import Cells, Choose, Guess, Pointer, locate
from vla.models.vision import Grid, to_grid
from vla.tasks.kinds import KINDS, LANGUAGE, Scene, Sizes

PLACE_FREQUENCIES = 6  # of the Fourier features of a cell's place: periods of 4 to 1/8 of half a picture


@dataclass
class Context:
    """What the head cross-attends into."""

    tokens: Tensor  # [B, M, D]
    mask: Tensor  # [B, M] bool, True where there is a token
    keyframes: Guess  # where the motion leads to
    state: Tensor  # [B, S] the robot's now, normalised
    named: Tensor  # [B, R, S] where the things lie that the words name
    embodiment: int = 0  # number of the one whose context it is


class ContextReader(nn.Module):
    def __init__(self, config: ModelConfig, grids: dict[str, list[Grid]], text_channels: int,
                 embodiments: Sequence[Embodiment]) -> None:
        """`grids`: layout of the taps of every camera."""
        super().__init__()
        self.images = ImageTokens(config, grids, embodiments)
        self.text = nn.Sequential(nn.Linear(text_channels, config.width), nn.LayerNorm(config.width))
        self.withheld = nn.Parameter(torch.randn(1, config.width) * 0.02)  # stands in for an empty instruction
        self.pointer = Pointer(config, embodiments)
        self.state = Adapters(embodiments, lambda robot: nn.Sequential(
            nn.Linear(robot.state_dim, config.width), nn.GELU(), nn.Linear(config.width, config.width)
        ))
        self.state_age = nn.Parameter(torch.randn(config.history, config.width) * 0.02)
        self.latents = nn.Parameter(torch.randn(config.latents, config.width) * 0.02)
        self.blocks = nn.ModuleList(ReaderBlock(config) for _ in range(config.reader_layers))
        self.norm = nn.LayerNorm(config.width)
        self.kinds = nn.ModuleDict()
        self.add_kinds(config, embodiments)

    def forward(self, text: Tensor, text_mask: Tensor, task: TaskIdentifier, features: dict[str, Tensor],
                views: dict[str, Tensor], goal: Tensor | None, state: Tensor, history_valid: Tensor | None,
                embodiment: int, choose: Choose, shift: Tensor | None = None) -> Context:
        """
        Args:
            text: [B, L, E] instruction tokens; text_mask: [B, L]. A row without any token is a withheld instruction.
            task: what is asked for.
            features: camera -> [B, T, F] flat features. views: camera -> [B, V, F], none where none were given.
            goal: [B, 2, G] normalised state now and at the goal.
            state: [B, T, S] normalised. history_valid: [B, T] bool, None where every frame exists.
            embodiment: number of the one that sees all this.
            choose: which of the places that a keyframe may be at the next one builds on.
            shift: see `ImageTokens`.
        """
        batch, history = state.shape[:2]
        words = self.text(text)
        empty = ~text_mask.any(dim=1)
        words = torch.where(empty[:, None, None], self.withheld.expand_as(words), words)
        text_mask = text_mask.clone()
        text_mask[:, 0] |= empty
        if history_valid is None:
            history_valid = torch.ones(batch, history, dtype=torch.bool, device=state.device)
        contents = self.images.contents(features, shift)
        shown = self.images.contents(views, shift) if views else None
        where = self.images.where(shift)
        places = self.images.places(where)
        scene = Scene(contents, places, shown, goal, embodiment)
        asked, asked_mask, wanted = self._asked(words, text_mask, task, scene)
        cells = self.images(contents, places, where, history_valid, wanted, embodiment)
        now = state[:, -1]
        pointed, guess, named = self.pointer(words, text_mask, asked, asked_mask, cells, now, embodiment, choose)
        felt = self.state[embodiment](state) + self.state_age
        tokens = torch.cat([felt, repeat(self.latents, "q d -> b q d", b=batch)], dim=1)
        exists = torch.cat([history_valid, text_mask.new_ones(batch, len(self.latents))], dim=1)
        for block in self.blocks:
            tokens = block(tokens, asked, torch.cat([exists, asked_mask], dim=1), cells)
        mask = torch.cat([exists, text_mask.new_ones(pointed.shape[:2]), asked_mask], dim=1)
        return Context(torch.cat([self.norm(tokens), pointed, asked], dim=1), mask, guess, now, named, embodiment)

    def _asked(self, words: Tensor, text_mask: Tensor, task: TaskIdentifier,
               scene: Scene) -> tuple[Tensor, Tensor, Tensor | None]:
        """The words [B, L, D] and the tokens of the other kinds, their mask, and what is wanted where [B, T, n, D]."""
        if not task.given:
            return words, text_mask, None
        tokens, masks, wanted = [words], [text_mask], []
        for name, kind in self.kinds.items():
            if name not in task.given:
                continue
            given, clues = task.given[name], kind(task, scene)
            tokens.append(clues.tokens)
            mask = repeat(given, "b -> b l", l=clues.tokens.shape[1])
            masks.append(mask if clues.mask is None else mask & clues.mask)
            if clues.wanted is not None:
                wanted.append(clues.wanted * rearrange(given, "b -> b 1 1 1"))
        return torch.cat(tokens, dim=1), torch.cat(masks, dim=1), torch.stack(wanted).sum(dim=0) if wanted else None

    def add_kinds(self, config: ModelConfig, embodiments: Sequence[Embodiment]) -> None:
        """Fresh modules for the kinds of task identifiers that it can't yet be told by, in the order of `config`."""
        sizes = Sizes(config.width, config.heads, embodiments)
        kinds = [kind for kind in config.task_kinds if kind != LANGUAGE]
        self.kinds = nn.ModuleDict(
            {kind: self.kinds[kind] if kind in self.kinds else KINDS[kind](sizes) for kind in kinds}
        )

    @torch.no_grad()
    def standardize(self, samples: Mapping[str, Tensor]) -> None:
        """Fit the scale of the image channels to a sample of frames: camera -> features [n, F]."""
        for camera, features in samples.items():
            self.images.standardize(camera, features)

    @torch.no_grad()
    def calibrate(self, samples: Mapping[str, tuple[Tensor, Tensor]], state: Tensor, embodiment: int = 0) -> None:
        """Find out which state of an embodiment the cells of the picture stand for.

        Args:
            samples: camera -> features [n, F] of n frames and of the frames after them.
            state: [n, S] normalised, halfway between the two.
        """
        by_camera = [self.images.calibrate(camera, *pair, state, embodiment) for camera, pair in samples.items()]
        seen = torch.stack(by_camera).any(dim=0)
        # Where no camera tells the state, all of it is to be guessed, as well as that goes.
        self.images.state[embodiment].seen.copy_(seen if seen.any() else torch.ones_like(seen))


class ImageTokens(nn.Module):
    """Encoder features of all cameras and frames: what is in every cell, and apart from it where and when that is.

    Kept apart, so that things are found by what they look like and not by where they lie: a policy that could look a
    place up would remember scenes instead of reading instructions.

    In training the grid may be moved against the picture, by a `shift` [2] int64 of rows and columns before merging.
    Things then lie anywhere in a cell, wherever they lay in the data: where exactly in its cell a thing is can be
    learnt from a few scenes.
    """

    def __init__(self, config: ModelConfig, grids: dict[str, list[Grid]], embodiments: Sequence[Embodiment]) -> None:
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
            self.register_buffer(f"size_{camera}", torch.tensor([height, width]), persistent=False)
            centres = grid_centres(height // self.merge, width // self.merge)
            self.register_buffer(f"centres_{camera}", centres, persistent=False)
        channels_of_place = _place(torch.zeros(2)).shape[0]
        self.norm = nn.LayerNorm(config.width)
        self.position = nn.ModuleDict({camera: nn.Linear(channels_of_place, config.width) for camera in grids})
        self.state = Adapters(embodiments, lambda robot: CellStates(grids, channels_of_place, robot.state_dim))
        self.age = nn.Parameter(torch.zeros(config.history, config.width))

    def standardize(self, camera: str, features: Tensor) -> None:
        """Fit the scale of the channels to features [n, F].

        Channels of a pretrained encoder differ in scale by orders of magnitude, and an empty table is most of an image.
        """
        cells = to_grid(features.float(), self.grids[camera])
        spread, mean = torch.std_mean(cells, dim=(0, 2, 3))
        normalizer = cast(Normalizer, self.normalize[camera])
        normalizer.fit(mean, spread.clamp(min=1e-3), cells.amin((0, 2, 3)), cells.amax((0, 2, 3)))

    def calibrate(self, camera: str, before: Tensor, after: Tensor, state: Tensor, embodiment: int) -> Tensor:
        """Find out which state each cell stands for.

        Where the image changes is where the robot moves: that calibrates the camera before training begins.

        Args:
            before: [n, F] features of sampled frames; after: [n, F] of the frames that follow. state: [n, S].

        Returns:
            Which state components [S] the camera sees (bool).
        """
        change = self._cells(camera, after) - self._cells(camera, before)
        centres = self.get_buffer(f"centres_{camera}")
        slopes, intercepts, seen = locate(change.square().mean(dim=-1), centres, state)
        states = self.state[embodiment].camera(camera)
        states.weight.zero_()
        states.weight[:, :2] = slopes
        states.bias.copy_(intercepts)
        return seen

    def forward(self, contents: Tensor, places: Tensor, where: dict[str, Tensor], history_valid: Tensor,
                wanted: Tensor | None, embodiment: int) -> Cells:
        """
        Args:
            contents, places, where: from the methods of these names, for the same shift.
            history_valid: [B, T] which frames exist. wanted: [B, T, n, D] what is wanted in each cell, None if nothing.
        """
        own = self.state[embodiment]
        mask = None if history_valid.all() else repeat(history_valid, "b t -> b (t n)", n=contents.shape[2])
        shows = self.norm(rearrange(contents, "b t n d -> b (t n) d"))
        places = rearrange(places, "t n d -> (t n) d")
        states = torch.cat([own.camera(camera)(where[camera]) for camera in self.grids])
        states = repeat(states, "n s -> (t n) s", t=len(self.age))
        if wanted is None:
            return Cells(shows, shows + places, states, own.seen, mask)
        wanted = rearrange(wanted, "b t n d -> b (t n) d")
        return Cells(shows, shows + places + wanted, states, own.seen, mask, wanted)

    def where(self, shift: Tensor | None = None) -> dict[str, Tensor]:
        """camera -> Fourier features of where its cells are, [h * w, P]."""
        centres = {camera: self.get_buffer(f"centres_{camera}") for camera in self.grids}
        if shift is not None:
            centres = {name: at + 2 * shift / self.get_buffer(f"size_{name}") for name, at in centres.items()}
        return {camera: _place(at) for camera, at in centres.items()}

    def places(self, where: dict[str, Tensor]) -> Tensor:
        """Where and when each cell is: [T, n, D]."""
        places = torch.cat([self.position[camera](where[camera]) for camera in self.grids])
        return rearrange(self.age, "t d -> t 1 d") + places

    def contents(self, features: dict[str, Tensor], shift: Tensor | None = None) -> Tensor:
        """camera -> [B, T, F] flat features: what is in every cell of every frame, [B, T, n, D]."""
        return torch.cat([self._contents(camera, features[camera], shift) for camera in self.grids], dim=2)

    def _contents(self, camera: str, features: Tensor, shift: Tensor | None) -> Tensor:
        """[B, T, F] -> [B, T, h * w, D]."""
        cells = self._cells(camera, rearrange(features, "b t f -> (b t) f"), shift)
        return rearrange(self.project[camera](cells), "(b t) n d -> b t n d", b=len(features))

    def _cells(self, camera: str, features: Tensor, shift: Tensor | None = None) -> Tensor:
        """[n, F] -> [n, h * w, C] standardised, neighbours merged. What lies beyond the picture looks like its edge."""
        cells = to_grid(features.float(), self.grids[camera])
        cells = self.normalize[camera](rearrange(cells, "n c h w -> n h w c"))
        if shift is not None:
            for axis, steps in enumerate(shift, start=1):
                last = cells.shape[axis] - 1
                cells = cells.index_select(axis, (torch.arange(last + 1, device=steps.device) + steps).clamp(0, last))
        return rearrange(cells, "n (h i) (w j) c -> n (h w) (i j c)", i=self.merge, j=self.merge)


def _place(position: Tensor) -> Tensor:
    """Fourier features [..., P] of positions in a picture, [..., 2] in [-1, 1]."""
    return fourier(position, math.pi / 2, PLACE_FREQUENCIES)


class CellStates(nn.Module):
    """The state of a robot that each place in each camera's picture stands for."""

    seen: Tensor  # [S] 1 for state components that can be pointed at in the picture, else 0

    def __init__(self, cameras: Iterable[str], channels: int, state_dim: int) -> None:
        super().__init__()
        self.of = nn.ModuleDict({camera: nn.Linear(channels, state_dim) for camera in cameras})
        self.register_buffer("seen", torch.ones(state_dim))

    def camera(self, name: str) -> nn.Linear:
        """From Fourier features of places in its picture, [..., F], to states, [..., S]."""
        return cast(nn.Linear, self.of[name])


class ReaderBlock(nn.Module):
    """Tokens talk to each other and hear what is asked for, read the image, think."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(3))
        self.talk = Attention(config.width, config.heads)
        self.read = Attention(config.width, config.heads)
        self.think = FeedForward(config.width, config.dropout)

    def forward(self, tokens: Tensor, asked: Tensor, mask: Tensor, cells: Cells) -> Tensor:
        """tokens [B, T + Q, D], asked [B, Z, D]; mask [B, T + Q + Z] covers both."""
        talk, read, think = self.norms
        normed = talk(tokens)
        tokens = tokens + self.talk(normed, torch.cat([normed, asked], dim=1), mask)
        tokens = tokens + self.read(read(tokens), cells.shows, cells.mask, cells.placed)
        return tokens + self.think(think(tokens))
