"""What is found out about the host: with its real QEMU under TCG, and with stand-ins that fail in known ways."""

from __future__ import annotations

import os
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from splvm.deadline import Deadline
from splvm.errors import DeadlineExceeded, SetupError, UsageError
from splvm.host import capabilities, programs
from splvm.host.capabilities import (
    Accelerator,
    Check,
    HostReport,
    QemuProgram,
    find_accelerator,
    find_boot_trouble,
    find_qemu,
    inspect_host,
)
from splvm.host.mirror import Mirror

TCG = ["-accel", "tcg", "-cpu", "max"]

needs_qemu = pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="QEMU is needed")


# The report


def checks(report: HostReport) -> dict[str, Check]:
    return {check.name: check for check in report.checks}


def test_report_names_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLVM_MIRROR", "http://a.example/debian")
    found = checks(inspect_host(tmp_path / "not" / "there" / "yet"))
    names = "machine python programs builds qemu kvm mirror disk store memory load"
    assert " ".join(found) == names
    assert found["mirror"] == Check("mirror", True, "http://a.example/debian")
    assert (found["python"].ok, found["memory"].detail.endswith("MiB available")) == (True, True)
    assert not (tmp_path / "not").exists()
    assert [name for name, check in found.items() if not check.required] == ["kvm", "load"]


def test_report_of_a_bare_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "find_program", lambda name: _missing(name))
    monkeypatch.setattr(capabilities, "find_mirror", lambda: _missing("mirror"))
    monkeypatch.setattr(capabilities, "find_keyring", lambda: _missing("keyring"))
    monkeypatch.setattr(programs, "search_path", lambda: str(tmp_path))
    monkeypatch.setattr(capabilities, "as_root_args", lambda: _missing("sudo"))
    for name in ("find_trouble", "find_making_trouble", "find_hint"):
        monkeypatch.setattr(capabilities, name, lambda: "not permitted")
    monkeypatch.setattr(capabilities, "_KVM", str(tmp_path / "kvm"))
    monkeypatch.setattr(capabilities, "MIN_FREE_GIB", 1 << 40)
    monkeypatch.setattr(capabilities, "MIN_AVAILABLE_MIB", 1 << 40)
    monkeypatch.setattr(os, "getloadavg", lambda: (1000.0, 0.0, 0.0))
    report = inspect_host(tmp_path)
    failed = {name: check.hint for name, check in checks(report).items() if not check.ok}
    assert not report.ok
    assert " ".join(failed) == "programs builds qemu kvm mirror disk memory load"
    assert failed["qemu"] == "apt install qemu-system-x86_64"
    wanted = sorted({*programs.PROGRAMS.values(), "debian-archive-keyring"})
    assert failed["programs"].endswith("apt-get install -y --no-install-recommends " + " ".join(wanted))
    assert all(failed.values())


# Trouble of builds, trouble of making a root, what comes before a command to run it as root, and what is said.
WAYS: tuple[tuple[str, str, list[str] | None, bool, str], ...] = (
    ("", "", None, True, "in a user namespace, without root"),
    ("", "no ids", ["sudo"], True, "build roots are made by sudo: no user namespace (no ids)"),
    ("closed", "closed", [], True, "configure, make and patches run, and build roots are made, as root: "),
    ("closed", "closed", None, False, "without a user namespace (closed) no sudo"),
    ("", "no ids", None, False, "without a user namespace (no ids) no sudo"),
)


