"""Directories of runs: one that nothing came to be in does not stay."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import get_type_hints

import pytest
from typer.testing import CliRunner

from splvm.cli import COMMANDS as ALL_COMMANDS
from splvm.cli import app, guests, replay, watch
from splvm.errors import BuildError, EvidenceError, UsageError
from splvm.host.claim import hold_directory
from splvm.host.store import Store

COMMANDS = (("run", "held-worker"), ("demo",), ("watch", "held-worker"))


@pytest.fixture(autouse=True)
def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing compiles."""

    def fail(*_: object, **__: object) -> None:
        raise BuildError("spl.ko", "error: expected ';'", None)

    monkeypatch.setattr(guests, "prepare", fail)
    monkeypatch.setattr(watch, "prepare_kernel", fail)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("out", [(), ("--out", "there/deep")])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_failed_build_leaves_no_directory(command: tuple[str, ...], out: tuple[str, ...], tmp_path: Path) -> None:
    Path("x.cocci").write_text("@@ @@\n- a\n")
    more = ("--spl-patch", "x.cocci") if command[0] == "watch" else ()
    assert isinstance(CliRunner().invoke(app, [*command, *more, *out]).exception, BuildError)
    assert not list(tmp_path.glob("runs/*")) and not list(tmp_path.glob("there/*"))


def test_an_empty_directory_of_the_users_stays() -> None:
    Path("mine").mkdir()
    assert isinstance(CliRunner().invoke(app, ["run", "held-worker", "--out", "mine"]).exception, BuildError)
    assert Path("mine").is_dir()


def test_what_is_in_a_directory_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        Path("mine/log").touch()
        raise UsageError("no")

    monkeypatch.setattr(guests, "prepare", fail)
    assert isinstance(CliRunner().invoke(app, ["run", "held-worker", "--out", "mine"]).exception, UsageError)
    assert Path("mine/log").exists()


# Each command that has `--out DIR` for evidence, or goes on in the directory of a campaign.
HOLDERS: Mapping[str, Sequence[Sequence[str]]] = {
    "demo": [("--out",)],
    "run": [("held-worker", "--out")],
    "watch": [("held-worker", "--spl-patch", "x.cocci", "--out")],
    "matrix": [("--scenario", "held-worker", "--kernel", "debian-12", "--out"), ("--resume",)],
    "storm": [("--out",)],
    "sites": [("--out",)],
    "repro": [("held-worker", "--out")],
    "bisect": [("held-worker", "--kernel", "debian-12,debian-11", "--out"), ("--resume",)],
    "explore": [("held-worker", "--out"), ("held-worker", "--resume")],
    "history-bugs": [("--out",)],
    "replay": [("recorded", "--out")],
}


def test_each_command_that_writes_evidence_is_listed() -> None:
    """So that a new one comes to the next test."""
    writing = {
        name
        for name, command in ALL_COMMANDS.items()
        for each in get_type_hints(command, include_extras=True).values()
        if "Directory for the evidence." in str([vars(it) for it in getattr(each, "__metadata__", ())])
    }
    assert writing == set(HOLDERS)


@pytest.mark.parametrize(("name", "words"), [(name, words) for name, each in HOLDERS.items() for words in each])
def test_a_directory_that_another_command_works_in(
    name: str, words: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("splvm.host.claim._MOMENT_S", 0.0)
    Path("x.cocci").write_text("@@ @@\n- a\n")
    Path("mine").mkdir()
    # Nothing that the other one writes is read: it may be half of what will be there.
    for file in ("matrix.json", "bisect.json", "explore.json") if "--resume" in words else ():
        Path("mine", file).write_text("{")
    # Whoever goes on gets no further than to the store.
    monkeypatch.setenv("SPLVM_CACHE", str(Path("x.cocci").absolute() / "store"))
    monkeypatch.setenv("SPLVM_HISTORY", str(Path("history.sqlite").absolute()))
    monkeypatch.setattr(replay, "read_facts", lambda directory: {"scenario": "held-worker"})
    monkeypatch.setattr(replay, "read_evidence", lambda directory: SimpleNamespace(damage=()))
    monkeypatch.setattr(replay, "wish_of", lambda facts: None)
    held = hold_directory(Path("mine"))
    assert held is not None
    result = CliRunner().invoke(app, [name, *words, "mine"])
    assert isinstance(result.exception, UsageError), result.output
    assert f"mine: process {os.getpid()} (" in str(result.exception) and "works in it" in str(result.exception)
    os.close(held)


def test_a_command_that_failed_holds_its_directory_no_more() -> None:
    Path("mine").mkdir()
    assert isinstance(CliRunner().invoke(app, ["run", "held-worker", "--out", "mine"]).exception, BuildError)
    held = hold_directory(Path("mine"))
    assert held is not None
    os.close(held)


def test_two_commands_that_begin_at_once_get_two_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first has made its directory, and nothing is in it yet."""
    Path("mine").mkdir()
    seen: list[BaseException | None] = []

    def prepare(*_: object, **__: object) -> None:
        assert not os.listdir("mine")
        monkeypatch.setattr(guests, "prepare", lambda *_, **__: pytest.fail("it began beside the first"))
        seen.append(CliRunner().invoke(app, ["run", "nominal", "--out", "mine"]).exception)
        raise BuildError("spl.ko", "error", None)

    monkeypatch.setattr("splvm.host.claim._MOMENT_S", 0.0)
    monkeypatch.setattr(guests, "prepare", prepare)
    assert isinstance(CliRunner().invoke(app, ["run", "held-worker", "--out", "mine"]).exception, BuildError)
    assert [type(each) for each in seen] == [UsageError]


def test_a_plan_is_shown_while_another_command_goes_on() -> None:
    Path("mine").mkdir()
    held = hold_directory(Path("mine"))
    assert held is not None
    error = CliRunner().invoke(app, ["matrix", "--resume", "mine", "--plan"]).exception
    os.close(held)
    assert isinstance(error, EvidenceError) and "has no matrix.json" in str(error)


def test_a_plan_with_an_accelerator_that_does_not_exist() -> None:
    argv = ["matrix", "--scenario", "held-worker", "--kernel", "debian-12", "--accel", "nosuch", "--plan"]
    error = CliRunner().invoke(app, argv).exception
    assert isinstance(error, UsageError) and "nosuch" in str(error)


@pytest.mark.parametrize("deep", [False, True])
def test_the_socket_of_a_debugger_is_in_the_store_if_its_path_fits(deep: bool) -> None:
    """What is there when a command is killed goes with the next one."""
    # The directory of the test may be long.
    with tempfile.TemporaryDirectory(prefix="s") as short:
        root = Path(short, *(["d" * 50] * 2 if deep else []), "store")
        with replay._socket(Store(root)) as path:
            assert (root / "tmp" in path.parents) != deep
            assert path.parent.is_dir() and len(os.fsencode(path)) <= 107
        assert not path.parent.exists()
