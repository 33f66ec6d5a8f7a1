"""spl.ko and slabprobe.ko, from the distribution's source or the user's, with patches on top.

Three artefacts, so that an edit rebuilds only what it has to: zfs_config.h (one configure run per kernel and per the
parts of the tree that configure reads), spl.ko (per source, variant and patches), slabprobe.ko (per SPL's headers and
exported symbols, which a patch of SPL's code leaves alone). spl.ko of the user's own source or patches is built where
the last one was, and make compiles what the edit touches.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from splvm.assets import find_images
from splvm.builds.foreign import put_file, take_directory, take_file
from splvm.builds.identity import TreeIdentity, identify
from splvm.builds.idle import is_idle
from splvm.builds.module import MODULE_RECIPE, debug_file, fresh_log, make_module, sha256_of, strip_module
from splvm.builds.owntree import OwnTree, find_tree, take_tree
from splvm.builds.root import BuildRoot
from splvm.builds.tree import (
    CONFIGURE_INPUTS,
    NoMatchError,
    apply_patch,
    check_unchanged,
    copy_files,
    copy_tree,
    find_files,
    find_inputs,
    generate_headers,
    goes_into_spl,
    inputs_key,
    patch_tree,
)
from splvm.builds.variants import Variant
from splvm.builds.worktree import keep_tree
from splvm.deadline import Deadline
from splvm.errors import SetupError, UsageError
from splvm.host.archive import PackageGoneError, PackageVersion
from splvm.host.content import Input, input_hash
from splvm.host.debian import PrivateApt
from splvm.host.process import run
from splvm.host.store import Artefact, Store
from splvm.log import note
from splvm.plainfile import MIB, read_plain

RECIPE = 2


@dataclass(frozen=True, slots=True)
class SplSource:
    """An OpenZFS tree."""

    # As the user named it, with a whole path.
    name: str
    # Directory of its files.
    tree: Path
    version: str
    # The package it is from, None for a tree of the user's.
    package: PackageVersion | None = None
    # Newer ones that could not be had, and why, one line each.
    passed_over: tuple[str, ...] = ()
    # The user's tree, None for the suite's.
    own: OwnTree | None = None
    # Of the user's, as it is when something is built of it; None where nobody knows.
    identity: TreeIdentity | None = None

    @property
    def is_own(self) -> bool:
        """Whether it is the user's."""
        return self.own is not None


@dataclass(frozen=True, slots=True)
class SplBuild:
    """Modules ready to be loaded, spl.ko first."""

    source: SplSource
    variant: Variant
    patches: tuple[Path, ...]
    modules: tuple[Path, ...]
    # Directories: of zfs_config.h; of Module.symvers and SPL's headers, that is, of what other modules are built with.
    config: Path
    exports: Path
    # Hash of SPL's sources and of all patches, the variant's too: what spl.ko was made from, wherever that was.
    content: str = ""
    # Patches of the user's that go into other modules than spl.ko alone, by name.
    beside_spl: tuple[str, ...] = ()
    # SHA-256 of each patch, as it was when it was read.
    hashes: tuple[str, ...] = ()
    # Semantic patches of the user's that `source` does not have: spl.ko was built of a patched copy of its own files.
    semantic: tuple[Path, ...] = ()

    @property
    def debug(self) -> Mapping[str, Path]:
        """What was stripped from each module, by the module's name."""
        return {path.stem: debug_file(path) for path in self.modules}

    @property
    def is_own(self) -> bool:
        """Whether anything of the user's is in it."""
        return self.source.is_own or bool(self.patches)

    def check_patches(self, scenario: str) -> None:
        """For guests with spl.ko and without the other modules.

        :raises UsageError: when a patch goes into the others alone.
        """
        if self.beside_spl:
            raise UsageError(
                f"--spl-patch {', '.join(self.beside_spl)}: nothing of it goes into spl.ko, and {scenario} without a "
                "pool loads no other module of OpenZFS",
                hint="--load zfs gives the guest a pool, and with it zfs.ko",
            )

    def facts(self) -> dict[str, object]:
        """What run.json says of it."""
        return {
            "source": self.source.name,
            "version": self.source.version,
            "content": self.content,
            "git": self.source.identity.spl.to_json() if self.source.identity else None,
            "packages": {p.package: {"version": p.version, "sha256": p.sha256} for p in (self.source.package,) if p},
            "passed_over": list(self.source.passed_over),
            "variant": self.variant.name,
            "patches": [
                {"name": path.name, "sha256": digest, "path": str(path)}
                for path, digest in zip(self.patches, self.hashes, strict=True)
            ],
            "modules": {m.name: sha256_of(m) for m in self.modules},
        }


