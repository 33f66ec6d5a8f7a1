"""Trees that try to do harm to the host that builds them: each build ends cleanly, and the host is as it was."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hostile import Host, start_victims, wait_for_sleepers
from splvm.builds.module import make_module
from splvm.builds.owntree import find_tree
from splvm.builds.spl import _configure, build_spl, find_source
from splvm.builds.tree import MAKE_GITREV, SPL_DIR
from splvm.builds.variants import VARIANTS
from splvm.deadline import Deadline
from splvm.errors import BuildError, SetupError
from splvm.host.confine import find_making_trouble
from splvm.host.store import Store
from splvm.run.prepare import Prepared

pytestmark = [
    pytest.mark.splvm_vm,
    pytest.mark.skipif(bool(find_making_trouble()), reason=f"builds need root here: {find_making_trouble()}"),
]

RAN = "it has run to the end"


@pytest.fixture
def host(spl: Prepared, tmp_path: Path) -> Iterator[Host]:
    with start_victims(tmp_path / "host", spl.kernel.root.artefact.path) as host:
        yield host


@pytest.fixture
def tree(spl: Prepared, tmp_path: Path) -> Path:
    """An OpenZFS tree of the user's, which nobody has built."""
    tree = tmp_path / "zfs"
    shutil.copytree(spl.spl.source.tree, tree, symlinks=True)
    with open(tree / SPL_DIR / "spl-kmem-cache.c", "a") as source:
        source.write(f"/* {tmp_path} */\n")
    return tree


def test_a_makefile(spl: Prepared, host: Host, tmp_path: Path) -> None:
    """As whoever builds, in a real build root; and the module is made."""
    log = tmp_path / "log"
    with Store.default().temporary() as work:
        module = work / "module"
        module.mkdir()
        (module / "harm.sh").write_text(f"{host.script}echo {RAN}\n")
        (module / "Kbuild").write_text("$(info $(shell sh $(src)/harm.sh 2>&1))\nobj-m := x.o\n")
        (module / "x.c").write_text('#include <linux/module.h>\nMODULE_LICENSE("GPL");\n')
        make_module(spl.kernel.root.apart(), work, "/build/module", (), log, Deadline(300), "a module")
        assert (module / "x.ko").stat().st_uid == os.getuid()
    assert RAN in log.read_text()
    assert host.harm(log.read_text()) == set()


@pytest.mark.parametrize("status", [0, 1])
def test_a_script_that_make_runs(spl: Prepared, host: Host, tree: Path, status: int) -> None:
    script = tree / MAKE_GITREV
    script.parent.mkdir(exist_ok=True)
    header = f'#define ZFS_META_GITREV "{tree.parent.name}"'
    script.write_text(f"{host.script}echo '{header}' >$1\necho {RAN}\nexit {status}\n")
    store, deadline = spl.store, Deadline(600)
    source = find_source(find_tree(f"path:{tree}"), store, spl.apt, deadline)
    before = {path.name for path in (store.root / "logs").iterdir()}
    if status:
        with pytest.raises(BuildError, match=RAN):
            build_spl(store, spl.kernel.root, source, VARIANTS["stock"], (), deadline)
    else:
        made = build_spl(store, spl.kernel.root, source, VARIANTS["stock"], (), deadline)
        assert header in (made.exports / "include" / "zfs_gitrev.h").read_text()
        store.forget("spl", made.exports.parent.name, deadline=deadline, what="spl.ko of a test")
    # Others build in the store at the same time.
    new = [path for path in (store.root / "logs").iterdir() if path.name not in before]
    logs = [path for path in new if RAN in path.read_text(errors="replace")]
    said = "".join(path.read_text(errors="replace") for path in logs)
    assert said
    assert host.harm(said) == set()
    for path in logs:
        path.unlink()


CONFIGURES: dict[str, tuple[str, str]] = {
    "fails": ("exit 1", RAN),
    "a link": ("ln -s {secret} zfs_config.h", "is no plain file, or is behind a link"),
    "a FIFO": ("mkfifo zfs_config.h", "is no plain file"),
    "a large file": ("truncate -s 3G zfs_config.h", "more than"),
    "a link to itself": ("ln -s /build/src ../x; rm -r ../src; ln -s x ../src", "is no plain file|cannot be read"),
    "nothing": ("true", "cannot be read"),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.splvm_slow] * (name not in ("a link", "a link to itself", "fails")))
        for name in CONFIGURES
    ],
)
def test_configure(spl: Prepared, host: Host, tree: Path, name: str) -> None:
    """With its result as a link, the harness would read for the tree what the tree cannot."""
    end, said = CONFIGURES[name]
    configure = tree / "configure"
    script = f"#!/bin/sh\n# {tree}\n{host.script}echo {RAN}\n{end.format(secret=host.secret)}\n"
    configure.write_text(script)
    source = find_source(find_tree(f"path:{tree}"), spl.store, spl.apt, Deadline(60))
    # The second time too: what it left is not taken for a result.
    for _ in range(2):
        with pytest.raises(SetupError, match=said):
            _configure(spl.store, spl.kernel.root.apart(), source, Deadline(300))
        log = spl.store.root / "logs" / f"configure-{spl.kernel.release}.log"
        assert RAN in log.read_text()
        assert host.harm(log.read_text()) == set()
    assert not [*spl.store.root.glob(f"tmp/*-{os.getpid()}-*")]


KILLED = """
import sys
from pathlib import Path
from splvm.builds.owntree import find_tree
from splvm.builds.spl import _configure, find_source
from splvm.deadline import Deadline
from splvm.run.prepare import Wish, prepare
spl = prepare(Wish(kernel=sys.argv[2]))
source = find_source(find_tree(f"path:{sys.argv[1]}"), spl.store, spl.apt, Deadline(60))
_configure(spl.store, spl.kernel.root, source, Deadline(300))
"""


def test_a_build_that_is_killed_leaves_nothing(spl: Prepared, tree: Path, prepare_spl: Callable[..., Prepared]) -> None:
    seconds = f"54321.{os.getpid()}"
    (tree / "configure").write_text(f"#!/bin/sh\n# {tree}\nsetsid sleep {seconds} &\nsleep {seconds}\n")
    argv = [sys.executable, "-c", KILLED, str(tree), spl.kernel.spec.id]
    with subprocess.Popen(argv, stderr=subprocess.PIPE) as harness:
        wait_for_sleepers(seconds, there=True, deadline=Deadline(120))
        harness.send_signal(signal.SIGKILL)
        harness.communicate(timeout=30)
    wait_for_sleepers(seconds, there=False, deadline=Deadline(30))
    assert str(spl.store.root) not in Path("/proc/self/mountinfo").read_text()
    Store.default()
    assert not [*spl.store.root.glob(f"tmp/*-{harness.pid}-*")]
