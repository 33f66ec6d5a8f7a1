"""The module that wrecks a guest (wreck/), built with the product's own build root."""

from __future__ import annotations

import shutil
from pathlib import Path

from splvm.builds.root import BuildRoot
from splvm.deadline import Deadline
from splvm.guest.guest import Guest
from splvm.host.content import input_hash
from splvm.host.store import Store

_SOURCE = Path(__file__).parent / "wreck"


def build_wreck(root: BuildRoot) -> Path:
    """wreck.ko for the kernel of a build root."""
    store = Store.default()

    def build(tree: Path) -> None:
        with store.temporary() as work:
            shutil.copytree(_SOURCE, work / "wreck")
            argv = ["make", "-C", root.headers, "M=/build/wreck", "modules"]
            root.run(argv, work=work, deadline=Deadline(300), what="wreck.ko", log=tree / "build.log")
            shutil.copy2(work / "wreck" / "wreck.ko", tree)

    # The whole key: the user's own headers, and those of a kernel that was built, are not in the root itself.
    key = input_hash({"source": _SOURCE, "root": root.key})
    return store.get("wreck", key, build, deadline=Deadline(600), what="wreck.ko").path / "wreck.ko"


def load_wreck(guest: Guest, module: Path, action: str) -> None:
    """Let it happen, a moment from now."""
    guest.ssh.put(module.read_bytes(), "/tmp/wreck.ko", deadline=Deadline(20))
    guest.ssh.run(f"insmod /tmp/wreck.ko action={action}", deadline=Deadline(20))
