"""Kernels built from source: `built:NAME[,SUITE]`, the suite's linux-source with fragments of kernel-config/.

Owns the table `BUILT`, what such a name means, and how the kernel and what modules are built with are made. How
fragments become one configuration is in kconfig.py. Whatever else is wanted of such a kernel is that of the user's own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from splvm.assets import find_kernel_config
from splvm.builds.kconfig import (
    Dropped,
    Option,
    check_dropped,
    find_dropped,
    format_config,
    merge_fragments,
    parse_config,
)
from splvm.builds.kernels import KERNELS, Kernel, KernelSpec
from splvm.builds.module import fresh_log
from splvm.builds.own import OwnKernel, take_kernel
from splvm.builds.root import KERNEL_PACKAGES, BuildRoot, build_root
from splvm.deadline import Deadline
from splvm.errors import SetupError, UsageError
from splvm.host.archive import PackageGoneError, PackageVersion
from splvm.host.content import input_hash
from splvm.host.debian import PrivateApt
from splvm.host.mirror import find_suite
from splvm.host.process import run
from splvm.host.store import Artefact, Store
from splvm.log import note, step

# Change when what is made changes although no input does.
RECIPE = 1

FORM = "built:NAME[,SUITE]"
# That of debian-12.
DEFAULT_SUITE = "bookworm"
_META = "linux-source"

# Seconds to compile one, and lines that make says meanwhile: some 1700 for 6.1, whatever the fragments.
_COMPILE_S = 3000.0
_STEPS = 1700

# Of the source, what no configuration here compiles; Kconfig files of all of it are read.
_LEFT_OUT = ("*/Documentation/devicetree", "*/drivers/gpu/drm/amd/include", "*/tools/testing", "*.dts", "*.rst")

# Same inputs, same kernel: it would name who built it, where and when.
_BUILT_BY = ("KBUILD_BUILD_USER=splvm", "KBUILD_BUILD_HOST=splvm", "KBUILD_BUILD_TIMESTAMP=1970-01-01T00:00:00Z")

# What a module is built with, of a tree that was built in place: Makefiles, headers, tools, symbols.
_TREES = ("include", "scripts", "arch/x86/include")
_FILES = ("Makefile", "Module.symvers", ".config", "arch/x86/Makefile", "tools/objtool/objtool")
_NO_HEADERS = shutil.ignore_patterns("*.o", "*.cmd", "dt-bindings")


@dataclass(frozen=True, slots=True)
class BuiltSpec:
    """A kernel that can be built."""

    name: str
    # Files of kernel-config/, without `.config`.
    fragments: tuple[str, ...]
    # One line for people.
    summary: str


_PLAIN = ("guest", "tracing", "hang")

BUILT: Mapping[str, BuiltSpec] = {
    row.name: row
    for row in (
        BuiltSpec("plain", _PLAIN, "what a guest and the probe need, and nothing else"),
        BuiltSpec("lockdep", (*_PLAIN, "lockdep"), "reports locks that are taken in a wrong order or place"),
        BuiltSpec("faults", (*_PLAIN, "faults"), "fails allocations on demand"),
        BuiltSpec("kasan", (*_PLAIN, "kasan"), "reports accesses to memory that is free or out of bounds"),
    )
}


@dataclass(frozen=True, slots=True)
class BuiltKernel:
    """A row, and the suite whose source it is built from."""

    row: BuiltSpec
    spec: KernelSpec


def find_built_kernel(name: str) -> BuiltKernel | None:
    """What a name stands for, None for a name of another form. Nothing is fetched or built.

    :raises UsageError: when there is no such row or suite; the message lists them.
    """
    kind, colon, rest = name.partition(":")
    if kind != "built" or not colon:
        return None
    words = rest.split(",")
    if len(words) not in (1, 2) or not all(words):
        raise UsageError(f"--kernel {name}: the form is {FORM}")
    if words[0] not in BUILT:
        raise UsageError(f"--kernel {name}: there is no {words[0]!r} to build; there are: {', '.join(BUILT)}")
    return make_built_kernel(BUILT[words[0]], find_suite(words[1] if len(words) == 2 else DEFAULT_SUITE).name)


def make_built_kernel(row: BuiltSpec, suite: str = DEFAULT_SUITE) -> BuiltKernel:
    """A row for one suite."""
    name = f"built:{row.name}" + ("" if suite == DEFAULT_SUITE else f",{suite}")
    # The source is the one that the suite's own kernel is built from.
    packaged = next(spec for spec in KERNELS.values() if spec.suite == suite)
    return BuiltKernel(row, replace(packaged, id=name, metapackage=_META, note=row.summary))


def read_fragments(row: BuiltSpec) -> dict[str, str]:
    """Text of the row's fragments, by name of the file."""
    directory = find_kernel_config()
    return {f"{name}.config": (directory / f"{name}.config").read_text(encoding="utf-8") for name in row.fragments}


