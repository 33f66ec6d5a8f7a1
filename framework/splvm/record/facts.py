"""The shape of run.json, as far as anybody uses it. Pure.

What is not there is not known, and whoever needs it says so; what is there and is something else than it should be is
one error, whoever would have used it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec

from splvm.errors import EvidenceError
from splvm.record.typedjson import from_json

# How deep run.json may be, and how many values it may have: far more than any run's.
_MOST_DEPTH = 30
_MOST_VALUES = 200_000
_MOST_NUMBER = 1e15

Count = Annotated[int, msgspec.Meta(ge=0)]


class Named(TypedDict):
    """One of a list, such as a patch."""

    name: str


class LoadFacts(TypedDict):
    """A load, its values, and the commands that made what it works on; DISK is a disk of its own."""

    name: str
    values: NotRequired[dict[str, Count]]
    made: NotRequired[list[str]]
    disk: NotRequired[str]


class PoolFacts(TypedDict, total=False):
    """How the pool was made, on what, and the parameters of zfs.ko that were set."""

    made: list[str]
    disk_mib: Count
    parameters: dict[str, Any]


class DiskFacts(TypedDict):
    """A disk in virtual time: its size, its speed in MiB/s, and what a request elsewhere takes besides."""

    mib: Count
    speed_mib: Count
    request_us: Count


class _Sized(TypedDict):
    bytes: Count


class Digest(_Sized, total=False):
    """What is recorded of a file."""

    sha256: str | None


class Parameters(TypedDict, total=False):
    """What was done to the guest."""

    window_s: float
    latency_bound_ms: float
    rate_hz: float
    ram_mib: Count
    cpus: Count
    preempt: str
    load: str | None
    seed: Count
    clock: str
    delays: str
    workload: dict[str, Count]


class KernelFacts(TypedDict, total=False):
    """Of the guest's kernel."""

    id: str
    release: str
    package: str


class GitFacts(TypedDict, total=False):
    """The commit that modules are of, and the hash of the edits on top of it."""

    commit: str
    branch: str
    describe: str
    dirty: str


class ZfsFacts(TypedDict, total=False):
    """Of the other modules of OpenZFS, in a guest with a pool."""

    source: str
    version: str
    git: GitFacts | None
    tools: str
    pool: PoolFacts


class SplFacts(TypedDict, total=False):
    """Of SPL's sources and modules."""

    source: str
    version: str
    variant: str
    content: str | None
    git: GitFacts | None
    patches: list[Named]
    modules: dict[str, str]


class Version(TypedDict, total=False):
    """Of QEMU."""

    version: str


class Accelerator(TypedDict, total=False):
    """What QEMU ran the guest with."""

    name: str


class Host(TypedDict, total=False):
    """The machine that QEMU ran on."""

    cores: Count | None
    system: str


class Ending(TypedDict, total=False):
    """How the run ended."""

    kind: str
    console_bytes: Count
    closed_bytes: Count


class Facts(TypedDict, total=False):
    """run.json. Null stands where there was nothing of the kind, and only where it is allowed here."""

    scenario: str
    expected: list[str]
    rule: dict[str, Any] | None
    started: str
    batch: str
    argv: list[str]
    splvm: str
    seal: str
    boots: Count
    line: str
    differs: dict[str, Any]
    parameters: Parameters
    loads: list[LoadFacts]
    disks: list[DiskFacts]
    faults: dict[str, Count]
    kernel: KernelFacts
    spl: SplFacts
    zfs: ZfsFacts
    qemu: Version
    accelerator: Accelerator
    host: Host
    outcome: Ending
    evidence: dict[str, Digest]


def check_facts(facts: object) -> dict[str, Any]:
    """run.json as it was parsed, if all that is used of it is what it should be.

    :raises EvidenceError: when it is not; with the first place that is wrong.
    """
    if not isinstance(facts, dict):
        raise EvidenceError("it is not the record of a run")
    _check_size(facts)
    try:
        from_json(facts, Facts)
    except ValueError as error:
        raise EvidenceError(str(error)) from error
    return facts


def _check_size(facts: Mapping[str, Any]) -> None:
    """:raises EvidenceError: when it is deeper or larger than any run's, or has a number that is none."""
    level: list[Any] = [facts]
    count = 0
    for _ in range(_MOST_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += value.values()
            elif isinstance(value, list):
                below += value
            elif isinstance(value, (int, float)) and not (math.isfinite(value) and abs(value) < _MOST_NUMBER):
                raise EvidenceError(f"a number in it is {_shown(value)}")
        count += len(below)
        if count > _MOST_VALUES:
            raise EvidenceError(f"it has more than {_MOST_VALUES} values")
        if not below:
            return
        level = below
    raise EvidenceError(f"it is more than {_MOST_DEPTH} levels deep")


def _shown(value: object) -> str:
    if isinstance(value, (dict, list)) and value:
        return f"a {'mapping' if isinstance(value, dict) else 'list'}"
    return repr(value)[:60] if not isinstance(value, int) or abs(value) < _MOST_NUMBER else "too large"
