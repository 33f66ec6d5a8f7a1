"""Programs that runs need on the host, and the Debian or Ubuntu packages that they are in.

The launcher `./splvm` installs what is missing of programs.txt; where there is no launcher, `missing_programs` tells.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path


def _read_table() -> dict[str, str]:
    lines = Path(__file__).with_name("programs.txt").read_text(encoding="utf-8").splitlines()
    return {program: package for program, package in (line.split() for line in lines if not line.startswith("#"))}


# The package of each program that every run needs.
PROGRAMS: Mapping[str, str] = _read_table()

# And of those that some commands need, or that every Debian has.
OTHERS: Mapping[str, str] = {"apt-cache": "apt", "apt-config": "apt", "apt-get": "apt", "git": "git"}


def search_path() -> str:
    """Where programs are looked for, as in PATH.

    System programs live in sbin, which is not in the search path of a normal user.
    """
    return f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"


def missing_programs() -> list[str]:
    """Those of `PROGRAMS` that are not on this host."""
    path = search_path()
    return [program for program in PROGRAMS if not shutil.which(program, path=path)]
