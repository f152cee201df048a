"""Files of samples from outside: read right or refused in a sentence, whatever they declare."""

import io
import pickle
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.commands import printed, refused, say
from tests.fuzz.samples import make
from torusformer import InputError, TorusformerError
from torusformer.arrays import read_arrays
from torusformer.fhe_compile import Port
from torusformer.models import load_task
from torusformer.models.samples import suggested_shape
from torusformer.pipelines.settings import Settings
from torusformer.pipelines.training import Recipe
from torusformer.pipelines.values import read_samples

Y = np.arange(16) % 2


def csv_file(folder: Path, labels: object = Y, columns: int = 6, **cells: str) -> Path:
    """Sixteen rows; `cells` are named by row and column: r3c2."""
    rows = [[str(i + j) for j in range(columns)] for i in range(16)]
    for name, cell in cells.items():
        i, j = name[1:].split("c")
        rows[int(i)][int(j)] = cell
    lines = [",".join([*map("c{}".format, range(columns)), "label"])]
    lines += [",".join([*row, str(label)]) for row, label in zip(rows, labels, strict=True)]  # type: ignore[call-overload]
    path = folder / "mine.csv"
    path.write_text("\n".join(lines))
    return path


def npz_file(folder: Path, **arrays: object) -> Path:
    path = folder / "mine.npz"
    np.savez(path, **{"x": np.ones((16, 6)), "y": Y, **arrays})  # type: ignore[arg-type]
    return path


def recipe(data: Path, shape: tuple[int, int] | None = None, preset: str = "tiny") -> Recipe:
    return Recipe.from_settings("digits", Settings.from_name(preset), data=data, shape=shape)


@pytest.mark.parametrize("kind", ["?", "u1", "i2", ">i4", "f2", ">f8", "f4", "f16"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_kind_of_number_is_read(tmp_path: Path, kind: str, order: str) -> None:
    x = np.array(np.arange(96).reshape(16, 6) % 7 % 3, dtype=kind, order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "x.npy", x)
    assert np.array_equal(read_arrays(tmp_path / "x.npy")[""], np.load(tmp_path / "x.npy"))
    task = recipe(npz_file(tmp_path, x=x, y=Y.astype(kind))).task
    seen = np.concatenate([task.x_train, task.x_test]).reshape(16, 6)
    assert np.array_equal(np.sort(seen, axis=0), np.sort(x.astype(np.float32), axis=0))


@pytest.mark.parametrize("labels", [["cat", "dog"], [b"cat", b"dog"]])
def test_labels_of_text(tmp_path: Path, labels: list[object]) -> None:
    task = recipe(npz_file(tmp_path, y=np.array(labels)[Y])).task
    assert task.labels == ("cat", "dog")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["1.0", "2.0"], ("1", "2")),
        (["007", "7"], ("007", "7")),
        (["nan", "rice"], ("nan", "rice")),
        (["-1", "1"], ("-1", "1")),
    ],
)
def test_labels_of_a_csv(tmp_path: Path, labels: list[str], names: tuple[str, ...]) -> None:
    assert recipe(csv_file(tmp_path, [labels[i % 2] for i in range(16)])).task.labels == names


@pytest.mark.parametrize(
    ("labels", "word"),
    [
        (["1", "nan"], "y holds NaN"),
        (["1", "inf"], "infinity"),
        (["1", "1.5"], "y holds 1.5, and classes are whole numbers"),
        (["1", "1e300"], "whole numbers"),
        (["1", ""], "row 3: has no label"),
        (["1", "x" * 300], "300 characters, the limit is 200"),
    ],
)
def test_labels_that_name_no_class(tmp_path: Path, labels: list[str], word: str) -> None:
    with pytest.raises(InputError, match=word):
        recipe(csv_file(tmp_path, [labels[i % 2] for i in range(16)]))


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.5, 1e300])
def test_npz_labels_that_name_no_class(tmp_path: Path, value: float) -> None:
    with pytest.raises(InputError, match="y holds"):
        recipe(npz_file(tmp_path, y=np.where(Y, value, 1.0)))


@pytest.mark.parametrize(
    ("cell", "word"),
    [
        ("1e300", r"1e\+300, the limits are 1e-30 and 1e\+30; give it in another unit"),
        ("inf", "NaN or infinity"),
        ("nan", "NaN or infinity"),
        ("", "row 5: could not convert string to float"),
        ("one", "row 5.*'one'"),
    ],
)
def test_numbers_that_nobody_can_train_on(tmp_path: Path, cell: str, word: str) -> None:
    with pytest.raises(InputError, match=word):
        recipe(csv_file(tmp_path, r3c2=cell))


