"""Findings in a kernel's console."""

from __future__ import annotations

import json
import lzma
import re
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from places import PROJECT
from splvm.evidence.formats.kerncomplaints import BENIGN, FindingKind
from splvm.evidence.formats.kernlog import MAX_FRAMES, MAX_PER_KIND, Finding, LogScanner, scan_kernel_log

FUZZ = settings(deadline=None, max_examples=200, derandomize=True)

DATA = (PROJECT / "tests" / "data") / "kernlog"
# What only the wide reading finds all of is in a directory of its own.
LOGS = {path.stem: path.read_text() for path in sorted(DATA.rglob("*.log"))}
K = FindingKind

# What each recorded console must give: kind, line, the beginning of the title, and the first
# functions of the trace.
EXPECTED: dict[str, list[tuple[FindingKind, int, str, tuple[str, ...]]]] = {
    "benign": [
        (K.WARNING, 1, "WARNING: timekeeping: Cycle offset", ()),
        (K.WARNING, 3, "WARNING: can't access registers", ()),
        (K.WARNING, 4, "BUG: MAX_LOCKDEP_ENTRIES too low!", ()),
    ],
    "bug": [
        (
            K.BUG,
            2,
            "kernel BUG at mm/vmalloc.c:2891!",
            ("__get_vm_area_node", "__vmalloc_node_range", "__vmalloc_node"),
        ),
        (K.BUG, 20, "BUG: Bad rss-counter state", ()),
    ],
    "clean": [],
    "double-fault": [
        (K.OOPS, 3, "double fault: 0000 [#1]", ("spl_slab_alloc", "spl_kmem_cache_alloc", "kthread")),
        (K.PANIC, 14, "PANIC: double fault, error_code: 0x0", ()),
    ],
    "hard-lockup": [
        (
            K.HARD_LOCKUP,
            1,
            "watchdog: Watchdog detected hard LOCKUP on cpu 1",
            ("native_queued_spin_lock_slowpath", "_raw_spin_lock_irqsave", "spl_cache_flush", "taskq_thread"),
        )
    ],
    "hung-task": [
        (K.HUNG_TASK, 1, "INFO: task txg_quiesce:901 blocked", ("__schedule", "schedule", "cv_wait_common")),
        (K.HUNG_TASK, 17, "INFO: task zvol:1044 blocked", ("__schedule", "schedule", "schedule_preempt_disabled")),
        (K.HUNG_TASK, 34, "INFO: task dd:1190 blocked in I/O wait", ("__schedule", "io_schedule")),
    ],
    "kasan": [(K.KASAN, 2, "BUG: KASAN: use-after-free in spl_emergency", ("dump_stack_lvl", "print_report"))],
    "kcsan": [(K.WARNING, 2, "BUG: KCSAN: data-race in spl_cache_grow+0x1d4", ("spl_cache_grow_work", "taskq_thread"))],
    "lockdep": [
        (K.LOCKDEP, 3, "WARNING: possible circular locking", ("dump_stack_lvl", "check_noncircular", "__lock_acquire"))
    ],
    "oom-kill": [
        (K.OOM_KILL, 1, "eater invoked oom-killer: gfp_mask=0x140dca", ("dump_stack_lvl", "dump_header")),
        (K.OOM_KILL, 22, "Memory cgroup out of memory: Killed process 341", ()),
    ],
    "oops": [
        (
            K.OOPS,
            2,
            "BUG: kernel NULL pointer dereference, address: 0000000000000018",
            (
                "spl_emergency_free",
                "spl_kmem_cache_free",
                "critical_round",
                "critical_main",
                "kthread",
                "ret_from_fork",
            ),
        )
    ],
    "oops-gpf": [
        (
            K.OOPS,
            2,
            "Oops: general protection fault, probably for non-canonical address",
            ("spl_slab_alloc", "__spl_cache_grow", "spl_cache_grow_work", "taskq_thread"),
        )
    ],
    "page-alloc-failure": [
        (K.PAGE_ALLOC_FAILURE, 1, "kworker/0:2: page allocation failure: order:4", ("dump_stack_lvl", "warn_alloc")),
        (K.PAGE_ALLOC_FAILURE, 14, "spl_kmem_cache: vmalloc error: size 528384", ()),
    ],
    "panic": [
        (K.PANIC, 3, "Kernel panic - not syncing: Attempted to kill init!", ("dump_stack_lvl", "panic", "do_exit"))
    ],
    "rcu-stall": [
        (K.RCU_STALL, 1, "rcu: INFO: rcu_preempt self-detected stall", ("spl_emergency_search", "spl_emergency_free")),
        (K.RCU_STALL, 15, "rcu: INFO: rcu_sched detected expedited stalls", ()),
    ],
    "refcount": [
        (K.WARNING, 3, "WARNING: CPU: 0 PID: 77 at lib/refcount.c:28", ("refcount_warn_saturate", "probe_put")),
        (K.WARNING, 12, "refcount_t: addition on 0; use-after-free.", ()),
    ],
    "soft-lockup": [
        (K.SOFT_LOCKUP, 1, "watchdog: BUG: soft lockup - CPU#1", ("spl_emergency_search", "spl_emergency_free")),
        (K.PANIC, 18, "Kernel panic - not syncing: softlockup: hung tasks", ()),
    ],
    "spl-panic": [
        (
            K.PANIC,
            1,
            "VERIFY3(skc->skc_magic == SKC_MAGIC) failed",
            ("dump_stack_lvl", "spl_panic", "spl_kmem_cache_free"),
        )
    ],
    "spl-panic-0.6": [
        (K.PANIC, 1, "VERIFY3(skc->skc_magic == SKC_MAGIC) failed", ("spl_debug_dumpstack", "spl_debug_bug")),
        (K.PANIC, 8, "SPLError: 3160:0:(spl-err.c:67:vcmn_err()) PANIC", ()),
    ],
    "spl-panic-prefixed": [
        (K.PANIC, 1, "VERIFY3U(zio->io_size, ==, size) failed (4096 == 8192)", ("dump_stack_lvl", "spl_panic"))
    ],
    "ubsan": [(K.WARNING, 2, "UBSAN: array-index-out-of-bounds in /build", ("dump_stack_lvl", "ubsan_epilogue"))],
    "unexpected-gfp": [(K.UNEXPECTED_GFP, 1, "Unexpected gfp: 0x2", ("dump_stack_lvl", "kmalloc_fix_flags"))],
    "unexpected-gfp-vmalloc": [
        (K.UNEXPECTED_GFP, 2, "Unexpected gfp: 0x2 (__GFP_HIGHMEM)", ("vmalloc_fix_flags", "__vmalloc_noprof")),
        (K.UNEXPECTED_GFP, 15, "Unexpected gfp: 0x2 (__GFP_HIGHMEM)", ("vmalloc_fix_flags", "__vmalloc_noprof")),
    ],
    "warning": [
        (K.WARNING, 2, "WARNING: CPU: 1 PID: 412 at kernel/kthread.c:659", ("kthread_park", "probe_threads_want"))
    ],
    "warning-6.19": [
        (K.WARNING, 3, "WARNING: mm/list_lru.c:88 at list_lru_add+0x3f", ("list_lru_add", "probe_shrink_scan"))
    ],
    "workqueue-lockup": [(K.WORKQUEUE_LOCKUP, 1, "BUG: workqueue lockup - pool cpus=0", ())],
}


