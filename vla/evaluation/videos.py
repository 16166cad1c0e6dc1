"""Rollouts as films: single clips for the report, and a grid of many with captions.

Shapes: N states of an episode, F frames, E numbers in the environment state, Y X pixels.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vla.evaluation.rollout import Rollout, Suite

DONE, FAILED = (34, 150, 84), (206, 62, 52)  # RGB
# The result stays to be looked at before the film starts anew.
_FRAMES_AFTER, _FRAMES_HELD = 3, 8
_CAPTION, _INK, _PAPER = 56, (235, 235, 235), (24, 26, 30)


def film(suite: Suite, run: Rollout, size: int = 192) -> np.ndarray:
    """The rollout until shortly after success, drawn from its states: uint8 `[F, size, size, 3]`."""
    last = run.steps + _FRAMES_AFTER if run.success else len(run.states)
    frames = suite.draw(run.states[: last + 1], size)
    return np.concatenate([frames, np.repeat(frames[-1:], _FRAMES_HELD, axis=0)])


def grid(films: Sequence[np.ndarray], runs: Sequence[Rollout], columns: int = 4) -> np.ndarray:
    """The films side by side, each under its instruction and framed by its result: uint8 `[F, Y, X, 3]`.

    Shorter ones wait at their last frame for the longest.
    """
    length = max(map(len, films))
    tiles = [_tile(_stretched(film, length), run) for film, run in zip(films, runs, strict=True)]
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    blank = np.full_like(tiles[0], _PAPER)
    full = [[tile for tile, _ in zip_longest(row, range(min(columns, len(tiles))), fillvalue=blank)] for row in rows]
    return np.concatenate([np.concatenate(row, axis=2) for row in full], axis=1)


def _stretched(frames: np.ndarray, length: int) -> np.ndarray:
    return np.concatenate([frames, np.repeat(frames[-1:], length - len(frames), axis=0)])


def _tile(frames: np.ndarray, run: Rollout) -> np.ndarray:
    width = frames.shape[2]
    caption = np.broadcast_to(_caption(run.case.instruction, width), (len(frames), _CAPTION, width, 3))
    tile = np.concatenate([caption, frames], axis=1)
    finished = np.arange(len(frames)) >= (run.steps if run.success else len(run.states) - 1)
    for edge in (np.s_[:, -4:], np.s_[:, _CAPTION : _CAPTION + 4], np.s_[:, _CAPTION:, :4], np.s_[:, _CAPTION:, -4:]):
        tile[edge][finished] = DONE if run.success else FAILED
    return tile


def _caption(text: str, width: int) -> np.ndarray:
    """uint8 `[_CAPTION, width, 3]`."""
    image = Image.new("RGB", (width, _CAPTION), _PAPER)
    lines = textwrap.wrap(text or "(no instruction)", width // 7)
    ImageDraw.Draw(image).text((6, 4), "\n".join(lines[:3]), _INK, ImageFont.load_default(13))
    return np.asarray(image)
