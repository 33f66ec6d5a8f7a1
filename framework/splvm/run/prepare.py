"""From names on a command line to an experiment that is ready: everything fetched, built and found in the store."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from splvm import __version__
from splvm.builds.hold import build_hold
from splvm.builds.image import build_additions, build_image, build_login, make_keys
from splvm.builds.kconfig import parse_config
from splvm.builds.kernels import Kernel, KernelSpec, fetch_kernel, find_kernel
from splvm.builds.module import build_module
from splvm.builds.own import OwnKernel, find_own_kernel, take_kernel
from splvm.builds.resolved import remember_kernel
from splvm.builds.source import BuiltKernel, build_kernel, find_built_kernel
from splvm.builds.spl import SplBuild, SplSource, build_spl, check_inputs, find_source
from splvm.builds.variants import find_variant
from splvm.builds.zfs import Zfs, build_zfs
from splvm.clock import Clock
from splvm.deadline import Deadline
from splvm.errors import UsageError
from splvm.evidence.formats.gfpprobe import Way
from splvm.evidence.formats.stormstatus import USUAL_OPS, ops_without_marks
from splvm.evidence.kerneltraits import KernelTraits
from splvm.evidence.verdict import Outcome
from splvm.guest.guestplan import GuestPlan, Start
from splvm.guest.machine import MOST_CLOSED_MIB, PREEMPT_WORD, MachineSpec
from splvm.guest.ssh import SshKeys
from splvm.host.archive import ReleaseFile
from splvm.host.capabilities import (
    Accelerator,
    QemuProgram,
    check_accelerator,
    check_programs,
    find_accelerator,
)
from splvm.host.debian import PrivateApt
from splvm.host.emulator import check_qemu_name, find_counting_emulator, find_emulator
from splvm.host.store import Store
from splvm.record.cellfacts import PACKAGED
from splvm.run.buildline import find_line
from splvm.run.coverage import Cover, prepare_cover
from splvm.run.expectations import growth_of, yardstick_of
from splvm.run.expected import Yardstick
from splvm.run.experiment import Dump, Experiment
from splvm.run.fits import check_fits
from splvm.run.loads import (
    CLOSED_LOADS,
    POOL_SETUP,
    Load,
    disk_facts,
    disks_mib,
    need_pool,
    pool_facts,
    slowdisk_words,
    with_disks,
    with_own,
    with_pool,
)
from splvm.run.measurement import kernel_traits
from splvm.run.scenarios import Scenario, Storm, Workload

# Seconds for all fetching and building; from nothing it takes about four minutes on two cores.
PREPARE_BUDGET_S = 3600.0


@dataclass(frozen=True, slots=True)
class Wish:
    """The names that the user gave: kernel, variant, source, patches and options of the guest."""

    # A row of `KERNELS`, `built:NAME[,SUITE]`, or `path:VMLINUZ,HEADERS[,SUITE]`.
    kernel: str = "debian-12"
    variant: str = "stock"
    # In one of the forms of `--spl`.
    spl: str = "debian"
    patches: tuple[Path, ...] = ()
    # `auto`, `kvm` or `tcg`.
    accelerator: str = "auto"
    ram_mib: int = 512
    # Fetch package lists anew, whatever their age.
    refresh: bool = False
    # Clone guests from templates.
    clones: bool = True
    # What the user calls the line of such builds; empty: what `find_line` finds.
    label: str = ""
    # `auto`, `host` or `suite:NAME`.
    qemu: str = "auto"
    clock: Clock = Clock.REAL
    # Virtual CPUs of the guest.
    cpus: int = 2
    # Say which lines of SPL are executed, of runs in virtual time.
    cover: bool = False
    # When the kernel preempts itself, a value of its `preempt=`; empty: as it was built.
    preempt: str = ""


@dataclass(frozen=True, slots=True)
class PreparedKernel:
    """A kernel, and the artefacts of its guest without SPL."""

    kernel: Kernel
    machine: MachineSpec
    keys: SshKeys
    qemu: QemuProgram
    accelerator: Accelerator
    # Whether guests may be clones.
    clones: bool
    # Where it came from, for what else is wanted of the same suite.
    store: Store
    apt: PrivateApt
    # The clock of its guests, and the QEMU of those in virtual time.
    clock: Clock
    counting: QemuProgram | None
    # The plugin by which templates of those are frozen.
    holder: Path | None

    @property
    def plan(self) -> GuestPlan:
        """A guest of it."""
        return GuestPlan(self.machine, self.keys)

    def traits(self, *, anew: bool = False) -> KernelTraits:
        """The measured traits of the kernel. The first call boots a guest for the measurement.

        :param anew: measure again.
        :raises HarnessError: when it cannot be measured.
        """
        deadline = Deadline(PREPARE_BUDGET_S)
        return kernel_traits(self.store, self.kernel, self.plan, deadline, anew=anew)

    def honours_flags(self) -> bool:
        """Whether its vmalloc allocates page tables with the GFP_NOIO that it was called with.

        :raises HarnessError: when it cannot be measured.
        """
        # An answer that is not known is not kept: kernel_traits() has raised.
        return self.traits().honours(Way.NOIO_FLAGS) is True


@dataclass(frozen=True, slots=True)
class Prepared(PreparedKernel):
    """The artefacts of a wish."""

    spl: SplBuild
    # The signed lists that versions were resolved from.
    releases: tuple[ReleaseFile, ...] = ()
    # That runs of this build belong to.
    line: str = PACKAGED
    # Whether its runs in virtual time say which lines of SPL are executed.
    cover: bool = False

    @property
    def plan(self) -> GuestPlan:
        """A guest of it, with SPL and the probe. A build of the user's own changes too often for a template."""
        start = Start.BOOT if not self.clones else Start.BASE if self.spl.is_own else Start.LOADED
        return GuestPlan(self.machine, self.keys, self.spl.modules, start=start)

    def facts(self) -> dict[str, Any]:
        """The part of run.json about these artefacts."""
        return {
            "splvm": __version__,
            "argv": sys.argv,
            "kernel": self.kernel.facts(),
            "spl": self.spl.facts(),
            "line": self.line,
            "archive": {
                release.name: {
                    "date": release.date.isoformat(),
                    "valid_until": release.valid_until.isoformat() if release.valid_until else None,
                    "expired": release.is_expired(datetime.now(UTC)),
                }
                for release in self.releases
            },
            "qemu": (self.counting or self.qemu).facts(),
            "accelerator": {"name": self.accelerator.name, "reason": self.accelerator.reason},
        }

    def expected(self, scenario: Scenario) -> frozenset[Outcome]:
        """Verdicts that count as expected; the kernel is measured if they depend on it and it never was.

        :raises HarnessError: when it cannot be measured.
        """
        return self.yardstick(scenario).outcomes

    def yardstick(self, scenario: Scenario) -> Yardstick:
        """The verdicts that a verdict is compared with; the kernel is measured as for `expected`.

        :raises HarnessError: when it cannot be measured.
        """
        return yardstick_of(scenario, self.spl.variant, self.honours_flags, own=self.spl.is_own)

    def experiment(
        self,
        scenario: Scenario,
        *,
        expected: frozenset[Outcome] | None = None,
        window_s: float | None = None,
        rate_hz: int = 20,
        workload: Workload | None = None,
        dump: Dump = Dump.NEVER,
        loads: tuple[Load, ...] = (),
        seed: int = 1,
        storm: Storm | None = None,
        watched: str = "",
    ) -> Experiment:
        """An experiment on it.

        :param expected: the expected verdicts; by default those of the packaged builds.
        :param window_s: by default the scenario's own.
        :param workload: by default the scenario's own, for this window.
        :param dump: when to keep a dump of the guest's memory.
        :param loads: loads beside the scenario.
        :param seed: seed of the random numbers of the loads.
        :param storm: by default the scenario's own.
        :param watched: module whose allocations are watched; empty: SPL's where there is a storm.
        :raises UsageError: when the scenario needs fault injection and the kernel lacks it, when a patch goes into no
            module of the guest, or when the workload does not fit into its memory.
        """
        if scenario.faults is not None:
            self._check_faults(scenario)
        window_s = scenario.window_s if window_s is None else window_s
        loads = with_own(scenario.load, loads)
        machine, setup, facts = self.machine, "", self.facts()
        machine = replace(
            machine,
            ram_mib=max(machine.ram_mib, scenario.least_mib),
            cpus=max(machine.cpus, scenario.least_cpus),
            append=(*machine.append, *scenario.words),
        )
        workload = workload or scenario.workload(window_s)
        check_fits(workload, machine.ram_mib)
        if self.clock is Clock.VIRTUAL:
            check_closed(scenario, loads, machine.ram_mib, dump)
        if need_pool(loads):
            zfs = self.zfs(Deadline(PREPARE_BUDGET_S))
            facts = facts | {"zfs": zfs.facts() | {"pool": pool_facts()}}
            machine, setup = with_pool(machine, zfs.archive), POOL_SETUP
        else:
            self.spl.check_patches(scenario.name)
        if expected is None:
            yardstick = self.yardstick(scenario)
            expected = yardstick.outcomes
            facts = facts | ({"packaged": yardstick.to_json()} if yardstick.is_own else {})
        facts = facts | {"growth": growth_of(scenario, self.spl.variant, self.honours_flags)}
        machine = with_disks(machine, loads)
        if self.clock is Clock.VIRTUAL:
            # Its modules and what it sets up are a part of its root.
            machine = self._closed(machine, setup, Deadline(PREPARE_BUDGET_S))
            plan = GuestPlan(machine, self.keys, start=Start.LOADED)
            facts = facts | ({"disks": disk_facts(machine)} if machine.disks else {})
        else:
            plan = replace(self.plan, machine=machine, setup=setup)
        return Experiment(
            scenario,
            plan,
            facts,
            expected,
            window_s,
            rate_hz,
            workload,
            dump,
            loads,
            seed,
            self._storm(storm or scenario.storm),
            watched or ("spl" if storm or scenario.storm else ""),
            cover=self._cover() if self.cover and self.clock is Clock.VIRTUAL else None,
        )

    def _cover(self) -> Cover:
        return prepare_cover(self.store, self.kernel.root, self.spl.modules[:1], Deadline(PREPARE_BUDGET_S))

    def _storm(self, storm: Storm | None) -> Storm | None:
        """The storm as asked for; of what it does by itself, what this build protects on this kernel."""
        if storm is None or storm.ops != USUAL_OPS or self.spl.variant.marked:
            return storm
        return replace(storm, ops=ops_without_marks(honours=self.honours_flags()))

    def _closed(self, machine: MachineSpec, setup: str, deadline: Deadline) -> MachineSpec:
        """The machine of a guest in virtual time: its root has the modules and no keys.

        :param setup: a command that its init runs when they are loaded.
        """
        assert self.counting is not None
        modules, values = self.spl.modules, {}
        if machine.disks:
            slowdisk = build_module(self.store, self.kernel.root, "slowdisk", deadline).path / "slowdisk.ko"
            modules = (slowdisk, *modules)
            values = {slowdisk.name: slowdisk_words(machine)}
        additions = build_additions(self.store, modules, deadline, values=values, setup=setup)
        image, _, *more = machine.initrds
        initrds = (image, additions.path / "additions.cpio", *more)
        return replace(
            machine,
            qemu=str(self.counting.path),
            initrds=initrds,
            accelerator="tcg",
            clock=Clock.VIRTUAL,
            holder=self.holder,
        )

    def zfs(self, deadline: Deadline) -> Zfs:
        """OpenZFS for a guest with a pool. The first build takes two minutes or more.

        :raises HarnessError: when OpenZFS cannot be built or fetched.
        """
        return build_zfs(self.store, self.apt, self.kernel, self.spl, deadline)

    def _check_faults(self, scenario: Scenario) -> None:
        config = parse_config((self.kernel.image.path / "config").read_text(errors="replace"))
        lacking = [f"CONFIG_{name}" for name in _FAULT_OPTIONS if config.get(name) != "y"]
        if lacking:
            raise UsageError(
                f"{scenario.name} makes allocations fail, and {self.kernel.spec.id} ({self.kernel.release}) lacks "
                f"{' and '.join(lacking)}",
                hint="use --kernel built:faults",
            )


