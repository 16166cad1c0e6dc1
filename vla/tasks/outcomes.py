"""The contract between an environment's outcomes and what uses them: collection, relabelling, rewards, evaluation.

An *outcome* is a predicate over recorded simulator states, with a canonical text and a grammar of instructions. Every
environment brings its own (`vla.envs.tabletop`, `vla.envs.ogbench`); nothing outside it knows what is in a state.
"""

# Shapes: E numbers in `observation.environment_state`.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy as np

if TYPE_CHECKING:
    from vla.envs.robot import Robot

Split = Literal["train", "held_out"]


class Outcome(Protocol):
    """A frozen, hashable predicate over simulator states. `str(outcome)` is its canonical text."""

    @property
    def family(self) -> str:
        """The kind of task it belongs to, e.g. `next_to`: the default stratum."""

    @property
    def intention_free(self) -> bool:
        """Whether the states alone show it, so that hindsight may claim it of an episode that had another purpose."""

    def holds(self, states: np.ndarray) -> np.ndarray:
        """Whether it holds: `states [..., E]` -> bool `[...]`."""


AnyOutcome = TypeVar("AnyOutcome", bound=Outcome)


@dataclass(frozen=True)
class Achievement:
    """Frames `start` to `end` (which is included) brought `outcome` about: false at the first, true at the last."""

    start: int
    end: int
    outcome: Outcome


class OutcomeGrammar(Protocol[AnyOutcome]):
    """What an environment's package offers about its outcomes; a module with these names satisfies it.

    The constants say which recordings it can judge.
    """

    ROBOT: Robot  # its name is the robot_type of its data sets, its actions' names are the control mode
    FAMILIES: tuple[str, ...]  # every kind of task there is
    BASE_FAMILIES: tuple[str, ...]  # those that are used if nothing else is said
    LABELLER: str
    VERSION: str  # another one wherever the same states would get other labels

    def parse_outcome(self, text: str) -> AnyOutcome:
        """The inverse of `str(outcome)`. Raises ValueError for anything else."""

    def achievements(self, states: np.ndarray, first: np.ndarray, families: Sequence[str] = ...) -> list[Achievement]:
        """What was brought about in `states [N, E]` of whole episodes, which begin where `first [N]` is True."""

    def held_out_combination(self, outcome: Any) -> bool:
        """Whether it is kept out of training data, to measure generalisation."""

    def all_outcomes(self, state: np.ndarray, families: Sequence[str] = ...) -> list[AnyOutcome]:
        """Every outcome that is false in `state [E]` and can be brought about from it."""

    def instructions(self, outcome: Any, split: Split = "train") -> list[str]:
        """Every phrasing of the outcome in that split."""

    def phrase(self, outcome: Any, rng: np.random.Generator, split: Split = "train") -> str:
        """One phrasing, drawn by `rng`."""

    def parse_instruction(self, text: str) -> AnyOutcome | None:
        """The outcome an instruction of the grammar (either split) asks for, None for any other text."""


def draw_evenly(candidates: Sequence[AnyOutcome], rng: np.random.Generator) -> AnyOutcome | None:
    """One of the candidates; families that have any are equally likely. None if there are none."""
    if not candidates:
        return None
    family = rng.choice(list(dict.fromkeys(outcome.family for outcome in candidates)))
    same_family = [outcome for outcome in candidates if outcome.family == family]
    return same_family[rng.integers(len(same_family))]
