"""Bisection: candidates from git, kernels and series; what it asks, keeps, leaves out and goes on with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bisectlab import broken, found, plan, steps
from experiments import experiment, leave_record
from splvm.campaign import bisect
from splvm.campaign.bisect import Bisection, read_bisection
from splvm.campaign.candidates import Candidate, ChangeKind, find_commits, find_patches
from splvm.campaign.processes import Job, JobResult
from splvm.campaign.quiet import wait_until_quiet
from splvm.campaign.search import Search
from splvm.cli.bisect import _last_line
from splvm.errors import EvidenceError, SetupError
from splvm.evidence.verdict import Outcome, Reason, Verdict
from splvm.run.prepare import Wish


def test_the_first_bad_one_is_found(world: SimpleNamespace, tmp_path: Path) -> None:
    world.oracle = steps(13)
    search = Bisection(plan(20), tmp_path)
    search.run(1, lambda *_: None)
    assert found(search) == (13, 13)
    assert len(search.tries) <= 11
    evidence = [(label, each.candidate, each.outcome) for label, each in search.evidence()]
    assert evidence == [("last good", 12, Outcome.PROGRESS), ("first bad", 13, Outcome.STALLED)]
    told = json.loads((tmp_path / "bisect.json").read_text())
    assert told["answer"]["first"] == 13 and len(told["runs"]) == len(search.tries)
    # Each candidate is built once, and both ends in any case.
    assert len(world.built) == len({0, 19, *world.asked})


def test_what_does_not_build_is_left_out(world: SimpleNamespace, tmp_path: Path) -> None:
    world.oracle, world.broken = steps(13), broken("k12", "k10", "k5")
    search = Bisection(plan(20), tmp_path)
    search.run(1, lambda *_: None)
    assert found(search) == (12, 13)
    assert search.skipped[12] == "spl.ko failed:\nerror: expected ';'\nmore"
    assert search.tallies()[12].why == "spl.ko failed:"
    assert search.name(12) == "k12"


@pytest.mark.parametrize(("number", "end"), [(0, "good"), (19, "bad")])
def test_an_end_that_does_not_build(world: SimpleNamespace, tmp_path: Path, number: int, end: str) -> None:
    world.oracle, world.broken = steps(0 if end == "good" else 13), broken(f"k{number}")
    with pytest.raises(SetupError, match=f"the {end} end, k{number}, cannot be asked"):
        Bisection(plan(20), tmp_path).run(1, lambda *_: None)


def test_trouble_of_the_host_leaves_nobody_out(world: SimpleNamespace, tmp_path: Path) -> None:
    """A mirror that is away is no fault of a candidate's, and ends the search until it is back."""
    world.oracle, world.broken = steps(13), {f"k{number}": SetupError("no mirror") for number in range(1, 19)}
    with pytest.raises(SetupError, match="no mirror"):
        Bisection(plan(20), tmp_path).run(1, lambda *_: None)
    world.broken = {}
    again = read_bisection(tmp_path)
    assert not again.skipped
    again.run(1, lambda *_: None)
    assert found(again) == (13, 13)


def test_ends_that_are_the_same_build(world: SimpleNamespace, tmp_path: Path) -> None:
    world.oracle, world.builds = steps(3), {f"k{number}": "one" for number in range(8)}
    with pytest.raises(SetupError, match="k0 and k7 are the same build"):
        Bisection(plan(8), tmp_path).run(1, lambda *_: None)


def test_the_same_modules_of_two_commits_are_the_same_build(world: SimpleNamespace, tmp_path: Path) -> None:
    """What run.json says of where they are from makes no difference."""
    world.oracle, world.builds = steps(5), {f"k{number}": "one" for number in range(8)}
    world.zfs = {f"k{number}": {"sha256": "same", "git": {"commit": str(number)}} for number in range(8)}
    with pytest.raises(SetupError, match="k0 and k7 are the same build"):
        Bisection(plan(8), tmp_path).run(1, lambda *_: None)