# All of OpenZFS has some 15 MB.
_MOST_PATCH_BYTES = 32 * MIB


def check_inputs(name: str, patches: Sequence[Path]) -> OwnTree | None:
    """Look at what the user named before anything is fetched for it.

    :param name: in one of the forms of `--spl`.
    :param patches: `.cocci`, `.patch`, `.diff` or `.h` files.
    :returns: the user's tree, None for `debian`.
    :raises UsageError: when there is no such tree, or a patch is no such file.
    """
    for patch in patches:
        if patch.suffix not in (".cocci", ".patch", ".diff", ".h") or not patch.is_file():
            raise UsageError(f"--spl-patch {patch}: not a file that ends in .cocci, .patch, .diff or .h")
        most = MIB if patch.suffix == ".h" else _MOST_PATCH_BYTES
        try:
            content = read_plain(patch, most, follow=True)
        except OSError as error:
            raise UsageError(f"--spl-patch {patch}: {error.strerror}") from error
        if is_idle(patch.suffix, content):
            # The run would count as one with it.
            raise UsageError(f"--spl-patch {patch}: there is nothing in it that could change anything")
    return find_tree(name)


def find_source(tree: OwnTree | None, store: Store, apt: PrivateApt, deadline: Deadline) -> SplSource:
    """The user's tree, or with None that of the kernel's suite."""
    if tree is None:
        return _debian_source(store, apt, deadline)
    directory = take_tree(store, tree, deadline)
    return SplSource(str(tree.name), directory, _meta_version(directory), own=tree)


def _debian_source(store: Store, apt: PrivateApt, deadline: Deadline) -> SplSource:
    """zfs-dkms of the suite; dkms itself never runs."""
    passed_over: list[str] = []
    for candidate in apt.candidates("zfs-dkms"):
        try:
            deb = apt.download("zfs-dkms", candidate.version, deadline)
        except PackageGoneError as error:
            note(f"{error.message}; trying an older one")
            passed_over.append(error.message.splitlines()[0])
            continue

        def build(tree: Path, deb: Path = deb) -> None:
            with store.temporary() as work:
                run(["dpkg-deb", "-x", deb, work], deadline=deadline, what=f"unpacking {deb.name}")
                (source,) = (work / "usr" / "src").glob("zfs-*")
                for entry in source.iterdir():
                    entry.rename(tree / entry.name)

        key = input_hash({"recipe": RECIPE, "deb": deb})
        what = f"source of zfs-dkms {candidate.version}"
        artefact = store.get("spl-source", key, build, deadline=deadline, what=what)
        return SplSource("debian", artefact.path, candidate.version, candidate, tuple(passed_over))
    raise SetupError(
        "\n".join([f"zfs-dkms of {apt.suite.name} can not be had from the mirror", *passed_over]),
        hint="it is in the component contrib; name a mirror that has it with SPLVM_MIRROR",
    )


def _meta_version(tree: Path) -> str:
    """Version and release of a tree, from its META file."""
    fields = _read_meta(tree)
    return "-".join(fields[name] for name in ("Version", "Release") if name in fields) or "unknown"


def _read_meta(tree: Path) -> dict[str, str]:
    try:
        meta = (tree / "META").read_text(errors="replace")
    except OSError:
        return {}
    return dict(re.findall(r"^([\w-]+):\s+(\S+)", meta, re.MULTILINE))


def _supported(tree: Path) -> str:
    """What a tree says of the kernels that it is for; empty if it says nothing."""
    fields = _read_meta(tree)
    if "Linux-Minimum" not in fields or "Linux-Maximum" not in fields:
        return ""
    return f"its META says Linux {fields['Linux-Minimum']} to {fields['Linux-Maximum']}"


