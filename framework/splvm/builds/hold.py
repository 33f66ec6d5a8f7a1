"""The plugin of QEMU that holds a guest in virtual time where its template is frozen, see images/hold/hold.c."""

from __future__ import annotations

import shutil
from pathlib import Path

from splvm.assets import find_images
from splvm.builds.module import fresh_log
from splvm.builds.root import BuildRoot
from splvm.deadline import Deadline
from splvm.host.content import input_hash
from splvm.host.store import Store

RECIPE = 1

_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-fvisibility=hidden", "-s")


def build_hold(store: Store, root: BuildRoot, deadline: Deadline) -> Path:
    """hold.so. It needs nothing but functions that every C library has.

    :raises BuildError: when it does not compile.
    """
    sources = find_images() / "hold"
    key = input_hash({"recipe": RECIPE, "root": root.artefact.key, "sources": sources})

    def build(tree: Path) -> None:
        with store.temporary() as work:
            shutil.copytree(sources, work / "hold")
            argv = ["gcc", *_FLAGS, "-o", "hold.so", "hold/hold.c"]
            root.run(argv, work=work, deadline=deadline, what="hold.so", log=fresh_log(store, f"hold-{key[:12]}"))
            shutil.copy2(work / "hold.so", tree)

    return store.get("hold", key, build, deadline=deadline, what="plugin for QEMU").path / "hold.so"
