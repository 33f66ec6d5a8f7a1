"""Answers of slow programs, kept for as long as nothing that they rest on has changed.

A memo that cannot be read, or that rests on anything else, is as good as none: the program is asked again.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from splvm.host.content import Input


@dataclass(frozen=True, slots=True)
class Memo:
    """A file of questions and answers that all rest on one basis.

    Take the basis first and ask then. An answer that is newer than its basis is only asked for again; an answer that is
    older than its basis would stay.
    """

    path: Path
    # Hash of all that the answers depend on, `stamps` of files among it.
    basis: str

    def answer(self, question: str, ask: Callable[[], str]) -> str:
        """The kept answer, or else the answer of `ask`. An error of `ask` is not kept.

        If two processes write at once, the answers of the last stay.
        """
        kept = self._read()
        if question not in kept:
            kept[question] = ask()
            self._write(kept)
        return kept[question]

    def known(self, question: str) -> str | None:
        """The kept answer; None if there is none."""
        return self._read().get(question)

    def _read(self) -> dict[str, str]:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            head = json.loads(self.path.read_text(encoding="utf-8"))
            answers = head["answers"]
            if head["basis"] == self.basis and head["sha256"] == _checksum(answers):
                return {question: str(answer) for question, answer in answers.items()}
        return {}

    def _write(self, answers: dict[str, str]) -> None:
        text = json.dumps({"basis": self.basis, "sha256": _checksum(answers), "answers": answers})
        # Where it cannot be written, the program is asked each time.
        with suppress(OSError):
            write_private(self.path, text)


def stamps(paths: Iterable[Path]) -> list[Input]:
    """What shows that one of these files, or a file directly in one of these directories, was changed or replaced.

    Links are followed. The change time cannot be set, so a file whose modification time was put back is seen as well.
    """
    return [[str(path), _stamp(path), _inside(path)] for path in paths]


def _stamp(path: str | Path) -> list[Input]:
    try:
        info = os.stat(path)
    except OSError:
        return []
    return [info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns]


def _inside(path: Path) -> list[Input]:
    try:
        return [[os.fsencode(entry.name), _stamp(entry.path)] for entry in sorted(os.scandir(path), key=_name)]
    except OSError:
        return []


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _checksum(answers: object) -> str:
    return hashlib.sha256(json.dumps(answers).encode()).hexdigest()


def write_private(path: Path, text: str) -> None:
    """Write a file in one go, for its owner only: the URI of a mirror may contain a password."""
    fresh = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    fresh.replace(path)
