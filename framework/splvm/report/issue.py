"""The text of an issue about one run, under the headings of OpenZFS's form for bug reports.

Pure. What a guest said, and what run.json says, is hostile text and goes through markdown.py. Every part has a limit of
its own; what is cut says so and names the file that has it all.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from splvm.evidence.checks.case import CACHE
from splvm.evidence.figures import reading_times
from splvm.evidence.formats.kernlog import Finding, scan_kernel_log
from splvm.evidence.formats.slab import CacheRow
from splvm.evidence.timeline import Evidence, Sample, T, between, cache_rows
from splvm.evidence.verdict import Verdict
from splvm.ownpath import name_path, own_path
from splvm.record.cellfacts import PACKAGED, UNKNOWN
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
from splvm.report.looks import LOOKS
from splvm.report.markdown import clean, code, fenced, items, one_line

# Bytes of the text, at most, and what of that is kept for the headings. Only a run meant to be too long gets there.
MAX_ISSUE_BYTES = 60_000
_HEADINGS_BYTES = 1000

# Characters of a sentence of the verdict's.
_MAX_SENTENCE_CHARS = 900
# Lines of the kernel's log around what it reported, and at its end.
_LINES_BEFORE = 4
_LINES_AFTER = 60
_LAST_LINES = 20
# Stacks, and lines of one.
_MAX_STACKS = 100
_MAX_STACK_LINES = 48

# Options of `splvm run`, and where run.json has their values.
_OPTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("--kernel", ("kernel", "id")),
    ("--variant", ("spl", "variant")),
    ("--spl", ("spl", "source")),
    ("--accel", ("accelerator", "name")),
    ("--memory", ("parameters", "ram_mib")),
    ("--window", ("parameters", "window_s")),
    ("--rate", ("parameters", "rate_hz")),
    ("--threads", ("parameters", "workload", "threads")),
    ("--objects", ("parameters", "workload", "objects")),
    ("--size", ("parameters", "workload", "size")),
    ("--noio", ("parameters", "workload", "noio")),
    ("--load", ("parameters", "load")),
    ("--clock", ("parameters", "clock")),
    ("--seed", ("parameters", "seed")),
)

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
        "### Describe how to reproduce the problem",
        *_reproduce(evidence.facts),
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


def _of(facts: object, *keys: str) -> Any:
    """What run.json says there; None when it says nothing, or is not as it should be."""
    for key in keys:
        facts = facts.get(key) if isinstance(facts, Mapping) else None
    return facts


def _told(facts: Mapping[str, Any], *keys: str) -> str:
    value = _of(facts, *keys)
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
    variant = _of(evidence.facts, "spl", "variant")
    if variant not in (None, "stock"):
        why = f" ({variant_summary})" if variant_summary else ""
        yield (
            f"> **This SPL was changed on purpose:** it is the variant {code(variant)}{why}, which shows that the "
            "experiment can fail. What follows is no fault of OpenZFS."
        )


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.split("\n"))


def _system(facts: Mapping[str, Any]) -> Iterator[str]:
    distribution, _, version = str(_of(facts, "kernel", "id") or "").partition("-")
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
    parameters = [f"{name}={value}" for name, value in _pairs(_of(facts, "spl_parameters"))]
    if parameters:
        block = fenced("\n".join(one_line(line, 120) for line in parameters), 4000, RUN_FILE)
        yield _folded(f"Parameters of SPL in the guest ({len(parameters)})", block)
    else:
        yield "The parameters of SPL were not recorded."


def _build(facts: Mapping[str, Any]) -> Iterator[str]:
    yield f"SPL from {code(_source(facts))}, variant {_told(facts, 'spl', 'variant')}"
    patches = _of(facts, "spl", "patches")
    for patch in patches if isinstance(patches, list) else ():
        yield f"patch on top: {_told(patch, 'name')}, SHA-256 {_told(patch, 'sha256')}"
    if not patches:
        yield "no patches on top"
    for module, digest in _pairs(_of(facts, "spl", "modules")):
        yield f"module {code(module)}, SHA-256 {code(digest)}"
    memory, cpus = _told(facts, "parameters", "ram_mib"), _told(facts, "parameters", "cpus")
    yield f"the guest has {memory} MiB of memory, {cpus} CPUs and no disk; its root is an initramfs"
    reason = _of(facts, "accelerator", "reason")
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
        yield f"In the {scenario} the verdict is **{verdict.outcome.value}**. {LOOKS[verdict.outcome].meaning}"
        yield items([_reason(reason.text, reason.samples) for reason in verdict.reasons], 6000, VERDICT_FILE)
        if verdict.starved:
            yield f"The host gave the guest too little CPU for a while: {code(verdict.starved)}."
        if verdict.also:
            also = [f"{outcome.value}: {_reason(reason.text, reason.samples)}" for outcome, reason in verdict.also]
            yield "Also:\n\n" + items(also, 5000, VERDICT_FILE)
        if seen := list(_seen(verdict.figures)):
            yield "Measured:\n\n" + items(seen, 3000, VERDICT_FILE)
    ending = _of(evidence.facts, "outcome")
    if _of(ending, "kind") != "ended":
        yield f"The run did not come to its end: {_told(ending, 'kind')} ({_told(ending, 'detail')})."
    yield from _cycle(waiting)


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
    if "objects" in figures:
        yield (
            f"in a window of {figures['window_s']} s {figures['threads']} critical threads got {figures['objects']} "
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
    if not lines:
        yield f"No reading of `/proc/spl/kmem/slab` has the cache `{CACHE}`."
        return
    names = ("when", "time, s", "frame", "flags", "slabs", "objects", "in use", "dlock", "emergency", "max")
    head = (" | ".join(names), " | ".join("---" for _ in names))
    yield f"The cache `{CACHE}` in `/proc/spl/kmem/slab`, before, during and after:"
    yield "\n".join((*head, *lines))


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


def _reproduce(facts: Mapping[str, Any]) -> Iterator[str]:
    yield f"```sh\n{reproducer(facts)}\n```"
    notes = []
    if _is_own_tree(facts):
        notes.append(
            f"the tree is the reporter's own, version {_told(facts, 'spl', 'version')}: give the path to yours"
        )
    if _of(facts, "spl", "patches"):
        notes.append("the patches have to be the same files: their hashes are above")
    notes.append(
        "`slabprobe.ko`, which makes the load and holds the worker, is part of splvm and needs no change of SPL"
    )
    yield items(notes, 2000, RUN_FILE)


def reproducer(facts: Mapping[str, Any]) -> str:
    """The command that makes such a run again, on one line, fit for a shell."""
    words = ["splvm", "run", str(_of(facts, "scenario"))]
    for option, keys in _OPTIONS:
        value = _source(facts) if option == "--spl" else _of(facts, *keys)
        if isinstance(value, (str, int, float)) and (option, value) != ("--spl", "debian"):
            words += [option, str(value)]
    patches = _of(facts, "spl", "patches")
    for patch in patches[:10] if isinstance(patches, list) else ():
        words += ["--spl-patch", str(_of(patch, "name"))]
    line = _of(facts, "line")
    if isinstance(line, str) and line not in (PACKAGED, UNKNOWN):
        words += ["--label", line]
    # What a shell would take for more than a word must be gone before it is quoted, or a quote could go with it. The
    # back quote could end the block that this is shown in.
    return shlex.join(one_line(word, 120).replace("`", "'") for word in words)


def _source(facts: Mapping[str, Any]) -> str:
    """Where SPL is from, without the path to the reporter's tree."""
    source = str(_of(facts, "spl", "source") or "debian")
    directory = own_path(source)
    return source if directory is None else name_path(Path(PurePosixPath(directory).name or "DIR"))


