"""A teacher and a recipe in; a student narrowed step by step out, each stage kept as it is done.

| stage | what learns | of whom |
|---|---|---|
| teacher | the teacher with a new head, where its answers are not the task's | the data |
| texts | of texts: nothing; the teacher answers them, and many made of their parts | |
| float | the student in floating point | answers, hidden states and attention of the teacher |
| 4-bit, 3-bit, … | the quantized student, weights and codes of so many bits, wide sums | answers |
| qat | the same in the bit widths of its preset | answers |

A stage begins with the weights of the one before it. Sources: answers, arXiv 1503.02531; layers,
TinyBERT, arXiv 1909.10351, and MPCFormer, arXiv 2211.01452; teachers of quantized students, arXiv
1802.05668.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torusformer.fhe_compile import lower, plan
from torusformer.models import Task, Transformer
from torusformer.models.known_words import mapped_words
from torusformer.models.teacher import Teacher, has_room
from torusformer.pipelines.answers import InProcess
from torusformer.pipelines.baselines import baselines
from torusformer.pipelines.stage_store import Done, StageStore
from torusformer.pipelines.stages import REPORT, Stages, write_report
from torusformer.pipelines.teachers import Found
from torusformer.pipelines.training import (
    MEASURES,
    Recipe,
    quiet_brevitas,
    save_trained,
)
from torusformer.pipelines.transfer import extended
from torusformer.quantize import (
    QuantConfig,
    QuantTransformer,
    calibrate,
    evaluate,
    to_qat,
    train,
)
from torusformer.quantize.convert import narrowed
from torusformer.quantize.guidance import LayerLoss
from torusformer.work import LOCK, work_folder

# Of Adam on a model of width 768, arXiv 1810.04805; it falls with the width, arXiv 2203.03466.
TUNING_RATE = 5e-5 * 768
STEP_SHARE = 4  # steps on the way take this part of the last one's epochs
TEACHER, TEXTS, STUDENT, LAST = "teacher", "texts", "float", "qat"


@dataclass(frozen=True)
class How:
    """What to distil with: `steps` are the bits of the stages before the preset's.

    `hidden_weight` and `attention_weight` are those of layers beside answers, zero for none. So
    many `texts` are made of those of a text task; its student learns answers alone.
    """

    steps: Sequence[int] = (4, 3)
    teacher_epochs: int = 5
    hidden_weight: float = 1.0
    attention_weight: float = 1.0
    texts: int = 120_000


def widths(recipe: Recipe, steps: Sequence[int]) -> dict[str, QuantConfig]:
    """The bit widths of each quantized stage; a step that is the preset itself is left out."""
    found = {f"{bits}-bit": recipe.quant.widened(bits) for bits in steps}
    return {**{k: v for k, v in found.items() if v != recipe.quant}, LAST: recipe.quant}


def distill(folder: Path, found: Found, recipe: Recipe, how: How) -> dict[str, Any]:
    """Every stage that `folder` does not hold yet, and the report; what report.json says.

    The folder then holds what `train_into` leaves. Ended at any point, it goes on with the first
    stage that is not whole.

    Raises:
        InputError: teacher and task do not belong together.
    """
    given, task = recipe, recipe.task
    if not has_room(found.model.config, task):
        tokens = task.input_shape[0] + sum(map(len, task.marks))
        print(
            "note: the teacher reads texts without the marks around them, for which it has no room;"
            f" to give it them, import it with --tokens {tokens}",
            file=sys.stderr,
        )
    ready, configs = found.ready(recipe.task), widths(recipe, how.steps)
    of_texts = recipe.task.tokenizer is not None
    store = StageStore(folder, 1 + of_texts + 1 + len(configs) + 1)
    with quiet_brevitas():
        teacher = _teacher(store, found, recipe, how, ready)
        asked: Teacher | None = teacher
        if of_texts:  # it is asked once; a student's epochs are many
            asked, how = None, dataclasses.replace(how, hidden_weight=0.0, attention_weight=0.0)
            recipe = dataclasses.replace(recipe, task=_extended(store, teacher, recipe, how))
        words = teacher.words(recipe.task) if of_texts else None
        student = _student(store, teacher, recipe, how, words)
        twin: QuantTransformer | None = None
        for name, config in configs.items():
            twin = _narrower(store, name, config, twin, (student, asked), recipe, words)
        assert twin is not None, "the last stage is always there"
        return _report(folder, store, given, how, (teacher, student, twin))


def _teacher(store: StageStore, found: Found, recipe: Recipe, how: How, ready: bool) -> Teacher:
    """Who is asked; fine-tuned on the training half where its answers are not the task's."""
    task = recipe.task
    if ready:
        teacher = found.teaching(task)

        def asked() -> Done:
            right, of_training = (evaluate(teacher, task, of_training=w) for w in (False, True))
            return Done(TEACHER, "float, as it is", right, of_training)

        store.note(TEACHER, asked)
        return teacher
    torch.manual_seed(recipe.training.seed)
    model = found.headed(task)
    rate = min(recipe.training.float_learning_rate, TUNING_RATE / model.config.dim)
    config = recipe.training.replace(
        float_learning_rate=rate, float_epochs=how.teacher_epochs, distillation=0.0
    )

    def tuned() -> tuple[Transformer, Done]:
        history = train(found.teaching(task, model), task, config, quantized=False, label=TEACHER)
        about = Done.of(TEACHER, "float, fine-tuned", history, config.float_epochs)
        return model, about

    return found.teaching(task, store.model(TEACHER, Transformer, tuned))