@pytest.mark.parametrize(("trouble", "making", "prefix", "ok", "said"), WAYS)
def test_report_says_as_whom_builds_run(
    trouble: str,
    making: str,
    prefix: list[str] | None,
    ok: bool,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(capabilities, "find_trouble", lambda: trouble)
    monkeypatch.setattr(capabilities, "find_making_trouble", lambda: making)
    monkeypatch.setattr(capabilities, "as_root_args", lambda: _missing("sudo") if prefix is None else prefix)
    builds = checks(inspect_host(tmp_path))["builds"]
    assert (builds.ok, builds.required) == (ok, True)
    assert builds.detail.startswith(said)


def _missing(name: str) -> Mirror:
    raise SetupError(f"no {name}\nmore", hint=f"apt install {name}")


def test_what_is_not_required_does_not_count() -> None:
    assert HostReport((Check("a", True, ""), Check("kvm", False, "", "", required=False))).ok
    assert not HostReport((Check("a", False, ""),)).ok


# QEMU


def stand_in(tmp_path: Path, script: str) -> QemuProgram:
    """A shell script in the place of QEMU; $console is the file of the guest's output."""
    path = tmp_path / "qemu"
    preamble = r"""#!/bin/sh
echo "$*" >> "$0.calls"
console=$(printf '%s' "$*" | sed -n 's/.*id=[a-z]*,path=\([^ ]*\).*/\1/p')
"""
    path.write_text(preamble + script)
    path.chmod(0o755)
    return QemuProgram(path, (7, 2), "0" * 64)


def calls(qemu: QemuProgram) -> list[str]:
    record = Path(f"{qemu.path}.calls")
    return record.read_text().splitlines() if record.exists() else []


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)", (7, 2, 22)),
        ("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)", (10, 0, 2)),
    ],
)
def test_find_qemu(said: str, version: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = stand_in(tmp_path, f"echo '{said}'")
    monkeypatch.setattr(capabilities, "find_program", lambda name: str(fake.path))
    found = find_qemu()
    assert (found.path, found.version, len(found.sha256)) == (fake.path, version, 64)


def test_qemu_is_asked_once_for_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = stand_in(tmp_path, "echo 'QEMU emulator version 7.2.22'")
    monkeypatch.setattr(capabilities, "find_program", lambda name: str(fake.path))
    (tmp_path / "host").mkdir()
    first = find_qemu(tmp_path)
    assert find_qemu(tmp_path) == first == find_qemu()
    assert len(calls(fake)) == 2
    # One that was replaced is another one.
    stand_in(tmp_path, "echo 'QEMU emulator version 8.0.0'")
    another = find_qemu(tmp_path)
    assert (another.version, len(calls(fake))) == ((8, 0, 0), 3)
    assert another.sha256 != first.sha256


@pytest.mark.parametrize("said", ["QEMU emulator version 6.2.0", "something else"])
def test_qemu_that_will_not_do(said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = stand_in(tmp_path, f"echo '{said}'")
    monkeypatch.setattr(capabilities, "find_program", lambda name: str(fake.path))
    with pytest.raises(SetupError, match=r"too old|does not say its version"):
        find_qemu()


# The trial


def tiny_kernel(path: Path, text: bytes, *, reset: bool = True) -> Path:
    """A kernel that QEMU loads by the Multiboot 1 header, writes a text to the serial line and resets the machine."""
    base, header_size = 0x100000, 32
    code = bytes((
        0xAC,                          # next: lodsb
        0x84, 0xC0,                    # test al, al
        0x74, 0x07,                    # jz done
        0x66, 0xBA, 0xF8, 0x03,        # mov dx, 0x3f8
        0xEE,                          # out dx, al
        0xEB, 0xF4,                    # jmp next
    ))  # fmt: skip
    code += bytes((0xB0, 0xFE, 0xE6, 0x64)) if reset else b""  # done: mov al, 0xfe; out 0x64, al (i8042: reset)
    code += bytes((0xF4, 0xEB, 0xFD))  # hlt; jmp to the hlt
    # mov esi, address of the text
    code = b"\xbe" + struct.pack("<I", base + header_size + 5 + len(code)) + code + text + b"\0"
    magic, flags = 0x1BADB002, 0x10000
    addresses = (base, base, base + header_size + len(code), 0, base + header_size)
    path.write_bytes(struct.pack("<8I", magic, flags, -(magic + flags) & 0xFFFFFFFF, *addresses) + code)
    return path


@needs_qemu
def test_guest_that_boots(tmp_path: Path) -> None:
    kernel = tiny_kernel(tmp_path / "kernel", b"Kernel panic - not syncing: VFS: Unable to mount root fs\n")
    scratch = tmp_path / "with, comma"
    scratch.mkdir()
    assert find_boot_trouble(find_qemu(), TCG, kernel, scratch, Deadline(60)) is None
    assert (scratch / "debug").read_text() == "K"
    assert find_boot_trouble(find_qemu(), TCG, None, scratch, Deadline(60)) is None


@needs_qemu
def test_kernel_that_resets_early(tmp_path: Path) -> None:
    kernel = tiny_kernel(tmp_path / "kernel", b"early console\n\x1b[2Jsomething\n")
    trouble = find_boot_trouble(find_qemu(), TCG, kernel, tmp_path, Deadline(60))
    assert trouble == "Linux did not boot: QEMU ended with status 0; its last line: �[2Jsomething"


@needs_qemu
def test_kernel_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "_KERNEL_S", 1.0)
    kernel = tiny_kernel(tmp_path / "kernel", b"", reset=False)
    trouble = find_boot_trouble(find_qemu(), TCG, kernel, tmp_path, Deadline(60))
    assert trouble == "Linux did not boot: it hung for 1 s; it said nothing"


@needs_qemu
def test_sector_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "_SECTOR_S", 1.0)
    trouble = find_boot_trouble(find_qemu(), TCG, None, tmp_path, Deadline(60), boot_code=b"\xf4\xeb\xfd")
    assert trouble == "a boot sector did not run: it hung for 1 s"


