"""The layout of a LeRobot v3.0 data set: file names, column names, and how values are described and stored.

Shapes: T frames of an episode, D values of a column, H height, W width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from vla.data.video import CODEC, KEYFRAME_INTERVAL, PIXEL_FORMAT

CODEBASE_VERSION = "v3.0"
INFO = "meta/info.json"
TASKS = "meta/tasks.parquet"
STATS = "meta/stats.json"
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
CAMERA_PREFIX = "observation.images."
STATE, ACTION, ENVIRONMENT_STATE = "observation.state", "action", "observation.environment_state"
SUCCESS, REWARD = "next.success", "next.reward"
# What LeRobot adds to every data set.
COUNTERS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


def image_keys(features: dict[str, dict[str, Any]]) -> list[str]:
    """The features that are camera images."""
    return [key for key, feature in features.items() if feature["dtype"] in ("video", "image")]


def things_of(names: Sequence[str], ignored: Sequence[str] = ()) -> list[list[list[int]]]:
    """The things that numbers named `thing.quantity` are of: for every sort, which has the same quantities, and each
    thing of it, where its numbers are. One without a dot in its name is a thing of its own.

    Raises:
        ValueError: there is no thing of an `ignored` name, or none is left.
    """
    numbers: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        numbers.setdefault(name.rpartition(".")[0] or name, []).append(number)
    for name in ignored:
        if name not in numbers:
            raise ValueError(f"there is no {name!r}, only {', '.join(numbers)}")
        del numbers[name]
    if not numbers:
        raise ValueError("nothing else is there to tell of")
    things: dict[str, list[list[int]]] = {}
    for own in numbers.values():
        things.setdefault(" ".join(names[number].rpartition(".")[2] for number in own), []).append(own)
    return list(things.values())


def make_features(
    vectors: dict[str, tuple[int, Sequence[str] | None]],
    cameras: dict[str, tuple[int, int]],
    video_info: dict[str, Any] | None,
) -> dict[str, dict[str, Any]]:
    """The features as info.json lists them.

    Args:
        vectors: column -> (width, names; by default numbered).
        cameras: name -> (H, W).
        video_info: what `make_video_info` says; None for PNGs.

    Raises:
        ValueError: not one name a dimension.
    """
    features: dict[str, dict[str, Any]] = {}
    for key, (size, names) in vectors.items():
        names = list(names) if names is not None else [f"{key.rsplit('.')[-1]}_{number}" for number in range(size)]
        if len(names) != size:
            raise ValueError(f"{key} has {size} dimensions but {len(names)} names: {names}")
        features[key] = {"dtype": "float32", "shape": [size], "names": names}
    for camera, (height, width) in cameras.items():
        feature = {"shape": [height, width, 3], "names": ["height", "width", "channels"]}
        if video_info is None:
            features[CAMERA_PREFIX + camera] = {"dtype": "image", **feature}
        else:
            info = {"video.height": height, "video.width": width, **video_info}
            features[CAMERA_PREFIX + camera] = {"dtype": "video", **feature, "info": info}
    features[SUCCESS] = {"dtype": "bool", "shape": [1], "names": None}
    features[REWARD] = {"dtype": "float32", "shape": [1], "names": None}
    return features | {key: {"dtype": dtype, "shape": [1], "names": None} for key, dtype in COUNTERS.items()}


def make_video_info(fps: int, crf: int) -> dict[str, Any]:
    """How the videos are encoded, as info.json says it."""
    return {
        "video.codec": CODEC,
        "video.pix_fmt": PIXEL_FORMAT,
        "video.fps": fps,
        "video.channels": 3,
        "has_audio": False,
        "video.g": KEYFRAME_INTERVAL,
        "video.crf": crf,
        "is_depth_map": False,
    }


def arrow_type(feature: dict[str, Any]) -> pa.DataType:
    """How a feature is stored in the data files."""
    if feature["dtype"] == "image":
        return pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    value = pa.from_numpy_dtype(np.dtype(feature["dtype"]))
    # LeRobot stores vectors of one number as plain numbers.
    return value if tuple(feature["shape"]) == (1,) else pa.list_(value, feature["shape"][0])


def arrow_array(values: np.ndarray) -> pa.Array:
    """A column [T] or [T, D] as it is stored."""
    if values.ndim == 1 or values.shape[1] == 1:
        return pa.array(values.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def hub_features(features: dict[str, dict[str, Any]]) -> dict[str, Any]:
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


def task_table(tasks: list[str]) -> pa.Table:
    """Rows in task_index order and `task` as pandas index, because LeRobot looks tasks up by row of a pandas table."""
    kinds = {"task_index": ("int64", "int64"), "task": ("unicode", "object")}
    columns = [{"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_kind, "metadata": None}
               for name, (kind, numpy_kind) in kinds.items()]
    header = {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object",
              "metadata": {"encoding": "UTF-8"}}
    pandas = {"index_columns": ["task"], "column_indexes": [header], "columns": columns, "pandas_version": "2.0.0"}
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})
