"""Commands that read what others have made, one after the other in one process; says as JSON how each ended.

Arguments: a JSON list of command lines. An alarm ends a command that takes too long. The memory is that of all.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import signal
import sys
import traceback
from pathlib import Path

import typer

from splvm.cli import app
from splvm.errors import HarnessError

LIMIT_S = 10


class TooLongError(BaseException):
    """A command that did not end."""


def _stop(*_: object) -> None:
    raise TooLongError


def call(argv: list[str]) -> tuple[str, str]:
    """How it ended, and what it said."""
    said = io.StringIO()
    signal.alarm(LIMIT_S)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            app(argv, standalone_mode=False)
    except HarnessError as error:
        return "error", said.getvalue() + str(error)
    except (typer.Exit, SystemExit):
        pass
    except TooLongError:
        return "too long", said.getvalue()
    except BaseException:
        return "traceback", traceback.format_exc()
    finally:
        signal.alarm(0)
    return "ended", said.getvalue()


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, _stop)
    ends = [call(argv) for argv in json.load(sys.stdin)]
    # Not getrusage(2): what it says of before exec() is that of the tests.
    status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    (peak,) = re.findall(r"(?m)^VmHWM:\s*(\d+) kB$", status)
    json.dump({"ends": ends, "peak_kib": int(peak)}, sys.stdout)
