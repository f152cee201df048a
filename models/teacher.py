"""A float transformer of another shape in, one that answers the samples of a task out.

Teacher and student read the same samples, each in its own tokens: images are put together from the
student's patches and cut into the teacher's; token ids are those of one vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from torusformer import InputError
from torusformer.models.config import ModelConfig, Pooling
from torusformer.models.foreign.vit import image_tokens
from torusformer.models.known_words import meanings
from torusformer.models.task import LabelArray, Task
from torusformer.models.transformer import Transformer

Reads = Callable[[Tensor], Tensor]
COLOURS = (1, 3)  # channels that an imported ViT may have; grey is repeated


class Teacher(nn.Module):
    """A float transformer behind what turns the samples of a task into its inputs.

    `same_tokens`: it reads them token by token as they are, so its hidden states and its attention
    compare with those of a student.
    """

    def __init__(self, model: Transformer, task: Task, *, images: bool = False) -> None:
        """`images`: the model is an imported ViT, whose token 0 is no patch.

        Raises:
            InputError: the model cannot read the samples; names both, and what to do.
        """
        super().__init__()
        self.model = model
        found: Reads | None = None
        if task.vocabulary is None:
            found = _of_numbers(model.config, task, images)
        else:
            _check_ids(model.config, task)
        self.same_tokens, self.reads = found is None, found or (lambda x: x)
        self.names: Reads = self.reads
        if task.origin is not None:
            self.names = torch.from_numpy(task.origin).__getitem__
            self.reads = self.names
            if has_room(model.config, task):
                self.reads = lambda x: _marked(self.names(x), task)

    def words(self, task: Task) -> Tensor:
        """(V, k) numbers that say what it knows of each token of a task of texts."""
        assert task.vocabulary is not None, "of token ids"
        kept = self.names(torch.arange(len(task.vocabulary)))
        return meanings(self.model.embed.weight, kept, task.padding)

    def forward(self, x: Tensor) -> Tensor:
        """Samples of the task (B, ...) to logits."""
        logits: Tensor = self.model(self.reads(x))
        return logits


def has_room(model: ModelConfig, task: Task) -> bool:
    """Whether a text of the most pieces and the marks around it fit the teacher."""
    marks = sum(map(len, task.marks))
    return not marks or model.tokens >= task.input_shape[0] + marks


def has_answers(model: ModelConfig, task: Task) -> bool:
    """Whether a model's outputs are the task's; if not, a head has to be trained.

    Raises:
        InputError: it has a head of other classes, or is of no use for a task of text.
    """
    if task.measure == "nats":
        if model.foretells:
            return True
        raise InputError(
            "the teacher foretells no token, and the student learns to; give a causal model with a"
            " head of the next token"
        )
    if model.num_classes is None:
        return False
    if model.num_classes != task.num_classes:
        raise InputError(
            f"the teacher tells {model.num_classes} classes apart and {task.source} has"
            f" {task.num_classes}; give one of the same classes, or one without a head (import"
            " --hidden): a new one is trained"
        )
    return True


def with_head(model: Transformer, classes: int, *, images: bool = False) -> Transformer:
    """The same with an untrained head of `classes` in place of its own, if any.

    It reads what the model pools: if it does not, the class token of `images`, the last token of a
    causal model, the mean of others. Weights of the head are drawn from torch's global generator.
    """
    config = model.config
    pooling: Pooling = "mean"
    if images or (config.causal and config.padding is None):
        pooling = "first" if images else "last"
    new = Transformer(
        config.replace(
            hidden=False, tied=False, num_classes=classes, pooling=config.pooling or pooling
        )
    )
    kept = {k: v for k, v in model.state_dict().items() if not k.startswith("head.")}
    new.load_state_dict(kept, strict=False)
    return new


def _check_ids(model: ModelConfig, task: Task) -> None:
    assert task.vocabulary is not None
    if model.vocabulary is None:
        raise InputError(
            f"the teacher reads {model.features} numbers a token and {task.source} holds token ids;"
            " give a teacher of a vocabulary"
        )
    if task.origin is not None:
        _check_origin(model, task, task.origin)
    elif model.vocabulary != len(task.vocabulary):
        raise InputError(
            f"the teacher's vocabulary has {model.vocabulary} tokens and that of {task.source}"
            f" {len(task.vocabulary)}; give a teacher of the same tokens"
        )
    (tokens,) = task.input_shape
    if model.tokens < tokens or (model.pooling == "row" and model.tokens != tokens):
        raise InputError(
            f"the teacher reads {model.tokens} tokens and {task.source} has {tokens}; give a"
            " teacher of as many, or a shorter --context"
        )


def _check_origin(model: ModelConfig, task: Task, origin: LabelArray) -> None:
    """Refuse a teacher of another tokenizer than that which pieces were taken from."""
    if int(origin.max()) >= (model.vocabulary or 0):
        raise InputError(
            f"the teacher's vocabulary has {model.vocabulary} tokens and the tokenizer more; give"
            " the tokenizer of this teacher"
        )
    padding = None if task.padding is None else int(origin[task.padding])
    if padding != model.padding:
        raise InputError(
            f"the teacher pads with token {model.padding} and the tokenizer with {padding}; import"
            " the teacher with --padding"
        )


def _marked(ids: Tensor, task: Task) -> Tensor:
    """The marks of a checkpoint around padded texts (B, T) of its ids: (B, T + marks)."""
    assert task.padding is not None and task.origin is not None
    (before, behind), padding = task.marks, int(task.origin[task.padding])
    rows, tokens = ids.shape
    found = ids.new_full((rows, len(before) + tokens + len(behind)), padding)
    found[:, : len(before)] = ids.new_tensor(before)
    found[:, len(before) : len(before) + tokens] = ids
    ends = len(before) + (ids != padding).sum(1, keepdim=True)
    places = ends + torch.arange(len(behind))
    return found.scatter(1, places, ids.new_tensor(behind).expand(rows, -1))


def _of_numbers(model: ModelConfig, task: Task, images: bool) -> Reads | None:
    if model.features is None:
        raise InputError(
            f"the teacher reads ids of {model.vocabulary} tokens and {task.source} holds numbers;"
            " give a teacher of features"
        )
    if images:
        return _prepared(model, task)
    if (model.input_shape, model.patch) == (task.input_shape, task.patch):
        return None
    if math.prod(model.input_shape) != math.prod(task.input_shape):
        raise InputError(
            f"the teacher reads {math.prod(model.input_shape)} numbers a sample and those of"
            f" {task.source} have {math.prod(task.input_shape)}; give a teacher of the same samples"
        )
    together, shape = _flat_of(task.patch, task), model.input_shape
    if model.patch is None or model.patch[0] == 1:
        return lambda x: together(x).reshape(-1, *shape)
    side, (r, c) = _side(task), model.patch

    def read(x: Tensor) -> Tensor:
        rows = together(x).reshape(-1, side // r, r, side // c, c)
        return rows.transpose(2, 3).reshape(-1, *shape)

    return read


def _prepared(model: ModelConfig, task: Task) -> Reads:
    """Grey images of a task as an imported ViT reads them: resized, a class token before them."""
    if model.input_scale is None:
        raise InputError(
            "the teacher takes prepared pixels and samples are raw ones; import it with"
            " --raw-pixels"
        )
    assert model.features is not None
    together, side, scale = _flat_of(task.patch, task), _side(task), model.input_scale
    channels = next(
        c for c in COLOURS if math.isqrt(model.features // c) ** 2 * c == model.features
    )
    patch = math.isqrt(model.features // channels)
    theirs = patch * math.isqrt(model.tokens - 1)

    def read(x: Tensor) -> Tensor:
        pixels = together(x).reshape(-1, 1, side, side) * (scale / task.input_scale)
        if theirs != side:
            pixels = nn.functional.interpolate(pixels, size=theirs, mode="bilinear")
        return image_tokens(pixels.expand(-1, channels, -1, -1), patch)

    return read


def _flat_of(patch: tuple[int, int] | None, task: Task) -> Reads:
    """Samples (B, tokens, features) to all numbers of each, of images row by row."""
    if patch is None or patch[0] == 1:  # parts of rows are in order
        return lambda x: x.flatten(1)
    side, (r, c) = _side(task), patch

    def flat(x: Tensor) -> Tensor:
        cut = x.reshape(-1, side // r, side // c, r, c)
        return cut.transpose(2, 3).flatten(1)

    return flat


def _side(task: Task) -> int:
    """Of square images in grey."""
    count = math.prod(task.input_shape)
    side = math.isqrt(count)
    if side**2 != count or task.image not in (None, (side, side)):
        raise InputError(
            f"the teacher cuts images otherwise than the student, and the {count} numbers of a"
            f" sample of {task.source} are no square image in grey; give one of the same tokens"
        )
    return side
