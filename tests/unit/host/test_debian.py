"""The private apt, with the host's real apt on small archives signed with a key of their own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from splvm.deadline import Deadline
from splvm.errors import SetupError, UsageError
from splvm.host import debian, mirror
from splvm.host.archive import (
    Dependency,
    PackageGoneError,
    PackageVersion,
    Trouble,
    find_trouble,
    parse_candidates,
    parse_depends,
    parse_release,
)
from splvm.host.debian import PrivateApt, find_keyring
from splvm.host.mirror import SUITES, Mirror, choose_mirror, find_mirror, find_suite

needs_apt = pytest.mark.skipif(
    not all(map(shutil.which, ("apt-get", "dpkg-deb", "gpg"))), reason="apt, dpkg and gpg are needed"
)


# Parsers


def test_suites() -> None:
    assert [pocket.release for pocket in find_suite("sid").pockets] == ["sid"]
    bookworm = {pocket.release: pocket.security for pocket in find_suite("bookworm").pockets}
    assert bookworm == {"bookworm": False, "bookworm-updates": False, "bookworm-security": True}
    assert set(SUITES) == {"bullseye", "bookworm", "trixie", "sid"}
    with pytest.raises(UsageError, match="bullseye, bookworm, trixie, sid"):
        find_suite("potato")


def targets(*rows: str) -> str:
    return "".join("\t".join(row.split("|")) + "\n" for row in rows)


MAIN = "Packages|Debian|Debian|bookworm|http://mirror.example/debian/"
SECURITY = "Packages|Debian|Debian-Security|bookworm-security|http://security.example/debian-security/"
FOREIGN = "Packages|Vendor|Vendor|bookworm|https://vendor.example/apt/"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([MAIN, SECURITY], ("http://mirror.example/debian/", "http://security.example/debian-security/")),
        ([SECURITY, FOREIGN, MAIN], ("http://mirror.example/debian/", "http://security.example/debian-security/")),
        ([MAIN], ("http://mirror.example/debian/", "")),
        (["Translations|Debian|Debian|bookworm|http://other.example/", MAIN], ("http://mirror.example/debian/", "")),
        (["Packages|Debian|Debian|bookworm|cdrom:[Debian 12]/", MAIN], ("http://mirror.example/debian/", "")),
        (["Packages|Debian|Debian Backports|x|http://b.example/", MAIN], ("http://mirror.example/debian/", "")),
        # A host that has never fetched its lists.
        (
            [
                "Packages|$(ORIGIN)|$(LABEL)|nodistro|https://vendor.example/apt/",
                "Packages|$(ORIGIN)|$(LABEL)|bookworm-security|http://security.example/debian-security/",
                "Packages|$(ORIGIN)|$(LABEL)|bookworm|http://mirror.example/debian/",
            ],
            ("http://mirror.example/debian/", "http://security.example/debian-security/"),
        ),
    ],
)
def test_choose_mirror(rows: list[str], expected: tuple[str, str]) -> None:
    assert choose_mirror(targets(*rows)) == expected


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [FOREIGN],
        ["Packages|Ubuntu|Ubuntu|noble|http://host.example/other/"],
        ["Packages|$(ORIGIN)|$(LABEL)|noble|http://host.example/other/"],
        [SECURITY],
    ],
)
def test_host_without_debian(rows: list[str]) -> None:
    with pytest.raises(SetupError, match="SPLVM_MIRROR"):
        choose_mirror(targets(*rows))


@pytest.mark.parametrize(
    ("main", "security", "expected"),
    [
        ("http://a.example/debian/", "", Mirror("http://a.example/debian", "http://a.example/debian-security")),
        ("http://a.example/x/debian", "", Mirror("http://a.example/x/debian", "http://a.example/x/debian-security")),
        ("http://a.example", "", Mirror("http://a.example", "http://a.example/debian-security")),
        ("file:/srv/debian", "", Mirror("file:/srv/debian", "file:/srv/debian-security")),
        ("http://a.example/debian", "http://b.example/s/", Mirror("http://a.example/debian", "http://b.example/s")),
    ],
)
def test_mirror_from_the_environment(
    main: str, security: str, expected: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPLVM_MIRROR", main)
    monkeypatch.setenv("SPLVM_SECURITY_MIRROR", security)
    assert find_mirror() == expected


def test_missing_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "_KEYRINGS", ("/no/such/keyring",))
    with pytest.raises(SetupError, match="apt install debian-archive-keyring"):
        find_keyring()


# What apt 2.2, 2.6 and 3.0 say.
TROUBLES = [
    ("E: The repository 'http://a.example/debian sid InRelease' is not signed.", Trouble.SIGNATURE),
    ("E: The repository 'http://a.example/debian sid Release' is no longer signed.", Trouble.SIGNATURE),
    (
        "W: GPG error: http://a.example/debian sid InRelease: The following signatures couldn't be verified because "
        "the public key is not available: NO_PUBKEY 0E98404D386FA1D9",
        Trouble.SIGNATURE,
    ),
    (
        "W: OpenPGP signature verification failed: http://a.example/debian sid InRelease: Sub-process /usr/bin/sqv "
        "returned an error code (1), error message is: Missing key 4CB5",
        Trouble.SIGNATURE,
    ),
    (
        "E: Failed to fetch http://a.example/x.deb  Hash Sum mismatch\n   Hashes of expected file:",
        Trouble.HASH,
    ),
    (
        "E: Failed to fetch http://a.example/x.deb  File has unexpected size (12 != 13). Mirror sync in progress?",
        Trouble.HASH,
    ),
    ("E: The repository 'http://a.example/debian sarge Release' does not have a Release file.", Trouble.NO_SUITE),
    ("E: Failed to fetch http://a.example/debian/x.deb  404  Not Found [IP: 192.0.2.1 80]", Trouble.GONE),
    ("E: Version '1' for 'x' was not found", Trouble.GONE),
    (
        "E: Failed to fetch http://a.example/debian/x.deb  Temporary failure resolving 'a.example'",
        Trouble.OFFLINE,
    ),
    (
        "E: Failed to fetch http://a.example/x.deb  Could not connect to a.example:80 (192.0.2.1). - connect (111: "
        "Connection refused)",
        Trouble.OFFLINE,
    ),
    (
        "E: Failed to fetch http://a.example/x.deb  Unable to connect to a.example:http:",
        Trouble.OFFLINE,
    ),
    (
        "E: Release file for http://a.example/debian/dists/sid/InRelease is expired (invalid since 18d 7h 30min 4s). "
        "Updates for this repository will not be applied.",
        Trouble.EXPIRED,
    ),
    (
        "E: Release file for http://a.example/debian/dists/sid/InRelease is not valid yet (invalid for another 2d).",
        Trouble.EXPIRED,
    ),
    ("E: Could not open lock file /x/lock - open (13: Permission denied)", Trouble.OTHER),
]


@pytest.mark.parametrize(("text", "trouble"), TROUBLES)
def test_find_trouble(text: str, trouble: Trouble) -> None:
    assert find_trouble(text) is trouble


RELEASE = """\
-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA256

