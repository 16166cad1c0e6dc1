"""Tiny encoders with random weights, and configurations of tiny runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    CLIPConfig,
    CLIPModel,
    MobileNetV2Config,
    MobileNetV2Model,
    T5Config,
    T5Model,
    ViTConfig,
    ViTModel,
)

from vla.config import Config, ModelConfig, parse_config
from vla.models.embodiment import Embodiment
from vla.models.policy import VLAPolicy

WORDS = """[PAD] [UNK] [CLS] [SEP] [MASK] move push put the a to of and from near next left right above below away
touch red green blue yellow disc square star triangle top bottom edge centre corner table it""".split()  # noqa: SIM905
STATE, IMAGE = "observation.state", "observation.images.top"


def save_encoders(folder: Path) -> dict[str, str]:
    """Folders, as transformers saves them, by name."""
    torch.manual_seed(0)
    text = {"vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 32}
    vision = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32,
              "image_size": 32, "patch_size": 8}
    models = {
        "bert": BertModel(BertConfig(**text, max_position_embeddings=64)),
        "t5": T5Model(T5Config(vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)),
        "mobilenet": MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.35, tf_padding=False)),
        "vit": ViTModel(ViTConfig(**vision)),
        "clip": CLIPModel(CLIPConfig(
            text_config={**text, "max_position_embeddings": 13, "eos_token_id": 3},
            vision_config=vision,
        )),
    }
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    for name, model in models.items():
        _make_lively(model)
        model.save_pretrained(folder / name)
        if name in ("bert", "t5", "clip"):
            BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / name)
    return {name: str(folder / name) for name in models}


def model_config(encoders: dict[str, str], **values: Any) -> ModelConfig:
    """A policy of width 32; `values` are fields of the configuration, nested by double underscores."""
    return ModelConfig.model_validate(_nested(_model_values(encoders), values))


def run_config(data: Path, encoders: dict[str, str], output: Path, **values: Any) -> Config:
    """A run of 6 steps; `values` are fields of the configuration, nested by double underscores."""
    plain: dict[str, Any] = {
        "data": {"datasets": [str(data)]},
        "model": _model_values(encoders),
        "training": {"steps": 6, "batch_size": 8, "warmup": 2, "log_every": 1, "checkpoint_every": 2},
        "output": str(output),
    }
    return parse_config(_nested(plain, values), "test")


def build(model: ModelConfig, size: tuple[int, int] = (64, 64), cameras: tuple[str, ...] = ("top",)) -> VLAPolicy:
    """A policy over 3 state and 2 action components, in evaluation mode."""
    torch.manual_seed(0)
    policy = VLAPolicy.build(
        model, cameras={name: size for name in cameras}, embodiments=[Embodiment("robot", 3, 2, 10)],
        instructions=["move it"],
    )  # fmt: skip
    with torch.no_grad():  # a fresh head answers zero to everything
        for parameter in policy.head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return policy.eval()


def raw_observation(
    seed: int = 0, size: tuple[int, int] = (64, 64), cameras: tuple[str, ...] = ("top",)
) -> dict[str, np.ndarray]:
    """As `VLAPolicy.act` takes it, from a policy of `build`."""
    rng = np.random.default_rng(seed)
    images = {f"observation.images.{name}": rng.integers(0, 256, (*size, 3), dtype=np.uint8) for name in cameras}
    return {STATE: rng.normal(size=3).astype(np.float32), **images}


def _model_values(encoders: dict[str, str]) -> dict[str, Any]:
    return {
        "text": {"name": encoders["bert"], "max_tokens": 16},
        "vision": {"name": encoders["mobilenet"], "taps": [2, 5]},
        "width": 32, "heads": 2, "reader_layers": 1, "head_layers": 1, "horizon": 8,
    }  # fmt: skip


def _nested(plain: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    for key, value in values.items():
        *parents, last = key.split("__")
        section = plain
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    return plain


def _make_lively(model: torch.nn.Module) -> None:
    """Random weights of useful size: transformers initialises so small that inputs hardly matter."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) / parameter[0].numel() ** 0.5)
            elif re.search("bias", name):
                parameter.copy_(0.1 * torch.randn_like(parameter))