def build_kernel(store: Store, apt: PrivateApt, built: BuiltKernel, deadline: Deadline) -> Kernel:
    """The kernel of a row, from the newest source of its suite that can be had.

    :raises BuildError: when fragments contradict each other, when the source does not take an option that has to be
        there, or when it does not compile.
    :raises SetupError: when no source can be had.
    """
    fragments = read_fragments(built.row)
    options = merge_fragments(fragments)
    passed_over: list[str] = []
    for candidate in find_source_packages(apt):
        try:
            deb = apt.download(candidate.package, candidate.version, deadline)
        except PackageGoneError as error:
            note(f"{error.message}; trying an older one")
            passed_over.append(error.message.splitlines()[0])
            continue
        made = _build(store, apt, built, candidate, deb, options, deadline)
        dropped = check_dropped(find_dropped(options, _read_config(made.path)), built.spec.id)
        release = (made.path / "headers" / "include" / "config" / "kernel.release").read_text().strip()
        own = OwnKernel(
            built.spec, release, made.path / "vmlinuz", made.path / "headers", None, packages=KERNEL_PACKAGES
        )
        return replace(
            take_kernel(store, apt, own, deadline),
            packages=(candidate,),
            passed_over=tuple(passed_over),
            built=_facts(fragments, options, dropped),
        )
    raise SetupError(
        "\n".join([f"{built.spec.id}: no {_META} of {apt.suite.name} can be had from the mirror", *passed_over]),
        hint="renew the package lists with `splvm build --refresh`, or name another mirror with SPLVM_MIRROR",
    )


def find_source_packages(apt: PrivateApt) -> Iterator[PackageVersion]:
    """Packages with the kernel's source, newest first."""
    seen = set()
    for meta in apt.candidates(_META):
        for dependency in apt.depends(meta.package, meta.version):
            if dependency.package.startswith(f"{_META}-") and dependency.package not in seen:
                seen.add(dependency.package)
                yield from apt.candidates(dependency.package)


def _facts(fragments: Mapping[str, str], options: Sequence[Option], dropped: Sequence[Dropped]) -> dict[str, object]:
    """What run.json says of how it was configured."""
    return {
        "fragments": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in fragments.items()},
        "options": {option.name: option.value for option in options},
        "dropped": {
            item.option.name: {"asked": item.option.value, "found": item.found, "place": item.option.place}
            for item in dropped
        },
    }


def _read_config(tree: Path) -> dict[str, str]:
    return parse_config((tree / "config").read_text(encoding="utf-8", errors="replace"))


