"""Writing: what is read back is what was written, also after appending, faults, and kills at any moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from samples import LAYOUT, make_episode

from vla.data import writer as writer_module
from vla.data.episodes import EpisodeDataset
from vla.data.errors import DatasetError
from vla.data.segments import Segments
from vla.data.stats import Statistics
from vla.data.validate import validate
from vla.data.video import encode_video
from vla.data.writer import EpisodeWriter


def assert_holds(root: Path, numbers: range, pixel_error: float) -> None:
    """The data set consists of exactly these episodes."""
    dataset = EpisodeDataset(root)
    segments = Segments.load(dataset)
    assert dataset.num_episodes == len(numbers) == len(segments)
    for place, number in enumerate(numbers):
        episode = make_episode(number)
        frames = np.arange(dataset.episodes.start[place], dataset.episodes.stop[place])
        assert np.array_equal(dataset.state(frames), episode.state)
        assert np.array_equal(dataset.action(frames), episode.action)
        assert np.array_equal(dataset.environment_state(frames), episode.environment_state)
        assert np.array_equal(dataset.column("next.success")[frames], episode.success)
        assert np.array_equal(dataset.column("next.reward")[frames], episode.success)
        assert np.array_equal(dataset.column("frame_index")[frames], np.arange(len(episode)))
        assert dataset.episodes.instruction[place] == episode.instruction == segments.instruction[place]
        for camera, images in episode.images.items():
            error = np.abs(dataset.frames(camera, frames).astype(float) - images).mean()
            assert error <= pixel_error


@pytest.mark.parametrize(("options", "pixel_error"), [
    ({}, 4.0), ({"video": False}, 0.0), ({"crf": 8}, 2.0),
])
def test_round_trip(write, options, pixel_error):
    root = write(range(10), **options)
    assert_holds(root, range(10), pixel_error)
    assert validate(root, decode=True) == []


@pytest.mark.parametrize("video", [True, False])
def test_appending_equals_writing_at_once(write, video):
    root = write(range(5), video=video)
    write(range(5, 6), video=video)
    write(range(6, 10), video=video)
    assert_holds(root, range(10), 4.0)
    at_once = write(range(10), folder="at_once", video=video)
    assert json.loads((root / "meta/info.json").read_text()) == json.loads((at_once / "meta/info.json").read_text())
    assert json.loads((root / "meta/stats.json").read_text()) == json.loads((at_once / "meta/stats.json").read_text())
    assert pq.read_table(root / "meta/tasks.parquet").equals(pq.read_table(at_once / "meta/tasks.parquet"))
    assert pq.read_table(root / "vla/segments.parquet").equals(pq.read_table(at_once / "vla/segments.parquet"))


def test_clips_encoded_elsewhere_are_copied(write, tmp_path):
    with EpisodeWriter(tmp_path / "clips", **LAYOUT) as writer:
        for number in range(5):
            episode = make_episode(number)
            writer.add_episode(replace(episode, images={camera: encode_video(images, LAYOUT["fps"])
                                                        for camera, images in episode.images.items()}))
    dataset, other = EpisodeDataset(tmp_path / "clips"), EpisodeDataset(write(range(5)))
    frames = np.arange(dataset.num_frames)
    assert np.array_equal(dataset.frames("side", frames), other.frames("side", frames))


def test_statistics_are_exact(write):
    root = write(range(9), episodes_per_file=2)
    dataset, stored = EpisodeDataset(root), json.loads((root / "meta/stats.json").read_text())
    for name in ("observation.state", "action", "next.success", "index"):
        assert stored[name] == Statistics.of(np.array(dataset.column(name))).to_json()
    pixels = np.concatenate([make_episode(number).images["top"].reshape(-1, 3) for number in range(9)]) / 255
    exact = Statistics.of(pixels)
    assert np.allclose(np.ravel(stored["observation.images.top"]["q99"]), exact.q99)
    assert np.shape(stored["observation.images.top"]["mean"]) == (3, 1, 1)
    assert stored["observation.images.top"]["count"] == [dataset.num_frames]


@pytest.mark.parametrize("name", ["interop_video", "interop_image"])
def test_same_layout_as_lerobot_writes(write, lerobot_written, name):
    """Column names and types of every table; features that LeRobot's sample lacks left aside."""
    root = write(range(3), video=name == "interop_video")
    theirs = lerobot_written / name
    for file in ("data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet", "meta/tasks.parquet"):
        own = {field.name: field.type for field in pq.read_schema(root / file)}
        for field in pq.read_schema(theirs / file):
            column = field.name.replace("front", "top").replace("wrist", "side")
            assert column in own, column
            if column != "action":  # 3 numbers here, 4 there
                assert str(own[column]) == str(field.type), column
    info, their_info = (json.loads((folder / "meta/info.json").read_text()) for folder in (root, theirs))
    assert info.keys() == their_info.keys()
    assert info["features"]["timestamp"] == their_info["features"]["timestamp"]
    assert info["video_path"] == their_info["video_path"] and info["data_path"] == their_info["data_path"]
    data = pq.ParquetFile(root / "data/chunk-000/file-000.parquet")
    assert data.num_row_groups == 3
    tasks = pd.read_parquet(root / "meta/tasks.parquet")  # the way LeRobot does
    assert [tasks.iloc[row].name for row in range(3)] == [make_episode(number).instruction for number in range(3)]


