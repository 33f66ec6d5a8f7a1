"""Code that tries to do harm to the host that it is built on, and what has become of it.

All harm is to what the test itself has made: files, a process, a listener.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from splvm.deadline import Deadline, poll

_SECRET = "the secret of this host"

# Directories that the caller may write to.
_PLACES = ("/tmp", "/dev/shm", "/var/tmp", str(Path.home()))


class Host:
    """Victims of one test."""

    def __init__(self, top: Path, victim: int, listener: socket.socket, roots: Sequence[Path]) -> None:
        self.top = top
        self._roots = [path for root in roots for path in (root, root / "usr")]
        self._victim = victim
        self._listener = listener
        self.token = f"splvm-hostile-{os.getpid()}-{top.name}"
        # Nobody else's: seconds that a process sleeps, by which it is found.
        self._sleep = f"98765.{os.getpid()}{victim}"
        self.secret = top / "secret"
        self.secret.write_text(f"{_SECRET}\n")
        self.secret.chmod(0o600)
        self.mine = top / "artefact"
        self.mine.write_text("of another build\n")

    @property
    def script(self) -> str:
        """A shell script that does all it can, whatever becomes of a part of it; it ends with status 0."""
        port = self._listener.getsockname()[1]
        top = shlex.quote(str(self.top))
        lines = (
            f"cat {top}/secret",
            f"cat /proc/{os.getpid()}/root{top}/secret /proc/1/root{top}/secret",
            f"echo harm >{top}/artefact",
            f"echo harm >{top}/written",
            *(f"echo harm >{place}/{self.token}" for place in _PLACES),
            f"echo harm | bash -c 'cat >/dev/tcp/127.0.0.1/{port}'",
            "sed -n 's/:$//;s/^ *\\([a-z0-9]*\\):.*/interface \\1/p' /proc/net/dev",
            "tail -n 1 /etc/shadow",
            f"kill -9 {self._victim}",
            f"mount -o remount,rw,bind / && echo harm >/{self.token}",
            f"unshare -Urm sh -c 'umount -l /build; mount -o remount,rw,bind /; echo harm >/usr/{self.token}'",
            # Whoever may change its root directory gets out of one by it (chroot(2)).
            'cd /build; mkdir -p .x; perl -e \'chroot ".x" or exit; chdir ".." for 1..30; chroot "."; exec @ARGV\' '
            f"sh -c 'cat {top}/secret; echo harm >{top}/artefact; echo harm >{top}/written'",
            f"setsid sleep {self._sleep} >/dev/null 2>&1 </dev/null &",
        )
        return "".join(f"( {line} ) 2>/dev/null\n" if line[-1] != "&" else f"{line}\n" for line in lines) + "true\n"

    def harm(self, said: str) -> set[str]:
        """What was done. What is found is removed, so that it is not found again.

        :param said: output of the script.
        """
        found = set()
        if _SECRET in said:
            found.add("a secret was read")
        with suppress(PermissionError):
            if Path("/etc/shadow").read_text().splitlines()[-1] in said:
                found.add("/etc/shadow was read")
        # make has them in one line.
        if {*re.findall(r"\binterface (\w+)", said)} - {"lo"}:
            found.add("there is a network")
        if self.mine.read_text() != "of another build\n":
            found.add("an artefact was changed")
        if (self.top / "written").exists():
            found.add("a file was written")
        for path in (Path(place) / self.token for place in (*map(Path, (*_PLACES, "/", "/usr")), *self._roots)):
            if path.exists():
                path.unlink()
                found.add(f"a file was written to {path.parent}")
        try:
            self._listener.accept()[0].close()
            found.add("a port of the host was reached")
        except BlockingIOError:
            pass
        if not is_alive(self._victim):
            found.add("a process was killed")
        for pid in find_sleepers(self._sleep):
            os.kill(pid, 9)
            found.add("a process was left")
        return found


@contextmanager
def start_victims(top: Path, *roots: Path) -> Iterator[Host]:
    """Things that harm can be done to, in a directory of the host.

    :param roots: directories that are a root directory for hostile code.
    """
    top.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        with subprocess.Popen(["sleep", "1000"]) as victim:
            try:
                yield Host(top, victim.pid, listener, roots)
            finally:
                victim.kill()


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def find_sleepers(seconds: str) -> list[int]:
    """Processes `sleep SECONDS`, in whatever namespace."""
    wanted = f"sleep\0{seconds}\0".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().endswith(wanted):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return [pid for pid in found if is_alive(pid)]


def wait_for_sleepers(seconds: str, *, there: bool, deadline: Deadline) -> None:
    """Wait until there is such a process, or none any more."""
    poll(lambda: (bool(find_sleepers(seconds)) == there) or None, deadline=deadline, what=f"sleep {seconds}")
