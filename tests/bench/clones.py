"""Clones: how soon they run and answer, how many a second, what memory they take, and whether they all come up."""

from __future__ import annotations

import os
import re
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from figures import summary
from splvm.deadline import Deadline, poll
from splvm.errors import HarnessError
from splvm.guest.agent import start_agent
from splvm.guest.guest import Guest
from splvm.guest.guestplan import GuestPlan
from splvm.guest.qemu import start_qemu
from splvm.guest.ssh import start_ssh
from splvm.guest.template import Template, Templates, start_clone
from splvm.host.store import Store
from splvm.run.prepare import Wish, prepare

# MiB of the guest whose clones are weighed, and how many of them live at once.
RAM_MIB = 512
AT_ONCE = 10

# Clones that are started and ended for one figure of how many a second.
SERIES = 10


@dataclass(frozen=True, slots=True)
class Mould:
    """Everything that a clone is made of: a template with SPL and the probe loaded."""

    template: Template
    plan: GuestPlan
    # As `uname -r` says it.
    release: str

    @contextmanager
    def clone(self) -> Iterator[Guest]:
        """One of it."""
        with (
            tempfile.TemporaryDirectory(prefix="splvm-bench-") as logs,
            start_clone(self.template, self.plan, Path(logs), Deadline(120)) as guest,
        ):
            yield guest


def make_mould() -> Mould:
    """Fetched, built, booted and frozen, so that what follows measures clones alone."""
    prepared = prepare(Wish(ram_mib=RAM_MIB))
    template = Templates.default().get(prepared.plan, Deadline(300))
    return Mould(template, prepared.plan, prepared.kernel.release)


def template(runs: int) -> dict[str, object]:
    """What the first clone has to wait for, once: a guest is booted and frozen, a clone of it gets its modules too."""
    prepared = prepare(Wish(ram_mib=RAM_MIB))
    # On the same file system as those that are in use.
    where = make_mould().template.directory.parents[3]
    seconds = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory(prefix="splvm-bench-", dir=where) as directory:
            start = time.monotonic()
            made = Templates(Store(Path(directory)), 4 << 30)
            made.get(prepared.plan, Deadline(300))
            seconds.append(time.monotonic() - start)
    return summary(seconds, "s")


def check(guest: Guest, release: str) -> None:
    """Whether a clone does what it is told.

    :raises HarnessError: when its answer is not the right one.
    """
    token = secrets.token_hex(8)
    said = guest.ssh.run(f"echo {token}; uname -r; lsmod", deadline=Deadline(30)).stdout
    lines = said.splitlines()
    loaded = {line.split()[0] for line in lines[2:] if line.strip()}
    if lines[:2] != [token, release] or not {"spl", "slabprobe"} <= loaded:
        raise HarnessError(f"a clone was asked for {token}, its kernel {release} and its modules, and said {said!r}")


def clone(runs: int) -> dict[str, object]:
    """From the start of QEMU until the clone runs, and until its first SSH command has ended."""
    mould = make_mould()
    stages: dict[str, list[float]] = {}
    for _ in range(runs):
        for name, seconds in (*_time_stages(mould), *_time_sshd(mould), *_time_clone(mould)):
            stages.setdefault(name, []).append(seconds)
    return {name: summary(values, "s") for name, values in stages.items()}


def _time_clone(mould: Mould) -> Iterator[tuple[str, float]]:
    """As everybody gets one."""
    start = time.monotonic()
    token = secrets.token_hex(8)
    with mould.clone() as guest:
        yield "ssh_connected_and_awake", time.monotonic() - start
        if guest.ssh.run(f"echo {token}", deadline=Deadline(30)).stdout != f"{token}\n":
            raise HarnessError("a clone did not say what it was told to")
        yield "first_ssh_result", time.monotonic() - start
        check(guest, mould.release)
        yield "second_ssh_result", time.monotonic() - start
        _wait_for_frame(guest)
        yield "first_frame_of_the_agent", time.monotonic() - start


def _time_stages(mould: Mould) -> Iterator[tuple[str, float]]:
    """What a clone's start consists of; nobody wakes this one."""
    deadline = Deadline(60)
    backing = mould.template.backing(mould.plan.machine, shared=False)
    with tempfile.TemporaryDirectory(prefix="splvm-bench-") as logs:
        start = time.monotonic()
        log = Path(logs) / "qemu.log"
        with start_qemu(mould.plan.machine, qemu_log=log, deadline=deadline, backing=backing, restored=True) as qemu:
            yield "monitor_answers", time.monotonic() - start
            qemu.restore(mould.template.state, deadline)
            yield "running", time.monotonic() - start
            if (status := qemu.status(deadline)) != "running":
                raise HarnessError(f"a clone that was told to go on is {status}")
            with start_ssh(qemu.ssh_port(deadline), mould.plan.keys, deadline):
                yield "ssh_connected", time.monotonic() - start


