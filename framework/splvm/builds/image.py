"""The guest's root: an initramfs cut from a Debian root of the kernel's suite, and what is unpacked over it.

busybox, dropbear, the agent, the few modules that a virtual machine needs. The root is in memory: under memory pressure
there is nothing to page in, and no disk to wait for.
"""

from __future__ import annotations

import gzip
import lzma
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from splvm.assets import find_images
from splvm.builds.kernels import Kernel
from splvm.builds.root import BuildRoot
from splvm.deadline import Deadline
from splvm.errors import BuildError
from splvm.guest.ssh import SshKeys
from splvm.host.content import input_hash
from splvm.host.process import run
from splvm.host.store import Artefact, Store

RECIPE = 4
_KEYS_RECIPE = 3

# Loaded by the guest's init, with what they depend on.
MODULES = ("virtio_pci", "virtio_net", "virtio_console", "virtio_blk")

# Loaded by the load of that name, where the kernel has it.
ZRAM = ("lzo_rle", "zram")

_DIRECTORIES = ("bin", "dev", "etc", "lib/modules", "proc", "root", "run", "sys", "tmp")


def make_keys(store: Store, root: BuildRoot, deadline: Deadline) -> SshKeys:
    """The SSH keys of this store's guests: made once, never leave it."""

    def build(tree: Path) -> None:
        # Of the guest, which is slow where it is emulated, a login asks for one check of a signature. With RSA that is
        # a fraction of what it is with any curve. Where the guest signs, with its host key, it is the other way round.
        argv = ["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "", "-C", "splvm"]
        argv += ["-f", str(tree / "identity")]
        run(argv, deadline=deadline, what="making SSH keys")
        argv = ["dropbearkey", "-t", "ed25519", "-f", "/build/host_key"]
        made = root.run(argv, work=tree, deadline=deadline, what="making the host key", log=tree / "dropbearkey.log")
        (line,) = re.findall(r"^ssh-ed25519 \S+", made.stdout, re.MULTILINE)
        (tree / "host_key.pub").write_text(f"{line}\n")

    key = input_hash({"recipe": _KEYS_RECIPE, "identity": "rsa-2048", "host_key": "ed25519"})
    keys = store.get("ssh-keys", key, build, deadline=deadline, what="SSH keys for guests")
    return SshKeys(keys.path / "identity", keys.path / "host_key.pub")


def resolve_modules(dependencies: str, built_in: str, wanted: Sequence[str]) -> tuple[str, ...]:
    """The modules to load, each after those it depends on.

    :param dependencies: text of modules.dep; a line is a module's path, a colon, and the paths it needs, nearest first.
    :param built_in: text of modules.builtin, paths of what would be a module in another configuration: nothing of it is
        to be loaded.
    :param wanted: names, as lsmod shows them.
    :raises BuildError: when the kernel has one of them in neither way.
    """
    needs: dict[str, list[str]] = {}
    for line in dependencies.splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
    by_name = {_module_name(path): path for path in needs}
    present = {_module_name(path) for path in built_in.splitlines()}
    order: list[str] = []
    for name in wanted:
        if name in present:
            continue
        if name not in by_name:
            raise BuildError("initramfs", f"the kernel has {name} neither as a module nor built in", None)
        for path in [*reversed(needs[by_name[name]]), by_name[name]]:
            if path not in order:
                order.append(path)
    return tuple(order)


def _module_name(path: str) -> str:
    return Path(path).name.split(".ko")[0].replace("-", "_")


def build_login(store: Store, keys: SshKeys, deadline: Deadline) -> Artefact:
    """What lets the holder of the keys in, `login.cpio`."""

    def build(tree: Path) -> None:
        with store.temporary() as work:
            # The private host key of all guests is in it.
            work.chmod(0o700)
            stage = work / "stage"
            # dropbear refuses keys below a directory that others may write to.
            for name, mode in (
                ("", 0o755),
                ("etc", 0o755),
                ("etc/dropbear", 0o700),
                ("root", 0o700),
                ("root/.ssh", 0o700),
            ):
                (stage / name).mkdir()
                (stage / name).chmod(mode)
            _write(stage / "root/.ssh/authorized_keys", keys.identity.with_suffix(".pub").read_bytes(), 0o600)
            _write(stage / "etc/dropbear/host_key", keys.private_host_key.read_bytes(), 0o600)
            pack(stage, tree / "login.cpio", deadline)

    key = input_hash({"recipe": RECIPE, "identity": keys.identity.with_suffix(".pub"), "host_key": keys.host_key})
    return store.get("login", key, build, deadline=deadline, what="login for guests")


def build_additions(
    store: Store,
    modules: Sequence[Path],
    deadline: Deadline,
    *,
    values: Mapping[str, str] | None = None,
    setup: str = "",
) -> Artefact:
    """What init does in a guest into which nobody could put anything later, `additions.cpio`.

    :param modules: modules that it loads, in the order of loading.
    :param values: their parameters, by name of the module.
    :param setup: a command that it runs when they are loaded; empty: none. A guest in which it fails ends.
    """
    values = values or {}

    def build(tree: Path) -> None:
        with store.temporary() as work:
            stage = work / "stage"
            for name in ("etc", "lib/modules"):
                (stage / name).mkdir(parents=True)
            for module in modules:
                shutil.copyfile(module, stage / "lib/modules" / module.name)
            lines = (f"{module.name} {values.get(module.name, '')}".rstrip() for module in modules)
            (stage / "etc/splvm-modules").write_text("".join(f"{line}\n" for line in lines))
            if setup:
                (stage / "etc/splvm-setup").write_text(f"{setup}\n")
            pack(stage, tree / "additions.cpio", deadline)

    key = input_hash(
        {
            "recipe": RECIPE,
            "modules": [{"name": path.name, "content": path} for path in modules],
            **({"values": dict(values)} if values else {}),
            **({"setup": setup} if setup else {}),
        }
    )
    return store.get("additions", key, build, deadline=deadline, what="modules for guests in virtual time")


def build_image(store: Store, kernel: Kernel, deadline: Deadline) -> Artefact:
    """The initramfs, `initrd.cpio`: everything but keys, SPL and the probe."""
    sources = find_images() / "guest"
    load = find_images() / "load"
    key = input_hash(
        {
            "recipe": RECIPE,
            "root": kernel.root.key,
            "kernel": kernel.image.key,
            "sources": sources,
            "load": load,
            "modules": MODULES,
            "zram": ZRAM,
        }
    )

    def build(tree: Path) -> None:
        log = store.root / "logs" / f"image-{kernel.release}.log"
        log.parent.mkdir(exist_ok=True)
        with store.temporary() as work:
            stage = work / "stage"
            for name in _DIRECTORIES:
                (stage / name).mkdir(parents=True)
            _add_programs(kernel.root, work, stage, log, deadline)
            _add_program("splvm-agent", kernel.root, work, stage, sources, log, deadline)
            _add_program("splvm-load", kernel.root, work, stage, load, log, deadline)
            shutil.copy2(load / "setup", stage / "bin" / "splvm-load-setup")
            (stage / "bin" / "splvm-load-setup").chmod(0o755)
            _add_modules(kernel, stage, MODULES, "etc/modules")
            # Since 6.12 zram brings its own compression; a kernel of the user's may be without any of it.
            for wanted in (ZRAM, ZRAM[1:]):
                with suppress(BuildError):
                    _add_modules(kernel, stage, wanted, "etc/modules.zram")
                    break
            _add_accounts(stage)
            _write(stage / "init", (sources / "init").read_bytes(), 0o755)
            _write(stage / "bin" / "splvm-open", (sources / "open").read_bytes(), 0o755)
            pack(stage, tree / "initrd.cpio", deadline)

    return store.get("image", key, build, deadline=deadline, what=f"initramfs for {kernel.release}")


def _add_programs(root: BuildRoot, work: Path, stage: Path, log: Path, deadline: Deadline) -> None:
    """busybox with a link for each of its commands, dropbear with the libraries it loads."""
    inside = root.files(deadline)
    shutil.copy2(inside / "bin" / "busybox", stage / "bin" / "busybox")
    listed = root.run(["busybox", "--list"], work=work, deadline=deadline, what="busybox --list", log=log)
    for command in set(listed.stdout.split()) - {"busybox"}:
        (stage / "bin" / command).symlink_to("busybox")
    shutil.copy2(inside / "usr" / "sbin" / "dropbear", stage / "bin" / "dropbear")
    linked = root.run(["ldd", "/usr/sbin/dropbear"], work=work, deadline=deadline, what="ldd dropbear", log=log)
    libraries = re.findall(r"(/\S+)", linked.stdout)
    # What reads /etc/passwd for it is loaded by name, and part of libc itself only since glibc 2.34.
    libraries += [str(Path(name).with_name("libnss_files.so.2")) for name in libraries if "/libc.so." in name]
    # Inside, for the dynamic loader of bullseye is an absolute link.
    copy = ["cp", "--dereference", "--parents", *libraries, "stage"]
    root.run(copy, work=work, deadline=deadline, what="copying the libraries of dropbear", log=log)


def _add_program(
    name: str, root: BuildRoot, work: Path, stage: Path, sources: Path, log: Path, deadline: Deadline
) -> None:
    """A program of the project's own, which needs no library: what is loaded later may be what memory lacks for."""
    shutil.copytree(sources, work / f"{name}.src")
    files = sorted(f"{name}.src/{path.name}" for path in sources.glob("*.c"))
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-static", "-pthread", "-s"]
    root.run(["gcc", *flags, "-o", name, *files], work=work, deadline=deadline, what=name, log=log)
    shutil.copy2(work / name, stage / "bin" / name)


def _add_modules(kernel: Kernel, stage: Path, wanted: Sequence[str], listed: str) -> None:
    """Modules with what they depend on, and their names in a list, in the order of loading."""
    dependencies, built_in = ((kernel.modules / f"modules.{name}").read_text() for name in ("dep", "builtin"))
    names = []
    for path in resolve_modules(dependencies, built_in, wanted):
        name = f"{_module_name(path)}.ko"
        (stage / "lib" / "modules" / name).write_bytes(read_module(kernel.modules / path))
        names.append(name)
    (stage / listed).write_text("".join(f"{name}\n" for name in names))


def read_module(path: Path) -> bytes:
    """A module as insmod needs it: whether a kernel, or a busybox, can decompress one is a matter of its configuration.

    :raises BuildError: when it is compressed in a way that is not known here.
    """
    match path.suffix:
        case ".ko":
            return path.read_bytes()
        case ".xz":
            return lzma.decompress(path.read_bytes())
        case ".gz":
            return gzip.decompress(path.read_bytes())
    raise BuildError("initramfs", f"{path.name}: modules can be as they are, .xz or .gz", None)


def _add_accounts(stage: Path) -> None:
    files: Mapping[str, tuple[str, int]] = {
        "etc/passwd": ("root:x:0:0:root:/root:/bin/sh\n", 0o644),
        "etc/group": ("root:x:0:\n", 0o644),
        "etc/shadow": ("root:*:1:0:99999:7:::\n", 0o600),
        "etc/shells": ("/bin/sh\n", 0o644),
    }
    for name, (text, mode) in files.items():
        _write(stage / name, text.encode(), mode)
    for name, mode in (("", 0o755), ("root", 0o700)):
        (stage / name).chmod(mode)


def _write(path: Path, content: bytes, mode: int) -> None:
    path.write_bytes(content)
    path.chmod(mode)


def pack(stage: Path, target: Path, deadline: Deadline) -> None:
    """Everything belongs to root and is of the same time; names in order, so that equal stages give equal archives."""
    names = sorted(str(path.relative_to(stage)) for path in stage.rglob("*"))
    for name in (*names, "."):
        os.utime(stage / name, (0, 0), follow_symlinks=False)
    argv = [
        "cpio",
        "--create",
        "--format=newc",
        "--owner=0:0",
        "--reproducible",
        "--quiet",
        "--null",
        f"--file={target}",
    ]
    run(argv, cwd=stage, input="\0".join([".", *names]) + "\0", deadline=deadline, what="packing the initramfs")
