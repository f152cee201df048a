"""What is declared, what is locked, what is on disk and what a user installs agree."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from torusformer.versions import RECORDED, installed_versions

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()
LINKS = sorted(path.name for path in (ROOT / "torusformer").iterdir() if path.is_symlink())


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    return {normal(re.split(r"[\[=<>]", requirement)[0]) for requirement in requirements}


DECLARED = names(PROJECT["dependencies"])
TOOLS = names(PROJECT["optional-dependencies"]["dev"])


def locked() -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+) \\$", LOCK, re.M))


def test_the_lock_was_resolved_from_what_is_declared(tmp_path: Path) -> None:
    """Otherwise: `make lock`. A change of a tool's settings asks for none, one of a bound does."""
    for file in ("Makefile", "requirements.lock"):
        shutil.copy(ROOT / file, tmp_path)
    text = read("pyproject.toml")
    looser = text.replace('"pydantic>=2"', '"pydantic>=1"')
    assert looser != text

    def is_locked(pyproject: str) -> bool:
        (tmp_path / "pyproject.toml").write_text(pyproject)
        command = ["make", "-s", "is-locked", f"PYTHON={sys.executable}"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0

    assert is_locked(text)
    assert is_locked(text.replace("line-length = 100", "line-length = 99"))
    assert not is_locked(looser)


def test_the_lock_has_every_dependency_at_its_pin_with_hashes() -> None:
    pins = locked()
    assert set(pins) >= DECLARED | TOOLS
    for requirement in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]:
        if "==" in requirement:
            name, _, pin = requirement.partition("==")
            assert pins[normal(name.split("[")[0])] == pin
    entries = re.split(r"^(?=[a-z0-9])", LOCK, flags=re.M)[1:]
    assert len(entries) == len(pins)
    assert all("--hash=sha256:" in entry for entry in entries)


def test_the_lock_names_no_host_and_no_path() -> None:
    assert not re.search(r"://|--index|--find-links|@|/", LOCK)


def test_what_runs_is_what_is_locked() -> None:
    installed = installed_versions(name for name in RECORDED if name != "torusformer")
    pins = locked()
    assert {name: pins[name] for name in installed} == installed


def imported(folder: str) -> Iterator[str]:
    """Dotted names of what a folder's files import, notebooks included."""
    texts = [path.read_text() for path in (ROOT / folder).rglob("*.py")]
    for notebook in (ROOT / folder).glob("*.ipynb"):
        cells = json.loads(notebook.read_text())["cells"]
        texts += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    for text in texts:
        for node in ast.walk(ast.parse(re.sub(r"^%.*", "", text, flags=re.M))):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def distributions(folders: list[str]) -> set[str]:
    """The distributions that files import; of a name that several share, all of them."""
    by_name = metadata.packages_distributions()
    own = {*sys.stdlib_module_names, *LINKS, "torusformer", "benchmarks", "tests"}
    own |= {path.stem for path in (ROOT / "tests").glob("*.py")}
    found = set()
    for name in {name for folder in folders for name in imported(folder)}:
        first, second, *_ = [*name.split("."), ""]
        if first == "concrete":  # a namespace of two distributions
            found.add("concrete-ml" if second == "ml" else "concrete-python")
        elif first not in own:
            found |= {normal(distribution) for distribution in by_name[first]}
    return found


def test_what_is_imported_is_declared() -> None:
    assert distributions(["torusformer", *LINKS]) <= DECLARED
    assert distributions(["benchmarks", "tests", "notebooks"]) <= DECLARED | TOOLS


def test_what_is_declared_is_used() -> None:
    # imported by libraries that do not declare them: brevitas, Concrete ML
    by_others = {"setuptools", "requests"}
    assert distributions(["torusformer", *LINKS]) >= DECLARED - by_others
    files = ("Makefile", ".pre-commit-config.yaml", "CONTRIBUTING.md", "pyproject.toml")
    commands = {w for file in files for w in re.findall(r"(?:bin|BIN\))/([\w-]+)", read(file))}
    plugins = {"ipykernel", "pytest-xdist"}  # run the notebooks; give pytest its workers
    used = distributions(["benchmarks", "tests"]) | commands | by_others | plugins
    assert used >= TOOLS


