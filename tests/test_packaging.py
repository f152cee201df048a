"""What is declared, what is locked and what is on disk agree."""

import re
import tomllib
from pathlib import Path

from setuptools import find_packages

from torusformer.versions import RECORDED, installed_versions

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    lines = [line.split(";")[0].strip() for line in LOCK.splitlines() if line[:1] not in ("", "#")]
    return dict(line.split("==") for line in lines)


def test_the_lock_has_every_dependency_at_its_pin() -> None:
    pins = locked()
    extras = PROJECT["project"]["optional-dependencies"]["dev"]
    for requirement in PROJECT["project"]["dependencies"] + extras:
        name, _, pin = requirement.partition("==")
        assert normal(name) in pins, f"{name} is not in requirements.lock"
        assert not pin or pins[normal(name)] == pin, requirement


def test_the_lock_names_no_host() -> None:
    assert not re.search(r"://|--index|--find-links|@", LOCK)


def test_what_runs_is_what_is_locked() -> None:
    installed = installed_versions(name for name in RECORDED if name != "torusformer")
    pins = locked()
    assert {name: pins[name] for name in installed} == installed


def test_every_package_is_installed_under_one_name() -> None:
    """A folder at the top without its link would be missing for users."""
    on_disk = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for top in ROOT.iterdir()
        if top.is_dir() and top.name not in ("benchmarks", "build") and top.name[0] != "."
        for path in top.rglob("__init__.py")
    }
    expected = {f"torusformer.{name}" for name in on_disk - {"torusformer"}} | {"torusformer"}
    include = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    assert set(find_packages(str(ROOT), include=include)) == expected


def test_ci_runs_what_the_makefile_tests() -> None:
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("\nmake test")