@pytest.mark.parametrize(
    ("waited_s", "trouble"), [(1e6, None), (0, "a boot sector did not run: it hung for 0 s")], ids=["starved", "hangs"]
)
def test_waiting_for_a_cpu_is_no_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waited_s: float, trouble: str | None
) -> None:
    monkeypatch.setattr(capabilities, "_SECTOR_S", 0.1)
    waits = [{"tid": 1, "run_ns": 0, "wait_ns": int(waited_s * 1e9)}]
    monkeypatch.setattr(capabilities, "read_threads", lambda _pid, _threads: waits)
    slow = stand_in(tmp_path, 'sleep 1; printf K > "$console"; exit 33\n')
    assert find_boot_trouble(slow, [], None, tmp_path, Deadline(60)) == trouble


def test_sector_that_cannot_end_the_guest(tmp_path: Path) -> None:
    fake = stand_in(tmp_path, 'printf K > "$console"\n')
    trouble = find_boot_trouble(fake, [], None, tmp_path, Deadline(60))
    assert trouble == "a boot sector did not run: QEMU ended with status 0"


@needs_qemu
def test_sector_that_says_something_else(tmp_path: Path) -> None:
    code = capabilities._BOOT_CODE.replace(b"K", b"k")
    trouble = find_boot_trouble(find_qemu(), TCG, None, tmp_path, Deadline(60), boot_code=code)
    assert trouble == "a boot sector did not run: QEMU ended with status 33"


RUNS = 'case "$*" in *-kernel*) echo "end Kernel panic" > "$console";; *) printf K > "$console"; exit 33;; esac\n'
ABORTS = 'echo "qemu: warning: x" >&2; echo "qemu: error: failed to set MSR 0x10a to 0x69" >&2; kill -ABRT $$\n'
HANGS_LATER = 'case "$*" in *-kernel*) echo > "$console"; exec sleep 1000;; *) printf K > "$console"; exit 33;; esac\n'


def test_qemu_that_aborts(tmp_path: Path) -> None:
    trouble = find_boot_trouble(stand_in(tmp_path, ABORTS), [], None, tmp_path, Deadline(60))
    assert trouble == "a boot sector did not run: qemu: error: failed to set MSR 0x10a to 0x69"


def test_linux_hangs_where_the_firmware_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "_KERNEL_S", 1.0)
    kernel = tmp_path / "kernel"
    kernel.touch()
    trouble = find_boot_trouble(stand_in(tmp_path, HANGS_LATER), [], kernel, tmp_path, Deadline(60))
    assert trouble == "Linux did not boot: it hung for 1 s; it said nothing"


def test_qemu_that_takes_no_plugin(tmp_path: Path) -> None:
    fake = stand_in(tmp_path, 'echo "qemu: Could not load plugin hold.so: it requires API version 4" >&2; exit 1\n')
    trouble = find_boot_trouble(fake, [], None, tmp_path, Deadline(60))
    assert trouble == ("a boot sector did not run: qemu: Could not load plugin hold.so: it requires API version 4")


# The choice


@pytest.fixture
def kvm_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kvm").touch()
    monkeypatch.setattr(capabilities, "_KVM", str(tmp_path / "kvm"))


def choose(wanted: str, qemu: QemuProgram, tmp_path: Path, kernel: Path | None = None) -> Accelerator:
    return find_accelerator(wanted, qemu, kernel, tmp_path / "store", Deadline(60))


