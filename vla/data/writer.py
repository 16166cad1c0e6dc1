"""Write LeRobot v3.0 data sets, in commits that a kill can't tear.

Episodes are gathered in groups; a group becomes one data file, one video file a camera and one metadata file. All of a
commit is first written to a staging folder, then marked as complete, then moved into place, `meta/info.json` last. Killed before
the mark, the commit is forgotten; after it, the next writer finishes the moves. Either way the data set is whole.

Shapes: T frames of an episode, S state, A action, P environment state, H height, W width.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from vla.data.episodes import (
    ACTION,
    CAMERA_PREFIX,
    CODEBASE_VERSION,
    DATA,
    ENVIRONMENT_STATE,
    EPISODES,
    INFO,
    REWARD,
    STATE,
    STATS,
    SUCCESS,
    TASKS,
    VIDEO,
    EpisodeDataset,
    image_keys,
    read_columns,
)
from vla.data.errors import DatasetError
from vla.data.segments import SCHEMA, SEGMENTS, write_table
from vla.data.stats import Statistics
from vla.data.video import CODECS, EncodedVideo, encode_video, histogram, join_videos

HISTOGRAMS = "vla/image_histograms.json"
STAGING = "vla/staging"
COMPLETE = "COMPLETE"
FILES_PER_CHUNK = 1000
COUNTERS = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64", "task_index": "int64"}


@dataclass
class Episode:
    """One recorded trajectory, as handed to the writer."""

    images: dict[str, np.ndarray | EncodedVideo]  # camera -> [T, H, W, 3] uint8, or the clip `encode_video` made of it
    state: np.ndarray  # [T, S] float32, robot units
    action: np.ndarray  # [T, A] float32, robot units
    success: np.ndarray  # [T] bool: the instruction was fulfilled after this action
    instruction: str
    environment_state: np.ndarray | None = None  # [T, P] float32
    reward: np.ndarray | None = None  # [T] float32; by default 1 where there is success
    task: str = ""  # the stratum it counts for; by default the instruction
    outcome: str = ""  # the predicate that was asked for, if there is one
    source: str = "demonstration"

    def __len__(self) -> int:
        return len(self.state)


class EpisodeWriter:
    """Writes episodes to `root`; on an existing data set it goes on after the last one.

    Use as a context manager: on leaving, also by an exception or Ctrl-C, every added episode is committed.

    Args:
        root: folder of the data set.
        fps: frames per second.
        cameras: name -> (H, W).
        state_dim, action_dim, environment_state_dim: widths; None records no environment state.
        state_names, action_names: what each number is; by default state_0, state_1, ...
        robot_type: the embodiment.
        video: store mp4; otherwise PNGs inside the data files.
        codec, crf: one of vla.data.video.CODECS, and its quality (smaller is better).
        episodes_per_file: size of a group; a killed process loses at most that many.

    Raises:
        DatasetError: `root` holds a damaged data set, or one of another layout.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        fps: int,
        cameras: dict[str, tuple[int, int]],
        state_dim: int,
        action_dim: int,
        environment_state_dim: int | None = None,
        state_names: Sequence[str] | None = None,
        action_names: Sequence[str] | None = None,
        robot_type: str = "unknown",
        video: bool = True,
        codec: str = "h264",
        crf: int = 18,
        episodes_per_file: int = 100,
    ):
        self.root, self.fps = Path(root), fps
        self._cameras, self._video, self._codec, self._crf = dict(cameras), video, codec, crf
        self._episodes_per_file = episodes_per_file
        vectors = {STATE: (state_dim, state_names), ACTION: (action_dim, action_names)}
        if environment_state_dim is not None:
            vectors[ENVIRONMENT_STATE] = (environment_state_dim, None)
        self._features = _features(vectors, self._cameras, fps, video, codec, crf)
        self._robot_type = robot_type
        self._pending: list[Episode] = []
        finish_commit(self.root)
        if (self.root / INFO).exists():
            self._continue()
        else:
            self._begin()

    @property
    def num_episodes(self) -> int:
        """Episodes of the data set, the ones not committed yet included."""
        return self._committed + len(self._pending)

    def add_episode(self, episode: Episode) -> None:
        """Check and take an episode; commits when the group is full.

        Raises:
            DatasetError: a field's shape isn't what the writer was made for, or holds a number that isn't finite. Nothing
                is lost by that: the episode isn't taken, earlier ones are kept.
        """
        self._pending.append(self._encoded(self._checked(episode)))
        if len(self._pending) >= self._episodes_per_file:
            self.commit()

    def commit(self) -> None:
        """Make every added episode durable against a kill of this process."""
        if not self._pending:
            return
        staging = self.root / STAGING
        with _uninterrupted():
            shutil.rmtree(staging, ignore_errors=True)
            self._tasks, self._histograms = self._stage(_Staging(staging))
            (staging / COMPLETE).touch()
            finish_commit(self.root)
            self._committed += len(self._pending)
            self._frames += sum(map(len, self._pending))
            self._files += 1
            self._pending = []

    def close(self) -> None:
        self.commit()

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _begin(self) -> None:
        leftovers = [name for name in ("data", "videos", "meta") if (self.root / name).exists()]
        if leftovers:
            raise DatasetError(self.root / INFO, "", f"is missing, but there is {', '.join(leftovers)}/",
                               "Restore it, or choose an empty folder")
        self._committed, self._frames, self._files = 0, 0, 0
        self._tasks: list[str] = []
        self._histograms = {camera: np.zeros((3, 256), np.int64) for camera in self._cameras}

    def _continue(self) -> None:
        dataset = EpisodeDataset(self.root)
        layout, own = ({key: (feature["dtype"], list(feature["shape"])) for key, feature in features.items()}
                       for features in (dataset.features, self._features))
        if layout != own or dataset.fps != self.fps:
            differing = sorted(key for key in layout.keys() | own.keys() if layout.get(key) != own.get(key)) or ["fps"]
            raise DatasetError(self.root / INFO, ", ".join(differing), "differs from what is to be appended",
                               "Write to a new folder, or record with the same layout")
        self._features = dataset.features
        self._robot_type = dataset.embodiment
        self._committed, self._frames = dataset.num_episodes, dataset.num_frames
        self._tasks = dataset.tasks
        self._files = 1 + max(_file_number(path) for pattern in ("data/*/*.parquet", "meta/episodes/*/*.parquet", "videos/*/*/*.mp4")
                              for path in self.root.glob(pattern))
        self._histograms = _histograms(dataset)

    def _checked(self, episode: Episode) -> Episode:
        columns = {STATE: episode.state, ACTION: episode.action}
        if ENVIRONMENT_STATE in self._features:
            columns[ENVIRONMENT_STATE] = episode.environment_state
        for key, values in columns.items():
            shape = (len(episode), *self._features[key]["shape"])
            if values is None or np.shape(values) != shape or not len(episode):
                raise self._error(key, f"has shape {None if values is None else np.shape(values)}, {shape} is due",
                                  "Give at least one frame, and as many numbers as the writer was made for")
            if not np.isfinite(values).all():
                frame, item = np.argwhere(~np.isfinite(values))[0]
                raise self._error(f"{key}[{item}]", f"is {values[frame, item]} in frame {frame}", "Drop or repair the episode")
        for key, flags in ((SUCCESS, episode.success), (REWARD, episode.reward)):
            if flags is not None and np.shape(flags) != (len(episode),):
                raise self._error(key, f"has shape {np.shape(flags)}, {(len(episode),)} is due", "Give one value a frame")
        for camera, size in self._cameras.items():
            images = episode.images.get(camera)
            shape = images.shape[:3] if images is not None else None
            if shape != (len(episode), *size) or (isinstance(images, EncodedVideo) and not self._video):
                raise self._error(CAMERA_PREFIX + camera, f"has {shape} frames, {(len(episode), *size)} is due",
                                  "Give one image a frame; data sets of PNGs need arrays")
        if not episode.instruction:
            raise self._error("task", "the instruction is empty", "Say in words what the episode does")
        return episode

    def _error(self, field: str, problem: str, fix: str) -> DatasetError:
        return DatasetError(self.root, f"episode {self.num_episodes}, {field}", problem, fix)

    def _encoded(self, episode: Episode) -> Episode:
        encode = self._encode_clip if self._video else encode_pngs
        images = {camera: images if isinstance(images, EncodedVideo) else encode(images)
                  for camera, images in episode.images.items()}
        return Episode(**{**episode.__dict__, "images": images})

    def _encode_clip(self, frames: np.ndarray) -> EncodedVideo:
        return encode_video(frames, self.fps, self._codec, self._crf)

    def _stage(self, staging: _Staging) -> tuple[list[str], dict[str, np.ndarray]]:
        """Prepare the group's commit; returns the tasks and the image histograms there will be after it."""
        group, place = self._pending, {"chunk_index": self._files // FILES_PER_CHUNK, "file_index": self._files % FILES_PER_CHUNK}
        tasks = list(dict.fromkeys([*self._tasks, *(episode.instruction for episode in group)]))
        first = self._frames + np.cumsum([0, *map(len, group)])
        columns = [self._columns(episode, self._committed + number, int(first[number]), tasks.index(episode.instruction))
                   for number, episode in enumerate(group)]
        if self._video:
            for camera in self._cameras:
                path = staging.path(VIDEO.format(video_key=CAMERA_PREFIX + camera, **place))
                join_videos([episode.images[camera] for episode in group], path, self.fps)
        data_path = staging.path(DATA.format(**place))
        self._write_data(columns, group, data_path)
        write_table(self._episode_table(columns, group, first, place), staging.path(EPISODES.format(**place)))
        write_table(_task_table(tasks), staging.path(TASKS))
        histograms = {camera: total + sum(episode.images[camera].histogram for episode in group)
                      for camera, total in self._histograms.items()}
        staging.write_json(STATS, self._stats(data_path, histograms, int(first[-1])))
        staging.write_json(HISTOGRAMS, {camera: counts.tolist() for camera, counts in histograms.items()})
        write_table(self._segment_table(group, first), staging.path(SEGMENTS))
        staging.write_json(INFO, self._info(self._committed + len(group), int(first[-1]), len(tasks)))
        return tasks, histograms

    def _columns(self, episode: Episode, number: int, first: int, task_index: int) -> dict[str, np.ndarray]:
        """Every column of the episode but the images, in the order of the features."""
        length, success = len(episode), np.asarray(episode.success, bool)
        values = {
            STATE: episode.state,
            ACTION: episode.action,
            ENVIRONMENT_STATE: episode.environment_state,
            SUCCESS: success,
            REWARD: success if episode.reward is None else episode.reward,
            "timestamp": np.arange(length) / self.fps,
            "frame_index": np.arange(length),
            "episode_index": np.full(length, number),
            "index": np.arange(first, first + length),
            "task_index": np.full(length, task_index),
        }
        return {key: np.asarray(values[key], feature["dtype"]) for key, feature in self._features.items()
                if key not in image_keys(self._features)}

    def _write_data(self, columns: list[dict[str, np.ndarray]], group: list[Episode], path: Path) -> None:
        images = [] if self._video else [CAMERA_PREFIX + camera for camera in self._cameras]
        stored = {key: feature for key, feature in self._features.items() if key in columns[0] or key in images}
        schema = pa.schema([(key, _arrow_type(feature)) for key, feature in stored.items()],
                           metadata={"huggingface": json.dumps({"info": {"features": _hub_features(stored)}})})
        with pq.ParquetWriter(path, schema, compression="snappy", write_page_checksum=True) as file:
            for values, episode in zip(columns, group, strict=True):
                pngs = {key: episode.images[key.removeprefix(CAMERA_PREFIX)].rows() for key in images}
                arrays = [pa.array(pngs[key], schema.field(key).type) if key in pngs else _arrow_array(values[key])
                          for key in stored]
                file.write_table(pa.Table.from_arrays(arrays, schema=schema))

    def _episode_table(self, columns: list[dict[str, np.ndarray]], group: list[Episode], first: np.ndarray,
                       place: dict[str, int]) -> pa.Table:
        rows = []
        for number, (values, episode) in enumerate(zip(columns, group, strict=True)):
            start, stop = int(first[number] - first[0]), int(first[number + 1] - first[0])
            row: dict[str, Any] = {
                "episode_index": self._committed + number,
                "tasks": [episode.instruction],
                "length": len(episode),
                "data/chunk_index": place["chunk_index"],
                "data/file_index": place["file_index"],
                "dataset_from_index": int(first[number]),
                "dataset_to_index": int(first[number + 1]),
            }
            for camera in self._cameras if self._video else ():
                key = f"videos/{CAMERA_PREFIX}{camera}"
                row |= {f"{key}/{field}": value for field, value in place.items()}
                row |= {f"{key}/from_timestamp": start / self.fps, f"{key}/to_timestamp": stop / self.fps}
            for key, column in values.items():
                row |= {f"stats/{key}/{name}": value for name, value in Statistics.of(column).to_json().items()}
            for camera, images in episode.images.items():
                stats = Statistics.of_histogram(images.histogram, len(episode)).to_json((3, 1, 1))
                row |= {f"stats/{CAMERA_PREFIX}{camera}/{name}": value for name, value in stats.items()}
            rows.append(row | {f"meta/episodes/{field}": value for field, value in place.items()})
        return pa.table({name: [row[name] for row in rows] for name in rows[0]})

    def _stats(self, data_path: Path, histograms: dict[str, np.ndarray], count: int) -> dict[str, Any]:
        """Exact, over the committed files and the staged one."""
        paths = [*sorted(self.root.glob("data/*/*.parquet")), data_path]
        stats = {}
        for key, feature in self._features.items():
            if key in image_keys(self._features):
                camera = key.removeprefix(CAMERA_PREFIX)
                stats[key] = Statistics.of_histogram(histograms[camera], count).to_json((3, 1, 1))
            else:
                stats[key] = Statistics.of(*(_numbers(path, key, feature) for path in paths)).to_json()
        return stats

    def _segment_table(self, group: list[Episode], first: np.ndarray) -> pa.Table:
        """The segments there are, and one for each episode of the group."""
        path = self.root / SEGMENTS
        rows = [{
            "episode": self._committed + number,
            "start": int(first[number]),
            "stop": int(first[number + 1]),
            "instruction": episode.instruction,
            "task": episode.task or episode.instruction,
            "source": episode.source,
            "success": bool(episode.success[-1]),
            "reward": float(episode.success[-1] if episode.reward is None else episode.reward[-1]),
            "outcome": episode.outcome,
            "labeller": "",
            "labeller_version": "",
            "original_instruction": episode.instruction,
        } for number, episode in enumerate(group)]
        present = [read_columns(path, SCHEMA.names).cast(SCHEMA)] if path.exists() else []
        return pa.concat_tables([*present, pa.Table.from_pylist(rows, SCHEMA)])

    def _info(self, episodes: int, frames: int, tasks: int) -> dict[str, Any]:
        return {
            "codebase_version": CODEBASE_VERSION,
            "robot_type": self._robot_type,
            "total_episodes": episodes,
            "total_frames": frames,
            "total_tasks": tasks,
            "chunks_size": FILES_PER_CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": self.fps,
            "splits": {"train": f"0:{episodes}"},
            "data_path": DATA,
            "video_path": VIDEO if self._video else None,
            "features": self._features,
        }


@dataclass(frozen=True)
class EncodedImages:
    """One episode's images of a camera as PNG files."""

    files: list[bytes]  # T
    shape: tuple[int, int, int]  # T, H, W
    histogram: np.ndarray  # [3, 256] int64

    def rows(self) -> list[dict[str, Any]]:
        return [{"bytes": file, "path": f"frame-{number:06d}.png"} for number, file in enumerate(self.files)]


def encode_pngs(frames: np.ndarray) -> EncodedImages:
    """PNGs of `frames` [T, H, W, 3] uint8."""
    files = []
    for frame in frames:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "PNG")
        files.append(buffer.getvalue())
    return EncodedImages(files, frames.shape[:3], histogram(frames))


