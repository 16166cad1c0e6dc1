"""Hindsight: what an episode achieved, it is a demonstration of, whatever it was told to do (Andrychowicz et al. 2017).

Relabelling adds rows to a data set's segment table. Each says that some frames brought some outcome about, in words of
that outcome's grammar, with reward 1; the recorded rows stay as they are, failures with their reward 0. No frame is
copied or changed. A second run gives the same file, byte for byte; one that was killed goes on where it stopped.

Shapes: N frames, E numbers of an environment state.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vla.data.episodes import EpisodeDataset, read_columns
from vla.data.errors import DatasetError
from vla.data.layout import ACTION, ENVIRONMENT_STATE
from vla.data.lock import writing
from vla.data.segments import ATTEMPT, SCHEMA, SEGMENTS, Segments, replace_table
from vla.envs import load_grammar
from vla.tasks.outcomes import OutcomeGrammar

PARTS = "vla/relabelling"  # beside the data: finished parts of a run that is not over
ACHIEVED, MISSED = "hindsight", "missed"  # sources of the rows
PART_EPISODES = 1000
BLOCK_FRAMES = 4096  # of whole episodes, looked at together

Progress = Callable[[int, int], None]  # (finished, all) episodes


@dataclass(frozen=True)
class RelabelSettings:
    """Which outcomes are looked for, and how they are put into words."""

    families: tuple[str, ...] = ()
    """Kinds of outcomes; by default the environment's base families."""
    combinations: Literal["all", "train"] = "all"
    """With `train`, claim no (thing, family) combination that is kept out of training to measure generalisation."""
    misses: int = 0
    """Of every episode also say so many outcomes that it could have brought about and didn't: failures for a critic to
    learn from. Half of them are about a thing that it did something with."""
    seed: int = 0
    """Of the choice among an outcome's wordings, and among what was missed."""


@dataclass(frozen=True)
class Relabelling:
    """What relabelling found."""

    episodes: int
    failures: int  # episodes that missed their instruction
    failures_used: int  # of those, episodes that achieved something else
    segments: int  # rows of what was achieved
    families: dict[str, int]  # these by kind of outcome
    missed: int  # rows of what was not


def relabel(
    dataset: EpisodeDataset,
    settings: RelabelSettings = RelabelSettings(),
    progress: Progress = lambda done, total: None,
) -> Relabelling:
    """Add what was achieved to the data set's segments, in place of what an earlier run of the same labeller added.

    Raises:
        DatasetError: the recording can't be judged (`judge_of` says when), is damaged, or is being written to.
        ValueError: an unknown family.
    """
    grammar = judge_of(dataset)
    families = settings.families or grammar.BASE_FAMILIES
    unknown = sorted(set(families) - set(grammar.FAMILIES))
    if unknown:
        raise ValueError(f"families: {unknown[0]!r} is unknown, choose among {', '.join(grammar.FAMILIES)}")
    with writing(dataset.root):
        recorded = Segments.load(dataset)
        recorded = recorded.select(recorded.labeller != grammar.LABELLER)
        labeller = _Labeller(dataset, grammar, recorded, settings, families)
        paths = _parts(labeller, dataset, progress)
        _merge(recorded, paths, dataset.root / SEGMENTS)
        shutil.rmtree(dataset.root / PARTS)
    return _summary(Segments.load(dataset), grammar.LABELLER)


def _parts(labeller: _Labeller, dataset: EpisodeDataset, progress: Progress) -> list[Path]:
    """Files that hold the rows of all episodes, in their order; those of an earlier run are taken as they are."""
    folder = dataset.root / PARTS / labeller.fingerprint
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for begin in range(0, dataset.num_episodes, PART_EPISODES):
        end = min(begin + PART_EPISODES, dataset.num_episodes)
        paths.append(folder / f"{begin:09d}.parquet")
        if not paths[-1].exists():
            replace_table(labeller.rows(begin, end), paths[-1])
        progress(end, dataset.num_episodes)
    return paths


def judge_of(dataset: EpisodeDataset) -> OutcomeGrammar[Any]:
    """The grammar whose outcomes can honestly be claimed of the recording.

    Raises:
        DatasetError: there is none, because the dynamics differ (another embodiment, another control mode), or the
            simulator's state, without which no reward can be recomputed, was not recorded.
    """
    info = dataset.root / "meta/info.json"
    try:
        grammar = load_grammar(dataset.embodiment)
    except ValueError as error:
        raise DatasetError(info, "robot_type", str(error), "Label it with a vision-language model") from error
    if dataset.environment_state_dim is None:
        raise DatasetError(info, ENVIRONMENT_STATE, "was not recorded, so that no reward can be computed afterwards",
                           "Label it with a vision-language model")
    numbers, robot = dataset.environment_state_dim, grammar.ROBOT
    if numbers != robot.environment_state_dim:
        raise DatasetError(info, ENVIRONMENT_STATE, f"has {numbers} numbers, the outcomes of {robot.name} read "
                           f"{robot.environment_state_dim}", "Record it again with this version")
    names = tuple(dataset.names(ACTION))
    if names != robot.action_names:
        raise DatasetError(info, "action.names", f"are {names}, another control mode than {robot.action_names}: "
                           "how something was achieved with it does not show how to achieve it here",
                           "Leave it as it is, or convert its actions")
    return grammar


