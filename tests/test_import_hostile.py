"""Checkpoints that lie or are broken: one sentence, exit code 2, nothing written."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints import gpt2_weights, write_checkpoint
from tests.commands import refused
from torusformer import ArtifactError, TorusformerError
from torusformer.models.foreign import import_checkpoint
from torusformer.models.foreign.safetensors_gate import declared_tensors


def test_the_checkpoint_of_these_tests_is_read(tmp_path: Path) -> None:
    assert import_checkpoint(write_checkpoint(tmp_path)).model.config.vocabulary == 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"model_type": "mamba"},
            "model_type is 'mamba', which torusformer cannot read; known: ",
        ),
        ({"model_type": None}, "model_type is missing; give a text"),
        ({"n_embd": "4"}, "n_embd is '4'; give a whole number from 1 up"),
        ({"n_head": 0}, "n_head is 0; give a whole number from 1 up"),
        ({"n_head": 3}, "dim 4 is not a multiple of heads 3"),
        ({"n_layer": 10**18}, "tensor h.1.attn.c_attn.weight is missing; config.json asks for it"),
        ({"n_embd": 10**12}, r"tensor wpe.weight has shape \(6, 4\), config.json asks for"),
        ({"n_positions": 7}, "the two do not belong together"),
        ({"activation_function": "mish"}, "activation_function is 'mish', which torusformer has n"),
        ({"add_cross_attention": True}, "add_cross_attention is True, which torusformer has noth"),
        ({"architectures": ["GPT2ForTokenClassification"]}, "whose head torusformer has not; kno"),
        ({"architectures": "GPT2Model"}, "architectures is 'GPT2Model'; give a list of texts"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}, which"),
        ({"layer_norm_epsilon": 0}, "layer_norm_epsilon is 0; give a number above zero"),
        ({"tie_word_embeddings": False}, "tensor lm_head.weight is missing"),
    ],
    ids=str,
)
def test_a_configuration_that_cannot_be_read(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(TorusformerError, match=words) as caught:
        import_checkpoint(write_checkpoint(tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_tensors_that_do_not_belong_there(tmp_path: Path) -> None:
    weights = gpt2_weights()
    for name, words in (
        ("h.0.attn.rotary.weight", "tensor h.0.attn.rotary.weight is unexpected"),
        ("lm_head.weight", "lm_head.weight is another matrix than the embedding"),
    ):
        changed = {**weights, name: torch.ones(5, 4)}
        with pytest.raises(ArtifactError, match=words):
            import_checkpoint(write_checkpoint(tmp_path, changed))
    for value, words in (
        (torch.full((4,), torch.nan), "ln_f.bias holds NaN or infinity"),
        (torch.ones(4, dtype=torch.int8), "is of dtype I8; only floating point is read"),
    ):
        with pytest.raises(ArtifactError, match=words):
            import_checkpoint(write_checkpoint(tmp_path, {**weights, "ln_f.bias": value}))


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(path: Path, header: object, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


Change = Callable[[dict[str, Any]], object]


def entry(**changes: Any) -> Change:
    return lambda header: {**header, "wpe.weight": {**header["wpe.weight"], **changes}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (entry(shape=[1 << 40, 4]), "bytes, which its shape does not fit"),
        (entry(shape=[-6, -4]), "has a shape that is none"),
        (entry(shape=[6, True]), "has a shape that is none"),
        (entry(data_offsets=[0, 96]), "overlap others or leave a gap"),
        (entry(data_offsets=[9, 3]), "has data_offsets that are none"),
        (entry(dtype="F4"), "is of dtype F4; known are"),
        (entry(more=1), "lacks dtype, shape or data_offsets, or says more"),
        (lambda header: {**header, "x": 3}, "lacks dtype, shape or data_offsets"),
        (lambda header: [header], "its header is no object"),
        (lambda header: {}, "bytes of tensors, not 0"),
        (lambda header: b'{"a": 1, "a": 1}', "a name stands twice in one object"),
        (lambda header: b"[" * 100_000, "nested deeper than"),
        (lambda header: b"\xff\xfe", "is no whole safetensors file"),
    ],
)
def test_a_header_that_lies(change: Change, words: str, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path) / "model.safetensors"
    header, data = header_of(path)
    with_header(path, change(header), data)
    with pytest.raises(ArtifactError, match=words):
        import_checkpoint(tmp_path)


def test_cut_and_flipped_files(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path) / "model.safetensors"
    whole, rng = path.read_bytes(), random.Random(0)
    length = int.from_bytes(whole[:8], "little")
    for size in (0, 7, 8, 8 + length // 2, 8 + length, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ArtifactError, match="is no whole safetensors file"):
            declared_tensors(path)
    path.write_bytes((1 << 62).to_bytes(8, "little") + whole[8:])
    with pytest.raises(ArtifactError, match="its header should take"):
        declared_tensors(path)
    for _ in range(300):  # refused, or a file in which other numbers stand
        changed = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(8 + length)] = rng.randrange(256)
        path.write_bytes(changed)
        try:
            import_checkpoint(tmp_path)
        except TorusformerError as error:
            assert "\n" not in str(error)


def test_shards_stay_in_their_folder(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "model") / "model.safetensors"
    path.rename(tmp_path / "outside.safetensors")
    index = tmp_path / "model" / "model.safetensors.index.json"
    for file, words in (
        ("../outside.safetensors", "which is no file beside it"),
        (["a"], "is no index of shards"),
        ("absent.safetensors", "absent.safetensors is missing"),
    ):
        index.write_text(json.dumps({"weight_map": {"wte.weight": file}}))
        with pytest.raises(ArtifactError, match=words):
            import_checkpoint(tmp_path / "model")


class Bomb:
    """What a pickle would run."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("exploded"),)


def test_pickled_files_are_data_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_checkpoint(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    monkeypatch.chdir(tmp_path)
    huge = torch.zeros(1).expand(1 << 40)  # four bytes that stand for terabytes
    for content in ({"wte.weight": Bomb()}, {"wte.weight": huge}):
        torch.save(content, folder / "pytorch_model.bin")
        said = refused(f"import {folder} --out {tmp_path / 'out'}")
        assert "holds no tensors that can be read safely" in said
    assert not (tmp_path / "exploded").exists()
    assert not (tmp_path / "out").exists()


def test_the_command_names_what_is_missing(tmp_path: Path) -> None:
    out = f"--out {tmp_path / 'out'}"
    assert "config.json is missing; point at the folder" in refused(f"import {tmp_path} {out}")
    folder = write_checkpoint(tmp_path / "model")
    assert "has 6 positions, --tokens asks for 9" in refused(f"import {folder} --tokens 9 {out}")
    assert "pad_token_id is missing; leave out --padding" in refused(
        f"import {folder} --padding {out}"
    )
    assert "--pooling is not yours to choose" in refused(f"import {folder} --pooling mean {out}")
    (folder / "model.safetensors").unlink()
    said = refused(f"import {folder} {out}")
    assert "holds neither model.safetensors nor pytorch_model.bin" in said
    (folder / "config.json").write_text('{"a": NaN}')
    assert "is not readable JSON (NaN is no number of JSON)" in refused(f"import {folder} {out}")
    assert not (tmp_path / "out").exists()
