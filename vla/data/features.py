"""Image tokens of a frozen encoder, computed once per frame and kept on disk.

The cache lies apart from the data set, under a name made of what the values depend on: the data set's contents, the
encoder's weights and the preprocessing. It is filled frame by frame as frames are asked for and can be stopped at any
moment.

Shapes: N frames of the data set, F flat features of one camera, Y X pixels.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from vla.data.episodes import EpisodeDataset
from vla.data.errors import DatasetError

Encode = Callable[[np.ndarray], np.ndarray]  # uint8 [n, Y, X, 3] -> float16 [n, F]
CHUNK = 1024  # frames encoded between two marks of progress


class FeatureCache:
    """Features of one data set and one encoder; a memory-mapped float16 array [N, F] for each camera."""

    def __init__(
        self, folder: Path, dataset: EpisodeDataset, encoder_fingerprint: str, sizes: Mapping[str, int]
    ) -> None:
        """`sizes`: F of every camera."""
        self._dataset = dataset
        self._folder = folder / f"{dataset.fingerprint[:16]}-{encoder_fingerprint[:16]}"
        self._folder.mkdir(parents=True, exist_ok=True)
        frames = dataset.num_frames
        self._values = {name: self._map(f"{name}.f16", np.float16, (frames, size)) for name, size in sizes.items()}
        self._done = {name: self._map(f"{name}.done", np.bool_, (frames,)) for name in sizes}

    def fill(
        self, frames: np.ndarray, encode: Encode, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        """Compute what is missing of `frames`, [n] indices; calls `progress(done, total)` along the way."""
        missing = {name: np.unique(frames[~done[frames]]) for name, done in self._done.items()}
        total, finished = sum(map(len, missing.values())), 0
        self._check_room(sum(len(indices) * self._values[camera].shape[1] * 2 for camera, indices in missing.items()))
        chunks = [
            (camera, indices[start : start + CHUNK])
            for camera, indices in missing.items()
            for start in range(0, len(indices), CHUNK)
        ]
        # While one chunk is encoded, the next is decoded.
        with ThreadPoolExecutor(1, thread_name_prefix="decode") as decoder:
            ahead = [decoder.submit(self._dataset.frames, *chunk) for chunk in chunks[:1]]
            for number, (camera, chunk) in enumerate(chunks):
                images = ahead.pop().result()
                following = chunks[number + 1 : number + 2]
                ahead += [decoder.submit(self._dataset.frames, *following_chunk) for following_chunk in following]
                self._values[camera][chunk] = encode(images)
                # Values reach the disk before the mark that they are there.
                self._values[camera].flush()
                self._done[camera][chunk] = True
                finished += len(chunk)
                progress(finished, total)

    def read(self, frames: np.ndarray) -> np.ndarray:
        """Features of all cameras side by side, float16 [n, sum of F], for `frames` [n] that were filled."""
        return np.concatenate([values[frames] for values in self._values.values()], axis=1)

    def _check_room(self, needed: int) -> None:
        """Writing to a memory map of a full disk kills the process, so it is asked for beforehand."""
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise DatasetError(
                self._folder,
                "",
                f"the image features need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free",
                "Free some space, move the cache with VLA_CACHE, or set data.cache_features to false",
            )

    def _map(self, name: str, dtype: type, shape: tuple[int, ...]) -> np.memmap:
        path = self._folder / name
        # A new file is sparse: frames never asked for take no room.
        return np.memmap(path, dtype=dtype, mode="r+" if path.exists() else "w+", shape=shape)
