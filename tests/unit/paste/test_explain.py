"""What an explanation says beside the corpus: the command, Python, packed and foreign input, and what is taken out."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import splvm
from pasteforms import KERNEL
from places import PROJECT
from splvm.cli.explain import take_report
from splvm.dump.postmortem import DumpFrame, DumpReport, DumpThread
from splvm.evidence.formats.kernlog import scan_kernel_log
from splvm.evidence.waiting.waitedges import Closes
from splvm.paste.answer import answer_lines
from splvm.paste.explanation import Explanation, conclude, explain, explain_streams
from splvm.paste.known import known_table
from splvm.paste.lines import MAX_UNPACKED
from splvm.paste.reading import Reading
from splvm.paste.redact import public_comm, redact
from splvm.paste.slabs import SORTS, changes, elapsed_s, parse_slabs, sort_rows
from splvm.scenarios.table import SCENARIOS

DATA = PROJECT / "tests" / "data"
CASES = {row["name"]: row["text"] for row in tomllib.loads((DATA / "field" / "logs.toml").read_text())["case"]}
FILES = {row["name"]: row["text"] for row in tomllib.loads((DATA / "field" / "files.toml").read_text())["case"]}
HUNG = CASES["hung task of 5.10 and later"]


def command(*args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    argv = [sys.executable, "-m", "splvm", "explain", *args]
    done = subprocess.run(argv, input=stdin, capture_output=True, check=False, timeout=60)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done


def test_json_of_the_command() -> None:
    done = command("-", "--json", stdin=HUNG.encode())
    assert done.returncode == 0
    shown = json.loads(done.stdout)
    assert shown["schema_version"] == 1
    assert set(shown) == {
        *(
            "schema_version",
            "inputs",
            "findings",
            "tasks",
            "moments",
            "closes",
            "known",
            "missing",
            "scenarios",
            "slab",
        ),
        *("moved", "hints", "facts", "unread"),
    }
    (finding,) = shown["findings"]
    assert (finding["kind"], finding["comm"], finding["pid"], finding["count"]) == ("hung_task", "txg_sync", 790, 1)
    (moment,) = shown["moments"]
    assert moment["waits"][0] == {
        "pid": 790,
        "comm": "txg_sync",
        "reason": "zio",
        "lock": None,
        "functions": ["zio_wait"],
        "for": [],
    }
    assert shown["tasks"][0]["moment"] == 0


def test_statuses_of_the_command(tmp_path: Path) -> None:
    assert command("-", stdin=b"nothing of the kind\n").returncode == 1
    assert command("-", stdin=b"").returncode == 1
    assert command("-", stdin=FILES["a slab file that contradicts itself"].encode()).returncode == 1
    assert command("-", stdin=CASES["the kernel prints who owns the mutex"].encode()).returncode == 0
    assert command(str(tmp_path / "none")).returncode == 2
    assert command(str(tmp_path)).returncode == 2
    assert command("-", "--json", "--issue").returncode == 2
    (tmp_path / "core").write_bytes(b"KDUMP   " + bytes(4096))
    assert b"--vmlinux" in command(str(tmp_path / "core")).stderr


def test_what_is_not_used_is_named() -> None:
    """Also behind the last line of use, and what seems to be a stack."""
    text = f"{HUNG}\nThread 7:\ntank_nap\ntank_walk\ntank_run\n\nThis is the end.\n"
    found = explain(text)
    first = HUNG.count("\n") + 3
    assert f"3 lines like a stack: no function that waits is where one ends (line {first})" in [
        f"{it.why} (line {it.line})" for it in found.unread
    ]
    assert "from 'Thread 7:' on" in found.unread[-1].why
    assert explain(HUNG + "\n\n```\n").unread == ()


def test_python_has_it_and_importing_costs_nothing() -> None:
    found = splvm.explain(HUNG)
    assert isinstance(found, splvm.Explanation)
    assert found.closes is Closes.UNKNOWN
    slow = "[name for name in sys.modules if name.startswith('splvm.')]"
    code = f"import sys, splvm; print({slow}); splvm.parse_slab; splvm.judge; splvm.explain"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    assert done.stdout.decode().strip() == "[]"
    with pytest.raises(AttributeError):
        splvm.explained  # noqa: B018


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, lambda data: data], ids=["gz", "xz", "plain"])
def test_packed_input(pack: object) -> None:
    found = explain_streams([("x", io.BytesIO(pack(HUNG.encode())))])  # type: ignore[operator]
    assert [it.comm for it in found.findings] == ["txg_sync"]


def test_packed_input_that_is_cut() -> None:
    found = explain_streams([("x", io.BytesIO(gzip.compress(HUNG.encode() * 2000)[:-20]))])
    assert found.findings and any("cannot be read any further" in it.why for it in found.unread)


def test_utf_16() -> None:
    found = explain_streams([("x", io.BytesIO(("\ufeff" + HUNG).encode("utf-16-le")))])
    assert [it.comm for it in found.findings] == ["txg_sync"]


def test_several_inputs_are_several_moments() -> None:
    found = explain_streams([("a", io.BytesIO(HUNG.encode())), ("b", io.BytesIO(HUNG.encode()))])
    assert [it.name for it in found.inputs] == ["a", "a", "b", "b"]
    assert len(found.moments) == 2
    assert found.findings[0].count == 2


@pytest.mark.parametrize("path", sorted((DATA / "kernlog").glob("*.log")), ids=lambda path: path.stem)
def test_complaints_of_guests_keep_their_fingerprints(path: Path) -> None:
    """What a guest's console says is one complaint with the same fingerprint, whoever reads it."""
    text = path.read_text()
    strict = {(it.kind.value, it.fingerprint) for it in scan_kernel_log(text)}
    lenient = {(it.kind, it.fingerprint) for it in explain(text).findings}
    assert strict <= lenient


