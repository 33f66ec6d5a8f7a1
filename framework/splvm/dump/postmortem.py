"""What a memory dump says of SPL's caches and of the threads that wait, found without any help from the guest.

Owns the record of that and how it is shown. drgn itself runs in another process (dumpreader.py), so that a crash or a
hang of it is none of the harness; what it hands back is checked like anything else that comes out of a guest.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from splvm.builds.module import debug_file, sha256_of
from splvm.builds.symbols import kept_symbols
from splvm.deadline import Deadline
from splvm.errors import EvidenceError, SetupError
from splvm.evidence.formats.stacks import UNKNOWN_FUNCTION, TaskStack
from splvm.extras import lacking
from splvm.host.process import run
from splvm.host.store import Store
from splvm.log import step
from splvm.plainfile import NotPlainError, open_plain
from splvm.record.names import DUMP_FILE
from splvm.record.reader import read_facts

# Seconds a dump of 512 MiB with some 60 threads takes are 2; this is for a large one on a busy host.
EXAMINE_BUDGET_S = 120.0

# -P: nothing is imported from the directory that the user happens to be in.
_READER = (sys.executable, "-P", "-m", "splvm.dump.dumpreader")
_OUTPUT_CHARS = 64 << 20


@dataclass(frozen=True, slots=True)
class DumpFrame:
    """One function of a stack."""

    # Its name, without marks of the compiler; `?` when it has none.
    function: str
    # Whether it has no frame of its own: the kernel's own traces do not show it.
    inlined: bool


@dataclass(frozen=True, slots=True)
class DumpThread:
    """A thread as it was when the guest stood still."""

    pid: int
    comm: str
    # The letter of /proc/PID/stat: R, S, D, ...
    state: str
    # From the innermost out.
    frames: tuple[DumpFrame, ...]
    # Why the stack, or the rest of it, could not be read; empty if it could.
    stack_error: str

    @property
    def functions(self) -> tuple[str, ...]:
        """Names of all its functions, from the innermost out."""
        return tuple(frame.function for frame in self.frames)

    @property
    def called(self) -> tuple[str, ...]:
        """The frames without inlined functions, as in the kernel's own traces."""
        return tuple(frame.function for frame in self.frames if not frame.inlined)


@dataclass(frozen=True, slots=True)
class Waiter:
    """A thread on the wait queue of a cache."""

    pid: int
    comm: str


@dataclass(frozen=True, slots=True)
class DumpCache:
    """One of SPL's caches. A count that this version of SPL does not keep is None."""

    name: str
    # As in the slab file, and the names of the bits that are set: kvmem, slab, deadlocked, growing, reaping, destroy.
    flags: int
    flag_names: tuple[str, ...]
    # Those who wait for an object.
    waiters: tuple[Waiter, ...]
    # Bytes of an object and of a slab; objects per slab.
    object_bytes: int | None
    slab_bytes: int | None
    slab_objects: int | None
    # Slabs there are, slabs with objects in use, and the most there were.
    slab_total: int | None
    slab_alloc: int | None
    slab_max: int | None
    # Objects in slabs, those in use, and the most there were.
    object_total: int | None
    object_alloc: int | None
    object_max: int | None
    # Emergency objects in use, and the most there were.
    emergency_alloc: int | None
    emergency_max: int | None
    # Callers that waited in vain.
    deadlocks: int | None


