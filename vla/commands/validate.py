"""Check a data set before training on it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import Progress, TaskID

from vla.commands import parse
from vla.data.episodes import EpisodeDataset
from vla.data.errors import DatasetError
from vla.data.validate import Problem, validate
from vla.tasks.audit import audit
from vla.tasks.relabel import judge_of


@dataclass
class Arguments:
    """Check that training can rely on a LeRobot v3.0 data set: files, counts, numbers, instructions, statistics, and
    every label that can be judged by recorded simulator states.

    Exits with 1 if there are problems.

    Examples:
        vla validate data/tabletop
        vla validate data/tabletop --decode
    """

    dataset: tyro.conf.Positional[Path]
    """Folder of the data set."""
    decode: bool = False
    """Also decode every frame of every camera."""


def main(arguments: Sequence[str]) -> int:
    settings = parse(Arguments, "validate", arguments)
    problems = _validate_with_bars(settings)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{settings.dataset}: {len(problems)} problems" if problems else f"{settings.dataset}: fine")
    return 1 if problems else 0


def _validate_with_bars(settings: Arguments) -> list[Problem]:
    with Progress(console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what)
            bars.update(tasks[what], completed=done, total=total)

        problems = validate(settings.dataset, settings.decode, show)
        return problems or _labels(settings.dataset, show)


def _labels(path: Path, show: Callable[[str, int, int], None]) -> list[Problem]:
    dataset = EpisodeDataset(path)
    try:
        judge_of(dataset)
    except DatasetError:  # nothing to compare its labels with
        return []
    show("labels", 0, 1)
    problems = audit(dataset)
    show("labels", 1, 1)
    return problems
