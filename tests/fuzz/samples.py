"""Files of samples, made wrong: .csv, .npz and .npy, word lists and configurations.

Each case writes one and reads it as the commands do. What is accepted is checked: finite numbers of
the shape that the model takes, a class for each sample, integers in the range of the port.
"""

from __future__ import annotations

import io
import json
import random
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.fuzz.case import Case
from tests.fuzz.commands import command
from torusformer import TorusformerError
from torusformer.fhe_compile import Port
from torusformer.models import ModelConfig, Task
from torusformer.pipelines.settings import Settings
from torusformer.pipelines.training import Recipe
from torusformer.pipelines.values import read_samples

CELLS = (
    "", " ", "0", "-1", "1e300", "-1e300", "1e-320", "1e30", "inf", "-Infinity", "nan", "NaN", "NA",
    "1_0", "0x10", "1,5", '"', '""', '"1"', "'1'", "1;2", "١٢", "\ufeff1", "1\x00", "=1+1",
    "9" * 400, "9" * 5000,
    "label", "True", "None", "1.0", "007", "\ud7ff", "a\nb", "−1", "1e5", "😀", "+3", ".5", "5.",
)  # fmt: skip
LABELS = ("cat", "1", "1.0", "0.5", "nan", "007", "", "inf", "1e300", "x" * 300, "yes", "√", "-3")
TYPES = (
    "?", "u1", "i1", "i2", "u4", "i8", "u8", "f2", "f4", "f8", "f16", ">f4", ">i2", "<f8", "c8",
    "c16", "U3", "S3", "M8[s]", "m8", "V4", "O",
)  # fmt: skip
DESCRIPTIONS = (
    "'<f4'", "'|O'", "'<U1'", "'<U0'", "'|V0'", "'<f4,<i4'", "[('a', '<f4')]", "'<M8[s]'", "'<f3'",
    "'f'", "'<U999999'", "'|S0'", "''", "None", "'<c16'", "'x'", "'<i1000000000'", "'>f8'", "'|b1'",
)  # fmt: skip
SHAPES = (
    "(8, 6)", "()", "(0,)", "(0, 6)", "(8, 0)", "(1099511627776, 6)", "(8, 6", "(-1, 6)",
    "(8L, 6L)",
    "(4294967296, 4294967296)", f"({'9' * 30},)", f"({'9' * 5000},)", f"({'1, ' * 40})", "8",
    "(8.0, 6)",
    "(0, 9223372036854775807)", "('8', 6)", "(True, 48)", "((8,), 6)", "(8, 6, 1)", "(48,)",
)  # fmt: skip
PORT = Port("x", (1, 6), lo=-4, hi=7, scale=np.array(0.5))


def make(seed: int, folder: Path) -> Case:
    """A case, the same for the same seed."""
    draw = random.Random(seed)
    kind = draw.choice((_csv, _csv, _npz, _npz, _npy, _words, _config))
    return kind(draw, folder)


def _csv(draw: random.Random, folder: Path) -> Case:
    rows = [[f"{draw.gauss(i % 2, 1):.3f}" for _ in range(6)] for i in range(16)]
    table = [["a", "b", "c", "d", "e", "f", "label"]]
    table += [[*row, LABELS[i % 2]] for i, row in enumerate(rows)]
    edits: list[str] = []

    def edit(name: str) -> None:
        edits.append(name)
        i, j = draw.randrange(len(table)), draw.randrange(7)
        match name:
            case "cell":
                table[i][j % len(table[i])] = draw.choice(CELLS)
            case "label":
                table[i][-1] = draw.choice(LABELS)
            case "all labels":
                for k, row in enumerate(table[1:]):
                    row[-1] = draw.choice(LABELS[k % 3 :])
            case "column":
                value = draw.choice(CELLS)
                for row in table[1:]:
                    row[j % len(row)] = value
            case "ragged":
                table[i] = table[i][: draw.randrange(1, 7)] + ["1"] * draw.randrange(3)
            case "empty lines":
                table.insert(i, [draw.choice(("", " ", "\t"))])
            case "no rows":
                del table[draw.randrange(2) :]
                table.extend([[""]])
            case "headings":
                table[0] = [draw.choice(("label", "", "a", '"label"', " label ")) for _ in table[0]]
            case "one column":
                table[:] = [row[-1:] for row in table]
            case "many":
                table.extend(row for row in table[1:] for _ in range(20))

    names = (
        "cell",
        "label",
        "all labels",
        "column",
        "ragged",
        "empty lines",
        "no rows",
        "headings",
    )
    for name in draw.choices((*names, "one column", "many"), k=draw.randrange(3)):
        edit(name)
    quote = draw.choice(("", "", '"'))
    comma = draw.choice((",",) * 5 + (";", "\t", ", "))
    end = draw.choice(("\n", "\r\n", "\r", "\n\n"))
    text = end.join(comma.join(f"{quote}{cell}{quote}" for cell in row) for row in table)
    code = draw.choice(("utf-8",) * 6 + ("utf-8-sig", "utf-16", "latin-1", "utf-32-le"))
    return _of_file(draw, folder / "samples.csv", text.encode(code, "replace"), [*edits, code])


