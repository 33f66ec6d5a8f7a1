"""An OpenZFS tree: which of its files go into which module, how it is copied, and how it is patched.

Trees are taken as they lie there: a fresh clone, an unpacked release, a checkout in which somebody ran configure and
make. So what a build leaves is left out, and what the tree's own build generates is generated anew, in a copy.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory

from splvm.builds.foreign import find_escape, plain_file
from splvm.builds.module import fresh_log, sha256_of
from splvm.builds.root import BuildRoot
from splvm.deadline import Deadline
from splvm.errors import BuildError, SetupError
from splvm.host.confine import Place, confine_args
from splvm.host.content import Input, input_hash
from splvm.host.process import run
from splvm.host.store import Store

RECIPE = 2

# Directory of SPL's own sources in an OpenZFS tree, 2.0 and later.
SPL_DIR = Path("module/os/linux/spl")
# That of the sources of all modules.
MODULES_DIR = Path("module")

# What configure reads; an edit of the modules' code does not run it again.
CONFIGURE_INPUTS = ("META", "autogen.sh", "configure", "configure.ac", "config", "copy-builtin", "zfs_config.h.in")

# The header that every make of a tree writes anew, and what writes it. With the output of `git describe` in it each
# commit would be another spl.ko, so it is written where there is no history: it says "unknown". A release as Debian
# packs it has the header and not the script.
GITREV = "include/zfs_gitrev.h"
MAKE_GITREV = "scripts/make_gitrev.sh"

# What spl.ko is made of, and what all modules are made of.
SPL_PARTS = (str(SPL_DIR), "include", MAKE_GITREV)
ALL_PARTS = ("module", "include", MAKE_GITREV)

# What a tree may have beside its sources: results of builds in place, history, and what editors leave.
_LEFT_OUT = (
    *(".git", "*.o", "*.ko", "*.cmd", "*.mod", "*.mod.c", "*.a", "*.lo", ".libs", "build"),
    *("Module.symvers", "modules.order", "autom4te.cache"),
    *(".*", "*~", "#*#", "*.bak", "*.orig", "*.rej", "4913"),
)

# What the autotools make in a checkout, by directory. It may be of another commit than the one that is checked out
# now, and autogen.sh takes ten seconds. A release has these files for good.
_AUTOTOOLS: Mapping[str, tuple[str, ...]] = {
    ".": ("configure", "aclocal.m4", "config.log", "config.status", "zfs_config.h", "zfs_config.h.in"),
    "config": (
        *("compile", "config.guess", "config.sub", "depcomp", "install-sh", "ltmain.sh", "missing"),
        *("libtool.m4", "lt*.m4"),
    ),
}

# Bytes of all patched trees that are kept. One takes some 40 MiB.
_KEEP_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class PatchedTree:
    """A tree of the store with patches on it."""

    tree: Path
    # The files that each patch touches, by the patch's name; of a semantic patch those that it changes.
    touched: Mapping[str, tuple[str, ...]]


def _is_left_out(checkout: bool, directory: str, name: str) -> bool:
    """:param directory: from the top of the tree, "." for the top itself."""
    patterns = (*_LEFT_OUT, *(_AUTOTOOLS.get(directory, ()) if checkout else ()))
    return any(fnmatch(name, pattern) for pattern in patterns)


def find_files(tree: Path, parts: Iterable[str]) -> dict[str, Path]:
    """The files of a tree that a build takes, by their name from the top of the tree.

    :param parts: files and directories from the top of the tree; one that is not there adds nothing.
    :raises SetupError: when one is a link that leads out of the tree, or no file: it would be read as the caller.
    """
    checkout = (tree / ".git").exists()
    found: dict[str, Path] = {}
    for part in parts:
        if (tree / part).is_file() and not _is_left_out(checkout, os.path.dirname(part) or ".", os.path.basename(part)):
            found[part] = tree / part
        if not (tree / part).resolve().is_relative_to(tree.resolve()):
            raise _escape(tree / part, "leads out of the tree")
        for top, below, names in os.walk(tree / part):
            place = os.path.relpath(top, tree)
            below[:] = sorted(name for name in below if not _is_left_out(checkout, place, name))
            for name in sorted(names):
                # What configure makes of NAME.in is made anew.
                if f"{name}.in" not in names and not _is_left_out(checkout, place, name):
                    found[f"{place}/{name}"] = Path(top, name)
    if (tree / MAKE_GITREV).is_file():
        found.pop(GITREV, None)
    for path in found.values():
        if reason := find_escape(tree, path):
            raise _escape(path, reason)
    return found


def _escape(path: Path, reason: str) -> SetupError:
    return SetupError(f"{path} {reason}", hint="what goes into a module has to be in the tree itself, as plain files")


def find_inputs(tree: Path) -> dict[str, Path]:
    """The files that go into spl.ko: SPL's own sources, all headers, and what makes one of them."""
    return find_files(tree, SPL_PARTS)


