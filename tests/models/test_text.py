"""Tokens of an instruction depend on the instruction alone, to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import WORDS

from vla.models.pretrained import load_backbone, load_tokenizer
from vla.models.text import TextEncoder

KINDS = ["bert", "clip", "t5"]
words = st.lists(st.sampled_from([word for word in WORDS if word.islower()]), max_size=20).map(" ".join)


def make_encoder(folder: str, max_tokens: int = 16, frozen: bool = True) -> TextEncoder:
    encoder = TextEncoder(load_backbone(folder), max_tokens)
    encoder.tokenizer = load_tokenizer(folder)
    encoder.backbone.requires_grad_(not frozen)
    return encoder.train()


@pytest.fixture(scope="module")
def bert(encoders: dict[str, str]) -> TextEncoder:
    return make_encoder(encoders["bert"])


@settings(max_examples=25, deadline=None)
@given(instruction=words, others=st.lists(words, max_size=40))
def test_tokens_are_the_same_whatever_they_are_encoded_with(
    bert: TextEncoder, instruction: str, others: list[str]
) -> None:
    bert._known.clear()
    alone, alone_mask = bert([instruction])
    bert._known.clear()
    together, mask = bert([*others, instruction])
    assert torch.equal(together[-1][mask[-1]], alone[0][alone_mask[0]])


def test_an_instruction_is_encoded_once(bert: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    plain = bert._encode
    monkeypatch.setattr(bert, "_encode", lambda texts, length: encoded.extend(texts) or plain(texts, length))
    bert._known.clear()
    for _ in range(3):
        bert(["touch the red disc", "touch the red disc", "move it"])
    assert sorted(text for text in encoded if text) == ["move it", "touch the red disc"]


@pytest.mark.parametrize("kind", KINDS)
def test_masks_tell_tokens_from_padding(encoders: dict[str, str], kind: str) -> None:
    encoder = make_encoder(encoders[kind], max_tokens=13)
    tokens, mask = encoder(["", "touch", "touch the red disc"])
    assert mask.sum(dim=1).tolist() == [2, 3, 6]
    assert tokens.shape == (3, 6, encoder.channels)


@pytest.mark.parametrize("kind", KINDS)
def test_long_instructions_are_cut(encoders: dict[str, str], kind: str) -> None:
    """13 positions are all that the tiny CLIP has, so that rounding up to a multiple would be an error."""
    encoder = make_encoder(encoders[kind], max_tokens=13)
    _, mask = encoder(["touch " * 100, "move " * 11])
    assert mask.shape[1] == 13


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_that_learns_agrees_with_the_frozen_one(encoders: dict[str, str], kind: str) -> None:
    instructions = ["touch the red disc", "move it"]
    (frozen, mask), (learning, other_mask) = (
        make_encoder(encoders[kind], 13, frozen=frozen).eval()(instructions) for frozen in (True, False)
    )
    assert torch.equal(mask, other_mask)
    torch.testing.assert_close(learning[mask], frozen[mask])
    assert learning.requires_grad and not frozen.requires_grad


def test_embedded_minilm_tells_instructions_apart(tmp_path: Path) -> None:
    encoder = make_encoder("embedded/minilm", 32)
    tokens, mask = encoder(["put the red disc next to the blue star", "put the blue star next to the red disc"])
    assert tokens.shape == (2, 11, 384) and mask.all()
    assert (tokens[0] - tokens[1]).abs().max() > 0.1
