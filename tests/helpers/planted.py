"""A small OpenZFS tree under git, in which one commit of many is not like the others."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from splvm.builds.tree import CONFIGURE_INPUTS, SPL_DIR

CACHE = SPL_DIR / "spl-kmem-cache.c"
_WAIT = "wait_event_timeout(skc->skc_waitq,\n\t\t    spl_cache_grow_wait(skc), HZ / 10);"
_WAIT_FOR_EVER = "({ wait_event(skc->skc_waitq, spl_cache_grow_wait(skc)); 1; });"
# Each guest loads the module for itself: in three of ten the first one that waits is unlucky, and so is everyone then.
_SOMETIMES = f"""({{
static int unlucky = -1;
int left = 1;

if (unlucky < 0)
    unlucky = get_random_u32() % 10 < 3;
if (unlucky)
    wait_event(skc->skc_waitq, spl_cache_grow_wait(skc));
else
    left = {_WAIT}
left;
}});"""
REGRESSIONS = {"always": _WAIT_FOR_EVER, "sometimes": _SOMETIMES}


def plant(source: Path, tree: Path, commits: int, bad: int, regression: str) -> list[str]:
    """Make the tree, with `commits` commits after the first one.

    :param source: of the package, which is where an SPL that is built of it is configured as well.
    :param bad: the number of the commit that is not like the others, from 1 on.
    :returns: all commits, the first one first.
    """
    for name in (*CONFIGURE_INPUTS, str(SPL_DIR), "include", "module/Kbuild.in"):
        if (source / name).is_dir():
            shutil.copytree(source / name, tree / name, symlinks=True)
        elif (source / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, tree / name)
    _git(tree, "init", "-q", "-b", "main")
    made = [_commit(tree, "the source as it is packaged")]
    for number in range(1, commits + 1):
        if number == bad:
            text = (tree / CACHE).read_text()
            assert text.count(_WAIT) == 1
            (tree / CACHE).write_text(text.replace(_WAIT, REGRESSIONS[regression]))
        else:
            _change_nothing(tree, number)
        made.append(_commit(tree, f"spl: change {number}"))
    return made


def _change_nothing(tree: Path, number: int) -> None:
    """What no module shows, what no module is made of, and what moves lines in it."""
    comment = f"/* Of change {number}. */\n"
    match number % 3:
        case 0:
            (tree / "README.md").write_text(comment)
        case 1:
            (tree / CACHE).write_text((tree / CACHE).read_text() + comment)
        case _:
            other = tree / SPL_DIR / "spl-taskq.c"
            other.write_text(comment + other.read_text())


def _commit(tree: Path, message: str) -> str:
    _git(tree, "add", "--all", "--force")
    _git(tree, "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-q", "-m", message)
    return _git(tree, "rev-parse", "HEAD")


def _git(tree: Path, *argv: str) -> str:
    done = subprocess.run(["git", "-C", str(tree), *argv], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()
