"""What the agent in a guest has reported last, for the steps of a running experiment that wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from splvm.deadline import Deadline
from splvm.errors import GuestLostError
from splvm.evidence.checks.case import CACHE
from splvm.evidence.formats.loadstatus import LoadStatus
from splvm.evidence.formats.probestatus import ProbeStatus
from splvm.evidence.formats.slab import CacheRow
from splvm.evidence.formats.stream import Frame
from splvm.evidence.sources import SourceReader
from splvm.evidence.standstill import LOOK_NS, TXG_NS
from splvm.guest.agent import Agent
from splvm.log import LOGGER
from splvm.record.writer import RunDirectory
from splvm.run.readings import Reading


class LiveReadings:
    """What the agent has reported last; keeps every frame in the record on the way.

    Only what the steps wait for is looked at here. Text that cannot be read is left to the judge.
    """

    def __init__(self, record: RunDirectory) -> None:
        self._record = record
        self._reader = SourceReader()
        self._changed = threading.Condition()
        self._probe: ProbeStatus | None = None
        self._row: CacheRow | None = None
        self._load: LoadStatus | None = None
        self._seen: frozenset[int] = frozenset()
        # The last txg that was synced, and since when it is the last one.
        self._txg = 0
        self._txg_since_ns = 0
        self._slab_readings = 0
        self._now_ns = 0
        self._began_ns = 0
        self._rounds: tuple[int, ...] = ()
        self._carried = 0

    def take(self, frame: Frame, path: str) -> None:
        """The agent's sink."""
        self._record.record_frame(frame, path)
        with self._changed:
            self._now_ns = max(self._now_ns, frame.end_ns)
            self._look(frame)
            self._changed.notify_all()

    def _look(self, frame: Frame) -> None:
        said, losses = self._reader.take(frame)
        for loss in losses:
            LOGGER.debug("%s", loss)
        if said is None or said.error:
            return
        match frame.source:
            case "probe":
                self._probe = said.value
            case "slab":
                self._slab_readings += frame.start_ns >= self._began_ns
                self._row = said.value.cache(CACHE)
            case "tasks":
                self._seen = frozenset(task.pid for task in said.value)
            case "txgs":
                if said.value.committed != self._txg:
                    self._txg, self._txg_since_ns = said.value.committed, frame.start_ns
            case "load":
                self._load = said.value

    @property
    def stands_still(self) -> bool:
        """Whether a critical thread waits for an object, and has for long; or a pool for its next txg."""
        probe = self._probe
        waits = probe is not None and any(
            thread.alloc_since_ns and probe.now_ns - thread.alloc_since_ns >= LOOK_NS for thread in probe.threads
        )
        return waits or self._pool_stands_ns >= TXG_NS

    @property
    def _pool_stands_ns(self) -> int:
        return self._now_ns - self._txg_since_ns if self._txg else 0

    def begin(self, at_ns: int | None = None) -> None:
        """A step begins: count its readings and its time from here.

        A frame takes a while to arrive, so the last reading may be older than the step's own commands.

        :param at_ns: guest time, ns; by default that of the last reading.
        """
        with self._changed:
            self._slab_readings = 0
            self._began_ns = self._now_ns if at_ns is None else at_ns
            self._rounds = tuple(t.rounds for t in self._probe.threads) if self._probe else ()
            self._carried = self._probe.tx.carried if self._probe else 0

    def wait_until(
        self, condition: Callable[[Reading], bool], limit_s: float, agent: Agent, deadline: Deadline
    ) -> bool:
        """Wait until `condition` holds. False when `limit_s` of guest time have passed before.

        :raises GuestLostError: when the stream ends or falls silent.
        :raises DeadlineExceeded: when the host's own budget is used up.
        """
        with self._changed:
            while True:
                reading = self._reading()
                if reading is not None and condition(reading):
                    return True
                if reading is not None and reading.elapsed_ns >= limit_s * 1e9:
                    return False
                if (gone := agent.gone()) is not None:
                    raise GuestLostError(gone)
                self._record.check()
                deadline.check("the run")
                agent.wait_for_news(self._changed)

    def _reading(self) -> Reading | None:
        if self._probe is None:
            return None
        rounds = self._rounds or tuple(0 for _ in self._probe.threads)
        elapsed_ns = self._now_ns - self._began_ns
        return Reading(
            self._probe,
            self._row,
            self._slab_readings,
            elapsed_ns,
            rounds,
            self._carried,
            self._load,
            self._pool_stands_ns,
            self._seen,
        )
