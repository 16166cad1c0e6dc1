"""Features of an image depend on the image alone, and keep where things are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.models.pretrained import IMAGENET_MEAN, IMAGENET_STD, EncoderError, load_backbone
from vla.models.vision import Grid, VisionEncoder, to_grid

CASES = [("mobilenet", [2, 5]), ("mobilenet", []), ("vit", [0, -1]), ("vit", []), ("clip", [-1]), ("clip", [])]


def make_encoder(
    folder: str, taps: list[int], image_size: int | None = None, crop: list[float] | None = None
) -> VisionEncoder:
    encoder = VisionEncoder(load_backbone(folder), taps, IMAGENET_MEAN, IMAGENET_STD, image_size, crop)
    encoder.backbone.requires_grad_(False)
    return encoder.eval()


def make_images(count: int, size: tuple[int, int] = (64, 64), seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8))


@settings(max_examples=8, deadline=None)
@given(count=st.integers(1, 40), place=st.integers(0, 39))
def test_features_are_the_same_whatever_the_batch(encoders: dict[str, str], count: int, place: int) -> None:
    encoder = make_encoder(encoders["mobilenet"], [2, 5])
    images = make_images(count)
    place %= count
    assert torch.equal(encoder(images)[place], encoder(images[place : place + 1])[0])


@pytest.mark.parametrize(("kind", "taps"), CASES)
def test_features_have_the_layout_that_was_announced(encoders: dict[str, str], kind: str, taps: list[int]) -> None:
    encoder = make_encoder(encoders[kind], taps)
    grids = encoder.grids(64, 48)
    features = encoder(make_images(3, (64, 48)))
    assert len(grids) == max(1, len(taps))
    assert features.shape == (3, sum(grid.size for grid in grids))
    assert features.dtype == torch.float16 and features.isfinite().all()
    finest = max((grid.height, grid.width) for grid in grids)
    assert to_grid(features.float(), grids).shape == (3, sum(grid.channels for grid in grids), *finest)


@pytest.mark.parametrize(("kind", "taps"), [case for case in CASES if case[1]])
def test_cells_see_their_part_of_the_image(encoders: dict[str, str], kind: str, taps: list[int]) -> None:
    """A spot in the lower right changes the nearest cells most, so rows and columns are where they should be."""
    encoder = make_encoder(encoders[kind], taps)
    image = torch.full((1, 64, 64, 3), 128, dtype=torch.uint8)
    spot = image.clone()
    spot[:, 40:56, 8:24] = 255
    grids = encoder.grids(64, 64)
    plain, spotted = (to_grid(encoder(x).float(), grids) for x in (image, spot))
    change = (spotted - plain).norm(dim=1)[0]
    row, column = divmod(int(change.argmax()), change.shape[1])
    height, width = change.shape
    assert 0.5 <= row / height < 0.95 and column / width < 0.5


def test_an_encoder_that_learns_agrees_with_the_frozen_one(encoders: dict[str, str]) -> None:
    encoder, images = make_encoder(encoders["mobilenet"], [2, 5]), make_images(3)
    frozen = encoder(images)
    encoder.backbone.requires_grad_(True)
    learning = encoder.train()(images)
    assert learning.requires_grad
    torch.testing.assert_close(learning, frozen.float(), rtol=2e-3, atol=2e-3)


def test_models_with_fixed_positions_get_the_size_they_insist_on(encoders: dict[str, str]) -> None:
    assert make_encoder(encoders["vit"], []).grids(64, 48) == [Grid(16, 4, 4)]
    assert make_encoder(encoders["mobilenet"], [2]).grids(64, 48)[0].width == 6
    assert make_encoder(encoders["mobilenet"], [2], image_size=32).grids(64, 48)[0].width == 4


def test_new_weights_give_new_features(encoders: dict[str, str]) -> None:
    encoder, images = make_encoder(encoders["mobilenet"], [2, 5]), make_images(1)
    features, fingerprint = encoder(images), encoder.fingerprint()
    encoder.load_state_dict({name: value * 1.1 for name, value in encoder.state_dict().items()})
    assert not torch.equal(encoder(images), features)
    assert encoder.fingerprint() != fingerprint


def test_fingerprints_tell_what_features_depend_on(encoders: dict[str, str]) -> None:
    prints = [
        make_encoder(encoders["mobilenet"], [2, 5]).fingerprint(),
        make_encoder(encoders["mobilenet"], [2, 4]).fingerprint(),
        make_encoder(encoders["mobilenet"], [2, 5], image_size=32).fingerprint(),
        make_encoder(encoders["mobilenet"], [2, 5], crop=[0, 0, 1, 0.5]).fingerprint(),
        make_encoder(encoders["vit"], [0]).fingerprint(),
    ]
    assert len(set(prints)) == len(prints)
    assert make_encoder(encoders["mobilenet"], [2, 5]).fingerprint() == prints[0]


@pytest.mark.parametrize("image_size", [None, 32])
def test_only_the_part_that_is_asked_for_is_looked_at(encoders: dict[str, str], image_size: int | None) -> None:
    images = make_images(2, (64, 48))
    part = images[:, 16:48, 12:48]
    whole = make_encoder(encoders["mobilenet"], [2, 5], image_size)
    looks = make_encoder(encoders["mobilenet"], [2, 5], image_size, crop=[0.25, 0.25, 0.5, 0.75])
    assert looks.grids(64, 48) == whole.grids(32, 36)
    assert torch.equal(looks(images), whole(part.contiguous()))


@pytest.mark.parametrize("tap", [3, -4, 100])
def test_a_tap_that_is_not_there_is_named(encoders: dict[str, str], tap: int) -> None:
    with pytest.raises(EncoderError, match=rf"model\.vision\.taps.*3 blocks.*not {tap}"):
        make_encoder(encoders["vit"], [0, tap])


def test_embedded_mobilenet_gives_its_grids() -> None:
    encoder = make_encoder("embedded/mobilenet-v2", [4, 11])
    assert encoder.grids(128, 128) == [Grid(32, 16, 16), Grid(96, 8, 8)]
    assert encoder(make_images(1, (128, 128))).shape == (1, 32 * 16 * 16 + 96 * 8 * 8)
