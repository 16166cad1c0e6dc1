"""The prompts on the same scenes, and what the rollouts say about the policy."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import vla
from vla.config import EvaluationConfig
from vla.evaluation.rollout import SHOWN, UNTOLD, Combinations, Policy, Progress, Prompt, Rollout, Suite, rollout
from vla.evaluation.statistics import Rate, mean_rate, rates_by


@dataclass(frozen=True)
class Failed:
    """A rollout that didn't do what it was asked to."""

    prompt: Prompt
    seed: int
    instruction: str
    outcome: str
    kind: str  # see `vla.evaluation.rollout.Failure`
    achieved: tuple[str, ...]  # canonical outcomes that were brought about instead


@dataclass(frozen=True)
class Evaluation:
    """Success rates of one policy. `to_json` is `evaluation.json`."""

    main: Prompt  # the right one, where the suite has words
    success: Rate  # of the main prompt
    tasks: dict[str, Rate]  # of the main prompt, by task
    families: dict[str, Rate]  # of the main prompt, by family
    # Of the main prompt, by the suite's groups of families, and "average", the mean of the groups; see `_tiers`.
    tiers: dict[str, Rate]
    # What each prompt asks for was done; with the empty and the shuffled prompt, what the scene was made for.
    prompts: dict[Prompt, Rate]
    # The same by family of what was asked for.
    prompt_families: dict[Prompt, dict[str, Rate]]
    # What the scene was made for: with the other prompt, which leaves it alone; and if something feasible, drawn
    # at random, is done instead, which the empty prompt is to be compared with. None without those prompts.
    unasked: Rate | None
    chance: Rate | None
    failures: tuple[Failed, ...]  # of all prompts that ask for what counts
    settings: dict[str, Any]
    protocol: dict[str, Any]  # see `vla.evaluation.rollout.Suite.protocol`
    checkpoint: str
    parameters: dict[str, int]  # "total", "trainable"
    fps: float
    seconds: float
    rollouts: tuple[Rollout, ...] = field(default=(), repr=False)  # scene by scene; not in the JSON

    @property
    def failure_kinds(self) -> dict[Prompt, dict[str, int]]:
        """How many failures of each kind there were, most frequent first."""
        prompts: list[Prompt] = [prompt for prompt in self.prompts if prompt not in UNTOLD]
        return {
            prompt: dict(Counter(failed.kind for failed in self.failures if failed.prompt == prompt).most_common())
            for prompt in prompts
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "success": self.success.to_json(),
            "families": _to_json(self.families),
            "tasks": _to_json(self.tasks),
            "tiers": _to_json(self.tiers),
            "prompts": _to_json(self.prompts),
            "unasked": None if self.unasked is None else self.unasked.to_json(),
            "chance": None if self.chance is None else self.chance.to_json(),
            "prompt_families": {prompt: _to_json(rates) for prompt, rates in self.prompt_families.items()},
            "failure_kinds": self.failure_kinds,
            "failures": [vars(failed) | {"achieved": list(failed.achieved)} for failed in self.failures],
            "settings": self.settings,
            "protocol": self.protocol,
            "checkpoint": self.checkpoint,
            "parameters": self.parameters,
            "fps": self.fps,
            "seconds": round(self.seconds, 1),
            "version": vla.__version__,
        }