Origin: Debian
Suite: unstable
Codename: sid
Date: Fri, 30 Oct 2026 08:08:01 UTC
Valid-Until: Fri, 06 Nov 2026 08:08:01 UTC
SHA256:
 00 1 main/binary-amd64/Packages
"""


def test_parse_release() -> None:
    (release,) = parse_release(RELEASE)
    assert release.name == "sid"
    assert release.date == datetime(2026, 10, 30, 8, 8, 1, tzinfo=UTC)
    assert release.is_expired(datetime(2026, 11, 7, tzinfo=UTC))
    assert not release.is_expired(datetime(2026, 11, 6, tzinfo=UTC))
    (released,) = parse_release(RELEASE.replace("Valid-Until", "X"))
    assert released.valid_until is None
    assert not released.is_expired(datetime(2099, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("text", ["", "Codename: sid\n", RELEASE.replace("30 Oct", "soon"), "Date: \0\nCodename: x"])
def test_release_file_that_says_nothing(text: str) -> None:
    assert parse_release(text) == []


def test_parse_depends() -> None:
    text = "kmod, linux-base (>= 4.3~), initramfs-tools (>= 0.120) | linux-initramfs-tool, gcc:any, python3 (=3.1)"
    assert parse_depends(text) == [
        Dependency("kmod", "", ""),
        Dependency("linux-base", ">=", "4.3~"),
        Dependency("initramfs-tools", ">=", "0.120"),
        Dependency("gcc", "", ""),
        Dependency("python3", "=", "3.1"),
    ]
    assert parse_depends("") == []


SHOWN = """\
Package: linux-image-cloud-amd64
Source: linux-signed-amd64 (6.1.192+2)
Version: 6.1.192-2
Architecture: amd64
Pre-Depends: dpkg
Depends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)
Description: Linux for x86-64 cloud
 Version: not this one
 .
 More.
Filename: pool/l/x.deb
Size: 1504
SHA256: 00be

