"""Bugs that SPL once had, put back into the source of today: each must be noticed, for the reason that its row gives.

The rows are those of `splvm history-bugs`, images/history/bugs.toml. Verdict and reason were written down before the
bug was first run.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from splvm.campaign.historybugs import USUAL_KERNEL, Answer, Bug, answer_of, history_table
from splvm.pytest_fixtures import RunResult

pytestmark = pytest.mark.splvm_vm

BUGS = tuple(bug for bug in history_table() if not bug.why_not)

# The default suite has one that shows marks and masks, one of taskqs and one of caches; the others are noticed by rules
# that unit tests look at.
SHORT = ("f90096c-io-allowed",)


@pytest.mark.parametrize(
    "bug", [pytest.param(it, id=it.name, marks=[pytest.mark.splvm_slow] * (it.name not in SHORT)) for it in BUGS]
)
def test_bug_is_noticed(run_scenario: Callable[..., RunResult], bug: Bug) -> None:
    build = {"variant": bug.variant, "patches": bug.patches(), "clock": bug.clock, "kernel": bug.kernel or USUAL_KERNEL}
    result = run_scenario(bug.scenario, window_s=bug.window_s, workload=bug.workload, **build)
    answer, reason = answer_of(bug, result.verdict)
    assert answer is Answer.NOTICED, f"{result.verdict.outcome}: {reason}\nevidence: {result.directory}"
