"""Imports run left to right only; each stage lives without the libraries of the others."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# package -> packages of ours it may import
LEFT_OF = {
    "torusformer": set(),
    "models": {"torusformer"},
    "quantize": {"torusformer", "models"},
    "fhe_compile": {"torusformer"},
    "serving": {"torusformer", "fhe_compile"},
    "pipelines": {"torusformer", "models", "quantize", "fhe_compile", "serving"},
    "benchmarks": {"torusformer", "models", "quantize", "fhe_compile", "serving", "pipelines"},
}
TRAINING = {"torch", "brevitas"}
ENCRYPTION = {"concrete"}
# package -> libraries it must not import
WITHOUT = {
    "torusformer": TRAINING | ENCRYPTION | {"onnx", "onnxruntime", "sklearn"},
    "models": ENCRYPTION | {"brevitas", "onnx"},
    "quantize": ENCRYPTION,
    "fhe_compile": TRAINING | {"sklearn"},
    "serving": TRAINING | {"sklearn", "onnx"},
    "pipelines": set(),
    "benchmarks": set(),
}
# room of fhe_compile -> rooms it may import
ROOMS: dict[str, set[str]] = {
    "program": set(),
    "prices": set(),
    "passes": {"program", "prices"},
    "frontend": {"program", "passes"},
    "tfhe": {"program", "prices", "passes"},
    "circuit": {"program", "prices", "passes", "tfhe"},
    "decoding": {"program", "passes", "frontend"},
    "deployment": {"program", "tfhe", "circuit", "decoding"},
}
ENTRY = ROOT / "torusformer" / "__main__.py"  # `python -m torusformer`: a door of pipelines
FILES = sorted(p for package in LEFT_OF for p in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of every absolute import, those inside functions too.

    The name is that of the package: "models" for `torusformer.models.config`.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, package_of(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            for alias in node.names:
                yield node.lineno, package_of(f"{node.module}.{alias.name}")


def imported_files(path: Path) -> set[Path]:
    """Our files among the imports, those for types alone too; a package is its `__init__.py`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        else:
            continue
        both = {short for name in names for short in (name, name.removeprefix("torusformer."))}
        places = [ROOT.joinpath(*name.split(".")) for name in both]
        files = [f for p in places for f in (p.with_suffix(".py"), p / "__init__.py")]
        found |= {f for f in files if f in FILES}
    return found - {path}


def package_of(module: str) -> str:
    first, *rest = module.split(".")
    return rest[0] if first == "torusformer" and rest and rest[0] in LEFT_OF else first


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_what_its_package_may(path: Path) -> None:
    package = "pipelines" if path == ENTRY else path.relative_to(ROOT).parts[0]
    forbidden = (set(LEFT_OF) - LEFT_OF[package] - {package}) | WITHOUT[package]
    wrong = [f"line {line}: {name}" for line, name in imported(path) if name in forbidden]
    assert not wrong, f"{package} may not import {wrong}"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_before_it(room: str) -> None:
    place = ROOT / "fhe_compile"
    files = sorted((place / room).rglob("*.py"))
    taken = {other for path in files for other in imported_files(path) if place in other.parents}
    assert files
    assert {other.relative_to(place).parts[0] for other in taken} <= ROOMS[room] | {room}


def test_every_room_has_its_place() -> None:
    rooms = {path.parent.name for path in (ROOT / "fhe_compile").glob("*/__init__.py")}
    assert rooms == set(ROOMS)


def test_imports_run_in_no_circle() -> None:
    order = TopologicalSorter({path: imported_files(path) for path in FILES}).static_order()
    assert set(order) == set(FILES)  # a CycleError names the circle


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_pickle(path: Path) -> None:
    assert not {"pickle", "dill", "cloudpickle", "joblib"} & {name for _, name in imported(path)}


@cache
def modules_after(statement: str) -> frozenset[str]:
    """What a fresh interpreter has loaded after `statement`."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = done.stdout.split()
    return frozenset(
        f"torusformer.{package_of(m)}" if package_of(m) in LEFT_OF else m.split(".")[0]
        for m in loaded
    )


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import torusformer, torusformer.progress, torusformer.folders", WITHOUT["torusformer"]),
        (
            "import torusformer.fhe_compile",
            TRAINING | {"torusformer.models", "torusformer.quantize", "sklearn"},
        ),
        (
            "import torusformer.serving",
            TRAINING | {"torusformer.models", "torusformer.quantize", "sklearn"},
        ),
        ("import torusformer.pipelines.cli", TRAINING | ENCRYPTION | {"numpy", "pydantic", "rich"}),
    ],
)
def test_what_an_import_loads(statement: str, absent: set[str]) -> None:
    by_concrete = modules_after("import concrete.fhe")  # concrete-python itself imports torch
    allowed = by_concrete if "concrete" not in absent else set()
    assert not absent & (modules_after(statement) - allowed)


def test_importing_says_nothing() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import torusformer.serving, torusformer.pipelines.cli",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("package", ["", ".models", ".quantize", ".fhe_compile", ".serving"])
def test_no_public_name_hides_a_module(package: str) -> None:
    # importing the module would put it where the function stood
    found = importlib.import_module(f"torusformer{package}")
    modules = {module.name for module in pkgutil.iter_modules(found.__path__)}
    assert not modules & set(found.__all__)
