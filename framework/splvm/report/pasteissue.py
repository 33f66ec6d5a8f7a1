"""The text of an issue, in the form that OpenZFS asks for, made of what somebody pasted.

Owns what goes into it; the form is that of issue.py, and names are taken out by splvm.paste.redact.
"""

from __future__ import annotations

from collections.abc import Iterator

from splvm.evidence.waiting.waitedges import Closes
from splvm.paste.explanation import Explanation, MomentShown
from splvm.paste.findings import PasteFinding
from splvm.paste.redact import redact
from splvm.report.issue import fitting
from splvm.report.markdown import code, fenced, items, one_line

# Bytes of one block.
BLOCK_BYTES = 12_000
MAX_FINDINGS = 20
_WHOLE = "the text that was pasted"


def paste_issue(explanation: Explanation) -> str:
    """The whole text. Parts that the paste does not have stay empty. The first line counts what was taken out."""
    body = "\n\n".join(fitting(part for part in _parts(explanation) if part)) + "\n"
    comms = {it.comm for it in explanation.tasks} | {it.comm for it in explanation.findings}
    names = {**dict.fromkeys(explanation.hosts, "host"), **explanation.names}
    body, taken = redact(body, names, comms)
    what = ", ".join(f"{name} ({'once' if count == 1 else f'{count} times'})" for name, count in sorted(taken.items()))
    note = f"Taken out of this text: {what}." if what else "Nothing had to be taken out of this text."
    return f"> {note} Kernel addresses are left in. Look through it before you publish it.\n\n{body}"


def _parts(it: Explanation) -> Iterator[str]:
    yield "### System information"
    rows = (
        ("Distribution Name", it.system.get("distribution", "")),
        ("Distribution Version", it.system.get("distribution version", "")),
        ("Kernel Version", it.system.get("kernel", "")),
        ("Architecture", it.system.get("architecture", "")),
        ("OpenZFS Version", it.system.get("zfs", "")),
    )
    yield "\n".join(
        ("Type | Version/Name", "--- | ---", *(f"{name} | {code(value) if value else ''}" for name, value in rows))
    )
    yield "### Describe the problem you're observing"
    yield items([_finding(finding) for finding in it.findings[:MAX_FINDINGS]], BLOCK_BYTES, _WHOLE)
    if (told := it.telling) is not None:
        yield from _waiting(told, it.closes)
    if it.known:
        yield items([f"may be {row.issue}: {row.why}" for row in it.known], BLOCK_BYTES, _WHOLE)
    yield "### Describe how to reproduce the problem"
    if it.scenarios:
        yield "This has the shape of " + ", ".join(code(row.command) for row in it.scenarios) + " of splvm."
    yield "### Include any warning/errors/backtraces from the system logs"
    yield from _stacks(it)
    if it.missing:
        yield "What is still missing:"
        yield items([f"{row.what}: {code(row.command)}" for row in it.missing], BLOCK_BYTES, _WHOLE)


def _finding(finding: PasteFinding) -> str:
    often = f", {finding.count} times" if finding.count > 1 else ""
    return f"{finding.kind}: {code(finding.title)}{often}, fingerprint {code(finding.fingerprint)}"


def _waiting(told: MomentShown, closes: Closes | None) -> Iterator[str]:
    words = {
        Closes.CYCLE: "The threads wait for each other:",
        Closes.UNKNOWN: "Who waits for whom; whether it closes is not in the text:",
        Closes.CHAIN: "Who waits for whom; it does not close:",
    }
    if closes is not None:
        yield f"{words[closes]}\n\n> {code(told.graph.sentence, 4000)}"


def _stacks(it: Explanation) -> Iterator[str]:
    lines: list[str] = []
    for task in it.tasks:
        if task.frames and task.state in ("D", "R", "?"):
            who = f"pid {task.pid}" if task.pid is not None else "pid not known"
            lines += [
                f"{one_line(task.comm, 64)} ({who}, state {task.state})",
                *(f" {name}" for name in task.frames),
                "",
            ]
    if not lines:
        for finding in it.findings:
            lines += [one_line(finding.title, 300), *(f" {name}" for name in finding.frames)]
    if lines:
        yield fenced("\n".join(lines), BLOCK_BYTES, _WHOLE)