def build_spl(
    store: Store,
    root: BuildRoot,
    source: SplSource,
    variant: Variant,
    patches: Sequence[Path],
    deadline: Deadline,
) -> SplBuild:
    """The modules of one source, variant and list of patches.

    :param patches: files that passed `check_inputs`, applied in this order after the variant's own. A header goes to
        the end of zfs_config.h, which all files of all modules include first.
    :raises BuildError: when a patch does not apply or something does not compile.
    """
    if source.own is not None:
        source = replace(source, identity=identify(source.own))
    # What is built once is built from nothing.
    keep = source.is_own or bool(patches)
    if keep:
        root = root.apart()
    hashes = tuple(map(sha256_of, patches))
    headers = [patch for patch in patches if patch.suffix == ".h"]
    others = [patch for patch in patches if patch.suffix != ".h"]

    def build(tree: SplSource, semantic: Sequence[Path], beside: tuple[str, ...] = ()) -> SplBuild:
        config = _with_headers(store, _configure(store, root, tree, deadline), headers, deadline)
        inputs = inputs_key(tree.tree, (*semantic, *headers))
        # Until here the patches were read. What somebody saves now goes into the next build.
        if tuple(map(sha256_of, patches)) != hashes:
            raise SetupError("a patch was changed while it was read", hint="try again")
        spl = _build_spl_ko(store, root, tree, config, semantic, deadline, keep=keep)
        probe = _build_probe(store, root, config, spl, deadline)
        modules = (spl.path / "spl.ko", probe.path / "slabprobe.ko")
        left = tuple(others) if semantic else ()
        return SplBuild(tree, variant, tuple(patches), modules, config.path, spl.path, inputs, beside, hashes, left)

    if all(patch.suffix == ".cocci" for patch in others):
        try:
            return build(source, (*variant.patches(), *others))
        except NoMatchError:
            # It may be for another module.
            if not others:
                raise
    # A plain patch may touch anything: configure and all modules have it then.
    patched = patch_tree(store, source.tree, others, deadline, of_spl=variant.patches())
    beside = tuple(patch.name for patch in others if not any(map(goes_into_spl, patched.touched[patch.name])))
    return build(replace(source, tree=patched.tree), (), beside)


def _with_headers(store: Store, config: Artefact, headers: Sequence[Path], deadline: Deadline) -> Artefact:
    """What configure found, and the user's headers after it."""
    if not headers:
        return config
    found = config.path / "zfs_config.h"
    try:
        texts = [found.read_bytes(), *(read_plain(path, MIB, follow=True) for path in headers)]
    except OSError as error:
        raise SetupError(f"cannot read a header of --spl-patch: {error}") from error
    text = b"\n".join(texts)

    def build(tree: Path) -> None:
        (tree / "zfs_config.h").write_bytes(text)

    key = input_hash({"recipe": RECIPE, "root": config.key, "text": text.decode("utf-8", "surrogateescape")})
    what = f"zfs_config.h with {', '.join(path.name for path in headers)}"
    return store.get("spl-config-more", key, build, deadline=deadline, what=what)


def _configure(store: Store, root: BuildRoot, source: SplSource, deadline: Deadline) -> Artefact:
    inputs = input_hash(find_files(source.tree, CONFIGURE_INPUTS))
    key = input_hash({"recipe": RECIPE, "root": root.key, "inputs": inputs})

    def build(tree: Path) -> None:
        log = fresh_log(store, f"configure-{root.release}")
        with store.temporary() as work:
            copy_tree(source.tree, work / "src")
            check_unchanged(source.tree, find_files(work / "src", CONFIGURE_INPUTS), inputs)
            # With DEBUG_LOCK_ALLOC mutex_lock() is for GPL modules alone, and configure refuses because of those under
            # the CDDL. spl.ko is GPL by its own MODULE_LICENSE, and nothing else is built of the tree.
            script = (
                f"if grep -qx CONFIG_DEBUG_LOCK_ALLOC=y {root.headers}/include/config/auto.conf; then "
                "sed -i 's/^\\(License: *\\).*/\\1GPL/' src/META; fi; "
                "cd src && { [ -x configure ] || sh ./autogen.sh; } && ./configure --with-config=kernel "
                f"--with-linux={root.source} --with-linux-obj={root.headers}"
            )
            root.run(
                ["sh", "-c", script],
                work=work,
                deadline=deadline,
                what=f"configure of OpenZFS {source.version} for {root.release}",
                log=log,
                hint=_supported(source.tree) or "this version of OpenZFS may not support this kernel",
                cached=True,
            )
            take_file(work, "src/zfs_config.h", tree)

    what = f"configure of OpenZFS {source.version} for {root.release} (a minute or two, once)"
    return store.get("spl-config", key, build, deadline=deadline, what=what)


