"""An explanation in words, in the order in which a reader asks: what happened, who waits for whom, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from splvm.evidence.waiting.waitedges import Basis, Closes
from splvm.paste.explanation import Explanation, MomentShown
from splvm.paste.findings import PasteFinding
from splvm.paste.slabs import changes, elapsed_s, series

_MOVED = {
    "moved": "moved between them: it is slow, or goes round, and does not stand still",
    "still": "is where it was in each of them",
    "spins": "spins in each of them",
}
# Entries that are told of each list.
MAX_TOLD = 20
MAX_FRAMES = 8
MAX_CHARS = 400

_CLOSES = {
    Closes.CYCLE: "It closes: these threads wait for each other, a deadlock. The kernel printed every owner.",
    Closes.UNKNOWN: "It may close: that is unknown, for a part is not in the text. It is neither proved nor refuted.",
    Closes.CHAIN: "It does not close: it ends in something that has a name and waits for no thread.",
    None: "Nothing in the text waits for anything that is known here.",
}
# Roles are a guess from names and stacks.
_CLOSES_BY_ROLE = (
    "By role it closes, which is a guess: names and stacks suggest that these threads wait for each other. "
    "No line of the kernel's proves it; the stacks of all threads, or the owners of the locks, would."
)


def answer_lines(explanation: Explanation) -> Iterator[str]:
    """The answer, a line at a time, without control characters."""
    for line in _answer(explanation):
        yield "".join(char if char.isprintable() else "?" for char in line)


def _answer(it: Explanation) -> Iterator[str]:
    yield from _section("What happened", map(_finding, it.findings), "no complaint of a kind that is known here")
    told = it.telling
    if told is not None:
        yield from _section("Who waits for whom", _moments(it, told), "")
        closes = told.graph.closes
        yield _CLOSES_BY_ROLE if closes is Closes.CYCLE and not _is_proved(told) else _CLOSES[closes]
        yield ""
    yield from _section("What is known of this", (_known(row) for row in it.known), "")
    yield from _section("What is missing to be sure", (f"{row.what}: {row.command}" for row in it.missing), "")
    yield from _section("What has this shape here", (row.command for row in it.scenarios), "")
    yield from _section("Slab file", _slab(it), "")
    yield from _section("What the files say", it.facts, "")
    yield from _section("Not read", (f"line {row.line}: {row.why}" if row.line else row.why for row in it.unread), "")


def _is_proved(told: MomentShown) -> bool:
    """Whether a cycle rests on the kernel's own word alone."""
    graph = told.graph
    steps = set(zip(graph.cycle, [*graph.cycle[1:], *graph.cycle[:1]], strict=True))
    return all(edge.by is not Basis.ROLE for edge in graph.edges if (edge.waiter, edge.holder) in steps)


def _section(title: str, lines: Iterable[str], otherwise: str) -> Iterator[str]:
    told = list(lines)
    if not told and not otherwise:
        return
    yield f"{title}:"
    for line in told[:MAX_TOLD] or [otherwise]:
        yield f"  {line[:2000]}"
    if len(told) > MAX_TOLD:
        yield f"  and {len(told) - MAX_TOLD} more (--json has all)"
    yield ""


def _finding(finding: PasteFinding) -> str:
    who = (
        f", {finding.comm} (pid {finding.pid})" if finding.pid is not None and finding.comm not in finding.title else ""
    )
    often = f", {finding.count} times" if finding.count > 1 else ""
    where = f" in {' <- '.join(finding.frames[:MAX_FRAMES])}" if finding.frames else ""
    when = f", at {finding.time}" if finding.time else ""
    return f"{finding.kind}: {finding.title[:MAX_CHARS]}{who}{often}{when}{where} [{finding.fingerprint}]"


def _moments(it: Explanation, told: MomentShown) -> Iterator[str]:
    cut = f" (the list is cut: {told.cut})" if told.cut else ""
    yield f"by {told.source}, {told.graph.sentence}{cut}"
    for wait in told.graph.waits[:MAX_TOLD]:
        name = f"{wait.thread.comm} (pid {wait.thread.pid})" if wait.thread.pid >= 0 else f"stack {-wait.thread.pid}"
        lock = f" ({told.locks[wait.thread.pid]})" if wait.thread.pid in told.locks else ""
        yield f"  {name}: {wait.reason}{lock}: {' <- '.join(wait.thread.frames[:MAX_FRAMES])}"
    others = len(it.moments) - 1
    if others:
        yield f"the text shows {others} more {'moment' if others == 1 else 'moments'} (--json has all)"
    for row in it.moved[:MAX_TOLD]:
        yield f"{row.comm or 'the thread'} (pid {row.pid}) {_MOVED[row.what]}"
    yield from it.hints[:MAX_TOLD]


def _known(row: object) -> str:
    issue, versions = getattr(row, "issue", ""), getattr(row, "versions", "")
    fixed = getattr(row, "fixed_in", "")
    return f"{issue} ({versions}, {f'fixed in {fixed}' if fixed else 'open'}): {getattr(row, 'why', '')}"


def _slab(it: Explanation) -> Iterator[str]:
    before = {id(two): one for one, two in series(it.slab)}
    for number, reading in enumerate(it.slab, 1):
        total = sum(row.size or 0 for row in reading.slab.caches)
        used = [row.name for row in reading.slab.caches if row.emergency.alloc]
        emergency = f", emergency objects in {', '.join(used[:MAX_TOLD])}" if used else ""
        waited = [f"{row.name} ({row.emergency.dlock})" for row in reading.slab.caches if row.emergency.dlock]
        emergency += (
            f"; callers gave up waiting for the slab worker in {', '.join(waited[:MAX_TOLD])}" if waited else ""
        )
        where = f" of {reading.label}" if reading.label else ""
        when = f" at {reading.time}" if reading.time else ""
        yield f"reading {number}{where}{when}: {len(reading.slab.caches)} caches, {total} bytes in slabs{emergency}"
        yield from (f"contradiction: {sentence}" for sentence in reading.contradictions)
        if (old := before.get(id(reading))) is not None:
            seconds = elapsed_s(old.time, reading.time)
            for change in changes(old.slab, reading.slab)[:MAX_TOLD]:
                rate = ""
                if seconds and change.before is not None and change.after is not None:
                    rate = f", {(change.after - change.before) / seconds:+.1f} a second"
                yield f"{change.cache}: {change.column} {_cell(change.before)} -> {_cell(change.after)}{rate}"
    yield from (f"contradiction: {sentence}" for sentence in it.never)


def _cell(value: int | None) -> str:
    return "-" if value is None else str(value)
