"""Reading a memory dump without a guest: what is missing, what drgn's process may do, and what it may say."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from splvm.deadline import Deadline
from splvm.dump import dumpreader, postmortem
from splvm.dump.postmortem import describe_dump, examine_dump, parse_report
from splvm.errors import DeadlineExceeded, EvidenceError, HarnessError, SetupError
from splvm.evidence.waiting.waitgraph import build_graph

DUMP = Path("memory.kdump")


def frames(*names: str) -> list[dict[str, Any]]:
    """Frames of a stack; those whose name ends in `*` are inlined."""
    return [{"function": name.rstrip("*"), "inlined": name.endswith("*")} for name in names]


def answer(**changes: Any) -> dict[str, Any]:
    """What dumpreader.py says of a guest whose worker is held and whose callers have no emergency objects."""
    counts = dict.fromkeys(dumpreader.COUNTS, 0) | {"object_bytes": 65536, "slab_total": 2, "slab_objects": None}
    waiters = [{"pid": 125, "comm": "slabprobe/0"}, {"pid": 126, "comm": "slabprobe/1"}]
    cache = {"name": "slabprobe", "flags": 0x8080, "flag_names": ["kvmem", "growing"], "waiters": waiters, **counts}
    asleep = ("context_switch*", "__schedule", "schedule")
    waiting = frames(*asleep, "spl_cache_grow*", "spl_kmem_cache_alloc", "critical_thread", "kthread", "ret_from_fork")
    held = frames(*asleep, "slabprobe_grow_work", "taskq_thread", "kthread", "ret_from_fork")
    idle = frames(*asleep, "kswapd", "kthread", "ret_from_fork")
    threads = [(42, "kswapd0", "S", idle), (118, "spl_kmem_cache", "D", held)]
    threads += [(125, "slabprobe/0", "D", waiting), (126, "slabprobe/1", "D", waiting)]
    keys = ("pid", "comm", "state", "frames")
    return {
        "release": "6.1.0-56-cloud-amd64",
        "build_id": "3b43fad5",
        "caches": [cache],
        "threads": [{**dict(zip(keys, values, strict=True)), "stack_error": ""} for values in threads],
        "problems": [],
        **changes,
    }


def test_report() -> None:
    report = parse_report(json.dumps(answer()), DUMP)
    cache = report.cache("slabprobe")
    assert cache is not None
    assert [waiter.pid for waiter in cache.waiters] == [125, 126]
    assert (cache.flag_names, cache.slab_total, cache.slab_objects) == (("kvmem", "growing"), 2, None)
    assert report.cache("other") is None
    assert [thread.pid for thread in report.blocked] == [118, 125, 126]
    assert report.blocked[1].functions[3:5] == ("spl_cache_grow", "spl_kmem_cache_alloc")
    assert report.blocked[1].called[2:4] == ("spl_kmem_cache_alloc", "critical_thread")
    assert json.loads(json.dumps(report.to_json()))["caches"][0]["waiters"][0]["comm"] == "slabprobe/0"


def test_thread_that_waits_is_blocked_in_whatever_state() -> None:
    said = answer()
    said["threads"][2]["state"] = "S"
    assert 125 in [thread.pid for thread in parse_report(json.dumps(said), DUMP).blocked]


def test_graph_names_who_waits_for_whom() -> None:
    graph = build_graph(parse_report(json.dumps(answer()), DUMP).for_graph())
    assert graph.chain == (125, 118)


def test_description() -> None:
    text = "\n".join(describe_dump(parse_report(json.dumps(answer(problems=["skc_name: no such page"])), DUMP)))
    assert "cache slabprobe: flags 0x08080 (kvmem growing), objects of 65536 bytes" in text
    assert "waiters: 2: slabprobe/0 (pid 125), slabprobe/1 (pid 126)" in text
    assert "spl_kmem_cache (pid 118), state D:" in text
    assert "spl_cache_grow (inlined)" in text
    assert "kswapd0" not in text
    assert "not read: skc_name: no such page" in text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "drgn: hello",
        "null",
        "[]",
        "3",
        "{}",
        "[" * 100_000,
        '{"release": NaN}',
        json.dumps({"caches": []}),
        json.dumps(answer(release=6.1)),
        json.dumps(answer(caches=None)),
        json.dumps(answer(caches=["slabprobe"])),
        json.dumps(answer(caches=[{"name": "slabprobe"}])),
        json.dumps(answer(threads={})),
        json.dumps(answer(threads=[{**answer()["threads"][0], "pid": "42"}])),
        json.dumps(answer(threads=[{**answer()["threads"][0], "pid": True}])),
        json.dumps(answer(threads=[{**answer()["threads"][0], "frames": ["schedule"]}])),
        json.dumps(answer(problems="none")),
        json.dumps(answer())[:-10],
    ],
)
def test_answer_that_makes_no_sense(text: str) -> None:
    with pytest.raises(EvidenceError, match=r"memory\.kdump: what drgn found in it makes no sense") as caught:
        parse_report(text, DUMP)
    assert len(caught.value.message) < 1000


def test_answer_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postmortem, "_OUTPUT_CHARS", 100)
    with pytest.raises(EvidenceError, match="more than 100 characters"):
        parse_report(json.dumps(answer()), DUMP)


@pytest.mark.parametrize(
    "error", [{"kind": "dump", "message": "x" * 10_000}, {"kind": []}, {"kind": "new"}, {}, [], "broken", 1, False]
)
def test_error_of_the_reader(error: object) -> None:
    with pytest.raises(EvidenceError) as caught:
        parse_report(json.dumps({"error": error}), DUMP)
    assert len(caught.value.message) < 1000


# What is missing.


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A dump and a vmlinux that are neither."""
    dump, vmlinux = tmp_path / "memory.kdump", tmp_path / "vmlinux"
    dump.write_bytes(b"makedumpfile\0" + bytes(100_000))
    vmlinux.write_bytes(b"\x7fELF" + bytes(1000))
    return dump, vmlinux