def _extended(store: StageStore, teacher: Teacher, recipe: Recipe, how: How) -> Task:
    """A task of texts with the teacher's answers to them and to many that are made of them."""
    task, seed = recipe.task, recipe.training.seed
    return store.texts(TEXTS, task, lambda: extended(task, teacher, how.texts, seed))


def _student(
    store: StageStore, teacher: Teacher, recipe: Recipe, how: How, words: Tensor | None
) -> Transformer:
    """The float student, untrained before it is taught, but for what it knows of `words`, if any.

    With them it learns of the answers that the task has, else of the teacher itself.
    """

    def taught() -> tuple[Transformer, Done]:
        torch.manual_seed(recipe.training.seed)
        student = Transformer(recipe.model)
        layers = _layers(student, teacher, how)
        task, training = recipe.task, recipe.training
        asked = teacher if words is None else None
        with nullcontext() if words is None else mapped_words(student, words):
            history = train(student, task, training, teacher=asked, layers=layers, label=STUDENT)
        return student, Done.of(STUDENT, "float", history, recipe.training.float_epochs)

    return store.model(STUDENT, Transformer, taught)


def _layers(student: Transformer, teacher: Teacher, how: How) -> LayerLoss | None:
    """What is learned besides answers, if anything."""
    layers = LayerLoss(
        student, teacher, hidden_weight=how.hidden_weight, attention_weight=how.attention_weight
    )
    return layers if layers.states or layers.scores else None


def _narrower(
    store: StageStore,
    name: str,
    config: QuantConfig,
    before: QuantTransformer | None,
    taught: tuple[Transformer, Teacher | None],
    recipe: Recipe,
    words: Tensor | None,
) -> QuantTransformer:
    """The student in these bit widths, on from those before.

    What it learns of one of the `words`, if any, still holds for those that mean about the same.
    """
    (student, teacher), training = taught, recipe.training
    if name != LAST:
        training = training.replace(qat_epochs=-(-training.qat_epochs // STEP_SHARE))

    def learned() -> tuple[QuantTransformer, Done]:
        torch.manual_seed(training.seed)
        twin = to_qat(student, config) if before is None else narrowed(before, config)
        calibrate(twin, recipe.task.x_train)
        with nullcontext() if words is None else mapped_words(twin, words, trained=True):
            history = train(twin, recipe.task, training, teacher=teacher, label=name)
        for warning in history.warnings if name == LAST else ():
            print(f"warning: {warning}", file=sys.stderr)
        bits = f"weights {config.weight_bit_width}, codes {config.act_bit_width} bits"
        return twin, Done.of(name, bits, history, training.qat_epochs)

    return store.model(name, QuantTransformer, learned)


def _report(
    folder: Path,
    store: StageStore,
    recipe: Recipe,
    how: How,
    models: tuple[Teacher, Transformer, QuantTransformer],
) -> dict[str, Any]:
    """Write what a training leaves, and what each stage came to."""
    teacher, student, twin = models
    measures, stages = MEASURES[recipe.task.measure], Stages()
    with work_folder(folder, ".result") as work:
        trained = save_trained(work, recipe, student, twin)
        checked, cost, bootstraps = {}, {}, 0
        if trained.program is None:
            program = lower(work / recipe.graph, recipe.about())
            right = InProcess(program).classes(recipe.task.x_test) == recipe.task.y_test
            planned = plan(program)
            checked = {measures[2]: round(float(right.mean()), 4)}
            bootstraps = planned.pbs_total
            cost = {
                "pbs_total": bootstraps,
                "predicted_seconds": round(planned.predicted_seconds, 3),
            }
        beside = store.numbers("baselines", lambda: baselines(recipe, bootstraps))
        layers = _layers(student, teacher, how)
        report = {
            "task": recipe.task.name,
            "source": Path(recipe.task.source).name,
            "preset": recipe.preset,
            "seed": recipe.training.seed,
            "measure": recipe.task.measure,
            "test_count": recipe.task.test_count,
            "stages": [done.to_json() for done in store.done],
            "layers": {"hidden": [], "attention": []} if layers is None else layers.about(),
            **trained.to_json(),
            **checked,
            "baselines": beside,
            "plan": cost,
        }
        stages.seconds = {done.stage: round(done.seconds, 1) for done in store.done}
        written = write_report(work, report, stages)
        for path in sorted(work.iterdir(), key=lambda path: path.name == REPORT):
            _replace(path, folder / path.name)
    return written


def _replace(new: Path, old: Path) -> None:
    """Put a file or folder in the place of an older one, but for the work folder's lock."""
    if new.name == LOCK:
        return
    if old.is_dir():
        shutil.rmtree(old)
    new.replace(old)
