"""Directories of runs: one that nothing came to be in does not stay."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from splvm.cli import app, guests, watch
from splvm.errors import BuildError, UsageError

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
