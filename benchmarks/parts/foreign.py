"""Part `foreign`: models of others: imported checkpoints, random QONNX graphs, an MLP of a zoo."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from benchmarks.encrypted import Encrypted
from benchmarks.render import percent, table
from benchmarks.runner import Bench, Part
from torusformer.fhe_compile import interpret, lower, narrow
from torusformer.fhe_compile.program.ports import quantize_array
from torusformer.models.foreign import import_checkpoint
from torusformer.models.foreign.vit import image_tokens

FAMILIES = ("bert", "distilbert", "roberta", "minilm", "gpt2", "llama", "vit")
_TEXT: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 36, "max_position_embeddings": 20,
}  # fmt: skip
_DISTIL: dict[str, Any] = {
    "vocab_size": 40, "dim": 24, "n_layers": 2, "n_heads": 4, "hidden_dim": 36,
    "max_position_embeddings": 20,
}  # fmt: skip
_GPT: dict[str, Any] = {
    "vocab_size": 40, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 20,
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
_VIT: dict[str, Any] = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 36,
    "image_size": 12, "patch_size": 4,
}  # fmt: skip
WITHIN, SAMPLES = 0.01, 1000  # of the answers on so many samples may change
SEED = 12


def random_checkpoint(family: str) -> Any:
    """A small model of `transformers` with random weights, norms and biases too."""
    import transformers as hf

    torch.manual_seed(SEED)
    model: Any
    match family:
        case "bert":
            model = hf.BertModel(hf.BertConfig(**_TEXT))
        case "distilbert":
            model = hf.DistilBertModel(hf.DistilBertConfig(**_DISTIL))
        case "roberta":
            model = hf.RobertaModel(hf.RobertaConfig(**_TEXT))
        case "minilm":  # BERT without a pooler, many narrow heads
            config = hf.BertConfig(**{**_TEXT, "num_attention_heads": 12}, layer_norm_eps=1e-12)
            model = hf.BertModel(config, add_pooling_layer=False)
        case "gpt2":
            model = hf.GPT2LMHeadModel(hf.GPT2Config(**_GPT))
        case "llama":
            model = hf.LlamaForCausalLM(hf.LlamaConfig(**_TEXT, num_key_value_heads=2))
        case _:
            model = hf.ViTModel(hf.ViTConfig(**_VIT))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def largest_difference(family: str) -> float:
    """Between `transformers` and what was imported, over all outputs for a few inputs."""
    model = random_checkpoint(family)
    if family == "vit":
        theirs = torch.randn(4, 3, 12, 12)
        ours = image_tokens(theirs, 4)
    else:
        theirs = ours = torch.randint(2, 40, (4, 9))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        model.save_pretrained(folder)
        found, said = import_checkpoint(Path(folder)).model(ours), model(theirs)
    expected = said.logits if "logits" in said else said.last_hidden_state
    return float((found - expected).abs().max())


def generated(simulate: int, encrypt: int, seed: int) -> dict[str, Any]:
    """Counts of random models over all operators, and why some were refused."""
    counts = ("--simulate", str(simulate), "--encrypt", str(encrypt), "--seed", str(seed))
    command = [sys.executable, "-m", "tests.fuzz.generated", *counts, "--json"]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout)
    return {k: found[k] for k in (*_COUNTS, "ties", "causes", "faults")}


_COUNTS = ("simulated", "encrypted", "exact", "refused")


def _added(parts: list[dict[str, Any]]) -> dict[str, Any]:
    causes: dict[str, int] = {}
    for part in parts:
        for cause, count in part["causes"].items():
            causes[cause] = causes.get(cause, 0) + count
    totals = {key: sum(part[key] for part in parts) for key in (*_COUNTS, "ties")}
    return {**totals, "causes": causes, "faults": sum(len(part["faults"]) for part in parts)}


def digits(size: int = 28) -> tuple[torch.Tensor, torch.Tensor]:
    """Scikit-learn's images scaled up, (1797, size * size) from -1 to 1, and their labels."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    large = torch.nn.functional.interpolate(images, size=(size, size), mode="bilinear")
    return large.flatten(1), torch.tensor(data.target)


def trained_mlp(epochs: int) -> tuple[Any, float]:
    """784-64-64-64-10 of two-bit weights and activations, as Brevitas exports it; its accuracy."""
    import brevitas.nn as qnn
    from brevitas.export import export_qonnx
    from torch import nn

    torch.manual_seed(SEED)
    sizes = (784, 64, 64, 64)
    layers: list[nn.Module] = [qnn.QuantIdentity(bit_width=2, return_quant_tensor=False)]
    for rows, columns in itertools.pairwise(sizes):
        layers += [
            qnn.QuantLinear(rows, columns, bias=False, weight_bit_width=2),
            nn.BatchNorm1d(columns),
            qnn.QuantIdentity(bit_width=2),
        ]
    layers.append(qnn.QuantLinear(64, 10, bias=True, weight_bit_width=2))
    model, (x, y) = nn.Sequential(*layers), digits()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    train = torch.arange(len(x)) % 4 != 0
    for _ in range(epochs):
        for batch in torch.randperm(int(train.sum())).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[train][batch]), y[train][batch]).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        accuracy = float((model(x[~train]).argmax(1) == y[~train]).float().mean())
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "mlp.qonnx.onnx"
        export_qonnx(model, x[:1], str(path))
        return lower(path), accuracy


