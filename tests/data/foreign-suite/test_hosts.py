"""testinfra's own host, for several hosts."""

from __future__ import annotations

from testinfra.host import Host

testinfra_hosts = ["local://", "local://again"]


def test_host(host: Host) -> None:
    assert host.backend.get_pytest_id() == "local"
    assert host.check_output("echo there") == "there"
