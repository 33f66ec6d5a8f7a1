"""Kernels: which there are, and how one gets from the archive into the store.

A row of `KERNELS` names a suite and a metapackage; which version that is, is resolved anew from the archive's lists.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from debian.debian_support import Version

from splvm.builds.root import BuildRoot, build_root
from splvm.deadline import Deadline
from splvm.errors import SetupError, UsageError, did_you_mean
from splvm.host.archive import PackageGoneError, PackageVersion, parse_depends
from splvm.host.content import input_hash
from splvm.host.debian import PrivateApt
from splvm.host.process import run
from splvm.host.store import Artefact, Store
from splvm.log import note

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
    # As in `uname -r`: this one and no other; empty for the newest.
    release: str = ""


# What a name with a release after an @ may have there.
_RELEASE = re.compile(r"\d[\w.+~-]*")

KERNELS: Mapping[str, KernelSpec] = {
    spec.id: spec
    for spec in (
        KernelSpec(
            "debian-11",
            "bullseye",
            "linux-image-cloud-amd64",
            "5.10; before __vmalloc() was made to honour GFP flags (5.17)",
        ),
        KernelSpec(
            "debian-12",
            "bookworm",
            "linux-image-cloud-amd64",
            "6.1; the default",
        ),
        KernelSpec("debian-13", "trixie", "linux-image-cloud-amd64", "6.12"),
        KernelSpec(
            "debian-sid",
            "sid",
            "linux-image-cloud-amd64",
            "7.2; the newest, with lazy preemption",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel in the store, with the root that modules for it are built in."""

    spec: KernelSpec
    # As in `uname -r`.
    release: str
    # What it was unpacked from: the package of its image, then those it is split into. None for the user's own.
    packages: tuple[PackageVersion, ...]
    # Newer ones that could not be had, and why, one line each.
    passed_over: tuple[str, ...]
    image: Artefact
    root: BuildRoot
    # How it was configured; None for one that was not built here.
    built: Mapping[str, object] | None = None

    @property
    def version(self) -> str:
        """Of its packages, all of one source; empty if it is from none."""
        return self.packages[0].version if self.packages else ""

    @property
    def vmlinuz(self) -> Path:
        """The kernel itself."""
        return self.image.path / "vmlinuz"

    @property
    def modules(self) -> Path:
        """Directory with the kernel's modules and modules.dep."""
        return self.image.path / "lib" / "modules" / self.release

    def facts(self) -> dict[str, object]:
        """What run.json says of it."""
        return {
            "id": self.spec.id,
            "suite": self.spec.suite,
            "release": self.release,
            "package": f"{self.packages[0].package} {self.version}" if self.packages else self.spec.note,
            "sha256": hashlib.sha256(self.vmlinuz.read_bytes()).hexdigest(),
            "packages": {p.package: {"version": p.version, "sha256": p.sha256} for p in self.packages},
            "root": self.root.key,
            "built_with": self.root.versions(),
            "passed_over": list(self.passed_over),
            "built": self.built,
        }


def find_kernel(name: str) -> KernelSpec:
    """A row, or with `ID@RELEASE` one release of its suite.

    :raises UsageError: when there is none of that name; the message lists them.
    """
    row, at, release = name.partition("@")
    if row not in KERNELS or (at and not _RELEASE.fullmatch(release)):
        raise UsageError(
            f"there is no kernel {name!r}; there are: {', '.join(KERNELS)}",
            hint=did_you_mean(row, KERNELS)
            or "`ID@RELEASE` is one release (`splvm kernels --releases`), `built:NAME` builds one from source, "
            "`path:VMLINUZ,HEADERS` takes your own",
        )
    return replace(KERNELS[row], id=name, release=release) if at else KERNELS[row]


def list_releases(apt: PrivateApt, spec: KernelSpec) -> list[tuple[str, str]]:
    """Releases of a row that the lists have with their headers, the oldest first, and their packages' versions."""
    prefix, flavour = "linux-image-", spec.metapackage.removeprefix("linux-image")
    releases = [name.removeprefix(prefix) for name in apt.names(prefix) if name.endswith(flavour)]
    told = []
    # A metapackage names a series of kernels, not a release.
    for release in (each for each in releases if re.match(r"\d+\.\d+\.\d", each)):
        images = apt.candidates(f"{prefix}{release}")
        if images and apt.candidates(f"linux-headers-{release}"):
            told.append((release, images[0].version))
    return sorted(told, key=lambda row: Version(row[1]))