def _build(
    store: Store,
    apt: PrivateApt,
    built: BuiltKernel,
    candidate: PackageVersion,
    deb: Path,
    options: Sequence[Option],
    deadline: Deadline,
) -> Artefact:
    """vmlinuz, config, System.map, and in headers/ what modules are built with."""
    root = build_root(store, apt, "", None, deadline, more=KERNEL_PACKAGES)
    config = format_config(options)
    optional = [option.name for option in options if option.optional]
    what = f"kernel {built.spec.id} of {candidate.package} {candidate.version}"
    key = input_hash(
        {
            "recipe": RECIPE,
            "name": built.row.name,
            "source": candidate.sha256,
            "config": config,
            "optional": optional,
            "root": root.key,
        }
    )

    def build(tree: Path) -> None:
        log = fresh_log(store, f"kernel-{built.row.name}-{key[:12]}")
        with store.temporary() as work:
            src = work / "src"
            _unpack(root, deb, work, log, deadline)
            (work / "asked.config").write_text(config)
            make = ["make", "-C", "src", f"LOCALVERSION=-splvm-{built.row.name}", *_BUILT_BY]
            for target in ("allnoconfig", "olddefconfig"):
                argv = [*make, "KCONFIG_ALLCONFIG=/build/asked.config", target]
                root.run(argv, work=work, deadline=deadline, what=f"make {target}", log=log)
            found = parse_config((src / ".config").read_text(encoding="utf-8"))
            for item in check_dropped(find_dropped(options, found), what):
                note(f"{built.spec.id}: {item}; going on without")
            _compile(root, work, make, log, deadline.sub(_COMPILE_S))
            _keep(src, tree)

    return store.get("built-kernel", key, build, deadline=deadline, what=f"{what} (some minutes, once)")


def _unpack(root: BuildRoot, deb: Path, work: Path, log: Path, deadline: Deadline) -> None:
    """The source in the package as `work`/src: an archive in an archive, and the inner one is unpacked in the root."""
    inner = "source.tar.xz"
    # tar stops reading when it has it, so what becomes of dpkg-deb does not matter. apt has checked the package's hash.
    script = (
        'dpkg-deb --fsys-tarfile "$1" 2>/dev/null '
        f"| tar -x --to-stdout --occurrence=1 --wildcards './usr/src/linux-source-*.tar.xz' >{inner}"
    )
    excluded = [f"--exclude={pattern}" for pattern in _LEFT_OUT]
    what = f"unpacking {deb.name}"
    with step(what):
        run(["sh", "-c", script, "sh", deb.absolute()], cwd=work, deadline=deadline, what=what)
        (work / "src").mkdir()
        argv = ["tar", "-xJf", inner, "--no-same-owner", "--strip-components=1", "-C", "src", *excluded]
        root.run(argv, work=work, deadline=deadline, what=what, log=log)
    (work / inner).unlink()


def _compile(root: BuildRoot, work: Path, make: Sequence[str], log: Path, deadline: Deadline) -> None:
    argv = [*make, f"-j{os.cpu_count() or 1}", "bzImage", "modules"]
    with step("compiling"):
        root.run(argv, work=work, deadline=deadline, what="make bzImage", log=log, watch=Progress(_STEPS).watch)


class Progress:
    """Says at each tenth how far a build is, by the lines that make has said.

    :param expected: lines, more or less.
    """

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._lines = 0
        self._said = 0

    def watch(self, chunk: bytes) -> None:
        """Take more of the output."""
        self._lines += chunk.count(b"\n")
        # More lines than expected are no more than nearly done.
        tenth = min(9, 10 * self._lines // self._expected)
        if tenth > self._said:
            self._said = tenth
            note(f"compiling: {tenth}0 %, {self._lines} of about {self._expected} steps")


def _keep(src: Path, tree: Path) -> None:
    """What is wanted of a tree that was built in place."""
    for name, source in (("vmlinuz", "arch/x86/boot/bzImage"), ("config", ".config"), ("System.map", "System.map")):
        shutil.copyfile(src / source, tree / name)
    headers = tree / "headers"
    for name in _TREES:
        shutil.copytree(src / name, headers / name, symlinks=True, ignore=_NO_HEADERS)
    for path in (src / name for name in _FILES):
        # objtool is only there where something of the configuration needs it.
        if path.exists():
            target = headers / path.relative_to(src)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
    # Whoever modules are built as has to read them, whatever the caller's umask is.
    run(["chmod", "-R", "go+rX", headers], deadline=Deadline(60), what="permissions of the headers")
