"""Checkpoints that are complete or absent: written into a temporary folder, hashed, synced, renamed.

    step-000500/
        policy/                averaged weights, ready for `VLAPolicy.from_pretrained`
        training.safetensors   raw weights, averaged weights, optimizer moments
        training.json          step, elapsed time, optimizer settings, the run's configuration
        manifest.json          SHA-256 of every other file

Only safetensors and JSON: nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

MANIFEST, WEIGHTS = "manifest.json", "weights.safetensors"


class CheckpointError(ValueError):
    """A checkpoint that can't be written or read. The message names the folder, what is wrong and the fix."""


@dataclass
class TrainingState:
    """Everything but the policy folder that an exact continuation needs."""

    step: int
    elapsed: float  # seconds of training so far
    tensors: dict[str, Tensor]  # raw and averaged weights, optimizer moments, by name
    settings: dict[str, Any]  # plain data: optimizer groups, gradient scaler, configuration


def save_checkpoint(run: Path, state: TrainingState, save_policy: Callable[[Path], None], keep: int) -> Path:
    """Write `run/step-NNNNNN`, then drop all but the newest `keep`.

    Args:
        save_policy: called with the folder to fill with the policy.

    Raises:
        CheckpointError: the disk is full or not writable. Older checkpoints are untouched, nothing half-written stays.
    """
    final = run / f"step-{state.step:06d}"
    if (final / MANIFEST).is_file():
        return final  # a finished run that was continued

    def fill(folder: Path) -> None:
        save_policy(folder / "policy")
        save_file(state.tensors, folder / "training.safetensors")
        document = {"step": state.step, "elapsed": state.elapsed, "settings": state.settings}
        (folder / "training.json").write_text(json.dumps(document, indent=1))
        _write_manifest(folder)

    replace_folder(final, fill)
    for old in list_checkpoints(run)[:-keep]:
        _discard(old)
    return final


def replace_folder(final: Path, fill: Callable[[Path], None]) -> None:
    """Put a folder that `fill` writes in the place of `final`, at once and only when it is whole.

    Raises:
        CheckpointError: the disk is full or not writable; what was at `final` is still there.
    """
    for leftover in final.parent.glob(".*.partial"):  # of a run that was killed here
        shutil.rmtree(leftover)
    temporary = final.parent / f".{final.name}.partial"
    try:
        temporary.mkdir(parents=True)
        fill(temporary)
        for path in (*temporary.rglob("*"), temporary):
            _sync(path)
    except (OSError, SafetensorError) as error:  # the latter is how safetensors reports a full disk
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"{final}: could not be written: {error}. What was saved before is whole; free some space and continue "
            "with --resume."
        ) from error
    if final.exists():
        _discard(final)
    temporary.rename(final)
    _sync(final.parent)


def save_milestone(run: Path, step: int, weights: dict[str, Tensor]) -> None:
    """Keep `weights` by name for good, in `run/milestones`.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    replace_folder(_milestone(run, step), lambda folder: save_file(weights, folder / WEIGHTS))


def load_milestone(run: Path, step: int) -> dict[str, Tensor]:
    """Raises CheckpointError if the run kept no weights at this step."""
    path = _milestone(run, step) / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; train again with {step} among training.milestones")
    return load_file(path)


def _milestone(run: Path, step: int) -> Path:
    return run / "milestones" / f"step-{step:06d}"


def load_checkpoint(folder: Path) -> TrainingState:
    """Read a checkpoint after checking every byte of it.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    verify_checkpoint(folder)
    document = json.loads((folder / "training.json").read_text())
    return TrainingState(
        step=document["step"],
        elapsed=document["elapsed"],
        tensors=load_file(folder / "training.safetensors"),
        settings=document["settings"],
    )


def list_checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted((path.parent for path in run.glob(f"step-*/{MANIFEST}")), key=lambda path: int(path.name[5:]))


def latest_checkpoint(run: Path) -> Path | None:
    checkpoints = list_checkpoints(run)
    return checkpoints[-1] if checkpoints else None


def verify_checkpoint(folder: Path) -> None:
    """Raises CheckpointError unless every file has the hash that was written down."""
    if not (folder / MANIFEST).is_file():
        raise CheckpointError(f"{folder}: no {MANIFEST}; this is not a training checkpoint")
    for name, digest in _read_manifest(folder / MANIFEST).items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path}: missing; delete {folder.name} to continue from an earlier checkpoint")
        if _sha256(path) != digest:
            raise CheckpointError(f"{path}: damaged; delete {folder.name} to continue from an earlier checkpoint")


def _read_manifest(path: Path) -> dict[str, str]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:  # not UTF-8 or not JSON
        raise CheckpointError(
            f"{path}: damaged; delete {path.parent.name} to continue from an earlier checkpoint"
        ) from error


def _write_manifest(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {str(path.relative_to(folder)): _sha256(path) for path in files}
    (folder / MANIFEST).write_text(json.dumps(digests, indent=1))


def _discard(folder: Path) -> None:
    """Delete a folder that must never be seen half deleted."""
    doomed = folder.with_name(f".{folder.name}.old.partial")
    folder.rename(doomed)
    shutil.rmtree(doomed)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sync(path: Path) -> None:
    """Bytes (or a folder's entries) reach the disk before what depends on them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
