"""The text of an issue about one run, under the headings of OpenZFS's form for bug reports.

Pure. What a guest said, and what run.json says, is hostile text and goes through markdown.py. Every part has a limit of
its own; what is cut says so and names the file that has it all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from splvm.evidence.checks.case import CACHE
from splvm.evidence.figures import reading_times
from splvm.evidence.formats.kernlog import Finding, scan_kernel_log
from splvm.evidence.formats.slab import CacheRow
from splvm.evidence.timeline import Evidence, cache_rows
from splvm.evidence.verdict import Outcome, Verdict
from splvm.record.names import (
    CONSOLE_FILE,
    DUMP_FILE,
    HARNESS_FILE,
    QEMU_FILE,
    REGISTERS_FILE,
    RUN_FILE,
    SAMPLES_FILE,
    SYSRQ_FILE,
    VERDICT_FILE,
)
from splvm.record.treefacts import describe_modules
from splvm.report.again import is_own_tree, of, reproducer, source_of
from splvm.report.blocked import blocked_stacks, is_by_sysrq, last_in_window
from splvm.report.done import critical_threads, describe_guest, describe_window, is_probe_idle
from splvm.report.looks import LOOKS
from splvm.report.markdown import code, fenced, items, one_line

# Bytes of the text, at most, and what of that is kept for the headings. Only a run meant to be too long gets there.
MAX_ISSUE_BYTES = 60_000
_HEADINGS_BYTES = 1000

# Characters of a sentence of the verdict's.
_MAX_SENTENCE_CHARS = 900
# Lines of the kernel's log around what it reported, and at its end.
_LINES_BEFORE = 4
_LINES_AFTER = 60
_LAST_LINES = 20
# Of /proc/meminfo, what tells whether memory was short, and what SPL had of it.
_MEMORY = ("MemTotal", "MemFree", "MemAvailable", "SwapTotal", "SwapFree", "Slab", "SUnreclaim", "VmallocUsed")

# What the files of the archive are, as far as their names do not say it.
_FILES: Mapping[str, str] = {
    RUN_FILE: "scenario, kernel, SPL and host of the run, with the hashes of the evidence",
    SAMPLES_FILE: "every reading of the agent in the guest",
    CONSOLE_FILE: "the guest's console as it came",
    "dmesg.txt": "console.log without control characters",
    QEMU_FILE: "QEMU's command line and output",
    HARNESS_FILE: "the log of splvm",
    SYSRQ_FILE: "the kernel's lists for SysRq `w`, `m`, `l` and `t`",
    REGISTERS_FILE: "registers of the virtual CPUs",
    DUMP_FILE: "the guest's memory",
    VERDICT_FILE: "the verdict, made from the files above",
    "wait-for.json": "who waited for whom",
    "stacks.txt": "stacks of the threads of interest, last in the window",
    "slab-before.txt": "`/proc/spl/kmem/slab` before the lever",
    "slab-during.txt": "the slab file in the window, if possible with the load at rest",
    "slab-after.txt": "the slab file at the end",
    "probe-before.txt": "`/proc/slabprobe` before the lever",
    "probe-during.txt": "the probe's status in the window, if possible with the load at rest",
    "probe-after.txt": "the probe's status at the end",
}
_TIMES = "Readings of memory and load are the last in the window, or in the run if no window came to its end."


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in the archive."""

    # Directory in it.
    name: str
    # Name below that directory to size, bytes.
    files: Mapping[str, int]
    # Name to why it was left out.
    left_out: Mapping[str, str]


def issue_text(
    evidence: Evidence,
    verdict: Verdict | None,
    waiting: Mapping[str, Any],
    extracted: Mapping[str, bytes],
    contents: Contents,
    *,
    no_verdict: str = "",
    scenario_summary: str = "",
    variant_summary: str = "",
) -> str:
    """The whole text, at most `MAX_ISSUE_BYTES` long.

    :param verdict: None when none could be given; then `no_verdict` says why.
    :param waiting: who waited for whom, as in `Verdict.wait_for`.
    :param extracted: the plain files made from the record.
    :param scenario_summary: one line on what the scenario does; `variant_summary`: on what the build of SPL is.
    """
    parts = (
        *_warnings(evidence, no_verdict, variant_summary),
        "### System information",
        *_system(evidence.facts),
        "### Describe the problem you're observing",
        *_problem(evidence, verdict, waiting, scenario_summary),
        *_slab_rows(evidence),
        *_memory(extracted),
        *_arc(evidence),
        "### Describe how to reproduce the problem",
        *_reproduce(evidence),
        "### Include any warning/errors/backtraces from the system logs",
        *_kernel_log(evidence, extracted),
        *_stacks(evidence, waiting),
        *_contents(contents),
    )
    return "\n\n".join(fitting(part for part in parts if part)) + "\n"


