"""A recorded run judged: by the rule that its run.json has, and by that of the table for its scenario.

A record that was made by hand, or by another version of splvm, may have a rule that asks for less. So of a scenario
that the table knows the worse of both verdicts counts; nobody gets a better one by a rule of his own. Of a scenario
that it does not know there is the record's own rule alone, and `check_rule()` sees to it that a good verdict has at
least what it rests on.

The same holds for the bound on the latency, which is no part of a rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from splvm import __version__
from splvm.builds.kernels import KERNELS
from splvm.builds.variants import VARIANTS
from splvm.errors import EvidenceError
from splvm.evidence.checks.case import is_number
from splvm.evidence.judge import check_rule, judge, verdict_on_damage
from splvm.evidence.rule import Rule, parse_rule
from splvm.evidence.timeline import Evidence
from splvm.evidence.verdict import Outcome, Reason, Verdict
from splvm.record.cellfacts import PACKAGED, differing, flatten_parameters
from splvm.record.reader import read_evidence
from splvm.run.experiment import own_parameters
from splvm.run.scenarios import LOAD_STEP
from splvm.scenarios.table import SCENARIOS
from splvm.treename import parse_tree_name


def judge_run(directory: Path) -> tuple[Evidence, Verdict]:
    """Read a run's directory and judge what is in it.

    :raises EvidenceError: when it cannot be read, or has no rule to be judged by.
    """
    evidence = read_evidence(directory)
    return evidence, judge_evidence(evidence)


def judge_evidence(evidence: Evidence) -> Verdict:
    """The verdict on a run that was read.

    :raises EvidenceError: when its rule is none, or it has no rule and its scenario is not known.
    """
    name = evidence.facts.get("scenario")
    ours = SCENARIOS[str(name)].rule if str(name) in SCENARIOS else None
    if ours is None and "rule" not in evidence.facts:
        known = ", ".join(SCENARIOS)
        raise EvidenceError(f"run.json: scenario {name!r} is not known, and it has no rule; known are {known}")
    if evidence.damage:
        return verdict_on_damage(evidence)
    own = _own_rule(evidence) if "rule" in evidence.facts else ours
    verdicts = [judge(evidence, rule) for rule in dict.fromkeys((ours, own)) if rule is not None]
    verdict = verdicts[0] if len(verdicts) == 1 else _worse(*verdicts)
    return _by_bound(evidence, _as_named(evidence, verdict))


def _own_rule(evidence: Evidence) -> Rule:
    rule = parse_rule(evidence.facts["rule"])
    try:
        check_rule(rule)
    except EvidenceError as error:
        raise EvidenceError(f"run.json: rule: {error.message}", hint=error.hint) from error
    return rule


def _worse(ours: Verdict, own: Verdict) -> Verdict:
    """The verdict that counts where a record's rule is another than the table's; between two good ones the table's."""
    order = list(Outcome)
    is_worse = not own.outcome.is_good and order.index(own.outcome) < order.index(ours.outcome)
    verdict, other = (own, ours) if is_worse else (ours, own)
    text = (
        "run.json has another rule for this scenario than this splvm; the worse verdict counts, "
        f"by the {'record' if is_worse else 'table'}'s: {other.outcome} by the other"
    )
    return replace(verdict, reasons=(*verdict.reasons, Reason(text)))


