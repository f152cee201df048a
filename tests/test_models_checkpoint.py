from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from torusformer import ArtifactError
from torusformer.models import ModelConfig, Transformer
from torusformer.quantize import QuantConfig, QuantTransformer, to_qat


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Transformer(ModelConfig.from_name("tiny")).save_pretrained(tmp_path / "float")
    return tmp_path / "float"


def test_float_model_survives_a_round_trip(folder: Path) -> None:
    torch.manual_seed(1)
    model = Transformer(ModelConfig.from_name("tiny")).eval()
    model.save_pretrained(folder)
    again = Transformer.from_pretrained(folder)
    x = torch.rand(3, *model.config.input_shape)
    assert again.config == model.config
    assert torch.equal(again(x), model(x))
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_quantized_model_survives_a_round_trip(tmp_path: Path) -> None:
    config = QuantConfig(act_bit_width=2)
    qat = to_qat(Transformer(ModelConfig.from_name("tiny")), config).eval()
    qat.save_pretrained(tmp_path)
    again = QuantTransformer.from_pretrained(tmp_path)
    x = torch.rand(3, *qat.model_config.input_shape) * 16
    assert again.config == config
    assert torch.equal(again(x), qat(x))


def test_missing_folder_or_file(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"config\.json is missing"):
        Transformer.from_pretrained(tmp_path / "nowhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"model\.safetensors is missing"):
        Transformer.from_pretrained(folder)


def test_truncated_files(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for size in (0, 5, len(whole) // 2):
        weights.write_bytes(whole[:size])
        with pytest.raises(ArtifactError, match="truncated or foreign"):
            Transformer.from_pretrained(folder)
    (folder / "config.json").write_text('{"kind": ')
    with pytest.raises(ArtifactError, match="not readable JSON"):
        Transformer.from_pretrained(folder)


def test_foreign_folders(folder: Path) -> None:
    with pytest.raises(ArtifactError, match="quant-transformer"):
        QuantTransformer.from_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text())
    for change, word in (
        ({"version": "0.0.0"}, "0.0.0"),
        ({"model": {**settings["model"], "dim": 12}}, "does not fit"),
        ({"model": {**settings["model"], "heads": 3}}, "heads"),
        ({"model": {**settings["model"], "depth": 3}}, "depth"),
    ):
        (folder / "config.json").write_text(json.dumps({**settings, **change}))
        with pytest.raises(ArtifactError, match=word):
            Transformer.from_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ArtifactError, match="no torusformer checkpoint"):
        Transformer.from_pretrained(folder)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(ArtifactError, match="is a file"):
        Transformer(ModelConfig.from_name("tiny")).save_pretrained(tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"
