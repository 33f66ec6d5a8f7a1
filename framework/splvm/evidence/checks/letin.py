"""Checks of where a guest in virtual time let the host in: its digest has the console up to there, and no more."""

from __future__ import annotations

import re
from collections.abc import Iterator

from splvm.evidence.checks.case import Case, is_count, seconds
from splvm.evidence.diagnosis import Condition
from splvm.evidence.timeline import Evidence
from splvm.evidence.verdict import Reason

# What the guest says before, and only after (images/guest/init, images/guest/open, run/closedrun.py).
_BEFORE = re.compile(r"Linux version \S{1,200} \(|^splvm: guest has settled", re.MULTILINE)
_AFTER = re.compile(r"^splvm: guest is up|splvm: run [0-9a-f]{16}\b", re.MULTILINE)
_STAMP = re.compile(r"^\[ *(\d{1,9})\.(\d{6})\]", re.MULTILINE)
# The kernel's log has a clock of its own, and what it prints may come a moment later.
_APART_NS = 1_000_000_000


def misplaced(evidence: Evidence) -> Iterator[Reason]:
    """Why the host was not let in where run.json says.

    :param evidence: of a run in virtual time.
    """
    outcome = evidence.facts.get("outcome", {})
    count, size = outcome.get("closed_bytes"), outcome.get("console_bytes")
    if not is_count(count) or not is_count(size):
        # No other run was driven to its end; `lacking_facts` asks the ended ones for both.
        return
    name = f"run.json: outcome.closed_bytes is {count}"
    if count > size or evidence.closed is None:
        yield Reason(f"{name}, and the guest said {size} bytes")
        return
    rest = evidence.console[len(evidence.closed) :]
    if outcome.get("condition") in (Condition.CRASHED, Condition.QEMU_GONE) and rest.strip():
        yield Reason(f"{name}, and a guest that had ended said more")
    if early := _BEFORE.search(rest):
        yield Reason(f"{name}, and `{early[0][:60]}` comes after it")
    elif late := _AFTER.search(evidence.closed):
        yield Reason(f"{name}, and `{late[0][:60]}`, which a guest says once the host was let in, comes before it")
    else:
        yield from _stamped_before(evidence, name, rest)


def _stamped_before(evidence: Evidence, name: str, rest: str) -> Iterator[Reason]:
    """No line of the kernel's that comes after it is of before the last reading."""
    timeline = evidence.timeline
    last_ns = timeline.probe[-1].end_ns if timeline.probe else 0
    stamps = (int(whole) * 1_000_000_000 + int(part) * 1000 for whole, part in _STAMP.findall(rest))
    if (first := min(stamps, default=last_ns)) < last_ns - _APART_NS:
        yield Reason(f"{name}, and the kernel's line of {seconds(first)} comes after it; the last reading is later")


def let_in_elsewhere(case: Case) -> Iterator[Reason]:
    """In virtual time the host was let in where run.json says."""
    if case.evidence.is_virtual:
        yield from misplaced(case.evidence)
