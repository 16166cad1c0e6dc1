"""Record demonstrations with a scripted expert.

python data_scripts/collect_demos.py --env tabletop --out data/tabletop --episodes 2000
"""

from __future__ import annotations

import sys

import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vla.data.collect import CollectSettings, collect
from vla.data.errors import DatasetError


def main() -> int:
    settings = tyro.cli(CollectSettings, description=__doc__)
    with Progress(TextColumn("episodes"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task("episodes")
        try:
            dataset = collect(settings, lambda done, total: bar.update(task, completed=done, total=total))
        except (DatasetError, ValueError) as error:
            bar.stop()
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            bar.stop()
            print("interrupted; finished episodes are kept, run the same command again to go on", file=sys.stderr)
            return 130
    counts = f"{dataset.num_episodes} episodes, {dataset.num_frames} frames, {len(dataset.tasks)} instructions"
    print(f"{settings.out}: {counts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