def test_what_is_loaded_beside_spl_is_part_of_the_build(world: SimpleNamespace, tmp_path: Path) -> None:
    world.oracle, world.builds = steps(5), {f"k{number}": "one" for number in range(8)}
    world.zfs = {f"k{number}": {"sha256": str(number)} for number in range(8)}
    search = Bisection(plan(8), tmp_path)
    search.run(1, lambda *_: None)
    assert found(search) == (5, 5)


def test_a_build_that_is_another_one_by_now(world: SimpleNamespace, tmp_path: Path) -> None:
    world.oracle = steps(5)
    Bisection(plan(8, most_runs=3), tmp_path).run(1, lambda *_: None)
    again = read_bisection(tmp_path)
    again.plan = plan(8)
    world.builds = {f"k{number}": f"new {number}" for number in range(8)}
    with pytest.raises(EvidenceError, match="is another build than its runs so far were of"):
        again.run(1, lambda *_: None)


def test_runs_that_say_nothing_are_no_observation(world: SimpleNamespace, tmp_path: Path) -> None:
    odd: dict[int, int] = {}

    def oracle(number: int) -> Outcome | None:
        odd[number] = odd.get(number, 0) + 1
        silent = (Outcome.INCONCLUSIVE, None, Outcome.NOT_TRIGGERED)
        # 15 never says anything; the others do at the second time.
        return silent[odd[number] % 3] if number == 15 or odd[number] == 1 else steps(16)(number)

    world.oracle = oracle
    search = Bisection(plan(20), tmp_path)
    search.run(1, lambda *_: None)
    assert found(search) == (15, 16)
    assert search.skipped[15].startswith("3 runs in a row said nothing")
    assert world.asked.count(15) == 3
    assert search.tallies()[19].silent == 1


def test_a_silent_verdict_that_is_a_hit(world: SimpleNamespace, tmp_path: Path) -> None:
    world.oracle = lambda number: Outcome.NOT_TRIGGERED if number >= 4 else Outcome.PROGRESS
    search = Bisection(plan(8, hits=frozenset({Outcome.NOT_TRIGGERED})), tmp_path)
    search.run(1, lambda *_: None)
    assert found(search) == (4, 4)


@pytest.mark.parametrize("bad", [it for it in Outcome if not it.is_good and not it.says_nothing])
def test_each_bad_verdict_is_bad(world: SimpleNamespace, tmp_path: Path, bad: Outcome) -> None:
    world.oracle = lambda number: bad if number >= 4 else Outcome.PROGRESS
    search = Bisection(plan(8), tmp_path)
    search.run(1, lambda *_: None)
    assert found(search) == (4, 4)


def test_the_same_build_is_not_run_twice(world: SimpleNamespace, tmp_path: Path) -> None:
    world.oracle = steps(30)
    world.builds = {f"k{number}": "old" if number < 30 else "new" for number in range(64)}
    search = Bisection(plan(64), tmp_path)
    search.run(1, lambda *_: None)
    assert found(search) == (30, 30)
    # Halving is left to the compiler.
    assert len(search.tries) < len(world.built) and len(search.tries) <= 8


def test_commits_that_touch_nothing_are_never_asked(world: SimpleNamespace, tmp_path: Path) -> None:
    world.oracle = steps(30)
    candidates = tuple(Candidate(f"k{n}", f"k{n}", changes=n in (0, 9, 30, 50)) for n in range(64))
    search = Bisection(plan(64, candidates=candidates), tmp_path)
    search.run(1, lambda *_: None)
    assert found(search) == (30, 30)
    assert len(search.tries) <= 8


def test_an_end_to_patience(world: SimpleNamespace, tmp_path: Path) -> None:
    world.oracle = steps(13)
    search = Bisection(plan(20, most_runs=4), tmp_path)
    search.run(1, lambda *_: None)
    assert found(search) is None and len(search.tries) == 4
    assert search.to_json()["answer"] is None


