"""Builds that fail say why in the tool's own words and leave nothing; the user's source is never touched."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from framework.errors import BuildError, UsageError
from framework.evidence.verdict import Outcome
from framework.host.store import Store, input_hash
from framework.lab.prepare import Prepared
from framework.plugin import RunResult

pytestmark = pytest.mark.vm

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
    before = kept()
    with pytest.raises(BuildError) as caught:
        prepare_spl(patches=(patch,))
    assert complaint in caught.value.tail
    assert caught.value.log is not None
    assert caught.value.log.exists()
    assert caught.value.exit_status == 3
    assert kept() == before, "nothing half-built in the store"


def kept() -> set[str]:
    """What is in the store: artefacts, and scratch."""
    root = Store.default_root()
    return {
        f"{path.parent.name}/{path.name}" for kind in ("spl", "slabprobe", "tmp") for path in root.glob(f"{kind}/*")
    }


@pytest.mark.parametrize("name", ["missing.patch", "wrong.txt"])
def test_patch_that_is_none(prepare_spl: Callable[..., Prepared], tmp_path: Path, name: str) -> None:
    (tmp_path / "wrong.txt").write_text("text")
    with pytest.raises(UsageError, match=name):
        prepare_spl(patches=(tmp_path / name,))


def test_source_that_is_none(prepare_spl: Callable[..., Prepared], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not the top of an OpenZFS tree"):
        prepare_spl(spl=f"path:{tmp_path}")


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
    result = run_scenario("held-worker", spl=f"path:{own_tree}")
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
    run_scenario("held-worker", spl=f"path:{own_tree}", patches=(patch,)).must_be(Outcome.PROGRESS)


@pytest.mark.slow
def test_checkout_without_configure(run_scenario: Callable[..., RunResult], spl: Prepared, tmp_path: Path) -> None:
    """A git checkout has no configure and no Makefile.in: autogen.sh makes them, in a copy."""
    tree = tmp_path / "zfs"
    shutil.copytree(spl.spl.source.tree, tree, symlinks=True)
    generated = [tree / "configure", tree / "aclocal.m4", tree / "zfs_config.h.in", *tree.rglob("Makefile.in")]
    for path in generated:
        path.unlink(missing_ok=True)
    run_scenario("held-worker", spl=f"path:{tree}").must_be(Outcome.PROGRESS)
    assert not (tree / "configure").exists()