def test_small_numbers_are_refused_and_zeros_are_not(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1e-300"):
        recipe(npz_file(tmp_path, x=np.full((16, 6), 1e-300)))
    assert recipe(npz_file(tmp_path, x=np.zeros((16, 6)))).task.input_scale == 1


def test_files_without_samples(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    for text in ("a,label\n", "a,label", "label\n1\n2\n", "\ufeff\n\n"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=r"no samples|no column"):
            recipe(path)
    with pytest.raises(InputError, match="holds nothing"):
        recipe(npz_file(tmp_path, x=np.ones((0, 6)), y=np.ones(0)))
    with pytest.raises(InputError, match="holds nothing"):
        recipe(npz_file(tmp_path, x=np.ones((16, 0))))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n \n"])
def test_line_ends_and_empty_lines(tmp_path: Path, end: str) -> None:
    path = csv_file(tmp_path)
    expected = recipe(path).task.x_train
    path.write_bytes(path.read_text().replace("\n", end).encode("utf-8-sig"))
    assert np.array_equal(recipe(path).task.x_train, expected)


def test_other_headings_and_codes(tmp_path: Path) -> None:
    path = csv_file(tmp_path)
    text = path.read_text()
    path.write_text(text.replace("c0", "label"))
    with pytest.raises(InputError, match="several columns 'label'"):
        recipe(path)
    path.write_bytes(text.encode("utf-16"))
    with pytest.raises(InputError, match="not UTF-8 text"):
        recipe(path)


class Bomb:
    """What a pickle would run."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("ran"),))


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_nothing_is_unpickled(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    objects = np.array([Bomb(), 1], dtype=object)
    np.save("objects.npy", objects, allow_pickle=True)
    np.savez("objects.npz", x=objects, y=objects)
    Path("pickle.npy").write_bytes(pickle.dumps(Bomb()))
    for path, word in (("objects.npy", "Python objects"), ("objects.npz", "Python objects")):
        with pytest.raises(InputError, match=word):
            read_samples(Path(path), (Port("x", (2,), 0, 1),))
    with pytest.raises(InputError, match=r"not a \.npy or \.npz file"):
        read_samples(Path("pickle.npy"), (Port("x", (2,), 0, 1),))
    assert not Path("ran").exists()


def header(description: str, shape: str, body: bytes = b"") -> bytes:
    text = f"{{'descr': {description}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (header("'<f8'", "(1099511627776, 1099511627776)"), "holds 0; write it again"),
        (header("'<f8'", "(0, 9223372036854775807)"), "holds nothing"),
        (header("'<f8'", f"({'9' * 5000},)"), "header cannot be read"),
        (header("'<f8'", "(3,)", bytes(16)), "24 bytes, and holds 16"),
        (header("'<f8'", "(1,)", bytes(16)), "8 bytes, and holds 16"),
        (header("'<f8'", f"({'1, ' * 40})", bytes(8)), "40 dimensions"),
        (header("[('a', '<f8')]", "(1,)", bytes(8)), "give numbers"),
        (header("'<i9'", "(1,)", bytes(9)), "give numbers"),
        (header("'<U0'", "(1,)"), "holds nothing"),
        (header("'<U1'", "(1,)", b"\xff\xff\xff\xff"), "not Unicode"),
        (header("'|S1'", "(1,)", b"\xff"), "not UTF-8"),
        (header("-" * 9000, "()"), "header cannot be read"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f", "truncated or too long"),
        (b"\x93NUMPY\x09\x00", "not a .npy array"),
        (b"\x93NUMPY", "not a .npy array"),
        (b"", "not a .npy or .npz file"),
        (b"PK\x03\x04", "not a readable .npz"),
    ],
)
def test_headers_that_lie(tmp_path: Path, data: bytes, word: str) -> None:
    (tmp_path / "x.npy").write_bytes(data)
    with pytest.raises(InputError, match=word):
        read_arrays(tmp_path / "x.npy")


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    chunk = bytes(2**20)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w") as x,
    ):
        x.write(header("'|u1'", f"({2**30},)"))
        for _ in range(2**10):
            x.write(chunk)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"unpacks to more than 6\d MiB"):
        read_arrays(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 2**10


@pytest.mark.parametrize("how", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_other_packings_are_refused(tmp_path: Path, how: int) -> None:
    data = io.BytesIO()
    np.save(data, np.ones(3))
    with zipfile.ZipFile(tmp_path / "x.npz", "w", how) as archive:
        archive.writestr("x.npy", data.getvalue())
    with pytest.raises(InputError, match="another way than numpy's"):
        read_arrays(tmp_path / "x.npz")


def test_what_numpy_packs_is_read(tmp_path: Path) -> None:
    x = np.arange(12.0).reshape(3, 4)
    np.savez_compressed(tmp_path / "x.npz", x=x, more=x.T)
    arrays = read_arrays(tmp_path / "x.npz", ["x"])
    assert list(arrays) == ["x"]
    assert np.array_equal(arrays["x"], x)


@pytest.mark.parametrize(
    ("sample", "shape"), [((6,), (6, 1)), ((30,), (6, 5)), ((64,), (8, 8)), ((1,), (1, 1))]
)
def test_flat_samples_suggest_a_shape(sample: tuple[int, ...], shape: tuple[int, int]) -> None:
    assert suggested_shape(sample, "here") == shape


def test_six_features_make_tokens_as_asked_or_as_suggested(tmp_path: Path) -> None:
    path = csv_file(tmp_path)
    for shape in (None, (6, 1), (3, 2), (1, 6)):
        made = recipe(path, shape, "digits-small")
        assert made.model.input_shape == made.task.input_shape == (shape or (6, 1))
        assert (made.model.patch, made.training.augment) == (None, 0)  # no images
    made = recipe(path, (3, 2))
    assert made.task.x_train[0].ravel().tolist() == sorted(made.task.x_train[0].ravel().tolist())
    shaped = made.shaped(Settings.from_name("tiny"))
    assert recipe_of(path, shaped) == (3, 2)  # as a candidate of `tune` is read


def recipe_of(path: Path, settings: Settings) -> tuple[int, ...]:
    return Recipe.from_settings("digits", settings, data=path).model.input_shape


def test_images_and_what_fits_a_preset_stay_as_they_are(tmp_path: Path) -> None:
    preset = Settings.from_name("digits-small")
    for shape in ((16, 64), (16, 8, 8), (16, 4, 16)):
        made = recipe(npz_file(tmp_path, x=np.ones(shape)), preset="digits-small")
        assert made.model.input_shape == (4, 16)
        assert (made.model.patch, made.training.augment) == ((4, 4), preset.training.augment)


@pytest.mark.parametrize(
    ("columns", "asked", "words"),
    [
        (13, "", "as in --shape 13x1 (tokens x features)"),
        (6, "--shape 4x2", "do not fit the model's input (4, 2)"),
        (6, "--shape 3", "'3' is not TOKENSxFEATURES, say 6x1"),
        (6, "--shape 0x6", "'0x6' is not TOKENSxFEATURES"),
        (6, "--task words --shape 3x2", "--shape says how numbers of your --data make tokens"),
    ],
)
@pytest.mark.parametrize("command", ["train", "tune"])
def test_the_cure_names_the_flag(
    tmp_path: Path, command: str, columns: int, asked: str, words: str
) -> None:
    path = csv_file(tmp_path, columns=columns)
    preset = "--preset tiny-words" if "words" in asked and command == "train" else "--preset tiny"
    line = f"{command} {preset} {asked} --data {path} --out {tmp_path / 'new'}"
    if "words" in asked and command == "tune":
        words = "words are token ids"
    assert words in refused(line)


def test_a_shape_without_data_says_nothing(tmp_path: Path) -> None:
    said = refused(f"train --shape 8x8 --out {tmp_path / 'new'}")
    assert "--shape says how numbers of your --data make tokens" in said


def test_training_on_six_features_says_how_it_read_them(tmp_path: Path) -> None:
    path = csv_file(tmp_path)
    out = tmp_path / "new"
    said = say(f"train --preset tiny --epochs 1 --data {path} --out {out}")
    assert said.code == 0
    assert "the 6 numbers of a sample are read as 6 tokens of 1; --shape says otherwise" in said.err
    program = tmp_path / "program.onnx"
    assert say(f"lower {out}/model.qonnx.onnx --out {program}").code == 0
    run = f"run --program {program} --task digits --data {path} --count 2"
    assert printed(run)["count"] == 2


def test_text_with_a_mark_of_the_byte_order(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("\n".join(["ab", "ba"] * 10), encoding="utf-8-sig")
    assert load_task("words", path, input_shape=(4,)).labels == ("\n", "a", "b")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 10_000, '{"name": NaN}'])
def test_configurations_that_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    assert "not a configuration" in refused(f"train --config {path} --out {tmp_path / 'new'}")


def test_a_configuration_with_a_mark_of_the_byte_order(tmp_path: Path) -> None:
    Settings.from_name("tiny").save(tmp_path / "a.json")
    text = (tmp_path / "a.json").read_text()
    (tmp_path / "a.json").write_text(text, encoding="utf-8-sig")
    assert Settings.load(tmp_path / "a.json") == Settings.from_name("tiny")


def test_a_wide_csv_takes_ten_times_its_size_at_most(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    row = "0," * 999 + "{}\n"
    path.write_text(
        ",".join(["a"] * 999) + ",label\n" + "".join(row.format(i % 2) for i in range(20_000))
    )
    code = f"""
import resource, sys
from pathlib import Path
from torusformer.models.sample_files import read_sample_file
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read_sample_file(Path({str(path)!r}))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) * 1024 < 10 * path.stat().st_size


@pytest.mark.parametrize("first", range(0, 100, 25))
def test_a_hundred_files_made_wrong(tmp_path: Path, first: int) -> None:
    accepted = 0
    for seed in range(first, first + 25):
        folder = tmp_path / str(seed)
        folder.mkdir()
        try:
            make(seed, folder).run()
            accepted += 1
        except TorusformerError as error:
            assert "\n" not in str(error).strip()
    assert 0 < accepted < 25
