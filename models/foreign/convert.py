"""The folder of a foreign checkpoint in, a float transformer that computes the same out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from torusformer import ArtifactError
from torusformer.models.foreign.bert import BERT, DISTILBERT, ROBERTA
from torusformer.models.foreign.fields import CONFIG_FILE, Fields
from torusformer.models.foreign.gpt2 import GPT2
from torusformer.models.foreign.llama import LLAMA
from torusformer.models.foreign.reading import Family, Output, Reading, Wishes
from torusformer.models.foreign.vit import VIT
from torusformer.models.foreign.weights import Weights
from torusformer.models.transformer import Transformer
from torusformer.work import scratch_folder

FAMILIES: Mapping[str, Family] = {
    "bert": BERT,
    "distilbert": DISTILBERT,
    "gpt2": GPT2,
    "llama": LLAMA,
    "roberta": ROBERTA,
    "vit": VIT,
}


@dataclass(frozen=True, eq=False)
class Imported:
    """A float transformer and where it is from.

    `folded` says what the checkpoint has and our model has in other weights, `left_out` names
    tensors, `unread` fields of the configuration, that are no part of it; `labels` are those of
    classes, if it names them.
    """

    model: Transformer
    family: str
    output: Output
    folded: tuple[str, ...]
    left_out: tuple[str, ...]
    unread: tuple[str, ...]
    labels: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """Numbers that the model has, those it reads twice once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and strings."""
        config = self.model.config
        names = ("layers", "dim", "heads", "mlp_dim", "tokens", "vocabulary", "features")
        return {
            "family": self.family,
            "output": self.output,
            **{name: getattr(config, name) for name in names},
            "kv_heads": config.key_heads,
            "parameters": self.parameters,
            "folded": list(self.folded),
            "left_out": list(self.left_out),
            "unread": list(self.unread),
            "labels": list(self.labels),
        }


@torch.no_grad()
def import_checkpoint(folder: str | Path, wishes: Wishes | None = None) -> Imported:
    """The transformer of a folder with `config.json` and its weights, in eval mode.

    Nothing is downloaded and no code of the checkpoint is run.

    Raises:
        ArtifactError: the family, a field, an activation or a tensor is none that is known; or a
            file is missing, truncated or foreign.
    """
    folder, wishes = Path(folder), wishes or Wishes()
    fields = Fields(folder / CONFIG_FILE)
    kind, family = family_of(fields)
    if wishes.raw_pixels and kind != "vit":
        raise ArtifactError(f"{fields.path}: {kind} reads no images; leave out --raw-pixels")
    with scratch_folder() as scratch:
        weights = Weights(folder, scratch)
        weights.find_prefix(family.prefix, family.anchor)
        output: Output = "hidden" if wishes.hidden else output_of(fields, family)
        reading = Reading(fields, weights, output, wishes)
        config = family.read(reading)
        weights.leave(family.buffers)
        left_out = weights.leave(family.heads) if output == "hidden" else ()
        weights.require_all_taken()
    with torch.device("meta"):  # no memory, no random numbers
        model = Transformer(config)
    model.load_state_dict(reading.state, assign=True)
    if config.tied:
        model.head.weight = model.embed.weight
    model.requires_grad_(True)
    labels = _labels(fields, config.num_classes)
    return Imported(
        model.eval(), kind, output, tuple(reading.folded), _grouped(left_out), fields.unread(),
        labels,
    )  # fmt: skip


def family_of(fields: Fields) -> tuple[str, Family]:
    """The model_type of a configuration, and how it is read.

    Raises:
        ArtifactError: it is none that is known, or the weights are quantized.
    """
    kind = fields.text("model_type")
    if kind not in FAMILIES:
        raise ArtifactError(
            f"{fields.path}: model_type is {kind[:60]!r}, which torusformer cannot read; known:"
            f" {', '.join(FAMILIES)}"
        )
    fields.require("quantization_config", None)
    return kind, FAMILIES[kind]


def output_of(fields: Fields, family: Family) -> Output:
    """What comes out, by the name of the architecture; without one, hidden states."""
    names = fields.texts("architectures")
    if not names:
        return "hidden"
    known = {f"{family.stem}{end}": output for end, output in family.outputs.items()}
    if names[0] not in known:
        raise ArtifactError(
            f"{fields.path}: architectures names {names[0][:60]!r}, whose head torusformer has not;"
            f" known: {', '.join(known)}; --hidden leaves a head out"
        )
    return known[names[0]]


def _grouped(names: tuple[str, ...]) -> tuple[str, ...]:
    """Tensors by their layer: `cls.predictions.decoder` for its weight and its bias."""
    return tuple(dict.fromkeys(name.rpartition(".")[0] or name for name in names))


def _labels(fields: Fields, count: int | None) -> tuple[str, ...]:
    """Names of classes in their order, if every one has a name."""
    named = fields.mapping("id2label")
    found = [named.get(str(i)) for i in range(count or 0)]
    return tuple(v for v in found if isinstance(v, str)) if all(found) else ()
