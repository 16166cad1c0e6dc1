"""One round of learning from one's own attempts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from vla.commands import attempt, finetune, parse
from vla.commands.relabel import describe
from vla.config import EnvironmentName

STRIDE = 2  # of the attempts every other frame is learnt from: there are many, and neighbours teach nearly the same


@dataclass
class Arguments:
    """Let a policy try, find out what it achieved, learn from that, and measure what it was good for.

    Rolls the policy out on prompts in scenes it wasn't trained on, failures included, relabels the rollouts, trains on
    with them and a share of the old data, and prints success before and after. Run again it goes on where it stopped.

    Examples:
        vla improve runs/tabletop/policy --replay data/tabletop
        vla improve runs/tabletop/policy --replay data/tabletop --rollouts 3000 --time-limit 20 --output runs/round2
    """

    checkpoint: Annotated[str, tyro.conf.Positional]
    """Folder that training wrote, or the name of a policy on the hub."""
    replay: list[str] = field(default_factory=list)
    """Data sets the policy was trained on."""
    rollouts: int = 1200
    """Attempts to record."""
    output: Path = Path("runs/improved")
    """Gets rollouts/ and the new policy."""
    combinations: Literal["all", "train"] = "train"
    """With `train`, nothing is tried or claimed that is kept out of training to measure generalisation."""
    new_share: float = 0.5
    """Share of every batch that comes from the rollouts."""
    steps: int = 2000
    """Optimizer steps."""
    learning_rate: float = 1e-3
    """Peak learning rate: there is more to learn than in fine-tuning, and the old data are in every batch."""
    time_limit: float | None = None
    """Minutes after which training ends; the learning rate decays over these or the steps."""
    env: EnvironmentName = "tabletop"
    """Where it tries and success is measured."""
    episodes: int = 120
    """Scenes success is measured on, before and after."""


def main(arguments: Sequence[str]) -> int:
    chosen = parse(Arguments, "improve", arguments)
    console = Console()
    console.rule("1/3  attempts")
    rollouts = attempt.record(attempt.Arguments(
        chosen.checkpoint, chosen.output / "rollouts", chosen.rollouts, combinations=chosen.combinations, env=chosen.env
    ))  # fmt: skip
    console.rule("2/3  hindsight")
    from vla.tasks.relabel import RelabelSettings, relabel

    print(describe(relabel(rollouts, RelabelSettings(combinations=chosen.combinations))))
    console.rule("3/3  learning")
    words = [chosen.checkpoint, "--data", rollouts.root, "--output", chosen.output, "--new-share", chosen.new_share,
             "--steps", chosen.steps, "--learning-rate", chosen.learning_rate, "--env", chosen.env,
             "--episodes", chosen.episodes, "--stride", STRIDE]
    words += ["--replay", *chosen.replay] if chosen.replay else []
    words += ["--time-limit", chosen.time_limit] if chosen.time_limit else []
    words += ["--resume"] if (chosen.output / "checkpoints").exists() else []
    return finetune.main([str(word) for word in words])
