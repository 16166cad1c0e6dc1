"""Check a data set before training on it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import Progress, TaskID

from vla.commands import parse
from vla.data.validate import Problem, validate


@dataclass
class Arguments:
    """Check that training can rely on a LeRobot v3.0 data set: files, counts, numbers, instructions, statistics.

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

        return validate(settings.dataset, settings.decode, show)
