"""What run.json says that a guest was given, against what the guest shows: workload, rate, CPUs and memory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from splvm.evidence.checks.case import Case, is_count, is_number, seconds
from splvm.evidence.verdict import Reason

# KiB that the kernel maps of a guest's memory beside it, or leaves out: reserved pages lie within all of it.
_MAPPED_KIB = 16 << 10
# Where nobody says that: before it counts, a kernel keeps an eighth of the memory for KASAN's shadow of it (mm/kasan),
# as much again for other debugging, and these KiB for its image, its log and the initramfs.
_KEPT_SHARE, _KEPT_KIB = 4, 192 << 10

# Of /proc/meminfo; the second is x86's alone (arch/x86/mm/pat/set_memory.c).
_TOTAL = re.compile(r"^MemTotal:\s{1,20}(\d{1,15}) kB", re.MULTILINE)
_MAPPED = re.compile(r"^DirectMap\w{1,8}:\s{1,20}(\d{1,15}) kB", re.MULTILINE)


def parameters_of(case: Case) -> Mapping[str, Any]:
    """`parameters` of run.json; empty where they are none."""
    parameters = case.evidence.facts.get("parameters")
    return parameters if isinstance(parameters, Mapping) else {}


def another_workload(case: Case) -> Iterator[Reason]:
    """What the probe was set to stays so, and is what run.json says that it was to be set to."""
    if "window" in case.marks:
        since = [sample for sample in case.timeline.probe if sample.start_ns >= case.marks["window"]]
        other = next((sample for sample in since if sample.value.config != since[0].value.config), None)
        if other is not None:
            reason = f"the probe's configuration at {seconds(other.start_ns)} is another than at the beginning of the"
            yield Reason(f"{reason} window", (since[0].seq, other.seq))
    workload = parameters_of(case).get("workload", {})
    if not case.timeline.probe or not isinstance(workload, Mapping):
        return
    last = case.timeline.probe[-1]
    for name in (field.name for field in fields(last.value.config)):
        told, config = workload.get(name), getattr(last.value.config, name)
        if name in workload and not (is_count(told) and told == config):
            yield Reason(f"the probe was set to {name}={config}, and run.json says {str(told)[:40]}", (last.seq,))


def another_rate(case: Case) -> Iterator[Reason]:
    """The agent read as often as it was to, by its own word."""
    told, hello = parameters_of(case).get("rate_hz"), case.timeline.hello
    rate_hz = hello.get("rate_hz")
    if not is_count(rate_hz) or not rate_hz:
        yield Reason("the agent does not say how often it reads")
    elif not is_number(told) or told != rate_hz or hello.get("period_ns", 0) != 1_000_000_000 // rate_hz:
        reason = f"the agent read {rate_hz} times a second, every {hello.get('period_ns', 0)} ns"
        yield Reason(f"{reason}; run.json says {str(told)[:40]}")


def another_machine(case: Case) -> Iterator[Reason]:
    """The guest had as many CPUs as it was to have, and as much memory."""
    cpus = parameters_of(case).get("cpus")
    for what, count in {"the host ran": _threads(case), "the probe counts": _online(case)}.items():
        if count is not None and not (is_count(cpus) and cpus == count):
            yield Reason(f"{what} {count} CPUs of the guest; run.json says {str(cpus)[:40]}")
            return
    ram_mib = parameters_of(case).get("ram_mib")
    readings = case.timeline.other.get("meminfo", ())
    total = _TOTAL.search(readings[0].value) if readings else None
    if total is None:
        yield Reason("nobody read how much memory the guest has")
    elif not is_count(ram_mib):
        yield Reason(f"run.json: ram_mib is {str(ram_mib)[:40]}, and not a number of MiB")
    elif not _fits(ram_mib << 10, int(total[1]), sum(map(int, _MAPPED.findall(readings[0].value)))):
        reason = f"the guest has {int(total[1])} KiB of memory at its disposal"
        yield Reason(f"{reason}, which is not what a machine of {ram_mib} MiB has", (readings[0].seq,))


def _threads(case: Case) -> int | None:
    """Virtual CPUs that the host ran; when QEMU goes there are none any more."""
    return max((len(reading.waits_s) for reading in case.timeline.host), default=None)


def _online(case: Case) -> int | None:
    """CPUs of the guest, as the probe counts them; older ones do not."""
    # Of those that go and come all are counted.
    told = [
        sample.value.magazine.cpus if sample.value.cpus is None else sample.value.cpus.present
        for sample in case.timeline.probe
        if sample.value.magazine is not None
    ]
    return told[-1] if told else None


def _fits(ram_kib: int, total_kib: int, mapped_kib: int) -> bool:
    """Whether a kernel may have so much in a machine of `ram_kib`."""
    if mapped_kib and abs(mapped_kib - ram_kib) > _MAPPED_KIB:
        return False
    return ram_kib - ram_kib // _KEPT_SHARE - _KEPT_KIB <= total_kib <= ram_kib
