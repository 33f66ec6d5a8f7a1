"""What complaints of a kernel look like: each kind with the words that its messages have.

Owns the patterns. Which messages belong to one complaint is for kernlog.py.
"""

from __future__ import annotations

import enum
import re


class FindingKind(enum.StrEnum):
    """Kinds of complaints."""

    PANIC = "panic"  # the kernel's panic(), and SPL's, which stops one thread (spl_panic(), spl-err.c)
    OOPS = "oops"
    BUG = "bug"
    WARNING = "warning"
    HUNG_TASK = "hung_task"
    SOFT_LOCKUP = "soft_lockup"
    HARD_LOCKUP = "hard_lockup"
    RCU_STALL = "rcu_stall"
    LOCKDEP = "lockdep"
    KASAN = "kasan"  # KFENCE and KMSAN too
    OOM_KILL = "oom_kill"
    PAGE_ALLOC_FAILURE = "page_alloc_failure"
    WORKQUEUE_LOCKUP = "workqueue_lockup"
    UNEXPECTED_GFP = "unexpected_gfp"

    @property
    def fatal(self) -> bool:
        """Whether the kernel cannot be trusted after this."""
        return self in _FATAL


_FATAL = frozenset(
    (FindingKind.PANIC, FindingKind.OOPS, FindingKind.BUG, FindingKind.LOCKDEP, FindingKind.KASAN),
)


# Warnings that are no reason to distrust a kernel, and why.
BENIGN: tuple[tuple[str, str], ...] = (
    (
        r"WARNING: timekeeping: Cycle offset ",
        "a guest that was stopped for long, as templates and loaded hosts do (timekeeping_check_update())",
    ),
    (
        r"WARNING: (?:kernel stack (?:frame pointer|regs) at |stack recursion on stack type |unrecognized unwind )"
        r"|WARNING: can't (?:access|dereference) (?:iret )?registers ",
        "the unwinder lost its way while it printed another report (arch/x86/kernel/unwind_*.c)",
    ),
    (
        r"BUG: MAX_(?:LOCKDEP_|LOCK_DEPTH|STACK_TRACE)",
        "lockdep's tables are full and it turned itself off; no lock was found to be wrong",
    ),
    (
        r"WARNING: .{0,80}\bat .{0,60}note_wx\+",
        "a writable and executable mapping, a matter of hardening (arch/x86/mm/dump_pagetables.c)",
    ),
)

_LOCKDEP_TITLES = (
    "possible (?:circular|recursive) locking|possible irq lock inversion|inconsistent (?:lock state|{)"
    "|bad (?:unlock balance|contention)|held lock freed|lock held when returning|Nested lock was not taken"
    "|[A-Z-]{3,20}-safe -> [A-Z-]{3,20}-unsafe lock order|suspicious RCU usage|Invalid wait context"
    "|.{1,40} still has locks held|possible reason: unannotated irqs"
)

