"""What an experiment waits on, what it reads of the host, and the names it is asked for by."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from experiments import experiment
from fake_agent import LIMIT_S, meanwhile
from splvm.builds.image import read_module, resolve_modules
from splvm.builds.kernels import KERNELS, find_kernel
from splvm.builds.variants import VARIANTS, find_variant
from splvm.deadline import Deadline, poll
from splvm.errors import BuildError, DeadlineExceeded, GuestLostError, HarnessError, UsageError
from splvm.evidence.formats.stream import Frame, What
from splvm.evidence.rule import parse_rule
from splvm.guest.agent import AgentStream
from splvm.host.schedstat import read_threads
from splvm.record.reader import read_facts
from splvm.record.writer import RunDirectory
from splvm.run.experiment import run_experiment
from splvm.run.hostwatch import start_host_watch
from splvm.run.live import LiveReadings
from splvm.run.readings import Reading
from splvm.run.scenarios import Workload
from splvm.scenarios.table import SCENARIOS, find_scenario

SECOND_NS = 1_000_000_000
# The guest has been up for a while when its agent starts.
BOOTED_NS = 8 * SECOND_NS

PROBE = """\
slabprobe 1
now_ns {now_ns}
bits kvmem=0x80 deadlocked=0x4000 growing=0x8000 reaping=0x10000
config threads=1 objects=32 size=65536 pause_us=500 reap_rounds=1
run state=running parked=0 stopped=0
hold armed=0 held={held} pid=77 since_ns=0 entries=0 released_ns=0
live slab=0 emergency=0 emergency_max=0 emergency_total=0
thread 0 pid=90 rounds={rounds} allocs=768 frees=704 emergency=0 failures=0 corrupt=0 gap_max_ns=5 \
gap_total_max_ns=6 alloc_since_ns=0 last_ns=7
"""

SLAB = """\
--------------------- cache -------------------------------------------------------  ----- slab ------  \
---- object -----  --- emergency ---
name                                    flags      size     alloc slabsize  objsize  total alloc   max  \
total alloc   max  dlock alloc   max
slabprobe                             0x{flags:05x}   1056768   1048576   528384    65536      2     2     9     \
80    16    72      1    {alloc}    64
"""


@dataclass
class Stream:
    """All that a wait asks of the agent."""

    lost: str | None = None

    def command(self, command: str, deadline: Deadline) -> int:
        raise NotImplementedError

    def gone(self) -> str | None:
        return self.lost

    def wait_for_news(self, changed: threading.Condition) -> None:
        changed.wait(0.2)


@dataclass
class Guest:
    """Frames as the agent sends them, on a clock that only the test moves."""

    live: LiveReadings
    stream: Stream
    now_ns: int = BOOTED_NS
    seq: int = 0

    def send(self, source: str, text: str = "", what: What = What.DATA, *, started_ns: int | None = None) -> None:
        start_ns = self.now_ns if started_ns is None else started_ns
        self.live.take(Frame(self.seq, self.seq, source, what, start_ns, self.now_ns, text), "ssh")
        self.seq += 1

    def probe(self, *, rounds: int = 0, held: int = 0) -> None:
        self.send("probe", PROBE.format(now_ns=self.now_ns, rounds=rounds, held=held))

    def slab(self, *, flags: int = 0x80, alloc: int = 0) -> None:
        self.send("slab", SLAB.format(flags=flags, alloc=alloc))

    def passes(self, seconds: float) -> None:
        self.now_ns += int(seconds * SECOND_NS)

    def wait_until(
        self, condition: Callable[[Reading], bool], limit_s: float = 1e6, deadline: Deadline | None = None
    ) -> bool:
        agent = cast(AgentStream, self.stream)
        return self.live.wait_until(condition, limit_s, agent, deadline or Deadline(LIMIT_S))


@pytest.fixture
def record(tmp_path: Path) -> Iterator[RunDirectory]:
    record = RunDirectory(tmp_path / "run", {})
    yield record
    record.finish({"kind": "ended", "detail": "a test"})


@pytest.fixture
def guest(record: RunDirectory) -> Guest:
    return Guest(LiveReadings(record), Stream())


def never(reading: Reading) -> bool:
    return False


def always(reading: Reading) -> bool:
    return True


# Waiting, on the guest's clock.


def test_a_condition_that_holds_already(guest: Guest) -> None:
    guest.probe()
    assert guest.wait_until(always, deadline=Deadline(0)) is True


def test_a_condition_that_comes_to_hold(guest: Guest) -> None:
    guest.probe()
    seen = threading.Event()

    def held(reading: Reading) -> bool:
        seen.set()
        return reading.probe.hold.held == 1

    def hold() -> None:
        seen.wait(LIMIT_S)
        guest.passes(0.1)
        guest.probe(held=1)

    with meanwhile(hold):
        assert guest.wait_until(held) is True


def test_an_hour_of_the_guest_is_no_time_of_the_host(guest: Guest) -> None:
    guest.probe()
    guest.live.begin()
    guest.passes(3600)
    guest.send("tasks")
    assert guest.wait_until(never, limit_s=3600, deadline=Deadline(0)) is False


def test_time_of_the_host_is_no_time_of_the_guest(guest: Guest) -> None:
    """The guest's clock stands still although its frames come: then only the host's own budget can end the wait."""
    guest.probe()
    guest.live.begin()

    def sees_a_frame(reading: Reading) -> bool:
        guest.send("tasks")
        assert reading.elapsed_ns == 0
        return False

    with pytest.raises(DeadlineExceeded, match="the run"):
        guest.wait_until(sees_a_frame, limit_s=0.001, deadline=Deadline(0.3))


def test_a_limit_counts_from_the_step_and_not_from_boot(guest: Guest) -> None:
    guest.probe()
    guest.passes(100)
    guest.send("tasks")
    guest.live.begin()
    readings: list[int] = []

    def count(reading: Reading) -> bool:
        readings.append(reading.elapsed_ns)
        guest.passes(0.5)
        guest.send("tasks")
        return False

    assert guest.wait_until(count, limit_s=1) is False
    assert readings == [0, SECOND_NS // 2, SECOND_NS]


def test_the_condition_goes_before_the_limit(guest: Guest) -> None:
    guest.probe()
    guest.live.begin()
    guest.passes(10)
    guest.probe()
    assert guest.wait_until(lambda reading: reading.elapsed_ns >= 2 * SECOND_NS, limit_s=1) is True


def test_a_step_can_begin_at_a_time_of_the_guest(guest: Guest) -> None:
    guest.probe()
    guest.live.begin(BOOTED_NS + SECOND_NS)
    guest.passes(3)
    guest.probe()
    assert guest.wait_until(lambda reading: reading.elapsed_ns == 2 * SECOND_NS, deadline=Deadline(0)) is True


def test_frames_out_of_order_do_not_turn_the_clock_back(guest: Guest) -> None:
    guest.probe()
    guest.live.begin()
    guest.passes(2)
    guest.send("tasks")
    guest.passes(-1)
    guest.send("slab", what=What.BLOCKED)
    assert guest.wait_until(lambda reading: reading.elapsed_ns == 2 * SECOND_NS, deadline=Deadline(0)) is True


def test_a_blocked_read_moves_the_clock_too(guest: Guest) -> None:
    guest.probe()
    guest.live.begin()
    began_ns = guest.now_ns
    guest.passes(5)
    guest.send("slab", what=What.BLOCKED, started_ns=began_ns)
    assert guest.wait_until(never, limit_s=5, deadline=Deadline(0)) is False


def test_nothing_is_decided_before_the_probe_is_read(guest: Guest) -> None:
    guest.passes(1000)
    guest.send("tasks")
    with pytest.raises(DeadlineExceeded):
        guest.wait_until(always, limit_s=1, deadline=Deadline(0))


# What a condition gets to see.


def reading_of(guest: Guest) -> Reading:
    seen: list[Reading] = []

    def keep(reading: Reading) -> bool:
        seen.append(reading)
        return True

    assert guest.wait_until(keep, deadline=Deadline(0))
    return seen[0]


def test_slab_readings_are_counted_from_the_step(guest: Guest) -> None:
    guest.probe()
    guest.slab()
    guest.passes(1)
    guest.send("tasks")
    guest.live.begin()
    assert reading_of(guest).slab_readings == 0
    guest.slab()
    guest.send("slab", what=What.SAME)
    # A read that began before the step, one that has not come back, and one that failed do not count.
    guest.send("slab", what=What.SAME, started_ns=BOOTED_NS)
    guest.send("slab", what=What.BLOCKED)
    guest.send("slab", "errno=2 gone", What.ERROR)
    assert reading_of(guest).slab_readings == 2


def test_rounds_are_those_at_the_step(guest: Guest) -> None:
    guest.probe(rounds=7)
    guest.live.begin()
    guest.probe(rounds=9)
    reading = reading_of(guest)
    assert (reading.rounds_before, reading.probe.threads[0].rounds) == ((7,), 9)


def test_rounds_of_threads_that_were_not_seen_yet(guest: Guest) -> None:
    guest.live.begin()
    guest.probe(rounds=9)
    assert reading_of(guest).rounds_before == (0,)


def test_the_row_of_the_slab_file(guest: Guest) -> None:
    guest.probe()
    assert reading_of(guest).row is None
    assert reading_of(guest).deadlocked is False
    guest.slab(flags=0x4080, alloc=3)
    reading = reading_of(guest)
    assert reading.row is not None
    assert reading.row.emergency.alloc == 3
    assert reading.deadlocked is True
    guest.slab()
    assert reading_of(guest).deadlocked is False


def test_text_that_cannot_be_read_is_left_to_the_judge(guest: Guest, record: RunDirectory) -> None:
    guest.probe(held=1)
    guest.send("probe", "slabprobe 9\n")
    guest.send("slab", "\0")
    assert reading_of(guest).probe.hold.held == 1
    frames = [json.loads(line) for line in (record.path / "samples.jsonl").read_text().splitlines()[1:]]
    assert [(frame["source"], frame["text"]) for frame in frames[1:]] == [("probe", "slabprobe 9\n"), ("slab", "\0")]


# Waits that come to nothing.


def test_the_end_of_the_stream_is_a_loss(guest: Guest) -> None:
    guest.probe()
    seen = threading.Event()

    def see(reading: Reading) -> bool:
        seen.set()
        return False

    def end() -> None:
        seen.wait(LIMIT_S)
        guest.stream.lost = "the agent's stream broke off: reset"

    with meanwhile(end), pytest.raises(GuestLostError, match="broke off: reset"):
        guest.wait_until(see)


def test_what_came_before_the_end_of_the_stream_counts(guest: Guest) -> None:
    guest.probe(held=1)
    guest.stream.lost = "the agent's stream ended"
    assert guest.wait_until(lambda reading: reading.probe.hold.held == 1) is True


def test_the_budget_of_the_run_ends_a_wait(guest: Guest) -> None:
    guest.probe()
    with pytest.raises(DeadlineExceeded, match="the run"):
        guest.wait_until(never, deadline=Deadline(0.1))


def test_the_workloads_command_names_every_key_once() -> None:
    words = Workload(threads=3, pause_us=0).command().split()
    assert words[:6] == ["set", "threads=3", "objects=32", "size=65536", "pause_us=0", "reap_rounds=1"]
    assert words[6:] == ["commits=0", "noio=0", "keep=0"]


# The host.


def test_threads_of_this_process() -> None:
    spun, stop = threading.Event(), threading.Event()
    tid: list[int] = []

    def work() -> None:
        tid.append(threading.get_native_id())
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass
        spun.set()
        stop.wait(LIMIT_S)

    with meanwhile(work):
        try:
            spun.wait(LIMIT_S)
            schedstat = Path(f"/proc/self/task/{tid[0]}/schedstat")

            def at_rest() -> dict[str, int] | None:
                before = schedstat.read_text()
                (reading,) = read_threads(os.getpid(), (tid[0],))
                return reading if schedstat.read_text() == before else None

            reading = poll(at_rest, Deadline(LIMIT_S), "a thread that waits")
            run_ns, wait_ns = map(int, schedstat.read_text().split()[:2])
            assert reading == {"tid": tid[0], "run_ns": run_ns, "wait_ns": wait_ns}
            # It ran for 20 ms; the kernel's two clocks do not agree to the last one.
            assert run_ns >= 10_000_000
        finally:
            stop.set()


def test_threads_that_are_gone_are_left_out() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    assert thread.native_id is not None
    gone = thread.native_id
    poll(lambda: not Path(f"/proc/self/task/{gone}").exists() or None, Deadline(LIMIT_S), "end of a thread")
    own = threading.get_native_id()
    assert [reading["tid"] for reading in read_threads(os.getpid(), (gone, own))] == [own]
    assert read_threads(os.getpid(), ()) == []
    # A process id that the kernel never gives (PID_MAX_LIMIT is 2^22).
    assert read_threads(1 << 23, (own,)) == []


def test_the_host_is_read_until_the_block_ends() -> None:
    before = set(threading.enumerate())
    readings: list[dict[str, Any]] = []
    own = threading.get_native_id()
    with start_host_watch(
        lambda at_s: read_threads(os.getpid(), (own,)), lambda reading: readings.append(dict(reading))
    ):
        poll(lambda: len(readings) >= 2 or None, Deadline(LIMIT_S), "readings of the host")
    assert set(threading.enumerate()) <= before
    assert all(reading["load1"] >= 0 for reading in readings)
    assert [reading["vcpus"][0]["tid"] for reading in readings] == [threading.get_native_id()] * len(readings)


# The guest's modules.

DEPENDENCIES = """\
kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/net/core/failover.ko.xz:
kernel/drivers/net/net_failover.ko.xz: kernel/net/core/failover.ko.xz
kernel/drivers/net/virtio_net.ko.xz: kernel/drivers/net/net_failover.ko.xz kernel/net/core/failover.ko.xz \
kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/char/virtio-console.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
"""


def test_modules_come_after_what_they_need() -> None:
    order = resolve_modules(DEPENDENCIES, "", ["virtio_pci", "virtio_net", "virtio_console"])
    needs = {line.partition(":")[0]: line.partition(":")[2].split() for line in DEPENDENCIES.splitlines()}
    for path in order:
        assert set(needs[path]) <= set(order[: order.index(path)])
    assert len(order) == len(set(order)) == len(needs)


def test_only_what_is_needed_is_loaded() -> None:
    assert resolve_modules(DEPENDENCIES, "", ["net_failover"]) == (
        "kernel/net/core/failover.ko.xz",
        "kernel/drivers/net/net_failover.ko.xz",
    )
    assert resolve_modules(DEPENDENCIES, "", ["virtio"]) == ("kernel/drivers/virtio/virtio.ko",)
    assert resolve_modules(DEPENDENCIES, "", []) == ()


def test_module_names_have_no_hyphens() -> None:
    """As lsmod shows them; file names may have either."""
    assert resolve_modules(DEPENDENCIES, "", ["virtio_console"])[-1] == "kernel/drivers/char/virtio-console.ko"


@pytest.mark.parametrize("text", ["", DEPENDENCIES])
def test_a_module_that_the_kernel_lacks(text: str) -> None:
    with pytest.raises(BuildError, match="the kernel has virtio_gpu neither as a module nor built in"):
        resolve_modules(text, "kernel/drivers/virtio/virtio.ko\n", ["virtio_gpu"])


def test_what_is_built_in_is_not_loaded() -> None:
    """Linux 7.2 of Debian has only virtio_net as a module."""
    built_in = "kernel/drivers/virtio/virtio_pci.ko\nkernel/drivers/char/virtio-console.ko\n"
    order = resolve_modules(DEPENDENCIES, built_in, ["virtio_pci", "virtio_net", "virtio_console"])
    assert order[-1] == "kernel/drivers/net/virtio_net.ko.xz"
    assert not [path for path in order if "pci" in path or "console" in path]


@pytest.mark.parametrize(("suffix", "compress"), [("", bytes), (".xz", lzma.compress), (".gz", gzip.compress)])
def test_modules_are_unpacked(tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]) -> None:
    path = tmp_path / f"virtio.ko{suffix}"
    path.write_bytes(compress(b"a module"))
    assert read_module(path) == b"a module"


def test_module_in_a_form_that_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "virtio.ko.zst").write_bytes(b"")
    with pytest.raises(BuildError, match=r"virtio\.ko\.zst"):
        read_module(tmp_path / "virtio.ko.zst")


# Names.


@pytest.mark.parametrize(
    ("find", "table"), [(find_kernel, KERNELS), (find_variant, VARIANTS), (find_scenario, SCENARIOS)]
)
def test_names_that_do_not_exist(find: Callable[[str], object], table: dict[str, object]) -> None:
    for name in table:
        assert find(name) is table[name]
    for name in ("", "none", next(iter(table)).upper()):
        with pytest.raises(UsageError) as caught:
            find(name)
        assert caught.value.exit_status == 2
        assert repr(name) in caught.value.message
        assert all(valid in caught.value.message for valid in table)


@pytest.mark.parametrize(
    ("table", "key"),
    [(KERNELS, "id"), (VARIANTS, "name"), (SCENARIOS, "name")],
    ids=["kernels", "variants", "scenarios"],
)
def test_rows_are_found_by_their_own_name(table: dict[str, object], key: str) -> None:
    assert table
    assert [getattr(row, key) for row in table.values()] == list(table)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_run_takes_its_rule_along_even_if_it_comes_to_nothing(scenario: str, tmp_path: Path) -> None:
    row = SCENARIOS[scenario]
    with pytest.raises(HarnessError, match="no-such-program"):
        run_experiment(replace(experiment(), scenario=row), tmp_path / "run")
    assert parse_rule(read_facts(tmp_path / "run")["rule"]) == row.rule
