"""A search space and limits in; trained candidates, their Pareto front and its settings out.

Accuracy is that of the integer program on validation samples, a fifth of the training half: no
candidate is chosen by what it does on the held-out samples, which only the front's members are
asked in the end. Seconds are those of the plan; of several lengths of texts, of the longest.

Candidate number n is drawn by a sampler seeded with (seed, n) from what the n before it measured,
so a search that was interrupted finds what it would have found without.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from torusformer import TorusformerError
from torusformer.fhe_compile import Program, load_program, lower, plan, save_program
from torusformer.models import Task
from torusformer.models.sentiment import TextOptions
from torusformer.models.tasks import OF_TEXTS
from torusformer.pipelines.answers import InProcess
from torusformer.pipelines.console import percent
from torusformer.pipelines.front import Limits, Measured, draw_front, pareto_front
from torusformer.pipelines.search_folder import PROGRAMS
from torusformer.pipelines.search_space import Space, Value
from torusformer.pipelines.settings import Settings
from torusformer.pipelines.training import Recipe, train_into
from torusformer.progress import Progress
from torusformer.work import scratch_folder, work_folder

CONFIGS, FRONT, PICTURE = "configs", "front.json", "front.png"
VALIDATION = 0.2  # of the training half
SLACK = 1.2  # training moves a plan about so far: within it an untrained plan refuses nobody
NEIGHBOURS = 8  # of the presets, before the sampler has seen enough
FEW = 64
DRAWS = 20  # candidates looked at, at most, for each one trained


@dataclass(frozen=True)
class Search:
    """What to search for and on what."""

    task: str
    space: Space
    limits: Limits = field(default_factory=Limits)
    data: Path | None = None
    seed: int = 0
    texts: TextOptions | None = None
    read: dict[tuple[int, int | None], Task] = field(default_factory=dict, compare=False)

    def recipe(self, settings: Settings) -> Recipe:
        """Settings on the whole task. Texts are read once: no field of the space changes ids."""
        if self.task not in OF_TEXTS:
            return Recipe.from_settings(self.task, settings, data=self.data)
        key = settings.model.tokens, settings.model.vocabulary
        if key not in self.read:
            made = Recipe.from_settings(self.task, settings, data=self.data, texts=self.texts)
            self.read[key] = made.task
        return Recipe.of_task(self.read[key], settings)


@dataclass(frozen=True)
class Skipped:
    """A candidate that is not trained; `excess` says how far it is from what may be."""

    reason: str
    excess: float


def validation_split(task: Task, portion: float = VALIDATION) -> Task:
    """The training half alone, `portion` of every class of it in place of the held-out samples."""
    rng = np.random.default_rng(0)
    held: list[int] = []
    for label in np.unique(task.y_train):
        members = rng.permutation(np.flatnonzero(task.y_train == label))
        held.extend(members[: max(1, round(portion * len(members)))])
    chosen = np.zeros(len(task.y_train), dtype=bool)
    chosen[held] = True
    return dataclasses.replace(
        task,
        x_train=task.x_train[~chosen],
        y_train=task.y_train[~chosen],
        x_test=task.x_train[chosen],
        y_test=task.y_train[chosen],
    )


def run_search(search: Search, study: optuna.Study, folder: Path, trials: int) -> None:
    """Train candidates until `trials` are measured; each is kept in `study` as it is done."""
    for ended in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(ended.number, state=TrialState.FAIL)  # its process was, before it was done
    kept = {_program(candidate.number) for candidate in measured(study)}
    for path in (folder / PROGRAMS).iterdir():  # of a process that was killed while it wrote
        if f"{PROGRAMS}/{path.name}" not in kept:
            path.unlink()
    before = len(measured(study))
    with Progress("tune", total=max(0, trials - before)) as progress:
        while len(measured(study)) < trials and _drawn(study) < DRAWS * trials:
            trial = _next_trial(search, study)
            result = _measure(search, study, trial, folder)
            if isinstance(result, Skipped):
                trial.set_user_attr("skipped", result.reason)
                trial.set_constraint("excess", result.excess)
                study.tell(trial, state=TrialState.PRUNED)
                progress.note = f"candidate {trial.number} skipped"
                continue
            trial.set_user_attr("measured", dataclasses.asdict(result))
            for name, excess in search.limits.excess(result).items():
                trial.set_constraint(name, excess)
            study.tell(trial, (result.accuracy, result.seconds))
            progress.advance(
                f"candidate {result.number}: {percent(result.accuracy)}, {result.seconds:.2f} s"
            )


def measured(study: optuna.Study) -> list[Measured]:
    """Every candidate that was trained to its end."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [Measured(**trial.user_attrs["measured"]) for trial in trials]


