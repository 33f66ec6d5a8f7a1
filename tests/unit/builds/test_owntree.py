"""What a name of `--spl` stands for: a directory, a commit, a pull request."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from splvm.builds.identity import identify
from splvm.builds.owntree import find_tree, take_tree
from splvm.builds.tree import SPL_DIR, inputs_key
from splvm.cli import app
from splvm.deadline import Deadline
from splvm.errors import UsageError
from splvm.host.store import Store
from splvm.run.buildline import check_label, find_line
from splvm.treename import TreeKind, TreeName, parse_tree_name

CACHE = SPL_DIR / "spl-kmem-cache.c"


def git(tree: Path, *argv: str) -> str:
    author = ("-c", "user.name=t", "-c", "user.email=t@localhost")
    done = subprocess.run(["git", "-C", tree, *author, *argv], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout with an edit, a commit that has no SPL, and a pull request."""
    top = tmp_path / "zfs"
    top.mkdir()
    git(top, "init", "-q", "-b", "main")
    git(top, "commit", "-q", "--allow-empty", "-m", "nothing")
    git(top, "tag", "old")
    (top / CACHE).parent.mkdir(parents=True)
    for text in ("one", "two"):
        (top / CACHE).write_text(text)
        git(top, "add", "-A")
        git(top, "commit", "-q", "-m", text)
    git(top, "update-ref", "refs/pull/7/head", "main~1")
    (top / CACHE).write_text("edit")
    return top


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("debian", TreeName(TreeKind.PACKAGED)),
        ("path:/a@b", TreeName(TreeKind.PATH, "/a@b")),
        ("git:zfs@main", TreeName(TreeKind.COMMIT, "zfs", "main")),
        ("git:/ws@2/zfs@v1~3", TreeName(TreeKind.COMMIT, "/ws@2/zfs", "v1~3")),
        ("git:zfs@HEAD@{1}", TreeName(TreeKind.COMMIT, "zfs", "HEAD@{1}")),
        ("git:zfs@@{upstream}", TreeName(TreeKind.COMMIT, "zfs", "@{upstream}")),
        ("git:zfs@@", TreeName(TreeKind.COMMIT, "zfs", "@")),
        ("pr:17000", TreeName(TreeKind.PULL, revision="17000")),
        *((text, None) for text in ("", "path:", "git:", "git:zfs", "git:zfs@", "git:@main", "pr:", "pr:0", "pr:x")),
    ],
)
def test_the_parts_of_a_name(text: str, expected: TreeName | None) -> None:
    assert parse_tree_name(text) == expected
    assert expected is None or str(expected) == text


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize(("revision", "text"), [("main", "two"), ("main~1", "one"), ("refs/pull/7/head", "one")])
def test_a_commit_is_taken_and_the_repository_left_alone(
    tree: Path, tmp_path: Path, bare: bool, revision: str, text: str
) -> None:
    repository = tree
    if bare:
        git(tmp_path, "clone", "-q", "--mirror", str(tree), "bare")
        repository = tmp_path / "bare"
    before = sorted((path, path.lstat().st_mtime_ns) for path in repository.rglob("*"))
    found = find_tree(f"git:{repository}@{revision}")
    assert found
    source = take_tree(Store(tmp_path / "store"), found, Deadline(60))
    assert (source / CACHE).read_text() == text
    assert sorted((path, path.lstat().st_mtime_ns) for path in repository.rglob("*")) == before
    identity = identify(found)
    assert identity and identity.spl == identity.zfs and identity.spl.dirty == ""
    assert identity.spl.commit == git(tree, "rev-parse", revision)
    assert identity.spl.branch == ("main" if revision == "main" else "")


def test_a_pull_request(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLVM_OPENZFS", str(tree))
    found = find_tree("pr:7")
    assert found and (found.commit, str(found.name)) == (git(tree, "rev-parse", "main~1"), "pr:7")
    identity = identify(found)
    assert identity and identity.spl.branch == "pr:7"


def test_a_commit_and_a_clean_checkout_of_it_are_the_same_build(tree: Path, tmp_path: Path) -> None:
    git(tree, "checkout", "-q", "--", ".")
    found = find_tree(f"git:{tree}@main")
    assert found
    source = take_tree(Store(tmp_path / "store"), found, Deadline(60))
    assert inputs_key(source, ()) == inputs_key(tree, ())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("git:{tree}@nowhere", "nowhere: no commit of {tree}"),
        ("git:{tree}@--help", "--help: no commit of"),
        ("git:{tree}@old", "is not OpenZFS 2.0 or later"),
        ("git:{tree}/module@main", "module/ of a repository, and not its top"),
        ("git:{tree}/none@main", "main: no commit of"),
        ("git:{tree}@mian", "hint: did you mean main?"),
        ("git:{bare}@odl~2", "hint: did you mean old?"),
        ("git:{tree}", "hint: a revision is missing: git:{tree}@HEAD, for example"),
        ("gti:{tree}@main", "hint: did you mean git?"),
        ("{tree}", "hint: did you mean path:{tree}?"),
        ("debain", "hint: did you mean debian?"),
        ("git:{tree}", "it is `debian`, `path:DIR`, `git:DIR@REV` or `pr:N`"),
        ("path:{bare}", "hint: it is a bare repository: git:{bare}@REV"),
        ("pr:8", "hint: git -C {tree} fetch https://github.com/openzfs/zfs refs/pull/8/head:refs/pull/8/head"),
    ],
)
def test_what_there_is_not(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str) -> None:
    git(tmp_path, "clone", "-q", "--bare", str(tree), "bare")
    monkeypatch.setenv("SPLVM_OPENZFS", str(tree))
    places = {"tree": tree, "bare": tmp_path / "bare"}
    with pytest.raises(UsageError) as caught:
        find_tree(name.format(**places))
    assert said.format(**places) in str(caught.value)


def test_no_clone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPLVM_OPENZFS", raising=False)
    with pytest.raises(UsageError, match="hint: export SPLVM_OPENZFS=DIR"):
        find_tree("pr:8")


def test_the_named_clone_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLVM_OPENZFS", str(tmp_path))
    with pytest.raises(UsageError, match=f"SPLVM_OPENZFS names {tmp_path}, which is no git repository"):
        find_tree("pr:8")


def test_lines_have_the_names_as_typed(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "x.patch").write_text("x")
    lines = [find_line(name, ()) for name in (f"git:{tree}@main~1", "pr:7", "debian")]
    assert lines == ["main~1", "pr:7", "packaged"]
    assert find_line("pr:7", (), "mine") == check_label("mine", "pr:7", ()) == "mine"
    assert find_line("pr:7", [tmp_path / "x.patch"]).startswith("pr:7+")


@pytest.mark.parametrize("name", ["pr:7", "git:{tree}@main"])
def test_nobody_edits_a_commit(tree: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("SPLVM_OPENZFS", str(tree))
    done = CliRunner().invoke(app, ["watch", "held-worker", "--spl", name.format(tree=tree)])
    assert isinstance(done.exception, UsageError) and "nobody edits a commit" in str(done.exception)


@pytest.mark.parametrize("command", ["run held-worker", "watch held-worker", "repro held-worker", "matrix", "build"])
def test_every_command_takes_every_name(tree: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """One that is not there is told by its name before anything is fetched."""
    monkeypatch.setenv("SPLVM_OPENZFS", str(tree))
    for name in ("pr:8", f"git:{tree}@old", f"path:{tree}/module"):
        done = CliRunner().invoke(app, [*command.split(), "--spl", name])
        assert isinstance(done.exception, UsageError) and f"--spl {name}: " in str(done.exception), done.output