@dataclass(frozen=True, slots=True)
class DumpReport:
    """The findings in a dump: caches of SPL, and threads."""

    # Of the kernel in it, as in `uname -r`, and the build id of its vmlinux.
    release: str
    build_id: str
    # All caches of SPL.
    caches: tuple[DumpCache, ...]
    # All threads but those that idle a CPU.
    threads: tuple[DumpThread, ...]
    # What could not be read, in words.
    problems: tuple[str, ...]

    @property
    def blocked(self) -> tuple[DumpThread, ...]:
        """The threads in state D, and those that wait for a cache whatever their state is."""
        waiting = {waiter.pid for cache in self.caches for waiter in cache.waiters}
        return tuple(thread for thread in self.threads if thread.state == "D" or thread.pid in waiting)

    def for_graph(self) -> tuple[TaskStack, ...]:
        """The threads as `build_graph` takes them: with the stacks that the kernel itself would print."""
        return tuple(TaskStack(thread.pid, thread.comm, thread.state, thread.called) for thread in self.threads)

    def cache(self, name: str) -> DumpCache | None:
        """The cache of that name; the first if there are several."""
        return next((cache for cache in self.caches if cache.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """For json.dump."""
        return {"schema_version": 1, **asdict(self)}


def examine_run(directory: Path, store: Store, deadline: Deadline) -> DumpReport:
    """Read the dump of a run, with the symbols and modules that the store has of just the run's own build.

    :param directory: of the run.
    :raises EvidenceError: when there is no run, or it kept no dump.
    :raises SetupError: as `examine_dump`.
    """
    facts = read_facts(directory)
    dump = directory / DUMP_FILE
    try:
        open_plain(dump).close()
    except NotPlainError as error:
        raise EvidenceError(f"{dump} is {error.strerror}, so it was not read") from None
    except OSError:
        hint = "`splvm run --dump trouble` keeps one when a guest stalls or is lost"
        raise EvidenceError(f"{directory} has no {DUMP_FILE}", hint=hint) from None
    try:
        release, version = str(facts["kernel"]["release"]), str(facts["kernel"]["package"]).split()[-1]
        wanted = dict(facts["spl"]["modules"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise EvidenceError(f"{directory / 'run.json'} does not say which kernel and modules it was") from error
    return examine_dump(dump, kept_symbols(store, release, version), find_debug_files(store, wanted), deadline)


def find_debug_files(store: Store, wanted: Mapping[str, str]) -> dict[str, Path]:
    """The debug information of modules, by the modules' names; what the store does not have is left out.

    :param wanted: file names of modules, and their SHA-256.
    """
    found: dict[str, Path] = {}
    for name, digest in wanted.items():
        for module in store.root.glob(f"*/*/tree/{name}"):
            debug = debug_file(module)
            if debug.is_file() and sha256_of(module) == digest:
                found[module.stem] = debug
    return found


def examine_dump(dump: Path, vmlinux: Path | None, modules: Mapping[str, Path], deadline: Deadline) -> DumpReport:
    """Read a dump with drgn.

    :param dump: as `dump_memory` makes it, or any other that drgn reads.
    :param vmlinux: the kernel's debug symbols, `kept_symbols` finds them; None is an error that says what to do.
    :param modules: the debug information of modules by their names, spl among them: `SplBuild.debug`.
    :raises SetupError: when drgn or symbols are missing.
    :raises EvidenceError: when the dump cannot be read: cut short, of another kernel, or no dump at all.
    :raises DeadlineExceeded: when drgn does not end.
    """
    if vmlinux is None:
        raise SetupError(
            f"{dump}: reading a memory dump needs the kernel's debug symbols, and they have not been fetched",
            hint="`splvm build --symbols` fetches them (some 280 MiB); no other command needs them",
        )
    if find_spec("drgn") is None:
        raise lacking("drgn")
    for path in (dump, vmlinux, *modules.values()):
        if not path.is_file():
            raise EvidenceError(f"{path}: there is no such file")
    with step(f"reading {dump.name}"):
        return parse_report(_read(dump, vmlinux, modules, deadline.sub(EXAMINE_BUDGET_S)), dump)


def _read(dump: Path, vmlinux: Path, modules: Mapping[str, Path], deadline: Deadline) -> str:
    files = [path.absolute() for path in (dump, vmlinux, *modules.values())]
    # The package this module is in, wherever it is; the user's own search path comes after it.
    search = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    what = f"drgn on {dump}"
    done = run([*_READER, *files], deadline=deadline, what=what, env={"PYTHONPATH": search}, check=False)
    if done.exit_code != 0:
        raise EvidenceError(
            f"{what}: it ended with status {done.exit_code}:\n{_excerpt(done.tail) or '(no output)'}",
            hint="the dump may be damaged; everything else that was recorded stands",
        )
    return done.stdout


_HINTS = {
    "dump": "it may be cut short, or of another machine; everything else that was recorded stands",
    "symbols": "symbols and dump have to be of the same build of the kernel",
}


def parse_report(text: str, dump: Path) -> DumpReport:
    """The report that dumpreader.py printed.

    :param dump: for messages.
    :raises EvidenceError: when dumpreader.py printed an error, or the text is not a report.
    """
    try:
        if len(text) > _OUTPUT_CHARS:
            raise ValueError(f"more than {_OUTPUT_CHARS} characters")
        answer = _mapping(json.loads(text))
        error = answer.get("error")
        report = _report(answer) if error is None else None
    except (ValueError, KeyError, RecursionError) as reason:
        raise EvidenceError(f"{dump}: what drgn found in it makes no sense: {_excerpt(str(reason))}") from reason
    if report is None:
        kind, message = (str(error.get(key)) for key in ("kind", "message")) if isinstance(error, dict) else ("", "")
        raise EvidenceError(f"{dump}: {_excerpt(message)}", hint=_HINTS.get(kind))
    return report


def _report(answer: Mapping[str, Any]) -> DumpReport:
    return DumpReport(
        release=_word(answer["release"]),
        build_id=_word(answer["build_id"]),
        caches=tuple(_cache(_mapping(item)) for item in _items(answer["caches"])),
        threads=tuple(_thread(_mapping(item)) for item in _items(answer["threads"])),
        problems=tuple(_word(item) for item in _items(answer["problems"])),
    )


def _cache(item: Mapping[str, Any]) -> DumpCache:
    waiters = (_mapping(waiter) for waiter in _items(item["waiters"]))
    return DumpCache(
        name=_word(item["name"]),
        flags=_number(item["flags"]),
        flag_names=tuple(_word(flag) for flag in _items(item["flag_names"])),
        waiters=tuple(Waiter(_number(waiter["pid"]), _word(waiter["comm"])) for waiter in waiters),
        object_bytes=_count(item["object_bytes"]),
        slab_bytes=_count(item["slab_bytes"]),
        slab_objects=_count(item["slab_objects"]),
        slab_total=_count(item["slab_total"]),
        slab_alloc=_count(item["slab_alloc"]),
        slab_max=_count(item["slab_max"]),
        object_total=_count(item["object_total"]),
        object_alloc=_count(item["object_alloc"]),
        object_max=_count(item["object_max"]),
        emergency_alloc=_count(item["emergency_alloc"]),
        emergency_max=_count(item["emergency_max"]),
        deadlocks=_count(item["deadlocks"]),
    )


def _thread(item: Mapping[str, Any]) -> DumpThread:
    frames = (_mapping(frame) for frame in _items(item["frames"]))
    return DumpThread(
        pid=_number(item["pid"]),
        comm=_word(item["comm"]),
        state=_word(item["state"]),
        frames=tuple(DumpFrame(_word(f["function"]) or UNKNOWN_FUNCTION, f["inlined"] is True) for f in frames),
        stack_error=_word(item["stack_error"]),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"not an object: {value!r}")
    return value


def _items(value: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        raise ValueError(f"not a list: {value!r}")
    return value


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"not a string: {value!r}")
    return value


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"not a whole number: {value!r}")
    return value


def _count(value: Any) -> int | None:
    return None if value is None else _number(value)


def _excerpt(text: str) -> str:
    return text if len(text) <= 500 else f"{text[:500]}..."


def describe_dump(report: DumpReport) -> Iterator[str]:
    """A report for people, line by line. Names in it are the guest's: they go to a terminal through `plain()` only."""
    yield f"kernel {report.release}, {len(report.threads)} threads, {len(report.blocked)} of them blocked"
    for cache in report.caches:
        flags = " ".join(cache.flag_names) or "none"
        yield f"cache {cache.name}: flags {cache.flags:#07x} ({flags}), objects of {_shown(cache.object_bytes)} bytes"
        for what, counts in (
            ("slabs", (cache.slab_total, cache.slab_alloc, cache.slab_max)),
            ("objects", (cache.object_total, cache.object_alloc, cache.object_max)),
        ):
            total, in_use, most = map(_shown, counts)
            yield f"  {what}: {total}, in use {in_use}, at most {most}"
        in_use, most, deadlocks = map(_shown, (cache.emergency_alloc, cache.emergency_max, cache.deadlocks))
        yield f"  emergency objects: in use {in_use}, at most {most}; waited in vain: {deadlocks}"
        names = ", ".join(f"{waiter.comm} (pid {waiter.pid})" for waiter in cache.waiters)
        yield f"  waiters: {len(cache.waiters)}{': ' if names else ''}{names}"
    for thread in report.blocked:
        yield f"{thread.comm} (pid {thread.pid}), state {thread.state}:"
        yield from (f"  {frame.function}{' (inlined)' if frame.inlined else ''}" for frame in thread.frames)
        if thread.stack_error:
            yield f"  the rest of the stack cannot be read: {thread.stack_error}"
    yield from (f"not read: {problem}" for problem in report.problems)


def _shown(count: int | None) -> str:
    return "-" if count is None else str(count)
