"""Are the labels honest? Rewards are recomputed from the recorded states and compared with what the table says.

Shapes: N segments.
"""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from typing import Any

import numpy as np

from vla.data.episodes import EpisodeDataset
from vla.data.segments import ATTEMPT, SEGMENTS, Segments
from vla.data.validate import Problem
from vla.tasks.outcomes import OutcomeGrammar
from vla.tasks.relabel import MISSED, achieved, judge_of

FIX = "Drop the row, or run `vla relabel` again"


def audit(dataset: EpisodeDataset) -> list[Problem]:
    """All disagreements between the segment table and the recorded states; segments without an outcome can't be judged.

    A recorded segment has reward 1 if its outcome held in one of its frames, else 0; so has one that says what was
    missed. Every other one claims that its frames, no more and no fewer, brought its outcome about. And an instruction
    asks for the outcome it stands beside.

    Raises:
        DatasetError: nothing in the recording can be judged (see `judge_of`).
    """
    grammar = judge_of(dataset)
    segments = Segments.load(dataset)
    parse_instruction = lru_cache(maxsize=None)(grammar.parse_instruction)
    shown: dict[str, set[tuple[int, int]]] = defaultdict(set)  # outcome -> the (start, stop) that brought it about
    for _, start, stop, outcome in achieved(dataset, grammar, grammar.FAMILIES, 0, dataset.num_episodes):
        shown[str(outcome)].add((start, stop))
    problems = []
    for row in np.flatnonzero(segments.outcome != "").tolist():
        field, problem = _disagreement(dataset, grammar, segments, row, shown)
        if not problem:
            asked = parse_instruction(segments.instruction[row])
            if str(asked) != segments.outcome[row]:
                field, problem = "instruction", f"{segments.instruction[row]!r} asks for {asked}"
        if problem:
            where = f"row {row}, {segments.outcome[row]} in {segments.start[row]}:{segments.stop[row]}"
            problems.append(Problem(str(dataset.root / SEGMENTS), field, f"{where}: {problem}", FIX))
    return problems


def _disagreement(
    dataset: EpisodeDataset,
    grammar: OutcomeGrammar[Any],
    segments: Segments,
    row: int,
    shown: dict[str, set[tuple[int, int]]],
) -> tuple[str, str]:
    """Which field of the row is wrong and how; two empty strings if none is."""
    start, stop, success = int(segments.start[row]), int(segments.stop[row]), bool(segments.success[row])
    if segments.reward[row] != float(success):
        return "reward", f"is {segments.reward[row]:g} with success {success}"
    if segments.source[row] == MISSED and success:
        return "success", "is True of what is said to be missed"
    if segments.source[row] not in ("demonstration", ATTEMPT, MISSED):
        claimed = success and (start, stop) in shown[segments.outcome[row]]
        return ("", "") if claimed else ("outcome", "these frames did not bring it about")
    try:
        outcome = grammar.parse_outcome(segments.outcome[row])
    except ValueError as error:
        return "outcome", str(error)
    reached = bool(outcome.holds(dataset.environment_state(np.arange(start, stop))).any())
    return ("", "") if reached == success else ("success", f"is {success}, the states say {reached}")