def _npz(draw: random.Random, folder: Path) -> Case:
    shape = draw.choice(
        ((16, 6), (16, 6), (16, 4, 16), (16, 8, 8), (16, 3, 2), (16,), (0, 6), (2, 2, 2, 2))
    )
    x, y = _array(draw, shape), _array(draw, (shape[0],))
    if draw.random() < 0.6:
        y = np.arange(shape[0]) % 2
    edits, data = [f"x {x.dtype} {shape}"], io.BytesIO()
    names = draw.choice((("x", "y"),) * 8 + (("x", "z"), ("x", "x"), ("../x", "y"), ("x.npy", "y")))
    how = draw.choice(
        (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)
    )
    with zipfile.ZipFile(data, "w", how) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two of one name
        for name, values in zip(names, (x, y), strict=True):
            member = _npy_bytes(draw, values, edits)
            if draw.random() < 0.03:
                edits.append("bomb")
                member = _header("'<f4'", "False", "(20000000,)") + bytes(80_000_000)
                archive.writestr(f"{name}.npy", member, zipfile.ZIP_DEFLATED)
                continue
            archive.writestr(f"{name}.npy", member)
    return _of_file(draw, folder / "samples.npz", data.getvalue(), edits)


def _array(draw: random.Random, shape: tuple[int, ...]) -> np.ndarray:
    dtype = np.dtype(draw.choice(TYPES))
    rng = np.random.default_rng(draw.randrange(2**32))
    if dtype.kind == "O":
        return np.full(shape, None, dtype=object)
    if dtype.kind in "VM":
        return np.zeros(shape, dtype)
    values = rng.integers(0, 100, shape).astype(dtype)
    if dtype.kind == "f" and values.size and draw.random() < 0.4:
        extreme = draw.choice((np.nan, np.inf, -np.inf, 1e300, 1e-300, 0.5, 3e38))
        with np.errstate(over="ignore"):
            values.flat[draw.randrange(values.size)] = extreme
    if dtype.kind in "iu" and values.size and draw.random() < 0.2:
        values.flat[0] = draw.choice((np.iinfo(dtype).min, np.iinfo(dtype).max))
    return np.asfortranarray(values) if draw.random() < 0.3 else values


def _npy_bytes(draw: random.Random, values: np.ndarray, edits: list[str]) -> bytes:
    """The array as numpy writes it, or with another header."""
    file = io.BytesIO()
    np.lib.format.write_array(file, values, version=draw.choice(((1, 0), (2, 0), None)))
    if draw.random() < 0.7:
        return file.getvalue()
    words = (
        draw.choice(DESCRIPTIONS),
        draw.choice(("False", "True", "0", "None")),
        draw.choice(SHAPES),
    )
    edits.append(f"header {words}"[:120])
    return _header(*words) + bytes(8 * draw.randrange(60))


def _header(description: str, order: str, shape: str) -> bytes:
    text = f"{{'descr': {description}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text


def _npy(draw: random.Random, folder: Path) -> Case:
    """Samples of `run --input`, as numbers or as integers."""
    edits: list[str] = []
    x = _array(draw, draw.choice(((6,), (1, 6), (3, 6), (3, 1, 6), (0, 6), (2, 3), ())))
    data = mutated(draw, _npy_bytes(draw, x, edits), edits)
    path, integers = folder / draw.choice(("x.npy", "x.npz", "x")), draw.random() < 0.5
    path.write_bytes(data)

    def run() -> None:
        for sample in read_samples(path, (PORT,), integers=integers):
            q_x = sample["x"]
            assert q_x.shape == PORT.shape
            assert q_x.dtype.kind == "i"
            assert ((q_x >= PORT.lo) & (q_x <= PORT.hi)).all()

    return Case(f"{path.name}: {x.dtype} {x.shape} {edits}", run)


