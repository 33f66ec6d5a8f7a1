"""What the collector of `splvm explain` leaves on a machine that has busybox and nothing else, and how it is read."""

from __future__ import annotations

from importlib import resources

import pytest

from splvm.deadline import Deadline
from splvm.guest.guest import Guest
from splvm.paste.explanation import explain

pytestmark = pytest.mark.splvm_vm

SCRIPT = resources.files("splvm.paste").joinpath("collector.sh").read_bytes()


def test_the_collector_in_a_guest(guest: Guest) -> None:
    """All that the kernel may be asked for is asked, also its lists of tasks."""
    run = "mkdir -p /dev/shm && SPLVM_COLLECT_DIR=/dev/shm sh && cat /dev/shm/splvm-hang.* && ls /dev/shm"
    said = guest.ssh.run(run, deadline=Deadline(120), data=SCRIPT).stdout
    assert said.count("splvm-parts") == 0, "nothing else is left"
    found = explain(said)
    assert {"collector", "meminfo", "slab", "stack"} <= {it.kind for it in found.inputs}
    assert found.slab and not found.contradictions
    # Nothing is blocked, so that the list of what is has nothing in it.
    assert {it.source for it in found.moments} == {"sysrq-t"}
    assert {"kthreadd", "spl_kmem_cache"} <= {it.comm for it in found.tasks}
    assert found.closes is None or found.closes.value != "cycle"
