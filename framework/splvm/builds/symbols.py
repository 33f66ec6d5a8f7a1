"""The kernel's debug symbols, from Debian's package of them.

That package is ten times as large as the kernel's own, and one file of it is all that is wanted. So it is only fetched
when somebody asks for it, and not kept.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from splvm.builds.kernels import Kernel
from splvm.deadline import Deadline
from splvm.errors import BuildError, SetupError
from splvm.host.archive import PackageGoneError, PackageVersion
from splvm.host.content import input_hash
from splvm.host.debian import PrivateApt
from splvm.host.process import run
from splvm.host.store import Store
from splvm.log import note

RECIPE = 1

_KIND = "symbols"
_NAME = "vmlinux"

# How much room it takes on the way: the package, vmlinux as it comes (2.1 times the package's size) and as it stays
# (1.1 times), for 6.1.
_ROOM = 4.5


def kept_symbols(store: Store, release: str, version: str) -> Path | None:
    """vmlinux with its debug symbols if it was fetched before, else None.

    :param release: as in `uname -r`.
    :param version: of the kernel's package.
    """
    artefact = store.kept(_KIND, _key(release, version))
    return artefact.path / _NAME if artefact else None


def fetch_symbols(store: Store, apt: PrivateApt, kernel: Kernel, deadline: Deadline) -> Path:
    """vmlinux of a kernel with its debug symbols; fetched the first time, and its size said before that.

    :raises SetupError: when it was built here, when the archive has none for it, or there is no room for them.
    """
    if kernel.built is not None:
        raise SetupError(f"{kernel.spec.id} was built without debug information, so there are no symbols of it")
    package = f"linux-image-{kernel.release}-dbg"

    def build(tree: Path) -> None:
        candidate = _candidate(apt, package, kernel)
        _announce(store, candidate)
        deb = apt.download(package, candidate.version, deadline)
        try:
            with store.temporary() as work:
                _unpack(deb, kernel, work, deadline)
                _shrink(store, kernel, work, deadline)
                (work / _NAME).rename(tree / _NAME)
        finally:
            # Nothing else is wanted of it, and it is larger than all the rest of the store.
            deb.unlink(missing_ok=True)

    what = f"debug symbols of {kernel.release}"
    return store.get(_KIND, _key(kernel.release, kernel.version), build, deadline=deadline, what=what).path / _NAME


def _key(release: str, version: str) -> str:
    # Not the file's hash: what is kept is found without the archive's lists too. drgn compares build ids.
    return input_hash({"recipe": RECIPE, "release": release, "version": version})


def _candidate(apt: PrivateApt, package: str, kernel: Kernel) -> PackageVersion:
    """The package of just the kernel's own version: symbols of another are of no use."""
    found = apt.candidates(package)
    for candidate in found:
        if candidate.version == kernel.version:
            return candidate
    versions = ", ".join(candidate.version for candidate in found) or "no version at all"
    raise PackageGoneError(
        f"{apt.suite.name} has no {package} {kernel.version}; its lists have {versions}",
        hint="`splvm build --refresh` renews the package lists and takes the newest kernel, which has its symbols",
    )


def _announce(store: Store, candidate: PackageVersion) -> None:
    free, room = shutil.disk_usage(store.root).free, int(_ROOM * candidate.size)
    if free < room:
        raise SetupError(
            f"{candidate.package}: unpacking it takes {room >> 20} MiB, and {free >> 20} MiB are free in {store.root}",
            hint="make room, or point SPLVM_CACHE to another disk",
        )
    kept = int(1.1 * candidate.size) >> 20
    note(f"{candidate.package}: {candidate.size >> 20} MiB to download, once; {kept} MiB stay in the store")


def _unpack(deb: Path, kernel: Kernel, work: Path, deadline: Deadline) -> None:
    """Take the one file out of the package; the others, three times its size, never reach the disk.

    tar stops reading when it has it, so what becomes of dpkg-deb does not matter. apt has checked the package's hash.
    """
    member = f"./usr/lib/debug/boot/vmlinux-{kernel.release}"
    script = 'dpkg-deb --fsys-tarfile "$1" 2>/dev/null | tar -x --occurrence=1 --to-stdout "$2" >vmlinux'
    run(
        ["sh", "-c", script, "sh", deb.absolute(), member],
        cwd=work,
        deadline=deadline,
        what=f"unpacking {deb.name}",
        error=BuildError,
    )


def _shrink(store: Store, kernel: Kernel, work: Path, deadline: Deadline) -> None:
    """Leave out how the debug information would be relocated, which is half of the file: a kernel is linked already."""
    log = store.root / "logs" / f"symbols-{kernel.release}.log"
    log.parent.mkdir(exist_ok=True)
    argv = ["objcopy", "--remove-relocations=.debug_*", _NAME]
    kernel.root.run(argv, work=work, deadline=deadline, what=f"symbols of {kernel.release}", log=log)
