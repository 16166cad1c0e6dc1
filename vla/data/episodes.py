"""Read LeRobot v3.0 data sets: vectors by memory map, frames by exact number.

A data set is a folder: `meta/` says which episodes there are and where each lies, `data/` holds a parquet row a frame,
`videos/` mp4 files of many episodes each (or the images are PNGs in the rows). `vla/` beside them holds what LeRobot
has no place for (segments); LeRobot ignores it. Frames are addressed by their index in the whole data set. A frame's
time is its number in the episode divided by fps: stored time stamps are floats and never compared.

Shapes: N frames asked for, E episodes, D values of a column, S state, A action, P environment state, H height, W width.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from vla.cache import cache_dir
from vla.data.errors import DatasetError
from vla.data.layout import (
    ACTION,
    CAMERA_PREFIX,
    CODEBASE_VERSION,
    DATA,
    ENVIRONMENT_STATE,
    INFO,
    STATE,
    TASKS,
    VIDEO,
    image_keys,
)
from vla.data.video import RESTORE, VideoReader

# Frames of a sequential read that are handed out together.
READ_AHEAD = 64
# What pyarrow raises on damaged files, depending on where the damage is.
DAMAGED_PARQUET = (pa.ArrowException, OSError, UnicodeDecodeError)
OPEN_FILES = 8
# Of each end of a file, what the fingerprint reads.
FINGERPRINT_BYTES = 1 << 20


@dataclass(frozen=True)
class Episodes:
    """Where each episode lies; `start:stop` are frame indices in the whole data set."""

    start: np.ndarray  # [E] int64
    stop: np.ndarray  # [E] int64
    instruction: np.ndarray  # [E] object: str

    @property
    def length(self) -> np.ndarray:  # [E] int64
        return self.stop - self.start

    def of(self, frames: np.ndarray) -> np.ndarray:
        """The episode each of `frames` [N] lies in, [N] int64."""
        return np.searchsorted(self.stop, frames, side="right")


class EpisodeDataset:
    """A LeRobot v3.0 data set, opened for reading. Memory stays flat: pages are mapped, frames decoded when asked for.

    Numeric columns are unpacked on first use into the cache folder (`cache_dir`), which may be deleted at any time.

    Raises:
        DatasetError: on opening, if metadata is missing, damaged or of another version, or a file that it names is
            missing, cut off or too short; on reading, if a file is damaged inside or a number isn't finite.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.info = _read_info(self.root)
        self.features: dict[str, dict[str, Any]] = self.info["features"]
        self.fps: int = self.info["fps"]
        self.num_episodes: int = self.info["total_episodes"]
        self.num_frames: int = self.info["total_frames"]
        self.tasks = _read_tasks(self.root)
        self._camera_keys = {key.removeprefix(CAMERA_PREFIX): key for key in image_keys(self.features)}
        self.cameras: dict[str, tuple[int, int]] = {
            name: tuple(self.features[key]["shape"][:2]) for name, key in self._camera_keys.items()
        }
        table = _read_episode_table(self.root, self.num_episodes, self._video_keys)
        self.episodes = _episodes(self.root, table, self.num_frames)
        self._data_files = _data_files(self.root, self.info, table, self.episodes)
        self._clips = {key: _clips(self.root, self.info, table, key, self.episodes) for key in self._video_keys}
        self._check_files()
        self._columns: dict[str, np.ndarray] = {}
        self._open: OrderedDict[tuple[int, str, Path], Any] = OrderedDict()

    def __len__(self) -> int:
        return self.num_frames

    @property
    def state_dim(self) -> int:
        return _width(self.features, STATE)

    @property
    def action_dim(self) -> int:
        return _width(self.features, ACTION)

    @property
    def environment_state_dim(self) -> int | None:
        return _width(self.features, ENVIRONMENT_STATE) if ENVIRONMENT_STATE in self.features else None

    def names(self, column: str) -> list[str]:
        """What each number of a column is; numbered where the data set doesn't say."""
        names, width = self.features[column].get("names") or [], _width(self.features, column)
        if isinstance(names, dict):  # under headings, as LeRobot also writes them
            names = [name for heading, own in names.items() for name in (own if isinstance(own, list) else [heading])]
        return list(names) if len(names) == width else [str(number) for number in range(width)]

    @property
    def embodiment(self) -> str:
        """The robot's type, as recorded."""
        return self.info.get("robot_type") or "unknown"

    def state(self, indices: np.ndarray) -> np.ndarray:
        """[N, S] float32, robot units."""
        return self.vectors(STATE, indices)

    def action(self, indices: np.ndarray) -> np.ndarray:
        """[N, A] float32, robot units."""
        return self.vectors(ACTION, indices)

    def environment_state(self, indices: np.ndarray) -> np.ndarray:
        """[N, P] float32: the simulator's state."""
        return self.vectors(ENVIRONMENT_STATE, indices)

    def vectors(self, name: str, indices: np.ndarray) -> np.ndarray:
        """[N, D] float32: rows of any numeric column."""
        values = self.column(name)[self._checked(indices)]
        return np.asarray(values, np.float32).reshape(len(values), -1)

    def column(self, name: str) -> np.ndarray:
        """All values of a numeric column, memory-mapped and read-only: [num_frames], or [num_frames, D] for vectors.

        Raises:
            DatasetError: there is no such column, or a value isn't finite.
        """
        if name not in self._columns:
            self._columns[name] = self._map_column(name)
        return self._columns[name]

    def read_column(self, name: str) -> Iterator[np.ndarray]:
        """The column straight from its parquet files, one at a time and fully checked: [n] or [n, D].

        Raises:
            DatasetError: there is no such column, or a file is damaged, or a value isn't finite.
        """
        if name not in self.features or name in self._camera_keys.values():
            numeric = sorted(set(self.features) - set(self._camera_keys.values()))
            raise DatasetError(self.root / INFO, name, "there is no such numeric column", f"Choose one of {numeric}")
        dtype, shape = self.features[name]["dtype"], tuple(self.features[name]["shape"])
        return (_read_values(file, name, dtype, shape) for file in self._data_files)

    def frames(self, camera: str, indices: np.ndarray) -> np.ndarray:
        """[N, H, W, 3] uint8: the frames `indices` [N], in any order."""
        key = self._camera_key(camera)
        indices = self._checked(indices)
        images = np.empty((len(indices), *self.cameras[camera], 3), np.uint8)
        read = self._read_video if key in self._clips else self._read_images
        read(key, indices, images)
        return images

    def iter_frames(self, camera: str, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Decode `start:stop` in order, each file once; yields (index of the first, [n, H, W, 3] uint8)."""
        stop = self.num_frames if stop is None else stop
        for first in range(start, stop, READ_AHEAD):
            yield first, self.frames(camera, np.arange(first, min(first + READ_AHEAD, stop)))

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits that change when frames do, wherever the folder lies.

        SHA-256 over fps, feature layout, and of every file with episodes, tasks, data or video its name, size, first
        MiB and last MiB; so whole files up to 2 MiB. Longer ones are vouched for by their ends, where parquet keeps the
        offset, size and range of every column chunk and mp4 the size of every frame: a changed frame nearly always
        shows there. Statistics and segments don't count: relabelling doesn't invalidate what frames were turned into.
        """
        digest = hashlib.sha256()
        layout = {key: (feature["dtype"], list(feature["shape"])) for key, feature in self.features.items()}
        digest.update(json.dumps([self.fps, self.num_frames, layout], sort_keys=True).encode())
        for path in [self.root / TASKS, *_episode_files(self.root), *self.data_paths, *self.video_paths]:
            size = path.stat().st_size
            digest.update(f"{path.relative_to(self.root)} {size}".encode())
            with path.open("rb") as file:
                digest.update(file.read(FINGERPRINT_BYTES))
                file.seek(max(FINGERPRINT_BYTES, size - FINGERPRINT_BYTES))
                digest.update(file.read())
        return digest.hexdigest()[:32]

    @property
    def data_paths(self) -> list[Path]:
        """The parquet files with the frames' rows, in order."""
        return [file.path for file in self._data_files]

    @property
    def video_paths(self) -> list[Path]:
        """The video files, by camera and in order."""
        return [path for clips in self._clips.values() for path in clips.paths]

    @property
    def _video_keys(self) -> list[str]:
        return [key for key in self._camera_keys.values() if self.features[key]["dtype"] == "video"]

    def _camera_key(self, camera: str) -> str:
        if camera not in self._camera_keys:
            raise DatasetError(self.root / INFO, "features", f"has no camera {camera!r}",
                               f"Choose one of {sorted(self._camera_keys)}")
        return self._camera_keys[camera]

    def _checked(self, indices: np.ndarray) -> np.ndarray:
        indices = np.asarray(indices, dtype=np.int64)
        if indices.size and (indices.min() < 0 or indices.max() >= self.num_frames):
            raise IndexError(f"{self.root}: frame indices {indices.min()}..{indices.max()} of {self.num_frames} frames")
        return indices

    def _map_column(self, name: str) -> np.ndarray:
        path = cache_dir() / "columns" / self.fingerprint / f"{name}.npy"
        if not path.exists():
            self._unpack_column(name, path)
        # A plain view: numpy's memmap class makes every access twice as slow.
        return np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)

    def _unpack_column(self, name: str, path: Path) -> None:
        """Stream the column from its parquet files into one .npy file, which appears only when whole."""
        parts = self.read_column(name)
        dtype, shape = self.features[name]["dtype"], tuple(self.features[name]["shape"])
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as temporary:
            np.lib.format.write_array_header_1_0(temporary, {
                "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
                "fortran_order": False,
                "shape": (self.num_frames, *(shape if shape != (1,) else ())),
            })
            for part in parts:
                temporary.write(part.tobytes())
        os.replace(temporary.name, path)

    def _check_files(self) -> None:
        for file in self._data_files:
            rows = read_parquet(file.path).metadata.num_rows
            if rows < file.stop - file.start:
                raise DatasetError(file.path, "", f"has {rows} rows, {file.stop - file.start} are due", RESTORE)
        for clips in self._clips.values():
            for number, path in enumerate(clips.paths):
                reader, due = VideoReader(path, self.fps), clips.frames_due(number)
                if 0 < reader.num_frames < due:
                    raise DatasetError(path, "", f"has {reader.num_frames} frames, {due} are due", RESTORE)
                reader.close()

    def _read_video(self, key: str, indices: np.ndarray, images: np.ndarray) -> None:
        clips = self._clips[key]
        episode = self.episodes.of(indices)
        number = clips.first[episode] + indices - self.episodes.start[episode]
        for file in np.unique(clips.file[episode]):
            chosen = np.flatnonzero(clips.file[episode] == file)
            reader = self._opened(key, clips.paths[file], lambda path: VideoReader(path, self.fps))
            decoded = reader.read(number[chosen])
            if decoded.shape[1:] != images.shape[1:]:
                raise DatasetError(clips.paths[file], key, f"frames are {decoded.shape[1:3]}, "
                                   f"{INFO} says {images.shape[1:3]}", RESTORE)
            images[chosen] = decoded

    def _read_images(self, key: str, indices: np.ndarray, images: np.ndarray) -> None:
        stops = np.array([file.stop for file in self._data_files])
        for number, file in enumerate(self._data_files):
            chosen = np.flatnonzero(np.searchsorted(stops, indices, side="right") == number)
            if not len(chosen):
                continue
            reader = self._opened(key, file.path, lambda path: _ImageReader(path, key))
            for place in chosen[np.argsort(indices[chosen], kind="stable")]:
                images[place] = reader.read(int(indices[place]) - file.start, images.shape[1:])

    def _opened(self, key: str, path: Path, open_file: Callable[[Path], OpenFile]) -> OpenFile:
        """A camera's reader, kept open. Keyed by process, because a forked one would share the file's position."""
        place = (os.getpid(), key, path)
        if place not in self._open:
            self._open[place] = open_file(path)
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)
        self._open.move_to_end(place)
        return self._open[place]

    def __getstate__(self) -> dict[str, Any]:
        # Maps and open files stay behind; a worker process opens its own.
        return {**self.__dict__, "_columns": {}, "_open": OrderedDict()}


