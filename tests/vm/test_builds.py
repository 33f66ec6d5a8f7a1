"""Builds that fail say why in the tool's own words and leave nothing; the user's source is never touched."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from splvm.assets import find_debug_header
from splvm.builds.owntree import find_tree
from splvm.builds.spl import _build_spl_ko, _configure, find_source
from splvm.builds.tree import SPL_DIR
from splvm.builds.zfs import _build_modules
from splvm.clock import Clock
from splvm.deadline import Deadline
from splvm.errors import BuildError, UsageError
from splvm.evidence.verdict import Outcome
from splvm.host.content import input_hash
from splvm.host.store import Store
from splvm.pytest_fixtures import RunResult
from splvm.run.prepare import Prepared

pytestmark = pytest.mark.splvm_vm

BAD_PATCHES = {
    "no-hunk.patch": (
        "--- a/module/os/linux/spl/spl-kmem-cache.c\n+++ b/module/os/linux/spl/spl-kmem-cache.c\n"
        "@@ -1,2 +1,2 @@\n-no such line\n+another\n never there\n",
        "FAILED",
    ),
    "no-file.patch": ("--- a/module/none.c\n+++ b/module/none.c\n@@ -1 +1 @@\n-a\n+b\n", "can't find file"),
    "not-smpl.cocci": ("@@\nthis is no metavariable\n@@\n", "not-smpl.cocci"),
    "no-match.cocci": ("@@\n@@\n-spl_there_is_no_such_call();\n", "matches nothing"),
    "no-c.cocci": ("@@\n@@\nspl_emergency_alloc(...)\n{\n+ int x = there_is_no_such_name;\n...\n}\n", "undeclared"),
}


@pytest.mark.parametrize("name", BAD_PATCHES)
def test_bad_patch(spl: Prepared, prepare_spl: Callable[..., Prepared], tmp_path: Path, name: str) -> None:
    assert spl.spl.modules, "what a good build needs is there already"
    text, complaint = BAD_PATCHES[name]
    patch = tmp_path / name
    patch.write_text(text)
    # The second time too: nothing half-built is in the store.
    for _ in range(2):
        with pytest.raises(BuildError) as caught:
            prepare_spl(patches=(patch,))
        assert complaint in caught.value.tail
        assert caught.value.log is not None
        assert caught.value.log.exists()
        assert caught.value.exit_status == 3
        # Others build in the store at the same time.
        assert not [*Store.default_root().glob(f"tmp/*-{os.getpid()}-*")]


@pytest.mark.parametrize("name", ["missing.patch", "wrong.txt"])
def test_patch_that_is_none(prepare_spl: Callable[..., Prepared], tmp_path: Path, name: str) -> None:
    (tmp_path / "wrong.txt").write_text("text")
    with pytest.raises(UsageError, match=name):
        prepare_spl(patches=(tmp_path / name,))


def test_source_that_is_none(prepare_spl: Callable[..., Prepared], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not the top of an OpenZFS tree"):
        prepare_spl(spl=f"path:{tmp_path}")


# A build that is run once is run in real time: in virtual time it would have a template of its own.


@pytest.fixture
def own_tree(spl: Prepared, tmp_path: Path) -> Path:
    """An OpenZFS tree of the user's: the packaged one, with an edit that breaks it."""
    tree = tmp_path / "zfs"
    shutil.copytree(spl.spl.source.tree, tree, symlinks=True)
    source = tree / "module" / "os" / "linux" / "spl" / "spl-kmem-cache.c"
    text = source.read_text()
    assert text.count("HZ / 10") == 1
    source.write_text(text.replace("HZ / 10", "60 * HZ"))
    return tree


def test_own_source_is_judged_and_not_touched(run_scenario: Callable[..., RunResult], own_tree: Path) -> None:
    before = input_hash({"tree": own_tree})
    result = run_scenario("held-worker", spl=f"path:{own_tree}", clock=Clock.REAL)
    result.must_be(Outcome.STALLED)
    assert input_hash({"tree": own_tree}) == before


def test_own_patch_mends_it(run_scenario: Callable[..., RunResult], own_tree: Path, tmp_path: Path) -> None:
    """A plain patch, in the form git makes."""
    patch = tmp_path / "mend.patch"
    source = "module/os/linux/spl/spl-kmem-cache.c"
    lines = (own_tree / source).read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if "60 * HZ" in line)
    context = [f" {lines[at - 1]}", f"-{lines[at]}", f"+{lines[at].replace('60 * HZ', 'HZ / 10')}", f" {lines[at + 1]}"]
    patch.write_text("\n".join([f"--- a/{source}", f"+++ b/{source}", f"@@ -{at},3 +{at},3 @@", *context]) + "\n")
    run_scenario("held-worker", spl=f"path:{own_tree}", patches=(patch,), clock=Clock.REAL).must_be(Outcome.PROGRESS)