def test_hung_tasks_of_two_moments_are_not_put_together() -> None:
    """An hour lies between them, so that they say nothing of each other."""
    later = CASES["kswapd waits for an object's lock, and who has it for memory"].strip("\n").split("\n")
    half = next(at for at, line in enumerate(later) if at and line.startswith("INFO: task"))
    first = "".join(f"[ 1000.000000] {line}\n" for line in later[:half])
    second = "".join(f"[ 4600.000000] {line}\n" for line in later[half:])
    found = explain(first + second)
    assert len(found.moments) == 2
    assert found.closes is Closes.UNKNOWN


def test_hung_tasks_of_two_hosts_are_not_put_together() -> None:
    lines = CASES["kswapd waits for an object's lock, and who has it for memory"].strip("\n").split("\n")
    half = next(at for at, line in enumerate(lines) if at and line.startswith("INFO: task"))
    text = "".join(f"Apr  5 05:53:22 {'a' if at < half else 'b'} kernel: {line}\n" for at, line in enumerate(lines))
    assert explain(text).closes is Closes.UNKNOWN


def test_callers_keep_two_stacks_apart() -> None:
    """What two CPUs print at once, with CONFIG_PRINTK_CALLER."""
    cycle = CASES["two owners printed, in a circle"].strip("\n").split("\n")
    half = next(at for at, line in enumerate(cycle) if "ls:302 blocked" in line)
    mixed = []
    for at in range(half):
        mixed.append(f"[  100.{at:06d}][    T1] {cycle[at]}")
        if at + half < len(cycle):
            mixed.append(f"[  100.{at:06d}][    T2] {cycle[at + half]}")
    found = explain("\n".join(mixed) + "\n")
    assert found.closes is Closes.CYCLE
    assert {it.pid: it.frames[-1] for it in found.tasks} == {301: "zfs_remove", 302: "zfs_lookup"}