def describe(dataset: EpisodeDataset) -> dict[str, Any]:
    """What the data set holds, as plain JSON values."""
    return {
        "format_version": dataset.info["codebase_version"],
        "fps": dataset.fps,
        "episodes": dataset.num_episodes,
        "frames": dataset.num_frames,
        "tasks": dict(Counter(dataset.episodes.instruction.tolist())),
        "robot_type": dataset.embodiment,
        "cameras": {name: list(size) for name, size in dataset.cameras.items()},
        "state_dim": dataset.state_dim,
        "action_dim": dataset.action_dim,
    }


def read_parquet(path: Path) -> pq.ParquetFile:
    """Open a parquet file; page checksums, where written, are verified on reading.

    Raises:
        DatasetError: it is missing, or its footer is damaged.
    """
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except DAMAGED_PARQUET as error:
        raise DatasetError(path, "", f"not a readable parquet file ({error})", RESTORE) from error


def read_columns(path: Path, names: Sequence[str] | None = None) -> pa.Table:
    """The named columns of a parquet file (all by default).

    Raises:
        DatasetError: the file is missing or damaged, or lacks a column.
    """
    file = read_parquet(path)
    for name in names or ():
        if name not in file.schema_arrow.names:
            raise DatasetError(path, name, "the column is missing", RESTORE)
    try:
        return file.read(columns=names)
    except DAMAGED_PARQUET as error:
        raise DatasetError(path, ", ".join(names or ()), f"can't be read ({error})", RESTORE) from error


