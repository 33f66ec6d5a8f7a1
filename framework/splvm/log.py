"""Steps and progress for people, on stderr; stdout belongs to results.

Owns the logger ``splvm``, its handlers and the one live display. Until `setup_logging` is called nothing is
printed, so that the framework stays silent when it is used as a library.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

LOGGER = logging.getLogger("splvm")

# Steps that end sooner than this get no closing line on stderr; the log file has all of them.
QUIET_STEP_S = 2.0

# Characters of a bar.
_BAR = 20

_LEVELS = {-1: logging.WARNING, 0: logging.INFO, 1: logging.DEBUG}


def note(text: str) -> None:
    """Tell the user something in one line. What cannot be printed is escaped, since log files are UTF-8."""
    LOGGER.info("%s", _printable(text))


@contextmanager
def step(title: str) -> Iterator[None]:
    """Show that `title` is being done for as long as the block runs, and how long it took.

    Steps nest and may run in several threads at once. On a terminal they are lines with a spinner and the time so
    far; elsewhere a line at the start, and one at the end when it took longer than `QUIET_STEP_S` or failed.
    """
    start = time.monotonic()
    LOGGER.info("%s ...", title, extra={"splvm_step": "start"})
    entry = _BOARD.add(title, start)
    outcome = "failed"
    try:
        yield
        outcome = "done"
    finally:
        _BOARD.remove(entry)
        seconds = time.monotonic() - start
        LOGGER.info(
            "%s: %s in %.1f s", title, outcome, seconds, extra={"splvm_step": outcome, "splvm_seconds": seconds}
        )


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[int, str], None]]:
    """Show how far something is that has many parts, on a terminal, for as long as the block runs.

    Elsewhere nothing is shown: who counts says so by notes.

    :param what: the parts, as `runs`.
    :returns: a function that is told how many are done, and what else is to be said.
    """
    entry = _BOARD.add(f"0 of {total} {what}", time.monotonic())

    def tell(done: int, text: str) -> None:
        filled = round(_BAR * done / total) if total else _BAR
        entry.title = _printable(f"{'█' * filled}{'░' * (_BAR - filled)} {done} of {total} {what}, {text}")

    try:
        yield tell
    finally:
        _BOARD.remove(entry)


def setup_logging(verbose: int = 0, logfile: Path | None = None) -> None:
    """Send the log to stderr, and all of it to `logfile` as well.

    May be called again; the former handlers are closed.

    :param verbose: -1 warnings only, 0 steps and notes (default), 1 or more also every command.
    :param logfile: appended to, with the time of day and the thread; its directory is made.
    """
    end_logging()
    human = _HumanHandler(_LEVELS[max(-1, min(verbose, 1))])
    handlers: list[logging.Handler] = [human]
    if logfile is not None:
        logfile.parent.mkdir(parents=True, exist_ok=True)
        to_file = LogFile(logfile, encoding="utf-8", errors="backslashreplace")
        to_file.setLevel(logging.DEBUG)
        to_file.setFormatter(logging.Formatter("%(asctime)s %(threadName)s %(levelname)s %(message)s"))
        handlers.append(to_file)
    for handler in handlers:
        handler.splvm = True  # type: ignore[attr-defined]
        LOGGER.addHandler(handler)
    LOGGER.setLevel(min(handler.level for handler in handlers))
    # The root logger may have handlers of its own (pytest's do): they still get everything.
    _BOARD.enabled = human.level <= logging.INFO


def end_logging() -> None:
    """Take back what `setup_logging` did: nothing is printed any more."""
    for old in [handler for handler in LOGGER.handlers if getattr(handler, "splvm", False)]:
        LOGGER.removeHandler(old)
        old.close()
    LOGGER.setLevel(logging.NOTSET)
    _BOARD.enabled = False


@dataclass(slots=True, eq=False)
class _Entry:
    # What the step does, printable; of many parts it changes.
    title: str
    # Host's monotonic clock, seconds.
    start: float
    spinner: Spinner


class _Board:
    """The one live display, with a line per step under way; it exists while there are any."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.enabled = False
        self._lock = threading.Lock()
        self._entries: list[_Entry] = []
        self._live: Live | None = None

    def add(self, title: str, start: float) -> _Entry:
        entry = _Entry(_printable(title), start, Spinner("dots"))
        with self._lock:
            self._entries.append(entry)
            if self._live is None and self.enabled and self.is_live:
                # Only this console belongs to the display: results on stdout must not be redirected to stderr.
                self._live = Live(
                    console=self.console,
                    get_renderable=self._render,
                    refresh_per_second=8,
                    transient=True,
                    redirect_stdout=False,
                    redirect_stderr=False,
                )
                self._live.start()
        return entry

    def remove(self, entry: _Entry) -> None:
        with self._lock:
            self._entries.remove(entry)
            if self._entries or self._live is None:
                return
            live, self._live = self._live, None
        # Outside the lock: stopping draws once more, and drawing is done by another thread too.
        live.stop()

    @property
    def is_live(self) -> bool:
        return self.console.is_terminal and not self.console.is_dumb_terminal

    def _render(self) -> Group:
        # No lock here: `Live` draws with its own lock held, and `add` starts it with ours held. A copy is enough.
        now = time.monotonic()
        lines = []
        for depth, entry in enumerate(list(self._entries)):
            text = Text(f"{'  ' * depth}{entry.title} ", no_wrap=True, overflow="ellipsis")
            text.append(f"{now - entry.start:.0f} s", style="dim")
            entry.spinner.text = text
            lines.append(entry.spinner)
        return Group(*lines)


class _HumanHandler(logging.Handler):
    """Prints records above the live display, or as plain lines."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            kind = getattr(record, "splvm_step", None)
            seconds = getattr(record, "splvm_seconds", 0.0)
            if (kind == "start" and _BOARD.enabled and _BOARD.is_live) or (kind == "done" and seconds < QUIET_STEP_S):
                return
            text = Text(_printable(record.getMessage()), style=_style(record, kind))
            _BOARD.console.print(text, soft_wrap=True, highlight=False)
        except Exception:
            self.handleError(record)


class LogFile(logging.FileHandler):
    """Writes to a file. A line for which the disk has no room is left out: whoever needs the disk says so."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def _style(record: logging.LogRecord, kind: str | None) -> str:
    if record.levelno >= logging.ERROR or kind == "failed":
        return "red"
    if record.levelno >= logging.WARNING:
        return "yellow"
    return "dim" if record.levelno <= logging.DEBUG or kind else ""


def _printable(text: str) -> str:
    """`text` with control characters made visible: some of it comes from guests, and the terminal obeys them."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


_BOARD = _Board(Console(stderr=True))