def test_a_dump_that_lost_lines_proves_nothing() -> None:
    text = CASES["SysRq t with threads that run and sleep"]
    assert explain(text).closes is Closes.CHAIN
    assert explain(text.replace("task:dd ", "** 12 printk messages dropped **\ntask:dd ")).closes is Closes.UNKNOWN
    assert explain(text.replace("Showing busy workqueues and worker pools:\n", "")).closes is Closes.UNKNOWN


TORN = """\
INFO: task z_wr_iss:388 blocked for more than 120 seconds.
task:z_wr_iss        state:D stack:    0 pid:  388 ppid:     2 flags:0x00004000
{gap}
Call Trace:
 __schedule+0x2cd/0x890
 txg_wait_open+0xaf/0x100 [zfs]
 spl_cache_grow_work+0x2e5/0x380 [spl]
 taskq_thread+0x1d2/0x1a0 [spl]
"""


@pytest.mark.parametrize(
    "gap",
    [
        "** 85 printk messages dropped **",
        "Missed 85 kernel messages",
        "Suppressed 85 messages from kernel",
    ],
)
def test_lines_that_are_lost_end_a_report(gap: str) -> None:
    """The stack may be of a thread whose head is among them."""
    found = explain(TORN.format(gap=gap))
    assert found.closes is not Closes.CYCLE
    assert not any(it.pid == 388 and it.frames for it in found.tasks)


STACK = (
    "Call Trace:",
    " __schedule+0x2cd/0x890",
    " schedule+0x5e/0xd0",
    " txg_wait_open+0xaf/0x100 [zfs]",
    " spl_cache_grow_work+0x2e5/0x380 [spl]",
    " taskq_thread+0x1d2/0x1a0 [spl]",
    " kthread+0x10/0x20",
)
HEAD = TORN.partition("{gap}")[0]
GAPS = (
    "[snip]",
    "...",
    "[...]",
    "\N{HORIZONTAL ELLIPSIS}",
    "<snip>",
    "(truncated)",
    "[ 12 lines omitted ]",
    "*** 20 lines deleted ***",
    "[  123.456789] ...",
    "Call Trace:",
    " __schedule2cd/0x890",
)


@pytest.mark.parametrize("gap", GAPS)
def test_a_torn_stack_closes_nothing(gap: str) -> None:
    """What stands behind the gap may be of a thread whose head is in it."""
    assert explain(HEAD + "\n".join(STACK)).closes is Closes.CYCLE
    # The first `Call Trace:` is the head's own.
    for at in range(gap == "Call Trace:", len(STACK)):
        text = HEAD + "\n".join((*STACK[:at], gap, *STACK[at:]))
        assert explain(text).closes is Closes.UNKNOWN, text


@pytest.mark.parametrize("gap", [it for it in GAPS if it != "Call Trace:"])
def test_what_comes_after_a_stack_tears_nothing(gap: str) -> None:
    other = "INFO: task nfsd:77 blocked for more than 120 seconds.\n"
    whole = HEAD + "\n".join(STACK)
    assert explain(f"{whole}\n{gap}\n{other}").closes is Closes.CYCLE
    assert explain(f"{other}{gap}\n{whole}").closes is Closes.CYCLE


def test_two_stacks_under_one_head() -> None:
    """The head between them is missing: the second one is another thread's."""
    text = HEAD.replace("z_wr_iss:388", "txg_sync:402").replace("z_wr_iss    ", "txg_sync    ").replace("388", "402")
    text += "Call Trace:\n zio_wait+0x133/0x2c0 [zfs]\n spa_sync+0x57c/0xf90 [zfs]\n" + "\n".join(STACK)
    found = explain(text)
    assert found.closes is not Closes.CYCLE
    assert not any("txg_wait_open" in str(it.graph.sentence) for it in found.moments)


