"""The files of one run's directory.

::

    run.json       what was run on what, how it ended, and size and hash of every file of evidence, itself included
    samples.jsonl  one record a line: frames of the agent, the host's own readings, phases
    console.log    what the guest said on its serial console (written by QEMU)
    qemu.log       QEMU's command line and output
    harness.log    what the harness did
    sysrq.txt      what the kernel listed when the harness asked for it by SysRq; these three only if they were taken
    registers.txt  registers of the virtual CPUs
    memory.kdump   the guest's memory
    console-1.log  of a first boot that fell silent, so that there was a second; not evidence
    verdict.json   the verdict; not evidence

Everything is flushed as it comes. `run.json` is written at the start and again at the end; a run whose end is missing
was cut off.
"""

from __future__ import annotations

SCHEMA_VERSION = 1

RUN_FILE = "run.json"
SAMPLES_FILE = "samples.jsonl"
CONSOLE_FILE = "console.log"
FIRST_CONSOLE_FILE = "console-1.log"
QEMU_FILE = "qemu.log"
HARNESS_FILE = "harness.log"
SYSRQ_FILE = "sysrq.txt"
REGISTERS_FILE = "registers.txt"
DUMP_FILE = "memory.kdump"
VERDICT_FILE = "verdict.json"

# The files a verdict rests on, besides run.json, which has their hashes.
EVIDENCE_FILES = (SAMPLES_FILE, CONSOLE_FILE, QEMU_FILE, HARNESS_FILE)

# What is taken of a guest in trouble; some runs have it.
TAKEN_FILES = (SYSRQ_FILE, REGISTERS_FILE, DUMP_FILE)