def fetch_kernel(store: Store, apt: PrivateApt, spec: KernelSpec, deadline: Deadline) -> Kernel:
    """The newest kernel of a row that can really be had, with its headers.

    A list may name packages that the mirror no longer has: then the next candidate is taken, and that is said.

    :raises SetupError: when none can be had.
    """
    passed_over: list[str] = []
    for image in find_image_packages(apt, spec):
        release = image.package.removeprefix("linux-image-")
        headers = f"linux-headers-{release}"
        try:
            if not apt.candidates(headers):
                raise PackageGoneError(f"{image.package} {image.version}: its headers are gone from the archive")
            packages = tuple(find_parts(apt, image, release))
            debs = [apt.download(part.package, part.version, deadline) for part in packages]
            root = build_root(store, apt, release, headers, deadline)
        except PackageGoneError as error:
            note(f"{error.message}; trying an older kernel")
            passed_over.append(error.message.splitlines()[0])
            continue
        return Kernel(spec, release, packages, tuple(passed_over), unpack_kernel(store, root, debs, deadline), root)
    raise SetupError(
        "\n".join([f"{spec.id}: no kernel of {spec.suite} can be had from the mirror", *passed_over]),
        hint="renew the package lists with `splvm build --refresh`, or name another mirror with SPLVM_MIRROR",
    )


def find_image_packages(apt: PrivateApt, spec: KernelSpec) -> Iterator[PackageVersion]:
    """Image packages, newest first."""
    if spec.release:
        yield from apt.candidates(f"linux-image-{spec.release}")
        return
    seen = set()
    for meta in apt.candidates(spec.metapackage):
        for dependency in apt.depends(meta.package, meta.version):
            if dependency.package.startswith("linux-image-") and dependency.package not in seen:
                seen.add(dependency.package)
                yield from apt.candidates(dependency.package)


def find_parts(apt: PrivateApt, image: PackageVersion, release: str) -> Iterator[PackageVersion]:
    """An image's package, and those that it is split into since 7.0 (linux-binary-, linux-modules-, linux-base-).

    :raises PackageGoneError: when the lists do not have a part in the image's own version.
    """
    yield image
    for dependency in parse_depends(image.depends):
        if dependency.package.endswith(f"-{release}"):
            yield apt.candidate(dependency.package, image.version)


def unpack_kernel(store: Store, root: BuildRoot, debs: Sequence[Path], deadline: Deadline) -> Artefact:
    """vmlinuz, its config and its modules with modules.dep, from the packages of one kernel.

    :raises SetupError: when one of them is not where kernel packages have had it so far.
    """

    def build(tree: Path) -> None:
        with store.temporary() as work:
            for deb in debs:
                run(["dpkg-deb", "-x", deb, work / "deb"], deadline=deadline, what=f"unpacking {deb.name}")
            # Packages of merged-usr suites have /usr/lib/modules, and since 7.0 the kernel itself is there too.
            top, names = work / "deb", ", ".join(deb.name for deb in debs)
            modules = _first(names, *(top / name / "modules" / root.release for name in ("lib", "usr/lib")))
            for name in ("vmlinuz", "config"):
                _first(names, top / "boot" / f"{name}-{root.release}", modules / name).rename(tree / name)
            (tree / "lib").mkdir()
            modules.parent.rename(tree / "lib" / "modules")
        # A package's modules.dep is made when it is installed.
        root.run(
            ["depmod", "-b", "/build", root.release],
            work=tree,
            deadline=deadline,
            what="depmod",
            log=store.root / "host" / "depmod.log",
        )

    more = {f"deb {number}": deb for number, deb in enumerate(debs) if number}
    key = input_hash({"recipe": RECIPE, "deb": debs[0], "root": root.key, **more})
    return store.get("kernel", key, build, deadline=deadline, what=f"kernel {root.release}")


def _first(packages: str, *places: Path) -> Path:
    """The first of several places that is there."""
    for path in places:
        if path.exists():
            return path
    raise SetupError(f"{packages}: there is no {places[0].name} in it")