def test_what_is_not_read_is_named() -> None:
    found = explain("my pool hangs\nand I do not know why\n" + HUNG)
    assert [(it.line, it.why) for it in found.unread] == [
        (1, "2 lines of no kind that is known here, from 'my pool hangs' on")
    ]


def test_an_answer_is_in_order_and_printable() -> None:
    text = CASES["SysRq w: pull request 4111"] + "\x1b[2J\x07WARNING: at a.c:1 x\x1b]0;y\x07\n"
    lines = list(answer_lines(explain(text)))
    heads = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert heads == [
        *("What happened:", "Who waits for whom:", "What is known of this:", "What is missing to be sure:"),
        "What has this shape here:",
    ]
    assert all(line.isprintable() for line in lines if line)
    assert any(line.startswith("By role it closes") for line in lines) and not any("a deadlock" in it for it in lines)


TWO_OWNERS = """\
[ 10.0] INFO: task one:11 blocked for more than 120 seconds.
[ 10.0] task:one             state:D stack:0     pid:11    ppid:2      flags:0x00004000
[ 10.0] Call Trace:
[ 10.0]  __mutex_lock+0x1a0/0x6f0
[ 10.0]  zfs_zget+0x60/0x90 [zfs]
[ 10.0] INFO: task one:11 is blocked on a mutex likely owned by task two:12.
[ 10.0] INFO: task two:12 blocked for more than 120 seconds.
[ 10.0] task:two             state:D stack:0     pid:12    ppid:2      flags:0x00004000
[ 10.0] Call Trace:
[ 10.0]  __mutex_lock+0x1a0/0x6f0
[ 10.0]  zfs_zget+0x60/0x90 [zfs]
"""
ITS_OWNER = "[ 10.0] INFO: task two:12 is blocked on a mutex likely owned by task one:11.\n"


def test_only_the_kernels_own_word_makes_a_cycle_a_deadlock() -> None:
    """Without owners, two that wait for locks of one kind are no proof of anything."""
    bare = "".join(line for line in TWO_OWNERS.splitlines(keepends=True) if "likely owned" not in line)
    assert any("a deadlock" in line for line in answer_lines(explain(TWO_OWNERS + ITS_OWNER)))
    for text in (bare, TWO_OWNERS):
        assert not any("a deadlock" in line for line in answer_lines(explain(text)))


def test_a_forged_log_is_only_text() -> None:
    forged = HUNG.replace("txg_sync", "What is known of this:") + "It closes: these threads wait for each other\n"
    found = explain(forged)
    assert found.closes is Closes.UNKNOWN
    assert all(line.startswith(" ") for line in answer_lines(found) if "known of this:" in line and len(line) > 30)


# Tables


def test_scenarios_of_the_table_are_ours() -> None:
    table = known_table()
    assert {row.name for row in table.scenarios} <= set(SCENARIOS)
    assert all(row.command.split()[:3] == ["splvm", "run", row.name] for row in table.scenarios)
    assert all(row.issue.startswith("https://github.com/openzfs/") and row.why for row in table.issues)
    assert all(bool(row.threads) != bool(row.finding) for row in table.issues)


# Slab files


def test_readings_and_what_changed() -> None:
    one, two = parse_slabs(FILES["two readings of the slab file, with times"])
    assert [(it.column, it.before, it.after) for it in changes(one.slab, two.slab)] == [
        ("alloc", 389120, 409600),
        ("in use", 19, 20),
    ]
    assert elapsed_s(one.time, two.time) == 10.0


def test_every_sort() -> None:
    rows = parse_slabs(FILES["slab file under a label"])[0].slab.caches
    for name in SORTS:
        assert {row.name for row in sort_rows(rows, name)} == {"zio_buf_20480", "zio_buf_24576"}
    assert [row.name for row in sort_rows(rows, "bytes")] == ["zio_buf_20480", "zio_buf_24576"]
    assert [row.name for row in sort_rows(rows, "dlock")] == ["zio_buf_24576", "zio_buf_20480"]


