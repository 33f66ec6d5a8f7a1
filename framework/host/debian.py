"""Debian packages of several suites at once, through apt on private state.

Owns ``apt/`` in the store: per suite a configuration, package lists and downloaded packages. apt itself checks
signatures and hashes; the host's own apt is asked for its mirror, proxy and credentials, and never changed. No mirror
is named here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cmp_to_key
from pathlib import Path

from framework.deadline import Deadline
from framework.errors import SetupError, UsageError
from framework.host.archive import (
    EXPIRED_VARIABLE,
    Candidate,
    Dependency,
    PackageGoneError,
    ReleaseFile,
    Trouble,
    explain,
    find_trouble,
    lacks_release,
    parse_candidates,
    parse_depends,
    parse_release,
)
from framework.host.process import Completed, run
from framework.host.store import hold_lock
from framework.log import LOGGER, note, step

COMPONENTS = "main contrib"

_KEYRINGS = (
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
)
# Questions to the lists on disk.
_QUERY_S = 60.0
# What a query waits for another process that updates them.
_UPDATE_S = 600.0


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


def find_keyring() -> Path:
    """The keys of the Debian archive.

    :raises SetupError: when they are not installed.
    """
    for name in _KEYRINGS:
        if os.path.isfile(name):
            return Path(name)
    raise SetupError(
        "the keys of the Debian archive are not on this host, so its packages cannot be checked",
        hint="apt install debian-archive-keyring",
    )


def find_mirror() -> Mirror:
    """The mirror of Debian: $SPLVM_MIRROR and $SPLVM_SECURITY_MIRROR, else the one the host's own apt uses.

    Without a security archive of its own it is taken to be ``debian-security`` beside the main one.

    :raises SetupError: when the host's apt has no Debian archive, on Ubuntu for one.
    """
    security = os.environ.get("SPLVM_SECURITY_MIRROR", "")
    main = os.environ.get("SPLVM_MIRROR", "")
    if not main:
        fields = "$(CREATED_BY)\t$(ORIGIN)\t$(LABEL)\t$(RELEASE)\t$(REPO_URI)"
        argv = ["apt-get", "indextargets", "--format", fields]
        listing = run(argv, deadline=Deadline(_QUERY_S), what="asking apt for its mirror").stdout
        main, found = choose_mirror(listing)
        security = security or found
    main = main.rstrip("/")
    return Mirror(main, security.rstrip("/") or _beside(main, "debian-security"))


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
            "apt on this host knows no Debian archive, and kernels come from one",
            hint="set SPLVM_MIRROR to the URI of a Debian mirror, as in sources.list",
        )
    return main, security


class PrivateApt:
    """apt for one suite, on state of its own.

    :param store_root: directory of the store.
    :param suite: a row of `SUITES` or its name.
    :param mirror: where packages come from, by default what `find_mirror` finds.
    :param keyring: keys that its lists must be signed with, by default Debian's.
    :raises SetupError: when mirror or keyring cannot be found.
    """

    def __init__(
        self,
        store_root: Path,
        suite: Suite | str,
        mirror: Mirror | None = None,
        *,
        keyring: Path | None = None,
    ) -> None:
        self.suite = find_suite(suite) if isinstance(suite, str) else suite
        self.mirror = mirror or find_mirror()
        self._keyring = keyring or find_keyring()
        self._accepts_expired = self.suite.name in _expired_suites()
        self._home = store_root.absolute() / "apt" / self.suite.name
        for name in ("lists/partial", "cache/archives/partial", "state", "debs"):
            (self._home / name).mkdir(parents=True, exist_ok=True)
        self._settings = _host_settings()
        # What was asked already of the lists as they are; a question takes a third of a second.
        self._known: dict[str, list[Candidate]] = {}
        _write(self._home / "status", "")
        _write(self._home / "apt.conf", "\n".join(self._configuration()) + "\n")
        if not (self._home / "sources.list").exists() or self._updated_at() is None:
            _write(self._home / "sources.list", self._sources())

    def sources_list(self) -> str:
        """The lines of sources.list, for mmdebstrap: pockets that the mirror turned out to lack are left out."""
        return (self._home / "sources.list").read_text(encoding="utf-8")

    def acquire_options(self) -> tuple[str, ...]:
        """Lines of apt.conf with the host's proxy and the like, for `mmdebstrap --aptopt`."""
        return self._settings

    def update(self, deadline: Deadline, max_age_s: float = 86400) -> None:
        """Fetch the package lists, unless those at hand are younger than `max_age_s`.

        Without a network the lists at hand are used, and that is said.

        :raises SetupError: when there are no lists and no network, or when a list is not signed as it should be.
        """
        self._fetch_lists(deadline, max_age_s)
        for release in self.releases():
            if release.is_expired(datetime.now(UTC)):
                LOGGER.warning(
                    "%s: the mirror's package lists are of %s and were good until %s; %s accepts that, newer versions "
                    "may be out, and the signature is good",
                    release.name,
                    release.date.date(),
                    release.valid_until.date() if release.valid_until else "?",
                    EXPIRED_VARIABLE if self._accepts_expired else "the configuration of this host's apt",
                )

    def _fetch_lists(self, deadline: Deadline, max_age_s: float) -> None:
        with hold_lock(self._home / "lock", deadline, f"package lists of {self.suite.name}"):
            self._known.clear()
            updated = self._updated_at()
            if updated is not None and 0 <= time.time() - updated < max_age_s:
                return
            with step(f"package lists of {self.suite.name}"):
                done, sources = self._try_update(deadline)
            if done.exit_code == 0:
                _write(self._home / "sources.list", sources)
                stamp = {"time": time.time(), "wanted": self._sources()}
                _write(self._home / "updated.json", json.dumps(stamp))
                return
            trouble = find_trouble(done.tail)
            if updated is None or trouble not in _BEARABLE:
                raise explain(f"package lists of {self.suite.name}", trouble, done.tail)
            day = time.strftime("%Y-%m-%d %H:%M", time.localtime(updated))
            LOGGER.warning("%s: %s; going on with the package lists of %s", self.suite.name, trouble.value, day)

    def releases(self) -> list[ReleaseFile]:
        """What the package lists at hand rest on, one for each pocket."""
        found = []
        for path in sorted((self._home / "lists").glob("*Release")):
            # Of a signed list, apt has checked that nothing but the signature is around it.
            with suppress(OSError):
                found += parse_release(path.read_text(encoding="utf-8", errors="replace"))
        return found

    def candidates(self, package: str) -> list[Candidate]:
        """All versions of a package, newest first; empty if there is none.

        Versions that were downloaded once and have left the lists since are among them.
        """
        if package not in self._known:
            found = list(parse_candidates(self._ask("apt-cache", "show", "--all-versions", package)))
            listed = {candidate.version for candidate in found}
            kept = [candidate for candidate in self._kept(package) if candidate.version not in listed]
            # apt sorts what is in its lists; the rest is compared with dpkg, a process each, so only if there is any.
            if kept:
                found = sorted(found + kept, key=cmp_to_key(_compare_versions), reverse=True)
            self._known[package] = found
        return list(self._known[package])

    def candidate(self, package: str, version: str | None = None) -> Candidate:
        """One version of a package.

        :param version: by default the newest one.
        :raises PackageGoneError: when the package, or that version of it, does not exist.
        """
        found = self.candidates(package)
        for candidate in found:
            if version in (None, candidate.version):
                return candidate
        versions = ", ".join(candidate.version for candidate in found) or "no version at all"
        wanted = f"{package} {version}" if version else package
        raise PackageGoneError(f"{self.suite.name} has no {wanted}; its lists have {versions}")

    def depends(self, package: str, version: str | None = None) -> list[Dependency]:
        """What a package depends on directly, of alternatives the first.

        :param version: by default the newest one.
        :raises PackageGoneError: when the package, or that version of it, does not exist.
        """
        return parse_depends(self.candidate(package, version).depends)

    def download(self, package: str, version: str, deadline: Deadline) -> Path:
        """The .deb file of a package, fetched once and kept.

        :raises PackageGoneError: when the mirror does not have it although its lists may.
        :raises SetupError: when the mirror cannot be reached, or the file is not the one in the signed lists.
        """
        candidate = self.candidate(package, version)
        target = self._home / "debs" / _deb_name(candidate)
        what = f"download of {package} {version} ({self.suite.name})"
        with hold_lock(target.with_suffix(".lock"), deadline, what):
            if _is_candidate(target, candidate):
                return target
            if not candidate.indexed:
                raise PackageGoneError(f"{what}: the kept file is damaged, and the mirror no longer has it")
            # A mirror that does not have it will not have it until its lists are fetched again.
            gone, lists = target.with_suffix(".gone"), str(self._updated_at())
            if gone.exists() and gone.read_text() == lists:
                raise PackageGoneError(f"{what}: the mirror does not have the file, which was tried before")
            # Nobody else writes here while the lock is held, so what a killed process left can go.
            partial = target.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                with step(what):
                    try:
                        self._fetch(candidate, partial, deadline, what)
                    except PackageGoneError:
                        _write(gone, lists)
                        raise
                    _write(target.with_suffix(".json"), json.dumps(_as_json(candidate)))
                    (partial / target.name).replace(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return target

    def _fetch(self, candidate: Candidate, directory: Path, deadline: Deadline, what: str) -> None:
        wanted = f"{candidate.package}={candidate.version}"
        done = self._run("apt-get", "download", wanted, deadline=deadline, what=what, cwd=directory)
        if done.exit_code != 0:
            raise explain(what, find_trouble(done.tail), done.tail)
        # apt has checked it too; this is about the name, and about the disk.
        file = directory / _deb_name(candidate)
        if not _is_candidate(file, candidate):
            raise explain(what, Trouble.HASH, f"{file.name} is not the file that the lists name")

    def _try_update(self, deadline: Deadline) -> tuple[Completed, str]:
        """Update, without optional pockets that turn out not to exist; the lines that were used are returned too."""
        missing: set[str] = set()
        while True:
            sources = self._sources(missing)
            trial = self._home / "sources.trial"
            _write(trial, sources)
            options = ["-o", f"Dir::Etc::sourcelist={trial}", "--error-on=any"]
            done = self._run("apt-get", *options, "update", deadline=deadline, what=f"apt update {self.suite.name}")
            new = {p.release for p in self.suite.pockets if p.optional and lacks_release(done.tail, p.release)}
            if done.exit_code == 0 or not new - missing:
                return done, sources
            missing |= new
            note(f"{self.suite.name}: the mirror has no {', '.join(sorted(new))}; going on without")

    def _sources(self, missing: set[str] | frozenset[str] = frozenset()) -> str:
        lines = []
        for pocket in self.suite.pockets:
            if pocket.release not in missing:
                uri = self.mirror.security if pocket.security else self.mirror.main
                options = f"arch=amd64 signed-by={self._keyring}"
                if self._accepts_expired:
                    options += " check-valid-until=no"
                lines.append(f"deb [{options}] {uri} {pocket.release} {COMPONENTS}\n")
        return "".join(lines)

    def _updated_at(self) -> float | None:
        """When the lists were fetched from this mirror (seconds of the epoch); None if they never were."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            stamp = json.loads((self._home / "updated.json").read_text(encoding="utf-8"))
            if stamp["wanted"] == self._sources():
                return float(stamp["time"])
        return None

    def _kept(self, package: str) -> Iterator[Candidate]:
        for record in (self._home / "debs").glob(f"{package}_*.json"):
            # A record that cannot be read is as good as none: the file is fetched again.
            with suppress(OSError, ValueError, TypeError):
                if record.with_suffix(".deb").exists():
                    yield Candidate(**json.loads(record.read_text(encoding="utf-8")))

    def _ask(self, *argv: str) -> str:
        # While another process updates, some of the lists are new and some are old.
        with hold_lock(self._home / "lock", Deadline(_UPDATE_S), f"package lists of {self.suite.name}"):
            done = self._run(*argv, deadline=Deadline(_QUERY_S), what=argv[0])
        if done.exit_code == 0 or "No packages found" in done.tail or "Unable to locate" in done.tail:
            return done.stdout
        raise SetupError(f"{' '.join(argv)} failed:\n{done.tail}")

    def _run(self, *argv: str, deadline: Deadline, what: str, cwd: Path | None = None) -> Completed:
        env = {"APT_CONFIG": str(self._home / "apt.conf")}
        return run(argv, deadline=deadline, what=what, cwd=cwd, env=env, check=False)

    def _configuration(self) -> Iterator[str]:
        own = {
            "Dir::State": self._home / "state",
            "Dir::State::lists": self._home / "lists",
            "Dir::State::status": self._home / "status",
            "Dir::Cache": self._home / "cache",
            "Dir::Etc::sourcelist": self._home / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            # The host's configuration would be read after this file, and override it.
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            "APT::Get::AllowUnauthenticated": "false",
            "Acquire::AllowInsecureRepositories": "false",
            "Acquire::AllowWeakRepositories": "false",
            "Acquire::AllowDowngradeToInsecureRepositories": "false",
            # A suite changes from testing to stable and on; that is no surprise here.
            "Acquire::AllowReleaseInfoChange": "true",
            "Acquire::Languages": "none",
            # 70 MB per suite on the disk instead of 160, and as fast.
            "Acquire::GzipIndexes": "true",
            "Dir::Cache::srcpkgcache": "",
        }
        if os.geteuid() == 0:
            # The user that apt would become cannot write here when the store is in root's home.
            own["APT::Sandbox::User"] = "root"
        # apt waits for minutes otherwise; the host's own settings come after these and win.
        yield 'Acquire::Retries "2"; Acquire::http::Timeout "30"; Acquire::https::Timeout "30";'
        yield from self._settings
        for name, value in own.items():
            yield f'{name} "{value}";'


# What leaves the lists at hand as good as they were.
_BEARABLE = (Trouble.OFFLINE, Trouble.NO_SUITE, Trouble.GONE, Trouble.EXPIRED)


def _expired_suites() -> frozenset[str]:
    """:raises UsageError: when the variable names a suite that does not exist."""
    names = os.environ.get(EXPIRED_VARIABLE, "").replace(",", " ").split()
    return frozenset(find_suite(name).name for name in names)


def _host_settings() -> tuple[str, ...]:
    """Lines of apt.conf with how the host's apt reaches its mirror: proxies, credentials, certificates, time-outs."""
    query = Deadline(_QUERY_S)
    dump = run(["apt-config", "dump", "Acquire"], deadline=query, what="asking apt for its settings").stdout
    # Which files make up an index and whom to trust are not the host's business here.
    unwanted = re.compile(
        r'Acquire(?: |::(?:IndexTargets|Changelogs|Languages|CompressionTypes|GzipIndexes|Allow\w+)\b)|.* "";$'
    )
    settings = [line for line in dump.splitlines() if not unwanted.match(line)]
    argv = ["apt-config", "shell", "file", "Dir::Etc::netrc/f", "directory", "Dir::Etc::netrcparts/d"]
    paths = dict(
        re.findall(r"(?m)^(\w+)='(.*)'$", run(argv, deadline=query, what="asking apt for its settings").stdout)
    )
    for name, key in (("file", "netrc"), ("directory", "netrcparts")):
        if name in paths:
            settings.append(f'Dir::Etc::{key} "{paths[name].rstrip("/")}";')
    return tuple(settings)


def _beside(uri: str, name: str) -> str:
    """The URI with its last path component replaced."""
    scheme, rest = re.fullmatch(r"([a-z0-9+]+:/{0,2})?(.*)", uri, re.DOTALL).groups()  # type: ignore[union-attr]
    head, slash, _ = rest.rpartition("/")
    return f"{scheme or ''}{head if slash else rest}/{name}"


def _deb_name(candidate: Candidate) -> str:
    # apt writes the colon of an epoch like this.
    version = candidate.version.replace(":", "%3a")
    return f"{candidate.package}_{version}_{candidate.architecture}.deb"


def _is_candidate(file: Path, candidate: Candidate) -> bool:
    try:
        if file.stat().st_size != candidate.size:
            return False
        with open(file, "rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == candidate.sha256
    except OSError:
        return False


def _as_json(candidate: Candidate) -> dict[str, str | int | bool]:
    """What is kept beside a downloaded package, for the day the lists no longer have it."""
    fields = {name: getattr(candidate, name) for name in Candidate.__slots__}
    return {**fields, "filename": "", "indexed": False}


def _compare_versions(one: Candidate, other: Candidate) -> int:
    for operator, result in (("lt", -1), ("gt", 1)):
        argv = ["dpkg", "--compare-versions", one.version, operator, other.version]
        if run(argv, deadline=Deadline(_QUERY_S), what="comparing versions", check=False).exit_code == 0:
            return result
    return 0


def _write(path: Path, text: str) -> None:
    """Write a file in one go, for its owner only: the URI of a mirror may contain a password."""
    fresh = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    fresh.replace(path)