OpenFile = TypeVar("OpenFile")


@dataclass(frozen=True)
class _DataFile:
    """A parquet file and the frames whose rows it holds."""

    path: Path
    start: int
    stop: int


@dataclass(frozen=True)
class _Clips:
    """Where one camera's frames of each episode are."""

    paths: list[Path]  # the video files
    file: np.ndarray  # [E] int64: which of them
    first: np.ndarray  # [E] int64: number of the episode's first frame in that file
    length: np.ndarray  # [E] int64

    def frames_due(self, file: int) -> int:
        """Frames the file must have."""
        return int((self.first + self.length)[self.file == file].max())


class _ImageReader:
    """PNGs stored in a parquet column, read a row group at a time."""

    def __init__(self, path: Path, key: str):
        self._path, self._key = path, key
        self._file = read_parquet(path)
        rows = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._stops = np.cumsum(rows)
        self._group, self._images = -1, pa.chunked_array([], pa.binary())

    def read(self, row: int, shape: tuple[int, ...]) -> np.ndarray:
        """The image [H, W, 3] uint8 in `row`."""
        group = int(np.searchsorted(self._stops, row, side="right"))
        try:
            if group != self._group:
                table = self._file.read_row_group(group, columns=[f"{self._key}.bytes"])
                self._images, self._group = table[self._key].combine_chunks(), group
            first = self._stops[group] - len(self._images)
            image = Image.open(io.BytesIO(self._images[row - first]["bytes"].as_py()))
            pixels = np.asarray(image.convert("RGB"))
        except (*DAMAGED_PARQUET, UnidentifiedImageError, TypeError) as error:
            raise DatasetError(self._path, f"{self._key}[{row}]", f"can't be read ({error})", RESTORE) from error
        if pixels.shape != shape:
            raise DatasetError(self._path, f"{self._key}[{row}]", f"is {pixels.shape}, {INFO} says {shape}", RESTORE)
        return pixels


