"""An evaluation on disk: numbers for programs, a table for terminals, a page with films for people."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from vla.evaluation.page import Clip, page
from vla.evaluation.rollout import Prompt, Rollout, Suite
from vla.evaluation.statistics import Rate
from vla.evaluation.summary import Evaluation
from vla.evaluation.videos import film, grid
from vla.film import encode_film

JSON, TEXT, PAGE, FILM, FILMS = "evaluation.json", "evaluation.txt", "report.html", "rollouts.mp4", "videos"
# What the policy is told, and what counts then.
MEANING: dict[Prompt, str] = {
    "right": "right instruction: does it",
    "held_out": "in words never trained on: does it",
    "other": "another instruction: does the other",
    "shuffled": "another task's instruction: original comes about",
    "empty": "no instruction: original comes about",
    "goal_image": "a picture of the goal: does it",
    "goal_state": "the state at the goal: does it",
    "video": "a video of the way there: does it",
}
UNASKED = "another instruction: original comes about"
CHANCE = "anything feasible, at random: original comes about"
_COMPARED, _SHOWN, _FAILURES = 4, 12, 6  # scenes under all prompts, scenes under the main one, failures


def write_report(evaluation: Evaluation, suite: Suite, out: str | Path) -> Path:
    """Write `evaluation.json`, `evaluation.txt`, `report.html`, `rollouts.mp4` and `videos/*.mp4`; returns the page."""
    out = Path(out)
    (out / FILMS).mkdir(parents=True, exist_ok=True)
    (out / JSON).write_text(json.dumps(evaluation.to_json(), indent=2) + "\n", encoding="utf-8")
    (out / TEXT).write_text(summary_text(evaluation), encoding="utf-8")

    shown = _first(evaluation, evaluation.main, _SHOWN)
    films = [film(suite, run) for run in shown]
    (out / FILM).write_bytes(encode_film(grid(films, shown), evaluation.fps))

    comparable = _COMPARED if len(evaluation.prompts) > 1 else 0
    scenes = [run.case.seed for run in shown[:comparable]]
    compared = [_clips([r for r in evaluation.rollouts if r.case.seed == s], suite, evaluation) for s in scenes]
    more = _clips(shown[comparable:], suite, evaluation)
    failed = _clips(_failures(evaluation), suite, evaluation)
    for clip in [*(clip for row in compared for clip in row), *more, *failed]:
        (out / FILMS / f"{_name(clip.rollout)}.mp4").write_bytes(clip.mp4)
    (out / PAGE).write_text(page(evaluation, MEANING, _beside(evaluation), compared, more, failed), encoding="utf-8")
    return out / PAGE


def summary(evaluation: Evaluation) -> Group:
    """The rates as tables for a rich console."""
    told = [(meaning, evaluation.prompts[p]) for p, meaning in MEANING.items() if p in evaluation.prompts]
    prompts = _table("told, and what counts", told)
    for meaning, rate in _beside(evaluation).items():
        prompts.add_row(meaning, *_cells(rate))
    title = Text(f"{evaluation.checkpoint or 'policy'} on {evaluation.settings['env']}: {evaluation.success}", "bold")
    parts: list[RenderableType] = [title, "", prompts, "", _table("family", evaluation.families.items())]
    if evaluation.tiers:
        parts += ["", _table("tier", evaluation.tiers.items())]
    if "held_out" in evaluation.prompt_families:
        held_out = evaluation.prompt_families["held_out"]
        parts += ["", _table("family, in words never trained on", held_out.items())]
    return Group(*parts, "", _failure_table(evaluation))


def _beside(evaluation: Evaluation) -> dict[str, Rate]:
    """What is shown beside the prompts, as far as it was measured."""
    rates = {UNASKED: evaluation.unasked, CHANCE: evaluation.chance}
    return {meaning: rate for meaning, rate in rates.items() if rate is not None}


def summary_text(evaluation: Evaluation) -> str:
    """`summary` as plain text."""
    console = Console(file=io.StringIO(), width=100)
    with console.capture() as capture:
        console.print(summary(evaluation))
    return capture.get()


def _table(heading: str, rows: Iterable[tuple[str, Rate]]) -> Table:
    table = Table(heading, box=None, pad_edge=False, header_style="dim")
    for name in ("success", "95 % interval", "episodes"):
        table.add_column(name, justify="right")
    for label, rate in rows:
        table.add_row(label, *_cells(rate))
    return table


def _cells(rate: Rate) -> tuple[str, str, str]:
    low, high = rate.ci95
    return f"{rate.mean:.1%}", f"{low:.1%} - {high:.1%}", str(rate.n)


def _failure_table(evaluation: Evaluation) -> Table:
    table = Table("failures of", "what happened instead", box=None, pad_edge=False, header_style="dim")
    for prompt, kinds in evaluation.failure_kinds.items():
        said = ", ".join(f"{kind} {count}" for kind, count in kinds.items())
        table.add_row(f"the {prompt.replace('_', '-')} prompt", said or "none failed")
    return table


def _first(evaluation: Evaluation, prompt: Prompt, count: int) -> list[Rollout]:
    """The first scenes as they come, so that nobody has chosen the good ones."""
    return [run for run in evaluation.rollouts if run.case.prompt == prompt][:count]


def _failures(evaluation: Evaluation) -> list[Rollout]:
    """A few failures, the kinds in turn."""
    runs = {(run.case.prompt, run.case.seed): run for run in evaluation.rollouts}
    kinds = list(dict.fromkeys(failed.kind for failed in evaluation.failures))
    by_kind = [[failed for failed in evaluation.failures if failed.kind == kind] for kind in kinds]
    in_turn = [group[turn] for turn in range(_FAILURES) for group in by_kind if turn < len(group)]
    return [runs[failed.prompt, failed.seed] for failed in in_turn[:_FAILURES]]


def _clips(runs: Sequence[Rollout], suite: Suite, evaluation: Evaluation) -> list[Clip]:
    kinds = {(failed.prompt, failed.seed): failed.kind for failed in evaluation.failures}
    return [
        Clip(run, encode_film(film(suite, run), evaluation.fps), kinds.get((run.case.prompt, run.case.seed), ""))
        for run in runs
    ]


def _name(run: Rollout) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", run.case.instruction.lower()).strip("-") or "no-instruction"
    return f"{run.case.seed}-{run.case.prompt}-{words[:80]}"
