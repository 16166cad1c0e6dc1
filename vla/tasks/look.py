"""Labels by looking, for recordings without a simulator's state: does the picture show that an instruction is done?

A looker scores an instruction against the first and the last picture of an attempt: the critic of a policy (its
`V(s, z)` is the chance of doing what is asked for, near 1 where it is done), or any model of transformers with a text
and an image tower (CLIP, SigLIP; Radford et al. 2021). Scores become chances by logistic regression on attempts whose
success is known (Platt 1999). A claim is made where they promise the precision that was asked for; in between the
looker abstains.

Shapes: N attempts, half of them each for fitting and for measuring.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

from vla.data.episodes import EpisodeDataset
from vla.data.observations import recorded_observation
from vla.data.segments import Segments, shared_strings
from vla.models.policy import VLAPolicy
from vla.models.pretrained import LOADING_ERRORS, EncoderError, resolve

SOURCE = "vlm"  # of the rows
VERSION = "1"
GROUP = 64  # pictures looked at together
FITTING_STEPS, SHRINKAGE = 50, 1e-3  # of the logistic regression

Progress = Callable[[int, int], None]  # (finished, all)


class Looker(Protocol):
    """Scores pictures; more means more likely done. Any scale: it is calibrated."""

    name: str

    def scores(self, dataset: EpisodeDataset, frames: np.ndarray, instructions: Sequence[str]) -> np.ndarray:
        """[n] float64: how much each of `frames` [n] looks as if its instruction had been followed."""


class CriticLooker:
    """A policy's critic."""

    def __init__(self, policy: VLAPolicy, name: str) -> None:
        if policy.critic is None:
            raise ValueError(f"{name}: the policy has no critic to look with; train one with model.critic")
        self.name, self._policy, self._critic = f"critic:{name}", policy, policy.critic

    @torch.no_grad()
    def scores(self, dataset: EpisodeDataset, frames: np.ndarray, instructions: Sequence[str]) -> np.ndarray:
        self._policy.check_layout(
            dataset.cameras, dataset.state_dim, dataset.action_dim, dataset.fps, dataset.embodiment
        )
        seen = recorded_observation(dataset, frames, instructions, self._policy.config.model.history)
        value = self._critic.value(self._policy.read(seen.to(self._policy.device)))
        return torch.logit(value, eps=1e-6).double().cpu().numpy()


class TwoTowerLooker:
    """How alike text and picture are to a model with a tower for each."""

    def __init__(self, name: str) -> None:
        """Raises EncoderError: there is no such model, or it isn't one."""
        try:
            self._model = AutoModel.from_pretrained(resolve(name), use_safetensors=True).eval()
            self._processor = AutoProcessor.from_pretrained(resolve(name))
        except LOADING_ERRORS as error:
            raise EncoderError(f"cannot load {name!r} to look with: {str(error).splitlines()[0]}") from error
        if not hasattr(self._model, "get_image_features"):
            kind = type(self._model).__name__
            raise EncoderError(f"{name!r} is a {kind} without a text and an image tower; use a CLIP or SigLIP model")
        self.name = f"two-tower:{name}"

    @torch.no_grad()
    def scores(self, dataset: EpisodeDataset, frames: np.ndarray, instructions: Sequence[str]) -> np.ndarray:
        pictures = [Image.fromarray(picture) for picture in dataset.frames(next(iter(dataset.cameras)), frames)]
        inputs = self._processor(text=list(instructions), images=pictures, return_tensors="pt", padding="max_length",
                                 truncation=True)  # fmt: skip
        output = self._model(**inputs)
        likeness = torch.nn.functional.cosine_similarity(output.text_embeds, output.image_embeds)
        return likeness.double().numpy()


