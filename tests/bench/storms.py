"""What the storm costs the transactions of a guest, by kernel."""

from __future__ import annotations

import tempfile
from pathlib import Path

from figures import summary
from splvm.builds.kernels import KERNELS
from splvm.deadline import Deadline, poll
from splvm.errors import HarnessError
from splvm.evidence.formats.probestatus import ProbeStatus, parse_probe
from splvm.evidence.formats.stormstatus import StormStatus
from splvm.guest.guest import Guest
from splvm.run.prepare import Wish, prepare
from splvm.run.starting import load_modules, start_any_guest

# Seconds of guest time before the rate of transactions is measured, and in which it is.
BEFORE_S, RATE_S = 1.0, 3.0

# What the probe is told first, and the storm's rate: one allocation in so many is preceded by a reclaim, 0: none is.
WAYS = {
    "without_hooks": ("", 0),
    "with_hooks": ("sites on spl", 0),
    "reclaim_at_one_in_16": ("sites on spl", 16),
    "reclaim_at_each": ("sites on spl", 1),
}


def storm_cost(runs: int) -> dict[str, object]:
    """Transactions a second with hooks and with reclaim, by those without, in one guest of each kernel and run."""
    return {kernel: _of_kernel(kernel, runs) for kernel in KERNELS}


def _of_kernel(kernel: str, runs: int) -> dict[str, object]:
    prepared = prepare(Wish(kernel=kernel))
    deadline = Deadline(3600)
    ratios: dict[str, list[float]] = {name: [] for name in WAYS if name != "without_hooks"}
    reclaims: list[float] = []
    for _ in range(runs):
        with (
            tempfile.TemporaryDirectory(prefix="splvm-bench-") as logs,
            start_any_guest(prepared.plan, Path(logs), deadline) as guest,
        ):
            load_modules(guest, prepared.plan, deadline)
            rates = {}
            for name, (command, one_in) in WAYS.items():
                rates[name], reclaimed = _rate(guest, command, one_in, deadline)
        reclaims.append(reclaimed)
        for name, values in ratios.items():
            values.append(rates[name] / rates["without_hooks"])
    figures: dict[str, object] = {f"{name}_by_without": summary(values, "ratio") for name, values in ratios.items()}
    return {**figures, "reclaims_a_second": summary(reclaims, "1/s")}


def _rate(guest: Guest, command: str, one_in: int, deadline: Deadline) -> tuple[float, float]:
    """Transactions and reclaims a second of guest time."""
    commands = [command, f"storm set rate={one_in}", "storm start"]
    told = " && ".join(f"echo '{it}' > /proc/slabprobe" for it in commands if it)
    guest.ssh.run(f"{told} && sleep {BEFORE_S}", deadline=deadline)
    before = _read(guest, deadline)
    guest.ssh.run(f"sleep {RATE_S}", deadline=deadline)
    after = _read(guest, deadline)
    guest.ssh.run("echo 'storm stop' > /proc/slabprobe", deadline=deadline)
    poll(lambda: _storm(_read(guest, deadline)).idle or None, Deadline(60), "the storm's end")
    seconds = (after.now_ns - before.now_ns) / 1e9
    return (_commits(after) - _commits(before)) / seconds, (_reclaims(after) - _reclaims(before)) / seconds


def _read(guest: Guest, deadline: Deadline) -> ProbeStatus:
    return parse_probe(guest.ssh.run("cat /proc/slabprobe", deadline=deadline).stdout)


def _storm(status: ProbeStatus) -> StormStatus:
    if status.storm is None:
        raise HarnessError("the probe tells nothing of a storm")
    return status.storm


def _commits(status: ProbeStatus) -> int:
    return sum(tx.commits for tx in _storm(status).txs)


def _reclaims(status: ProbeStatus) -> int:
    return _storm(status).reclaims + _storm(status).shrinks
