"""`splvm`, and `python -m splvm`: the way to the command line, which takes a second to import."""

from __future__ import annotations

import gc
import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

from splvm.streams import mend_streams


def main() -> NoReturn:
    """Entry point. Ctrl-C before there is anything to be taken down ends the process as it ends any other program."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    answer = mend_streams()
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
    except SystemExit as end:
        # Python would end with 120 if it could not write the rest.
        with suppress(OSError):
            sys.stdout.flush()
        status = answer.status(end.code)
        if answer.trouble:
            os.dup2(os.open(os.devnull, os.O_WRONLY), answer.fileno())
        sys.exit(status)


def _end_calmly() -> None:
    """What the process was to do is done, and its status is known: a signal has nothing more to take down.

    Python's own end would tell of an exception in it, and that is no trouble of the user's.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    main()