def test_without_symbols(files: tuple[Path, Path]) -> None:
    with pytest.raises(SetupError, match="debug symbols, and they have not been fetched") as caught:
        examine_dump(files[0], None, {}, Deadline(30))
    assert "no other command needs them" in str(caught.value.hint)


def test_without_drgn(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postmortem, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match="needs the extra `dump`"):
        examine_dump(*files, {}, Deadline(30))


def test_without_a_dump(files: tuple[Path, Path], tmp_path: Path) -> None:
    for missing in ([tmp_path / "x", files[1], {}], [files[0], tmp_path / "x", {}], [*files, {"spl": tmp_path / "x"}]):
        with pytest.raises(EvidenceError, match="x: there is no such file"):
            examine_dump(*missing, Deadline(30))  # type: ignore[arg-type, call-arg]


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\x7fELF" + bytes(1000), b"KDUMP   " + bytes(10_000), b"makedumpfile\0"]
)
def test_what_is_no_dump(files: tuple[Path, Path], content: bytes) -> None:
    files[0].write_bytes(content)
    with pytest.raises(EvidenceError, match=r"memory\.kdump: it is no memory dump that drgn can read") as caught:
        examine_dump(*files, {}, Deadline(60))
    assert "stands" in str(caught.value.hint)


# What drgn's process may do: it is C code that follows a guest's pointers.


@pytest.mark.parametrize(
    ("script", "error", "says"),
    [
        ("kill -SEGV $$", EvidenceError, "status -11"),
        ("echo 'assertion failed' >&2; exit 3", EvidenceError, "status 3:\nassertion failed"),
        ("echo '{'", EvidenceError, "makes no sense"),
        ("exit 0", EvidenceError, "makes no sense"),
        ("sleep 60", DeadlineExceeded, "not done after 1.0 s"),
    ],
)
def test_process_that_fails(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, script: str, error: type[HarnessError], says: str
) -> None:
    monkeypatch.setattr(postmortem, "_READER", ("sh", "-c", script))
    with pytest.raises(error) as caught:
        examine_dump(*files, {}, Deadline(1))
    assert says in caught.value.message


def test_module_in_the_users_directory_is_not_run(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "splvm").mkdir()
    (tmp_path / "splvm" / "__init__.py").write_text("raise SystemExit(77)")
    (tmp_path / "drgn.py").write_text("raise SystemExit(78)")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EvidenceError, match="no memory dump"):
        examine_dump(*files, {}, Deadline(60))


def test_drgn_is_kept_out_of_this_process() -> None:
    code = "import splvm.dump.postmortem, sys; sys.exit('drgn' in sys.modules)"
    from splvm.host.process import run

    run([sys.executable, "-c", code], cwd=Path(postmortem.__file__).parents[2], deadline=Deadline(60), what="import")


# Lists in a dump may run in circles, or nowhere.


class Entry:
    """As much of a drgn.Object as a list needs."""

    def __init__(self, address: int) -> None:
        self.address = address

    def value_(self) -> int:
        return self.address


def bounded(addresses: Iterator[int]) -> Iterator[int]:
    entries = (Entry(address) for address in addresses)
    for entry in dumpreader._bounded(entries, 5, "caches"):
        yield entry.value_()


def test_list_in_order() -> None:
    assert list(bounded(iter([1, 2, 3, 4, 5]))) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("addresses", "found", "says"),
    [([1, 2, 3, 2, 3, 2], [1, 2, 3], "in a circle after 3 caches"), (range(1, 9), [1, 2, 3, 4, 5], "more than 5")],
)
def test_list_without_end(addresses: list[int], found: list[int], says: str) -> None:
    problems = dumpreader.Problems()
    seen = []
    with problems.within("spl_kmem_cache_list"):
        for address in bounded(iter(addresses)):
            seen.append(address)
    assert seen == found
    assert says in problems.texts[0]


def test_problems_have_a_bound() -> None:
    problems = dumpreader.Problems()
    for number in range(1000):
        with problems.within(f"cache {number}"):
            raise LookupError("x" * 10_000)
    assert len(problems.texts) == dumpreader.MAX_PROBLEMS
    assert max(map(len, problems.texts)) == dumpreader.MAX_PROBLEM_CHARS
