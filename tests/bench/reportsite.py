"""Benchmarks of the report site: how long it takes to write, how large it is, and how fast a browser opens it."""

from __future__ import annotations

import hashlib
import random
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from figures import PROJECT, summary
from splvm.campaign.keep import read_runs
from splvm.errors import HarnessError
from splvm.evidence.timeline import Evidence
from splvm.history.cell import Cell
from splvm.history.database import History
from splvm.history.schema import Figure, RunRow
from splvm.record.reader import read_evidence
from splvm.scenarios.table import EXPECTED
from splvm.site.trends import NAMES
from splvm.site.write import write_site
from unpacking import unpack

_RUNS = 100_000
_KERNELS = ("debian-11", "debian-12", "debian-13", "debian-sid")
_START = datetime(2026, 1, 1)
# A night: so many cells with a run each.
_NIGHT = 100


def overview(runs: int) -> dict[str, object]:
    """Seconds to write the site of a history of 100,000 runs in 100 cells, whose directories are gone."""
    seconds: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="splvm-bench-") as directory,
        History(Path(directory) / "history.sqlite") as history,
    ):
        _fill(history, _RUNS)
        for _ in range(runs):
            start = time.monotonic()
            built = write_site(history, Path(directory) / "site", read_evidence)
            seconds.append(time.monotonic() - start)
        cells = [each.cell for each in history.overview()]
        asked = [_time_trend(history, cell) for cell in cells]
    return {
        "write": summary(seconds, "s"),
        "trend": summary(asked, "s"),
        "pages": built.pages,
        "bytes": built.bytes,
    }


def _time_trend(history: History, cell: Cell) -> float:
    """Seconds that the trend of one figure of one cell takes."""
    start = time.monotonic()
    if not history.trend(cell, "longest_gap_ms"):
        raise HarnessError(f"{cell} has no trend")
    return time.monotonic() - start


def night(runs: int) -> dict[str, object]:
    """A night of 100 cells with all evidence: its size, and seconds until a new browser has loaded and drawn a page."""
    with tempfile.TemporaryDirectory(prefix="splvm-bench-") as directory:
        base = Path(directory)
        with History(base / "history.sqlite") as history:
            history.add(_night(base / "runs"))
            start = time.monotonic()
            built = write_site(history, base / "site", _read)
            took = time.monotonic() - start
        pages = {"index": [base / "site" / "index.html"]}
        pages |= {name: sorted((base / "site" / name).glob("*.html"))[:1] for name in ("cells", "runs")}
        opened = {name: summary([_open(page) for page in found * runs], "s") for name, found in pages.items()}
    return {"write_s": round(took, 2), "pages": built.pages, "bytes": built.bytes, "open": opened}


def _read(directory: Path) -> Evidence:
    """The evidence of a recorded run under the name of another one."""
    evidence = read_evidence(directory)
    return replace(evidence, facts={**evidence.facts, "seal": directory.name})


def _open(page: Path) -> float:
    """Seconds from the beginning of navigation until everything is loaded and drawn, in a browser of its own."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver") or "chromedriver"))
    try:
        start = time.monotonic()
        driver.get(page.as_uri())
        WebDriverWait(driver, 60, 0.01).until(
            lambda it: it.execute_script(
                "return [...document.querySelectorAll('[data-plot]')].every(place => place.dataset.drawn)"
            )
        )
        return time.monotonic() - start
    finally:
        driver.quit()


def _cells(count: int) -> Iterator[tuple[str, str, str]]:
    cells = [(scenario, kernel, variant) for scenario, variant in EXPECTED for kernel in _KERNELS]
    yield from cells[:count]


def _fill(history: History, count: int) -> None:
    """Runs whose figures vary, one in 200 of them bad."""
    chance = random.Random(1)
    cells = list(_cells(_NIGHT))
    for first in range(0, count, 5000):
        history.add([_run(number, cells[number % len(cells)], chance) for number in range(first, first + 5000)])


def _run(number: int, cell: tuple[str, str, str], chance: random.Random) -> RunRow:
    run_id = hashlib.sha256(str(number).encode()).hexdigest()
    scenario, kernel, variant = cell
    verdict = "STALLED" if chance.random() < 0.005 else "PROGRESS"
    figures = [Figure(run_id=run_id, name=name, value=chance.lognormvariate(3, 0.5)) for name in NAMES]
    figures += [Figure(run_id=run_id, name=f"other.{at}", value=float(at)) for at in range(5)]
    return RunRow(
        id=run_id,
        batch=f"night-{number // _NIGHT}",
        started=_START + timedelta(minutes=number),
        scenario=scenario,
        kernel=kernel,
        variant=variant,
        loads="",
        line="packaged",
        parameters="",
        content="",
        **dict.fromkeys(("release", "spl_version", "spl_source", "accelerator", "qemu", "host"), "x"),
        starved="",
        reason="worker spl_kmem_cache (pid 116) was stuck for 2.096 s in slabprobe_grow_work <- taskq_thread",
        fingerprint="" if verdict == "PROGRESS" else "0123456789ab",
        directory="/nowhere/gone",
        command=f"splvm run {scenario} --kernel {kernel} --variant {variant}",
        patches=[],
        modules={"spl.ko": hashlib.sha256(f"{kernel}{variant}{number // 30_000}".encode()).hexdigest()},
        verdict=verdict,
        expected=["PROGRESS"],
        as_expected=verdict == "PROGRESS",
        duration_s=13.0,
        figures=figures,
    )


def _night(place: Path) -> list[RunRow]:
    """The recorded runs of tests/data, as often as it takes, each with a cell of its own."""
    for archive in sorted((PROJECT / "tests" / "data" / "runs").glob("*.tar.xz")):
        with tarfile.open(archive) as opened:
            unpack(opened, place)
    directories = sorted(place.iterdir())
    read = [run for _, run in read_runs(directories) if isinstance(run, RunRow)]
    runs = []
    for number, cell in enumerate(_cells(_NIGHT)):
        like = read[number % len(read)]
        row = {column.key: getattr(like, column.key) for column in RunRow.__table__.columns}
        run_id = hashlib.sha256(f"{number}".encode()).hexdigest()
        row |= {"id": run_id, "batch": "night", **dict(zip(("scenario", "kernel", "variant"), cell, strict=True))}
        row["directory"] = str(place.with_name(run_id))
        Path(row["directory"]).symlink_to(like.directory)
        figures = [Figure(run_id=run_id, name=figure.name, value=figure.value) for figure in like.figures]
        runs.append(RunRow(**row, figures=figures))
    return runs
