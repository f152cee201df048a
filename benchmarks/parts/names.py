"""Part `names`: a model that writes first names, its loss and the seconds of an encrypted token.

Trained on a file of the user's (`make bench ONLY=names DATA=names.txt`), a name a line; in quick
runs on the words that come with the package.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.render import table
from benchmarks.runner import Bench, Part
from benchmarks.trained import digest
from torusformer.fhe_compile.decoding.decoder import DecoderProgram, load_decoder
from torusformer.fhe_compile.deployment.deployment import save_decoder_deployment
from torusformer.folders import is_ours, output_folder
from torusformer.models import Transformer
from torusformer.pipelines.baselines import baselines
from torusformer.pipelines.demo_text import first_words
from torusformer.pipelines.measure import program_nll
from torusformer.pipelines.training import DECODER, FLOAT, Recipe, train_into
from torusformer.pipelines.writing import EncryptedWriting, Request, compile_decoder, write_clear
from torusformer.quantize import evaluate

PRESET, CONTEXT, PROMPTS, TOKENS = "words", 16, 3, 8


def recipe_of(bench: Bench) -> Recipe:
    """The preset on the user's file."""
    if bench.quick:
        return Recipe.from_name("words", "tiny-words", data=bench.data, context=3, epochs=1)
    return Recipe.from_name("words", PRESET, data=bench.data, context=CONTEXT)


def trained(bench: Bench, recipe: Recipe) -> Path:
    """Its folder; trained only if these settings were not trained on this file before."""
    text = b"" if bench.data is None else bench.data.read_bytes()
    settings = {part: getattr(recipe, part).to_dict() for part in ("model", "quant", "training")}
    settings["data"] = hashlib.sha256(text).hexdigest()
    folder = bench.store.models / f"names-{digest(settings)}"
    if not is_ours(folder, "run"):
        with output_folder(folder, "run") as new:
            train_into(new, recipe)
    return folder


def losses(recipe: Recipe, folder: Path, decoder: DecoderProgram) -> dict[str, Any]:
    """Nats a token on held-out names: of the integer programs, the float model, pairs of tokens."""
    task = recipe.task
    return {
        "dev_nll": round(program_nll(decoder, task.x_test, task.y_test), 4),
        "float_nll": round(evaluate(Transformer.from_pretrained(folder / FLOAT), task), 4),
        "dev_tokens": task.test_count,
        "baselines": baselines(recipe, 0),
    }


def written(
    decoder: DecoderProgram, place: Path, prompts: list[str], count: int
) -> list[dict[str, Any]]:
    """A row a prompt: what the server wrote behind it, alone, and the seconds of each token."""
    if not is_ours(place, "decoder deployment"):
        save_decoder_deployment(compile_decoder(decoder), place)
    parties, rows = EncryptedWriting(place), []
    for seed, prompt in enumerate(prompts):
        request = Request.of(decoder, prompt, count, 0.0, seed)
        found = list(parties.write(request))
        tokens = [c.token for c in write_clear(decoder, request)]
        rows.append(
            {
                "prompt": prompt,
                "text": "".join(c.character for c in found),
                "seconds": [round(c.seconds, 3) for c in found],
                "bit_exact": [c.token for c in found] == tokens,
                "key_bytes": parties.key_bytes,
                "keygen_seconds": round(parties.keygen_seconds, 1),
            }
        )
    return rows


def measure(bench: Bench) -> dict[str, Any]:
    """Loss of the integer programs on every held-out name, and tokens behind some beginnings."""
    recipe = recipe_of(bench)
    folder = trained(bench, recipe)
    decoder = load_decoder(folder / DECODER)
    found = bench.keep(f"{folder.name}.losses", losses, recipe, folder, decoder)
    count = 1 if bench.quick else TOKENS
    prompts = first_words(recipe.task, 1 if bench.quick else PROMPTS, count)
    place = bench.store.models / f"{folder.name}.deployment"
    rows = bench.keep(
        f"{folder.name}.written", written, decoder.with_picking(), place, prompts, count
    )
    seconds = [second for row in rows for second in row["seconds"]]
    return {
        "preset": recipe.preset,
        "context": recipe.model.tokens,
        **found,
        "seconds_per_token": round(sum(seconds) / len(seconds), 3),
        "tokens": len(seconds),
        "bit_exact": all(row["bit_exact"] for row in rows),
        "rows": rows,
    }


def render(result: Mapping[str, Any]) -> str:
    """Losses, then a row a prompt."""
    rows = []
    for row in result["rows"]:
        mean = sum(row["seconds"]) / len(row["seconds"])
        rows.append((row["prompt"], row["prompt"] + row["text"], round(mean, 2), row["bit_exact"]))
    pairs = result["baselines"]["linear"]
    return (
        f"{table(('prompt', 'encrypted text', 's a token', 'bit-exact'), rows)}\n\n"
        f"Nats a token on {result['dev_tokens']} held-out ones: float {result['float_nll']}, "
        f"integer programs {result['dev_nll']}, counts of pairs of tokens {pairs:.3f}. "
        f"Keys: {result['rows'][0]['key_bytes'] / 2**20:.0f} MiB."
    )


NAMES = Part(
    "names",
    "A model that writes names",
    "The preset `words` on a file of first names, context of 16; the server picks each token. Left "
    "out without `--data`.",
    measure,
    render,
    data=".txt",
)