def test_it_goes_on_where_it_was(world: SimpleNamespace, tmp_path: Path) -> None:
    world.oracle, world.broken = steps(13), broken("k10", "k12")
    # Those that are built on the way to the interruption; what is between them is out of the question afterwards too.
    world.builds = {f"k{number}": "old" for number in range(12)}

    def killed(search: Bisection, _: Any) -> None:
        if len(search.tries) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        (interrupted := Bisection(plan(20), tmp_path)).run(1, killed)
    assert len(world.asked) == 4 and len(interrupted.builds) > 2
    again = read_bisection(tmp_path)
    assert list(again.search.posterior()) == pytest.approx(list(interrupted.search.posterior()))
    assert len(again.tries) == 4 and again.plan == plan(20)
    again.run(1, lambda *_: None)
    straight = Bisection(plan(20), tmp_path / "other")
    straight.out.mkdir()
    before = len(world.asked)
    straight.run(1, lambda *_: None)
    assert found(again) == found(straight) == (12, 13)
    assert world.asked[:before] == world.asked[before:], "the same questions as without the interruption"


@pytest.mark.parametrize("at", [0, 1, -1])
def test_a_run_that_ended_and_is_not_in_the_list(world: SimpleNamespace, tmp_path: Path, at: int) -> None:
    """Its row comes back by its record: a kill came between the two, or somebody has dropped it."""
    world.oracle = steps(3)
    (search := Bisection(plan(6), tmp_path)).run(1, lambda *_: None)
    told = json.loads((tmp_path / "bisect.json").read_text())
    dropped = search.directory_of(search.tries[at])
    del told["runs"][at]
    (tmp_path / "bisect.json").write_text(json.dumps(told))
    again = read_bisection(tmp_path)
    rows = [[each.to_json() | {"seconds": 0, "reason": ""} for each in them.tries] for them in (again, search)]
    assert rows[0] == rows[1]
    assert list(again.search.posterior()) == pytest.approx(list(search.search.posterior()))
    # Also before its verdict was written.
    (dropped / "verdict.json").unlink()
    assert len(read_bisection(tmp_path).tries) == len(search.tries) - 1, "an empty record says nothing"


def test_silent_runs_that_are_not_in_the_list_count_as_such(
    world: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was starved too; where it would end is the same as without the kill."""
    silent = Verdict(Outcome.INCONCLUSIVE, (Reason("why"),), starved="the host was busy")

    def run_jobs(jobs: Iterable[Job], at_once: int, on_done: Callable[[JobResult], None]) -> None:
        leave_record(next(iter(jobs)), silent)
        raise KeyboardInterrupt

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(bisect, "run_jobs", run_jobs)
        Bisection(plan(6), tmp_path).run(1, lambda *_: None)
    again = read_bisection(tmp_path)
    assert [each.outcome for each in again.tries] == [Outcome.INCONCLUSIVE]
    assert again.starved == {1}


@pytest.mark.parametrize("place", ["{at}-2", "a/b/c/001", "001", "000-k0/{listed}"])
def test_a_record_in_a_place_that_is_no_run_of_the_search(world: SimpleNamespace, tmp_path: Path, place: str) -> None:
    world.oracle = steps(3)
    (search := Bisection(plan(6), tmp_path)).run(1, lambda *_: None)
    each = next(each for each in search.tries if each.candidate)
    at = search.directory_of(each).relative_to(tmp_path)
    other = tmp_path / place.format(at=at, listed=at.name)
    shutil.copytree(tmp_path / at, other)
    with pytest.raises(EvidenceError, match=f"{other} is [A-Z]+, and no run of the search; nothing was started"):
        read_bisection(tmp_path)
    (other / "console.log").write_text("cut off")
    assert len(read_bisection(tmp_path).tries) == len(search.tries)


def test_numbers_after_an_interruption_of_several_at_once(
    world: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of three ended before the others did: their numbers are given again, and its own is not."""

    def run_jobs(jobs: Iterable[Job], at_once: int, on_done: Callable[[JobResult], None]) -> None:
        begun = [next(iter(jobs)) for _ in range(3)]
        verdict = Verdict(Outcome.STALLED, (Reason("why"),))
        leave_record(begun[1], verdict)
        on_done(JobResult(begun[1], ((verdict, begun[1].out),), 1.0))
        raise KeyboardInterrupt

    world.oracle = steps(0)
    with monkeypatch.context() as parallel, pytest.raises(KeyboardInterrupt):
        parallel.setattr(bisect, "run_jobs", run_jobs)
        Bisection(plan(6), tmp_path).run(3, lambda *_: None)
    search = read_bisection(tmp_path)
    assert [each.number for each in search.tries] == [2]
    search.run(1, lambda *_: None)
    again = read_bisection(tmp_path)
    assert [each.number for each in again.tries] == [2, 1, *range(3, len(again.tries) + 1)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda told: told.update(schema_version=1), "is of schema 1, this program reads 2; nothing was started"),
        (lambda told: told.update(schema_version=9), "is of schema 9, this program reads 2"),
        (lambda told: told["plan"].update(kind="planets"), "is damaged"),
        (lambda told: told["plan"].update(candidates=[]), "is damaged"),
        (lambda told: told["plan"].pop("hits"), "is damaged"),
        (lambda told: told["runs"].append({"candidate": 99}), "is damaged"),
        (lambda told: told.update(skipped={"99": "x"}), "is damaged: a run of no candidate"),
        (lambda told: told.update(builds=[]), "is damaged"),
    ],
)
def test_a_file_that_is_damaged(
    world: SimpleNamespace, tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    world.oracle = steps(2)
    Bisection(plan(4), tmp_path).run(1, lambda *_: None)
    path = tmp_path / "bisect.json"
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))
    with pytest.raises(EvidenceError, match=said):
        read_bisection(tmp_path)
    path.write_text("{")
    with pytest.raises(EvidenceError, match="is damaged"):
        read_bisection(tmp_path)
    path.unlink()
    with pytest.raises(EvidenceError, match=r"has no bisect\.json"):
        read_bisection(tmp_path)


