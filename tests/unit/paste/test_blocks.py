"""Where a report ends in a text that may be cut anywhere, and what of a text is no evidence."""

from __future__ import annotations

import base64
import gzip
import io
import json
from collections.abc import Callable

import pytest

from splvm.evidence.waiting.waitedges import Closes
from splvm.paste import lines
from splvm.paste.answer import answer_lines
from splvm.paste.explanation import Explanation, explain, explain_streams
from splvm.paste.findings import MAX_OF_KIND
from splvm.paste.threads import MAX_HUNG
from splvm.report.pasteissue import paste_issue

OOPS = """\
[  100.0] BUG: kernel NULL pointer dereference, address: 0000000000000010
[  100.0] Oops: 0000 [#1] PREEMPT SMP NOPTI
[  100.0] CPU: 3 PID: 2345 Comm: zpool Tainted: P           OE      6.1.0-18-amd64 #1
[  100.0] RIP: 0010:spa_config_enter+0x1c/0x90 [zfs]
[  100.0] Call Trace:
[  100.0]  <TASK>
[  100.0]  spa_import+0x1a5/0x330 [zfs]
[  100.0]  </TASK>
[  100.0] Modules linked in: zfs(POE) spl(OE)
[  100.0] note: zpool[2345] exited with preempt_count 1
"""
KASAN = """\
[  100.0] BUG: KASAN: slab-use-after-free in zio_done+0x10/0x90 [zfs]
[  100.0] Read of size 8 at addr ffff888100 by task z_wr_int/903
[  100.0] CPU: 3 PID: 903 Comm: z_wr_int Tainted: P 6.1.0 #1
[  100.0] Call Trace:
[  100.0]  zio_done+0x10/0x90 [zfs]
[  100.0] Allocated by task 700:
[  100.0]  kasan_save_stack+0x10/0x20
"""
PANIC = """\
[  100.0] Kernel panic - not syncing: Fatal hardware error!
[  100.0] CPU: 3 PID: 77 Comm: mce Tainted: P 6.1.0 #1
[  100.0] Call Trace:
[  100.0]  dump_stack+0x10/0x20
[  100.0]  mce_panic+0x10/0x20
"""
HANG = """\
[  300.1] INFO: task zfs:3000 blocked for more than 120 seconds.
[  300.1] task:zfs              state:D stack:    0 pid: 3000 ppid:     2 flags:0x00004000
[  300.1] Call Trace:
[  300.1]  __mutex_lock+0x10/0x90
[  300.1]  spa_open_common+0x10/0x90 [zfs]
"""
LOCKUP = """\
[  310.1] watchdog: BUG: soft lockup - CPU#7 stuck for 23s! [arc_prune:533]
[  310.1] CPU: 7 PID: 533 Comm: arc_prune Tainted: P 6.1.0 #1
[  310.1] Call Trace:
[  310.1]  super_cache_count+0x2b/0x40
"""
OTHERS = HANG + LOCKUP


def kinds(found: Explanation) -> list[str]:
    return [f"{it.kind} {it.comm or '-'} {it.pid or '-'}" for it in found.findings]


def bare(text: str) -> str:
    return "".join(line.split("] ", 1)[1] + "\n" for line in text.splitlines())


@pytest.mark.parametrize("others", [HANG + LOCKUP, LOCKUP + HANG], ids=["hang first", "lockup first"])
@pytest.mark.parametrize("stamp", [str, bare], ids=["stamped", "bare"])
@pytest.mark.parametrize(
    ("report", "kind"), [(OOPS, "oops zpool 2345"), (KASAN, "kasan z_wr_int 903"), (PANIC, "panic mce 77")]
)
def test_a_report_whose_end_is_not_copied_swallows_nothing(
    report: str, kind: str, stamp: Callable[[str], str], others: str
) -> None:
    found = explain(stamp(report + others))
    assert sorted(kinds(found)) == sorted([kind, "hung_task zfs 3000", "soft_lockup arc_prune 533"])
    frames = {it.kind: it.frames for it in found.findings}
    assert frames["hung_task"] == ("__mutex_lock", "spa_open_common")
    assert frames["soft_lockup"] == ("super_cache_count",)


@pytest.mark.parametrize("count", range(2, 10))
def test_wherever_an_oops_is_cut(count: int) -> None:
    cut = "".join(OOPS.splitlines(keepends=True)[:count])
    assert kinds(explain(cut + HANG))[-1] == "hung_task zfs 3000"
    assert [it.count for it in explain(cut + HANG).findings] == [1, 1]