def _is_own_tree(facts: Mapping[str, Any]) -> bool:
    return own_path(str(_of(facts, "spl", "source"))) is not None


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
        yield fenced("\n".join(lines[max(0, own - _LAST_LINES) : own]), 4000, "dmesg.txt")


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
    """Those who wait, the ones of the cycle or of the chain first."""
    by_sysrq = str(waiting.get("source", "")).startswith("sysrq")
    named = [*waiting.get("cycle", ()), *waiting.get("chain", ()), *(wait["pid"] for wait in waiting.get("waits", ()))]
    where = SYSRQ_FILE if by_sysrq else "stacks.txt"
    stacks = _sysrq_stacks(evidence.sysrq) if by_sysrq else _agent_stacks(evidence, only_blocked=not waiting)
    told = {wait["pid"]: wait for wait in waiting.get("waits", ())}
    blocks = []
    for pid in list(dict.fromkeys(named) if waiting else stacks)[:_MAX_STACKS]:
        if pid in stacks:
            blocks.append(stacks[pid])
        elif pid in told:
            # In the formats of old kernels a task has no line of its own to tell it by: then its functions have to do.
            wait = told[pid]
            functions = " <- ".join(wait["functions"])
            blocks.append(f"{wait['comm']} pid {pid} state {wait['state']}: {wait['reason']}, {functions}")
    if not blocks:
        yield "No stack of a blocked thread was recorded."
        return
    by = "the kernel's own list, by SysRq" if by_sysrq else "the agent in the guest"
    yield f"Stacks of threads that are blocked, by {by}:"
    yield fenced("\n\n".join(blocks), 12000, where)


_SYSRQ_TASK = re.compile(r"task:.{1,64}? {1,20}state:.{1,80}?\bpid: {0,12}(\d{1,10})\b", re.ASCII)


def _sysrq_stacks(text: str) -> dict[int, str]:
    """Each task of the lists with its stack as the kernel printed it, by pid; of several a whole one, then the last."""
    found: dict[int, list[str]] = {}
    block: list[str] | None = None
    for line in clean(text).split("\n"):
        task = _SYSRQ_TASK.search(line)
        if task is not None:
            pid = int(task[1])
            block = [line]
            if pid not in found or not any("</TASK>" in old for old in found[pid]):
                found[pid] = block
        elif "sysrq: " in line or "Showing busy workqueues" in line or "Sched Debug Version" in line:
            block = None
        elif block is not None and len(block) < _MAX_STACK_LINES:
            block.append(line)
    return {pid: "\n".join(lines).rstrip("\n") for pid, lines in found.items()}


def _agent_stacks(evidence: Evidence, *, only_blocked: bool) -> dict[int, str]:
    sample = last_in_window(evidence.timeline.tasks, evidence.timeline.marks)
    tasks = [task for task in sample.value if task.state == "D" or not only_blocked] if sample else []
    return {task.pid: "\n".join((f"{task.comm} pid {task.pid} state {task.state}", *task.raw)) for task in tasks}


def last_in_window(samples: Sequence[Sample[T]], marks: Mapping[str, int]) -> Sample[T] | None:
    """The last reading in the window, or the last of all if there is none, or was no window."""
    within: Sequence[Sample[T]] = ()
    if "window" in marks and "window-end" in marks:
        within = between(samples, marks["window"], marks["window-end"])
    return next(reversed(within or samples), None)


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
