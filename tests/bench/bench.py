"""Benchmarks: whole commands and guests, as JSON on stdout. Not part of the test suite.

    .venv/bin/python tests/bench/bench.py [--runs N] [NAME...]

Figures are medians with minimum and maximum; what is compared is run in turn, so that a busy host slows both. A figure
is only printed for a run whose verdict was the expected one. docs/performance.md has what they came to.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path

from clones import clone, clone_memory, clones_in_a_row, clones_per_second, template
from commands import boot, edit_to_verdict, edited_patch, fresh_demo, held_worker, scaling, warm_demo
from figures import SPLVM, Benchmark, load, machine, summary
from growcost import grow_cost, grow_cost_four_cpus, grow_cost_one_cpu
from loads import loads
from reportsite import night, overview
from sampling import sampling
from scheduling import overhead
from splvm.deadline import Deadline
from splvm.errors import HarnessError
from splvm.guest.guest import Guest
from splvm.host.store import Store
from splvm.record.reader import read_evidence
from splvm.run.experiment import run_experiment, run_until_fed
from splvm.run.prepare import Wish, prepare
from splvm.scenarios.table import find_scenario
from virtme import virtme


def survival(runs: int) -> dict[str, object]:
    """Runs whose sshd is killed just before the window: how many get the verdict of an undisturbed run, bundle and all.

    Every other run is of the build without emergency objects, whose verdict is STALLED.
    """
    builds = {variant: prepare(Wish(variant=variant)) for variant in ("stock", "no-emergency")}
    expected = {"stock": "PROGRESS", "no-emergency": "STALLED"}
    same, odd, reruns = 0, [], 0
    with tempfile.TemporaryDirectory(prefix="splvm-bench-") as directory:
        for number in range(runs):
            variant = list(builds)[number % 2]
            experiment = builds[variant].experiment(find_scenario("held-worker"), window_s=2)
            done = run_until_fed(experiment, Path(directory) / f"{number:03}", on_phase=_kill_sshd)
            reruns += len(done) - 1
            verdict, out = done[-1]
            lacking = _lacks(out)
            if verdict.outcome.value == expected[variant] and not lacking:
                same += 1
            else:
                odd.append(f"run {number}, {variant}: {verdict.outcome} {verdict.reasons[0].text} {' '.join(lacking)}")
            shutil.rmtree(out)
            sys.stderr.write(f"{number + 1}: {verdict.outcome}, {same} as undisturbed\n")
    return {"same": same, "runs": runs, "reruns_of_starved_guests": reruns, "odd": odd}


def _kill_sshd(guest: Guest, phase: str) -> None:
    if phase == "hold":
        with suppress(HarnessError):
            guest.ssh.run("killall -9 dropbear", deadline=Deadline(10), check=False)


def _lacks(out: Path) -> list[str]:
    """What the bundle of a run lacks; the window's evidence has to have come by the second path."""
    done = subprocess.run([SPLVM, "bundle", str(out), "--force"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return [f"bundle: {done.stderr}"]
    archive = out.with_name(f"{out.name}.tar.gz")
    with tarfile.open(archive) as bundle:
        names = {name.partition("/")[2] for name in bundle.getnames()}
    wanted = ["issue.md", "slab-before.txt", "slab-during.txt", "slab-after.txt", "meminfo.txt", "stacks.txt"]
    wanted += ["slabinfo.txt", "dmesg.txt"]
    paths = {sample.path for sample in read_evidence(out).timeline.slab}
    return [name for name in wanted if name not in names] + (["second path"] if "virtio-serial" not in paths else [])


def evidence_time(runs: int) -> dict[str, object]:
    """Seconds from the end of the window until the evidence of a stall, or of a silent guest, is complete."""
    stalled: list[float] = []
    frozen: list[float] = []
    builds = {variant: prepare(Wish(variant=variant)) for variant in ("stock", "no-emergency")}
    with tempfile.TemporaryDirectory(prefix="splvm-bench-") as directory:
        for number in range(runs):
            for variant, disturb, times in (("no-emergency", None, stalled), ("stock", _stop_userland, frozen)):
                experiment = builds[variant].experiment(find_scenario("held-worker"), window_s=2)
                out = Path(directory) / f"{variant}-{number}"
                run_experiment(experiment, out, disturb)
                timeline = read_evidence(out).timeline
                times.append(timeline.looks[0].at_s - timeline.host_phases["window-end"])
    return {"stall": summary(stalled, "s"), "every program stopped": summary(frozen, "s")}


def _stop_userland(guest: Guest, phase: str) -> None:
    """Neither the agent nor sshd runs on from here: only the kernel still answers."""
    if phase == "window-end":
        with suppress(HarnessError):
            command = "kill -STOP $(pidof splvm-agent) $(pidof dropbear)"
            guest.ssh.run(command, deadline=Deadline(0.5), check=False)


def site(runs: int) -> dict[str, object]:
    """The report site: written of 100,000 runs, and of a night, which a browser opens."""
    return {"overview": overview(runs), "night": night(runs)}


# Each with the runs it gets by default.
BENCHMARKS: dict[str, tuple[Benchmark, int]] = {
    "boot": (boot, 5),
    "template": (template, 3),
    "clone": (clone, 20),
    "clones-per-second": (clones_per_second, 3),
    "clone-memory": (clone_memory, 3),
    "clones-in-a-row": (clones_in_a_row, 200),
    "held-worker": (held_worker, 5),
    "warm-demo": (warm_demo, 3),
    "edited-patch": (edited_patch, 3),
    "edit-to-verdict": (edit_to_verdict, 3),
    "sampling": (sampling, 8),
    "scaling": (scaling, 6),
    "virtme": (virtme, 5),
    "evidence-time": (evidence_time, 3),
    "survival": (survival, 100),
    "grow-cost": (grow_cost, 5),
    "grow-cost-1-cpu": (grow_cost_one_cpu, 3),
    "grow-cost-4-cpus": (grow_cost_four_cpus, 1),
    "loads": (loads, 3),
    "site": (site, 3),
    "overhead": (overhead, 5),
    "fresh-demo": (fresh_demo, 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--runs", type=int, help="runs of each; default: its own number")
    args = parser.parse_args()
    unknown = set(args.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    Store.default()
    results = {}
    for name in args.names or BENCHMARKS:
        function, runs = BENCHMARKS[name]
        before = load()
        figures = function(args.runs or runs)
        what = (function.__doc__ or "").splitlines()[0]
        results[name] = {"what": what, **figures, "load_before": before, "load_after": load()}
    json.dump({"schema_version": 2, "machine": machine(), "results": results}, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
