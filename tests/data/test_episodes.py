"""Reading: agreement with LeRobot frame by frame, any order of access, and errors that say what is wrong."""

from __future__ import annotations

import json
import pickle
import shutil
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from samples import FIXTURES, make_episode

from vla.data.episodes import EpisodeDataset, describe
from vla.data.errors import DatasetError
from vla.data.layout import CAMERA_PREFIX
from vla.data.video import VideoReader

TRUTH = json.loads((FIXTURES / "lerobot_written.json").read_text(encoding="utf-8"))["datasets"]


@pytest.mark.parametrize("name", TRUTH)
def test_agrees_with_lerobot_frame_by_frame(lerobot_written, name):
    dataset, truth = EpisodeDataset(lerobot_written / name), TRUTH[name]
    assert dataset.episodes.length.tolist() == truth["episode_lengths"]
    assert dataset.episodes.instruction.tolist() == truth["episode_tasks"]
    for frame in truth["frames"]:
        index = np.array([frame["index"]])
        assert np.array_equal(dataset.state(index)[0], np.float32(frame["state"]))
        assert np.array_equal(dataset.action(index)[0], np.float32(frame["action"]))
        episode = dataset.episodes.of(index)
        assert episode == frame["episode_index"] == dataset.column("episode_index")[index]
        assert index - dataset.episodes.start[episode] == frame["frame_index"]
        assert dataset.tasks[frame["task_index"]] == frame["task"] == dataset.episodes.instruction[episode][0]
        for key, expected in frame["images"].items():
            image = dataset.frames(key.removeprefix(CAMERA_PREFIX), index)[0]
            assert np.allclose(image.mean((0, 1)), expected["lerobot_read_mean_rgb_255"], atol=1e-3)
            for place, pixel in expected["lerobot_read_pixels_rgb_255"].items():
                row, column = map(int, place.split(","))
                assert image[row, column].tolist() == pixel


@pytest.mark.parametrize("name", TRUTH)
def test_random_order_equals_sequential(lerobot_written, name):
    dataset = EpisodeDataset(lerobot_written / name)
    for camera, size in dataset.cameras.items():
        parts = list(dataset.iter_frames(camera))
        assert [first for first, _ in parts] == np.cumsum([0, *(len(part) for _, part in parts)])[:-1].tolist()
        frames = np.concatenate([part for _, part in parts])
        assert frames.shape == (dataset.num_frames, *size, 3)
        order = np.random.default_rng(0).integers(0, dataset.num_frames, 100)
        assert np.array_equal(dataset.frames(camera, order), frames[order])
        _, inside = next(dataset.iter_frames(camera, 30, 60))
        assert np.array_equal(inside, frames[30:60])


def test_describe(lerobot_written):
    described = describe(EpisodeDataset(lerobot_written / "interop_image"))
    assert json.loads(json.dumps(described)) == {
        "format_version": "v3.0",
        "fps": 10,
        "episodes": 6,
        "frames": 170,
        "tasks": {
            "pick up the red cube": 2,
            "push the green disc to the left": 2,
            "stack blue on yellow": 1,
            "öffne die Schublade (открой ящик)": 1,
        },
        "robot_type": "synthetic",
        "cameras": {"front": [96, 96], "wrist": [64, 80]},
        "state_dim": 4,
        "action_dim": 4,
    }


