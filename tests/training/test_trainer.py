"""Training in one process: what is learnt, logged, saved, and what stops it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import nn

from vla.batch import Batch
from vla.config import Config, ConfigError, CriticConfig
from vla.data.collect import CollectSettings, collect
from vla.data.episodes import EpisodeDataset
from vla.data.segments import Segments
from vla.models.observe import Goal, ObservationError
from vla.models.policy import VLAPolicy
from vla.models.text import TextEncoder
from vla.training import trainer
from vla.training.checkpoint import CheckpointError, latest_checkpoint, load_checkpoint
from vla.training.metrics import MetricsFile
from vla.training.trainer import Trainer, TrainingError, seed_dropout, train

MakeConfig = Callable[..., Config]


@pytest.fixture
def config(tabletop: Path, encoders: dict[str, str], tmp_path: Path) -> MakeConfig:
    """`config(folder, **values)`: a run of 6 steps with a checkpoint every two."""
    return lambda folder="run", **values: tiny.run_config(tabletop, encoders, tmp_path / folder, **values)


def metrics(config: Config) -> list[dict[str, float]]:
    return [json.loads(line) for line in (Path(config.output) / "metrics.jsonl").read_text().splitlines()]


def losses(config: Config) -> list[float]:
    return [line["loss"] for line in metrics(config)]


def checkpoint_of(config: Config) -> Path:
    latest = latest_checkpoint(Path(config.output) / "checkpoints")
    assert latest is not None
    return latest


def weights(config: Config) -> dict[str, torch.Tensor]:
    """Raw and averaged weights and moments of the last checkpoint."""
    tensors = load_checkpoint(checkpoint_of(config)).tensors
    return {name: value.clone() for name, value in tensors.items()}  # what was loaded is still the file


def assert_same_run(one: Config, other: Config) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
    policies = [load_file(Path(run.output) / "policy" / "model.safetensors") for run in (one, other)]
    for name, value in policies[0].items():
        assert torch.equal(value, policies[1][name]), name


class Stopped(Exception):
    pass


@contextmanager
def stopped_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Training breaks off before step `step`."""
    optimize = Trainer._optimize

    def stop(self: Trainer, batches: list[list[Batch]]) -> Any:
        if self.step == step:
            raise Stopped
        return optimize(self, batches)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Trainer, "_optimize", stop)
        yield


class TestContinuing:
    @pytest.mark.parametrize(
        "values",
        [
            {},
            {"model__dropout": 0.2, "model__history": 2, "training__accumulation": 2},
            {"model__vision__train": 2, "model__text__train": "all"},
            {"training__ema": 0.0, "model__diffusion__objective": "diffusion", "model__diffusion__sampler": "ddim"},
        ],
        ids=["plain", "dropout", "encoders", "without averaging"],
    )
    def test_a_continued_run_is_the_uninterrupted_one(
        self, config: MakeConfig, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]
    ) -> None:
        straight, broken = config("straight", **values), config("broken", **values)
        train(straight)
        for step in (3, 5):
            with stopped_at(step, monkeypatch):
                train(broken, resume=True)
        train(broken, resume=True)
        assert_same_run(straight, broken)
        assert losses(straight) == losses(broken)
        assert [line["step"] for line in metrics(broken)] == [1, 2, 3, 4, 5, 6]

    def test_a_finished_run_may_be_continued(self, config: MakeConfig) -> None:
        run = config()
        train(run)
        before = weights(run)
        shutil.rmtree(Path(run.output) / "policy")
        assert VLAPolicy.from_pretrained(train(run, resume=True))
        assert all(torch.equal(value, before[name]) for name, value in weights(run).items())

    def test_a_run_is_not_overwritten(self, config: MakeConfig) -> None:
        run = config()
        train(run)
        with pytest.raises(CheckpointError, match=r"holds a run already \(at step-000006\).*--resume"):
            train(run)

    def test_changed_settings_are_refused_by_name(self, config: MakeConfig) -> None:
        train(config())
        changed = config(training__learning_rate=5e-4, model__diffusion__noise_samples=3)
        with pytest.raises(CheckpointError) as raised:
            train(changed, resume=True)
        assert "training.learning_rate was 0.001, is 0.0005" in str(raised.value)
        assert "model.diffusion.noise_samples was 2, is 3" in str(raised.value)
        assert "training.steps" not in str(raised.value)

    def test_what_is_not_learnt_from_may_change(self, config: MakeConfig) -> None:
        train(config())
        train(config(training__log_every=3, training__keep_checkpoints=5, data__cache_features=False,
                     evaluation__episodes=7), resume=True)

    def test_changed_data_is_refused(self, config: MakeConfig, tabletop: Path, tmp_path: Path) -> None:
        data = shutil.copytree(tabletop, tmp_path / "data")
        run = config(data__datasets=[str(data)])
        train(run)
        segments = Segments.load(EpisodeDataset(data))
        replace(segments, task=segments.task[::-1]).save(data)
        with pytest.raises(CheckpointError, match=rf"frames or segments of {data} changed since step 6"):
            train(run, resume=True)

    def test_a_damaged_checkpoint_is_named_and_the_one_before_it_serves(self, config: MakeConfig) -> None:
        run = config()
        train(run)
        before = weights(run)
        path = checkpoint_of(run) / "training.safetensors"
        damaged = bytearray(path.read_bytes())
        damaged[-1] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=rf"{path}: damaged; delete step-000006"):
            train(run, resume=True)
        shutil.rmtree(path.parent)
        train(run, resume=True)
        assert all(torch.equal(value, before[name]) for name, value in weights(run).items())


