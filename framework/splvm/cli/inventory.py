"""Commands that list and prepare: this host, kernels, variants, builds."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from splvm.assets import find_images
from splvm.builds.kernels import KERNELS, list_releases
from splvm.builds.resolved import known_kernels
from splvm.builds.revisions import ask_git
from splvm.builds.symbols import fetch_symbols
from splvm.builds.variants import VARIANTS
from splvm.cli.options import (
    AccelOption,
    DebugOption,
    JsonOption,
    KernelOption,
    PatchOption,
    RefreshOption,
    SplOption,
    VariantOption,
    make_console,
    make_wish,
    print_json,
)
from splvm.deadline import Deadline
from splvm.errors import SetupError
from splvm.evidence.expectation import Expectation
from splvm.guest.template import Templates
from splvm.host.capabilities import HostReport, inspect_host
from splvm.host.debian import PrivateApt
from splvm.host.emulator import check_virtual_time
from splvm.host.store import Store
from splvm.log import step
from splvm.report.summary import plain
from splvm.report.tables import listing
from splvm.report.traittable import describe_masks, traits_table
from splvm.run.prepare import PREPARE_BUDGET_S, Wish, prepare, prepare_kernel
from splvm.scenarios.table import EXPECTED


def own_commit() -> str:
    """The commit of a checkout of splvm, as ` (1a2b3c4d5e6f, edited)`; empty where splvm is installed or git is not."""
    checkout = find_images().parent
    if not (checkout / ".git").exists() or shutil.which("git") is None:
        return ""
    commit = ask_git(checkout, "rev-parse", "--short=12", "HEAD").stdout.strip()
    edited = ask_git(checkout, "diff", "--quiet", "--no-ext-diff", "--no-textconv", "HEAD").exit_code
    return f" ({commit}{', edited' if edited else ''})" if commit else ""


def doctor(as_json: JsonOption = False) -> None:
    """Check whether this host can run guests, and name what it lacks."""
    report = inspect_host()
    report = HostReport((*report.checks, check_virtual_time(Store.default_root())))
    if as_json:
        print_json({"schema_version": 1, "ok": report.ok, "checks": [asdict(check) for check in report.checks]})
    else:
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for check in report.checks:
            mark = Text("ok", "green") if check.ok else Text("no", "red" if check.required else "yellow")
            table.add_row(mark, check.name, Text(check.detail if check.ok else f"{check.detail}; {check.hint}"))
        make_console().print(table)
    if not report.ok:
        raise SetupError("this host lacks something that every run needs", hint="see the lines marked `no`")


def build(
    kernel: KernelOption = "debian-12",
    variant: VariantOption = "stock",
    spl: SplOption = "debian",
    spl_patch: PatchOption = None,
    debug: DebugOption = False,
    accel: AccelOption = "auto",
    refresh: RefreshOption = False,
    template: Annotated[bool, typer.Option("--template", help="Also make the template of guests.")] = False,
    symbols: Annotated[
        bool, typer.Option("--symbols", help="Also fetch the kernel's debug symbols for memory dumps (some 280 MiB).")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch and build everything that a run needs, and print where it is."""
    prepared = prepare(make_wish(kernel, variant, spl, spl_patch, accel, refresh=refresh, debug=debug))
    frozen = None
    if template:
        frozen = Templates.default().get(prepared.plan, Deadline(PREPARE_BUDGET_S))
    if symbols:
        fetch_symbols(prepared.store, prepared.apt, prepared.kernel, Deadline(PREPARE_BUDGET_S))
    if as_json:
        print_json(
            {
                "schema_version": 1,
                **prepared.facts(),
                "store": str(prepared.store.root),
                "template": frozen and str(frozen.directory),
            }
        )
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    package = next((f"{p.package} {p.version}" for p in prepared.kernel.packages), prepared.kernel.spec.note)
    table.add_row("kernel", f"{prepared.kernel.release} ({package})")
    table.add_row(
        "SPL", f"{prepared.spl.source.version} {prepared.spl.variant.name}, source {prepared.spl.source.name}"
    )
    for module in prepared.spl.modules:
        table.add_row("module", str(module))
    table.add_row("initramfs", str(prepared.machine.initrds[0]))
    if frozen is not None:
        table.add_row("template", str(frozen.directory))
    table.add_row("accelerator", f"{prepared.accelerator.name}: {prepared.accelerator.reason}")
    make_console().print(table)


