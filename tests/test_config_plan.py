"""A configuration alone is planned as the model that is built of it: counts, widths, seconds."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from time import process_time
from typing import Any

import pytest

from tests.checkpoints import CONFIG, write_checkpoint
from tests.commands import printed, refused, say
from tests.spread import spread
from tests.twins import float_model, program_of
from torusformer import ArtifactError, InputError
from torusformer.fhe_compile.prices.cost import load_prices
from torusformer.fhe_compile.tfhe.plan import plan
from torusformer.fhe_compile.tfhe.plan_rows import PlanRow
from torusformer.models import ModelConfig
from torusformer.models.foreign import import_checkpoint
from torusformer.models.foreign.shapes import Shape, read_shape, shipped_configs
from torusformer.pipelines import skeleton_products
from torusformer.pipelines.config_bits import PlannedBits
from torusformer.pipelines.config_plan import plan_config, quant_settings
from torusformer.quantize import QuantConfig, to_qat

PRICES = load_prices()
# What depends on the weights, not on the shape: they only make it cheaper.
OF_WEIGHTS = ("narrow_clips", "remove_dead_channels", "refresh_shared", "refresh_outputs",
              "refresh_sums", "split_outputs")  # fmt: skip
SMALL: dict[str, Any] = {"dim": 24, "layers": 2, "heads": 3, "mlp_dim": 20, "tokens": 3}
GPT2 = {**SMALL, "vocabulary": 200, "causal": True, "tied": True, "activation": "gelu_tanh"}
LLAMA = {
    **SMALL, "heads": 4, "kv_heads": 2, "vocabulary": 200, "causal": True, "gated": True,
    "activation": "silu", "norm": "rms", "positions": "rotary",
}  # fmt: skip
BERT = {**SMALL, "vocabulary": 200, "post_norm": True, "embed_norm": True}
CLASSES = {**BERT, "num_classes": 3, "pooling": "first", "pooler": "tanh"}
VIT = {**SMALL, "layers": 1, "features": 12, "num_classes": 3, "pooling": "first"}


def shape_of(model: ModelConfig) -> Shape:
    return Shape("small", "gpt2", "hidden", model, 0, ())


def counted(rows: Iterable[PlanRow]) -> dict[str, Counter[int]]:
    """Bootstraps by layer, and by the bits that they read: one, of a rounding."""
    found: dict[str, Counter[int]] = {}
    for row in rows:
        found.setdefault(row.layer, Counter())[1 if row.op == "round" else row.bits] += row.pbs
    return found


def compared(settings: dict[str, Any], bits: PlannedBits, seed: int, share: float) -> float:
    """Every layer has as many bootstraps; at most that share of them reads fewer bits.

    Fewer where a code does not occur or a table happens to fold: of weights that nobody trained.
    What comes back are the planned seconds over those with every pass.
    """
    model = ModelConfig.from_dict(settings)
    quant = QuantConfig.from_dict(quant_settings(model, bits))
    program = program_of(spread(to_qat(float_model(model, seed), quant).eval()))
    real = plan(program, PRICES, without=OF_WEIGHTS)
    planned = plan_config(shape_of(model), bits, PRICES)
    assert planned.pbs_by_layer == real.pbs_by_layer
    ours, theirs = counted(planned.rows), counted(real.rows)
    narrower = 0
    for layer, widths in ours.items():
        less, more = (sorted(count.elements()) for count in (theirs[layer], widths))
        assert all(a <= b for a, b in zip(less, more, strict=True)), layer
        narrower += sum(a < b for a, b in zip(less, more, strict=True))
    assert narrower <= share * real.pbs_total
    if not share:
        assert planned.pbs_by_bit_width == real.pbs_by_bit_width
    rel = 1.2 * share or 1e-9
    assert planned.predicted_seconds == pytest.approx(real.predicted_seconds, rel=rel)
    assert planned.key_bytes == pytest.approx(real.key_bytes, rel=rel)
    assert planned.peak_memory_bytes == pytest.approx(real.peak_memory_bytes, rel=max(rel, 0.01))
    assert (planned.request_bytes, planned.reply_bytes) == (real.request_bytes, real.reply_bytes)
    return planned.predicted_seconds / plan(program, PRICES).predicted_seconds


@pytest.mark.parametrize(
    ("settings", "seed", "share"),
    # Of the classes some table reads one bit, which nothing else there does: a key of its own.
    [(GPT2, 5, 0), (LLAMA, 2, 0), (CLASSES, 5, 0.15), (VIT, 5, 0.2)],
    ids=["gpt2", "llama", "bert", "vit"],
)
def test_a_shape_is_planned_as_the_model_that_is_built(
    settings: dict[str, Any], seed: int, share: float
) -> None:
    assert 1 <= compared(settings, PlannedBits.of(2), seed, share) < 1.3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "bits"),
    [
        ({**GPT2, "tokens": 5}, PlannedBits.of(2, wraps=False)),
        ({**GPT2, "heads": 2, "mlp_dim": 36}, PlannedBits.of(4)),
        (LLAMA, PlannedBits.of(3)),
        ({**LLAMA, "kv_heads": 4, "layers": 1}, PlannedBits.of(2, wraps=False)),
        ({**BERT, "hidden": True}, PlannedBits.of(2, wraps=False)),
        ({**BERT, "hidden": True, "tokens": 4}, PlannedBits.of(3)),
        ({**VIT, "tokens": 5, "layers": 2}, PlannedBits.of(2, 5)),
    ],
    ids=["gpt2-proved", "gpt2-4", "llama-3", "llama-proved", "bert-proved", "bert-3", "vit-5"],
)
def test_other_shapes_and_bits(settings: dict[str, Any], bits: PlannedBits) -> None:
    assert 0.9 < compared(settings, bits, 2, 0.2) < 1.35


def test_tiles_cost_what_a_whole_product_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = shape_of(ModelConfig.from_dict({**GPT2, "tokens": 7}))
    for bits in (PlannedBits.of(2), PlannedBits.of(3)):
        whole = plan_config(shape, bits, PRICES)
        with monkeypatch.context() as small:
            small.setattr(skeleton_products, "MEMORY_LIMIT", 3 * 7 * 8 * 3 * 16 * 1024)
            tiled = plan_config(shape, bits, PRICES)
        assert tiled.pbs_by_layer == whole.pbs_by_layer
        assert tiled.pbs_by_bit_width == whole.pbs_by_bit_width


def test_the_shape_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    imported = import_checkpoint(write_checkpoint(tmp_path))
    shape = read_shape(tmp_path / "config.json")
    assert shape.model == imported.model.config
    assert (shape.family, shape.output) == (imported.family, imported.output)
    assert read_shape(tmp_path).model == shape.model  # of the folder, too
    assert shape.parameters == sum(p.numel() for p in imported.model.parameters()) - 5  # its bias


def test_shipped_configurations_are_the_published_shapes() -> None:
    published = {  # numbers of the checkpoints themselves, without heads that are left out
        "bert-base": 108_891_648, "gpt2": 124_439_808, "llama-7b": 6_738_415_616,
        "llama-3-8b": 8_030_261_248,
    }  # fmt: skip
    assert {n: read_shape(n).parameters for n in shipped_configs()} == published


def test_eight_billion_parameters_are_planned_in_seconds() -> None:
    begin = process_time()
    shape = read_shape("llama-3-8b", tokens=64)
    found = plan_config(shape, PlannedBits.of(2), PRICES)
    assert process_time() - begin < 4
    layers, heads, tokens, width, hidden = 32, 32, 64, 4096, 14336
    # Products of scores and of contexts, one bootstrap each at two bits.
    products = sum(r.pbs for r in found.rows if r.layer.endswith(".attention"))
    assert products == 2 * layers * tokens**2 * width
    hidden_codes = 3 * layers * tokens * hidden
    assert sum(n for k, n in found.pbs_by_layer.items() if "blocks" in k and (
        "up_quant" in k or "gate_quant" in k or "activation" in k)) == hidden_codes  # fmt: skip
    softmax = [n for k, n in found.pbs_by_layer.items() if "score_quant" in k]
    assert softmax == [heads * tokens**2] * layers


def test_the_command_prints_a_table_and_json(tmp_path: Path) -> None:
    found = printed("plan --config gpt2 --tokens 8 --bits 3 --sums proved --p-error fast")
    hidden = printed("plan --config gpt2 --tokens 8 --bits 3 --sums proved --p-error fast --hidden")
    assert hidden["pbs_total"] == found["pbs_total"]  # the head takes none
    assert hidden["reply_bytes"] < found["reply_bytes"] / 50
    assert (found["tokens"], found["bits"], found["sums"]) == (8, 3, "proved")
    assert sum(found["pbs_by_bit_width"].values()) == found["pbs_total"]
    assert sum(kind["pbs"] for kind in found["by_kind"].values()) == found["pbs_total"]
    assert min(found[n] for n in ("key_bytes", "peak_memory_bytes", "predicted_seconds")) > 0
    QuantConfig.from_dict(found["quant"])
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    said = say(f"plan --config {tmp_path}")
    assert said.code == 0
    assert [line.split()[0] for line in said.out.splitlines() if "assumed" in line] == [
        "assumed:"
    ] * 3


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "family": ({"model_type": "t5"}, "model_type is 't5'"),
    "activation": ({"activation_function": "mish"}, "activation_function is 'mish'"),
    "huge": ({"n_embd": 10**18}, "n_embd is 1000000000000000000; give a whole number of at most"),
    "deep": ({"n_layer": 10**6}, "n_layer is 1000000; give a whole number of at most 1,000"),
    "wide": ({"n_embd": 10**7, "n_head": 1}, "would have 3.0e+14 numbers"),
    "negative": ({"n_head": -2}, "n_head is -2"),
    "fraction": ({"n_head": 1.5}, "n_head is 1.5"),
    "missing": ({"n_embd": None}, "n_embd is missing"),
    "nested": ({"n_embd": {"a": [1]}}, "n_embd is {'a': [1]}"),
    "heads": ({"n_head": 3}, "not a multiple"),
    "long": ({"n_positions": 10**6}, "1,000,000 tokens at once are not planned"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_configurations_are_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    changes, why = BAD[name]
    config = {k: v for k, v in {**CONFIG, **changes}.items() if v is not None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert why in refused(f"plan --config {tmp_path / 'config.json'}")


@pytest.mark.parametrize("text", ["", "[1]", "{" * 300, '{"model_type": NaN}', "9" * 40])
def test_files_that_are_no_configuration(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ArtifactError):
        read_shape(path)


LLAMA_JSON: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 96, "vocab_size": 50,
}  # fmt: skip


def test_heads_that_nothing_can_turn_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA_JSON, "head_dim": 17}))
    assert "heads have 17 dimensions" in refused(f"plan --config {tmp_path}")


def test_a_huge_shape_takes_neither_memory_nor_time(tmp_path: Path) -> None:
    huge = {"hidden_size": 2**14, "num_hidden_layers": 200, "intermediate_size": 10**7}
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA_JSON, **huge}))
    begin = process_time()
    shape = read_shape(tmp_path)
    assert shape.parameters > 200 * 3 * 10**7 * 2**14
    assert plan_config(shape, PlannedBits.of(2), PRICES).pbs_total > 10**12
    assert process_time() - begin < 5


def test_options_of_the_other_kind_are_refused() -> None:
    assert "one of the two" in refused("plan")
    assert "one of the two" in refused("plan program.onnx --config gpt2")
    assert "--bits is for a configuration" in refused("plan program.onnx --bits 2")
    assert "--chart is for a program" in refused("plan --config gpt2 --chart")
    assert "neither a file nor a shipped configuration" in refused("plan --config gpt7")
    assert "--hidden is for a configuration" in refused("plan program.onnx --hidden")
    assert "5 bits are not planned" in refused("plan --config gpt2 --bits 5")
    with pytest.raises(InputError, match="sums of 3 bits"):
        PlannedBits.of(2, 3)