class TestStopping:
    def test_a_loss_that_is_not_finite_leaves_the_weights(
        self, config: MakeConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        optimize, seen = Trainer._optimize, []

        def poisoned(self: Trainer, batches: list[list[Batch]]) -> Any:
            if self.step == 3:
                seen.append((self, {name: p.detach().clone() for name, p in self.policy.named_parameters()}))
                batches[0][0].action[0, 0, 0] = np.nan
            return optimize(self, batches)

        monkeypatch.setattr(Trainer, "_optimize", poisoned)
        with pytest.raises(TrainingError, match=r"step 3: the gradient is not finite.*learning_rate.*vla validate"):
            train(config())
        [(stopped, before)] = seen
        for name, parameter in stopped.policy.named_parameters():
            assert torch.equal(parameter, before[name]), name
        assert checkpoint_of(config()).name == "step-000002"

    @pytest.mark.parametrize(
        ("values", "error", "message"),
        [
            ({"evaluation__every": 2}, ConfigError, r"evaluation\.every is set, but evaluation\.env is not"),
            ({"data__goals": "lasting", "model__critic": {"layers": 1}}, ConfigError, r"goals is lasting, but"),
            ({"training__accumulation": 3}, TrainingError, "multiple of 3"),
            ({"model__vision__merge": 3}, ValueError, r"model\.vision\.merge 3 doesn't divide"),
            pytest.param({"training__precision": "fp16"}, ConfigError, r"fp16, which needs a GPU",
                         marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")),
        ],
    )  # fmt: skip
    def test_settings_that_can_not_be_followed_are_named(
        self, config: MakeConfig, values: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            train(config(**values))

    def test_a_full_disk_ends_training_with_the_checkpoint_before(
        self, config: MakeConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save = trainer.save_checkpoint

        def full(run: Path, state: Any, save_policy: Any, keep: int) -> Path:
            def no_space(folder: Path) -> None:
                save_policy(folder)
                raise OSError(28, "No space left on device")

            return save(run, state, no_space if state.step == 4 else save_policy, keep)

        straight, broken = config("straight"), config("broken")
        train(straight)
        with monkeypatch.context() as patch:
            patch.setattr(trainer, "save_checkpoint", full)
            with pytest.raises(CheckpointError, match=r"step-000004.*No space left on device.*--resume"):
                train(broken)
        assert checkpoint_of(broken).name == "step-000002"
        train(broken, resume=True)
        assert_same_run(straight, broken)


class TestLearning:
    def test_it_learns(self, config: MakeConfig) -> None:
        run = config(training__steps=60, training__log_every=10, training__checkpoint_every=60)
        train(run)
        assert losses(run)[-1] < 0.7 * losses(run)[0]

    def test_a_frozen_encoder_reads_every_instruction_once(
        self, config: MakeConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read: list[str] = []
        encode = TextEncoder._encode

        def listen(self: TextEncoder, instructions: Sequence[str], length: int | None = None) -> Any:
            read.extend(filter(None, instructions))
            return encode(self, instructions, length)

        monkeypatch.setattr(TextEncoder, "_encode", listen)
        train(config())
        assert read and len(read) == len(set(read))

    @pytest.mark.parametrize("parts", [2, 4])
    def test_accumulation_changes_memory_only(self, config: MakeConfig, parts: int) -> None:
        whole, split = config("whole"), config("split", training__accumulation=parts)
        train(whole)
        train(split)
        np.testing.assert_allclose(losses(split), losses(whole), rtol=1e-6)

    def test_losses_are_logged_by_stratum_and_add_up(self, config: MakeConfig, tabletop: Path) -> None:
        run = config()
        train(run)
        families = set(Segments.load(EpisodeDataset(tabletop)).task)
        for line in metrics(run):
            by_stratum = {key.removeprefix("loss/"): value for key, value in line.items() if key.startswith("loss/")}
            assert set(by_stratum) == families
            assert min(by_stratum.values()) <= line["loss"] <= max(by_stratum.values())
            assert line["gradient_norm"] > 0 and line["observations_per_second"] > 0
        rates = [line["learning_rate"] for line in metrics(run)]
        assert rates[0] == 0.0005 and rates[1:] == sorted(rates[1:], reverse=True)
        assert list((Path(run.output) / "tensorboard").glob("events.*"))

    def test_averaged_weights_are_what_is_saved(self, config: MakeConfig) -> None:
        run = config()
        policy = VLAPolicy.from_pretrained(train(run))
        tensors = weights(run)
        averages = {name.removeprefix("average/") for name in tensors if name.startswith("average/")}
        assert averages
        for name, parameter in policy.named_parameters():
            if name in averages:
                assert torch.equal(parameter, tensors[f"average/{name}"]), name
        changed = [name for name in averages if not torch.equal(tensors[f"raw/{name}"], tensors[f"average/{name}"])]
        assert len(changed) > len(averages) / 2
        assert VLAPolicy.from_pretrained(checkpoint_of(run)).config.tasks == policy.config.tasks

    def test_evaluating_on_the_way_is_logged_and_changes_nothing(self, config: MakeConfig) -> None:
        plain = config("plain")
        evaluated = config("evaluated", evaluation__env="tabletop", evaluation__every=4, evaluation__episodes=2,
                           evaluation__families=["touch", "region"], evaluation__num_envs=2)
        train(plain)
        train(evaluated)
        assert_same_run(plain, evaluated)
        [line] = [line for line in metrics(evaluated) if "success" in line]
        assert line["step"] == 4 and {"success/touch", "success/region"} < set(line)

    def test_bf16_trains(self, config: MakeConfig) -> None:
        plain, half = config("plain", training__steps=2), config("half", training__steps=2, training__precision="bf16")
        train(plain)
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)
        policy = VLAPolicy.from_pretrained(train(half))
        np.testing.assert_allclose(losses(half), losses(plain), rtol=0.1)
        assert losses(half) != losses(plain)
        assert all(parameter.dtype == torch.float32 for parameter in policy.parameters())

    @pytest.mark.slow
    def test_compiled_it_learns_the_same_and_saves_the_same_names(
        self, config: MakeConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        values = {"training__steps": 3, "model__vision__jitter": True}
        plain, compiled = config("plain", **values), config("compiled", **values, training__compile=True)
        train(plain)
        compile_module, seen = nn.Module.compile, []

        def quickly(module: nn.Module) -> None:
            """Traces and differentiates as by default, but spares the C++ compiler."""
            seen.append(type(module).__name__)
            compile_module(module, backend="aot_eager")

        monkeypatch.setattr(nn.Module, "compile", quickly)
        policy = VLAPolicy.from_pretrained(train(compiled))
        assert seen == ["ContextReader", "DiffusionHead"]
        np.testing.assert_allclose(losses(compiled), losses(plain), rtol=1e-5)
        assert weights(compiled).keys() == weights(plain).keys()
        assert policy.state_dict().keys() == VLAPolicy.from_pretrained(Path(plain.output)).state_dict().keys()

    def test_dropout_is_a_function_of_seed_step_part_and_process(self) -> None:
        def drawn(*key: int) -> torch.Tensor:
            seed_dropout(*key)
            return torch.rand(4)

        assert torch.equal(drawn(0, 1, 2, 3), drawn(0, 1, 2, 3))
        keys = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
        assert len({tuple(drawn(*key).tolist()) for key in keys}) == len(keys)


class TestStartingPoint:
    def test_weights_architecture_and_units_are_taken_over(self, config: MakeConfig, tmp_path: Path) -> None:
        first = config("first")
        source = train(first)
        second = Config.model_validate({**config("second").model_dump(exclude={"model"}), "init_from": str(source)})
        second = second.model_copy(update={"training": second.training.model_copy(update={"learning_rate": 1e-12})})
        policy, old = VLAPolicy.from_pretrained(train(second)), VLAPolicy.from_pretrained(source)
        assert policy.config.model == old.config.model
        for name, value in old.state_dict().items():
            torch.testing.assert_close(policy.state_dict()[name], value, rtol=0, atol=1e-6)

    def test_another_architecture_is_refused_by_name(self, config: MakeConfig) -> None:
        source = train(config("first"))
        with pytest.raises(ConfigError, match=r"model\.width is 64, there 32\. Leave the section `model` out"):
            train(config("second", init_from=str(source), model__width=64))

    def test_a_critic_may_be_new(self, config: MakeConfig) -> None:
        source = train(config("first"))
        old = VLAPolicy.from_pretrained(source)
        assert old.critic is None
        policy = VLAPolicy.from_pretrained(train(config("second", init_from=str(source), model__critic={"layers": 1})))
        assert policy.critic is not None and policy.config.model.critic == CriticConfig(layers=1)
        with pytest.raises(ConfigError, match=r"model\.critic\.layers is 2, there 1"):
            train(config("third", init_from=str(source.parent.parent / "second"), model__critic={"layers": 2}))

    def test_kinds_of_task_identifiers_may_be_new(self, tmp_path: Path, encoders: dict[str, str]) -> None:
        """What the policy does when told in words stays, and the new kinds learn."""
        data = collect(CollectSettings(out=tmp_path / "data", episodes=4, num_workers=0, image_size=64))
        old = VLAPolicy.from_pretrained(train(tiny.run_config(data.root, encoders, tmp_path / "first")))
        kinds = ["language", "goal_image", "goal_state"]
        config = tiny.run_config(data.root, encoders, tmp_path / "second", init_from=str(tmp_path / "first"),
                                 model__task_kinds=kinds, training__learning_rate=1e-12)  # fmt: skip
        policy = VLAPolicy.from_pretrained(train(config))
        assert policy.config.model.task_kinds == kinds and policy.config.embodiments[0].goal_dim > 0
        at = np.array([0])
        state = data.environment_state(at)[0]
        seen = {"observation.state": data.state(at)[0], "observation.images.top": data.frames("top", at)[0]}
        told = [old.act(seen, "touch it"), policy.act(seen, "touch it")]
        np.testing.assert_allclose(*told, atol=1e-5)
        shown = policy.act({**seen, "observation.environment_state": state}, goal=Goal(state=state + 0.2))
        assert not np.allclose(shown, policy.act(seen), atol=1e-5)
        assert policy.normalize_goal is not None and not torch.equal(policy.normalize_goal[0].scale, torch.ones(59))
        with pytest.raises(ConfigError, match=r"model\.task_kinds is \['language'\], there "):
            train(tiny.run_config(data.root, encoders, tmp_path / "third", init_from=str(tmp_path / "second"),
                                  model__task_kinds=["language"]))  # fmt: skip

    def test_new_kinds_do_not_excuse_another_layout(self, tmp_path: Path, encoders: dict[str, str]) -> None:
        data = collect(CollectSettings(out=tmp_path / "data", episodes=4, num_workers=0, image_size=64))
        policy = train(tiny.run_config(data.root, encoders, tmp_path / "first"))
        learnt = json.loads((policy / "config.json").read_text())
        learnt["robots"][0]["fps"] = 2 * data.fps
        (policy / "config.json").write_text(json.dumps(learnt))
        config = tiny.run_config(data.root, encoders, tmp_path / "second", init_from=str(tmp_path / "first"),
                                 model__task_kinds=["language", "goal_state"])  # fmt: skip
        refusal = f"fps: is {data.fps}, but the policy was trained with {2 * data.fps}"
        with pytest.raises(ObservationError, match=refusal):
            train(config)

    def test_new_data_may_reach_farther(self, config: MakeConfig) -> None:
        source = train(config("first"))
        policy = VLAPolicy.from_pretrained(source)
        policy.normalize_action[0].high.fill_(0.01)
        scale = policy.normalize_action[0].scale.clone()
        policy.save_pretrained(source)
        policy = VLAPolicy.from_pretrained(train(config("second", init_from=str(source))))
        assert (policy.normalize_action[0].high > 0.5).all()
        assert torch.equal(policy.normalize_action[0].scale, scale)


class TestMetricsFile:
    def test_lines_beyond_the_checkpoint_and_torn_ones_are_dropped(self, tmp_path: Path) -> None:
        path = tmp_path / "metrics.jsonl"
        file = MetricsFile(path, 0)
        for step in (1, 2, 3):
            file.append(step, {"loss": step / 10})
        path.write_text(path.read_text() + '{"step": 4, "lo')
        MetricsFile(path, 2).append(3, {"loss": 0.5})
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert lines == [{"step": 1, "loss": 0.1}, {"step": 2, "loss": 0.2}, {"step": 3, "loss": 0.5}]
