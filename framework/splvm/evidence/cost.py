"""What objects cost: CPU time of the guest's virtual CPUs, as the host's scheduler counts it, for each object and slab.

Pure. The host's figures do not depend on how busy the host is: what another process got is not in them. They have what
the emulation takes, so they compare builds of SPL on one host and are no figure of a real machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from splvm.evidence.timeline import HostReading, Timeline, between


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one window."""

    # Objects that the threads got, those of them that were emergency objects, and slabs that vmalloc was asked for.
    objects: int
    emergency: int
    slabs: int
    # By the guest's clock.
    objects_per_s: float
    # CPU seconds a second of the guest at rest, and in the window.
    idle_cpu: float
    window_cpu: float

    @property
    def cpu_us_per_object(self) -> float:
        """What the window took beyond the guest at rest, microseconds."""
        return 1e6 * (self.window_cpu - self.idle_cpu) / self.objects_per_s

    def cpu_us_per_slab(self, object_us: float) -> float:
        """What growth took for each slab, microseconds; there has to be one.

        :param object_us: what an object takes that no slab has to be made for.
        """
        return (self.cpu_us_per_object - object_us) * self.objects / self.slabs


def cpu_rate(readings: Sequence[HostReading], start_s: float, end_s: float) -> float | None:
    """CPU seconds that all virtual CPUs ran for each second between two times on the host's clock.

    None where the readings do not span that time, or go backwards: a virtual CPU that is gone takes its figures along.
    """
    if any(b.run_s < a.run_s or b.at_s < a.at_s for a, b in pairwise(readings)):
        return None
    start, end = _ran_at(readings, start_s), _ran_at(readings, end_s)
    if start is None or end is None or end_s <= start_s:
        return None
    return (end - start) / (end_s - start_s)


def _ran_at(readings: Sequence[HostReading], at_s: float) -> float | None:
    for before, after in pairwise(readings):
        if before.at_s <= at_s <= after.at_s:
            part = (at_s - before.at_s) / (after.at_s - before.at_s) if after.at_s > before.at_s else 0.0
            return before.run_s + part * (after.run_s - before.run_s)
    return None


def cost_of_objects(timeline: Timeline, idle: tuple[str, str]) -> Cost | None:
    """Of the window; None where something is missing for it: nothing is guessed.

    :param idle: phases between which the guest was at rest.
    """
    phases, marks = timeline.host_phases, timeline.marks
    spans = (idle, ("window", "window-end"))
    if any(name not in phases for span in spans for name in span) or not {"window", "window-end"} <= set(marks):
        return None
    at_rest, busy = (cpu_rate(timeline.host, phases[first], phases[last]) for first, last in spans)
    probes = between(timeline.probe, marks["window"], marks["window-end"])
    if at_rest is None or busy is None or len(probes) < 2:
        return None
    first, last = probes[0].value, probes[-1].value
    if first.growth is None or last.growth is None or first.growth.slabs is None or last.growth.slabs is None:
        return None
    objects = sum(t.allocs for t in last.threads) - sum(t.allocs for t in first.threads)
    slabs = last.growth.slabs - first.growth.slabs
    elapsed_ns = last.now_ns - first.now_ns
    if objects <= 0 or slabs < 0 or elapsed_ns <= 0:
        return None
    emergency = last.live.emergency_total - first.live.emergency_total
    return Cost(objects, emergency, slabs, objects / (elapsed_ns / 1e9), at_rest, busy)
