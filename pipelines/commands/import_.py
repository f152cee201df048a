"""`torusformer import`: the folder of a Hugging Face checkpoint in, a float transformer out."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from torusformer.folders import output_folder
from torusformer.pipelines.console import Outcome, Subparsers, command, positive

if TYPE_CHECKING:
    from torusformer.models.foreign import Imported

REPORT = "import.json"
# Kept beside the model as they are: whoever makes its inputs needs them.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt",
    "vocab.json", "merges.txt", "tokenizer.model", "preprocessor_config.json",
)  # fmt: skip


def add(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Declare the arguments."""
    parser = command(
        subparsers,
        "import",
        "turn a checkpoint of BERT, DistilBERT, RoBERTa, GPT-2, LLaMA or ViT into a float "
        "transformer that computes the same",
        "torusformer import bert-tiny --out runs/float --tokens 16",
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="DIR",
        help="config.json and model.safetensors, its shards, or pytorch_model.bin; nothing is "
        "downloaded",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--tokens",
        type=positive,
        metavar="N",
        help="the longest input; default all positions of the checkpoint, of rotations at most 512",
    )
    parser.add_argument(
        "--hidden", action="store_true", help="leave the head out: hidden states are the output"
    )
    parser.add_argument(
        "--pooling",
        choices=("mean", "first", "last"),
        help="of a model without a head: one vector a text instead of one a token",
    )
    parser.add_argument(
        "--padding",
        action="store_true",
        help="tokens of the checkpoint's pad_token_id are padding: nothing attends to them",
    )
    parser.add_argument(
        "--raw-pixels",
        action="store_true",
        help="of ViT: take pixels from 0 to 255, what preprocessor_config.json does to them is "
        "folded in; quantized models need that, their features begin at 0",
    )
    return parser


def run(args: argparse.Namespace) -> Outcome:
    """Import, and say what was folded."""
    from torusformer.models.foreign import Wishes, import_checkpoint

    with output_folder(args.out, "import") as folder:
        wishes = Wishes(args.tokens, args.padding, args.hidden, args.pooling, args.raw_pixels)
        imported = import_checkpoint(args.checkpoint, wishes)
        imported.model.save_pretrained(folder)
        copied = [name for name in TOKENIZER_FILES if (args.checkpoint / name).is_file()]
        for name in copied:
            shutil.copyfile(args.checkpoint / name, folder / name)
        data = {**imported.to_json(), "copied": copied}
        (folder / REPORT).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    return Outcome({**data, "out": str(args.out)}, f"{args.out}:\n{_text(imported, copied)}")


def _text(imported: Imported, copied: list[str]) -> str:
    from torusformer.tables import table

    config = imported.model.config
    heads = f"{config.heads}"
    if config.key_heads != config.heads:
        heads += f" ({config.key_heads} of keys)"
    reads = (
        f"vocabulary {config.vocabulary:,}"
        if config.vocabulary
        else f"{config.features} features a token"
    )
    rows = [
        ("family", imported.family),
        ("layers", f"{config.layers}"),
        ("width", f"{config.dim}, MLP {config.mlp_dim}"),
        ("heads", heads),
        ("inputs", f"{config.tokens} tokens, {reads}"),
        ("outputs", _outputs(imported)),
        ("parameters", f"{imported.parameters:,}"),
    ]
    notes = (
        ("folded", imported.folded),
        ("left out", imported.left_out),
        ("not read", imported.unread),
        ("copied", copied),
    )
    rows += [
        (title if i == 0 else "", note) for title, lines in notes for i, note in enumerate(lines)
    ]
    return table(("", ""), rows)


def _outputs(imported: Imported) -> str:
    config = imported.model.config
    if config.hidden:
        which = "of every token" if config.pooling is None else f"pooled: {config.pooling}"
        return f"hidden states {which}"
    if config.foretells:
        return "logits of the next token"
    return f"{config.num_classes} classes"
