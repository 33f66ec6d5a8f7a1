"""Two builds of the history by name, and the comment that is made of them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from site_data import HOSTILE, a_run
from splvm.cli import app
from splvm.errors import EvidenceError
from splvm.history.database import History

BASE, HEAD = "1a2b3c4" + "0" * 33, "5d6e7f8" + "0" * 33


def build(start: int, revision: str, line: str, verdicts: str, **changes: Any) -> list[Any]:
    """Runs of a build, by the first letters of their verdicts."""
    names = {"P": "PROGRESS", "S": "STALLED", "T": "TROUBLE"}
    told = {"line": line, "revision": revision, "tree": f"{revision[:7]} {line}", **changes}
    modules = {"spl.ko": f"{revision[:1]}" * 64, "slabprobe.ko": revision.ljust(64, "0")}
    return [
        a_run(start + number, names[letter], **{"modules": modules, **told}) for number, letter in enumerate(verdicts)
    ]


@pytest.fixture
def history(tmp_path: Path) -> Path:
    path = tmp_path / "h.sqlite"
    with History(path) as opened:
        opened.add(
            [
                *build(0, BASE, "main", "PPPPPP"),
                *build(10, HEAD, "pr:7", "SSSSSP"),
                # A newer commit of the line.
                *build(20, "9" * 40, "main", "PP"),
                *build(30, BASE, "main", "PPP", scenario="nominal"),
                *build(40, HEAD, "pr:7", "PPT", scenario="nominal"),
                *build(50, HEAD, "pr:7", "P", scenario="long-lived"),
            ]
        )
    return path


def compare(history: Path, *argv: str) -> Any:
    return CliRunner().invoke(app, ["compare", *argv, "--history", str(history)])


def test_any_two_builds_by_name(history: Path) -> None:
    told = json.loads(compare(history, BASE[:7], "pr:7", "--json").stdout)["pairs"]
    assert [each["scenario"] for each in told] == ["held-worker", "nominal"]
    builds = told[0]["builds"]
    assert [each["revision"] for each in builds] == [BASE, HEAD]
    assert [(each["as_expected"]["hits"], each["as_expected"]["runs"]) for each in builds] == [(6, 6), (1, 6)]
    assert told[0]["p"] < 0.05
    # Trouble is no verdict.
    assert told[1]["builds"][1]["as_expected"]["runs"] == 2
    # A line is its newest build.
    (pair,) = json.loads(compare(history, "main", "pr:7", "--json").stdout)["pairs"][:1]
    assert pair["builds"][0]["revision"] == "9" * 40
    by_module = json.loads(compare(history, "1" * 12, "5" * 12, "--json").stdout)["pairs"]
    assert [each["revision"] for each in by_module[0]["builds"]] == [BASE, HEAD]


def test_two_variants_by_name(history: Path) -> None:
    with History(history) as opened:
        opened.add(build(70, "", "packaged", "SSS", variant="unscoped", tree=""))
        opened.add(build(80, "", "packaged", "PPP", tree=""))
    (pair,) = json.loads(compare(history, "unscoped", "stock", "--json").stdout)["pairs"][:1]
    assert [it["verdicts"][0] for it in pair["builds"]] == ["STALLED", "PROGRESS"]
    text = compare(history, "unscoped", "debian", "--comment").stdout
    assert "`held-worker debian-12 unscoped and stock` | STALLED 3 of 3 | PROGRESS 3 of 3" in text
    assert "--variant unscoped,stock --clock real --spl debian\n" in text
    # Of builds that ran the same variant no other is looked at.
    assert "unscoped" not in compare(history, "debian", "pr:7", "--comment").stdout


@pytest.mark.parametrize("names", [("git:/any/zfs@main", "pr:7"), ("path:/any/main", "7" * 12)])
def test_builds_by_their_names_for_spl_and_by_zfs(history: Path, names: tuple[str, str]) -> None:
    with History(history) as opened:
        opened.add(build(90, HEAD, "pr:7", "P", modules={"spl.ko": "5" * 64, "zfs.cpio": "7" * 64}))
    assert compare(history, *names).exit_code == 0


def test_a_build_and_itself(history: Path) -> None:
    error = compare(history, "pr:7", HEAD[:12]).exception
    assert isinstance(error, EvidenceError) and "stand for the same build: stock line=pr:7" in str(error)


def test_the_table(history: Path) -> None:
    done = compare(history, BASE, "pr:7")
    assert done.exit_code == 0
    assert "main" in done.stdout and "STALLED" in done.stdout


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("mian", "pr:7"), "mian: the history has no build of that name\nhint: did you mean main?"),
        (("main", "0" * 12), "0" * 12 + ": the history has no build"),
        # Six digits may be anything.
        ((BASE[:6], "main"), "has no build of that name"),
    ],
)
def test_names_of_no_build(history: Path, names: tuple[str, str], said: str) -> None:
    error = compare(history, *names).exception
    assert isinstance(error, EvidenceError) and said in str(error)


def test_builds_that_never_met(history: Path, tmp_path: Path) -> None:
    with History(history) as opened:
        opened.add(build(60, "7" * 40, "alone", "P", kernel="debian-13"))
    error = compare(history, "alone", "main").exception
    assert isinstance(error, EvidenceError) and "never ran the same" in str(error)


def test_the_comment(history: Path) -> None:
    text = compare(history, BASE, "pr:7", "--comment").stdout
    assert len(text.splitlines()) <= 40
    rows = [line for line in text.splitlines() if line.startswith("`")]
    assert rows[0].startswith("`held-worker debian-12 stock` | PROGRESS 6 of 6 | STALLED 5, PROGRESS 1 of 6 | 0.0")
    assert rows[1].startswith("`nominal debian-12 stock` | PROGRESS 3 of 3 | PROGRESS 2 of 2 | 1")
    assert "same modules" not in text and "/nowhere" not in text
    (command,) = re.findall(r"```sh\n(.*)\n```", text)
    words = shlex.split(command)
    assert words[:3] == ["splvm", "repro", "held-worker"]
    assert [words[at + 1] for at, word in enumerate(words) if word == "--spl"] == [f"git:zfs@{BASE}", f"git:zfs@{HEAD}"]


@pytest.mark.parametrize(("parameters", "clock"), [("", "real"), ("clock=virtual", "virtual")])
def test_a_comparison_is_repeated_in_its_own_time(tmp_path: Path, parameters: str, clock: str) -> None:
    with History(tmp_path / "h") as opened:
        for at, revision, line, verdicts in ((0, BASE, "main", "PPPP"), (10, HEAD, "head", "SSSS")):
            opened.add(build(at, revision, line, verdicts, parameters=parameters))
    assert f" --clock {clock} --spl " in compare(tmp_path / "h", "main", "head", "--comment").stdout


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tree": "5d6e7f8 x, dirty"}, "No command repeats it"),
        ({"patches": ["x.patch"]}, "No command repeats it"),
        ({"parameters": "threads=4"}, "never ran the same"),
        ({"variant": "unscoped"}, "No command repeats it"),
        ({"modules": {"spl.ko": "1" * 64, "slabprobe.ko": "2" * 64}}, "Both have the same modules"),
        ({"tree": HOSTILE, "spl_version": HOSTILE}, "against"),
    ],
)
def test_what_a_comment_may_not_say(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with History(tmp_path / "h") as opened:
        opened.add([*build(0, BASE, "main", "PPPP"), *build(10, HEAD, "head", "SSSS", **changes)])
    done = compare(tmp_path / "h", "main", "head", "--comment")
    assert said in (done.stdout or str(done.exception))
    assert len(done.stdout.splitlines()) <= 40


def test_a_comment_of_many_cells(tmp_path: Path) -> None:
    with History(tmp_path / "h") as opened:
        for number in range(60):
            told = {"kernel": f"debian-{number}", "longest_gap_ms": float(number)}
            opened.add(build(20 * number, BASE, "main", "PPPPP", **told))
            opened.add(build(20 * number + 10, HEAD, "head", "SSSSS", **{**told, "longest_gap_ms": 900.0 + number}))
    text = compare(tmp_path / "h", "main", "head", "--comment").stdout
    assert len(text.splitlines()) <= 40 and "and 44 more cells" in text and "longest gap" in text
