"""Teach a policy new instructions and keep the old ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.table import Table

from vla.commands import counting, load_policy, parse
from vla.config import EnvironmentName, EvaluationConfig
from vla.data.episodes import EpisodeDataset
from vla.data.segments import Segments
from vla.training.finetune import FinetuneSettings, finetune_config

if TYPE_CHECKING:
    from vla.evaluation.summary import Evaluation

BEFORE, AFTER = "evaluation_before", "evaluation"  # folders in the output


@dataclass
class Arguments(FinetuneSettings):
    """Train a policy on from a checkpoint: new data and a share of the old in every batch, so that it forgets nothing.

    Prints success on old and new families before and after; the output's evaluation_before/ and evaluation/ have the
    figures, reports and videos.

    Examples:
        vla finetune runs/tabletop --data data/lift --replay data/tabletop
        vla finetune runs/tabletop --data data/lift --replay data/tabletop --new-share 0.3 --output runs/lift
        accelerate launch scripts/finetune.py runs/tabletop --data data/lift --replay data/tabletop
    """

    checkpoint: Annotated[str, tyro.conf.Positional]
    """Folder that training wrote, or the name of a policy on the hub."""
    resume: bool = False
    """Go on from the newest checkpoint in --output."""
    env: EnvironmentName = "tabletop"
    """Where success is measured."""
    episodes: int = 120
    """Scenes it is measured on, before and after; 0 measures nothing."""


def main(arguments: Sequence[str]) -> int:
    chosen = parse(Arguments, "finetune", arguments)
    from accelerate import PartialState

    from vla.training.trainer import train

    config = finetune_config(chosen)
    # Of several processes one measures and prints; the others wait for it where training begins.
    measures = chosen.episodes > 0 and PartialState().is_main_process
    new = _tasks(chosen.data)
    old = sorted(set(load_policy(chosen.checkpoint).config.tasks or ()) - set(new))
    before = _evaluation(chosen.checkpoint, [*old, *new], chosen) if measures else None
    policy = train(config, chosen.resume)
    if before is not None:
        after = _evaluation(str(policy), [*old, *new], chosen)
        _write({BEFORE: before, AFTER: after}, chosen)
        Console(highlight=False).print(_table(old, new, before, after))
    if PartialState().is_main_process:
        print(f"policy {policy}")
    return 0


def _tasks(datasets: Sequence[str]) -> list[str]:
    return sorted({task for folder in datasets for task in Segments.load(EpisodeDataset(Path(folder))).task})


def _evaluation(checkpoint: str, families: list[str], chosen: Arguments) -> Evaluation:
    """On the same scenes for every checkpoint."""
    from vla.envs import load_suite
    from vla.evaluation.summary import evaluate

    settings = EvaluationConfig(env=chosen.env, episodes=chosen.episodes, families=families)
    policy = load_policy(checkpoint)
    with counting(f"evaluating {checkpoint}") as progress:
        return evaluate(policy, load_suite(chosen.env), settings, prompts=("right",), checkpoint=checkpoint,
                        progress=progress)


def _write(evaluations: dict[str, Evaluation], chosen: Arguments) -> None:
    from vla.envs import load_suite
    from vla.evaluation.report import write_report

    for folder, evaluation in evaluations.items():
        write_report(evaluation, load_suite(chosen.env), Path(chosen.output) / folder)


def _table(old: list[str], new: list[str], before: Evaluation, after: Evaluation) -> Table:
    table = Table("", "family", "success before", "after")
    for kind, families in (("old", old), ("new", new)):
        for family in families:
            table.add_row(kind, family, str(before.families[family]), str(after.families[family]))
    table.add_row("all", "", str(before.success), str(after.success))
    return table