def lacks_for_virtual_time(scenario: Scenario, loads: Sequence[Load], ram_mib: int, dump: Dump) -> list[str]:
    """What a run needs that would come from the host, that nobody has tried, or that is too large. Nothing if the run
    can be made in virtual time.

    :param loads: those of the run; the scenario's own are added if they are not among them.
    """
    loads = with_own(scenario.load, loads)
    mib = max(ram_mib, scenario.least_mib) + disks_mib(loads)
    lacking = [f"load {load.kind.name}" for load in loads if load.kind.name not in CLOSED_LOADS]
    lacking += ["fault injection"] if scenario.faults is not None else []
    lacking += ["a memory dump"] if dump is not Dump.NEVER else []
    lacking += [f"{mib} MiB of memory and disks (at most {MOST_CLOSED_MIB})"] if mib > MOST_CLOSED_MIB else []
    return lacking


def check_closed(scenario: Scenario, loads: Sequence[Load], ram_mib: int, dump: Dump) -> None:
    """:raises UsageError: when a run cannot be made in virtual time; with what it needs."""
    if lacking := lacks_for_virtual_time(scenario, loads, ram_mib, dump):
        raise UsageError(
            f"{scenario.name} cannot be run in virtual time yet: it needs {', '.join(lacking)}",
            hint="--clock real",
        )


