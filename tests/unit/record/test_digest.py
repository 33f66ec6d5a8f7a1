"""The digest of a run in virtual time: what is in it, and what is not."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from commandline import CommandLine
from modern import LET_IN
from simulated import Run, simulate
from simulated_kinds import HELD
from splvm.evidence.verdict import Outcome, Verdict
from splvm.record.digest import digest_of, first_difference
from splvm.record.jsonfile import write_json
from splvm.record.reader import find_digests, read_evidence
from splvm.record.seal import seal
from splvm.scenarios.judged import judge_evidence

CONSOLE = b"[    0.000000] Linux version\n"


def frames(run: Run, source: str = "") -> list[dict[str, Any]]:
    """All of them, or those of one source that have a text."""
    found = (record for record in run.records if record["kind"] == "frame")
    return [record for record in found if not source or (record["source"] == source and record["text"])]


def virtual(change: Callable[[Run], None] = lambda run: None) -> Run:
    """A run of held-worker in virtual time."""
    run = copy.deepcopy(simulate(HELD))
    run.facts["parameters"].update(clock="virtual", seed=7)
    run.facts["outcome"] |= {"closed_bytes": len(run.console), "console_bytes": len(run.console)}
    run.facts["differs"] = {"clock": "virtual"}
    # Nobody asks how the host treated the guest.
    run.records[:] = [record for record in run.records if record["kind"] != "host"]
    last = frames(run, "slab")[-1]
    afterwards = {"kind": "afterwards", "at_s": 9.0, "source": "slab", "text": last["text"]}
    run.records.append(afterwards)
    change(run)
    return run


def judged(run: Run) -> Verdict:
    return judge_evidence(run.evidence())


def test_what_the_host_noted_is_not_in_it() -> None:
    def later(run: Run) -> None:
        for record in run.records:
            record["at_s"] += 3.5
        for frame in frames(run):
            frame["path"] = "other"

    one, other = virtual(), virtual(later)
    assert digest_of(one.records, CONSOLE) == digest_of(other.records, CONSOLE)
    assert first_difference(one.records, other.records) == ""


@pytest.mark.parametrize("field", ["seq", "tick", "start_ns", "end_ns"])
def test_every_number_of_a_frame_is_in_it(field: str) -> None:
    def change(run: Run) -> None:
        frames(run)[40][field] += 1

    one, other = virtual(), virtual(change)
    assert digest_of(one.records, CONSOLE) != digest_of(other.records, CONSOLE)
    assert first_difference(one.records, other.records).startswith("frame 40: {")


def test_the_console_is_in_it() -> None:
    run = virtual()
    assert digest_of(run.records, CONSOLE) != digest_of(run.records, CONSOLE + b".")


def test_a_run_that_is_longer() -> None:
    run = virtual()
    assert "None in the other" in first_difference(run.records, run.records[:-40])


def test_it_is_a_part_of_the_verdict(tmp_path: Path) -> None:
    """Of the record alone, and without what was said once the host was let in."""
    run = virtual()
    record = run.start_record(tmp_path)
    console = run.console.encode() + b"guest is up\n"
    (tmp_path / "console.log").write_bytes(console)
    said = {"closed_bytes": len(run.console.encode()), "console_bytes": len(console)}
    record.finish({"kind": "ended", "detail": "all steps were taken", **said})
    evidence = read_evidence(tmp_path)
    written = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    verdict = judge_evidence(evidence)
    assert verdict.outcome is Outcome.PROGRESS
    assert verdict.to_json()["digest"] == verdict.digest == digest_of(written, run.console.encode())


def leave(run: Run, path: Path) -> Path:
    """The run's directory."""
    record = run.start_record(path)
    console = run.console.encode()
    (path / "console.log").write_bytes(console)
    closed = console.partition(f"{LET_IN} ".encode())[0]
    said = {"closed_bytes": len(closed), "console_bytes": len(console)}
    record.finish({"kind": "ended", "detail": "all steps were taken", **said})
    return path


def test_two_runs_of_a_seed_are_compared(tmp_path: Path, commandline: CommandLine) -> None:
    def later(run: Run) -> None:
        frames(run)[40]["end_ns"] += 1

    def seeded(run: Run) -> None:
        run.facts["parameters"]["seed"] = 8

    real = simulate(HELD)
    runs = {"one": virtual(), "same": virtual(), "later": virtual(later), "seed": virtual(seeded), "real": real}
    one, same, other, seed, slow = (leave(run, tmp_path / name) for name, run in runs.items())
    assert commandline("judge", str(one), "--same-as", str(same)).returncode == 0
    differs = commandline("judge", str(one), "--same-as", str(other))
    assert differs.returncode == 1 and "differ: frame 40: {" in differs.stderr
    shutil.copy(same / "samples.jsonl", other / "samples.jsonl")
    for damaged in ((one, other), (other, one)):
        refused = commandline("judge", str(damaged[0]), "--same-as", str(damaged[1]))
        assert refused.returncode == 1 and "cannot be compared: INCONCLUSIVE" in refused.stderr
    for path, said in ((seed, "these are two runs: parameters differ"), (slow, "only runs in virtual time")):
        refused = commandline("judge", str(one), "--same-as", str(path))
        assert refused.returncode == 2 and said in refused.stderr


def signed(token: str) -> Run:
    """A run in virtual time with its word in all three places; the guest said it once the host was let in."""
    run = virtual()
    run.facts["token"] = run.records[0]["token"] = token
    return replace(run, console=f"{run.console}{LET_IN} {token}\n")