# What is taken out


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("from 192.0.2.7 on", "from <IP address> on"),
        ("at 2001:db8::1 now", "at <IP address> now"),
        ("mac 52:54:00:12:34:56", "mac <MAC address>"),
        ("Pool 'tank' has", "Pool '<pool or dataset>' has"),
        ("zio pool=tank vdev=/dev/sdb1 error=5", "zio pool=<pool or dataset> vdev=/dev/sdb1 error=5"),
        ("vdev=/dev/disk/by-id/ata-WDC_WD40-ABC123-part1 error=5", "vdev=<device> error=5"),
        ("sd 0:0:0:0: [sda] and nvme 0000:03:00.0", "sd 0:0:0:0: [sda] and nvme 0000:03:00.0"),
        ("fe80::5054:ff:fe12:3456%eth0 and 10.0.0.7:22", "<IP address> and <IP address>"),
        ("6.1.0-18-amd64 #1 Debian 6.1.76-1", "6.1.0-18-amd64 #1 Debian 6.1.76-1"),
        ("SerialNumber: 0123456789AB", "SerialNumber: <serial number>"),
        ("snapshot vault/home/jane@daily-1 is", "snapshot <pool or dataset> is"),
        ("root=ZFS=rpool/ROOT/mine ro", "root=ZFS=<pool or dataset> ro"),
        ("vault/vm-disk and vault", "<pool or dataset> and <pool or dataset>"),
        ("jane ran /srv/jane/x and smbd-jane", "<user> ran <path> and smbd-<user>"),
        ("on box.example.org and box", "on <host> and <host>"),
        ("nfs: server filer not responding", "nfs: server <host> not responding"),
        ("UUID 2f1a7c3e-0b1d-4c55-9a57-0123456789ab", "UUID <UUID>"),
        ("in /srv/jane/src/x.c", "in <path>"),
        ("wwn-0x5000c500a1b2c3d4", "<WWN>"),
        ("ata-WDC_WD40EFRX-68N32N0_WD-WCC7K0000000", "<serial number>"),
        ("jane@example.org wrote", "<e-mail address> wrote"),
        ("on box today", "on <host> today"),
        ("[<ffffffffa035194b>] zio_wait+0xfb/0x190 [zfs]", "[<ffffffffa035194b>] zio_wait+0xfb/0x190 [zfs]"),
        ("at 12:34:56 and 86523.990932", "at 12:34:56 and 86523.990932"),
    ],
)
def test_what_is_taken_out(text: str, left: str) -> None:
    names = {"box.example.org": "host", "jane": "user", "vault": "pool or dataset"}
    assert redact(text, names)[0] == left


def test_the_name_of_a_thread_may_have_the_name_of_somebody_in_it() -> None:
    kept = ["kworker/u16:3", "z_wr_iss_h-12", "txg_sync", "jbd2/sda1-8", "systemd-journal", "smbd-12"]
    assert [public_comm(comm) for comm in kept] == kept
    assert [public_comm(it) for it in ("smbd-jane", "imap:jane", "sshd@jane")] == [
        "smbd-<name>",
        "imap:<name>",
        "sshd@<name>",
    ]
    assert redact("INFO: task smbd-jane:30", {}, ["smbd-jane"]) == (
        "INFO: task smbd-<name>:30",
        {"part of a thread's name": 1},
    )


def test_an_issue_names_nobody() -> None:
    text = KERNEL["rsyslog"]([*CASES["a pool that is suspended"].strip("\n").split("\n")]).replace(" box ", " secret7 ")
    done = command("-", "--issue", stdin=text.encode())
    shown = done.stdout.decode()
    assert done.returncode == 0
    assert "secret7" not in shown and "tank" not in shown
    assert "pool or dataset (" in shown
    assert "### System information" in shown and "zio_wait" in shown


# A dump


