"""Signals, closed pipes and full devices: a sentence or silence, and nothing left for ever."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.programs import Builder
from torusformer.fhe_compile import save_program
from torusformer.fhe_compile.program.nodes import Port
from torusformer.folders import output_file, output_folder
from torusformer.work import LOCK, work_folder

ROOT = Path(__file__).parent.parent
OURS = """
import os, signal, sys, time
from pathlib import Path
from torusformer.folders import output_folder, output_file
from torusformer.pipelines import cli
from torusformer.pipelines.console import Outcome
"""
# `lower`, replaced by something that waits in the middle of its work.
WAITING = """
def wait(args):
    with output_folder(args.out, "run") as new:
        (new / "half").write_text("x")
        print("ready", flush=True)
        time.sleep(60)

cli.lower.run = wait
sys.exit(cli.main(["lower", "m", "--out", sys.argv[1]]))
"""
# One that says much, after a library has made a crash of the signal of a closed pipe.
SAYING = """
def say(args):
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    return Outcome({"all": "x" * 1_000_000}, "x" * 1_000_000)

cli.lower.run = say
sys.exit(cli.main(["lower", "m", "--out", "o"]))
"""


def python(code: str, *args: str, **how: object) -> "subprocess.Popen[str]":
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
    argv = [sys.executable, "-c", OURS + code, *args]
    return subprocess.Popen(argv, cwd=ROOT, text=True, **how)  # type: ignore[call-overload]


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def waiting(out: Path) -> "subprocess.Popen[str]":
    """A command in the middle of its work."""
    process = python(WAITING, str(out))
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    return process


def write(folder: Path, text: str) -> None:
    with output_folder(folder, "run") as new:
        (new / "x").write_text(text)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_a_signal_ends_a_command_in_one_sentence_and_leaves_nothing(
    tmp_path: Path, number: int, code: int
) -> None:
    process = waiting(tmp_path / "run")
    process.send_signal(number)
    if number != signal.SIGINT:
        process.send_signal(number)  # as `timeout` does
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (code, "")
    assert err == "\ntorusformer lower: stopped, nothing was written\n"
    assert names(tmp_path) == []


def test_a_signal_that_the_caller_ignores_stays_ignored(tmp_path: Path) -> None:
    code = "signal.signal(signal.SIGHUP, signal.SIG_IGN)" + WAITING
    process = python(code, str(tmp_path / "run"))
    assert process.stderr is not None
    process.stderr.readline()
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.terminate()
    assert process.wait(timeout=20) == 143


def test_what_a_kill_left_is_removed_by_the_next_and_a_living_one_is_not(tmp_path: Path) -> None:
    killed, living = waiting(tmp_path / "run"), waiting(tmp_path / "run")
    killed.kill()
    killed.communicate()
    assert len(names(tmp_path)) == 2
    write(tmp_path / "run", "1")
    (left,) = [n for n in names(tmp_path) if n != "run"]
    assert (tmp_path / left / "new" / "half").read_text() == "x"
    living.kill()
    living.communicate()
    write(tmp_path / "other", "1")  # not its command
    assert left in names(tmp_path)
    write(tmp_path / "run", "2")
    assert names(tmp_path) == ["other", "run"]


def test_a_file_beside_has_work_folders_too(tmp_path: Path) -> None:
    code = """
with output_file(Path(sys.argv[1]), lambda path: True) as new:
    new.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert python(code, str(tmp_path / "p.onnx")).wait() == -signal.SIGKILL
    assert len(names(tmp_path)) == 1
    with output_file(tmp_path / "p.onnx", lambda path: True) as new:
        new.write_text("whole")
    assert names(tmp_path) == ["p.onnx"]


def test_a_kill_between_the_renames_loses_nothing(tmp_path: Path) -> None:
    write(tmp_path / "run", "earlier")
    code = """
rename = Path.rename
def once(path, target):
    rename(path, target)
    os.kill(os.getpid(), signal.SIGKILL)
with output_folder(Path(sys.argv[1]), "run") as new:
    (new / "x").write_text("later")
    Path.rename = once
"""
    assert python(code, str(tmp_path / "run")).wait() == -signal.SIGKILL
    assert "run" not in names(tmp_path)
    with pytest.raises(RuntimeError), output_folder(tmp_path / "run", "run"):
        raise RuntimeError
    assert (tmp_path / "run" / "x").read_text() == "earlier"
    assert names(tmp_path) == ["run"]


