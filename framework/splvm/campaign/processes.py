"""Several runs at once, each in a process of its own, so that trouble of one run does not touch the others.

Owns these processes. They end with `run_jobs`, however it ends, and take down their guests before.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing import forkserver, get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.util import get_temp_dir
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import NoReturn

from splvm.campaign import forkend
from splvm.errors import HarnessError
from splvm.evidence.verdict import Verdict
from splvm.host.memory import available_mib
from splvm.log import setup_logging, step
from splvm.run.experiment import EVIDENCE_S, RUN_BUDGET_S, TURN_S, Experiment, run_until_fed

# MiB of the host that a guest takes beside its own memory (QEMU's, and what the emulator translates to), and MiB that
# are left for everything else.
GUEST_MIB = 256
RESERVE_MIB = 512

# Seconds that a run may take beyond its own budgets (the wait for its turn is one) before its process is ended, and
# that it then has for that.
_GRACE_S = 120.0
_END_S = 30.0

# What ends a job's process, in order: its parent, and the terminal when it is closed.
_ENDING = (signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Job:
    """One experiment that is to be run."""

    # For people.
    title: str
    experiment: Experiment
    # Directory of the run.
    out: Path
    # Runs that a guest which the host starves is given.
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class JobResult:
    """What came of it."""

    job: Job
    # Verdict and directory of each run, the last one counts; empty in trouble.
    runs: tuple[tuple[Verdict, Path], ...]
    # Seconds of the host.
    seconds: float
    # Trouble of the harness or the host, and what can be done about it.
    trouble: str = ""
    hint: str | None = None
    # Where it ran, and machines that were lost while they ran it; empty for this one.
    machine: str = ""
    lost: tuple[str, ...] = ()

    @property
    def last(self) -> tuple[Verdict, Path]:
        """The run that counts.

        :raises HarnessError: when there was trouble instead.
        """
        if not self.runs:
            raise HarnessError(self.trouble, hint=self.hint)
        return self.runs[-1]


OnDone = Callable[[JobResult], None]


def fitting_jobs(ram_mib: int, memory_mib: int | None = None) -> int:
    """How many guests the host can run at once: as many as it has cores, if there is memory for them. At least 1.

    A guest has two CPUs, and mostly waits. More than one for each core fakes deadlocks.

    :param memory_mib: MiB that can be had; by default this host's.
    """
    cores = len(os.sched_getaffinity(0))
    memory_mib = available_mib() if memory_mib is None else memory_mib
    return max(1, min(cores, (memory_mib - RESERVE_MIB) // (ram_mib + GUEST_MIB)))


def run_jobs(jobs: Iterable[Job], at_once: int, on_done: OnDone) -> None:
    """Run all jobs.

    :param jobs: taken one by one, when there is room; so a job may depend on earlier results.
    :param at_once: number of jobs at a time; 1: in this process.
    :param on_done: called with each result as it comes.
    """
    if at_once == 1:
        for job in jobs:
            on_done(_run(job))
        return
    context = get_context("forkserver")
    # What it imports once, no job has to. Each job's process runs the program's script up to its main function again,
    # and that imports the command line.
    loaded = {name for name in sys.modules if name.partition(".")[0] == __package__.partition(".")[0]}
    context.set_forkserver_preload(sorted(loaded - {"splvm.__main__"} | {"splvm.run.experiment", forkend.__name__}))
    _start_fork_server()
    waiting, running = iter(jobs), dict[Connection, _Running]()
    try:
        while True:
            for job in islice(waiting, at_once - len(running)):
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_child, args=(job, theirs), daemon=False)
                with theirs:
                    process.start()
                running[ours] = _Running(job, process)
            if not running:
                return
            for pipe in _ready(running):
                on_done(running.pop(pipe).finish(pipe))
    finally:
        for each in running.values():
            each.process.terminate()
        for pipe, each in running.items():
            each.finish(pipe)


def _start_fork_server() -> None:
    """Start it, if it does not run, with a word of what it has to remove when it ends.

    A terminal that is closed ends this process, and not the fork server before it has removed that.
    """
    os.environ[forkend.DIRECTORY] = get_temp_dir()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.environ.pop(forkend.DIRECTORY, None)


def _ready(running: dict[Connection, _Running]) -> list[Connection]:
    """Pipes of runs that have ended, or should have."""
    ready = [pipe for pipe in wait(list(running), timeout=1.0) if isinstance(pipe, Connection)]
    return ready or [pipe for pipe, each in running.items() if each.is_late]


class _Running:
    """The process of a job."""

    def __init__(self, job: Job, process: BaseProcess) -> None:
        self.job = job
        self.process = process
        self._start = time.monotonic()
        self._shown: AbstractContextManager[None] = step(job.title)
        self._shown.__enter__()

    @property
    def is_late(self) -> bool:
        return time.monotonic() - self._start > self.job.attempts * (TURN_S + RUN_BUDGET_S + EVIDENCE_S + _GRACE_S)

    def finish(self, pipe: Connection) -> JobResult:
        """What it sent, if it did; it is gone after this."""
        sent = None
        with pipe, suppress(EOFError, OSError):
            if pipe.poll():
                sent = pipe.recv()
        if sent is None:
            self.process.terminate()
        self.process.join(_END_S)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self._shown.__exit__(None, None, None)
        seconds = time.monotonic() - self._start
        if isinstance(sent, JobResult):
            return sent
        late = " and was ended: it was late" if self.is_late else ""
        trouble = f"{self.job.title}: its process did not tell of a verdict{late} (exit code {self.process.exitcode})"
        return JobResult(self.job, (), seconds, trouble, f"see {self.job.out / 'harness.log'}")


def _run(job: Job) -> JobResult:
    start = time.monotonic()
    try:
        runs = tuple(run_until_fed(job.experiment, job.out, job.attempts))
    except HarnessError as error:
        return JobResult(job, (), time.monotonic() - start, error.message, error.hint)
    except OSError as error:
        # A disk that is full or gone: nothing that another run would be the wiser for.
        trouble = f"{error.filename or job.out}: {error.strerror}"
        return JobResult(job, (), time.monotonic() - start, trouble, "is there room?")
    return JobResult(job, runs, time.monotonic() - start)


def _child(job: Job, pipe: Connection) -> None:
    """Main function of a job's process."""
    # Ctrl-C goes to all processes of the terminal: this one is ended by the one that started it, in order, and once.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in _ENDING:
        signal.signal(number, _end)
    # The fork server has it blocked, and what this process starts would have it so too.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    Thread(target=_follow_parent, name="parent", daemon=True).start()
    setup_logging(-1)
    _tell(pipe, _run(job))


def _tell(pipe: Connection, result: JobResult) -> None:
    # Where the one that started it is about to end, nobody listens any more.
    with suppress(BrokenPipeError):
        pipe.send(result)


def _follow_parent() -> None:
    """End this process when the one that started it was killed.

    PR_SET_PDEATHSIG is of no use here: the parent by birth is the fork server, which outlives the other one for as long
    as there are processes of it.
    """
    parent = parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    for each in _ENDING:
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)
