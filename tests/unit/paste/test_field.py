"""Texts as they come from the field, reduced, each behind every prefix there is, with the values that are right."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

import pytest

from pasteforms import KERNEL, LEARNED, PLAIN, WRAPPED, Form
from places import PROJECT
from splvm.paste.explanation import Explanation, explain

FIELD = PROJECT / "tests" / "data" / "field"


def load(name: str) -> dict[str, Mapping[str, Any]]:
    rows = tomllib.loads((FIELD / name).read_text())["case"]
    cases = {row["name"]: row for row in rows}
    assert len(cases) == len(rows)
    return cases


LOGS, FILES = load("logs.toml"), load("files.toml")
FORMS: dict[str, Form] = {**PLAIN, **KERNEL}


def lines_of(case: Mapping[str, Any]) -> list[str]:
    return str(case["text"]).strip("\n").split("\n")


def who(findings: Explanation) -> list[str]:
    return [f"{it.kind} {it.comm or '-'} {'-' if it.pid is None else it.pid}" for it in findings.findings]


def check(case: Mapping[str, Any], found: Explanation) -> None:
    """Everything that the table says of a text."""
    assert sorted(who(found)) == sorted(case.get("findings", []))
    stacks: dict[int, tuple[str, ...]] = {}
    for task in found.tasks:
        stacks.setdefault(-1 if task.pid is None else task.pid, task.frames)
    for pid, functions in case.get("stacks", {}).items():
        assert stacks[int(pid)] == tuple(functions.split())
    told = found.telling
    if "reasons" in case:
        assert told is not None
        waits = {wait.thread.pid: wait.reason.value for wait in told.graph.waits}
        assert {pid: waits.get(int(pid)) for pid in case["reasons"]} == case["reasons"]
    assert (found.closes.value if found.closes else None) == case.get("closes")
    if "cycle" in case:
        assert told is not None and sorted(told.graph.cycle) == case["cycle"]
    if "locks" in case:
        assert told is not None and dict(told.locks) == {int(pid): lock for pid, lock in case["locks"].items()}
    if "count" in case:
        assert found.findings[0].count == case["count"]
    titles = " ".join(it.title for it in found.findings)
    assert all(word in titles for word in case.get("titles", ()))
    assert all(any(part in row.issue for row in found.known) for part in case.get("known", ()))
    assert set(case.get("scenarios", ())) <= {row.name for row in found.scenarios}
    assert [len(it.slab.caches) for it in found.slab] == case.get("slabs", [])
    assert len(found.contradictions) == case.get("contradictions", 0)
    assert set(case.get("kinds", ())) <= {it.kind for it in found.inputs}
    assert {it.pid: it.what for it in found.moved if str(it.pid) in case.get("moved", {})} == {
        int(pid): what for pid, what in case.get("moved", {}).items()
    }


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", LOGS)
def test_a_log(name: str, form: str) -> None:
    check(LOGS[name], explain(FORMS[form](lines_of(LOGS[name]))))


@pytest.mark.parametrize("form", PLAIN)
@pytest.mark.parametrize("name", FILES)
def test_another_file(name: str, form: str) -> None:
    check(FILES[name], explain(PLAIN[form](lines_of(FILES[name]))))


@pytest.mark.parametrize("form", WRAPPED)
@pytest.mark.parametrize("name", [name for name, case in LOGS.items() if "hung task" in name])
def test_a_log_that_was_wrapped(name: str, form: str) -> None:
    check(LOGS[name], explain(WRAPPED[form](lines_of(LOGS[name]))))


@pytest.mark.parametrize("form", LEARNED)
@pytest.mark.parametrize("name", [name for name, case in LOGS.items() if "hung task" in name])
def test_a_prefix_that_nobody_thought_of(name: str, form: str) -> None:
    check(LOGS[name], explain(LEARNED[form](lines_of(LOGS[name]))))


def test_a_sentence_is_no_prefix() -> None:
    text = "Then I see INFO: task txg_sync:790 blocked for more than 120 seconds. again\n"
    assert who(explain(text + "\n".join(lines_of(LOGS["hung task of 5.10 and later"])))) == ["hung_task txg_sync 790"]


@pytest.mark.parametrize("name", LOGS)
def test_a_complaint_is_the_same_behind_every_prefix(name: str) -> None:
    found = {form: [it.fingerprint for it in explain(FORMS[form](lines_of(LOGS[name]))).findings] for form in FORMS}
    assert {form: sorted(each) for form, each in found.items()} == dict.fromkeys(found, sorted(found["as it is"]))


def test_the_corpus_is_large_enough() -> None:
    assert len(LOGS) + len(FILES) >= 60
    assert len(KERNEL) >= 40
