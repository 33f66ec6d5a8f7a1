"""What this host has, and whether KVM really runs a guest on it.

Owns ``host/kvm.json`` and ``host/qemu.json`` in the store. Everything is found by trying it; nothing is changed on the
host.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from splvm.deadline import Deadline
from splvm.errors import HarnessError, SetupError, UsageError
from splvm.host.confine import find_hint, find_making_trouble, find_trouble
from splvm.host.content import file_hash, input_hash
from splvm.host.debian import KEYRING_PACKAGE, find_keyring
from splvm.host.memo import Memo, stamps
from splvm.host.memory import available_mib
from splvm.host.mirror import find_mirror
from splvm.host.process import as_root_args, find_program, run, start_process, wait_until_exited
from splvm.host.programs import PROGRAMS, missing_programs
from splvm.host.schedstat import read_thread_ids, read_threads
from splvm.host.store import Store, hold_lock
from splvm.log import step

AcceleratorName: TypeAlias = Literal["kvm", "tcg"]

# The oldest version that was tried; `x-ignore-shared` and the clones made with it are known to work with it.
MIN_QEMU = (7, 2)
MIN_FREE_GIB = 4
MIN_AVAILABLE_MIB = 1536

_KVM = "/dev/kvm"
# Budgets of the two trials, without the time in which QEMU waits for a CPU. Under KVM the first takes 0.1 s and the
# second 1 s.
_SECTOR_S = 4.0
_KERNEL_S = 8.0

# A boot sector in 16-bit code. SeaBIOS loads it to 0x7c00 and jumps there; it uses no memory and no stack.
_BOOT_CODE = bytes(
    (
        0xB0, 0x4B,        # mov al, 'K'
        0xE6, 0xE9,        # out 0xe9, al     to the debug console
        0xB0, 0x10,        # mov al, 0x10
        0xBA, 0x01, 0x05,  # mov dx, 0x501
        0xEE,              # out dx, al       isa-debug-exit: QEMU ends with status 2 * 0x10 + 1
        0xF4,              # hlt              not reached if that device is there
        0xEB, 0xFD,        # jmp to the hlt
    )
)  # fmt: skip
_BOOT_EXIT = 0x21
# SeaBIOS cannot read a disk of less than a cylinder.
_DISK_BYTES = 1 << 20

# What Linux says when it has come as far as it can without a root file system (init/do_mounts.c, kernel/panic.c).
_KERNEL_DONE = re.compile(r"Unable to mount root|end Kernel panic")


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `splvm doctor`."""

    name: str
    ok: bool
    # What was found.
    detail: str
    # What to do about it; empty when there is nothing to do.
    hint: str = ""
    # Whether guests cannot run without it.
    required: bool = True


@dataclass(frozen=True, slots=True)
class HostReport:
    """What `splvm doctor` shows."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether everything that is required is there."""
        return all(check.ok for check in self.checks if check.required)


