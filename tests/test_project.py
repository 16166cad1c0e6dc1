"""The project as a whole: what it declares, what it ships, and that it speaks only of itself."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vla

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Distributions whose module has another name.
MODULES = {"pillow": "PIL", "pyyaml": "yaml", "huggingface-hub": "huggingface_hub"}
# Used without an import of ours: accelerate's tracker writes with it.
INDIRECT = {"tensorboard"}


def tracked_files() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listing.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def declared(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=!~\[; ]", requirement)[0].lower().replace("_", "-") for requirement in requirements}


def imported_modules(folder: Path) -> set[str]:
    modules: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules.add(str(node.module).split(".")[0])
    return modules - set(sys.stdlib_module_names) - {"vla", "__future__"}


def test_what_is_imported_is_declared_and_the_other_way_round() -> None:
    extras = [requirement for group in PROJECT["optional-dependencies"].values() for requirement in group]
    main = {MODULES.get(name, name) for name in declared(PROJECT["dependencies"]) - INDIRECT}
    optional = {MODULES.get(name, name) for name in declared(extras)}
    used = imported_modules(ROOT / "vla") | imported_modules(ROOT / "scripts") | imported_modules(ROOT / "data_scripts")
    assert used - optional <= main, "imported, but not in pyproject.toml"
    assert main <= used, "in pyproject.toml, but not imported"


def test_every_declared_dependency_is_pinned() -> None:
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", pin) for pin in pins), "exact public versions only"
    dev = PROJECT["optional-dependencies"]["dev"]
    assert declared(PROJECT["dependencies"] + dev) <= declared(pins)


def test_the_version_is_that_of_the_package() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", vla.__version__)
    try:
        installed = importlib.metadata.version("vla")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("not installed")
    assert installed == vla.__version__


def test_continuous_integration_runs_the_tests() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111 and "make test" in script.read_text()


@pytest.mark.parametrize("target", ["install", "simulators", "quickstart", "test", "test-fast", "lint", "clean"])
def test_make_knows_its_targets(target: str) -> None:
    dry_run = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert dry_run.returncode == 0, dry_run.stderr


def test_data_and_models_do_not_know_each_other() -> None:
    for ours, theirs in (("data", "vla.models"), ("models", "vla.data")):
        for path in (ROOT / "vla" / ours).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(rf"^\s*(from|import) {re.escape(theirs)}\b", text, re.MULTILINE), path


def test_nothing_names_a_machine() -> None:
    """Absolute paths of somebody's machine, addresses, hosts of registries: they mean nothing to anyone else."""
    patterns = [
        r"(?<![\w./~-])/(?:work|home|root|Users|mnt|workspace|scratch)/\w",
        r"(?<![\w.])(?!127\.0\.0\.1|0\.0\.0\.0)\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?![\w.])",
        r"--(?:extra-)?index-url",
        r"https?://[^\s)\"'>]*(?:simple|:\d{2,5})/",
    ]
    for path in tracked_files():
        if path.suffix in (".gz", ".png", ".mp4", ".gif", ".parquet") or path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for pattern in patterns:
                assert not re.search(pattern, line), f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"


def test_nothing_is_unpickled() -> None:
    """`torch.load` is allowed once: for the verified weight file inside a wheel."""
    for folder in ("vla", "scripts", "data_scripts"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"^\s*(?:import|from) (?:pickle|dill|joblib|cloudpickle)\b", text, re.MULTILINE), path
            loads = re.findall(r"torch\.load\([^)]*\)", text)
            assert all("weights_only=True" in load for load in loads), path
            assert not loads or path.name == "pretrained.py", path
