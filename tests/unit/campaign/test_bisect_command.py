"""`splvm bisect`: what it refuses, and what its last line says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from bisectlab import steps
from gittree import git
from places import PROJECT
from splvm.cli import app
from splvm.errors import UsageError


@pytest.mark.parametrize(
    ("options", "clock", "said"),
    [
        (("--accel", "tcg"), "virtual", "held-worker: virtual time: the same seed is the same run"),
        (("--accel", "tcg", "--load", "memcg"), "real", "held-worker: real time: held-worker needs load memcg"),
        (("--clock", "real"), "real", ""),
        (("--clock", "virtual"), "virtual", ""),
    ],
)
def test_an_answer_to_be_pasted(
    world: SimpleNamespace, tree: Path, tmp_path: Path, options: tuple[str, ...], clock: str, said: str
) -> None:
    world.oracle = steps(2)
    argv = ["bisect", "held-worker", "--spl", f"path:{tree}", "--good", "HEAD~5", "--bad", "main", *options]
    done = CliRunner().invoke(app, [*argv, "--out", str(tmp_path / "o")])
    bad, good = (git(tree, "rev-parse", name) for name in ("HEAD~3", "HEAD~4"))
    assert f"{bad} is the first bad commit: change 3\n" in done.output
    (command,) = re.findall(r"clone of OpenZFS: (.*)\n", done.output)
    assert command.endswith(f"--clock {clock} --spl git:zfs@{good} --spl git:zfs@{bad}") and str(tree) not in command
    assert said in done.output and ("time: " in done.output) == bool(said)


# The command.


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "there is no SCENARIO"),
        (["held-worker"], "nothing to be searched"),
        (["held-worker", "--kernel", "debian-11,debian-12", "--series", "x"], "--series and --kernel to be searched"),
        (["held-worker", "--good", "a"], "both --good and --bad are needed"),
        (["held-worker", "--good", "a", "--bad", "b"], "commits are those of a git checkout"),
        (["no-such", "--series", "x"], "no-such"),
        (["held-worker", "--series", "x"], "--series x: "),
        (["held-worker", "--resume", "x"], "--resume goes on with the interrupted search"),
        (["held-worker", "--kernel", "debian-11,debian-12", "--hit", "NONE"], "no such verdict"),
    ],
)
def test_what_is_asked_in_vain(argv: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["bisect", *argv])
    assert isinstance(done.exception, UsageError)
    assert said in str(done.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("first_bad", "status", "last"),
    [
        (1, 0, r"FIRST_BAD 0\.9\d\d runs=\d+ debian-12$"),
        (0, 1, r"GOOD_END_IS_BAD 0\.9\d\d runs=\d+$"),
        (9, 1, r"BAD_END_IS_GOOD 0\.9\d\d runs=\d+$"),
    ],
)
def test_the_last_line(world: SimpleNamespace, tmp_path: Path, first_bad: int, status: int, last: str) -> None:
    world.oracle = steps(first_bad)
    argv = ["bisect", "held-worker", "--kernel", "debian-11,debian-12,debian-13", "--clock", "real"]
    done = CliRunner().invoke(app, [*argv, "--out", str(tmp_path / "o")])
    assert done.exit_code == status, done.output
    assert re.search(last, done.stdout.rstrip().splitlines()[-1])
    done = CliRunner().invoke(app, ["bisect", "--resume", str(tmp_path / "o"), "--json"])
    assert done.exit_code == status
    assert json.loads(done.stdout)["schema_version"] == 2


def test_undecided(world: SimpleNamespace, tmp_path: Path) -> None:
    world.oracle = steps(1)
    argv = ["bisect", "held-worker", "--kernel", "debian-11,debian-12,debian-13", "--most-runs", "2"]
    done = CliRunner().invoke(app, [*argv, "--out", str(tmp_path / "o")])
    assert done.exit_code == 1
    assert "UNDECIDED runs=2 likeliest" in done.stdout.splitlines()[-1]


DOCUMENTS = ("docs/howto.md",)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_documented_example(
    world: SimpleNamespace, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, document: str
) -> None:
    """As it is typed, on a repository in which the tag of the release lies on a branch; its directory is relative."""
    (line,) = re.findall(r"(?m)^\./splvm (bisect .*--good .*)$", (PROJECT / document).read_text(encoding="utf-8"))
    git(tree, "branch", "-m", "main", "master")
    git(tree, "checkout", "-q", "-b", "zfs-2.3-release", "master~5")
    git(tree, "commit", "-q", "--allow-empty", "-m", "Tag zfs-2.3.0")
    git(tree, "tag", "zfs-2.3.0")
    git(tree, "checkout", "-q", "master")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    world.oracle = steps(2)
    done = CliRunner().invoke(app, line.split())
    assert done.exit_code == 0, done.output
    sha = git(tree, "rev-parse", "master~3")
    assert re.search(rf"^FIRST_BAD 0\.\d+ runs=\d+ {sha[:12]} change 3$", done.output.splitlines()[-1])


@pytest.mark.parametrize("name", ["git:{tree}@main", "git:{tree}@HEAD@{{0}}", "pr:7", "path:{tree} --bad main"])
def test_the_bad_end_is_in_the_name(
    world: SimpleNamespace, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    git(tree, "update-ref", "refs/pull/7/head", "main")
    monkeypatch.setenv("SPLVM_OPENZFS", str(tree))
    world.oracle = steps(2)
    argv = ["bisect", "held-worker", "--good", "HEAD~5", "--spl", *name.format(tree=tree).split()]
    done = CliRunner().invoke(app, [*argv, "--out", str(tmp_path / "o")])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1].endswith("change 3")
