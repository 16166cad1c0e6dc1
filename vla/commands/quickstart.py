"""The whole pipeline in small: demonstrations, training, evaluation, a followed prompt."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from vla.commands import parse


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
    episodes: int = 2400
    """Demonstrations to record."""
    minutes: float = 7.0
    """Training time."""
    evaluation_episodes: int = 120
    """Scenes to evaluate on, for each of four prompts."""


def main(arguments: Sequence[str]) -> int:
    settings = parse(Arguments, "quickstart", arguments)
    console = Console()
    started = time.monotonic()
    console.rule("1/4  demonstrations")
    _run("collect", "--out", settings.output / "data", "--episodes", settings.episodes, "--combinations", "train")
    console.rule("2/4  training")
    if not (settings.output / "policy" / "config.json").exists():
        _run("train", "--config", CONFIG, "--resume", "--output", settings.output,
             "--data.datasets", settings.output / "data", "--training.time_limit", settings.minutes)
    console.rule("3/4  evaluation")
    if not (settings.output / "evaluation.json").exists():
        _run("evaluate", settings.output / "policy", "--env", "tabletop", "--out", settings.output,
             "--episodes", settings.evaluation_episodes)
    console.rule("4/4  one prompt")
    _run("infer", settings.output / "policy", "--env", "tabletop", "--seed", PROMPT_SEED, "--prompt", PROMPT,
         "--out", settings.output / "prompt")
    console.print(f"\nDone in {(time.monotonic() - started) / 60:.1f} minutes. Open {settings.output / 'report.html'}, or talk to it:\n"
                  f"  .venv/bin/vla infer {settings.output / 'policy'} --env tabletop --interactive")
    return 0
