"""Runs on other machines, by a Dask cluster: this is the side that submits, and what makes a machine a worker of it.

Dask's scheduler gives a run to a worker with room, and to another worker if the first is lost. A worker advertises
resources: one for each guest, and its memory. The name of the first is a hash of Python, QEMU, splvm and system, so
only machines like this one have it. A machine that differs never gets a run, whenever it joins.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import queue
import shutil
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distributed import Client, Worker, get_worker

from splvm.campaign.clusterkeys import find_security
from splvm.campaign.parcel import (
    Delivery,
    Machine,
    Parcel,
    describe_machine,
    find_lacking,
    make_parcel,
    put_file,
    run_parcel,
    unpack_runs,
)
from splvm.campaign.processes import GUEST_MIB, Job, JobResult, OnDone
from splvm.errors import EvidenceError, SetupError, UsageError
from splvm.history.rows import identity
from splvm.host.store import Store
from splvm.log import note
from splvm.record.reader import read_facts
from splvm.report.summary import plain
from splvm.run.experiment import Experiment, attempt_directory, differing_facts
from splvm.scenarios.judged import judge_run

FORM = "dask://HOST:PORT"

_CONNECT_S = 15.0
_LOOK_S = 2.0
# How long a cluster may be without a worker that could run something before that is given up.
_EMPTY_S = 60.0
# How often a worker is given files that it lacks.
_MOST_SENT = 3
# They have types in part only.
_CLIENT: Any = Client
_WORKER: Any = Worker
_MEMORY, _KVM = "MEMORY", "KVM"


def parse_address(text: str, *, trust_network: bool = False) -> str:
    """Dask's own address.

    :param trust_network: take `dask://` also where others may be on the way: whoever is can run programs at both ends.
    :raises UsageError: when it is none, or is not to be trusted.
    """
    kind, _, place = text.partition("://")
    host, _, port = place.rpartition(":")
    if kind not in ("dask", "tls") or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"{text}: not a cluster; a cluster is {FORM} or tls://HOST:PORT")
    if kind == "dask" and not trust_network and not is_loopback(host):
        raise UsageError(
            f"{text}: whoever can reach a worker or the scheduler of dask:// can run programs there as its user",
            hint="use tls:// with the keys of `splvm cluster keys DIR`; --trust-network is for a private network",
        )
    return f"{'tcp' if kind == 'dask' else 'tls'}://{place}"


def is_loopback(host: str) -> bool:
    """Whether a host is this one, by an address that is reached from nowhere else. Asks no name server."""
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return False


def own_address(address: str) -> str:
    """The address of this machine that it reaches a scheduler from.

    :param address: as `parse_address` returns it.
    :raises SetupError: when there is no way to it.
    """
    host, _, port = address.partition("://")[2].rpartition(":")
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
        # Of a datagram's socket this sends nothing, and asks the routing table (udp(7)).
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(where)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise SetupError(f"{address}: {error.strerror or error}", hint="is the scheduler's host right?") from error


class _QuietWorker(_WORKER):  # type: ignore[misc]
    """A worker that listens where the scheduler reaches it, and nowhere else: Dask's has a web server beside that."""

    def start_http_server(self, *_: object, **__: object) -> None:
        pass


def work(address: str, guests: int, on_ready: Callable[[str], None] = lambda _: None, keys: Path | None = None) -> None:
    """Be a worker of a cluster until its scheduler is gone, or this process is ended.

    :param address: as `parse_address` returns it.
    :param guests: at once.
    :param on_ready: called with the worker's own address.
    :param keys: a directory as `make_keys` makes it, for TLS; by default Dask's own configuration names them.
    :raises UsageError: when there are no keys, and there have to be.
    :raises SetupError: when there is no such scheduler.
    """
    own, security = own_address(address), find_security(keys, "worker")
    machine = describe_machine()
    resources = {machine.resource: float(guests), _MEMORY: float(machine.memory_mib)}
    if machine.kvm:
        resources[_KVM] = float(guests)

    async def serve(scratch: Path) -> None:
        worker: Any = _QuietWorker(
            address,
            host=own,
            security=security,
            nthreads=guests,
            resources=resources,
            dashboard=False,
            death_timeout=_CONNECT_S,
            local_directory=str(scratch),
            # Guests are no memory of this process.
            memory_limit=0,
            silence_logs=logging.WARNING,
        )
        async with worker:
            on_ready(worker.address)
            await worker.finished()

    try:
        with Store.default().temporary() as scratch:
            asyncio.run(serve(scratch))
    except TypeError as error:
        raise UsageError(f"{address}: {error}", hint="--keys DIR names the keys of this cluster") from error
    except (OSError, TimeoutError, asyncio.CancelledError) as error:
        raise SetupError(f"{address}: {error or 'no scheduler answers'}", hint="start one: dask scheduler") from error