# Patches.


def test_patches_of_a_series(world: SimpleNamespace, tmp_path: Path) -> None:
    for name in ("b.patch", "a.cocci", "c.txt", "d.diff"):
        (tmp_path / name).write_text(name)
    by_name = find_patches(tmp_path)
    assert [each.title for each in by_name] == ["without a patch", "a.cocci", "b.patch", "d.diff"]
    series = tmp_path / "series"
    series.write_text("# first\nb.patch -p1\n\na.cocci # why\n")
    listed = find_patches(series)
    assert [each.title for each in listed] == ["without a patch", "b.patch", "a.cocci"]
    world.oracle = steps(1)
    out = tmp_path / "out"
    out.mkdir()
    own = tmp_path / "own.patch"
    search = Bisection(plan(3, kind=ChangeKind.PATCHES, candidates=listed, wish=Wish(patches=(own,))), out)
    search.run(1, lambda *_: None)
    assert found(search) == (1, 1)
    assert {wish.patches for wish in world.built} >= {(own,), (own, tmp_path / "b.patch")}
    # Another content is another patch.
    (tmp_path / "b.patch").write_text("edited")
    with pytest.raises(EvidenceError, match=r"b\.patch has changed since"):
        read_bisection(out)


@pytest.mark.parametrize(
    "spoil", ["gone", "changed", "swapped", "another verdict", "another workload", "no line", "twice", "another build"]
)
def test_runs_are_believed_by_their_evidence(world: SimpleNamespace, tmp_path: Path, spoil: str) -> None:
    world.oracle = steps(3)
    search = Bisection(plan(6), tmp_path)
    search.run(1, lambda *_: None)
    assert found(read_bisection(tmp_path)) == (3, 3)
    one, other = (search.directory_of(each) for each in search.tries[:2])
    match spoil:
        case "gone":
            shutil.rmtree(one)
        case "changed":
            (one / "console.log").write_text("nothing happened")
        case "swapped" | "another verdict" | "another workload" | "no line":
            facts = json.loads((one / "run.json").read_text())
            changes: dict[str, dict[str, Any]] = {
                "swapped": {"scenario": "nominal"},
                "another verdict": {"expected": ["SLOW"]},
                "another workload": {"parameters": {**facts["parameters"], "workload": {"threads": 1}}},
                "no line": {"line": None},
            }
            shutil.rmtree(one)
            kept = {name: facts[name] for name in facts if name not in ("outcome", "evidence", "seal")}
            facts = {**kept, **changes[spoil]}
            verdict = Verdict(search.tries[0].outcome or Outcome.LOST, (Reason("why"),))
            leave_record(Job("x", replace(experiment(), facts=facts), one), verdict)
        case "another build":
            told = json.loads((tmp_path / "bisect.json").read_text())
            told["builds"][str(search.tries[0].candidate)] = "another"
            (tmp_path / "bisect.json").write_text(json.dumps(told))
        case "twice":
            told = json.loads((tmp_path / "bisect.json").read_text())
            told["runs"].append(told["runs"][0])
            (tmp_path / "bisect.json").write_text(json.dumps(told))
    assert other.is_dir()
    with pytest.raises(EvidenceError, match=r"nothing was started|listed twice"):
        read_bisection(tmp_path)


