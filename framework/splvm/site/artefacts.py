"""Copies of a run's small files for downloading, within the bytes that a site may have.

Earlier runs take most of the room. A file that does not fit is named with its place on the host.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from splvm.plainfile import NotPlainError, TooLargeError, read_plain
from splvm.record.names import CONSOLE_FILE, HARNESS_FILE, RUN_FILE, SAMPLES_FILE, SYSRQ_FILE, VERDICT_FILE

# Files that are offered, the most telling first.
FILES = (VERDICT_FILE, RUN_FILE, HARNESS_FILE, SYSRQ_FILE, CONSOLE_FILE, SAMPLES_FILE)
# A file that is larger is not even tried: packed it would still be megabytes.
MOST_BYTES = 8 << 20
# Text that is smaller is readable as it is, others are packed.
_PLAIN_BYTES = 16 << 10

# A site of up to 100 runs, and what each further one may add.
_SITE_BYTES = 20_000_000
_RUN_BYTES = 200_000
# Kept back for each page that is still to come.
_PAGE_BYTES = 90_000


@dataclass(slots=True)
class Budget:
    """The bytes of a site: pages are written in any case, other files only if they fit."""

    # In all, and of them used.
    limit: int
    spent: int
    # Pages that are still to come.
    pages: int

    @classmethod
    def of(cls, spent: int, pages: int) -> Budget:
        """The budget of a site with `pages` pages of runs, whose other files have taken `spent` bytes already."""
        return cls(max(_SITE_BYTES, pages * _RUN_BYTES), spent, pages)

    @property
    def left(self) -> int:
        """What may be added, with room for the pages to come."""
        return max(0, self.limit - self.spent - self.pages * _PAGE_BYTES)

    def page(self, size: int) -> None:
        """Count a page that was kept back for."""
        self.pages -= 1
        self.spent += size


@dataclass(frozen=True, slots=True)
class Copies:
    """What became of a run's files."""

    # Name to link to, and bytes.
    there: tuple[tuple[str, int], ...] = ()
    # Where those are that did not fit.
    left_out: tuple[str, ...] = ()


def copy_files(run: Path, target: Path, budget: Budget, made: Mapping[str, bytes]) -> Copies:
    """Copy a run's small files as far as there is room.

    :param run: its directory.
    :param target: where to; made if there is anything to be put in.
    :param made: what takes the place of files that no verdict rests on.
    :raises OSError: when one cannot be read.
    """
    there, left_out = [], []
    for name in FILES:
        try:
            content = made[name] if name in made else read_plain(run / name, MOST_BYTES)
        except TooLargeError:
            left_out.append(str(run / name))
            continue
        except (FileNotFoundError, NotPlainError):
            continue
        packed = name
        if len(content) > _PLAIN_BYTES:
            content, packed = gzip.compress(content, 6, mtime=0), f"{name}.gz"
        if len(content) > budget.left:
            left_out.append(str(run / name))
            continue
        target.mkdir(parents=True, exist_ok=True)
        (target / packed).write_bytes(content)
        budget.spent += len(content)
        there.append((packed, len(content)))
    return Copies(tuple(there), tuple(left_out))
