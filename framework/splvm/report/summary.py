"""A verdict in ten seconds of reading, for a terminal.

Everything that came out of a guest is put in as plain text: no markup, no control characters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from sparklines import sparklines

from splvm.evidence.verdict import Verdict
from splvm.record.treefacts import describe_modules, describe_tree
from splvm.report.done import critical_threads
from splvm.report.looks import LOOKS

# What the durations of allocations are told of.
_LATENCY = {
    "all": "{} allocations",
    "waited": "{} of them slept until the worker had grown the cache",
    "woken": "from the end of the growth to their return",
}

# Columns of the slab file that tell the story.
_COLUMNS = ("flags", "slabs", "objects", "in use", "dlock", "emergency", "max")


def summarize(
    verdict: Verdict, facts: Mapping[str, Any], where: str, *, expected: bool | None = None, remark: str = ""
) -> Panel:
    """The summary of one run.

    :param facts: run.json.
    :param where: the run's directory, as the user may type it.
    :param expected: whether this is the verdict that was expected; None when that is not known.
    :param remark: what it says beside the verdict of the packaged build.
    """
    style = LOOKS[verdict.outcome].colour
    note = {True: " (as expected)", False: " (NOT as expected)", None: ""}[expected]
    head = Text.assemble((verdict.outcome.value, f"bold {style}"), note)
    if remark:
        head.append(f"\n  {plain(remark)}")
    # What is good is in the table below; what is not needs its reasons.
    reasons = () if verdict.outcome.is_good else verdict.reasons
    for reason in reasons[:4]:
        head.append(f"\n  {plain(reason.text)}")
    if len(reasons) > 4:
        head.append(f"\n  ... and {len(reasons) - 4} more in verdict.json")
    for names, tree in _trees(facts):
        head.append(f"\n  {plain(f'{names} of {tree}')}")
    boots = facts.get("boots")
    if isinstance(boots, int) and boots > 1:
        head.append(f"\n  the guest fell silent while it booted, and was booted {boots} times (console-1.log)")
    parts: list[RenderableType] = [head]
    parts += [part for part in (_facts_table(verdict.figures), _slab_table(verdict.figures), _plot(verdict)) if part]
    if verdict.digest:
        parts.append(Text(f"digest: {verdict.digest[:16]}, in virtual time with seed {_seed(facts)}"))
    parts.append(Text(f"evidence: {plain(where)}", style="dim"))
    return Panel(Group(*parts), title=Text(plain(title(facts))), title_align="left", border_style=style)


def _seed(facts: Mapping[str, Any]) -> str:
    return plain(str(_part(facts, "parameters").get("seed")))


def title(facts: Mapping[str, Any]) -> str:
    """Scenario, kernel and variant of a run."""
    kernel, spl = _part(facts, "kernel"), _part(facts, "spl")
    release = f"{kernel.get('id')} ({kernel.get('release')})"
    build = f"SPL {spl.get('version')} {spl.get('variant')}"
    patches = "".join(f" + {patch['name']}" for patch in _patches(spl))
    return f"{facts.get('scenario')} on {release}, {build}{patches}"


def verdict_line(verdict: Verdict, facts: Mapping[str, Any]) -> str:
    """The last line on stdout: `VERDICT scenario kernel variant reason`, and the user's tree in brackets."""
    kernel, spl = _part(facts, "kernel"), _part(facts, "spl")
    words = (verdict.outcome.value, facts.get("scenario"), kernel.get("id"), spl.get("variant"))
    line = plain(" ".join(str(word) for word in words) + f" {verdict.reasons[0].text}")
    tree = describe_tree(facts)
    return f"{line} [{plain(tree)}]" if tree else line