# Each kind with the beginning of its messages; the first that fits counts. Sources: kernel/panic.c
# (__warn() changed its words in Linux 6.19), arch/x86/kernel/{dumpstack,traps}.c, arch/x86/mm/fault.c,
# kernel/{hung_task,watchdog,workqueue}.c, kernel/rcu/tree_stall.h, kernel/locking/lockdep.c,
# mm/{kasan,kfence,kmsan}/report.c, mm/{oom_kill,page_alloc,slub,vmalloc}.c, lib/ubsan.c, and spl-err.c.
TRIGGERS: tuple[tuple[FindingKind, str], ...] = (
    (FindingKind.WARNING, "|".join(pattern for pattern, _ in BENIGN)),
    (FindingKind.WARNING, r"BUG: KCSAN: |UBSAN: "),
    (
        FindingKind.LOCKDEP,
        rf"(?:\[ )?(?:WARNING|BUG|INFO): (?:{_LOCKDEP_TITLES})|INFO: trying to register non-static key",
    ),
    (FindingKind.KASAN, r"BUG: (?:KASAN|KFENCE|KMSAN): "),
    (FindingKind.SOFT_LOCKUP, r"(?:NMI )?(?:watchdog: )?(?:CPU\d{1,5}: )?BUG: soft lockup - "),
    (FindingKind.HARD_LOCKUP, r"(?:NMI )?(?:watchdog: )?(?:CPU\d{1,5}: )?Watchdog detected hard LOCKUP "),
    (FindingKind.WORKQUEUE_LOCKUP, r"BUG: workqueue lockup "),
    (
        FindingKind.RCU_STALL,
        r"(?:rcu: )?INFO: \w{1,40} (?:self-detected stall on|detected (?:expedited )?stalls? on)",
    ),
    (FindingKind.HUNG_TASK, r"INFO: task .{1,60}:\d{1,10} blocked (?:in I/O wait )?for more than "),
    (FindingKind.UNEXPECTED_GFP, r"Unexpected gfp: "),
    (FindingKind.WARNING, r"WARNING: (?:CPU: \d{1,5} PID: \d{1,10} |at \S{1,200}\+0x|.{1,400}?:\d{1,6} at \S)"),
    (
        FindingKind.PAGE_ALLOC_FAILURE,
        r".{1,40}?: (?:page allocation failure: |vmalloc: allocation failure|vmalloc error: )"
        r"|vmalloc: allocation failure|SLUB: Unable to allocate memory ",
    ),
    (
        FindingKind.OOM_KILL,
        r".{1,40}? invoked oom-killer: |(?:Memory cgroup o|O)ut of memory(?: \(.{1,60}\))?: Kill(?:ed)? process ",
    ),
    (
        FindingKind.PANIC,
        # Userland may have begun the line that this one ends, so it need not stand at the start.
        r".{0,200}?Kernel panic - not syncing"
        r"|PANIC at \S{1,200}:\d{1,6}:\S|PANIC: |(?:VERIFY|ASSERT)[A-Z0-9_]{0,20}\(.{1,1500}\) failed",
    ),
    (
        FindingKind.OOPS,
        r"BUG: (?:unable to handle |kernel NULL pointer dereference)|Unable to handle kernel "
        r"|.{1,200}?: [0-9a-f]{4,16} \[#\d{1,6}\]",
    ),
    (FindingKind.BUG, r"kernel BUG at |BUG: |BUG \S{1,80} \("),
)
TRIGGER = re.compile("|".join(f"(?P<t{at}>{pattern})" for at, (_, pattern) in enumerate(TRIGGERS)), re.ASCII)
# What says so much that it is a complaint wherever it stands in a line, and what only the wide reading knows. Sources
# besides those above: lib/refcount.c, lib/list_debug.c, mm/usercopy.c, lib/string_helpers.c, arch/x86/kernel/cfi.c,
# kernel/sched/core.c, kernel/locking/spinlock_debug.c, mm/memory.c, kernel/fork.c; of SPL before 0.6.4 spl_debug_bug()
# and spl_debug_msg() (spl-debug.c).
_REFCOUNT = r"refcount_t: (?:saturated|addition on 0|underflow|decrement hit 0|unknown saturation|increment on 0|hit )"
WIDER: tuple[tuple[FindingKind, str], ...] = (
    # What WARN() says: its own line, "WARNING: CPU: ...", follows, or is lost.
    (FindingKind.WARNING, rf"{_REFCOUNT}|list_(?:add|del) (?:double add|corruption)|CFI failure at "),
    (FindingKind.WARNING, r"BUG: KCSAN: |UBSAN: .{1,200}? (?:in|at) \S|WARNING: CPU: \d{1,5} PID: \d{1,10} at "),
    (FindingKind.WARNING, r"WARNING: \S{1,200}:\d{1,6} at [\w.]{1,200}\+0x"),
    (FindingKind.LOCKDEP, rf"(?:WARNING|BUG|INFO): (?:{_LOCKDEP_TITLES})|INFO: trying to register non-static key"),
    (FindingKind.KASAN, r"BUG: (?:KASAN|KFENCE|KMSAN): "),
    (FindingKind.SOFT_LOCKUP, r"BUG: soft lockup - "),
    (FindingKind.HARD_LOCKUP, r"Watchdog detected hard LOCKUP"),
    (FindingKind.WORKQUEUE_LOCKUP, r"BUG: workqueue lockup "),
    (FindingKind.RCU_STALL, r"INFO: \w{1,40} (?:self-detected stall on|detected (?:expedited )?stalls? on)"),
    (FindingKind.HUNG_TASK, r"INFO: task [^\n]{1,60}:\d{1,10} blocked (?:in I/O wait )?for more than "),
    (FindingKind.UNEXPECTED_GFP, r"Unexpected gfp: 0x"),
    (
        FindingKind.PAGE_ALLOC_FAILURE,
        r"page allocation failure: order:|vmalloc: allocation failure|vmalloc error: size ",
    ),
    (FindingKind.PAGE_ALLOC_FAILURE, r"SLUB: Unable to allocate memory on "),
    (FindingKind.OOM_KILL, r"invoked oom-killer: |ut of memory(?: \([^()]{1,60}\))?: Kill(?:ed)? process "),
    (FindingKind.PANIC, r"Kernel panic - not syncing|PANIC at \S{1,200}:\d{1,6}:\w|PANIC: double fault|SPL PANIC"),
    (FindingKind.PANIC, r"(?:zfs|ZFS|spl|SPL): PANIC: "),
    (FindingKind.PANIC, r"SPLError: \d{1,10}:\d{1,10}:\([^()]{1,120}\(\)\) (?:SPL )?PANIC"),
    # Up to the next word of that kind, so that each character is looked at once.
    (
        FindingKind.PANIC,
        r"(?:VERIFY|ASSERT)[A-Z0-9_]{0,20}\((?:[^VA]|V(?!ERIFY)|A(?!SSERT)){1,1500}?\) failed",
    ),
    (FindingKind.OOPS, r"BUG: (?:unable to handle |kernel NULL pointer dereference)|Unable to handle kernel "),
    (
        FindingKind.OOPS,
        r"Oops: (?=[^\n]{0,200}\[#\d)"
        r"|(?:general protection fault|divide error|invalid opcode|double fault|stack segment)"
        r"(?=[^\n]{0,120}: [0-9a-f]{4,16} \[#\d)",
    ),
    (FindingKind.BUG, r"kernel BUG at |BUG: (?:\w{2,8} )?stack guard page was hit|BUG kmalloc-\S{1,40} \("),
    (FindingKind.BUG, r"BUG: (?:sleeping function called from|scheduling while atomic|Bad (?:page|rss-counter) )"),
    (FindingKind.BUG, r"BUG: (?:non-zero pgtables_bytes|(?:spin|rw)lock |using \S{1,60} in preemptible)"),
    (FindingKind.BUG, r"BUG: (?:workqueue leaked|atomic counter underflow|recent printk)"),
    (FindingKind.BUG, r"usercopy: Kernel memory |detected buffer overflow in |Corrupted page table at "),
)
# What each of them begins with: to look for all of these costs a tenth.
PLACES = re.compile(
    r"refcount_t: |list_add |list_del |CFI failure at |BUG |BUG: |UBSAN: |WARNING: |INFO: |Watchdog detected hard"
    r"|Unexpected gfp: |page allocation failure: |vmalloc: |vmalloc error: |SLUB: |invoked oom-killer: |ut of memory"
    r"|Kernel panic - |PANIC at |PANIC: double|SPL PANIC|zfs: PANIC|ZFS: PANIC|spl: PANIC|SPL: PANIC|SPLError: |VERIFY"
    r"|ASSERT|Unable to handle|Oops: |general protection|divide error|invalid opcode|double fault|stack segment"
    r"|kernel BUG at |usercopy: |detected buffer |Corrupted page"
)
WIDE = re.compile("|".join(f"(?P<t{at}>{pattern})" for at, (_, pattern) in enumerate(WIDER)), re.ASCII)
WARNED = re.compile(WIDER[0][1], re.ASCII)
# Whatever TRIGGER, WIDE or the end of a trace can match contains one of these; most lines contain none.
HINT = re.compile(
    r"BUG|WARNING|INFO: |Kernel panic|PANIC|\[#\d|VERIFY|ASSERT|LOCKUP|Unexpected gfp|oom-killer|ut of memory"
    r"|allocation failure|vmalloc error|Unable to|UBSAN|---\[ end|Linux version |refcount_t: |list_(?:add|del) |Oops: "
    r"|CFI failure|usercopy: |detected buffer overflow|Corrupted page"
)
BENIGN_TITLE = re.compile("|".join(f"(?:{pattern})" for pattern, _ in BENIGN))
