"""Git in a repository of a test that looks like one of OpenZFS."""

from __future__ import annotations

import subprocess
from pathlib import Path

from splvm.builds.tree import SPL_DIR

CACHE = SPL_DIR / "spl-kmem-cache.c"


def git(tree: Path, *argv: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@localhost")
    done = subprocess.run(
        ["git", "-C", str(tree), *identity, *argv], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()
