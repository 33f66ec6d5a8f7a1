"""Commands that read records and slab files. They boot nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from splvm.builds.variants import VARIANTS
from splvm.cli.inputs import SILENCE_S, open_input
from splvm.cli.options import (
    JsonOption,
    make_console,
    print_json,
    summary_of,
)
from splvm.cli.replay import pack_for_replay
from splvm.deadline import Deadline
from splvm.dump.postmortem import describe_dump, examine_run
from splvm.errors import DeadlineExceeded, EvidenceError, UsageError
from splvm.evidence.checks.letin import misplaced
from splvm.evidence.timeline import Evidence
from splvm.evidence.verdict import Outcome, Verdict
from splvm.evidence.waiting.waitgraph import build_graph
from splvm.host.store import Store
from splvm.log import note
from splvm.paste.slabs import SORTS, never, parse_slabs, series
from splvm.plainfile import MIB, describe_size
from splvm.record.digest import came_at_once, decided_otherwise, first_difference, is_virtual
from splvm.record.names import SAMPLES_FILE
from splvm.record.reader import iterate_records, read_evidence
from splvm.report.bundle import write_bundle
from splvm.report.summary import plain, verdict_line
from splvm.report.tables import change_table, slab_table
from splvm.run.pack import SUFFIX as PACK_SUFFIX
from splvm.run.prepare import PREPARE_BUDGET_S
from splvm.scenarios.judged import judge_run
from splvm.scenarios.table import SCENARIOS

# A slab file has some 100 rows; somebody's report may have it several times.
_MOST_SLAB_BYTES = 4 * MIB
# For how long a named pipe may say nothing; a shell's `<(...)` has somebody who writes to it.
_PIPE_S = 3.0
_SHELLS = ("-", "/dev/fd/", "/proc/self/fd/")


def judge(
    directory: Annotated[Path, typer.Argument(help="Directory of a run.", metavar="DIR")],
    same_as: Annotated[
        Path | None,
        typer.Option(
            help="Another run of the same seed in virtual time: name the first frame in which the two differ.",
            metavar="DIR",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Judge a recorded run again, from its files alone.

    The exit status is 0 for the expected verdict, and 1 for another verdict, a record that cannot be read, or a record
    that differs from that of --same-as.
    """
    evidence, verdict = judge_run(directory)
    if same_as is not None:
        _compare(evidence, verdict, directory, same_as)
    facts = evidence.facts
    expected = verdict.outcome in facts.get("expected", ())
    if as_json:
        print_json(verdict.to_json())
    else:
        make_console().print(summary_of(verdict, facts, directory))
        typer.echo(verdict_line(verdict, facts))
    if not expected:
        raise typer.Exit(1)


def _compare(evidence: Evidence, verdict: Verdict, directory: Path, same_as: Path) -> None:
    """Say whether two runs are the same run.

    :raises UsageError: when they cannot be.
    :raises EvidenceError: when they have to be, and are not; or when a record says nothing.
    """
    other, of_other = judge_run(same_as)
    if not is_virtual(evidence.facts) or not is_virtual(other.facts):
        raise UsageError(f"--same-as {same_as}: only runs in virtual time have a digest", hint="run --clock virtual")
    if otherwise := decided_otherwise(evidence.facts, other.facts):
        raise UsageError(f"--same-as {same_as}: these are two runs: {', '.join(otherwise)} differ")
    for path, each in ((directory, verdict), (same_as, of_other)):
        if each.outcome is Outcome.INCONCLUSIVE:
            raise EvidenceError(f"{path} cannot be compared: {each.outcome}: {plain(each.reasons[0].text)}")
    for path, record in ((directory, evidence), (same_as, other)):
        if wrong := next(misplaced(record), None):
            raise EvidenceError(f"{path} cannot be compared: {plain(wrong.text)}")
    if (token := evidence.facts.get("token")) and token == other.facts.get("token"):
        raise EvidenceError(f"{directory} and {same_as} are one run, and not two")
    if came_at_once(*(iterate_records(path / SAMPLES_FILE) for path in (directory, same_as))):
        raise EvidenceError(f"{directory} and {same_as} came to the host at the same moments: one run, and not two")
    if verdict.digest == of_other.digest:
        note(f"one digest: {verdict.digest}")
        return
    frames = (iterate_records(path / SAMPLES_FILE) for path in (directory, same_as))
    where = plain(first_difference(*frames) or "the frames are the same, and the consoles differ")
    raise EvidenceError(
        f"{directory} and {same_as} are runs of one seed, and differ: {where}",
        hint="a digest that differs is a bug of splvm: keep both directories, and report it",
    )


