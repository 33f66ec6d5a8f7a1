"""Runs of the history for other programs: each format is read by one that is not ours, and hostile text stays text."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path

import jsonschema
import junitparser
import pytest
from tap.parser import Parser
from typer.testing import CliRunner

from splvm.cli import app
from splvm.errors import UsageError
from splvm.history.database import History
from splvm.history.knownissues import KnownIssue, find_known, read_known
from splvm.history.outputs import Gap, Told, find_gap, tell, to_json, to_junit, to_ktap
from splvm.history.schema import TROUBLE, Batch, Figure, RunRow
from splvm.record.cellfacts import PACKAGED

TODAY = date(2026, 6, 1)
MARK = "0123456789ab"
LINK = "https://example.org/issues/7734"
HOSTILE = "ok 1 # SKIP\n1..9\nBail out! \x1b[31m\x00\ud800 ]]></failure><skipped/> & \"'"


def a_run(number: int, scenario: str = "held-worker", verdict: str = "PROGRESS", **changes: object) -> RunRow:
    row: dict[str, object] = {
        "id": f"{number:064x}",
        "batch": "b",
        "started": datetime(2026, 1, 1) + timedelta(minutes=number),
        "scenario": scenario,
        "kernel": "debian-12",
        "variant": "stock",
        "loads": "",
        "line": PACKAGED,
        "parameters": "",
        **dict.fromkeys(
            (
                "release",
                "spl_version",
                "spl_source",
                "content",
                "revision",
                "tree",
                "digest",
                "accelerator",
                "qemu",
                "host",
            ),
            "x",
        ),
        **dict.fromkeys(("starved", "fingerprint"), ""),
        "reason": "why",
        "directory": "/evidence",
        "command": "splvm run x",
        "patches": [],
        "modules": {},
        "verdict": verdict,
        "expected": [] if verdict == TROUBLE else ["PROGRESS"],
        "as_expected": verdict == "PROGRESS",
        "duration_s": 1.5,
        "figures": [
            Figure(run_id=f"{number:064x}", name=name, value=value)
            for name, value in (("longest_gap_ms", 112.25), ("latency.all.count", 7.0))
        ],
    }
    return RunRow(**{**row, **changes})


def night() -> list[RunRow]:
    """One of each kind: good, failed, known, silent, trouble; a cell with three runs."""
    return [
        a_run(3, verdict="STALLED"),
        a_run(1),
        a_run(2, verdict="STALLED", fingerprint=MARK),
        a_run(4, "nominal", "INCONCLUSIVE"),
        a_run(5, "nominal", TROUBLE, kernel="debian-13", duration_s=None, directory="", command=""),
        a_run(6, "long-lived"),
    ]


KNOWN = [KnownIssue(MARK, LINK, TODAY)]


def told(runs: list[RunRow] | None = None, known: list[KnownIssue] | None = None, today: date = TODAY) -> list[Told]:
    return tell(night() if runs is None else runs, KNOWN if known is None else known, today)


def read_junit(text: str, path: Path) -> junitparser.JUnitXml:
    path.write_text(text)
    return junitparser.JUnitXml.fromfile(str(path))


def test_junit_is_read_by_its_parser(tmp_path: Path) -> None:
    xml = read_junit(to_junit(told(), "/x"), tmp_path / "x.xml")
    counts = (xml.tests, xml.failures, xml.errors, xml.skipped)
    assert counts == (6, 1, 2, 1)
    suites = {suite.name: suite for suite in xml}
    assert list(suites) == ["held-worker", "long-lived", "nominal"]
    cases = [(case.name, [type(each).__name__ for each in case.result]) for case in suites["held-worker"]]
    assert cases == [
        ("debian-12 stock run 1", []),
        ("debian-12 stock run 2", ["Skipped"]),
        ("debian-12 stock run 3", ["Failure"]),
    ]
    assert [type(case.result[0]).__name__ for case in suites["nominal"]] == ["Error", "Error"]
    # What it counts itself says the same.
    xml.update_statistics()  # type: ignore[no-untyped-call]
    assert (xml.tests, xml.failures, xml.errors, xml.skipped) == counts


def test_junit_has_the_evidence(tmp_path: Path) -> None:
    (suite,) = read_junit(to_junit(told([a_run(1, verdict="STALLED")]), "/x"), tmp_path / "x.xml")
    (case,) = suite
    properties = {each.get("name"): each.get("value") for each in case._elem.iter("property")}
    assert properties["directory"] == "/evidence"
    assert (properties["tree"], properties["revision"]) == ("x", "x")
    assert properties["figure.longest_gap_ms"] == "112.25"
    assert "figure.latency.all.count" not in properties
    assert case.result[0].message == "STALLED (expected: PROGRESS): why"
    assert "[[ATTACHMENT|/evidence/verdict.json]]" in case.system_out
    assert "[[ATTACHMENT|evidence/verdict.json]]" in to_junit(told([a_run(1)]), "/")


def test_a_line_is_told_where_it_is_not_the_packaged_one(tmp_path: Path) -> None:
    own = {"line": "mine", "parameters": "memory=1024", "content": "c0ffee"}
    names = [each.name for each in told([a_run(1), a_run(2, **own)])]
    assert names == ["debian-12 stock line=mine memory=1024", "debian-12 stock"]
    properties = {
        case.name: {each.get("name"): each.get("value") for each in case._elem.iter("property")}
        for suite in read_junit(to_junit(told([a_run(1), a_run(2, **own)]), "/x"), tmp_path / "x.xml")
        for case in suite
    }
    # Nothing is new of a packaged build.
    assert not {"line", "parameters", "content"} & properties["debian-12 stock"].keys()
    mine = properties["debian-12 stock line=mine memory=1024"]
    assert (mine["line"], mine["parameters"], mine["content"]) == ("mine", "memory=1024", "c0ffee")
    assert "debian-12 stock line=mine memory=1024\n" in to_ktap(told([a_run(2, **own)]))
    (run,) = to_json(told([a_run(2, **own)]))["runs"]
    assert (run["line"], run["parameters"]) == ("mine", {"memory": "1024"})


def test_an_issue_that_has_expired_excuses_nothing(tmp_path: Path) -> None:
    xml = read_junit(to_junit(told(today=TODAY + timedelta(days=1)), "/x"), tmp_path / "x.xml")
    assert (xml.failures, xml.skipped) == (2, 0)
    assert "XFAIL" not in to_ktap(told(today=TODAY + timedelta(days=1)))
    assert to_json(told(today=TODAY + timedelta(days=1)))["runs"][1]["known_issue"] is None


def test_a_known_issue_is_none_of_a_run_that_was_as_expected() -> None:
    assert told([a_run(1, fingerprint=MARK)])[0].issue is None


# The rules of Documentation/dev-tools/ktap.rst: a version line, a plan, results numbered from 1, two blanks a level.
RESULT = re.compile(r"(?P<result>ok|not ok) (?P<number>\d+) (?P<name>[^#]*?)(?: # (?P<directive>[A-Z]+) [^#]+)?")
DIRECTIVES = {"SKIP", "TODO", "XFAIL", "TIMEOUT", "ERROR"}


def check_ktap(lines: list[str], indent: str = "") -> Iterator[tuple[str, str, str | None]]:
    """Results of the innermost tests; fails where a rule is broken."""
    assert lines.pop(0) == f"{indent}KTAP version 1"
    while lines[0].startswith(f"{indent}#"):
        lines.pop(0)
    plan = re.fullmatch(rf"{indent}1\.\.(\d+)( # SKIP .*)?", lines.pop(0))
    assert plan
    for number in range(1, int(plan[1]) + 1):
        nested = lines[0].startswith(f"{indent}  ")
        inner = list(check_ktap(lines, f"{indent}  ")) if nested else []
        while lines[0].startswith(f"{indent}#"):
            lines.pop(0)
        line = lines.pop(0)
        assert line.startswith(indent)
        match = RESULT.fullmatch(line[len(indent) :])
        assert match, line
        assert int(match["number"]) == number
        assert match["directive"] is None or match["directive"] in DIRECTIVES
        if nested:
            bad = [each for each in inner if each[0] == "not ok" and each[2] != "XFAIL"]
            assert match["result"] == ("not ok" if bad else "ok")
            yield from inner
        else:
            yield match["result"], match["name"], match["directive"]


def test_ktap_follows_the_rules_of_the_kernel() -> None:
    lines = to_ktap(told()).splitlines()
    assert list(check_ktap(lines)) == [
        ("ok", "debian-12 stock run 1", None),
        ("not ok", "debian-12 stock run 2", "XFAIL"),
        ("not ok", "debian-12 stock run 3", None),
        ("ok", "debian-12 stock", None),
        ("not ok", "debian-12 stock", "ERROR"),
        ("not ok", "debian-13 stock", "ERROR"),
    ]
    assert lines == []


def test_ktap_without_runs() -> None:
    assert list(check_ktap(to_ktap([]).splitlines())) == []


def test_ktap_is_tap(tmp_path: Path) -> None:
    """Its results, as a parser of TAP sees them."""
    path = tmp_path / "x.tap"
    path.write_text(to_ktap(told()))
    lines = [line for line in Parser().parse_file(str(path)) if line.category == "test"]
    assert [(line.ok, line.number, line.description) for line in lines] == [
        (False, 1, "held-worker"),
        (True, 2, "long-lived"),
        (False, 3, "nominal"),
    ]


def test_json_is_as_its_schema_says(project: Path) -> None:
    schema = json.loads((project / "docs" / "runs.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    whole = json.loads(json.dumps(to_json(told())))
    jsonschema.validate(whole, schema)
    assert [each["known_issue"] for each in whole["runs"]] == [None, LINK, None, None, None, None]
    del whole["runs"][0]["verdict"]
    with pytest.raises(jsonschema.ValidationError, match="verdict"):
        jsonschema.validate(whole, schema)


GAP = Gap("20260101T000000-abc", 9, 6)
SAID = "the matrix 20260101T000000-abc has not come to its end: 9 runs planned, 6 in the history"


def test_a_matrix_that_was_interrupted_is_not_exported_as_whole(project: Path, tmp_path: Path) -> None:
    """Also if all that was run is good, or nothing was."""
    for runs, errors in (([a_run(1), a_run(2)], 0), ([], 0), (night(), 2)):
        all_told = tell(runs, [], TODAY)
        results = list(check_ktap(to_ktap(all_told, GAP).splitlines()))
        suites = len({run.scenario for run in runs})
        assert to_ktap(all_told, GAP).splitlines()[1] == f"1..{suites + 1}"
        last = [f"# {SAID}", f"not ok {suites + 1} matrix # ERROR INTERRUPTED"]
        assert to_ktap(all_told, GAP).splitlines()[-2:] == last
        assert len(results) >= len(runs)
        xml = read_junit(to_junit(all_told, "/x", GAP), tmp_path / "x.xml")
        assert (xml.tests, xml.errors) == (len(runs) + 1, errors + 1)
        whole = json.loads(json.dumps(to_json(all_told, GAP)))
        jsonschema.validate(whole, json.loads((project / "docs" / "runs.schema.json").read_text()))
        assert whole["interrupted"] == {"batch": GAP.batch, "planned": 9, "there": 6}
    at = datetime(2026, 1, 1)
    assert find_gap(None, 3) is None
    assert find_gap(Batch(id="x", started=at, planned=4, ended=True), 4) is None
    assert find_gap(Batch(id="x", started=at, planned=4, ended=False), 4) == Gap("x", 4, 4)


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    names = ("reason", "release", "kernel", "variant", "loads", "scenario", "command", "spl_version")
    runs = [a_run(1, verdict="STALLED", **dict.fromkeys(names, HOSTILE)), a_run(2)]
    xml = read_junit(to_junit(tell(runs, [], TODAY), "/x"), tmp_path / "x.xml")
    assert (xml.tests, xml.failures, xml.skipped) == (2, 1, 0)
    assert not re.search(r"[\x00\x1b\ud800]", to_junit(tell(runs, [], TODAY), "/x"))
    results = list(check_ktap(to_ktap(tell(runs, [], TODAY)).splitlines()))
    assert [result for result, _, _ in results] == ["ok", "not ok"]
    ET.fromstring(to_junit(tell(runs, [], TODAY), "/x"))


# The file of known issues.

GOOD = f'[[issue]]\nfingerprint = "{MARK}"\nlink = "{LINK}"\nexpires = 2026-06-01\n'


def test_known_issues_are_read(tmp_path: Path) -> None:
    path = tmp_path / "known.toml"
    path.write_text(GOOD)
    (issue,) = read_known(path)
    assert issue == KnownIssue(MARK, LINK, date(2026, 6, 1))
    assert find_known([issue], MARK) is issue and find_known([issue], "") is None and find_known([], MARK) is None
    assert not issue.is_expired(date(2026, 6, 1)) and issue.is_expired(date(2026, 6, 2))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[issue]\n", r"line 1, column 8"),
        ("x = 1\n", r"it is a list of \[\[issue\]\], and nothing else"),
        ("issue = 3\n", r"it is a list of"),
        ("issue = [3]\n", r"issue 1 is no table"),
        (GOOD.replace("link", "lnik"), r"issue 1: "),
        (GOOD.replace("2026-06-01", '"2026-06-01"'), r"expires = '2026-06-01': it is a date such as"),
        (GOOD.replace("2026-06-01", "2026-06-01T10:00:00"), r"it is a date such as"),
        (GOOD.replace("https:", "javascript:"), r"is no link"),
        (GOOD.replace(MARK, "xyz"), r"'xyz' is no fingerprint"),
        (GOOD.replace("expires = 2026-06-01\n", ""), r"expires = None"),
        (GOOD + GOOD, rf"more than one issue for {MARK}"),
    ],
)
def test_a_file_of_known_issues_that_is_none(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "known.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_known(path)


def test_no_file_of_known_issues(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_known(tmp_path / "none.toml")


# The command.


@pytest.fixture
def history(tmp_path: Path) -> str:
    path = tmp_path / "history.sqlite"
    with History(path) as opened:
        opened.add(night())
        opened.add([a_run(20, batch="later"), a_run(30, batch="")])
    return str(path)


def test_the_last_matrix_is_exported(history: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["history", "export", "--history", history, "--format", "ktap"])
    assert done.exit_code == 0
    assert list(check_ktap(done.stdout.splitlines())) == [("ok", "debian-12 stock", None)]
    out = tmp_path / "junit.xml"
    known = tmp_path / "known.toml"
    known.write_text(GOOD.replace("2026", "9999"))
    argv = ["history", "export", "--history", history, "--batch", "b", "--out", str(out), "--known", str(known)]
    assert CliRunner().invoke(app, argv).exit_code == 0
    xml = junitparser.JUnitXml.fromfile(str(out))
    assert (xml.tests, xml.skipped) == (6, 1)


def test_the_last_matrix_that_was_interrupted_is_told(history: str) -> None:
    """The export and the judgement both say so, until it has come to its end."""
    with History(history) as opened:
        opened.keep_batch("later", 2, ended=False)
    export = ["history", "export", "--history", history, "--format", "ktap"]
    judgement = ["history", "judge", "--history", history]
    assert "not ok 2 matrix # ERROR INTERRUPTED" in CliRunner().invoke(app, export).stdout
    judged = CliRunner().invoke(app, [*judgement, "--json"])
    assert judged.exit_code == 1
    assert [each["kind"] for each in json.loads(judged.stdout)["remarks"] if each["cell"] == "matrix later"] == [
        "interrupted"
    ]
    with History(history) as opened:
        opened.keep_batch("later", 2, ended=True)
    assert "INTERRUPTED" not in CliRunner().invoke(app, export).stdout
    assert "interrupted" not in CliRunner().invoke(app, [*judgement, "--json"]).stdout


def test_a_matrix_that_is_not_there(history: str) -> None:
    done = CliRunner().invoke(app, ["history", "export", "--history", history, "--batch", "none"])
    assert done.exit_code != 0
    assert "the history has no matrix none" in str(done.exception)
