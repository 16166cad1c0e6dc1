"""Whether sharing weights helps or hurts each task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from vla.commands import counting, parse_known
from vla.config import Config, load_config

if TYPE_CHECKING:
    from vla.evaluation.statistics import Mean
    from vla.training.transfer.report import Transfer

JSON, PAGE = "transfer.json", "transfer.html"


@dataclass
class Arguments:
    """Find out what tasks do to each other that share one network, on any data set.

    Trains, as the configuration file says, a policy on all tasks with equal shares of the batch, one on all tasks by
    their amount of data, and one on each task alone, which sees as much of it in as many steps. Compares their losses
    on held-out episodes and, where evaluation.env is set, their success in the simulator, and measures how far the
    tasks' gradients point in different directions over training. Run again, it goes on where it stopped.

    With K tasks that is K + 2 runs, together about as much computing as three multi-task runs. Tasks are what
    data.stratify_by says. Any field of the configuration can be overridden: --section.field VALUE.

    Examples:
        vla transfer-report --config configs/tabletop.yaml --out runs/transfer --training.batch-size 36
        vla transfer-report --config configs/tabletop.yaml --out runs/two --tasks touch region --training.steps 3000
        vla transfer-report --config my.yaml --out runs/losses --evaluation.env null --data.held-out 0.2
    """

    config: Path
    """YAML file; see configs/."""
    out: Path
    """Folder for transfer.json, transfer.html, and a run for each arm."""
    tasks: tuple[str, ...] = ()
    """Compare only these (short for --data.strata); by default all."""


def main(arguments: Sequence[str]) -> int:
    chosen, overrides = parse_known(Arguments, "transfer-report", arguments)
    config = load_config(chosen.config, overrides)
    if chosen.tasks:
        data = config.data.model_copy(update={"strata": list(chosen.tasks)})
        config = config.model_copy(update={"data": data})
    transfer = _measured(config, chosen.out)
    from vla.training.transfer.page import transfer_page

    (chosen.out / JSON).write_text(json.dumps(transfer.to_json(), indent=2) + "\n", encoding="utf-8")
    (chosen.out / PAGE).write_text(transfer_page(transfer), encoding="utf-8")
    console = Console(highlight=False)
    console.print(summary(transfer))
    print(f"report {chosen.out / PAGE}")
    return 0


def _measured(config: Config, out: Path) -> Transfer:
    """Every step of it; each is done once, however often this is called."""
    # Imported late: a typo in the configuration shouldn't wait for torch.
    from vla.training.transfer.arms import plan_arms, train_arm
    from vla.training.transfer.probes import load_probe_data
    from vla.training.transfer.report import compare, measure_arm, measure_conflicts

    arms = plan_arms(config, out)
    training, held_out = load_probe_data(arms[0])
    console, measured = Console(), []
    for number, arm in enumerate(arms):
        console.rule(f"{number + 1}/{len(arms)}  {arm.folder.relative_to(out)}")
        train_arm(arm)
        with counting("held-out losses and success") as progress:
            measured.append(measure_arm(arm, held_out, progress))
    console.rule("gradients")
    with counting("moments of training") as progress:
        conflicts = measure_conflicts(arms[0], training, progress)
    return compare(arms, measured, conflicts, training)


def summary(transfer: Transfer) -> Table:
    """A row a task."""
    success = any(task.success for task in transfer.tasks.values())
    headings = ["task", "sharing", "loss alone", "together", "less by", "less than with naive shares by"]
    headings += ["success alone", "together", "naive"] if success else []
    table = Table(*headings, box=None, pad_edge=False, header_style="dim")
    for name, task in transfer.tasks.items():
        losses = [f"{task.loss[kind].mean:.4f}" for kind in ("single", "multi_stratified")]
        rates = [str(task.success[kind]) for kind in ("single", "multi_stratified", "multi_naive")] if success else []
        table.add_row(name, task.verdict, *losses, _interval(task.gain), _interval(task.stratified_gain), *rates)
    return table


def _interval(mean: Mean) -> str:
    low, high = mean.ci95
    return f"{mean.mean:+.4f} ({low:+.4f} to {high:+.4f})"
