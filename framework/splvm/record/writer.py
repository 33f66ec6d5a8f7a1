"""Writes the record of one run, as it comes.

Everything is flushed at once. run.json is written at the start and again at the end; a run whose end is missing was cut
off.
"""

from __future__ import annotations

import fcntl
import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from splvm.errors import SetupError, UsageError
from splvm.evidence.formats.stream import Frame
from splvm.evidence.verdict import Verdict
from splvm.record.jsonfile import ESCAPES, write_json
from splvm.record.names import RUN_FILE, SAMPLES_FILE, SCHEMA_VERSION, VERDICT_FILE
from splvm.record.reader import find_digests, read_records
from splvm.record.seal import seal


class RunDirectory:
    """Writes the evidence of one run. Its methods may be called from any thread.

    :param path: made if it is not there.
    :param facts: what run.json says from the beginning. A `token` among them stands in samples.jsonl as well.
    :raises UsageError: when the directory has samples already.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.facts: dict[str, Any] = {"schema_version": SCHEMA_VERSION, **facts}
        self._start = time.monotonic()
        self._lock = threading.Lock()
        self._failure: OSError | None = None
        # Nobody's evidence is replaced, whatever the path leads to: a link in a campaign's directory, for one.
        try:
            self._samples = (path / SAMPLES_FILE).open("x", encoding="utf-8", errors=ESCAPES)
        except FileExistsError:
            raise UsageError(f"{path} has the evidence of a run", hint="choose another directory") from None
        # Says that it is not over, as long as this process lives; not every file system can.
        with suppress(OSError):
            fcntl.flock(self._samples, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._write_facts()
        # What the samples belong to: evidence/checks/complete.py compares it.
        own = {"token": facts["token"]} if "token" in facts else {}
        self._record({"kind": "start", "schema_version": SCHEMA_VERSION, **own})

    def add_facts(self, facts: Mapping[str, Any]) -> None:
        """Add to run.json what is only known now; it is written with the outcome."""
        self.facts.update(facts)

    def record_frame(self, frame: Frame, path: str) -> None:
        """Keep a frame of the agent.

        :param path: how it got here, `ssh` for one.
        """
        self._record({"kind": "frame", "path": path, **asdict(frame)})

    def record_phase(self, name: str) -> None:
        """Keep the host's view of when a phase began. The guest's own is in the probe's marks."""
        self._record({"kind": "phase", "name": name})

    def record_host(self, reading: Mapping[str, Any]) -> None:
        """Keep a reading of the host."""
        self._record({"kind": "host", **reading})

    def record_look(self, why: str, look: Mapping[str, Any]) -> None:
        """Keep what the monitor found and took.

        :param why: what made it look.
        """
        self._record({"kind": "monitor", "why": why, **look})

    def record_afterwards(self, source: str, text: str) -> None:
        """Keep what was read from outside of a guest in virtual time, once its stream had ended.

        :param source: of the agent's that it is to agree with.
        """
        self._record({"kind": "afterwards", "source": source, "text": text})

    def check(self) -> None:
        """:raises SetupError: when a record could not be written; the run is then worth nothing."""
        if self._failure is not None:
            raise SetupError(
                f"cannot write to {self.path}: {self._failure.strerror}",
                hint="free some space, or name another directory with --out",
            ) from self._failure

    def read_so_far(self) -> list[dict[str, Any]]:
        """The records that have been written up to now, whole ones only."""
        with self._lock:
            return read_records(self.path / SAMPLES_FILE)

    def finish(self, outcome: Mapping[str, Any]) -> None:
        """Close the evidence: how the run ended, and what every file holds.

        :raises SetupError: when it could not be written whole.
        """
        with self._lock:
            self._keep_failure(self._samples.close)
        self.check()
        self.facts = seal(self.facts, find_digests(self.path, None), outcome)
        self._write_facts()

    def write_verdict(self, verdict: Verdict) -> None:
        """Keep the verdict beside the evidence."""
        write_json(self.path / VERDICT_FILE, verdict.to_json())

    def _record(self, record: dict[str, Any]) -> None:
        record["at_s"] = round(time.monotonic() - self._start, 6)
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
        with self._lock:
            if not self._samples.closed and self._failure is None:
                self._keep_failure(lambda: self._write_line(line))

    def _write_line(self, line: str) -> None:
        self._samples.write(line + "\n")
        self._samples.flush()

    def _keep_failure(self, write: Callable[[], None]) -> None:
        """A full disk must not end the thread that reads the guest, or it would look as if the guest were gone."""
        try:
            write()
        except OSError as error:
            self._failure = self._failure or error

    def _write_facts(self) -> None:
        write_json(self.path / RUN_FILE, self.facts)
