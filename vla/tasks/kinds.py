"""The kinds of task identifiers besides words: what each needs of the data, and how it becomes tokens.

A policy is told what to do in words, by a number, by the state or the picture that is to be reached, or by a video of
the way there: any of them, together or alone. A kind is a class in this file; nothing else knows it by name.

Shapes: B batch, V views, T history, n image cells of one frame (all cameras), N = T n, D width, G numbers of a goal
state, L tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from vla.batch import TaskIdentifier
from vla.models.embodiment import Adapters, Embodiment
from vla.models.layers import Attention, FeedForward, fourier

LANGUAGE = "language"
MAX_TASKS = 256  # that a policy can have numbers for, those learnt later included
CHANGED = 0.05  # normalised units by which a number of a thing is to change, for it to be mentioned
FREQUENCIES = 5  # of the Fourier features of a number: periods of 8 to 0.5 normalised units


@dataclass(frozen=True)
class Sizes:
    """What the modules of the kinds are made for."""

    width: int  # D
    heads: int
    embodiments: Sequence[Embodiment]


@dataclass
class Scene:
    """What the policy sees, and the views that it was given of what is to be."""

    now: Tensor  # [B, T, n, D] image cells
    where: Tensor  # [T, n, D] where and when they are
    views: Tensor | None  # [B, V, n, D], the goal last
    goal: Tensor | None  # [B, 2, G] normalised state: now, and at the goal
    embodiment: int  # its number


@dataclass
class Clues:
    """What a kind says: tokens beside the words, and what is to be where in the picture."""

    tokens: Tensor  # [B, L, D]
    mask: Tensor | None = None  # [B, L] bool, True where there is a token; None where all are
    wanted: Tensor | None = None  # [B, T, n, D]


class Kind(nn.Module):
    """A kind of task identifier. Rows it isn't given for are masked by whoever calls it."""

    views: ClassVar[int] = 0  # pictures it takes, evenly from now (left out) to the goal (included)
    state: ClassVar[bool] = False  # whether it takes the state at the goal
    shows_goal: ClassVar[bool] = True  # a frame that is to be reached; words and numbers ask for a segment's end

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()

    def forward(self, task: TaskIdentifier, scene: Scene) -> Clues:
        raise NotImplementedError


class TaskNumber(Kind):
    """A token for each task of the policy's list."""

    shows_goal = False

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.embedding = nn.Embedding(MAX_TASKS, sizes.width)

    def forward(self, task: TaskIdentifier, scene: Scene) -> Clues:
        assert task.number is not None
        return Clues(rearrange(self.embedding(task.number), "b d -> b 1 d"))


class GoalState(Kind):
    """A token for each thing that is to change: what its numbers are now, and what they are to be.

    Of the others nothing is said: a whole state is the fingerprint of a scene, by which a policy would remember what
    was done there. The tokens hear each other, and every cell of the picture asks what they say about its place.
    """

    state = True

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        width = sizes.width
        self.things = Adapters(sizes.embodiments, lambda robot: Things(robot, width))
        self.rest = nn.Parameter(torch.randn(1, 1, width) * 0.02)  # stands for all that stays
        self.out = nn.Sequential(nn.GELU(), nn.Linear(width, width), nn.LayerNorm(width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(5))
        self.talk = Attention(width, sizes.heads)
        self.think = FeedForward(width, dropout=0.0)
        self.ask = Attention(width, sizes.heads)
        self.compare = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, task: TaskIdentifier, scene: Scene) -> Clues:
        assert scene.goal is not None
        things, changes = self.things[scene.embodiment](scene.goal)
        tokens = torch.cat([self.rest.expand(len(things), 1, -1), self.out(things)], dim=1)
        mask = F.pad(changes, (1, 0), value=True)
        talk, think, hear, see, know = self.norms
        tokens = tokens + self.talk(talk(tokens), talk(tokens), mask)
        tokens = tokens + self.think(think(tokens))
        cells = rearrange(scene.now + scene.where, "b t n d -> b (t n) d")
        # By its place alone, and what it hears is as loud as what it shows: in a policy of words looks drown all else.
        places = repeat(scene.where, "t n d -> b (t n) d", b=len(cells))
        told = self.ask(places, hear(tokens), mask)
        wanted = self.compare(torch.cat([see(cells), know(told)], dim=-1))
        return Clues(tokens, mask, rearrange(wanted, "b (t n) d -> b t n d", t=len(scene.where)))


class Things(nn.Module):
    """Reads the things of an embodiment's scene off its state; those of a sort are read alike, whichever it is."""

    def __init__(self, robot: Embodiment, width: int) -> None:
        super().__init__()
        sorts = robot.goal_things
        for index, sort in enumerate(sorts):
            self.register_buffer(f"numbers_{index}", torch.tensor(sort), persistent=False)  # [n, K] of its n things
        self.read = nn.ModuleList(nn.Linear(3 * len(sort[0]) * (1 + 2 * FREQUENCIES), width) for sort in sorts)
        self.which = nn.Parameter(torch.zeros(sum(map(len, sorts)), width))

    def forward(self, goal: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 2, G] now and at the goal -> what is said of every thing, [B, L, D], and whether it changes, [B, L]."""
        tokens, changes = [], []
        for index, read in enumerate(self.read):
            now, then = goal[:, :, self.get_buffer(f"numbers_{index}")].unbind(dim=1)  # [B, n, K] each
            values = torch.cat([now, then, then - now], dim=-1)
            tokens.append(read(fourier(values, math.pi / 4, FREQUENCIES)))
            changes.append(((then - now).abs() > CHANGED).any(dim=-1))
        return torch.cat(tokens, dim=1) + self.which, torch.cat(changes, dim=1)


class Views(Kind):
    """Every cell of the picture is compared with what it is to show, in so many views on the way."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        width = sizes.width
        self.compare = nn.Sequential(nn.Linear(2 * self.views * width, width), nn.GELU(), nn.Linear(width, width))
        self.summary = nn.Sequential(nn.Linear(2 * width, width), nn.LayerNorm(width))

    def forward(self, task: TaskIdentifier, scene: Scene) -> Clues:
        assert scene.views is not None
        shown = scene.views[:, -self.views :]
        shown = torch.cat([shown[:, :1].expand(-1, self.views - shown.shape[1], -1, -1), shown], dim=1)
        wanted = repeat(rearrange(shown, "b v n d -> b n (v d)"), "b n d -> b t n d", t=scene.now.shape[1])
        change = wanted - scene.now.repeat(1, 1, 1, self.views)
        wanted = self.compare(torch.cat([change, wanted], dim=-1))
        newest = wanted[:, -1]
        summary = torch.cat([newest.mean(dim=1), newest.amax(dim=1)], dim=-1)
        return Clues(rearrange(self.summary(summary), "b d -> b 1 d"), wanted=wanted)


class GoalImage(Views):
    views = 1


class Video(Views):
    views = 4


KINDS: dict[str, type[Kind]] = {
    "task_id": TaskNumber,
    "goal_state": GoalState,
    "goal_image": GoalImage,
    "video": Video,
}


def shows_goal(kind: str) -> bool:
    """Whether the kind asks for a frame to be reached, which may come before its segment's end."""
    return kind != LANGUAGE and KINDS[kind].shows_goal


def views_of(kinds: Sequence[str]) -> int:
    """Pictures that the kinds take together."""
    return max((KINDS[kind].views for kind in kinds if kind in KINDS), default=0)


def takes_state(kinds: Sequence[str]) -> bool:
    """Whether one of the kinds takes the state at the goal."""
    return any(KINDS[kind].state for kind in kinds if kind in KINDS)