@dataclass(frozen=True)
class Calibration:
    """From the scores of first and last picture to a decision."""

    weights: tuple[float, float, float]  # of the first score, of the last, and the intercept
    accept: float  # least chance that is claimed
    reject: float  # greatest chance that is called a miss

    def chance(self, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """[N] in (0, 1): that the attempt did it."""
        return _sigmoid(np.stack([first, last, np.ones_like(first)], axis=1) @ np.array(self.weights))


@dataclass(frozen=True)
class Accuracy:
    """What decisions are worth, measured on attempts that had no part in the calibration."""

    attempts: int
    claimed: int
    right: int  # of the claimed
    done: int  # attempts that did it
    misses: int  # that were called so
    right_misses: int
    abstained: int

    def __str__(self) -> str:
        return (
            f"of {self.attempts} attempts {self.claimed} were claimed, {self.right} rightly "
            f"({_share(self.right, self.claimed)}), which finds {_share(self.right, self.done)} of those that did it; "
            f"{self.misses} were called a miss, {self.right_misses} rightly "
            f"({_share(self.right_misses, self.misses)}); {self.abstained} left open"
        )


def score_attempts(
    looker: Looker, dataset: EpisodeDataset, segments: Segments, progress: Progress = lambda done, total: None
) -> tuple[np.ndarray, np.ndarray]:
    """Scores [N] of the first and [N] of the last picture of each segment."""
    scores = np.empty((2, len(segments)))
    for begin in range(0, len(segments), GROUP):
        rows = slice(begin, begin + GROUP)
        for which, frames in enumerate((segments.start[rows], segments.stop[rows] - 1)):
            scores[which, rows] = looker.scores(dataset, frames, segments.instruction[rows].tolist())
        progress(min(begin + GROUP, len(segments)), len(segments))
    return scores[0], scores[1]


def calibrate(
    first: np.ndarray, last: np.ndarray, success: np.ndarray, precision: float = 0.95, seed: int = 0
) -> tuple[Calibration, Accuracy]:
    """Fit chances and thresholds to one half of scored attempts [N] of known `success` [N], measure on the other.

    Args:
        precision: of what is claimed, and of what is called a miss, at least so much is to be right.

    Raises:
        ValueError: fewer than two successes or failures in a half, or a precision outside (0.5, 1).
    """
    if not 0.5 < precision < 1:
        raise ValueError(f"precision is {precision}; give one between 0.5 and 1")
    fits = np.zeros(len(success), bool)
    fits[np.random.default_rng(seed).permutation(len(success))[: len(success) // 2]] = True
    for half in (fits, ~fits):
        if success[half].sum() < 2 or (~success[half]).sum() < 2:
            raise ValueError("too few attempts to calibrate with: both halves need successes and failures")
    weights = _logistic(np.stack([first, last], axis=1)[fits], success[fits])
    chance = Calibration(weights, 1.0, 0.0).chance(first, last)
    # Where both thresholds could lie on either side of the middle, nothing is both done and missed.
    accept = max(_threshold(chance[fits], success[fits], precision), 0.5)
    reject = min(1 - _threshold(1 - chance[fits], ~success[fits], precision), np.nextafter(0.5, 0))
    claimed, missed = chance[~fits] >= accept, chance[~fits] <= reject
    done = success[~fits]
    accuracy = Accuracy(
        attempts=int((~fits).sum()),
        claimed=int(claimed.sum()),
        right=int((claimed & done).sum()),
        done=int(done.sum()),
        misses=int(missed.sum()),
        right_misses=int((missed & ~done).sum()),
        abstained=int((~claimed & ~missed).sum()),
    )
    return Calibration(weights, accept, reject), accuracy


def label_by_looking(
    looker: Looker,
    calibration: Calibration,
    dataset: EpisodeDataset,
    tasks: dict[str, str],
    candidates: int = 32,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> Segments:
    """The data set's segments, and whole episodes under what they look to have done, in place of earlier such rows.

    Args:
        tasks: instruction -> task (stratum) that it counts for: what may be claimed.
        candidates: instructions that are drawn and looked for in each episode.
    """
    recorded = Segments.load(dataset)
    recorded = recorded.select(recorded.source != SOURCE)
    wordings = np.array(list(tasks), dtype=object)
    draws = [  # a wording that is drawn twice is looked for once
        list(dict.fromkeys(np.random.default_rng([seed, number]).integers(len(wordings), size=candidates).tolist()))
        for number in range(dataset.num_episodes)
    ]
    episode = np.repeat(np.arange(dataset.num_episodes), [len(drawn) for drawn in draws])
    instruction = wordings[np.concatenate(draws)]
    asked = Segments(
        dataset=np.zeros(len(episode), np.int64),
        episode=episode,
        start=dataset.episodes.start[episode],
        stop=dataset.episodes.stop[episode],
        instruction=instruction,
        task=shared_strings(tasks[text] for text in instruction),
        source=shared_strings([SOURCE] * len(episode)),
        success=np.ones(len(episode), bool),
        reward=np.ones(len(episode), np.float32),
        outcome=shared_strings([""] * len(episode)),
        labeller=shared_strings([looker.name] * len(episode)),
        labeller_version=shared_strings([VERSION] * len(episode)),
        original_instruction=dataset.episodes.instruction[episode],
        embodiment=shared_strings([dataset.embodiment] * len(episode)),
    )
    chance = calibration.chance(*score_attempts(looker, dataset, asked, progress))
    return Segments.concatenate([recorded, asked.select(chance >= calibration.accept)])


def _logistic(features: np.ndarray, success: np.ndarray) -> tuple[float, float, float]:
    """Weights of the two features and the intercept, by Newton's method on the penalised likelihood."""
    inputs = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    weights = np.zeros(inputs.shape[1])
    penalty = SHRINKAGE * len(inputs) * np.diag([1.0] * features.shape[1] + [0.0])
    for _ in range(FITTING_STEPS):
        chance = _sigmoid(inputs @ weights)
        gradient = inputs.T @ (chance - success) + penalty @ weights
        curvature = (inputs * (chance * (1 - chance))[:, None]).T @ inputs + penalty + 1e-9 * np.eye(len(weights))
        weights = weights - np.linalg.solve(curvature, gradient)
    first, last, intercept = weights.tolist()
    return first, last, intercept


def _threshold(chance: np.ndarray, right: np.ndarray, precision: float) -> float:
    """The least chance from which on at least `precision` are right; 1 + (nothing is claimed) where there is none."""
    order = np.argsort(-chance, kind="stable")
    share = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    good = np.flatnonzero(share >= precision)
    return float(chance[order[good[-1]]]) if len(good) else np.nextafter(1.0, 2.0)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(values, -500, 500)))


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "none"
