"""The rest of OpenZFS: its modules but spl.ko, and zpool and zfs to run in a guest.

The modules are built from the source that SPL is from, against the symbols that its build exports, so one build serves
all variants of SPL that export the same. The tools are the suite's own, in the version of that source if it can be had.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from splvm.assets import find_images
from splvm.builds.foreign import take_file
from splvm.builds.image import pack, read_module, resolve_modules
from splvm.builds.kernels import Kernel
from splvm.builds.module import MODULE_RECIPE, fresh_log, make_module, sha256_of
from splvm.builds.root import BuildRoot, build_root
from splvm.builds.spl import SplBuild, SplSource
from splvm.builds.tree import ALL_PARTS, SPL_DIR, check_unchanged, copy_files, find_files, generate_headers, patch_tree
from splvm.builds.worktree import ZFS_TREES, keep_tree
from splvm.deadline import Deadline
from splvm.errors import BuildError, SetupError
from splvm.host.content import input_hash
from splvm.host.debian import PrivateApt
from splvm.host.store import Artefact, Store

RECIPE = 2

# What configure would write into the makefiles; what is not here is nothing.
_PLACES = {
    "abs_top_srcdir": "/build/src",
    "abs_top_builddir": "/build/src",
    # As configure has it without --enable-debug.
    "KERNEL_DEBUG_CPPFLAGS": "-UDEBUG -DNDEBUG",
    # A line that is for hardware which no guest has.
    "CONFIG_QAT_TRUE": "#",
}

# In the tools' archive; busybox has the rest.
_TOOLS = ("/sbin/zpool", "/sbin/zfs")


@dataclass(frozen=True, slots=True)
class Zfs:
    """What a guest needs to have a pool."""

    # To be unpacked over the guest's root.
    archive: Path
    # Modules in it, in the order of loading.
    modules: tuple[str, ...]
    tools_version: str
    # What the modules are built of: its name, its version, and of a checkout its commit.
    source: SplSource
    # Where the modules are.
    directory: Path

    def facts(self) -> dict[str, object]:
        """What run.json says of it."""
        return {
            "source": self.source.name,
            "version": self.source.version,
            "git": self.source.identity.zfs.to_json() if self.source.identity else None,
            "modules": list(self.modules),
            "tools": self.tools_version,
            "sha256": sha256_of(self.archive),
        }


def build_zfs(store: Store, apt: PrivateApt, kernel: Kernel, spl: SplBuild, deadline: Deadline) -> Zfs:
    """Modules and tools for a kernel and a build of SPL.

    :raises BuildError: when something does not compile.
    :raises SetupError: when the tools cannot be had.
    """
    modules = _build_modules(store, kernel.root.apart() if spl.is_own else kernel.root, spl, deadline)
    order = load_order({path.stem: path.read_bytes() for path in modules.path.glob("*.ko")})
    root, version = _tools_root(store, apt, spl, deadline)
    scripts = find_images() / "zfs"
    key = input_hash(
        {"recipe": RECIPE, "modules": modules.key, "root": root.key, "kernel": kernel.image.key, "scripts": scripts}
    )

    def build(tree: Path) -> None:
        log = fresh_log(store, f"zfs-{key[:12]}")
        with store.temporary() as work:
            stage = work / "stage"
            (stage / "bin").mkdir(parents=True)
            _add_tools(root, work, stage, log, deadline)
            _add_modules(kernel, modules, order, stage)
            for script in sorted(scripts.iterdir()):
                shutil.copy2(script, stage / "bin" / f"splvm-{script.name}")
                (stage / "bin" / f"splvm-{script.name}").chmod(0o755)
            pack(stage, tree / "zfs.cpio", deadline)

    image = store.get("zfs-image", key, build, deadline=deadline, what=f"ZFS for guests of {kernel.release}")
    return Zfs(image.path / "zfs.cpio", tuple(order), version, spl.source, modules.path)


def _build_modules(store: Store, root: BuildRoot, spl: SplBuild, deadline: Deadline) -> Artefact:
    """All of them, as the tree's own makefiles have them; the spl.ko among them is left out."""
    source = spl.source.tree
    if spl.semantic:
        source = patch_tree(store, source, spl.semantic, deadline).tree
    files = find_files(source, ALL_PARTS)
    # spl.ko comes with its exports: what it is compiled of does not go into the others.
    others = {name: path for name, path in files.items() if not Path(name).is_relative_to(SPL_DIR)}
    inputs = input_hash(others)
    key = input_hash(
        {
            "recipe": RECIPE,
            "module recipe": MODULE_RECIPE,
            "config": spl.config / "zfs_config.h",
            "symbols": spl.exports / "Module.symvers",
            "root": root.key,
            "inputs": inputs,
        }
    )

    def build(tree: Path) -> None:
        log = fresh_log(store, f"zfs-modules-{key[:12]}")
        with store.temporary() as scratch:
            fresh = scratch / "build"
            src = fresh / "src"
            try:
                copy_files(files, src)
            except OSError as reason:
                raise SetupError(f"cannot read the source of ZFS: {reason}") from reason
            copied = find_files(src, ALL_PARTS)
            check_unchanged(source, {name: path for name, path in copied.items() if name in others}, inputs)
            shutil.copy2(spl.config / "zfs_config.h", src)
            for template in (*(src / "module").rglob("Kbuild.in"), *(src / "module").rglob("Makefile.in")):
                inside = Path("/build", template.parent.relative_to(fresh))
                template.with_suffix("").write_text(fill_in(template.read_text(), inside))
            # The first code of the tree that runs: until here the copy is what was read of it.
            generate_headers(root, fresh, log, deadline)
            # The root's key is not that of its packages' versions.
            tree_key = input_hash({"recipe": RECIPE, "config": spl.config / "zfs_config.h", "tools": root.versions()})
            with keep_tree(store, tree_key, fresh, ZFS_TREES) if spl.is_own else nullcontext(fresh) as work:
                what = f"zfs.ko ({spl.source.version})"
                make_module(root, work, "/build/src/module", ["CONFIG_ZFS=m"], log, deadline, what)
                _take_modules(store, root, work, tree, log, deadline)

    what = f"zfs.ko of {spl.source.version} for {root.release} (two minutes or more, once)"
    return store.get("zfs-modules", key, build, deadline=deadline, what=what)


