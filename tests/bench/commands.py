"""Whole commands, as a user gives them, and the boot that clones spare."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

from figures import PROJECT, SPLVM, summary, timed
from splvm.builds.tree import SPL_DIR
from splvm.deadline import Deadline
from splvm.guest.guest import start_guest
from splvm.run.prepare import Wish, prepare

# How many runs at once are compared.
JOBS = (1, 2, 3)


def boot(runs: int) -> dict[str, object]:
    """Cold boot to the first result over SSH."""
    prepared = prepare(Wish())

    def once() -> float:
        start = time.monotonic()
        with (
            tempfile.TemporaryDirectory() as logs,
            start_guest(prepared.plan, Path(logs), Deadline(120)) as guest,
        ):
            guest.ssh.run("true", deadline=Deadline(30))
            return time.monotonic() - start

    return summary([once() for _ in range(runs)], "s")


def warm_demo(runs: int) -> dict[str, object]:
    """`splvm demo`, both verdicts, with everything in the store."""
    timed([SPLVM, "demo"], "STALLED")
    return summary([timed([SPLVM, "demo"], "STALLED") for _ in range(runs)], "s")


def fresh_demo(runs: int) -> dict[str, object]:
    """`splvm demo` with an empty store: packages, build root, configure, modules, both verdicts."""

    def once() -> float:
        with tempfile.TemporaryDirectory(prefix="splvm-bench-") as cache:
            return timed([SPLVM, "demo"], "STALLED", {"SPLVM_CACHE": cache})

    return summary([once() for _ in range(runs)], "s")


def held_worker(runs: int) -> dict[str, object]:
    """`splvm run held-worker` with its defaults, with everything in the store, its template too."""
    argv = [SPLVM, "run", "held-worker"]
    timed(argv, "PROGRESS")
    return summary([timed(argv, "PROGRESS") for _ in range(runs)], "s")


def edited_patch(runs: int) -> dict[str, object]:
    """`splvm run held-worker` after a line of a semantic patch was edited."""
    text = (PROJECT / "images" / "spl" / "variants" / "no-emergency.cocci").read_text()

    def once(number: int) -> float:
        with tempfile.TemporaryDirectory() as directory:
            patch = Path(directory) / "edited.cocci"
            patch.write_text(text.replace("remaining = 1;", f"remaining = {time.time_ns() % 10**8 + number + 1};"))
            argv = [SPLVM, "run", "held-worker", "--spl-patch", str(patch), "--expect", "STALLED"]
            return timed(argv, "STALLED")

    return summary([once(number) for number in range(runs)], "s")


def edit_to_verdict(runs: int) -> dict[str, object]:
    """`splvm run held-worker --spl path:DIR` after a line of spl-kmem-cache.c was edited."""
    prepared = prepare(Wish())
    with tempfile.TemporaryDirectory(prefix="splvm-bench-") as directory:
        tree = Path(directory) / "zfs"
        shutil.copytree(prepared.spl.source.tree, tree, symlinks=True)
        source = tree / SPL_DIR / "spl-kmem-cache.c"
        text = source.read_text()
        argv = [SPLVM, "run", "held-worker", "--spl", f"path:{tree}"]

        def once() -> float:
            # What a parameter is for: other modules than before, whose verdict is the same.
            edited = text.replace('"Number of objects per slab"', f'"Number of objects per slab, {time.time_ns()}"')
            if edited == text:
                raise SystemExit(f"{source}: the line to be edited is not there")
            source.write_text(edited)
            return timed(argv, "PROGRESS")

        once()
        return summary([once() for _ in range(runs)], "s")


def scaling(runs: int) -> dict[str, object]:
    """`splvm run held-worker` so many times, by one, two and three jobs: runs a minute, and what the verdicts were."""
    prepare(Wish())
    timed([SPLVM, "run", "held-worker"], "PROGRESS")
    return {f"{jobs}_at_once": _series(runs, jobs) for jobs in JOBS}


def _series(runs: int, jobs: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="splvm-bench-") as directory:
        out = Path(directory) / "runs"
        argv = [SPLVM, "run", "held-worker", "--repeat", str(runs), "--jobs", str(jobs), "--out", str(out)]
        start = time.monotonic()
        # A verdict that is not the expected one is a figure here, and no reason to stop.
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - start
        verdicts = Counter(json.loads(path.read_text())["verdict"] for path in out.glob("*/verdict.json"))
    if sum(verdicts.values()) != runs:
        raise SystemExit(f"{argv}: {verdicts}, status {done.returncode}\n{done.stderr[-2000:]}")
    return {"runs_per_minute": round(60 * runs / seconds, 2), "runs": runs, "verdicts": dict(verdicts)}
