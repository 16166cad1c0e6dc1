"""What a policy would have seen in recorded frames, for those who judge recordings instead of learning from them.

Shapes: n frames, T history, S state, Y X pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vla.batch import Observation, TaskIdentifier
from vla.data.episodes import EpisodeDataset


def recorded_observation(
    dataset: EpisodeDataset, frames: np.ndarray, instructions: Sequence[str], history: int
) -> Observation:
    """`frames` [n] of the data set and those before, T = `history` each, told the `instructions` (n).

    Before an episode's first frame that frame is repeated and marked as not there.
    """
    first = dataset.episodes.start[dataset.episodes.of(frames)]
    past = frames[:, None] - np.arange(history)[::-1]  # [n, T]
    seen = np.maximum(past, first[:, None])
    return Observation(
        state=torch.from_numpy(dataset.state(seen.ravel()).reshape(*seen.shape, -1)),
        task=TaskIdentifier(list(instructions)),
        images={
            camera: torch.from_numpy(dataset.frames(camera, seen.ravel()).reshape(*seen.shape, *size, 3))
            for camera, size in dataset.cameras.items()
        },
        history_valid=torch.from_numpy(past >= first[:, None]) if history > 1 else None,
        embodiment=dataset.embodiment,
    )