def essence(findings: tuple[Finding, ...]) -> list[tuple[FindingKind, str, tuple[str, ...], str]]:
    """What of the findings must not depend on how the console was recorded."""
    return [(f.kind, f.title, f.frames, f.fingerprint) for f in findings]


def test_every_recorded_console_is_expected() -> None:
    assert sorted(LOGS) == sorted(EXPECTED)
    assert {kind for rows in EXPECTED.values() for kind, *_ in rows} == set(FindingKind)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_recorded_console(name: str) -> None:
    findings = scan_kernel_log(LOGS[name])
    assert [(f.kind, f.line) for f in findings] == [(kind, line) for kind, line, _, _ in EXPECTED[name]]
    for finding, (_, line, title, frames) in zip(findings, EXPECTED[name], strict=True):
        assert finding.title.startswith(title)
        assert finding.frames[: len(frames)] == frames
        assert bool(finding.frames) == bool(frames)
        stamp = re.match(r"\[ *([0-9.]+)\]", LOGS[name].splitlines()[line - 1])
        assert stamp is not None
        assert finding.time_s == float(stamp[1])
        assert finding.benign == (name == "benign")


def test_what_is_fatal() -> None:
    assert {kind for kind in FindingKind if kind.fatal} == {K.PANIC, K.OOPS, K.BUG, K.LOCKDEP, K.KASAN}
    assert [finding.fatal for finding in scan_kernel_log(LOGS["soft-lockup"])] == [False, True]


def test_the_whole_trace_and_nothing_but_the_trace() -> None:
    (oops,) = scan_kernel_log(LOGS["oops-gpf"])
    assert oops.frames[-3:] == ("kthread", "ret_from_fork", "ret_from_fork_asm")
    assert "idle_noise" not in oops.frames
    (kasan,) = scan_kernel_log(LOGS["kasan"])
    assert kasan.frames[-1] == "spl_kmem_cache_free"
    assert "spl_emergency_alloc" not in kasan.frames
    (lockdep,) = scan_kernel_log(LOGS["lockdep"])
    assert "fs_reclaim_acquire" not in lockdep.frames


# How a console was recorded makes no difference


def stripped(text: str) -> str:
    return re.sub(r"(?m)^\[[ 0-9.]+\](\[ *[TC]\d+\])? ", "", text)


