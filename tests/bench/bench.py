"""Benchmarks: whole commands and guests, as JSON on stdout. Not part of the test suite.

    .venv/bin/python tests/bench/bench.py [--runs N] [NAME...]

Figures are medians with minimum and maximum; what is compared is run in turn, so that a busy host slows both. A figure
is only printed for a run whose verdict was the expected one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from growcost import grow_cost, grow_cost_four_cpus, grow_cost_one_cpu

from framework.deadline import Deadline, poll
from framework.errors import HarnessError
from framework.evidence.probe import ProbeStatus, parse_probe
from framework.guest.agent import start_agent
from framework.guest.guest import Guest, start_guest
from framework.host.store import Store
from framework.lab.experiment import run_experiment, run_until_fed
from framework.lab.prepare import Wish, prepare
from framework.lab.rundir import read_evidence
from framework.lab.scenarios import Workload, find_scenario

PROJECT = Path(__file__).resolve().parents[2]

# Seconds of guest time over which the rate of the critical threads is measured, with and without the agent.
RATE_S = 3.0


def summary(values: Sequence[float], unit: str) -> dict[str, object]:
    """Median, minimum and maximum."""
    numbers = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {**{name: round(value, 4) for name, value in numbers.items()}, "runs": len(values), "unit": unit}


def timed(argv: Sequence[str], expect: str, env: dict[str, str] | None = None) -> float:
    """Seconds that a command takes; its output must have a line that starts with `expect`."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as cwd:
        done = subprocess.run(
            argv, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False
        )
    seconds = time.monotonic() - start
    if done.returncode != 0 or not any(line.startswith(expect) for line in done.stdout.splitlines()):
        raise SystemExit(f"{argv}: status {done.returncode}\n{done.stdout}\n{done.stderr}")
    return seconds


def boot(runs: int) -> dict[str, object]:
    """Cold boot to the first result over SSH."""
    prepared = prepare(Wish())

    def once() -> float:
        start = time.monotonic()
        with (
            tempfile.TemporaryDirectory() as logs,
            start_guest(prepared.machine, prepared.keys, Path(logs), Deadline(120)) as guest,
        ):
            guest.ssh.run("true", deadline=Deadline(30))
            return time.monotonic() - start

    return summary([once() for _ in range(runs)], "s")


def warm_demo(runs: int) -> dict[str, object]:
    """`splvm demo`, both verdicts, with everything in the store."""
    return summary([timed([str(PROJECT / "splvm"), "demo"], "STALLED") for _ in range(runs)], "s")


def fresh_demo(runs: int) -> dict[str, object]:
    """`splvm demo` with an empty store: packages, build root, configure, modules, both verdicts."""

    def once() -> float:
        with tempfile.TemporaryDirectory(prefix="splvm-bench-") as cache:
            return timed([str(PROJECT / "splvm"), "demo"], "STALLED", {"SPLVM_CACHE": cache})

    return summary([once() for _ in range(runs)], "s")


def edited_patch(runs: int) -> dict[str, object]:
    """`splvm run held-worker` after a line of a semantic patch was edited."""
    text = (PROJECT / "images" / "spl" / "variants" / "no-emergency.cocci").read_text()

    def once(number: int) -> float:
        with tempfile.TemporaryDirectory() as directory:
            patch = Path(directory) / "edited.cocci"
            patch.write_text(text.replace("remaining = 1;", f"remaining = {time.time_ns() % 10**8 + number + 1};"))
            argv = ["run", "held-worker", "--spl-patch", str(patch), "--expect", "STALLED"]
            return timed([str(PROJECT / "splvm"), *argv], "STALLED")

    return summary([once(number) for number in range(runs)], "s")


def agent_cost(runs: int) -> dict[str, object]:
    """Rate of the critical threads with the agent at 20 Hz, divided by the rate without, pair by pair, in one guest.

    The threads never pause, so both CPUs of the guest are theirs but for what the agent takes.
    """
    prepared = prepare(Wish())
    deadline = Deadline(3600)
    with (
        tempfile.TemporaryDirectory() as logs,
        start_guest(prepared.machine, prepared.keys, Path(logs), deadline) as guest,
    ):
        for module in prepared.spl.modules:
            guest.insert_module(module, deadline=deadline)
        workload = Workload(pause_us=0, reap_rounds=0).command()
        guest.ssh.run(f"echo '{workload}' > /proc/slabprobe; echo start > /proc/slabprobe", deadline=deadline)
        rate(guest, deadline)
        ratios = []
        for number in range(runs):
            pair = {}
            for sampled in (True, False) if number % 2 else (False, True):
                pair[sampled] = with_agent(guest, deadline) if sampled else rate(guest, deadline)
            ratios.append(pair[True] / pair[False])
    return {**summary(ratios, "rate with the agent / rate without"), "rate_hz": 20}


def with_agent(guest: Guest, deadline: Deadline) -> float:
    frames: list[object] = []
    with start_agent(
        guest.ssh, guest.qemu.port, rate_hz=20, sink=lambda frame, _: frames.append(frame), deadline=deadline
    ) as agent:
        poll(lambda: True if len(frames) > 20 else None, Deadline(60), "first frames")
        result = rate(guest, deadline)
        agent.quit(Deadline(30))
    return result


def rate(guest: Guest, deadline: Deadline) -> float:
    """Objects per second of guest time."""
    script = f"cat /proc/slabprobe; sleep {RATE_S}; echo ---; cat /proc/slabprobe"
    first, second = guest.ssh.run(script, deadline=deadline).stdout.split("---\n")
    return objects_per_s(parse_probe(first), parse_probe(second))


def objects_per_s(before: ProbeStatus, after: ProbeStatus) -> float:
    got = sum(t.allocs for t in after.threads) - sum(t.allocs for t in before.threads)
    return got / ((after.now_ns - before.now_ns) / 1e9)


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
    done = subprocess.run(
        [str(PROJECT / "splvm"), "bundle", str(out), "--force"], capture_output=True, text=True, check=False
    )
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
    stalled, frozen = [], []
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


BENCHMARKS: dict[str, tuple[Callable[[int], dict[str, object]], int]] = {
    "boot": (boot, 5),
    "warm-demo": (warm_demo, 3),
    "edited-patch": (edited_patch, 3),
    "agent-cost": (agent_cost, 8),
    "evidence-time": (evidence_time, 3),
    "survival": (survival, 100),
    "grow-cost": (grow_cost, 5),
    "grow-cost-1-cpu": (grow_cost_one_cpu, 3),
    "grow-cost-4-cpus": (grow_cost_four_cpus, 1),
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
        results[name] = {"what": (function.__doc__ or "").splitlines()[0], **function(args.runs or runs)}
        results[name]["load1"] = round(os.getloadavg()[0], 2)
    json.dump({"schema_version": 1, "cores": os.cpu_count(), "results": results}, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