@dataclass(frozen=True, slots=True)
class QemuProgram:
    """The emulator."""

    path: Path
    # (7, 2, 22) for example.
    version: tuple[int, ...]
    # SHA-256 of the binary: distributions mend it without a new version. Of an unpacked one that of the script which
    # names all its packages.
    sha256: str
    # `host`, or the suite and the version of its package.
    origin: str = "host"
    # Why this one, one line.
    reason: str = ""

    def facts(self) -> dict[str, str]:
        """As run.json has it."""
        version = ".".join(map(str, self.version))
        return {"version": version, "sha256": self.sha256, "origin": self.origin, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What runs the guest's instructions."""

    name: AcceleratorName
    # Why this one, one line.
    reason: str


def inspect_host(store_root: Path | None = None) -> HostReport:
    """Look at everything that guests need on this host; takes well under a second and no network.

    :param store_root: directory of the store, by default the one `Store.default` would use.
    """
    root = store_root or Store.default_root()
    rows: list[tuple[str, bool, Callable[[], Check]]] = [
        ("machine", True, _check_machine),
        ("python", True, _check_python),
        ("programs", True, _check_programs),
        ("builds", True, _check_builds),
        ("qemu", True, _check_qemu),
        ("kvm", False, _check_kvm),
        ("mirror", True, lambda: Check("mirror", True, find_mirror().main)),
        ("disk", True, lambda: _check_disk(root)),
        ("store", True, lambda: _check_store(root)),
        ("memory", True, _check_memory),
        ("load", False, _check_load),
    ]
    return HostReport(tuple(_checked(name, required, check) for name, required, check in rows))


def check_programs() -> None:
    """:raises SetupError: when programs that every run needs are missing; the hint is one command that installs all."""
    missing = missing_programs()
    packages = {PROGRAMS[program] for program in missing}
    try:
        find_keyring()
    except SetupError:
        missing.append("the keys of the Debian archive")
        packages.add(KEYRING_PACKAGE)
    if not missing:
        return
    sudo = "" if os.geteuid() == 0 else "sudo "
    raise SetupError(
        f"this host lacks what every run needs: {', '.join(missing)}",
        hint=f"{sudo}apt-get install -y --no-install-recommends {' '.join(sorted(packages))}",
    )


def find_qemu(store_root: Path | None = None) -> QemuProgram:
    """The emulator of this host.

    :param store_root: directory of the store, where what QEMU says of itself is kept until the binary changes.
    :raises SetupError: when it is missing or too old.
    """
    path = Path(find_program("qemu-system-x86_64"))
    said, digest = _ask_qemu(path, store_root)
    match = re.search(r"version (\d+(?:\.\d+)*)", said)
    if not match:
        raise SetupError(f"{path} does not say its version: {said.strip()!r}")
    version = tuple(int(part) for part in match[1].split("."))
    if version < MIN_QEMU:
        wanted = ".".join(map(str, MIN_QEMU))
        raise SetupError(f"QEMU {match[1]} is too old", hint=f"QEMU {wanted} or newer is needed")
    return QemuProgram(path, version, digest)


def _ask_qemu(path: Path, store_root: Path | None) -> tuple[str, str]:
    """What it says of its version, and its hash; that takes a fifth of a second."""

    def version() -> str:
        return run([path, "--version"], deadline=Deadline(20), what="asking QEMU for its version").stdout

    def digest() -> str:
        return file_hash(path)

    if store_root is None:
        return version(), digest()
    memo = Memo(store_root / "host" / "qemu.json", input_hash({"binary": stamps([path])}))
    return memo.answer("version", version), memo.answer("sha256", digest)


def check_accelerator(wanted: str) -> None:
    """:raises UsageError: when there is none of that name; the message lists them."""
    if wanted not in ("auto", "kvm", "tcg"):
        raise UsageError(f"no accelerator {wanted!r}; there are auto, kvm, tcg")


def find_accelerator(
    wanted: str, qemu: QemuProgram, kernel_image: Path | None, store_root: Path, deadline: Deadline
) -> Accelerator:
    """KVM if a guest has really booted under it, else TCG, and why.

    An open /dev/kvm means little: there are hosts where creating the virtual machine works and its first instruction,
    or Linux in it, does not. The result of the trial is kept until the host or QEMU changes.

    :param wanted: "auto", "kvm" or "tcg".
    :param kernel_image: a kernel that has to boot as well; without it only the firmware and a boot sector do.
    :raises UsageError: when `wanted` is none of these.
    :raises SetupError: when KVM is asked for and cannot be used.
    :raises DeadlineExceeded: when `deadline` ends before the trial does.
    """
    check_accelerator(wanted)
    if wanted == "tcg":
        return Accelerator("tcg", "asked for")
    trouble = _kvm_node_trouble()
    if trouble is None:
        # Whoever asks for KVM may just have mended it.
        trouble = _kept_kvm_trouble(qemu, kernel_image, store_root, deadline, retry=wanted == "kvm")
    if trouble is None:
        return Accelerator("kvm", "a guest booted under KVM")
    if wanted == "kvm":
        raise SetupError(f"KVM cannot be used: {trouble}", hint="--accel tcg works on every host, more slowly")
    return Accelerator("tcg", f"KVM cannot be used: {trouble}")


def is_emulated(wanted: str, store_root: Path, deadline: Deadline) -> bool:
    """Whether guests run under TCG, by what can be known before there is a kernel for them.

    :param wanted: "auto", "kvm" or "tcg".
    :raises SetupError: when there is no QEMU to try KVM with.
    """
    if wanted != "auto" or _kvm_node_trouble() is not None:
        return wanted != "kvm"
    return find_accelerator(wanted, find_qemu(store_root), None, store_root, deadline).name == "tcg"


def find_boot_trouble(
    qemu: QemuProgram,
    accel_args: Sequence[str],
    kernel_image: Path | None,
    scratch: Path,
    deadline: Deadline,
    *,
    boot_code: bytes = _BOOT_CODE,
    what: str = "trying KVM",
    kernel_s: float | None = None,
) -> str | None:
    """Boot a sector of code, and then a kernel, and say in one line what went wrong; None if nothing did.

    :param accel_args: arguments that choose accelerator and processor.
    :param kernel_image: booted without a root file system until it panics over that.
    :param scratch: directory for the disk and the consoles.
    :param boot_code: what the boot sector does.
    :param what: the trial, for errors.
    :param kernel_s: seconds that the kernel may take; by default those of a kernel under KVM.
    :raises DeadlineExceeded: when `deadline` rather than the trial's own budget was too short.
    """
    disk = scratch / "disk"
    disk.write_bytes(boot_code.ljust(510, b"\0") + b"\x55\xaa")
    os.truncate(disk, _DISK_BYTES)
    ending = _trial(qemu, [*accel_args, *_sector_args(disk, scratch / "debug")], scratch, _SECTOR_S, deadline, what)
    if _read_console(scratch / "debug") != "K" or ending.exit_code != _BOOT_EXIT:
        return f"a boot sector did not run: {ending.complaint}"
    if kernel_image is None:
        return None
    console = scratch / "console"
    args = [*accel_args, *_kernel_args(kernel_image, console)]
    ending = _trial(qemu, args, scratch, _KERNEL_S if kernel_s is None else kernel_s, deadline, what)
    said = _read_console(console).strip()
    if _KERNEL_DONE.search(said):
        return None
    # What a guest has written may hold anything.
    line = (
        "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in said.splitlines()[-1][:120])
        if said
        else ""
    )
    last = f"its last line: {line}" if line else "it said nothing"
    return f"Linux did not boot: {ending.complaint}; {last}"


@dataclass(frozen=True, slots=True)
class _Ending:
    # None when it had to be killed.
    exit_code: int | None
    # What QEMU said of it, or how it ended.
    complaint: str


def _trial(
    qemu: QemuProgram, args: Sequence[str], scratch: Path, budget_s: float, deadline: Deadline, what: str
) -> _Ending:
    """Run QEMU until it ends by itself, or for `budget_s` of its own time."""
    # No core file: QEMU aborts where KVM refuses what it needs.
    argv = ["prlimit", "--core=0", "--", str(qemu.path), *_bare_args(), *args]
    said = scratch / "said"
    with said.open("wb") as output, start_process(argv, cwd=scratch, stdout=output, stderr=output) as process:
        exit_code = _wait_in_own_time(process, budget_s, deadline, what)
    if exit_code is None:
        return _Ending(None, f"it hung for {budget_s:.0f} s")
    for line in _read_console(said).splitlines():
        if any(word in line.lower() for word in ("error", "failed", "could not")):
            return _Ending(exit_code, line[:200])
    return _Ending(exit_code, f"QEMU ended with status {exit_code}")


def _wait_in_own_time(process: subprocess.Popen[bytes], budget_s: float, deadline: Deadline, what: str) -> int | None:
    """The exit status of a process; None when it still runs after `budget_s` in which it did not wait for a CPU.

    A QEMU that spins and one that sleeps for ever both use up their own time; one on a busy host does not.
    """
    begun = time.monotonic()
    while True:
        try:
            return wait_until_exited(process, 0.2)
        except subprocess.TimeoutExpired:
            deadline.check(what)
        waited = max((t["wait_ns"] for t in read_threads(process.pid, read_thread_ids(process.pid))), default=0)
        if time.monotonic() - begun - waited / 1e9 > budget_s:
            return None


def _bare_args() -> list[str]:
    """The machine that guests of the framework use, with nothing in it."""
    return ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-M", "q35", "-m", "256"]


def _sector_args(disk: Path, console: Path) -> list[str]:
    return [
        "-drive", f"if=none,id=disk,format=raw,file={_escaped(disk)}",
        "-device", "ide-hd,drive=disk,bus=ide.0,bootindex=0",
        "-chardev", f"file,id=debug,path={_escaped(console)}",
        "-device", "isa-debugcon,iobase=0xe9,chardev=debug",
        "-device", "isa-debug-exit,iobase=0x501,iosize=1",
    ]  # fmt: skip


def _kernel_args(kernel_image: Path, console: Path) -> list[str]:
    return [
        "-kernel", str(kernel_image.absolute()),
        # A panic resets the guest at once, and a reset ends it (-no-reboot).
        "-append", "console=ttyS0 panic=-1",
        "-chardev", f"file,id=serial,path={_escaped(console)}",
        "-serial", "chardev:serial",
    ]  # fmt: skip


def _escaped(path: Path) -> str:
    # QEMU's option syntax: a comma is written twice.
    return str(path).replace(",", ",,")


def _read_console(path: Path) -> str:
    with suppress(FileNotFoundError), open(path, "rb") as console:
        return console.read(1 << 20).decode("utf-8", "replace")
    return ""


def _kvm_node_trouble() -> str | None:
    try:
        os.close(os.open(_KVM, os.O_RDWR | os.O_CLOEXEC))
    except OSError as reason:
        return f"{_KVM}: {reason.strerror}"
    return None


def _kept_kvm_trouble(
    qemu: QemuProgram, kernel_image: Path | None, store_root: Path, deadline: Deadline, *, retry: bool
) -> str | None:
    """The result of the trial, from an earlier one if host, QEMU and kernel are the same.

    :param retry: whether to try again what did not work earlier.
    """
    store = Store(store_root)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    version = ".".join(map(str, qemu.version))
    key = input_hash({"boot": boot, "qemu": f"{version} {qemu.sha256}", "kernel": kernel_image})
    record = store.root / "host" / "kvm.json"
    record.parent.mkdir(exist_ok=True)
    with hold_lock(record.with_suffix(".lock"), deadline, "trying KVM"):
        results = _read_results(record, boot)
        if key in results and not (retry and results[key]):
            return results[key] or None
        with step("trying KVM"), store.temporary() as scratch:
            trouble = find_boot_trouble(qemu, ["-accel", "kvm", "-cpu", "host"], kernel_image, scratch, deadline)
        results[key] = trouble or ""
        fresh = record.with_suffix(".new")
        fresh.write_text(json.dumps({"boot": boot, "results": results}), encoding="utf-8")
        fresh.replace(record)
    return trouble


def _read_results(record: Path, boot: str) -> dict[str, str]:
    """Earlier results of this boot by the hash of what was tried: the complaint, empty if KVM works."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        kept = json.loads(record.read_text(encoding="utf-8"))
        if kept["boot"] == boot:
            return {str(key): str(value) for key, value in kept["results"].items()}
    return {}


def _checked(name: str, required: bool, check: Callable[[], Check]) -> Check:
    try:
        found = check()
    except HarnessError as reason:
        return Check(name, False, reason.message.splitlines()[0], reason.hint or "", required)
    return Check(name, found.ok, found.detail, found.hint, required)


def _check_machine() -> Check:
    machine = platform.machine()
    return Check("machine", machine == "x86_64", machine, "" if machine == "x86_64" else "an x86-64 host is needed")


def _check_python() -> Check:
    ok = sys.version_info >= (3, 11)
    return Check("python", ok, platform.python_version(), "" if ok else "Python 3.11 or newer is needed")


def _check_builds() -> Check:
    """As whom foreign code runs."""
    trouble, making = find_trouble(), find_making_trouble()
    if not making:
        return Check("builds", True, "in a user namespace, without root")
    what = "build roots are made" if not trouble else "configure, make and patches run, and build roots are made,"
    try:
        prefix = as_root_args()
    except SetupError as reason:
        return Check("builds", False, f"without a user namespace ({making}) {reason.message}", find_hint())
    way = "by sudo" if prefix else "as root"
    return Check("builds", True, f"{what} {way}: no user namespace ({making})", find_hint())


def _check_programs() -> Check:
    check_programs()
    return Check("programs", True, f"all {len(PROGRAMS)} are here, and the keys of the Debian archive")


def _check_qemu() -> Check:
    qemu = find_qemu()
    return Check("qemu", True, f"{'.'.join(map(str, qemu.version))} ({qemu.path})")


def _check_kvm() -> Check:
    trouble = _kvm_node_trouble()
    if trouble:
        return Check("kvm", False, f"{trouble}; guests run under TCG", "`usermod -aG kvm USER` if it is there")
    return Check("kvm", True, f"{_KVM} opens; whether guests run under it is found out with the first one")


def _check_disk(root: Path) -> Check:
    existing = next(path for path in (root.absolute(), *root.absolute().parents) if path.exists())
    free_gib = shutil.disk_usage(existing).free / (1 << 30)
    if not os.access(existing, os.W_OK):
        return Check("disk", False, f"{existing} cannot be written", "point SPLVM_CACHE to a directory of your own")
    ok = free_gib >= MIN_FREE_GIB
    hint = "" if ok else f"{MIN_FREE_GIB} GiB are needed: make room, or point SPLVM_CACHE to another disk"
    return Check("disk", ok, f"{free_gib:.1f} GiB free for {root}", hint)


def _check_store(root: Path) -> Check:
    """Whether an artefact could be made: by making a directory in it as one is begun."""
    if not os.path.lexists(root):
        return Check("store", True, f"{root} will be made")
    with Store(root).temporary() as scratch:
        (scratch / "file").write_text("content")
    return Check("store", True, f"{root} can be used")


def _check_memory() -> Check:
    available = available_mib()
    ok = available >= MIN_AVAILABLE_MIB
    return Check("memory", ok, f"{available} MiB available", "" if ok else f"{MIN_AVAILABLE_MIB} MiB are needed")


def _check_load() -> Check:
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    ok = load < 2 * cores
    hint = "" if ok else "guests on a busy host reach time-outs that have nothing to do with what is tested"
    return Check("load", ok, f"{load:.1f} on {cores} cores", hint)