# Objects that a slab is to have, if nothing else is asked for.
PER_SLAB = re.compile(r"(?m)^(#define\s+SPL_KMEM_CACHE_OBJ_PER_SLAB\s+)8\b")


# What an incremental build may get wrong; a dozen builds.
@pytest.mark.splvm_slow
def test_kept_tree_builds_what_a_clean_one_builds(spl: Prepared, tmp_path: Path) -> None:
    """To the byte, after edits of source and header, one that does not compile, and a patch that comes and goes."""
    tree = tmp_path / "zfs"
    shutil.copytree(spl.spl.source.tree, tree, symlinks=True)
    source, header = tree / SPL_DIR / "spl-kmem-cache.c", tree / "include/os/linux/spl/sys/kmem_cache.h"
    # A content that nobody else has: what is forgotten below is nobody else's.
    text, macros = f"{source.read_text()}/* {tmp_path} */\n", header.read_text()
    assert text.count("HZ / 10") == 1 and PER_SLAB.search(macros)
    mutant = Path(__file__).parent / "mutants" / "flag-never-set.cocci"

    def build(number: str, per_slab: str = "8", patches: tuple[Path, ...] = (), *, keep: bool = True) -> str:
        source.write_text(text.replace("HZ / 10", f"HZ / {number}"))
        header.write_text(PER_SLAB.sub(rf"\g<1>{per_slab}", macros))
        deadline = Deadline(600)
        own = find_source(find_tree(f"path:{tree}"), spl.store, spl.apt, deadline)
        config = _configure(spl.store, spl.kernel.root, own, deadline)
        made = _build_spl_ko(spl.store, spl.kernel.root, own, config, patches, deadline, keep=keep)
        content = input_hash({"made": made.path})
        spl.store.forget(made.kind, made.key, deadline=deadline, what="spl.ko of a test")
        return content

    first = build("10")
    edited = build("5")
    with pytest.raises(BuildError):
        build("no_such_name")
    mended = build("7", "16")
    patched = build("7", patches=(mutant,))
    assert len({first, edited, mended, patched}) == 4
    assert build("10") == first
    assert build("10", keep=False) == first
    assert build("7", "16", keep=False) == mended


@pytest.mark.splvm_slow
def test_checkout_without_configure(run_scenario: Callable[..., RunResult], spl: Prepared, tmp_path: Path) -> None:
    """A git checkout has nothing of what the autotools generate: autogen.sh makes it, in a copy."""
    tree = tmp_path / "zfs"
    shutil.copytree(spl.spl.source.tree, tree, symlinks=True)
    # Below module/ the Makefile.in are sources.
    made = [path for path in tree.rglob("Makefile.in") if "generated by automake" in path.read_text()[:200]]
    for path in [tree / "configure", tree / "aclocal.m4", tree / "zfs_config.h.in", *made]:
        path.unlink()
    run_scenario("held-worker", spl=f"path:{tree}", clock=Clock.REAL).must_be(Outcome.PROGRESS)
    assert not (tree / "configure").exists()


ASSERTION = """@@
@@
 spl_emergency_alloc(...)
 {
 <...
 spin_lock(&skc->skc_lock);
+ASSERT(skc == NULL);
 ...>
 }
"""


@pytest.mark.splvm_slow
@pytest.mark.parametrize(("patches", "outcome"), [((), Outcome.PROGRESS), ((find_debug_header(),), Outcome.CRASHED)])
def test_assertions_are_checked_with_the_debug_option(
    run_scenario: Callable[..., RunResult], tmp_path: Path, patches: tuple[Path, ...], outcome: Outcome
) -> None:
    patch = tmp_path / "assertion.cocci"
    patch.write_text(ASSERTION)
    run_scenario("held-worker", window_s=2, patches=(patch, *patches), clock=Clock.REAL).must_be(outcome)


@pytest.mark.splvm_slow
def test_a_semantic_patch_of_zfs_is_in_zfs_ko(prepare_spl: Callable[..., Prepared], tmp_path: Path) -> None:
    patch = tmp_path / "arc.cocci"
    patch.write_text('@@\n@@\n arc_init(...)\n {\n ...\n+printk("splvm was here\\n");\n mutex_init(...);\n ...\n }\n')
    build = prepare_spl(patches=(patch,))
    assert build.spl.beside_spl == ("arc.cocci",)
    made = _build_modules(build.store, build.kernel.root.apart(), build.spl, Deadline(900))
    assert b"splvm was here" in (made.path / "zfs.ko").read_bytes()
