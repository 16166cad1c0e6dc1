"""`scripts/benchmarks.py`: the page says what the evaluations say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts/benchmarks.py"


def evaluation(env: str, mean: float, tiers: dict) -> dict:
    rate = {"mean": mean, "n": 100, "ci95": [mean - 0.05, mean + 0.05]}
    return {
        "success": rate,
        "prompts": {"right": rate},
        "prompt_families": {"right": {"reach": rate}},
        "families": {"reach": rate},
        "tiers": tiers,
        "settings": {"env": env},
        "protocol": {"image_size": 128, "lerobot_instead": {"image_size": 480}},
        "parameters": {"total": 27_000_000, "trainable": 2_100_000},
        "seconds": 600,
    }


def transfer() -> dict:
    """Two tasks, of which sharing helps one, and which pull against each other at first."""
    tasks = {
        name: {
            "naive_share": share, "verdict": verdict,
            "loss": {arm: {"mean": loss} for arm in ("single", "multi_stratified", "multi_naive")},
            "success": {arm: {"mean": mean, "n": 20, "ci95": [0, 1]} for arm, mean in
                        {"single": 0.5, "multi_stratified": success, "multi_naive": 0.6}.items()},
        }
        for name, share, verdict, loss, success in (("push", 0.8, "helps", 0.1, 0.9), ("reach", 0.2, "open", 0.2, 0.6))
    }  # fmt: skip
    conflicts = [{"step": step, "cosine": [[1.0, cosine], [cosine, 1.0]]} for step, cosine in ((5, -0.4), (10, 0.3))]
    return {"tasks": tasks, "conflicts": conflicts, "steps": 10, "observations_per_step": 4,
            "config": {"evaluation": {"env": "metaworld-mt10"}}}  # fmt: skip


def test_seeds_are_averaged_and_the_published_rows_stand_beside(tmp_path: Path) -> None:
    tiers = {name: {"mean": share, "n": 10, "ci95": [0, 1]} for name, share in
             {"easy": 0.9, "medium": 0.8, "hard": 0.7, "very_hard": 0.6, "average": 0.75}.items()}  # fmt: skip
    files: dict[str, dict] = {
        "mt10_s0": evaluation("metaworld-mt10", 0.8, {}),
        "mt10_s1": evaluation("metaworld-mt10", 0.9, {}),
        "mt10_other_s1": evaluation("metaworld-mt10", 0.1, {}),  # trained otherwise: no seed of the same run
        "mt50": evaluation("metaworld-mt50", 0.75, tiers),
        "ablations": {"env": "metaworld-mt10", "variants": {"history of 2": {
            "success": {"mean": 0.5, "n": 200, "ci95": [0.4, 0.6]}, "steps": 4000}}},
        "transfer": transfer(),
    }
    (tmp_path / "docs").mkdir()
    for name, result in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    subprocess.run([sys.executable, str(SCRIPT), *(f"{name}.json" for name in files)], cwd=tmp_path, check=True)
    page = (tmp_path / "docs/benchmarks.md").read_text()
    assert page.count("## metaworld-mt10\n") == 1 and page.count("is the mean of") == 1
    assert "**85.0 %** is the mean of 2 training seeds of mt10 (80 to 90)." in page
    assert "| mt10_s1 | 90 % (85-95) | 100 | 2.1M | 10 |" in page
    assert "| vla | 2.1M trained | **75.0** | 90.0 | 80.0 | 70.0 | 60.0 | mt50, above |" in page
    assert "SmolVLA" in page and "`image_size` 128 instead of 480" in page
    assert "| push | helps | 80 % | 0.100 | 0.100 | 0.100 | 50 % (0-100) | 90 % (0-100) | 60 % (0-100) |" in page
    assert "| **50.0 %** | **75.0 %** | **60.0 %** |" in page and "n = 40 for each mean" in page
    assert "| 5 | -0.40 | 1 of 1 | push and reach (-0.40) |" in page and "| 10 | +0.30 | 0 of 1 |" in page
    assert "| history of 2 | 50 % (40-60) | 200 | 4000 |" in page
