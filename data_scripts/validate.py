"""Check a data set before training on it.

python data_scripts/validate.py data/tabletop --decode
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import tyro
from rich.progress import Progress, TaskID

from vla.data.validate import Problem, validate


def main(dataset: Annotated[Path, tyro.conf.Positional], decode: bool = False) -> int:
    """Check a LeRobot v3.0 data set.

    Args:
        dataset: its folder.
        decode: also decode every frame.
    """
    problems = _validate_with_bars(dataset, decode)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{dataset}: {len(problems)} problems" if problems else f"{dataset}: fine")
    return 1 if problems else 0


def _validate_with_bars(dataset: Path, decode: bool) -> list[Problem]:
    with Progress() as bars:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what)
            bars.update(tasks[what], completed=done, total=total)

        return validate(dataset, decode, show)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