RECORDED: dict[str, Callable[[str], str]] = {
    "without time stamps": stripped,
    "with caller ids": lambda text: re.sub(r"(?m)^(\[[ 0-9.]+\])(?!\[)", r"\1[  T412]", text),
    "with levels": lambda text: re.sub(r"(?m)^", "<4>", text),
    "with CR LF": lambda text: text.replace("\n", "\r\n"),
    "with doubled CR": lambda text: text.replace("\n", "\r\r\n"),
    "with colours": lambda text: re.sub(r"(?m)^(.*)$", "\x1b[1;33m\\1\x1b[0m\x1b[K", text),
    "with NULs": lambda text: "\0".join(text),
    "after firmware": lambda text: "\x1bc\x1b[?7l\x1b[2JSeaBIOS (version 1.16.2)\r\n\x1b]0;title\x07" + text,
    "after a prompt": lambda text: re.sub(r"(?m)^\[", "~ # [", text),
}


# Without caller ids, nothing tells the noise of another CPU in this log apart.
NEEDS_CALLERS = ("oops-gpf", "without time stamps")


@pytest.mark.parametrize(
    ("name", "how"), [pair for name in EXPECTED for how in RECORDED if (pair := (name, how)) != NEEDS_CALLERS]
)
def test_how_it_was_recorded(name: str, how: str) -> None:
    assert essence(scan_kernel_log(RECORDED[how](LOGS[name]))) == essence(scan_kernel_log(LOGS[name]))


def test_lines_without_a_time_stamp_have_no_time() -> None:
    (finding,) = scan_kernel_log(stripped(LOGS["warning"]))
    assert finding.time_s is None


def test_a_panic_in_the_middle_of_a_line_of_userland() -> None:
    (finding,) = scan_kernel_log("Starting the load... Kernel panic - not syncing: stack-protector\n")
    assert (finding.kind, finding.title) == (K.PANIC, "Kernel panic - not syncing: stack-protector")


def test_guests_booted_one_after_the_other() -> None:
    boot = LOGS["clean"].splitlines()[0] + "\n"
    both = "".join(boot + text for text in LOGS.values())
    assert essence(scan_kernel_log(both)) == [row for text in LOGS.values() for row in essence(scan_kernel_log(text))]


# Which messages are findings


MESSAGES = [
    ("Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)", K.PANIC),
    ("PANIC: zfs: allocating allocated segment(offset=1 size=2)", K.PANIC),
    ("PANIC at dmu.c:1043:dmu_write()", K.PANIC),
    ("VERIFY0(sa_update(zp->z_sa_hdl)) failed (0 == 28)", K.PANIC),
    ("ASSERT3U(a, <, b) failed (1 < 0)", K.PANIC),
    ("BUG: unable to handle page fault for address: ffffc90000a1c000", K.OOPS),
    ("BUG: unable to handle kernel paging request at ffffc90000a1c000", K.OOPS),
    ("general protection fault, probably for non-canonical address 0x1: 0000 [#1] SMP", K.OOPS),
    ("divide error: 0000 [#1] SMP PTI", K.OOPS),
    ("Oops: 0002 [#3] PREEMPT SMP", K.OOPS),
    ("Unable to handle kernel paging request at virtual address 0000", K.OOPS),
    ("BUG: sleeping function called from invalid context at mm/vmalloc.c:3180", K.BUG),
    ("BUG: scheduling while atomic: slabprobe/0/213/0x00000002", K.BUG),
    ("BUG: Bad page state in process eater  pfn:0a1b2", K.BUG),
    ("BUG kmalloc-64 (Tainted: G           OE): Poison overwritten", K.BUG),
    ("BUG: KFENCE: use-after-free read in f+0x1/0x2", K.KASAN),
    ("BUG: KMSAN: uninit-value in f+0x1/0x2", K.KASAN),
    ("BUG: KCSAN: data-race in f / g", K.WARNING),
    ("UBSAN: array-index-out-of-bounds in mm/slub.c:1:2", K.WARNING),
    ("WARNING: at f+0x1/0x2, CPU#0: sh/1", K.WARNING),
    ("WARNING: [ptr == 0] kernel/sched/core.c:8511 at f+0x20/0x410, CPU#0: swapper/0", K.WARNING),
    ("WARNING: CPU: 0 PID: 1 at arch/x86/mm/dump_pagetables.c:248 note_wx+0x1/0x2", K.WARNING),
    ("NMI watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [sh:1]", K.SOFT_LOCKUP),
    ("watchdog: CPU3: Watchdog detected hard LOCKUP on cpu 3", K.HARD_LOCKUP),
    ("INFO: rcu_sched self-detected stall on CPU { 0}  (t=6000 jiffies)", K.RCU_STALL),
    ("rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", K.RCU_STALL),
    ("INFO: rcu_tasks detected stalls on tasks:", K.RCU_STALL),
    ("INFO: task kworker/u4:2:88 blocked for more than 241 seconds.", K.HUNG_TASK),
    ("WARNING: possible recursive locking detected", K.LOCKDEP),
    ("WARNING: inconsistent lock state", K.LOCKDEP),
    ("WARNING: SOFTIRQ-safe -> SOFTIRQ-unsafe lock order detected", K.LOCKDEP),
    ("WARNING: suspicious RCU usage", K.LOCKDEP),
    ("[ BUG: Invalid wait context ]", K.LOCKDEP),
    ("INFO: trying to register non-static key.", K.LOCKDEP),
    ("Out of memory: Killed process 330 (eater) total-vm:392084kB", K.OOM_KILL),
    ("Out of memory (oom_kill_allocating_task): Killed process 1 (a)", K.OOM_KILL),
    ("Out of memory: Kill process 330 (eater) score 1 or sacrifice child", K.OOM_KILL),
    ("vmalloc: allocation failure, allocated 4096 of 528384 bytes", K.PAGE_ALLOC_FAILURE),
    ("sh: vmalloc: allocation failure: 528384 bytes, mode:0xcc0(GFP_KERNEL)", K.PAGE_ALLOC_FAILURE),
    ("SLUB: Unable to allocate memory on node -1, gfp=0x920(GFP_ATOMIC|__GFP_ZERO)", K.PAGE_ALLOC_FAILURE),
]


