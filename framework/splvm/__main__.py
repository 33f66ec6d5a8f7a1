"""`splvm`, and `python -m splvm`: the way to the command line, which takes a second to import."""

from __future__ import annotations

import gc
import os
import signal
import sys
from io import TextIOWrapper
from typing import NoReturn


def main() -> NoReturn:
    """Entry point. Ctrl-C before there is anything to be taken down ends the process as it ends any other program."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    _mend_streams()
    # What is imported stays; looking through it for what does not takes a tenth of the time.
    gc.disable()
    from splvm import cli

    gc.freeze()
    gc.enable()
    signal.signal(signal.SIGINT, before)
    try:
        try:
            cli.main()
        finally:
            _end_calmly()
    except KeyboardInterrupt:
        # It came between the two.
        _end_calmly()
        sys.exit(128 + signal.SIGINT)


def _end_calmly() -> None:
    """What the process was to do is done, and its status is known: a signal has nothing more to take down.

    Python's own end would tell of an exception in it, and that is no trouble of the user's.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _mend_streams() -> None:
    """See to it that there are three streams, and that what is written can be.

    One that is closed would be the number of the next file that is opened, and that would get what was meant for it. A
    terminal that is not UTF-8 gets escapes, and so does a name of a file that is not.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free is this one.
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