@dataclass(slots=True)
class _Sent:
    """A job that is on its way."""

    job: Job
    # What the worker is asked to run: the job's experiment, with the id of this job among its facts.
    asked: Experiment
    parcel: Parcel
    # Where its files are here.
    files: Mapping[str, Path]
    # Told by whoever begins it, and by the records of its runs.
    id: str
    start: float = field(default_factory=time.monotonic)
    future: Any = None
    # Workers that said they lack files, each as often as it did.
    lacked: Counter[str] = field(default_factory=Counter)


class Cluster:
    """A cluster, and what runs on it.

    :param address: as `parse_address` returns it.
    :param keys: as `work` takes them.
    :raises UsageError: when there are no keys, and there have to be.
    :raises SetupError: when nothing answers, or no worker is like this machine; with the reason for each.
    """

    def __init__(self, address: str, keys: Path | None = None) -> None:
        self._address = address
        security = find_security(keys, "client")
        self._machine = describe_machine()
        # Where those that run something say so.
        self._topic = f"splvm-{uuid.uuid4().hex}"
        try:
            self._client = _CLIENT(address, timeout=_CONNECT_S, set_as_default=False, name="splvm", security=security)
        except TypeError as error:
            raise UsageError(f"{address}: {error}", hint="--keys DIR names the keys of this cluster") from error
        except (OSError, TimeoutError, ValueError) as error:
            raise SetupError(f"{address}: no scheduler answers", hint="start one: dask scheduler") from error
        try:
            self._refuse_others()
        except BaseException:
            self._client.close()
            raise

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @property
    def guests(self) -> int:
        """Guests that can run at once."""
        return int(sum(each["resources"].get(self._machine.resource, 0) for each in self._workers().values()))

    def run(self, jobs: Iterable[Job], on_done: OnDone) -> None:
        """Run them all.

        :param on_done: called with each result as it comes. One that came to nothing, because no worker is left or one
            after the other was lost with it, is trouble of that job.
        """
        ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        running: dict[str, _Sent] = {}
        try:
            for job in jobs:
                self._submit(_pack_job(job), running, ended)
            while running:
                for key in self._wait(running, ended):
                    sent = running.pop(key)
                    if self._send(sent):
                        self._submit(sent, running, ended)
                    else:
                        on_done(self._finish(sent))
        finally:
            # What runs there ends by itself; nobody waits for it.
            with suppress(Exception):
                self._client.cancel([sent.future for sent in running.values()])

    def _submit(self, sent: _Sent, running: dict[str, _Sent], ended: queue.SimpleQueue[Any]) -> None:
        key, needs = f"splvm-{uuid.uuid4().hex}", self._needs(sent.job)
        sent.future = self._client.submit(
            _run_there, sent.parcel, self._topic, sent.id, key=key, resources=needs, pure=False
        )
        running[key] = sent
        sent.future.add_done_callback(ended.put)

    def _needs(self, job: Job) -> dict[str, float]:
        """What a run takes of a worker."""
        machine = job.experiment.guest.machine
        needs = {self._machine.resource: 1.0, _MEMORY: float(machine.ram_mib + GUEST_MIB)}
        return needs | ({_KVM: 1.0} if machine.accelerator == "kvm" else {})

    def _wait(self, running: Mapping[str, _Sent], ended: queue.SimpleQueue[Any]) -> list[str]:
        """Keys of what has ended, or has waited long for a worker that could run it and is not there."""
        since = time.monotonic()
        while True:
            try:
                key = str(ended.get(timeout=_LOOK_S).key)
                if key in running:
                    return [key]
            except queue.Empty:
                pass
            if self._client.status != "running":
                return list(running)
            workers = [each["resources"] for each in self._workers().values()]
            hopeless = [key for key, sent in running.items() if not _is_room(self._needs(sent.job), workers)]
            if not hopeless:
                since = time.monotonic()
            elif time.monotonic() - since > _EMPTY_S:
                return hopeless

    def _send(self, sent: _Sent) -> bool:
        """Give a worker what it found lacking; whether that was so, and may be of use.

        If it is gone meanwhile, the next one will ask for that.
        """
        if sent.future.status != "finished" or not sent.future.result().lacking:
            return False
        worker = sent.future.result().worker
        sent.lacked[worker] += 1
        if sent.lacked[worker] > _MOST_SENT:
            return False
        with suppress(OSError, ValueError, KeyError):
            # What several jobs found lacking at once came with the first of them.
            for digest in self._client.run(find_lacking, sent.parcel.files, workers=[worker])[worker]:
                path = sent.files[digest]
                self._client.run(put_file, digest, path.name, path.read_bytes(), workers=[worker])
        return True

    def _finish(self, sent: _Sent) -> JobResult:
        job, seconds = sent.job, time.monotonic() - sent.start
        lost = self._starts(sent.id)
        if sent.future.status != "finished":
            trouble = f"{job.title}: {self._why(sent.future)}"
            # It may only have waited: nobody is to begin it now.
            self._client.cancel([sent.future])
            return JobResult(job, (), seconds, trouble, "`splvm matrix --resume` runs it again", lost=lost)
        delivery: Delivery = sent.future.result()
        # Of those that began it, the last one has ended it.
        ran = (delivery.worker, lost[:-1])
        if delivery.lacking:
            trouble = f"{delivery.worker} does not keep the files that it is given"
            return JobResult(job, (), seconds, trouble, "is there room in its store?", delivery.worker, lost)
        if not delivery.runs:
            return JobResult(job, (), delivery.seconds, delivery.trouble, delivery.hint, *ran)
        if delivery.runs > job.attempts:
            trouble = f"{delivery.worker} says that it ran {delivery.runs} times, of {job.attempts}"
            return JobResult(job, (), delivery.seconds, trouble, delivery.hint, *ran)
        try:
            directories = [attempt_directory(job.out, number) for number in range(1, delivery.runs + 1)]
            unpack_runs(delivery.archive, directories)
            check_runs(sent.asked, directories)
            runs = tuple((judge_run(each)[1], each) for each in directories)
        except EvidenceError as error:
            return JobResult(job, (), delivery.seconds, f"{delivery.worker}: {error.message}", error.hint, *ran)
        return JobResult(job, runs, delivery.seconds, "", None, *ran)

    def _why(self, future: Any) -> str:
        """Why a run came to nothing."""
        if future.status == "error":
            return f"{future.exception()}"
        if self._client.status != "running":
            return "the scheduler is gone"
        return "there is no worker that has room for it"

    def _starts(self, job: str) -> tuple[str, ...]:
        """Workers that have begun it, in this order."""
        try:
            events: Any = self._client.get_events(self._topic)
        except (OSError, TimeoutError):
            return ()
        return tuple(told["worker"] for _, told in events if told["job"] == job)

    def _workers(self) -> Mapping[str, Any]:
        try:
            workers: Mapping[str, Any] = self._client.scheduler_info(n_workers=-1)["workers"]
        except (OSError, TimeoutError):
            return {}
        return workers

    def _refuse_others(self) -> None:
        """Say of each worker that nothing will run on why that is."""
        told: Mapping[str, Any] = self._client.run(describe_machine, on_error="return")
        reasons = {}
        for worker, about in self._workers().items():
            machine = told.get(worker)
            if not isinstance(machine, Machine):
                reasons[worker] = f"it has no splvm: {machine}"
            elif difference := self._machine.difference(machine):
                reasons[worker] = difference
            elif self._machine.resource not in about["resources"]:
                reasons[worker] = "it is not a worker of splvm; `splvm worker` starts a worker"
        lines = [f"{worker} gets nothing to do: {reason}" for worker, reason in reasons.items()]
        if len(reasons) == len(told):
            message = "\n".join([f"{self._address}: no worker can run this", *lines])
            raise SetupError(message, hint=f"on each machine: splvm worker {FORM}")
        for line in lines:
            note(plain(line))