def _words(draw: random.Random, folder: Path) -> Case:
    words = ["".join(draw.choices("abcdé \u2028\x0b", k=draw.randrange(1, 30))) for _ in range(40)]
    if draw.random() < 0.5:
        words = [word.replace(" ", "") for word in words]
    text = draw.choice(("\n", "\r\n", "\r", "\x00")).join(words[: draw.choice((0, 1, 9, 40))])
    if draw.random() < 0.1:
        text += "".join(map(chr, range(200, 400)))
    code = draw.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"))
    edits = [code]
    path = folder / "words.txt"
    path.write_bytes(mutated(draw, text.encode(code, "replace"), edits))

    def run() -> None:
        task = Recipe.from_settings("words", _settings("tiny-words"), data=path).task
        assert task.x_train.dtype == np.int64
        assert 0 <= task.x_train.min() <= task.x_train.max() < len(task.labels)

    return Case(f"words {edits}", run)


def _config(draw: random.Random, folder: Path) -> Case:
    values = _settings("tiny").to_dict()
    edits: list[str] = []
    for _ in range(draw.randrange(3)):
        part = draw.choice(("model", "quant", "training"))
        name = draw.choice([*values[part], "colour"])
        odd = (
            None,
            -1,
            0,
            1.5,
            "a",
            [],
            {},
            True,
            10**30,
            [1, 2, 3],
            float("inf"),
            float("nan"),
            [[]],
            "é",
        )
        values[part][name] = draw.choice(odd)
        edits.append(f"{part}.{name} = {values[part][name]!r}")
    if draw.random() < 0.1:
        del values[draw.choice(list(values))]
    text = json.dumps(values, indent=draw.choice((None, 2)))
    if draw.random() < 0.1:
        edits.append("nested")
        text = draw.choice(("[" * 100_000, '{"a":' * 100_000, "-" * 100_000, "9" * 10_000))
    path = folder / "config.json"
    code = draw.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16"))
    path.write_bytes(mutated(draw, text.encode(code), edits))

    def run() -> None:
        settings = Settings.load(path)
        assert isinstance(settings.model, ModelConfig)

    return Case(f"config {edits}", run)


def _of_file(draw: random.Random, path: Path, data: bytes, edits: list[str]) -> Case:
    """Read by `train`, with or without a shape that is asked for."""
    path.write_bytes(mutated(draw, data, edits))
    shape = draw.choice((None, None, None, (3, 2), (6, 1), (2, 2), (1, 16)))
    preset = draw.choice(("tiny", "tiny", "digits-small", "tiny-words"))

    def run() -> None:
        try:
            task = Recipe.from_settings("digits", _settings(preset), data=path, shape=shape).task
        except TorusformerError:  # so the command says, in one sentence, before it trains
            sizes = () if shape is None else ("--shape", "x".join(map(str, shape)))
            out = ("--out", str(path.parent / "out"))
            command("train --task digits --preset", preset, "--data", str(path), *sizes, *out)
            raise AssertionError("train takes what its reader refuses") from None
        _check(task, shape)

    return Case(f"{path.name} for {preset}, shape {shape}: {edits}", run)


def _check(task: Task, shape: tuple[int, int] | None) -> None:
    for x, y in ((task.x_train, task.y_train), (task.x_test, task.y_test)):
        assert x.dtype == np.float32
        assert np.isfinite(x).all()
        assert len(x) == len(y) > 0
        assert x.shape[1:] == (shape or task.input_shape)
        assert ((y >= 0) & (y < len(task.labels))).all()
    assert len(set(task.labels)) == len(task.labels) >= 2
    assert np.isfinite(task.input_scale)
    assert task.input_scale > 0
    for label in task.labels:
        label.encode()


_SETTINGS: dict[str, Settings] = {}


def _settings(name: str) -> Settings:
    return _SETTINGS.setdefault(name, Settings.from_name(name))


def mutated(draw: random.Random, data: bytes, edits: list[str]) -> bytes:
    """Three files in four as they are; others cut, with bytes changed, doubled or in front."""
    ways: tuple[tuple[str, Callable[[bytearray, int], bytes]], ...] = (
        ("cut", lambda b, i: bytes(b[:i])),
        ("one byte", lambda b, i: bytes(b[:i] + bytes([draw.randrange(256)]) + b[i + 1 :])),
        ("zeros", lambda b, i: bytes(b[:i] + bytes(16) + b[i + 16 :])),
        ("ones", lambda b, i: bytes(b[:i] + b"\xff" * 8 + b[i + 8 :])),
        ("without start", lambda b, i: bytes(b[i:])),
        ("twice", lambda b, i: bytes(b + b)),
        ("in front", lambda b, i: bytes(b"\x80\x04" + b)),
        ("empty", lambda b, i: b""),
    )
    if draw.random() < 0.75:
        return data
    for name, way in draw.choices(ways, k=draw.randrange(1, 3)):
        edits.append(name)
        data = way(bytearray(data), draw.randrange(len(data) + 1))
    return data
