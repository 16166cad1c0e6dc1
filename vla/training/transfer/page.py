"""The report on transfer as one self-contained HTML page: what sharing does to each task, and a heat map of gradients.

Shapes: K tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from vla.evaluation.page import PAGE, STYLE, percent, section
from vla.evaluation.statistics import Mean, Rate
from vla.training.transfer.arms import Kind
from vla.training.transfer.conflict import Conflict
from vla.training.transfer.report import TaskTransfer, Transfer

NAMES: dict[Kind, str] = {
    "single": "alone", "multi_stratified": "together, equal shares", "multi_naive": "together, by the amount of data",
}  # fmt: skip
Estimate = Mean | Rate

_GAIN_NOTE = (
    "By how much the imitation loss on held-out episodes falls when the other tasks are learnt too. Right of the line "
    "sharing helps, left of it it hurts. Both policies saw the same observations with the same noise; bars are "
    "95&nbsp;% intervals of the difference over episodes."
)
_LOSS_NOTE = (
    "The losses themselves. Their intervals are wider than those of the differences, because episodes differ more than "
    "policies do."
)
_SUCCESS_NOTE = "Rollouts in the simulator on the same scenes, right instruction; 95&nbsp;% Wilson intervals."
_HEAT_NOTE = (
    "Cosine between the gradients of two tasks on the weights they share: red pairs pull against each other (a "
    "conflict in the sense of PCGrad, Yu et al. 2020), blue ones the same way. On the diagonal, dashed, a task "
    "with itself, between two halves of its batches: 1 but for noise; where it is near 0, its row says little."
)
_NAIVE_NOTE = (
    "By how much the held-out loss falls when every task gets an equal share of the batch instead of one by its amount "
    "of data, which is in brackets. Intervals as above."
)


def transfer_page(transfer: Transfer) -> str:
    """The whole page."""
    tasks, names = transfer.tasks, ", ".join(transfer.config["data"]["datasets"])
    success = {name: task.success for name, task in tasks.items() if task.success}
    sections = [
        _headline(transfer, f"{len(tasks)} tasks of {names}, alone and together"),
        section("Does sharing help?", _GAIN_NOTE, _dots({name: {"gain": task.gain} for name, task in tasks.items()})),
        section("Success", _SUCCESS_NOTE, _legend(), _dots(success, shares=True)) if success else "",
        section("Held-out loss", _LOSS_NOTE, _legend(), _dots({name: task.loss for name, task in tasks.items()})),
        section("Do gradients agree?", _HEAT_NOTE, _heat_maps(transfer), _conflict_table(transfer.conflicts)),
        section("Equal shares or by the amount of data?", _NAIVE_NOTE,
                _dots({_with_share(name, task): {"gain": task.stratified_gain} for name, task in tasks.items()})),
        section("How it was measured", "", _facts(transfer)),
    ]  # fmt: skip
    title = escape(f"Transfer between tasks of {names}")
    return PAGE.format(title=title, style=STYLE + TRANSFER_STYLE, body="\n".join(sections))


def _headline(transfer: Transfer, title: str) -> str:
    verdicts = [task.verdict for task in transfer.tasks.values()]
    helps, hurts, unclear = (verdicts.count(verdict) for verdict in ("helps", "hurts", "open"))
    return f"""<header><p class="eyebrow">{escape(title)}</p>
