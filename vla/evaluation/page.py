"""The report as one self-contained HTML page: films and style are in it, nothing is fetched, no script runs."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from vla.evaluation.rollout import UNTOLD, Prompt, Rollout
from vla.evaluation.statistics import Rate
from vla.evaluation.summary import Evaluation


@dataclass(frozen=True)
class Clip:
    """A rollout with its film."""

    rollout: Rollout
    mp4: bytes
    failure: str  # its kind; empty for a success


def page(
    evaluation: Evaluation,
    meaning: Mapping[Prompt, str],
    compare_with: Mapping[str, Rate],
    compared: Sequence[Sequence[Clip]],
    more: Sequence[Clip],
    failed: Sequence[Clip],
) -> str:
    """The whole page.

    Args:
        meaning: what each prompt counts, in words. compare_with: what else to show beside the prompts.
        compared: scenes, each under all prompts.
        more: rollouts with the right prompt. failed: some failures.
    """
    title = f"{evaluation.checkpoint or 'policy'} on {evaluation.settings['env']}"
    sections = [
        _headline(evaluation, title),
        section("Does it listen?", _prompts_note(evaluation), _prompt_bars(evaluation, meaning, compare_with)),
        section("Same scene, different prompts", _SCENES_NOTE, *map(_clip_row, compared)) if compared else "",
        section("By family", _families_note(evaluation), _family_bars(evaluation)),
        section("By tier", _TIERS_NOTE, _bars(evaluation.tiers.items())) if evaluation.tiers else "",
        section("Scenes", "As they came, with the right instruction.", _clip_row(more)) if more else "",
        section("What goes wrong", _FAILURES_NOTE, _failure_counts(evaluation), _clip_row(failed), _all(evaluation)),
        section("By task", "", _details("All tasks", _bars(evaluation.tasks.items()))),
        section("How it was measured", "", _settings(evaluation)),
    ]
    return PAGE.format(title=escape(title), style=STYLE, body="\n".join(sections))


_SCENES_NOTE = "The first scenes of the evaluation, as they came. A row starts from one state, with one noise."
_TIERS_NOTE = "Families grouped as published; the average is that of the groups, not of the episodes."
_FAILURES_NOTE = (
    "<b>Wrong object</b>: another thing was moved or touched. <b>Right object, not there</b>: it was handled, "
    "but did not end up where it was asked for. <b>Nothing</b>: nothing was moved."
)


def _headline(evaluation: Evaluation, title: str) -> str:
    rate = evaluation.success
    low, high = rate.ci95
    return f"""<header><p class="eyebrow">{escape(title)}</p>
