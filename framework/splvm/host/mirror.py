"""Where packages come from: suites of Debian, and what the host's own apt says of its mirror and the way there.

The host's apt is asked and never changed. No mirror is named here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from splvm.deadline import Deadline
from splvm.errors import SetupError, UsageError
from splvm.host.content import Input, input_hash
from splvm.host.memo import Memo, stamps
from splvm.host.process import find_program, run

_QUERY_S = 60.0


@dataclass(frozen=True, slots=True)
class Pocket:
    """One directory below dists/ of an archive."""

    # As in a line of sources.list.
    release: str
    # Whether it is in the security archive rather than the main one.
    security: bool = False
    # Whether a mirror may be without it: archived suites lose theirs.
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Suite:
    """A Debian release with the pockets that belong to it."""

    name: str
    pockets: tuple[Pocket, ...]


def _released(name: str) -> Suite:
    updates = Pocket(f"{name}-updates", optional=True)
    return Suite(name, (Pocket(name), updates, Pocket(f"{name}-security", security=True)))


SUITES: Mapping[str, Suite] = {
    suite.name: suite
    for suite in (
        _released("bullseye"),
        _released("bookworm"),
        _released("trixie"),
        Suite("sid", (Pocket("sid"),)),
    )
}


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where packages come from: URIs as in sources.list, without the slash at the end."""

    main: str
    security: str


def find_suite(name: str) -> Suite:
    """:raises UsageError: when there is no such suite here."""
    if name not in SUITES:
        raise UsageError(f"no suite {name!r}; there are {', '.join(SUITES)}")
    return SUITES[name]


def find_mirror(memo: Memo | None = None) -> Mirror:
    """The mirror of Debian: $SPLVM_MIRROR and $SPLVM_SECURITY_MIRROR, else the one the host's own apt uses.

    Without a security archive of its own it is taken to be ``debian-security`` beside the main one.

    :param memo: where what apt says is kept, half a second's work; it has to rest on `HostApt.basis`.
    :raises SetupError: when the host's apt has no Debian archive, on Ubuntu for one.
    """
    security = os.environ.get("SPLVM_SECURITY_MIRROR", "")
    main = os.environ.get("SPLVM_MIRROR", "")
    if not main:
        main, found = choose_mirror(memo.answer("index targets", _list_targets) if memo else _list_targets())
        security = security or found
    main = main.rstrip("/")
    return Mirror(main, security.rstrip("/") or _beside(main, "debian-security"))


def _list_targets() -> str:
    fields = "$(CREATED_BY)\t$(ORIGIN)\t$(LABEL)\t$(RELEASE)\t$(REPO_URI)"
    argv = ["apt-get", "indextargets", "--format", fields]
    return run(argv, deadline=Deadline(_QUERY_S), what="asking apt for its mirror").stdout


def choose_mirror(listing: str) -> tuple[str, str]:
    """The main and the security URI in what apt says of its index targets.

    :param listing: lines of creator, origin, label, release and URI, separated by tabs. Origin and label are only
        known to a host that has package lists; on others the names of releases decide.
    :raises SetupError: when no Debian archive is among them.
    """
    main = security = ""
    pockets = {pocket.release for suite in SUITES.values() for pocket in suite.pockets} | {"stable", "unstable"}
    for line in listing.splitlines():
        creator, origin, label, release, uri = line.split("\t")
        if creator != "Packages" or uri.startswith("cdrom:"):
            continue
        if origin.startswith("$("):
            origin, label = ("Debian", "Debian") if release in pockets else ("", "")
        is_security = label == "Debian-Security" or release.endswith("-security")
        if origin != "Debian" or not (is_security or label == "Debian"):
            continue
        if is_security:
            security = security or uri
        else:
            main = main or uri
    if not main:
        raise SetupError(
            "apt on this host has no Debian archive in its sources, and splvm takes kernels from such an archive",
            hint="set SPLVM_MIRROR to the URI of a Debian mirror, as in sources.list",
        )
    return main, security


@dataclass(frozen=True, slots=True)
class HostApt:
    """How the host's own apt is configured."""

    # Lines of apt.conf with how it reaches its mirror: proxies, credentials, certificates, time-outs.
    settings: tuple[str, ...]
    # Hash of all that its index targets depend on.
    basis: str


# Which files make up an index and whom to trust are not the host's business here.
_UNWANTED = re.compile(
    r'Acquire::(?:IndexTargets|Changelogs|Languages|CompressionTypes|GzipIndexes|Allow\w+)\b|.* "";$'
)

# Where apt has its files: a variable's name, a setting, and whether it is a file or a directory.
_PLACES = {
    "netrc": "Dir::Etc::netrc/f",
    "netrcparts": "Dir::Etc::netrcparts/d",
    "sources": "Dir::Etc::sourcelist/f",
    "sourceparts": "Dir::Etc::sourceparts/d",
    "lists": "Dir::State::lists/d",
}


def ask_host() -> HostApt:
    """Ask the host's apt for its settings.

    :raises SetupError: when it is missing or refuses.
    """
    dump = _apt_config("dump")
    said = _apt_config("shell", *(word for place in _PLACES.items() for word in place))
    places: dict[str, str] = dict(re.findall(r"(?m)^(\w+)='(.*)'$", said))
    settings = [line for line in dump.splitlines() if line.startswith("Acquire::") and not _UNWANTED.match(line)]
    for name in ("netrc", "netrcparts"):
        if name in places:
            settings.append(f'Dir::Etc::{name} "{places[name].rstrip("/")}";')
    files = [Path(places[name]) for name in ("sources", "sourceparts", "lists") if name in places]
    files.append(Path(find_program("apt-get")))
    basis: dict[str, Input] = {"settings": dump, "places": said, "files": stamps(files)}
    return HostApt(tuple(settings), input_hash(basis))


def _apt_config(*argv: str) -> str:
    return run(["apt-config", *argv], deadline=Deadline(_QUERY_S), what="asking apt for its settings").stdout


def _beside(uri: str, name: str) -> str:
    """The URI with its last path component replaced."""
    scheme, rest = re.fullmatch(r"([a-z0-9+]+:/{0,2})?(.*)", uri, re.DOTALL).groups()  # type: ignore[union-attr]
    head, slash, _ = rest.rpartition("/")
    return f"{scheme or ''}{head if slash else rest}/{name}"
