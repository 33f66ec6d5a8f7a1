"""Benchmarks count only what came out right: what they check can fail."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

import clones
import figures
import virtme
from splvm.deadline import Deadline
from splvm.errors import HarnessError
from splvm.guest.ssh import CommandResult

RELEASE = "6.1.0-1-cloud-amd64"


@dataclass(frozen=True)
class FakeSsh:
    """Says the same to every command, TOKEN in it replaced by what it was asked for."""

    said: str

    def run(self, command: str, *, deadline: Deadline) -> CommandResult:
        token = command.split(";")[0].removeprefix("echo ")
        return CommandResult(command, 0, self.said.replace("TOKEN", token), "")


@dataclass(frozen=True)
class FakeGuest:
    ssh: FakeSsh


GOOD = f"TOKEN\n{RELEASE}\nModule Size Used by\nslabprobe 1 0\nspl 2 1 slabprobe\n"


def test_a_clone_that_answers_is_one() -> None:
    clones.check(cast(Any, FakeGuest(FakeSsh(GOOD))), RELEASE)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "TOKEN\n",
        GOOD.replace("TOKEN", "0123456789abcdef"),
        GOOD.replace(RELEASE, "5.10.0-1-cloud-amd64"),
        GOOD.replace("spl 2", "splx 2"),
        GOOD.replace("slabprobe 1 0\n", ""),
    ],
)
def test_a_clone_with_another_answer_is_a_failure(said: str) -> None:
    with pytest.raises(HarnessError, match="a clone was asked for"):
        clones.check(cast(Any, FakeGuest(FakeSsh(said))), RELEASE)


def fake_virtme(directory: Path, script: str) -> virtme.Virtme:
    program = directory / "bin" / "vng"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return virtme.Virtme(directory, "0")


def test_virtme_is_timed_to_its_result_and_to_its_end(tmp_path: Path) -> None:
    theirs = fake_virtme(tmp_path, f"echo; echo {RELEASE}")
    result, end = theirs.seconds(tmp_path / "vmlinuz", RELEASE, ())
    assert 0 < result <= end


@pytest.mark.parametrize(
    "script",
    [
        # Without udev it ends so.
        "exit 255",
        f"echo {RELEASE}; exit 1",
        "echo 5.10.0-1-cloud-amd64",
        f"echo the kernel is {RELEASE}",
        f"echo {RELEASE} >&2",
    ],
)
def test_virtme_that_fails_is_no_figure(tmp_path: Path, script: str) -> None:
    with pytest.raises(HarnessError, match="virtme-ng: status"):
        fake_virtme(tmp_path, script).seconds(tmp_path / "vmlinuz", RELEASE, ())


def test_virtme_that_hangs_is_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtme, "PATIENCE_S", 0.1)
    with pytest.raises(HarnessError, match="nothing within"):
        fake_virtme(tmp_path, "exec sleep 60").seconds(tmp_path / "vmlinuz", RELEASE, ())


@pytest.mark.parametrize("script", ["echo STALLED held-worker; exit 1", "echo PROGRESS held-worker", "echo ' STALLED'"])
def test_a_command_with_another_verdict_is_no_figure(script: str) -> None:
    with pytest.raises(SystemExit):
        figures.timed(["sh", "-c", script], "STALLED")


def test_a_command_with_its_verdict_is_timed() -> None:
    assert figures.timed(["sh", "-c", "echo; echo STALLED held-worker"], "STALLED") > 0


def test_memory_of_a_process() -> None:
    maps = clones.read_rollup(os.getpid())
    assert 0 < maps["Pss"] <= maps["Rss"]
    assert maps["Private_Dirty"] > 0


def test_a_kernel_that_is_not_compressed_by_lz4_is_named(tmp_path: Path) -> None:
    image = tmp_path / "vmlinuz"
    image.write_bytes(bytes(4096))

    @dataclass(frozen=True)
    class FakeKernel:
        vmlinuz: Path

    with pytest.raises(HarnessError, match="no ELF file"):
        virtme.uncompress(cast(Any, FakeKernel(image)), tmp_path)