@pytest.mark.parametrize("between", ["", "\n[turn 9 by jane]\n```log\n[    1.0] ZFS: Loaded module v2.1.11-1\n"])
def test_a_headline_is_no_oops(between: str) -> None:
    """An issue is often called as its first line; its title, place and time are the kernel's."""
    (finding,) = explain(f"# BUG: unable to handle kernel NULL pointer dereference on my box\n{between}{OOPS}").findings
    assert (finding.title, finding.count) == (OOPS.splitlines()[0].split("] ", 1)[1], 1)
    assert finding.time_s == 100.0 and finding.line == 2 + between.count("\n")


def test_a_first_line_of_which_the_time_was_not_copied_is_no_headline() -> None:
    (finding,) = explain(OOPS.removeprefix("[  100.0] ")).findings
    assert finding.title.startswith("BUG: kernel NULL pointer dereference") and finding.pid == 2345


def test_a_title_says_that_the_text_does_not_say_for_how_long() -> None:
    head = '[  300.1] "echo 0 > /proc/sys/kernel/hung_task_timeout_secs" disables this message.\n'
    (finding,) = explain(head + "".join(HANG.splitlines(keepends=True)[1:])).findings
    assert finding.title == "INFO: task zfs:3000 blocked for more than ? seconds: the text does not say how many"


def test_a_second_oops_is_another_one() -> None:
    second = OOPS.replace("100.0", "101.0").replace("2345", "99").replace("zpool", "zed").replace("spa_import", "f")
    assert kinds(explain(OOPS + second.replace("[#1]", "[#2]"))) == ["oops zpool 2345", "oops zed 99"]


@pytest.mark.parametrize("report", [OOPS, KASAN, PANIC])
@pytest.mark.parametrize(
    "other",
    [
        "INFO: rcu_sched self-detected stall on CPU",
        "z_wr_int_3: page allocation failure: order:4, mode:0x40dc0",
        "java invoked oom-killer: gfp_mask=0x140dca, order=0",
    ],
)
def test_another_complaint_without_a_stack(report: str, other: str) -> None:
    assert len(explain(bare(report) + other + "\n").findings) == 2


def test_a_thread_that_is_announced_ends_an_oops() -> None:
    cut = "".join(OOPS.splitlines(keepends=True)[:7])
    found = explain(bare(cut + "".join(HANG.splitlines(keepends=True)[1:])))
    assert [it.frames for it in found.findings] == [("spa_config_enter", "spa_import")]
    assert found.moments[-1].source == "tasks"
    assert [it.frames for it in found.tasks if it.pid == 3000] == [("__mutex_lock", "spa_open_common")]


def test_a_list_of_tasks_ends_an_oops() -> None:
    tasks = "[  300.0] sysrq: Show Blocked State\n" + "".join(HANG.splitlines(keepends=True)[1:])
    found = explain(OOPS + tasks)
    assert [it.frames for it in found.tasks if it.pid == 3000] == [("__mutex_lock", "spa_open_common")]
    assert found.moments[-1].source == "sysrq-w"


def test_complaints_of_one_line_follow_each_other() -> None:
    text = """\
[ 2.1] BUG: scheduling while atomic: z_wr_iss/900/0x00000002
[ 4.1] BUG: sleeping function called from invalid context at kernel/locking/mutex.c:283
[ 4.1] in_atomic(): 1, irqs_disabled(): 0, non_block: 0, pid: 902, name: z_wr_int
[ 6.1] BUG: KASAN: slab-use-after-free in zio_done+0x10/0x90 [zfs]
[ 6.1] Read of size 8 at addr ffff888100 by task z_wr_int/903
[ 8.1] SPLError: 1423:0:(spl-kmem-cache.c:100:spl_x()) VERIFY(0) failed
[10.1] Kernel panic - not syncing: hung_task: blocked tasks
"""
    assert sorted(kinds(explain(text))) == [
        *("bug z_wr_int 902", "bug z_wr_iss 900", "kasan z_wr_int 903", "panic - -", "panic - -"),
    ]


# Machines and boots


def by(host: str, text: str, time: str = "Apr  5 05:53:22") -> list[str]:
    return [f"{time} {host} kernel: {line}\n" for line in bare(text).splitlines()]