def _pack_job(job: Job) -> _Sent:
    number = uuid.uuid4().hex
    asked = replace(job.experiment, facts={**job.experiment.facts, "job": number})
    return _Sent(job, asked, *make_parcel(replace(job, experiment=asked)), number)


def check_runs(asked: Experiment, directories: Sequence[Path]) -> None:
    """Check that the runs are those that were asked for, each once; otherwise remove all of them.

    A worker is trusted with its measurements. Whether they answer the question that it was asked is checked.

    :param directories: the runs that came back.
    :raises EvidenceError: when a run differs from `asked`, or one run came twice.
    """
    try:
        told = [read_facts(directory) for directory in directories]
        for facts in told:
            if others := differing_facts(asked, facts):
                raise EvidenceError(f"what came back is another run: {', '.join(others)} in run.json")
        # A copy whose record was edited has another seal, and the same word.
        words = [word for facts in told if (word := facts.get("token")) is not None]
        if len({identity(facts) for facts in told}) < len(told) or len(set(map(str, words))) < len(words):
            raise EvidenceError("what came back is one run twice")
    except EvidenceError:
        for directory in directories:
            shutil.rmtree(directory, ignore_errors=True)
        raise


def _is_room(needs: Mapping[str, float], workers: Iterable[Mapping[str, float]]) -> bool:
    """Whether one of the workers has all that a run needs, if nothing else runs on it."""
    return any(all(each.get(name, 0) >= amount for name, amount in needs.items()) for each in workers)


def _run_there(parcel: Parcel, topic: str, job: str) -> Delivery:
    """What a worker does."""
    worker = get_worker()

    def tell() -> None:
        worker.log_event(topic, {"job": job, "worker": worker.address})

    return run_parcel(parcel, worker.address, tell)
