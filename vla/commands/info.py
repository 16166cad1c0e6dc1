"""What a data set holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from vla.commands import parse
from vla.data.episodes import EpisodeDataset, describe


@dataclass
class Arguments:
    """What a LeRobot v3.0 data set holds: size, cameras, dimensions, and how many episodes each instruction has.

    Examples:
        vla info data/tabletop
        vla info data/tabletop --json
    """

    dataset: tyro.conf.Positional[Path]
    """Folder of the data set."""
    json: bool = False
    """Print JSON for programs instead of a table for people."""
    tasks: int = 20
    """Instructions the table shows, the most frequent ones."""


def main(arguments: Sequence[str]) -> int:
    settings = parse(Arguments, "info", arguments)
    facts = describe(EpisodeDataset(settings.dataset))
    if settings.json:
        print(json.dumps(facts, ensure_ascii=False, indent=2))
        return 0
    console = Console(highlight=False)
    console.print(_facts_table(facts))
    console.print(_tasks_table(facts["tasks"], settings.tasks))
    return 0


def _facts_table(facts: dict[str, Any]) -> Table:
    table = Table(show_header=False, box=None)
    cameras = [f"{name} ({height} x {width})" for name, (height, width) in facts["cameras"].items()]
    seconds = facts["frames"] / facts["fps"]
    table.add_row("format", f"LeRobot {facts['format_version']}")
    table.add_row("episodes", f"{facts['episodes']:,}")
    table.add_row("frames", f"{facts['frames']:,} at {facts['fps']} a second: {seconds / 60:.1f} minutes")
    table.add_row("robot type", facts["robot_type"])
    table.add_row("cameras", ", ".join(cameras) or "none")
    table.add_row("state, action", f"{facts['state_dim']} and {facts['action_dim']} numbers")
    table.add_row("instructions", f"{len(facts['tasks']):,} different ones")
    return table


def _tasks_table(tasks: dict[str, int], limit: int) -> Table:
    frequent = sorted(tasks.items(), key=lambda task: -task[1])
    table = Table("instruction", caption=f"and {len(tasks) - limit:,} more" if len(tasks) > limit else None)
    table.add_column("episodes", justify="right")
    for instruction, episodes in frequent[:limit]:
        table.add_row(instruction, f"{episodes:,}")
    return table