<p class="headline">{percent(rate.mean)}</p>
<p class="lead">of {rate.n} episodes on scenes not trained on did what was asked; 95&nbsp;% interval
{percent(low)} to {percent(high)}.</p></header>"""


def section(title: str, note: str, *parts: str) -> str:
    paragraph = f"<p>{note}</p>" if note else ""
    return f"<section><h2>{title}</h2>{paragraph}{''.join(parts)}</section>"


def _prompts_note(evaluation: Evaluation) -> str:
    if len(evaluation.prompts) == 1:
        return "Only the right instruction was given."
    return (
        "The same initial states, told different things. A policy that follows language does what it is told, and "
        "no more of the original than chance when told nothing or something else."
    )


def _prompt_bars(evaluation: Evaluation, meaning: Mapping[Prompt, str], compare_with: Mapping[str, Rate]) -> str:
    rates = [(meaning[prompt], evaluation.prompts[prompt]) for prompt in meaning if prompt in evaluation.prompts]
    return _bars([*rates, *compare_with.items()])


def _families_note(evaluation: Evaluation) -> str:
    if "held_out" not in evaluation.prompts:
        return "The line on each bar is the 95&nbsp;% interval."
    return "Upper bars: the right instruction; lower ones: in words never trained on. Lines are 95&nbsp;% intervals."


def _family_bars(evaluation: Evaluation) -> str:
    held_out = evaluation.prompt_families.get("held_out", {})
    rows = []
    for family, rate in evaluation.families.items():
        rows.append(_bar(family, rate))
        if family in held_out:
            rows.append(_bar("", held_out[family], "second"))
    return f'<div class="bars">{"".join(rows)}</div>'


def _bars(rates: Iterable[tuple[str, Rate]]) -> str:
    return f'<div class="bars">{"".join(_bar(label, rate) for label, rate in rates)}</div>'


def _bar(label: str, rate: Rate, kind: str = "") -> str:
    low, high = rate.ci95
    return (
        f'<div class="bar {kind}"><span class="label">{escape(label)}</span>'
        f'<span class="track"><i class="fill" style="width:{rate.mean:.2%}"></i>'
        f'<i class="interval" style="left:{low:.2%};width:{high - low:.2%}"></i></span>'
        f'<span class="value"><b>{percent(rate.mean)}</b> '
        f"<small>{percent(low)} to {percent(high)}, n = {rate.n}</small></span></div>"
    )


def _clip_row(clips: Sequence[Clip]) -> str:
    return f'<div class="clips">{"".join(map(_clip, clips))}</div>' if clips else ""


_TOLD: dict[Prompt, str] = {
    "right": "right instruction", "held_out": "new words", "other": "another instruction", "empty": "no instruction",
    "shuffled": "another task's instruction",
    "goal_image": "picture of the goal", "goal_state": "state at the goal", "video": "video",
}  # fmt: skip


def _clip(clip: Clip) -> str:
    run = clip.rollout
    data = base64.b64encode(clip.mp4).decode("ascii")
    said = f"“{escape(run.case.instruction)}”" if run.case.instruction else "<i>nothing said</i>"
    return (
        f'<figure class="{"done" if run.success else "failed"}">'
        f'<video autoplay loop muted playsinline controls src="data:video/mp4;base64,{data}"></video>'
        f'<figcaption><span class="told">{_TOLD[run.case.prompt]}</span>{said}{_badge(clip)}</figcaption></figure>'
    )


def _badge(clip: Clip) -> str:
    run = clip.rollout
    if run.case.prompt in UNTOLD:
        text = "the original came about" if run.success else "the original did not come about"
        return f'<span class="badge neutral">{text}</span>'
    if run.success:
        return f'<span class="badge done">✓ done in {run.steps} steps</span>'
    return f'<span class="badge failed">✗ {escape(clip.failure or "not done")}</span>'


def _failure_counts(evaluation: Evaluation) -> str:
    kinds = list(dict.fromkeys(kind for counts in evaluation.failure_kinds.values() for kind in counts))
    if not kinds:
        return "<p>Nothing did.</p>"
    head = "".join(f"<th>{escape(kind)}</th>" for kind in kinds)
    rows = "".join(
        f"<tr><td>{_TOLD[prompt]}</td>{''.join(f'<td>{counts.get(kind, 0)}</td>' for kind in kinds)}"
        f"<td>{evaluation.prompts[prompt].n}</td></tr>"
        for prompt, counts in evaluation.failure_kinds.items()
    )
    return f"<table><thead><tr><th>told</th>{head}<th>episodes</th></tr></thead><tbody>{rows}</tbody></table>"


def _all(evaluation: Evaluation) -> str:
    if not evaluation.failures:
        return ""
    rows = "".join(
        f"<tr><td>{failed.seed}</td><td>{escape(failed.instruction)}</td><td>{escape(failed.kind)}</td>"
        f"<td>{escape(', '.join(failed.achieved[:3]))}</td></tr>"
        for failed in evaluation.failures
    )
    head = "<tr><th>scene</th><th>told</th><th>what happened</th><th>came about instead</th></tr>"
    return _details(f"All {len(evaluation.failures)} failures", f"<table>{head}{rows}</table>")


def _settings(evaluation: Evaluation) -> str:
    facts = {
        "checkpoint": evaluation.checkpoint,
        **evaluation.settings,
        **({"protocol": evaluation.protocol} if evaluation.protocol else {}),
        "parameters": f"{evaluation.parameters['total']:,} ({evaluation.parameters['trainable']:,} trained)",
        "seconds": round(evaluation.seconds, 1),
    }
    rows = "".join(f"<tr><td>{escape(key)}</td><td>{escape(_plain(value))}</td></tr>" for key, value in facts.items())
    return f"<table>{rows}</table><p>Intervals are Wilson score intervals over independent scenes.</p>"


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)


def _details(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def percent(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0") + "&nbsp;%"


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head><body><main>
{body}
</main></body></html>
"""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #667079; --line: #dfe3e6; --paper: #fbfbfa; --card: #fff;
  --bar: #3f6fd8; --second: #9db6ec; --done: #1f9254; --failed: #c93c32; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaec; --soft: #98a2ab; --line: #31363b; --paper: #15171a;
  --card: #1d2024; --bar: #6a94f0; --second: #3d5690; --done: #46c07f; --failed: #f0736a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
header { padding: 1.5rem 0; border-bottom: 1px solid var(--line); }
.eyebrow { margin: 0; color: var(--soft); }
.headline { margin: 0; font-size: 4.5rem; font-weight: 700; line-height: 1.1; letter-spacing: -0.03em; }
.lead { margin: 0; font-size: 1.15rem; color: var(--soft); max-width: 40rem; }
section { margin-top: 2.75rem; }
h2 { margin: 0 0 .25rem; font-size: 1.35rem; }
section > p { margin: 0 0 1rem; color: var(--soft); max-width: 46rem; }
.bar { display: grid; grid-template-columns: minmax(8rem, 19rem) 1fr 14rem; gap: .75rem; align-items: center;
  margin-top: .5rem; }
.bar.second { margin-top: 2px; }
.track { position: relative; height: 1.1rem; border-radius: 3px; background: var(--line); }
.fill { position: absolute; inset: 0 auto 0 0; border-radius: 3px; background: var(--bar); }
.second .fill { background: var(--second); }
.second .track { height: .75rem; }
.interval { position: absolute; top: 50%; height: 2px; margin-top: -1px; background: var(--ink); opacity: .75; }
.interval::before, .interval::after { content: ""; position: absolute; top: -4px; width: 2px; height: 10px;
  background: var(--ink); }
.interval::before { left: 0; } .interval::after { right: 0; }
.value small { color: var(--soft); }
.clips { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 1rem; margin: 1rem 0; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
video { display: block; width: 100%; aspect-ratio: 1; }
figcaption { display: flex; flex-direction: column; align-items: flex-start; gap: .35rem; padding: .6rem .75rem .75rem;
  font-size: .9rem; line-height: 1.35; }
.told { color: var(--soft); font-size: .8rem; }
.badge { font-size: .8rem; font-weight: 600; }
.badge.done { color: var(--done); } .badge.failed { color: var(--failed); } .badge.neutral { color: var(--soft); }
table { border-collapse: collapse; width: 100%; font-size: .9rem; margin: .5rem 0 1rem; }
th, td { text-align: left; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 500; }
summary { cursor: pointer; color: var(--soft); }
@media (max-width: 700px) { .bar { grid-template-columns: 1fr; gap: .15rem; } }
"""
