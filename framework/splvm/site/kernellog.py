"""The kernel's log for a page: both ends of it, with what the kernel complained of marked. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from splvm.evidence.formats.kernlog import Finding, scan_kernel_log
from splvm.site.looks import printable

# What is shown of a log at most, and at least.
MOST_CHARS = 200_000
LEAST_CHARS = 12_000
_LINE_CHARS = 1000
# Findings that are listed.
_FINDINGS = 50


@dataclass(frozen=True, slots=True)
class Part:
    """Lines that follow each other and are shown alike."""

    text: str
    # Number of its line if it is a complaint, else 0.
    line: int = 0
    # Lines that were left out here.
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class KernelLog:
    """A log as a page shows it."""

    parts: tuple[Part, ...]
    # What the kernel complained of, with whether its line is among those that are shown.
    findings: tuple[tuple[Finding, bool], ...]
    # Findings beyond those.
    more: int


def excerpt_log(console: str, most: int) -> KernelLog:
    """Both ends of a console's log.

    :param most: characters, of which each end gets half.
    """
    findings = scan_kernel_log(console)
    lines = console.split("\n")
    head, tail = _ends([min(len(line), _LINE_CHARS) + 1 for line in lines], most)
    marked = {finding.line for finding in findings}
    parts = [*_parts(lines, 0, head, marked)]
    if head < tail:
        parts.append(Part("", skipped=tail - head))
        parts += _parts(lines, tail, len(lines), marked)
    shown = tuple((it, it.line <= head or it.line > tail) for it in findings[:_FINDINGS])
    return KernelLog(tuple(parts), shown, max(0, len(findings) - _FINDINGS))


def _ends(sizes: list[int], most: int) -> tuple[int, int]:
    """How many lines fit at the beginning, and from which one on they fit at the end."""
    if sum(sizes) <= most:
        return len(sizes), len(sizes)
    head, room = 0, most // 2
    while room >= sizes[head]:
        room -= sizes[head]
        head += 1
    tail, room = len(sizes), most // 2
    while tail > head and room >= sizes[tail - 1]:
        room -= sizes[tail - 1]
        tail -= 1
    return head, tail


def _parts(lines: list[str], start: int, end: int, marked: set[int]) -> Iterator[Part]:
    plain: list[str] = []
    for number in range(start + 1, end + 1):
        text = printable(lines[number - 1].removesuffix("\r"), _LINE_CHARS) + "\n"
        if number not in marked:
            plain.append(text)
            continue
        if plain:
            yield Part("".join(plain))
            plain = []
        yield Part(text, line=number)
    if plain:
        yield Part("".join(plain))