def test_frames_are_exact_between_distant_keyframes_and_with_reordered_frames(tmp_path):
    # Video from elsewhere: B-frames and a keyframe every 50. Every frame is one grey of its own.
    path = tmp_path / "foreign.mp4"
    greys = np.arange(80) * 3
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"bf": "3", "g": "50", "crf": "5"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for grey in greys:
            image = np.full((64, 64, 3), grey, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    order = np.random.default_rng(0).permutation(80)
    reader = VideoReader(path, 10)
    for numbers in (order, *order[:20, None]):
        assert np.abs(reader.read(numbers).mean((1, 2, 3)) - greys[numbers]).max() <= 1


def test_fingerprint_follows_content_not_place(write, tmp_path):
    root = write(range(5))
    dataset = EpisodeDataset(root)
    moved = shutil.copytree(root, tmp_path / "elsewhere")
    (moved / "meta/stats.json").unlink()
    assert EpisodeDataset(moved).fingerprint == dataset.fingerprint
    _flip_byte(next(moved.glob("videos/*/*/*.mp4")), at=0.5)
    assert EpisodeDataset(moved).fingerprint != dataset.fingerprint


def test_survives_pickling_for_worker_processes(write):
    dataset = EpisodeDataset(write(range(3)))
    before = dataset.state(np.arange(4)), dataset.frames("top", np.arange(4))
    after = pickle.loads(pickle.dumps(dataset))
    assert np.array_equal(after.state(np.arange(4)), before[0])
    assert np.array_equal(after.frames("top", np.arange(4)), before[1])


def test_indices_outside_are_refused(write):
    dataset = EpisodeDataset(write(range(2)))
    for indices in ([-1], [dataset.num_frames]):
        with pytest.raises(IndexError, match="frame indices"):
            dataset.state(np.array(indices))


TOP_VIDEOS = "videos/*.top/*/*.mp4"
# Every fault: what is done to a data set, and what the message must name.
FAULTS = {
    "no metadata": (lambda root: shutil.rmtree(root / "meta"), "meta/info.json"),
    "info not JSON": (lambda root: (root / "meta/info.json").write_text("{"), "meta/info.json"),
    "old version": (lambda root: _edit_info(root, codebase_version="v2.1"), "convert_dataset_v21_to_v30"),
    "no fps": (lambda root: _edit_info(root, fps=None), "fps"),
    "counts too many episodes": (lambda root: _edit_info(root, total_episodes=99), "episode_index"),
    "counts too many frames": (lambda root: _edit_info(root, total_frames=99999), "dataset_from_index"),
    "tasks cut off": (lambda root: _truncate(root / "meta/tasks.parquet"), "tasks.parquet"),
    "episodes cut off": (lambda root: _truncate(_first(root, "meta/episodes/*/*.parquet")), "meta/episodes"),
    "episodes missing": (lambda root: shutil.rmtree(root / "meta/episodes"), "meta/episodes"),
    "data cut off": (lambda root: _truncate(_first(root, "data/*/*.parquet")), "data/chunk-000/file-000.parquet"),
    "data missing": (lambda root: _first(root, "data/*/*.parquet").unlink(), "data/chunk-000/file-000.parquet"),
    "video cut off": (lambda root: _truncate(_first(root, "videos/*/*/*.mp4")), "file-000.mp4"),
    "video missing": (lambda root: _first(root, "videos/*/*/*.mp4").unlink(), "file-000.mp4"),
    "video empty": (lambda root: _first(root, "videos/*/*/*.mp4").write_bytes(b""), "file-000.mp4"),
    "video too short": (lambda root: shutil.copy(_last(root, TOP_VIDEOS), _first(root, TOP_VIDEOS)), "are due"),
    "data bits flipped": (lambda root: _flip_number(_first(root, "data/*/*.parquet")), r"file-000\.parquet: action"),
    "action not finite": (lambda root: _set_nan(_first(root, "data/*/*.parquet"), "action"),
                          r"action\[1\].*nan in frame 2"),
    "column missing": (lambda root: _drop_column(_first(root, "data/*/*.parquet"), "action"), "action"),
    "rows missing": (lambda root: _drop_rows(_first(root, "data/*/*.parquet")), "rows"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(write, fault):
    damage, named = FAULTS[fault]
    root = write(range(6))
    damage(root)
    with pytest.raises(DatasetError, match=named) as caught:
        dataset = EpisodeDataset(root)
        for key in dataset.features.keys() - {"observation.images.top", "observation.images.side"}:
            dataset.column(key)
        dataset.frames("top", np.arange(dataset.num_frames))
    assert str(root) in str(caught.value) and caught.value.fix


def test_damaged_png_is_named(write):
    root = write(range(2), video=False)
    path = _first(root, "data/*/*.parquet")
    table = pq.read_table(path)
    key = f"{CAMERA_PREFIX}top"
    images = table[key].to_pylist()
    images[1]["bytes"] = images[1]["bytes"][:40]
    pq.write_table(table.set_column(table.schema.names.index(key), key, pa.array(images, table[key].type)), path)
    dataset = EpisodeDataset(root)
    assert len(dataset.frames("top", np.array([0, 2]))) == 2
    with pytest.raises(DatasetError, match=r"top\[1\]"):
        dataset.frames("top", np.array([1]))


def test_unknown_names_list_the_known_ones(write):
    dataset = EpisodeDataset(write(range(1)))
    with pytest.raises(DatasetError, match=r"side.*top"):
        dataset.frames("front", np.array([0]))
    with pytest.raises(DatasetError, match=r"action.*next\.success"):
        dataset.column("effort")


@pytest.mark.parametrize(("written", "read"), [
    (["cube.x", "cube.y", "lid"], ["cube.x", "cube.y", "lid"]),
    ({"motors": ["pan", "lift"], "gripper": ["open"]}, ["pan", "lift", "open"]),
    ({"delta_x": 0, "delta_y": 1, "delta_z": 2}, ["delta_x", "delta_y", "delta_z"]),
    (["too", "few"], ["0", "1", "2"]),
    (None, ["0", "1", "2"]),
])  # fmt: skip
def test_numbers_have_names_however_they_are_written(write, written, read):
    root = write(range(1))
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["action"]["names"] = written
    (root / "meta/info.json").write_text(json.dumps(info))
    assert EpisodeDataset(root).names("action") == read


def test_episode_lengths_come_from_the_writer(write):
    dataset = EpisodeDataset(write(range(7)))
    assert dataset.episodes.length.tolist() == [len(make_episode(number)) for number in range(7)]


def test_memory_is_flat(tmp_path):
    # 100 against 10,000 episodes: 1 MB against 96 MB of states. tracemalloc sees what is allocated, not what is mapped.
    peaks = {}
    for episodes in (100, 10_000):
        root = _large_dataset(tmp_path / str(episodes), episodes, length=80, width=30)
        EpisodeDataset(root).column("observation.state")  # unpacks
        tracemalloc.start()
        dataset = EpisodeDataset(root)
        for start in range(0, dataset.num_frames, 1000):
            dataset.state(np.arange(start, start + 1000).clip(max=dataset.num_frames - 1))
        peaks[episodes] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[10_000] - peaks[100] < 10e6


def _large_dataset(root: Path, episodes: int, length: int, width: int) -> Path:
    """One of vectors only, written as a single file."""
    frames = episodes * length
    (root / "data/chunk-000").mkdir(parents=True)
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    vector = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(frames * width, np.float32)), width)
    pq.write_table(pa.table({"observation.state": vector, "action": vector, "index": np.arange(frames)}),
                   root / "data/chunk-000/file-000.parquet")
    start = np.arange(episodes) * length
    zeros = np.zeros(episodes, np.int64)
    pq.write_table(pa.table({
        "episode_index": np.arange(episodes), "tasks": [["go"]] * episodes, "dataset_from_index": start,
        "dataset_to_index": start + length, "data/chunk_index": zeros, "data/file_index": zeros,
    }), root / "meta/episodes/chunk-000/file-000.parquet")
    pq.write_table(pa.table({"task_index": [0], "task": ["go"]}), root / "meta/tasks.parquet")
    vector_feature = {"dtype": "float32", "shape": [width], "names": None}
    (root / "meta/info.json").write_text(json.dumps({
        "codebase_version": "v3.0", "fps": 10, "total_episodes": episodes, "total_frames": frames,
        "features": {"observation.state": vector_feature, "action": vector_feature},
    }))
    return root


def _first(root: Path, pattern: str) -> Path:
    return sorted(root.glob(pattern))[0]


def _last(root: Path, pattern: str) -> Path:
    return sorted(root.glob(pattern))[-1]


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def _flip_byte(path: Path, at: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 0xFF
    path.write_bytes(content)


def _flip_number(path: Path) -> None:
    """A bit inside an action, where only a checksum can tell."""
    content = bytearray(path.read_bytes())
    actions = pq.ParquetFile(path).metadata.row_group(0).column(1)
    content[actions.data_page_offset + 60] ^= 1
    path.write_bytes(content)


def _edit_info(root: Path, **changes: object) -> None:
    info = {**json.loads((root / "meta/info.json").read_text()), **changes}
    (root / "meta/info.json").write_text(json.dumps({key: value for key, value in info.items() if value is not None}))


def _set_nan(path: Path, key: str) -> None:
    table = pq.read_table(path)
    rows = table[key].to_pylist()
    rows[2][1] = float("nan")
    pq.write_table(table.set_column(table.schema.names.index(key), key, pa.array(rows, table[key].type)), path)


def _drop_column(path: Path, key: str) -> None:
    pq.write_table(pq.read_table(path).drop_columns([key]), path)


def _drop_rows(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.slice(0, len(table) - 2), path)
