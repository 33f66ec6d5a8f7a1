"""Which QEMU runs a guest: the host's own, or that of a Debian suite, unpacked into the store and not installed.

Owns the artefacts of kind ``qemu`` and ``host/icount.json`` in the store. A guest in virtual time needs a QEMU that
gives each of two CPUs its share of counted instructions: "accel/tcg/tcg-accel-ops-rr: ensure fairness with icount"
(in QEMU 8.1); and one that takes a plugin (images/hold/hold.c). Whether a QEMU does is found out with such a guest, not
told by its version.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from splvm.deadline import Deadline
from splvm.errors import SetupError, UsageError
from splvm.host.capabilities import Check, QemuProgram, find_boot_trouble, find_qemu
from splvm.host.content import file_hash, input_hash
from splvm.host.debian import PrivateApt
from splvm.host.memo import Memo
from splvm.host.mirror import find_suite
from splvm.host.owner import boot_id
from splvm.host.process import run
from splvm.host.store import Store, hold_lock
from splvm.log import step

RECIPE = 1

# Where the QEMU for virtual time comes from if the host's will not do.
SUITE = "trixie"

# Instructions are time: 8 ns each. An idle guest leaps to its next timer. The buffer for translated code has a size: by
# default that depends on the host's memory.
ICOUNT_ARGS = ("-accel", "tcg,thread=single,tb-size=256", "-icount", "shift=3,sleep=off")

_PACKAGE = "qemu-system-x86"
_PROGRAM = "qemu-system-x86_64"
_LOADER = "ld-linux-x86-64.so.2"
_SUITE_PREFIX = "suite:"
# A kernel takes 3 s to its panic on an idle host; QEMU 7.2 stands still for ever.
_BOOT_S = 40.0


def check_qemu_name(wanted: str) -> None:
    """:raises UsageError: when `wanted` is none of `auto`, `host` and `suite:NAME`, or there is no such suite."""
    if wanted.startswith(_SUITE_PREFIX):
        find_suite(wanted.removeprefix(_SUITE_PREFIX))
    elif wanted not in ("auto", "host"):
        raise UsageError(f"no QEMU {wanted!r}; there are auto, host and {_SUITE_PREFIX}NAME with a suite of Debian")


def find_emulator(wanted: str, store: Store, deadline: Deadline) -> QemuProgram:
    """The QEMU for a guest in real time.

    :param wanted: `auto` or `host` for the host's own, or `suite:NAME`.
    :raises UsageError: when `wanted` is none of these.
    :raises SetupError: when it is missing, too old, or cannot be fetched.
    """
    check_qemu_name(wanted)
    if wanted.startswith(_SUITE_PREFIX):
        return fetch_qemu(wanted.removeprefix(_SUITE_PREFIX), store, deadline)
    return replace(find_qemu(store.root), reason="the host's own")


def find_told_emulator(told: Mapping[str, str], store: Store, deadline: Deadline) -> QemuProgram:
    """The QEMU that a plan of another machine names: what it says of a run is of that one.

    :param told: `QemuProgram.facts()` there.
    :raises SetupError: when this machine has another one, or cannot fetch it.
    """
    sha256, origin = str(told.get("sha256")), str(told.get("origin", "host"))
    numbers = tuple(map(int, re.findall(r"\d+", str(told.get("version")))))
    wanted = origin.partition(" ")[0]
    if wanted.startswith(_SUITE_PREFIX):
        for path in sorted((store.root / "qemu").glob(f"*/tree/{_PROGRAM}")):
            kept = store.kept("qemu", path.parents[1].name)
            if kept is not None and file_hash(kept.path / _PROGRAM) == sha256:
                return QemuProgram(kept.path / _PROGRAM, numbers, sha256, origin, "the plan names it")
    found = find_emulator(wanted, store, deadline)
    if found.sha256 != sha256:
        version = ".".join(map(str, found.version))
        raise SetupError(
            f"the run is planned with QEMU {told.get('version')} ({origin}), and this machine has another build: "
            f"{version} ({found.origin})",
            hint="bring both machines to the same packages",
        )
    return replace(found, reason="the plan names it")


def find_counting_emulator(
    wanted: str, kernel_image: Path, plugin: Path, store: Store, deadline: Deadline
) -> QemuProgram:
    """The QEMU for a guest in virtual time, which has booted two CPUs under icount.

    :param wanted: as for `find_emulator`; `auto` is the host's own if it will do, else that of `SUITE`.
    :param plugin: that it has to take.
    :raises UsageError: when `wanted` is none of these.
    :raises SetupError: when it cannot be had, or has not booted such a guest.
    """
    why = ""
    if wanted == "auto":
        try:
            host = find_emulator("host", store, deadline)
            why = find_icount_trouble(host, kernel_image, plugin, store, deadline)
            if not why:
                return replace(host, reason="the host's own has booted two CPUs under icount")
        except SetupError as error:
            why = error.message.splitlines()[0]
        wanted = f"{_SUITE_PREFIX}{SUITE}"
        why = f"the host's own will not do for virtual time: {why}"
    qemu = find_emulator(wanted, store, deadline)
    if trouble := find_icount_trouble(qemu, kernel_image, plugin, store, deadline):
        version = ".".join(map(str, qemu.version))
        raise SetupError(
            f"QEMU {version} ({qemu.origin}) cannot run a guest in virtual time: {trouble}",
            hint=f"--qemu {_SUITE_PREFIX}{SUITE}" if qemu.origin == "host" else None,
        )
    return replace(qemu, reason=why) if why else qemu


def find_icount_trouble(qemu: QemuProgram, kernel_image: Path, plugin: Path, store: Store, deadline: Deadline) -> str:
    """Why this QEMU cannot run a guest with two CPUs under icount; empty if one has booted.

    It is tried once in each boot of the host.

    :param kernel_image: the kernel of that guest.
    :param plugin: that watches it meanwhile.
    """
    memo = _trials(store.root)
    memo.path.parent.mkdir(exist_ok=True)

    def trial() -> str:
        with step(f"trying icount with QEMU {'.'.join(map(str, qemu.version))}"), store.temporary() as scratch:
            args = [*ICOUNT_ARGS, "-smp", "2", "-plugin", str(plugin).replace(",", ",,")]
            what = "trying icount"
            return find_boot_trouble(qemu, args, kernel_image, scratch, deadline, what=what, kernel_s=_BOOT_S) or ""

    with hold_lock(memo.path.with_suffix(".lock"), deadline, "trying icount"):
        return memo.answer(_trial_of(qemu), trial)


def check_virtual_time(root: Path) -> Check:
    """The line of `splvm doctor` about virtual time. Nothing is tried or fetched for it.

    :param root: directory of the store.
    """
    name = "virtual time"
    try:
        host = find_qemu(root if root.is_dir() else None)
    except SetupError as error:
        return Check(name, False, error.message, error.hint or "", required=False)
    trouble = _trials(root).known(_trial_of(host))
    if trouble is None:
        return Check(name, True, "which QEMU it needs is found out with the first guest", required=False)
    if not trouble:
        return Check(name, True, f"with the host's QEMU: {host.path} has booted two CPUs under icount", required=False)
    return Check(name, True, f"with the QEMU of {SUITE}: the host's will not do ({trouble})", required=False)


def _trials(root: Path) -> Memo:
    basis = input_hash({"recipe": RECIPE, "args": ICOUNT_ARGS, "boot": boot_id()})
    return Memo(root / "host" / "icount.json", basis)


def _trial_of(qemu: QemuProgram) -> str:
    return f"two CPUs and a plugin with {qemu.sha256}"


def fetch_qemu(suite: str, store: Store, deadline: Deadline) -> QemuProgram:
    """QEMU of a suite with its libraries and firmware. A version that was unpacked once stays in the store.

    :raises SetupError: when it cannot be fetched, or does not run.
    """
    apt = PrivateApt(store.root, suite)
    apt.update(deadline)
    packages = apt.closure(_PACKAGE)
    version = packages[_PACKAGE]

    def build(tree: Path) -> None:
        with store.temporary() as work:
            (work / "root").mkdir()
            for deb in apt.download_all(packages, work, deadline):
                run(["dpkg-deb", "-x", deb, work / "root"], deadline=deadline, what=f"unpacking {deb.name}")
            _take_qemu(work / "root", tree, packages, deadline)
        run([tree / _PROGRAM, "--version"], deadline=deadline.sub(60), what=f"QEMU {version} of {suite}")

    key = input_hash({"recipe": RECIPE, "packages": packages})
    kept = store.get("qemu", key, build, deadline=deadline, what=f"QEMU {version} of {suite}")
    numbers = re.search(r"(?:\d+:)?(\d+(?:\.\d+)*)", version)
    assert numbers is not None, version
    return QemuProgram(
        kept.path / _PROGRAM,
        tuple(map(int, numbers[1].split("."))),
        file_hash(kept.path / _PROGRAM),
        origin=f"{_SUITE_PREFIX}{suite} {version}",
        reason="asked for",
    )


def _take_qemu(root: Path, tree: Path, packages: Mapping[str, str], deadline: Deadline) -> None:
    """The program, what it loads, and the script that starts it.

    :param root: where its packages are unpacked.
    :param packages: version of each. The script names them all, so that its hash stands for the whole.
    """
    loader = _find(root, _LOADER)
    program = _find(root, _PROGRAM)
    modules = [path for path in root.rglob("accel-tcg-*.so") if path.parent.name == "qemu"]
    folders = dict.fromkeys(path.parent for path in sorted(root.rglob("*.so*")) if path.is_file())
    (tree / "lib").mkdir()
    for binary in (program, *modules):
        for library in _loaded(loader, [*folders], binary, deadline):
            shutil.copy2(library, tree / "lib" / library.name)
    shutil.copy2(loader, tree / "lib" / _LOADER)
    shutil.copy2(program, tree / "lib" / _PROGRAM)
    (tree / "modules").mkdir()
    for module in modules:
        shutil.copy2(module, tree / "modules")
    for name in ("qemu", "seabios"):
        _copy_firmware(root / "usr" / "share" / name, tree / name, root)
    script = tree / _PROGRAM
    script.write_text(_SCRIPT.format(packages="\n".join(f"#   {name} {packages[name]}" for name in sorted(packages))))
    script.chmod(0o755)


# Its libraries are found by their directory alone: a path of the build machine in them leads to the host's own.
_SCRIPT = f"""#!/bin/sh
# Starts QEMU with its own libraries, modules and firmware, all unpacked from these packages:
{{packages}}
here=$(dirname "$(readlink -f "$0")")
export QEMU_MODULE_DIR="$here/modules"
exec "$here/lib/{_LOADER}" --library-path "$here/lib" "$here/lib/{_PROGRAM}" -L "$here/qemu" -L "$here/seabios" "$@"
"""


def _find(root: Path, name: str) -> Path:
    found = next((path for path in sorted(root.rglob(name)) if path.is_file() and not path.is_symlink()), None)
    if found is None:
        raise SetupError(f"the packages of QEMU have no {name}")
    return found


def _loaded(loader: Path, folders: Sequence[Path], binary: Path, deadline: Deadline) -> list[Path]:
    """The libraries that a binary needs.

    :raises SetupError: when one of them is in none of the folders.
    """
    path = ":".join(map(str, folders))
    done = run([loader, "--library-path", path, "--list", binary], deadline=deadline.sub(60), what="libraries of QEMU")
    if lacking := re.findall(r"^\s*(\S+) => not found", done.stdout, re.MULTILINE):
        raise SetupError(f"the packages of QEMU lack {shlex.join(lacking)}")
    return [Path(found) for found in re.findall(r" => (/\S+) \(", done.stdout)]


def _copy_firmware(source: Path, target: Path, root: Path) -> None:
    """A directory with the files that its links lead to, as they are in `root`."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        inside = root / os.readlink(path).lstrip("/") if path.is_symlink() else path
        real = inside if inside.exists() else path
        if real.is_file():
            shutil.copy2(real, target / path.name)
