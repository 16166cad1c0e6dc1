"""Record demonstrations with a scripted expert."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vla.commands import counting, parse
from vla.data.collect import CollectSettings, collect

DESCRIPTION = """Record demonstrations with a scripted expert into a LeRobot v3.0 data set.

The same settings always give the same episodes. An interrupted recording goes on where it stopped, and a larger
--episodes adds to what is there.

Examples:
    vla collect --out data/tabletop --episodes 2000
    vla collect --out data/rare --episodes 2000 --family-weights region=20
    vla collect --out data/lift --episodes 20 --families lift
    vla collect --out data/play --episodes 500 --play 10
    vla collect --out data/scene_play --env ogbench-scene --episodes 400 --play 10
    vla collect --out data/metaworld_mt50 --env metaworld-mt50 --episodes 2500
"""


def main(arguments: Sequence[str]) -> int:
    settings = parse(CollectSettings, "collect", arguments, DESCRIPTION)
    try:
        with counting("episodes") as progress:
            dataset = collect(settings, progress)
    except KeyboardInterrupt:
        print("finished episodes are kept; run the same command again to go on", file=sys.stderr)
        raise
    counts = f"{dataset.num_episodes} episodes, {dataset.num_frames} frames, {len(dataset.tasks)} instructions"
    print(f"{settings.out}: {counts}")
    return 0
