"""One run for another machine: what it needs, by content; what comes back; and the run there.

The files that an experiment names (kernel, initramfs, modules, keys) are known by their SHA-256, and kept in `cluster`
in the store of the machine that runs it, each looked through before it is used. What comes back is the directory of the
run; whoever sent it judges that anew.
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import os
import platform
import shutil
import tarfile
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from splvm.campaign.processes import RESERVE_MIB, Job, JobResult, run_jobs
from splvm.deadline import Deadline
from splvm.errors import EvidenceError, HarnessError
from splvm.host.capabilities import find_accelerator, find_qemu
from splvm.host.content import file_hash, input_hash
from splvm.host.emulator import find_told_emulator
from splvm.host.memory import available_mib
from splvm.host.store import Store
from splvm.record.names import DUMP_FILE
from splvm.run.experiment import Experiment

T = TypeVar("T")

# In the place of a path of the sender's.
_MARK = "splvm-parcel"
# Of what comes back, unpacked: far more than a run leaves, dumps apart, which stay where they are.
_MOST_BYTES = 256 * 1024 * 1024
_MOST_MEMBERS = 1000
# Of directories below a run's own.
_MOST_LEVELS = 8

# Seconds until it is known whether KVM can be used; the answer is kept.
_PROBE_S = 60.0
# And until a QEMU that is not the host's own is there.
_QEMU_S = 600.0


@dataclass(frozen=True, slots=True)
class Machine:
    """The versions that decide whether a run there counts as a run here, and the machine's room."""

    # `major.minor`.
    python: str
    qemu: str
    # A hash of splvm's own files.
    program: str
    system: str
    # MiB that guests may take.
    memory_mib: int
    # Whether a guest has booted under KVM.
    kvm: bool

    @property
    def resource(self) -> str:
        """The name of a cluster's resource that stands for one guest. Only machines with equal versions have it."""
        return f"splvm-{input_hash({'is': [self.python, self.qemu, self.program, self.system]})[:12]}"

    def difference(self, other: Machine) -> str:
        """How the versions of the other machine differ, in words; empty if they do not."""
        names = {"python": "Python", "qemu": "QEMU", "program": "splvm", "system": "system"}
        told = [
            f"{title} {getattr(other, name)}, here {getattr(self, name)}"
            for name, title in names.items()
            if getattr(self, name) != getattr(other, name)
        ]
        return "; ".join(told)


def describe_machine() -> Machine:
    """This one.

    :raises SetupError: when there is no QEMU.
    """
    package = Path(__file__).parents[1]
    files = {str(path.relative_to(package)): path for path in package.rglob("*.py") if "__pycache__" not in path.parts}
    version = ".".join(platform.python_version_tuple()[:2])
    store = Store.default()
    qemu = find_qemu(store.root)
    accelerator = find_accelerator("auto", qemu, None, store.root, Deadline(_PROBE_S))
    memory_mib = available_mib() - RESERVE_MIB
    program = input_hash({"files": files})[:12]
    return Machine(
        version, ".".join(map(str, qemu.version)), program, platform.machine(), memory_mib, accelerator.name == "kvm"
    )


@dataclass(frozen=True, slots=True)
class Parcel:
    """A job, fit for another machine."""

    title: str
    experiment: Experiment
    # The name of its directory.
    name: str
    attempts: int
    # What its paths stand for: SHA-256 of each file, and its name.
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Delivery:
    """What came of it."""

    # Address of the worker.
    worker: str
    # Files that were not there: nothing was run.
    lacking: tuple[str, ...] = ()
    # A tar of the directories of its runs, compressed; empty in trouble.
    archive: bytes = b""
    # How many of them there are.
    runs: int = 0
    # Seconds of that host.
    seconds: float = 0.0
    trouble: str = ""
    hint: str | None = None


def make_parcel(job: Job) -> tuple[Parcel, dict[str, Path]]:
    """A job, and where the files that it names are here."""
    found: dict[str, Path] = {}

    def replace(path: Path) -> Path:
        if not path.is_file():
            return path
        digest = file_hash(path)
        found[digest] = path
        return Path(_MARK, digest, path.name)

    experiment = map_paths(job.experiment, replace)
    files = {digest: path.name for digest, path in found.items()}
    return Parcel(job.title, experiment, job.out.name, job.attempts, files), found


def map_paths(value: T, change: Callable[[Path], Path]) -> T:
    """The same with every path in it changed, at whatever depth of dataclasses, tuples and mappings."""
    if isinstance(value, Path):
        return change(value)  # type: ignore[return-value]
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple(map_paths(each, change) for each in value)  # type: ignore[return-value]
    if isinstance(value, dict):
        return {key: map_paths(each, change) for key, each in value.items()}  # type: ignore[return-value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        changed = {name: map_paths(each, change) for name, each in fields.items()}
        differs = {name: each for name, each in changed.items() if each is not fields[name]}
        return dataclasses.replace(value, **differs) if differs else value
    return value


def _place(store: Store, digest: str, name: str) -> Path:
    return store.root / "cluster" / digest / Path(name).name


def find_lacking(files: Mapping[str, str]) -> tuple[str, ...]:
    """Those of these that are not here, or damaged."""
    store = Store.default()
    return tuple(digest for digest, name in files.items() if not _is_there(_place(store, digest, name), digest))


