"""A foreign config.json in, its fields out, each checked when it is asked for.

What is asked for by nobody is remembered: a field that nothing reads may mean something.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torusformer import ArtifactError
from torusformer.strict_json import read_json

CONFIG_FILE = "config.json"
# What says nothing about the function in inference, or only how other software runs it.
SILENT = frozenset({
    "_attn_implementation", "_name_or_path", "architectures", "bos_token_id", "dtype",
    "encoder_stride", "eos_token_id", "finetuning_task", "gradient_checkpointing", "id2label",
    "initializer_factor", "initializer_range", "label2id", "layer_norm_epsilon", "n_ctx",
    "output_attentions", "output_hidden_states", "pad_token_id", "pooler_act",
    "pooler_output_size", "pretraining_tp", "problem_type", "reorder_and_upcast_attn",
    "return_dict", "rope_theta", "sep_token_id", "sinusoidal_pos_embds", "summary_activation",
    "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
    "task_specific_params", "torch_dtype", "transformers_version", "unk_token_id",
    "use_cache",
})  # fmt: skip


class Fields:
    """Fields of one configuration: numbers, texts and flags, or an error that names the field."""

    def __init__(self, path: Path) -> None:
        """Reads the file.

        Raises:
            ArtifactError: it is missing, no JSON, or no object.
        """
        self.path = path
        if not path.is_file():
            raise ArtifactError(f"{path} is missing; point at the folder of a checkpoint")
        try:
            found = read_json(path)
        except ValueError as error:
            raise ArtifactError(f"{path} is not readable JSON ({error}); get it again") from None
        if not isinstance(found, dict):
            raise ArtifactError(f"{path} holds no object; point at the folder of a checkpoint")
        self._fields: dict[str, Any] = found
        self._read: set[str] = set()

    def count(self, name: str, default: int | None = None, *, least: int = 1) -> int:
        """A whole number from `least` up."""
        value = self._get(name, default)
        if type(value) is not int or value < least:
            raise self.error(name, f"a whole number from {least} up")
        return value

    def optional_count(self, name: str) -> int | None:
        """A whole number from zero up, or None where the file has none."""
        return None if self._get(name, None) is None else self.count(name, least=0)

    def number(self, name: str, default: float) -> float:
        """A number above zero."""
        value = self._get(name, default)
        if type(value) not in (int, float) or value <= 0:
            raise self.error(name, "a number above zero")
        return float(value)

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        """A list of so many numbers."""
        value = self._get(name, None)
        if not isinstance(value, list) or len(value) != count:
            raise self.error(name, f"a list of {count} numbers")
        if not all(type(v) in (int, float) for v in value):
            raise self.error(name, f"a list of {count} numbers")
        return tuple(map(float, value))

    def text(self, name: str, default: str | None = None) -> str:
        """A text."""
        value = self._get(name, default)
        if not isinstance(value, str):
            raise self.error(name, "a text")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._get(name, default)
        if type(value) is not bool:
            raise self.error(name, "true or false")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts, empty where there is none."""
        value = self._get(name, None) or []
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise self.error(name, "a list of texts")
        return tuple(value)

    def mapping(self, name: str) -> dict[str, Any]:
        """An object, empty where there is none."""
        value = self._get(name, None) or {}
        if not isinstance(value, dict):
            raise self.error(name, "an object")
        return value

    def require(self, name: str, *allowed: object) -> None:
        """Refuse what no model of ours computes: the first of `allowed` is the default."""
        value = self._get(name, allowed[0])
        if not any(value == a and type(value) is type(a) for a in allowed):
            choices = " or ".join(str(a).lower() for a in allowed)
            raise ArtifactError(
                f"{self.path}: {name} is {_shown(value)}, which torusformer has nothing for;"
                f" checkpoints with {name} {choices} are read"
            )

    def choice(self, name: str, known: dict[str, Any], default: str) -> Any:
        """What `known` has for the text of a field."""
        value = self.text(name, default)
        if value not in known:
            raise ArtifactError(
                f"{self.path}: {name} is {_shown(value)}, which torusformer has nothing for;"
                f" known: {', '.join(known)}"
            )
        return known[value]

    def unread(self) -> tuple[str, ...]:
        """Names of fields that say something and that nobody asked for, in order."""
        return tuple(
            name
            for name, value in self._fields.items()
            if name not in self._read
            and name not in SILENT
            and "drop" not in name
            and value not in (None, False, [], {})
        )

    def error(self, name: str, wanted: str) -> ArtifactError:
        """A field of the wrong kind."""
        what = _shown(self._fields[name]) if name in self._fields else "missing"
        return ArtifactError(f"{self.path}: {name} is {what}; give {wanted}")

    def _get(self, name: str, default: object) -> Any:
        self._read.add(name)
        value = self._fields.get(name)
        return default if value is None else value


def _shown(value: object) -> str:
    """A value from outside, short."""
    return repr(value)[:60]