# What a scenario with faults needs of a kernel.
_FAULT_OPTIONS = ("FAIL_PAGE_ALLOC", "FAULT_INJECTION_DEBUG_FS")


def find_any_kernel(name: str) -> KernelSpec | BuiltKernel | OwnKernel:
    """The kernel that the user's name stands for. Nothing is fetched or built.

    :raises UsageError: when the name is unknown; the message lists the kernels.
    """
    return find_own_kernel(name) or find_built_kernel(name) or find_kernel(name)


def spec_of(chosen: KernelSpec | BuiltKernel | OwnKernel) -> KernelSpec:
    """Its id and its suite."""
    return chosen if isinstance(chosen, KernelSpec) else chosen.spec


def _get_kernel(
    store: Store, apt: PrivateApt, chosen: KernelSpec | BuiltKernel | OwnKernel, deadline: Deadline
) -> Kernel:
    match chosen:
        case OwnKernel():
            return take_kernel(store, apt, chosen, deadline)
        case BuiltKernel():
            return build_kernel(store, apt, chosen, deadline)
        case KernelSpec():
            return fetch_kernel(store, apt, chosen, deadline)


def prepare(wish: Wish, store: Store | None = None, deadline: Deadline | None = None) -> Prepared:
    """Fetch and build the artefacts of a wish. Artefacts that are in the store already are used as they are.

    :raises UsageError: when a name in the wish does not exist.
    :raises SetupError: when something cannot be fetched or built.
    """
    # What is wrong with the wish is said before anything is fetched for it.
    chosen = find_any_kernel(wish.kernel)
    find_variant(wish.variant)
    own_tree = check_inputs(wish.spl, wish.patches)
    deadline = deadline or Deadline(PREPARE_BUDGET_S)
    base = prepare_kernel(wish, store, deadline)
    source = find_source(own_tree, base.store, base.apt, deadline)
    if not isinstance(chosen, OwnKernel):
        remember_kernel(base.store, base.kernel, source)
    return add_spl(base, source, wish, deadline)


