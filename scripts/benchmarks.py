"""Write docs/benchmarks.md from the JSON that `vla evaluate` wrote: our figures beside the published ones.

    python scripts/benchmarks.py docs/results/metaworld_*.json

An evaluation is named after its file; training seeds of one run are several files, `<run>_s0.json`, `<run>_s1.json`
and so on. What `scripts/ablations.py` wrote may be among them, and the transfer.json of a
`vla transfer-report` with a simulator.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

OUT = Path("docs/benchmarks.md")
TIERS = ("easy", "medium", "hard", "very_hard")

# Meta-World MT50, 50 demonstrations a task, ten trials a task: the mean of the four tiers and, where it is published,
# each of them, all in per cent. None is measured by us.
PUBLISHED: tuple[tuple[str, str, float, tuple[float, ...], str], ...] = (
    ("Diffusion Policy", "", 10.5, (), "SmolVLA, Shukor et al. 2025"),
    ("TinyVLA", "", 31.6, (), "SmolVLA, Shukor et al. 2025"),
    ("pi0", "3.5B", 47.9, (), "SmolVLA, Shukor et al. 2025; others report 50.5"),
    ("SmolVLA", "0.45B", 57.3, (82.5, 41.8, 45.0, 60.0), "SmolVLA, Shukor et al. 2025"),
    ("SmolVLA", "2.25B", 68.2, (87.1, 51.8, 70.0, 64.0), "SmolVLA, Shukor et al. 2025"),
    ("starVLA", "", 70.9, (), "its own report"),
    ("Evo-1", "0.77B", 80.6, (), "its own report; its state has the object's position (`obs[:8]`)"),
)

HEAD = """# Benchmarks

Written by `python scripts/benchmarks.py docs/results/metaworld_*.json` from what `vla evaluate` measured. Intervals are
95 %: Wilson's for a rate, combined for the mean of the tiers (Zou & Donner 2008). They say what other scenes would
give, not what another training seed would.