@pytest.mark.parametrize(("message", "kind"), MESSAGES)
def test_messages(message: str, kind: FindingKind) -> None:
    (finding,) = scan_kernel_log(f"[    1.000000] quiet before\n[    2.500000] {message}\n[    3.000000] quiet after\n")
    assert (finding.kind, finding.title, finding.line, finding.time_s) == (kind, message, 2, 2.5)


# Complaints that may stand anywhere in a line, by the wide reading.
ANYWHERE = [
    ("PANIC: double fault, error_code: 0x0", K.PANIC),
    ("PANIC at dmu.c:1043:dmu_write()", K.PANIC),
    ("Kernel panic - not syncing: softlockup: hung tasks", K.PANIC),
    ("VERIFY(zp != NULL) failed", K.PANIC),
    ("VERIFY0(sa_update(zp->z_sa_hdl)) failed (28)", K.PANIC),
    ("VERIFY0P(db->db_buf) failed (00000000deadbeef)", K.PANIC),
    ("VERIFY3(a == b) failed (1 == 0)", K.PANIC),
    ("VERIFY3B(a, ==, b) failed (1 == 0)", K.PANIC),
    ("VERIFY3U(BP_GET_LSIZE(bp), ==, size) failed (1 == 0) of VERY much", K.PANIC),
    ("ASSERTION(spin_is_locked(&skc->skc_lock)) failed", K.PANIC),
    ("SPLError: 5:0:(dmu.c:3:f()) SPL PANIC", K.PANIC),
    ("SPLError: 5:0:(spl-err.c:67:vcmn_err()) PANIC", K.PANIC),
    ("zfs: PANIC: blkptr at 0 has invalid CHECKSUM", K.PANIC),
    ("BUG: unable to handle page fault for address: ffffc90000a1c000", K.OOPS),
    ("BUG: kernel NULL pointer dereference, address: 0000000000000018", K.OOPS),
    ("Unable to handle kernel paging request at virtual address 0", K.OOPS),
    ("Oops: 0002 [#3] PREEMPT SMP", K.OOPS),
    ("general protection fault, probably for non-canonical address 0x1: 0000 [#1] SMP", K.OOPS),
    ("double fault: 0000 [#1] SMP", K.OOPS),
    ("kernel BUG at mm/vmalloc.c:2891!", K.BUG),
    ("BUG: sleeping function called from invalid context at mm/vmalloc.c:3180", K.BUG),
    ("BUG: scheduling while atomic: slabprobe/0/213/0x00000002", K.BUG),
    ("BUG: Bad page state in process eater  pfn:0a1b2", K.BUG),
    ("BUG: Bad rss-counter state mm:0", K.BUG),
    ("BUG: spinlock bad magic on CPU#0, sh/1", K.BUG),
    ("BUG: TASK stack guard page was hit at 0", K.BUG),
    ("BUG: using smp_processor_id() in preemptible [00000000] code: sh/1", K.BUG),
    ("usercopy: Kernel memory exposure attempt detected from SLUB object", K.BUG),
    ("BUG: KASAN: use-after-free in f+0x1/0x2", K.KASAN),
    ("BUG: KFENCE: use-after-free read in f+0x1/0x2", K.KASAN),
    ("BUG: soft lockup - CPU#0 stuck for 22s! [sh:1]", K.SOFT_LOCKUP),
    ("Watchdog detected hard LOCKUP on cpu 3", K.HARD_LOCKUP),
    ("BUG: workqueue lockup - pool cpus=0", K.WORKQUEUE_LOCKUP),
    ("INFO: rcu_sched self-detected stall on CPU { 0}  (t=6000 jiffies)", K.RCU_STALL),
    ("INFO: rcu_preempt self-detected stall on CPU", K.RCU_STALL),
    ("INFO: rcu_preempt detected stalls on CPUs/tasks:", K.RCU_STALL),
    ("INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 0-... } 22 jiffies", K.RCU_STALL),
    ("INFO: rcu_tasks_trace detected stalls on tasks:", K.RCU_STALL),
    ("INFO: task txg_sync:901 blocked for more than 241 seconds.", K.HUNG_TASK),
    ("INFO: task dd:1190 blocked in I/O wait for more than 241 seconds.", K.HUNG_TASK),
    ("UBSAN: Undefined behaviour in mm/slub.c:1:2", K.WARNING),
    ("UBSAN: array-index-out-of-bounds in mm/slub.c:1:2", K.WARNING),
    ("UBSAN: array index out of bounds at f+0x1/0x2", K.WARNING),
    ("BUG: KCSAN: data-race in f / g", K.WARNING),
    ("BUG: KCSAN: assert: race in f+0x1/0x2", K.WARNING),
    ("refcount_t: saturated; leaking memory.", K.WARNING),
    ("refcount_t: decrement hit 0; leaking memory.", K.WARNING),
    ("list_del corruption, 0->next is LIST_POISON1 (0)", K.WARNING),
    ("WARNING: CPU: 0 PID: 1 at mm/slub.c:1 f+0x1/0x2", K.WARNING),
    ("WARNING: mm/list_lru.c:88 at list_lru_add+0x3f/0x1, CPU#1: sh/1", K.WARNING),
    ("WARNING: possible circular locking dependency detected", K.LOCKDEP),
    ("INFO: trying to register non-static key.", K.LOCKDEP),
    ("Unexpected gfp: 0x2 (__GFP_HIGHMEM). Fixing up", K.UNEXPECTED_GFP),
    ("page allocation failure: order:4, mode:0xcc0(GFP_KERNEL)", K.PAGE_ALLOC_FAILURE),
    ("invoked oom-killer: gfp_mask=0x140dca", K.OOM_KILL),
]

