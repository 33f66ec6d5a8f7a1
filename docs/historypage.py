"""Writes history.md from the table of historic bugs. A test fails until history.md is up to date.

.venv/bin/python docs/historypage.py > docs/history.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from splvm.campaign.historybugs import Bug, history_table

_HEAD = (
    "# Bugs that SPL once had",
    "",
    "Made from `images/history/bugs.toml` by `docs/historypage.py`.",
    "",
    "A harness is worth what it would have found. The history of SPL's slab, its taskqs and its GFP flags was read "
    "(zfsonlinux/spl from 2008 to 2018, openzfs/zfs since then). Each fix of a bug that users or developers met is a "
    "row here. Where the code is still there, a semantic patch of our own writing puts the bug back into a source of "
    "today, and a scenario has to notice it: by the verdict and for the reason that were written down before the bug "
    "was first run.",
    "",
    "```sh",
    "./splvm history-bugs --list                        # the table",
    "./splvm history-bugs                               # all bugs, each on its kernel",
    "./splvm history-bugs 436ad60 --spl path:zfs        # one bug in your own tree",
    "./splvm history-bugs --kernel debian-13 --jobs 2   # those that mean something on this kernel",
    "```",
    "",
    "The command runs each scenario without the bug first: what is bad without it proves nothing. The exit status is 0 "
    "if each bug is noticed for the reason of its row. It is 1 if not, and 3 if there was trouble, for example because "
    "a patch does not fit the source. `history-bugs.json` in the directory of evidence has all of it "
    "([formats.md](formats.md)).",
    "",
    "14 rows were added on 2026-12-01. Bugs were chosen by their place in upstream's history, their reasons were "
    "written down, and each was run once. What the scenarios lacked to notice a bug was added to them, "
    "as a promise of SPL or as a bound of a number. Two reasons were written anew after the first "
    "run: cb81c0c was missed, because a stack without `WARNING` counts as nothing, and since then SPL must not warn of "
    "less than 64 KiB; and 0194e4a named another cache, because the kernel merges them. 0bb43ca and 36e4f18883 were "
    "missed, two runs and three: the steps `hurry` and `expire` keep a thread for 150 us just before it goes to sleep, "
    "and a timer just before it takes the lock, while both CPUs are busy, so that another CPU gets in between.",
    "",
    "What was seen on 2026-12-01 (loads of 5 to 8): each of the 14, and 500e95c, was noticed for the reason of its row "
    "in the last run of it, most in virtual time; 36e4f18883, cce83ba and a4134da2b2 in real time alone. Ten rows of "
    "taskqs that were there before were noticed again in both clocks. Stock: 44 of 44 runs of `taskqs`, `caches`, "
    "`hotplug` and `memory` in real time on debian-11 to -13 were `HEALTHY`. The other rows were not run again.",
    "",
    "What was seen on 2026-11-30, before that, beside other work (loads of 7 to 10), three runs of each row: 36 of the "
    "37 rows were noticed for the reason of their row in each run that came to a verdict. Two runs of e5473afe18 of "
    "six came to none, because the host did not answer the guest's SSH in time. 500e95c was noticed in two runs of "
    "three; the other one, with seed 1, was `SLOW`, and told of the reserves besides; it is asked by `reclaim-cycle` "
    "now, where each page table of a growth is looked at. The reason of 7257ec4 was written anew after its run: which "
    "call is named depends on which step comes first.",
    "",
    "Not asked: objects that are given to direct I/O or over TCP (a pair of sockets stands in for both); CPUs that are "
    "possible and never come (those that are away while a cache is made stand in for them); the text of "
    "/proc/spl/taskq (the probe compares what the file is printed from); and how many callers timed out with another "
    "cache than that of the critical threads, but that none does while only the latter's worker is held.",
    "",
    "Found on the way, in a packaged build and not put back: `spl_kmem_cache_destroy()` waits for a growth that is "
    "under way on a wait queue that nobody wakes. A caller that timed out and took an emergency object may destroy the "
    "cache before the growth ends, and then waits for ever (2.3.9 on debian-13, in real time on a busy host; the code "
    "is the same from 2.0 to master of August 2026). The scenarios wait for the growth themselves.",
    "",
    "And a bug that is not mended upstream: an unmarked thread calls `kmem_alloc(KM_SLEEP)`, `spl_kvmalloc()` gives "
    "`kvmalloc()` its flags with `__GFP_COMP`, and `kvmalloc()` hands them to vmalloc if memory lies in single pages. "
    "OpenZFS e5473afe18 took the flag away on the other way to vmalloc alone. Linux 7.2 takes larger blocks for "
    "vmalloc and splits them; with `__GFP_COMP` they are compound pages, and their fields stay in pages that are used "
    "for something else: `BUG: Bad page state ... page still charged to cgroup`, or without `check_pages=1` an oops "
    "in `lruvec_stat_mod_folio()` of whoever gets such a page (3 of 24 runs). `splvm run memory --kernel debian-sid "
    "--clock virtual` is `CRASHED` (6 of 6 seeds, SPL 2.4.4; master of August 2026 has the same call), and with "
    "`--spl-patch images/history/kvmalloc-without-comp.cocci` `HEALTHY` (6 of 6).",
    "",
    "## Bugs that are put back",
    "",
)

_NEVER = (
    "## Bugs that are not noticed",
    "",
    "Each row says why: what the code has become, or what it would take.",
    "",
)

_SPLAT = (
    "## SPLAT's cases",
    "",
    "SPLAT (module/splat of zfsonlinux/spl) asked SPL alone. It was not taken along when SPL became a part of OpenZFS "
    "(zfsonlinux/spl 5712fad, 2018). Each of its cases for memory and for taskqs has a row.",
    "",
)

# Number, name, what it asked, and what asks that today.
_KMEM = (
    ("1", "kmem_alloc", "sizes up to the largest give memory", "`memory`: promise given; `storm`: kmem"),
    ("2", "kmem_zalloc", "and it is zeroed", "`memory`: promise cleared"),
    ("3", "vmem_alloc", "the same of vmem_alloc()", "`memory`: promise given; `storm`: vmem"),
    ("4", "vmem_zalloc", "and it is zeroed", "`memory`: promise cleared"),
    ("5", "slab_small", "constructor and destructor of small objects", "`caches`: promise constructed, counts of both"),
    ("6", "slab_large", "constructor and destructor of large objects", "`caches`: the same of objects of 64 KiB"),
    ("7", "slab_align", "alignments from 8 to 4096", "`caches`: promise aligned, for 8, 256, 1024 and 4096"),
    ("8", "slab_reap", "reaping gives empty slabs back", "`caches`: no slab is left when all is given back and reaped"),
    (
        "9",
        "slab_age",
        "objects age out of magazines and slabs",
        "none: caches do not age since OpenZFS 4fbdb10c7b (2020)",
    ),
    ("10", "slab_lock", "many threads take and give back at once", "`caches`, `nominal --threads 16`"),
    (
        "11",
        "slab_overcommit",
        "objects for more than all memory are asked for: it reached the deadlock of the worker, and could bring the "
        "machine down, so it was switched off",
        "`reclaim-cycle`, `reclaim-organic`, `held-worker --load lowmem`: in a guest that may die",
    ),
    ("12", "-", "vmem_size()", "none: it went with splat's test of it in zfsonlinux/spl, and has no user in SPL"),
    (
        "13",
        "slab_reclaim",
        "the callback of a cache gives memory back in reclaim",
        "none: caches have no callback since OpenZFS 026e529cb3 (2020); `storm` reclaims at each allocation, and "
        "`caches` looks at what reclaim is told",
    ),
)
_TASKQ = (
    ("1", "single", "one task runs, by taskq_dispatch() and with an entry of the caller's", "`taskqs`: wait, entry"),
    ("2", "multiple", "several taskqs at once", "`taskqs`: eight of them, and one that is made and destroyed"),
    ("3", "system", "tasks of the system taskq", "`taskqs` on taskqs of its own kind (dynamic)"),
    ("4", "wait", "taskq_wait() again and again", "`taskqs`: wait, wait_empty"),
    (
        "5",
        "order",
        "taskq_wait_id() and taskq_wait_outstanding() in a certain order",
        "`taskqs`: wait_id, wait_outstanding",
    ),
    ("6", "front", "TQ_FRONT comes first", "`taskqs`: order"),
    ("7", "recurse", "tasks dispatch tasks", "`taskqs`: wait_empty, and nested, whose tasks wait for each other too"),
    ("8", "contention", "a hundred threads and many tasks", "`taskqs` has four threads in a taskq at most"),
    ("9", "delay", "delayed tasks run after their time", "`taskqs`: delay"),
    ("10", "cancel", "tasks are cancelled at random", "`taskqs`: cancel, before they run, while, and after"),
    ("11", "dynamic", "threads are made when they are needed", "`taskqs`: noqueue, nested, number of threads at rest"),
)


def history_page() -> str:
    """The whole page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    table = sorted(history_table(), key=lambda bug: (bug.year, bug.fix))
    able, never = [bug for bug in table if not bug.why_not], [bug for bug in table if bug.why_not]
    yield from _HEAD
    yield from _table(
        ("year", "fix", "what users saw", "kind", "put back by", "asked by", "noticed by"),
        [
            (
                str(bug.year),
                _fix(bug),
                bug.users_saw,
                bug.kind,
                f"`{bug.patch or bug.variant}`",
                _asked(bug),
                f"`{bug.outcome}`: `{bug.reason}`",
            )
            for bug in able
        ],
    )
    yield ""
    yield from _NEVER
    yield from _table(
        ("year", "fix", "what users saw", "kind", "why not"),
        [(str(bug.year), _fix(bug), bug.users_saw, bug.kind, bug.why_not) for bug in never],
    )
    yield ""
    yield from _SPLAT
    for name, rows in (("kmem", _KMEM), ("taskq", _TASKQ)):
        yield from _table((name, "name", "what it asked", "what asks it here"), rows)
        yield ""


def _fix(bug: Bug) -> str:
    return f"{'SPL' if bug.repository == 'spl' else 'OpenZFS'} {bug.fix}"


def _asked(bug: Bug) -> str:
    """The scenario, and what is not its own."""
    words = [f"`{bug.scenario}`", bug.kernel, "" if bug.clock == "virtual" else f"{bug.clock} time"]
    words += [f"--variant {bug.variant}"] if bug.patch and bug.variant != "stock" else []
    words += [f"{bug.workload.threads} threads, {bug.workload.objects} objects"] if bug.workload else []
    return ", ".join(word for word in words if word)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    yield from (f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)


if __name__ == "__main__":
    sys.stdout.write(history_page())
