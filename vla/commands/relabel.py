"""Find what every episode achieved and make it a demonstration of that."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from vla.commands import counting, parse
from vla.data.episodes import EpisodeDataset
from vla.tasks.relabel import Relabelling, RelabelSettings, relabel
from vla.tasks.relabel_page import write_page


@dataclass(frozen=True)
class Arguments:
    """Add to a data set what its episodes achieved, as segments with instructions of their own and recomputed rewards.

    Recorded segments stay as they are, and no frame is touched. Run again it replaces what it added; interrupted it
    goes on where it stopped. `vla validate` checks every label against the recorded states.

    Examples:
        vla relabel data/play
        vla relabel data/tabletop --combinations train --page relabelled.html
        vla relabel data/mixed --misses 1
    """

    dataset: tyro.conf.Positional[Path]
    """Folder of the data set."""
    settings: tyro.conf.OmitArgPrefixes[RelabelSettings] = field(default_factory=RelabelSettings)
    page: Path | None = None
    """HTML report with frames of examples; by default `vla/relabelling.html` in the data set."""


def main(arguments: Sequence[str]) -> int:
    given = parse(Arguments, "relabel", arguments)
    dataset = EpisodeDataset(given.dataset)
    with counting("episodes") as progress:
        began = time.perf_counter()
        found = relabel(dataset, given.settings, progress)
        seconds = time.perf_counter() - began
    page = given.page or dataset.root / "vla/relabelling.html"
    write_page(dataset, found, page)
    print(describe(found))
    print(f"{dataset.num_frames} frames in {seconds:.1f} s: {dataset.num_frames / seconds:.0f} frames/s")
    print(f"examples to look at: {page}")
    return 0


def describe(found: Relabelling) -> str:
    """For people: what was found, a line a kind of outcome."""
    lines = [f"{found.segments} segments added to {found.episodes} episodes"]
    lines += [f"  {family:<12}{count:>8}" for family, count in found.families.items()]
    if found.failures:
        lines.append(f"{found.failures_used} of {found.failures} failures achieved something else")
    if found.missed:
        lines.append(f"{found.missed} segments say what was not achieved")
    return "\n".join(lines)
