"""Label recordings that have no simulator state, by their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from vla.commands import counting, load_policy, parse
from vla.data.episodes import EpisodeDataset
from vla.data.lock import writing
from vla.data.segments import Segments

if TYPE_CHECKING:
    from vla.tasks.look import Looker


@dataclass(frozen=True)
class Arguments:
    """Label episodes by what their first and last pictures show, with a vision-language model instead of a state.

    The looker is a policy with a critic, or a CLIP- or SigLIP-like model of transformers. It is calibrated on attempts
    of known success: on half of them chances are fitted, the other half says what its claims are worth. Without
    --dataset, that is all that happens.

    Examples:
        vla look runs/tabletop_critic --labelled data/attempts
        vla look runs/tabletop_critic --labelled data/attempts --dataset data/robot --precision 0.98
        vla look openai/clip-vit-base-patch32 --labelled data/attempts --dataset data/robot
    """

    looker: tyro.conf.Positional[str]
    """Policy folder, model folder or hub name."""
    labelled: Path
    """Data set with attempts whose success is known, failures among them."""
    dataset: Path | None = None
    """Data set that gets segments, for what its episodes look to have done; no frame is touched."""
    precision: float = 0.95
    """So much of what is claimed is to be right."""
    candidates: int = 32
    """Instructions of the labelled data that are looked for in each episode."""
    seed: int = 0
    """Of the halves, and of what is looked for."""


def main(arguments: Sequence[str]) -> int:
    given = parse(Arguments, "look", arguments)
    from vla.tasks.look import calibrate, label_by_looking, score_attempts

    looker = _looker(given.looker)
    labelled = EpisodeDataset(given.labelled)
    attempts = Segments.load(labelled)
    with counting("calibrating") as progress:
        scores = score_attempts(looker, labelled, attempts, progress)
    calibration, accuracy = calibrate(*scores, attempts.success, given.precision, given.seed)
    print(accuracy)
    if given.dataset is None:
        return 0
    dataset = EpisodeDataset(given.dataset)
    tasks = dict(zip(attempts.instruction.tolist(), attempts.task.tolist(), strict=True))
    with writing(dataset.root), counting("looking") as progress:
        segments = label_by_looking(
            looker, calibration, dataset, tasks, given.candidates, given.seed, progress
        )
        segments.save(dataset.root)
    print(f"{given.dataset}: {(segments.labeller == looker.name).sum()} segments for {dataset.num_episodes} episodes")
    return 0


def _looker(name: str) -> Looker:
    from vla.models.policy import policy_folder
    from vla.tasks.look import CriticLooker, TwoTowerLooker

    try:
        policy_folder(name)
    except ValueError:  # a model of another kind
        return TwoTowerLooker(name)
    return CriticLooker(load_policy(name), name)
