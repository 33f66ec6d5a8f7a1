"""Files that are none, in place of those of a run, and a good run to put them into."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from simulated import simulate
from simulated_guest import GOOD
from simulated_kinds import NOMINAL
from splvm.record.names import EVIDENCE_FILES, RUN_FILE, TAKEN_FILES, VERDICT_FILE

SECRET = "this is of another file of this host"
FILES = (RUN_FILE, *EVIDENCE_FILES, *TAKEN_FILES, VERDICT_FILE)
_GIB = 1 << 30


def link(path: Path) -> None:
    secret = path.parents[1] / "secret"
    secret.write_text(f"{SECRET}\n{{}}\n")
    path.symlink_to(secret)


def device(path: Path) -> None:
    if os.geteuid() == 0:
        with contextlib.suppress(PermissionError):
            os.mknod(path, 0o644 | stat.S_IFCHR, os.makedev(1, 5))
    if not path.exists():
        path.symlink_to("/dev/zero")


def listening(path: Path) -> None:
    # Paths of sockets are short.
    here = os.open(path.parent, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


def holes(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(4 * _GIB)


def long_line(path: Path) -> None:
    """A line of a gigabyte, begun as a record is."""
    with path.open("wb") as file:
        file.write(b'{"schema_version": 1, "kind": "')
        file.truncate(_GIB)


KINDS: Mapping[str, Callable[[Path], None]] = {
    "link": link,
    "fifo": os.mkfifo,
    "device": device,
    "socket": listening,
    "directory": Path.mkdir,
    "holes": holes,
    "line": long_line,
}


def a_run(path: Path, scenario: str = NOMINAL) -> Path:
    run = simulate(scenario, GOOD)
    record = run.start_record(path)
    record.add_facts({"started": "2026-11-01T00:00:00+00:00"})
    record.finish(run.facts["outcome"])
    return path


# Values that stand where others should.
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0.5,
    1e300,
    "",
    "2",
    [],
    [None],
    [{}],
    {},
    {"": None},
    {"x": [1]},
    "\ud800",
    [[[]]],
)

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