def _read_info(root: Path) -> dict[str, Any]:
    path = root / INFO
    if not path.is_file():
        raise DatasetError(path, "", "is missing", "Give the folder of a LeRobot v3.0 data set: it contains meta/")
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DatasetError(path, "", f"isn't JSON ({error})", RESTORE) from error
    version = info.get("codebase_version") if isinstance(info, dict) else None
    if version != CODEBASE_VERSION:
        raise DatasetError(path, "codebase_version", f"is {version!r}, not {CODEBASE_VERSION!r}", CONVERT)
    for field in ("fps", "features", "total_episodes", "total_frames"):
        if field not in info:
            raise DatasetError(path, field, "is missing", RESTORE)
    if not isinstance(info["fps"], int) or info["fps"] <= 0:
        raise DatasetError(path, "fps", f"is {info['fps']!r}", "Give a positive whole number of frames per second")
    for key in (STATE, ACTION):
        if key not in info["features"]:
            raise DatasetError(path, f"features.{key}", "is missing", "Record state and action: a policy needs both")
    return info


def _read_tasks(root: Path) -> list[str]:
    """Instructions, by task_index."""
    path = root / TASKS
    table = read_columns(path, ["task_index", "task"])
    indices, tasks = table["task_index"].to_pylist(), table["task"].to_pylist()
    if sorted(indices) != list(range(len(indices))):
        raise DatasetError(path, "task_index", "doesn't number the tasks 0, 1, 2, ...", RESTORE)
    return [task for _, task in sorted(zip(indices, tasks, strict=True))]


def _episode_files(root: Path) -> list[Path]:
    return sorted((root / "meta" / "episodes").glob("*/*.parquet"))


