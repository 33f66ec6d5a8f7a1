"""A cluster of processes of this machine, each worker with a store of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from splvm.deadline import Deadline, poll

READY = re.compile(r"worker (\S+) of \S+ is ready")
LIMIT_S = 60.0


class Member:
    """A worker."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, store: Path) -> None:
        self.process, self.log, self.store = process, log, store

    def wait(self) -> str:
        """Its address, once it is ready."""
        return poll(lambda: READY.search(self.log.read_text()), Deadline(LIMIT_S), "a worker that is ready")[1]


@contextmanager
def running(argv: list[str], log: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        # Not to outlive a test that is killed.
        bound = ["setpriv", "--pdeathsig", "KILL", *argv]
        process = subprocess.Popen(bound, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **env})
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def cluster(
    top: Path, workers: Mapping[str, Mapping[str, str]], keys: Path | None = None
) -> Iterator[tuple[str, dict[str, Member]]]:
    """Its address as `--on` takes it, and its workers by name.

    :param workers: what is in the environment of each.
    :param keys: of its members, for TLS.
    """
    about = top / "scheduler.json"
    argv = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    argv += ["--scheduler-file", str(about), "--no-dashboard"]
    if keys is not None:
        argv += ["--protocol", "tls", "--tls-ca-file", str(keys / "ca.pem")]
        argv += ["--tls-cert", str(keys / "scheduler.pem"), "--tls-key", str(keys / "scheduler.key")]
    with ExitStack() as stack:
        stack.enter_context(running(argv, top / "scheduler.log"))
        poll(lambda: about.is_file() or None, Deadline(LIMIT_S), "a scheduler")
        address = json.loads(about.read_text())["address"].replace("tcp:", "dask:")
        members = {}
        for name, env in workers.items():
            store, log = top / name, top / f"{name}.log"
            words = [
                sys.executable,
                "-m",
                "splvm",
                "worker",
                address,
                "--jobs",
                "1",
                *(["--keys", str(keys)] if keys else []),
            ]
            process = stack.enter_context(running(words, log, **{"SPLVM_CACHE": str(store), **env}))
            members[name] = Member(process, log, store)
        for member in members.values():
            member.wait()
        yield address, members


def another_qemu(directory: Path) -> dict[str, str]:
    """An environment in which QEMU says that it is another version."""
    directory.mkdir()
    script = directory / "qemu-system-x86_64"
    script.write_text("#!/bin/sh\necho 'QEMU emulator version 99.1.2 (Debian)'\n")
    script.chmod(0o755)
    return {"PATH": f"{directory}:{os.environ['PATH']}"}
