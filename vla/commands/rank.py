"""Whether a policy's critic knows success from failure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vla.commands import counting, load_policy, parse
from vla.data.episodes import EpisodeDataset


@dataclass
class Arguments:
    """Let a policy's critic judge recorded attempts, successes and failures, and say how well it tells them apart.

    Judge attempts that it wasn't trained on.

    Examples:
        vla collect --out data/attempts --episodes 300 --failure-rate 0.5 --seed 700000
        vla rank runs/critic data/attempts
    """

    checkpoint: Annotated[str, tyro.conf.Positional]
    """Folder that training wrote, or the name of a policy on the hub."""
    dataset: tyro.conf.Positional[Path]
    """Recorded attempts, failures among them."""
    stride: int = 1
    """An attempt's worth is the mean over every n-th frame's."""
    out: Path | None = None
    """JSON file for the result."""


def main(arguments: Sequence[str]) -> int:
    chosen = parse(Arguments, "rank", arguments)
    from vla.evaluation.ranking import rank

    policy, dataset = load_policy(chosen.checkpoint), EpisodeDataset(chosen.dataset)
    with counting("attempts") as progress:
        found = rank(policy, dataset, chosen.stride, progress)
    low, high = found.ci95
    print(f"AUC {found.auc:.3f} ({low:.3f} to {high:.3f}): {found.successes} successes, {found.failures} failures")
    if chosen.out is not None:
        values = {"auc": found.auc, "ci95": found.ci95, "successes": found.successes, "failures": found.failures}
        chosen.out.write_text(json.dumps(values, indent=2) + "\n")
    return 0
