"""Status files of the project's kernel modules (docs/formats.md): one record a line, a tag and then words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from splvm.errors import EvidenceError
from splvm.evidence.formats.stream import excerpt, payload_lines

_INTEGER = re.compile(r"-?[0-9]{1,20}|0x[0-9a-f]{1,16}")


@dataclass(frozen=True, slots=True)
class Line:
    """One record: its line, and its words after the tag."""

    number: int
    words: tuple[str, ...]

    def word(self, index: int) -> str:
        """The word at `index`."""
        if index >= len(self.words):
            raise EvidenceError("a word is missing", line=self.number)
        return self.words[index]

    def integer(self, index: int) -> int:
        """The word at `index` as a number."""
        if index >= len(self.words):
            raise EvidenceError("a number is missing", line=self.number)
        return to_integer(self.words[index], self.number)

    def texts(self, *keys: str) -> dict[str, str]:
        """The values of these keys, which must all be there; other keys are left alone."""
        pairs = self.pairs()
        missing = [key for key in keys if key not in pairs]
        if missing:
            raise EvidenceError(f"missing: {', '.join(missing)}", line=self.number)
        return {key: pairs[key] for key in keys}

    def numbers(self, *keys: str) -> dict[str, int]:
        """The values of these keys as numbers."""
        return {key: to_integer(value, self.number) for key, value in self.texts(*keys).items()}

    def later(self, **defaults: int) -> dict[str, int]:
        """The values of these keys, which modules of before do not have."""
        pairs = self.pairs()
        return {k: to_integer(pairs[k], self.number) if k in pairs else default for k, default in defaults.items()}

    def pairs(self) -> dict[str, str]:
        """The words that are key=value."""
        return dict(word.partition("=")[::2] for word in self.words if "=" in word)


@dataclass(frozen=True, slots=True)
class Records:
    """The lines of a status by their tag, in their order."""

    by_tag: dict[str, list[Line]]
    # Number of the last line.
    last: int

    def only(self, tag: str) -> Line:
        """The one line with this tag.

        :raises EvidenceError: when there is none, or another.
        """
        lines = self.by_tag.get(tag)
        if not lines:
            raise EvidenceError(f"the status ends without a line `{tag}`", line=self.last)
        if len(lines) > 1:
            raise EvidenceError(f"a second line `{tag}`", line=lines[1].number)
        return lines[0]

    def has(self, tag: str) -> bool:
        """Whether there is any line with this tag."""
        return tag in self.by_tag

    def all(self, tag: str) -> Iterator[Line]:
        """Every line with this tag."""
        yield from self.by_tag.get(tag, ())


def parse_records(text: str, name: str, version: int) -> Records:
    """The lines by tag, after the version and the last line end were checked.

    :param name: of the module, the first word of the status.
    :raises EvidenceError: for the status of another module or version, and for one that is empty or cut off.
    """
    records: dict[str, list[Line]] = {}
    number = 0
    for number, line in payload_lines(text):
        tag, *words = line.split() or [""]
        if number == 1 and (tag, words) != (name, [str(version)]):
            raise EvidenceError(f"not a {name} status of version {version}: {excerpt(line)}", line=1)
        records.setdefault(tag, []).append(Line(number, tuple(words)))
    if number == 0:
        raise EvidenceError("the status is empty")
    # The module ends every line; one that is not ended may have lost digits.
    if not text.endswith("\n"):
        raise EvidenceError("truncated: the last line has no end", line=number)
    return Records(records, number)


def to_integer(word: str, line: int) -> int:
    """A number as the modules print them."""
    if not _INTEGER.fullmatch(word):
        raise EvidenceError(f"not a number: {excerpt(word)}", line=line)
    number = int(word, 16 if word.startswith("0x") else 10)
    if not -(1 << 63) <= number < 1 << 64:
        raise EvidenceError(f"not a number of 64 bits: {excerpt(word)}", line=line)
    return number
