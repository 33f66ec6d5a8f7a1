"""What the semantic patches of the variants make of every packaged SPL, as the patched source shows it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from splvm.builds.spl import find_source
from splvm.builds.tree import SPL_DIR, apply_patch
from splvm.builds.variants import VARIANTS
from splvm.deadline import Deadline
from splvm.host.debian import PrivateApt
from splvm.host.mirror import SUITES
from splvm.host.store import Store

pytestmark = pytest.mark.splvm_vm

COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
# A call of SPL's own conversion, and what makes GFP_NOIO of it.
FLAGS = re.compile(r"\bkmem_flags_convert\([^()]*\)")
NOIO = re.compile(rf"\({FLAGS.pattern} & ~\(__GFP_IO \| __GFP_FS\)\)")


def function(code: str, name: str) -> str:
    """A function's definition, empty if there is none."""
    found = re.search(rf"(?m)^{name}\([^;{{]*\)\s*^{{.*?^}}", code, re.DOTALL)
    return found[0] if found else ""


# The oldest source and the newest are patched by default: what lies between is of one of them, but for a line or two.
@pytest.fixture(
    params=[
        pytest.param(suite, marks=[pytest.mark.splvm_slow] * (suite not in ("bullseye", "sid"))) for suite in SUITES
    ]
)
def patched(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """A function that gives SPL's code in a variant, without comments; for the source of each suite."""
    store = Store.default()
    apt = PrivateApt(store.root, request.param)
    apt.update(Deadline(300))
    source = find_source(None, store, apt, Deadline(300))

    def patch(variant: str) -> str:
        tree = tmp_path / variant
        shutil.copytree(source.tree / SPL_DIR, tree / SPL_DIR)
        for cocci in VARIANTS[variant].patches():
            apply_patch(cocci, tree, tmp_path / "log", Deadline(120))
        files = sorted((tree / SPL_DIR).glob("*.c"))
        return COMMENT.sub("", "\n".join(path.read_text() for path in files))

    return patch


def test_stock_has_what_the_variants_take_away(patched: Callable[[str], str]) -> None:
    code = patched("stock")
    assert len(FLAGS.findall(code)) >= 9
    assert not NOIO.search(code)
    assert "spl_fstrans_mark()" in function(code, "__spl_cache_grow")
    assert "spl_fstrans_unmark(" in function(code, "__spl_cache_grow")
    assert "spl_fstrans_mark()" in function(code, "taskq_thread")
    grow = function(code, "spl_cache_grow")
    assert "wait_event_timeout(" in grow
    assert "spl_cache_grow_work," in grow
    assert "spl_emergency_alloc(" in grow


@pytest.mark.parametrize("variant", ["unscoped", "sync-grow"])
def test_flags_only(patched: Callable[[str], str], variant: str) -> None:
    """GFP_NOIO is in the flags of every allocation, and no thread is marked."""
    code = patched(variant)
    assert len(NOIO.findall(code)) == len(FLAGS.findall(code)) == len(re.findall(r"\bkmem_flags_convert\(", code))
    assert "spl_fstrans_" not in code
    assert "fstrans_cookie_t" not in code
    assert NOIO.search(function(code, "kv_alloc"))
    assert "spl_slab_alloc(skc, flags)" in function(code, "__spl_cache_grow")


def test_unscoped_has_worker_and_emergency_objects(patched: Callable[[str], str]) -> None:
    code, stock = patched("unscoped"), patched("stock")
    # But for the flags of its own allocation, nothing has changed.
    grow = NOIO.sub(lambda found: found[0][1 : found[0].index(" & ")], function(code, "spl_cache_grow"))
    assert words(grow) == words(function(stock, "spl_cache_grow"))
    assert words(function(code, "spl_cache_grow_work")) == words(function(stock, "spl_cache_grow_work"))
    assert NOIO.search(function(code, "spl_emergency_alloc"))


def test_list_walk_only_finds_in_another_way(patched: Callable[[str], str]) -> None:
    code, stock = patched("list-walk"), patched("stock")
    search, insert = function(code, "spl_emergency_search"), function(code, "spl_emergency_insert")
    assert "rb_left" not in search, "it goes from one to the next"
    assert words(search).count("for(;node;node = node->rb_right)") == 1
    for tree in ("rb_link_node", "rb_insert_color", "rb_erase", "while"):
        assert tree not in search + insert + function(code, "spl_emergency_free"), tree
    assert "root->rb_node = &ske->ske_node;" in insert
    for name in ("spl_emergency_search", "spl_emergency_insert", "spl_emergency_free"):
        code, stock = code.replace(function(code, name), ""), stock.replace(function(stock, name), "")
    assert code == stock


def test_sync_grow_has_neither(patched: Callable[[str], str]) -> None:
    code = patched("sync-grow")
    for gone in ("spl_cache_grow_work", "spl_cache_grow_wait", "spl_emergency_alloc", "spl_emergency_insert"):
        assert not re.search(rf"\b{gone}\b", code), gone
    grow = function(code, "spl_cache_grow")
    assert grow.count("__spl_cache_grow(skc, flags)") == 1
    for gone in ("taskq_dispatch", "wait_event", "KMC_BIT_GROWING", "KMC_BIT_DEADLOCKED"):
        assert gone not in grow, gone
    # The rest of it is there: callers look again when reaping is over, and at the new slab.
    assert "KMC_BIT_REAPING" in grow
    assert words(grow).endswith("return (rc); }")


def words(code: str) -> str:
    """Without what spatch makes of white space."""
    return re.sub(r"\( ", "(", " ".join(code.split()))