# What may stand before it, or around it.
BEFORE: dict[str, Callable[[str], str]] = {
    "nothing": lambda text: text,
    "a stamp": lambda text: f"[    2.500000] {text}",
    "a module": lambda text: f"[    2.500000] zfs: {text}",
    "another part of the kernel": lambda text: f"[    2.500000] traps: {text}",
    "text": lambda text: f"Starting the load... {text}",
    "text and a level": lambda text: f"Starting the load... <0>{text}",
    "much text": lambda text: "." * 5000 + text,
    "much text and a stamp": lambda text: "." * 5000 + f"[    2.500000] {text}",
    "a message without its end": lambda text: f"[    2.400000] spl: loading [    2.500000] {text}",
    "dmesg -T": lambda text: f"[Mon Nov 30 08:35:07 2026] {text}",
    "dmesg -d": lambda text: f"[    2.500000 <    0.000012>] {text}",
    "dmesg -e": lambda text: f"[Nov30 08:35] {text}",
    "dmesg, ISO": lambda text: f"2026-11-30T08:35:07,123456+00:00 {text}",
    "a journal": lambda text: f"Nov 30 08:35:07 debian kernel: {text}",
    "a title that nothing ends": lambda text: f"\x1b]0;root@debian: ~{text}",
    "a title and a stamp": lambda text: f"\x1b]0;root@debian[    2.500000] {text}",
    "a title that a line ends": lambda text: f"\x1b]0;root@debian: {text}\r\n\x07",
}


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize(("message", "kind"), ANYWHERE)
def test_messages_anywhere_in_a_line(message: str, kind: FindingKind, before: str) -> None:
    text = f"quiet before\n{BEFORE[before](message)}\nquiet after\n"
    (finding,) = scan_kernel_log(text)
    assert (finding.kind, finding.line) == (kind, 2)
    assert finding.title.endswith(message)


@pytest.mark.parametrize("before", ["much text and a stamp", "dmesg -T", "a title and a stamp", "a journal"])
def test_every_message_behind_what_stands_for_a_stamp(before: str) -> None:
    for message, kind in MESSAGES:
        (finding,) = scan_kernel_log(f"quiet\n{BEFORE[before](message)}\nquiet\n")
        assert (finding.kind, finding.line) == (kind, 2), message


def test_the_trace_behind_other_stamps() -> None:
    text = re.sub(r"(?m)^\[[ 0-9.]+\] ", "[Mon Nov 30 08:35:07 2026] ", LOGS["lockdep"])
    (finding,), (plain,) = scan_kernel_log(text), scan_kernel_log(LOGS["lockdep"])
    assert (finding.kind, finding.frames, finding.fingerprint) == (plain.kind, plain.frames, plain.fingerprint)


def test_what_the_wide_reading_adds_is_no_part_of_a_finding() -> None:
    double = scan_kernel_log("traps: PANIC: double fault, error_code: 0x0\ndouble fault: 0000 [#1] SMP\n")
    assert [(it.kind, it.line) for it in double] == [(K.OOPS, 2)]
    # One that weighs less does not stand for it.
    text = "zfs: PANIC at dmu.c:1043:dmu_write()\nUnexpected gfp: 0x2 (__GFP_HIGHMEM)\n"
    assert [(it.kind, it.line) for it in scan_kernel_log(text)] == [(K.PANIC, 1), (K.UNEXPECTED_GFP, 2)]


