"""Small texts of the field, each for a kind, with what an engineer reads in them, by `explain` and `parse-slab`."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

import pytest

from places import DATA
from splvm.paste.explanation import Explanation, explain

CASES = DATA / "field" / "cases"


@dataclass(frozen=True, slots=True)
class Right:
    """What a text says."""

    # Kind, comm and pid of each finding; `-` for none.
    findings: tuple[str, ...] = ()
    # By pid: what the thread waits for.
    reasons: tuple[tuple[int, str], ...] = ()
    # "cycle", "unknown", "chain", or None where nobody waits.
    closes: str | None = None
    # Threads of the cycle, or of what leads to the end that is not known, in their order.
    path: tuple[int, ...] = ()
    # A part of the first title.
    title: str = ""
    # Frames of the first finding, or of the first thread if there is no finding.
    frames: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RightSlab:
    """What a slab file says."""

    # Caches of each reading.
    readings: tuple[tuple[str, ...], ...]
    # What each contradiction names.
    contradictions: tuple[str, ...] = ()


_SYNC = ("__schedule", "schedule", "cv_wait_common", "__cv_wait", "zio_wait", "dsl_pool_sync", "spa_sync")
TXG_SYNC = Right(
    findings=("hung_task txg_sync 790",),
    reasons=((790, "zio"),),
    closes="unknown",
    path=(790,),
    title="INFO: task txg_sync:790 blocked for more than 120 seconds.",
    frames=(*_SYNC, "txg_sync_thread"),
)
PREFIXES = sorted(path.name for path in CASES.glob("prefix-*.log"))

RIGHT: dict[str, Right] = {
    **dict.fromkeys(PREFIXES, TXG_SYNC),
    "sysrq-prefixed.log": Right(
        reasons=((790, "zio"), (4722, "lock")),
        closes="unknown",
        path=(790, 4722),
        frames=("schedule", "zio_wait", "spa_sync"),
    ),
    "two-hung-tasks.log": Right(
        findings=("hung_task z_rd_int_0 512", "hung_task txg_sync 790"),
        reasons=((790, "zio"), (512, "lock")),
        closes="unknown",
        path=(790, 512),
        frames=("down_write", "dnode_rele_task", "zio_done", "zio_execute", "taskq_thread"),
    ),
    "lock-owner.log": Right(
        findings=("hung_task z_wr_int_0 1993",),
        reasons=((1993, "lock"), (360, "zio")),
        closes="cycle",
        path=(1993, 360),
        frames=("__mutex_lock", "multilist_insert", "dbuf_rele_and_unlock", "zio_done", "taskq_thread"),
    ),
    "proc-stack.txt": Right(
        reasons=((790, "taskq"),),
        closes="unknown",
        path=(790,),
        frames=("taskq_wait", "dmu_objset_find_dp", "spa_load", "spa_tryimport"),
    ),
    "crash-bt.txt": Right(
        reasons=((836, "txg"),),
        closes="unknown",
        path=(836,),
        frames=(
            *("schedule", "cv_wait_common", "txg_wait_open", "dmu_tx_wait", "zfs_inactive", "shrink_slab"),
            *("try_to_free_pages", "__vmalloc", "spl_cache_grow_work"),
        ),
    ),
    "large-kmem-alloc.log": Right(
        findings=("warning mount.zfs 700",),
        title="Large kmem_alloc(98304, 0x1000)",
        frames=("dump_stack_lvl", "spl_kmem_zalloc", "multilist_create", "dmu_objset_open_impl"),
    ),
    "old-warn.log": Right(
        findings=("warning - -",),
        title="WARNING: at kernel/softirq.c:159 local_bh_enable",
        frames=("local_bh_enable", "zfs_putpage"),
    ),
    "vmap-failed.log": Right(
        findings=("vmalloc_space - -", "page_alloc_failure - -"),
        title="vmap allocation for size 4198400 failed",
    ),
    "inline-frame.log": Right(
        findings=("kasan - -",),
        title="BUG: KASAN: slab-use-after-free in vdev_queue_io_done",
        frames=("dump_stack_lvl", "vdev_queue_io_done", "zio_vdev_io_done"),
    ),
}
ONE, TWO = "zio_buf_20480", "zio_buf_24576"
RIGHT_SLABS: dict[str, RightSlab] = {
    "slab-label-first.txt": RightSlab(((ONE, TWO),)),
    "slab-markdown.txt": RightSlab(((ONE, TWO),)),
    "slab-snipped.txt": RightSlab(((ONE, TWO),)),
    "slab-two-readings.txt": RightSlab(((ONE,), (ONE, TWO))),
    "slab-contradiction.txt": RightSlab(
        ((ONE,),),
        (
            "alloc is 819200, but 70 objects of 20480 bytes",
            "object alloc 70 exceeds object total 63",
            "emergency alloc 2 exceeds emergency max 0",
            "object alloc 70 and emergency alloc 2 make 72",
        ),
    ),
}


def read(name: str) -> Explanation:
    return explain((CASES / name).read_text(), name=name)


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "splvm", *args], capture_output=True, text=True, timeout=60)


def test_each_file_is_in_a_table() -> None:
    assert {path.name for path in CASES.iterdir()} == {*RIGHT, *RIGHT_SLABS}
    assert len(PREFIXES) == 10


@pytest.mark.parametrize("name", RIGHT)
def test_a_text_is_read_as_an_engineer_reads_it(name: str) -> None:
    found, right = read(name), RIGHT[name]
    assert [f"{it.kind} {it.comm or '-'} {it.pid or '-'}" for it in found.findings] == list(right.findings)
    assert (found.closes.value if found.closes else None) == right.closes
    told = found.telling
    waits = {} if told is None else {it.thread.pid: it.reason.value for it in told.graph.waits}
    assert waits == dict(right.reasons)
    if told is not None:
        assert (told.graph.cycle or told.graph.chain) == right.path
        assert "not a cycle" not in told.graph.sentence
    if found.findings:
        assert right.title in found.findings[0].title
    frames = found.findings[0].frames if found.findings else found.tasks[0].frames
    assert frames == right.frames
    assert not found.unread


def test_a_prefix_changes_no_fingerprint() -> None:
    assert len({it.fingerprint for name in PREFIXES for it in read(name).findings}) == 1


def test_the_failed_allocation_of_two_lines_keeps_its_frames() -> None:
    assert read("vmap-failed.log").findings[1].frames == (
        *("warn_alloc_failed", "__vmalloc_node_range", "spl_cache_grow_work"),
    )


@pytest.mark.parametrize("name", RIGHT_SLABS)
def test_a_slab_file_is_read(name: str) -> None:
    found, right = read(name), RIGHT_SLABS[name]
    assert tuple(tuple(row.name for row in it.slab.caches) for it in found.slab) == right.readings
    assert len(found.contradictions) == len(right.contradictions)
    for said, named in zip(found.contradictions, right.contradictions, strict=True):
        assert named in said
    status = 1 if right.contradictions else 0
    assert run("explain", str(CASES / name)).returncode == status
    done = run("parse-slab", "--json", str(CASES / name))
    assert done.returncode == status, done.stderr
    shown = json.loads(done.stdout)
    readings = shown["readings"] if len(right.readings) > 1 else [shown]
    assert tuple(tuple(row["name"] for row in it["caches"]) for it in readings) == right.readings
    assert all(named in done.stderr for named in right.contradictions)


def test_two_readings_say_what_changed() -> None:
    assert f"{TWO}: size - -> 466944" in run("explain", str(CASES / "slab-two-readings.txt")).stdout
