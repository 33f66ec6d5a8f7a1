"""Places: what a run saw of a module's allocations, beside what its relocations say."""

from __future__ import annotations

from splvm.builds.calls import Call
from splvm.campaign.places import find_places, masks_of, why_unreached
from splvm.campaign.stormruns import find_only
from splvm.evidence.formats.sites import SitesFile, parse_sites

CALLS = (
    Call("spl_kmem_alloc.part.3", 0xB2, "__kmalloc_node", 1),
    Call("spl_kmem_alloc.part.3", 0xE0, "__kmalloc_node", 2),
    Call("spl_kvmalloc", 0x8F, "kvmalloc_node", 1, is_jump=True),
    Call("spl_init", 0x48, "__alloc_percpu", 1),
    Call("spl_kmem_alloc.part.3", 0x20, "printk", 1),
)


def file_of(*chains: str, effective: str = "0xc00") -> SitesFile:
    counts = "calls=12 reclaims=5 declined=5 entered=0 waiting=0 atomic=0 preempt=0 least=64 most=4096"
    sites = "".join(
        f"site {n} id={n:08x} thread=user helper={int('+' not in chain)} asked=0xcc0 effective={effective} noio=1 "
        f"nofs=0 {counts} chain={chain}\n"
        for n, chain in enumerate(chains)
    )
    return parse_sites(f"slabprobe_sites 1\nnow_ns 1\nmasks fs=0x80 io=0x40 reclaim=0x400\n{sites}end\n")


def test_what_was_reached_and_what_never_was() -> None:
    file = file_of("__kmalloc_node<spl_kmem_alloc.part.3+0xb2/0x100", "__alloc_pages<spl_kmem_alloc.part.3+0xb2/0x100")
    places = {place.name: place for place in find_places([file], CALLS)}
    assert len(places["spl_kmem_alloc:__kmalloc_node#1"].sites) == 2
    missing = {name: why_unreached(place, list(places.values())) for name, place in places.items() if not place.sites}
    assert missing == {
        "spl_kmem_alloc:__kmalloc_node#2": "no operation came by it",
        "spl_kvmalloc:kvmalloc_node#1": "a jump: what it allocates is seen at the caller of its function",
        "spl_init:__alloc_percpu#1": "runs while the module is loaded or goes",
    }


def test_a_place_that_the_relocations_do_not_have() -> None:
    """A call within a section needs no relocation."""
    (place,) = (it for it in find_places([file_of("__kmalloc<spl_kmem_zalloc+0x90/0xa0")], CALLS) if it.sites)
    assert (place.name, place.address) == ("spl_kmem_zalloc+0x90", "spl_kmem_zalloc+0x90")


def test_a_helper_has_no_address() -> None:
    (place,) = (it for it in find_places([file_of("kmem_cache_alloc<copy_process<kthreadd")], CALLS) if it.sites)
    assert (place.name, place.address) == ("helpers:user", "")


def test_the_worst_mask_counts() -> None:
    chain = "__kmalloc_node<spl_kmem_alloc.part.3+0xb2/0x100"
    for effective, words in {"0x80": "no reclaim", "0x400": "neither", "0x440": "IO", "0x4c0": "FS"}.items():
        file = file_of(chain, effective=effective)
        (place,) = (it for it in find_places([file], CALLS) if it.sites)
        assert masks_of(place, [file]) == words


def test_names_that_a_user_gives() -> None:
    assert find_only(["spl_kmem_alloc:__kmalloc_node#2"], CALLS) == (("spl_kmem_alloc.part.3+0xe0",), [])
    both = ("spl_kmem_alloc.part.3+0xb2", "spl_kmem_alloc.part.3+0xe0")
    assert find_only(["spl_kmem_alloc:__kmalloc_node"], CALLS) == (both, [])
    assert find_only(["spl_x+0x10"], CALLS) == (("spl_x+0x10",), [])
    # A jump is in no stack, so nothing can be confined to it.
    assert find_only(["spl_kvmalloc:kvmalloc_node", "spl_none"], CALLS) == (
        (),
        ["spl_kvmalloc:kvmalloc_node", "spl_none"],
    )