@pytest.mark.parametrize(
    "message",
    [
        "spl: loading out-of-tree module taints kernel.",
        "zfs: module license 'CDDL' taints kernel.",
        "spl: module verification failed: signature and/or required key missing - tainting kernel",
        "Disabling lock debugging due to kernel taint",
        "WARNING: Pool 'tank' has encountered an uncorrectable I/O failure and has been suspended.",
        "WARNING: zfs: removing nonexistent segment from range tree (offset=1 size=2)",
        "Warning: unable to open an initial console.",
        "debug: BUG: is quoted here",
        "eater[331]: segfault at 0 ip 0000000000401136 sp 00007ffc error 4 in eater[401000+1000]",
        "traps: eater[330] general protection fault ip:401136 sp:7ffc5 error:0 in eater[401000+1000]",
        "INFO: task zvol:1044 is blocked on a mutex likely owned by task txg_quiesce:901.",
        "rcu: Unless rcu_preempt kthread gets sufficient CPU time, OOM is now expected behavior.",
        "oom_reaper: reaped process 330 (eater), now anon-rss:0kB",
        "---[ end Kernel panic - not syncing: Fatal exception ]---",
        "---[ end trace 0000000000000000 ]---",
        "------------[ cut here ]------------",
        "Call Trace:",
        " panic+0x118/0x2ed",
        "virtio_blk virtio1: [vda] 204800 512-byte logical blocks",
        "vmalloc : 0xf0800000 - 0xff800000   ( 240 MB)",
        "audit: op=VERIFY res=failed",
        "zfs: VERIFY is not set and nothing failed",
        "Kernel command line: oops=panic panic=-1 slub_debug=BUG",
        "\x1b]0;BUG: kernel NULL pointer dereference\x07quiet",
        "list_lru: list_add is not corruption",
        "refcount_t is a type",
    ],
)
def test_messages_that_are_no_findings(message: str) -> None:
    assert scan_kernel_log(f"[    2.500000] {message}\n") == ()
    assert scan_kernel_log(message) == ()


def test_benign_warnings_say_why() -> None:
    assert all(re.compile(pattern) and reason for pattern, reason in BENIGN)
    at = "WARNING: CPU: 0 PID: 1 at "
    findings = scan_kernel_log(f"{at}arch/x86/mm/dump_pagetables.c:248 note_wx+0x1/0x2\n{at}mm/slub.c:1 f+0x1/0x2\n")
    assert [finding.benign for finding in findings] == [True, False]


# What was found before the wide reading was there is still found

BEFORE_IT: dict[str, list[tuple[str, int, str]]] = {
    name: [(kind, line, fingerprint) for kind, line, fingerprint in found]
    for name, found in json.loads((DATA / "before.json").read_text()).items()
}


def console_of(name: str) -> str:
    """:param name: a file in tests/data that is the log of a console, or a run that has one."""
    path = DATA.parent / name
    if name.startswith("runs/"):
        with tarfile.open(path) as tar:
            (member,) = [each for each in tar.getmembers() if each.name.endswith("/console.log")]
            file = tar.extractfile(member)
            assert file is not None
            return file.read().decode(errors="replace")
    data = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
    return data.decode(errors="replace")


def found_in(text: str) -> list[tuple[str, int, str]]:
    return [(finding.kind.value, finding.line, finding.fingerprint) for finding in scan_kernel_log(text)]


@pytest.mark.parametrize("name", BEFORE_IT)
def test_a_recorded_console_has_what_it_had(name: str) -> None:
    text = console_of(name)
    assert found_in(text) == BEFORE_IT[name]
    for how in RECORDED:
        if (name.removeprefix("kernlog/").removesuffix(".log"), how) != NEEDS_CALLERS:
            assert len(found_in(RECORDED[how](text[:100_000]))) >= len(found_in(text[:100_000]))


@FUZZ
@given(st.data())
def test_fuzz_nothing_that_was_found_is_lost(data: st.DataObject) -> None:
    """Complaints at the beginning of a line, each told by the first reading, whatever stands between and before."""
    lines, expected = [], []
    quiet = st.text(st.characters(exclude_characters="\n\r\0"), max_size=60) | st.sampled_from(
        [how(message) for message, _ in ANYWHERE for how in BEFORE.values()]
    )
    for message, kind in data.draw(st.lists(st.sampled_from(MESSAGES), min_size=1, max_size=5)):
        lines += [*data.draw(st.lists(quiet, max_size=3)), *["---[ end trace 0 ]---"], "Linux version 6.1.0"]
        expected.append((kind, sum(line.count("\n") + 1 for line in lines) + 1))
        lines.append(f"[    2.500000] {message}")
    found = [(finding.kind, finding.line) for finding in scan_kernel_log("\n".join(lines))]
    assert set(expected) <= set(found)


