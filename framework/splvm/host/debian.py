"""Debian packages of several suites at once, through apt on private state.

Owns ``apt/`` in the store: per suite a configuration, package lists, what was asked of them, and downloaded packages;
and what the host's own apt said of its mirror. apt itself checks signatures and hashes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from debian.debian_support import Version

from splvm.deadline import Deadline
from splvm.errors import SetupError
from splvm.host.archive import (
    EXPIRED_VARIABLE,
    Dependency,
    PackageGoneError,
    PackageVersion,
    ReleaseFile,
    Trouble,
    explain,
    find_trouble,
    lacks_release,
    parse_candidates,
    parse_depends,
    parse_release,
)
from splvm.host.content import Input, input_hash
from splvm.host.memo import Memo, stamps, write_private
from splvm.host.mirror import Mirror, Suite, ask_host, find_mirror, find_suite
from splvm.host.process import Completed, find_program, run
from splvm.host.store import hold_lock, keep_room
from splvm.log import LOGGER, note, step

COMPONENTS = "main contrib"

_KEYRINGS = (
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
)
# Questions to the lists on disk.
_QUERY_S = 60.0
# Whatever apt is asked for, of which a package with debug symbols is the largest.
_APT_S = 1200.0
# What a query waits for another process that updates them.
_UPDATE_S = 600.0


KEYRING_PACKAGE = "debian-archive-keyring"


def find_keyring() -> Path:
    """The keys of the Debian archive.

    :raises SetupError: when they are not installed.
    """
    for name in _KEYRINGS:
        if os.path.isfile(name):
            return Path(name)
    raise SetupError(
        "the keys of the Debian archive are not on this host, so its packages cannot be checked",
        hint=f"apt install {KEYRING_PACKAGE}",
    )


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
        self._keyring = keyring or find_keyring()
        self._accepts_expired = self.suite.name in _expired_suites()
        self._home = store_root.absolute() / "apt" / self.suite.name
        for name in ("lists/partial", "cache/archives/partial", "state", "debs"):
            (self._home / name).mkdir(parents=True, exist_ok=True)
        host = ask_host()
        self._settings = host.settings
        self.mirror = mirror or find_mirror(Memo(self._home.parent / "mirror.json", host.basis))
        # What was asked already of the lists as they are.
        self._known: dict[str, list[PackageVersion]] = {}
        write_private(self._home / "status", "")
        write_private(self._home / "apt.conf", "\n".join(self._configuration()) + "\n")
        if not (self._home / "sources.list").exists() or self._updated_at() is None:
            write_private(self._home / "sources.list", self._sources())

    def sources_list(self) -> str:
        """The lines of sources.list, for mmdebstrap: pockets that the mirror turned out to lack are left out."""
        return (self._home / "sources.list").read_text(encoding="utf-8")

    def acquire_options(self) -> tuple[str, ...]:
        """Lines of apt.conf with the host's proxy and the like, for `mmdebstrap --aptopt`."""
        return self._settings

    def update(self, deadline: Deadline, max_age_s: float = 86400) -> None:
        """Fetch the package lists, unless those at hand are younger than `max_age_s`.

        Without a network the lists at hand are used, with a warning.

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
                write_private(self._home / "sources.list", sources)
                stamp = {"time": time.time(), "wanted": self._sources()}
                write_private(self._home / "updated.json", json.dumps(stamp))
                return
            trouble = find_trouble(done.tail)
            if updated is None or trouble not in _BEARABLE:
                raise explain(f"package lists of {self.suite.name}", trouble, done.tail)
            day = time.strftime("%Y-%m-%d %H:%M", time.localtime(updated))
            LOGGER.warning("%s: %s; going on with the package lists of %s", self.suite.name, trouble.value, day)

    def releases(self) -> list[ReleaseFile]:
        """The Release files of the package lists at hand, one for each pocket."""
        found = []
        for path in sorted((self._home / "lists").glob("*Release")):
            # Of a signed list, apt has checked that nothing but the signature is around it.
            with suppress(OSError):
                found += parse_release(path.read_text(encoding="utf-8", errors="replace"))
        return found

    def candidates(self, package: str) -> list[PackageVersion]:
        """All versions of a package, newest first; empty if there is none.

        Versions that were downloaded once and have left the lists since are among them.
        """
        if package not in self._known:
            found = list(parse_candidates(self._ask("apt-cache", "show", "--all-versions", package)))
            listed = {candidate.version for candidate in found}
            kept = [candidate for candidate in self._kept(package) if candidate.version not in listed]
            self._known[package] = sorted(found + kept, key=lambda each: Version(each.version), reverse=True)
        return list(self._known[package])

    def names(self, prefix: str) -> list[str]:
        """Packages whose names begin so, sorted."""
        return sorted(self._ask("apt-cache", "pkgnames", prefix).split())

    def candidate(self, package: str, version: str | None = None) -> PackageVersion:
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
        """The direct dependencies of a package; of alternatives the first.

        :param version: by default the newest one.
        :raises PackageGoneError: when the package, or that version of it, does not exist.
        """
        return parse_depends(self.candidate(package, version).depends)

    def closure(self, package: str) -> dict[str, str]:
        """Versions by name of all that a package needs to be installed where there is nothing, itself included.

        What it only recommends is left out.

        :raises PackageGoneError: when there is no such package.
        :raises SetupError: when apt cannot resolve it.
        """
        said = self._ask("apt-get", "--simulate", "--no-install-recommends", "install", package)
        found = dict(re.findall(r"^Inst (\S+) \((\S+)", said, re.MULTILINE))
        if package not in found:
            raise PackageGoneError(f"{self.suite.name} has no {package}")
        return found

    def download_all(self, versions: Mapping[str, str], directory: Path, deadline: Deadline) -> list[Path]:
        """Fetch packages in one go; their .deb files. apt has checked each against the signed lists.

        :param versions: by name, as `closure` gives them: whatever they need is among them.
        :param directory: where the files are put.
        :raises SetupError: when one of them cannot be fetched.
        """
        (directory / "partial").mkdir(exist_ok=True)
        what = f"download of {len(versions)} packages ({self.suite.name})"
        options = ["-o", f"Dir::Cache::archives={directory}", "-o", "Debug::NoLocking=true", "--no-install-recommends"]
        wanted = [f"{name}={version}" for name, version in sorted(versions.items())]
        argv = ["apt-get", *options, "--yes", "--download-only", "install", *wanted]
        with step(what):
            done = self._run(*argv, deadline=deadline, what=what)
        if done.exit_code != 0:
            raise explain(what, find_trouble(done.tail), done.tail)
        found = sorted(directory.glob("*.deb"))
        if len(found) != len(versions):
            raise SetupError(f"{what}: apt fetched {len(found)} files")
        return found

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
                        write_private(gone, lists)
                        raise
                    write_private(target.with_suffix(".json"), json.dumps(_as_json(candidate)))
                    (partial / target.name).replace(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return target

    def _fetch(self, candidate: PackageVersion, directory: Path, deadline: Deadline, what: str) -> None:
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
            write_private(trial, sources)
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

    def _kept(self, package: str) -> Iterator[PackageVersion]:
        for record in (self._home / "debs").glob(f"{package}_*.json"):
            # A record that cannot be read is as good as none: the file is fetched again.
            with suppress(OSError, ValueError, TypeError):
                if record.with_suffix(".deb").exists():
                    yield PackageVersion(**json.loads(record.read_text(encoding="utf-8")))

    def _ask(self, *argv: str) -> str:
        # While another process updates, some of the lists are new and some are old.
        with hold_lock(self._home / "lock", Deadline(_UPDATE_S), f"package lists of {self.suite.name}"):
            # A question takes a third of a second.
            return self._memo().answer(shlex.join(argv), partial(self._query, *argv))

    def _memo(self) -> Memo:
        """What was asked of just these lists, with this configuration."""
        files = [self._home / "lists", self._home / "sources.list", Path(find_program("apt-cache"))]
        basis: dict[str, Input] = {"configuration": list(self._configuration()), "files": stamps(files)}
        return Memo(self._home / "answers.json", input_hash(basis))

    def _query(self, *argv: str) -> str:
        done = self._run(*argv, deadline=Deadline(_QUERY_S), what=argv[0])
        if done.exit_code == 0 or "No packages found" in done.tail or "Unable to locate" in done.tail:
            return done.stdout
        raise SetupError(f"{' '.join(argv)} failed:\n{done.tail}")

    def _run(self, *argv: str, deadline: Deadline, what: str, cwd: Path | None = None) -> Completed:
        env = {"APT_CONFIG": str(self._home / "apt.conf")}
        guard = keep_room(self._home, what)
        return run(argv, deadline=deadline.sub(_APT_S), what=what, cwd=cwd, env=env, check=False, guard=guard)

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


def _deb_name(candidate: PackageVersion) -> str:
    # apt writes the colon of an epoch like this.
    version = candidate.version.replace(":", "%3a")
    return f"{candidate.package}_{version}_{candidate.architecture}.deb"


def _is_candidate(file: Path, candidate: PackageVersion) -> bool:
    try:
        if file.stat().st_size != candidate.size:
            return False
        with open(file, "rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == candidate.sha256
    except OSError:
        return False


def _as_json(candidate: PackageVersion) -> dict[str, str | int | bool]:
    """What is kept beside a downloaded package, for the day the lists no longer have it."""
    fields = {name: getattr(candidate, name) for name in PackageVersion.__slots__}
    return {**fields, "filename": "", "indexed": False}
