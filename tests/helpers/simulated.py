"""Runs that never took place: the records that a real one would leave, with one thing wrong where a test wants it.

A run is two critical threads, the worker that grows their cache, and what SPL counts. They are moved on from tick to
tick through the phases of a scenario, and read at each tick as the agent reads them, in the formats of docs/formats.md.
Every run is the same each time; one without faults is what a good SPL shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from simulated_guest import GOOD, Guest, Knobs, Record, Thread
from simulated_kinds import (
    GROW,
    KINDS,
    SPARE,
    STORM,
    Phase,
    scenario_of,
)
from simulated_texts import (
    _BANDS,
    _CAUGHT,
    _CAUGHT_ITSELF,
    _HELD,
    _IDLES,
    _LISTENS,
    _MEMORY_TASK,
    _STORMED,
    _WAITS,
    BASE_NS,
    CELLS,
    CLIENT_PIDS,
    COMMITS,
    CONSOLE,
    DEADLOCKED,
    GROWING,
    HARNESS_LOG,
    HOLD,
    IN_EMERGENCY,
    IN_HAND,
    INJECTED,
    KEEP,
    KVMEM,
    LATENCY_BOUND_MS,
    OBJECTS,
    PER_SLAB,
    PERIOD_NS,
    QEMU_LOG,
    SIZE,
    SLAB_HEADER,
    SLAB_SIZE,
    STORM_PIDS,
    STORM_SETTINGS,
    TAKER_PIDS,
    THREAD_PIDS,
    TIMED,
    TXG_HEADING,
    WORKER_PID,
    ZLIB,
    kernel_row,
    slab_row,
    worker_text,
)
from splvm.evidence.checks.loadlevel import on_pool
from splvm.evidence.checks.promises import OF_KINDS, OF_MEMORY, OF_QUEUES
from splvm.evidence.checks.worksaid import CLIENTS, QUEUES
from splvm.evidence.checks.worksaid import KINDS as WORK_KINDS
from splvm.evidence.formats.stream import Frame, What
from splvm.evidence.timeline import Evidence, Timeline
from splvm.record.writer import RunDirectory


@dataclass(frozen=True, slots=True)
class Run:
    """What is left of a run."""

    facts: dict[str, Any]
    records: list[Record]
    console: str

    def evidence(self) -> Evidence:
        """The same as if it had been written to a directory and read back."""
        count = self.facts.get("outcome", {}).get("closed_bytes")
        closed = self.console[:count] if isinstance(count, int) and 0 <= count <= len(self.console) else None
        return Evidence(self.facts, Timeline.from_records(self.records), self.console, closed=closed)

    def frames(self) -> list[Frame]:
        """The frames of the agent among the records."""
        names = [f.name for f in fields(Frame)]
        frames = [{name: r[name] for name in names} for r in self.records if r["kind"] == "frame"]
        return [Frame(**{**frame, "what": What(frame["what"])}) for frame in frames]

    def start_record(self, path: Path, more: Mapping[str, Any] | None = None) -> RunDirectory:
        """The run in a directory, as the harness leaves it, but not finished.

        :param more: what run.json says besides.
        """
        record = RunDirectory(
            path, {**{key: self.facts[key] for key in self.facts if key != "outcome"}, **(more or {})}
        )
        frames = iter(self.frames())
        for line in self.records:
            match line["kind"]:
                case "frame":
                    record.record_frame(next(frames), line["path"])
                case "host":
                    record.record_host({key: line[key] for key in ("vcpus", "load1")})
                case "phase":
                    record.record_phase(line["name"])
                case "afterwards":
                    record.record_afterwards(line["source"], line["text"])
        (path / "console.log").write_text(self.console)
        (path / "qemu.log").write_bytes(QEMU_LOG)
        (path / "harness.log").write_bytes(HARNESS_LOG)
        return record


def simulate(scenario: str, knobs: Knobs = GOOD) -> Run:
    """Let a run take its course."""
    console = CONSOLE + knobs.console
    simulation = _Simulation(scenario, knobs)
    facts = {
        "schema_version": 1,
        "scenario": scenario_of(scenario),
        "expected": [KINDS[scenario].best],
        "parameters": {
            "window_s": 3.0,
            "latency_bound_ms": LATENCY_BOUND_MS,
            "rate_hz": 20,
            "ram_mib": 512,
            "cpus": KINDS[scenario].cpus,
            "workload": simulation.workload(),
        },
        # The keys are those of that version.
        "splvm": "0.1.0",
        "argv": ["splvm", "run", scenario_of(scenario)],
        "started": "2026-11-01T00:00:00+00:00",
        "kernel": {
            "id": "debian-12",
            "release": "6.1.0-56-cloud-amd64",
            "package": "linux-image-6.1.0-56-cloud-amd64 6.1.192-2",
            "sha256": "51" * 32,
        },
        "spl": {
            "source": "debian",
            "version": "2.1.11-1+deb12u1",
            "variant": "stock",
            "patches": [],
            "modules": {"spl.ko": "68" * 32, "slabprobe.ko": "5e" * 32},
        },
        "spl_parameters": {"spl_kmem_cache_obj_per_slab": "8"},
        "qemu": {"version": "7.2.22", "sha256": "14" * 32},
        "accelerator": {"name": "tcg", "reason": "/dev/kvm is not there"},
        "host": {"cores": 2, "load": [0.5, 0.4, 0.3], "system": "Linux 6.18.44 x86_64"},
        "outcome": {**dict(zip(("kind", "detail"), knobs.outcome, strict=True)), "console_bytes": len(console)},
    }
    if scenario == STORM:
        parameters: Any = facts["parameters"]
        parameters |= {"storm": {**STORM_SETTINGS, "only": []}, "seed": 7, "watched": "spl"}
    if scenario in (GROW, SPARE):
        facts["faults"] = {"times": INJECTED, "min_order": 0}
    if (loads := KINDS[scenario].loads) and not knobs.unloaded:
        facts["loads"] = [{"name": name, "values": {}} for name in loads]
    return Run(facts, simulation.run(), console)


class _Simulation(Guest):
    """The guest, and the harness that drives it and writes down what it reads."""

    def run(self) -> list[Record]:
        self.frame("agent", f"hello version=1 rate_hz=20 slow_every=10 base_ns={BASE_NS} period_ns={PERIOD_NS} pid=117")
        self.frame(
            "ctl",
            f"ok set threads={self.count} objects={OBJECTS} size={SIZE} pause_us=5000 reap_rounds={self.reap_rounds}",
        )
        for phase in self.phases:
            self.begin(phase)
            for _ in range(phase.ticks):
                self.move_on()
                self.read()
        self.now_ns += 2_000_000
        if self.knobs.ended:
            self.frame("agent", f"end frames={self.seq} dropped={self.knobs.dropped}")
        return self.records

    # --- the harness -------------------------------------------------------------------------------------------------

    def begin(self, phase: Phase) -> None:
        if not phase.name:
            return
        # Between the readings of one tick and those of the next.
        self.now_ns = max(self.now_ns + 2_000_000, BASE_NS + self.tick * PERIOD_NS + 20_000_000)
        self.begun[phase.name] = self.now_ns
        self.record({"kind": "phase", "name": phase.name})
        if phase.name not in self.knobs.unmarked:
            self.marks.append((phase.name, self.now_ns))
            for thread in self.threads:
                thread.gap_max_ns = 0
            self.frame("ctl", f"ok mark {phase.name}")
        for command in phase.commands:
            self.obey(command)
            self.frame("ctl", f"ok {command}")

    # --- what is read ------------------------------------------------------------------------------------------------

    def read(self) -> None:
        self.now_ns += 1_000_000
        self.read_source("probe", self.probe_text)
        self.read_source("slab", self.slab_text)
        self.read_source("tasks", self.tasks_text)
        if self.is_storm and self.tick % 20 == 0 and not self.knobs.unwatched:
            self.read_source("sites", self.sites_text)
        if self.loads and "load" in self.begun:
            self.read_source("load", self.load_text)
        if on_pool(self.loads):
            self.read_source("txgs", self.txgs_text)
            if self.tick % 10 == 0:
                self.read_source("poolstate", lambda: "ONLINE\n")
        if self.tick % 10 == 0:
            self.read_source("meminfo", self.meminfo_text)
            self.read_source("pressure", lambda: "# memory\nsome avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
            self.read_source("vmstat", lambda: f"nr_free_pages {91_381 - self.tick}\npgfault 10\n")
        if self.tick % 5 == 0:
            spent_ns = self.tick * PERIOD_NS
            times = {"run_ns": spent_ns - self.starved_ns, "wait_ns": self.starved_ns}
            vcpus = [{"tid": 32_007 + cpu, **times} for cpu in range(self.cpus)]
            self.record({"kind": "host", "vcpus": vcpus, "load1": 1.5})

    def read_source(self, source: str, render: Any) -> None:
        if self.within(self.knobs.unread.get(source)):
            return
        self.now_ns += 100_000
        text = str(render())
        span, other = self.knobs.garbled.get(source, (None, ""))
        if self.within(span):
            text = other
        self.frame(source, text)
        self.now_ns += 100_000

    def frame(self, source: str, text: str) -> None:
        """The agent writes `same` for a text that has not changed."""
        same = source not in ("agent", "ctl") and self.texts.get(source) == text
        self.texts[source] = text
        seq, self.seq = self.seq, self.seq + 1
        if self.within(self.knobs.lost):
            return
        self.record(
            {
                "kind": "frame",
                "path": "ssh",
                "seq": seq,
                "tick": self.tick,
                "source": source,
                "what": "same" if same else "data",
                "start_ns": self.now_ns,
                "end_ns": self.now_ns + 80_000,
                "text": "" if same else text,
            }
        )

    def record(self, record: Record) -> None:
        if not self.within(self.knobs.cut):
            self.records.append({**record, "at_s": round((self.now_ns - BASE_NS) / 1e9 + 4.7, 6)})

    def skewed(self, source: str, cells: Mapping[str, int]) -> dict[str, int]:
        """What the text says. SPL's counters are unsigned."""
        told = dict(cells)
        for skew in self.knobs.skews:
            if skew.source == source and self.within(skew.span):
                told = {name: (value + skew.cells.get(name, 0)) % 2**64 for name, value in told.items()}
        return told

    def meminfo_text(self) -> str:
        return f"MemTotal:  406312 kB\nMemFree:  {365_524 - self.tick} kB\nVmallocUsed:  5120 kB\n"

    def workload(self) -> dict[str, int]:
        """What the threads were set to."""
        config = {"threads": self.count, "objects": OBJECTS, "size": SIZE, "pause_us": 5000}
        config["reap_rounds"] = self.reap_rounds
        commits = {"commits": COMMITS} if self.is_cycle else {}
        return {**config, **({"keep": KEEP} if self.is_long else {}), **commits}

    def probe_text(self) -> str:
        lines = ["slabprobe 1", f"now_ns {self.now_ns}"]
        lines.append(f"bits kvmem={KVMEM:#x} deadlocked={DEADLOCKED:#x} growing={GROWING:#x} reaping=0x10000")
        lines.append(
            self.probe_line(
                "hold",
                **(dict.fromkeys(HOLD, 0) if self.is_cycle else self.hold_cells()),
            )
        )
        if self.is_cycle:
            mode = f"trap mode={self.trap} "
            lines.append(self.probe_line("trap", **self.trap_cells()).replace("trap ", mode, 1))
            lines.append(self.probe_line("tx", commits=self.commits, carried=self.carried, ballast=0, ballast_kib=0))
        if self.is_organic:
            held, given = 92_000 * self.pressing, 16 * self.refused
            cells = {"on": int(self.pressing), "held": held, "taken": held + given, "given": given}
            lines.append(self.probe_line("pressure", **cells, refused=self.refused, free=94_000 - held))
        if self.is_faulty:
            faults = {"marked": self.marked, "injected": self.injected, "missed": 0}
            lines.append(self.probe_line("fail", **faults).replace("fail ", f"fail place={self.place} ", 1))
        lines.append(self.probe_line("config", **self.workload()))
        reached = {state: sum(t.reached == state for t in self.threads) for state in ("parked", "stopped")}
        lines.append(self.probe_line("run", **reached).replace("run ", f"run state={self.wanted} ", 1))
        lines.append(
            self.probe_line(
                "live",
                slab=sum(t.slab for t in self.threads),
                emergency=sum(t.emergency for t in self.threads),
                emergency_max=self.emergency_max,
                emergency_total=sum(t.emergency_total for t in self.threads),
            )
        )
        lines += [self.thread_line(thread) for thread in self.threads]
        lines += [f"latency {bucket} {count}" for bucket, count in sorted(self.latency.items())]
        lines += self.service_lines()
        for kept, cost_ns in ((10, 7_500), (KEEP, 9_000)) if self.is_long and self.batches else ():
            costs = {"min_ns": cost_ns - 500, "median_ns": cost_ns}
            lines.append(self.probe_line(f"kept {kept}", objects=TIMED, batches=self.batches, **costs))
        lines += [f"blocks {when} {' '.join(map(str, counts))}" for when, counts in self.blocks.items()]
        lines += self.storm_lines() if self.is_storm else []
        lines += self.queue_lines() if self.queues != "none" else []
        lines += self.kind_lines() if self.kinds != "none" else []
        lines += self.taker_lines() if self.memory != "none" else []
        lines += self.cpus_lines() if self.cpus_wish else []
        lines += [f"mark {index} {time_ns} {name}" for index, (name, time_ns) in enumerate(self.marks)]
        return "\n".join(lines) + "\n"

    def storm_lines(self) -> list[str]:
        caught = int(self.stormed_ns > 0)
        entered = caught + self.storm_let_go + self.storm_waited
        counts = {"reclaims": self.storm_asked, "shrinks": 0, "crowded": 0, "asked": self.storm_asked}
        counts |= {"declined": self.storm_asked - entered, "entered": entered}
        counts |= {
            "waited": self.storm_waited,
            "let_go": self.storm_let_go,
            "waiting": caught,
            "pid": STORM_PIDS[1] if entered else 0,
        }
        counts |= {"since_ns": self.caught_ns, "left_ns": self.storm_left_ns, "site": 0}
        counts |= {"gfp": self.storm_mask * bool(entered), "asked_gfp": self.storm_mask * bool(self.storm_asked)}
        counts |= {"kswapd": 0, "failed": 0}
        state = {"running": int(self.storms), "idle": int(not self.storms)}
        watch = {"hooks": 1, "blind": 0, "count": 1, "calls": 2 * self.storm_asked, "lost": 0, "atomic": 0}
        return [
            self.probe_line("sites", **watch, preempt_count=1).replace("sites ", "sites mode=count module=spl ", 1),
            self.probe_line("storm", **state, **STORM_SETTINGS, seed=7, only=0, **counts),
            *(
                [self.probe_line("stormwait 0", pid=STORM_PIDS[1], since_ns=self.stormed_ns, site=0, gfp=0xCC0)]
                * caught
            ),
            *(
                self.probe_line(f"stormtx {number}", pid=pid, open=int(self.storms), commits=self.storm_commits)
                for number, pid in enumerate(STORM_PIDS)
            ),
        ]

    def queue_lines(self) -> list[str]:
        steps = [("nested", self.stood_ns) if self.stood_ns else ("-", 0), ("-", 0)]
        return [
            *(
                self.probe_line(f"client {number}", pid=pid, rounds=self.work_rounds, since_ns=since_ns)
                + f" state={self.queues} step={step}"
                for number, (pid, (step, since_ns)) in enumerate(zip(CLIENT_PIDS, steps, strict=True))
            ),
            *(
                self.queue_line(f"{name}{number}", *how)
                for number in range(CLIENTS if self.queues != "gone" else 0)
                for name, how in QUEUES.items()
            ),
            *(self.promise_line(f"qpromise {name}", "taskq_wait") for name in OF_QUEUES),
        ]

    def queue_line(self, name: str, threads: int, dynamic: int, least: int) -> str:
        """Each has a task that runs and one that waits at rest."""
        held = int(self.queues == "loaded")
        listed = {"running": held, "pending": held, "front": 0, "delayed": 0}
        made = {"threads": threads, "dynamic": dynamic, "min": least}
        entries = max(least, 2 * held)
        shown = {"act": held, "nthr": threads, "spwn": 0, "maxt": threads, "cura": entries, "active": held}
        return self.probe_line(f"queue {name}", **listed, **made, **shown, pend=held, prio=0, delay=0)

    def promise_line(self, tag: str, at: str) -> str:
        return self.probe_line(tag, asked=9 * self.work_rounds, broken=0, saw=3, wanted=6) + f" at={at}"

    def taker_lines(self) -> list[str]:
        """The second one is marked, and is the one that stands, if one does."""
        steps = [("-", 0), ("vmem", self.stood_ns) if self.stood_ns else ("-", 0)]
        pieces = 8 * self.work_rounds
        return [
            *(
                self.probe_line(
                    f"taker {number}",
                    pid=pid,
                    rounds=self.work_rounds,
                    since_ns=since_ns,
                    marked=number,
                    kmem_falls_back=1,
                    kmem=pieces,
                    kmem_back=self.fallen,
                    vmem=pieces,
                    vmem_back=self.fallen,
                )
                + f" state={self.memory} step={step}"
                for number, (pid, (step, since_ns)) in enumerate(zip(TAKER_PIDS, steps, strict=True))
            ),
            *(self.promise_line(f"mpromise {name}", "kmem_alloc") for name in OF_MEMORY),
        ]

    def cpus_lines(self) -> list[str]:
        online = {"away": 1, "moving": 1 + self.tick % self.cpus, "all": self.cpus}[self.cpus_wish]
        counts = {"present": self.cpus, "online": online, "went": self.went, "came": self.came, "failed": 0}
        return [self.probe_line("cpus", **counts).replace("cpus ", f"cpus state={self.cpus_wish} ", 1)]

    def kind_lines(self) -> list[str]:
        held = IN_HAND if self.kinds in ("running", "loaded") else 0
        counts = {"allocs": 50 * self.work_rounds + IN_HAND, "frees": 50 * self.work_rounds + IN_HAND - held}
        return [
            self.probe_line("kinds", rounds=self.work_rounds, cpus=self.cpus, back=1) + f" state={self.kinds}",
            *(self.kind_line(name, *how, held=held, **counts) for name, how in WORK_KINDS.items()),
            *(self.promise_line(f"kpromise {name}", "slabprobe_k0") for name in OF_KINDS),
        ]

    def kind_line(self, name: str, size: int, align: int, wanted: int, builds: int, **counts: int) -> str:
        """The first one has emergency objects."""
        emergency = IN_EMERGENCY * bool(counts["held"]) * (name == "slabprobe_k0")
        made = {"size": size, "align": align, "wanted": wanted, "builds": builds}
        built = {"built": builds * counts["allocs"], "torn_down": builds * counts["frees"]}
        held = {"in_slab": PER_SLAB * wanted, "magazine": 16 * wanted}
        held |= {"most_emergency": IN_EMERGENCY * (name == "slabprobe_k0") * (self.kinds != "none")}
        return self.probe_line(f"kind {name}", **made, emergency=emergency, **counts, **built, **held)

    def kind_rows(self) -> list[str]:
        """Rows of the slab file: objects in the magazines count as well."""
        if self.kinds not in ("running", "loaded", "emptied"):
            return []
        used = 16 if self.kinds != "emptied" else 0
        rows = []
        for name, (size, align, wanted, _) in WORK_KINDS.items():
            slabs, most = -(-used // PER_SLAB), IN_EMERGENCY * (name == "slabprobe_k0")
            emergency = most * bool(used)
            bytes_of_slab = PER_SLAB * (size + align + 32) + 64
            sizes = {"flags": KVMEM, "size": slabs * bytes_of_slab, "alloc": used * size, "slabsize": bytes_of_slab}
            slab = {"slab.total": slabs, "slab.alloc": slabs, "slab.max": 2}
            objects = {"object.total": slabs * PER_SLAB + emergency, "object.alloc": used, "object.max": 16}
            rest = {"emergency.dlock": 0, "emergency.alloc": emergency, "emergency.max": most}
            own = slab_row(name, sizes | {"objsize": size} | slab | objects | rest)
            rows.append(own if wanted else kernel_row(name, IN_HAND if used else 0, size))
        return rows

    def sites_text(self) -> str:
        """One site of two functions."""
        masks = {"asked": 0xCC0, "effective": self.storm_mask, "noio": int(self.storm_mask != 0xCC0), "nofs": 0}
        masks |= {"calls": 2 * self.storm_asked}
        entered = self.storm_let_go + (self.stormed_ns > 0) + self.storm_waited
        counts = {"reclaims": self.storm_asked, "declined": self.storm_asked - entered, "entered": entered}
        rest = {"waiting": int(self.stormed_ns > 0), "atomic": 0, "preempt": 0, "least": 4096, "most": 65536}
        site = self.line("sites", "site 0", helper=0, **masks, **counts, **rest)
        chain = "chain=__alloc_pages<__get_free_pages<spl_emergency_alloc+0xd7/0x200 [spl]"
        lines = ["slabprobe_sites 1", f"now_ns {self.now_ns}", "masks fs=0x80 io=0x40 reclaim=0x400"]
        lines += ["hook __alloc_pages gfp_arg=0 err=0", f"{site} id=1c0f874f thread=slabprobe_tq {chain}", "end"]
        return "\n".join(lines) + "\n"

    def service_lines(self) -> list[str]:
        """Where objects came from; each refill waits for two growths, and is woken some 20 us after the second."""
        if self.knobs.uncounted:
            return []
        hits = sum(it.allocs - it.emergency_total for it in self.threads) - self.refills
        counters = {"hits": hits, "refills": self.refills, "grew": self.refills}
        reused = {"reusable": self.reused, "reused": self.reused}
        return [
            self.probe_line("magazine", size=64, refill=32, cpus=2, **counters, **reused),
            self.probe_line("growth", begun=2 * self.refills, done=2 * self.refills, slabs=2 * self.refills),
            f"waited 20 {sum(self.woken.values())}",
            *(f"woken {bucket} {count}" for bucket, count in sorted(self.woken.items())),
        ]

    def hold_cells(self) -> dict[str, int]:
        pid = WORKER_PID if self.entries else 0
        held = (int(self.armed), int(self.held_ticks > 0), pid, self.since_ns, self.entries, self.released_ns)
        return dict(zip(HOLD, held, strict=True))

    def trap_cells(self) -> dict[str, int]:
        caught = self.asked if not self.is_declined else 0
        return {
            "spent": int(caught > 0),
            "tables": self.tables,
            "induced": 0 if self.is_organic else self.tables,
            "sprung": self.asked,
            "declined": self.asked - caught,
            "entered": caught,
            "waited": self.waited,
            "let_go": self.let_go,
            "waiting": int(self.held_ticks > 0 and not self.knobs.deaf),
            "pid": (THREAD_PIDS[0] if self.knobs.own else WORKER_PID) if caught else 0,
            "since_ns": self.since_ns,
            "released_ns": self.released_ns,
            "gfp": 0xD00 if self.is_declined else 0xDC0,
            "reserves": 0,
        }

    def load_text(self) -> str:
        """Both loads are in their bands, and 300 KiB are written back in a tick."""
        self.written += 300 * (not self.within(self.knobs.unwritten))
        written = self.written
        memory = {"total": 406_312, "available": 33_000, "free": 9_000, "dirty": 12_000, "writeback": 900, "swap": 0}
        counts = {"written": written, "scanned": 0, "scanned_direct": 0, "some_us": 0, "full_us": 0, "oom_kills": 0}
        beat = {"status": 0, "bytes": 4096 * self.tick, "beat_ns": self.now_ns}
        torn = int(self.within(self.knobs.torn))
        lines = ["splvm-load 1", f"at seq={self.tick} now_ns={self.now_ns} cpu_us={300 * self.tick}"]
        lines.append(self.line("load", "memory", **memory, **counts))
        for name in self.loads:
            low, high, level = _BANDS[name]
            cells = {"low": low, "high": high, "level": level, "since_ns": self.begun["load"]}
            done = {"done_kib": written} if name != "lowmem" else {}
            unit = "KiB/s" if name.startswith("zfs") else "KiB"
            lines.append(self.line("load", f"load {name}", **cells, **done) + f" unit={unit}")
            worker = {"pid": 140 + len(name), "alive": 1, "signal": 0, **beat}
            lines.append(self.line("load", f"worker {name} 0", **worker) + " role=eater")
        return "\n".join([*lines, f"end seq={self.tick + torn}"]) + "\n"

    def txgs_text(self) -> str:
        """A txg is synced each second."""
        self.txg += self.tick % 20 == 0 and not self.within(self.knobs.unsynced)
        states = [(self.txg - 1, "C", 0, 8192), (self.txg, "S", 0, 0), (self.txg + 1, "O", 65536, 0)]
        lines = [
            f"{number} 5000000000 {state} {dirty} 0 {written} 0 9 1 1 1 1" for number, state, dirty, written in states
        ]
        return "\n".join([TXG_HEADING, *lines]) + "\n"

    def thread_line(self, thread: Thread) -> str:
        since_ns = thread.last_ns or thread.waits_since_ns
        open_ns = self.now_ns - since_ns if since_ns else 0
        return self.probe_line(
            f"thread {thread.index}",
            pid=THREAD_PIDS[thread.index],
            rounds=thread.rounds,
            allocs=thread.allocs,
            frees=thread.frees,
            emergency=thread.emergency_total,
            failures=0,
            corrupt=0,
            gap_max_ns=max(thread.gap_max_ns, open_ns),
            gap_total_max_ns=max(thread.gap_total_max_ns, open_ns),
            alloc_since_ns=thread.waits_since_ns,
            last_ns=thread.last_ns,
        )

    def probe_line(self, tag: str, **values: int) -> str:
        return self.line("probe", tag, **values)

    def line(self, source: str, tag: str, **values: int) -> str:
        told = self.skewed(source, {f"{tag}.{key}": value for key, value in values.items()})
        return " ".join((tag, *(f"{name.removeprefix(f'{tag}.')}={value}" for name, value in told.items())))

    def slab_text(self) -> str:
        rows = [slab_row("spl_zlib_workspace_cache", dict.fromkeys(CELLS, 0) | ZLIB)]
        if self.threads and self.knobs.kernel_cache:
            rows.append(kernel_row("slabprobe", sum(t.slab for t in self.threads)))
        elif self.threads:
            rows.append(slab_row("slabprobe", self.skewed("slab", self.slab_cells())))
        rows += self.kind_rows()
        return SLAB_HEADER + "".join(rows)

    def slab_cells(self) -> dict[str, int]:
        slab, emergency = (sum(getattr(t, kind) for t in self.threads) for kind in ("slab", "emergency"))
        busy = self.wanted == "running" and not self.held_ticks
        used = -(-slab // PER_SLAB)
        total = used + busy
        growing = GROWING if self.held_ticks or (busy and self.tick % 2) else 0
        return {
            "flags": KVMEM | growing | (DEADLOCKED if self.deadlocked else 0),
            "size": total * SLAB_SIZE,
            "alloc": slab * SIZE,
            "slabsize": SLAB_SIZE,
            "objsize": SIZE,
            "slab.total": total,
            "slab.alloc": used,
            "slab.max": self.object_max // PER_SLAB,
            "object.total": total * PER_SLAB + emergency,
            "object.alloc": slab,
            "object.max": self.object_max,
            "emergency.dlock": self.dlock,
            "emergency.alloc": emergency,
            "emergency.max": self.emergency_max,
        }

    def tasks_text(self) -> str:
        text = worker_text("S", _LISTENS, (self.switches, 0))
        if self.held_ticks and not self.knobs.own:
            text = worker_text("D", _CAUGHT if self.is_cycle else _HELD, (self.switches, 0))
        if self.knobs.worker is not None and self.within(self.knobs.worker[0]):
            text = self.knobs.worker[1]
        for pid, name in zip(STORM_PIDS, ("slabprobe/tx", "slabprobe_tq"), strict=True) if self.is_storm else ():
            state, stack = ("D", _STORMED) if self.stormed_ns else ("S", _IDLES)
            text += f"task pid={pid} comm={name} state={state} voluntary=40 nonvoluntary=3\n{stack}"
        for number, pid in enumerate(CLIENT_PIDS) if self.has_clients else ():
            text += f"task pid={pid} comm=slabprobe/q{number} state=S voluntary=40 nonvoluntary=3\n{_IDLES}"
        return text + _MEMORY_TASK + "".join(self.thread_task(thread) for thread in self.threads)

    def thread_task(self, thread: Thread) -> str:
        idle = thread.reached != "running"
        unwoken = self.within(self.knobs.unwoken)
        waiting = unwoken or (thread.waits_since_ns and not self.knobs.ready)
        state = "D" if waiting else "I" if idle else "R"
        waits = _CAUGHT_ITSELF if self.knobs.own and self.held_ticks else _WAITS
        stack = waits if waiting else _IDLES if idle else ""
        name = "tx" if self.is_cycle else thread.index
        header = f"task pid={THREAD_PIDS[thread.index]} comm=slabprobe/{name} state={state}"
        rounds = 0 if unwoken else thread.rounds
        return f"{header} voluntary={2 * rounds} nonvoluntary={rounds // 3}\n{stack}"
