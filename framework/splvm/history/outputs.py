"""Runs of the history in formats that other programs read: JUnit's XML, the kernel's KTAP, JSON. Pure.

What a run says is a guest's text in part. It is bounded already, and each format takes out or escapes what would be
read as something else.

An issue that is known and has not expired is a failure that was expected: `skipped` in JUnit, as pytest has it, and
`XFAIL` in KTAP. What came to no verdict, or to one that says nothing, is an `error` and not a `failure`; it is never a
success.
"""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from itertools import groupby
from typing import Any

from splvm.history.cell import Cell
from splvm.history.knownissues import KnownIssue, find_known
from splvm.history.schema import Batch, RunRow
from splvm.record.cellfacts import PACKAGED
from splvm.record.names import CONSOLE_FILE, RUN_FILE, SAMPLES_FILE, VERDICT_FILE

SCHEMA_VERSION = 4

# What XML 1.0 cannot have, also not escaped, and what a terminal would obey.
_NOT_XML = re.compile("[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# Of the columns of a run, those that are properties of a JUnit case.
_PROPERTIES = (
    "verdict", "kernel", "release", "variant", "loads", "parameters", "spl_version", "spl_source", "tree", "revision",
    "digest", "accelerator", "qemu", "host", "fingerprint", "command", "directory",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Gap:
    """What a matrix that did not come to its end lacks."""

    batch: str
    # Runs that it was to have.
    planned: int
    # Runs that the history has of it; those that were done again are among them.
    there: int

    @property
    def text(self) -> str:
        return (
            f"the matrix {self.batch} has not come to its end: {self.planned} runs planned, {self.there} in the history"
        )


def find_gap(batch: Batch | None, there: int) -> Gap | None:
    """What is missing of a matrix; None of one that is whole, or of which nobody knows."""
    return Gap(batch.id, batch.planned, there) if batch is not None and not batch.ended else None


@dataclass(frozen=True, slots=True)
class Told:
    """A run as all formats have it."""

    run: RunRow
    # Its name within the scenario: the same each night.
    name: str
    issue: KnownIssue | None

    @property
    def text(self) -> str:
        """Why it is what it is, on one line."""
        expected = f" (expected: {' or '.join(self.run.expected)})" if self.run.expected else ""
        return " ".join(f"{self.run.verdict}{'' if self.run.as_expected else expected}: {self.run.reason}".split())


def tell(runs: Iterable[RunRow], known: Sequence[KnownIssue], today: date) -> list[Told]:
    """The runs by scenario, cell and time; those of one cell have numbers if there are several."""
    told = []
    for cell, group in groupby(sorted(runs, key=_order), key=lambda run: run.cell):
        same = list(group)
        for number, run in enumerate(same, 1):
            name = " ".join(filter(None, (cell.kernel, cell.variant, cell.loads, *cell.other)))
            issue = find_known(known, run.fingerprint)
            open_issue = issue if issue and not issue.is_expired(today) and not run.as_expected else None
            told.append(Told(run, f"{name} run {number}" if len(same) > 1 else name, open_issue))
    return told


def _order(run: RunRow) -> tuple[Cell, Any, str]:
    return run.cell, run.started, run.id


def _by_scenario(told: Iterable[Told]) -> Iterator[tuple[str, list[Told]]]:
    for scenario, group in groupby(told, key=lambda each: each.run.scenario):
        yield scenario, list(group)


def to_junit(told: Sequence[Told], base: str, gap: Gap | None = None) -> str:
    """A suite for each scenario, a case for each run: what pytest writes, and what CI services read.

    Evidence is a property, and an attachment in the form that Jenkins and GitLab know.

    :param base: the directory that CI services take paths to be from.
    :param gap: is an error of a suite of its own.
    """
    top = ET.Element("testsuites", name="splvm")
    for scenario, cases in _by_scenario(told):
        suite = ET.SubElement(top, "testsuite", name=_xml(scenario), timestamp=cases[0].run.started.isoformat())
        for each in cases:
            _add_case(suite, each, base)
        _count(suite, cases)
    _count(top, told)
    if gap is not None:
        suite = ET.SubElement(
            top, "testsuite", name="matrix", tests="1", failures="0", errors="1", skipped="0", time="0"
        )
        case = ET.SubElement(suite, "testcase", classname="splvm.matrix", name="came to its end", time="0")
        ET.SubElement(case, "error", type="INTERRUPTED", message=_xml(gap.text)).text = _xml(gap.text)
        for name in ("tests", "errors"):
            top.set(name, str(int(top.get(name, "0")) + 1))
    ET.indent(top)
    return ET.tostring(top, encoding="unicode", xml_declaration=True) + "\n"


def _add_case(suite: ET.Element, told: Told, base: str) -> None:
    run = told.run
    case = ET.SubElement(suite, "testcase", classname=f"splvm.{_xml(run.scenario)}", name=_xml(told.name))
    case.set("time", f"{run.duration_s or 0:.3f}")
    properties = ET.SubElement(case, "properties")
    values = {name: str(getattr(run, name)) for name in _PROPERTIES} | {"expected": " ".join(run.expected)}
    # Of a packaged build the version says it all.
    values |= {} if run.line == PACKAGED else {"line": run.line, "content": run.content}
    # Parts of a figure, such as the buckets of a histogram, are in its samples.
    figures = {f"figure.{figure.name}": f"{figure.value:g}" for figure in run.figures if "." not in figure.name}
    for name, value in (values | figures).items():
        if value:
            ET.SubElement(properties, "property", name=_xml(name), value=_xml(value))
    if told.issue is not None:
        ET.SubElement(case, "skipped", type="known issue", message=_xml(_known(told.issue)))
    elif not run.as_expected:
        kind = "error" if run.is_silent else "failure"
        ET.SubElement(case, kind, type=_xml(run.verdict), message=_xml(told.text)).text = _xml(run.reason)
    out = [told.text, f"again: {run.command}" if run.command else ""]
    out += [f"[[ATTACHMENT|{path}]]" for path in _attachments(run.directory, base)]
    ET.SubElement(case, "system-out").text = _xml("\n".join(filter(None, out)))


def _count(element: ET.Element, told: Sequence[Told]) -> None:
    bad = [each for each in told if not each.run.as_expected and each.issue is None]
    element.set("tests", str(len(told)))
    element.set("failures", str(sum(not each.run.is_silent for each in bad)))
    element.set("errors", str(sum(each.run.is_silent for each in bad)))
    element.set("skipped", str(sum(each.issue is not None for each in told)))
    element.set("time", f"{sum(each.run.duration_s or 0 for each in told):.3f}")


def _attachments(directory: str, base: str) -> list[str]:
    """What explains a verdict, by paths from `base` if they are below it."""
    if not directory:
        return []
    near = os.path.relpath(directory, base)
    place = directory if near.startswith("..") else near
    return [os.path.join(place, name) for name in (RUN_FILE, VERDICT_FILE, CONSOLE_FILE, SAMPLES_FILE)]


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)


def to_ktap(told: Sequence[Told], gap: Gap | None = None) -> str:
    """A test for each scenario, with its runs as subtests, in version 1 of KTAP (Documentation/dev-tools/ktap.rst).

    :param gap: is a test of its own, the last, that has not come to a result.
    """
    suites = list(_by_scenario(told))
    total = len(suites) + (gap is not None)
    lines = ["KTAP version 1", f"1..{total}" if total else "1..0 # SKIP no run"]
    for number, (scenario, cases) in enumerate(suites, 1):
        lines += ["  KTAP version 1", f"  # Subtest: {_ktap(scenario)}", f"  1..{len(cases)}"]
        for count, each in enumerate(cases, 1):
            lines += [f"  # {_ktap(each.text)}"] if not each.run.as_expected else []
            lines.append(f"  {_result(each)} {count} {_ktap(each.name)}{_directive(each)}")
        good = all(each.run.as_expected or each.issue for each in cases)
        lines.append(f"{'ok' if good else 'not ok'} {number} {_ktap(scenario)}")
    if gap is not None:
        lines += [f"# {_ktap(gap.text)}", f"not ok {total} matrix # ERROR INTERRUPTED"]
    return "\n".join(lines) + "\n"


def _result(told: Told) -> str:
    return "ok" if told.run.as_expected else "not ok"


def _directive(told: Told) -> str:
    if told.issue is not None:
        return f" # XFAIL {_known(told.issue)}"
    # A directive of that name says that a test has not come to a result.
    return f" # ERROR {told.run.verdict}" if told.run.is_silent else ""


def _ktap(text: str) -> str:
    """On one line, and without what begins a directive."""
    return "".join(char if char.isprintable() and char != "#" else " " for char in text)


def _known(issue: KnownIssue) -> str:
    return f"known issue {issue.link} until {issue.expires}"


def to_json(told: Sequence[Told], gap: Gap | None = None) -> Mapping[str, Any]:
    """Everything there is, as docs/runs.schema.json describes it."""
    missing = asdict(gap) if gap is not None else None
    return {"schema_version": SCHEMA_VERSION, "interrupted": missing, "runs": [_whole(each) for each in told]}


def run_to_json(run: RunRow) -> dict[str, Any]:
    """A row of the history."""
    # Of copies of a run the history has one: nobody else needs to tell them apart.
    columns = [column.key for column in run.__table__.columns if column.key != "token"]
    row = {name: getattr(run, name) for name in columns}
    row["parameters"] = dict(run.cell.parameters)
    return {**row, "started": f"{run.started.isoformat()}Z", "figures": {each.name: each.value for each in run.figures}}


def _whole(told: Told) -> dict[str, Any]:
    return {"name": told.name, **run_to_json(told.run), "known_issue": told.issue.link if told.issue else None}
