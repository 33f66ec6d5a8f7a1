"""What kernels do, measured in guests of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from splvm.builds.module import build_module
from splvm.deadline import Deadline
from splvm.errors import HarnessError
from splvm.evidence.formats.gfpprobe import Level, Way, parse_gfpprobe
from splvm.evidence.formats.kerncomplaints import FindingKind
from splvm.evidence.formats.kernlog import scan_kernel_log
from splvm.evidence.kerneltraits import KernelTraits, TraitAnswer, decide
from splvm.guest.guest import Guest, start_guest
from splvm.run import measurement
from splvm.run.measurement import MODULE, kernel_traits
from splvm.run.prepare import PREPARE_BUDGET_S, PreparedKernel, Wish, prepare_kernel

pytestmark = pytest.mark.splvm_vm

FLAGS = (Way.NOFS_FLAGS, Way.NOIO_FLAGS)
SCOPES = (Way.NOFS_SCOPE, Way.NOIO_SCOPE)


def prepared(name: str, accelerator: str) -> PreparedKernel:
    return prepare_kernel(Wish(kernel=name, accelerator=accelerator))


def booted_with(kernel: PreparedKernel, word: str) -> PreparedKernel:
    """The same kernel with a word more on its command line."""
    return dataclasses.replace(kernel, machine=dataclasses.replace(kernel.machine, append=(word,)))


def measure(kernel: PreparedKernel, *, anew: bool = True) -> KernelTraits:
    deadline = Deadline(PREPARE_BUDGET_S)
    return kernel_traits(kernel.store, kernel.kernel, kernel.plan, deadline, anew=anew)


@pytest.fixture(scope="module")
def kernel(pytestconfig: pytest.Config) -> PreparedKernel:
    """The kernel of the command line, with a guest that has no SPL."""
    return prepared(pytestconfig.getoption("--splvm-kernel"), pytestconfig.getoption("--splvm-accel"))


@pytest.mark.splvm_kernels("debian-12", "debian-13", "debian-sid")
def test_flags_are_honoured(kernel: PreparedKernel) -> None:
    traits = measure(kernel)
    assert traits.doubts == ()
    assert {way: traits.honours(way) for way in Way} == dict.fromkeys(Way, True)
    assert Level.PTE in traits.levels(Way.NOIO_FLAGS, TraitAnswer.HONOURED)
    assert Level.PMD in traits.levels(Way.NOIO_FLAGS, TraitAnswer.HONOURED)


@pytest.mark.splvm_slow
def test_flags_are_ignored(pytestconfig: pytest.Config) -> None:
    """The control: the same measurement on a kernel from before they were honoured."""
    traits = measure(prepared("debian-11", pytestconfig.getoption("--splvm-accel")))
    assert traits.doubts == ()
    assert {way: traits.honours(way) for way in FLAGS} == dict.fromkeys(FLAGS, False)
    assert {way: traits.honours(way) for way in SCOPES} == dict.fromkeys(SCOPES, True)
    assert traits.levels(Way.NOIO_FLAGS, TraitAnswer.IGNORED) == (Level.PTE, Level.PMD)


@pytest.mark.splvm_slow
def test_a_kernel_complains_of_flags(pytestconfig: pytest.Config) -> None:
    """Of those that SPL passed before 2.3, since Linux commit 07003531e03c (in v6.19)."""
    traits = measure(prepared("debian-sid", pytestconfig.getoption("--splvm-accel")))
    assert traits.doubts == ()
    assert [answer.mask.name for answer in traits.complaints] == ["spl-highmem"]


def load(guest: Guest, module: Path) -> str:
    """Load the module, take its report, and unload it."""
    deadline = Deadline(60)
    guest.insert_module(module, deadline=deadline)
    report = guest.ssh.run(f"cat /proc/{MODULE} && rmmod {MODULE}", deadline=deadline).stdout
    assert guest.ssh.run(f"test -e /proc/{MODULE}", deadline=deadline, check=False).status != 0
    return report


def test_the_module_leaves_nothing_behind(kernel: PreparedKernel, tmp_path: Path) -> None:
    """It unloads, finds other addresses when it is loaded again, and the kernel is sound and has no probe left."""
    deadline = Deadline(PREPARE_BUDGET_S)
    module = build_module(kernel.store, kernel.kernel.root, MODULE, deadline).path / f"{MODULE}.ko"
    with start_guest(kernel.plan, tmp_path, deadline) as guest:
        first, second = (parse_gfpprobe(load(guest, module)) for _ in range(2))
        log = guest.ssh.run("dmesg", deadline=deadline).stdout
        probed = guest.ssh.run("cat /sys/kernel/tracing/enabled_functions", deadline=deadline).stdout
    answers, again = decide(first, log), decide(second, log)
    assert answers.cells == again.cells
    assert TraitAnswer.UNKNOWN not in {cell.answer for row in again.cells.values() for cell in row.values()}
    assert not [it for it in scan_kernel_log(log) if not it.benign and it.kind is not FindingKind.UNEXPECTED_GFP]
    assert probed.strip() == ""


@pytest.mark.splvm_kernels("debian-12", "debian-13", "debian-sid")
@pytest.mark.splvm_slow
def test_with_four_levels_of_paging(kernel: PreparedKernel) -> None:
    """Then the tables of the third level are made at boot (Linux commit 6eb82f994026 (in v5.9))."""
    traits = measure(booted_with(kernel, "no5lvl"))
    assert traits.paging_levels == 4
    assert traits.doubts == ()
    for way in Way:
        assert traits.levels(way, TraitAnswer.HONOURED) == (Level.PTE, Level.PMD)
        assert traits.levels(way, TraitAnswer.NEVER) == (Level.PUD,)


def test_a_measurement_is_kept(kernel: PreparedKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time no guest is booted: with one that cannot be, the answer is the same."""
    traits = measure(kernel, anew=False)
    monkeypatch.setattr(measurement, "start_guest", None)
    assert measure(kernel, anew=False) == traits


@pytest.mark.splvm_slow
def test_a_measurement_that_fails_is_not_kept(kernel: PreparedKernel) -> None:
    """It is trouble of the harness, with the place of the evidence, each time."""
    refusing = booted_with(kernel, f"module_blacklist={MODULE}")
    for _ in range(2):
        with pytest.raises(HarnessError, match="could not be measured") as caught:
            measure(refusing, anew=False)
        evidence = Path(caught.value.message.rpartition("evidence: ")[2])
        assert "Linux version" in (evidence / "console.log").read_text(errors="replace")
