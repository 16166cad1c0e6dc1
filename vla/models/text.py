"""Instruction tokens from any pretrained text model: every token, not a pooled vector, so that attention can pick words.

Shapes: B batch, L tokens, E encoder channels.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase


class TextEncoder(nn.Module):
    """Wraps a backbone and its tokenizer; a frozen backbone encodes each distinct instruction once."""

    def __init__(self, backbone: nn.Module, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
        super().__init__()
        self.backbone: nn.Module = getattr(backbone, "text_model", backbone)
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self._known: dict[str, Tensor] = {}  # instruction -> [l, E]

    def train(self, mode: bool = True) -> TextEncoder:
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    @property
    def frozen(self) -> bool:
        return not any(parameter.requires_grad for parameter in self.backbone.parameters())

    @property
    def channels(self) -> int:
        return self.backbone.config.hidden_size  # type: ignore[union-attr,return-value]

    def forward(self, instructions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokens [B, L, E] float32 and mask [B, L] bool (True where there is a token)."""
        if not self.frozen:
            return self._encode(instructions)
        for instruction in dict.fromkeys(instructions):
            if instruction not in self._known:
                # One at a time: a token must not depend, in the last bit, on what else was encoded with it.
                with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
                    self._known[instruction] = self._encode([instruction])[0][0]
        rows = [self._known[instruction] for instruction in instructions]
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows], device=tokens.device)
        return tokens, torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]

    @property
    def _device(self) -> torch.device:
        return next(self.backbone.parameters()).device

    def _encode(self, instructions: Sequence[str]) -> tuple[Tensor, Tensor]:
        tokens = self.tokenizer(list(instructions), padding=True, return_tensors="pt")
        if tokens["input_ids"].shape[1] > self.max_tokens:
            longest = max(instructions, key=len)
            warnings.warn(f"instruction cut after {self.max_tokens} tokens: {longest!r}", stacklevel=4)
            tokens = self.tokenizer(
                list(instructions), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
            )
        tokens = tokens.to(self._device)
        hidden = self.backbone(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
        return hidden, tokens["attention_mask"].bool()
