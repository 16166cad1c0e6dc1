"""Pictures and videos of a policy at work, for people: captions under the frames, formats that every player opens.

Shapes: N frames, Y X pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vla.film import encode_film

INK, PAPER = (30, 30, 34), (255, 255, 255)
# Pixels between the pictures of a strip, and around text.
GAP = 8
# Seconds that the last frame stays.
LAST_FRAME = 1.5


def save_video(frames: Sequence[np.ndarray], path: Path, fps: int, caption: str) -> None:
    """Write `frames` (N of uint8 [Y, X, 3]) as H.264 with the caption below; the last one stays for a moment."""
    pictures = [_captioned(frame, [caption]) for frame in frames]
    pictures += [pictures[-1]] * round(LAST_FRAME * fps)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_film(pictures, fps))


def save_strip(frames: Sequence[np.ndarray], path: Path, captions: Sequence[str], count: int = 6) -> None:
    """Write a PNG of at most `count` of `frames` (N of uint8 [Y, X, 3]) side by side, first and last among them."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, count).round().astype(int))
    height = frames[0].shape[0]
    gap = np.full((height, GAP, 3), PAPER, np.uint8)
    columns = [column for index in chosen for column in (frames[index], gap)][:-1]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_captioned(np.concatenate(columns, axis=1), captions)).save(path)


def _captioned(frame: np.ndarray, captions: Sequence[str]) -> np.ndarray:
    """`frame` [Y, X, 3] with lines of text below, shrunk to its width where they must be."""
    fonts = [_fitting_font(caption, frame.shape[1] - 2 * GAP) for caption in captions]
    line = 26
    picture = Image.new("RGB", (frame.shape[1], frame.shape[0] + line * len(captions) + GAP), PAPER)
    picture.paste(Image.fromarray(frame))
    draw = ImageDraw.Draw(picture)
    for number, (caption, font) in enumerate(zip(captions, fonts, strict=True)):
        draw.text((GAP, frame.shape[0] + GAP // 2 + line * number), caption, fill=INK, font=font)
    return np.asarray(picture)


def _fitting_font(text: str, width: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    size = 18
    while size > 8 and ImageFont.load_default(size).getlength(text) > width:
        size -= 1
    return ImageFont.load_default(size)
