"""From evidence to a verdict: `judge()`, and what the names in a rule stand for.

Pure: it reads what was recorded and nothing else. A check looks for one kind of trouble and yields complaints; the
complaint that comes first in `Outcome` is the verdict. Only where no check complains does a run count as good, so
evidence that is missing can only make a verdict worse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from splvm.errors import EvidenceError
from splvm.evidence.checks.accounting import (
    check_audit,
    check_drained,
    check_maximum,
    check_read,
    check_recovered,
    check_rows,
)
from splvm.evidence.checks.case import CACHE, Case, Check, Complaint, is_number
from splvm.evidence.checks.comers import check_comers, good_hotplug
from splvm.evidence.checks.complete import of_another_run
from splvm.evidence.checks.consistent import check_consistent
from splvm.evidence.checks.cputime import check_cpu
from splvm.evidence.checks.ending import check_losses, check_lost, check_phases
from splvm.evidence.checks.good import (
    good_endurance,
    good_health,
    good_kept,
    good_large,
    good_progress,
    good_retries,
    good_spare,
    good_storm,
    good_survival,
    good_survival_low,
)
from splvm.evidence.checks.injected import check_injected
from splvm.evidence.checks.kernelsaid import because_warned, check_crash, check_warned
from splvm.evidence.checks.kinds import (
    check_kind_counts,
    check_kind_promises,
    check_kinds,
    check_kinds_alone,
    check_kinds_gone,
    good_kinds,
)
from splvm.evidence.checks.large import check_fragmented, check_made, check_order
from splvm.evidence.checks.loadlevel import (
    because_loads,
    check_any_load,
    check_loaded,
    check_loads,
    check_pool,
    wanted,
)
from splvm.evidence.checks.longlived import check_costs, check_kept
from splvm.evidence.checks.magazines import check_magazines
from splvm.evidence.checks.marks import check_marks, check_mask, check_told
from splvm.evidence.checks.memory import (
    check_memory,
    check_memory_falls_back,
    check_memory_gone,
    check_memory_promises,
    good_memory,
)
from splvm.evidence.checks.onset import onset_s
from splvm.evidence.checks.pressure import check_low, check_reserve
from splvm.evidence.checks.progress import (
    check_latency,
    check_needed,
    check_progress,
    check_stuck,
    check_threads,
)
from splvm.evidence.checks.queues import (
    check_queue_counts,
    check_queue_promises,
    check_queues,
    check_queues_gone,
    good_queues,
)
from splvm.evidence.checks.starvation import starved
from splvm.evidence.checks.storm import check_storm, check_storm_atomic, check_storm_safe, check_storm_seen
from splvm.evidence.checks.timeouts import check_quiet, check_slept, check_woken
from splvm.evidence.checks.trap import check_carried, check_caught, check_commits, check_resolved, check_trap
from splvm.evidence.checks.unlike import check_unpulled
from splvm.evidence.diagnosis import Condition
from splvm.evidence.figures import describe
from splvm.evidence.rule import Clause, Rule, clauses
from splvm.evidence.timeline import Evidence
from splvm.evidence.verdict import BAD, Outcome, Reason, Verdict
from splvm.evidence.waiting.tasklists import find_waiting


def _make_woken(*words: str) -> Check:
    if len(words) != 3 or words[2] not in BAD:
        raise EvidenceError(f"check woken takes two phases and a bad verdict, and not {' '.join(words) or 'nothing'}")
    return check_woken(words[0], words[1], Outcome(words[2]))


# Checks by the name that a rule has for them.
CHECKS: Mapping[str, Check] = {
    "crash": check_crash,
    "warned": check_warned,
    "lost": check_lost,
    "losses": check_losses,
    "consistent": check_consistent,
    "stuck": check_stuck,
    "needed": check_needed,
    "order": check_order,
    "threads": check_threads,
    "progress": check_progress,
    "latency": check_latency,
    "quiet": check_quiet,
    "magazines": check_magazines,
    "read": check_read,
    "rows": check_rows,
    "maximum": check_maximum,
    "audit": check_audit,
    "recovered": check_recovered,
    "drained": check_drained,
    "trap": check_trap,
    "commits": check_commits,
    "caught": check_caught,
    "carried": check_carried,
    "resolved": check_resolved,
    "low": check_low,
    "injected": check_injected,
    "made": check_made,
    "fragmented": check_fragmented,
    "costs": check_costs,
    "kept": check_kept,
    "pool": check_pool,
    "any-load": check_any_load,
    "unpulled": check_unpulled,
    "loads": check_loads,
    "slept": check_slept,
    "told": check_told,
    "marks": check_marks,
    "mask": check_mask,
    "reserve": check_reserve,
    "cpu": check_cpu,
    "storm": check_storm,
    "storm-seen": check_storm_seen,
    "storm-safe": check_storm_safe,
    "storm-atomic": check_storm_atomic,
    "queues": check_queues,
    "queue-promises": check_queue_promises,
    "queue-counts": check_queue_counts,
    "queues-gone": check_queues_gone,
    "kinds": check_kinds,
    "kind-promises": check_kind_promises,
    "kind-counts": check_kind_counts,
    "kinds-alone": check_kinds_alone,
    "kinds-gone": check_kinds_gone,
    "comers": check_comers,
    "memory": check_memory,
    "memory-falls-back": check_memory_falls_back,
    "memory-promises": check_memory_promises,
    "memory-gone": check_memory_gone,
}

# Those that take words: what makes a check of them.
MADE: Mapping[str, Callable[..., Check]] = {
    "phases": check_phases,
    "woken": _make_woken,
    "loaded": check_loaded,
}


@dataclass(frozen=True, slots=True)
class Good:
    """A good verdict, and the least that it rests on. A rule may ask for more, and for nothing less."""

    verdict: Callable[[Case], Verdict]
    # Phases that the run came to.
    phases: frozenset[str]
    # Names of checks that did not complain.
    checks: frozenset[str]
    # What is looked at besides, whatever the rule says: records that have the rule already do not name it.
    also: tuple[Clause, ...] = ()


_WINDOW = {"window", "window-end", "end"}
_PARKED = _WINDOW | {"audit", "audit-end", "final"}
_RELEASED = _PARKED | {"release", "recovered"}
_WENT_ON = {"threads", "progress", "latency", "read", "rows", "maximum", "audit", "woken", "drained"}
_WORKED = {"make", "load", "loaded", "empty", "emptied", "destroy", "gone"}
_QUEUES = {"queues", "queue-promises", "queue-counts", "queues-gone"}
_KINDS = {"kinds", "kind-promises", "kind-counts", "kinds-gone"}
_STUCK = _WENT_ON | {"stuck", "needed", "order", "recovered"}
_TRAPPED = _WENT_ON | {"trap", "commits", "caught", "carried", "resolved", "recovered"}


def _good(verdict: Callable[[Case], Verdict], phases: Iterable[str], checks: Iterable[str], *also: str) -> Good:
    return Good(verdict, frozenset(phases), frozenset(checks), clauses(*also))


# Good verdicts by the name that a rule has for them.
GOODS: Mapping[str, Good] = {
    "health": _good(good_health, _PARKED, _WENT_ON | {"quiet", "magazines"}),
    "progress": _good(good_progress, _RELEASED | {"hold"}, _STUCK),
    "kept": _good(good_kept, _RELEASED | {"hold"}, _STUCK | {"costs", "kept"}),
    "large": _good(good_large, _RELEASED | {"hold", "fragment"}, _STUCK | {"made", "fragmented"}),
    "spare": _good(good_spare, _RELEASED | {"hold"}, _STUCK | {"injected"}),
    "retries": _good(good_retries, _RELEASED | {"fail"}, _WENT_ON | {"injected", "recovered"}),
    "survival": _good(good_survival, _RELEASED | {"trap", "resolve"}, _TRAPPED),
    "survival-low": _good(good_survival_low, _RELEASED | {"trap", "resolve"}, _TRAPPED | {"low"}),
    "storm": _good(
        good_storm,
        _WINDOW | {"hold", "release", "final"},
        {"storm", "storm-seen", "storm-safe", "storm-atomic"},
    ),
    "queues": _good(good_queues, _WINDOW | _WORKED, _QUEUES),
    "kinds": _good(good_kinds, _WINDOW | _WORKED | {"before", "caught", "alone", "together"}, _KINDS | {"kinds-alone"}),
    "hotplug": _good(good_hotplug, _WINDOW | _WORKED | {"before", "away", "come"}, _QUEUES | _KINDS | {"comers"}),
    "memory": _good(
        good_memory,
        _WINDOW | _WORKED | {"before", "fragment", "mend"},
        {"memory", "memory-falls-back", "memory-promises", "memory-gone"},
    ),
    "endurance": _good(good_endurance, _WINDOW, (), "any-load", "unpulled"),
}

# What is looked at in every run, whatever its rule; the loads, and what SPL did meanwhile, once the window is over, and
# last whether its record agrees with itself.
ALWAYS = clauses("crash", "lost", "losses", "warned")
IN_WINDOW = clauses("loads", "slept", "told", "marks", "mask", "reserve", "cpu")
LAST = clauses("consistent")

# Times that verdicts rest on, by the marks around them.
_LOOKED_AT = (("window", "window-end"), ("recovered", "final"))

# Verdicts of which the cycle, or the chain, is a reason.
_STANDS_STILL = (Outcome.LOST, Outcome.STALLED, Outcome.NO_RECOVERY)


def make_check(clause: Clause) -> Check:
    """The check that a clause names.

    :raises EvidenceError: when there is none of that name, or it takes other words.
    """
    if clause.check in CHECKS and not clause.words:
        return CHECKS[clause.check]
    if clause.check in MADE and clause.words:
        return MADE[clause.check](*clause.words)
    if clause.check in (*CHECKS, *MADE):
        raise EvidenceError(f"check {clause.check} takes {'no' if clause.check in CHECKS else 'some'} words: {clause}")
    raise EvidenceError(
        f"there is no check {clause.check!r}; there are {', '.join((*CHECKS, *MADE))}",
        hint="a newer splvm may have made this record",
    )


def check_rule(rule: Rule) -> None:
    """See whether a rule is one that may be judged by: its names are known, and its good verdict has what it rests on.

    :raises EvidenceError: when it is not.
    """
    for clause in (*rule.required, *rule.checks):
        make_check(clause)
    if rule.good not in GOODS:
        raise EvidenceError(
            f"there is no good verdict {rule.good!r}; there are {', '.join(GOODS)}",
            hint="a newer splvm may have made this record",
        )
    good = GOODS[rule.good]
    phases = {word for clause in rule.required if clause.check == "phases" for word in clause.words}
    checks = {clause.check for clause in rule.checks}
    if lacking := sorted((good.phases - phases) | (good.checks - checks)):
        raise EvidenceError(f"the good verdict {rule.good} rests on what the rule lacks: {', '.join(lacking)}")


def judge(evidence: Evidence, rule: Rule) -> Verdict:
    """The verdict on a run.

    :raises EvidenceError: when a name in the rule stands for nothing, or run.json cannot be read.
    """
    return replace(_judge(evidence, rule), digest=evidence.digest)


def _judge(evidence: Evidence, rule: Rule) -> Verdict:
    if evidence.damage:
        return verdict_on_damage(evidence)
    timeline = evidence.timeline
    # Where it is missing, `consistent` complains.
    parameters = evidence.facts.get("parameters", {})
    bound_ms = parameters.get("latency_bound_ms", 1000) if isinstance(parameters, Mapping) else None
    if not is_number(bound_ms) or not 0 < bound_ms < 1e9:
        raise EvidenceError(f"run.json: latency_bound_ms is {bound_ms!r}, and not a number of milliseconds")
    case = Case(evidence, timeline, timeline.marks, int(bound_ms) * 1_000_000)
    if foreign := tuple(of_another_run(case)):
        return Verdict(Outcome.INCONCLUSIVE, foreign)
    loaded = clauses("phases load") if wanted(evidence.facts) else ()
    complaints = [*_complain(case, (*ALWAYS, *rule.required, *loaded))]
    if "window" in case.marks and "window-end" in case.marks:
        complaints += _complain(case, (*rule.checks, *IN_WINDOW))
    complaints += _complain(case, (*GOODS[rule.good].also, *LAST))
    figures = describe(evidence, CACHE)
    hunger = _hunger(case, complaints)
    if not complaints:
        verdict = GOODS[rule.good].verdict(case)
        reasons = (*verdict.reasons, *because_loads(case), *because_warned(case))
        return replace(verdict, reasons=reasons, figures=figures, starved=hunger)
    order = list(Outcome)
    complaints.sort(key=lambda complaint: order.index(complaint.outcome))
    worst = complaints[0].outcome
    onset = onset_s(case, worst, complaints[0].reason)
    if onset is not None:
        figures["onset_s"] = onset
    waiting = find_waiting(evidence)
    return Verdict(
        worst,
        (
            *(c.reason for c in complaints if c.outcome is worst),
            *([Reason(waiting.sentence)] if waiting is not None and worst in _STANDS_STILL else []),
        ),
        tuple((c.outcome, c.reason) for c in complaints if c.outcome is not worst),
        figures,
        hunger,
        waiting.to_json() if waiting is not None else {},
    )


def verdict_on_damage(evidence: Evidence) -> Verdict:
    """The verdict on a record that is damaged: nothing that was changed is worth any other, not even a bad one."""
    return Verdict(Outcome.INCONCLUSIVE, tuple(Reason(f"the record is damaged: {what}") for what in evidence.damage))


def _complain(case: Case, clauses: Sequence[Clause]) -> Iterator[Complaint]:
    for clause in clauses:
        yield from make_check(clause)(case)


def _hunger(case: Case, complaints: Sequence[Complaint]) -> str:
    """How the host gave the guest too little CPU; empty when it did not."""
    told = [starved(case, *marks) for marks in _LOOKED_AT if case.marks.keys() >= set(marks)]
    told += [complaint.excuse for complaint in complaints]
    outcome = case.evidence.facts.get("outcome", {})
    if outcome.get("condition") == Condition.STARVED:
        told.append(str(outcome.get("detail")))
    return next((text.strip(" ()") for text in told if text), "")