<p class="headline">{helps} helped, {hurts} hurt</p>
<p class="lead">of {len(verdicts)} tasks by sharing one network, judged by held-out loss after equally many updates;
{unclear} can&rsquo;t be told. One training seed.</p></header>"""


def _legend() -> str:
    names = "".join(f'<span class="{kind}">{name}</span>' for kind, name in NAMES.items())
    return f'<p class="legend">{names}</p>'


def _with_share(name: str, task: TaskTransfer) -> str:
    return f"{name} ({100 * task.naive_share:.0f} % of the data)"


# ---- dots

WIDTH, LABEL, RIGHT, ROW, TOP = 960, 250, 30, 26, 10  # pixels of a plot, its labels, margins and rows


def _dots(rows: Mapping[str, Mapping[Any, Estimate]], shares: bool = False) -> str:
    """Estimates with their intervals, a row each; what is in one row of `rows` by the name of its class.

    Args:
        shares: the axis goes from 0 to 1 in per cent.
    """
    estimates = [estimate for row in rows.values() for estimate in row.values()]
    low, high = (0.0, 1.0) if shares else _span(estimates)
    lane = ROW / 2

    def x(value: float) -> float:
        return LABEL + (value - low) / (high - low) * (WIDTH - LABEL - RIGHT)

    heights = [ROW + lane * (len(row) - 1) for row in rows.values()]
    bottom = TOP + sum(heights)
    parts = []
    for tick in _ticks(low, high):
        kind, at = "grid" if tick else "zero", f"{x(tick):.1f}"
        parts.append(f'<line class="{kind}" x1="{at}" x2="{at}" y1="{TOP}" y2="{bottom}"/>'
                     f'<text class="tick" x="{at}" y="{bottom + 16}">{_number(tick, shares)}</text>')
    top: float = TOP
    for (name, row), height in zip(rows.items(), heights, strict=True):
        parts.append(f'<text class="name" x="{LABEL - 14}" y="{top + height / 2 + 4:.1f}">{_short(name, 34)}</text>')
        for number, (kind, estimate) in enumerate(row.items()):
            parts.append(_dot(kind, estimate, x, top + lane * (number + 1), shares))
        top += height
    return _svg(WIDTH, bottom + 24, parts)


def _dot(kind: str, estimate: Estimate, x: Callable[[float], float], y: float, shares: bool) -> str:
    low, high = estimate.ci95
    said = " to ".join(_number(value, shares) for value in (low, high))
    return (
        f'<g class="dot {kind}"><title>{_number(estimate.mean, shares)} ({said}), n = {estimate.n}</title>'
        f'<line x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<circle cx="{x(estimate.mean):.1f}" cy="{y:.1f}" r="4.5"/></g>'
    )


def _span(estimates: Sequence[Estimate]) -> tuple[float, float]:
    """What an axis has to reach: 0 and every interval, with some room behind."""
    low = min(0.0, *(estimate.ci95[0] for estimate in estimates))
    high = max(0.0, *(estimate.ci95[1] for estimate in estimates))
    room = 0.03 * (high - low)
    return (low - room * (low < 0), high + room * (high > 0)) if room else (-1.0, 1.0)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, about six."""
    rough = (high - low) / 6
    power = 10 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _number(value: float, share: bool) -> str:
    return percent(value) if share else f"{value:.3g}"


# ---- heat maps

SIDE = 300  # pixels of a heat map's square, about


def _heat_maps(transfer: Transfer) -> str:
    """One for every moment."""
    names = list(transfer.tasks)
    maps = [
        f"<figure>{_heat_map(names, conflict)}<figcaption>after {conflict.step} steps "
        f"({100 * conflict.step / transfer.steps:.0f}&nbsp;%)</figcaption></figure>"
        for conflict in transfer.conflicts
    ]
    return f'<div class="maps">{"".join(maps)}</div>'


def _heat_map(names: Sequence[str], conflict: Conflict) -> str:
    count = len(names)
    cell = max(8.0, SIDE / count)
    left, top = 110, 84
    size = cell * count
    font = min(11.0, 0.36 * cell)
    parts = []
    for row, name in enumerate(names):
        middle = (row + 0.5) * cell
        size_of = f'style="font-size:{min(12.0, cell):.1f}px"'
        beside, above = f'x="{left - 6}" y="{top + middle + 4:.1f}"', f"translate({left + middle + 4:.1f} {top - 6})"
        parts.append(f'<text class="name" {size_of} {beside}>{_short(name, 17)}</text>')
        parts.append(f'<text {size_of} transform="{above} rotate(-45)">{_short(name, 15)}</text>')
    cosine = conflict.cosine.copy()
    np.fill_diagonal(cosine, conflict.agreement)
    dashed = ' class="self"'
    for row, column in np.ndindex(count, count):
        value, x, y = cosine[row, column], left + column * cell, top + row * cell
        said = f"{names[row]} and {names[column]}" if row != column else f"{names[row]}, two halves"
        parts.append(
            f'<g class="{"conflict" if value < 0 else "agree"}"><title>{escape(said)}: {value:.2f}</title>'
            f'<rect{dashed if row == column else ""} x="{x + 0.5:.1f}" y="{y + 0.5:.1f}" width="{cell - 1:.1f}" '
            f'height="{cell - 1:.1f}" fill-opacity="{abs(value):.2f}"/>'
        )
        if font >= 7:
            parts.append(f'<text class="value" style="font-size:{font:.1f}px" x="{x + cell / 2:.1f}" '
                         f'y="{y + cell / 2 + font / 3:.1f}">{_signed(value)}</text>')
        parts.append("</g>")
    return _svg(left + size + 50, top + size + 4, parts)


