"""Instruction tokens from any pretrained text model: every token, no pooled vector, so that attention can pick words.

Shapes: B batch, L tokens, E encoder channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from vla.models.pretrained import blocks_of, text_tower

GROUP = 16  # instructions encoded at once
BUCKET = 8  # padded lengths are multiples of this


class TextEncoder(nn.Module):
    """Wraps a backbone and its tokenizer; a frozen backbone encodes each distinct instruction once."""

    tokenizer: PreTrainedTokenizerBase  # assigned by whoever builds or loads: it is files, not weights

    def __init__(self, model: PreTrainedModel, max_tokens: int) -> None:
        super().__init__()
        self.backbone = text_tower(model)
        self.max_tokens = max_tokens
        self._known: dict[str, Tensor] = {}  # instruction -> [l, E]

    def train(self, mode: bool = True) -> TextEncoder:
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TextEncoder:
        self._known.clear()  # tokens belong to the device and the type that the weights had
        return super()._apply(fn, recurse)

    def train_last_blocks(self, count: int) -> None:
        """Freeze all but the last `count` blocks."""
        self.backbone.requires_grad_(False)
        blocks_of(self.backbone)[-count:].requires_grad_(True)

    @property
    def frozen(self) -> bool:
        return not any(parameter.requires_grad for parameter in self.backbone.parameters())

    @property
    def channels(self) -> int:
        return self.backbone.config.hidden_size

    def forward(self, instructions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokens [B, L, E] float32 and mask [B, L] bool (True where there is a token)."""
        if not self.frozen:
            return self._encode(instructions)
        self.remember(instructions)
        rows = [self._known[instruction] for instruction in instructions]
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows], device=tokens.device)
        return tokens, torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]

    def remember(self, instructions: Iterable[str]) -> None:
        """Encode what isn't known yet, so that later calls are look-ups. Only for a frozen backbone."""
        new = [instruction for instruction in dict.fromkeys(instructions) if instruction not in self._known]
        by_length: dict[int, list[str]] = {}
        for instruction in new:
            length = -(-len(self.tokenizer(instruction)["input_ids"]) // BUCKET) * BUCKET
            by_length.setdefault(min(length, self.max_tokens), []).append(instruction)
        for length, members in by_length.items():
            for start in range(0, len(members), GROUP):
                self._remember_group(members[start : start + GROUP], length)

    def _remember_group(self, instructions: list[str], length: int) -> None:
        # Batches of one shape: a token must not depend, in its last bit, on what else happens to be encoded with it.
        filled = instructions + [""] * (GROUP - len(instructions))
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            hidden, mask = self._encode(filled, length)
        for instruction, tokens, present in zip(instructions, hidden, mask, strict=False):
            self._known[instruction] = tokens[present].clone()

    @property
    def _device(self) -> torch.device:
        return next(self.backbone.parameters()).device

    def _encode(self, instructions: Sequence[str], length: int | None = None) -> tuple[Tensor, Tensor]:
        """Hidden states [B, L, E] and mask [B, L], padded to `length` or to the longest."""
        tokens = self.tokenizer(
            list(instructions), padding="max_length" if length else True, truncation=True,
            max_length=length or self.max_tokens, return_attention_mask=True, return_tensors="pt",
        ).to(self._device)
        hidden = self.backbone(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
        return hidden, tokens["attention_mask"].bool()
