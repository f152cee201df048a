"""Parts in, `results.json` and `results.md` out; resumes where it was interrupted.

If every part asked for is finished already, all of them are measured anew; otherwise only those
that are not.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import machine, today, versions
from benchmarks.store import Store, read, write
from torusformer import InputError

FOLDER = "/"  # where a file's suffix would stand
JSON, MARKDOWN = "results.json", "results.md"
HEAD = """# Benchmarks

Measured by `make bench`, side by side in one run: on {processor}, {threads} threads, {date}, with
{versions}.
Complexity is Concrete's own estimate of the work of one run. Seconds include encryption and
decryption, not key generation.
"""


@dataclass(frozen=True, eq=False)
class Bench:
    """What a part is given: where to keep what it measures, and whether to be quick about it."""

    store: Store
    part: str
    quick: bool
    folder: Path  # of results, for plots
    data: Path | None = None  # what the user brought

    def keep(self, key: str, make: Callable[..., Any], *arguments: Any) -> Any:
        """One measurement, `make(*arguments)`, stored as soon as it exists."""
        return self.store.keep(self.part, key, make, *arguments)

    def result(self, part: str) -> dict[str, Any]:
        """What a part in `needs` found."""
        found = self.store.part(part)
        assert found is not None, f"{self.part} must name {part} among its needs"
        return found

    def say(self, text: str) -> None:
        """A line for whoever waits."""
        print(f"{self.part}: {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True, eq=False)
class Part:
    """One object of `results.json` and one section of `results.md`.

    `shows` is one sentence on what the section shows; `render` makes its Markdown, of the object.
    """

    name: str
    title: str
    shows: str
    measure: Callable[[Bench], dict[str, Any]]
    render: Callable[[Mapping[str, Any]], str]
    needs: tuple[str, ...] = ()
    data: str = ""  # suffix of a file of the user's, or FOLDER; without it the part is left out

    @property
    def wanted(self) -> str:
        """What of the user's it is measured on."""
        return "folder" if self.data == FOLDER else f"{self.data} file"


def select(parts: Sequence[Part], only: Sequence[str]) -> list[Part]:
    """The parts asked for, in their own order; all of them if none is named."""
    known = {part.name for part in parts}
    for name in only:
        if name not in known:
            names = ", ".join(part.name for part in parts)
            raise InputError(f"the benchmark has no part {name!r}; choose among {names}")
    return [part for part in parts if not only or part.name in only]


def pending(parts: Sequence[Part], chosen: Sequence[Part], store: Store) -> list[Part]:
    """What to measure now, needs first; forgets the chosen parts if all of them are finished."""
    if all(store.part(part.name) is not None for part in chosen):
        for part in chosen:
            store.forget(part.name)
    wanted = {part.name for part in chosen}
    for part in reversed(parts):  # a part stands behind those it needs
        if part.name in wanted and store.part(part.name) is None:
            wanted |= set(part.needs)
    return [part for part in parts if part.name in wanted and store.part(part.name) is None]


def run(
    parts: Sequence[Part],
    only: Sequence[str],
    store: Store,
    folder: Path,
    *,
    quick: bool = False,
    data: Path | None = None,
) -> list[str]:
    """Measure, and write the results after every part; the names of the parts that failed."""
    chosen = select(parts, only)
    lacking = [part for part in chosen if _lacks_data(part, data, quick)]
    for part in lacking:
        said = f"is measured on a {part.wanted} of yours"
        if part.name in only:
            raise InputError(f"the part {part.name} {said}: give --data")
        print(f"{part.name}: left out, it {said} (--data)", file=sys.stderr)
    chosen = [part for part in chosen if part not in lacking]
    todo = pending(parts, chosen, store)
    failed: list[str] = []
    for i, part in enumerate(todo):
        if missing := [need for need in part.needs if store.part(need) is None]:
            print(f"{part.name}: left out, {missing[0]} failed", file=sys.stderr)
            failed.append(part.name)
            continue
        print(f"[{i + 1}/{len(todo)}] {part.name}: {part.title}", file=sys.stderr, flush=True)
        start = time.monotonic()
        try:
            result = part.measure(Bench(store, part.name, quick, folder, data))
        except Exception:  # the other parts are worth measuring all the same
            traceback.print_exc()
            failed.append(part.name)
            continue
        seconds = round(time.monotonic() - start, 1)
        store.finish(part.name, {**result, "measured": {"date": today(), "seconds": seconds}})
        publish(parts, store, folder)
    return failed


def _lacks_data(part: Part, data: Path | None, quick: bool) -> bool:
    """Whether a part needs something of the user's that is not there; quick ones do without."""
    if not part.data or data is None:
        return bool(part.data) and not quick
    return not data.is_dir() if part.data == FOLDER else data.suffix != part.data


def publish(parts: Sequence[Part], store: Store, folder: Path) -> None:
    """Write both files: this machine's parts over those that stand there already.

    A part that another machine or other releases measured says so in its `measured`.
    """
    here = {"machine": machine(), "versions": versions()}
    old = read(folder / JSON) or {}
    of_old = {key: old.get(key) for key in here}
    results: dict[str, Any] = {**here, "date": today()}
    for part in parts:
        found = store.part(part.name)
        if found is None and part.name in old:
            found = dict(old[part.name])
            if of_old != here:
                found["measured"] = {**of_old, **found.get("measured", {})}
        if found is not None:
            results[part.name] = found
    write(folder / JSON, results)
    (folder / MARKDOWN).write_text(document(parts, results))


def document(parts: Sequence[Part], results: Mapping[str, Any]) -> str:
    """The whole `results.md`."""
    about = results["machine"]
    releases = ", ".join(f"{name} {release}" for name, release in results["versions"].items())
    head = HEAD.format(**about, date=results["date"], versions=releases)
    sections = [section(part, results[part.name]) for part in parts if part.name in results]
    return "\n".join([head, *sections])


def section(part: Part, result: Mapping[str, Any]) -> str:
    """Title, sentence, table, and the command that repeats it."""
    measured = result.get("measured", {})
    where = "" if "machine" not in measured else f", on {measured['machine']['processor']}"
    when = f" (measured {measured['date']}{where})" if "date" in measured else ""
    try:
        body = part.render(result)
    except KeyError as error:  # stored before the part changed: no reason to lose the others
        body = f"Measured by an earlier form of this part, which lacks {error}: measure it again."
    lines = [f"## {part.title}", part.shows, body]
    data = f" DATA={'DIR' if part.data == FOLDER else f'FILE{part.data}'}" if part.data else ""
    again = f"Again: `make bench ONLY={part.name}{data}`{when}"
    return "\n\n".join([*lines, again]) + "\n"