def test_only_what_is_certainly_ours_is_removed(tmp_path: Path) -> None:
    for name in (".run.abcdefgh", ".run.tar.gz", ".run.backup"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("mine")
    (tmp_path / ".run.backup" / LOCK).touch()  # no name that is drawn
    (tmp_path / ".run.link0000").symlink_to(tmp_path / ".run.backup")
    (tmp_path / ".run.afile000").write_text("mine")
    (tmp_path / ".run.empty000").mkdir()
    before = names(tmp_path)
    write(tmp_path / "run", "1")
    kept = [n for n in before if n != ".run.empty000"]
    assert names(tmp_path) == sorted([*kept, "run"])
    assert (tmp_path / ".run.abcdefgh" / "thesis.txt").read_text() == "mine"


def test_a_half_removed_folder_is_known(tmp_path: Path) -> None:
    with work_folder(tmp_path, "w") as work:
        (work / "a").mkdir()
        (work / "a" / "b").write_text("x")
        assert LOCK in names(work)
    assert names(tmp_path) == []
    (tmp_path / "w.abcdefgh").mkdir()
    (tmp_path / "w.abcdefgh" / LOCK).touch()
    with work_folder(tmp_path, "w"):
        assert len(names(tmp_path)) == 1


def test_folders_are_made_and_removed_side_by_side(tmp_path: Path) -> None:
    code = """
from torusformer.work import work_folder
for i in range(200):
    with work_folder(Path(sys.argv[1]), "w") as work:
        (work / "a").write_text("x")
        assert (work / "a").read_text() == "x"
"""
    racers = [python(code, str(tmp_path)) for _ in range(3)]
    assert [(r.communicate(timeout=60)[1], r.returncode) for r in racers] == [("", 0)] * 3
    assert names(tmp_path) == []


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    b = Builder(Port("x", (1, 2), 0, 7, np.array(0.5)))
    b.table("act", "act", "x", lambda n: n // 2)
    path = tmp_path_factory.mktemp("program") / "program.onnx"
    save_program(b.program("act"), path)
    return path


def torusformer(*args: str, **how: object) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-m", "torusformer", *args]
    how = {"stderr": subprocess.PIPE, **how}
    return subprocess.run(argv, cwd=ROOT, text=True, check=False, **how)  # type: ignore[call-overload]


@pytest.mark.parametrize("words", ["plan {}", "plan {} --json", "plan --help"])
def test_a_reader_that_left(program: Path, words: str) -> None:
    read, write_end = os.pipe()
    os.close(read)
    try:
        done = torusformer(*words.format(program).split(), stdout=write_end)
    finally:
        os.close(write_end)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_reader_that_left_stderr(tmp_path: Path) -> None:
    read, write_end = os.pipe()
    os.close(read)
    try:
        done = torusformer("plan", "missing", stdout=subprocess.PIPE, stderr=write_end)
    finally:
        os.close(write_end)
    assert (done.returncode, done.stdout) == (2, "")


def test_a_reader_that_leaves_after_a_library_took_the_signal() -> None:
    process = python(SAYING)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(timeout=20) == 141
    assert process.stderr.read() == ""


@pytest.mark.parametrize("words", ["plan {}", "plan {} --json", "--help", "plan --help"])
def test_a_full_device(program: Path, words: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = torusformer(*words.format(program).split(), stdout=full)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "No space left on device" in done.stderr


def test_no_streams_at_all(program: Path) -> None:
    line = f'exec "{sys.executable}" -m torusformer plan "{program}" >&- 2>&-'
    assert subprocess.run(["sh", "-c", line], cwd=ROOT, check=False).returncode == 0


def test_a_full_disk_loses_nothing(program: Path, tmp_path: Path) -> None:
    """No file of more than a kilobyte can be written once `compile` begins to save."""
    code = f"""
import resource
import torusformer.fhe_compile as package
save = package.save_deployment
def on_a_full_disk(*args):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    save(*args)
package.save_deployment = on_a_full_disk
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGXFSZ])  # a library handles it
out = sys.argv[1]
for line in f"compile {program} --out {{out}}/d", f"train --preset tiny --epochs 1 --out {{out}}/t":
    print(cli.main(line.split()), flush=True)
"""
    write(tmp_path / "t", "earlier")
    versions = tmp_path / "t" / "versions.json"
    versions.write_text(versions.read_text().replace('"run"', '"training"'))
    out, err = python(code, str(tmp_path)).communicate(timeout=120)
    assert out.split() == ["2", "2"], err
    said = [line for line in err.splitlines() if line.startswith("torusformer ")]
    assert [line.split()[1] for line in said] == ["compile:", "train:"]
    assert all("cannot be written (File too large)" in line for line in said)
    assert "Traceback" not in err
    assert names(tmp_path) == ["t"]
    assert (tmp_path / "t" / "x").read_text() == "earlier"


def test_python_m_torusformer() -> None:
    done = torusformer("--version", stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout.split()[0]) == (0, "torusformer")
