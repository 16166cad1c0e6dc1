"""What a policy does when it is asked, as a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vla.commands import counting, load_policy, parse
from vla.config import EnvironmentName
from vla.data.episodes import EpisodeDataset
from vla.evaluation.harvest import SEED, harvest


@dataclass
class Arguments:
    """Record what a policy does on prompts in scenes it wasn't trained on, failures included.

    Such attempts are not imitated. `vla relabel` finds what they achieved, which is, and a critic (model.critic) learns
    from all of them what chunks are worth. Run again it goes on where it stopped.

    Examples:
        vla attempt runs/tabletop/policy --out data/tried
        vla attempt runs/tabletop/policy --out data/explored --explore 0.5 --seed 800000
    """

    checkpoint: Annotated[str, tyro.conf.Positional]
    """Folder that training wrote, or the name of a policy on the hub."""
    out: Path
    """Data set to write."""
    episodes: int = 1200
    """Attempts, as many scenes."""
    explore: float = 0.0
    """Chance in [0, 1] that a chunk goes for something else that the policy thinks possible than what it likes best: a
    critic that is to choose among candidates has to learn what those are worth."""
    combinations: Literal["all", "train"] = "train"
    """With `train`, nothing is tried that is kept out of training to measure generalisation."""
    env: EnvironmentName = "tabletop"
    """Where it tries."""
    seed: int = SEED
    """Of the first scene."""


def main(arguments: Sequence[str]) -> int:
    data = record(parse(Arguments, "attempt", arguments))
    print(f"{data.root}: {data.num_episodes} attempts, {data.num_frames} frames; `vla relabel {data.root}` is next")
    return 0


def record(chosen: Arguments) -> EpisodeDataset:
    """What was asked for on the command line, or by `vla improve`."""
    from vla.envs import load_suite

    policy = load_policy(chosen.checkpoint)
    with counting("attempts") as progress:
        return harvest(
            policy, load_suite(chosen.env), chosen.out, chosen.episodes, policy.config.tasks or None,
            combinations=chosen.combinations, explore=chosen.explore, seed=chosen.seed, progress=progress,
        )  # fmt: skip
