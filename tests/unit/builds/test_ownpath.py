"""Names of what is the user's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from splvm.builds.own import find_own_kernel
from splvm.builds.spl import check_inputs
from splvm.errors import UsageError
from splvm.ownpath import absolute, name_path, own_path


@pytest.mark.parametrize(
    ("name", "rest"),
    [("path:/a,b:c", "/a,b:c"), ("path:", ""), ("debian", None), ("built:kasan", None), ("/path:x", None), ("", None)],
)
def test_what_follows_path(name: str, rest: str | None) -> None:
    assert own_path(name) == rest


def test_a_path_and_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/h")
    assert (absolute("~/zfs"), absolute("zfs")) == (Path("/h/zfs"), tmp_path / "zfs")
    assert own_path(name_path(tmp_path)) == str(tmp_path)


@pytest.mark.parametrize("name", ["path:", "tree:/x", "/x"])
def test_every_option_refuses_what_is_no_such_name(name: str) -> None:
    with pytest.raises(UsageError, match="not a source"):
        check_inputs(name, ())
    if own_path(name) is None:
        assert find_own_kernel(name) is None


def test_nobody_else_reads_them(project: Path) -> None:
    """A second reader would need the prefix."""
    reader = re.compile(r"""["']path:["'{]|[!=]= "path"|path:"\)""")
    files = (project / "framework" / "splvm").rglob("*.py")
    assert [path.name for path in files if reader.search(path.read_text())] == ["ownpath.py"]
