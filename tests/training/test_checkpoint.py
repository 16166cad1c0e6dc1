"""A checkpoint is whole or absent, whatever happens while it is written, and damage never goes unnoticed."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from vla.training import checkpoint
from vla.training.checkpoint import (
    CheckpointError,
    TrainingState,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    replace_folder,
    save_checkpoint,
)

FILES = ["policy/config.json", "training.safetensors", "training.json", "manifest.json"]


def state(step: int) -> TrainingState:
    tensors = {"raw/weight": torch.full((4, 5), float(step)), "average/weight": torch.zeros(4, 5)}
    return TrainingState(step, 1.5 * step, tensors, {"config": {"seed": 0}, "average_step": step})


def save_policy(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "vla"}')


def save(run: Path, step: int, keep: int = 2) -> Path:
    return save_checkpoint(run, state(step), save_policy, keep)


def same(one: TrainingState, other: TrainingState) -> bool:
    tensors = all(torch.equal(value, other.tensors[name]) for name, value in one.tensors.items())
    return tensors and (one.step, one.elapsed, one.settings) == (other.step, other.elapsed, other.settings)


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    assert same(load_checkpoint(save(tmp_path, 500)), state(500))


def test_the_newest_are_kept_in_the_order_of_their_steps(tmp_path: Path) -> None:
    for step in (5, 999_999, 1_000_000):
        save(tmp_path, step)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-999999", "step-1000000"]
    assert latest_checkpoint(tmp_path) == tmp_path / "step-1000000"
    assert {path.name for path in tmp_path.iterdir()} == {"step-999999", "step-1000000"}


def test_a_checkpoint_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    folder = save(tmp_path, 5)
    written = (folder / "manifest.json").stat().st_mtime_ns
    save(tmp_path, 5)
    assert (folder / "manifest.json").stat().st_mtime_ns == written


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(tmp_path: Path, name: str, place: float, bit: int) -> None:
    folder = tmp_path / "step-000005"
    if not folder.exists():
        save(tmp_path, 5)
    path = folder / name
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[int(place * len(whole))] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        # In the manifest, the digest or the name of another file may be what changed.
        with pytest.raises(CheckpointError, match=str(folder if name == "manifest.json" else path)) as raised:
            load_checkpoint(folder)
        assert "delete step-000005 to continue from an earlier checkpoint" in str(raised.value)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path, 5)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(folder)


def half_written(tensors: object, path: Path) -> None:
    path.write_bytes(b"half a file")
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def no_space(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "half").write_text("half a file")
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", ["tensors", "policy", "manifest"])
def test_a_full_disk_costs_nothing_that_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    save(tmp_path, 5)
    if where == "tensors":
        monkeypatch.setattr(checkpoint, "save_file", half_written)
    if where == "manifest":
        monkeypatch.setattr(checkpoint, "_write_manifest", no_space)
    with pytest.raises(CheckpointError, match=r"step-000010.*No space left.*--resume"):
        save_checkpoint(tmp_path, state(10), no_space if where == "policy" else save_policy, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000005"]
    assert same(load_checkpoint(tmp_path / "step-000005"), state(5))
    monkeypatch.undo()
    assert save(tmp_path, 10, keep=1).exists()


def in_child(act: Callable[[], None]) -> int:
    """Exit status of a forked process that does `act`."""
    pid = os.fork()
    if pid == 0:
        try:
            act()
        except CheckpointError:
            os._exit(3)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def test_files_that_may_not_grow_are_a_clear_error(tmp_path: Path) -> None:
    """The operating system itself refuses, in the middle of a file."""
    save(tmp_path, 5)
    # Made before the fork: torch's threads don't live in the child, and filling a large tensor would wait for them.
    large = TrainingState(10, 0.0, {"raw/weight": torch.zeros(500, 500)}, {})

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        save_checkpoint(tmp_path, large, save_policy, keep=1)

    assert os.waitstatus_to_exitcode(in_child(limited)) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["step-000005"]
    assert same(load_checkpoint(tmp_path / "step-000005"), state(5))


@pytest.mark.parametrize("moment", ["_write_manifest", "_sync", "_discard", "save_file"])
def test_a_killed_process_leaves_the_last_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    save(tmp_path, 5, keep=1)

    def killed() -> None:
        monkeypatch.setattr(checkpoint, moment, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        save(tmp_path, 10, keep=1)

    assert os.WIFSIGNALED(in_child(killed))
    latest = latest_checkpoint(tmp_path)
    assert latest is not None and same(load_checkpoint(latest), state(int(latest.name[-2:])))
    save(tmp_path, 15, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000015"]


def test_a_folder_is_replaced_at_once(tmp_path: Path) -> None:
    final = tmp_path / "policy"
    replace_folder(final, lambda folder: (folder / "a").write_text("old"))

    def fails(folder: Path) -> None:
        (folder / "a").write_text("new")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CheckpointError, match=r"policy.*No space"):
        replace_folder(final, fails)
    assert (final / "a").read_text() == "old"
    replace_folder(final, lambda folder: (folder / "b").write_text("new"))
    assert [path.name for path in final.iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_nothing_but_safetensors_and_json(tmp_path: Path) -> None:
    files = [path for path in save(tmp_path, 5).rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert json.loads((tmp_path / "step-000005" / "training.json").read_text())["step"] == 5
