"""Where a motion leads to, as a choice among the places in the picture.

A regression averages over everything that could be meant; a choice among image cells learns what is meant several times
sooner. Each cell stands for a state of the robot (its tip over that cell), and every keyframe is a mixture over the
cells (Bishop 1994) with one more component for what no cell shows. It comes about in three steps, each of which is the
same function in every scene and for every pair of things:

    Plan        words -> what is to be done, whatever the picture shows
    References  words -> the things they name: each reference picks its words, and these pick cells by what they show
    Choice      a cell scores itself by the plan, by where it lies, and by where it lies relative to the references and
                to where the robot comes from

Keyframes are chosen in turn, p(first | scene, words) p(second | scene, words, first) ...; "left of the star, nearest to
where the disc was taken" needs the first for the second.

Shapes: B batch, W keyframes, N image cells (all frames and cameras), L words, Z words and other tokens of what is asked
for, R references, D width, S state, F Fourier features of a state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from torch import Tensor, nn

from vla.config import ModelConfig
from vla.models.embodiment import Adapters, Embodiment
from vla.models.layers import fourier, zeros

SPREAD = 0.15  # standard deviation of every component, normalised units: about half a cell of an 8 x 8 grid
QUERIES = 8  # that a plan is read with
FREQUENCIES = 5  # of the Fourier features: periods of 8, 4, 2, 1 and 0.5 normalised units
SHARPNESS = 2.0  # of picking words and cells; at 1, references stay blurred for long
PART = 0.2  # share of a sentence that a reference begins with (standard deviation)
EXPLAINED = 0.5  # share of a state component's variance that places in the picture must explain for it to be seen
ALONE = 0.1  # or share of the variance of those places that it alone explains
UNLIKELY = -4.0  # initial score of the component that no cell stands for


@dataclass
class Cells:
    """The image grid of all frames and cameras."""

    shows: Tensor  # [B, N, D] what is in each cell
    placed: Tensor  # [B, N, D] the same, where and when that is, and what is wanted there
    states: Tensor  # [N, S] the normalised state of the robot that each cell stands for
    seen: Tensor  # [S] 1 for components of the state that cells can stand for, else 0
    mask: Tensor | None  # [B, N] bool, None where every cell exists
    wanted: Tensor | None = None  # [B, N, D] what is to be there, if a picture says so


@dataclass
class Guess:
    """A mixture of normal distributions over the states at the next keyframes."""

    log_weight: Tensor  # [B, W, N + 1]
    state: Tensor  # [B, W, N + 1, S] means, normalised
    seen: Tensor  # [S] 1 for components of the state that count, else 0

    def mode(self) -> Tensor:
        """The likeliest of the means, [B, W, S]: where most weight lies, not where one component has most."""
        state = self.state * self.seen
        log_density = self.log_weight[..., None, :] - (torch.cdist(state, state) / SPREAD).square() / 2
        best = log_density.logsumexp(dim=-1).argmax(dim=-1)
        return self.state.take_along_dim(best[..., None, None], dim=2).squeeze(2)

    def draw(self, chance: Tensor) -> Tensor:
        """The means [B, W, S] that `chance` [B, W] in [0, 1) draws, each as likely as its weight."""
        below = self.log_weight.exp().cumsum(dim=-1) <= chance[..., None]
        drawn = below.sum(dim=-1).clamp(max=self.log_weight.shape[-1] - 1)
        return self.state.take_along_dim(drawn[..., None, None], dim=2).squeeze(2)

    def nearest(self, state: Tensor) -> Tensor:
        """What the guess would be if it chose right: the mean of the components given the true states, [B, W, S] both.

        It has the guess's errors but not those of its choice, so what follows is learnt before choosing is.
        """
        share = (self.log_weight - self._distance(state) / 2).softmax(dim=2)
        return einsum(share, self.state, "b w n, b w n s -> b w s")

    def surprise(self, state: Tensor) -> Tensor:
        """Negative log-likelihood [B] of the true states [B, W, S], averaged over keyframes and state components.

        Without its constant: 0 for a certain guess that is right.
        """
        return -(self.log_weight - self._distance(state) / 2).logsumexp(dim=2).mean(dim=1) / self.seen.sum()

    def _distance(self, state: Tensor) -> Tensor:
        """Squared distance [B, W, N + 1] of the true states from every mean, in units of `SPREAD`."""
        way = (rearrange(state, "b w s -> b w 1 s") - self.state) / SPREAD
        return (way.square() * self.seen).sum(dim=-1)


Choose = Callable[[Guess, int], Tensor]  # (guess [B, 1, ...], number of the keyframe) -> state [B, 1, S]


def likeliest(guess: Guess, number: int) -> Tensor:
    """What acting builds on."""
    return guess.mode()


def nearest_to(truth: Tensor) -> Choose:
    """What training builds on, where the keyframes [B, W, S] are known: the guess nearest to each."""
    return lambda guess, number: guess.nearest(truth[:, number, None])


def drawn_by(chance: Tensor, explores: Tensor) -> Choose:
    """What `chance` [B, W] draws in the rows that `explores` [B], bool, the likeliest in the others."""
    explores = rearrange(explores, "b -> b 1 1")
    return lambda guess, number: torch.where(explores, guess.draw(chance[:, number, None]), guess.mode())


class Pointer(nn.Module):
    def __init__(self, config: ModelConfig, embodiments: Sequence[Embodiment]) -> None:
        super().__init__()
        width = config.width
        self.keyframes = config.keyframes
        self.plan = Plan(width)
        self.phase = Adapters(embodiments, lambda robot: nn.Sequential(
            nn.Linear(robot.state_dim + config.keyframes, width), nn.GELU(), nn.Linear(width, width)
        ))
        self.norm = nn.LayerNorm(width)
        self.references = References(config)
        self.choice = Choice(width, embodiments, config.references)
        self.content = nn.Linear(width, width)
        self.place = Adapters(embodiments, lambda robot: nn.Linear(2 * feature_size(robot.state_dim), width))

    def forward(self, words: Tensor, words_mask: Tensor, asked: Tensor, asked_mask: Tensor, cells: Cells, now: Tensor,
                embodiment: int, choose: Choose) -> tuple[Tensor, Guess, Tensor]:
        """
        Args:
            words: [B, L, D]; words_mask: [B, L] bool.
            asked: [B, Z, D] the words and what other kinds of task identifiers say; asked_mask: [B, Z] bool.
            now: [B, S] normalised state of the embodiment of this number.
            choose: what is built on for a keyframe, of all that the guess about it allows.

        Returns:
            Tokens [B, W, D], each with what it points at and where that is; the guess; and where the things lie that
            the references picked, [B, R, S].
        """
        likeness, share = self.references(words, words_mask, cells)
        between = features((rearrange(cells.states, "n s -> n 1 s") - cells.states) * cells.seen)
        around = einsum(share, between, "b r m, n m f -> b n r f")
        plan = self.plan(asked, asked_mask)
        # The same for every keyframe.
        scene, content = self.choice.scene(cells, embodiment), self.content(cells.placed)
        came_from = now
        tokens: list[Tensor] = []
        guesses: list[Guess] = []
        for which in torch.eye(self.keyframes, device=now.device):
            phase = self.phase[embodiment](torch.cat([now, which.expand(len(now), -1)], dim=1))
            token = self.norm(plan + phase)
            guess = self.choice(token, cells, scene, likeness, around, came_from, embodiment)
            came_from = rearrange(choose(guess, len(guesses)), "b 1 s -> b s").detach()
            tokens.append(token + self._found(content, guess, came_from, now, embodiment))
            guesses.append(guess)
        log_weight = torch.cat([guess.log_weight for guess in guesses], dim=1)
        state = torch.cat([guess.state for guess in guesses], dim=1)
        named = einsum(share, cells.states * cells.seen, "b r n, n s -> b r s")
        return torch.stack(tokens, dim=1), Guess(log_weight, state, cells.seen), named

    def _found(self, content: Tensor, guess: Guess, chosen: Tensor, now: Tensor, embodiment: int) -> Tensor:
        """What is shown where a guess [B, 1, ...] points, where the `chosen` state [B, S] is and how far from `now`."""
        shown = einsum(guess.log_weight[:, 0, :-1].exp(), content, "b n, b n d -> b d")
        places = features(torch.stack([chosen, chosen - now], dim=1) * guess.seen)
        return shown + self.place[embodiment](rearrange(places, "b two f -> b (two f)"))


class Plan(nn.Module):
    """What the instruction asks for: learned queries each pick a word or two."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(QUERIES, width) / 2)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Sequential(nn.Linear(QUERIES * width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        """Words [B, L, D] with a mask [B, L] -> [B, D]."""
        picked = pick(self.queries, self.key(words), self.value(words), mask)
        return self.out(rearrange(picked, "b q d -> b (q d)"))


class References(nn.Module):
    """The things that are named. Nobody says which: the choices that build on them do.

    All words share one measure of likeness with cells, so what is learnt about finding the thing that is taken finds
    every other thing that is named.
    """

    begins: Tensor  # [R] relative position in the sentence

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        # Things are named by the same kinds of words wherever in the sentence: what finds the first finds the others.
        self.role = nn.Parameter(torch.randn(width) / 2)
        self.own_role = nn.Parameter(torch.zeros(config.references, width))
        self.position = nn.Parameter(0.3 * torch.randn(config.text.max_tokens, width))
        # Things are named one after the other: references begin with different parts of the sentence, or several of
        # them settle on one thing and none on the other.
        self.register_buffer("begins", (torch.arange(config.references) + 0.5) / config.references, persistent=False)
        self.part = nn.Linear(width, width)
        self.query = nn.Linear(width, width, bias=False)
        self.query_norm = nn.LayerNorm(width)
        self.key = nn.Linear(width, width, bias=False)
        self.key_norm = nn.LayerNorm(width)

    def forward(self, words: Tensor, words_mask: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
        """Words [B, L, D] -> likeness [B, R, N] of what each reference looks for with each cell, and its softmax."""
        parts = self.part(words + self.position[: words.shape[1]])
        prior = -((self._relative_position(words_mask) - self.begins[:, None]) / PART).square() / 2
        roles = SHARPNESS * (self.role + self.own_role)
        named = self.query_norm(pick(roles, parts, self.query(words), words_mask, prior))
        keys = self.key_norm(self.key(cells.shows))
        likeness = SHARPNESS * einsum(named, keys, "b r d, b n d -> b r n") / keys.shape[-1] ** 0.5
        return likeness, masked(likeness, cells.mask).softmax(dim=-1)

    def _relative_position(self, words_mask: Tensor) -> Tensor:
        """[B, 1, L]: 0 for the first word, 1 for the last."""
        count = words_mask.sum(dim=1, keepdim=True)
        position = torch.arange(words_mask.shape[1], device=words_mask.device) / (count - 1).clamp(min=1)
        return rearrange(position, "b l -> b 1 l")


class Choice(nn.Module):
    """Cells score themselves as the place of one keyframe, and say where exactly it would be."""

    def __init__(self, width: int, embodiments: Sequence[Embodiment], references: int) -> None:
        super().__init__()
        self.token = nn.Linear(width, width)
        self.where = Adapters(embodiments, lambda robot: nn.Linear(feature_size(robot.state_dim), width))
        self.relative = Adapters(
            embodiments, lambda robot: nn.Linear((1 + references) * feature_size(robot.state_dim), width)
        )
        # What a cell shows (is there room?) comes in later than geometry: it is no way to find the thing that is named.
        self.cell = zeros(nn.Linear(width, width))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.think = nn.Sequential(nn.GELU(), nn.Linear(width, width), nn.GELU())
        self.score = nn.Linear(width, 1)
        self.offset = Adapters(embodiments, lambda robot: zeros(nn.Linear(width, robot.state_dim)))
        self.named = nn.Linear(width, references)
        self.matters = nn.Linear(width, references)
        self.elsewhere = zeros(nn.Linear(width, 1))
        self.unseen = Adapters(embodiments, lambda robot: nn.Sequential(
            nn.Linear(width, width), nn.GELU(), zeros(nn.Linear(width, robot.state_dim))
        ))
        with torch.no_grad():
            self.elsewhere.bias.fill_(UNLIKELY)
            self.named.bias.copy_(torch.arange(references) == 0)  # the first reference begins as the place itself

    def scene(self, cells: Cells, embodiment: int) -> Tensor:
        """What every cell knows by itself, [B, N, D]: where it lies, what it shows and what it is to show."""
        known = self.where[embodiment](features(cells.states * cells.seen)) + self.cell(cells.placed)
        return known if cells.wanted is None else known + cells.wanted

    def forward(self, token: Tensor, cells: Cells, scene: Tensor, likeness: Tensor, around: Tensor,
                came_from: Tensor, embodiment: int) -> Guess:
        """A guess [B, 1, ...] from a token [B, D].

        Args:
            scene: [B, N, D], from the method of this name.
            likeness: [B, R, N]. around: [B, N, R, F], where each cell lies relative to the references.
            came_from: [B, S] the keyframe before, or now.
        """
        way = features((cells.states - rearrange(came_from, "b s -> b 1 s")) * cells.seen)
        # Not every plan is about every reference: one that names nothing points anywhere, and would be noise.
        matters = rearrange(self.matters(token).sigmoid(), "b r -> b 1 r 1")
        around = rearrange(around * matters, "b n r f -> b n (r f)")
        relative = self.relative[embodiment](torch.cat([way, around], dim=-1))
        hidden = scene + relative + rearrange(self.token(token), "b d -> b 1 d")
        hidden = self.think(self.norm(hidden))
        score = rearrange(self.score(hidden), "b n 1 -> b n")
        score = masked(score + einsum(self.named(token), likeness, "b r, b r n -> b n"), cells.mask)
        log_weight = torch.cat([score, self.elsewhere(token)], dim=-1).log_softmax(dim=-1)
        unseen = rearrange(self.unseen[embodiment](token), "b s -> b 1 s")
        state = torch.cat([cells.states + self.offset[embodiment](hidden), unseen], dim=1)
        return Guess(rearrange(log_weight, "b n -> b 1 n"), rearrange(state, "b n s -> b 1 n s"), cells.seen)


def locate(motion: Tensor, positions: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The affine map from image positions to states that agrees best with where the image changed while robots moved.

    Args:
        motion: [n, N] how much each cell changed (at least 0). positions: [N, 2]. state: [n, S] meanwhile.

    Returns:
        Slopes [S, 2], intercepts [S], and which state components [S] are seen (bool). Seen is what the place in the
        picture tells, or what tells that place and nothing else does: an arm moves in more directions than a picture
        has, so the place alone tells none of them well. Not seen are a gripper's force, or anything where the camera
        moves along.
    """
    share = (motion + 1e-6) / (motion + 1e-6).sum(dim=1, keepdim=True)
    place = share @ positions
    solution, explained = _fit(place, state)
    others = [state[:, torch.arange(state.shape[1]) != component] for component in range(state.shape[1])]
    alone = _fit(state, place)[1] - torch.stack([_fit(rest, place)[1] for rest in others])
    seen = (explained > EXPLAINED) | (alone.amax(dim=1) > ALONE)
    return solution[:2].T, solution[2], seen