def test_symbols_of_another_build_are_named() -> None:
    thread = DumpThread(166, "slabprobe/0", "D", (DumpFrame("?", False),), "")
    problem = "module spl in the guest is another build than other/spl.ko.debug"
    reading = Reading()
    take_report(DumpReport("6.1.0", "ab", (), (thread,), (problem,)), "memory.kdump", reading)
    said = list(answer_lines(conclude(reading)))
    assert f"  memory.kdump: {problem}" in said
    assert any("slabprobe/0 (pid 166)" in line for line in said)


def test_the_collector_is_printed() -> None:
    assert command("--collector").stdout.startswith(b"#!/bin/sh\n")


def test_noise_takes_no_longer_than_a_log() -> None:
    """Bounded by lines that are looked at, and not by a clock."""
    noise = b"BUG: x\n" * 400_000
    found = explain_streams([("noise", io.BytesIO(noise))])
    assert "left out" in found.unread[-1].why
    assert isinstance(found, Explanation)


def test_stacks_read_by_hand_belong_to_reports_of_which_the_first_line_was_copied() -> None:
    text = """\
INFO: task z_iput/0:301 blocked for more than 120 seconds.
INFO: task umount:402 blocked for more than 120 seconds.
$ sudo cat /proc/301/stack
[<0>] cv_wait_common+0xf5/0x130 [spl]
[<0>] rrw_enter_read+0x7b/0x130 [zfs]
[<0>] zpl_writepages+0x4e/0x170 [zfs]
[<0>] iput+0x62/0x70
[<0>] zfs_unlinked_drain_task+0x12e/0x190 [zfs]
[<0>] taskq_thread+0x218/0x4b0 [spl]
$ sudo cat /proc/402/stack
[<0>] taskq_wait+0x23/0x60 [spl]
[<0>] zfsvfs_teardown+0x54/0x420 [zfs]
[<0>] zfs_umount+0x3b/0x100 [zfs]
[<0>] generic_shutdown_super+0x5b/0xe0
"""
    told = explain(text)
    assert [(finding.pid, finding.frames) for finding in told.findings] == [(301, ()), (402, ())]
    (moment,) = told.moments
    assert {task.pid: task.frames[-1] for task in (wait.thread for wait in moment.graph.waits)} == {
        301: "taskq_thread",
        402: "generic_shutdown_super",
    }


def test_a_file_of_which_most_is_a_hole_is_read_up_to_it(tmp_path: Path) -> None:
    path = tmp_path / "sparse.log"
    path.write_text(HUNG)
    with path.open("r+b") as file:
        file.truncate(20 << 30)
    done = command(str(path))
    assert done.returncode == 0 and b"hung_task" in done.stdout
    assert b"more than 256 MiB of it are zeros: it is not read any further" in done.stdout


class Endless(io.RawIOBase):
    """A text and then one piece for ever."""

    def __init__(self, text: bytes, piece: bytes) -> None:
        self.text, self.piece, self.given = text, piece, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        data, self.text = (self.text or self.piece)[: len(view)], self.text[len(view) :]
        view[: len(data)] = data
        self.given += len(data)
        return len(data)


@pytest.mark.parametrize("piece", [b"\n" + bytes((1 << 20) - 1), bytes(1 << 20)])
def test_zeros_without_an_end_are_not_read_for_ever(piece: bytes) -> None:
    """Also with ends of lines among them."""
    stream = Endless(HUNG.encode(), piece)
    told = explain_streams([("endless", io.BufferedReader(stream))])
    assert told.findings and stream.given < MAX_UNPACKED // 8
    assert any("of it are zeros" in it.why for it in told.unread)


@pytest.mark.parametrize("blank", ["\b\b", "\b \b", " \b"])
def test_a_line_of_nothing_but_backspaces(blank: str) -> None:
    """Such a line has a mark of a mail in front, and no word."""
    assert explain(f"txg_sync_thread+0x190/0x200 [zfs]\n>{blank} ").findings == ()