def _build_spl_ko(
    store: Store,
    root: BuildRoot,
    source: SplSource,
    config: Artefact,
    patches: Sequence[Path],
    deadline: Deadline,
    *,
    keep: bool,
) -> Artefact:
    """:param patches: semantic ones.
    :param keep: build in a tree that is kept for the next build of this source.
    """
    inputs = inputs_key(source.tree, patches)
    kbuild = find_images() / "spl" / "Kbuild"
    made_with: dict[str, Input] = {"recipe": MODULE_RECIPE, "config": config.key, "kbuild": kbuild}
    key = input_hash({**made_with, "inputs": inputs})

    def build(tree: Path) -> None:
        log = fresh_log(store, f"spl-{key[:12]}")
        with store.temporary() as scratch:
            src = scratch / "build" / "src"
            _gather(source.tree, patches, inputs, scratch, src, log, deadline)
            generate_headers(root, src.parent, log, deadline)
            put_file(config.path / "zfs_config.h", src, "zfs_config.h")
            put_file(kbuild, src, "module/Kbuild")
            # The root's key is not that of its packages' versions.
            tree_key = input_hash({**made_with, "tools": root.versions()})
            with keep_tree(store, tree_key, src.parent) if keep else nullcontext(src.parent) as work:
                what = f"spl.ko ({source.version})"
                make_module(root, work, "/build/src/module", ["SPL_SRC=/build/src"], log, deadline, what)
                _take_spl_ko(store, root, work, tree, log, deadline)

    names = ", ".join(p.name for p in patches)
    what = f"spl.ko of {source.version} for {root.release}" + (f" with {names}" if names else "")
    return store.get("spl", key, build, deadline=deadline, what=what)


def _gather(
    tree: Path,
    patches: Sequence[Path],
    inputs: str,
    scratch: Path,
    src: Path,
    log: Path,
    deadline: Deadline,
) -> None:
    """Copy what spl.ko is made from to `src`, patched.

    :param patches: semantic ones.
    :param inputs: its `inputs_key`.
    :raises BuildError: when a patch does not apply.
    :raises SetupError: when somebody saved a file meanwhile: what would be built is not what its name says.
    """
    copies = [scratch / f"patch-{number}" / patch.name for number, patch in enumerate(patches)]
    try:
        for patch, to in zip(patches, copies, strict=True):
            to.parent.mkdir()
            shutil.copyfile(patch, to)
        copy_files(find_inputs(tree), src)
        unchanged = inputs_key(src, copies) == inputs
    except OSError as reason:
        raise SetupError(f"cannot read the source of SPL: {reason}") from reason
    if not unchanged:
        raise SetupError(f"{tree} or a patch was changed while it was read", hint="try again")
    for patch in copies:
        apply_patch(patch, src, log, deadline)


def _take_spl_ko(store: Store, root: BuildRoot, work: Path, tree: Path, log: Path, deadline: Deadline) -> None:
    """Put into `tree` what was built in `work`; what make goes by stays as make left it."""
    module = Path("spl.ko")
    with store.temporary() as out:
        take_file(work, "src/module/spl.ko", out)
        strip_module(root, out, module, log, deadline)
        for name in (module, debug_file(module)):
            take_file(out, name, tree)
    take_file(work, "src/module/Module.symvers", tree)
    take_directory(work, "src/include", tree / "include")


def _build_probe(store: Store, root: BuildRoot, config: Artefact, spl: Artefact, deadline: Deadline) -> Artefact:
    sources = find_images() / "slabprobe"
    symbols, include = spl.path / "Module.symvers", spl.path / "include"
    key = input_hash(
        {
            "recipe": MODULE_RECIPE,
            "config": config.key,
            "symbols": symbols,
            "include": include,
            "sources": sources,
        }
    )

    def build(tree: Path) -> None:
        log = fresh_log(store, f"slabprobe-{key[:12]}")
        with store.temporary() as work:
            shutil.copytree(sources, work / "slabprobe")
            shutil.copytree(include, work / "src" / "include", symlinks=True)
            shutil.copy2(config.path / "zfs_config.h", work / "src")
            shutil.copy2(symbols, work / "src")
            variables = ["SPL_SRC=/build/src", "SPL_SYMBOLS=/build/src/Module.symvers"]
            make_module(root, work, "/build/slabprobe", variables, log, deadline, "slabprobe.ko")
            strip_module(root, work, Path("slabprobe/slabprobe.ko"), log, deadline)
            for name in ("slabprobe.ko", "slabprobe.ko.debug"):
                shutil.copy2(work / "slabprobe" / name, tree)

    return store.get("slabprobe", key, build, deadline=deadline, what=f"slabprobe.ko for {root.release}")