def bundle(
    directory: Annotated[Path, typer.Argument(help="Directory of a run.", metavar="DIR")],
    out: Annotated[
        Path | None, typer.Option(help="The archive; by default DIR.tar.gz beside DIR.", metavar="FILE.tar.gz")
    ] = None,
    with_dump: Annotated[bool, typer.Option("--with-dump", help="Pack the dump of the guest's memory too.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
    replay: Annotated[
        bool,
        typer.Option(
            "--replay",
            help="Pack a run in virtual time with QEMU, kernel, root, modules and probe instead, for `replay`.",
        ),
    ] = False,
    as_comment: Annotated[
        bool, typer.Option("--comment", help="Print a comment on the run, at most 40 lines of Markdown.")
    ] = False,
    link: Annotated[
        str, typer.Option(help="The comment's link to the archive; by default its name and SHA-256.", metavar="URL")
    ] = "",
) -> None:
    """Pack a run for a bug report: one archive, and the text of an issue in the form that OpenZFS asks for."""
    if link and (not as_comment or not re.fullmatch(r"https?://[!-~]{1,500}", link)):
        raise UsageError(f"--link {link}: it is a URL for --comment", hint="for example --comment --link https://...")
    if replay:
        _pack(directory, out, force=force, other=with_dump or as_comment)
        return
    evidence = read_evidence(directory)
    scenario, variant = SCENARIOS.get(str(evidence.facts.get("scenario"))), None
    if isinstance(spl := evidence.facts.get("spl"), dict):
        variant = VARIANTS.get(str(spl.get("variant")))
    made = write_bundle(
        directory,
        evidence,
        out,
        with_dump=with_dump,
        force=force,
        scenario_summary=scenario.summary if scenario else "",
        variant_summary=variant.summary if variant else "",
        link=link,
    )
    note("run.json, qemu.log and harness.log name paths and programs of this host: read them before you publish")
    say = note if as_comment else typer.echo
    say(plain(f"archive: {made.archive} ({made.size_bytes} bytes)"))
    say(plain(f"issue: {made.issue}"))
    if as_comment:
        typer.echo(made.comment, nl=False)


def _pack(directory: Path, out: Path | None, *, force: bool, other: bool) -> None:
    if other:
        raise UsageError("--replay packs a run for `replay`: --with-dump and --comment are for a bug report")
    name = directory.name or directory.resolve().name
    archive = out if out is not None else directory.with_name(f"{name}{PACK_SUFFIX}")
    if not archive.name.endswith(PACK_SUFFIX):
        raise UsageError(f"--out {archive}: the name of a packed run has to end in {PACK_SUFFIX}")
    if archive.exists() and not force:
        raise UsageError(f"{archive} is there already", hint="--force overwrites it")
    size = pack_for_replay(directory, archive)
    typer.echo(plain(f"archive: {archive} ({size} bytes); `splvm replay --trust {archive.name}` runs it again"))


def examine(
    directory: Annotated[Path, typer.Argument(help="Directory of a run.", metavar="DIR")],
    as_json: JsonOption = False,
) -> None:
    """Read the memory dump of a run: SPL's caches, who waits on them, the stacks of blocked tasks, and the cycle.

    It needs the kernel's debug symbols (`splvm build --symbols`), and no help from the guest.
    """
    report = examine_run(directory, Store.default(), Deadline(PREPARE_BUDGET_S))
    graph = build_graph(report.for_graph())
    if as_json:
        print_json({**report.to_json(), "wait_for": graph.to_json()})
        return
    for line in (*describe_dump(report), graph.sentence):
        typer.echo(plain(line))


def parse_slab(
    file: Annotated[str, typer.Argument(help="A copy of /proc/spl/kmem/slab, a pipe, or - for stdin.", metavar="FILE")],
    as_json: JsonOption = False,
    sort: Annotated[str, typer.Option(help=f"Sort the caches by a column: {', '.join(SORTS)}.", metavar="COLUMN")] = "",
) -> None:
    """Read a slab file, also a pasted copy, with one reading or several.

    The exit status is 1 if the file cannot be read, or if it contradicts itself.
    """
    if sort and sort not in SORTS:
        raise UsageError(f"--sort {sort}: no such column; there are {', '.join(SORTS)}")
    silence_s = SILENCE_S if file.startswith(_SHELLS) else _PIPE_S
    try:
        with open_input(file, silence_s) as stream:
            data = stream.read(_MOST_SLAB_BYTES + 1)
    except TimeoutError as error:
        raise DeadlineExceeded(f"reading {file}", silence_s) from error
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from error
    if len(data) > _MOST_SLAB_BYTES:
        raise UsageError(f"{file} is larger than {describe_size(_MOST_SLAB_BYTES)}")
    try:
        readings = parse_slabs(data.decode(errors="replace"))
    except EvidenceError as error:
        raise EvidenceError(f"{file}: {error.message}", line=error.line) from error
    if as_json:
        several = {"schema_version": 1, "readings": [it.to_json() for it in readings]}
        print_json(readings[0].slab.to_json() if len(readings) == 1 else several)
    else:
        console = make_console()
        for reading in readings:
            console.print(slab_table(reading.slab, sort))
        for one, two in series(readings):
            console.print(change_table(one, two))
    against = [it for reading in readings for it in reading.contradictions]
    against += [it for one, two in series(readings) for it in never(one.slab, two.slab)]
    for sentence in against:
        note(f"contradiction: {plain(sentence)}")
    if against:
        raise typer.Exit(1)
