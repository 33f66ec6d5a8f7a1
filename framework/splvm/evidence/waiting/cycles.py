"""Cycles of a graph of threads: pids, and who each of them waits for. Pure.

Own code, since it has to be linear: what lists all cycles, as libraries do, is exponential on hostile text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence


def components(edges: Mapping[int, Sequence[int]]) -> tuple[list[int], list[int]]:
    """All threads of a graph, each after those it waits for, and those that are on a cycle (Tarjan)."""
    order: list[int] = []
    cyclic: list[int] = []
    numbers: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: dict[int, None] = {}
    for root in edges:
        work: list[tuple[int, Iterator[int]]] = []
        if root not in numbers:
            _enter(root, numbers, low, stack)
            work.append((root, iter(edges[root])))
        while work:
            pid, rest = work[-1]
            for holder in rest:
                if holder not in numbers:
                    _enter(holder, numbers, low, stack)
                    work.append((holder, iter(edges.get(holder, ()))))
                    break
                if holder in stack:
                    low[pid] = min(low[pid], numbers[holder])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[pid])
                if low[pid] == numbers[pid]:
                    members = _take_until(pid, stack)
                    order += members
                    if len(members) > 1 or pid in edges.get(pid, ()):
                        cyclic += members
    return order, cyclic


def shortest_cycle(start: int, edges: Mapping[int, Sequence[int]]) -> tuple[int, ...]:
    """The shortest way from `start`, which is on a cycle, back to it."""
    before: dict[int, int] = {}
    queue = deque([start])
    while queue:
        pid = queue.popleft()
        for holder in edges.get(pid, ()):
            if holder == start:
                path = [pid]
                while path[-1] != start:
                    path.append(before[path[-1]])
                return tuple(reversed(path))
            if holder not in before:
                before[holder] = pid
                queue.append(holder)
    return ()


def _enter(pid: int, numbers: dict[int, int], low: dict[int, int], stack: dict[int, None]) -> None:
    numbers[pid] = low[pid] = len(numbers)
    stack[pid] = None


def _take_until(pid: int, stack: dict[int, None]) -> list[int]:
    members: list[int] = []
    while not members or members[-1] != pid:
        members.append(stack.popitem()[0])
    return members
