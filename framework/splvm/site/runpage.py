"""The page of one run: what the history has of it, and what its directory shows if that is still there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splvm.errors import EvidenceError
from splvm.evidence.timeline import Evidence
from splvm.evidence.verdict import Verdict
from splvm.history.rows import identity
from splvm.history.schema import RunRow
from splvm.record.cellfacts import PACKAGED
from splvm.record.names import VERDICT_FILE
from splvm.scenarios.judged import judge_evidence
from splvm.site import plots, series
from splvm.site.artefacts import Budget, Copies, copy_files
from splvm.site.kernellog import LEAST_CHARS, MOST_CHARS, KernelLog, excerpt_log
from splvm.site.looks import printable
from splvm.site.waitdraw import Drawing, draw

ReadEvidence = Callable[[Path], Evidence]


@dataclass(frozen=True, slots=True)
class Shown:
    """What the directory of a run shows."""

    verdict: Verdict
    plot: str | None
    latency: str | None
    phases: tuple[tuple[str, float, float], ...]
    drawing: Drawing | None
    log: KernelLog | None
    copies: Copies
    losses: tuple[str, ...]


def show_run(run: RunRow, read: ReadEvidence, target: Path, budget: Budget) -> Shown | str:
    """Read the directory of a run; or say why there is nothing to be shown.

    :param read: reads the evidence of a directory.
    :param target: where copies of its files go.
    :param budget: of the site; copies take from it, and the log is as long as it allows.
    """
    if not run.directory:
        return "The history names no directory of it."
    directory = Path(run.directory)
    if not directory.is_dir():
        return f"Its directory is gone: {printable(run.directory)}"
    try:
        evidence = read(directory)
        if identity(evidence.facts, evidence.damage) != run.id:
            return f"Another run is in its directory now: {printable(run.directory)}"
        verdict = judge_evidence(evidence)
        # Anybody may have changed the one beside the record; nothing shows that.
        anew = json.dumps(verdict.to_json(), indent=2).encode()
        copies = copy_files(directory, target, budget, {VERDICT_FILE: anew})
    except (EvidenceError, OSError) as error:
        return f"Its directory cannot be read: {printable(str(error), 500)}"
    timeline = evidence.timeline
    worker = verdict.figures.get("worker", {}).get("pid")
    panels, states, phases = series.panels(timeline), series.states(timeline, worker), series.phases(timeline)
    latency = verdict.figures.get("latency", {})
    log = excerpt_log(evidence.console, _room(budget)) if evidence.console else None
    return Shown(
        verdict=verdict,
        plot=plots.plot_run(panels, states, phases) if panels or states else None,
        latency=plots.plot_latency(latency) if latency else None,
        phases=tuple(phases),
        drawing=draw(verdict.wait_for),
        log=log,
        copies=copies,
        losses=tuple(printable(loss) for loss in (*evidence.damage, *timeline.losses)[:20]),
    )


def _room(budget: Budget) -> int:
    """Characters of the log: not more than half of what is left, so that the next run has some too."""
    return max(LEAST_CHARS, min(MOST_CHARS, budget.left // 2))


def facts_of(run: RunRow) -> Iterator[tuple[str, str]]:
    """What was run on what, as the history has it."""
    rows: Mapping[str, Any] = {
        "started": f"{run.started:%Y-%m-%d %H:%M:%S} UTC",
        "duration": f"{run.duration_s:.1f} s" if run.duration_s is not None else "",
        "scenario": run.scenario,
        "loads": run.loads,
        "kernel": f"{run.kernel} ({run.release})" if run.release else run.kernel,
        "SPL": f"{run.spl_version}, from {run.spl_source}" if run.spl_source else run.spl_version,
        "tree": run.tree,
        "commit": run.revision,
        "variant": run.variant,
        "line": "" if run.line == PACKAGED else run.line,
        "parameters": run.parameters,
        "source and patches": run.content,
        "patches": ", ".join(run.patches),
        **{f"module {name}": digest for name, digest in sorted(run.modules.items())},
        "accelerator": run.accelerator,
        "QEMU": run.qemu,
        "host": run.host,
        "batch": run.batch,
        "fingerprint": run.fingerprint,
        "digest": run.digest,
        "starved": run.starved,
        "directory": run.directory,
        "id": run.id,
    }
    return ((name, printable(value)) for name, value in rows.items() if value)