def read(file: str) -> str:
    return (ROOT / file).read_text()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution of a fresh checkout, and the wheel built from that."""
    folder = tmp_path_factory.mktemp("built")
    checkout = folder / "checkout"
    checkout.mkdir()
    for file in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, checkout)
    left_out = shutil.ignore_patterns("__pycache__")
    for name in ("torusformer", *LINKS):
        shutil.copytree(ROOT / name, checkout / name, symlinks=True, ignore=left_out)
    uv = Path(sys.executable).with_name("uv")
    options = ["--offline", "--no-build-isolation", "--quiet", "--python", sys.executable]
    subprocess.run([uv, "build", *options, "--out-dir", folder, checkout], check=True)
    return folder


@pytest.fixture(scope="module")
def site_packages(built: Path) -> Path:
    """The wheel, unpacked as an installer does."""
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(built / "site-packages")
    return built / "site-packages"


def on_disk() -> set[str]:
    """Every module and data file that a user needs, by its path under `torusformer`."""
    files = {
        path.relative_to(ROOT).as_posix()
        for name in LINKS
        for path in (ROOT / name).rglob("*")
        if path.suffix in (".py", ".json")
    }
    own = {path.name for path in (ROOT / "torusformer").glob("*.py")}
    return {f"torusformer/{file}" for file in files | own}


def test_a_wheel_holds_torusformer_alone_and_all_of_it(site_packages: Path) -> None:
    version = metadata.version("torusformer")
    tops = {path.name for path in site_packages.iterdir()}
    assert tops == {"torusformer", f"torusformer-{version}.dist-info"}
    files = {p.relative_to(site_packages).as_posix() for p in site_packages.rglob("*")}
    assert on_disk() <= files
    assert not [path for path in site_packages.rglob("*") if path.is_symlink()]


def test_a_source_distribution_holds_folders_in_place_of_links(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
    assert all(member.isfile() or member.isdir() for member in members)
    assert on_disk() <= {member.name.partition("/")[2] for member in members}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A project of somebody else's, with folders of the same names."""
    for name in LINKS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("MINE = True\n")
    return tmp_path


def python(arguments: list[str], folder: Path, site_packages: Path | None) -> str:
    """What this interpreter says to a user in `folder`; without a wheel, as it is installed."""
    environment = {} if site_packages is None else {"PYTHONPATH": str(site_packages)}
    command = [sys.executable, "-W", "ignore", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("installed", ["wheel", "editable"])
def test_a_script_beside_folders_of_these_names(
    installed: str, elsewhere: Path, request: pytest.FixtureRequest
) -> None:
    ours = [
        f"import torusformer.{name}\nassert not hasattr(torusformer.{name}, 'MINE')"
        for name in LINKS
    ]
    own = [f"import {name}\nassert {name}.MINE" for name in LINKS]
    (elsewhere / "script.py").write_text("\n".join([*ours, *own, "print(torusformer.__file__)"]))
    wheel = request.getfixturevalue("site_packages") if installed == "wheel" else None
    said = python(["script.py"], elsewhere, wheel)
    if wheel is not None:
        assert Path(said.strip()).is_relative_to(wheel)


@pytest.mark.slow
def test_a_wheel_trains_lowers_and_plans_outside_a_checkout(
    elsewhere: Path, site_packages: Path
) -> None:
    """With the presets and the prices that it brings."""
    cli = ["-m", "torusformer.pipelines.cli"]
    (entry,) = site_packages.glob("*.dist-info/entry_points.txt")
    assert "torusformer = torusformer.pipelines.cli:main" in entry.read_text()
    train = ["train", "--task", "digits", "--preset", "tiny", "--epochs", "1", "--out", "run"]
    python([*cli, *train], elsewhere, site_packages)
    python([*cli, "lower", "run/model.qonnx.onnx", "--out", "p.onnx"], elsewhere, site_packages)
    said = python([*cli, "plan", "p.onnx", "--json"], elsewhere, site_packages)
    assert json.loads(said)["predicted_seconds"] > 0


def test_ci_runs_what_the_makefile_tests() -> None:
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("\nmake test")
