"""Kernels: which there are, and how one gets from the archive into the store.

A row of `KERNELS` names a suite and a metapackage; which version that is, is resolved anew from the archive's lists.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from framework.build.root import BuildRoot, build_root
from framework.deadline import Deadline
from framework.errors import SetupError, UsageError
from framework.host.debian import Candidate, PackageGoneError, PrivateApt
from framework.host.process import run
from framework.host.store import Artefact, Store, input_hash
from framework.log import note

RECIPE = 1


@dataclass(frozen=True, slots=True)
class KernelSpec:
    """A kernel that can be asked for."""

    id: str
    # Debian suite it and its SPL come from.
    suite: str
    # Metapackage that depends on the image of the day.
    metapackage: str
    # One line for people.
    note: str


KERNELS: Mapping[str, KernelSpec] = {
    spec.id: spec
    for spec in (
        KernelSpec(
            "debian-11",
            "bullseye",
            "linux-image-cloud-amd64",
            "5.10; __vmalloc() ignores the caller's GFP flags for page tables",
        ),
        KernelSpec(
            "debian-12",
            "bookworm",
            "linux-image-cloud-amd64",
            # Linux kernel commit 451769ebb7e7 ("mm/vmalloc: alloc GFP_NO{FS,IO} for vmalloc") (in v5.17)
            "6.1; __vmalloc() honours GFP_NOFS and GFP_NOIO for page tables",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel in the store, with the root that modules for it are built in."""

    spec: KernelSpec
    # As in `uname -r`.
    release: str
    # Package of the image, and its version.
    package: str
    version: str
    image: Artefact
    root: BuildRoot

    @property
    def vmlinuz(self) -> Path:
        """The kernel itself."""
        return self.image.path / "vmlinuz"

    @property
    def modules(self) -> Path:
        """Directory with the kernel's modules and modules.dep."""
        return self.image.path / "lib" / "modules" / self.release

    def facts(self) -> dict[str, str]:
        """What run.json says of it."""
        digest = hashlib.sha256(self.vmlinuz.read_bytes()).hexdigest()
        return {
            "id": self.spec.id,
            "release": self.release,
            "package": f"{self.package} {self.version}",
            "sha256": digest,
        }


def find_kernel(name: str) -> KernelSpec:
    """:raises UsageError: when there is none of that name; the message lists them."""
    try:
        return KERNELS[name]
    except KeyError:
        raise UsageError(f"there is no kernel {name!r}; there are: {', '.join(KERNELS)}") from None


def fetch_kernel(store: Store, apt: PrivateApt, spec: KernelSpec, deadline: Deadline) -> Kernel:
    """The newest kernel of a row that can really be had, with its headers.

    A list may name packages that the mirror no longer has: then the next candidate is taken, and that is said.

    :raises SetupError: when none can be had.
    """
    for image in _images(apt, spec):
        release = image.package.removeprefix("linux-image-")
        headers = f"linux-headers-{release}"
        if not apt.candidates(headers):
            note(f"{image.package}: its headers are gone from the archive; trying an older kernel")
            continue
        try:
            deb = apt.download(image.package, image.version, deadline)
        except PackageGoneError as error:
            note(f"{error.message}; trying an older kernel")
            continue
        root = build_root(store, apt, release, headers, deadline)
        return Kernel(spec, release, image.package, image.version, _unpack(store, root, deb, deadline), root)
    raise SetupError(
        f"{spec.id}: no kernel of {spec.suite} can be had from the mirror",
        hint="renew the package lists with `splvm build --refresh`",
    )


def _images(apt: PrivateApt, spec: KernelSpec) -> Iterator[Candidate]:
    """Image packages, newest first."""
    seen = set()
    for meta in apt.candidates(spec.metapackage):
        for dependency in apt.depends(meta.package, meta.version):
            if dependency.package.startswith("linux-image-") and dependency.package not in seen:
                seen.add(dependency.package)
                yield from apt.candidates(dependency.package)


def _unpack(store: Store, root: BuildRoot, deb: Path, deadline: Deadline) -> Artefact:
    def build(tree: Path) -> None:
        with store.temporary() as work:
            what = f"unpacking {deb.name}"
            run(["dpkg-deb", "-x", deb, work / "deb"], deadline=deadline, what=what)
            # Packages of merged-usr suites have /usr/lib/modules.
            modules = next(p for p in (work / "deb" / "lib", work / "deb" / "usr" / "lib") if (p / "modules").is_dir())
            (tree / "lib").mkdir()
            (modules / "modules").rename(tree / "lib" / "modules")
            (work / "deb" / "boot" / f"vmlinuz-{root.release}").rename(tree / "vmlinuz")
            (work / "deb" / "boot" / f"config-{root.release}").rename(tree / "config")
        # A package's modules.dep is made when it is installed.
        root.run(
            ["depmod", "-b", "/build", root.release],
            work=tree,
            deadline=deadline,
            what="depmod",
            log=store.root / "host" / "depmod.log",
        )

    key = input_hash({"recipe": RECIPE, "deb": deb, "root": root.artefact.key})
    return store.get("kernel", key, build, deadline=deadline, what=f"kernel {root.release}")