def _fit(known: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares from [n, I] to [n, O]: slopes and, last, intercepts [I + 1, O]; shares of variance told [O]."""
    inputs = torch.cat([known, torch.ones(len(known), 1)], dim=1)
    # Not the default driver: gelsy starts from pivots in memory that nobody has set, its last bits differ between runs.
    solution = torch.linalg.lstsq(inputs, told, driver="gelsd").solution
    missed = (told - inputs @ solution).var(dim=0, correction=0)
    return solution, 1 - missed.clamp(min=1e-6) / told.var(dim=0, correction=0).clamp(min=1e-6)


def pick(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, prior: Tensor | float = 0.0) -> Tensor:
    """Learned queries [Q, D] attend to keys [B, L, D] where the mask [B, L] allows it and read values: [B, Q, D].

    `prior`: log-odds [B, Q, L] that are added.
    """
    fit = einsum(queries, keys, "q d, b l d -> b q l") / queries.shape[-1] ** 0.5
    return masked(fit + prior, mask).softmax(dim=-1) @ values


def masked(score: Tensor, mask: Tensor | None) -> Tensor:
    """Scores [B, N] or [B, ?, N] where the mask [B, N] allows it, else minus infinity."""
    if mask is None:
        return score
    return score.masked_fill(~(mask if score.ndim == 2 else rearrange(mask, "b n -> b 1 n")), -torch.inf)


def features(state: Tensor) -> Tensor:
    """Fourier features [..., F] of states or displacements [..., S] in normalised units (within about +-2)."""
    return fourier(state, math.pi / 4, FREQUENCIES)


def feature_size(state_dim: int) -> int:
    return state_dim * (1 + 2 * FREQUENCIES)