def test_tcg_is_not_argued_about(tmp_path: Path) -> None:
    qemu = stand_in(tmp_path, RUNS)
    assert choose("tcg", qemu, tmp_path) == Accelerator("tcg", "asked for")
    assert calls(qemu) == []


def test_unknown_accelerator(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="auto, kvm, tcg"):
        choose("xen", stand_in(tmp_path, RUNS), tmp_path)


def test_no_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "_KVM", str(tmp_path / "missing"))
    qemu = stand_in(tmp_path, RUNS)
    reason = f"KVM cannot be used: {tmp_path}/missing: No such file or directory"
    assert choose("auto", qemu, tmp_path) == Accelerator("tcg", reason)
    with pytest.raises(SetupError, match=reason):
        choose("kvm", qemu, tmp_path)


@pytest.mark.usefixtures("kvm_opens")
@pytest.mark.parametrize("wanted", ["auto", "kvm"])
def test_kvm_counts_once_a_guest_has_booted(wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    qemu = stand_in(tmp_path, RUNS)
    kernel = tmp_path / "kernel"
    kernel.write_text("one")
    for _ in range(2):
        assert choose(wanted, qemu, tmp_path, kernel) == Accelerator("kvm", "a guest booted under KVM")
    # Once for the boot sector and once for the kernel; the second time it is known.
    assert ["-accel kvm -cpu host" in call for call in calls(qemu)] == [True, True]
    assert all("-nodefaults -no-user-config -display none" in call for call in calls(qemu))
    kernel.write_text("two")
    choose(wanted, qemu, tmp_path, kernel)
    assert len(calls(qemu)) == 4
    choose(wanted, replace(qemu, sha256="1" * 64), tmp_path, kernel)
    assert len(calls(qemu)) == 6
    choose(wanted, qemu, tmp_path, kernel)
    assert len(calls(qemu)) == 6
    record = tmp_path / "store" / "host" / "kvm.json"
    record.write_text(record.read_text().replace('"boot": "', '"boot": "another'))
    choose(wanted, qemu, tmp_path, kernel)
    assert len(calls(qemu)) == 8
    record.write_text("damaged")
    choose(wanted, qemu, tmp_path, kernel)
    assert len(calls(qemu)) == 10
    assert list((tmp_path / "store" / "tmp").iterdir()) == []


@pytest.mark.usefixtures("kvm_opens")
def test_kvm_that_does_not_run_guests(tmp_path: Path) -> None:
    qemu = stand_in(tmp_path, ABORTS)
    reason = "KVM cannot be used: a boot sector did not run: qemu: error: failed to set MSR 0x10a to 0x69"
    for _ in range(2):
        assert choose("auto", qemu, tmp_path) == Accelerator("tcg", reason)
    assert len(calls(qemu)) == 1
    with pytest.raises(SetupError, match="failed to set MSR"):
        choose("kvm", qemu, tmp_path)
    # Asked for by name it is tried again: it may have been mended, and then that holds for `auto` too.
    assert len(calls(qemu)) == 2
    stand_in(tmp_path, RUNS)
    assert choose("kvm", qemu, tmp_path).name == "kvm"
    assert choose("auto", qemu, tmp_path).name == "kvm"


@pytest.mark.usefixtures("kvm_opens")
def test_deadline_of_the_caller_is_no_result(tmp_path: Path) -> None:
    qemu = stand_in(tmp_path, "exec sleep 1000\n")
    with pytest.raises(DeadlineExceeded, match="trying KVM"):
        find_accelerator("auto", qemu, None, tmp_path / "store", Deadline(0.3))
    stand_in(tmp_path, RUNS)
    assert choose("auto", qemu, tmp_path).name == "kvm"


@needs_qemu
@pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="/dev/kvm does not open")
def test_this_host(tmp_path: Path) -> None:
    qemu = find_qemu()
    kernel = tiny_kernel(tmp_path / "kernel", b"Unable to mount root fs\n")
    found = choose("auto", qemu, tmp_path, kernel)
    # Whatever it is, a guest started that way must run, and a reason be given for anything but KVM.
    args = ["-accel", "kvm", "-cpu", "host"] if found.name == "kvm" else TCG
    assert find_boot_trouble(qemu, args, kernel, tmp_path, Deadline(60)) is None
    assert found.reason.startswith("a guest booted" if found.name == "kvm" else "KVM cannot be used: ")
