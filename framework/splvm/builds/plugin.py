"""The plugin of QEMU that counts a guest's instructions and holds it at a moment, from images/plugin."""

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
_SOURCE, _NAME = "moment.c", "moment.so"
_FLAGS = ("-shared", "-fPIC", "-fvisibility=hidden", "-O2", "-Wall", "-Wextra", "-Wno-unused-parameter", "-std=gnu11")


def build_plugin(store: Store, root: BuildRoot, deadline: Deadline) -> Path:
    """The shared object. QEMU's own functions in it are found when QEMU loads it.

    :raises BuildError: when it does not compile.
    """
    sources = find_images() / "plugin"
    key = input_hash({"recipe": RECIPE, "root": root.artefact.key, "sources": sources})

    def build(tree: Path) -> None:
        with store.temporary() as work:
            shutil.copy2(sources / _SOURCE, work / _SOURCE)
            argv = ["gcc", *_FLAGS, "-o", _NAME, _SOURCE]
            root.run(argv, work=work, deadline=deadline, what=_NAME, log=fresh_log(store, f"plugin-{key[:12]}"))
            shutil.copy2(work / _NAME, tree / _NAME)

    return store.get("plugin", key, build, deadline=deadline, what="plugin of QEMU").path / _NAME
