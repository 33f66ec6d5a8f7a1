"""What apt and the archive say, as text: versions of packages, dates of lists, and what went wrong.

Pure, but for the types of errors; who asks apt, and with which configuration, is debian.py's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum

from debian.deb822 import Packages, PkgRelation, Release

from splvm.errors import SetupError

# Suites whose package lists may be past their date.
EXPIRED_VARIABLE = "SPLVM_ALLOW_EXPIRED"


@dataclass(frozen=True, slots=True)
class PackageVersion:
    """One version of a package."""

    package: str
    version: str
    # "amd64" or "all".
    architecture: str
    # Bytes.
    size: int
    sha256: str
    # The source package and its version; signed kernels have a source package of their own.
    source: str
    source_version: str
    # Pre-Depends and Depends as written.
    depends: str
    # Path in the archive; empty when the lists no longer have it.
    filename: str
    # False when only the copy that was downloaded once is left.
    indexed: bool = True


@dataclass(frozen=True, slots=True)
class ReleaseFile:
    """The signed facts of an archive about one pocket."""

    # Code name of the pocket, such as `bookworm-security`.
    name: str
    # When it was made, and until when it may be used; None for ever. In UTC.
    date: datetime
    valid_until: datetime | None

    def is_expired(self, now: datetime) -> bool:
        """Whether a mirror that was up to date would have a newer one."""
        return self.valid_until is not None and self.valid_until < now


@dataclass(frozen=True, slots=True)
class Dependency:
    """The first alternative of a dependency."""

    package: str
    # "=", ">=", "<<" and so on with the version; both empty when any will do.
    operator: str
    version: str


class PackageGoneError(SetupError):
    """A version that the mirror does not have (any more); the next candidate may be there."""


class Trouble(Enum):
    """The kinds of trouble that apt complains of."""

    SIGNATURE = "the signature of a package list is missing or not by a key of Debian's"
    EXPIRED = "the mirror's package lists are past the date until which they are good"
    HASH = "a file is not the one that the signed package lists name"
    GONE = "the mirror does not have the file"
    NO_SUITE = "the mirror does not have the suite"
    OFFLINE = "the mirror cannot be reached"
    OTHER = "apt failed"


# Searched in this order in apt's own words in the C locale (apt 2.2 to 3.x): a list that is refused for its signature
# is also said to be missing.
_SYMPTOMS: Sequence[tuple[Trouble, re.Pattern[str]]] = (
    (
        Trouble.SIGNATURE,
        re.compile(
            r"GPG error|OpenPGP|NO_PUBKEY|BADSIG|EXPKEYSIG|signatures? (?:couldn't|verification|is|were)"
            r"|is (?:not|no longer) signed"
        ),
    ),
    (Trouble.EXPIRED, re.compile(r"Release file for \S+ is (?:expired|not valid yet)")),
    (Trouble.HASH, re.compile(r"Hash Sum mismatch|unexpected size|Hashes of received file")),
    (Trouble.NO_SUITE, re.compile(r"does not have a Release file|no longer has a Release file")),
    (
        Trouble.OFFLINE,
        re.compile(
            r"[Rr]esolv|[Cc]ould not connect|[Uu]nable to connect|Connection (?:failed|refused|timed out|reset)"
            r"|Network is unreachable|No route to host|Cannot initiate the connection|Bad Gateway|Gateway Time-?out"
            r"|Service Unavailable|Proxy Authentication Required"
        ),
    ),
    (Trouble.GONE, re.compile(r"404 +Not Found|File not found|was not found|Unable to locate package")),
)

_HINTS = {
    Trouble.SIGNATURE: "the mirror or something on the way to it is not to be trusted, or the keyring is too old "
    "(apt install debian-archive-keyring)",
    Trouble.EXPIRED: "the mirror has not been updated for long, or this host's clock is wrong: set SPLVM_MIRROR to "
    f"another mirror, or {EXPIRED_VARIABLE} to the names of suites of which old lists will do; signatures are checked "
    "all the same",
    Trouble.HASH: "the mirror is being updated or has been tampered with; try again later or set SPLVM_MIRROR",
    Trouble.NO_SUITE: "set SPLVM_MIRROR to a Debian mirror that has it",
    Trouble.OFFLINE: "check the network and apt's proxy settings, or set SPLVM_MIRROR",
    Trouble.OTHER: "`apt-get update` on this host may show this trouble too",
}


def find_trouble(text: str) -> Trouble:
    """The kind of trouble that the output of apt complains of."""
    for trouble, pattern in _SYMPTOMS:
        if pattern.search(text):
            return trouble
    return Trouble.OTHER


def parse_release(text: str) -> list[ReleaseFile]:
    """The facts of a Release or InRelease file, in a list; empty if it has no name or no date."""
    fields = Release(text)
    try:
        date = parsedate_to_datetime(fields["Date"]).astimezone(UTC)
        until = parsedate_to_datetime(fields["Valid-Until"]).astimezone(UTC) if "Valid-Until" in fields else None
        return [ReleaseFile(fields["Codename"], date, until)]
    except (KeyError, ValueError):
        return []


def parse_candidates(text: str) -> Iterator[PackageVersion]:
    """Versions of packages in the output of ``apt-cache show``, each version once."""
    seen = set()
    for fields in Packages.iter_paragraphs(text, use_apt_pkg=False):
        if "Filename" not in fields or (key := (fields["Package"], fields["Version"])) in seen:
            continue
        seen.add(key)
        source = re.fullmatch(r"(\S+)(?: \((.+)\))?", fields.get("Source", fields["Package"]))
        depends = [fields[name] for name in ("Pre-Depends", "Depends") if name in fields]
        yield PackageVersion(
            package=fields["Package"],
            version=fields["Version"],
            architecture=fields["Architecture"],
            size=int(fields["Size"]),
            sha256=fields["SHA256"],
            source=source[1] if source else fields["Package"],
            source_version=(source and source[2]) or fields["Version"],
            depends=", ".join(depends),
            filename=fields["Filename"],
        )


def parse_depends(text: str) -> list[Dependency]:
    """Dependencies in a Depends field, of alternatives the first."""
    found = []
    # The library takes an empty clause for a name.
    clauses = ", ".join(clause for clause in text.split(",") if clause.strip())
    for first, *_ in PkgRelation.parse_relations(clauses) if clauses else ():
        operator, version = first["version"] or ("", "")
        found.append(Dependency(first["name"], operator, version))
    return found


def explain(what: str, trouble: Trouble, tail: str) -> SetupError:
    """The error for a step of apt's that failed, with apt's own words."""
    said = "\n".join(line for line in tail.splitlines() if line.startswith(("E:", "W:"))) or tail
    error = PackageGoneError if trouble is Trouble.GONE else SetupError
    return error(f"{what}: {trouble.value}\n{said}", hint=_HINTS.get(trouble))


def lacks_release(text: str, release: str) -> bool:
    """Whether apt says that the mirror does not have a pocket."""
    return re.search(rf"{re.escape(release)} Release' (?:does not have|no longer has) a Release file", text) is not None