def add_spl(base: PreparedKernel, source: SplSource, wish: Wish, deadline: Deadline) -> Prepared:
    """Build SPL for a kernel.

    :param wish: only its variant, patches and label count.
    :raises UsageError: when there is no such variant.
    :raises SetupError: when something cannot be built.
    """
    spl = build_spl(base.store, base.kernel.root, source, find_variant(wish.variant), wish.patches, deadline)
    releases = tuple(base.apt.releases())
    parts = {field.name: getattr(base, field.name) for field in fields(base)}
    line = find_line(source.name, wish.patches, wish.label)
    return Prepared(**parts, spl=spl, releases=releases, line=line, cover=wish.cover)


def prepare_kernel(wish: Wish, store: Store | None = None, deadline: Deadline | None = None) -> PreparedKernel:
    """Fetch a kernel and build its guest. Artefacts that are in the store already are used as they are.

    :param wish: its fields about SPL do not count.
    :raises UsageError: when there is no such kernel or accelerator.
    :raises SetupError: when something cannot be fetched or built.
    """
    chosen = find_any_kernel(wish.kernel)
    check_accelerator(wish.accelerator)
    check_qemu_name(wish.qemu)
    _check_clock(wish)
    check_programs()
    store = store or Store.default()
    deadline = deadline or Deadline(PREPARE_BUDGET_S)
    qemu = find_emulator(wish.qemu, store, deadline)
    apt = PrivateApt(store.root, spec_of(chosen).suite)
    apt.update(deadline, **({"max_age_s": 0} if wish.refresh else {}))
    kernel = _get_kernel(store, apt, chosen, deadline)
    keys = make_keys(store, kernel.root, deadline)
    image, login = build_image(store, kernel, deadline), build_login(store, keys, deadline)
    accelerator = find_accelerator(wish.accelerator, qemu, kernel.vmlinuz, store.root, deadline)
    counting, holder = None, None
    if wish.clock is Clock.VIRTUAL:
        holder = build_hold(store, kernel.root, deadline)
        counting = find_counting_emulator(wish.qemu, kernel.vmlinuz, holder, store, deadline)
        accelerator = Accelerator("tcg", "virtual time counts instructions")
    initrds = (image.path / "initrd.cpio", login.path / "login.cpio")
    machine = MachineSpec(
        *(str(qemu.path), kernel.vmlinuz, initrds, accelerator.name),
        ram_mib=wish.ram_mib,
        cpus=wish.cpus,
        append=_preempt_words(kernel, wish.preempt),
    )
    return PreparedKernel(
        kernel, machine, keys, qemu, accelerator, wish.clones, store, apt, wish.clock, counting, holder
    )


def _preempt_words(kernel: Kernel, preempt: str) -> tuple[str, ...]:
    """:raises UsageError: when the kernel cannot be told."""
    if not preempt:
        return ()
    config = parse_config((kernel.image.path / "config").read_text(errors="replace"))
    if config.get("PREEMPT_DYNAMIC") != "y":
        raise UsageError(
            f"--preempt {preempt}: {kernel.spec.id} ({kernel.release}) preempts as it was built, it lacks "
            "CONFIG_PREEMPT_DYNAMIC"
        )
    return (f"{PREEMPT_WORD}{preempt}",)


def _check_clock(wish: Wish) -> None:
    """:raises UsageError: when what is asked for besides does not go together with virtual time."""
    if wish.clock is Clock.VIRTUAL and wish.accelerator == "kvm":
        raise UsageError(
            "a guest under KVM has real time: its instructions cannot be counted",
            hint="--accel tcg, or --clock real",
        )
    if wish.clock is Clock.VIRTUAL and not wish.clones:
        raise UsageError(
            "guests in virtual time are clones: a boot ends when the host sees it", hint="leave --no-template"
        )
