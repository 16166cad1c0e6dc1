"""Segments: which frames are an attempt at which instruction. The unit that is relabelled, weighed and sampled.

They lie beside a data set in `vla/segments.parquet`, a row each. Relabelling adds rows and touches no frame.

Shapes: N segments.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vla.data.episodes import EpisodeDataset, read_columns
from vla.data.errors import DatasetError
from vla.data.layout import REWARD, SUCCESS

SEGMENTS = "vla/segments.parquet"
ATTEMPT = "attempt"  # source of what a policy did: nothing is imitated of it but what hindsight finds it to show
STRATA = ("task", "instruction", "source", "dataset", "embodiment")

SCHEMA = pa.schema([
    ("episode", pa.int64()), ("start", pa.int64()), ("stop", pa.int64()), ("instruction", pa.string()),
    ("task", pa.string()), ("source", pa.string()), ("success", pa.bool_()), ("reward", pa.float32()),
    ("outcome", pa.string()), ("labeller", pa.string()), ("labeller_version", pa.string()),
    ("original_instruction", pa.string()),
])


@dataclass(frozen=True)
class Segments:
    """A table of segments by columns. Text columns hold references to shared strings.

    Raises:
        DatasetError: on construction, if columns differ in length or a segment is empty (`stop <= start`).
    """

    dataset: np.ndarray  # [N] int64: number of the data set among those used together
    episode: np.ndarray  # [N] int64
    start: np.ndarray  # [N] int64: first frame, an index in the whole data set
    stop: np.ndarray  # [N] int64: one past the last frame
    instruction: np.ndarray  # [N] object: str, what is asked for
    task: np.ndarray  # [N] object: str, the stratum (family) it counts for
    source: np.ndarray  # [N] object: str, one of demonstration, attempt, hindsight, missed, paraphrase, vlm, generated
    success: np.ndarray  # [N] bool: it was reached within the segment
    reward: np.ndarray  # [N] float32: reward of the last frame
    outcome: np.ndarray  # [N] object: str, the predicate asked for; "" if there is none
    labeller: np.ndarray  # [N] object: str, what made the row; "" for the recording itself
    labeller_version: np.ndarray  # [N] object: str
    original_instruction: np.ndarray  # [N] object: str, what the episode was recorded under
    embodiment: np.ndarray  # [N] object: str, the robot; follows from the data set and is not stored

    @property
    def recorded(self) -> np.ndarray:
        """[N] bool: an episode as it was told and done, which no labeller has looked at."""
        return self.labeller == ""

    def __post_init__(self) -> None:
        lengths = {field.name: len(getattr(self, field.name)) for field in fields(self)}
        if len(set(lengths.values())) > 1:
            raise DatasetError("segments", "", f"columns differ in length: {lengths}", "Give each a value a segment")
        empty = np.flatnonzero(self.stop <= self.start)
        if len(empty):
            row = empty[0]
            raise DatasetError("segments", "stop", f"row {row} is empty: {self.start[row]}:{self.stop[row]}", DROP)

    def __len__(self) -> int:
        return len(self.start)

    @classmethod
    def load(cls, dataset: EpisodeDataset, number: int = 0) -> Segments:
        """The data set's segments, under data set `number`. Without a segment file, every episode is a demonstration of
        its own instruction: successful if `next.success` holds in its last frame, or if nobody recorded success.

        Raises:
            DatasetError: a segment is empty or reaches beyond its episode, or the file is damaged.
        """
        path = dataset.root / SEGMENTS
        if not path.exists():
            return _derived(dataset, number)
        table = read_columns(path, SCHEMA.names)
        # Of a commit that was cut short, segments may be there before their episodes: those begin after the last frame.
        table = table.filter(pa.array(table["start"].to_numpy() < dataset.num_frames))
        segments = _from_table(table, number, dataset.embodiment)
        segments.check(dataset)
        return segments

    def save(self, root: Path) -> None:
        """Write them as the segments of the data set in `root`, replacing the file at once."""
        path = Path(root) / SEGMENTS
        path.parent.mkdir(exist_ok=True)
        replace_table(self.to_table(), path)

    def to_table(self) -> pa.Table:
        """As stored: without `dataset` and `embodiment`, which belong to the data set."""
        return pa.table({name: pa.array(getattr(self, name), SCHEMA.field(name).type) for name in SCHEMA.names}, SCHEMA)

    @classmethod
    def concatenate(cls, parts: Sequence[Segments]) -> Segments:
        """All rows of `parts`, in order. Data set numbers stay as they are."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    def select(self, mask: np.ndarray) -> Segments:
        """The rows that `mask` picks: [N] bool, or indices."""
        return Segments(**{field.name: getattr(self, field.name)[mask] for field in fields(self)})

    def stratum_ids(self, key: str) -> tuple[list[str], np.ndarray]:
        """(names of the strata, sorted; stratum of each segment [N] int64), by one of STRATA."""
        if key not in STRATA:
            raise ValueError(f"segments can't be stratified by {key!r}, choose one of {', '.join(STRATA)}")
        names, ids = np.unique(getattr(self, key), return_inverse=True)
        return [str(name) for name in names], ids.reshape(-1)

    def check(self, dataset: EpisodeDataset) -> None:
        """Raises DatasetError if a segment isn't inside its episode of `dataset`."""
        episodes = dataset.episodes
        exists = (self.episode >= 0) & (self.episode < dataset.num_episodes)
        episode = np.where(exists, self.episode, 0)
        inside = exists & (self.start >= episodes.start[episode]) & (self.stop <= episodes.stop[episode])
        if not inside.all():
            row = np.flatnonzero(~inside)[0]
            frames = f"{self.start[row]}:{self.stop[row]}"
            raise DatasetError(dataset.root / SEGMENTS, "start, stop",
                               f"row {row}, {frames}, isn't inside episode {self.episode[row]}", DROP)


