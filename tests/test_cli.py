"""The command line, called as users call it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vla import cli
from vla.data.video import encode_video
from vla.data.writer import Episode, EpisodeWriter

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "transformers", "datasets", "av", "matplotlib", "pyarrow", "tyro")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "small"
    with EpisodeWriter(root, fps=10, cameras={"top": (16, 24)}, state_dim=2, action_dim=3) as writer:
        for number, instruction in enumerate(["lift it", "lift it", "öffne die Schublade"]):
            frames = np.full((4, 16, 24, 3), 60 * number, np.uint8)
            writer.add_episode(Episode(
                images={"top": encode_video(frames, 10)}, state=np.zeros((4, 2), np.float32),
                action=np.ones((4, 3), np.float32), success=np.array([0, 0, 0, 1], bool), instruction=instruction,
            ))
    return root


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys; from vla.cli import main; sys.exit(main())", *arguments]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, capture_output=True, text=True, env=variables, check=False)


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    program = "import sys; from vla.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert all(name in result.stdout for name in cli.COMMANDS)
    assert not set(result.stderr.split()) & set(HEAVY)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        cli.main([name, "--help"])
    assert exited.value.code == 0
    assert f"vla {name} " in capsys.readouterr().out.split("Examples:")[1]


def test_a_wrong_configuration_is_told_without_waiting_for_torch() -> None:
    program = "import sys, vla.cli; vla.cli.main(['train', '--config', 'no']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "did you mean 'train'?"),
        (["train", "--config", "no.yaml"], "no.yaml: no such configuration file"),
        (["info", "no-such-folder"], "no-such-folder"),
        (["collect", "--out", "unused", "--families", "fly"], "'fly' is unknown"),
        (["infer", "a/b/no-checkpoint", "--prompt", "touch the red disc"], "no such checkpoint"),
        (["infer", "a/b/no-checkpoint", "--prompt", " "], "the prompt is empty"),
    ],
)
def test_errors_are_one_message(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_debug_shows_where_an_error_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no such configuration"):
        cli.main(["--debug", "train", "--config", str(tmp_path / "no.yaml")])
    monkeypatch.setenv("VLA_DEBUG", "1")
    with pytest.raises(ValueError, match="no such configuration"):
        cli.main(["train", "--config", str(tmp_path / "no.yaml")])


def test_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch, dataset: Path) -> None:
    def buggy(dataset: object) -> None:
        np.stack([np.zeros(2), np.zeros(3)])

    monkeypatch.setattr("vla.commands.info.describe", buggy)
    with pytest.raises(ValueError, match="same shape"):
        cli.main(["info", str(dataset)])


def test_an_interruption_is_no_error(
    monkeypatch: pytest.MonkeyPatch, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(dataset: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vla.commands.info.describe", interrupted)
    assert cli.main(["info", str(dataset)]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_info_as_json(dataset: Path) -> None:
    result = run("info", str(dataset), "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {
        "format_version": "v3.0", "fps": 10, "episodes": 3, "frames": 12,
        "tasks": {"lift it": 2, "öffne die Schublade": 1},
        "robot_type": "unknown", "cameras": {"top": [16, 24]}, "state_dim": 2, "action_dim": 3,
    }  # fmt: skip


def test_info_as_a_table(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", str(dataset)]) == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("LeRobot v3.0", "top (16 x 24)", "öffne die Schublade"))


def test_validate_tells_good_from_bad(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", str(dataset), "--decode"]) == 0
    assert cli.main(["validate", str(tmp_path)]) == 1
    assert "meta/info.json" in capsys.readouterr().err


def test_training_shows_its_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("data: {datasets: [data/a]}")
    assert cli.main(["train", "--config", str(path), "--show-config", "--training.steps", "1234"]) == 0
    shown = capsys.readouterr().out
    assert "--training.steps" in shown and "1234" in shown and "Optimizer" in shown


def test_training_gets_configuration_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = pytest.importorskip("vla.training.trainer")
    calls = []
    monkeypatch.setattr(trainer, "train", lambda config, resume: calls.append((config, resume)))
    path = tmp_path / "run.yaml"
    path.write_text("data: {datasets: [data/a]}")
    assert cli.main(["train", "--config", str(path), "--resume", "--training.steps", "9"]) == 0
    [(config, resume)] = calls
    assert config.training.steps == 9 and resume is True


def test_collecting_twice_adds_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["collect", "--out", str(tmp_path / "demos"), "--episodes", "2", "--num-workers", "0", "--image-size=32"]
    assert cli.main(command) == 0
    first = capsys.readouterr().out
    assert cli.main(command) == 0
    assert capsys.readouterr().out == first and first.startswith(f"{tmp_path / 'demos'}: 2 episodes")
