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
    cli.main()


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