def finish_commit(root: Path) -> None:
    """Move a complete commit into place, drop an incomplete one. Repeatable: it may be killed at any point itself."""
    staging = root / STAGING
    if (staging / COMPLETE).exists():
        staged = [path for path in staging.rglob("*") if path.is_file() and path.name != COMPLETE]
        # info.json last: until it is there, readers see the data set as it was.
        for path in sorted(staged, key=lambda path: (path == staging / INFO, path)):
            target = root / path.relative_to(staging)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
        (staging / COMPLETE).unlink()
    shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C until the block is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if held:
            signal.raise_signal(signal.SIGINT)


class _Staging:
    """The folder in which a commit is prepared, laid out as the data set is."""

    def __init__(self, folder: Path):
        self._folder = folder

    def path(self, name: str) -> Path:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write_json(self, name: str, value: Any) -> None:
        self.path(name).write_text(json.dumps(value, indent=4, ensure_ascii=False), encoding="utf-8")


def _features(vectors: dict[str, tuple[int, Sequence[str] | None]], cameras: dict[str, tuple[int, int]], fps: int, video: bool,
              codec: str, crf: int) -> dict[str, dict[str, Any]]:
    features: dict[str, dict[str, Any]] = {}
    for key, (size, names) in vectors.items():
        names = list(names) if names is not None else [f"{key.rsplit('.')[-1]}_{number}" for number in range(size)]
        if len(names) != size:
            raise ValueError(f"{key} has {size} dimensions but {len(names)} names: {names}")
        features[key] = {"dtype": "float32", "shape": [size], "names": names}
    for camera, (height, width) in cameras.items():
        feature = {"dtype": "video" if video else "image", "shape": [height, width, 3], "names": ["height", "width", "channels"]}
        features[CAMERA_PREFIX + camera] = feature | ({"info": _video_info(height, width, fps, codec, crf)} if video else {})
    features[SUCCESS] = {"dtype": "bool", "shape": [1], "names": None}
    features[REWARD] = {"dtype": "float32", "shape": [1], "names": None}
    return features | {key: {"dtype": dtype, "shape": [1], "names": None} for key, dtype in COUNTERS.items()}