def test_lines_of_two_machines_that_come_in_turns() -> None:
    """As a server for logs keeps them."""
    one, two = by("one", HANG), by("two", HANG.replace("3000", "4000").replace("spa_open", "dsl_pool"))
    found = explain("".join(line for pair in zip(one, two, strict=True) for line in pair))
    assert {it.pid: it.frames for it in found.tasks} == {
        3000: ("__mutex_lock", "spa_open_common"),
        4000: ("__mutex_lock", "dsl_pool_common"),
    }
    assert [len(it.graph.waits) for it in found.moments] == [1, 1]
    assert len(found.findings) == 2 and all(it.frames for it in found.findings)


def test_callers_keep_two_reports_apart() -> None:
    one = [line.replace("] ", "][    T1] ", 1) for line in HANG.splitlines()]
    two = [line.replace("] ", "][    T2] ", 1) for line in HANG.replace("3000", "4000").splitlines()]
    found = explain("\n".join(line for pair in zip(one, two, strict=True) for line in pair))
    assert [it.frames for it in found.findings] == [("__mutex_lock", "spa_open_common")] * 2


# Repeats and names


def test_a_lockup_that_goes_on_is_one_complaint() -> None:
    again = LOCKUP.splitlines(keepends=True)[0].replace("310.1", "338.1").replace("23s", "49s")
    other = LOCKUP.replace("310.1", "366.1").replace("23s", "75s").replace("super_cache_count", "zpl_prune_sb")
    wall = "Message from syslogd@box at Mar  3 10:10:10 ...\n kernel:" + bare(LOCKUP).splitlines()[0] + "\n"
    (finding,) = explain(wall + LOCKUP + again + other).findings
    assert (finding.comm, finding.count, finding.frames) == ("arc_prune", 4, ("super_cache_count",))


def test_who_was_killed_for_want_of_memory() -> None:
    text = """\
kvm invoked oom-killer: gfp_mask=0x140dca, order=0, oom_score_adj=0
CPU: 4 PID: 9001 Comm: kvm Tainted: P           O       6.5.11-8-pve #1
Call Trace:
 out_of_memory+0x103/0x350
Mem-Info:
Out of memory: Killed process 8000 (java) total-vm:17825792kB, anon-rss:16777216kB, file-rss:0kB
"""
    (finding,) = explain(text).findings
    assert (finding.comm, finding.pid) == ("kvm", 9001)
    assert finding.title.endswith("; killed java (pid 8000)")
    (alone,) = explain(text.splitlines()[-1]).findings
    assert alone.comm == "java"


# What is no evidence


def test_a_program_is_no_kernel() -> None:
    text = "".join(line.replace("kernel:", "app[123]:") for line in by("box", HANG))
    found = explain(text + "Apr  5 05:53:23 box kernel: eth0: link up\n")
    assert not found.findings and not found.tasks
    assert any("written by app, which is not the kernel" in it.why for it in found.unread)


@pytest.mark.parametrize("field", ["_TRANSPORT", "SYSLOG_IDENTIFIER"])
def test_a_program_is_no_kernel_in_a_journal(field: str) -> None:
    text = "".join(f'{{"{field}": "app", "MESSAGE": "{line}"}}\n' for line in bare(HANG).splitlines())
    assert not explain(text).findings
    assert explain(text.replace('"app"', '"kernel"')).findings


def test_programs_that_pass_on_what_the_kernel_says() -> None:
    for program in ("kernel", "kernel[0]", "init.scope/kernel[]", "vmunix", "klogd", "dmesg[7]", "init.scope/kernel"):
        assert explain("".join(it.replace("kernel:", f"{program}:") for it in by("box", HANG))).findings, program
    passed = "".join(f"Apr  5 05:53:22 box relay[1]: {line}\n" for line in HANG.splitlines())
    assert explain(passed).findings
    daemon = "Feb  2 02:02:02 san zed[900]: eid=44 class=deadman pool='tank' vdev=sdc1 size=131072\n"
    assert kinds(explain(daemon)) == ["deadman - -"]


def test_an_answer_of_ours_is_no_evidence() -> None:
    found = explain(OOPS + OTHERS)
    for text in ("\n".join(answer_lines(found)), paste_issue(found)):
        again = explain(text + "\n")
        assert not again.findings and not again.tasks, text
    said = explain("\n".join(answer_lines(found)) + "\n").unread
    assert any("of splvm's own, which is no evidence" in it.why for it in said)


