"""Texts as they come from the field, reduced, each behind every prefix there is, with the values that are right."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

import pytest

from pasteforms import KERNEL, LEARNED, PLAIN, RARE, WRAPPED, Form
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
# Texts that may lose blanks and what the kernel says over several lines, and that a prefix can be learned from.
HUNG = [name for name in LOGS if "hung task" in name]


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
    names = {str(-1 if task.pid is None else task.pid): task.comm for task in found.tasks}
    assert {pid: names.get(pid) for pid in case.get("names", {})} == case.get("names", {})
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
    if "mixed" in case:
        assert told is not None and all(f"{name} (" in told.graph.sentence for name in case["mixed"])
        assert "may be mixed with others" in told.graph.sentence
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


def check_forms(case: Mapping[str, Any], forms: Mapping[str, Form]) -> None:
    """Check a text in each form, and that its complaints have the same fingerprints in all that keep its lines.

    All forms that fail are named, with what is wrong in each.
    """
    wrong: list[str] = []
    prints: list[str] | None = None
    for name, form in forms.items():
        found = explain(form(lines_of(case)))
        those = sorted(it.fingerprint for it in found.findings)
        prints = those if prints is None else prints
        try:
            check(case, found)
            if name not in WRAPPED and those != prints:
                raise AssertionError(f"fingerprints {those}, not {prints}")
        except (AssertionError, KeyError) as error:
            wrong.append(f"{name}: {str(error).strip()}")
    if wrong:
        pytest.fail(
            f"{case['name']!r} is not read in {len(wrong)} of {len(forms)} forms:\n" + "\n".join(wrong), pytrace=False
        )


@pytest.mark.parametrize("name", LOGS)
def test_a_log(name: str) -> None:
    hung = name in HUNG
    check_forms(LOGS[name], {**FORMS, **({**WRAPPED, **LEARNED, **RARE} if hung else {})})


@pytest.mark.parametrize("name", FILES)
def test_another_file(name: str) -> None:
    check_forms(FILES[name], PLAIN)


def test_a_form_that_is_not_read_is_named() -> None:
    """The test above notices: a form that loses the numbers of threads is said, with what is missing."""
    case = LOGS["hung task of 5.10 and later"]
    forms = {"as it is": FORMS["as it is"], "without numbers": lambda lines: "\n".join(lines).replace("790", "")}
    with pytest.raises(pytest.fail.Exception, match=r"(?s)not read in 1 of 2 forms:\nwithout numbers: .*hung_task"):
        check_forms(case, forms)


def test_a_sentence_is_no_prefix() -> None:
    text = "Then I see INFO: task txg_sync:790 blocked for more than 120 seconds. again\n"
    assert who(explain(text + "\n".join(lines_of(LOGS["hung task of 5.10 and later"])))) == ["hung_task txg_sync 790"]


def test_the_corpus_is_large_enough() -> None:
    assert len(LOGS) + len(FILES) >= 60
    assert len(KERNEL) >= 40
    assert len(HUNG) >= 4
