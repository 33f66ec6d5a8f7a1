"""The records that lie in a campaign's directory, whatever its list says of them.

Whoever can write a list can leave something out of it, and a kill can come between a run's end and its row. So a
campaign that goes on looks at each record below its directory. One of its runs that has ended counts, in the list or
not. One that it cannot place is never overwritten if it says something bad: then nothing is started.
"""

from __future__ import annotations

from pathlib import Path

from splvm.errors import HarnessError
from splvm.evidence.verdict import Verdict
from splvm.record.names import RUN_FILE, VERDICT_FILE
from splvm.record.reader import read_damage, read_facts
from splvm.scenarios.judged import judge_run


def records_below(out: Path) -> list[Path]:
    """The directories of all runs in that of a campaign, at any depth, sorted."""
    # The latter does not go through links.
    return sorted({each.parent for how in ("*/", "*/*/", "**/") for each in out.glob(f"{how}{RUN_FILE}")})


def ended_verdict(directory: Path) -> Verdict | None:
    """The verdict on a run that came to its end; None of one that was interrupted, or whose record is not whole."""
    try:
        facts = read_facts(directory)
        if "scenario" not in facts or read_damage(directory, facts):
            return None
        verdict = judge_run(directory)[1]
    except (HarnessError, OSError):
        return None
    # One that was interrupted says nothing, and got no verdict.
    return verdict if not verdict.outcome.says_nothing or (directory / VERDICT_FILE).exists() else None