def _is_there(path: Path, digest: str) -> bool:
    return path.is_file() and file_hash(path) == digest


def put_file(digest: str, name: str, content: bytes) -> None:
    """Keep a file here. It is there whole or not at all."""
    path = _place(Store.default(), digest, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    # Keys are among them.
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    fresh.replace(path)


def run_parcel(parcel: Parcel, worker: str, on_start: Callable[[], None] = lambda: None) -> Delivery:
    """Run it on this machine, in a process of its own.

    :param worker: its address.
    :param on_start: called when everything is there.
    """
    lacking = find_lacking(parcel.files)
    if lacking:
        return Delivery(worker, lacking)
    on_start()
    store = Store.default()

    def place(path: Path) -> Path:
        return _place(store, path.parts[1], path.parts[2]) if path.parts[:1] == (_MARK,) else path

    results: list[JobResult] = []
    experiment = map_paths(parcel.experiment, place)
    try:
        qemu = _find_own_qemu(experiment, store)
    except HarnessError as error:
        return Delivery(worker, trouble=f"{parcel.title}: {error.message}", hint=error.hint)
    machine = dataclasses.replace(experiment.guest.machine, qemu=qemu)
    experiment = dataclasses.replace(experiment, guest=dataclasses.replace(experiment.guest, machine=machine))
    with store.temporary() as scratch:
        job = Job(parcel.title, experiment, scratch / parcel.name, parcel.attempts)
        # With one at a time it would be run in this process, which has other work too.
        run_jobs([job], 2, results.append)
        (result,) = results
        directories = [directory for _, directory in result.runs]
        archive = _pack(directories) if directories else b""
    return Delivery(worker, (), archive, len(directories), result.seconds, result.trouble, result.hint)


def _find_own_qemu(experiment: Experiment, store: Store) -> str:
    """Where this machine has the QEMU that the run is planned with: in virtual time it is seldom the host's own.

    :raises HarnessError: when it has another one.
    """
    told = experiment.facts.get("qemu")
    if not isinstance(told, Mapping):
        return str(find_qemu(store.root).path)
    return str(find_told_emulator(told, store, Deadline(_QEMU_S)).path)


def _pack(directories: Iterable[Path]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for directory in directories:
            archive.add(directory, directory.name, filter=lambda member: None if DUMP_FILE in member.name else member)
    return buffer.getvalue()


def unpack_runs(archive: bytes, places: Sequence[Path]) -> None:
    """Put the directories of runs where they would be had they been run here.

    Each is written into a fresh directory of its own and then renamed, so nothing that is there already is touched. It
    holds plain files and directories alone, whatever the archive says.

    :param places: these are, beside each other; nothing may be there.
    :raises EvidenceError: when it is no such archive, or too large.
    """
    scratch = {place.name: place.with_name(f".{uuid.uuid4().hex}.new") for place in places}
    try:
        plain = _decompress(archive)
        for path in scratch.values():
            path.mkdir(parents=True)
        with tarfile.open(fileobj=io.BytesIO(plain), mode="r:") as opened:
            seen = {_unpack_member(opened, member, scratch) for member in _members(opened)}
        if seen != set(scratch):
            raise EvidenceError(f"what came back is of other runs: {', '.join(sorted(seen))}"[:200])
        for place in places:
            scratch[place.name].rename(place)
    except _UNPACKING as error:
        raise EvidenceError(f"what came back cannot be unpacked: {str(error)[:200]!r}") from error
    finally:
        for path in scratch.values():
            shutil.rmtree(path, ignore_errors=True)


# What the libraries raise for bytes that are no archive, and the system for names that it does not take.
_UNPACKING = (tarfile.TarError, zlib.error, OSError, EOFError, ValueError, LookupError, ArithmeticError, RecursionError)


def _decompress(archive: bytes) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(archive)) as packed:
        plain = packed.read(_MOST_BYTES + 1)
    if len(plain) > _MOST_BYTES:
        raise EvidenceError(f"what came back is larger than {_MOST_BYTES} bytes")
    return plain


def _members(opened: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for number, member in enumerate(opened):
        if number == _MOST_MEMBERS:
            raise EvidenceError(f"what came back has more than {_MOST_MEMBERS} files")
        yield member


def _unpack_member(opened: tarfile.TarFile, member: tarfile.TarInfo, scratch: Mapping[str, Path]) -> str:
    """Write one, and return the name of its run."""
    top, *rest = member.name.split("/")
    odd = not all(name and name not in (".", "..") and "\0" not in name for name in (top, *rest))
    if odd or len(rest) > _MOST_LEVELS:
        raise EvidenceError(f"what came back has a name that no run has: {member.name[:80]!r}")
    if top not in scratch:
        raise EvidenceError(f"what came back is of other runs: {top[:80]!r}")
    path = scratch[top].joinpath(*rest)
    if member.isdir():
        path.mkdir(exist_ok=not rest, parents=True)
        return top
    content = opened.extractfile(member) if member.isreg() and not member.issparse() and rest else None
    if content is None:
        raise EvidenceError(f"what came back has something else than plain files: {member.name[:80]!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with content, path.open("xb") as file:
        shutil.copyfileobj(content, file)
    return top
