"""Trees: what is taken of them and what not, patches on all of them, and keys that change with each input."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest

from splvm.assets import find_debug_header, find_images
from splvm.builds import spl as spl_module
from splvm.builds import zfs as zfs_module
from splvm.builds.root import BuildRoot
from splvm.builds.spl import SplBuild, SplSource, build_spl
from splvm.builds.tree import (
    ALL_PARTS,
    CONFIGURE_INPUTS,
    GITREV,
    MAKE_GITREV,
    SPL_DIR,
    copy_files,
    copy_tree,
    find_files,
    find_inputs,
    generate_headers,
    parse_patched,
    patch_tree,
)
from splvm.builds.variants import VARIANTS
from splvm.deadline import Deadline
from splvm.errors import BuildError, SetupError, UsageError
from splvm.host.store import Artefact, Store

CACHE = f"{SPL_DIR}/spl-kmem-cache.c"
FILES = {
    "META": "Version: 2.4.99\nRelease: 1\nLinux-Maximum: 7.2\nLinux-Minimum: 4.18\n",
    "configure.ac": "AC_INIT\n",
    "config/kernel.m4": "dnl checks\n",
    CACHE: "int cache;\n",
    "include/sys/arc.h": "int arc;\n",
    "include/os/linux/spl/sys/kmem.h": "int kmem;\n",
    "module/Kbuild.in": "obj-m := spl.o zfs.o\n",
    "module/zfs/arc.c": "int arc;\n",
    "man/man8/zfs.8": "manual\n",
    # As the tree's own: what a repository says goes into the header, and else what the header said.
    MAKE_GITREV: 'said=$(git describe 2>/dev/null || sed -n 1p "$1" 2>/dev/null)\necho "${said:-unknown}" >"$1"\n',
}


def write(top: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    return top


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write(tmp_path / "zfs", FILES)


# What is taken


def test_what_each_build_takes(tree: Path) -> None:
    headers = {"include/sys/arc.h", "include/os/linux/spl/sys/kmem.h", MAKE_GITREV}
    assert set(find_inputs(tree)) == {CACHE, *headers}
    assert set(find_files(tree, ALL_PARTS)) == {CACHE, "module/Kbuild.in", "module/zfs/arc.c", *headers}
    assert set(find_files(tree, CONFIGURE_INPUTS)) == {"META", "configure.ac", "config/kernel.m4"}


LEFT = {
    "module/zfs/arc.o": "",
    "module/zfs/.arc.o.cmd": "",
    "module/zfs.ko": "",
    "module/Module.symvers": "",
    "module/modules.order": "",
    "module/Kbuild": "made of Kbuild.in",
    GITREV: "v1-2-gabc",
}
AUTOTOOLS = {"configure": "of another commit", "zfs_config.h.in": "", "config/ltmain.sh": "", "config/ltsugar.m4": ""}


def test_what_a_build_in_place_leaves_goes_into_nothing(tree: Path) -> None:
    parts = (*ALL_PARTS, *CONFIGURE_INPUTS)
    before = set(find_files(tree, parts))
    write(tree, LEFT)
    assert set(find_files(tree, parts)) == before
    # In a checkout the autotools' results may be stale; a release has nothing else.
    write(tree, AUTOTOOLS)
    assert set(find_files(tree, parts)) == before | set(AUTOTOOLS)
    (tree / ".git").mkdir()
    assert set(find_files(tree, parts)) == before


@pytest.mark.parametrize("git", [True, False])
def test_a_copy_has_what_the_builds_take(tree: Path, tmp_path: Path, git: bool) -> None:
    write(tree, LEFT | AUTOTOOLS)
    if git:
        (tree / ".git").mkdir()
    copy_tree(tree, tmp_path / "copy")
    parts = (*ALL_PARTS, *CONFIGURE_INPUTS)
    assert set(find_files(tmp_path / "copy", parts)) == set(find_files(tree, parts))
    assert not (tmp_path / "copy" / GITREV).exists()
    assert (tmp_path / "copy" / "configure").exists() is not git


def test_a_release_without_the_script_keeps_its_header(tree: Path, tmp_path: Path) -> None:
    (tree / MAKE_GITREV).unlink()
    write(tree, {GITREV: "zfs-2.3.9-dist"})
    assert GITREV in find_inputs(tree)
    copy_tree(tree, tmp_path / "copy")
    assert (tmp_path / "copy" / GITREV).read_text() == "zfs-2.3.9-dist"


class HereRoot(BuildRoot):
    """Runs commands in the directory itself."""

    def run(self, argv: list[str], *, work: Path, log: Path, **_: Any) -> Any:
        subprocess.run(argv, cwd=work, check=True, timeout=60)


@pytest.fixture
def root(tmp_path: Path) -> BuildRoot:
    return HereRoot(Artefact(tmp_path / "root", "build-root", "0" * 32), "6.1", "0" * 32)


@pytest.mark.parametrize("own", ["", "v1-2-gabc"])
def test_the_header_of_make_names_no_commit(tree: Path, tmp_path: Path, root: BuildRoot, own: str) -> None:
    """Each commit would be another module, also where somebody has run make."""
    subprocess.run(["git", "init", "-q", tree], check=True, timeout=60)
    if own:
        write(tree, {GITREV: own})
    copy_tree(tree, tmp_path / "work" / "src")
    generate_headers(root, tmp_path / "work", tmp_path / "log", Deadline(60))
    assert (tmp_path / "work" / "src" / GITREV).read_text() == "unknown\n"


# Patches


def diff(name: str, old: str, new: str) -> str:
    return f"--- a/{name}\n+++ b/{name}\n@@ -1 +1 @@\n-{old}\n+{new}\n"


ARC = diff("module/zfs/arc.c", "int arc;", "int patched;")
HEADER = diff("include/sys/arc.h", "int arc;", "int patched;")
KMEM = diff(CACHE, "int cache;", "int patched;")
SEMANTIC = "@@\n@@\n-int {};\n+int patched;\n"


def patch(tmp_path: Path, text: str, name: str = "x.patch") -> Path:
    (tmp_path / name).write_text(text)
    return tmp_path / name


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_a_patch_goes_into_the_whole_tree(tree: Path, tmp_path: Path, store: Store) -> None:
    made = patch_tree(store, tree, [patch(tmp_path, ARC + HEADER)], Deadline(60))
    assert made.touched == {"x.patch": ("module/zfs/arc.c", "include/sys/arc.h")}
    for name in made.touched["x.patch"]:
        assert (made.tree / name).read_text() == "int patched;\n"
        assert (tree / name).read_text() == "int arc;\n"
    # The same again is the same artefact; an edit of the tree is another one.
    assert patch_tree(store, tree, [patch(tmp_path, ARC + HEADER)], Deadline(60)) == made
    write(tree, {"man/man8/zfs.8": "edited"})
    assert patch_tree(store, tree, [patch(tmp_path, ARC + HEADER)], Deadline(60)).tree != made.tree


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ARC + diff("man/man8/zfs.8", "manual", "edited"), "man/man8/zfs.8 goes into no module"),
        ("", "there is no hunk in it"),
        (diff(CACHE, "never there", "x"), "FAILED"),
    ],
)
def test_a_patch_that_does_nothing_is_an_error(tree: Path, tmp_path: Path, store: Store, text: str, said: str) -> None:
    with pytest.raises(BuildError, match=said):
        patch_tree(store, tree, [patch(tmp_path, text)], Deadline(60))
    assert not list(store.root.glob("patched-tree/*")) and not list(store.root.glob("tmp/*"))


def test_what_patch_says() -> None:
    said = (
        "patching file module/zfs/arc.c\nHunk #1 succeeded at 2 (offset 1 line).\n"
        "patching file 'module/a b.c'\npatching file include/new.h (renamed from include/old.h)\n"
        "patching file module/zfs/arc.c\n"
    )
    assert parse_patched(said) == ["module/zfs/arc.c", "module/a b.c", "include/new.h", "include/old.h"]


# Keys


class Keys(Store):
    """A store in which what a compiler would make is made up; it notes the keys of what is asked for."""

    def __init__(self, top: Path, tree: Path) -> None:
        super().__init__(top)
        self.seen: dict[str, str] = {}
        # Whether there are semantic patches.
        self.patches = False
        self.made = {"zfs_config.h": "config", "Module.symvers": "symbols", "spl.ko": "", "slabprobe.ko": ""}
        self._tree = tree

    def get(self, kind: str, key: str, build: Callable[[Path], None], **more: Any) -> Artefact:
        self.seen[kind] = key
        if kind in ("patched-tree", "spl-config-more"):
            found = super().get(kind, key, build, **more)
            self._tree = found.path / "src" if kind == "patched-tree" else self._tree
            return found
        if kind == "spl" and self.patches:
            # As far as without a compiler: the sources are copied and patched.
            with TemporaryDirectory(dir=self.root) as scratch:
                try:
                    build(Path(scratch))
                except FileNotFoundError as reason:
                    # The root of these tests has no compiler, and no package at all.
                    assert str(reason.filename).endswith("var/lib/dpkg/status")
        made = self.root / kind / f"{key}.made"
        shutil.rmtree(made, ignore_errors=True)
        write(made, self.made)
        copy_files({name: path for name, path in find_inputs(self._tree).items() if name.startswith("include")}, made)
        return Artefact(made, kind, key)


KINDS = ("spl-config", "spl", "slabprobe", "zfs-modules")
# What follows from configure, and from headers.
ALL = set(KINDS)
HEADERS = {"spl", "slabprobe", "zfs-modules"}


class Inputs(SimpleNamespace):
    """What all four artefacts are made from, to be changed one by one."""

    tmp_path: Path
    tree: Path
    root: BuildRoot
    images: Path
    variant: str
    patches: tuple[Path, ...]
    made: dict[str, str]
    monkeypatch: pytest.MonkeyPatch

    def keys(self) -> dict[str, str]:
        store = Keys(self.tmp_path / "keys", self.tree)
        store.made |= self.made
        store.patches = any(patch.suffix == ".cocci" for patch in self.patches)
        source = SplSource(f"path:{self.tree}", self.tree, "2.4.99-1")
        spl = build_spl(store, self.root, source, VARIANTS[self.variant], self.patches, Deadline(60))
        zfs_module._build_modules(store, self.root, spl, Deadline(60))
        return {kind: store.seen[kind] for kind in KINDS}


@pytest.fixture
def inputs(tree: Path, tmp_path: Path, root: BuildRoot, monkeypatch: pytest.MonkeyPatch) -> Inputs:
    images = tmp_path / "images"
    for name in ("spl", "slabprobe"):
        shutil.copytree(find_images() / name, images / name)
    monkeypatch.setattr(spl_module, "find_images", lambda: images)
    return Inputs(
        **{"tmp_path": tmp_path, "tree": tree, "root": root, "images": images, "variant": "stock"},
        **{"patches": (), "made": {}, "monkeypatch": monkeypatch},
    )


def edit(name: str) -> Callable[[Inputs], object]:
    return lambda it: (it.tree / name).write_text("edited") and None


def put(text: str, name: str = "x.patch") -> Callable[[Inputs], object]:
    return lambda it: setattr(it, "patches", (patch(it.tmp_path, text, name),))


def recipe(module: Any, name: str) -> Callable[[Inputs], object]:
    return lambda it: it.monkeypatch.setattr(module, name, "another")


# Each input, and the artefacts whose key has to change with it; all others are the same.
WALK: dict[str, tuple[Callable[[Inputs], object], set[str]]] = {
    "META": (edit("META"), {"spl-config", "spl", "slabprobe"}),
    "configure.ac": (edit("configure.ac"), {"spl-config", "spl", "slabprobe"}),
    "a check": (edit("config/kernel.m4"), {"spl-config", "spl", "slabprobe"}),
    "what configure found": (lambda it: it.made.update({"zfs_config.h": "other"}), {"zfs-modules"}),
    "source of SPL": (edit(CACHE), {"spl"}),
    "header of ZFS": (edit("include/sys/arc.h"), HEADERS),
    "header of SPL": (edit("include/os/linux/spl/sys/kmem.h"), HEADERS),
    "what makes a header": (edit(MAKE_GITREV), {"spl", "zfs-modules"}),
    "source of ZFS": (edit("module/zfs/arc.c"), {"zfs-modules"}),
    "makefile of ZFS": (edit("module/Kbuild.in"), {"zfs-modules"}),
    "patch of SPL": (put(KMEM), {"spl"}),
    "patch of ZFS": (put(ARC), {"zfs-modules"}),
    "patch of a header": (put(HEADER), HEADERS),
    "patch of configure": (
        put(diff("config/kernel.m4", "dnl checks", "dnl other")),
        {"spl-config", "spl", "slabprobe"},
    ),
    "exported symbols": (lambda it: it.made.update({"Module.symvers": "other"}), {"slabprobe", "zfs-modules"}),
    "kernel and compiler": (lambda it: setattr(it, "root", replace(it.root, key="1" * 32)), ALL),
    "makefile of spl.ko": (lambda it: (it.images / "spl" / "Kbuild").write_text("x") and None, {"spl"}),
    "the probe": (lambda it: (it.images / "slabprobe" / "hold.c").write_text("x") and None, {"slabprobe"}),
    "how configure is run": (recipe(spl_module, "RECIPE"), {"spl-config", "spl", "slabprobe"}),
    "how spl.ko is made": (recipe(spl_module, "MODULE_RECIPE"), {"spl", "slabprobe"}),
    "how modules are made": (recipe(zfs_module, "MODULE_RECIPE"), {"zfs-modules"}),
    "how zfs.ko is made": (recipe(zfs_module, "RECIPE"), {"zfs-modules"}),
    "variant": (lambda it: setattr(it, "variant", "no-emergency"), {"spl"}),
    "header of macros": (lambda it: setattr(it, "patches", (find_debug_header(),)), HEADERS),
    "semantic patch of SPL": (put(SEMANTIC.format("cache"), "x.cocci"), {"spl"}),
    "semantic patch of ZFS": (put(SEMANTIC.format("arc"), "x.cocci"), {"zfs-modules"}),
    "what editors leave": (edit("module/zfs/arc.c~"), set()),
    "somebody's make": (lambda it: write(it.tree, LEFT) and None, set()),
}


@pytest.mark.parametrize("name", WALK)
def test_each_input_is_in_the_key(inputs: Inputs, name: str) -> None:
    """Two builds with different inputs never share a key."""
    before = inputs.keys()
    assert inputs.keys() == before
    change, kinds = WALK[name]
    change(inputs)
    after = inputs.keys()
    assert {kind for kind in KINDS if after[kind] != before[kind]} == kinds


def test_a_tree_that_changes_while_zfs_is_copied(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = copy_files

    def save(files: dict[str, Path], to: Path) -> None:
        edit("module/zfs/arc.c")(inputs)
        copy(files, to)

    class Building(Keys):
        def get(self, kind: str, key: str, build: Callable[[Path], None], **more: Any) -> Artefact:
            return (Store.get if kind == "zfs-modules" else Keys.get)(self, kind, key, build, **more)

    monkeypatch.setattr(zfs_module, "copy_files", save)
    store = Building(inputs.tmp_path / "keys", inputs.tree)
    source = SplSource("path:x", inputs.tree, "2.4.99-1")
    spl = build_spl(store, inputs.root, source, VARIANTS["stock"], (), Deadline(60))
    with pytest.raises(SetupError, match="was changed while it was read"):
        zfs_module._build_modules(store, inputs.root, spl, Deadline(60))


def test_a_patch_of_zfs_alone_needs_a_guest_with_a_pool(inputs: Inputs) -> None:
    def build(text: str) -> SplBuild:
        store = Keys(inputs.tmp_path / "keys", inputs.tree)
        source = SplSource("path:x", inputs.tree, "2.4.99-1")
        patches = (patch(inputs.tmp_path, text),)
        return build_spl(store, inputs.root, source, VARIANTS["stock"], patches, Deadline(60))

    with pytest.raises(UsageError, match=r"x\.patch: nothing of it goes into spl\.ko, and nominal without a pool"):
        build(ARC).check_patches("nominal")
    build(ARC + KMEM).check_patches("nominal")
    build(HEADER).check_patches("nominal")