def report(search: Search, study: optuna.Study, folder: Path) -> dict[str, Any]:
    """Ask the front the held-out samples; write front.json, front.png and configs/."""
    done = measured(study)
    front, best = pareto_front(done), search.limits.best(done)
    params = {trial.number: trial.params for trial in study.get_trials(deepcopy=False)}
    with work_folder(folder, ".report") as work:
        (work / CONFIGS).mkdir()
        rows = []
        for member in front:
            settings = _settings(search, params[member.number], member.number)
            settings.save(work / CONFIGS / f"{member.number:03d}.json")
            rows.append(_row(search, settings, member, folder))
        skipped = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
        data = {
            "task": search.task,
            "min_accuracy": search.limits.min_accuracy,
            "max_seconds": search.limits.max_seconds,
            "front": rows,
            "best": None if best is None else best.number,
            "measured": [dataclasses.asdict(candidate) for candidate in done],
            "skipped": [
                {"candidate": trial.number, "why": trial.user_attrs["skipped"]} for trial in skipped
            ],
        }
        (work / FRONT).write_text(json.dumps(data, indent=2) + "\n")
        draw_front(work / PICTURE, done, search.limits)
        shutil.rmtree(folder / CONFIGS, ignore_errors=True)
        for name in (CONFIGS, FRONT, PICTURE):
            (work / name).replace(folder / name)
    return data


def _row(search: Search, settings: Settings, member: Measured, folder: Path) -> dict[str, Any]:
    task = search.recipe(settings).task
    program = load_program(folder / _program(member.number))
    return {
        "candidate": member.number,
        "changes": member.changes,
        "validation_accuracy": member.accuracy,
        "test_accuracy": _accuracy(program, task),
        "predicted_seconds": member.seconds,
        "pbs_total": member.pbs_total,
        "config": f"{CONFIGS}/{member.number:03d}.json",
    }


def _program(number: int) -> str:
    return f"{PROGRAMS}/{number:03d}.onnx"


def _accuracy(program: Program, task: Task) -> float:
    return float((InProcess(program).classes(task.x_test) == task.y_test).mean())


def _drawn(study: optuna.Study) -> int:
    """Candidates measured or skipped; those that were interrupted do not count."""
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    return len(study.get_trials(deepcopy=False, states=states))


def _next_trial(search: Search, study: optuna.Study) -> optuna.Trial:
    """The presets first, then their neighbours, then what Optuna makes of all that is measured."""
    drawn, presets = _drawn(study), search.space.presets
    source = np.random.SeedSequence([search.seed, drawn])
    if drawn < len(presets) + NEIGHBOURS and not study.get_trials(states=(TrialState.WAITING,)):
        preset = presets[drawn % len(presets)]
        near = search.space.near(preset, np.random.default_rng(source))
        study.enqueue_trial(near if drawn >= len(presets) else search.space.start(preset))
    study.sampler = optuna.samplers.TPESampler(
        n_startup_trials=len(presets) + NEIGHBOURS, seed=int(source.generate_state(1)[0])
    )
    return study.ask()


def _settings(search: Search, candidate: Mapping[str, Value], number: int) -> Settings:
    base = str(candidate.get("preset", search.space.presets[0].name))
    return search.space.settings(candidate, f"{base}-{number:03d}")


def _measure(
    search: Search, study: optuna.Study, trial: optuna.Trial, folder: Path
) -> Measured | Skipped:
    """Plan a candidate untrained; if that is within the limits, train, lower and plan it."""
    candidate = search.space.suggest(trial)
    for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        if other.params == candidate:
            return Skipped(f"is candidate {other.number} again", 1.0)
    try:
        recipe = search.recipe(_settings(search, candidate, trial.number))
        recipe = dataclasses.replace(recipe, task=validation_split(recipe.task))
        most = search.limits.most_seconds(measured(study))
        seconds = plan(_lowered(_untrained(recipe))).predicted_seconds
        if seconds > SLACK * most:
            why = f"its plan says {seconds:.2f} s before training, {most:.2f} s is the most"
            return Skipped(why, seconds / most - 1)
        program = _lowered(recipe)
        cost = plan(program)
    except TorusformerError as error:  # fields that do not go together, or bits beyond a table
        return Skipped(str(error), 1.0)
    result = Measured(
        number=trial.number,
        accuracy=_accuracy(program, recipe.task),
        seconds=cost.predicted_seconds,
        pbs_total=cost.pbs_total,
        changes=search.space.changes(candidate),
    )
    save_program(program, folder / _program(trial.number))
    return result


def _untrained(recipe: Recipe) -> Recipe:
    """The same without training, on few samples: for a plan, which asks no more."""
    task, few = recipe.task, FEW
    return dataclasses.replace(
        recipe,
        training=recipe.training.replace(float_epochs=0, qat_epochs=0),
        task=dataclasses.replace(
            task,
            x_train=task.x_train[:few],
            y_train=task.y_train[:few],
            x_test=task.x_test[:few],
            y_test=task.y_test[:few],
        ),
    )


def _lowered(recipe: Recipe) -> Program:
    """Train, without a word, and lower; of several lengths the longest."""
    recipe = dataclasses.replace(recipe, lengths=())
    with scratch_folder() as folder:
        train_into(folder, recipe, progress=False)
        return lower(folder / recipe.graph, recipe.about())
