"""Validation finds what opening a data set doesn't, and nothing on sound ones."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vla.data.validate import validate

SCRIPT = Path(__file__).parents[2] / "data_scripts/validate.py"


@pytest.mark.parametrize("name", ["interop_video", "interop_image"])
def test_lerobots_own_data_is_fine(lerobot_written, name):
    assert validate(lerobot_written / name, decode=True) == []


def test_progress_is_told(write):
    told = []
    validate(write(range(2)), True, lambda what, done, total: told.append((what, done, total)))
    assert {what for what, _, _ in told} == {"metadata and columns", "frames of top", "frames of side"}
    assert all(done <= total for _, done, total in told) and told[-1][1] == told[-1][2]


DATA, SEGMENTS = "data/*/*.parquet", "vla/segments.parquet"


def _replace_column(pattern: str, name: str, change: Callable[[list], list]) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        path = next(root.glob(pattern))
        table = pq.read_table(path)
        values = pa.array(change(table[name].to_pylist()), table[name].type)
        pq.write_table(table.set_column(table.schema.names.index(name), name, values), path)

    return spoil


def _spoil_middle_of_video(root: Path) -> None:
    path = next(root.glob("videos/*top/*/*.mp4"))
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    content[start + 600 : start + 900] = bytes(300)
    path.write_bytes(content)


FAULTS = {
    "missing folder": (shutil.rmtree, "info.json"),
    "NaN": (_replace_column(DATA, "action", lambda rows: [[np.nan] * 3, *rows[1:]]), "action"),
    "counter": (_replace_column(DATA, "frame_index", lambda rows: [7, *rows[1:]]), "frame_index"),
    "time": (_replace_column(DATA, "timestamp", lambda rows: [9.0, *rows[1:]]), "timestamp"),
    "task": (_replace_column(DATA, "task_index", lambda rows: [99, *rows[1:]]), "task_index"),
    "task order": (_replace_column("meta/tasks.parquet", "task", lambda rows: rows[::-1]), "tasks"),
    "segment": (_replace_column(SEGMENTS, "stop", lambda rows: [rows[0] + 1, *rows[1:]]), "segments"),
    "no statistics": (lambda root: (root / "meta/stats.json").unlink(), "stats.json"),
    "wrong statistics": (lambda root: (root / "meta/stats.json").write_text(json.dumps({"action": {}})), "action.min"),
    "video content": (_spoil_middle_of_video, "mp4"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(write, fault):
    spoil, named = FAULTS[fault]
    root = write(range(5), episodes_per_file=10)
    assert validate(root, decode=True) == []
    spoil(root)
    assert any(named in str(problem) for problem in validate(root, decode=True))


def test_damage_after_the_columns_were_unpacked_is_found(write, monkeypatch):
    monkeypatch.setattr("vla.data.episodes.FINGERPRINT_BYTES", 0)  # as if the files were too large to be read whole
    root = write(range(3))
    assert validate(root) == []
    FAULTS["NaN"][0](root)
    assert any("action" in str(problem) for problem in validate(root))


def test_script(write):
    root = write(range(2))
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    command = [sys.executable, str(SCRIPT), str(root), "--decode"]
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 0
    (root / "meta/info.json").unlink()
    failed = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert failed.returncode == 1 and "info.json" in failed.stderr and "Traceback" not in failed.stderr
