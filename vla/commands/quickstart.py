"""The whole pipeline in small: demonstrations, training, evaluation, a followed prompt."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from vla.commands import collect, evaluate, infer, parse, train

CONFIG = Path("configs/quickstart.yaml")
PROMPT_SEED, PROMPT = 7, "put the yellow star beside the red star"

@dataclass
class Arguments:
    """Demonstrations, training, evaluation and a followed prompt, one after the other, into one folder.

    Stages that are finished are not repeated, and one that was interrupted goes on where it stopped.

    Examples:
        vla quickstart
        vla quickstart --minutes 2 --episodes 300 --evaluation-episodes 12    # a quick look, not a good policy
    """

    output: Path = Path("runs/quickstart")
    """Gets data/, policy/, evaluation.json, report.html and videos."""
    episodes: int = 4000
    """Demonstrations to record."""
    minutes: float = 9.0
    """Training time."""
    evaluation_episodes: int = 60
    """Scenes to evaluate on, for each of four prompts."""


def main(arguments: Sequence[str]) -> int:
    settings = parse(Arguments, "quickstart", arguments)
    console, began = Console(), time.monotonic()
    out, data, policy = settings.output, settings.output / "data", settings.output / "policy"

    console.rule("1/4  demonstrations")
    collect.main(_words("--out", data, "--episodes", settings.episodes, "--combinations", "train"))

    console.rule("2/4  training")
    if not (policy / "config.json").exists():
        train.main(_words("--config", CONFIG, "--resume", "--output", out, "--data.datasets", data,
                          "--training.time-limit", settings.minutes))

    console.rule("3/4  evaluation")
    if not (out / "evaluation.json").exists():
        evaluate.main(_words(policy, "--env", "tabletop", "--out", out, "--episodes", settings.evaluation_episodes))

    console.rule("4/4  one prompt")
    infer.main(_words(policy, "--env", "tabletop", "--seed", PROMPT_SEED, "--prompt", PROMPT, "--out", out / "prompt"))

    minutes = (time.monotonic() - began) / 60
    console.print(f"\nDone in {minutes:.1f} minutes. Open {out / 'report.html'}, or talk to the policy:\n"
                  f"  .venv/bin/vla infer {policy} --env tabletop --interactive")
    return 0


def _words(*arguments: object) -> list[str]:
    return [str(argument) for argument in arguments]
