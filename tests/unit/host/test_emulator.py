"""Which QEMU is chosen, and what is said of it; a shell script stands in the place of each QEMU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from splvm.deadline import Deadline
from splvm.errors import SetupError, UsageError
from splvm.host import emulator
from splvm.host.capabilities import QemuProgram
from splvm.host.emulator import (
    SUITE,
    check_qemu_name,
    check_virtual_time,
    find_counting_emulator,
    find_emulator,
    find_icount_trouble,
)
from splvm.host.store import Store

# As a guest boots: the sector says K to the debug console, and the kernel goes to its panic.
BOOTS = """#!/bin/sh
echo "$*" >> "$0.calls"
console=$(printf '%s' "$*" | sed -n 's/.*id=[a-z]*,path=\\([^ ]*\\).*/\\1/p')
case "$*" in
*-kernel*) echo "end Kernel panic" > "$console" ;;
*) printf K > "$console"; exit 33 ;;
esac
"""
# The kernel does not come to it.
STOPS = BOOTS.replace('echo "end Kernel panic" > "$console"', 'echo "smp: Bringing up secondary CPUs" > "$console"')


PLUGIN = Path("/store/a,b/hold.so")


def stand_in(directory: Path, name: str, script: str) -> QemuProgram:
    path = directory / name
    path.write_text(script)
    path.chmod(0o755)
    return QemuProgram(path, (10, 0), name.ljust(64, "0"), origin=name)


def calls(qemu: QemuProgram) -> list[str]:
    record = Path(f"{qemu.path}.calls")
    return record.read_text().splitlines() if record.exists() else []


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    (tmp_path / "kernel").touch()
    return tmp_path / "kernel"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, QemuProgram]:
    """QEMU of the host, and of suites by their names."""
    found = {"host": stand_in(tmp_path, "host", BOOTS), SUITE: stand_in(tmp_path, SUITE, BOOTS)}
    monkeypatch.setattr(emulator, "find_qemu", lambda root: found["host"])
    monkeypatch.setattr(emulator, "fetch_qemu", lambda suite, store, deadline: found[suite])
    return found


@pytest.mark.parametrize("name", ["auto", "host", "suite:trixie"])
def test_names_of_qemu(name: str) -> None:
    check_qemu_name(name)


@pytest.mark.parametrize(("name", "valid"), [("mine", "auto, host and suite:NAME"), ("suite:potato", "trixie")])
def test_a_name_that_is_none(name: str, valid: str) -> None:
    with pytest.raises(UsageError, match=valid):
        check_qemu_name(name)


def test_real_time_has_the_hosts(store: Store, programs: dict[str, QemuProgram]) -> None:
    found = find_emulator("auto", store, Deadline(60))
    assert found == replace(programs["host"], reason="the host's own") == find_emulator("host", store, Deadline(60))
    assert find_emulator(f"suite:{SUITE}", store, Deadline(60)) == programs[SUITE]
    assert calls(programs["host"]) == calls(programs[SUITE]) == [], "nothing is tried for it"


def test_the_hosts_is_taken_if_two_cpus_boot(store: Store, kernel: Path, programs: dict[str, QemuProgram]) -> None:
    found = find_counting_emulator("auto", kernel, PLUGIN, store, Deadline(60))
    assert (found.path, found.reason) == (programs["host"].path, "the host's own has booted two CPUs under icount")
    boot = calls(programs["host"])[-1]
    assert "-icount shift=3,sleep=off" in boot
    assert "-smp 2" in boot
    assert "-plugin /store/a,,b/hold.so" in boot
    assert calls(programs[SUITE]) == []


def test_the_suites_is_taken_if_the_hosts_will_not_do(
    store: Store, kernel: Path, programs: dict[str, QemuProgram]
) -> None:
    programs["host"].path.write_text(STOPS)
    found = find_counting_emulator("auto", kernel, PLUGIN, store, Deadline(60))
    assert found.path == programs[SUITE].path
    assert found.reason.startswith("the host's own will not do for virtual time: Linux did not boot")
    assert found.facts() == {"version": "10.0", "sha256": found.sha256, "origin": SUITE, "reason": found.reason}


def test_the_suites_is_taken_if_the_host_has_none(
    store: Store, kernel: Path, programs: dict[str, QemuProgram], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(root: Path) -> QemuProgram:
        raise SetupError("there is no program qemu-system-x86_64 on this host")

    monkeypatch.setattr(emulator, "find_qemu", missing)
    found = find_counting_emulator("auto", kernel, PLUGIN, store, Deadline(60))
    assert (found.path, "there is no program" in found.reason) == (programs[SUITE].path, True)


@pytest.mark.parametrize(("wanted", "hint"), [("host", f"--qemu suite:{SUITE}"), (f"suite:{SUITE}", None)])
def test_one_that_is_asked_for_has_to_do(
    wanted: str, hint: str | None, store: Store, kernel: Path, programs: dict[str, QemuProgram]
) -> None:
    programs[wanted.removeprefix("suite:")].path.write_text(STOPS)
    with pytest.raises(SetupError, match=r"QEMU 10.0 \(\w+\) cannot run a guest in virtual time") as caught:
        find_counting_emulator(wanted, kernel, PLUGIN, store, Deadline(60))
    assert caught.value.hint == hint


def test_it_is_tried_once(store: Store, kernel: Path, programs: dict[str, QemuProgram]) -> None:
    for _ in range(3):
        assert find_icount_trouble(programs["host"], kernel, PLUGIN, store, Deadline(60)) == ""
    assert len(calls(programs["host"])) == 2, "a sector and a kernel"


def test_what_doctor_says(store: Store, kernel: Path, programs: dict[str, QemuProgram]) -> None:
    assert check_virtual_time(store.root).detail == "which QEMU it needs is found out with the first guest"
    find_counting_emulator("auto", kernel, PLUGIN, store, Deadline(60))
    assert check_virtual_time(store.root).detail.startswith("with the host's QEMU: ")


def test_what_doctor_says_of_one_that_will_not_do(store: Store, kernel: Path, programs: dict[str, QemuProgram]) -> None:
    programs["host"].path.write_text(STOPS)
    find_counting_emulator("auto", kernel, PLUGIN, store, Deadline(60))
    assert check_virtual_time(store.root).detail.startswith(f"with the QEMU of {SUITE}: the host's will not do (Linux")