def evaluate(
    policy: Policy,
    suite: Suite,
    settings: EvaluationConfig,
    *,
    prompts: Sequence[Prompt] | None = None,
    combinations: Combinations = "all",
    checkpoint: str = "",
    progress: Progress | None = None,
) -> Evaluation:
    """Run `settings.episodes` scenes with each of the prompts, by default all that make sense in the suite.

    Families are those of the settings, else the environment's that the policy was trained on, else its default ones.
    `checkpoint` is the name to be shown. Raises ValueError for a prompt that the suite doesn't have, or if its main one
    ("right", where it has words) isn't among them.
    """
    prompts = suite.prompts if prompts is None else prompts
    known, main = dict.fromkeys((*suite.prompts, *SHOWN)), suite.prompts[0]
    if main not in prompts or set(prompts) - set(known):
        wrong = f"prompts {list(prompts)}: {suite.name} has {', '.join(known)}"
        raise ValueError(f"{wrong}; choose from these, {main!r} must be one of them")
    families = settings.families or _families_learnt(policy, suite)
    scenes = zip(
        *(suite.cases(prompt, settings.episodes, families, settings.seed, combinations) for prompt in prompts),
        strict=True,
    )
    start = time.monotonic()
    rollouts = rollout(
        policy,
        suite,
        [case for scene in scenes for case in scene],
        execute=settings.execute,
        guidance=settings.guidance,
        candidates=settings.candidates,
        num_envs=settings.num_envs,
        progress=progress,
    )
    seconds = time.monotonic() - start
    by_prompt: dict[Prompt, list[Rollout]] = {p: [r for r in rollouts if r.case.prompt == p] for p in prompts}
    by_chance = by_prompt.get("empty") if "other" in suite.prompts else None
    return Evaluation(
        main=main,
        success=_success(by_prompt[main]),
        tasks=dict(sorted(rates_by(by_prompt[main], lambda r: r.case.task, lambda r: r.success).items())),
        families=_by_family(by_prompt[main]),
        tiers=_tiers(by_prompt[main], suite.groups),
        prompts={prompt: _success(runs) for prompt, runs in by_prompt.items()},
        prompt_families={prompt: _by_family(runs) for prompt, runs in by_prompt.items()},
        unasked=Rate.of(run.original for run in by_prompt["other"]) if "other" in by_prompt else None,
        chance=None if by_chance is None else Rate.of(suite.by_chance(run.case) for run in by_chance),
        failures=tuple(_failed(suite, r) for r in rollouts if not r.success and r.case.prompt not in UNTOLD),
        settings={
            **settings.model_dump(mode="json", exclude={"every"}),
            "env": suite.name,
            "families": list(families),
            "prompts": list(prompts),
            "combinations": combinations,
            "denoising_steps": policy.config.model.diffusion.inference_steps,
        },
        protocol=suite.protocol(policy.config.cameras),
        checkpoint=checkpoint,
        parameters=_parameters(policy),
        fps=suite.robot.fps,
        seconds=seconds,
        rollouts=tuple(rollouts),
    )


def _families_learnt(policy: Policy, suite: Suite) -> Sequence[str]:
    return [task for task in policy.config.tasks or () if task in suite.families] or suite.default_families


def _success(rollouts: Sequence[Rollout]) -> Rate:
    return Rate.of(run.success for run in rollouts)


def _by_family(rollouts: Sequence[Rollout]) -> dict[str, Rate]:
    return rates_by(rollouts, lambda run: run.case.family, lambda run: run.success)


def _tiers(rollouts: Sequence[Rollout], groups: Mapping[str, Sequence[str]]) -> dict[str, Rate]:
    """The rate of each group of families and their average; none unless all families of all groups were played."""
    if not groups or set().union(*groups.values()) - {run.case.family for run in rollouts}:
        return {}
    rates = {name: _success([run for run in rollouts if run.case.family in group]) for name, group in groups.items()}
    return {**rates, "average": mean_rate(list(rates.values()))}


def _failed(suite: Suite, run: Rollout) -> Failed:
    failure = suite.failure(run.case.outcome, run.states)
    case = run.case
    return Failed(case.prompt, case.seed, case.instruction, case.outcome, failure.kind, failure.achieved)


def _parameters(policy: Any) -> dict[str, int]:
    parameters = list(policy.parameters())
    return {
        "total": sum(parameter.numel() for parameter in parameters),
        "trainable": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    }


def _to_json(rates: dict[Any, Rate]) -> dict[str, Any]:
    return {name: rate.to_json() for name, rate in rates.items()}
