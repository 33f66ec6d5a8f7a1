"""One run as a comment under a pull request or an issue: at most 40 lines, and nothing that the run does not bear out.

Pure. Paths and names of hosts are taken out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from splvm.evidence.timeline import Evidence
from splvm.evidence.verdict import Verdict
from splvm.paste.redact import redact
from splvm.record.treefacts import describe_modules
from splvm.report.again import reproducer
from splvm.report.blocked import blocked_stacks
from splvm.report.done import describe_guest, describe_window
from splvm.report.markdown import clean, code, one_line

MOST_LINES = 40

_MOST_REASONS = 2
_MOST_CHARS = 300
_MOST_TEXT = 10_000
# Lines of one stack, at least and at most.
_LEAST_STACK_LINES = 4
_MOST_STACK_LINES = 16

# What is before a frame, and lines that are none. A frame with a question mark may be of another call.
_TIME = re.compile(r"^\[ *\d{1,8}\.\d{1,9}\] ?", re.ASCII)
_NO_FRAME = re.compile(r"^\s*(?:\? |Call Trace:|</?(?:TASK|IRQ)>)")


def run_comment(
    evidence: Evidence, verdict: Verdict | None, waiting: Mapping[str, Any], where: str, *, no_verdict: str = ""
) -> str:
    """The comment.

    :param verdict: None when none could be given; then `no_verdict` says why.
    :param waiting: who waited for whom, as in `Verdict.wait_for`.
    :param where: where the evidence is: a link, or the archive's name and its SHA-256.
    """
    head = [*_verdict(evidence, verdict, no_verdict), "", *_done(evidence), *_cycle(waiting)]
    tail = ["", "```sh", reproducer(evidence.facts), "```", f"Evidence: {where}"]
    stacks = _stacks(evidence, waiting, MOST_LINES - len(head) - len(tail))
    return "\n".join([*head, *stacks, *tail]) + "\n"


def _verdict(evidence: Evidence, verdict: Verdict | None, no_verdict: str) -> Iterator[str]:
    facts = evidence.facts
    kernel, spl = (facts.get(name) or {} for name in ("kernel", "spl"))
    build = f"{spl.get('version')} {spl.get('variant')}"
    outcome = verdict.outcome.value if verdict else "no verdict"
    yield (
        f"**{outcome}**: {code(facts.get('scenario'))} on {code(kernel.get('id'))} ({code(kernel.get('release'))}), "
        f"SPL {code(build)}, splvm {code(facts.get('splvm'))}"
    )
    for reason in verdict.reasons[:_MOST_REASONS] if verdict else ():
        yield f"- {code(_public(reason.text), _MOST_CHARS)}"
    if no_verdict:
        yield f"- {code(_public(no_verdict), _MOST_CHARS)}"
    if evidence.damage:
        yield "- the record is damaged: this may not be what the guest showed"


def _public(text: str) -> str:
    """Text of the guest or the harness without names of places and machines."""
    return redact(text[:_MOST_TEXT], {})[0]


def _done(evidence: Evidence) -> Iterator[str]:
    """What was run: builds, guest, loads, window."""
    facts = evidence.facts
    yield "What was run:"
    for module, tree in describe_modules(facts):
        yield f"- {module} of {code(tree)}"
    spl = facts.get("spl") or {}
    patches = [str(it.get("name")) for it in spl.get("patches") or () if isinstance(it, Mapping)]
    if patches:
        yield f"- patches on top: {code(', '.join(patches))}"
    lines = [*describe_guest(facts), *describe_window(evidence)]
    yield from (f"- {line}" for line in lines[:9])


def _cycle(waiting: Mapping[str, Any]) -> Iterator[str]:
    if waiting.get("sentence"):
        yield ""
        yield f"Who waited for whom, as the stacks suggest it: {code(_public(waiting['sentence']), 600)}"


def _stacks(evidence: Evidence, waiting: Mapping[str, Any], room: int) -> Sequence[str]:
    """The stacks of the threads of the cycle or the chain, in a block of at most `room` lines."""
    # Blank line, both fences, and what was left out.
    room -= 4
    if not waiting or room < 2:
        return []
    stacks = [_frames(block) for block in blocked_stacks(evidence, waiting)]
    told = len({*waiting.get("cycle", ()), *waiting.get("chain", ())}) or 1
    each = min(_MOST_STACK_LINES, max(_LEAST_STACK_LINES, room // told))
    lines: list[str] = []
    left_out = len(stacks)
    for stack in stacks[:told]:
        cut = stack if len(stack) <= each else [*stack[: each - 1], "..."]
        if len(lines) + len(cut) <= room:
            lines += cut
            left_out -= 1
    if not lines:
        return []
    rest = [f"Stacks of {left_out} more threads are in the archive."] if left_out else []
    return ["", "```text", *lines, "```", *rest]


def _frames(block: str) -> list[str]:
    """The line of a task, and its frames."""
    lines = (_TIME.sub("", line) for line in clean(block).split("\n"))
    return [one_line(line, 120).replace("```", "'''") for line in lines if line.strip() and not _NO_FRAME.match(line)]