def _take_modules(store: Store, root: BuildRoot, work: Path, tree: Path, log: Path, deadline: Deadline) -> None:
    """Put into `tree` what was built in `work`; what make goes by stays as make left it."""
    made = sorted(path for path in (work / "src" / "module").rglob("*.ko") if path.stem != "spl")
    names = [path.name for path in made]
    with store.temporary() as out:
        for path in made:
            take_file(work, str(path.relative_to(work)), out)
        root.run(["strip", "--strip-debug", *names], work=out, deadline=deadline, what="strip", log=log)
        for name in names:
            take_file(out, name, tree)


def fill_in(makefile: str, directory: Path) -> str:
    """A makefile with what configure would put into it.

    :param directory: where it is.
    """
    places = {**_PLACES, "abs_srcdir": str(directory), "abs_builddir": str(directory)}
    return re.sub(r"@(\w+)@", lambda match: places.get(match[1], ""), makefile)


def load_order(modules: Mapping[str, bytes]) -> list[str]:
    """Names of modules, each after those of the others that it depends on.

    :param modules: content by name; what they depend on is in their .modinfo (scripts/mod/modpost.c, add_depends()).
    """
    order: list[str] = []

    def add(name: str) -> None:
        for other in depends_on(modules[name]):
            if other in modules and other not in order:
                add(other)
        if name not in order:
            order.append(name)

    for name in sorted(modules):
        add(name)
    return order


def depends_on(module: bytes) -> list[str]:
    """Names of the modules that one depends on."""
    match = re.search(rb"\0depends=([\w,-]*)\0", module)
    return [name.replace("-", "_") for name in match[1].decode().split(",") if name] if match else []


def _add_modules(kernel: Kernel, modules: Artefact, order: Iterable[str], stage: Path) -> None:
    """The modules, and before them what they need of the kernel's own; their names, in the order of loading."""
    dependencies, built_in = ((kernel.modules / f"modules.{name}").read_text() for name in ("dep", "builtin"))
    contents = {name: (modules.path / f"{name}.ko").read_bytes() for name in order}
    foreign = sorted({other for content in contents.values() for other in depends_on(content)} - {*contents, "spl"})
    paths = resolve_modules(dependencies, built_in, foreign)
    files = {f"{Path(path).name.split('.ko')[0]}.ko": read_module(kernel.modules / path) for path in paths}
    files |= {f"{name}.ko": content for name, content in contents.items()}
    (stage / "lib" / "modules").mkdir(parents=True)
    for name, content in files.items():
        (stage / "lib" / "modules" / name).write_bytes(content)
    (stage / "etc").mkdir()
    (stage / "etc" / "modules.zfs").write_text("".join(f"{name}\n" for name in files))


def _tools_root(store: Store, apt: PrivateApt, spl: SplBuild, deadline: Deadline) -> tuple[BuildRoot, str]:
    """A root of the suite with zpool and zfs in it, and their version."""
    version = spl.source.version if not spl.source.is_own else apt.candidate("zfsutils-linux").version
    if version not in {candidate.version for candidate in apt.candidates("zfsutils-linux")}:
        version = apt.candidate("zfsutils-linux").version
    # Libraries of the same source have to be of the same version, also where the lists name a newer one.
    same = [it.package for it in apt.depends("zfsutils-linux", version) if version in _versions(apt, it.package)]
    packages = [f"{name}={version}" for name in ("zfsutils-linux", *same)]
    return build_root(store, apt, f"zfs {version}", None, deadline, more=packages), version


def _versions(apt: PrivateApt, package: str) -> set[str]:
    return {candidate.version for candidate in apt.candidates(package)}


def _add_tools(root: BuildRoot, work: Path, stage: Path, log: Path, deadline: Deadline) -> None:
    """zpool and zfs, with the libraries they load."""
    linked = root.run(["ldd", *_TOOLS], work=work, deadline=deadline, what="ldd zpool", log=log).stdout
    missing = re.findall(r"(\S+) => not found", linked)
    if missing:
        raise BuildError("ZFS for guests", f"libraries are missing: {', '.join(missing)}", log)
    libraries = sorted(set(re.findall(r"(/\S+) \(0x", linked)))
    copy = ["cp", "--dereference", "--parents", *libraries, *_TOOLS, "stage"]
    root.run(copy, work=work, deadline=deadline, what="copying zpool and zfs", log=log)
