"""Write LeRobot v3.0 data sets, in commits that a kill can't tear.

Episodes are gathered in groups; a group becomes one data file, one video file a camera and one metadata file. A commit
is first written to a staging folder, then marked as complete, then moved into place, `meta/info.json` last. Killed
before the mark, the commit is forgotten; after it, the next writer finishes the moves. The data set is whole in each
case.

Shapes: T frames of an episode, S state, A action, P environment state, H height, W width.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from vla.data.episodes import EpisodeDataset, read_columns
from vla.data.errors import DatasetError
from vla.data.layout import (
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
    arrow_array,
    arrow_type,
    hub_features,
    make_features,
    make_video_info,
    task_table,
)
from vla.data.lock import writing
from vla.data.segments import SCHEMA, SEGMENTS, write_table
from vla.data.stats import Statistics
from vla.data.video import EncodedVideo, encode_video, histogram, join_videos

HISTOGRAMS = "vla/image_histograms.json"
STAGING = "vla/staging"
COMPLETE = "COMPLETE"
FILES_PER_CHUNK = 1000


@dataclass
class Episode:
    """One recorded trajectory, as handed to the writer."""

    images: Mapping[str, np.ndarray | EncodedVideo]  # camera -> [T, H, W, 3] uint8, or what `encode_video` made of it
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
        state_names, action_names, environment_state_names: what each number is; by default state_0, state_1, ... A dot
            sets off whose it is: `cube.x` and `cube.y` are two numbers of one thing.
        robot_type: the embodiment.
        video: store mp4; otherwise PNGs inside the data files.
        crf: quality of the video; smaller is better and larger.
        episodes_per_file: size of a group; a killed process loses at most that many.

    Raises:
        DatasetError: `root` holds a damaged data set, or one of another layout, or is being written to.
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
        environment_state_names: Sequence[str] | None = None,
        state_names: Sequence[str] | None = None,
        action_names: Sequence[str] | None = None,
        robot_type: str = "unknown",
        video: bool = True,
        crf: int = 18,
        episodes_per_file: int = 100,
    ):
        self.root, self.fps = Path(root), fps
        self._cameras, self._video, self._crf = dict(cameras), video, crf
        self._episodes_per_file = episodes_per_file
        vectors = {STATE: (state_dim, state_names), ACTION: (action_dim, action_names)}
        if environment_state_dim is not None:
            vectors[ENVIRONMENT_STATE] = (environment_state_dim, environment_state_names)
        self._features = make_features(vectors, self._cameras, make_video_info(fps, crf) if video else None)
        self._robot_type = robot_type
        self._pending: list[_Placed] = []
        self._committed = self._frames = self._files = 0
        self._tasks: dict[str, int] = {}  # instruction -> task_index
        self._lock = writing(self.root)
        finish_commit(self.root)
        if (self.root / INFO).exists():
            self._continue()
        else:
            self._begin()

    @property
    def num_episodes(self) -> int:
        """Episodes of the data set, the ones not committed yet included."""
        return self._committed + len(self._pending)

    @property
    def _next_frame(self) -> int:
        return self._pending[-1].stop if self._pending else self._frames

    @property
    def _image_keys(self) -> list[str]:
        return [CAMERA_PREFIX + camera for camera in self._cameras]

    def add_episode(self, episode: Episode) -> None:
        """Check and take an episode; commits when the group is full.

        Raises:
            DatasetError: a field's shape isn't what the writer was made for, or it holds a number that isn't finite.
                Nothing is lost by that: the episode isn't taken, earlier ones are kept.
        """
        self._check(episode)
        self._pending.append(self._placed(episode))
        if len(self._pending) >= self._episodes_per_file:
            self.commit()

    def commit(self) -> None:
        """Make every added episode durable against a kill of this process."""
        with _uninterrupted():
            finish_commit(self.root)  # one whose moves failed, if there is such
            if not self._pending:
                return
            staging = _Staging(self.root / STAGING)
            histograms = self._stage(staging)
            staging.path(COMPLETE).touch()
            self._committed, self._frames = self.num_episodes, self._next_frame
            self._files, self._histograms, self._pending = self._files + 1, histograms, []
            finish_commit(self.root)

    def close(self) -> None:
        try:
            self.commit()
        finally:
            self._lock.release()

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _begin(self) -> None:
        leftovers = [name for name in ("data", "videos", "meta") if (self.root / name).exists()]
        if leftovers:
            raise DatasetError(self.root / INFO, "", f"is missing, but there is {', '.join(leftovers)}/",
                               "Restore it, or choose an empty folder")
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
        self._tasks = {task: index for index, task in enumerate(dataset.tasks)}
        patterns = ("data/*/*.parquet", "meta/episodes/*/*.parquet", "videos/*/*/*.mp4")
        self._files = 1 + max(_file_number(path) for pattern in patterns for path in self.root.glob(pattern))
        self._histograms = _histograms(dataset)

    def _check(self, episode: Episode) -> None:
        if not episode.instruction:
            raise self._error("task", "the instruction is empty", "Say in words what the episode does")
        if not len(episode):
            raise self._error(STATE, "has no frame", "Drop the episode")
        vectors = {STATE: episode.state, ACTION: episode.action, ENVIRONMENT_STATE: episode.environment_state}
        for key in vectors.keys() & self._features.keys():
            self._check_numbers(key, vectors[key], (len(episode), *self._features[key]["shape"]))
        self._check_numbers(SUCCESS, episode.success, (len(episode),))
        if episode.reward is not None:
            self._check_numbers(REWARD, episode.reward, (len(episode),))
        if episode.images.keys() != self._cameras.keys():
            raise self._error("images", f"cameras are {sorted(episode.images)}, {sorted(self._cameras)} are due",
                              "Give the images of every camera")
        for camera, images in episode.images.items():
            self._check_images(camera, images, (len(episode), *self._cameras[camera]))

    def _check_numbers(self, key: str, values: np.ndarray | None, shape: tuple[int, ...]) -> None:
        if values is None or np.shape(values) != shape:
            given = "missing" if values is None else f"of shape {np.shape(values)}"
            raise self._error(key, f"is {given}, {shape} is due", "Give what the writer was made for")
        if not np.isfinite(values).all():
            frame, *item = np.argwhere(~np.isfinite(values))[0].tolist()
            value = values[frame][item[0]] if item else values[frame]
            raise self._error(f"{key}{item or ''}", f"is {value} in frame {frame}", "Drop or repair the episode")

    def _check_images(self, camera: str, images: np.ndarray | EncodedVideo, shape: tuple[int, int, int]) -> None:
        key = CAMERA_PREFIX + camera
        if isinstance(images, EncodedVideo) and not self._video:
            raise self._error(key, "is encoded video, but the data set stores PNGs", "Give arrays")
        if images.shape[:3] != shape:
            raise self._error(key, f"is {images.shape[:3]} (T, H, W), {shape} is due", "Give one image a frame")
        if isinstance(images, np.ndarray) and (images.dtype != np.uint8 or images.shape[3:] != (3,)):
            raise self._error(key, f"is {images.dtype} {images.shape}", "Give uint8 [T, H, W, 3]")

    def _error(self, field: str, problem: str, fix: str) -> DatasetError:
        return DatasetError(self.root, f"episode {self.num_episodes}, {field}", problem, fix)

    def _placed(self, episode: Episode) -> _Placed:
        number, start, stop = self.num_episodes, self._next_frame, self._next_frame + len(episode)
        task_index = self._tasks.setdefault(episode.instruction, len(self._tasks))
        success = np.asarray(episode.success, bool)
        values = {
            STATE: episode.state,
            ACTION: episode.action,
            ENVIRONMENT_STATE: episode.environment_state,
            SUCCESS: success,
            REWARD: success if episode.reward is None else episode.reward,
            "timestamp": np.arange(len(episode)) / self.fps,
            "frame_index": np.arange(len(episode)),
            "episode_index": np.full(len(episode), number),
            "index": np.arange(start, stop),
            "task_index": np.full(len(episode), task_index),
        }
        columns = {key: np.asarray(values[key], feature["dtype"]) for key, feature in self._features.items()
                   if key not in self._image_keys}
        images = {camera: self._encoded(images) for camera, images in episode.images.items()}
        return _Placed(replace(episode, images={}), number, start, stop, columns, images)

    def _encoded(self, images: np.ndarray | EncodedVideo) -> EncodedVideo | EncodedImages:
        if isinstance(images, EncodedVideo):
            return images
        return encode_video(images, self.fps, self._crf) if self._video else encode_pngs(images)

    def _stage(self, staging: _Staging) -> dict[str, np.ndarray]:
        """Prepare the group's commit; returns the image histograms there will be after it."""
        group, files = self._pending, self._files
        place = {"chunk_index": files // FILES_PER_CHUNK, "file_index": files % FILES_PER_CHUNK}
        histograms = {camera: sum((placed.images[camera].histogram for placed in group), total)
                      for camera, total in self._histograms.items()}
        for camera in self._cameras if self._video else ():
            path = staging.path(VIDEO.format(video_key=CAMERA_PREFIX + camera, **place))
            join_videos(cast(list[EncodedVideo], [placed.images[camera] for placed in group]), path, self.fps)
        data_path = staging.path(DATA.format(**place))
        self._write_data(data_path)
        write_table(self._episode_table(place), staging.path(EPISODES.format(**place)))
        write_table(task_table(list(self._tasks)), staging.path(TASKS))
        write_table(self._segment_table(), staging.path(SEGMENTS))
        staging.write_json(STATS, self._stats(data_path, histograms))
        staging.write_json(HISTOGRAMS, {camera: counts.tolist() for camera, counts in histograms.items()})
        staging.write_json(INFO, self._info())
        return histograms

    def _write_data(self, path: Path) -> None:
        """A row group an episode, as LeRobot does, so that one can be read without the others."""
        stored = {key: feature for key, feature in self._features.items() if feature["dtype"] != "video"}
        schema = pa.schema([(key, arrow_type(feature)) for key, feature in stored.items()],
                           metadata={"huggingface": json.dumps({"info": {"features": hub_features(stored)}})})
        with pq.ParquetWriter(path, schema, compression="snappy", write_page_checksum=True) as file:
            for placed in self._pending:
                pngs = {CAMERA_PREFIX + camera: pa.array(images.rows(), schema.field(CAMERA_PREFIX + camera).type)
                        for camera, images in placed.images.items() if isinstance(images, EncodedImages)}
                numbers = {key: arrow_array(values) for key, values in placed.columns.items()}
                file.write_table(pa.table({key: (pngs | numbers)[key] for key in stored}, schema=schema))

    def _episode_table(self, place: dict[str, int]) -> pa.Table:
        rows = []
        for placed in self._pending:
            first = placed.start - self._pending[0].start
            row: dict[str, Any] = {
                "episode_index": placed.number,
                "tasks": [placed.episode.instruction],
                "length": placed.stop - placed.start,
                "data/chunk_index": place["chunk_index"],
                "data/file_index": place["file_index"],
                "dataset_from_index": placed.start,
                "dataset_to_index": placed.stop,
            }
            for camera in self._cameras if self._video else ():
                key = f"videos/{CAMERA_PREFIX}{camera}"
                row |= {f"{key}/{field}": value for field, value in place.items()}
                row[f"{key}/from_timestamp"] = first / self.fps
                row[f"{key}/to_timestamp"] = (first + placed.stop - placed.start) / self.fps
            for key, stats in placed.stats().items():
                row |= {f"stats/{key}/{name}": value for name, value in stats.items()}
            rows.append(row | {f"meta/episodes/{field}": value for field, value in place.items()})
        return pa.table({name: [row[name] for row in rows] for name in rows[0]})

    def _segment_table(self) -> pa.Table:
        """The segments there are, and one for each episode of the group."""
        path = self.root / SEGMENTS
        present = [read_columns(path, SCHEMA.names).cast(SCHEMA)] if path.exists() else []
        rows = [{
            "episode": placed.number,
            "start": placed.start,
            "stop": placed.stop,
            "instruction": placed.episode.instruction,
            "task": placed.episode.task or placed.episode.instruction,
            "source": placed.episode.source,
            "success": bool(placed.columns[SUCCESS][-1]),
            "reward": float(placed.columns[REWARD][-1]),
            "outcome": placed.episode.outcome,
            "labeller": "",
            "labeller_version": "",
            "original_instruction": placed.episode.instruction,
        } for placed in self._pending]
        return pa.concat_tables([*present, pa.Table.from_pylist(rows, SCHEMA)])

    def _stats(self, data_path: Path, histograms: dict[str, np.ndarray]) -> dict[str, Any]:
        """Exact, over the committed files and the staged one."""
        paths = [*sorted(self.root.glob("data/*/*.parquet")), data_path]
        stats = {key: Statistics.of(*(_numbers(path, key, feature) for path in paths)).to_json()
                 for key, feature in self._features.items() if key not in self._image_keys}
        images = {CAMERA_PREFIX + camera: Statistics.of_histogram(counts, self._next_frame).to_json((3, 1, 1))
                  for camera, counts in histograms.items()}
        return stats | images

    def _info(self) -> dict[str, Any]:
        return {
            "codebase_version": CODEBASE_VERSION,
            "robot_type": self._robot_type,
            "total_episodes": self.num_episodes,
            "total_frames": self._next_frame,
            "total_tasks": len(self._tasks),
            "chunks_size": FILES_PER_CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": self.fps,
            "splits": {"train": f"0:{self.num_episodes}"},
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


@dataclass(frozen=True)
class _Placed:
    """An episode with its place in the data set, ready to be written."""

    episode: Episode  # without its images
    number: int
    start: int  # frames in the whole data set
    stop: int
    columns: dict[str, np.ndarray]  # every numeric column of the data files
    images: dict[str, EncodedVideo | EncodedImages]

    def stats(self) -> dict[str, dict[str, Any]]:
        numbers = {key: Statistics.of(values).to_json() for key, values in self.columns.items()}
        images = {camera: Statistics.of_histogram(images.histogram, len(self.episode))
                  for camera, images in self.images.items()}
        return numbers | {CAMERA_PREFIX + camera: stats.to_json((3, 1, 1)) for camera, stats in images.items()}


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