def test_one_run_is_not_compared_with_itself(tmp_path: Path, commandline: CommandLine) -> None:
    tokens = {"one": "0" * 16, "copied": "0" * 16, "other": "1" * 16}
    one, copied, other = (leave(signed(token), tmp_path / name) for name, token in tokens.items())
    refused = commandline("judge", str(one), "--same-as", str(copied))
    assert refused.returncode == 1 and "are one run, and not two" in refused.stderr
    assert commandline("judge", str(one), "--same-as", str(other)).returncode == 0


def test_a_copy_with_another_word(tmp_path: Path, commandline: CommandLine) -> None:
    """What the host noted is no part of the digest, and no two runs have it in common."""
    one, copied = leave(signed("0" * 16), tmp_path / "one"), tmp_path / "copied"
    shutil.copytree(one, copied)
    for name in ("samples.jsonl", "console.log"):
        text = (copied / name).read_text().replace("0" * 16, "1" * 16)
        (copied / name).write_text(text.replace('"at_s":0.', '"at_s":1.', 3))
    facts = {**json.loads((copied / "run.json").read_text()), "token": "1" * 16}
    del facts["seal"]
    write_json(copied / "run.json", seal(facts, find_digests(copied, None), facts["outcome"]))
    assert judge_evidence(read_evidence(copied)).outcome is Outcome.PROGRESS
    refused = commandline("judge", str(one), "--same-as", str(copied))
    assert refused.returncode == 1 and "came to the host at the same moments" in refused.stderr, refused.stderr


# Where the host was let in, by what is before it and after it: more than is there, nothing, less than all, or too much.
MISPLACED: Mapping[str, tuple[Callable[[bytes], int], str]] = {
    "beyond the end": (lambda console: len(console) + 1, "and the guest said"),
    "nothing": (lambda console: 0, "`Linux version 6.1.0"),
    "one byte": (lambda console: 1, "`Linux version 6.1.0"),
    "a part of what the kernel said": (lambda console: console.index(b"]", console.index(b"Linux")) + 1, "comes after"),
    "before the guest had settled": (lambda console: console.index(b"splvm: guest has settled"), "guest has settled"),
    "after the guest was up": (lambda console: len(console), "comes before it"),
    "after the network was": (lambda console: console.index(LET_IN.encode()), "`splvm: guest is up`"),
}


def settled(token: str) -> Run:
    """A run in virtual time with all that such a guest says."""
    run = virtual()
    run.facts["token"] = run.records[0]["token"] = token
    said = "[    1.000000] spl: loading\nsplvm: guest has settled\n"
    return replace(run, console=f"{run.console}{said}splvm: guest is up\n{LET_IN} {token}\n")


def leave_at(run: Run, path: Path, closed: int | None = None) -> Path:
    record = run.start_record(path)
    console = run.console.encode()
    at = console.index(b"splvm: guest is up") if closed is None else closed
    said = {"closed_bytes": at, "console_bytes": len(console)}
    record.finish({"kind": "ended", "detail": "all steps were taken", **said})
    return path


@pytest.mark.parametrize("name", MISPLACED)
def test_where_the_host_was_let_in(name: str, tmp_path: Path) -> None:
    place, words = MISPLACED[name]
    good = judge_evidence(read_evidence(leave_at(settled("0" * 16), tmp_path / "good")))
    assert good.outcome is Outcome.PROGRESS
    run = settled("1" * 16)
    verdict = judge_evidence(read_evidence(leave_at(run, tmp_path / "run", place(run.console.encode()))))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert [reason for reason in verdict.reasons if "closed_bytes" in reason.text and words in reason.text]


def test_two_crashed_runs_without_their_consoles(tmp_path: Path, commandline: CommandLine) -> None:
    """A bad verdict stays what it is, and no digest is compared that has no console in it."""
    runs = []
    for token in ("0" * 16, "1" * 16):
        run = settled(token)
        panic = "[    9.000000] Kernel panic - not syncing: Fatal exception\n"
        crashed = replace(run, console=run.console.replace("splvm: guest is up", f"{panic}splvm: guest is up"))
        runs.append(str(leave_at(crashed, tmp_path / token, 0)))
    refused = commandline("judge", runs[0], "--same-as", runs[1])
    assert refused.returncode == 1 and "cannot be compared: run.json: outcome.closed_bytes is 0" in refused.stderr


def test_real_time_has_none(tmp_path: Path) -> None:
    run = simulate(HELD)
    record = run.start_record(tmp_path)
    (tmp_path / "console.log").write_text(run.console)
    record.finish({"kind": "ended", "detail": "all steps were taken"})
    assert "digest" not in judge_evidence(read_evidence(tmp_path)).to_json()


def test_the_slab_file_from_outside_agrees() -> None:
    assert judged(virtual()).outcome is Outcome.PROGRESS


def test_the_slab_file_from_outside_is_another() -> None:
    def change(run: Run) -> None:
        run.records[-1]["text"] = next(it["text"] for it in frames(run, "slab") if it["tick"] > 60)

    verdict = judged(virtual(change))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "read from outside is another than that of the last frame" in verdict.reasons[0].text


def test_the_slab_file_was_not_read_from_outside() -> None:
    def change(run: Run) -> None:
        run.records.pop()

    verdict = judged(virtual(change))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "was not read from outside" in verdict.reasons[0].text


def test_the_slab_file_from_outside_is_none() -> None:
    verdict = judged(virtual(lambda run: run.records[-1].update(text="nothing")))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "from outside cannot be read" in verdict.reasons[0].text


def test_a_record_that_lacks_its_seed() -> None:
    def change(run: Run) -> None:
        del run.facts["parameters"]["seed"]

    verdict = judged(virtual(change))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reasons[0].text == "run.json does not say parameters.seed"