def _time_sshd(mould: Mould) -> Iterator[tuple[str, float]]:
    """How long sshd takes until it says its first word, to a connection and to the next one."""
    deadline = Deadline(60)
    backing = mould.template.backing(mould.plan.machine, shared=False)
    with (
        tempfile.TemporaryDirectory(prefix="splvm-bench-") as logs,
        start_qemu(
            mould.plan.machine, qemu_log=Path(logs) / "qemu.log", deadline=deadline, backing=backing, restored=True
        ) as qemu,
    ):
        qemu.restore(mould.template.state, deadline)
        port = qemu.ssh_port(deadline)
        for name in ("first_word_of_sshd", "first_word_to_a_second_connection"):
            start = time.monotonic()
            with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
                if not sock.recv(4).startswith(b"SSH"):
                    raise HarnessError("sshd of a clone said something else than its version")
                yield name, time.monotonic() - start


def _wait_for_frame(guest: Guest) -> None:
    frames: list[object] = []
    with start_agent(
        guest.ssh,
        guest.qemu.port,
        rate_hz=20,
        sink=lambda frame, _: frames.append(frame),
        deadline=Deadline(30),
    ):
        poll(lambda: frames or None, Deadline(30), "the first frame of a clone's agent", interval_s=0.002)


def clones_per_second(runs: int) -> dict[str, object]:
    """Clones started, asked one thing and ended, one after the other and two at once; each figure is of ten."""
    mould = make_mould()

    def one(_: int) -> None:
        with mould.clone() as guest:
            check(guest, mould.release)

    def rate(at_once: int) -> float:
        start = time.monotonic()
        # A thread stays as long as the executor does, and QEMU no longer than the thread that has started it.
        with ThreadPoolExecutor(at_once) as threads:
            list(threads.map(one, range(SERIES)))
            return SERIES / (time.monotonic() - start)

    pairs = [(rate(1), rate(2)) for _ in range(runs)]
    return {
        "one_after_the_other": summary([single for single, _ in pairs], "clones/s"),
        "two_at_once": summary([double for _, double in pairs], "clones/s"),
    }


def clone_memory(runs: int) -> dict[str, object]:
    """Host memory of ten clones alive at once, each of which has answered a command."""
    mould = make_mould()
    totals, private, shared, resident = [], [], [], []
    # A sparse file: what it takes, and not how long it is.
    template_mib = mould.template.memory.stat().st_blocks * 512 / 2**20
    for _ in range(runs):
        with ExitStack() as stack:
            guests = [stack.enter_context(mould.clone()) for _ in range(AT_ONCE)]
            for guest in guests:
                check(guest, mould.release)
            maps = [read_rollup(guest.qemu.process.pid) for guest in guests]
        # Pages of the template that a clone maps are in its PSS as well (Pss_Shmem on a memory file system), so this is
        # an upper bound.
        totals.append(sum(each["Pss"] for each in maps) + template_mib)
        private += [each["Private_Clean"] + each["Private_Dirty"] for each in maps]
        shared += [each["Shared_Clean"] + each["Shared_Dirty"] for each in maps]
        resident += [each["Rss"] for each in maps]
    return {
        "clones": AT_ONCE,
        "guest_ram_mib": RAM_MIB,
        "template_mib": round(template_mib, 1),
        "all_and_the_template": summary(totals, "MiB"),
        "private_per_clone": summary(private, "MiB"),
        "shared_per_clone": summary(shared, "MiB"),
        "resident_per_clone": summary(resident, "MiB"),
    }


def read_rollup(pid: int) -> dict[str, float]:
    """The sums over a process's mappings, MiB (proc(5), /proc/PID/smaps_rollup)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {name: int(kib) / 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}


def clones_in_a_row(runs: int) -> dict[str, object]:
    """Clones one after the other, each asked for what only it can know; how many failed, and how."""
    mould = make_mould()
    seconds, odd = [], []
    for number in range(runs):
        start = time.monotonic()
        try:
            with mould.clone() as guest:
                check(guest, mould.release)
                seconds.append(time.monotonic() - start)
        except HarnessError as error:
            odd.append(f"clone {number}: {error.message}")
        if number % 20 == 19:
            sys.stderr.write(f"{number + 1} clones, {len(odd)} failed, load {os.getloadavg()[0]:.1f}\n")
    return {"failed": len(odd), "to_a_checked_answer": summary(seconds, "s"), "odd": odd}
