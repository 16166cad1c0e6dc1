"""Training as users start it: killed, continued, and spread over processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import yaml
from robots import ROBOTS, write_robot
from safetensors.torch import load_file

from vla.training.checkpoint import latest_checkpoint, load_checkpoint

ROOT = Path(__file__).parents[2]
STEPS = 40
VALUES = {"training__steps": STEPS, "training__checkpoint_every": 3, "model__dropout": 0.1,
          "model__vision__jitter": True}


def write_config(path: Path, tabletop: Path, encoders: dict[str, str], output: Path, **values: object) -> Path:
    config = tiny.run_config(tabletop, encoders, output, **{**VALUES, **values})
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return path


def start(config: Path, *launcher: str, resume: bool = False) -> subprocess.Popen[str]:
    command = [*(launcher or (sys.executable,)), str(ROOT / "scripts" / "train.py"), "--config", str(config)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command + ["--resume"] * resume, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output


def logged(run: Path) -> list[dict[str, float]]:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


@pytest.mark.slow
def test_a_killed_run_continues_bit_for_bit(tabletop: Path, encoders: dict[str, str], tmp_path: Path) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    finish(start(write_config(tmp_path / "straight.yaml", tabletop, encoders, straight)))

    config = write_config(tmp_path / "broken.yaml", tabletop, encoders, broken)
    rng = np.random.default_rng()
    kill_at = int(rng.integers(4, STEPS - 5))
    process = start(config)
    while process.poll() is None and (not logged(broken) or logged(broken)[-1]["step"] < kill_at):
        time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.1))  # also in the middle of a step or of a checkpoint
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert latest_checkpoint(broken / "checkpoints") is not None
    finish(start(config, resume=True))

    checkpoints = [latest_checkpoint(run / "checkpoints") for run in (straight, broken)]
    ours, theirs = (load_checkpoint(path).tensors for path in checkpoints if path is not None)
    for name, value in ours.items():
        assert torch.equal(theirs[name], value), (name, kill_at)
    policies = [load_file(run / "policy" / "model.safetensors") for run in (straight, broken)]
    for name, value in policies[0].items():
        assert torch.equal(policies[1][name], value), (name, kill_at)
    assert [line["loss"] for line in logged(straight)] == [line["loss"] for line in logged(broken)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"model__vision__train": "all", "training__accumulation": 2},
        # Of eight observations one is of the crane: one of the processes has none.
        {"data__stratify_by": "embodiment", "data__weights": {"arm": 7.0, "crane": 1.0}},
    ],
    ids=["cached features", "learning encoder", "two robots"],
)
def test_two_processes_learn_what_one_does(
    tabletop: Path, encoders: dict[str, str], tmp_path: Path, values: dict[str, Any]
) -> None:
    """The same global batch: losses equal to 1e-6. Dropout is drawn by each process for itself, so there is none."""
    values = {"model__dropout": 0.0, "training__steps": 12, **values}
    if "data__stratify_by" in values:
        values["data__datasets"] = [str(write_robot(tmp_path / robot, robot)) for robot in ROBOTS]
    runs = []
    for processes in (1, 2):
        run = tmp_path / str(processes)
        config = write_config(tmp_path / f"{processes}.yaml", tabletop, encoders, run, **values)
        # Under --cpu accelerate starts one process however many are asked for; `train` itself sees whether there is a
        # GPU.
        several = ["--multi_gpu"] if processes > 1 else ["--cpu"]
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes), *several,
                  "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        finish(start(config, *launch))
        runs.append(logged(run))
        latest = latest_checkpoint(run / "checkpoints")
        assert latest is not None and load_checkpoint(latest).settings["processes"] == processes
    assert [line["step"] for line in runs[0]] == list(range(1, 13))
    for one, two in zip(*runs, strict=True):
        for key in one:
            if key.startswith("loss"):
                assert two[key] == pytest.approx(one[key], rel=1e-6), (one["step"], key)
