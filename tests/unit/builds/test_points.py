"""Points of a module: by its relocations, and by what objdump prints of it."""

from __future__ import annotations

import pytest

from splvm.builds.calls import Call
from splvm.builds.points import Kind, choose, source_line

DISASSEMBLY = """\

spl.ko:     file format elf64-x86-64


Disassembly of section .text:

0000000000000000 <__pfx_first>:
       0:	nop

0000000000000010 <first>:
      10:	push   %rbx
      11:	lock andb $0xbf,0x49(%r14)
      17:	call   1c <first+0xc>
      1c:	xchg   %ax,%ax
      1e:	xchg   %eax,0x18(%rbp)
      21:	jmp    26 <first+0x16>

0000000000000040 <second.part.0>:
      40:	call   45 <second.part.0+0x5>
      45:	call   4a <second.part.0+0xa>
      4a:	lock btsq $0xf,0x48(%r14)        # some remark

0000000000000060 <spl_init>:
      60:	lock incl 0x0(%rip)        # 67 <spl_init+0x7>
"""
CALLS = (
    Call("first", 0x0C, "_raw_spin_lock", 1),
    Call("first", 0x16, "_raw_spin_unlock_irqrestore", 1, is_jump=True),
    Call("second.part.0", 0x05, "mutex_unlock", 1),
    Call("second.part.0", 0x0A, "__wake_up", 1),
    Call("second.part.0", 0x0A, "kfree", 1),
    Call("spl_init", 0x05, "schedule", 1),
    Call("elsewhere", 0x05, "schedule", 1),
)


def test_points_of_a_module() -> None:
    points = list(choose(DISASSEMBLY, CALLS))
    assert [(it.place, it.kind, it.what) for it in points] == [
        ("first+0x1", Kind.ATOMIC, "lock andb $0xbf,0x49(%r14)"),
        ("first+0x7", Kind.LOCK, "_raw_spin_lock"),
        ("first+0xe", Kind.ATOMIC, "xchg %eax,0x18(%rbp)"),
        # In front of a call; of what lets go of a lock it is behind it, and where it jumps there is nothing behind it.
        ("second.part.0+0x5", Kind.WAKE, "__wake_up"),
        ("second.part.0+0xa", Kind.ATOMIC, "lock btsq $0xf,0x48(%r14)"),
    ]


@pytest.mark.parametrize(
    ("callee", "kind"),
    [
        ("_raw_spin_lock_irqsave", Kind.LOCK),
        ("_raw_spin_unlock_bh", Kind.UNLOCKED),
        ("up_write", Kind.UNLOCKED),
        ("down_read_nested", Kind.LOCK),
        ("schedule_timeout_interruptible", Kind.WAIT),
        ("add_wait_queue_exclusive", Kind.WAIT),
        ("wake_up_process", Kind.WAKE),
        ("complete", Kind.WAKE),
        ("timer_delete_sync", Kind.TIMER),
        ("del_timer_sync", Kind.TIMER),
        ("kthread_should_stop", Kind.THREAD),
        ("kmem_cache_alloc", None),
        ("completely_else", None),
    ],
)
def test_kinds_of_calls(callee: str, kind: Kind | None) -> None:
    text = "0000000000000000 <f>:\n       0:\tcall   5 <f+0x5>\n       5:\tret\n"
    found = [it.kind for it in choose(text, (Call("f", 5, callee, 1),))]
    assert found == ([] if kind is None else [kind])


@pytest.mark.parametrize(
    ("told", "line"),
    [
        ("/build/module/os/linux/spl/spl-taskq.c:906", "spl-taskq.c:906"),
        ("spl-taskq.c:12 (discriminator 3)", "spl-taskq.c:12"),
        ("??:0", ""),
        ("??:?", ""),
    ],
)
def test_lines_of_sources(told: str, line: str) -> None:
    assert source_line(told) == line
