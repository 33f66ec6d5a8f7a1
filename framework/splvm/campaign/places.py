"""Places where a module allocates: what a run saw at each, beside the calls that the module's own relocations have.

Pure. A place is a call in a function of the module; several chains of the kernel's functions, masks and threads may
come by it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from splvm.builds.calls import Call
from splvm.evidence.formats.sites import Site, SitesFile, bare

# What another's thread does while somebody of the module waits for it.
HELPERS = "helpers"

# Parts of SPL, by the names of their functions; the first that fits counts.
_GROUPS = (
    ("caches", re.compile(r"_*spl_(?:kmem_cache|cache|slab|emergency|magazine)")),
    ("taskqs", re.compile(r"_*(?:spl_)?taskq?_")),
    ("threads", re.compile(r"_*(?:spl_)?k?thread_")),
    ("memory", re.compile(r"_*(?:spl_)?(?:kmem|vmem|kvmalloc|zalloc)")),
)
OTHERS = "others"


@dataclass(frozen=True, slots=True)
class Place:
    """One place, and what came by it."""

    # FUNCTION:CALLEE#N, or FUNCTION+OFFSET where the relocations have no such call.
    name: str
    # As the probe takes it: FUNCTION+OFFSET of a return address; empty for a helper.
    address: str
    # Empty if it was never reached.
    sites: tuple[Site, ...]
    # The call, where the relocations have it.
    call: Call | None = None

    @property
    def reclaims(self) -> int:
        return sum(site.reclaims for site in self.sites)

    @property
    def atomic(self) -> int:
        return sum(site.atomic for site in self.sites)


def place_of(site: Site, calls: Sequence[Call]) -> tuple[str, Call | None]:
    """The name of a site's place, and its call if it is known."""
    if site.helper:
        return f"{HELPERS}:{site.thread}", None
    for call in calls:
        if call.function == site.function and call.offset == site.offset:
            return call.place, call
    return f"{bare(site.function)}+{site.offset:#x}", None


def group_of(name: str) -> str:
    """The part of SPL that a place belongs to, by the function in its name."""
    if name.startswith(f"{HELPERS}:"):
        return HELPERS
    return next((group for group, pattern in _GROUPS if pattern.match(name)), OTHERS)


def find_places(files: Iterable[SitesFile], calls: Sequence[Call]) -> list[Place]:
    """All places: those that were reached, and the direct calls of the allocator that never were.

    :param files: of runs of one build.
    """
    sites: dict[str, dict[str, Site]] = {}
    known: dict[str, tuple[str, Call | None]] = {}
    for file in files:
        for site in file.sites:
            name, call = place_of(site, calls)
            here = sites.setdefault(name, {})
            here[site.id] = here[site.id].joined(site) if site.id in here else site
            known[name] = ("" if site.helper else f"{site.function}+{site.offset:#x}", call)
    places = [Place(name, known[name][0], tuple(here.values()), known[name][1]) for name, here in sites.items()]
    places += [
        Place(call.place, f"{call.function}+{call.offset:#x}", (), call)
        for call in calls
        if call.is_direct and call.place not in sites
    ]
    return sorted(places, key=lambda place: place.name)


def why_unreached(place: Place, places: Sequence[Place]) -> str:
    """Why nothing was seen of a direct call."""
    call = place.call
    if call is None:
        return "nothing is known of it"
    if call.is_of_init:
        return "runs while the module is loaded or goes"
    if call.is_jump:
        return "a jump: what it allocates is seen at the caller of its function"
    if call.callee in ("__alloc_percpu", "pcpu_alloc_noprof"):
        return "has no mask"
    return "no operation came by it"


def masks_of(place: Place, files: Sequence[SitesFile]) -> str:
    """Where reclaim at a place may go, the worst first."""
    if not place.sites or not files:
        return "-"
    found = {files[-1].may_enter(site) for site in place.sites}
    return next((word for word in ("FS", "IO", "neither") if word in found), "no reclaim")


def site_json(site: Site, file: SitesFile) -> dict[str, Any]:
    """One site as `splvm sites --json` has it."""
    return {
        "id": site.id,
        "chain": list(site.chain),
        "thread": site.thread,
        "marks": [name for name, has in (("NOIO", site.noio), ("NOFS", site.nofs)) if has],
        "calls": site.calls,
        "gfp": f"{site.asked:#x}",
        "effective": f"{site.effective:#x}",
        "may_enter": file.may_enter(site),
        "bytes": [site.least, site.most],
        "preempt_count": site.preempt,
        "atomic": site.atomic,
        "reclaims": site.reclaims,
        "entered": site.entered,
    }


def places_json(places: Sequence[Place], file: SitesFile) -> list[Mapping[str, Any]]:
    """Places as `splvm sites --json` has them."""
    return [
        {
            "place": place.name,
            "reached": bool(place.sites),
            **({} if place.sites else {"why": why_unreached(place, places)}),
            "sites": [site_json(site, file) for site in place.sites],
        }
        for place in places
    ]