def probe_kernel(
    kernel: KernelOption = "debian-12",
    accel: AccelOption = "auto",
    refresh: Annotated[bool, typer.Option("--refresh", help="Fetch new package lists, and measure again.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure in a guest whether __vmalloc() of a kernel honours GFP_NOFS and GFP_NOIO for its page tables."""
    with step(f"preparing {kernel}"):
        prepared = prepare_kernel(Wish(kernel=kernel, accelerator=accel, refresh=refresh))
    traits = prepared.traits(anew=refresh)
    if as_json:
        print_json({"schema_version": 1, "kernel": prepared.kernel.facts(), **traits.to_json()})
        return
    make_console().print(traits_table(traits))
    typer.echo(plain(describe_masks(traits)))
    typer.echo(plain(traits.sentence))


def kernels(
    releases: Annotated[
        bool, typer.Option("--releases", help="List the available releases of each suite, as ID@RELEASE.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the kernels: what each kernel is, its last resolved version, and its measured behaviour.

    This uses no network and boots nothing. A use of a kernel resolves its version, at most once a day. --releases reads
    the package lists, and fetches lists that are older than a day.
    """
    if releases:
        _show_releases(as_json=as_json)
        return
    known = known_kernels(Store.default())
    if as_json:
        print_json({"schema_version": 1, "kernels": [kernel.to_json() for kernel in known]})
        return
    rows = []
    for kernel in known:
        last = kernel.resolved
        cells = (last.release, last.spl or "-", last.time[:10]) if last else ("when first used", "-", "-")
        here = "yes" if kernel.stored else "no"
        rows.append((kernel.spec.id, kernel.spec.suite, *cells, here, _HONOURED[kernel.honours], kernel.spec.note))
    # Whether GFP_NOIO is honoured for the page tables of __vmalloc().
    columns = ("id", "suite", "release", "SPL", "resolved", "stored", "NOIO", "what it is")
    make_console().print(listing(columns, rows))


def _show_releases(*, as_json: bool) -> None:
    store, rows = Store.default(), []
    for spec in KERNELS.values():
        apt = PrivateApt(store.root, spec.suite)
        with step(f"package lists of {spec.suite}"):
            apt.update(Deadline(_LISTS_S))
            rows += [(f"{spec.id}@{release}", version) for release, version in list_releases(apt, spec)]
    if as_json:
        told = [{"id": name, "version": version} for name, version in rows]
        print_json({"schema_version": 1, "releases": told})
    else:
        make_console().print(listing(("id", "version"), rows))


# Seconds for the package lists of a suite.
_LISTS_S = 300.0

# What `kernels` says of a measurement.
_HONOURED = {True: "honoured", False: "ignored", None: "not measured"}


def variants(as_json: JsonOption = False) -> None:
    """List the variants of SPL: what each variant is, its purpose, and its expected verdicts with their reasons."""
    cells = EXPECTED.items()
    if as_json:
        expected = [{"scenario": scenario, "variant": name, **cell.to_json()} for (scenario, name), cell in cells]
        print_json({"schema_version": 1, "variants": [v.to_json() for v in VARIANTS.values()], "expected": expected})
        return
    summaries = [(v.name, v.summary, v.control_for) for v in VARIANTS.values()]
    make_console().print(listing(("variant", "what it is", "control for"), summaries, prose=2))
    make_console().print()
    expectations = [(scenario, name, _wanted(cell), cell.why) for (scenario, name), cell in cells]
    make_console().print(listing(("scenario", "variant", "expected", "why"), expectations))


def _wanted(cell: Expectation) -> str:
    return f"{cell.ignoring} where NOIO is ignored, else {cell.outcome}" if cell.ignoring else cell.outcome.value