def achieved(
    dataset: EpisodeDataset, grammar: OutcomeGrammar[Any], families: Sequence[str], begin: int, end: int
) -> Iterator[tuple[int, int, int, Any]]:
    """(episode, start, stop, outcome) of whatever episodes `begin:end` brought about, in the order of their frames."""
    episodes = dataset.episodes
    while begin < end:
        until = episodes.start[begin] + BLOCK_FRAMES
        last = min(max(int(np.searchsorted(episodes.stop, until)), begin + 1), end)
        offset = int(episodes.start[begin])
        states = dataset.environment_state(np.arange(offset, episodes.stop[last - 1]))
        first = np.zeros(len(states), bool)
        first[episodes.start[begin:last] - offset] = True
        for found in grammar.achievements(states, first, families):
            start = offset + found.start
            yield int(np.searchsorted(episodes.stop, start, "right")), start, offset + found.end + 1, found.outcome
        begin = last


class _Labeller:
    """Makes the rows of some episodes, a pure function of the recording and the settings."""

    def __init__(
        self,
        dataset: EpisodeDataset,
        grammar: OutcomeGrammar[Any],
        recorded: Segments,
        settings: RelabelSettings,
        families: Sequence[str],
    ) -> None:
        self._dataset, self._grammar, self._settings, self._families = dataset, grammar, settings, families
        # What an expert was told to do and did is there already. A policy's attempt has detours and ends as soon as it
        # counts: what clearly did it is found in hindsight, as anything else is.
        done = recorded.success & (recorded.source != ATTEMPT)
        self._known = set(zip(recorded.episode[done].tolist(), recorded.outcome[done].tolist(), strict=True))
        self._told = set(zip(recorded.episode.tolist(), recorded.outcome.tolist(), strict=True))

    @property
    def fingerprint(self) -> str:
        """Of everything that decides the rows."""
        known = hashlib.sha256(repr(sorted(self._known)).encode()).hexdigest()
        key = [self._dataset.fingerprint, self._grammar.LABELLER, self._grammar.VERSION, asdict(self._settings), known]
        return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]

    def rows(self, begin: int, end: int) -> pa.Table:
        """The rows of episodes `begin:end`."""
        rows = list(self._rows(begin, end))
        columns = zip(*rows, strict=True) if rows else [()] * len(SCHEMA)
        return pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)

    def _rows(self, begin: int, end: int) -> Iterator[tuple[Any, ...]]:
        done: dict[int, list[Sequence[Any]]] = defaultdict(list)
        for episode, *attempt in achieved(self._dataset, self._grammar, self._families, begin, end):
            done[episode].append(attempt)
        # An episode that achieved nothing has a row only where it is asked what it missed.
        for episode in range(begin, end) if self._settings.misses else sorted(done):
            yield from self._rows_of(episode, done[episode])

    def _rows_of(self, episode: int, done: Sequence[Sequence[Any]]) -> Iterator[tuple[Any, ...]]:
        """Of an episode that `done` (start, stop, outcome) was achieved in."""
        rng = np.random.default_rng([self._settings.seed, episode])
        for start, stop, outcome in done:
            if (episode, str(outcome)) not in self._known and self._may_claim(outcome):
                yield self._row(episode, start, stop, outcome, rng, ACHIEVED)
        if self._settings.misses:
            start, stop = (int(ends[episode]) for ends in (self._dataset.episodes.start, self._dataset.episodes.stop))
            for outcome in self._missed(episode, {outcome.thing for *_, outcome in done}, rng):
                yield self._row(episode, start, stop, outcome, rng, MISSED)

    def _row(
        self, episode: int, start: int, stop: int, outcome: Any, rng: np.random.Generator, source: str
    ) -> tuple[Any, ...]:
        grammar, success = self._grammar, source == ACHIEVED
        return (
            episode, start, stop, grammar.phrase(outcome, rng), outcome.family, source, success, float(success),
            str(outcome), grammar.LABELLER, grammar.VERSION, self._dataset.episodes.instruction[episode],
        )  # fmt: skip

    def _missed(self, episode: int, handled: set[Any], rng: np.random.Generator) -> list[Any]:
        """What was feasible at first and came about in no frame of the episode."""
        frames = np.arange(self._dataset.episodes.start[episode], self._dataset.episodes.stop[episode])
        states = self._dataset.environment_state(frames)
        feasible = [outcome for outcome in self._grammar.all_outcomes(states[0], self._families)
                    if self._may_claim(outcome) and (episode, str(outcome)) not in self._told]  # fmt: skip
        tempting = [outcome for outcome in feasible if outcome.thing in handled]
        missed: dict[Any, None] = {}
        for number in range(4 * self._settings.misses):  # a draw may have come about, or come before
            choice = tempting if tempting and number % 2 else feasible
            if choice and len(missed) < self._settings.misses:
                outcome = choice[rng.integers(len(choice))]
                if not outcome.holds(states).any():
                    missed[outcome] = None
        return list(missed)

    def _may_claim(self, outcome: Any) -> bool:
        held_out = self._settings.combinations == "train" and self._grammar.held_out_combination(outcome)
        return outcome.intention_free and not held_out


def _merge(recorded: Segments, parts: Sequence[Path], path: Path) -> None:
    """One table of all, part by part: memory holds one at a time."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    path.parent.mkdir(exist_ok=True)
    with pq.ParquetWriter(temporary, SCHEMA, compression="snappy", write_page_checksum=True) as writer:
        writer.write_table(recorded.to_table())
        for part in parts:
            writer.write_table(read_columns(part, SCHEMA.names).cast(SCHEMA))
    os.replace(temporary, path)


def _summary(segments: Segments, labeller: str) -> Relabelling:
    added = (segments.labeller == labeller) & segments.success
    recorded = segments.recorded
    failed = segments.episode[recorded & ~segments.success]
    return Relabelling(
        episodes=len(np.unique(segments.episode[recorded])),
        failures=len(np.unique(failed)),
        failures_used=len(np.intersect1d(failed, segments.episode[added])),
        segments=int(added.sum()),
        families=dict(sorted(Counter(segments.task[added].tolist()).items())),
        missed=int((segments.source == MISSED).sum()),
    )
