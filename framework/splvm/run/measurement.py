"""Measures a kernel in a guest: the flags with which its __vmalloc() allocates page tables.

The measurement is an artefact of the store, made once for a kernel, the module that measures and a QEMU: the processor
that QEMU offers decides how many levels of paging there are. What is kept is the evidence, and the answer is made from
that each time.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

from splvm import __version__
from splvm.builds.kernels import Kernel
from splvm.builds.module import build_module, sha256_of
from splvm.builds.resolved import remember_traits
from splvm.deadline import Deadline
from splvm.errors import EvidenceError, HarnessError
from splvm.evidence.formats.gfpprobe import Way, parse_gfpprobe
from splvm.evidence.kerneltraits import KernelTraits, decide
from splvm.guest.guest import Guest, start_guest
from splvm.guest.guestplan import GuestPlan
from splvm.host.content import input_hash
from splvm.host.process import find_program
from splvm.host.store import Artefact, Store
from splvm.log import step
from splvm.record.names import CONSOLE_FILE
from splvm.run.hostwatch import host_facts

MODULE = "gfpprobe"

# What is kept of a measurement: the module's report, the console, QEMU's own log, and what was measured with what.
REPORT_FILE = "report.txt"
FACTS_FILE = "measurement.json"

# Change when what is recorded changes.
RECIPE = 1

# Seconds of the host for a measurement beside the boot; it takes one or two.
_MEASURE_S = 120.0

# MiB. The module holds some of it for a moment, and what a guest of a user's has does not matter.
_RAM_MIB = 512


def kernel_traits(
    store: Store, kernel: Kernel, plan: GuestPlan, deadline: Deadline, *, anew: bool = False
) -> KernelTraits:
    """The traits of a kernel. If the store has no measurement of it, a guest is booted and the kernel measured.

    :param plan: a guest of this kernel; its memory does not matter.
    :param anew: measure also if it is in the store.
    :raises HarnessError: when it could not be measured; the evidence is then below the store's logs/.
    """
    module = build_module(store, kernel.root, MODULE, deadline)
    key = input_hash(
        {
            "recipe": RECIPE,
            "kernel": kernel.image.key,
            "module": module.key,
            "accelerator": plan.machine.accelerator,
            "append": plan.machine.append,
            "qemu": Path(find_program(plan.machine.qemu)),
        }
    )
    what = f"traits of {kernel.release}"

    def build(tree: Path) -> None:
        machine = dataclasses.replace(plan.machine, ram_mib=_RAM_MIB)
        _measure(store, kernel, module, dataclasses.replace(plan.bare, machine=machine), tree, deadline)

    if anew:
        store.forget("kernel-traits", key, deadline=deadline, what=what)
    traits = read_traits(store.get("kernel-traits", key, build, deadline=deadline, what=what).path)
    remember_traits(store, kernel, traits.honours(Way.NOIO_FLAGS))
    return traits


def read_traits(path: Path) -> KernelTraits:
    """The traits of a kernel, from the evidence of its measurement alone.

    :param path: directory of the measurement.
    :raises EvidenceError: when the evidence cannot be read.
    """
    try:
        report, console = ((path / name).read_bytes().decode(errors="replace") for name in (REPORT_FILE, CONSOLE_FILE))
    except OSError as error:
        raise EvidenceError(f"{path} is not a measurement of a kernel: {error.strerror}") from error
    return decide(parse_gfpprobe(report), console)


def _measure(store: Store, kernel: Kernel, module: Artefact, plan: GuestPlan, tree: Path, deadline: Deadline) -> None:
    """Leave the evidence in `tree`.

    :raises HarnessError: when it is not whole: an answer that is not known is not kept as one.
    """
    file = module.path / f"{MODULE}.ko"
    facts = {
        "schema_version": 1,
        "splvm": __version__,
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "argv": sys.argv,
        "kernel": kernel.facts(),
        "module": {"name": file.name, "sha256": sha256_of(file)},
        "accelerator": plan.machine.accelerator,
        **host_facts(),
    }
    (tree / FACTS_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8", errors="backslashreplace")
    try:
        with start_guest(plan, tree, deadline) as guest:
            (tree / REPORT_FILE).write_text(_collect(guest, file, deadline.sub(_MEASURE_S)), encoding="utf-8")
        if doubts := read_traits(tree).doubts:
            raise HarnessError("\n".join(doubts))
    except HarnessError as error:
        kept = _keep_failed(store, kernel, tree)
        raise HarnessError(
            f"{kernel.spec.id} ({kernel.release}) could not be measured: {error.message}\nevidence: {kept}",
            hint=error.hint,
        ) from error


def _collect(guest: Guest, module: Path, deadline: Deadline) -> str:
    """Load the module, which measures; its report."""
    with step("measuring"):
        guest.insert_module(module, deadline=deadline)
        report = guest.ssh.run(f"cat /proc/{MODULE}", deadline=deadline).stdout
        # The report comes by SSH; the console may take longer.
        guest.console.says(rf"{MODULE}: ends", deadline.sub(20))
        guest.ssh.run(f"rmmod {MODULE}", deadline=deadline)
    return report


def _keep_failed(store: Store, kernel: Kernel, tree: Path) -> Path:
    kept = store.root / "logs" / f"kernel-traits-{kernel.release}"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(tree, kept)
    return kept
