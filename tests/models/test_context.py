"""The grid of image cells: what moves with it, and what stays."""

from __future__ import annotations

import pytest
import tiny
import torch

from vla.models.context import ImageTokens
from vla.models.policy import VLAPolicy


@pytest.fixture(scope="module")
def policy(encoders: dict[str, str]) -> VLAPolicy:
    """With 8 x 8 cells of the encoder that are merged to 4 x 4."""
    return tiny.build(tiny.model_config(encoders, vision__taps=[2, 3], vision__merge=2))


@pytest.fixture(scope="module")
def images(policy: VLAPolicy) -> ImageTokens:
    return policy.reader.images


def features_of(images: ImageTokens, cells: torch.Tensor) -> dict[str, torch.Tensor]:
    """Cells of the encoder [C, h, w] of a single tap layout as one frame's flat features."""
    parts = cells.split([grid.channels for grid in images.grids["top"]])
    return {"top": torch.cat([part.flatten() for part in parts])[None, None]}


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (0, -1), (-1, 1)])
def test_a_moved_grid_sees_what_a_moved_picture_shows(images: ImageTokens, shift: tuple[int, int]) -> None:
    [height, width] = {(grid.height, grid.width) for grid in images.grids["top"]}.pop()
    cells = torch.randn(sum(grid.channels for grid in images.grids["top"]), height, width)
    moved = cells.roll((-shift[0], -shift[1]), dims=(1, 2))
    seen = images.contents(features_of(images, cells), torch.tensor(shift))
    shown = images.contents(features_of(images, moved))
    inside = [n for n in range(16) if 0 < n // 4 < 3 and 0 < n % 4 < 3]  # the edges have no neighbours to show
    torch.testing.assert_close(seen[0, 0, inside], shown[0, 0, inside])


def test_cells_know_where_they_were_moved_to(images: ImageTokens) -> None:
    """The state that a cell stands for moves on by half the way to its neighbour, for half a cell."""
    own = images.state[0]
    with torch.no_grad():
        own.camera("top").weight[:, :2] = torch.tensor([[0.0, 2.0], [-3.0, 0.5], [1.0, 1.0]])
        own.camera("top").weight[:, 2:] = 0
    contents, valid = torch.zeros(1, 1, 16, 32), torch.ones(1, 1, dtype=torch.bool)
    still, shifted = (images.where(shift) for shift in (None, torch.tensor([1, -1])))
    grid, moved = (
        images(contents, images.places(where), where, valid, None, 0).states.unflatten(0, (4, 4))
        for where in (still, shifted)
    )
    down, right = grid[1, 0] - grid[0, 0], grid[0, 1] - grid[0, 0]
    torch.testing.assert_close(moved, grid + (down - right) / 2)
    assert not torch.equal(images.places(still), images.places(shifted))
