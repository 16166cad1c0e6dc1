"""Image tokens of a frozen encoder, computed once per frame and kept on disk.

The cache lies apart from the data set, under a name made of what the values depend on: the data set's contents, the encoder's
weights and the preprocessing. It is filled frame by frame as frames are asked for and can be stopped at any moment.

Shapes: N frames of the data set, F flat features of one camera, Y X pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from vla.data.episodes import EpisodeDataset

Encode = Callable[[np.ndarray], np.ndarray]  # uint8 [n, Y, X, 3] -> float16 [n, F]
CHUNK = 256  # frames encoded between two marks of progress


class FeatureCache:
    """Features of one data set and one encoder; a memory-mapped float16 array [N, F] for each camera."""

    def __init__(self, folder: Path, dataset: EpisodeDataset, encoder_fingerprint: str, sizes: Mapping[str, int]) -> None:
        """`sizes`: F of every camera."""
        self._dataset = dataset
        self._folder = folder / f"{dataset.fingerprint[:16]}-{encoder_fingerprint[:16]}"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._values = {name: self._map(f"{name}.f16", np.float16, (dataset.num_frames, size)) for name, size in sizes.items()}
        self._done = {name: self._map(f"{name}.done", np.bool_, (dataset.num_frames,)) for name in sizes}

    def fill(self, frames: np.ndarray, encode: Encode, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Compute what is missing of `frames`, [n] indices; calls `progress(done, total)` along the way."""
        missing = {name: np.unique(frames[~done[frames]]) for name, done in self._done.items()}
        total, finished = sum(map(len, missing.values())), 0
        for camera, indices in missing.items():
            for start in range(0, len(indices), CHUNK):
                chunk = indices[start : start + CHUNK]
                self._values[camera][chunk] = encode(self._dataset.frames(camera, chunk))
                # Values reach the disk before the mark that they are there.
                self._values[camera].flush()
                self._done[camera][chunk] = True
                finished += len(chunk)
                progress(finished, total)

    def read(self, frames: np.ndarray) -> np.ndarray:
        """Features of all cameras side by side, float16 [n, sum of F], for `frames` [n] that were filled."""
        return np.concatenate([values[frames] for values in self._values.values()], axis=1)

    def _map(self, name: str, dtype: type, shape: tuple[int, ...]) -> np.memmap:
        path = self._folder / name
        # A new file is sparse: frames never asked for take no room.
        return np.memmap(path, dtype=dtype, mode="r+" if path.exists() else "w+", shape=shape)