def write_table(table: pa.Table, path: Path) -> None:
    """Write parquet with page checksums: pyarrow reads a flipped bit silently without."""
    pq.write_table(table, path, compression="snappy", write_page_checksum=True)


def replace_table(table: pa.Table, path: Path) -> None:
    """The same, in place of the file at `path` at once: a reader sees the old one or the new one."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    write_table(table, temporary)
    os.replace(temporary, path)


def shared_strings(values: Iterable[str]) -> np.ndarray:
    """[N] object, equal strings being one object: 8 bytes a row however long they are."""
    distinct: dict[str, str] = {}
    return np.array([distinct.setdefault(value, value) for value in values], dtype=object)


DROP = "Drop the row, or relabel the data set again"


def _derived(dataset: EpisodeDataset, number: int) -> Segments:
    episodes, count = dataset.episodes, dataset.num_episodes
    last = episodes.stop - 1
    success = np.array(dataset.column(SUCCESS)[last], bool) if SUCCESS in dataset.features else np.ones(count, bool)
    reward = dataset.column(REWARD)[last] if REWARD in dataset.features else success
    nothing = shared_strings([""] * count)
    return Segments(
        dataset=np.full(count, number, np.int64),
        episode=np.arange(count),
        start=episodes.start,
        stop=episodes.stop,
        instruction=episodes.instruction,
        task=episodes.instruction,
        source=shared_strings(["demonstration"] * count),
        success=success,
        reward=np.array(reward, np.float32),
        outcome=nothing,
        labeller=nothing,
        labeller_version=nothing,
        original_instruction=episodes.instruction,
        embodiment=shared_strings([dataset.embodiment] * count),
    )


def _from_table(table: pa.Table, number: int, embodiment: str) -> Segments:
    columns = {
        name: shared_strings(table[name].to_pylist()) if pa.types.is_string(SCHEMA.field(name).type)
        else table[name].to_numpy()
        for name in SCHEMA.names
    }
    return Segments(
        dataset=np.full(len(table), number, np.int64),
        embodiment=shared_strings([embodiment] * len(table)),
        **columns,
    )
