"""What the documents say is so."""

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.settings import TINIEST
from torusformer.fhe_compile import interpret
from torusformer.pipelines.cli import build_parser

ROOT = Path(__file__).parent.parent
PACKAGES = ("torusformer", "models", "quantize", "fhe_compile", "serving", "pipelines")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
README = (ROOT / "README.md").read_text()
PYTHON_FILE = r"`([a-z]\w*\.py|__main__\.py)`"


def blocks(path: Path, language: str) -> list[str]:
    """The code blocks of one language in a document."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.M | re.S)


def sources() -> list[Path]:
    return [p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_nothing_is_left_to_fill_in(path: Path) -> None:
    assert not re.findall(r"TODO|FIXME|TBD|XXX", path.read_text())


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        if not link.startswith("http"):
            assert (path.parent / link).exists(), link


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_python_blocks_import_what_exists(path: Path) -> None:
    for block in blocks(path, "python"):
        imports = [n for n in ast.parse(block).body if isinstance(n, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(imports, type_ignores=[]), str(path), "exec"), {})


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_commands_parse(path: Path) -> None:
    parser = build_parser()
    for block in [*blocks(path, "bash"), *re.findall(r"`(torusformer [^`]+)`", path.read_text())]:
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("torusformer ") and len(line.split()) > 2:
                parser.parse_args(shlex.split(line, comments=True)[1:])


def test_the_map_lists_every_file_where_it_is() -> None:
    rows = re.findall(r"^\| `([\w/]+)/`[^|]*\| (.*) \|$", README, re.M)
    folders, package = {folder for folder, _ in rows}, lambda path: path.split("/")[0] in PACKAGES
    mapped = {f"{folder}/{name}" for folder, cell in rows for name in re.findall(PYTHON_FILE, cell)}
    on_disk = {path.relative_to(ROOT).as_posix() for path in sources()}
    assert set(filter(package, mapped)) == {p for p in on_disk if not p.endswith("__init__.py")}
    passing = {"build", "dist", "runs", "torusformer.egg-info"}
    top = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".")}
    assert top - passing <= folders


def test_errors_page_quotes_messages_that_exist() -> None:
    said = "\n".join(text for path in sources() for text in messages(path))
    page = (ROOT / "docs" / "errors.md").read_text()
    quoted = re.findall(r"^\| `([^`]+)` \|", page, re.M)
    assert len(quoted) > 30
    for quote in quoted:
        for part in quote.split("…"):
            assert part.strip(" ,") in said, quote


def test_errors_page_names_every_error() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.name.endswith("Error"):
                assert f"`{node.name}`" in page or f".{node.name}`" in page, node.name


def messages(path: Path) -> list[str]:
    """Every string of a module, the changing parts of f-strings left out."""
    texts = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            texts.append("".join(str(v.value) for v in node.values if isinstance(v, ast.Constant)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node.value)
    return texts


@pytest.mark.slow
def test_the_ten_lines_of_the_readme_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a model for tests."""
    (block,) = blocks(ROOT / "README.md", "python")
    old = 'from_name("digits", "digits-small")'
    assert old in block
    block = block.replace(old, 'from_settings("digits", TINIEST)')
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"TINIEST": TINIEST}
    exec(compile(block, "README.md", "exec"), names)
    said = capsys.readouterr().out
    assert "a 2 is read as a" in said
    q_x = names["client"].quantize(names["recipe"].task.x_test[:1])
    q_y = names["client"].decrypt(names["reply"])
    expected = interpret(names["program"], q_x)
    assert all(np.array_equal(q_y[name], expected[name]) for name in q_y)


def test_onnx_runtime_alone_reproduces_the_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ten lines of docs/formats.md, on a model that is calibrated but not trained."""
    import torch
    from sklearn.datasets import load_digits

    from torusformer.fhe_compile import lower, save_program
    from torusformer.models import Transformer, to_tokens
    from torusformer.pipelines.answers import InProcess
    from torusformer.pipelines.training import Recipe
    from torusformer.quantize import calibrate, export_qonnx, to_qat

    (block,) = blocks(ROOT / "docs" / "formats.md", "python")
    torch.manual_seed(0)
    recipe = Recipe.from_name("digits", "digits-small")
    qat = to_qat(Transformer(recipe.model), recipe.quant)
    calibrate(qat, recipe.task.x_train)
    export_qonnx(qat, recipe.task.x_train[:1], tmp_path / "model.qonnx.onnx")
    program = lower(tmp_path / "model.qonnx.onnx", recipe.about())
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    save_program(program, tmp_path / "runs" / "digits" / "program.onnx")

    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(compile(block, "docs/formats.md", "exec"), {})
    said = [int(line) for line in capsys.readouterr().out.split()]
    assert recipe.model.patch is not None
    x = to_tokens(load_digits().images[:3].astype(np.float32), recipe.model.patch)
    assert said == InProcess(program).classes(x).tolist()
