"""What counts as a save, and how two verdicts differ."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from simulated import simulate
from simulated_kinds import HELD
from splvm.builds.saves import Save, Watch
from splvm.builds.spl import _gather
from splvm.builds.tree import ALL_PARTS, SPL_DIR, find_inputs, inputs_key
from splvm.deadline import Deadline
from splvm.errors import SetupError
from splvm.evidence.verdict import Outcome, Reason, Verdict
from splvm.report.difference import compare_verdicts
from splvm.scenarios.judged import judge_evidence as judge


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "zfs"
    for name in (SPL_DIR / "spl-kmem-cache.c", SPL_DIR / "spl-taskq.c", Path("include/sys/kmem.h"), Path("META")):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(f"of {name}")
    return top


@pytest.fixture
def patch(tmp_path: Path) -> Path:
    path = tmp_path / "x.patch"
    path.write_text("patch")
    return path


@pytest.fixture
def watch(tree: Path, patch: Path) -> Watch:
    """One that has seen the first content."""
    made = Watch(tree, (patch,))
    assert made.look() is None, "nobody knows yet whether it rests"
    first = made.look()
    assert first and first.key == inputs_key(tree, (patch,))
    assert abs(first.at_s - time.time()) < 60, "not when the files were written"
    assert made.look() is None
    return made


def looks(watch: Watch, count: int = 4) -> list[Save]:
    return [save for _ in range(count) if (save := watch.look())]


def test_a_save_is_one(watch: Watch, tree: Path) -> None:
    before = time.time()
    (tree / SPL_DIR / "spl-taskq.c").write_text("edited")
    (save,) = looks(watch)
    # File systems count time in ticks of the kernel.
    assert before - 0.1 <= save.at_s <= time.time()


def test_patches_and_headers_count(watch: Watch, tree: Path, patch: Path) -> None:
    patch.write_text("edited")
    assert looks(watch)
    (tree / "include" / "sys" / "new.h").write_text("new")
    assert looks(watch)
    (tree / "include" / "sys" / "new.h").unlink()
    assert looks(watch)


def test_a_burst_is_one_save(watch: Watch, tree: Path) -> None:
    for number in range(5):
        (tree / SPL_DIR / "spl-taskq.c").write_text(f"edited {number}")
        assert watch.look() is None, "it does not rest"
    (save,) = looks(watch)
    assert save.key


def test_the_same_content_is_no_save(watch: Watch, tree: Path) -> None:
    source = tree / SPL_DIR / "spl-taskq.c"
    text = source.read_text()
    source.write_text(text)
    assert not looks(watch)
    beside = source.with_name("beside")
    beside.write_text(text)
    beside.replace(source)
    assert not looks(watch)


def test_back_again_before_anybody_looked(watch: Watch, tree: Path) -> None:
    source = tree / SPL_DIR / "spl-taskq.c"
    text = source.read_text()
    source.write_text("edited")
    assert watch.look() is None
    source.write_text(text)
    assert not looks(watch)


def test_a_rename_with_a_gap(watch: Watch, tree: Path, patch: Path) -> None:
    """Some editors move the old file away before the new one is there: a patch that is missing is no save."""
    patch.unlink()
    assert not looks(watch)
    patch.write_text("edited")
    assert len(looks(watch)) == 1
    shutil.move(tree / SPL_DIR, tree / "away")
    assert watch.look() is None
    shutil.move(tree / "away", tree / SPL_DIR)
    assert not looks(watch)


@pytest.mark.parametrize("name", [".spl-taskq.c.swp", "spl-taskq.c~", "#spl-taskq.c#", "4913", "spl-taskq.o", ".x.cmd"])
def test_what_editors_and_builds_leave_is_no_save(watch: Watch, tree: Path, name: str) -> None:
    (tree / SPL_DIR / name).write_text("beside")
    assert not looks(watch)
    # Emacs locks a file with a link to nowhere.
    (tree / SPL_DIR / ".#spl-taskq.c").symlink_to("user@host.1:2")
    assert not looks(watch)


def test_other_files_of_the_tree_do_not_go_into_the_module(watch: Watch, tree: Path) -> None:
    (tree / "META").write_text("Version: 9")
    assert not looks(watch)
    assert set(find_inputs(tree)) == {f"{SPL_DIR}/spl-kmem-cache.c", f"{SPL_DIR}/spl-taskq.c", "include/sys/kmem.h"}


def test_saves_without_an_end(tree: Path) -> None:
    saves = Watch(tree, ()).saves()
    first = next(saves)
    # While whoever has the first is busy.
    for text in ("one", "two"):
        (tree / SPL_DIR / "spl-taskq.c").write_text(text)
    assert next(saves).key == inputs_key(tree, ()) != first.key


def test_a_source_that_changes_while_it_is_read_is_not_built(tree: Path, patch: Path, tmp_path: Path) -> None:
    """What is in the store by the name of one content must not be made of another."""
    key = inputs_key(tree, (patch,))
    patch.write_text("edited")
    with pytest.raises(SetupError, match="was changed while it was read"):
        _gather(tree, (patch,), key, tmp_path, tmp_path / "src", tmp_path / "log", Deadline(20))


# Differences


def stalled(seconds: str) -> Verdict:
    return Verdict(Outcome.STALLED, (Reason(f"critical thread 0 (pid 7) got no object for the last {seconds} s"),))


def test_reasons_with_other_numbers_are_the_same() -> None:
    assert compare_verdicts(stalled("3.2"), stalled("2.95")) == ["STALLED, as before"]


def test_reasons_come_and_go() -> None:
    also = ((Outcome.SLOW, Reason("a gap of 1.2 s")),)
    after = Verdict(Outcome.STALLED, (Reason("nobody is woken"), *stalled("1").reasons), also)
    assert compare_verdicts(stalled("3"), after) == [
        "STALLED, as before",
        "new: nobody is woken",
        "new: a gap of 1.2 s",
    ]
    assert "gone: nobody is woken" in compare_verdicts(after, stalled("3"))


def test_figures_are_listed_with_both_values() -> None:
    good = judge(simulate(HELD).evidence())
    lines = compare_verdicts(stalled("3"), good)
    assert lines[0] == "PROGRESS, was STALLED"
    gap, most = good.figures["longest_gap_ms"], good.figures["slab"]["after"]["emergency"]["max"]
    assert f"longest gap: {gap} ms, was none" in lines
    assert f"emergency max: {most}, was none" in lines
    assert f"emergency max: {most}, as before" in compare_verdicts(good, good)
    assert f"objects: none, was {good.figures['objects_per_s']}/s" in compare_verdicts(good, stalled("3"))


def test_text_of_a_guest_is_shown_without_control_characters() -> None:
    after = Verdict(Outcome.CRASHED, (Reason("BUG: \x1b[2J in spl"),))
    assert "new: BUG:  [2J in spl" in compare_verdicts(stalled("3"), after)


def test_with_a_pool_the_sources_of_all_modules_count(tree: Path) -> None:
    arc = tree / "module" / "zfs" / "arc.c"
    arc.parent.mkdir(parents=True, exist_ok=True)
    arc.write_text("one")
    of_spl, of_all = Watch(tree, ()), Watch(tree, (), ALL_PARTS)
    assert len(looks(of_spl)) == len(looks(of_all)) == 1
    arc.write_text("two")
    assert not looks(of_spl) and len(looks(of_all)) == 1