def mlp784(epochs: int) -> dict[str, Any]:
    """Its sums rounded or wrapped within the budget; planned, and one image encrypted."""
    program, accuracy = trained_mlp(epochs)
    (port,), (out,) = program.inputs, program.outputs
    x, y = (part.numpy() for part in digits())
    q_x = [{port.name: quantize_array(port, row[None])} for row in x]
    trained_on = np.arange(len(x)) % 4 != 0
    samples = [q for q, seen in zip(q_x, trained_on, strict=True) if seen][:SAMPLES]
    unseen = q_x[::4]
    found = narrow(program, samples, within=WITHIN)
    classes = [
        [int(interpret(p, q)[out.name].argmax()) for q in unseen] for p in (program, found.program)
    ]
    encrypted = Encrypted(found.program)
    run = encrypted.run(unseen[0])
    linear = LogisticRegression(max_iter=5000).fit(x[trained_on], y[trained_on])
    return {
        **found.to_json(),
        "linear_accuracy": float(linear.score(x[::4], y[::4])),
        "accuracy": accuracy,
        "accuracy_narrowed": float(np.mean(np.array(classes[1]) == y[::4])),
        "same_class": float(np.mean(np.array(classes[0]) == np.array(classes[1]))),
        "encrypted": run,
        **encrypted.facts(),
    }


def measure(bench: Bench) -> dict[str, Any]:
    """`families`, `generated` and the MLP."""
    families = [
        {"name": name, "largest_difference": bench.keep(name, largest_difference, name)}
        for name in FAMILIES[: 2 if bench.quick else None]
    ]
    mlp = bench.keep("mlp784", mlp784, 1 if bench.quick else 30)
    bench.say(f"mlp784: {mlp['encrypted']['seconds']} s encrypted")
    simulate, encrypt = (1, 1) if bench.quick else (130, 60)
    seeds = range(SEED, SEED + 40_000, 10_000)
    made = [bench.keep(f"simulated.{seed}", generated, simulate, 0, seed) for seed in seeds]
    made.append(bench.keep("encrypted", generated, 0, encrypt, SEED))
    return {
        "families": families,
        "generated": _added(made),
        "mlp784_seconds": mlp["encrypted"]["seconds"],
        "mlp784": mlp,
    }


def render(result: Mapping[str, Any]) -> str:
    """A table of each."""
    families = [(row["name"], row["largest_difference"]) for row in result["families"]]
    made, mlp = result["generated"], result["mlp784"]
    counts = [tuple(made[key] for key in (*_COUNTS, "ties", "faults"))]
    layers = [
        (
            row["layer"],
            row["tables"],
            row["bits_before"],
            row["narrowest"],
            row["bits_after"],
            row["how"],
        )
        for row in mlp["layers"]
    ]
    keys = mlp["key_bytes"] / 2**20
    before, after = mlp["seconds_before"], mlp["seconds_after"]
    said = (
        f"An MLP 784-64-64-64-10 of two-bit weights and codes, within 1 %: planned {before:.1f} s "
        f"before, {after:.1f} s after; measured {mlp['encrypted']['seconds']:.1f} s, bit-exact: "
        f"{'yes' if mlp['encrypted']['bit_exact'] else 'no'}; keys {keys:,.0f} MiB. Of images that "
        f"neither training nor the search had seen, {percent(mlp['same_class'])} got the class of "
        f"the program before; accuracy {percent(mlp['accuracy'])}, then "
        f"{percent(mlp['accuracy_narrowed'])}, of logistic regression on the same images "
        f"{percent(mlp['linear_accuracy'])}: a figure of the compiler, not of the model."
    )
    return "\n\n".join((
        table(("family", "largest difference from transformers"), families),
        table((*_COUNTS, "samples at ties", "faults"), counts),
        table(("refused because", "models"), list(made["causes"].items())),
        said,
        table(("layer", "tables", "bits before", "bits after, least", "most", "sums are"), layers),
    ))  # fmt: skip


FOREIGN = Part(
    "foreign",
    "Models of others",
    "Small random checkpoints of every family that is imported, beside `transformers`; random "
    "QONNX models over every operator that is read, through simulation and encryption "
    "(`python -m tests.fuzz.generated`); a two-bit MLP whose wide sums are narrowed.",
    measure,
    render,
)
