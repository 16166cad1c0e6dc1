"""Films for people to watch, in the one format that browsers and desktop players all decode.

Shapes: F frames, Y X pixels.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import cast

import av
import numpy as np


def encode_film(frames: Sequence[np.ndarray] | np.ndarray, fps: float) -> bytes:
    """An mp4 (H.264, yuv420p) of `frames`, F of uint8 [Y, X, 3]; odd sizes lose a row or a column."""
    height, width = (size - size % 2 for size in frames[0].shape[:2])
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = cast(av.VideoStream, container.add_stream("libx264", rate=round(fps), options={"crf": "22"}))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1  # the same bytes whatever the machine
        for frame in frames:
            even = np.ascontiguousarray(frame[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()