def inputs_key(tree: Path, patches: Sequence[Path], parts: Sequence[str] = SPL_PARTS) -> str:
    """Changes with what spl.ko is made from, and only with that: not with what editors leave beside it.

    :param parts: of other modules, what they are made from.
    :raises SetupError: when a file cannot be read.
    """
    return input_hash({"sources": find_files(tree, parts), "patches": list(patches)})


def copy_tree(source: Path, target: Path) -> None:
    """Copy an OpenZFS tree, without what was built in it and what editors leave. Links stay links.

    :raises SetupError: when it cannot be read, or has in it what is neither file, directory nor link.
    """
    checkout = (source / ".git").exists()

    def ignore(directory: str, names: list[str]) -> set[str]:
        place = os.path.relpath(directory, source)
        return {name for name in names if _is_left_out(checkout, place, name)}

    try:
        shutil.copytree(source, target, symlinks=True, ignore=ignore)
    except shutil.Error as reason:
        raise SetupError(f"cannot read {source}: {reason.args[0][0][2]}") from reason
    if (target / MAKE_GITREV).is_file():
        (target / GITREV).unlink(missing_ok=True)


def copy_files(files: Mapping[str, Path], target: Path) -> None:
    """Copy files to the names that they have from the top of a tree."""
    for name, path in files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target / name)


def check_unchanged(tree: Path, copy: Mapping[str, Path], key: str) -> None:
    """Look whether a copy is what its key says: somebody may have saved a file meanwhile.

    :param tree: what it was copied from, for people.
    :param key: `input_hash` of the files before.
    :raises SetupError: when it is not.
    """
    if input_hash(copy) != key:
        raise SetupError(f"{tree} was changed while it was read", hint="try again")


def generate_headers(root: BuildRoot, work: Path, log: Path, deadline: Deadline) -> None:
    """What the tree's own make generates before it compiles modules, in `work`/src, by the tree's own script.

    :raises BuildError: when the script fails.
    """
    if (work / "src" / MAKE_GITREV).is_file():
        argv = ["sh", "-c", f"cd src && sh {shlex.quote(MAKE_GITREV)} {shlex.quote(GITREV)}"]
        root.run(argv, work=work, deadline=deadline, what=MAKE_GITREV, log=log)


def patch_tree(
    store: Store, tree: Path, patches: Sequence[Path], deadline: Deadline, *, of_spl: Sequence[Path] = ()
) -> PatchedTree:
    """A copy of a whole tree with patches on it, by the content of both. All that is built of it has them.

    :param of_spl: semantic patches that are applied first, and to the sources of SPL alone.
    :raises BuildError: when a patch does not apply, or has a hunk that goes into no module.
    :raises SetupError: when the tree or a patch cannot be read.
    """
    with store.temporary() as scratch:
        both = (*of_spl, *patches)
        copies = [scratch / f"patch-{number}" / patch.name for number, patch in enumerate(both)]
        try:
            for patch, to in zip(both, copies, strict=True):
                to.parent.mkdir()
                shutil.copyfile(patch, to)
            # The key is the copy's, so nobody's save comes between the two.
            copy_tree(tree, scratch / "src")
        except OSError as reason:
            raise SetupError(f"cannot read {tree} or a patch: {reason}") from reason
        names = [patch.name for patch in both]
        made_of: dict[str, Input] = {"tree": scratch / "src", "patches": copies, "names": names}
        key = input_hash({"recipe": RECIPE, "of SPL": len(of_spl), **made_of})

        def build(made: Path) -> None:
            log = fresh_log(store, f"patch-{key[:12]}")
            touched: dict[str, list[str]] = {}
            for number, patch in enumerate(copies):
                part = SPL_DIR if number < len(of_spl) else MODULES_DIR
                files = apply_patch(patch, scratch / "src", log, deadline, part)
                _check_hunks(patch, files, log)
                touched.setdefault(patch.name, []).extend(files)
            (made / "touched.json").write_text(json.dumps(touched), encoding="utf-8")
            (scratch / "src").rename(made / "src")

        found = store.get("patched-tree", key, build, deadline=deadline, what=f"source with {', '.join(names)}")
    store.trim("patched-tree", _KEEP_BYTES, used=key)
    told = json.loads((found.path / "touched.json").read_text(encoding="utf-8"))
    return PatchedTree(found.path / "src", {name: tuple(files) for name, files in told.items()})


