"""Guests with a pool: it is there in a clone and its own, and what is reported of ZFS under pressure is seen or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from splvm.clock import Clock
from splvm.deadline import Deadline
from splvm.errors import GuestCommandError
from splvm.evidence.verdict import Outcome
from splvm.guest.guest import Guest
from splvm.guest.guestplan import Start
from splvm.pytest_fixtures import RunResult
from splvm.run.loads import parse_loads
from splvm.run.prepare import Prepared
from splvm.run.starting import load_modules, start_any_guest
from splvm.scenarios.table import WHATEVER_SPL, find_scenario

pytestmark = pytest.mark.splvm_vm

LIMIT_S = 300.0


@pytest.mark.parametrize("start", [Start.LOADED, pytest.param(Start.BOOT, marks=pytest.mark.splvm_slow)])
def test_each_guest_has_a_pool_of_its_own(spl: Prepared, tmp_path: Path, start: Start) -> None:
    wanted = spl.experiment(find_scenario("held-worker"), loads=parse_loads(["zfs"])).guest
    for number in range(2):
        logs = tmp_path / str(number)
        logs.mkdir()
        deadline = Deadline(LIMIT_S)
        with start_any_guest(replace(wanted, start=start), logs, deadline) as guest:
            load_modules(guest, wanted, deadline)
            assert not guest.no_clone
            write = "echo here > /mnt/tank/file; sync; cat /mnt/tank/file"
            look = f"/sbin/zpool list -H -o health tank; ls /mnt/tank; {write}"
            said = guest.ssh.run(look, deadline=deadline).stdout.split()
            # What the first one wrote the second one does not have.
            assert said == ["ONLINE", "here"]
            with pytest.raises(GuestCommandError, match=r"(?s)cannot .*zpool is zfs-2.*, zfs.ko is zfs-2"):
                guest.ssh.run("splvm-zfs pool /dev/null", deadline=deadline)


def test_a_pool_whose_disk_stands_still_is_told(run_scenario: Callable[..., RunResult]) -> None:
    """The control for a pool that goes on: here the worker has no part in it."""

    def stop_disk(guest: Guest, phase: str) -> None:
        if phase == "window":
            guest.qemu.throttle(0, 1, Deadline(20))

    result = run_scenario("nominal", load="zfs", window_s=5, on_phase=stop_disk)
    result.must_be(Outcome.STALLED)
    assert result.verdict.reasons[0].text.startswith("pool tank: no txg was synced for ")


@pytest.mark.splvm_slow
@pytest.mark.parametrize("scenario", WHATEVER_SPL)
def test_reports_of_hangs(run_scenario: Callable[..., RunResult], scenario: str) -> None:
    result = run_scenario(scenario, clock=Clock.REAL)
    expected = {WHATEVER_SPL[scenario].outcome}
    # A guest that stands still with all of its memory taken may not even let the agent go on.
    result.must_be(*expected, *({Outcome.LOST} if Outcome.STALLED in expected else ()))
    if result.verdict.outcome is Outcome.STALLED:
        assert "direct reclaim" in result.verdict.reasons[-1].text
