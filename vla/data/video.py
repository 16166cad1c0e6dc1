"""Video files: encoding episodes, joining them without re-encoding, and decoding exact frames.

A frame is addressed by its number in the file, `round(time * fps)`; float times are never compared.

Shapes: N frames, H height, W width.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from vla.data.errors import DatasetError

# Ticks of a frame in files we write; the usual mp4 time base, and LeRobot's.
FRAME_TICKS = 1024
# H.264 with full chroma. Measured on Tabletop at 128x128, crf 18, one core: mean absolute error 0.4 of 255 (2.5 on
# coloured pixels) in 820 bytes a frame, 3,500 frames/s. Halved chroma (yuv420p) has 1.7 (7.5) in as many bytes. AV1 as
# LeRobot sets it was no better than that, at under a third of the speed.
ENCODER, CODEC, PIXEL_FORMAT, PRESET = "libx264", "h264", "yuv444p", "veryfast"
# A search for motion finer than a pixel would take a quarter of the time and save 11 % space; finer chroma costs 2 %.
# Macroblock trees would save 12 % at equal error, but x264 grows them from memory it never set: about one clip in a
# hundred of 32x32 pixels came out with other bytes, depending on what the process had done before.
TUNING = "subme=0:chroma-qp-offset=-1:mbtree=0"
# Keeps random access short; 2 would cost 36 % more space, 8 would save 17 %.
KEYFRAME_INTERVAL = 4
# Reading on costs less than seeking as long as the next wanted frame is nearer than this.
SEEK_DISTANCE = 16
# A position that every frame is too far from.
LOST = -SEEK_DISTANCE - 2


@dataclass(frozen=True)
class EncodedVideo:
    """One episode's clip, encoded, with the exact distribution of the pixels it was made from."""

    data: bytes  # an mp4 file
    shape: tuple[int, int, int]  # N, H, W
    histogram: np.ndarray  # [3, 256] int64: how often a channel took a value, before encoding


def encode_video(frames: np.ndarray, fps: int, crf: int = 18) -> EncodedVideo:
    """Encode `frames` [N, H, W, 3] uint8 on one thread; a smaller `crf` is better. Clips of one size can be joined."""
    _, height, width, _ = frames.shape
    # No B-frames: frames leave the decoder in order and without delay, and clips can be joined packet by packet.
    options = {"g": str(KEYFRAME_INTERVAL), "crf": str(crf), "preset": PRESET, "x264-params": TUNING, "bf": "0"}
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = cast(av.VideoStream, container.add_stream(ENCODER, rate=fps, options=options))
        stream.width, stream.height, stream.pix_fmt = width, height, PIXEL_FORMAT
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return EncodedVideo(file.getvalue(), frames.shape[:3], histogram(frames))


def histogram(frames: np.ndarray) -> np.ndarray:
    """[3, 256] int64: how often each channel of `frames` [..., 3] uint8 takes each value."""
    # Pillow counts bytes at three times numpy's speed.
    pixels = Image.fromarray(frames.reshape(-1, frames.shape[-2], 3))
    return np.array(pixels.histogram(), np.int64).reshape(3, 256)


def join_videos(clips: Sequence[EncodedVideo], path: Path, fps: int) -> None:
    """Write the clips one after another into the mp4 at `path`, copying packets (about 20,000 frames/s)."""
    time_base = Fraction(1, fps * FRAME_TICKS)
    with av.open(str(path), "w", format="mp4") as output:
        target, position = None, 0
        for clip in clips:
            with av.open(io.BytesIO(clip.data), "r") as source:
                stream = source.streams.video[0]
                target = target or output.add_stream_from_template(stream)
                for packet in source.demux(stream):
                    if packet.size == 0:  # the demuxer's end marker
                        continue
                    packet.stream, packet.time_base = target, time_base
                    packet.pts = packet.dts = position * FRAME_TICKS
                    packet.duration = FRAME_TICKS
                    output.mux(packet)
                    position += 1


class VideoReader:
    """Exact frames of one video file.

    Raises:
        DatasetError: from any method, when the file is missing, damaged or too short.
    """

    def __init__(self, path: Path, fps: int):
        self.path, self.fps = path, fps
        try:
            self._container = av.open(str(path), "r")
        except (av.error.FFmpegError, OSError) as error:
            raise DatasetError(path, "", f"not a readable video ({error})", RESTORE) from error
        if not self._container.streams.video:
            raise DatasetError(path, "", "has no video stream", RESTORE)
        self._stream = self._container.streams.video[0]
        self._time_base = self._stream.time_base or Fraction(1, fps)
        self._stream.codec_context.thread_count = 1
        # Kept, because building the conversion anew for each frame halves the speed.
        self._to_rgb = VideoReformatter()
        self._decoded = self._decode()
        self._position = -1  # number of the frame last decoded

    @property
    def num_frames(self) -> int:
        """Frames the file's index announces; 0 if it has none."""
        return self._stream.frames

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """The frames `numbers` [N] (any order, repeats allowed) as [N, H, W, 3] uint8."""
        wanted, inverse = np.unique(np.asarray(numbers, dtype=np.int64), return_inverse=True)
        return np.stack([self._frame(int(number)) for number in wanted])[inverse]

    def close(self) -> None:
        self._container.close()

    def _frame(self, number: int) -> np.ndarray:
        if not self._position < number <= self._position + SEEK_DISTANCE:
            self._seek(number)
        for position, frame in self._decoded:
            self._position = position
            if position == number:
                return self._to_rgb.reformat(frame, format="rgb24").to_ndarray()
            if position > number:
                break
        self._position = LOST
        raise DatasetError(self.path, f"frame {number}", "is missing from the video", RESTORE)

    def _seek(self, number: int) -> None:
        # Half a frame late, so that a time stamp rounded up still lies at or before the target.
        time = (Fraction(number) + Fraction(1, 2)) / self.fps
        try:
            self._container.seek(int(time / self._time_base), stream=self._stream, backward=True)
        except av.error.FFmpegError as error:
            raise DatasetError(self.path, f"frame {number}", f"can't be reached ({error})", RESTORE) from error
        self._decoded, self._position = self._decode(), number - 1

    def _decode(self) -> Iterator[tuple[int, av.VideoFrame]]:
        frames = self._container.decode(self._stream)
        while True:
            try:
                frame = next(frames, None)
            except av.error.FFmpegError as error:
                raise DatasetError(self.path, "", f"is damaged ({error})", RESTORE) from error
            if frame is None:
                return
            yield round((frame.pts or 0) * self._time_base * self.fps), frame


RESTORE = "Restore the file from its source, or remove the episodes that need it"
