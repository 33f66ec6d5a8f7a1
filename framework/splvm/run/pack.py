"""A recorded run in virtual time with all that decides what its guest does: QEMU, kernel, root, modules.

It is run again on a machine that has nothing but splvm: nothing is fetched or built. The archive has one directory::

    pack.json   the machine, and the SHA-256 of every other file
    run/        the record
    kernel      the kernel's image
    initrd-N    archives of the guest's root, with SPL and the probe in them
    hold.so     plugins of QEMU: one freezes the template, one counts instructions
    moment.so
    qemu/       QEMU with its libraries and firmware
    modules/    SPL and the probe with their debug information, for a debugger

Whoever runs it runs the QEMU of whoever made it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from splvm import __version__
from splvm.builds.module import debug_file
from splvm.clock import Clock
from splvm.errors import EvidenceError, SetupError
from splvm.guest.disks import Disk
from splvm.guest.guestplan import GuestPlan, Start
from splvm.guest.machine import MachineSpec
from splvm.guest.ssh import SshKeys
from splvm.host.content import file_hash
from splvm.host.store import Store
from splvm.plainfile import MIB, read_plain
from splvm.record.names import DUMP_FILE
from splvm.record.tarball import unpack_tarball, write_tarball
from splvm.record.typedjson import from_json, to_json
from splvm.run.experiment import Experiment
from splvm.run.replay import asked_of
from splvm.run.scenarios import Scenario

SCHEMA_VERSION = 1
SUFFIX = ".replay.tar.gz"
_PACK_FILE = "pack.json"
_KERNEL, _HOLDER, _COUNTER, _QEMU = "kernel", "hold.so", "moment.so", "qemu"
# Unpacked; a guest's root has 20 MiB, and QEMU 80.
_MOST_BYTES = 1024 * MIB
_MOST_LIST_BYTES = 4 * MIB

# What a run's facts say of what the guest is made of; all else is made anew.
_FACTS = ("kernel", "spl", "line", "archive", "qemu", "accelerator", "zfs", "growth", "packaged", "disks")


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine of a guest in virtual time, as pack.json has it."""

    ram_mib: int
    cpus: int
    append: tuple[str, ...]
    disks: tuple[Disk, ...]
    # The program, from `qemu/` on, and how many archives its root has.
    qemu: str
    initrds: int


@dataclass(frozen=True, slots=True)
class _List:
    schema_version: int
    machine: Machine
    files: dict[str, str]


@dataclass(frozen=True, slots=True)
class Pack:
    """One that is unpacked."""

    directory: Path
    machine: Machine

    @property
    def record(self) -> Path:
        """The recorded run."""
        return self.directory / "run"

    @property
    def counter(self) -> Path:
        """The plugin that counts instructions."""
        return self.directory / _COUNTER

    @property
    def modules(self) -> tuple[Path, ...]:
        """SPL and the probe."""
        return tuple(sorted((self.directory / "modules").glob("*.ko")))

    def experiment(self, facts: Mapping[str, Any], scenario: Scenario, keys: SshKeys) -> Experiment:
        """The experiment that the recorded run was, on what is packed.

        :param facts: its run.json, checked.
        :param keys: for the guest's end.
        :raises EvidenceError: when run.json does not say what was done.
        """
        asked, machine = asked_of(facts), self.machine
        spec = MachineSpec(
            qemu=str(self.directory / _QEMU / machine.qemu),
            kernel=self.directory / _KERNEL,
            initrds=tuple(self.directory / f"initrd-{number}" for number in range(machine.initrds)),
            accelerator="tcg",
            ram_mib=machine.ram_mib,
            cpus=machine.cpus,
            append=machine.append,
            disks=machine.disks,
            clock=Clock.VIRTUAL,
            holder=self.directory / _HOLDER,
        )
        own = {name: facts[name] for name in _FACTS if name in facts} | {"splvm": __version__, "argv": sys.argv}
        # What they are, and not what the record says.
        own["kernel"] = {**(own.get("kernel") or {}), "sha256": file_hash(spec.kernel)}
        own["qemu"] = {**(own.get("qemu") or {}), "sha256": file_hash(Path(spec.qemu))}
        modules = {path.name: file_hash(path) for path in self.modules}
        own["spl"] = {**(own.get("spl") or {}), "modules": modules}
        return Experiment(
            scenario,
            GuestPlan(spec, keys, start=Start.LOADED),
            own,
            asked.expected,
            asked.window_s,
            asked.rate_hz,
            asked.workload,
            loads=asked.loads,
            seed=asked.seed,
            storm=asked.storm,
            watched=asked.watched,
            delays=asked.delays,
        )


