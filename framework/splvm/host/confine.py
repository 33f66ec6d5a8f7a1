"""Where code runs that nobody here has read: patches that are programs, configure and make of a tree.

Such a command has a user namespace, in which it is root without any capability, and a root directory, in which nothing
of the host is but what it is given. It has no network, sees no process but its own, and leaves none. As a normal user
it has that user's id on the host; where root started splvm it has one that nobody else has.

Where a host has no such namespaces, the same is done as root, or by sudo, without the user namespace: then the command
runs as the caller. `find_trouble` says why.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from subprocess import PIPE

from splvm.assets import find_images
from splvm.deadline import Deadline
from splvm.errors import DeadlineExceeded, SetupError
from splvm.host.process import as_root_args, death_signal_args, run, start_process
from splvm.log import LOGGER

# The ids of foreign code that root starts, and how many: neither systemd ("Users, Groups, UIDs and GIDs on systemd
# Systems") nor shadow (SUB_UID_MAX in login.defs(5)) gives them to anybody.
FIRST_ID = 0x70000000
_IDS = 65536

# Ubuntu's, since 23.10.
_APPARMOR = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")

# A trial takes some 50 ms.
_TRIAL_S = 30.0

_NAMESPACES = ("unshare", "--mount", "--pid", "--net", "--ipc", "--fork", "--kill-child")
_OWN_USER = ("unshare", "--user", "--map-root-user")
# A namespace within would have capabilities of its own, and with them far more of the kernel to try.
_NO_MORE = ("sh", "-c", 'echo 0 >/proc/sys/user/max_user_namespaces; exec "$@"', "sh")
_NO_RIGHTS = ("setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all")


@dataclass(frozen=True, slots=True)
class Place:
    """What a command sees of the host."""

    # Its root directory, which it cannot write to. None: the host's programs and libraries.
    root: Path | None
    # Its /build: the only directory that it can write to and that stays.
    work: Path
    # Its /usr/src, which it cannot write to.
    headers: Path | None = None
    # Directory of a cache of what was compiled; None for none.
    ccache: Path | None = None


def confine_args(place: Place, argv: Sequence[str]) -> list[str]:
    """The command that runs `argv` in a place, with /build as its working directory.

    :raises SetupError: when it needs root here, and root cannot be had.
    """
    if trouble := find_trouble():
        warn_once(f"builds run as root, or by sudo, and not in a user namespace: {trouble}")
    return _confine_args(place, argv, confined=not trouble)


@cache
def find_trouble() -> str:
    """Why commands cannot be confined to a user namespace here, one line; empty if they can."""
    return _try(_confine_args(None, ["true"], confined=True), "trying user namespaces")


@cache
def find_making_trouble() -> str:
    """Why a root cannot be made in a user namespace here, one line; empty if it can."""
    if trouble := find_trouble():
        return trouble
    try:
        with start_many_ids() as argv:
            own = ["sh", "-c", "touch /dev/shm/file && chown 1:1 /dev/shm/file"]
            return _try(make_args(argv, own), "trying a user namespace with many ids")
    except SetupError as reason:
        return reason.message.splitlines()[-1]


@contextmanager
def start_many_ids() -> Iterator[list[str]]:
    """A user namespace that has all ids that Debian's packages use; what to put before a command to run in it as root.

    It has the rights of the caller on this host, or as root those of nobody.

    :raises SetupError: when there is none to be had.
    """
    if os.geteuid() != 0:
        yield ["unshare", "--user", "--map-auto", "--map-root-user"]
        return
    hold = ["unshare", "--user", "sh", "-c", "echo; exec sleep infinity"]
    with start_process(hold, stdout=PIPE) as holder:
        assert holder.stdout is not None
        if not holder.stdout.readline():
            raise SetupError("unshare --user failed")
        space = Path("/proc", str(holder.pid))
        try:
            for name in ("uid_map", "gid_map"):
                (space / name).write_text(f"0 {FIRST_ID} {_IDS}\n")
        except OSError as reason:
            raise SetupError(f"the ids from {FIRST_ID} on cannot be used: {reason.strerror}") from reason
        enter = ["nsenter", f"--user={space}/ns/user", "--setuid=0", "--setgid=0"]
        # The signal is forgotten when the id changes (prctl(2)).
        yield [*enter, *death_signal_args(os.getpid())]


def make_args(many_ids: Sequence[str], argv: Sequence[str]) -> list[str]:
    """The command that runs mmdebstrap with what `start_many_ids` gave."""
    # As text: what the caller may read, these ids may not.
    script = (find_images() / "build" / "make.sh").read_text(encoding="utf-8")
    apart = ("unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child")
    return [*many_ids, *apart, "sh", "-c", script, "sh", *argv]


def find_hint() -> str:
    """What to do about the trouble, empty if there is none."""
    if not find_making_trouble():
        return ""
    if find_trouble():
        with suppress(OSError):
            if _APPARMOR.read_text(encoding="ascii").strip() == "1":
                return "`sysctl kernel.apparmor_restrict_unprivileged_userns=0` allows user namespaces"
        return "user namespaces have to be allowed: by user.max_user_namespaces, and in a container by its runtime"
    return "a user needs ids of its own: `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER`"


def _confine_args(place: Place | None, argv: Sequence[str], *, confined: bool) -> list[str]:
    """:param place: None for one that has the host's programs and keeps nothing."""
    before: Sequence[str] = ()
    owner = ""
    inside: Sequence[str] = (*_NO_MORE, *_NO_RIGHTS)
    if not confined:
        before = as_root_args()
        inside = (*_as_user(os.getuid(), os.getgid()), *_NO_RIGHTS)
    elif os.geteuid() == 0:
        owner = f"{FIRST_ID}:{FIRST_ID}"
        inside = (*_as_user(FIRST_ID, FIRST_ID), *_OWN_USER, *inside)
    else:
        before = _OWN_USER
    enter = str(find_images() / "build" / "enter.sh")
    paths = (place.root, place.work, place.headers, place.ccache) if place else (None,) * 4
    root, work, headers, ccache = (str(path or "") for path in paths)
    return [
        *(*before, *_NAMESPACES, "--", "sh", enter),
        *(root, work, owner, headers, ccache),
        *(*inside, "sh", "-c", 'cd /build && exec "$@"', "sh", *argv),
    ]


def _as_user(uid: int, gid: int) -> list[str]:
    return ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]


def _try(argv: Sequence[str], what: str) -> str:
    try:
        done = run(argv, deadline=Deadline(_TRIAL_S), what=what, check=False)
    except (SetupError, DeadlineExceeded) as reason:
        return reason.message.splitlines()[0]
    if done.exit_code == 0:
        return ""
    said = [line for line in done.tail.splitlines() if "dmesg" not in line]
    return said[-1][:200] if said else f"status {done.exit_code}"


@cache
def warn_once(text: str) -> None:
    """Tell something that is the same for each build."""
    LOGGER.warning("%s", text)
