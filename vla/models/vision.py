"""Image tokens from any pretrained vision model: grids, not pooled vectors, because manipulation needs to know where.

Shapes: B batch, Y X pixels, F flat features (all taps of one camera), C channels (all taps), h w finest grid.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from transformers.modeling_utils import PreTrainedModel

from vla.models.pretrained import EncoderError, blocks_of, vision_tower

GROUP = 16  # images that a frozen backbone sees at once
CPU_GROUP = 2  # stay in a processor's cache: twice as fast as 16 at 192 pixels, the same at 128


@dataclass(frozen=True)
class Grid:
    """Layout of one tap for one image size."""

    channels: int
    height: int
    width: int

    @property
    def size(self) -> int:
        return self.channels * self.height * self.width


class VisionEncoder(nn.Module):
    """Wraps a backbone; `encode` gives compact flat features (what the cache stores), `grid` brings them to one grid.

    Features are rounded to float16 whether they come from the cache or not, and a frozen backbone always sees groups
    of as many images: the cache can't change a number.
    """

    mean: Tensor  # [3, 1, 1]
    std: Tensor  # [3, 1, 1]

    def __init__(
        self,
        model: PreTrainedModel,
        taps: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        image_size: int | None,
        crop: Sequence[float] | None = None,
    ) -> None:
        """
        Args:
            model: image model of transformers; of a two-tower model the vision tower is used.
            taps: blocks whose outputs become tokens; none takes the model's last hidden state.
            mean, std: per-channel normalisation of images in [0, 1].
            image_size: resize to this many pixels a side; None takes the size the model insists on, or keeps it.
            crop: top, left, height and width of the part that is looked at, as shares of the picture; None is all.

        Raises:
            EncoderError: the model has no such blocks.
        """
        super().__init__()
        self.backbone = vision_tower(model)
        self.taps = _checked_taps(self.backbone, taps)
        self.image_size = image_size or _demanded_size(self.backbone)
        self.crop = crop
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self._fused: list[PreTrainedModel] = []  # in a list, so that it is neither registered nor saved
        self.register_load_state_dict_post_hook(lambda module, _: module._fused.clear())

    def train(self, mode: bool = True) -> VisionEncoder:
        super().train(mode)
        self.backbone.eval()  # batch statistics of robot data would destroy pretrained ones
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> VisionEncoder:
        self._fused.clear()  # made again from the weights on their new device
        return super()._apply(fn, recurse)

    @property
    def frozen(self) -> bool:
        return not any(parameter.requires_grad for parameter in self.backbone.parameters())

    def forward(self, images: Tensor) -> Tensor:
        """[B, Y, X, 3] uint8 -> [B, F] flat features (float16 values where the backbone is frozen)."""
        if not self.frozen:
            return self._features(self.backbone, images)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            groups = [self._features(self._frozen_backbone(), group) for group in _padded(images, self._group)]
            return torch.cat(groups)[: len(images)].half()

    def train_last_blocks(self, count: int) -> None:
        """Freeze all but the last `count` blocks among those that run: after the deepest tap nothing does."""
        self.backbone.requires_grad_(False)
        running = blocks_of(self.backbone)[: max(self.taps) + 1 if self.taps else None]
        running[-count:].requires_grad_(True)

    def fingerprint(self) -> str:
        """Hex digest of all that features depend on besides the pixels."""
        settings: tuple[Any, ...] = self.taps, self.image_size, self.mean.tolist(), self.std.tolist(), self._group
        if self.crop is not None:  # else what was encoded before there were crops stays valid
            settings = *settings, tuple(self.crop)
        digest = hashlib.sha256(repr(settings).encode())
        for name, value in self.backbone.state_dict().items():
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def grids(self, height: int, width: int) -> list[Grid]:
        """Layout of the taps for an image of `height` x `width` pixels."""
        with torch.no_grad():
            blank = torch.zeros(1, height, width, 3, dtype=torch.uint8, device=self.mean.device)
            return [Grid(*output.shape[1:]) for output in self._outputs(self.backbone, blank)]

    @property
    def _group(self) -> int:
        return CPU_GROUP if self.mean.device.type == "cpu" else GROUP

    def _frozen_backbone(self) -> PreTrainedModel:
        if not self._fused:
            self._fused.append(_fuse(self.backbone))
        return self._fused[0]

    def _features(self, backbone: PreTrainedModel, images: Tensor) -> Tensor:
        return torch.cat([output.flatten(1) for output in self._outputs(backbone, images)], dim=1)

    def _outputs(self, backbone: PreTrainedModel, images: Tensor) -> list[Tensor]:
        """One [B, C, h, w] a tap."""
        if self.crop is not None:
            images = _cropped(images, self.crop)
        pixels = rearrange(images, "b y x c -> b c y x").float() / 255
        if self.image_size is not None:
            pixels = F.interpolate(pixels, (self.image_size, self.image_size), mode="bilinear", antialias=True)
        pixels = ((pixels - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        hidden = _tap(backbone, pixels, self.taps) if self.taps else [backbone(pixel_values=pixels).last_hidden_state]
        return [_as_grid(output, backbone, pixels.shape[-2:]) for output in hidden]


def _cropped(images: Tensor, crop: Sequence[float]) -> Tensor:
    """[B, Y, X, 3] -> the part that `crop` (top, left, height, width) gives, in whole pixels."""
    top, left, height, width = crop
    y, x = images.shape[1:3]
    rows = slice(round(top * y), round((top + height) * y))
    columns = slice(round(left * x), round((left + width) * x))
    return images[:, rows, columns]


def to_grid(features: Tensor, grids: Sequence[Grid]) -> Tensor:
    """Flat features [B, F] -> [B, C, h, w]: every tap resampled to the finest grid, channels concatenated."""
    height, width = max((grid.height, grid.width) for grid in grids)
    parts = features.split([grid.size for grid in grids], dim=1)
    maps = [
        _resample(part.unflatten(1, (grid.channels, grid.height, grid.width)), height, width)
        for part, grid in zip(parts, grids, strict=True)
    ]
    return torch.cat(maps, dim=1)


def _resample(features: Tensor, height: int, width: int) -> Tensor:
    if features.shape[-2:] == (height, width):
        return features
    return F.interpolate(features, (height, width), mode="bilinear")


class _Reached(Exception):
    """Raised by the hook on the deepest tap: nothing after it is needed."""


def _tap(backbone: nn.Module, pixels: Tensor, taps: Sequence[int]) -> list[Tensor]:
    """Outputs of the tapped blocks, in the order of `taps`; blocks after the deepest one are not run."""
    outputs: dict[int, Tensor] = {}

    def keep(index: int, output: Any) -> None:
        outputs[index] = output if isinstance(output, Tensor) else output[0]
        if index == max(taps):
            raise _Reached

    blocks = blocks_of(backbone)
    hooks = [blocks[i].register_forward_hook(lambda _module, _input, output, i=i: keep(i, output)) for i in set(taps)]
    try:
        backbone(pixel_values=pixels)
    except _Reached:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return [outputs[tap] for tap in taps]


def _checked_taps(backbone: nn.Module, taps: Sequence[int]) -> list[int]:
    depth = len(blocks_of(backbone))
    for tap in taps:
        if not -depth <= tap < depth:
            raise EncoderError(
                f"model.vision.taps: {type(backbone).__name__} has {depth} blocks, so a tap is from {-depth} to "
                f"{depth - 1}, not {tap}"
            )
    return [range(depth)[tap] for tap in taps]


def _demanded_size(backbone: PreTrainedModel) -> int | None:
    """Pixels a side where position embeddings fit no other size. Such models of transformers take an option to resample
    them; those that do so by themselves, or have none, don't."""
    insists = "interpolate_pos_encoding" in inspect.signature(backbone.forward).parameters
    return backbone.config.image_size if insists else None


def _as_grid(hidden: Tensor, backbone: PreTrainedModel, pixels: Sequence[int]) -> Tensor:
    """Patch tokens [B, n, C] -> [B, C, h, w]; class and register tokens come first and are dropped."""
    if hidden.ndim == 4:
        return hidden
    patch = backbone.config.patch_size
    height, width = pixels[0] // patch, pixels[1] // patch
    return rearrange(hidden[:, -height * width :], "b (h w) c -> b c h w", h=height)


def _padded(images: Tensor, group: int) -> list[Tensor]:
    """Groups of exactly `group` images, the last one filled up with blank ones."""
    missing = -len(images) % group
    blank = images.new_zeros((missing, *images.shape[1:]))
    return list(torch.cat([images, blank]).split(group))


def _fuse(backbone: PreTrainedModel) -> PreTrainedModel:
    """A copy with every batch norm folded into the convolution before it: the same function at half the time on CPU."""
    fused = copy.deepcopy(backbone).eval()
    for module in list(fused.modules()):
        children = list(module.named_children())
        for (name, first), (norm_name, second) in pairwise(children):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(first, second))
                setattr(module, norm_name, nn.Identity())
    return fused.to(memory_format=torch.channels_last)
