"""The command line. Results go to stdout, everything else to stderr.

Exit status: 0 as expected, 1 another verdict or evidence that cannot be read, 2 usage, 3 trouble of the harness or the
host, 130 and 143 when ended by Ctrl-C and SIGTERM. `__main__` makes it 3 or 141 where the answer could not be written.
"""

from __future__ import annotations

import errno
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from itertools import pairwise
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from splvm import __version__
from splvm.cli import (
    bisect,
    cluster,
    compare,
    coverage,
    explain,
    explore,
    guests,
    history,
    historybugs,
    inventory,
    matrix,
    recorded,
    replay,
    report,
    repro,
    sites,
    storm,
    watch,
)
from splvm.cli.options import show_error, with_own_directories
from splvm.errors import HarnessError, UsageError
from splvm.extras import missing_package
from splvm.log import LOGGER, setup_logging


class Commands(TyperGroup):
    """The commands. No option and no argument of one may be empty: that would be as if it were not given."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        command = next((arg for arg in args if not arg.startswith("-")), "")
        for before, arg in pairwise(("", *args)):
            name, sign, value = arg.partition("=") if arg.startswith("--") else (before, "=", arg)
            # Those of `test` are pytest's.
            if sign and not value.strip() and command != "test":
                raise UsageError(f"{name if name.startswith('-') else 'an argument'}: it is empty")
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="splvm",
    cls=Commands,
    help="Prove or refute that SPL makes forward progress while its slab worker is stuck.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"splvm {__version__}{inventory.own_commit()}")
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="Also show every command.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings only.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show version.")] = False,
) -> None:
    setup_logging(-1 if quiet else verbose)


# In the order in which --help lists them.
COMMANDS: Mapping[str, Callable[..., None]] = {
    "demo": guests.demo,
    "run": guests.run,
    "watch": watch.watch,
    "matrix": matrix.matrix,
    "storm": storm.storm,
    "sites": sites.sites,
    "repro": repro.repro,
    "bisect": bisect.bisect,
    "explore": explore.explore,
    "coverage": coverage.coverage,
    "compare": compare.compare,
    "history-bugs": historybugs.history_bugs,
    "worker": cluster.worker,
    "report": report.report,
    "explain": explain.explain,
    "judge": recorded.judge,
    "replay": replay.replay,
    "bundle": recorded.bundle,
    "examine": recorded.examine,
    "parse-slab": recorded.parse_slab,
    "kernels": inventory.kernels,
    "variants": inventory.variants,
    "probe-kernel": inventory.probe_kernel,
    "build": inventory.build,
    "shell": guests.shell,
    "doctor": inventory.doctor,
    "test": guests.test,
}
# Arguments of `test` are pytest's.
_SETTINGS: Mapping[str, dict[str, Any]] = {"test": {"allow_extra_args": True, "ignore_unknown_options": True}}
for _name, _command in COMMANDS.items():
    app.command(_name, context_settings=_SETTINGS.get(_name))(with_own_directories(_command))
app.add_typer(history.app, name="history")
app.add_typer(cluster.app, name="cluster")


def _end_on_sigterm(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM ends the program as Ctrl-C does: by an exception, so that everything is taken down on the way."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + number)


# Trouble of a disk, which may come wherever something is written.
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})


def main() -> NoReturn:
    """Entry point: turns every error into a message and an exit status."""
    signal.signal(signal.SIGTERM, _end_on_sigterm)
    try:
        # Its own errors (usage, Ctrl-C, a reader that has gone) it turns into messages and statuses itself.
        app()
    except KeyboardInterrupt:
        # While typer makes its commands, before it looks after Ctrl-C itself.
        sys.exit(128 + signal.SIGINT)
    except HarnessError as error:
        show_error(error)
        sys.exit(error.exit_status)
    except ImportError as error:
        lacking = missing_package(error)
        if lacking is None:
            raise
        show_error(lacking)
        sys.exit(lacking.exit_status)
    except OSError as error:
        # Whoever knows what it means has said so before; this one names a file of the user's, or the disk.
        hint = "is there room?" if error.errno in _DISK else "can it be read and written?"
        LOGGER.debug("%s", traceback.format_exc())
        show_error(HarnessError(f"{error.filename or 'a file'}: {error.strerror or error}", hint=hint))
        sys.exit(HarnessError.exit_status)
    raise AssertionError("a typer application exits")
