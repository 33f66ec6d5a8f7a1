"""virtme-ng beside splvm: both to the result of one command, in turn, on the same kernel and accelerator.

virtme-ng boots a kernel with the host's own file system as its root. It comes from PyPI into an environment that is
gone afterwards, and gets what it asks for: udev, kmod and a static busybox on the host, and virtiofsd, which bookworm
does not have: the one of trixie runs with that suite's own libraries. The cloud kernel has virtiofs and no 9p, so
`--force-9p` cannot be compared on it.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import statistics
import struct
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clones import Mould, check
from figures import SPLVM, load, summary, timed
from splvm.builds.kernels import Kernel
from splvm.deadline import Deadline
from splvm.errors import HarnessError, SetupError
from splvm.guest.guest import start_guest
from splvm.guest.template import Templates
from splvm.host.debian import PrivateApt
from splvm.host.process import find_program, run, start_process
from splvm.host.store import Store
from splvm.run.prepare import Prepared, Wish, prepare

# Seconds that one start of virtme-ng may take; here it takes 17 on an idle host.
PATIENCE_S = 60.0

# For the same accelerator as ours.
DEFAULTS = ("--disable-kvm",)

# In a root of its own instead of the host's: what virtme-ng and udev run, and a shell.
ROOT_PACKAGES = (
    "bash",
    "busybox-static",
    "coreutils",
    "grep",
    "iproute2",
    "kmod",
    "mount",
    "sed",
    "udev",
    "util-linux",
)


def tuned_options() -> tuple[str, ...]:
    """What was found to make it fastest, on a kernel that need not be decompressed."""
    mhz = re.findall(r"^cpu MHz\s*: ([\d.]+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[0]
    return (
        "--disable-kvm",
        *("--memory", "512M"),
        # A small CPU model has no instructions for whose use udev would load modules that test themselves for seconds.
        "--qemu-opts=-M microvm,accel=tcg,pcie=on,rtc=on -cpu qemu64,-svm",
        # microvm emulates no clock that the kernel could compare the CPU's with, and without it the kernel waits for
        # ever; emulated, the CPU's runs as the host's does.
        *("--append", f"tsc_early_khz={float(mhz) * 1000:.0f}", "--append", "tsc=reliable"),
        *("--append", "mitigations=off", "--append", "nokaslr", "--append", "cryptomgr.notests"),
        *("--append", "audit=0", "--append", "apparmor=0"),
    )


@dataclass(frozen=True, slots=True)
class Virtme:
    """An installation of virtme-ng."""

    directory: Path
    version: str

    def seconds(self, kernel: Path, release: str, options: tuple[str, ...]) -> tuple[float, float]:
        """From its start to the result of `uname -r`, and to its end.

        :raises HarnessError: when the result is not this kernel's, or the status not 0.
        """
        argv: list[str | Path] = [self.directory / "bin" / "vng", "--run", kernel, *options, "--", "uname -r"]
        env = {"PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}"}
        log = self.directory / "vng.log"
        deadline = Deadline(PATIENCE_S)
        start = time.monotonic()
        with (
            log.open("wb") as errors,
            start_process(argv, env=env, stdout=subprocess.PIPE, stderr=errors) as process,
        ):
            said, result = b"", 0.0
            while chunk := _read(process, deadline):
                said += chunk
                if not result and release.encode() in said.splitlines():
                    result = time.monotonic() - start
            status = process.wait(max(deadline.remaining_s, 0.01))
        if status != 0 or not result:
            raise HarnessError(f"virtme-ng: status {status}, {said[-500:]!r}, {log.read_bytes()[-2000:]!r}")
        return result, time.monotonic() - start


def _read(process: subprocess.Popen[bytes], deadline: Deadline) -> bytes:
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], deadline.remaining_s)[0]:
        raise HarnessError(f"virtme-ng: nothing within {PATIENCE_S:.0f} s")
    return os.read(process.stdout.fileno(), 65536)


def install(store: Store, directory: Path) -> Virtme:
    """virtme-ng and what it needs.

    :raises SetupError: when the host lacks something; the hint says what to install.
    """
    places = ("/usr/lib/systemd/systemd-udevd", "/lib/systemd/systemd-udevd")
    if not any(os.access(place, os.X_OK) for place in places):
        raise SetupError("virtme-ng needs udev on the host: without it, it fails", hint="apt install udev")
    for program, package in (("depmod", "kmod"), ("busybox", "busybox-static"), ("lz4", "lz4")):
        if not shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin"):
            raise SetupError(f"virtme-ng needs {program} on the host", hint=f"apt install {package}")
    venv.create(directory, with_pip=True)
    pip: list[str | Path] = [directory / "bin" / "pip", "--disable-pip-version-check"]
    run([*pip, "install", "--quiet", "virtme-ng"], deadline=Deadline(300), what="installing virtme-ng")
    shown = run([*pip, "show", "virtme-ng"], deadline=Deadline(60), what="looking at virtme-ng").stdout
    if shutil.which("virtiofsd", path=f"{os.environ['PATH']}:/usr/libexec:/usr/lib/virtiofsd") is None:
        _add_virtiofsd(store, directory)
    return Virtme(directory, next(line.split()[1] for line in shown.splitlines() if line.startswith("Version:")))


def _add_virtiofsd(store: Store, directory: Path) -> None:
    """That of trixie, run by its own dynamic loader; QEMU's older one does not know virtme-ng's options."""
    _unpack(store, "trixie", ["virtiofsd"], directory / "virtiofsd")
    root = directory / "virtiofsd" / "usr"
    libraries = root / "lib" / "x86_64-linux-gnu"
    script = directory / "bin" / "virtiofsd"
    loader = f"{libraries}/ld-linux-x86-64.so.2 --library-path {libraries}"
    script.write_text(f'#!/bin/sh\nexec {loader} {root}/libexec/virtiofsd "$@"\n')
    script.chmod(0o755)
    run([script, "--version"], deadline=Deadline(30), what="trying virtiofsd")


def _unpack(store: Store, suite: str, packages: Sequence[str], directory: Path) -> None:
    """Packages and what they depend on; nothing of them is configured."""
    apt = PrivateApt(store.root, suite)
    apt.update(Deadline(300))
    wanted, seen = list(packages), set()
    while wanted:
        package = wanted.pop()
        if package in seen or not (found := apt.candidates(package)):
            continue
        seen.add(package)
        deb = apt.download(package, found[0].version, Deadline(300))
        run(["dpkg-deb", "-x", deb, directory], deadline=Deadline(60), what=f"unpacking {deb.name}")
        wanted += [dependency.package for dependency in apt.depends(package, found[0].version)]


def make_root(store: Store, directory: Path) -> Path:
    """A small root for virtme-ng, of bookworm's packages."""
    _unpack(store, "bookworm", ROOT_PACKAGES, directory)
    (directory / "bin" / "sh").unlink(missing_ok=True)
    (directory / "bin" / "sh").symlink_to("bash")
    (directory / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (directory / "etc" / "group").write_text("root:x:0:\n")
    for name in ("opt", "srv"):
        (directory / name).mkdir(exist_ok=True)
    return directory


def uncompress(kernel: Kernel, directory: Path) -> Path:
    """The ELF file in a bzImage, which starts by its PVH note, in a directory that has the modules too.

    :raises SetupError: when it is not compressed by LZ4, as Debian's of 6.1 is.
    """
    image = kernel.vmlinuz.read_bytes()
    # Documentation/x86/boot.rst: setup_sects at 0x1f1, payload_offset and payload_length at 0x248.
    start, length = struct.unpack_from("<II", image, 0x248)
    start += ((image[0x1F1] or 4) + 1) * 512
    # The last four bytes are the size that comes out (arch/x86/boot/compressed/Makefile), and no part of the LZ4 frame.
    payload = image[start : start + length - 4]
    done = subprocess.run([find_program("lz4"), "-d", "-c"], input=payload, capture_output=True, check=False)
    if not done.stdout.startswith(b"\x7fELF"):
        raise SetupError(f"{kernel.vmlinuz}: no ELF file compressed by LZ4 in it: {done.stderr[-200:]!r}")
    (directory / "lib").mkdir(parents=True)
    (directory / "lib" / "modules").symlink_to(kernel.modules.parent)
    (directory / "vmlinux").write_bytes(done.stdout)
    return directory / "vmlinux"


def virtme(runs: int) -> dict[str, object]:
    """Start to the result of `uname -r`: a clone, a cold boot, virtme-ng by default and at its best, in turn."""
    prepared = prepare(Wish(accelerator="tcg"))
    kernel, release = prepared.kernel, prepared.kernel.release
    template = Templates.default().get(prepared.plan, Deadline(300))
    mould = Mould(template, prepared.plan, release)
    tuned = tuned_options()
    with prepared.store.temporary() as directory:
        theirs = install(prepared.store, directory / "venv")
        vmlinux = uncompress(kernel, directory / "kernel")
        small = ("--root", str(make_root(prepared.store, directory / "root")), "--cpus", "1")
        configurations = {
            "virtme-ng, defaults": (kernel.vmlinuz, DEFAULTS),
            "virtme-ng, tuned": (vmlinux, tuned),
            "virtme-ng, tuned, a small root, one CPU": (vmlinux, (*tuned, *small)),
        }
        ends: dict[str, list[float]] = {}

        def of_theirs(name: str, image: Path, options: tuple[str, ...]) -> Callable[[], float]:
            def once() -> float:
                result, end = theirs.seconds(image, release, options)
                ends.setdefault(name, []).append(end)
                return result

            return once

        ways: dict[str, Callable[[], float]] = {
            "clone": lambda: _clone(mould),
            "cold boot": lambda: _boot(prepared, directory),
            "splvm shell -c": lambda: timed([SPLVM, "shell", "--accel", "tcg", "-c", "uname -r"], release),
            **{name: of_theirs(name, *how) for name, how in configurations.items()},
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        failed: dict[str, int] = {}
        for number in range(runs):
            for name in ways if number % 2 else reversed(ways):
                try:
                    seconds[name].append(ways[name]())
                except HarnessError as error:
                    failed[name] = failed.get(name, 0) + 1
                    sys.stderr.write(f"{number + 1}: {name}: {error.message}\n")
                else:
                    sys.stderr.write(f"{number + 1}: {name} {seconds[name][-1]:.2f} s, load {load()}\n")
    medians = {name: statistics.median(values) for name, values in seconds.items() if values}
    return {
        "virtme_ng": theirs.version,
        "kernel": release,
        "options": {"defaults": DEFAULTS, "tuned": (*tuned, "(and the kernel is not compressed)")},
        "to_the_result": {name: summary(values, "s") for name, values in seconds.items()},
        # No figure, and no reason to stop: a start now and then hangs.
        "failed": failed,
        "to_the_end": {name: summary(values, "s") for name, values in ends.items()},
        "times_as_long_as_a_clone": {name: round(value / medians["clone"], 2) for name, value in medians.items()},
    }


def _clone(mould: Mould) -> float:
    """A clone to the result of a command of its own, which is its second: the first one wakes it."""
    start = time.monotonic()
    with mould.clone() as guest:
        said = guest.ssh.run("uname -r", deadline=Deadline(30)).stdout
        seconds = time.monotonic() - start
        if said.strip() != mould.release:
            raise HarnessError(f"a clone says {said!r} for its kernel")
        check(guest, mould.release)
    return seconds


def _boot(prepared: Prepared, directory: Path) -> float:
    logs = directory / f"boot-{time.monotonic_ns()}"
    logs.mkdir()
    start = time.monotonic()
    with start_guest(prepared.plan, logs, Deadline(120)) as guest:
        said = guest.ssh.run("uname -r", deadline=Deadline(30)).stdout
        seconds = time.monotonic() - start
    if said.strip() != prepared.kernel.release:
        raise HarnessError(f"a guest says {said!r} for its kernel")
    return seconds