def fitting(parts: Iterable[str]) -> Iterator[str]:
    """The parts of an issue for which there is room; each ends all blocks that it begins, so any may be left out."""
    used, left_out = _HEADINGS_BYTES, 0
    for part in parts:
        size = len(part.encode()) + 2
        if part.startswith("### "):
            yield part
        elif used + size <= MAX_ISSUE_BYTES:
            used += size
            yield part
        else:
            left_out += 1
    if left_out:
        yield f"{left_out} parts of this text were too long for it; the files in the archive have it all."


# What run.json says


def _told(facts: Mapping[str, Any], *keys: str) -> str:
    value = of(facts, *keys)
    return "not recorded" if value in (None, "") else code(value)


def _pairs(value: object) -> list[tuple[object, object]]:
    return sorted(value.items(), key=lambda pair: str(pair[0])) if isinstance(value, Mapping) else []


# The parts


def _warnings(evidence: Evidence, no_verdict: str, variant_summary: str) -> Iterator[str]:
    """What a reader must know first."""
    if evidence.damage:
        what = items([code(damage) for damage in evidence.damage], 4000, RUN_FILE)
        yield "> **The record is damaged. What follows may not be what the guest showed.**\n" + _quoted(what)
    if no_verdict:
        yield f"> **No verdict could be given:** {code(no_verdict)}"
    variant = of(evidence.facts, "spl", "variant")
    if variant not in (None, "stock"):
        why = f" ({variant_summary})" if variant_summary else ""
        yield (
            f"> **This SPL was changed on purpose:** it is the variant {code(variant)}{why}, which shows that the "
            "experiment can fail. What follows is no fault of OpenZFS."
        )


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.split("\n"))


def _system(facts: Mapping[str, Any]) -> Iterator[str]:
    distribution, _, version = str(of(facts, "kernel", "id") or "").partition("-")
    rows = (
        ("Distribution Name", code(distribution.capitalize()) if distribution else "not recorded"),
        ("Distribution Version", code(version) if version else "not recorded"),
        ("Kernel Version", f"{_told(facts, 'kernel', 'release')}, package {_told(facts, 'kernel', 'package')}"),
        # There is no other: framework/splvm/host/capabilities.py looks for qemu-system-x86_64.
        ("Architecture", "`x86_64`"),
        ("OpenZFS Version", f"{_told(facts, 'spl', 'version')}, variant {_told(facts, 'spl', 'variant')}"),
    )
    yield "\n".join(("Type | Version/Name", "--- | ---", *(f"{name} | {value}" for name, value in rows)))
    yield items(list(_build(facts)), 6000, RUN_FILE)
    parameters = [f"{name}={value}" for name, value in _pairs(of(facts, "spl_parameters"))]
    if parameters:
        block = fenced("\n".join(one_line(line, 120) for line in parameters), 4000, RUN_FILE)
        yield _folded(f"Parameters of SPL in the guest ({len(parameters)})", block)
    else:
        yield "The parameters of SPL were not recorded."