def _conflict_table(conflicts: Sequence[Conflict]) -> str:
    head = "<tr><th>steps</th><th>mean cosine of pairs</th><th>pairs in conflict</th><th>a task with itself</th></tr>"
    rows = "".join(
        f"<tr><td>{conflict.step}</td><td>{_signed(conflict.pairs.mean())}</td>"
        f"<td>{int((conflict.pairs < 0).sum())} of {len(conflict.pairs)}</td>"
        f"<td>{_signed(conflict.agreement.mean())}</td></tr>"
        for conflict in conflicts
    )
    return f"<table>{head}{rows}</table>"


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


# ---- how it was measured


def _facts(transfer: Transfer) -> str:
    data, training = transfer.config["data"], transfer.config["training"]
    facts = {
        "data": ", ".join(data["datasets"]),
        "tasks": f"{len(transfer.tasks)}, by {data['stratify_by']}",
        "held out": f"{100 * data['held_out']:g} % of the episodes of each task, evenly spaced",
        "equal": f"{transfer.steps:,} optimizer steps in every arm, with one schedule; "
                 f"{transfer.observations_per_step} observations of each task a step, alone and together",
        "not equal": f"together, a step also has the observations of {len(transfer.tasks) - 1} other tasks",
        "seed": str(training["seed"]),
        "weights": "averaged ones for loss and success, as they are saved; raw ones for gradients",
    }  # fmt: skip
    rows = "".join(f"<tr><td>{escape(key)}</td><td>{escape(value)}</td></tr>" for key, value in facts.items())
    return (
        f"<table>{rows}</table><p>Intervals are over held-out episodes or scenes: they don&rsquo;t say what another "
        "training seed would give. Where nothing is shared or lost, one interval in twenty misses 0 by chance.</p>"
    )


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img">{"".join(parts)}</svg>'


def _short(name: str, length: int) -> str:
    """At most so many letters, with the whole name as a tooltip."""
    if len(name) <= length:
        return escape(name)
    return f"<title>{escape(name)}</title>{escape(name[: length - 1])}…"


TRANSFER_STYLE = """
svg { display: block; width: 100%; height: auto; font: 13px system-ui, sans-serif; }
svg text { fill: var(--ink); } svg .tick { fill: var(--soft); text-anchor: middle; font-size: 12px; }
.name { text-anchor: end; } .value { text-anchor: middle; }
.grid { stroke: var(--line); } .zero { stroke: var(--ink); }
.dot line { stroke-width: 2; }
.gain line, .multi_stratified line { stroke: var(--bar); } .gain circle, .multi_stratified circle { fill: var(--bar); }
.single line { stroke: var(--soft); } .single circle { fill: var(--soft); }
.multi_naive line { stroke: var(--second); } .multi_naive circle { fill: var(--second); }
.legend span { margin-right: 1.5rem; } .legend span::before { content: "● "; font-size: 1.1rem; }
.legend .single::before { color: var(--soft); } .legend .multi_stratified::before { color: var(--bar); }
.legend .multi_naive::before { color: var(--second); }
.maps { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 1rem; }
.agree rect { fill: var(--bar); } .conflict rect { fill: var(--failed); }
.self { stroke: var(--soft); stroke-dasharray: 3 2; }
"""
