"""run.json with other values than a run has, or as no run has it: one error, and no traceback."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oddfiles import ANY_JSON, ODD_VALUES, a_run
from simulated_kinds import HELD
from splvm.campaign.keep import keep_result
from splvm.cli.options import summary_of
from splvm.errors import EvidenceError
from splvm.record.facts import Facts
from splvm.record.names import EVIDENCE_FILES, RUN_FILE
from splvm.record.reader import read_facts
from splvm.record.seal import _hash
from splvm.report.summary import verdict_line
from splvm.scenarios.judged import judge_run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good run; not to be changed."""
    return a_run(tmp_path_factory.mktemp("whole") / "run", HELD)


# run.json


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_count, value.values()))


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_named(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(it, dict) and isinstance(it.get("name"), str) for it in value)


def _is_digests(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(it, dict) and _is_count(it.get("bytes")) and isinstance(it.get("sha256", ""), str | None)
        for it in value.values()
    )


def _are_disks(value: Any) -> bool:
    names = ("mib", "speed_mib", "request_us")
    return isinstance(value, list) and all(
        isinstance(it, dict) and all(_is_count(it.get(name)) for name in names) for it in value
    )


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


# What run.json may have at each place that is used, said another way than in record/facts.py.
_KINDS: Mapping[str, tuple[Callable[[Any], bool], tuple[str, ...]]] = {
    "a text": (
        lambda value: isinstance(value, str),
        (
            *("scenario", "started", "batch", "splvm", "seal", "line", "kernel.id", "kernel.release", "kernel.package"),
            *("spl.source", "spl.version", "spl.variant", "qemu.version", "accelerator.name", "host.system"),
            *(
                "outcome.kind",
                "parameters.clock",
                "parameters.preempt",
                "parameters.delays",
                "zfs.source",
                "zfs.version",
                "zfs.tools",
            ),
            *(f"{part}.git.{name}" for part in ("spl", "zfs") for name in ("commit", "branch", "describe", "dirty")),
        ),
    ),
    "a text or nothing": (lambda value: value is None or isinstance(value, str), ("spl.content", "parameters.load")),
    "a number": (_is_number, ("parameters.window_s", "parameters.latency_bound_ms", "parameters.rate_hz")),
    "a count": (
        _is_count,
        (
            *("boots", "parameters.ram_mib", "parameters.cpus", "parameters.seed", "outcome.console_bytes"),
            *("outcome.closed_bytes", "zfs.pool.disk_mib"),
        ),
    ),
    "a count or nothing": (lambda value: value is None or _is_count(value), ("host.cores",)),
    "a mapping": (
        lambda value: isinstance(value, dict),
        (
            *("differs", "parameters", "kernel", "spl", "qemu", "accelerator", "host"),
            *("outcome", "zfs", "zfs.pool", "zfs.pool.parameters"),
        ),
    ),
    "a mapping or nothing": (lambda value: value is None or isinstance(value, dict), ("rule", "spl.git", "zfs.git")),
    "texts": (_is_texts, ("expected", "argv", "zfs.pool.made")),
    "counts": (_is_counts, ("parameters.workload", "faults")),
    "named": (_is_named, ("spl.patches",)),
    "loads": (lambda value: _is_named(value) and all(_is_counts(it.get("values", {})) for it in value), ("loads",)),
    "disks": (_are_disks, ("disks",)),
    "a table": (_is_table, ("spl.modules",)),
    "digests": (_is_digests, ("evidence",)),
}
SHAPES = {place: test for test, places in _KINDS.values() for place in places}


def test_every_place_that_has_a_type_is_tried() -> None:
    def places(kind: Any, above: str = "") -> Iterator[str]:
        for name, inner in get_type_hints(kind).items():
            yield f"{above}{name}"
            for each in (inner, *get_args(inner)):
                if is_typeddict(each) and get_origin(inner) not in (list, dict):
                    yield from places(each, f"{above}{name}.")

    assert set(places(Facts)) == set(SHAPES)


@pytest.mark.parametrize("place", SHAPES)
def test_every_place_of_run_json_with_another_type(whole: Path, tmp_path: Path, place: str) -> None:
    """One error, or the record is used to its end: verdict, summary, row of the history."""
    run = shutil.copytree(whole, tmp_path / "run")
    facts = json.loads((run / RUN_FILE).read_text())
    *above, last = place.split(".")
    errors = 0
    for value in ODD_VALUES:
        changed = json.loads(json.dumps(facts))
        part = changed
        for key in above:
            part = part.setdefault(key, {})
        part[last] = value
        if place != "seal":
            changed["seal"] = _hash(changed)
        (run / RUN_FILE).write_text(json.dumps(changed))
        wrong = not SHAPES[place](value)
        try:
            use(run)
            assert not wrong, value
        except EvidenceError as error:
            errors += 1
            assert not wrong or any(it in error.message for it in (place, "a number in it", "a text in it"))
    assert errors


def use(run: Path) -> None:
    evidence, verdict = judge_run(run)
    summary_of(verdict, evidence.facts, run)
    verdict_line(verdict, evidence.facts)
    keep_result(run, verdict)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.sampled_from(sorted(SHAPES)), value=ANY_JSON)
def test_anything_in_run_json(whole: Path, tmp_path_factory: pytest.TempPathFactory, place: str, value: Any) -> None:
    facts = json.loads((whole / RUN_FILE).read_text())
    part = facts
    *above, last = place.split(".")
    for key in above:
        part = part.setdefault(key, {})
    part[last] = value
    facts["seal"] = _hash(facts)
    run = tmp_path_factory.mktemp("any")
    for name in EVIDENCE_FILES:
        os.link(whole / name, run / name)
    (run / RUN_FILE).write_text(json.dumps(facts))
    with contextlib.suppress(EvidenceError):
        use(run)
    shutil.rmtree(run)


@pytest.mark.parametrize(
    "text", ['{"schema_version":1,"a":' + "[" * 500 + "]" * 500 + "}", '{"schema_version":1,"a":1e999}']
)
def test_a_run_json_that_no_run_has(tmp_path: Path, text: str) -> None:
    (tmp_path / RUN_FILE).write_text(text)
    with pytest.raises(EvidenceError, match="damaged"):
        read_facts(tmp_path)
