"""Kernels built from source: that they boot and are what they were asked to be, and what lockdep says of ours."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from splvm.builds.kconfig import merge_fragments, parse_config
from splvm.builds.source import BUILT, read_fragments
from splvm.deadline import Deadline
from splvm.errors import UsageError
from splvm.evidence.formats.kerncomplaints import FindingKind
from splvm.evidence.formats.kernlog import scan_kernel_log
from splvm.evidence.verdict import Outcome, Verdict
from splvm.guest.guest import Guest, start_guest
from splvm.record.reader import read_evidence
from splvm.run.experiment import run_until_fed
from splvm.run.prepare import Prepared
from splvm.scenarios.table import SCENARIOS, find_scenario
from wrecks import build_wreck, load_wreck

pytestmark = pytest.mark.splvm_vm

LOCKDEP = "built:lockdep"
FAULTS = "built:faults"


def lockdep_is_on(guest: Guest) -> bool:
    """Whether lockdep checks, has seen locks, and has not turned itself off, by a report or for want of room."""
    names = "/proc/lockdep_stats /proc/sys/kernel/prove_locking"
    said = guest.ssh.run(f"cat {names} 2>&1", deadline=Deadline(20), check=False).stdout
    classes = re.search(r"lock-classes: +(\d+)", said)
    works = re.search(r"debug_locks: +1$", said, re.MULTILINE) and said.rstrip().endswith("\n1")
    return bool(works) and classes is not None and int(classes[1]) > 100


@pytest.mark.splvm_slow
@pytest.mark.parametrize("kernel", [LOCKDEP, FAULTS])
def test_built_kernel_is_what_was_asked_for(prepare_spl: Callable[..., Prepared], tmp_path: Path, kernel: str) -> None:
    prepared = prepare_spl(kernel=kernel)
    facts = prepared.kernel.facts()
    row = BUILT[kernel.partition(":")[2]]
    with start_guest(prepared.plan, tmp_path, Deadline(120)) as guest:
        for module in prepared.spl.modules:
            guest.insert_module(module, deadline=Deadline(60))
        release = guest.ssh.run("uname -r", deadline=Deadline(20)).stdout.strip()
        files = guest.ssh.run("ls /proc/self /proc/pressure /dev/hwrng", deadline=Deadline(20)).stdout.split()
    assert release == facts["release"] and release.endswith(f"-splvm-{row.name}")
    assert {"stack", "schedstat", "memory", "/dev/hwrng"} <= set(files)
    built = facts["built"]
    assert isinstance(built, dict)
    assert set(built["fragments"]) == {f"{name}.config" for name in row.fragments}
    options = merge_fragments(read_fragments(row))
    config = parse_config((prepared.kernel.image.path / "config").read_text())
    for option in options:
        assert config.get(option.name, "n") == option.value or option.name in built["dropped"], option
    assert not scan_kernel_log((tmp_path / "console.log").read_text(errors="replace"))


@pytest.mark.splvm_slow
@pytest.mark.parametrize("variant", ["stock", "unscoped"])
@pytest.mark.parametrize("scenario", ["held-worker", "reclaim-cycle", "storm"])
def test_no_report_of_lockdep(
    prepare_spl: Callable[..., Prepared], tmp_path: Path, scenario: str, variant: str
) -> None:
    """And lockdep was there to make one, from the beginning to the end."""
    on: dict[str, bool] = {}

    def on_phase(guest: Guest, phase: str) -> None:
        if phase in ("settle", "storm"):
            on["begin"] = lockdep_is_on(guest)
        if phase == "end":
            on["end"] = lockdep_is_on(guest)

    experiment = prepare_spl(kernel=LOCKDEP, variant=variant).experiment(find_scenario(scenario))
    verdict, out = run_until_fed(experiment, tmp_path / "run", on_phase=on_phase)[-1]
    assert verdict.outcome in experiment.expected, said(verdict)
    assert on == {"begin": True, "end": True}
    assert FindingKind.LOCKDEP not in {it.kind for it in scan_kernel_log(read_evidence(out).console)}


@pytest.mark.splvm_slow
def test_wrong_order_of_locks_is_a_crash(prepare_spl: Callable[..., Prepared], tmp_path: Path) -> None:
    """The control: what lockdep reports is found, and it is off from then on."""
    prepared = prepare_spl(kernel=LOCKDEP)
    module = build_wreck(prepared.kernel.root)
    on: dict[str, bool] = {}

    def on_phase(guest: Guest, phase: str) -> None:
        if phase == "window":
            load_wreck(guest, module, "order")
        if phase in ("settle", "end"):
            on[phase] = lockdep_is_on(guest)

    experiment = prepared.experiment(find_scenario("held-worker"), window_s=2)
    verdict, _ = run_until_fed(experiment, tmp_path / "run", on_phase=on_phase)[-1]
    assert verdict.outcome is Outcome.CRASHED, said(verdict)
    assert "possible circular locking dependency detected" in verdict.reasons[0].text
    assert on == {"settle": True, "end": False}


def test_kernel_without_lockdep_is_not_taken_for_one_with_it(guest: Guest) -> None:
    assert not lockdep_is_on(guest)


@pytest.mark.parametrize("scenario", [name for name, row in SCENARIOS.items() if row.faults])
def test_faults_are_refused_without_fault_injection(spl: Prepared, scenario: str) -> None:
    with pytest.raises(UsageError) as caught:
        spl.experiment(find_scenario(scenario))
    assert "CONFIG_FAIL_PAGE_ALLOC" in caught.value.message
    assert caught.value.hint is not None and FAULTS in caught.value.hint


def said(verdict: Verdict) -> str:
    return " | ".join(reason.text for reason in verdict.reasons)
