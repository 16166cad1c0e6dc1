"""What moves the score: variants of one configuration, trained and evaluated alike but for one thing.

    python scripts/ablations.py --config configs/metaworld_mt10.yaml --out runs/ablations

Every variant is an ordinary run in its own folder, so the script goes on where it stopped. `docs/benchmarks.md` shows
what it found.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from vla.cli import main as vla
from vla.config import load_config


@dataclass(frozen=True)
class Variant:
    """What is changed, in the words of the table, and how."""

    name: str
    train: tuple[str, ...] = ()
    """Overrides of the configuration."""
    evaluate: tuple[str, ...] = ()
    """Options of the evaluation."""
    trained_as: str = ""
    """The variant whose policy is evaluated, where training is the same."""


VARIANTS = (
    Variant("as configured"),
    Variant("image 128 pixels, 8 x 8 cells", ("--model.vision.image-size", "128", "--model.vision.merge", "2")),
    Variant("image 192 pixels, 12 x 12 cells", ("--model.vision.merge", "2")),
    Variant("image 256 pixels, 8 x 8 cells", ("--model.vision.image-size", "256", "--model.vision.merge", "4")),
    Variant("192 of 256 pixels, where things happen", ("--model.vision.crop", "0.2", "0.25", "0.75", "0.75")),
    Variant("grid not moved in training", ("--model.vision.jitter", "false")),
    Variant("last two blocks of the encoder learn", ("--model.vision.train", "2")),
    Variant("dropout of 0.1", ("--model.dropout", "0.1")),
    Variant("one tap, early", ("--model.vision.taps", "4")),
    Variant("one tap, late", ("--model.vision.taps", "11")),
    Variant("history of 2", ("--model.history", "2")),
    Variant("execute 4 of 16", evaluate=("--execute", "4"), trained_as="as configured"),
    Variant("execute 16 of 16", evaluate=("--execute", "16"), trained_as="as configured"),
    Variant("chunk of 32, execute 8", ("--model.horizon", "32", "--model.actions-per-token", "8")),
    Variant("chunk of 8, execute 8", ("--model.horizon", "8")),
    Variant("velocity", ("--model.diffusion.prediction", "velocity")),
    Variant("diffusion, epsilon, ddim", ("--model.diffusion.objective", "diffusion", "--model.diffusion.prediction",
                                         "epsilon", "--model.diffusion.sampler", "ddim")),
    Variant("1 denoising step", evaluate=("--denoising-steps", "1"), trained_as="as configured"),
    Variant("20 denoising steps", evaluate=("--denoising-steps", "20"), trained_as="as configured"),
    Variant("no moving average", ("--training.ema", "0")),
    Variant("keyframes count for nothing", ("--model.keyframe-weight", "1e-6")),
    Variant("10 demonstrations a task", ("--data.held-out", "0.8")),
    Variant("25 demonstrations a task", ("--data.held-out", "0.5")),
)  # fmt: skip


@dataclass
class Arguments:
    """Train and evaluate every variant, one after the other."""

    config: Path
    """What is varied."""
    out: Path
    """A folder for the runs."""
    steps: int = 4000
    """Of training, for all variants alike; the learning rate decays over them."""
    episodes: int = 200
    """Of evaluation, with the right prompt."""
    only: list[str] = field(default_factory=list)
    """Variants by name; by default all."""
    results: Path = Path("docs/results/metaworld_ablations.json")
    """What is found is added to this file, which is about one configuration."""


def main() -> int:
    chosen = tyro.cli(Arguments, description=__doc__)
    env = load_config(chosen.config).evaluation.env
    if env is None:
        raise SystemExit(f"{chosen.config}: evaluation.env is not set; name the environment to evaluate in")
    done = _found(chosen.results, chosen.config)
    unknown = set(chosen.only) - {variant.name for variant in VARIANTS}
    if unknown:
        raise SystemExit(f"--only: there is no variant {sorted(unknown)[0]!r}; see VARIANTS in this file")
    runs = chosen.out / f"{chosen.steps}_steps"  # what was trained for longer or shorter is another run
    for variant in VARIANTS:
        if chosen.only and variant.name not in chosen.only:
            continue
        run = runs / _folder(variant.trained_as or variant.name)
        trained = ["train", "--config", str(chosen.config), "--output", str(run), "--training.steps",
                   str(chosen.steps), "--evaluation.env", "null", *variant.train]  # fmt: skip
        result = runs / _folder(variant.name) / "evaluation"
        evaluated = ["evaluate", str(run / "policy"), "--env", env, "--episodes", str(chosen.episodes),
                     "--prompts", "right", "--out", str(result), *variant.evaluate]  # fmt: skip
        if not (run / "policy").is_dir() and vla(trained):
            return 1
        if not (result / "evaluation.json").is_file() and vla(evaluated):
            return 1
        success = json.loads((result / "evaluation.json").read_text())["success"]
        done[variant.name] = {"success": success, "steps": chosen.steps, "train": trained, "evaluate": evaluated}
        found = {"env": env, "config": str(chosen.config), "variants": done}
        chosen.results.write_text(json.dumps(found, indent=2) + "\n")
        print(f"{variant.name}: {100 * success['mean']:.0f} %", flush=True)
    return 0


def _found(results: Path, config: Path) -> dict[str, Any]:
    """Variants measured before."""
    if not results.is_file():
        return {}
    found = json.loads(results.read_text())
    if found["config"] != str(config):
        raise SystemExit(f"{results}: is about {found['config']}, not {config}; name another file with --results")
    return found["variants"]


def _folder(name: str) -> str:
    return name.replace(",", "").replace(" ", "_")


if __name__ == "__main__":
    sys.exit(main())
