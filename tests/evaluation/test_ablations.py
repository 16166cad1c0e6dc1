"""`scripts/ablations.py`: variants are runs of their own, and a second call adds to what the first one found."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vla.config import load_config

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/metaworld_mt10.yaml"
OPTIONS = ["--config", str(CONFIG), "--out", "runs"]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("ablations", ROOT / "scripts/ablations.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "ablations", module)  # data classes look their module up
    spec.loader.exec_module(module)
    (tmp_path / "docs/results").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return module


def test_every_variant_is_a_valid_configuration(script: Any) -> None:
    for variant in script.VARIANTS:
        load_config(CONFIG, variant.train)


def test_what_is_done_is_not_done_again(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def stand_in(arguments: list[str]) -> int:
        """For hours of training: leaves what training and evaluation leave."""
        called.append(arguments[0])
        if arguments[0] == "train":
            Path(arguments[arguments.index("--output") + 1], "policy").mkdir(parents=True)
        else:
            out = Path(arguments[arguments.index("--out") + 1])
            out.mkdir(parents=True)
            out.joinpath("evaluation.json").write_text(json.dumps({"success": {"mean": 0.5}}))
        return 0

    monkeypatch.setattr(script, "vla", stand_in)
    for only in ("as configured", "history of 2", "execute 4 of 16", "1 denoising step"):
        monkeypatch.setattr("sys.argv", ["ablations.py", *OPTIONS, "--only", only])
        assert script.main() == 0
    # How a policy acts needs no policy of its own.
    assert called == ["train", "evaluate", "train", "evaluate", "evaluate", "evaluate"]
    results = Path("docs/results/metaworld_ablations.json")
    found = json.loads(results.read_text())["variants"]
    assert list(found) == ["as configured", "history of 2", "execute 4 of 16", "1 denoising step"]
    assert "128" not in found["history of 2"]["train"] and "--model.history" in found["history of 2"]["train"]


def test_results_of_another_configuration_are_not_added_to(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    results = Path("docs/results/metaworld_ablations.json")
    before = json.dumps({"env": "metaworld-mt10", "config": "other.yaml", "variants": {"as configured": {}}})
    results.write_text(before)
    monkeypatch.setattr("sys.argv", ["ablations.py", *OPTIONS])
    with pytest.raises(SystemExit, match=r"about other\.yaml.*--results"):
        script.main()
    assert results.read_text() == before
