"""What a bare install lacks, and what a user is told who needs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

from places import PROJECT
from splvm.extras import EXTRAS, missing_package
from unpacking import unpack

# Runs splvm as if packages were not installed: Python refuses to import what is None in sys.modules.
WITHOUT = """
import sys
names, *sys.argv[1:] = sys.argv[1:]
sys.modules.update(dict.fromkeys(names.split(","), None))
from splvm.cli import main
main()
"""


def without(names: str, *argv: str, store: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, names, *argv],
        env={**os.environ, "SPLVM_CACHE": str(store)},
        cwd=store.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_each_package_is_in_its_extra_and_nowhere_else() -> None:
    told = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    bare = {re.split("[><=\\[]", each)[0] for each in told["dependencies"]}
    assert not bare & set(EXTRAS)
    for package, (extra, _) in EXTRAS.items():
        listed = {re.split("[><=\\[]", each)[0] for each in told["optional-dependencies"][extra]}
        assert package in listed
    assert {extra for extra, _ in EXTRAS.values()} == set(told["optional-dependencies"]) - {"all", "pytest", "test"}


@pytest.mark.parametrize(
    ("package", "argv"),
    [
        ("numpy", ("bisect", "held-worker", "--kernel", "debian-11,debian-12")),
        ("scipy", ("bisect", "held-worker", "--kernel", "debian-11,debian-12")),
        ("distributed", ("worker", "dask://127.0.0.1:1")),
        ("distributed", ("cluster", "keys", "keys")),
        ("drgn", ("explain", "core", "--vmlinux", "vmlinux")),
        ("jinja2", ("report", "--out", "site")),
        ("plotly", ("report", "--out", "site")),
    ],
)
def test_a_command_that_lacks_a_package_names_its_extra(package: str, argv: tuple[str, ...], tmp_path: Path) -> None:
    # A dump of makedumpfile's form; drgn reads it in a process of its own.
    (tmp_path / "core").write_bytes(b"KDUMP   " + bytes(64))
    (tmp_path / "vmlinux").write_bytes(b"")
    done = without(package, *argv, store=tmp_path / "store")
    assert done.returncode == 3, done.stderr
    assert f"needs the extra `{EXTRAS[package][0]}`" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "store") == ["core", "vmlinux"]


BARE = ",".join(EXTRAS)


@pytest.mark.parametrize(
    "argv",
    [
        ("--help",),
        ("matrix", "--help"),
        ("parse-slab", str(PROJECT / "tests/data/slab-pasted.txt")),
        ("judge", "progress"),
        ("history", "import", "progress"),
        ("explain", str(PROJECT / "tests/data/slab-pasted.txt")),
    ],
    ids=lambda argv: argv[0],
)
def test_what_a_bare_install_can_do(argv: tuple[str, ...], tmp_path: Path) -> None:
    with tarfile.open(PROJECT / "tests/data/runs/progress.tar.xz") as archive:
        unpack(archive, tmp_path)
    done = without(BARE, *argv, store=tmp_path / "store")
    assert done.returncode == 0, done.stderr


def test_another_failed_import_is_no_lack_of_an_extra() -> None:
    assert missing_package(ModuleNotFoundError("x", name="splvm.nothing")) is None
    assert missing_package(ImportError("x", name="numpy")) is None
