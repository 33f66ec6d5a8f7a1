"""Runs in virtual time, one after the other: how many digests, schedules and verdicts they have. No test.

    .venv/bin/python tests/bench/samerun.py runs FILE [--kernel K,K] [--scenario S,S] [--seeds A..B] [--runs N]
        [--load L,L] [--stopped] [--busy N] [--window S] [--within S]
    .venv/bin/python tests/bench/samerun.py table FILE

`runs` adds a line of JSON to FILE for each run, and leaves out runs that FILE has already: so it can be ended at any
moment and called again. `--load` puts loads beside the scenario. `--stopped` stops QEMU by SIGSTOP half of the time;
`--busy` starts busy loops beside it.
`table` says for each kernel, scenario and seed what the runs came to, and how many schedules the seeds have. A schedule
is all that readings say of states and context switches of threads.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from splvm.clock import Clock
from splvm.deadline import Deadline
from splvm.errors import HarnessError
from splvm.record.reader import iterate_records, read_facts
from splvm.run.experiment import Experiment, run_experiment
from splvm.run.loads import parse_loads
from splvm.run.prepare import Wish, prepare
from splvm.scenarios.table import find_scenario

SOUND = "held-worker,reclaim-cycle,nominal,long-lived,fragmented"
KERNELS = "debian-11,debian-12,debian-13,debian-sid"

_THREAD = re.compile(r"^task (pid=\d+) .*(state=\w) (voluntary=\d+ nonvoluntary=\d+)", re.MULTILINE)


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _qemus_of(directory: Path) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            argv = path.read_bytes()
            if str(directory).encode() in argv and b"-icount" in argv:
                found.append(int(path.parent.name))
    return found


@contextmanager
def stopped_at_random(directory: Path) -> Iterator[None]:
    """QEMU is stopped half of the time."""
    over = threading.Event()

    def disturb() -> None:
        while not over.wait(random.uniform(0.01, 0.2)):
            for pid in _qemus_of(directory):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                    over.wait(random.uniform(0.01, 0.2))
                    os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def schedule_of(directory: Path) -> str:
    digest = hashlib.sha256()
    for record in iterate_records(directory / "samples.jsonl"):
        if record.get("source") == "tasks":
            digest.update(repr(_THREAD.findall(str(record.get("text", "")))).encode())
    return digest.hexdigest()[:16]


def run_once(experiment: Experiment, *, stopped: bool, busy: int) -> dict[str, Any]:
    since = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="splvm-bench-") as name, ExitStack() as stack:
        out = Path(name) / "run"
        stack.enter_context(busy_loops(busy))
        if stopped:
            stack.enter_context(stopped_at_random(Path(name)))
        try:
            verdict = run_experiment(experiment, out)
        except HarnessError as error:
            return {"trouble": error.message.splitlines()[0]}
        return {
            "digest": verdict.digest[:16],
            "schedule": schedule_of(out),
            "outcome": verdict.outcome.value,
            "reasons": [reason.text for reason in verdict.reasons][:12],
            "expected": verdict.outcome in experiment.expected,
            "template": read_facts(out)["template"],
            "seconds": round(time.monotonic() - since, 1),
            "load": round(os.getloadavg()[0], 1),
        }


def do_runs(options: argparse.Namespace) -> None:
    done = Counter(map(_case_of, _rows(options.file)))
    until = Deadline(options.within)
    first, _, last = options.seeds.partition("..")
    for kernel in options.kernel.split(","):
        prepared = prepare(Wish(kernel=kernel, accelerator="tcg", clock=Clock.VIRTUAL))
        for scenario in options.scenario.split(","):
            for seed in range(int(first), int(last or first) + 1):
                case = {"kernel": kernel, "scenario": scenario, "seed": seed, "loads": options.load}
                case |= {"stopped": options.stopped, "busy": options.busy, "window_s": options.window}
                loads = parse_loads([options.load] if options.load else [])
                experiment = prepared.experiment(
                    find_scenario(scenario), window_s=options.window, seed=seed, loads=loads
                )
                for _ in range(options.runs - done[_case_of(case)]):
                    if until.expired:
                        return
                    row = case | run_once(experiment, stopped=options.stopped, busy=options.busy)
                    with options.file.open("a", encoding="utf-8") as file:
                        file.write(f"{json.dumps(row)}\n")


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _case_of(row: dict[str, Any]) -> tuple[Any, ...]:
    case = tuple(row[key] for key in ("kernel", "scenario", "seed", "stopped", "busy", "window_s"))
    return (*case, row.get("loads", ""))


def show_table(options: argparse.Namespace) -> None:
    """A line for each seed that was run more than once, and one for the seeds of a cell."""
    rows = _rows(options.file)
    same, cells = defaultdict(list), defaultdict(list)
    for row in rows:
        cell = (row["kernel"], row["scenario"], row.get("loads", ""), row["window_s"])
        same[*cell, row["seed"]].append(row)
        cells[cell].append(row)
    for case, runs in same.items():
        if len(runs) > 1:
            how = Counter("stopped" if r["stopped"] else f"busy {r['busy']}" if r["busy"] else "alone" for r in runs)
            _say(*case, dict(how), "digests:", len({r.get("digest") for r in runs}), _verdicts(runs))
    for cell, runs in cells.items():
        counts = {key: len({r[key] for r in runs if key in r}) for key in ("seed", "digest", "schedule", "template")}
        _say(*cell, "runs:", len(runs), counts, _verdicts(runs))


def _say(*words: object) -> None:
    sys.stdout.write(f"{' '.join(map(str, words))}\n")


def _verdicts(runs: list[dict[str, Any]]) -> dict[str, int]:
    return dict(Counter(str(r.get("outcome") or f"trouble: {r['trouble']}") for r in runs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("runs", "table"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--kernel", default=KERNELS)
    parser.add_argument("--scenario", default=SOUND)
    parser.add_argument("--seeds", default="1", metavar="A..B")
    parser.add_argument("--load", default="", help="as of `splvm run`")
    parser.add_argument("--runs", type=int, default=20, help="of each seed")
    parser.add_argument("--stopped", action="store_true")
    parser.add_argument("--busy", type=int, default=0)
    parser.add_argument("--window", type=float, help="seconds of guest time; by default the scenario's own")
    parser.add_argument("--within", type=float, default=1e9, help="seconds after which no other run is begun")
    options = parser.parse_args()
    {"runs": do_runs, "table": show_table}[options.what](options)


if __name__ == "__main__":
    main()
