"""The user's own kernel: `path:VMLINUZ,HEADERS[,SUITE]`.

Owns what such a name means, what is required of the files, and how they become a kernel of the store. Compiler, SPL and
the guest's programs come from a Debian suite all the same.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from splvm.builds.image import MODULES, resolve_modules
from splvm.builds.kernels import Kernel, KernelSpec
from splvm.builds.root import OWN_PACKAGES, build_root
from splvm.deadline import Deadline
from splvm.errors import UsageError
from splvm.host.content import input_hash
from splvm.host.debian import PrivateApt
from splvm.host.mirror import find_suite
from splvm.host.store import Store
from splvm.ownpath import absolute, own_path

RECIPE = 1

# Its compiler is new enough for recent kernels, and its libraries for tools that were built on this host.
DEFAULT_SUITE = "trixie"
FORM = "path:VMLINUZ,HEADERS[,SUITE]"

# Where HEADERS says what they are of (scripts/setlocalversion, since 2.6; kernel.release since 2.6.32).
_RELEASE = Path("include") / "config" / "kernel.release"
_CONFIG = Path("include") / "config" / "auto.conf"
# What a module is built with: a tree that was only configured lacks Module.symvers, one that was only unpacked modpost.
_REQUIRED = (_CONFIG, Path("Makefile"), Path("Module.symvers"), Path("scripts") / "mod" / "modpost")
# What of HEADERS goes into modules.
_INPUTS = ("Makefile", "Module.symvers", "include", "arch/x86/include")
_ROOM = "build it in place with `make`, or take the headers of its own package"


@dataclass(frozen=True, slots=True)
class OwnKernel:
    """Files of the user's that make a kernel."""

    spec: KernelSpec
    # As in `uname -r`.
    release: str
    vmlinuz: Path
    headers: Path
    # Directory with modules.dep; None if there is none, and then everything a guest needs has to be built in.
    modules: Path | None
    # Packages that modules for it are built with.
    packages: tuple[str, ...] = OWN_PACKAGES


def find_own_kernel(name: str) -> OwnKernel | None:
    """The files that a name stands for, None for a name of another form. Nothing is fetched or built.

    :raises UsageError: when they are not what a kernel is made of; the message says what is required.
    """
    rest = own_path(name)
    if rest is None:
        return None
    words = rest.split(",")
    if len(words) not in (2, 3) or not all(words):
        raise UsageError(f"--kernel {name}: the form is {FORM}")
    vmlinuz, headers = map(absolute, words[:2])
    suite = find_suite(words[2] if len(words) == 3 else DEFAULT_SUITE).name
    if not is_bzimage(vmlinuz):
        raise UsageError(f"--kernel {name}: {vmlinuz} is no bzImage, as arch/x86/boot or /boot has one")
    release = _read_release(name, headers)
    for path in _REQUIRED:
        # A link to outside of the directory would lead nowhere in the build root.
        if not (headers / path).exists() or not _is_inside(headers / path, headers):
            raise UsageError(f"--kernel {name}: {headers} does not have {path} in itself", hint=_ROOM)
    spec = KernelSpec(f"own-{release}", suite, "", "the user's own")
    return OwnKernel(spec, release, vmlinuz, headers, _find_modules(release, vmlinuz, headers))


def is_bzimage(path: Path) -> bool:
    """Whether a file has the header of Linux's boot protocol (Documentation/arch/x86/boot.rst): HdrS at 0x202."""
    try:
        with open(path, "rb") as file:
            return file.read(0x206)[0x202:] == b"HdrS"
    except OSError:
        return False


def _read_release(name: str, headers: Path) -> str:
    try:
        release = (headers / _RELEASE).read_text().strip()
    except (OSError, ValueError) as error:
        raise UsageError(f"--kernel {name}: {headers / _RELEASE} cannot be read", hint=_ROOM) from error
    # It becomes a part of paths.
    if not re.fullmatch(r"[0-9][\w.+~-]{0,63}", release, re.ASCII):
        raise UsageError(f"--kernel {name}: {release!r} in {_RELEASE} is no release of a kernel")
    return release


def _is_inside(path: Path, directory: Path) -> bool:
    return path.resolve().is_relative_to(directory.resolve())


def _find_modules(release: str, vmlinuz: Path, headers: Path) -> Path | None:
    """Modules that were installed: HEADERS may be their `build`, `make modules_install` may have put them beside."""
    places = (
        headers.parent,
        *(base / "lib" / "modules" / release for base in (vmlinuz.parent, headers.parent, Path("/"))),
    )
    return next((place for place in places if place.name == release and (place / "modules.dep").is_file()), None)


def list_built_in(config: str) -> str:
    """What a configuration has built in of what a guest needs, as modules.builtin would have it.

    :param config: text of auto.conf.
    """
    options = set(config.splitlines())
    return "".join(f"kernel/{name}.ko\n" for name in MODULES if f"CONFIG_{name.upper()}=y" in options)


def take_kernel(store: Store, apt: PrivateApt, own: OwnKernel, deadline: Deadline) -> Kernel:
    """The user's files as a kernel of the store; they are read and never written to.

    :raises BuildError: when a driver that a guest needs is neither a module of it nor built in.
    :raises SetupError: when the build root cannot be made.
    """
    inputs = {name: own.headers / name for name in _INPUTS if (own.headers / name).exists()}
    root = build_root(store, apt, own.release, own.headers, deadline, input_hash(inputs), more=own.packages)
    built_in = list_built_in((own.headers / _CONFIG).read_text(errors="replace"))
    dependencies = (own.modules / "modules.dep").read_text(errors="replace") if own.modules else ""
    # Of hundreds of megabytes these are all that a guest loads.
    modules = {path: (own.modules or own.headers) / path for path in resolve_modules(dependencies, built_in, MODULES)}

    def build(tree: Path) -> None:
        shutil.copyfile(own.vmlinuz, tree / "vmlinuz")
        shutil.copyfile(own.headers / _CONFIG, tree / "config")
        directory = tree / "lib" / "modules" / own.release
        directory.mkdir(parents=True)
        (directory / "modules.dep").write_text(dependencies)
        (directory / "modules.builtin").write_text(built_in)
        for path, source in modules.items():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, directory / path)

    lists = {"dep": dependencies, "builtin": built_in}
    key = input_hash({"recipe": RECIPE, "root": root.key, "vmlinuz": own.vmlinuz, **lists, **modules})
    image = store.get("kernel", key, build, deadline=deadline, what=f"kernel {own.release}")
    return Kernel(own.spec, own.release, (), (), image, root)
