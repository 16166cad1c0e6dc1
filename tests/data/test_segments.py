"""Segments: where they come from, what they refuse, how they are kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from vla.data.episodes import EpisodeDataset
from vla.data.errors import DatasetError
from vla.data.segments import SEGMENTS, Segments


@pytest.fixture
def dataset(write):
    return EpisodeDataset(write(range(7)))


def test_the_writer_keeps_task_and_outcome(dataset):
    segments = Segments.load(dataset)
    assert segments.task.tolist() == ["push", "open"] * 3 + ["push"]
    assert segments.outcome.tolist() == [f"outcome {number}" for number in range(7)]
    assert np.array_equal(segments.start, dataset.episodes.start)
    assert np.array_equal(segments.stop, dataset.episodes.stop)
    assert segments.success.all() and (segments.reward == 1).all()


def test_derived_without_a_segment_file(dataset):
    (dataset.root / SEGMENTS).unlink()
    segments = Segments.load(dataset, number=3)
    assert segments.instruction.tolist() == segments.task.tolist() == dataset.episodes.instruction.tolist()
    assert set(segments.source) == {"demonstration"} and set(segments.dataset) == {3}
    assert segments.success.all()


def test_derived_from_lerobot_data(lerobot_written):
    dataset = EpisodeDataset(lerobot_written / "interop_video")
    segments = Segments.load(dataset)
    assert len(segments) == dataset.num_episodes and segments.success.all() and (segments.reward == 1).all()
    assert segments.stratum_ids("embodiment")[0] == ["synthetic"]


def test_save_and_load(dataset):
    demonstrations = Segments.load(dataset)
    relabelled = replace(demonstrations, source=np.full(7, "hindsight", object), stop=demonstrations.stop - 1,
                         instruction=np.array([f"ä{number}" for number in range(7)], object))
    both = Segments.concatenate([demonstrations, relabelled])
    both.save(dataset.root)
    loaded = Segments.load(dataset)
    for name, values in vars(both).items():
        assert np.array_equal(getattr(loaded, name), values), name
    assert [path.name for path in (dataset.root / "vla").glob("segments*")] == ["segments.parquet"]


def test_appending_episodes_keeps_relabelled_segments(dataset, write):
    demonstrations = Segments.load(dataset)
    Segments.concatenate([demonstrations, demonstrations]).save(dataset.root)
    assert len(Segments.load(EpisodeDataset(write(range(7, 9))))) == 7 + 7 + 2


def test_selection_and_strata(dataset):
    segments = Segments.load(dataset)
    names, ids = segments.stratum_ids("task")
    assert names == ["open", "push"] and ids.tolist() == [1, 0, 1, 0, 1, 0, 1]
    assert segments.select(ids == 0).task.tolist() == ["open"] * 3
    with pytest.raises(ValueError, match="task, instruction"):
        segments.stratum_ids("colour")


@pytest.mark.parametrize("change", [
    lambda segments: {"start": segments.start - 1},
    lambda segments: {"stop": segments.stop + 1},
    lambda segments: {"episode": segments.episode + 1},
    lambda segments: {"episode": segments.episode - 1},
])
def test_segments_outside_their_episode_are_refused(dataset, change):
    segments = Segments.load(dataset)
    replace(segments, **change(segments)).save(dataset.root)
    with pytest.raises(DatasetError, match="isn't inside episode"):
        Segments.load(dataset)


def test_empty_segments_and_ragged_columns_are_refused(dataset):
    segments = Segments.load(dataset)
    with pytest.raises(DatasetError, match="row 0 is empty"):
        replace(segments, stop=segments.start)
    with pytest.raises(DatasetError, match="differ in length"):
        replace(segments, stop=segments.stop[:-1])


def test_damaged_files_are_named(dataset):
    path = dataset.root / SEGMENTS
    pq.write_table(pq.read_table(path).drop_columns(["outcome"]), path)
    with pytest.raises(DatasetError, match=r"segments\.parquet: outcome"):
        Segments.load(dataset)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DatasetError, match=r"segments\.parquet"):
        Segments.load(dataset)
