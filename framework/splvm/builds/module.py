"""Kernel modules: how one is made, and those of the project that need the kernel's headers alone.

A module is stripped of its debug information, which is kept in a file beside it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from splvm.assets import find_images
from splvm.builds.root import BuildRoot
from splvm.deadline import Deadline
from splvm.host.content import input_hash
from splvm.host.store import Artefact, Store

# Change when what is made changes although no input does.
MODULE_RECIPE = 2


def build_module(store: Store, root: BuildRoot, name: str, deadline: Deadline) -> Artefact:
    """NAME.ko of images/NAME.

    :raises BuildError: when it does not compile for this kernel.
    """
    sources = find_images() / name
    key = input_hash({"recipe": MODULE_RECIPE, "root": root.artefact.key, "sources": sources})

    def build(tree: Path) -> None:
        log = fresh_log(store, f"{name}-{key[:12]}")
        with store.temporary() as work:
            shutil.copytree(sources, work / name)
            make_module(root, work, f"/build/{name}", (), log, deadline, f"{name}.ko")
            strip_module(root, work, Path(name, f"{name}.ko"), log, deadline)
            for made in (f"{name}.ko", f"{name}.ko.debug"):
                shutil.copy2(work / name / made, tree)

    return store.get(name, key, build, deadline=deadline, what=f"{name}.ko for {root.release}")


def make_module(
    root: BuildRoot, work: Path, module: str, variables: Sequence[str], log: Path, deadline: Deadline, what: str
) -> None:
    """Run the kernel's own make.

    :param work: what is /build inside the root.
    :param module: directory of the module, inside the root.
    :param variables: further arguments of make.
    """
    root.run(
        ["make", f"-j{os.cpu_count() or 1}", "-C", root.headers, f"M={module}", *variables, "modules"],
        work=work,
        deadline=deadline,
        what=what,
        log=log,
        cached=True,
    )


def strip_module(root: BuildRoot, work: Path, module: Path, log: Path, deadline: Deadline) -> None:
    """Move a module's debug information to a file beside it.

    It is nine tenths of the module, and would have to go through SSH into every guest; a dump of the guest's memory is
    read with it. The two files find each other by the module's build id.

    :param module: path from `work` on.
    """
    script = 'objcopy --only-keep-debug "$1" "$2" && strip --strip-debug "$1"'
    argv = ["sh", "-c", script, "sh", str(module), str(debug_file(module))]
    root.run(argv, work=work, deadline=deadline, what=f"debug information of {module.name}", log=log)


def debug_file(module: Path) -> Path:
    """Where the debug information of a module is kept."""
    return module.with_name(f"{module.name}.debug")


def fresh_log(store: Store, name: str) -> Path:
    """A fresh log file; the last one of each name is kept."""
    path = store.root / "logs" / f"{name}.log"
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    return path


def sha256_of(path: Path) -> str:
    """As run.json has it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
