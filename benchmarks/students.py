"""A folder that `train` or `distill` left of a classifier of texts in; its programs, encrypted too.

Programs are lowered and compiled once for the graphs that they come from.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.runner import Bench
from benchmarks.store import read
from torusformer import ArtifactError
from torusformer.fhe_compile import lower, save_program
from torusformer.fhe_compile.prices.cost import load_prices
from torusformer.fhe_compile.prices.failure import EXACT
from torusformer.folders import is_ours, output_folder
from torusformer.models import Transformer
from torusformer.models.task import Task
from torusformer.models.texts import Texts
from torusformer.models.tokenizer import Tokenizer
from torusformer.pipelines.lengths import compile_lengths, plan_lengths
from torusformer.pipelines.sentences import Sentences, of_deployment, of_programs
from torusformer.pipelines.training import FLOAT
from torusformer.progress import track
from torusformer.quantize import evaluate
from torusformer.strict_json import parse_texts

GRAPH = re.compile(r"model\.(?:(\d+)\.)?qonnx\.onnx")
ASKED, REPORT, TEACHER = "distillation.json", "report.json", "teacher"  # of `distill`


@dataclass(frozen=True, eq=False)
class Student:
    """A classifier of texts: `folder` is what its training left, `place` where programs go."""

    preset: str
    folder: Path
    place: Path

    @classmethod
    def of(cls, folder: Path, preset: str, models: Path) -> Student:
        """Lower its graphs, unless these were lowered before."""
        graphs = [path for path in sorted(folder.iterdir()) if GRAPH.fullmatch(path.name)]
        if not graphs:
            raise ArtifactError(
                f"{folder}: holds no model.qonnx.onnx; give what train or distill left"
            )
        whole = hashlib.sha256(b"".join(path.read_bytes() for path in graphs)).hexdigest()
        place = models / f"{preset}-{whole[:8]}"
        if not is_ours(place, "programs"):
            with output_folder(place, "programs") as new:
                for path in track(graphs, "lower"):
                    model = onnx.load(str(path))
                    program = lower(path, {p.key: p.value for p in model.metadata_props})
                    tokens = program.inputs[0].real_shape[-1]
                    save_program(program, new / f"program.{tokens}.onnx")
                Tokenizer.load(folder, template=True).save(new)
        return cls(preset, folder, place)

    @property
    def key(self) -> str:
        """What was measured of it is never taken for another's."""
        return self.place.name

    @cached_property
    def clear(self) -> Sentences:
        """Its programs, interpreted."""
        return of_programs(self.place)

    @cached_property
    def encrypted(self) -> Sentences:
        """Client and server of all lengths, and keys that the server has read."""
        folder = self.place.with_name(f"{self.key}.deployment")
        if not is_ours(folder, "deployment of lengths"):
            planned, _ = plan_lengths(self.clear.programs, load_prices(), EXACT)
            compile_lengths(planned, folder, self.clear.tokenizer)
        found = of_deployment(folder)
        for length in found.lengths:
            found.answer([found.tokenizer.padding], length)
        return found

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of its classes."""
        return tuple(parse_texts(self.clear.programs[self.clear.lengths[-1]].metadata["labels"]))

    def ids(self, texts: Texts) -> list[list[int]]:
        """Pieces of texts, cut at the longest length."""
        return [self.clear.ids(text, truncate=True) for text in texts.texts]

    def task(self, train: Texts, test: Texts) -> Task:
        """The texts as it reads them, for what stands beside it."""
        tokens, places = self.clear.lengths[-1], {name: i for i, name in enumerate(self.labels)}
        parts = [
            (
                self.clear.tokenizer.rows(texts.texts, tokens)[0],
                np.array([places[label] for label in texts.labels], np.int64),
            )
            for texts in (train, test)
        ]
        tokenizer = self.clear.tokenizer
        return Task(
            "sentiment", *parts[0], *parts[1], self.labels, str(self.folder),
            vocabulary=tokenizer.vocabulary, tokenizer=tokenizer,
        )  # fmt: skip

    def plans(self) -> dict[str, dict[str, Any]]:
        """Bootstraps and seconds of each length."""
        _, plans = plan_lengths(self.clear.programs, load_prices(), EXACT)
        return {
            str(n): {
                "pbs_total": made.pbs_total,
                "predicted_seconds": round(made.predicted_seconds, 3),
            }
            for n, made in plans.items()
        }

    def accuracy(self, test: Texts) -> float:
        """Share of texts of which the integer program of their length names the label."""
        answers, _ = self.clear.answer_all(self.ids(test), "held-out texts")
        right = [a.answer.prediction == b for a, b in zip(answers, test.labels, strict=True)]
        return round(float(np.mean(right)), 4)

    def float_accuracy(self, task: Task) -> float:
        """The same of the float model that it was quantized from."""
        return round(evaluate(Transformer.from_pretrained(self.folder / FLOAT), task), 4)

    def teacher_accuracy(self, test: bytes) -> float | None:
        """As its distillation measured it, if that was on a file of these bytes."""
        asked, report = (read(self.folder / name) or {} for name in (ASKED, REPORT))
        if asked.get("test") != hashlib.sha256(test).hexdigest():
            return None
        stages = [stage for stage in report.get("stages", []) if stage.get("stage") == TEACHER]
        return float(stages[0]["held_out"]) if stages else None

    def asked(self, ids: Sequence[int]) -> dict[str, Any]:
        """One text encrypted, and whether every integer is that of the interpreter."""
        answer, expected = self.encrypted.answer(ids), self.clear.answer(ids)
        return {
            "pieces": answer.pieces,
            "length": answer.length,
            "seconds": round(answer.answer.seconds, 3),
            "request_bytes": answer.request_bytes,
            "reply_bytes": answer.reply_bytes,
            "key_bytes": self.encrypted.key_bytes,
            "bit_exact": answer.answer.equals(expected.answer.q_y),
        }

    def runs(self, bench: Bench, test: Texts, count: int) -> list[dict[str, Any]]:
        """The first held-out texts of each length in turn, each kept as soon as it is answered."""
        rows, found = self.ids(test), list[dict[str, Any]]()
        for i in self._in_turn(rows)[:count]:
            made = bench.keep(f"{self.key}.{i}", self.asked, rows[i])
            bench.say(f"{self.key} {len(found) + 1}/{count}: {made['seconds']} s")
            found.append(made)
        return found

    def _in_turn(self, rows: Sequence[Sequence[int]]) -> list[int]:
        of = [self.clear.length_for(len(ids)) for ids in rows]
        parts = [[i for i, n in enumerate(of) if n == length] for length in self.clear.lengths]
        turns = range(max(map(len, parts)))
        return [part[turn] for turn in turns for part in parts if turn < len(part)]


def by_length(runs: Sequence[Mapping[str, Any]], name: str) -> dict[str, float]:
    """The mean of a number of runs at each length."""
    lengths = sorted({run["length"] for run in runs})
    return {str(n): mean([run for run in runs if run["length"] == n], name) for n in lengths}


def mean(runs: Sequence[Mapping[str, Any]], name: str) -> float:
    """The mean of a number of runs."""
    return round(float(np.mean([run[name] for run in runs])), 3)
