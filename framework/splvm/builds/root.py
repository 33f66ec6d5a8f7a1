"""The build root: a Debian root of the kernel's own suite, so that the compiler is the one the kernel was built with.

Also what the guest's image is cut from. Owns how it is made and how a command is run in it, and in the store
``status.json`` beside its tree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from splvm.deadline import Deadline
from splvm.errors import BuildError, SetupError
from splvm.host.confine import (
    Place,
    confine_args,
    find_making_trouble,
    find_trouble,
    make_args,
    start_many_ids,
    warn_once,
)
from splvm.host.content import input_hash
from splvm.host.debian import PrivateApt
from splvm.host.manifest import Verify
from splvm.host.memo import Memo, stamps
from splvm.host.owner import boot_id
from splvm.host.process import Completed, as_root_args, run
from splvm.host.store import Artefact, Store, keep_room
from splvm.host.turns import take_turn

# Change when what is made changes although no input does.
RECIPE = 1

# Compiler and make for the modules, and a cache of what was compiled; full perl, without which the configure of
# bullseye's ZFS fails with a misleading "global page state interfaces"; the autotools for a git checkout, which has no
# configure; the rest for the image.
PACKAGES = (
    "autoconf",
    "automake",
    "busybox-static",
    "ccache",
    "dropbear-bin",
    "gcc",
    "kmod",
    "libc6-dev",
    "libtool",
    "make",
    "perl",
)

# What headers of a distribution depend on and the user's own cannot: libelf (libelf1 has another name in trixie) for
# objtool, pahole for a kernel with type information for BPF.
OWN_PACKAGES = ("dwarves", "libelf-dev")

# What a kernel is built with beside those: its parsers, its own calculator, and hashes in its tools.
KERNEL_PACKAGES = ("bc", "bison", "flex", "libelf-dev", "libssl-dev", "xz-utils")

# Where the user's own headers are, inside: there in every root, and without them empty.
OWN_HEADERS = "/usr/src"

# For a root that has to be made anew although only its versions were asked for.
_INSPECT_S = 1800.0

# Seconds that a command waits for a run that has to be alone; such a run takes less than one minute.
TURN_S = 120.0

# Nothing in a build root is read by people.
_EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*")


@dataclass(frozen=True, slots=True)
class BuildRoot:
    """A root with compiler and kernel headers."""

    artefact: Artefact
    # Release of the kernel whose headers are in it, as in `uname -r`.
    release: str
    # Changes with everything that goes into modules.
    key: str
    # The user's own headers, which are put into it for as long as a command runs; None if it has them itself.
    own_headers: Path | None = None
    # Looks through its files, once, and makes it anew if they are not what they were. To be called before any is used:
    # it takes half a second, and most runs build nothing.
    inspect: Callable[[Deadline], None] = lambda deadline: None
    # Directory of ccache, bounded by enter.sh. None if nothing is to be kept.
    ccache: Path | None = None

    @property
    def headers(self) -> str:
        """Where the kernel's build directory is, inside."""
        return OWN_HEADERS if self.own_headers else f"/lib/modules/{self.release}/build"

    @property
    def source(self) -> str:
        """Where the kernel's source is, as far as modules need it, inside."""
        return OWN_HEADERS if self.own_headers else f"/lib/modules/{self.release}/source"

    def versions(self) -> dict[str, str]:
        """Packages that a module built in it depends on, with their versions: compiler, linker, make, headers."""
        status = self.artefact.path / "var" / "lib" / "dpkg" / "status"

        def ask() -> str:
            self.inspect(Deadline(_INSPECT_S))
            return status.read_text(errors="replace")

        # As the store does, nothing that was seen before a power cut is believed.
        basis = input_hash({"status": stamps([status]), "boot": boot_id()})
        return parse_tools(Memo(self.artefact.path.with_name("status.json"), basis).answer("status", ask))

    def files(self, deadline: Deadline) -> Path:
        """Where its files are, after a look through them."""
        self.inspect(deadline)
        return self.artefact.path

    def run(
        self,
        argv: list[str],
        *,
        work: Path,
        deadline: Deadline,
        what: str,
        log: Path,
        hint: str | None = None,
        watch: Callable[[bytes], None] | None = None,
        cached: bool = False,
    ) -> Completed:
        """Run a command inside, confined (see confine.py), without a network, with `work` as its /build.

        :param cached: compile through ccache. Its answer is a matter of the preprocessed source, the compiler and its
            options, so it changes nothing but the time. It takes a third of configure's time and most of that of
            modules where a tree differs a little from one that was built before.

        It takes a share of the host, so that a run which has to be alone is. Nothing else is waited for meanwhile.

        :raises BuildError: when it fails, with its last lines and the log's path.
        """
        self.inspect(deadline)
        place = Place(self.artefact.path, work, self.own_headers, self._open_ccache() if cached else None)
        inside = confine_args(place, argv)
        with take_turn(Store.default_root() / "locks", alone=False, deadline=deadline.sub(TURN_S)):
            return run(
                inside,
                deadline=deadline,
                what=what,
                log=log,
                error=BuildError,
                hint=hint,
                watch=watch,
                guard=keep_room(work, what),
            )

    def apart(self) -> BuildRoot:
        """The same for code of the user's: nothing that it puts into ccache is found by a build of Debian's source."""
        return replace(self, ccache=self.ccache and self.ccache.with_name(f"{self.ccache.name}-own"))

    def _open_ccache(self) -> Path | None:
        """Its directory; None if there is none. Outside a user namespace files have other owners than inside."""
        if self.ccache is None:
            return None
        path = self.ccache.with_name(f"{self.ccache.name}-unconfined") if find_trouble() else self.ccache
        path.mkdir(parents=True, exist_ok=True)
        return path


