"""Checks of what a guest in virtual time set up without the host: its disks, and its loads.

Its disks are memory, and say what they are on the console (images/slowdisk/slowdisk.c). Its loads are set up by
commands that the agent has answered.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from splvm.evidence.checks.case import Case
from splvm.evidence.checks.loadlevel import on_pool, wanted
from splvm.evidence.verdict import Reason

_DISK = re.compile(r"slowdisk: vd[a-z]: (\d{1,9}) MiB at 0x[0-9a-f]{1,16}, (\d{1,9}) MiB/s, (\d{1,9}) us a request")
_KEYS = ("mib", "speed_mib", "request_us")
_SETUP, _START = "/bin/splvm-load-setup ", "/bin/splvm-load "


def other_disks(case: Case) -> Iterator[Reason]:
    """In virtual time the guest has the disks that run.json says, and those are the ones that its loads ask for."""
    if not case.evidence.is_virtual:
        return
    facts = case.evidence.facts
    disks = facts.get("disks", [])
    told = [tuple(disk.get(key) for key in _KEYS) if isinstance(disk, Mapping) else () for disk in disks]
    said = [tuple(map(int, sizes)) for sizes in _DISK.findall(case.evidence.console)]
    if told != said:
        yield Reason(f"run.json names the disks {str(told)[:200]}, and the guest said {str(said)[:200]}")
    own = [load.get("values", {}) for load in facts.get("loads", []) if "disk" in load]
    asked = len(own) + bool(on_pool(wanted(facts)))
    if len(told) != asked:
        yield Reason(f"run.json names {len(told)} disks, and its loads ask for {asked}")
        return
    # Those of loads come last.
    for values, disk in zip(own, told[len(told) - len(own) :], strict=True):
        wants = (values.get("disk_mib"), values.get("speed_mib", disk[1]))
        if wants != disk[:2]:
            yield Reason(f"run.json has a disk of {disk[0]} MiB, {disk[1]} MiB/s, and its load asks for {wants}")


def set_up_otherwise(case: Case) -> Iterator[Reason]:
    """In virtual time the agent has set up and started the loads that run.json names, and no others."""
    if not case.evidence.is_virtual:
        return
    obeyed = case.timeline.obeyed
    names = [command.removeprefix(_SETUP).partition(" ")[0] for command in obeyed if command.startswith(_SETUP)]
    starts = sum(command.startswith(_START) for command in obeyed)
    asked = wanted(case.evidence.facts)
    if names != asked or starts != bool(asked):
        told = f"{', '.join(names)[:200] or 'no load'}, and started its loads {starts} times"
        yield Reason(f"the guest has set up {told}; run.json names {', '.join(asked)[:200] or 'none'}")
