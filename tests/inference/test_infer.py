"""`vla infer` with the scripted expert in the policy's place."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import get_args, get_type_hints

import av
import numpy as np
import pytest
from PIL import Image

from vla import cli
from vla.commands.infer import Settings
from vla.envs.tabletop import FAMILIES, Expert, Thing, instructions, parse_instruction
from vla.envs.tabletop.outcomes import outcomes_about
from vla.envs.tabletop.stage import TabletopStage
from vla.inference.stage import STAGES, PromptError, make_stage

CAMERAS = {"top": [32, 32]}
THINGS = [Thing("red", "disc"), Thing("blue", "star"), Thing("green", "triangle")]


class ExpertPolicy:
    """Predicts one action, the expert's; knows the simulator's state through the stage."""

    config = SimpleNamespace(cameras=CAMERAS, model=SimpleNamespace(horizon=1, history=1))

    def __init__(self) -> None:
        self.stage: TabletopStage | None = None
        self._experts: dict[str, Expert] = {}

    def act(self, observation: dict, instruction: str, seed: int = 0, guidance: float = 1.0, *,
            embodiment: str | None = None) -> np.ndarray:
        assert embodiment == "tabletop"
        outcome = parse_instruction(instruction)
        assert self.stage is not None and observation["observation.images.top"].shape == (32, 32, 3)
        if outcome is None:
            return np.zeros((1, 3), np.float32)
        expert = self._experts.setdefault(instruction, Expert(outcome, np.random.default_rng(0)))
        return expert.act(self.stage._state)[None]


Infer = Callable[..., int]


@pytest.fixture
def infer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Infer:
    def called(*arguments: str, typed: str = "") -> int:
        policy = ExpertPolicy()

        def staged(name: str, cameras: dict) -> TabletopStage:
            policy.stage = make_stage(name, cameras)  # type: ignore[assignment]
            return policy.stage  # type: ignore[return-value]

        monkeypatch.setattr("vla.commands.infer.load_policy", lambda checkpoint, denoising_steps: policy)
        monkeypatch.setattr("vla.commands.infer.make_stage", staged)
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        return cli.main(["infer", "checkpoint", "--execute", "1", "--out", str(tmp_path / "out"), *arguments])

    return called


def test_every_stage_can_be_asked_for() -> None:
    assert set(get_args(get_type_hints(Settings)["env"])) == set(STAGES)


def test_a_prompt_is_followed_told_and_shown(infer: Infer, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert infer("--prompt", "put the red disc next to the blue star") == 0
    told = capsys.readouterr().out
    assert "the red disc (" in told and "done: the red disc is next to the blue star" in told
    [video] = (tmp_path / "out").glob("*.mp4")
    [strip] = (tmp_path / "out").glob("*.png")
    with av.open(str(video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].pix_fmt == "yuv420p"
    assert len(frames) > 15 and frames[0].shape[1] == 320
    assert Image.open(strip).width > 3 * 320


def test_several_prompts_in_one_scene(infer: Infer, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    typed = "touch the red disc\nmove the red disc to the top right\nscene\n\ntouch the purple cow\n"
    typed += "lift the red disc\nreset\nhelp\nquit\nignored\n"
    assert infer("--prompt", "touch the red disc", "--interactive", typed=typed) == 0
    told = capsys.readouterr().out
    for line in (
        "done: the tip touches the red disc",
        "it was so already: the tip touches the red disc",
        "done: the arm holds the red disc", "the prompt is empty",
        "there is no purple cow here", "done: the red disc is in the top right of the table",
    ):  # fmt: skip
        assert line in told
    assert len(list((tmp_path / "out").glob("*.mp4"))) == 4
    scenes = [line for line in told.splitlines() if line.lstrip("> ").startswith("on the table")]
    assert scenes[0] == scenes[-1].lstrip("> ")


def test_the_end_of_input_ends_the_conversation(infer: Infer) -> None:
    assert infer("--seed", "3") == 0


@pytest.mark.parametrize("prompt", ["touch the purple disc", "put the banana in the centre", "lift the red cube"])
def test_what_is_not_there_is_said(
    infer: Infer, prompt: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert infer("--prompt", prompt) == 2
    error = capsys.readouterr().err
    assert "there is no" in error and "on the table: the" in error
    assert not (tmp_path / "out").exists()


def test_a_thing_of_another_scene_is_not_there(infer: Infer, capsys: pytest.CaptureFixture[str]) -> None:
    stage = TabletopStage(CAMERAS)
    stage.reset(seed=4)
    absent = next(f"{thing}" for thing in THINGS if f"the {thing} (" not in stage.scene())
    assert infer("--seed", "4", "--prompt", f"touch the {absent}") == 2
    assert f"there is no {absent} here" in capsys.readouterr().err


def test_an_unfamiliar_prompt_is_tried(infer: Infer, capsys: pytest.CaptureFixture[str]) -> None:
    assert infer("--prompt", "tidy up", "--max-steps", "3") == 0
    told = capsys.readouterr().out
    assert "not an instruction of the kind" in told and "it moved nothing" in told


@pytest.mark.parametrize("family", FAMILIES)
def test_no_instruction_of_the_grammar_is_refused(family: str) -> None:
    """In a scene made for it, with either set of phrasings."""
    stage = TabletopStage(CAMERAS)
    for outcome in outcomes_about(THINGS, family)[::5]:
        stage.reset(prompt=instructions(outcome)[0])
        assert all(stage.begin(text) for split in ("train", "held_out") for text in instructions(outcome, split))


def test_free_text_about_the_table_is_not_refused() -> None:
    stage = TabletopStage(CAMERAS)
    for text in (
        "clean up the table", "put the disc on the left", "push the star to the upper right corner of the table",
        "move all the things apart", "touch the biggest star", "do a little dance", "move the red one left",
    ):  # fmt: skip
        assert stage.begin(text) is False


@pytest.mark.parametrize("prompt", ["", "  ", "\n"])
def test_an_empty_prompt_is_refused(prompt: str) -> None:
    with pytest.raises(PromptError, match="the prompt is empty: say what to do"):
        TabletopStage(CAMERAS).begin(prompt)


def test_scenes_depend_on_the_seed_alone() -> None:
    first, second = TabletopStage(CAMERAS), TabletopStage(CAMERAS)
    first.reset(seed=12)
    second.reset(seed=12, prompt="touch the red disc")
    assert first.scene() == second.scene()
    assert (first.picture(64) == second.picture(64)).all()


def test_other_cameras_are_refused() -> None:
    with pytest.raises(ValueError, match="one camera, 'top'"):
        make_stage("tabletop", {"wrist": [32, 32]})
    with pytest.raises(ValueError, match="environment 'moon' is unknown"):
        make_stage("moon", CAMERAS)
