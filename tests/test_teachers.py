"""A teacher of another shape reads the same samples; its layers say how far a student's are."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from torusformer import InputError
from torusformer.models import ModelConfig, Transformer, load_task, to_images
from torusformer.models.foreign.vit import image_tokens
from torusformer.models.task import Task
from torusformer.models.teacher import Teacher, has_answers, with_head
from torusformer.quantize import (
    QuantConfig,
    TrainConfig,
    calibrate,
    predict,
    to_qat,
    train,
)
from torusformer.quantize.convert import narrowed
from torusformer.quantize.guidance import LayerLoss, layer_pairs
from torusformer.quantize.layers import AccumulatorRounding
from torusformer.quantize.rings import watched

SMALL = ModelConfig(
    tokens=4, features=16, patch=(4, 4), num_classes=10, input_scale=16.0, dim=8, mlp_dim=8
)


def digits(config: ModelConfig = SMALL) -> Task:
    """A part of them."""
    task = load_task("digits", patch=config.patch, input_shape=config.input_shape)
    return dataclasses.replace(task, x_train=task.x_train[:256], y_train=task.y_train[:256])


def transformer(config: ModelConfig, seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    return Transformer(config).eval()


@pytest.mark.parametrize("ours", [(4, 4), (1, 8)], ids=str)
@pytest.mark.parametrize("theirs", [(2, 2), (1, 4), (8, 2), None], ids=str)
def test_teacher_reads_what_it_would_read_of_the_same_samples(
    ours: tuple[int, int], theirs: tuple[int, int] | None
) -> None:
    rows, columns = ours
    features = rows * columns
    task = load_task("digits", patch=ours, input_shape=(64 // features, features))
    shape = (16, 4) if theirs is None else (64 // (theirs[0] * theirs[1]), theirs[0] * theirs[1])
    model = transformer(SMALL.replace(tokens=shape[0], features=shape[1], patch=theirs))
    same = load_task("digits", patch=theirs or (1, 4), input_shape=shape)  # rows in order: (1, 4)
    teacher = Teacher(model, task)
    assert not teacher.same_tokens
    assert np.array_equal(predict(teacher, task.x_test[:8]), predict(model, same.x_test[:8]))


def test_teacher_of_the_same_tokens_reads_them_as_they_are() -> None:
    teacher = Teacher(transformer(SMALL.replace(dim=16)), digits())
    assert teacher.same_tokens
    x = torch.from_numpy(digits().x_test[:4])
    assert teacher.reads(x) is x


@pytest.mark.parametrize(("patch", "channels", "side"), [(4, 1, 8), (4, 3, 16)])
def test_an_imported_vit_reads_images_resized_and_behind_a_class_token(
    patch: int, channels: int, side: int
) -> None:
    tokens, features = (side // patch) ** 2 + 1, channels * patch**2
    vit = SMALL.replace(
        tokens=tokens, features=features, patch=None, input_scale=255.0, pooling="first"
    )
    task = digits()
    images = torch.from_numpy(to_images(task.x_test[:4], (4, 4), 8)).unsqueeze(1) * 255 / 16
    wide = nn.functional.interpolate(images, size=side, mode="bilinear")
    expected = image_tokens(wide.expand(-1, channels, -1, -1), patch)
    teacher = Teacher(transformer(vit), task, images=True)
    assert torch.equal(teacher.reads(torch.from_numpy(task.x_test[:4])), expected)
    assert teacher(torch.from_numpy(task.x_test[:4])).shape == (4, 10)
    with pytest.raises(InputError, match="--raw-pixels"):
        Teacher(transformer(vit.replace(input_scale=None)), task, images=True)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"tokens": 9, "patch": None}, "reads 144 numbers a sample and those of .* have 64"),
        (
            {"features": None, "patch": None, "input_scale": None, "vocabulary": 30},
            "reads ids of 30 tokens and .* holds numbers",
        ),
    ],
)
def test_teacher_of_other_inputs_is_refused(changes: dict[str, object], cause: str) -> None:
    with pytest.raises(InputError, match=cause):
        Teacher(transformer(SMALL.replace(**changes)), digits())


def test_what_a_head_is_trained_for() -> None:
    task = digits()
    assert has_answers(SMALL, task)
    with pytest.raises(InputError, match="tells 7 classes apart"):
        has_answers(SMALL.replace(num_classes=7), task)
    hidden = transformer(SMALL.replace(num_classes=None, hidden=True))
    assert not has_answers(hidden.config, task)
    for images, pooling in ((False, "mean"), (True, "first")):
        headed = with_head(hidden, 10, images=images)
        assert (headed.config.pooling, headed.config.num_classes) == (pooling, 10)
        x = torch.from_numpy(task.x_test[:3])
        states = hidden(x)  # normed token by token, but for the pooling
        if images:
            torch.testing.assert_close(headed(x), headed.head(states[:, 0]))


def test_teacher_of_token_ids_has_the_same_vocabulary() -> None:
    ids = np.zeros((4, 6), np.int64)
    classes = np.array([0, 1, 0, 1])
    task = Task("text", ids, classes, ids, classes, ("a", "b"), "texts", vocabulary=tuple("abcde"))
    config = ModelConfig(tokens=8, vocabulary=5, num_classes=2, dim=8, mlp_dim=8)
    assert Teacher(transformer(config), task).same_tokens
    for changes, cause in (
        ({"vocabulary": 6}, "vocabulary has 6 tokens"),
        ({"tokens": 5}, "reads 5 tokens and texts has 6"),
    ):
        with pytest.raises(InputError, match=cause):
            Teacher(transformer(config.replace(**changes)), task)


def test_layers_are_spread_evenly() -> None:
    assert layer_pairs(2, 12) == ((0, 0), (1, 6), (2, 12))
    assert layer_pairs(3, 1) == ((0, 0), (1, 1), (2, 1), (3, 1))


def test_a_student_that_is_its_teacher_is_at_no_distance() -> None:
    task, model = digits(), transformer(SMALL)
    teacher = Teacher(model, task)
    layers = LayerLoss(model, teacher)
    assert layers.about() == {"hidden": [[0, 0], [1, 1], [2, 2]], "attention": [[1, 1], [2, 2]]}
    with layers.watching():
        teacher(torch.from_numpy(task.x_test[:8]))
        assert float(layers()) == 0.0


def test_distance_of_layers_is_that_of_states_and_scores() -> None:
    task, x = digits(), torch.from_numpy(digits().x_test[:8])
    student = transformer(SMALL.replace(layers=1))
    theirs = transformer(SMALL, seed=1)
    teacher = Teacher(theirs, task)
    layers = LayerLoss(student, teacher, hidden_weight=2.0, attention_weight=0.5)
    with layers.watching():
        teacher(x), student(x)
        found = float(layers())

    def share(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a - b).square().mean() / b.square().mean())

    def scores(model: Transformer, before: torch.Tensor, layer: int) -> torch.Tensor:
        attention = model.blocks[layer].attention
        read = model.blocks[layer].norm1(before)
        q, k = (getattr(attention, p)(read).unflatten(-1, (2, 4)) for p in ("query", "key"))
        return torch.einsum("bqhd,bkhd->bhqk", q, k) / 2

    with torch.no_grad():
        ours0, theirs0 = student._embedded(x), theirs._embedded(x)
        ours1, theirs1 = student.blocks[0](ours0), theirs.blocks[0](theirs0)
        theirs2 = theirs.blocks[1](theirs1)
        states = [share(ours0, theirs0), share(ours1, theirs2)]
        score = share(scores(student, ours0, 0), scores(theirs, theirs1, 1))
    assert found == pytest.approx(2.0 * np.mean(states) + 0.5 * score, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "attention"),
    [({"heads": 4}, 0), ({"attention": "tanh"}, 0), ({"attention": "quad"}, 2),
     ({"pooling": "query"}, 1), ({"dim": 12}, 2)],
)  # fmt: skip
def test_attention_is_compared_where_shapes_allow(
    changes: dict[str, object], attention: int
) -> None:
    teacher = Teacher(transformer(SMALL), digits())
    student = transformer(SMALL.replace(**changes))
    layers = LayerLoss(student, teacher)
    assert (len(layers.states), len(layers.scores)) == (3, attention)
    with layers.watching():
        teacher(x := torch.from_numpy(digits().x_test[:4])), student(x)
        assert torch.isfinite(layers())


def test_training_brings_layers_nearer_and_leaves_no_hook() -> None:
    task, x = digits(), torch.from_numpy(digits().x_test[:64])
    teacher = Teacher(transformer(SMALL.replace(dim=16), seed=1), task)
    student = transformer(SMALL)
    layers = LayerLoss(student, teacher)

    def distance() -> float:
        with layers.watching():
            teacher(x), student(x)
            return float(layers())

    before = distance()
    config = TrainConfig(float_epochs=2, augment=0.0)
    train(student, task, config, teacher=teacher, layers=layers, progress=False)
    assert distance() < 0.7 * before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in student.modules())


@pytest.mark.parametrize("name", ["digits-fast", "digits-softmax"])
def test_on_the_way_no_sum_is_rounded_and_none_wraps(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, quant = ModelConfig.from_name(name), QuantConfig.from_name(name)
    x, model = digits(config).x_train[:128], transformer(config)
    dropped: list[int] = []
    inner = AccumulatorRounding._lsbs

    def spied(self: AccumulatorRounding, lo: torch.Tensor, hi: torch.Tensor) -> int:
        dropped.append(inner(self, lo, hi))
        return dropped[-1]

    monkeypatch.setattr(AccumulatorRounding, "_lsbs", spied)
    for narrow in (False, True):
        twin = to_qat(model, quant if narrow else quant.widened(4))
        calibrate(twin, x)
        dropped.clear()
        with watched(twin) as sums:
            predict(twin, x)
        shares = [float(share.max()) for _, share in sums]
        assert (max(dropped, default=0) > 0 or max(shares, default=0) > 0.5) is narrow
    assert quant.widened(1).act_bit_width == quant.act_bit_width


def test_narrowed_takes_the_weights_and_new_scales() -> None:
    config, quant = ModelConfig.from_name("digits-small"), QuantConfig.from_name("digits-small")
    task = digits(config)
    wide = to_qat(transformer(config), quant.widened(4))
    calibrate(wide, task.x_train)
    narrow = narrowed(wide, quant)
    calibrate(narrow, task.x_train)
    assert narrow.config == quant
    before, after = wide.state_dict(), narrow.state_dict()
    weights = [name for name in before if not name.endswith("log_scale")]
    assert all(torch.equal(before[name], after[name]) for name in weights)
    assert any(not torch.equal(before[n], after[n]) for n in before if n not in weights)
    with pytest.raises(InputError, match="is another layer in these bit widths"):
        narrowed(wide, quant.replace(embed_table=True))