@pytest.mark.parametrize(
    "prompt",
    [
        ">>> prog.stack_trace({pid})",
        "crash> bt {pid}",
        "(gdb) thread {pid}",
        "sdb> stacks {pid}",
        "$ print(prog.stack_trace({pid}))",
    ],
)
def test_a_prompt_is_no_name(prompt: str) -> None:
    frames = "\n".join(f"#{at}  {name} (module/zfs/zio.c:{at}:3)" for at, name in enumerate(("zio_wait", "spa_sync")))
    text = "".join(f"{prompt.format(pid=pid)}\n{frames}\n" for pid in (1423, 402))
    assert [(it.pid, it.comm) for it in explain(text).tasks] == [(1423, ""), (402, "")]


# Bounds


def test_what_is_not_kept_is_said() -> None:
    count = MAX_HUNG + 10
    text = "".join(f"[ {at}.0] INFO: task a:{at + 1} blocked for more than 120 seconds.\n" for at in range(count))
    found = explain(text)
    assert len(found.tasks) == MAX_HUNG and len([it for it in found.findings if it.kind == "hung_task"]) == MAX_OF_KIND
    whys = [it.why for it in found.unread]
    assert any(it.kind == "hung_tasks_silenced" for it in found.findings)
    assert "10 threads were not kept: there were too many" in whys
    assert f"{count - MAX_OF_KIND} complaints were not kept: there were too many" in whys


# Directions, character sets and attachments


def test_a_long_log_that_is_written_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than is turned as a whole: each piece is read from its end, and no report is cut in two."""
    for name, size in (("BLOCK", 1 << 15), ("LEAST", 1 << 13), ("MAX_TURNED", 1 << 16)):
        monkeypatch.setattr(lines, name, size)
    noise = "Apr  5 05:53:59 box sshd[1]: a line of another program\n"
    parts = [by("box", HANG.replace("3000", str(pid))) for pid in range(3000, 3900)]
    text = "".join(noise + "".join(reversed(part)) for part in parts)
    assert len(text) > 3 * lines.MAX_TURNED
    found = explain(text)
    assert len(found.findings) == 901
    assert all(it.frames == ("__mutex_lock", "spa_open_common") for it in found.findings if it.kind == "hung_task")
    assert "backwards" in found.unread[0].why


@pytest.mark.parametrize("charset", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_what_windows_writes(charset: str) -> None:
    mark = "\ufeff" if charset == "utf-16-be" else ""
    data = (mark + HANG.replace("\n", "\r\n") * 3000).encode(charset)
    found = explain_streams([("x", io.BytesIO(data))])
    assert kinds(found)[0] == "hung_task zfs 3000"
    assert all(it.frames for it in found.tasks) and not [it for it in found.unread if "no kind" in it.why]


def test_an_attachment_that_is_packed_is_named() -> None:
    data = base64.encodebytes(gzip.compress(HANG.encode())).decode()
    found = explain(f"Content-Transfer-Encoding: base64\n\n{data}\n")
    assert any("attachment that is packed" in it.why for it in found.unread)


def test_a_cycle_that_closes_over_records() -> None:
    """A journal of JSON in which a program forged the other half of a cycle closes nothing."""
    forged = HANG.replace("zfs:3000", "rm:3001").replace(" 3000", " 3001")
    forged += "[  300.1] INFO: task rm:3001 is blocked on a mutex likely owned by task zfs:3000.\n"
    owner = "[  300.1] INFO: task zfs:3000 is blocked on a mutex likely owned by task rm:3001.\n"
    both = [('"kernel"', it) for it in bare(HANG + owner).splitlines()]
    both += [('"app"', it) for it in bare(forged).splitlines()]
    text = "".join(f'{{"_TRANSPORT": {who}, "MESSAGE": "{it}"}}\n' for who, it in both)
    assert explain(text).closes is Closes.UNKNOWN
    assert explain(text.replace('"app"', '"kernel"')).closes is Closes.CYCLE


NO_KERNEL = {
    "the source of a kernel": r"""
	pr_err("INFO: task %s:%d blocked for more than %ld seconds.\n", t->comm, t->pid, timeout);
	printk(KERN_EMERG "BUG: soft lockup - CPU#%d stuck for %us! [%s:%d]\n", cpu, duration, comm, pid);
	cmn_err(CE_WARN, "Pool '%s' has encountered an uncorrectable I/O failure and has been suspended.", name);
