"""The one gate for subprocesses.

Everything that is started goes through `start_process`: it has its own session and process group, the kernel kills it
when the thread that started it ends, and on the way out of the block the whole group is killed by its id and reaped.
Does not own terminals: children have no controlling terminal and cannot ask for passwords.
"""

from __future__ import annotations

import logging
import os
import select
import selectors
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

from splvm.deadline import Deadline
from splvm.errors import BuildError, DeadlineExceeded, SetupError
from splvm.host.programs import OTHERS, PROGRAMS, search_path

_LOG = logging.getLogger("splvm.process")

# Lines of a failed tool's output that go into the error.
TAIL_LINES = 40
# What is kept to find those lines in.
_RECENT_BYTES = 65536
# The longest that Ctrl-C can go unnoticed.
_SIGNAL_DELAY_S = 0.5
# More than a pipe holds: one read takes all that is there (pipe(7), /proc/sys/fs/pipe-max-size).
_PIPE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that has ended."""

    # All of its standard output, undecodable bytes replaced.
    stdout: str
    # Exit status, or minus the number of the signal that ended it.
    exit_code: int
    # Last `TAIL_LINES` lines of standard output and standard error together, as they came.
    tail: str


def run(
    argv: Sequence[str | Path],
    *,
    deadline: Deadline,
    what: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    input: str | bytes | None = None,
    log: Path | None = None,
    check: bool = True,
    error: type[SetupError] = SetupError,
    hint: str | None = None,
    watch: Callable[[bytes], None] | None = None,
    guard: Callable[[], None] | None = None,
) -> Completed:
    """Run a command to its end.

    It counts as ended when the process itself ends; what it leaves behind in its process group is killed.

    :param what: the step in a few words, for errors.
    :param env: variables on top of the caller's; the locale is C.UTF-8 unless given.
    :param input: what it reads from standard input; nothing by default.
    :param log: file to which both outputs are appended as they come.
    :param check: whether an exit status other than 0 is an error.
    :param error: `SetupError` or `BuildError`.
    :param hint: advice that goes with a failure.
    :param watch: is called with each piece of output as it comes, cut anywhere.
    :param guard: is called all the time, at least twice a second; what it raises ends the command.
    :raises SetupError: (or `error`) when the program is missing or fails, with its own last lines.
    :raises DeadlineExceeded: when it did not end in time; it has been killed.
    """
    words = [str(word) for word in argv]
    with tempfile.TemporaryFile() as stdin:
        stdin.write(input.encode() if isinstance(input, str) else input or b"")
        stdin.seek(0)
        with start_process(
            words, cwd=cwd, env=env, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            output = _collect(process, deadline, what, log, watch, guard)
    done = Completed(output.stdout_text(), process.returncode, output.tail_text())
    if check and done.exit_code != 0:
        raise _failure(error, what, words, done, log, hint)
    return done


@contextmanager
def start_process(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process for the length of the block; its whole group is killed and reaped at the end.

    The kernel also kills it when the *thread* that entered the block ends (prctl(2), PR_SET_PDEATHSIG), so keep that
    thread for as long as the process is wanted. A command under sudo is out of reach of that signal.

    :param env: variables on top of the caller's; the locale is C.UTF-8 unless given.
    :raises SetupError: when the program is missing.
    """
    words = [str(word) for word in argv]
    environment = {**os.environ, "PATH": search_path(), "LC_ALL": "C.UTF-8", **(env or {})}
    program = _program(words[0], environment["PATH"], cwd)
    _LOG.debug("run: %s%s", f"(cd {cwd}) " if cwd else "", shlex.join(words))
    try:
        process = subprocess.Popen(
            [*death_signal_args(os.getpid()), program, *words[1:]],
            cwd=cwd,
            env=environment,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    except OSError as reason:
        raise SetupError(f"cannot start {words[0]}: {reason}") from reason
    try:
        yield process
    finally:
        _end_group(process)


def wait_until_exited(process: subprocess.Popen[bytes], seconds: float) -> int:
    """Wait for the end of a process and reap it; its exit status. Popen.wait() looks only every 50 ms.

    :raises subprocess.TimeoutExpired: when it goes on for longer.
    """
    # Another thread may reap it meanwhile.
    with suppress(ProcessLookupError):
        if process.poll() is None:
            ended = os.pidfd_open(process.pid)
            try:
                select.select([ended], [], [], seconds)
            finally:
                os.close(ended)
    return process.wait(0)


def find_program(name: str, path: str | None = None) -> str:
    """The path of a program.

    :param path: where to look, as in PATH, which is the default.
    :raises SetupError: when it is not there; the hint names the Debian package that has it.
    """
    found = shutil.which(name, path=path)
    if found:
        return found
    base = os.path.basename(name)
    package = PROGRAMS.get(base) or OTHERS.get(base)
    hint = f"apt install {package}" if package else f"`apt-file search bin/{base}` names the package that has it"
    raise SetupError(f"there is no program {name} on this host", hint=hint)


@cache
def as_root_args() -> list[str]:
    """What to put before a command that needs root: nothing as root, else sudo if it asks for no password.

    :raises SetupError: when neither is possible.
    """
    if os.geteuid() == 0:
        return []
    hint = "run as root, or allow sudo without a password"
    if not shutil.which("sudo"):
        raise SetupError("this needs root, and there is no sudo on this host", hint=hint)
    if run(["sudo", "-n", "true"], deadline=Deadline(10), what="sudo", check=False).exit_code != 0:
        raise SetupError("this needs root, and sudo asks for a password", hint=hint)
    return ["sudo", "-n"]


def _program(name: str, path: str, cwd: Path | None) -> str:
    # A name with a slash is relative to the directory that the command runs in, as for a shell.
    if "/" in name and os.access(Path(cwd or ".", name), os.X_OK):
        return name
    return find_program(name, path)


def death_signal_args(parent: int) -> list[str]:
    """What to put before a command so that it does not outlive the thread that starts it.

    :param parent: PID of the process that starts it.
    """
    # A prefix and not `preexec_fn`, which may deadlock in a process with threads.
    if not shutil.which("setpriv"):
        return []
    # The signal is only sent for a death to come, so a parent that is gone by then has to be noticed.
    guard = '[ "$PPID" = "$0" ] && exec "$@"'
    return ["setpriv", "--pdeathsig", "KILL", "--", "/bin/sh", "-c", guard, str(parent)]


def _end_group(process: subprocess.Popen[bytes]) -> None:
    # The group is killed before its leader is reaped: until then its id cannot belong to anybody else.
    if process.returncode is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        except PermissionError:
            # sudo has made it root's. Without sudo there is nothing left to try.
            with suppress(OSError):
                subprocess.run(["sudo", "-n", "kill", "-KILL", "--", f"-{process.pid}"], check=False, timeout=10)
        process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


class _Output:
    """What a command has written so far."""

    def __init__(self, log: IO[bytes] | None, watch: Callable[[bytes], None] | None = None) -> None:
        self._log = log
        self._watch = watch
        self._stdout = bytearray()
        # The end of both outputs as they came.
        self._recent = bytearray()

    def add(self, chunk: bytes, *, is_stdout: bool) -> None:
        if is_stdout:
            self._stdout += chunk
        self._recent += chunk
        if len(self._recent) > 2 * _RECENT_BYTES:
            del self._recent[:-_RECENT_BYTES]
        if self._log is not None:
            self._log.write(chunk)
            self._log.flush()
        if self._watch is not None:
            self._watch(chunk)

    def stdout_text(self) -> str:
        return self._stdout.decode(errors="replace")

    def tail_text(self) -> str:
        return "\n".join(self._recent.decode(errors="replace").splitlines()[-TAIL_LINES:])


def _collect(
    process: subprocess.Popen[bytes],
    deadline: Deadline,
    what: str,
    log: Path | None,
    watch: Callable[[bytes], None] | None,
    guard: Callable[[], None] | None,
) -> _Output:
    """Read both pipes until the process has ended."""
    assert process.stdout is not None and process.stderr is not None
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
    with selectors.DefaultSelector() as selector, open(log, "ab") if log else nullcontext() as log_file:
        output = _Output(log_file, watch)
        # A pipe may be held open by something the process left behind, so its end is seen through a pidfd.
        ended = os.pidfd_open(process.pid)
        try:
            selector.register(ended, selectors.EVENT_READ)
            for pipe in (process.stdout, process.stderr):
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, selectors.EVENT_READ)
            running = True
            while running:
                # Python may see a signal just before it blocks, and would then act on it only once this returns.
                ready = selector.select(min(deadline.remaining_s, _SIGNAL_DELAY_S))
                if guard is not None:
                    guard()
                if deadline.expired:
                    last = output.tail_text().splitlines()
                    raise DeadlineExceeded(what, deadline.seconds, last[-1] if last else "")
                for key, _ in ready:
                    if key.fd == ended:
                        running = False
                    elif not _read_some(key.fd, output, is_stdout=key.fileobj is process.stdout):
                        selector.unregister(key.fileobj)
            # One read each takes what the process left in the pipe; another writer may go on for ever.
            for pipe in (process.stdout, process.stderr):
                _read_some(pipe.fileno(), output, is_stdout=pipe is process.stdout)
        finally:
            os.close(ended)
    return output


def _read_some(descriptor: int, output: _Output, *, is_stdout: bool) -> bool:
    """Read what is there; whether more may come."""
    try:
        chunk = os.read(descriptor, _PIPE_BYTES)
    except BlockingIOError:
        return True
    if chunk:
        output.add(chunk, is_stdout=is_stdout)
    return bool(chunk)


def _failure(
    error: type[SetupError], what: str, argv: Sequence[str], done: Completed, log: Path | None, hint: str | None
) -> SetupError:
    if "No space left on device" in done.tail:
        hint = "make room on the disk"
    tail = done.tail or f"(no output; {_ending(done.exit_code)})"
    if issubclass(error, BuildError):
        return error(what, tail, log, hint=hint)
    where = f"\nlog: {log}" if log else ""
    message = f"{what}: {os.path.basename(argv[0])} {_ending(done.exit_code)}:\n{tail}{where}"
    return error(message, hint=hint)


def _ending(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with status {exit_code}"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-exit_code).name}"
    return f"was ended by signal {-exit_code}"
