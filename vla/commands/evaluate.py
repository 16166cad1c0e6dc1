"""Success rates and prompt sensitivity in a simulator, with a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from vla.commands import counting, load_policy, parse
from vla.config import EnvironmentName, EvaluationConfig
from vla.envs import load_suite
from vla.evaluation.report import summary, write_report
from vla.evaluation.rollout import Combinations, Prompt
from vla.evaluation.summary import evaluate


@dataclass
class Arguments:
    """Roll a policy out on fixed unseen scenes and report how often it does what it is told, with 95 % intervals.

    Every scene is played with the right prompt, another feasible instruction, none, and held-out wording; where a scene
    has a single task with a single text, with that text, another task's, and none. On request also with a goal image, a
    goal state or a video in place of words.

    Examples:
        vla evaluate runs/tabletop --out runs/tabletop/evaluation
        vla evaluate runs/tabletop --episodes 600 --combinations held_out --out runs/tabletop/unseen
        vla evaluate runs/tabletop --prompts right --families touch lift --out runs/tabletop/two
        vla evaluate runs/metaworld_mt50/policy --env metaworld-mt50 --episodes 500 --out runs/metaworld_mt50/evaluation
    """

    checkpoint: Annotated[str, tyro.conf.Positional]
    """Folder that training wrote, or the name of a policy on the hub."""
    out: Path | None = None
    """Folder for evaluation.json, the table, an HTML report and videos; without it, the table is only printed."""
    env: EnvironmentName = "tabletop"
    """Where to act."""
    episodes: int = 120
    """Scenes, spread evenly over the families."""
    families: tuple[str, ...] = ()
    """Instruction families; by default those that the policy was trained on."""
    prompts: tuple[Prompt, ...] = ()
    """What to say or to show in each scene, by default all that makes sense there; `right` must be among them, where
    there are words. Shown is what an expert does."""
    combinations: Combinations = "all"
    """Keep the environment's fixed rule of held-out (thing, family) combinations out, or play only those."""
    execute: int = 8
    """Actions of a chunk that are played before the policy looks again."""
    guidance: float = 1.0
    """Classifier-free guidance scale; 1 is none."""
    denoising_steps: int | None = None
    """Steps from noise to a chunk; by default as the policy was configured. Fewer act sooner."""
    candidates: int = 1
    """Chunks sampled for every prediction, of which the policy's critic chooses the best."""
    num_envs: int = 32
    """Episodes stepped side by side; doesn't change the result."""
    seed: int = 1_000_000
    """First scene; recorded demonstrations have smaller seeds."""


def main(arguments: Sequence[str]) -> int:
    chosen = parse(Arguments, "evaluate", arguments)
    settings = EvaluationConfig(
        env=chosen.env,
        episodes=chosen.episodes,
        families=list(chosen.families) or None,
        execute=chosen.execute,
        guidance=chosen.guidance,
        candidates=chosen.candidates,
        num_envs=chosen.num_envs,
        seed=chosen.seed,
    )
    policy, suite = load_policy(chosen.checkpoint, chosen.denoising_steps), load_suite(chosen.env)
    with counting("episodes") as progress:
        evaluation = evaluate(
            policy,
            suite,
            settings,
            prompts=chosen.prompts or None,
            combinations=chosen.combinations,
            checkpoint=chosen.checkpoint,
            progress=progress,
        )
    Console(highlight=False).print(summary(evaluation))
    if chosen.out is not None:
        print(f"report {write_report(evaluation, suite, chosen.out)}")
    return 0