def write_pack(archive: Path, directory: Path, experiment: Experiment, counter: Path, modules: tuple[Path, ...]) -> int:
    """Pack a recorded run with what it was made of.

    :param directory: of the run.
    :param experiment: that the run was, on what is here.
    :param counter: the plugin that counts instructions.
    :returns: bytes of the archive.
    :raises SetupError: when QEMU is installed and not unpacked, or the archive cannot be written.
    """
    spec = experiment.guest.machine
    program = Path(spec.qemu)
    assert spec.holder is not None
    if not (program.parent / "lib").is_dir():
        raise SetupError(
            f"{program} is installed on this host, with libraries of its own that are not packed",
            hint="runs that were made with --qemu suite:trixie can be packed",
        )
    members: dict[str, bytes | Path] = {_KERNEL: spec.kernel, _HOLDER: spec.holder, _COUNTER: counter}
    members |= {f"initrd-{number}": path for number, path in enumerate(spec.initrds)}
    members |= {f"{_QEMU}/{name}": path for name, path in _files(program.parent)}
    members |= {f"run/{name}": path for name, path in _files(directory) if name != DUMP_FILE}
    for path in modules:
        members |= {f"modules/{it.name}": it for it in (path, debug_file(path)) if it.is_file()}
    machine = Machine(spec.ram_mib, spec.cpus, spec.append, spec.disks, program.name, len(spec.initrds))
    files = {name: file_hash(path) for name, path in members.items() if isinstance(path, Path)}
    told = {"schema_version": SCHEMA_VERSION, "machine": to_json(machine), "files": files}
    members[_PACK_FILE] = (json.dumps(told, indent=1) + "\n").encode()
    scratch = archive.with_name(f".{archive.name}.{os.getpid()}.new")
    try:
        with scratch.open("xb") as file:
            write_tarball(file, archive.name.removesuffix(SUFFIX), members, 0)
            size = file.tell()
        scratch.replace(archive)
    except OSError as error:
        raise SetupError(f"cannot write {archive}: {error.strerror or error}") from error
    finally:
        scratch.unlink(missing_ok=True)
    return size


def _files(directory: Path) -> Iterator[tuple[str, Path]]:
    """Plain files below a directory, by their path in it."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path.relative_to(directory).as_posix(), path


@contextmanager
def open_pack(archive: Path, store: Store) -> Iterator[tuple[Pack, SshKeys]]:
    """Unpack one, with keys for its guest; nothing of it is left after the block.

    :raises EvidenceError: when it is none, or a file in it is not what its list says.
    """
    with store.temporary() as work:
        into = work / "pack"
        into.mkdir()
        unpack_tarball(archive, into, _MOST_BYTES)
        pack = read_pack(into)
        for path in (into / _QEMU / pack.machine.qemu, *(into / _QEMU / "lib").glob("*")):
            path.chmod(0o755)
        yield pack, _make_keys(work)


def read_pack(directory: Path) -> Pack:
    """What is unpacked there, each file as the list says.

    :raises EvidenceError: when it is not.
    """
    try:
        told = json.loads(read_plain(directory / _PACK_FILE, _MOST_LIST_BYTES))
        listed = from_json(told, _List)
    except (OSError, ValueError, RecursionError) as error:
        raise EvidenceError(f"{directory} is no packed run: {error}") from error
    if listed.schema_version != SCHEMA_VERSION:
        raise EvidenceError(f"a packed run of schema {listed.schema_version}; this program reads {SCHEMA_VERSION}")
    found = {name: file_hash(path) for name, path in _files(directory) if name != _PACK_FILE}
    if other := sorted(name for name in {*found, *listed.files} if found.get(name) != listed.files.get(name)):
        raise EvidenceError(f"{other[0]} of the packed run is not what its list says")
    machine = listed.machine
    needed = (_KERNEL, _HOLDER, _COUNTER, f"{_QEMU}/{machine.qemu}", *(f"initrd-{it}" for it in range(machine.initrds)))
    if missing := [name for name in needed if name not in found]:
        raise EvidenceError(f"the packed run lacks {', '.join(missing)}")
    return Pack(directory, machine)


def _make_keys(work: Path) -> SshKeys:
    """Keys for one guest, which gets them when its stream has ended: no byte of a digest depends on them."""
    plain, openssh = serialization.NoEncryption(), serialization.PublicFormat.OpenSSH
    identity = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = identity.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, plain)
    _write(work / "identity", pem)
    _write(work / "identity.pub", identity.public_key().public_bytes(serialization.Encoding.OpenSSH, openssh) + b"\n")
    host = ed25519.Ed25519PrivateKey.generate()
    raw = serialization.Encoding.Raw
    secret = host.private_bytes(raw, serialization.PrivateFormat.Raw, plain)
    public = host.public_key().public_bytes(raw, serialization.PublicFormat.Raw)
    # As dropbear has it (signkey.c, buf_put_priv_key()): two strings with their lengths before them.
    parts = (b"ssh-ed25519", secret + public)
    _write(work / "host_key", b"".join(len(part).to_bytes(4, "big") + part for part in parts))
    _write(work / "host_key.pub", host.public_key().public_bytes(serialization.Encoding.OpenSSH, openssh) + b"\n")
    return SshKeys(work / "identity", work / "host_key.pub")


def _write(path: Path, content: bytes) -> None:
    path.touch(0o600)
    path.write_bytes(content)
