"""Plugins of QEMU from images/plugin: one counts a guest's instructions and holds it, one notes what is executed."""

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
_FLAGS = ("-shared", "-fPIC", "-fvisibility=hidden", "-O2", "-Wall", "-Wextra", "-Wno-unused-parameter", "-std=gnu11")


def build_plugin(store: Store, root: BuildRoot, name: str, deadline: Deadline) -> Path:
    """The shared object of NAME.c. QEMU's own functions in it are found when QEMU loads it.

    :raises BuildError: when it does not compile.
    """
    source = find_images() / "plugin" / f"{name}.c"
    made = f"{name}.so"
    key = input_hash({"recipe": RECIPE, "root": root.artefact.key, "source": source})

    def build(tree: Path) -> None:
        with store.temporary() as work:
            shutil.copy2(source, work / source.name)
            argv = ["gcc", *_FLAGS, "-o", made, source.name]
            root.run(argv, work=work, deadline=deadline, what=made, log=fresh_log(store, f"plugin-{key[:12]}"))
            shutil.copy2(work / made, tree)

    return store.get("plugin", key, build, deadline=deadline, what=f"plugin of QEMU, {made}").path / made
