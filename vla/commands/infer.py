"""Type a prompt, watch the policy follow it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from vla.commands import load_policy, parse
from vla.inference.executor import ChunkExecutor
from vla.inference.recording import save_strip, save_video
from vla.inference.stage import PromptError, Stage, make_stage

PICTURE_SIZE = 320

HELP = """type what the robot should do, or
  scene          what there is
  reset          the scene as it was at first
  reset NUMBER   another scene
  help           this
  quit           leave"""


@dataclass
class Settings:
    """Let a policy follow a typed prompt in a simulator; prints what happened, saves a video and a strip of pictures.

    Without --seed, the first scene that has what the prompt is about; without --prompt, prompts are asked for.

    Examples:
        vla infer runs/tabletop --prompt "put the red disc next to the blue star"
        vla infer runs/tabletop --prompt "touch the green star" --seed 7 --out runs/look
        vla infer runs/tabletop --interactive
        vla infer runs/metaworld_mt10 --env metaworld-mt10 --prompt "Open a drawer"
    """

    checkpoint: Annotated[str, tyro.conf.Positional]
    """Folder that training wrote, or the name of a policy on the hub."""
    env: Literal["tabletop", "ogbench-scene", "metaworld-mt10", "metaworld-mt50"] = "tabletop"
    """Where to act."""
    prompt: str | None = None
    """What to do."""
    interactive: bool = False
    """Ask for prompts, one after another in the same scene; after --prompt if that is given, too."""
    seed: int | None = None
    """Which scene."""
    out: Path = Path("runs/infer")
    """Folder for videos and pictures."""
    execute: int = 8
    """Actions of a chunk that are played before the policy looks again."""
    guidance: float = 1.0
    """Classifier-free guidance scale; 1 is none."""
    denoising_steps: int | None = None
    """Steps from noise to a chunk; by default as the policy was configured. Fewer act sooner."""
    max_steps: int | None = None
    """Actions after which a prompt is given up; by default what is usual there."""


def main(arguments: Sequence[str]) -> int:
    settings = parse(Settings, "infer", arguments)
    if settings.prompt is not None and not settings.prompt.strip():
        raise PromptError('the prompt is empty: say what to do, for example --prompt "touch the green star"')
    policy = load_policy(settings.checkpoint, settings.denoising_steps)
    stage = make_stage(settings.env, policy.config.cameras or {})
    executor = ChunkExecutor(policy, settings.execute, settings.guidance, embodiment=stage.robot.name)
    stage.reset(settings.seed, settings.prompt)
    print(stage.scene())
    if settings.prompt is not None:
        follow(stage, executor, settings.prompt, settings)
    if settings.interactive or settings.prompt is None:
        converse(stage, executor, settings)
    return 0


def follow(stage: Stage, executor: ChunkExecutor, prompt: str, settings: Settings) -> None:
    """Follow one prompt, say what happened, save how it looked.

    Raises:
        PromptError: it can't be followed in this scene.
    """
    if not stage.begin(prompt):
        print("(not an instruction of the kind the policy was trained on; it does what it makes of it)")
    max_steps = stage.max_steps if settings.max_steps is None else settings.max_steps
    frames = _acted(stage, executor, prompt, max_steps)
    verdict = stage.verdict()
    print(verdict)
    path = _next_path(settings.out, prompt)
    save_video(frames, path.with_suffix(".mp4"), stage.robot.fps, prompt)
    save_strip(frames, path.with_suffix(".png"), [prompt, verdict])
    print(f"video {path.with_suffix('.mp4')}, pictures {path.with_suffix('.png')}")


def converse(stage: Stage, executor: ChunkExecutor, settings: Settings) -> None:
    """Prompts from the keyboard until `quit` or the end of input."""
    print(HELP)
    seed, prompt = settings.seed, settings.prompt  # they determine the scene
    for line in _typed_lines():
        word, _, rest = line.partition(" ")
        if line == "help":
            print(HELP)
        elif line == "scene":
            print(stage.scene())
        elif word == "reset" and (not rest or rest.isdecimal()):
            seed = int(rest) if rest else seed
            stage.reset(seed, prompt)
            print(stage.scene())
        else:
            _try_to_follow(stage, executor, line, settings)


def _typed_lines() -> Iterator[str]:
    while True:
        print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line or line.strip() in ("quit", "exit"):
            return
        yield line.strip()


def _try_to_follow(stage: Stage, executor: ChunkExecutor, prompt: str, settings: Settings) -> None:
    try:
        follow(stage, executor, prompt, settings)
    except PromptError as error:
        print(error)


def _acted(stage: Stage, executor: ChunkExecutor, prompt: str, max_steps: int) -> list[np.ndarray]:
    """Pictures from the prompt until it is fulfilled or given up."""
    executor.reset()
    frames = [stage.picture(PICTURE_SIZE)]
    for _ in range(max_steps):
        if stage.done:
            break
        stage.step(executor.act(stage.observe(), prompt))
        frames.append(stage.picture(PICTURE_SIZE))
    return frames


def _next_path(folder: Path, prompt: str) -> Path:
    """A numbered name after the prompt, without suffix; earlier files are kept."""
    taken = [int(path.name[:3]) for path in folder.glob("[0-9][0-9][0-9]-*")]
    name = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "prompt"
    return folder / f"{max(taken, default=0) + 1:03d}-{name}"