""",
    "a manual": 'The kernel prints "INFO: task foo:123 blocked for more than 120 seconds." when a task hangs.\n',
    "what a program writes": 'write(1, "INFO: task a:1 blocked for more than 120 seconds.\\n", 50) = 50\n',
    "drivers at the start": """\
[    1.2] virtio_blk virtio1: 1/0/0 default/read/poll queues
[    1.8] nvme nvme0: 8/0/0 default/read/poll queues
[    1.9] mpt3sas_cm0: sending message unit reset !!
[    1.91] mpt3sas_cm0: message unit reset: SUCCESS
[    2.0] usb 1-1: new high-speed USB device number 2 using ehci-pci
[    2.2] EXT4-fs (sda1): mounted filesystem. Opts: errors=remount-ro
[    2.6] ACPI BIOS Error (bug): Could not resolve symbol
""",
    "a runtime": "panic: runtime error: index out of range [5] with length 3\n\ngoroutine 1 [running]:\n",
    "another runtime": 'Traceback (most recent call last):\n  File "x.py", line 1, in f\nValueError: BUG: x\n',
    "a configuration": "CONFIG_DETECT_HUNG_TASK=y\nCONFIG_BUG=y\n# CONFIG_DEBUG_VM is not set\n",
}


@pytest.mark.parametrize("name", NO_KERNEL)
def test_what_only_looks_like_a_complaint(name: str) -> None:
    found = explain(NO_KERNEL[name])
    assert not found.findings and not found.tasks


def test_a_reset_in_the_middle_of_a_console() -> None:
    cut = OOPS[:400] + "\0\r\nSeaBIOS (version 1.16)\r\nBooting from Hard Disk...\r\n[    0.0] Linux version 6.1.0\r\n"
    found = explain(cut + "[    1.0] Run /init as init process\r\n" + HANG)
    assert kinds(found) == ["oops zpool 2345", "hung_task zfs 3000"]


def test_bodies_of_issues() -> None:
    body = {"number": 1, "body": "It hangs:\r\n```\r\n" + HANG.replace("\n", "\r\n") + "```\r\n"}
    for text in (json.dumps(body), json.dumps([body, body], indent=2)):
        assert kinds(explain(text)) == ["hung_task zfs 3000"]


@pytest.mark.parametrize(
    "cut", [" ", " b", " blocked for", " blocked for more th", " blocked for more than ", " is bloc"]
)
def test_a_report_whose_first_line_is_cut_at_the_end(cut: str) -> None:
    for prefix in ("", "[  812.446101] ", "Apr  5 05:53:22 box kernel: "):
        found = explain(f"{prefix}usb 1-1: new device\n{prefix}INFO: task txg_sync:790{cut}")
        assert kinds(found) == ["hung_task txg_sync 790"], prefix
        assert found.closes is Closes.UNKNOWN
    for other in ("INFO: task txg_sync:79", "INFO: task txg_sync:790 bored", "INFO: task txg_sync"):
        assert not explain(other).findings


def test_a_hub_that_resets_what_it_finds_is_no_error() -> None:
    reset = "usb 2-1.4: reset high-speed USB device number 3 using xhci_hcd"
    boot = "Linux version 6.1.0 (a@b) #1 SMP"
    for text, errors in (
        (f"[    3.141592] {reset}\n", 0),
        (f"[90003.141592] {reset}\n", 1),
        (f"Apr  5 05:53:22 box kernel: {boot}\nApr  5 05:53:29 box kernel: {reset}\n", 0),
        (f"Apr  5 05:53:22 box kernel: {boot}\nApr  5 09:53:29 box kernel: {reset}\n", 1),
        (f"[    3.141592] {reset}\n[    4.000000] blk_update_request: I/O error, dev sdb, sector 8\n", 1),
    ):
        assert len(explain(text).findings) == errors, text


def test_a_stack_that_is_not_shown_is_no_thread() -> None:
    text = "# cat /proc/812/stack\ncat: /proc/812/stack: No such file or directory\n# cat /proc/790/stack\n"
    found = explain(text + "[<0>] zio_wait+0x1/0x2\n[<0>] spa_sync+0x1/0x2\n")
    assert [(it.pid, it.frames) for it in found.tasks] == [(790, ("zio_wait", "spa_sync"))]
    assert explain("splvm: stack 812 D zfs\nsplvm: end collector\n").tasks[0].comm == "zfs"


def test_a_headline_has_no_stack() -> None:
    """The rest of a stack that stands under the title of an issue is another thread's."""
    rest = "[  299.9]  tank_read+0x10/0x90 [zfs]\n[  300.0]  ret_from_fork+0x22/0x30\n"
    found = explain(f"# VERIFY3(tank->tk_size > 0) failed (0 > 0)\n\n{rest}{HANG}")
    assert [(it.kind, it.frames) for it in found.findings if it.kind == "panic"] == [("panic", ())]
    assert [it.frames for it in found.tasks] == [
        ("tank_read", "ret_from_fork"),
        ("__mutex_lock", "spa_open_common"),
    ]