"""


def main(files: Sequence[str]) -> int:
    read = {Path(file).stem: json.loads(Path(file).read_text()) for file in files}
    if not read:
        print(__doc__, file=sys.stderr)
        return 2
    ablations = [values for values in read.values() if "variants" in values]
    transfers = [values for values in read.values() if "conflicts" in values]
    results = {name: values for name, values in read.items() if "prompts" in values}
    benchmarks = dict.fromkeys(result["settings"]["env"] for result in results.values())
    parts = [_benchmark(env, {n: r for n, r in results.items() if r["settings"]["env"] == env}) for env in benchmarks]
    parts += [_published(results), *map(_transfer, transfers), *map(_ablation, ablations)]
    OUT.write_text("\n".join([HEAD, *parts]))
    print(OUT)
    return 0


def _benchmark(env: str, results: dict[str, dict[str, Any]]) -> str:
    """All runs of a benchmark: in one table, with the means of their seeds, then each by itself."""
    rows = ["| run | success | n | parameters trained | minutes of evaluation |", "|---|---|---|---|---|"]
    for name, result in results.items():
        success, trained, minutes = result["success"], result["parameters"]["trainable"], result["seconds"] / 60
        rows.append(f"| {name} | {_rate(success)} | {success['n']} | {trained / 1e6:.1f}M | {minutes:.0f} |")
    runs: dict[str, list[float]] = {}
    for name, result in results.items():
        runs.setdefault(re.sub(r"_s\d+$", "", name), []).append(100 * result["success"]["mean"])
    for run, means in runs.items():
        if len(means) > 1:
            spread = f"{len(means)} training seeds of {run} ({min(means):.0f} to {max(means):.0f})"
            rows += ["", f"**{sum(means) / len(means):.1f} %** is the mean of {spread}."]
    return "\n".join([f"## {env}", "", *rows, "", *(_result(name, result) for name, result in results.items())])


def _result(name: str, result: dict[str, Any]) -> str:
    lines = [f"### {name}", "", _table(("what the policy is told", "original task done"), result["prompts"])]
    if result["tiers"]:
        lines += ["", _table(("tier", "success"), result["tiers"])]
    lines += ["", _by_task(result), "", _deviations(result["protocol"]), ""]
    return "\n".join(lines)


def _by_task(result: dict[str, Any]) -> str:
    """A row a task, a column a prompt: what the blank one still reaches the pixels alone reveal."""
    prompts = result["prompt_families"]
    rows = ["| task | " + " | ".join(prompts) + " |", "|---" * (1 + len(prompts)) + "|"]
    for task in result["families"]:
        rows.append(f"| {task} | " + " | ".join(_rate(rates[task]) for rates in prompts.values()) + " |")
    return "\n".join(rows)


def _deviations(protocol: dict[str, Any]) -> str:
    theirs = protocol.get("lerobot_instead", {})
    said = ", ".join(f"`{name}` {protocol[name]!r} instead of {value!r}" for name, value in theirs.items())
    return f"Deviations from LeRobot's protocol: {said or 'none'}."


def _published(results: dict[str, dict[str, Any]]) -> str:
    lines = [
        "## Meta-World MT50 as published",
        "",
        "The mean of the four tiers, one camera, `obs[:4]` unless said otherwise. Published rows are copied, not "
        "measured here, and give no intervals. Ours learn from our own recordings of the same experts (disturbed, some "
        "after a false start), and what is evaluated is what training ends with: no checkpoint is chosen.",
        "",
        "| policy | parameters | mean | " + " | ".join(TIERS) + " | source |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for policy, parameters, mean, tiers, source in PUBLISHED:
        cells = [f"{tier:.1f}" for tier in tiers] or [""] * len(TIERS)
        lines.append(f"| {policy} | {parameters} | {mean:.1f} | {' | '.join(cells)} | {source} |")
    ours = {name: result for name, result in results.items() if result["tiers"]}
    for name, result in ours.items():
        tiers, size = result["tiers"], result["parameters"]["trainable"]
        rates = [f"{100 * tiers[tier]['mean']:.1f}" for tier in TIERS]
        average = f"**{100 * tiers['average']['mean']:.1f}**"
        lines.append(f"| vla | {size / 1e6:.1f}M trained | {average} | {' | '.join(rates)} | {name}, above |")
    if not ours:
        lines.append("| vla | | not measured | | | | | |")
    return "\n".join([*lines, ""])


def _transfer(values: dict[str, Any]) -> str:
    """What sharing one network does to every task, from `transfer.json`."""
    arms = {"single": "alone", "multi_stratified": "together", "multi_naive": "naive shares"}
    tasks, steps, each = values["tasks"], values["steps"], values["observations_per_step"]
    columns = [f"{measure} {arm}" for measure in ("loss", "success") for arm in arms.values()]
    lines = [
        f"## Transfer between tasks: {values['config']['evaluation']['env']}",
        "",
        f"Each task alone, all together, and all together with shares of the batch as the data happen to have: {steps} "
        f"steps of {each} observations of every task, one training seed (`vla transfer-report`). Losses are of "
        "held-out episodes; sharing helps or hurts where the 95 % interval of what it takes off the loss excludes 0.",
        "",
        f"| task | sharing | naive share | {' | '.join(columns)} |",
        "|---" * 9 + "|",
    ]
    for name, task in tasks.items():
        losses = [f"{task['loss'][arm]['mean']:.3f}" for arm in arms]
        rates = [_rate(task["success"][arm]) for arm in arms]
        share = f"{100 * task['naive_share']:.0f} %"
        lines.append(f"| {' | '.join([name, task['verdict'], share, *losses, *rates])} |")
    means = [sum(task["success"][arm]["mean"] for task in tasks.values()) / len(tasks) for arm in arms]
    lines.append("| **mean** | | | | | | " + " | ".join(f"**{100 * mean:.1f} %**" for mean in means) + " |")
    count = sum(task["success"]["single"]["n"] for task in tasks.values())
    return "\n".join([*lines, "", f"n = {count} for each mean.", "", *_conflicts(values["conflicts"], list(tasks)), ""])


def _conflicts(conflicts: Sequence[dict[str, Any]], tasks: Sequence[str]) -> list[str]:
    """Over training, how far tasks pull in different directions."""
    lines = [
        "Cosines of the gradients of two tasks, while all are learnt together:",
        "",
        "| after steps | mean over pairs | pairs below 0 | most opposed |",
        "|---|---|---|---|",
    ]
    pairs = list(combinations(range(len(tasks)), 2))
    for conflict in conflicts:
        cosines = [conflict["cosine"][one][other] for one, other in pairs]
        one, other = pairs[cosines.index(min(cosines))]
        below = f"{sum(cosine < 0 for cosine in cosines)} of {len(pairs)}"
        worst = f"{tasks[one]} and {tasks[other]} ({min(cosines):+.2f})"
        lines.append(f"| {conflict['step']} | {sum(cosines) / len(pairs):+.2f} | {below} | {worst} |")
    return lines


def _ablation(values: dict[str, Any]) -> str:
    """One thing changed at a time (`scripts/ablations.py`)."""
    lines = [
        f"## What moves the score: {values['env']}",
        "",
        "One thing changed at a time, one training seed each, fewer steps than above; `scripts/ablations.py` says how.",
        "",
        "| variant | success | n | steps |",
        "|---|---|---|---|",
    ]
    for name, variant in values["variants"].items():
        lines.append(f"| {name} | {_rate(variant['success'])} | {variant['success']['n']} | {variant['steps']} |")
    return "\n".join([*lines, ""])


def _table(heading: tuple[str, str], rates: dict[str, Any]) -> str:
    rows = [f"| {' | '.join(heading)} | n |", "|---|---|---|"]
    return "\n".join([*rows, *(f"| {name} | {_rate(rate)} | {rate['n']} |" for name, rate in rates.items())])


def _rate(rate: dict[str, Any]) -> str:
    low, high = rate["ci95"]
    return f"{100 * rate['mean']:.0f} % ({100 * low:.0f}-{100 * high:.0f})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
