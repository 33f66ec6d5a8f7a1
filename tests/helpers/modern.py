"""A simulated run as one of this version leaves it: what agent and probe tell besides since the stream is version 2."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from simulated import Run, simulate
from simulated_guest import GOOD, Knobs, Record
from simulated_kinds import CYCLE, ORGANIC

# Marks of a thread of SPL's taskq, and of one that has lost PF_MEMALLOC_NOIO, as seen on Debian 12's 6.1.
MARKED, UNMARKED = 0x288040, 0x208040
KERNEL = "kernel noio=0x80000 io=0x40 fs=0x80"
MIN_PAGES = 622
# What a guest in virtual time says last of all.
LET_IN = "[  999.101010] splvm: run"

# The marks of a thread, and the CPU time that it has had, by its name and the tick.
Flags = Callable[[str, int], int]
RunNs = Callable[[str, int], int]
# What a list of tasks said last of a thread, by its name: its line, the tick, and the CPU time.
Before = dict[str, tuple[str, int, int]]


def marked(comm: str, tick: int) -> int:
    return MARKED if comm.startswith("spl_kmem_cache") else UNMARKED


def bare(comm: str, tick: int) -> int:
    return UNMARKED


def steady(comm: str, tick: int) -> int:
    """Half of a CPU for the worker, and little for the others."""
    return (25_000_000 if comm.startswith("spl_kmem_cache") else 2_000_000) * tick


def modern(
    kind: str,
    knobs: Knobs = GOOD,
    *,
    flags: Flags | None = None,
    run_ns: RunNs = steady,
    growth: dict[str, bool | None] | None = None,
    kernel: str = KERNEL,
) -> Run:
    """A run, good unless knobs say otherwise.

    :param growth: what run.json says of how this SPL allocates.
    """
    # Who is caught in the trap is SPL as of 2012, on a kernel that ignores its flags.
    caught = kind in (CYCLE, ORGANIC)
    flags = flags or (bare if caught else marked)
    growth = growth or {"marked": not caught, "noio": not caught}
    run = simulate(kind, knobs)
    if not growth["marked"]:
        run.facts["spl"] = {**run.facts["spl"], "variant": "unscoped"}
    texts: dict[str, str] = {}
    before: Before = {}
    for record in run.records:
        if record["kind"] != "frame" or record["what"] not in ("data", "same"):
            continue
        source = record["source"]
        if source == "agent":
            record["text"] = record["text"].replace("hello version=1", "hello version=2")
        elif source in ("tasks", "probe"):
            text = texts[source] = record["text"] if record["what"] == "data" else texts[source]
            said = _tasks(text, record, flags, run_ns, before) if source == "tasks" else _probe(text, kernel)
            record.update(what="data", text=said)
    return replace(run, facts={**run.facts, "growth": growth})


def _tasks(text: str, record: Record, flags: Flags, run_ns: RunNs, before: Before) -> str:
    tick = record["tick"]

    def told(match: re.Match[str]) -> str:
        comm = match[1]
        line, then, time = before.get(comm, ("", tick, run_ns(comm, tick)))
        # Who sleeps, and was not switched to, has had no more of it.
        if line != match[0] or match[2] not in "SDI":
            time += run_ns(comm, tick) - run_ns(comm, then)
        before[comm] = (match[0], tick, time)
        return f"{match[0]} flags={flags(comm, tick)} run_ns={time}"

    return re.sub(r"^task pid=\d+ comm=(\S+) state=(\S) .*$", told, text, flags=re.MULTILINE)


def _probe(text: str, kernel: str) -> str:
    text = re.sub(r"^(pressure .*)$", rf"\1 min={MIN_PAGES}", text, flags=re.MULTILINE)
    if "\npressure " not in text:
        text = text.replace(
            "\nrun ", f"\npressure on=0 held=0 taken=0 given=0 refused=0 free=90000 min={MIN_PAGES}\nrun ", 1
        )
    return text.replace("\nconfig ", f"\n{kernel}\nconfig ", 1) if kernel else text


def in_virtual_time(run: Run) -> Run:
    """The same, as of a guest whose time is the number of its instructions."""
    last = [record["text"] for record in run.records if record.get("source") == "slab" and record["what"] == "data"][-1]
    afterwards = {"kind": "afterwards", "source": "slab", "text": last, "at_s": 60.0}
    facts = {**run.facts, "parameters": {**run.facts["parameters"], "clock": "virtual", "seed": 1}}
    # The word of the run comes once the host is let in, after the last reading.
    console = run.console.replace("splvm: clone is awake\n", "").replace("[    4.101010] splvm: run", LET_IN)
    closed = len(console.partition(LET_IN)[0])
    facts["outcome"] = {**facts["outcome"], "closed_bytes": closed, "console_bytes": len(console)}
    return replace(run, facts=facts, records=[*run.records, afterwards], console=console)
