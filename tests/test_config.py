"""Configurations: what is accepted, and what the errors say."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.config import Config, ConfigError, config_fields, load_config, parse_config

CONFIGS = sorted(Path(__file__).parent.parent.glob("configs/**/*.yaml"))
MINIMAL = "data:\n  datasets: [data/a]\n"


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL)
    return path


def error_of(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_loads(path: Path) -> None:
    assert isinstance(load_config(path), Config)


def test_what_is_written_is_what_is_read(config_file: Path) -> None:
    config = load_config(config_file, ["--training.steps", "7", "--data.weights", "{a: 2}", "--model.text.train", "3"])
    config_file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(config_file) == config


@pytest.mark.parametrize(
    ("line", "key", "hint"),
    [
        ("trainin: {steps: 3}", "trainin", "'training'"),
        ("training: {step: 3}", "training.step", "'steps'"),
        ("model: {vision: {tap: [1]}}", "model.vision.tap", "'taps'"),
        ("model: {zzzz: 1}", "model.zzzz", "valid keys: text, vision"),
    ],
)
def test_an_unknown_key_is_named_with_its_neighbour(config_file: Path, line: str, key: str, hint: str) -> None:
    config_file.write_text(MINIMAL + line)
    message = error_of(config_file)
    assert str(config_file) in message and f"{key}: unknown key" in message and hint in message


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ('training: {steps: "100"}', "training.steps", "'100'"),
        ("training: {steps: 1.5}", "training.steps", "1.5"),
        ("training: {steps: 0}", "training.steps", "0"),
        ("training: {compile: 1}", "training.compile", "1"),
        ("training: {learning_rate: fast}", "training.learning_rate", "'fast'"),
        ("training: {learning_rate: .nan}", "training.learning_rate", "nan"),
        ("model: {vision: {taps: [1, x]}}", "model.vision.taps.1", "'x'"),
        ("model: {vision: {crop: [0.5, 0, 0.6, 1]}}", "model.vision.crop", "[0.5, 0.0, 0.6, 1.0]"),
        ("model: {vision: {crop: [0, 0, 0, 1]}}", "model.vision.crop", "[0.0, 0.0, 0.0, 1.0]"),
        ("model: {text: {train: some}}", "model.text.train", "'some'"),
        ("data: {datasets: data/a}", "data.datasets", "'data/a'"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(config_file: Path, line: str, key: str, value: str) -> None:
    config_file.write_text(line if line.startswith("data") else MINIMAL + line)
    message = error_of(config_file)
    assert f"  {key}: " in message and f"got {value}" in message


def test_every_problem_is_told_at_once(config_file: Path) -> None:
    config_file.write_text(MINIMAL + "training: {steps: x, seeed: 1}\noutputs: a\n")
    message = error_of(config_file)
    assert all(key in message for key in ("training.steps", "training.seeed", "outputs"))


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("training: {steps: 3}", "data: this key is required"),
        ("- 1", "expected a mapping"),
        ("", "expected a mapping"),
        ("data: [", "not valid YAML"),
        (MINIMAL + "output: a\noutput: b\n", "'output' is there twice"),
        (MINIMAL + "model: {width: 100, heads: 7}", "not a multiple of heads"),
        (MINIMAL + "model: {diffusion: {sampler: ddim}}", "doesn't solve objective"),
    ],
)
def test_an_unusable_file_is_explained(config_file: Path, text: str, hint: str) -> None:
    config_file.write_text(text)
    message = error_of(config_file)
    assert str(config_file) in message and hint in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert str(tmp_path / "no.yaml") in error_of(tmp_path / "no.yaml")


def test_numbers_and_words_are_read_as_people_mean_them(config_file: Path) -> None:
    config_file.write_text(MINIMAL + "training: {learning_rate: 1e-3, weight_decay: 0, precision: no, compile: true}")
    training = load_config(config_file).training
    assert training.learning_rate == 1e-3 and training.weight_decay == 0
    assert training.precision == "no" and training.compile is True


@settings(deadline=None)
@given(st.floats(min_value=1e-30, max_value=1e30))
def test_any_way_to_write_a_float_is_a_float(tmp_path_factory: pytest.TempPathFactory, value: float) -> None:
    path = tmp_path_factory.mktemp("config") / "run.yaml"
    for text in (f"{value!r}", f"{value:e}", f"{value:.16E}"):
        path.write_text(MINIMAL + f"training: {{learning_rate: {text}}}")
        assert load_config(path).training.learning_rate == float(text)
        assert load_config(path, ["--training.learning_rate", text]) == load_config(path)


def test_overrides_reach_every_level(config_file: Path) -> None:
    overrides = "--output o --training.learning-rate 2e-4 --model.vision.train 2 --training.compile --data.sources a b"
    config = load_config(config_file, [*overrides.split(), "--data.datasets=x", "--training.time_limit", "null"])
    assert config.output == "o" and config.training.learning_rate == 2e-4 and config.model.vision.train == 2
    assert config.training.compile and config.training.time_limit is None
    assert config.data.sources == ["a", "b"] and config.data.datasets == ["x"]
    assert load_config(config_file).training.compile is False


@pytest.mark.parametrize(
    ("overrides", "hint"),
    [
        (["--training.step", "3"], "training.step: unknown key; did you mean 'steps'?"),
        (["--training.steps", "x"], "training.steps: "),
        (["--training.steps"], "training.steps: "),
        (["extra"], "'extra' belongs to no option"),
        (["--data.weights", "{a: "], "not valid YAML"),
    ],
)
def test_a_wrong_override_is_explained(config_file: Path, overrides: list[str], hint: str) -> None:
    assert hint in error_of(config_file, *overrides)


def test_fields_are_listed_with_values_and_meanings(config_file: Path) -> None:
    fields = {key: (value, meaning) for key, value, meaning in config_fields(load_config(config_file))}
    assert fields["data.datasets"][0] == ["data/a"]
    assert fields["training.clip"] == (1.0, "Largest global gradient norm.")


def test_a_configuration_never_changes() -> None:
    config = parse_config(yaml.safe_load(MINIMAL), "here")
    with pytest.raises(ValueError, match="frozen"):
        config.output = "elsewhere"
