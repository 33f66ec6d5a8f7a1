"""What sampling costs the threads that are watched."""

from __future__ import annotations

import re
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

from clones import make_mould
from figures import summary
from splvm.deadline import Deadline, poll
from splvm.evidence.formats.probestatus import ProbeStatus, parse_probe
from splvm.guest.agent import start_agent
from splvm.guest.guest import Guest
from splvm.guest.template import start_clone
from splvm.run.scenarios import Workload

RATES_HZ = (20, 50, 100)

# Seconds of guest time over which the rate of the critical threads is measured, with and without the agent.
RATE_S = 3.0


def sampling(runs: int) -> dict[str, object]:
    """The agent at 20, 50 and 100 Hz: rate of the critical threads with it by that without, pair by pair, in one guest.

    The threads never pause, so both CPUs of the guest are theirs but for what the agent takes.
    """
    mould = make_mould()
    deadline = Deadline(3600)
    ratios: dict[int, list[float]] = {hz: [] for hz in RATES_HZ}
    cpu: dict[int, list[float]] = {hz: [] for hz in RATES_HZ}
    with (
        tempfile.TemporaryDirectory(prefix="splvm-bench-") as logs,
        start_clone(mould.template, mould.plan, Path(logs), deadline) as guest,
    ):
        workload = Workload(pause_us=0, reap_rounds=0).command()
        guest.ssh.run(f"echo '{workload}' > /proc/slabprobe; echo start > /proc/slabprobe", deadline=deadline)
        rate(guest, deadline)
        for number in range(runs):
            for hz in RATES_HZ:
                without = 0.0
                if number % 2:
                    without, _ = rate(guest, deadline)
                sampled, share = with_agent(guest, hz, deadline)
                if not number % 2:
                    without, _ = rate(guest, deadline)
                ratios[hz].append(sampled / without)
                cpu[hz].append(share)
    return {
        f"{hz}_hz": {
            "rate_with_by_rate_without": summary(ratios[hz], "ratio"),
            "cost_percent": round(100 * (1 - statistics.median(ratios[hz])), 2),
            "agent_cpu_percent_of_the_guest": summary([100 * share for share in cpu[hz]], "%"),
        }
        for hz in RATES_HZ
    }


def with_agent(guest: Guest, hz: int, deadline: Deadline) -> tuple[float, float]:
    """The same as `rate`, with the agent at work."""
    frames: list[object] = []
    with ExitStack() as stack:
        agent = stack.enter_context(
            start_agent(
                guest.ssh, guest.qemu.port, rate_hz=hz, sink=lambda frame, _: frames.append(frame), deadline=deadline
            )
        )
        poll(lambda: True if len(frames) > 20 else None, Deadline(60), "first frames")
        result = rate(guest, deadline)
        agent.quit(Deadline(30))
    return result


# Time on a CPU of every thread of the agent, ns (Documentation/scheduler/sched-stats.rst), then the probe's status.
# There may be two of them: one that waited in the clone, and the one that has called it.
_READ = "cat $(printf '/proc/%s/task/*/schedstat ' $(pidof splvm-agent)) 2>/dev/null; echo ===; cat /proc/slabprobe"


def rate(guest: Guest, deadline: Deadline) -> tuple[float, float]:
    """Objects per second of guest time, and the share of the guest's CPUs that the agent took, 0 to 1."""
    said = guest.ssh.run(f"{_READ}; sleep {RATE_S}; echo ---; {_READ}", deadline=deadline).stdout
    (ns_before, before), (ns_after, after) = (_read(part) for part in said.split("---\n"))
    seconds = (after.now_ns - before.now_ns) / 1e9
    got = sum(t.allocs for t in after.threads) - sum(t.allocs for t in before.threads)
    return got / seconds, (ns_after - ns_before) / 1e9 / seconds / guest.spec.cpus


def _read(text: str) -> tuple[int, ProbeStatus]:
    times, probe = text.split("===\n")
    return sum(int(ns) for ns in re.findall(r"^(\d+) \d+ \d+$", times, re.MULTILINE)), parse_probe(probe)
