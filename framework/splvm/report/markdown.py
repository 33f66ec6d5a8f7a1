"""Words of others in Markdown: code spans, blocks and lists that hold them, whatever they are.

Owns what is done to hostile text: it is shown without control characters, and where it stands no structure, mention,
reference or link is live. All of it is bounded, and what is cut says so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Characters of a line in a fenced block, and of what stands in a code span.
MAX_LINE_CHARS = 240
MAX_SPAN_CHARS = 300

# A sequence for the terminal. None reaches beyond its line, so that nothing can hide the lines after it.
_ESCAPE = re.compile(
    r"\x1b(?:\[[0-?]{0,32}[ -/]{0,4}[@-~]?|\][^\x07\x1b\n]{0,256}(?:\x07|\x1b\\)?|[ -~])?"
    r"|\x9b[0-?]{0,32}[ -/]{0,4}[@-~]?"
)
_CONTROL = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)))
_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")


def clean(text: str) -> str:
    """Without control characters and sequences for a terminal; line ends and tabs stay, and so do all lines."""
    text = _ESCAPE.sub("", text).translate(_CONTROL)
    if text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)


def code(text: object, limit: int = MAX_SPAN_CHARS) -> str:
    """One line of somebody's text as a code span, for prose and for cells of tables."""
    line = one_line(text, limit)
    if not line:
        return "(empty)"
    if not re.search(r"[`|\\]", line):
        return f"`{line}`"
    # In a table a `|` ends the cell even in a code span, and renderers do not agree on how to escape it there.
    escaped = _PUNCTUATION.sub(lambda char: f"&#{ord(char[0])};", _cut(line, max(40, limit // 2)))
    return f"<code>{escaped}</code>"


def fenced(text: str, limit: int, where: str, info: str = "text") -> str:
    """Somebody's lines as a block that they cannot end.

    :param limit: bytes of them, at most.
    :param where: the file that has them all.
    """
    lines = text.rstrip("\n").split("\n")
    # Each takes a byte at least; of a log of many megabytes nothing else is looked at.
    kept = _within([_cut(clean(line[: 8 * MAX_LINE_CHARS]), MAX_LINE_CHARS) for line in lines[:limit]], limit)
    runs = re.findall("`+", "\n".join(kept))
    fence = "`" * max([3, *(len(run) + 1 for run in runs)])
    cut = len(kept) < len(lines)
    note = f"\n\nCut after {len(kept)} of {len(lines)} lines; the rest is in {code(where)}." if cut else ""
    return "\n".join((f"{fence}{info}", *kept, fence)) + note


def items(lines: Sequence[str], limit: int, where: str) -> str:
    """A list.

    :param limit: bytes, at most.
    :param where: the file that has it all.
    """
    kept = _within([f"- {line}" for line in lines], limit)
    more = [f"- and {len(lines) - len(kept)} more, see {code(where)}"] if len(kept) < len(lines) else []
    return "\n".join(kept + more)


def one_line(text: object, limit: int) -> str:
    return _cut(" ".join(clean(str(text)[: 8 * limit]).split()), limit)


def _cut(line: str, limit: int) -> str:
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _within(lines: Sequence[str], limit: int) -> list[str]:
    """As many of them, from the first on, as fit."""
    kept: list[str] = []
    used = 0
    for line in lines:
        used += len(line.encode()) + 1
        if used > limit:
            break
        kept.append(line)
    return kept
