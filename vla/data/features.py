"""Image tokens of a frozen encoder, computed once per frame and kept on disk.

The cache lies apart from the data set, under a name made of what the values depend on: the data set's contents, the
encoder's weights and the preprocessing. It is filled frame by frame as frames are asked for and can be stopped at any
moment.

Shapes: N frames of the data set, F flat features of one camera, Y X pixels.
"""

from __future__ import annotations

import os
import shutil
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vla.data.episodes import EpisodeDataset
from vla.data.errors import DatasetError

Encode = Callable[[np.ndarray], np.ndarray]  # uint8 [n, Y, X, 3] -> float16 [n, F]
CHUNK = 1024  # frames encoded between two marks of progress


class FeatureCache:
    """Features of one data set and one encoder; a file of float16 [N, F] for each camera.

    Rows are read one by one rather than mapped: mapped pages would count as the process's memory, and writing to a map
    of a full disk kills it.
    """

    def __init__(
        self, folder: Path, dataset: EpisodeDataset, encoder_fingerprint: str, sizes: Mapping[str, int]
    ) -> None:
        """`sizes`: F of every camera."""
        self._dataset = dataset
        self._folder = folder / f"{dataset.fingerprint[:16]}-{encoder_fingerprint[:16]}"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._sizes = dict(sizes)
        # New files are sparse: frames never asked for take no room.
        self._values = {
            name: self._file(f"{name}.f16", 2 * dataset.num_frames * size).open("r+b") for name, size in sizes.items()
        }
        self._done = {
            name: np.memmap(self._file(f"{name}.done", dataset.num_frames), np.bool_, "r+") for name in sizes
        }
        weakref.finalize(self, _close, list(self._values.values()))

    def fill(
        self, frames: np.ndarray, encode: Encode, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        """Compute what is missing of `frames`, [n] indices; calls `progress(done, total)` along the way.

        Raises:
            DatasetError: the disk has no room for it.
        """
        missing = {name: np.unique(frames[~done[frames]]) for name, done in self._done.items()}
        total, finished = sum(map(len, missing.values())), 0
        self._check_room(sum(len(indices) * self._sizes[camera] * 2 for camera, indices in missing.items()))
        chunks = [
            (camera, indices[start : start + CHUNK])
            for camera, indices in missing.items()
            for start in range(0, len(indices), CHUNK)
        ]
        with ThreadPoolExecutor(1, thread_name_prefix="decode") as decoder:
            ahead = [decoder.submit(self._dataset.frames, *chunk) for chunk in chunks[:1]]
            for number, (camera, chunk) in enumerate(chunks):
                images = ahead.pop().result()
                ahead += [decoder.submit(self._dataset.frames, *after) for after in chunks[number + 1 : number + 2]]
                self._write(camera, chunk, encode(images))
                finished += len(chunk)
                progress(finished, total)

    def read(self, frames: np.ndarray) -> np.ndarray:
        """Features of all cameras side by side, float16 [n, sum of F], for `frames` [n] that were filled."""
        values = {name: np.empty((len(frames), size), np.float16) for name, size in self._sizes.items()}
        for name, rows in values.items():
            for row, frame in zip(rows, frames, strict=True):
                os.preadv(self._values[name].fileno(), [row.data], int(frame) * row.nbytes)
        return np.concatenate(list(values.values()), axis=1)

    def _write(self, camera: str, frames: np.ndarray, values: np.ndarray) -> None:
        for frame, row in zip(frames, values, strict=True):
            os.pwrite(self._values[camera].fileno(), row.tobytes(), int(frame) * row.nbytes)
        # Values reach the disk before the mark that they are there.
        os.fsync(self._values[camera].fileno())
        self._done[camera][frames] = True

    def _check_room(self, needed: int) -> None:
        """Tell a user now what would otherwise stop the run after minutes of encoding."""
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise DatasetError(
                self._folder,
                "",
                f"the image features need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free",
                "Free some space, move the cache with VLA_CACHE, or set data.cache_features to false",
            )

    def _file(self, name: str, size: int) -> Path:
        path = self._folder / name
        path.touch()
        os.truncate(path, size)
        return path


def _close(files: list[BinaryIO]) -> None:
    for file in files:
        file.close()