def test_where_the_good_end_parted_is_asked_first(
    world: SimpleNamespace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody said that it is good; where it is bad, what mended it is on the other branch."""
    caplog.set_level("INFO", logger="splvm")
    candidates = tuple(replace(each, parted="" if n else "v1") for n, each in enumerate(plan(20).candidates))
    world.oracle = steps(0)
    search = Bisection(replace(plan(20), candidates=candidates), tmp_path)
    search.run(1, lambda *_: None)
    assert world.asked[0] == 0
    assert _last_line(search, search.answer).startswith("GOOD_END_IS_BAD")
    assert "k0 is where v1 and the bad end parted, and it is bad" in caplog.text
    caplog.clear()
    named = Bisection(plan(20), tmp_path)
    named.run(1, lambda *_: None)
    assert _last_line(named, named.answer).startswith("GOOD_END_IS_BAD")
    assert "parted" not in caplog.text


def test_commits_are_built_from_a_tree_of_their_own(world: SimpleNamespace, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    candidates = find_commits(tree, "HEAD~5", "main", pool=False)
    world.oracle = steps(2)
    search = Bisection(plan(6, kind=ChangeKind.COMMITS, candidates=candidates, wish=Wish(spl=f"path:{tree}")), out)
    search.run(1, lambda *_: None)
    assert found(search) == (2, 2)
    assert search.name(2) == f"{candidates[2].id[:12]} change 3"
    assert {wish.spl for wish in world.built} == {f"git:{tree}@{candidates[n].id}" for n in set(world.asked)}


def test_of_candidates_that_tell_about_as_much_a_configured_one_is_asked() -> None:
    search = Search(64)
    for candidate, is_bad in ((63, True), (63, True), (0, False), (0, False)):
        search.observe(candidate, is_bad)
    best = search.choose()
    assert search.choose(cheap=lambda number: number == best + 3) == best + 3
    # What tells far less is not worth it.
    assert search.choose(cheap=lambda number: number in (0, 63)) == best
    assert 5 < search.bits < 7


@pytest.mark.parametrize(("quiet", "runs"), [(True, 3), (False, 1)])
def test_a_host_that_starves_guests_decides_nothing(
    world: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: bool, runs: int
) -> None:
    starved = Verdict(Outcome.INCONCLUSIVE, (Reason("busy"),), starved="the host was busy")

    def run_jobs(jobs: Iterable[Job], at_once: int, on_done: Callable[[JobResult], None]) -> None:
        for job in jobs:
            leave_record(job, starved)
            on_done(JobResult(job, ((starved, job.out),), 1.0))

    monkeypatch.setattr(bisect, "run_jobs", run_jobs)
    monkeypatch.setattr(bisect, "wait_until_quiet", lambda: quiet)
    search = Bisection(plan(8), tmp_path)
    search.run(1, lambda *_: None)
    assert search.undecided and not search.skipped and len(search.tries) == runs
    # Whoever goes on with it on a quiet host gets an answer.
    again = read_bisection(tmp_path)
    assert not again.is_over and not again.undecided


def test_waiting_for_a_quiet_host() -> None:
    def host(*busy: int) -> Callable[[], str]:
        """So many of each hundred ticks are busy from one look to the next."""
        ticks = ((0, 0), *((sum(busy[: n + 1]), sum(100 - it for it in busy[: n + 1])) for n in range(len(busy))))
        texts = iter([f"cpu  {used} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1" for used, idle in ticks])
        return lambda: next(texts)

    assert wait_until_quiet(5.0, host(90, 80, 10))
    assert not wait_until_quiet(0.0, host(*[90] * 1000))
