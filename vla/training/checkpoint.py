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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

MANIFEST = "manifest.json"


class CheckpointError(ValueError):
    """A checkpoint that can't be written or read. The message names the folder, what is wrong and the fix."""


@dataclass
class TrainingState:
    """Everything but the policy folder that an exact continuation needs."""

    step: int
    elapsed: float  # seconds of training so far
    tensors: dict[str, Tensor]  # raw and averaged weights, optimizer moments, by name
    settings: dict[str, Any]  # plain data: optimizer groups, gradient scaler, configuration


def save_checkpoint(run: Path, state: TrainingState, save_policy: Any, keep: int) -> Path:
    """Write `run/step-NNNNNN`, then drop all but the newest `keep`.

    Args:
        save_policy: called with the folder to fill with the policy.

    Raises:
        CheckpointError: the disk is full or not writable. Older checkpoints are untouched, nothing half-written stays.
    """
    final = run / f"step-{state.step:06d}"
    temporary = run / f".writing-{state.step:06d}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        save_policy(temporary / "policy")
        save_file(state.tensors, temporary / "training.safetensors")
        document = {"step": state.step, "elapsed": state.elapsed, "settings": state.settings}
        (temporary / "training.json").write_text(json.dumps(document, indent=1))
        _write_manifest(temporary)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        kept = latest_checkpoint(run)
        raise CheckpointError(
            f"{final}: could not write the checkpoint: {error}. Free some space and continue with --resume "
            f"({'from ' + kept.name if kept else 'there is no earlier checkpoint'})."
        ) from error
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    _sync(run)
    for old in list_checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return final


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
    return sorted(path.parent for path in run.glob(f"step-*/{MANIFEST}"))


def latest_checkpoint(run: Path) -> Path | None:
    checkpoints = list_checkpoints(run)
    return checkpoints[-1] if checkpoints else None


def verify_checkpoint(folder: Path) -> None:
    """Raises CheckpointError unless every file has the hash that was written down."""
    if not (folder / MANIFEST).is_file():
        raise CheckpointError(f"{folder}: no {MANIFEST}; this is not a training checkpoint")
    for name, digest in json.loads((folder / MANIFEST).read_text()).items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path}: missing; delete {folder.name} to continue from an earlier checkpoint")
        if _sha256(path) != digest:
            raise CheckpointError(f"{path}: damaged; delete {folder.name} to continue from an earlier checkpoint")


def _write_manifest(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {str(path.relative_to(folder)): _sha256(path) for path in files}
    (folder / MANIFEST).write_text(json.dumps(digests, indent=1))
    for path in (*files, folder / MANIFEST, folder):
        _sync(path)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sync(path: Path) -> None:
    """Bytes (or a folder's entries) reach the disk before what depends on them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
