"""The end of a run in virtual time: what is read once the host was let in, and a guest that lets nobody in."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ringing import obey, ringing
from splvm.deadline import Deadline
from splvm.errors import GuestLostError
from splvm.guest.bell import Bell
from splvm.guest.closed import ClosedGuest
from splvm.record.reader import iterate_records
from splvm.record.writer import RunDirectory
from splvm.run.closedrun import drive
from splvm.run.live import LiveReadings

LIMIT_S = 30.0


@dataclass
class Shut:
    """A guest that goes on to the end of its stream, and then does not answer."""

    bell: Bell
    console: Path

    def let_in_words(self) -> str:
        return "KEY HOSTKEY"

    def ssh(self, deadline: Deadline) -> AbstractContextManager[None]:
        raise GuestLostError("no answer")


def test_a_guest_that_lets_nobody_in_has_ended_all_the_same(tmp_path: Path) -> None:
    """Something stands still in it. That the record lacks what is read there is the judge's to say."""
    record = RunDirectory(tmp_path / "run", {"token": "0123456789abcdef"})
    console = record.path / "console.log"
    console.write_text("[    0.0] Linux version\n")
    with ringing(obey) as bell:
        guest = cast(ClosedGuest, Shut(bell, console))
        outcome = drive(guest, record, LiveReadings(record), lambda agent, _: None, Deadline(LIMIT_S))
    record.finish(outcome)
    assert outcome == {"kind": "ended", "detail": "all steps were taken", "closed_bytes": 24}
    looks = [it for it in iterate_records(record.path / "samples.jsonl") if it["kind"] == "monitor"]
    assert [(look["why"], look["text"]) for look in looks] == [("afterwards", "it lets nobody in: no answer")]