def parse_tools(status: str) -> dict[str, str]:
    """The tools in a dpkg status file, and the kernel's headers.

    :param status: paragraphs with Package and Version, among others.
    """
    tools = re.compile(r"binutils|gcc(?:-\d+)?|make|linux-(?:headers|kbuild)-\S+")
    found = {}
    for paragraph in status.split("\n\n"):
        fields = dict(re.findall(r"(?m)^(Package|Version): (\S+)$", paragraph))
        if tools.fullmatch(fields.get("Package", "")) and "Version" in fields:
            found[fields["Package"]] = fields["Version"]
    return found


def build_root(
    store: Store,
    apt: PrivateApt,
    release: str,
    headers: str | Path | None,
    deadline: Deadline,
    inputs: str = "",
    *,
    more: Sequence[str] = OWN_PACKAGES,
) -> BuildRoot:
    """The build root for one kernel.

    :param release: of the kernel, as in `uname -r`.
    :param headers: package with its headers, or a directory of them; None for a root to build a kernel in.
    :param inputs: hash of what is in that directory.
    :param more: packages beside `PACKAGES`, where the headers are of no package.
    :raises PackageGoneError: when the mirror does not have the headers although its lists may.
    :raises SetupError: when mmdebstrap fails.
    """
    own = headers if isinstance(headers, Path) else None
    packages = sorted((*PACKAGES, *((headers,) if isinstance(headers, str) else more)))
    key = input_hash({"recipe": RECIPE, "suite": apt.suite.name, "packages": packages, "excluded": _EXCLUDED})

    what = f"build root of {apt.suite.name}" + (f" with {headers}" if isinstance(headers, str) else "")
    sound = False

    def get(verify: Verify, deadline: Deadline) -> Artefact:
        def build(tree: Path) -> None:
            _make(tree, apt, headers, packages, deadline)

        return store.get("build-root", key, build, deadline=deadline, what=what, verify=verify)

    def inspect(deadline: Deadline) -> None:
        nonlocal sound
        if not sound:
            get("quick", deadline)
            sound = True

    artefact = get("named", deadline)
    # ccache of another suite may have another format.
    ccache = store.root / "ccache" / apt.suite.name
    return BuildRoot(artefact, release, f"{artefact.key}{inputs}", own, inspect, ccache)


def _make(tree: Path, apt: PrivateApt, headers: str | Path | None, packages: Sequence[str], deadline: Deadline) -> None:
    # mmdebstrap fetches them again. This is to find out whether they can be had, while there is a choice.
    if isinstance(headers, str):
        common = (d.package for d in apt.depends(headers) if d.package.startswith("linux-headers-"))
        for name in (headers, *common):
            apt.download(name, apt.candidate(name).version, deadline)
    argv = [
        *("mmdebstrap", "--variant=apt", "--mode=root", "--format=tar", "--quiet"),
        f"--include={','.join(packages)}",
        *(f"--aptopt={line}" for line in apt.acquire_options()),
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED),
        # A root that a power cut leaves half-written is never renamed into the store.
        "--dpkgopt=force-unsafe-io",
        '--customize-hook=mkdir "$1/build"',
        *(apt.suite.name, "-", "-"),
    ]
    what = f"build root of {apt.suite.name}"
    archive = tree.with_name("root.tar")
    try:
        with ExitStack() as stack:
            if trouble := find_making_trouble():
                warn_once(f"a build root is made as root, or by sudo: {trouble}")
                # Scratch, where what a killed one leaves is found.
                argv = [*as_root_args(), "env", f"TMPDIR={tree.parent}", *argv]
            else:
                argv = make_args(stack.enter_context(start_many_ids()), argv)
            run(
                # The archive is opened by the caller: whoever makes the root may not write here.
                ["sh", "-c", 'exec "$@" >"$0"', str(archive), *argv],
                deadline=deadline,
                what=what,
                input=apt.sources_list(),
                error=SetupError,
                guard=keep_room(tree, what),
                hint="`splvm doctor` checks the host; an old package list is renewed with `splvm build --refresh`",
            )
        # All of it belongs to the caller, who can remove it then. No program needs a device of it, or to be another.
        unpack = "umask 022; exec tar -x --no-same-owner --no-same-permissions --exclude='./dev/*'"
        run(["sh", "-c", f'{unpack} -C "$0" -f "$1"', str(tree), str(archive)], deadline=deadline, what=what)
    finally:
        archive.unlink(missing_ok=True)