def _as_named(evidence: Evidence, verdict: Verdict) -> Verdict:
    """A verdict on a run that is not what its run.json calls it is no good one.

    A run has the phases of its scenario and no others. And what the scenario does not have by itself stands in
    `differs`, as long as a record is of this version: what a scenario has by itself may change with the version.
    """
    scenario = SCENARIOS.get(str(evidence.facts.get("scenario")))
    parameters, differs = (evidence.facts.get(name) for name in ("parameters", "differs"))
    if scenario is None or not verdict.outcome.is_good or not isinstance(parameters, Mapping):
        return verdict
    reasons = []
    window_s = parameters.get("window_s", scenario.window_s)
    phases = {name for step in (LOAD_STEP, *scenario.steps(window_s)) for name in (step.name, step.then) if name}
    if other := sorted(set(evidence.timeline.marks) - phases):
        reasons.append(Reason(f"the run has phases that {scenario.name} does not have: {', '.join(other)[:200]}"))
    reasons += [*_as_allocates(evidence), *_as_built(evidence), *_as_counted(evidence)]
    if evidence.facts.get("splvm") == __version__ and isinstance(differs, Mapping):
        own = own_parameters(scenario, window_s)
        if differs != (told := differing(flatten_parameters(parameters, None), own)):
            text = ", ".join(f"{name}={told[name]}" for name in told) or "nothing"
            reasons.append(
                Reason(f"run.json says that {dict(differs)} is not the scenario's own; that is {text}"[:400])
            )
    return replace(verdict, outcome=Outcome.INCONCLUSIVE, reasons=tuple(reasons)) if reasons else verdict


def _as_allocates(evidence: Evidence) -> Iterator[Reason]:
    """What run.json promises of how SPL allocates is what its variant promises: less would be asked of it."""
    spl, growth = evidence.facts.get("spl"), evidence.facts.get("growth")
    variant = VARIANTS.get(str(spl.get("variant"))) if isinstance(spl, Mapping) else None
    if variant is None or not isinstance(growth, Mapping):
        return
    marked = growth.get("marked")
    if marked is not variant.marked or (variant.marked and growth.get("noio") is not True):
        yield Reason(f"run.json says of how SPL allocates: {dict(growth)}; that is not so of {variant.name}"[:400])


def _as_built(evidence: Evidence) -> Iterator[Reason]:
    """A build is the distribution's if it has no patches and no source of the user's; `line_of` says the same."""
    spl, line = evidence.facts.get("spl"), evidence.facts.get("line")
    if not isinstance(spl, Mapping) or not isinstance(line, str):
        return
    source, patches = str(spl.get("source")), spl.get("patches")
    named = parse_tree_name(source)
    if (line == PACKAGED) != (not patches and named is not None and not named.is_own):
        told = f"{len(patches) if isinstance(patches, list) else 'no'} patches"
        yield Reason(f"run.json says that the line of the build is {line[:100]}, and its source {source[:100]}, {told}")


def _as_counted(evidence: Evidence) -> Iterator[Reason]:
    """A packaged kernel counts the CPU time of threads; one that was built from source may not."""
    kernel, tasks = evidence.facts.get("kernel"), evidence.timeline.tasks
    row = str(kernel.get("id")).partition("@")[0] if isinstance(kernel, Mapping) else ""
    times = {task.run_ns for sample in tasks for task in sample.value}
    if row in KERNELS and 0 in times and not any(times):
        yield Reason(f"the kernel of {row} counts CPU time, and nobody used any by the lists of tasks")


def _by_bound(evidence: Evidence, verdict: Verdict) -> Verdict:
    """A verdict by a bound that is weaker than the scenario's own, and that nobody has asked for, is no good one.

    What was asked for stands in `differs` of run.json.
    """
    scenario = SCENARIOS.get(str(evidence.facts.get("scenario")))
    parameters, differs = (evidence.facts.get(name) for name in ("parameters", "differs"))
    # Where it is missing, the check whether the record is consistent complains.
    bound_ms = parameters.get("latency_bound_ms") if isinstance(parameters, Mapping) else None
    if scenario is None or not is_number(bound_ms) or bound_ms <= scenario.latency_bound_ms:
        return verdict
    if isinstance(differs, Mapping) and differs.get("latency_bound_ms") == str(bound_ms):
        return verdict
    reason = Reason(
        f"run.json has a bound of {bound_ms:g} ms on the latency and does not say that it was asked for; "
        f"that of {scenario.name} is {scenario.latency_bound_ms} ms"
    )
    if verdict.outcome.is_good:
        return replace(verdict, outcome=Outcome.INCONCLUSIVE, reasons=(reason,))
    if verdict.outcome is Outcome.INCONCLUSIVE:
        return replace(verdict, reasons=(*verdict.reasons, reason))
    return replace(verdict, also=(*verdict.also, (Outcome.INCONCLUSIVE, reason)))