@FUZZ
@given(st.sampled_from(ANYWHERE), st.sampled_from(sorted(BEFORE)), st.sampled_from(sorted(LOGS)), st.data())
def test_fuzz_what_is_added_takes_nothing_away(
    added: tuple[str, FindingKind], before: str, name: str, data: st.DataObject
) -> None:
    """A line that only the wide reading has, put into a log: all that was there stays, with its trace."""
    lines = LOGS[name].splitlines()
    at = data.draw(st.integers(0, len(lines)))
    strict = LogScanner()
    text = "\n".join([*lines[:at], BEFORE[before](added[0]), *lines[at:]])
    for number, line in enumerate(text.split("\n"), 1):
        for part in filter(None, line.split("\r")):
            strict.read(number, part[:2048], hinted=True)
    alone = {report.finding() for report in strict.reports}
    assert alone <= set(scan_kernel_log(text))


# What belongs to one crash


def kinds(text: str) -> list[tuple[FindingKind, int]]:
    return [(finding.kind, finding.line) for finding in scan_kernel_log(text)]


def test_a_second_crash_after_the_end_of_the_first() -> None:
    text = LOGS["oops"] + LOGS["bug"]
    first = text.count("\n", 0, len(LOGS["oops"]))
    assert kinds(text) == [(K.OOPS, 2), (K.BUG, first + 2), (K.BUG, first + 20)]


def test_everything_until_the_end_trace_is_one_crash() -> None:
    text = LOGS["oops"].replace(
        "Modules linked in", "BUG: unable to handle page fault\nWARNING: CPU: 0 PID: 1 at a.c:1 f\n"
    )
    assert kinds(text) == [(K.OOPS, 2)]


def test_a_crash_whose_end_was_lost_does_not_swallow_the_rest() -> None:
    crash = LOGS["oops"].partition("Modules linked in")[0]
    assert kinds(crash + "x\n" * 600 + "BUG: Bad page state\n") == [(K.OOPS, 2), (K.BUG, crash.count("\n") + 601)]


def test_complaints_that_are_not_one_crash() -> None:
    assert kinds("BUG: Bad rss-counter state a\nBUG: Bad rss-counter state b\n") == [(K.BUG, 1), (K.BUG, 2)]
    far = "BUG: Bad rss-counter state\n" + "x\n" * 30 + "divide error: 0000 [#1] SMP\n"
    assert kinds(far) == [(K.BUG, 1), (K.OOPS, 32)]


def test_a_panic_for_another_reason() -> None:
    text = LOGS["oops-gpf"] + "Kernel panic - not syncing: System is deadlocked on memory\n"
    assert kinds(text)[-1] == (K.PANIC, text.count("\n"))


def test_a_panic_on_a_mere_warning_is_fatal() -> None:
    text = LOGS["warning"] + "Kernel panic - not syncing: kernel: panic_on_warn set ...\n"
    assert kinds(text) == [(K.WARNING, 2), (K.PANIC, text.count("\n"))]


def test_oom_kills_are_counted_once_each() -> None:
    twice = LOGS["oom-kill"].partition("[   66.")[0] * 2
    assert [kind for kind, _ in kinds(twice)] == [K.OOM_KILL, K.OOM_KILL]


def test_a_trace_asked_for_with_sysrq_belongs_to_nothing() -> None:
    text = "BUG: Bad rss-counter state\n" + LOGS["clean"].partition("INFO: lockdep")[2]
    (finding,) = scan_kernel_log(text)
    assert finding.frames == ()


def test_a_trace_far_away_belongs_to_nothing() -> None:
    trace = "Call Trace:\n f+0x1/0x2\n"
    near, far = (scan_kernel_log("BUG: Bad page state\n" + "x\n" * lines + trace)[0] for lines in (20, 80))
    assert (near.frames, far.frames) == (("f",), ())


def test_guesses_count_only_when_there_is_nothing_else() -> None:
    head = "BUG: Bad page state\nCall Trace:\n ? left_over+0x1/0x2\n"
    assert scan_kernel_log(head)[0].frames == ("left_over",)
    assert scan_kernel_log(head + " f+0x1/0x2\n")[0].frames == ("f",)


def test_old_kernels_print_addresses() -> None:
    text = (
        "BUG: unable to handle kernel NULL pointer dereference at           (null)\n"
        "Oops: 0000 [#1] SMP\n"
        "RIP: 0010:[<ffffffffa01b2c3d>]  [<ffffffffa01b2c3d>] spl_slab_alloc+0x1/0x2 [spl]\n"
        "Call Trace:\n"
        " <IRQ>  [<ffffffff810a1b2c>] f+0x1/0x2\n"
        " <EOI> \n"
        " [<ffffffff810a1b2c>] ? g+0x1/0x2\n"
        " [<ffffffff810a1b2c>] h+0x1/0x2\n"
    )
    assert scan_kernel_log(text)[0].frames == ("spl_slab_alloc", "f", "h")