def _read_episode_table(root: Path, num_episodes: int, video_keys: list[str]) -> dict[str, np.ndarray]:
    """Columns of the episodes table [E], without their statistics."""
    names = ["episode_index", "tasks", "data/chunk_index", "data/file_index", "dataset_from_index", "dataset_to_index"]
    for key in video_keys:
        names += [f"videos/{key}/{field}" for field in ("chunk_index", "file_index", "from_timestamp")]
    folder = root / "meta" / "episodes"
    paths = _episode_files(root)
    if not paths:
        raise DatasetError(folder, "", "holds no parquet file", RESTORE)
    table = pa.concat_tables([read_columns(path, names) for path in paths])
    # A writer that was killed in mid-commit can leave rows that info.json doesn't count yet.
    table = table.slice(0, num_episodes)
    index = table["episode_index"].to_numpy()
    if not np.array_equal(index, np.arange(num_episodes)):
        raise DatasetError(folder, "episode_index", f"isn't 0 to {num_episodes - 1}, as {INFO} says", RESTORE)
    columns = {name: table[name].to_numpy() for name in names if name != "tasks"}
    distinct: dict[str, str] = {}
    columns["instruction"] = np.array([distinct.setdefault(tasks[0], tasks[0]) if tasks else ""
                                       for tasks in table["tasks"].to_pylist()], dtype=object)
    return columns


def _episodes(root: Path, table: dict[str, np.ndarray], num_frames: int) -> Episodes:
    start, stop = table["dataset_from_index"], table["dataset_to_index"]
    bounds = np.concatenate([[0], stop])
    if not np.array_equal(bounds[:-1], start) or bounds[-1] != num_frames or (stop <= start).any():
        raise DatasetError(root / "meta" / "episodes", "dataset_from_index", "episodes don't tile the "
                           f"{num_frames} frames that {INFO} counts", RESTORE)
    return Episodes(start, stop, table["instruction"])


def _data_files(root: Path, info: dict[str, Any], table: dict[str, np.ndarray], episodes: Episodes) -> list[_DataFile]:
    places, file = _numbered(table["data/chunk_index"], table["data/file_index"])
    files = []
    for number, (chunk_index, file_index) in enumerate(places):
        own = file == number
        path = root / info.get("data_path", DATA).format(chunk_index=chunk_index, file_index=file_index)
        files.append(_DataFile(path, int(episodes.start[own].min()), int(episodes.stop[own].max())))
    return sorted(files, key=lambda data_file: data_file.start)


def _clips(root: Path, info: dict[str, Any], table: dict[str, np.ndarray], key: str, episodes: Episodes) -> _Clips:
    places, file = _numbered(table[f"videos/{key}/chunk_index"], table[f"videos/{key}/file_index"])
    pattern = info.get("video_path") or VIDEO
    paths = [root / pattern.format(video_key=key, chunk_index=chunk, file_index=number) for chunk, number in places]
    first = np.rint(table[f"videos/{key}/from_timestamp"] * info["fps"]).astype(np.int64)
    return _Clips(paths, file, first, episodes.length)


def _numbered(chunk: np.ndarray, file: np.ndarray) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Distinct (chunk, file) pairs in order, and which of them each episode has [E]."""
    places, number = np.unique(np.stack([chunk, file]), axis=1, return_inverse=True)
    return [(int(chunk_index), int(file_index)) for chunk_index, file_index in places.T], number.reshape(-1)


def _read_values(file: _DataFile, name: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """A column's values in one parquet file: [n] or [n, D], checked."""
    table = read_columns(file.path, [name, "index"]).slice(0, file.stop - file.start)
    if not np.array_equal(table["index"].to_numpy(), np.arange(file.start, file.stop)):
        raise DatasetError(file.path, "index", f"doesn't run from {file.start} to {file.stop - 1}", RESTORE)
    column = table[name].combine_chunks()
    while pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        column = column.flatten()
    size = int(np.prod(shape))
    if column.null_count or len(column) != len(table) * size:
        raise DatasetError(file.path, name, f"rows don't have {size} values each, as {INFO} says", RESTORE)
    values = column.to_numpy(zero_copy_only=False).astype(dtype).reshape(len(table), size)
    if not np.isfinite(values).all():
        row, item = np.argwhere(~np.isfinite(values))[0]
        raise DatasetError(file.path, f"{name}[{item}]", f"is {values[row, item]} in frame {file.start + row}",
                           "Remove that episode, or record it again")
    return values.reshape(len(table), *shape) if shape != (1,) else values[:, 0]


def _width(features: dict[str, dict[str, Any]], key: str) -> int:
    return int(np.prod(features[key]["shape"]))


CONVERT = "Convert a v2.1 data set to v3.0 with LeRobot's own `convert_dataset_v21_to_v30.py`"