def goes_into_spl(name: str) -> bool:
    """Whether a file of a tree goes into spl.ko."""
    return _is_of(name, (*SPL_PARTS, *CONFIGURE_INPUTS))


def _is_of(name: str, parts: Iterable[str]) -> bool:
    return any(name == part or name.startswith(f"{part}/") for part in parts)


def _check_hunks(patch: Path, files: Iterable[str], log: Path) -> None:
    """:raises BuildError: when a patch touches what no module is made of."""
    idle = [name for name in files if not _is_of(name, (*ALL_PARTS, *CONFIGURE_INPUTS))]
    if idle:
        raise BuildError(
            f"patch {patch.name}",
            f"what it changes in {', '.join(idle)} goes into no module",
            log,
            hint="make it of the modules' files alone, for example with `git diff BASE -- module include config META`",
        )


class NoMatchError(BuildError):
    """A semantic patch matches nothing."""


def apply_patch(patch: Path, src: Path, log: Path, deadline: Deadline, part: Path = SPL_DIR) -> list[str]:
    """Apply one patch, semantic or plain, to a private copy of an OpenZFS tree.

    A patch is a program: a semantic one may hold Python and OCaml, a plain one a script for ed. So spatch and patch are
    the host's own, and see nothing of the host but their like.

    :param src: in scratch, where the patch gets a place beside it.
    :param part: directory of the sources that a semantic patch is for, from the top of the tree.
    :returns: the files that it touches, from the top of the tree.
    :raises NoMatchError: when a semantic patch matches nothing.
    :raises BuildError: when it does not apply.
    """
    # A directory with nothing else in it, which whoever the patch runs as can read.
    with TemporaryDirectory(dir=src.parent, prefix="patch-") as beside:
        Path(beside).chmod(0o755)
        shutil.copyfile(patch, Path(beside, patch.name))
        Path(beside, patch.name).chmod(0o644)
        place = Place(None, src, Path(beside))
        if patch.suffix == ".cocci":
            return _apply_semantic(patch.name, place, part, log, deadline)
        return _apply_plain(patch.name, place, log, deadline)


def _apply_semantic(name: str, place: Place, part: Path, log: Path, deadline: Deadline) -> list[str]:
    what, src = f"semantic patch {name}", place.work
    files = sorted(str(path.relative_to(src)) for path in (src / part).rglob("*.c"))
    before = {file: sha256_of(plain_file(src, file)) for file in files}
    argv = ["spatch", "--very-quiet", "--sp-file", f"/usr/src/{name}", "--in-place", *files]
    run(confine_args(place, argv), deadline=deadline, what=what, log=log, error=BuildError)
    changed = [file for file, digest in before.items() if sha256_of(plain_file(src, file)) != digest]
    if not changed:
        raise NoMatchError(what, f"it matches nothing in {part} of the source", log)
    return changed


def _apply_plain(name: str, place: Place, log: Path, deadline: Deadline) -> list[str]:
    what = f"patch {name}"
    argv = ["patch", "--strip=1", "--batch", "--forward", "--no-backup-if-mismatch", "--input", f"/usr/src/{name}"]
    done = run(confine_args(place, argv), deadline=deadline, what=what, log=log, error=BuildError)
    touched = parse_patched(done.stdout)
    if not touched:
        raise BuildError(what, "there is no hunk in it", log)
    return touched


def parse_patched(said: str) -> list[str]:
    """The files that GNU patch says it patched; of one that it renames, both names."""
    found: list[str] = []
    for line in re.findall(r"(?m)^patching (?:file|symbolic link) (.+)$", said):
        name, _, old = re.sub(r" \((?:renamed|copied) from (.*)\)$", r"\0\1", line).partition("\0")
        found += [word for quoted in (name, old) if quoted for word in shlex.split(quoted)[:1]]
    return list(dict.fromkeys(found))