# Fingerprints


def test_the_same_complaint_has_the_same_fingerprint() -> None:
    (oops,) = scan_kernel_log(LOGS["oops"])
    other = LOGS["oops"].replace("0x", "0xf").replace("critical_round.isra.0", "critical_round").replace("44.9", "99.1")
    assert scan_kernel_log(other)[0].fingerprint == oops.fingerprint
    assert re.fullmatch(r"[0-9a-f]{12}", oops.fingerprint)


def test_another_complaint_has_another_fingerprint() -> None:
    (oops,) = scan_kernel_log(LOGS["oops"])
    (other,) = scan_kernel_log(LOGS["oops"].replace(" critical_main+", " other_main+"))
    assert other.fingerprint != oops.fingerprint
    sixth = scan_kernel_log(LOGS["oops"].replace(" ret_from_fork+", " other+"))[0]
    assert sixth.fingerprint == oops.fingerprint
    recorded = [finding for text in LOGS.values() for finding in scan_kernel_log(text)]
    prints = {finding.fingerprint for finding in recorded}
    # The two of unexpected-gfp-vmalloc are one complaint in two notations.
    assert len(prints) == len(recorded) - 1


def test_the_reporting_itself_is_not_in_the_fingerprint() -> None:
    (gfp,) = scan_kernel_log(LOGS["unexpected-gfp"])
    (other,) = scan_kernel_log(LOGS["unexpected-gfp"].replace("dump_stack_lvl", "dump_stack"))
    assert (gfp.frames[0], other.frames[0]) == ("dump_stack_lvl", "dump_stack")
    assert gfp.fingerprint == other.fingerprint


# Hostile text


def test_a_guest_that_complains_in_a_loop() -> None:
    loop = LOGS["unexpected-gfp-vmalloc"] * (MAX_PER_KIND + 1)
    findings = scan_kernel_log(loop + LOGS["spl-panic"] + LOGS["warning"])
    assert [finding.kind for finding in findings] == [K.UNEXPECTED_GFP] * MAX_PER_KIND + [K.PANIC, K.WARNING]


def test_findings_are_bounded() -> None:
    text = "BUG: " + "x" * 5_000 + "\nCall Trace:\n" + " f+0x1/0x2\n" * 5_000
    (finding,) = scan_kernel_log(text)
    assert (len(finding.title), len(finding.frames)) == (300, MAX_FRAMES)


@pytest.mark.parametrize(
    "text",
    [
        "a" * 2_000_000,
        "BUG [ [  [ " * 200_000,
        "\n" * 2_000_000,
        "BUG: x\n" + "\r" * 2_000_000,
        "BUG: x\n" + "\x1b[" * 1_000_000,
        "BUG: x\n" + ("\x1b]" + "x" * 200) * 10_000,
        "BUG: x\n" * 30_000,
        "WARNING: " + ":1" * 1_000_000,
        ("VERIFY(" + ")" * 2_000 + "\n") * 500,
        ("INFO: task " + ":1" * 1_000 + "\n") * 500,
        (": 0000 [#" * 200 + "\n") * 500,
        "BUG: x\nCall Trace:\n" + (" f" + ".a" * 1_000 + "+0x\n") * 500,
        "BUG: x\nRIP: 0010:" + "[<0>]  " * 100_000,
        "VERIFY(" * 300_000,
        "BUG: KASAN: " * 200_000,
        "[    1.000000] BUG: " * 50_000,
        "BUG: x" + "\x1b]0;x" * 300_000,
        "INFO: task " * 200_000,
    ],
    ids=range(18),
)
def test_long_texts_take_their_time_once(text: str) -> None:
    assert len(scan_kernel_log(text)) <= MAX_PER_KIND


@FUZZ
@given(
    st.sampled_from(sorted(LOGS)),
    st.sampled_from(sorted(LOGS)),
    st.lists(
        st.tuples(
            st.integers(0, 4_000), st.integers(0, 300), st.text(max_size=12) | st.sampled_from(["\n", "\r", "\x1b["])
        ),
        max_size=5,
    ),
)
def test_fuzz_nothing_is_raised(one: str, other: str, edits: list[tuple[int, int, str]]) -> None:
    text = LOGS[one] + LOGS[other]
    for at, gone, instead in edits:
        text = text[:at] + instead + text[at + gone :]
    lines = text.count("\n") + 1
    findings = scan_kernel_log(text)
    assert [finding.line for finding in findings] == sorted(finding.line for finding in findings)
    assert len({(finding.line, finding.kind) for finding in findings}) == len(findings)
    assert all(1 <= finding.line <= lines and finding.title for finding in findings)


@FUZZ
@given(st.text(st.characters(), max_size=300))
def test_fuzz_any_text(text: str) -> None:
    scan_kernel_log(text)
    scan_kernel_log(f"BUG: {text}\nCall Trace:\n{text}")
