"""The command that lists where SPL allocates."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from splvm.builds.calls import find_calls
from splvm.campaign.places import Place, find_places, places_json, why_unreached
from splvm.cli.options import (
    AccelOption,
    ClockOption,
    DebugOption,
    JsonOption,
    KernelOption,
    LoadOption,
    MemoryOption,
    PatchOption,
    QemuOption,
    SeedOption,
    SplOption,
    TemplateOption,
    VariantOption,
    WindowOption,
    claim_directory,
    directory_id,
    make_console,
    make_wish,
    pick_seed,
    print_json,
)
from splvm.clock import ClockChoice
from splvm.deadline import Deadline
from splvm.errors import EvidenceError, UsageError
from splvm.evidence.formats.sites import SitesFile, parse_sites
from splvm.evidence.formats.stormstatus import Watch
from splvm.evidence.verdict import BAD, Outcome
from splvm.guest.guest import Guest
from splvm.log import step
from splvm.record.reader import read_evidence, read_facts
from splvm.report.summary import plain, verdict_line
from splvm.report.tables import listing
from splvm.run.experiment import run_until_fed
from splvm.run.loads import need_pool, parse_loads, with_own
from splvm.run.prepare import Prepared, Wish, prepare
from splvm.scenarios.table import SCENARIOS, find_scenario

STORM = "storm"
SITES_FILE = "sites.json"
# The list as the probe has it.
RAW_FILE = "sites.txt"

# Seconds of the host in which a list is read.
_READ_S = 30.0


class Scope(StrEnum):
    """Values of `--scope` and `--module`."""

    SPL = "spl"
    ZFS = "zfs"


# Verdicts of runs whose list of sites is not whole.
NOT_WHOLE = frozenset({Outcome.CRASHED, Outcome.LOST, Outcome.INCONCLUSIVE})

OutOption = Annotated[Path | None, typer.Option(help="Directory for the evidence.", metavar="DIR")]


def sites(
    scenario: Annotated[
        str, typer.Argument(help=f"Scenario that is run meanwhile: {', '.join(SCENARIOS)}.", metavar="[SCENARIO]")
    ] = STORM,
    module: Annotated[Scope, typer.Option(help="Module whose allocations are listed.")] = Scope.SPL,
    load: LoadOption = None,
    kernel: KernelOption = "debian-12",
    variant: VariantOption = "stock",
    spl: SplOption = "debian",
    spl_patch: PatchOption = None,
    debug: DebugOption = False,
    seed: SeedOption = None,
    memory: MemoryOption = 512,
    accel: AccelOption = "auto",
    qemu: QemuOption = "auto",
    clock: ClockOption = ClockChoice.AUTO,
    template: TemplateOption = True,
    window: WindowOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """List where SPL allocates: each chain of calls, with its masks, threads and sizes.

    Nothing is reclaimed. Direct calls of the allocator that the run never reached are named too, by the module's
    relocations. The exit status is 1 if the run ended badly or did not come to its end, or if allocations were missed:
    then nobody knows what was never reached.
    """
    chosen = find_scenario(scenario)
    loads = parse_loads(load or ())
    if module is Scope.ZFS and not need_pool(with_own(chosen.load, loads)):
        raise UsageError("--module zfs: a guest without a pool has no zfs.ko", hint="--load zfs gives it a pool")
    wish = make_wish(
        *(kernel, variant, spl, spl_patch, accel),
        ram_mib=memory,
        clones=template,
        debug=debug,
        qemu=qemu,
        clock=clock.clock,
    )
    base = claim_directory(out, f"sites-{scenario}-{directory_id(kernel)}-{variant}")
    prepared = prepare_told(wish)
    experiment = prepared.experiment(
        chosen,
        # `judge` of the record ends as this command does.
        expected=frozenset(Outcome) - NOT_WHOLE - BAD,
        window_s=window,
        loads=loads,
        seed=pick_seed(seed, 1),
        # The storm's transactions without its reclaim.
        storm=replace(chosen.storm, rate=0) if chosen.storm else None,
        watched=module,
    )
    # Of zfs.ko nobody has the relocations at hand.
    calls = find_calls(prepared.spl.modules[0]) if module is Scope.SPL else ()
    texts: list[str] = []
    verdict, directory = run_until_fed(experiment, base, on_phase=_reading_sites(texts))[-1]
    timeline = read_evidence(directory).timeline
    if texts:
        # Whole, however long it is; the agent takes 64 KiB of it.
        (directory / RAW_FILE).write_text(texts[-1])
        file = parse_sites(texts[-1])
    elif timeline.sites:
        file = timeline.sites[-1].value
    else:
        raise EvidenceError(f"{directory}: nobody watched the allocator: {verdict.outcome} {verdict.reasons[0].text}")
    places = find_places([file], calls)
    watch = timeline.probe[-1].value.watch if timeline.probe else None
    content = {
        "schema_version": 1,
        "verdict": verdict.outcome,
        "reason": verdict.reasons[0].text,
        # Whether what was not seen was not reached.
        "whole": (is_whole := is_whole_list(verdict.outcome, file, watch)),
        "module": module,
        "kernel": read_facts(directory)["kernel"]["release"],
        "directory": str(directory),
        "hooks": [{"name": it.name, "blind": it.is_blind} for it in file.hooks],
        "lost": watch.lost if watch else None,
        "counts_locks": bool(watch and watch.preempt_count),
        "places": places_json(places, file),
    }
    (directory / SITES_FILE).write_text(json.dumps(content, indent=1) + "\n")
    if as_json:
        print_json(content)
    else:
        _show_sites(places, file, is_whole=is_whole)
        blind = [it.name for it in file.hooks if it.is_blind]
        typer.echo(f"blind: {', '.join(blind) if blind else 'no function of the allocator'}; lost: {content['lost']}")
        typer.echo(f"evidence: {directory}")
        typer.echo(verdict_line(verdict, read_facts(directory)))
    if not is_whole or verdict.outcome in BAD:
        raise typer.Exit(1)


def is_whole_list(outcome: Outcome, file: SitesFile, watch: Watch | None) -> bool:
    """Whether a list of sites has all that a run came by: the run came to its end, and nobody was blind meanwhile."""
    is_blind = watch is None or watch.lost > 0 or watch.blind > 0 or any(hook.is_blind for hook in file.hooks)
    return not is_blind and outcome not in NOT_WHOLE


def _reading_sites(texts: list[str]) -> Callable[[Guest, str], None]:
    """What reads the list of sites when a run comes to its end; in virtual time nobody is let in, and nothing is read.

    :param texts: gets the text.
    """

    def on_phase(guest: Guest, phase: str) -> None:
        if phase == "end":
            texts.append(guest.ssh.run("cat /proc/slabprobe_sites", deadline=Deadline(_READ_S)).stdout)

    return on_phase


def _show_sites(places: Sequence[Place], file: SitesFile, *, is_whole: bool) -> None:
    rows = [
        (
            place.name,
            site.thread,
            site.calls,
            f"{site.asked:#x}",
            f"{site.effective:#x}",
            file.may_enter(site),
            "NOIO" if site.noio else "NOFS" if site.nofs else "-",
            f"{site.least}-{site.most}" if site.most != site.least else site.most,
            site.preempt,
            " < ".join(site.chain[:-1]),
        )
        for place in places
        for site in sorted(place.sites, key=lambda site: -site.calls)
    ]
    columns = ("place", "thread", "calls", "asked", "effective", "may enter", "mark", "bytes", "preempt", "chain")
    make_console().print(listing(columns, rows))
    missing = [place for place in places if not place.sites]
    direct = sum(place.call is not None and place.call.is_direct for place in places)
    typer.echo(f"{len(rows)} sites at {len(places) - len(missing)} places; {direct} direct calls of the allocator")
    said = "never reached" if is_whole else "not seen"
    for place in missing:
        typer.echo(plain(f"{said}: {place.name} ({why_unreached(place, places)})"))


def prepare_told(wish: Wish) -> Prepared:
    """What a wish needs, with a line that says so."""
    with step(f"preparing {wish.kernel}, {wish.variant}"):
        return prepare(wish)
