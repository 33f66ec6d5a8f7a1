"""All that was read of one or several texts, before anything is concluded from it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from splvm.paste.facts import Facts
from splvm.paste.files import FileReader
from splvm.paste.findings import Findings
from splvm.paste.moments import Moment, Thread

# Gaps named of a text.
MAX_UNREAD = 100


@dataclass(frozen=True, slots=True)
class Unread:
    """Lines that nothing could be made of."""

    # The first of them, 0 in what has no lines.
    line: int
    why: str


@dataclass(slots=True)
class Input:
    """One kind of text in one input."""

    name: str
    kind: str
    lines: int


@dataclass(slots=True)
class Reading:
    """All that was read."""

    inputs: list[Input] = field(default_factory=list)
    # What there was no room to keep, by what it is.
    dropped: Counter[str] = field(default_factory=Counter)
    findings: Findings = field(init=False)
    # Threads in the order of the text, each with its moment.
    threads: list[tuple[Thread, Moment | None]] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    files: FileReader = field(default_factory=FileReader)
    facts: Facts = field(default_factory=Facts)
    unread: list[Unread] = field(default_factory=list)
    # The semaphore's last holder, which proves nothing, in words.
    hints: list[str] = field(default_factory=list)
    # What the text says of the machine, and names of machines.
    system: dict[str, str] = field(default_factory=dict)
    hosts: set[str] = field(default_factory=set)
    # Names of people, pools and devices, with what each is.
    names: dict[str, str] = field(default_factory=dict)
    # Stacks of which nothing says whose they are.
    nameless: int = 0

    def __post_init__(self) -> None:
        self.findings = Findings(self.dropped)

    def complain(self, line: int, why: str) -> None:
        """Note what could not be read."""
        if len(self.unread) < MAX_UNREAD:
            self.unread.append(Unread(line, why))
