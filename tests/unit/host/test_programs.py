"""The table of programs that a host needs: read by the launcher too, and told in one line where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from splvm.host import programs


def test_the_table() -> None:
    assert programs.PROGRAMS["qemu-system-x86_64"] == "qemu-system-x86"
    assert all(" " not in package for package in programs.PROGRAMS.values())
    assert not {*programs.PROGRAMS} & {*programs.OTHERS}


def test_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "search_path", lambda: str(tmp_path))
    assert programs.missing_programs() == [*programs.PROGRAMS]
    (tmp_path / "spatch").touch(mode=0o755)
    assert programs.missing_programs() == [program for program in programs.PROGRAMS if program != "spatch"]


def test_demo_names_all_packages_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    environment = {**os.environ, "PATH": str(tmp_path / "bin"), "SPLVM_CACHE": str(tmp_path / "store")}
    argv = [sys.executable, "-m", "splvm", "demo"]
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 3
    first, last = done.stderr.splitlines()
    # System programs are found all the same, where they are (mke2fs).
    there = {program for program in programs.PROGRAMS if any(Path(top, program).exists() for top in SBIN)}
    missing = {*programs.PROGRAMS} - there
    assert {*first.removeprefix("error: this host lacks what every run needs: ").split(", ")} - {KEYS} == missing
    command, packages = last.partition(" --no-install-recommends ")[::2]
    assert command in ("hint: apt-get install -y", "hint: sudo apt-get install -y")
    assert {*packages.split()} - {KEYRING} == {programs.PROGRAMS[program] for program in missing}
    assert "qemu-system-x86" in packages
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin"]


SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")
KEYS = "the keys of the Debian archive"
KEYRING = "debian-archive-keyring"


def test_the_launcher_reads_the_table(project: Path, tmp_path: Path) -> None:
    """Its function on a host that has nothing: what it would install."""
    text = (project / "splvm").read_text()
    function = text[text.index("missing_packages() {") : text.index("install_packages() {")]
    # sbin may have some of them, and the last lines are about the environment of this checkout.
    script = f"root={project} python=sh extra=\n{function.replace(':/usr/local/sbin:/usr/sbin:/sbin', '')}"
    script += "is_current() { :; }\nmissing_packages"
    shell = ["/bin/sh", "-euc", script]
    done = subprocess.run(shell, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert {*done.stdout.split()} - {KEYRING, "python3"} == {*programs.PROGRAMS.values()}