Package: linux-image-cloud-amd64
Version: 6.1.192-2
Architecture: amd64
Filename: pool/second/pocket.deb
Size: 1504
SHA256: 00be

Package: linux-image-cloud-amd64
Status: deinstall ok config-files
Version: 1
Architecture: amd64
"""


def test_parse_candidates() -> None:
    assert list(parse_candidates(SHOWN)) == [
        PackageVersion(
            package="linux-image-cloud-amd64",
            version="6.1.192-2",
            architecture="amd64",
            size=1504,
            sha256="00be",
            source="linux-signed-amd64",
            source_version="6.1.192+2",
            depends="dpkg, linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)",
            filename="pool/l/x.deb",
        )
    ]
    assert list(parse_candidates("")) == []


# apt itself


@dataclass(frozen=True)
class Keys:
    home: Path
    # What the private apt is told to trust.
    keyring: Path

    def sign(self, release: Path, who: str) -> None:
        gpg(self.home, "--local-user", who, "--clearsign", "--output", f"{release.parent}/InRelease", str(release))


def gpg(home: Path, *argv: str) -> bytes:
    command = ["gpg", "--homedir", str(home), "--batch", "--yes", "--pinentry-mode", "loopback", "--passphrase", ""]
    return subprocess.run([*command, *argv], check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    home = tmp_path_factory.mktemp("gpg")
    home.chmod(0o700)
    try:
        for who in ("archive", "stranger"):
            gpg(home, "--quick-generate-key", who, "ed25519", "sign", "never")
        keyring = home / "archive.gpg"
        keyring.write_bytes(gpg(home, "--export", "archive"))
        yield Keys(home, keyring)
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False, capture_output=True)


@dataclass
class Archive:
    """A Debian archive, as small as apt accepts it."""

    root: Path
    keys: Keys
    # Paragraphs of Packages by release.
    packages: dict[str, list[str]] = field(default_factory=dict)
    # Seconds of the epoch, one more with every list: apt asks whether a list has changed since.
    clock: int = 1_640_995_200

    def add(self, release: str, package: str, version: str, depends: str = "") -> Path:
        """Build a package and list it; its file."""
        control = f"Package: {package}\nVersion: {version}\nArchitecture: all\nMaintainer: x\nDescription: x\n"
        control += f"Depends: {depends}\n" if depends else ""
        tree = self.root / "build" / package
        (tree / "DEBIAN").mkdir(parents=True, exist_ok=True)
        (tree / "DEBIAN" / "control").write_text(control)
        deb = self.root / "pool" / f"{package}_{version.split(':')[-1]}_all.deb"
        deb.parent.mkdir(exist_ok=True)
        argv = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(deb)]
        subprocess.run(argv, check=True, capture_output=True)
        data = deb.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        where = f"Filename: pool/{deb.name}\nSize: {len(data)}\nSHA256: {digest}\n"
        self.packages.setdefault(release, []).append(control + where)
        return deb

    def publish(self, release: str, signed_by: str | None = "archive", valid_until: str = "") -> None:
        top = self.root / "dists" / release
        sums = []
        for component in ("main", "contrib"):
            listing = top / component / "binary-amd64" / "Packages"
            listing.parent.mkdir(parents=True, exist_ok=True)
            listing.write_text("\n".join(self.packages.get(release, [])) if component == "main" else "")
            digest = hashlib.sha256(listing.read_bytes()).hexdigest()
            sums.append(f" {digest} {listing.stat().st_size} {listing.relative_to(top)}\n")
        head = f"Origin: Debian\nLabel: Debian\nSuite: {release}\nCodename: {release}\nComponents: main contrib\n"
        self.clock += 1
        date = f"Date: {formatdate(self.clock, usegmt=True)}\n"
        date += f"Valid-Until: {valid_until}\n" if valid_until else ""
        date += "Architectures: amd64 all\nSHA256:\n"
        (top / "Release").write_text(head + date + "".join(sums))
        (top / "InRelease").unlink(missing_ok=True)
        if signed_by:
            self.keys.sign(top / "Release", signed_by)
        for file in top.rglob("*"):
            os.utime(file, (self.clock, self.clock))


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


class Site:
    """Both archives behind a web server on the loopback interface."""

    def __init__(self, root: Path, keys: Keys) -> None:
        self.main = Archive(root / "debian", keys)
        self.security = Archive(root / "debian-security", keys)
        for archive in (self.main, self.security):
            archive.root.mkdir()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.running = True
        base = f"http://127.0.0.1:{self._server.server_port}"
        self.mirror = Mirror(f"{base}/debian", f"{base}/debian-security")

    def stop(self) -> None:
        if self.running:
            self.running = False
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


@pytest.fixture
def site(tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    # The host's proxy, if it has one, knows nothing of this site.
    settings = tmp_path / "host-apt.conf"
    settings.write_text(
        'Acquire::http::Proxy::127.0.0.1 "DIRECT";\nAcquire::Retries "0";\nAcquire::AllowInsecureRepositories "true";\n'
        'Dir::Etc::main "/dev/null";\nDir::Etc::parts "/dev/null";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(settings))
    root = tmp_path / "site"
    root.mkdir()
    site = Site(root, keys)
    yield site
    site.stop()


@pytest.fixture
def sid(site: Site) -> Site:
    """A site with one suite of one pocket, published."""
    site.main.add("sid", "tool", "1.0-1", depends="libtool (>= 1) | other")
    site.main.add("sid", "tool", "1:0.9-1")
    site.main.publish("sid")
    return site


def private_apt(tmp_path: Path, site: Site, suite: str = "sid") -> PrivateApt:
    return PrivateApt(tmp_path / "store", suite, site.mirror, keyring=site.main.keys.keyring)


def update(apt: PrivateApt, max_age_s: float = 0) -> None:
    apt.update(Deadline(60), max_age_s)


@needs_apt
def test_candidates_and_download(tmp_path: Path, sid: Site) -> None:
    apt = private_apt(tmp_path, sid)
    assert apt.candidates("tool") == []
    update(apt)
    found = apt.candidates("tool")
    assert [candidate.version for candidate in found] == ["1:0.9-1", "1.0-1"]
    assert apt.depends("tool") == []
    assert apt.depends("tool", "1.0-1") == [Dependency("libtool", ">=", "1")]
    for candidate in found:
        path = apt.download("tool", candidate.version, Deadline(60))
        assert hashlib.sha256(path.read_bytes()).hexdigest() == candidate.sha256
    assert path.is_relative_to(tmp_path / "store" / "apt" / "sid")
    assert [child for child in path.parent.iterdir() if child.suffix == ".partial"] == []
    with pytest.raises(PackageGoneError, match=r"sid has no tool 3; its lists have 1:0\.9-1, 1\.0-1"):
        apt.download("tool", "3", Deadline(60))
    with pytest.raises(PackageGoneError, match="sid has no missing; its lists have no version at all"):
        apt.depends("missing")


@pytest.fixture
def linked(site: Site) -> Site:
    """A suite in which one package needs another."""
    site.main.add("sid", "tool", "1:2.0-1", depends="library (>= 3)")
    site.main.add("sid", "library", "3.1-1")
    site.main.add("sid", "unasked", "1")
    site.main.publish("sid")
    return site


@needs_apt
def test_a_package_with_all_that_it_needs(tmp_path: Path, linked: Site) -> None:
    apt = private_apt(tmp_path, linked)
    update(apt)
    versions = apt.closure("tool")
    assert versions == {"tool": "1:2.0-1", "library": "3.1-1"}
    files = apt.download_all(versions, tmp_path, Deadline(60))
    assert [path.name.split("_")[0] for path in files] == ["library", "tool"]
    assert [path.parent for path in files] == [tmp_path, tmp_path]
    with pytest.raises(PackageGoneError, match="sid has no missing"):
        apt.closure("missing")


@needs_apt
def test_a_tampered_package_among_several_is_refused(tmp_path: Path, linked: Site) -> None:
    apt = private_apt(tmp_path, linked)
    update(apt)
    deb = linked.main.root / "pool" / "library_3.1-1_all.deb"
    deb.write_bytes(deb.read_bytes()[:-1] + b"X")
    with pytest.raises(SetupError, match="a file is not the one that the signed package lists name"):
        apt.download_all(apt.closure("tool"), tmp_path, Deadline(60))


@needs_apt
def test_archive_in_a_directory(tmp_path: Path, sid: Site) -> None:
    mirror = Mirror(f"file:{sid.main.root}", f"file:{sid.security.root}")
    apt = PrivateApt(tmp_path / "store", "sid", mirror, keyring=sid.main.keys.keyring)
    update(apt)
    path = apt.download("tool", "1.0-1", Deadline(60))
    assert path.is_file() and not path.is_symlink()
    (sid.main.root / "pool" / "tool_0.9-1_all.deb").unlink()
    with pytest.raises(PackageGoneError):
        apt.download("tool", "1:0.9-1", Deadline(60))


@needs_apt
def test_pockets_of_a_release(tmp_path: Path, site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.main.add("bookworm", "linux", "6.1-1")
    site.main.publish("bookworm")
    site.security.add("bookworm-security", "linux", "6.1-2")
    site.security.publish("bookworm-security")
    caplog.set_level("INFO", "splvm")
    apt = private_apt(tmp_path, site, "bookworm")
    update(apt)
    assert "the mirror has no bookworm-updates" in caplog.text
    assert [candidate.version for candidate in apt.candidates("linux")] == ["6.1-2", "6.1-1"]
    assert [line.split()[-3] for line in apt.sources_list().splitlines()] == ["bookworm", "bookworm-security"]
    assert all("signed-by=" in line for line in apt.sources_list().splitlines())
    # Another object sees the same, and a pocket that appears is taken up.
    assert private_apt(tmp_path, site, "bookworm").sources_list() == apt.sources_list()
    site.main.add("bookworm-updates", "linux", "6.1-3")
    site.main.publish("bookworm-updates")
    update(apt)
    assert [candidate.version for candidate in apt.candidates("linux")] == ["6.1-3", "6.1-2", "6.1-1"]


@needs_apt
def test_suite_that_the_mirror_lacks(tmp_path: Path, site: Site) -> None:
    with pytest.raises(SetupError, match="the mirror does not have the suite"):
        update(private_apt(tmp_path, site))


@needs_apt
@pytest.mark.parametrize("signed_by", [None, "stranger"])
@pytest.mark.parametrize("before", [False, True])
def test_wrong_signature_is_refused(tmp_path: Path, sid: Site, signed_by: str | None, before: bool) -> None:
    apt = private_apt(tmp_path, sid)
    if before:
        update(apt)
    sid.main.add("sid", "tool", "6.6-6")
    sid.main.publish("sid", signed_by)
    with pytest.raises(SetupError, match="the signature of a package list is missing or not by a key of Debian's"):
        update(apt)
    assert [candidate.version for candidate in apt.candidates("tool")] == (["1:0.9-1", "1.0-1"] if before else [])


@needs_apt
def test_tampered_list_is_refused(tmp_path: Path, sid: Site) -> None:
    listing = sid.main.root / "dists" / "sid" / "main" / "binary-amd64" / "Packages"
    listing.write_text(listing.read_text().replace("SHA256: ", "SHA256: 0")[:-1])
    with pytest.raises(SetupError, match="a file is not the one that the signed package lists name"):
        update(private_apt(tmp_path, sid))


@needs_apt
@pytest.mark.parametrize("same_size", [True, False])
def test_tampered_package_is_refused(tmp_path: Path, sid: Site, same_size: bool) -> None:
    apt = private_apt(tmp_path, sid)
    update(apt)
    deb = sid.main.root / "pool" / "tool_1.0-1_all.deb"
    deb.write_bytes(deb.read_bytes()[:-1] + (b"X" if same_size else b""))
    with pytest.raises(SetupError, match="a file is not the one that the signed package lists name") as caught:
        apt.download("tool", "1.0-1", Deadline(60))
    assert not isinstance(caught.value, PackageGoneError)
    assert list((tmp_path / "store" / "apt" / "sid" / "debs").glob("*.deb")) == []


@needs_apt
def test_package_that_is_indexed_but_gone(tmp_path: Path, sid: Site) -> None:
    apt = private_apt(tmp_path, sid)
    update(apt)
    file = sid.main.root / "pool" / "tool_0.9-1_all.deb"
    data = file.read_bytes()
    file.unlink()
    with pytest.raises(PackageGoneError, match="404"):
        apt.download("tool", "1:0.9-1", Deadline(60))
    assert apt.download("tool", "1.0-1", Deadline(60)).exists()
    # It is not asked for again with every run, but it is once the lists have been.
    file.write_bytes(data)
    with pytest.raises(PackageGoneError, match="tried before"):
        private_apt(tmp_path, sid).download("tool", "1:0.9-1", Deadline(60))
    update(apt)
    assert apt.download("tool", "1:0.9-1", Deadline(60)).read_bytes() == data


# Lists that are past their date.

PAST = "Sat, 01 Jan 2022 00:00:00 UTC"


@needs_apt
def test_expired_list_is_refused(tmp_path: Path, sid: Site) -> None:
    sid.main.publish("sid", valid_until=PAST)
    with pytest.raises(SetupError, match="past the date until which they are good") as caught:
        update(private_apt(tmp_path, sid))
    assert "SPLVM_ALLOW_EXPIRED" in str(caught.value.hint)


@needs_apt
def test_expired_list_is_no_reason_to_drop_the_one_at_hand(
    tmp_path: Path, sid: Site, caplog: pytest.LogCaptureFixture
) -> None:
    apt = private_apt(tmp_path, sid)
    update(apt)
    sid.main.publish("sid", valid_until=PAST)
    update(apt)
    assert "going on with the package lists of" in caplog.text
    assert len(apt.candidates("tool")) == 2


@needs_apt
@pytest.mark.parametrize("by", ["the user", "the host's apt"])
def test_expired_list_that_is_accepted(
    tmp_path: Path, sid: Site, by: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if by == "the user":
        monkeypatch.setenv("SPLVM_ALLOW_EXPIRED", "trixie, sid")
    else:
        settings = Path(os.environ["APT_CONFIG"])
        settings.write_text(f'{settings.read_text()}Acquire::Check-Valid-Until "false";\n')
    sid.main.publish("sid", valid_until=PAST)
    apt = private_apt(tmp_path, sid)
    update(apt)
    assert len(apt.candidates("tool")) == 2
    assert [(release.name, str(release.valid_until)) for release in apt.releases()] == [
        ("sid", "2022-01-01 00:00:00+00:00")
    ]
    assert "sid: the mirror's package lists are of 2022-01-01 and were good until 2022-01-01" in caplog.text
    assert ("SPLVM_ALLOW_EXPIRED" in caplog.text) == (by == "the user")
    # Old is one thing, and somebody else's another.
    sid.main.publish("sid", signed_by="stranger", valid_until=PAST)
    with pytest.raises(SetupError, match="the signature of a package list is missing or not by a key of Debian's"):
        update(apt)


def test_suites_that_may_be_expired_have_to_exist(tmp_path: Path, sid: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLVM_ALLOW_EXPIRED", "potato")
    with pytest.raises(UsageError, match="potato"):
        private_apt(tmp_path, sid)


@needs_apt
def test_without_a_network(tmp_path: Path, sid: Site, caplog: pytest.LogCaptureFixture) -> None:
    apt = private_apt(tmp_path, sid)
    update(apt)
    kept = apt.download("tool", "1.0-1", Deadline(60))
    sid.stop()
    update(apt)
    assert "sid: the mirror cannot be reached; going on with the package lists of" in caplog.text
    assert len(apt.candidates("tool")) == 2
    assert apt.download("tool", "1.0-1", Deadline(60)) == kept
    with pytest.raises(SetupError, match="the mirror cannot be reached") as caught:
        apt.download("tool", "1:0.9-1", Deadline(60))
    assert not isinstance(caught.value, PackageGoneError)
    assert "check the network" in str(caught.value.hint)


@needs_apt
def test_without_a_network_and_lists(tmp_path: Path, sid: Site) -> None:
    sid.stop()
    with pytest.raises(SetupError, match="the mirror cannot be reached") as caught:
        update(private_apt(tmp_path, sid))
    assert "check the network" in str(caught.value.hint)


@needs_apt
def test_updated_once_a_day(tmp_path: Path, sid: Site, caplog: pytest.LogCaptureFixture) -> None:
    apt = private_apt(tmp_path, sid)
    update(apt, 86400)
    sid.main.add("sid", "tool", "2:1")
    sid.main.publish("sid")
    update(private_apt(tmp_path, sid), 86400)
    assert len(apt.candidates("tool")) == 2
    stamp = tmp_path / "store" / "apt" / "sid" / "updated.json"
    stamp.write_text(json.dumps({**json.loads(stamp.read_text()), "time": 0}))
    update(apt, 86400)
    assert len(apt.candidates("tool")) == 3
    # Lists of another mirror do not count.
    other = PrivateApt(
        tmp_path / "store", "sid", Mirror("http://127.0.0.1:1/debian", ""), keyring=sid.main.keys.keyring
    )
    with pytest.raises(SetupError, match="cannot be reached"):
        update(other, 86400)
    assert "127.0.0.1:1/" in other.sources_list()


@needs_apt
def test_package_that_has_left_the_lists_is_kept(tmp_path: Path, sid: Site) -> None:
    apt = private_apt(tmp_path, sid)
    update(apt)
    path = apt.download("tool", "1.0-1", Deadline(60))
    shutil.rmtree(sid.main.root / "pool")
    sid.main.packages.clear()
    sid.main.add("sid", "tool", "0.5-1")
    sid.main.add("sid", "tool", "2.0-1")
    sid.main.publish("sid")
    update(apt)
    found = apt.candidates("tool")
    assert [(candidate.version, candidate.indexed) for candidate in found] == [
        ("2.0-1", True),
        ("1.0-1", False),
        ("0.5-1", True),
    ]
    assert apt.depends("tool", "1.0-1") == [Dependency("libtool", ">=", "1")]
    assert apt.download("tool", "1.0-1", Deadline(60)) == path
    path.write_bytes(b"damaged")
    with pytest.raises(PackageGoneError, match="the kept file is damaged"):
        apt.download("tool", "1.0-1", Deadline(60))


@needs_apt
def test_damaged_download_is_fetched_again(tmp_path: Path, sid: Site) -> None:
    apt = private_apt(tmp_path, sid)
    update(apt)
    path = apt.download("tool", "1.0-1", Deadline(60))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"X")
    (path.parent / f"{path.stem}.partial").mkdir()
    assert apt.download("tool", "1.0-1", Deadline(60)) == path
    assert path.read_bytes() == whole


@needs_apt
def test_host_settings_are_carried_over_but_not_its_trust(
    tmp_path: Path, sid: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Path(os.environ["APT_CONFIG"])
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    # The site is only reached through this proxy, which does not answer.
    settings.write_text(
        f'Acquire::http::Proxy "http://127.0.0.1:{port}/";\nAcquire::Retries "0";\n'
        'Acquire::AllowInsecureRepositories "true";\nDir::Etc::netrc "/secret/auth.conf";\n'
    )
    for name in ("http_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    apt = private_apt(tmp_path, sid)
    assert f'Acquire::http::Proxy "http://127.0.0.1:{port}/";' in apt.acquire_options()
    assert not [line for line in apt.acquire_options() if "Allow" in line]
    with pytest.raises(SetupError, match="cannot be reached"):
        update(apt)
    config = {**os.environ, "APT_CONFIG": str(tmp_path / "store" / "apt" / "sid" / "apt.conf")}
    dump = subprocess.run(["apt-config", "dump"], env=config, check=True, capture_output=True, text=True).stdout
    for line in (
        'Acquire::AllowInsecureRepositories "false";',
        'Acquire::Retries "0";',
        'Dir::Etc::netrc "/secret/auth.conf";',
        f'Dir::State::lists "{tmp_path}/store/apt/sid/lists";',
        f'Dir::Cache "{tmp_path}/store/apt/sid/cache";',
    ):
        assert line in dump.splitlines()


# What apt has said already


@dataclass
class Asked:
    """How often apt was asked."""

    targets: int = 0
    queries: list[str] = field(default_factory=list)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    counter = Asked()
    list_targets, query = mirror._list_targets, PrivateApt._query

    def count_targets() -> str:
        counter.targets += 1
        return list_targets()

    def count_queries(self: PrivateApt, *argv: str) -> str:
        counter.queries.append(argv[-1])
        return query(self, *argv)

    monkeypatch.setattr(mirror, "_list_targets", count_targets)
    monkeypatch.setattr(PrivateApt, "_query", count_queries)
    return counter


@pytest.fixture
def host_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host whose apt has just this source list."""
    for name in ("SPLVM_MIRROR", "SPLVM_SECURITY_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    sources, lists, settings = tmp_path / "host.list", tmp_path / "host-lists", tmp_path / "host.conf"
    lists.mkdir()
    # apt names a target only once it has fetched it.
    for host in ("one", "two"):
        (lists / f"{host}.example_debian_dists_bookworm_main_binary-amd64_Packages").touch()
    (tmp_path / "host.list.d").mkdir()
    sources.write_text("deb http://one.example/debian bookworm main\n")
    places = {"Etc::sourcelist": sources, "Etc::sourceparts": f"{sources}.d", "State::lists": lists}
    settings.write_text("".join(f'Dir::{name} "{path}";\n' for name, path in places.items()))
    monkeypatch.setenv("APT_CONFIG", str(settings))
    return sources


def main_mirror(tmp_path: Path) -> str:
    return PrivateApt(tmp_path / "store", "sid", keyring=tmp_path / "keyring").mirror.main


@needs_apt
def test_the_host_is_asked_once_for_its_mirror(tmp_path: Path, host_sources: Path, asked: Asked) -> None:
    assert [main_mirror(tmp_path) for _ in range(3)] == ["http://one.example/debian"] * 3
    assert asked.targets == 1


def _another_list(sources: Path) -> None:
    sources.write_text(sources.read_text().replace("one", "two"))


def _another_list_in_parts(sources: Path) -> None:
    _another_list(Path(f"{sources}.d") / "part.list")


def _another_configuration(sources: Path) -> None:
    another = sources.with_name("another.list")
    another.write_text("deb http://two.example/debian bookworm main\n")
    settings = Path(os.environ["APT_CONFIG"])
    settings.write_text(settings.read_text().replace(f'"{sources}"', f'"{another}"'))


@needs_apt
@pytest.mark.parametrize("change", [_another_list, _another_list_in_parts, _another_configuration])
def test_a_host_that_was_set_up_anew_is_asked_anew(
    tmp_path: Path, host_sources: Path, asked: Asked, change: Callable[[Path], None]
) -> None:
    if change is _another_list_in_parts:
        host_sources.rename(Path(f"{host_sources}.d") / "part.list")
    assert main_mirror(tmp_path) == "http://one.example/debian"
    change(host_sources)
    assert main_mirror(tmp_path) == "http://two.example/debian"
    assert asked.targets == 2


@needs_apt
def test_a_host_is_asked_again_when_the_memo_is_damaged(tmp_path: Path, host_sources: Path, asked: Asked) -> None:
    main_mirror(tmp_path)
    memo = tmp_path / "store" / "apt" / "mirror.json"
    memo.write_text(memo.read_text().replace("one.example", "bad.example"))
    assert main_mirror(tmp_path) == "http://one.example/debian"
    assert asked.targets == 2


@needs_apt
def test_the_environment_comes_before_what_is_kept(
    tmp_path: Path, host_sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main_mirror(tmp_path)
    monkeypatch.setenv("SPLVM_MIRROR", "http://env.example/debian")
    assert main_mirror(tmp_path) == "http://env.example/debian"


@needs_apt
def test_lists_are_asked_once(tmp_path: Path, sid: Site, asked: Asked) -> None:
    update(private_apt(tmp_path, sid))
    found = [private_apt(tmp_path, sid).candidates("tool") for _ in range(3)]
    assert found[0] == found[1] == found[2] and len(found[0]) == 2
    assert private_apt(tmp_path, sid).candidates("missing") == []
    assert asked.queries == ["tool", "missing"]


@needs_apt
def test_new_lists_are_asked_anew(tmp_path: Path, sid: Site, asked: Asked) -> None:
    update(private_apt(tmp_path, sid))
    assert len(private_apt(tmp_path, sid).candidates("tool")) == 2
    sid.main.add("sid", "tool", "2:1")
    sid.main.publish("sid")
    update(private_apt(tmp_path, sid))
    assert [it.version for it in private_apt(tmp_path, sid).candidates("tool")] == ["2:1", "1:0.9-1", "1.0-1"]
    assert asked.queries == ["tool", "tool"]


@needs_apt
def test_lists_that_somebody_else_changed_are_asked_anew(tmp_path: Path, sid: Site, asked: Asked) -> None:
    update(private_apt(tmp_path, sid))
    assert len(private_apt(tmp_path, sid).candidates("tool")) == 2
    for path in (tmp_path / "store" / "apt" / "sid" / "lists").glob("*Packages*"):
        path.unlink()
    assert private_apt(tmp_path, sid).candidates("tool") == []


@needs_apt
def test_lists_are_asked_again_when_the_memo_is_damaged(tmp_path: Path, sid: Site, asked: Asked) -> None:
    update(private_apt(tmp_path, sid))
    private_apt(tmp_path, sid).candidates("tool")
    memo = tmp_path / "store" / "apt" / "sid" / "answers.json"
    memo.write_text(memo.read_text().replace("Version: 1.0-1", "Version: 6.6-6"))
    assert [it.version for it in private_apt(tmp_path, sid).candidates("tool")] == ["1:0.9-1", "1.0-1"]
    assert asked.queries == ["tool", "tool"]


@needs_apt
def test_a_kept_package_is_found_beside_a_kept_answer(tmp_path: Path, sid: Site, asked: Asked) -> None:
    """Only what apt says is kept: downloaded packages are looked for each time."""
    update(private_apt(tmp_path, sid))
    path = private_apt(tmp_path, sid).download("tool", "1.0-1", Deadline(60))
    record = path.with_suffix(".json")
    record.write_text(json.dumps({**json.loads(record.read_text()), "version": "0.1-1"}))
    assert [it.version for it in private_apt(tmp_path, sid).candidates("tool")] == ["1:0.9-1", "1.0-1", "0.1-1"]
    assert asked.queries == ["tool"]