def _video_info(height: int, width: int, fps: int, codec: str, crf: int) -> dict[str, Any]:
    settings = CODECS[codec]
    return {
        "video.height": height,
        "video.width": width,
        "video.codec": codec,
        "video.pix_fmt": settings.pix_fmt,
        "video.fps": fps,
        "video.channels": 3,
        "has_audio": False,
        "video.g": settings.keyframe_interval,
        "video.crf": crf,
        "is_depth_map": False,
    }


def _arrow_type(feature: dict[str, Any]) -> pa.DataType:
    if feature["dtype"] == "image":
        return pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    value = pa.from_numpy_dtype(np.dtype(feature["dtype"]))
    # LeRobot stores vectors of one number as plain numbers.
    return value if tuple(feature["shape"]) == (1,) else pa.list_(value, feature["shape"][0])


def _arrow_array(values: np.ndarray) -> pa.Array:
    if values.ndim == 1 or values.shape[1] == 1:
        return pa.array(values.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _hub_features(features: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The layout as the `datasets` library describes it, which LeRobot reads the files with."""
    described: dict[str, Any] = {}
    for key, feature in features.items():
        value = {"dtype": feature["dtype"], "_type": "Value"}
        if feature["dtype"] == "image":
            described[key] = {"_type": "Image"}
        elif tuple(feature["shape"]) == (1,):
            described[key] = value
        else:
            described[key] = {"feature": value, "length": feature["shape"][0], "_type": "List"}
    return described


def _task_table(tasks: list[str]) -> pa.Table:
    """Rows in task_index order, because LeRobot looks tasks up by row; `task` as pandas index, because it looks there."""
    column = {"field_name": "task", "name": "task", "pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    number = {"field_name": "task_index", "name": "task_index", "pandas_type": "int64", "numpy_type": "int64", "metadata": None}
    pandas = {"index_columns": ["task"], "columns": [number, column], "pandas_version": "2.0.0", "attributes": {},
              "column_indexes": [{"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object",
                                  "metadata": {"encoding": "UTF-8"}}]}
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _numbers(path: Path, key: str, feature: dict[str, Any]) -> np.ndarray:
    column = read_columns(path, [key])[key].combine_chunks()
    flat = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
    return flat.to_numpy(zero_copy_only=False).reshape(len(column), *feature["shape"])


def _file_number(path: Path) -> int:
    """The position of chunk-CCC/file-FFF.* among all files."""
    return int(path.parent.name.split("-")[1]) * FILES_PER_CHUNK + int(path.stem.split("-")[1])


def _histograms(dataset: EpisodeDataset) -> dict[str, np.ndarray]:
    """Of all images so far, by camera; decodes them if somebody else wrote the data set."""
    path = dataset.root / HISTOGRAMS
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {camera: np.array(stored[camera], np.int64) for camera in dataset.cameras}
    return {camera: sum((histogram(frames) for _, frames in dataset.iter_frames(camera)), np.zeros((3, 256), np.int64))
            for camera in dataset.cameras}
