"""Part `sentences`: texts classified encrypted, each at its length, and what stands beside that.

Measured on a folder of the user's (`make bench ONLY=sentences DATA=folder`):

| in it | what |
|---|---|
| `train.tsv`, `dev.tsv` | texts and labels; figures are of the second |
| `student-best/`, `student-fast/` | what `distill` left: presets `sentiment`, `sentiment-fast` |
| `teacher/` | what `import` left; needed for a student that is not there, which is distilled then |

In quick runs without a folder, on a few made-up sentences and a tiny model.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.render import percent, table
from benchmarks.runner import FOLDER, Bench, Part
from benchmarks.students import Student, by_length, mean
from benchmarks.trained import digest
from torusformer import InputError
from torusformer.folders import is_ours, output_folder
from torusformer.models.sentiment import TextOptions
from torusformer.models.texts import read_texts
from torusformer.pipelines.baselines import ON_COUNTS, linear_accuracy
from torusformer.pipelines.cli import main
from torusformer.pipelines.console import size
from torusformer.pipelines.settings import Settings
from torusformer.pipelines.teachers import digest as digest_of_teacher
from torusformer.pipelines.training import Recipe, train_into

STUDENTS = {"student-best": "sentiment", "student-fast": "sentiment-fast"}
TRAIN, TEST, TEACHER, RUNS = "train.tsv", "dev.tsv", "teacher", 20
QUICK, QUICK_RUNS = "tiny-sentences", 2
WORDS = {"a": 0, "film": 0, "not": 0, "good": 1, "fine": 1, "bad": -1, "dull": -1}


def made_up(folder: Path) -> Path:
    """Sentences of one to three words, good or bad by one of them."""
    folder.mkdir(exist_ok=True)
    texts = [t for n in (1, 2, 3) for t in itertools.product(WORDS, repeat=n)]
    known = [t for t in texts if sum(WORDS[word] != 0 for word in t) == 1]
    ends = {1: "up", -1: "down"}
    rows = [f"{' '.join(t)}\t{ends[sum(WORDS[word] for word in t)]}\n" for t in known]
    (folder / TRAIN).write_text("".join(rows[::2]))
    (folder / TEST).write_text("".join(rows[1::2]))
    return folder


def student(bench: Bench, data: Path, name: str) -> Student:
    """The one in the folder; or it is distilled of the teacher, in quick runs trained."""
    without_data = bench.quick and bench.data is None
    preset = QUICK if without_data else STUDENTS[name]
    if (data / name).is_dir():
        return Student.of(data / name, preset, bench.store.models)
    if without_data:
        return Student.of(_trained(bench, data), preset, bench.store.models)
    if not (data / TEACHER).is_dir():
        raise InputError(
            f"{data}: holds neither {name} nor {TEACHER}; give what distill left, or a teacher"
        )
    return Student.of(_distilled(bench, data, preset), preset, bench.store.models)


def _trained(bench: Bench, data: Path) -> Path:
    texts = TextOptions(data / TEST)
    recipe = Recipe.from_name("sentiment", QUICK, data=data / TRAIN, epochs=2, texts=texts)
    folder = bench.store.models / f"{QUICK}.run"
    if not is_ours(folder, "run"):
        with output_folder(folder, "run") as new:
            train_into(new, recipe)
    return folder


def _distilled(bench: Bench, data: Path, preset: str) -> Path:
    """By the command, which goes on where it was interrupted."""
    settings = {
        "preset": Settings.from_name(preset).to_dict(),
        "teacher": digest_of_teacher(data / TEACHER),
        "texts": [(data / name).read_text() for name in (TRAIN, TEST)],
    }
    folder = bench.store.models / f"{preset}-{digest(settings)}.run"
    files = ["--data", str(data / TRAIN), "--test", str(data / TEST), "--out", str(folder)]
    line = ["distill", "--task", "sentiment", "--preset", preset, "--teacher", str(data / TEACHER)]
    if main([*line, *files]) != 0:
        raise InputError(f"{data / TEACHER}: {preset} could not be distilled of it, as said above")
    return folder


def beside(best: Student, data: Path) -> list[dict[str, Any]]:
    """What the model has to beat, and whom it learned of."""
    task = best.task(read_texts(data / TRAIN), read_texts(data / TEST))
    rows = [
        {"name": ON_COUNTS, "accuracy": round(linear_accuracy(task), 4), "pbs_total": 0},
        {"name": "float student", "accuracy": best.float_accuracy(task), "pbs_total": None},
    ]
    teacher = best.teacher_accuracy((data / TEST).read_bytes())
    if teacher is not None:
        rows.append({"name": "teacher", "accuracy": teacher, "pbs_total": None})
    return rows


def measure(bench: Bench) -> dict[str, Any]:
    """Every held-out text in the clear, some of each length encrypted."""
    data = bench.data or made_up(bench.store.folder / "made-up")
    test, count = read_texts(data / TEST), QUICK_RUNS if bench.quick else RUNS
    best, fast = (student(bench, data, name) for name in STUDENTS)
    known = {}
    for one in (best, fast):
        known[one] = {
            "accuracy": bench.keep(f"{one.key}.accuracy", one.accuracy, test),
            "plan": bench.keep(f"{one.key}.plan", one.plans),
            "runs": one.runs(bench, test, count),
        }
    linear, *others = bench.keep(f"{best.key}.beside", beside, best, data)
    runs, fast_runs = known[best]["runs"], known[fast]["runs"]
    bag = {
        "name": f"bag of phrases ({fast.preset})",
        "accuracy": known[fast]["accuracy"],
        "pbs_total": max(made["pbs_total"] for made in known[fast]["plan"].values()),
    }
    longest = max(runs, key=lambda run: run["length"])
    return {
        "preset": best.preset,
        "test_count": len(test.texts),
        "accuracy": known[best]["accuracy"],
        "fast_accuracy": known[fast]["accuracy"],
        "fast_seconds": mean(fast_runs, "seconds"),
        "seconds_by_length": by_length(runs, "seconds"),
        "runs": len(runs),
        "fast_runs": len(fast_runs),
        "bit_exact": all(run["bit_exact"] for run in (*runs, *fast_runs)),
        "baselines": [linear, bag, *others],
        "plan_by_length": known[best]["plan"],
        "request_bytes": longest["request_bytes"],
        "reply_bytes": longest["reply_bytes"],
        "key_bytes": longest["key_bytes"],
        "request_bytes_by_length": by_length(runs, "request_bytes"),
        "fast": {
            "preset": fast.preset,
            "plan_by_length": known[fast]["plan"],
            "seconds_by_length": by_length(fast_runs, "seconds"),
            "request_bytes": max(run["request_bytes"] for run in fast_runs),
            "reply_bytes": max(run["reply_bytes"] for run in fast_runs),
            "key_bytes": fast_runs[0]["key_bytes"],
        },
    }


def render(result: Mapping[str, Any]) -> str:
    """Both presets by length, then accuracies."""
    lengths = []
    for of in (result, result["fast"]):
        for n, made in of["plan_by_length"].items():
            seconds = of["seconds_by_length"].get(n)
            lengths.append(
                (of["preset"], int(n), made["pbs_total"], made["predicted_seconds"], seconds)
            )
    longest = max(result["plan_by_length"].values(), key=lambda made: made["pbs_total"])
    models = [(result["preset"], percent(result["accuracy"]), longest["pbs_total"])]
    for row in result["baselines"]:
        models.append((row["name"], percent(row["accuracy"]), row["pbs_total"]))
    names = ("request_bytes", "reply_bytes", "key_bytes")
    request, reply, keys = (size(result[name]) for name in names)
    exact = "every integer as in the clear" if result["bit_exact"] else "NOT as in the clear"
    return (
        f"{table(('preset', 'length', 'PBS', 'planned s', 'encrypted s'), lengths)}\n\n"
        f"{table(('model', 'accuracy', 'PBS'), models)}\n\n"
        f"Accuracies are those of all {result['test_count']:,} held-out texts, cut at the longest "
        f"length; of {result['preset']} that of its integer programs. Encrypted: {result['runs']} "
        f"texts with {result['preset']}, {result['fast_runs']} with {result['fast']['preset']}, "
        f"{exact}. At the longest length a request is {request}, a reply {reply}; keys for all "
        f"lengths are {keys}, sent once."
    )


SENTENCES = Part(
    "sentences",
    "Texts, classified unread",
    "The presets `sentiment` and `sentiment-fast`, each compiled for several lengths under one set "
    "of keys, on held-out texts. Left out without `--data`.",
    measure,
    render,
    data=FOLDER,
)