def test_reports_of_which_somebody_left_lines_out() -> None:
    """The second line of a report of a hung task ends the stack of the one before, if its first one is missing."""
    first = "".join(HANG.splitlines(keepends=True)[1:])
    told = '[  300.1] "echo 0 > /proc/sys/kernel/hung_task_timeout_secs" disables this message.\n'
    found = explain(f"{first}{told}[  300.1]  schedule+0x29/0x70\n[  300.1]  arc_evict+0xfa/0x6e0 [zfs]\n")
    assert [(it.pid, it.frames) for it in found.tasks] == [
        (3000, ("__mutex_lock", "spa_open_common")),
        (None, ("schedule", "arc_evict")),
    ]
    whole = explain(HANG.replace("\n", "\n" + told, 1))
    assert [it.frames for it in whole.tasks] == [("__mutex_lock", "spa_open_common")]


def test_the_rest_of_a_stack_says_nothing() -> None:
    """The last line of another stack, which may be left over, is not what the answer is about."""
    found = explain("[  299.9]  ? kthread_create_on_node+0x180/0x180\n" + HANG)
    assert [moment.graph.sentence.split(" (")[0] for moment in found.moments] == ["zfs"]


def test_a_line_whose_owner_comes_in_the_next_one_may_end_in_a_blank() -> None:
    """Mailers leave the blank at which they break a line."""
    found = explain(
        "> [  246.880189] INFO: task lake:877 blocked for more than 122 seconds.\n"
        "> [  246.880289] task:lake            state:D stack:0     pid:877 tgid:875 ppid:1      flags:0x00080000\n"
        "> [  246.880302] Call Trace:\n"
        "> [  246.880361]  __mutex_lock+0x527/0xa60\n"
        "> [  246.882666] INFO: task lake:877 is blocked on a mutex \n> likely owned by task lake:877.\n"
    )
    assert found.telling is not None and list(found.telling.graph.cycle) == [877]


def test_a_quotation_of_another_depth_does_not_go_on_with_the_last_frame() -> None:
    found = explain(
        ">>>> May 21 21:59:53 host kernel: INFO: task lake_resync:790\n>>>> blocked for more than 122 seconds.\n"
        ">>>> May 21 21:59:53 host kernel: task:lake_resync     state:D\n"
        ">>>> stack:0     pid:790   tgid:790   ppid:2      flags:0x00004000\n"
        ">>>> May 21 21:59:53 host kernel: Call Trace:\n"
        ">>>> May 21 21:59:53 host kernel: schedule+0x2c/0xb0\n"
        ">>>> May 21 21:59:53 host kernel: lake_raise+0x107/0x200 [lake]\n"
        ">>\n>> Unless this is a deadlock, it should be waiting for normal I/O\n"
    )
    assert [it.frames for it in found.tasks] == [("schedule", "lake_raise")]


def test_a_lock_report_whose_chain_was_left_out_has_its_stack() -> None:
    found = explain(
        "WARNING: possible recursive locking detected\n...\nlake/368 is trying to acquire lock:\n"
        "ffff8881e1ce1728 (&mo->lake_sem){++++}-{4:4}, at: lake_read_lock+0x91/0x1c0\n\n"
        "but task is already holding lock:\n"
        "ffff8881e1ce0d28 (&mo->lake_sem){++++}-{4:4}, at: lake_write_lock+0x9a/0x1c0\n...\n"
        " dump_stack_lvl+0x54/0x70\n __lock_acquire+0x11b4/0x2830\n lock_acquire+0xd5/0x290\n"
        " lake_read_lock+0x91/0x1c0\n lake_destroy+0x219/0x460\n"
    )
    (report,) = found.findings
    assert report.kind == "lockdep" and report.frames[-2:] == ("lake_read_lock", "lake_destroy")