BAD = {
    "NaN action": (lambda e: replace(e, action=np.where([False, True, False], np.nan, e.action)),
                   r"action\[1\].*nan in frame 0"),
    "infinite state": (lambda e: replace(e, state=e.state + np.inf), r"observation.state\[0\].*inf"),
    "wrong width": (lambda e: replace(e, action=e.action[:, :2]), "action.*2"),
    "ragged": (lambda e: replace(e, action=e.action[:-1]), "action"),
    "success missing": (lambda e: replace(e, success=e.success[:-1]), "next.success"),
    "no environment state": (lambda e: replace(e, environment_state=None), "environment_state.*missing"),
    "camera missing": (lambda e: replace(e, images={"top": e.images["top"]}), "images.*side"),
    "image size": (lambda e: replace(e, images={**e.images, "top": e.images["top"][:, :16]}), "images.top"),
    "frames missing": (lambda e: replace(e, images={**e.images, "top": e.images["top"][:-1]}), "images.top"),
    "float images": (lambda e: replace(e, images={**e.images, "top": e.images["top"] / 255}), "images.top.*float64"),
    "no instruction": (lambda e: replace(e, instruction=""), "task.*empty"),
    "no frame": (lambda e: replace(e, state=e.state[:0]), "no frame"),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_episodes_are_refused_and_lose_nothing(tmp_path, fault):
    spoil, named = BAD[fault]
    with EpisodeWriter(tmp_path / "data", **LAYOUT) as writer:
        writer.add_episode(make_episode(0))
        with pytest.raises(DatasetError, match=named):
            writer.add_episode(spoil(make_episode(1)))
        writer.add_episode(make_episode(1))
    assert_holds(tmp_path / "data", range(2), 4.0)


def test_other_layouts_are_not_appended(write):
    root = write(range(2))
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    for change, named in [({"fps": 20}, "fps"), ({"action_dim": 2}, "action"), ({"video": False}, "images"),
                          ({"environment_state_dim": None}, "environment_state")]:
        with pytest.raises(DatasetError, match=named):
            EpisodeWriter(root, **{**LAYOUT, **change})
    assert before == {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_folder_with_data_but_no_info_is_not_overwritten(write):
    root = write(range(2))
    (root / "meta/info.json").unlink()
    with pytest.raises(DatasetError, match=r"info\.json"):
        write(range(2))


def test_an_exception_keeps_finished_episodes(tmp_path):
    with pytest.raises(ZeroDivisionError), EpisodeWriter(tmp_path / "data", **LAYOUT) as writer:
        writer.add_episode(make_episode(0))
        raise ZeroDivisionError
    assert_holds(tmp_path / "data", range(1), 4.0)


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("survives", range(9))
def test_a_commit_can_be_cut_at_any_file(write, monkeypatch, survives):
    """Dies before the n-th file is moved into place: the data set is readable, and complete once a writer opens it."""
    root = write(range(4))
    moved = 0

    def replace_file(source: Path, target: Path) -> None:
        nonlocal moved
        if moved == survives:
            raise Killed
        moved += 1
        os.rename(source, target)

    monkeypatch.setattr(writer_module.os, "replace", replace_file)
    writer = EpisodeWriter(root, **LAYOUT)
    writer.add_episode(make_episode(4))
    writer.add_episode(make_episode(5))
    # 9 files: 2 videos, data, episodes, tasks, segments, statistics, histograms, info.
    with pytest.raises(Killed):
        writer.commit()
    del writer  # its lock ends with its process
    monkeypatch.undo()
    assert_holds(root, range(4), 4.0)
    write(range(6, 8))
    assert_holds(root, range(8), 4.0)
    assert validate(root) == [] and not (root / "vla/staging").exists()


@pytest.mark.parametrize("survives", [0, 4, 8])
def test_a_passing_fault_of_the_disk_loses_nothing(tmp_path, monkeypatch, survives):
    faults = iter([*[False] * survives, True])

    def replace_file(source: Path, target: Path) -> None:
        if next(faults, False):
            raise OSError("no space left")
        os.rename(source, target)

    monkeypatch.setattr(writer_module.os, "replace", replace_file)
    with EpisodeWriter(tmp_path / "data", **LAYOUT, episodes_per_file=3) as writer:
        writer.add_episode(make_episode(0))
        writer.add_episode(make_episode(1))
        with pytest.raises(OSError, match="no space"):
            writer.add_episode(make_episode(2))
        writer.add_episode(make_episode(3))
    monkeypatch.undo()
    assert_holds(tmp_path / "data", range(4), 4.0)
    assert validate(tmp_path / "data") == []


def test_a_folder_has_one_writer_at_a_time(write, tmp_path):
    root = write(range(2))
    with EpisodeWriter(root, **LAYOUT) as writer:
        with pytest.raises(DatasetError, match=r"data: is being written to\. Wait"):
            EpisodeWriter(root, **LAYOUT)
        writer.add_episode(make_episode(2))
    write(range(3, 4))
    assert_holds(root, range(4), 4.0)
    with pytest.raises(DatasetError, match="differs"):
        EpisodeWriter(root, **{**LAYOUT, "fps": 7})
    write(range(4, 5))  # a writer that couldn't begin holds nothing back


def test_an_incomplete_commit_is_forgotten(write, monkeypatch):
    root = write(range(4))
    monkeypatch.setattr(writer_module, "task_table", lambda tasks: (_ for _ in ()).throw(Killed))
    writer = EpisodeWriter(root, **LAYOUT)
    writer.add_episode(make_episode(4))
    with pytest.raises(Killed):
        writer.commit()
    del writer  # its lock ends with its process
    monkeypatch.undo()
    assert_holds(root, range(4), 4.0)
    write(range(4, 6))
    assert_holds(root, range(6), 4.0)


WRITE_FOREVER = """
import sys
sys.path.insert(0, sys.argv[2])
from samples import LAYOUT, make_episode
from vla.data.writer import EpisodeWriter
with EpisodeWriter(sys.argv[1], **{**LAYOUT, "episodes_per_file": 2}) as writer:
    while True:
        writer.add_episode(make_episode(writer.num_episodes))
        print(writer.num_episodes, flush=True)
"""


@pytest.mark.parametrize(("number", "rounds"), [(signal.SIGKILL, 3), (signal.SIGINT, 2)])
def test_killed_writers_lose_at_most_a_group(tmp_path, number, rounds):
    """Kills a process that writes as fast as it can, again and again, at moments of no particular kind."""
    root, there = tmp_path / "data", 0
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        process = subprocess.Popen([sys.executable, "-c", WRITE_FOREVER, str(root), str(Path(__file__).parent)],
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(5):
            process.stdout.readline()
        time.sleep(rng.uniform(0, 0.2))
        process.send_signal(number)
        printed = process.stdout.read().split()
        process.wait(20)
        dataset = EpisodeDataset(root)
        said = int(printed[-1]) if printed else there + 5
        assert dataset.num_episodes >= (said - 2 if number == signal.SIGKILL else said)
        there = dataset.num_episodes
    assert_holds(root, range(there), 4.0)
    assert validate(root, decode=True) == []