def _build(facts: Mapping[str, Any]) -> Iterator[str]:
    yield f"SPL from {code(source_of(facts))}, variant {_told(facts, 'spl', 'variant')}"
    patches = of(facts, "spl", "patches")
    for patch in patches if isinstance(patches, list) else ():
        yield f"patch on top: {_told(patch, 'name')}, SHA-256 {_told(patch, 'sha256')}"
    if not patches:
        yield "no patches on top"
    for module, digest in _pairs(of(facts, "spl", "modules")):
        yield f"module {code(module)}, SHA-256 {code(digest)}"
    yield from (f"{module} is of {code(tree)}" for module, tree in describe_modules(facts))
    yield from describe_guest(facts)
    reason = of(facts, "accelerator", "reason")
    accelerator = _told(facts, "accelerator", "name") + (f" ({code(reason)})" if reason else "")
    yield f"QEMU {_told(facts, 'qemu', 'version')}, accelerator {accelerator}"
    yield f"host: {_told(facts, 'host', 'system')}, {_told(facts, 'host', 'cores')} cores"
    yield f"recorded by splvm {_told(facts, 'splvm')}, started {_told(facts, 'started')}"


def _folded(title: str, block: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{block}\n\n</details>"


def _problem(
    evidence: Evidence, verdict: Verdict | None, waiting: Mapping[str, Any], scenario_summary: str
) -> Iterator[str]:
    about = f" ({scenario_summary})" if scenario_summary else ""
    scenario = f"scenario {_told(evidence.facts, 'scenario')}{about}"
    if verdict is None:
        yield f"In the {scenario} the run got no verdict."
    else:
        yield f"In the {scenario} the verdict is **{verdict.outcome.value}**. {_meaning(evidence, verdict)}".rstrip()
        yield items(list(describe_window(evidence)), 2000, RUN_FILE)
        yield items([_reason(reason.text, reason.samples) for reason in verdict.reasons], 6000, VERDICT_FILE)
        if verdict.starved:
            yield f"The host gave the guest too little CPU for a while: {code(verdict.starved)}."
        if verdict.also:
            also = [f"{outcome.value}: {_reason(reason.text, reason.samples)}" for outcome, reason in verdict.also]
            yield "Also:\n\n" + items(also, 5000, VERDICT_FILE)
        if seen := list(_seen(verdict.figures)):
            yield "Measured:\n\n" + items(seen, 3000, VERDICT_FILE)
    ending = of(evidence.facts, "outcome")
    if of(ending, "kind") != "ended":
        yield f"The run did not come to its end: {_told(ending, 'kind')} ({_told(ending, 'detail')})."
    yield from _cycle(waiting)


def _meaning(evidence: Evidence, verdict: Verdict) -> str:
    """What the verdict says of SPL; where slabprobe's threads asked SPL for nothing, the reasons say it all."""
    has_threads = not is_probe_idle(evidence) and of(evidence.facts, "parameters", "storm") is None
    return "" if verdict.outcome is Outcome.STALLED and not has_threads else LOOKS[verdict.outcome].meaning


def _reason(text: str, samples: Sequence[int]) -> str:
    frames = f"frame{'s' * (len(samples) > 1)} {' to '.join(map(str, samples))} of samples.jsonl"
    return code(text, _MAX_SENTENCE_CHARS) + (f" ({frames})" if samples else "")


def _seen(figures: Mapping[str, Any]) -> Iterator[str]:
    worker = figures.get("worker")
    if worker:
        held = f" for {worker['held_s']} s" if "held_s" in worker else ""
        stack = f" in {code(' <- '.join(worker['stack'][:3]))}" if worker.get("stack") else ""
        yield (
            f"the test module slabprobe held the slab worker {code(worker.get('comm', '?'))} (pid {worker['pid']}) "
            f"on purpose{held}{stack}"
        )
    if figures.get("threads"):
        yield (
            f"in a window of {figures['window_s']} s {critical_threads(figures['threads'])} got {figures['objects']} "
            f"objects of {figures['object_size']} bytes, {figures['emergency_objects']} of them emergency objects"
        )
    if figures.get("longest_gap_ms") is not None:
        yield f"longest time between two allocations of a thread: {figures['longest_gap_ms']} ms"
    if "recovery_ms" in figures:
        yield f"recovered {figures['recovery_ms']} ms after the worker was let go"


def _cycle(waiting: Mapping[str, Any]) -> Iterator[str]:
    if not waiting:
        return
    what = "cycle" if waiting["cycle"] else "chain"
    losses = [code(loss) for loss in waiting["losses"]]
    whole = "is complete" if waiting["complete"] else "is cut"
    yield (
        f"Who waited for whom, as the stacks suggest it (by {code(waiting['source'])}; the list has "
        f"{waiting['tasks']} tasks and {whole}), the {what}:"
    )
    yield f"> {code(waiting['sentence'], _MAX_SENTENCE_CHARS)}"
    if losses:
        yield "What the list lacks:\n\n" + items(losses, 2000, "wait-for.json")


def _slab_rows(evidence: Evidence) -> Iterator[str]:
    rows = cache_rows(evidence.timeline, CACHE)
    lines = []
    for when, until_ns in reading_times(evidence.timeline.marks).items():
        sample = next((sample for sample in reversed(rows) if sample.end_ns <= until_ns), None)
        if sample is not None:
            lines.append(" | ".join((when, f"{sample.end_ns / 1e9:.3f}", str(sample.seq), *_cells(sample.value))))
    if is_probe_idle(evidence):
        yield from _other_caches(evidence)
        return
    if not lines:
        yield f"No reading of `/proc/spl/kmem/slab` has the cache `{CACHE}`."
        return
    names = ("when", "time, s", "frame", "flags", "slabs", "objects", "in use", "dlock", "emergency", "max")
    head = (" | ".join(names), " | ".join("---" for _ in names))
    yield f"The cache `{CACHE}` in `/proc/spl/kmem/slab`, before, during and after:"
    yield "\n".join((*head, *lines))


def _other_caches(evidence: Evidence) -> Iterator[str]:
    """What the last reading says of the caches of SPL and ZFS, where the probe has none of its own in use."""
    if not evidence.timeline.slab:
        yield "There is no reading of `/proc/spl/kmem/slab`."
        return
    last = evidence.timeline.slab[-1]
    odd = [row.name for row in last.value.caches if (row.emergency.dlock or 0) + (row.emergency.max or 0) > 0]
    said = f"callers that timed out, or emergency objects, in {code(', '.join(odd))}" if odd else "neither"
    yield (
        f"Callers that timed out and emergency objects in `/proc/spl/kmem/slab` (frame {last.seq}, all caches): {said}."
    )


_ARC = ("size", "c", "c_min", "c_max", "memory_throttle_count", "memory_direct_count", "memory_indirect_count")


def _arc(evidence: Evidence) -> Iterator[str]:
    """ZFS's cache at the beginning and in the window."""
    readings = evidence.timeline.other.get("arcstats", ())
    last = last_in_window(readings, evidence.timeline.marks)
    if last is None:
        return
    before, during = (_arc_values(sample.value) for sample in (readings[0], last))
    rows = [f"{name} | {before[name]} | {during[name]}" for name in _ARC if name in before and name in during]
    if rows:
        yield "ZFS's cache (arcstats), first reading and last in the window:"
        yield "\n".join(("name | before | during", "--- | --- | ---", *rows))


def _arc_values(text: str) -> dict[str, int]:
    """Rows of three columns, of which the last is a number (include/os/linux/spl/sys/kstat.h)."""
    words = (line.split() for line in text.splitlines()[:500])
    return {it[0]: int(it[2]) for it in words if len(it) == 3 and it[2].isascii() and it[2].isdigit()}


def _cells(row: CacheRow) -> Iterator[str]:
    yield f"{row.flags:#07x}"
    counts = (row.slab.total, row.object.total, row.object.alloc)
    for count in (*counts, row.emergency.dlock, row.emergency.alloc, row.emergency.max):
        yield "-" if count is None else str(count)


def _memory(extracted: Mapping[str, bytes]) -> Iterator[str]:
    lines = extracted.get("meminfo.txt", b"").decode(errors="replace").split("\n")
    told = [line for line in lines if line.partition(":")[0] in _MEMORY][: len(_MEMORY)]
    if told:
        yield "Memory of the guest:"
        yield fenced("\n".join(told), 1500, "meminfo.txt")


def _reproduce(evidence: Evidence) -> Iterator[str]:
    facts = evidence.facts
    yield f"```sh\n{reproducer(facts)}\n```"
    notes = []
    if is_own_tree(facts):
        notes.append(
            f"the tree is the reporter's own, version {_told(facts, 'spl', 'version')}: give the path to yours"
        )
    if of(facts, "spl", "patches"):
        notes.append("the patches have to be the same files: their hashes are above")
    does = "does nothing in this scenario" if is_probe_idle(evidence) else "does to SPL what is said above"
    notes.append(f"`slabprobe.ko`, which {does}, is part of splvm and needs no change of SPL")
    yield items(notes, 2000, RUN_FILE)


def _kernel_log(evidence: Evidence, extracted: Mapping[str, bytes]) -> Iterator[str]:
    findings = scan_kernel_log(evidence.console)
    reported = [finding for finding in findings if not finding.benign]
    harmless = [finding for finding in findings if finding.benign]
    if reported:
        yield "What the kernel reported:\n\n" + items(list(_findings(reported)), 5000, "dmesg.txt")
    elif evidence.console:
        yield "The kernel reported nothing."
    else:
        yield "There is no log of the guest's console."
    if harmless:
        yield "Known to be harmless:\n\n" + items(list(_findings(harmless)), 1500, "dmesg.txt")
    if any("nmi" in look.taken for look in evidence.timeline.looks):
        yield "At the end the harness sent an NMI, to find out where the CPUs were; the panic after it is its doing."
    lines = extracted.get("dmesg.txt", b"").decode(errors="replace").split("\n")
    worst = next((finding for finding in reported if finding.fatal), reported[0] if reported else None)
    if worst is not None:
        start = max(0, worst.line - 1 - _LINES_BEFORE)
        yield f"The log from line {start + 1} on:"
        yield fenced("\n".join(lines[start : worst.line + _LINES_AFTER]), 6000, "dmesg.txt")
    elif evidence.console:
        # Lists that SysRq printed are no end of a log.
        own = next((at for at, line in enumerate(lines) if "sysrq: " in line or "SysRq : " in line), len(lines))
        yield "The end of its log" + (" before the harness asked for lists by SysRq:" if own < len(lines) else ":")
        # The guest's sshd writes to the console as well.
        said = [line for line in lines[:own] if not _SSHD.match(line)]
        yield fenced("\n".join(said[-_LAST_LINES:]), 4000, "dmesg.txt")


_SSHD = re.compile(r"\[\d{1,10}\] [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d ", re.ASCII)


def _findings(findings: Iterable[Finding]) -> Iterator[str]:
    """Each once, with how often it came."""
    alike: dict[str, list[Finding]] = {}
    for finding in findings:
        alike.setdefault(finding.fingerprint, []).append(finding)
    for first, *others in alike.values():
        when = f", {first.time_s:.3f} s" if first.time_s is not None else ""
        again = f", {len(others)} more times" if others else ""
        place = f"line {first.line}{when}{again}"
        yield f"{first.kind.value}: {code(first.title)} ({place}; fingerprint `{first.fingerprint}`)"


def _stacks(evidence: Evidence, waiting: Mapping[str, Any]) -> Iterator[str]:
    blocks = blocked_stacks(evidence, waiting)
    if not blocks:
        yield "No stack of a blocked thread was recorded."
        return
    by_sysrq = is_by_sysrq(waiting)
    by = "the kernel's own list, by SysRq" if by_sysrq else "the agent in the guest"
    where = SYSRQ_FILE if by_sysrq else "stacks.txt"
    others = len({wait["pid"] for wait in waiting.get("waits", ())}) - len(blocks)
    rest = f" ({others} more that wait are in {code(where)})" if others > 0 else ""
    yield f"Stacks of threads that are blocked, by {by}{rest}:"
    yield fenced("\n\n".join(blocks), 12000, where)


def _contents(contents: Contents) -> Iterator[str]:
    lines = []
    for name, size in sorted(contents.files.items()):
        what = f"; {_FILES[name]}" if name in _FILES else ""
        lines.append(f"{code(name)}: {size} bytes{what}")
    lines.append(f"{code('issue.md')}: this text")
    block = items(lines, 3500, "the archive itself")
    yield _folded(f"Files in the archive ({len(lines)})", f"They are below {code(contents.name)}. {_TIMES}\n\n{block}")
    if contents.left_out:
        left_out = [f"{code(name)}: {why}" for name, why in sorted(contents.left_out.items())]
        yield "Left out of the archive:\n\n" + items(left_out, 1500, "the run's directory")
