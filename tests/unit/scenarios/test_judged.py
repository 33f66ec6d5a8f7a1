"""Rules in records: a run takes its rule along, and no rule gets it a better verdict than it has earned."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from simulated import simulate
from simulated_faults import FAULTS
from simulated_guest import Knobs
from simulated_kinds import HELD, KINDS, LOADED, NOMINAL, scenario_of
from splvm.errors import EvidenceError
from splvm.evidence.judge import ALWAYS, CHECKS, GOODS, IN_WINDOW, LAST, MADE, check_rule, judge
from splvm.evidence.rule import Rule, clause, clauses, parse_rule
from splvm.evidence.timeline import Evidence
from splvm.evidence.verdict import Outcome
from splvm.record.reader import read_evidence
from splvm.scenarios.judged import judge_evidence, judge_run
from splvm.scenarios.table import SCENARIOS

RULE = SCENARIOS[HELD].rule
HELD_RUN = simulate(HELD).evidence()
# Each rule of the table once.
RULES = {scenario.rule: name for name, scenario in SCENARIOS.items()}


def with_rule(evidence: Evidence, rule: Rule | object, scenario: str | None = None) -> Evidence:
    told = json.loads(json.dumps(rule.to_json())) if isinstance(rule, Rule) else rule
    named = {"scenario": scenario} if scenario is not None else {}
    return replace(evidence, facts={**evidence.facts, **named, "rule": told})


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_rule_of_the_table_is_one_and_can_be_written_down(name: str) -> None:
    rule = SCENARIOS[name].rule
    check_rule(rule)
    assert parse_rule(json.loads(json.dumps(rule.to_json()))) == rule


def test_every_check_and_every_good_verdict_is_in_some_rule() -> None:
    rules = [scenario.rule for scenario in SCENARIOS.values()]
    used = {it.check for rule in rules for it in (*rule.required, *rule.checks)}
    # What is looked at in every run, or in some whatever their rule says; older records ask for `pool`.
    always = {each.check for each in (*ALWAYS, *IN_WINDOW, *LAST)}
    assert used | always | {"any-load", "unpulled", "pool"} == {*CHECKS, *MADE}
    assert {rule.good for rule in rules} == set(GOODS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_with_the_rule_of_the_table_is_judged_as_one_without(kind: str) -> None:
    evidence = simulate(kind).evidence()
    assert judge_evidence(with_rule(evidence, SCENARIOS[scenario_of(kind)].rule)) == judge_evidence(evidence)


def test_a_run_of_a_scenario_that_nobody_here_knows_is_judged_by_its_own_rule() -> None:
    good = simulate(HELD).evidence()
    assert judge_evidence(with_rule(good, RULE, "a newcomer")).outcome is Outcome.PROGRESS
    bad = simulate(HELD, FAULTS["no fallback"]).evidence()
    assert judge_evidence(with_rule(bad, RULE, "a newcomer")).outcome is Outcome.STALLED
    with pytest.raises(EvidenceError, match="'a newcomer' is not known, and it has no rule; known are nominal, "):
        judge_evidence(replace(good, facts={**good.facts, "scenario": "a newcomer"}))


def rules_that_lack_something() -> list[Any]:
    rows = []
    for name, scenario in SCENARIOS.items():
        rule, good = scenario.rule, GOODS[scenario.rule.good]
        for check in sorted(good.checks):
            less = replace(rule, checks=tuple(it for it in rule.checks if it.check != check))
            rows.append(pytest.param(less, check, id=f"{name}: {check}"))
        for phase in sorted(good.phases):
            required = tuple(
                replace(it, words=tuple(word for word in it.words if word != phase)) if it.check == "phases" else it
                for it in rule.required
            )
            rows.append(pytest.param(replace(rule, required=required), phase, id=f"{name}: {phase}"))
    return rows


@pytest.mark.parametrize(("rule", "lacking"), rules_that_lack_something())
@pytest.mark.parametrize("scenario", ["a newcomer", HELD])
def test_a_rule_without_what_its_good_verdict_rests_on_is_none(rule: Rule, lacking: str, scenario: str) -> None:
    with pytest.raises(EvidenceError, match=rf"run\.json: rule: .* rests on what the rule lacks: {lacking}$"):
        judge_evidence(with_rule(HELD_RUN, rule, scenario))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (None, r"rule is None, and has to have required, checks and good"),
        ([], r"rule is \[\], and has"),
        ({}, r"rule is \{\}, and has"),
        ({"required": [], "checks": []}, r"has to have required, checks and good"),
        ({"required": [], "checks": [], "good": "progress", "more": 1}, r"has to have required, checks and good"),
        ({"required": [], "checks": [], "good": 1}, r"good is 1, and not a name"),
        ({"required": [], "checks": [], "good": []}, r"good is \[\], and not a name"),
        ({"required": {}, "checks": [], "good": "progress"}, r"\{\} is not a list of at most 100 checks"),
        ({"required": [], "checks": [["stuck"]] * 101, "good": "progress"}, r"is not a list of at most 100"),
        ({"required": [], "checks": [[]], "good": "progress"}, r"\[\] is not a check"),
        ({"required": [], "checks": ["stuck"], "good": "progress"}, r"'stuck' is not a check"),
        ({"required": [], "checks": [["stuck", 1]], "good": "progress"}, r"\['stuck', 1\] is not a check"),
        ({"required": [], "checks": [["x" * 101]], "good": "progress"}, r"is not a check"),
        (
            {"required": [], "checks": [["gravity"]], "good": "progress"},
            r"there is no check 'gravity'; there are crash",
        ),
        ({"required": [["stuck", "x"]], "checks": [], "good": "progress"}, r"check stuck takes no words: stuck x"),
        ({"required": [["phases"]], "checks": [], "good": "progress"}, r"check phases takes some words: phases"),
        ({"required": [["woken", "a", "b"]], "checks": [], "good": "progress"}, r"woken takes two phases and a bad"),
        # A complaint that is a good verdict would be one.
        ({"required": [["woken", "a", "b", "PROGRESS"]], "checks": [], "good": "progress"}, r"and a bad verdict"),
        ({"required": [], "checks": [], "good": "luck"}, r"there is no good verdict 'luck'; there are health, "),
        ({"required": [], "checks": [], "good": "endurance"}, r"rests on what the rule lacks: end, window, window-end"),
    ],
)
@pytest.mark.parametrize("scenario", ["a newcomer", HELD])
def test_what_is_no_rule(rule: object, message: str, scenario: str) -> None:
    evidence = with_rule(HELD_RUN, rule, scenario)
    with pytest.raises(EvidenceError, match=rf"^run\.json: .*{message}"):
        judge_evidence(evidence)
    # What was changed afterwards is said first.
    damaged = judge_evidence(replace(evidence, damage=("console.log: missing",)))
    assert damaged.outcome is Outcome.INCONCLUSIVE
    assert [reason.text for reason in damaged.reasons] == ["the record is damaged: console.log: missing"]


# A rule that asks for next to nothing.
WEAK = Rule(clauses("phases window window-end end"), (), "endurance")


def test_a_weak_rule_of_ones_own_makes_no_verdict_better() -> None:
    evidence = with_rule(simulate(LOADED, FAULTS["no fallback"]).evidence(), WEAK)
    # Threads that stand still are no complaint of it. That one of them sleeps for too long is asked of every run.
    assert judge(evidence, WEAK).outcome is Outcome.SLOW
    verdict = judge_evidence(evidence)
    assert verdict.outcome is Outcome.STALLED
    assert verdict.reasons[-1].text == (
        "run.json has another rule for this scenario than this splvm; the worse verdict counts, by the table's: "
        "SLOW by the other"
    )


def test_of_two_good_verdicts_the_tables_counts() -> None:
    more = replace(RULE, required=(*RULE.required, clause("phases window")))
    verdict = judge_evidence(with_rule(simulate(HELD).evidence(), more))
    assert verdict.outcome is Outcome.PROGRESS
    assert "another rule" in verdict.reasons[-1].text


def test_a_rule_of_ones_own_may_ask_for_more() -> None:
    more = replace(RULE, required=(*RULE.required, clause("phases fragment")))
    verdict = judge_evidence(with_rule(simulate(HELD).evidence(), more))
    assert (verdict.outcome, verdict.reasons[0].text) == (
        Outcome.INCONCLUSIVE,
        "the run never came to: fragment",
    )
    assert verdict.reasons[-1].text.endswith("by the record's: PROGRESS by the other")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unmarked", [(), ("release", "trap"), ("window-end", "hold")], ids=" ".join)
def test_any_rule_can_be_put_on_any_run(kind: str, unmarked: tuple[str, ...]) -> None:
    """Whatever comes out of it, it is a verdict, and none that is better than by the table."""
    evidence = simulate(kind, Knobs(unmarked=frozenset(unmarked))).evidence()
    ours = judge_evidence(evidence)
    for rule in RULES:
        both = judge_evidence(with_rule(evidence, rule))
        assert both.outcome is ours.outcome or not both.outcome.is_good


def test_a_directory_is_read_and_judged(tmp_path: Any) -> None:
    run = simulate(NOMINAL)
    run.start_record(tmp_path / "run").finish(run.facts["outcome"])
    evidence, verdict = judge_run(tmp_path / "run")
    assert verdict == judge_evidence(read_evidence(tmp_path / "run")) == judge(evidence, SCENARIOS[NOMINAL].rule)


# The bound on the latency


def with_bound(evidence: Evidence, bound_ms: object, **facts: Any) -> Evidence:
    parameters = {**evidence.facts["parameters"], "latency_bound_ms": bound_ms}
    return replace(evidence, facts={**evidence.facts, "parameters": parameters, **facts})


@pytest.mark.parametrize("kind", KINDS)
def test_a_weaker_bound_gains_no_good_verdict(kind: str) -> None:
    evidence = simulate(kind).evidence()
    good = judge_evidence(evidence)
    own = SCENARIOS[scenario_of(kind)].latency_bound_ms
    assert judge_evidence(with_bound(evidence, own)).outcome is good.outcome
    if good.outcome.is_good:
        verdict = judge_evidence(with_bound(evidence, own + 1))
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert "does not say that it was asked for" in verdict.reasons[0].text


def test_a_bound_that_was_asked_for_or_is_nobody_elses() -> None:
    asked = {"differs": {"latency_bound_ms": "2000"}}
    assert judge_evidence(with_bound(HELD_RUN, 2000, **asked)).outcome is Outcome.PROGRESS
    assert judge_evidence(with_bound(HELD_RUN, 3000, **asked)).outcome is Outcome.INCONCLUSIVE
    newcomer = with_rule(with_bound(HELD_RUN, 2000), RULE, "a newcomer")
    assert judge_evidence(newcomer).outcome is Outcome.PROGRESS


def test_a_bad_verdict_stays_by_a_weaker_bound() -> None:
    bad = simulate(HELD, FAULTS["no fallback"]).evidence()
    verdict = judge_evidence(with_bound(bad, 5000))
    assert verdict.outcome is Outcome.STALLED
    assert [outcome for outcome, reason in verdict.also if "was asked for" in reason.text] == [Outcome.INCONCLUSIVE]
