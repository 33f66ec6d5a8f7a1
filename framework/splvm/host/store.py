"""Artefacts on disk, found again by the hash of their inputs.

Owns everything below one directory::

    <kind>/<key>/tree/           what `build` made: `Artefact.path`
    <kind>/<key>/manifest.json   type, mode, size and SHA-256 of every entry of the tree
    <kind>/<key>/seen.json       inode and times of every entry when its content was last hashed, and the boot
    locks/<kind>-<key>.lock      held while an artefact is looked up or built
    locks/<kind>-<key>.used      shared by those that it is not to be removed from
    tmp/<owner>-<random>/        scratch of a living process, artefacts under construction among it
    damaged/<kind>-<key>/        the last one that did not match its manifest, kept for a week

A workspace has only a tree: it is changed in use, and whoever uses it says what it is worth.

An artefact appears by one rename, so there is never half of one. It is read-only by agreement: whoever needs to write
works on a copy or an overlay.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from splvm.deadline import Deadline, poll
from splvm.errors import DeadlineExceeded, SetupError
from splvm.host.content import walk
from splvm.host.manifest import Verify, damage_of, read_manifest, write_manifest
from splvm.host.owner import age_s, is_abandoned, scratch_name
from splvm.host.process import as_root_args, run
from splvm.log import LOGGER, note, step

_KIND = re.compile(r"[a-z][a-z0-9-]{0,31}")
_KEY = re.compile(r"[0-9a-f]{8,64}")
_OWN = ("locks", "tmp", "damaged")
# Other directories of this one that are no artefacts: debian.py and capabilities.py have theirs here.
_RESERVED = {*_OWN, "apt", "host"}
_KEEP_DAMAGED_S = 7 * 86400.0
_REMOVE_S = 300.0
# What a file system keeps for itself may be as much.
_LEAST_ROOM_BYTES = 8 << 20
# Kinds that hold private keys: of the guests themselves, in what is unpacked over their image (in images of older
# stores), and in the memory of a guest that runs.
_PRIVATE = ("ssh-keys", "login", "image", "template")


@dataclass(frozen=True, slots=True)
class Artefact:
    """A verified directory of the store. Do not write to it."""

    # Where its files are.
    path: Path
    # What it is, "build-root" for one.
    kind: str
    # Hash of what it was made from, see `input_hash`.
    key: str


class Store:
    """A directory of artefacts, shared by any number of processes.

    :param root: made if it is not there. Scratch of processes that are gone is removed.
    :raises SetupError: when it cannot be made or written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        with _explained(self.root):
            for name in _OWN:
                (self.root / name).mkdir(parents=True, exist_ok=True)
            for kind in _PRIVATE:
                self._close_to_others(self.root / kind)
        self._sweep()

    @classmethod
    def default(cls) -> Store:
        """The store in `default_root`."""
        return cls(cls.default_root())

    @staticmethod
    def default_root() -> Path:
        """$SPLVM_CACHE, or ~/.cache/splvm."""
        return Path(os.environ.get("SPLVM_CACHE") or "~/.cache/splvm").expanduser()

    def get(
        self,
        kind: str,
        key: str,
        build: Callable[[Path], None],
        *,
        deadline: Deadline,
        what: str,
        verify: Verify = "quick",
    ) -> Artefact:
        """The artefact, built first if it is missing or damaged. Only one process builds; others wait for it.

        :param build: fills the empty directory it is given, which is renamed afterwards: no absolute path into it may
            be written into its files.
        :param what: the artefact in a few words, for people.
        :param verify: how it is checked if it is there already, see `Verify`.
        :raises DeadlineExceeded: when another process took too long to build it.
        :raises SetupError: when the disk is full, or `build` made nothing; besides, whatever `build` raises.
        """
        with self._locked(kind, key, deadline, what):
            home = self._home(kind, key)
            if home.exists():
                damage = damage_of(home, verify)
                if damage is None:
                    return Artefact(home / "tree", kind, key)
                self._set_aside(home, kind, key, what, damage)
            with step(what), self.temporary() as scratch, _disk_full_explained(self.root):
                if kind in _PRIVATE:
                    scratch.chmod(0o700)
                tree = scratch / "tree"
                tree.mkdir()
                build(tree)
                if not any(tree.iterdir()):
                    raise SetupError(f"{what}: the build made nothing")
                write_manifest(scratch, kind, key)
                home.parent.mkdir(exist_ok=True)
                # `home` is not there: it was looked for, or moved away, under the lock.
                scratch.rename(home)
            return Artefact(home / "tree", kind, key)

    def kept(self, kind: str, key: str, *, verify: Verify = "quick") -> Artefact | None:
        """The artefact if it is there and whole; nothing is built, moved or waited for."""
        home = self._home(kind, key)
        if not home.exists() or damage_of(home, verify) is not None:
            return None
        return Artefact(home / "tree", kind, key)

    def content(self, artefact: Artefact) -> str:
        """Hash of the names and contents of all that is in an artefact, as its manifest has them.

        :raises SetupError: when it is not there any more.
        """
        try:
            entries = read_manifest(artefact.path.parent)
        except ValueError as reason:
            raise SetupError(f"{artefact.path}: {reason}") from reason
        lines = sorted((name, entry.type, entry.content) for name, entry in entries.items())
        return hashlib.sha256(json.dumps(lines).encode()).hexdigest()

    def forget(self, kind: str, key: str, *, deadline: Deadline, what: str) -> bool:
        """Remove an artefact, if it is there and nobody uses it; the next `get` makes it anew.

        :returns: False when it stays, because somebody uses it.
        """
        with self._locked(kind, key, deadline, what), self._used_file(kind, key) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                LOGGER.debug("%s %s stays: it is used", kind, key)
                return False
            home = self._home(kind, key)
            if home.exists():
                self.remove(home)
        return True

    @contextmanager
    def using(self, kind: str, key: str, *, deadline: Deadline, what: str) -> Iterator[None]:
        """Until the end of the block nobody forgets this artefact, in no process. Take it with `get` in the block.

        :raises DeadlineExceeded: when another process takes too long to remove it.
        """

        def share() -> bool | None:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            return True

        with self._used_file(kind, key) as file:
            poll(share, deadline, what)
            yield

    @contextmanager
    def _used_file(self, kind: str, key: str) -> Iterator[int]:
        self._home(kind, key)
        with _explained(self.root):
            file = os.open(self.root / "locks" / f"{kind}-{key}.used", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            yield file
        finally:
            os.close(file)

    def trim(self, kind: str, keep_bytes: int, *, used: str) -> None:
        """Remove artefacts of a kind until they take no more than `keep_bytes`; least recently used first.

        :param used: key of the artefact that is used now. It stays, and so does an artefact that is locked.
        """
        homes = {home: _used_at(home) for home in (self.root / kind).glob("*") if _KEY.fullmatch(home.name)}
        with suppress(OSError):
            os.utime(self._home(kind, used))
        sizes = {home: _disk_bytes(home) for home in homes}
        total = sum(sizes.values())
        for home in sorted(homes, key=lambda home: homes[home]):
            if total <= keep_bytes:
                return
            if home.name == used:
                continue
            with suppress(DeadlineExceeded):
                what = "an artefact that was not used for long"
                if self.forget(kind, home.name, deadline=Deadline(0), what=what):
                    total -= sizes[home]

    @contextmanager
    def workspace(self, kind: str, key: str) -> Iterator[Path | None]:
        """A directory that is kept, and changed in use: this process's alone until the end of the block.

        What is in it is the user's business, also that the last one may have been killed in the middle of a change.

        :returns: None when another process is in it.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(self._locked(kind, key, Deadline(0), "a workspace"))
            except DeadlineExceeded:
                yield None
                return
            home = self._home(kind, key)
            with _explained(self.root):
                (home / "tree").mkdir(parents=True, exist_ok=True)
                os.utime(home)
            yield home / "tree"

    @contextmanager
    def temporary(self) -> Iterator[Path]:
        """A private empty directory on the store's file system, removed at the end of the block.

        If the process is killed, the next one to open the store removes it.
        """
        path = self.root / "tmp" / scratch_name()
        with _explained(self.root):
            path.mkdir()
        try:
            yield path
        finally:
            if path.exists():
                self._remove_or_tell(path)

    def remove(self, path: Path) -> None:
        """Remove a file or a tree of the store, whoever owns it, and unmount what a killed build left mounted in it.

        :raises SetupError: when something stays, for want of root or because a mount is busy.
        """
        path = path.parent.resolve() / path.name
        if path.name == ".." or self.root.resolve() not in path.parents:
            raise ValueError(f"{path} is not inside {self.root}")
        _unmount_below(path)
        deadline = Deadline(_REMOVE_S)
        what = f"removing {path}"
        argv = ["rm", "-rf", "--one-file-system", "--", str(path)]
        run(argv, deadline=deadline, what=what, check=False)
        if os.path.lexists(path):
            # Directories of our own that may not be written.
            run(["chmod", "-R", "u+rwX", "--", path], deadline=deadline, what=what, check=False)
            run(argv, deadline=deadline, what=what, check=False)
        if os.path.lexists(path):
            # A build root, which belongs to root.
            run([*as_root_args(), *argv], deadline=deadline, what=what)

    @staticmethod
    def _close_to_others(path: Path) -> None:
        """Make a directory that only its owner can enter, or make it so: that of an older store is open."""
        path.mkdir(mode=0o700, exist_ok=True)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o700)

    def _home(self, kind: str, key: str) -> Path:
        if not _KIND.fullmatch(kind) or kind in _RESERVED or not _KEY.fullmatch(key):
            raise ValueError(f"not the name of an artefact: {kind!r} {key!r}")
        return self.root / kind / key

    @contextmanager
    def _locked(self, kind: str, key: str, deadline: Deadline, what: str) -> Iterator[None]:
        self._home(kind, key)
        with hold_lock(self.root / "locks" / f"{kind}-{key}.lock", deadline, what):
            yield

    def _set_aside(self, home: Path, kind: str, key: str, what: str, damage: str) -> None:
        aside = self.root / "damaged" / f"{kind}-{key}"
        if aside.exists():
            self.remove(aside)
        home.rename(aside)
        os.utime(aside)
        LOGGER.warning("%s: the kept one is damaged (%s); it is now in %s and is built again", what, damage, aside)

    def _sweep(self) -> None:
        """Remove what dead processes left, and damaged artefacts that nobody has come to look at."""
        now = time.time()
        for path in (self.root / "tmp").iterdir():
            if is_abandoned(path, now):
                self._remove_or_tell(path)
        for path in (self.root / "damaged").iterdir():
            if age_s(path, now) > _KEEP_DAMAGED_S:
                self._remove_or_tell(path)

    def _remove_or_tell(self, path: Path) -> None:
        # Scratch that stays must not hide the result, or the error, of what was done in it.
        try:
            self.remove(path)
        except (SetupError, DeadlineExceeded) as reason:
            LOGGER.warning("%s stays behind: %s", path, reason)


@contextmanager
def hold_lock(path: Path, deadline: Deadline, what: str) -> Iterator[None]:
    """Hold a lock between processes; the kernel drops it when the process ends, however that happens.

    :param what: what the lock stands for, for people who wait.
    :raises DeadlineExceeded: when another process did not let go of it in time.
    """
    lock = FileLock(path)
    with _explained(path.parent):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if deadline.expired:
                raise DeadlineExceeded(what, deadline.seconds, f"another process holds {path}") from None
            note(f"{what}: another process is at it; waiting")
            try:
                lock.acquire(timeout=deadline.remaining_s)
            except Timeout:
                raise DeadlineExceeded(what, deadline.seconds, f"another process holds {path}") from None
    try:
        yield
    finally:
        lock.release()


def keep_room(path: Path, what: str) -> Callable[[], None]:
    """A guard for a command that writes to a file system: some programs try for ever when that is full.

    :param what: the step, for the error.
    :returns: a function that raises SetupError once there is next to no room.
    """

    def guard() -> None:
        free = shutil.disk_usage(path).free
        if free < _LEAST_ROOM_BYTES:
            raise SetupError(
                f"{what}: the disk is full ({free >> 20} MiB free in {path})",
                hint="make room, or point SPLVM_CACHE to another disk",
            )

    return guard


def _used_at(home: Path) -> float:
    try:
        return home.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _disk_bytes(home: Path) -> int:
    """What the files of a tree take, holes not counted."""
    with suppress(OSError):
        return sum(info.st_blocks * 512 for _, _, info in walk(home / "tree"))
    return 0


@contextmanager
def _disk_full_explained(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as reason:
        if reason.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free_mib = shutil.disk_usage(root).free >> 20
        raise SetupError(
            f"the disk is full: {reason} ({free_mib} MiB free in {root})",
            hint="make room, or point SPLVM_CACHE to another disk; the directory of artefacts can always be deleted",
        ) from reason


@contextmanager
def _explained(root: Path) -> Iterator[None]:
    """Turn what the file system says no to in the store's own directories into an error with a hint."""
    try:
        with _disk_full_explained(root):
            yield
    except OSError as reason:
        raise SetupError(
            f"the directory of artefacts cannot be used: {reason}",
            hint="point SPLVM_CACHE to a directory of your own",
        ) from reason


def _unmount_below(path: Path) -> None:
    """Unmount what is mounted at or below `path`: removing a tree must never go through a bind mount."""
    mounted = _mounts_below(path)
    if not mounted:
        return
    for mount in reversed(mounted):
        run([*as_root_args(), "umount", "--", mount], deadline=Deadline(60), what=f"unmounting {mount}", check=False)
    if left := _mounts_below(path):
        raise SetupError(f"still mounted: {', '.join(left)}", hint="unmount it, then try again")


def _mounts_below(path: Path) -> list[str]:
    """Mount points at or below `path`, in the order of mounting."""
    real = os.path.realpath(path)
    found = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        # Space, tab, newline and backslash are octal (proc(5)).
        mount = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), line.split()[4])
        if mount == real or mount.startswith(f"{real}/"):
            found.append(mount)
    return found