def _trees(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names of modules, and what they are of."""
    by_tree: dict[str, list[str]] = {}
    for module, tree in describe_modules(facts):
        by_tree.setdefault(tree, []).append(module)
    yield from ((" and ".join(modules), tree) for tree, modules in by_tree.items())


def _part(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of run.json, which may be damaged."""
    part = facts.get(name)
    return part if isinstance(part, dict) else {}


def _patches(spl: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    patches = spl.get("patches")
    return (it for it in (patches if isinstance(patches, list) else ()) if isinstance(it, dict) and "name" in it)


def plain(text: str) -> str:
    """One line without control characters, at most 500 long."""
    line = "".join(char if char.isprintable() else " " for char in text)
    return line if len(line) <= 500 else line[:499] + "…"


def _facts_table(figures: Mapping[str, Any]) -> RenderableType | None:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    for name, value in _facts(figures):
        table.add_row(name, Text(plain(value)))
    return table if table.row_count else None


def _facts(figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    worker = figures.get("worker")
    if worker and worker.get("stack"):
        held = f" for {worker['held_s']:.1f} s" if "held_s" in worker else ""
        switches = worker.get("switches", [])
        still = "not one context switch" if len(switches) == 1 else f"context switches {switches[0]} to {switches[-1]}"
        stack = " <- ".join(worker["stack"][:2])
        yield worker.get("how", "held"), f"{worker.get('comm')} (pid {worker['pid']}){held} in {stack}; {still}"
    trap = figures.get("trap")
    if trap:
        yield (
            "trap",
            f"sprung {trap['sprung']} times, declined {trap['declined']}, entered {trap['entered']} "
            f"(last GFP mask {trap['gfp']:#x}); {trap['commits']} transactions in the window, "
            f"{trap['carried']} of them with emergency objects",
        )
    if figures.get("threads"):
        size = f"{figures['object_size'] // 1024} KiB"
        yield (
            "meanwhile",
            f"{critical_threads(figures['threads'])} got {figures['objects']} objects of {size} in the window "
            f"({figures['objects_per_s']:.0f}/s), "
            f"{figures['emergency_objects']} of them emergency objects",
        )
    if figures.get("longest_gap_ms"):
        yield "longest gap", f"{figures['longest_gap_ms']} ms between two allocations of a thread"
    for kind, what in _LATENCY.items():
        told = figures.get("latency", {}).get(kind)
        if told:
            shares = ", ".join(f"{name} {duration(ns)}" for name, ns in told["under_ns"].items())
            yield "latency" if kind == "all" else kind, f"{what.format(told['count'])}: under {shares}"
    magazines = figures.get("magazines")
    if magazines and magazines["hits"] + magazines["refills"] > 0:
        share = magazines["hits"] / (magazines["hits"] + magazines["refills"])
        yield (
            "magazines",
            f"{share:.1%} of the objects came from that of the CPU; {magazines['refills']} refills, "
            f"for {magazines['grew']} of them the cache grew; {magazines['reused']} of {magazines['reusable']} "
            f"objects that were given back were there again",
        )
    if "free_ns" in figures:
        costs = ", ".join(f"{cost / 1000:.2f} us with {count}" for count, cost in figures["free_ns"].items())
        yield "free", f"{costs} objects kept"
    yield from _loads(figures.get("loads", {}))
    if "txgs" in figures:
        txgs = figures["txgs"]
        yield "pool", f"{txgs['synced']} txgs were synced in the window, the last one is {txgs['last']}"
    if "recovery_ms" in figures:
        yield "recovery", f"{figures['recovery_ms']} ms after the release"


def _loads(loads: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, it in loads.get("levels", {}).items():
        done = f"; {it['done_kib_per_s'] / 1024:.1f} MiB/s" if "done_kib_per_s" in it else ""
        asked = f"{it['low']} and more" if it["high"] is None else f"{it['low']} to {it['high']}"
        yield "load", f"{name}: {it['min']} to {it['max']} {it['unit']} ({asked} asked for){done}"
    if "memory" in loads:
        memory = loads["memory"]
        yield (
            "memory",
            f"{memory['available_kib'] // 1024} MiB available, {memory['free_kib'] // 1024} MiB free (medians); tasks "
            f"waited for it {memory['some']:.1%} of the time, all of them {memory['full']:.1%}; "
            f"{memory['scanned']} pages scanned by kswapd, {memory['scanned_direct']} by direct reclaim",
        )


def duration(ns: int) -> str:
    """Three digits of it, in a unit that people read."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if ns >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns} ns"


def in_unit(value: float, unit: str) -> str:
    """A figure as people read it."""
    return duration(round(value)) if unit == "ns" else f"{value:.5g} {unit}".rstrip()


def _slab_table(figures: Mapping[str, Any]) -> RenderableType | None:
    rows: Mapping[str, Any] = figures.get("slab", {})
    if not rows:
        return None
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("slab file")
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    for when, row in rows.items():
        table.add_row(when, *(Text(plain(cell)) for cell in _slab_cells(row)))
    return table


def _slab_cells(row: Mapping[str, Any]) -> Sequence[str]:
    slab, objects, emergency = row["slab"], row["object"], row["emergency"]
    values = (
        slab["total"],
        objects["total"],
        objects["alloc"],
        emergency["dlock"],
        emergency["alloc"],
        emergency["max"],
    )
    # That the cache is of vmalloc says its scenario.
    states = [state for state in row.get("states", ()) if state != "kvmem"]
    return (" ".join((*states, f"{row['flags']:#07x}")), *("-" if value is None else str(value) for value in values))


def _plot(verdict: Verdict) -> RenderableType | None:
    series: Mapping[str, Any] = verdict.figures.get("series", {})
    if not series or verdict.figures.get("threads") == 0:
        return None
    table = Table.grid(padding=(0, 2))
    seconds = len(series["emergency"]) * series["step_s"]
    for name, key, unit in (("emergency", "emergency", "in use"), ("objects", "objects_per_s", "per s")):
        values = series[key]
        line = sparklines(values, minimum=0, maximum=max(1, *values))[0]
        table.add_row(Text(name, style="bold"), line, f"0 to {max(values):.0f} {unit}, {seconds:.1f} s")
    return table
