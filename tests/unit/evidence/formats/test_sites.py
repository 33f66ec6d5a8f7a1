"""/proc/slabprobe_sites: what a probe that watches the allocator says, read strictly."""

from __future__ import annotations

import pytest

from splvm.errors import EvidenceError
from splvm.evidence.formats.sites import bare, parse_sites

HEAD = "slabprobe_sites 1\nnow_ns 5000\nmasks fs=0x80 io=0x40 reclaim=0x400\n"
HOOKS = "hook __alloc_pages gfp_arg=0 err=0\nhook kmalloc_trace gfp_arg=-1 err=0\nhook __kmalloc gfp_arg=1 err=-16\n"
COUNTS = "calls=12 reclaims=5 declined=4 entered=1 waiting=0 atomic=0 preempt=1 least=64 most=4096"
SITE = (
    "site 0 id=1c0f874f thread=slabprobe_tq helper=0 asked=0xcc0 effective=0xc00 noio=1 nofs=0 "
    f"{COUNTS} chain=__alloc_pages<allocate_slab.isra.0<spl_kmem_alloc.part.3+0xb2/0x100 [spl]\n"
)
HELPER = (
    "site 1 id=0f440681 thread=kthreadd helper=1 asked=0xcc0 effective=0xcc0 noio=0 nofs=0 "
    f"{COUNTS} chain=kmem_cache_alloc_node<copy_process<kthreadd<ret_from_fork\n"
)


def test_a_site_has_names_without_what_a_compiler_adds() -> None:
    file = parse_sites(f"{HEAD}{HOOKS}{SITE}{HELPER}end\n")
    site, helper = file.sites
    assert site.chain == ("__alloc_pages", "allocate_slab", "spl_kmem_alloc")
    assert (site.function, site.offset, site.helper) == ("spl_kmem_alloc.part.3", 0xB2, False)
    assert site.words == "spl_kmem_alloc -> allocate_slab -> __alloc_pages"
    assert (helper.function, helper.helper, helper.chain[-1]) == ("", True, "ret_from_fork")
    assert (file.may_enter(site), file.may_enter(helper)) == ("neither", "FS")
    assert [hook.is_blind for hook in file.hooks] == [False, True, True]


def test_where_reclaim_may_go() -> None:
    masks = {"0x0": "no reclaim", "0x80": "no reclaim", "0x400": "neither", "0x440": "IO", "0x4c0": "FS"}
    for mask, words in masks.items():
        file = parse_sites(f"{HEAD}{SITE.replace('effective=0xc00', f'effective={mask}')}end\n")
        assert file.may_enter(file.sites[0]) == words, mask


def test_one_id_is_one_site() -> None:
    """Two calls of one function by the same names: counts are added, bounds are widened."""
    other = SITE.replace("site 0", "site 1").replace("least=64", "least=8").replace("preempt=1", "preempt=2")
    file = parse_sites(f"{HEAD}{SITE}{other}end\n")
    (site,) = file.sites
    assert (site.calls, site.reclaims, site.entered) == (24, 10, 2)
    assert (site.least, site.most, site.preempt) == (8, 4096, 2)
    assert set(file.by_number) == {0, 1}


def test_bare_names() -> None:
    for name in ("f.isra.0", "f.constprop.0.isra.1", "f.part.12", "f.cold", "f"):
        assert bare(name) == "f"
    assert bare("f.x") == "f.x"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        (HEAD.replace(" 1\n", " 2\n", 1), "version 1"),
        (f"{HEAD}{SITE}", "without a line `end`"),
        (f"{HEAD}{SITE}end", "has no end"),
        (f"{HEAD}{SITE.replace('calls=12 ', '')}end\n", "missing: calls"),
        (f"{HEAD}{SITE.replace('calls=12', 'calls=x')}end\n", "not a number"),
        (f"{HEAD}{SITE.replace('+0xb2/0x100', '')}end\n", "not a place in a module"),
        (f"{HEAD}{SITE.replace('allocate_slab', '0xffff$')}end\n", "not a function"),
        (f"{HEAD}{SITE.replace('<allocate_slab.isra.0<spl_kmem_alloc.part.3+0xb2/0x100', '')}end\n", "not a chain"),
        (f"{HEAD}hook a;b gfp_arg=0 err=0\nend\n", "not a function"),
    ],
)
def test_what_cannot_be_read_is_said(text: str, message: str) -> None:
    with pytest.raises(EvidenceError, match=message):
        parse_sites(text)
