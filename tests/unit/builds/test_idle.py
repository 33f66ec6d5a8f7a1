"""Patches that change nothing are told by their text, and none that changes something is taken for one."""

from __future__ import annotations

from pathlib import Path

import pytest

from splvm.assets import find_debug_header
from splvm.builds.idle import is_idle
from splvm.builds.spl import check_inputs
from splvm.errors import UsageError

MARK = b"\xef\xbb\xbf"
NOTHING = (b"", b"\n \t\r\n", b"\0" * 4096, MARK, MARK + b"\n\0\n")
COMMENTS = (
    b"/* nothing */\n",
    b"// nothing",
    b"// goes on \\\n#define X 1\n",
    b"/* not closed\n#define X\n",
    MARK + b"//",
)
IDLE = {
    ".h": (*NOTHING, *COMMENTS, b"/**//**/"),
    ".cocci": (*NOTHING, *COMMENTS, b"// @@ @@\n", b"/* @r@ @@\n- x */", b"- x;\n+ y;\n"),
    ".patch": (*NOTHING, b"From: somebody\n\n--- a/x.c\n+++ b/x.c\n", b"diff --git a/x b/x\n", b"words alone\n"),
}
SAYS = {
    ".h": (
        b"#define X 1\n",
        b'#define A "/*"\n',
        b"/* a */ int x; /* b */",
        b"#undef X",
        MARK + b"#define X",
        b"';'//",
    ),
    ".cocci": (b"@@ @@\n- x;\n", b"// why\n@r@\nexpression e;\n@@\n- f(e);\n", b"@@ expression e; @@ - f(e); + g(e);"),
    ".patch": (
        b"--- a/x.c\n+++ b/x.c\n@@ -1 +1 @@\n-a\n+b\n",
        b"*** a/x.c\n--- b/x.c\n***************\n*** 1 ****\n! a\n--- 1 ----\n! b\n",
        b"1c1\n< a\n---\n> b\n",
        b"1d\n",
        b"diff --git a/x b/y\nrename from x\nrename to y\n",
        b"diff --git a/x b/x\nold mode 100644\nnew mode 100755\n",
        b"--- a/x.c\n+++ b/x.c\n@@ -1,2 +1 @@\n a\n--- b\n",
    ),
}


@pytest.mark.parametrize(("suffix", "text"), [(suffix, text) for suffix, texts in IDLE.items() for text in texts])
def test_what_changes_nothing_is_refused(suffix: str, text: bytes, tmp_path: Path) -> None:
    """Before anything is fetched or built for it, in one line."""
    patch = tmp_path / f"x{suffix}"
    patch.write_bytes(text)
    with pytest.raises(UsageError, match="there is nothing in it") as refused:
        check_inputs("debian", [patch])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("suffix", "text"), [(suffix, text) for suffix, texts in SAYS.items() for text in texts])
def test_what_may_change_something_is_taken(suffix: str, text: bytes) -> None:
    assert not is_idle(suffix, text)


def test_the_projects_own_patches_are_taken() -> None:
    top = Path(__file__).parents[3]
    patches = [path for suffix in ("cocci", "patch", "h") for path in top.glob(f"tests/**/*.{suffix}")]
    patches += [*top.glob("images/**/*.cocci"), find_debug_header()]
    assert len(patches) > 20
    assert [path for path in patches if is_idle(path.suffix, path.read_bytes())] == []


def test_a_header_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "x.h"
    path.write_bytes(b"#define X 1\n" * 100_000)
    with pytest.raises(UsageError, match="larger than 1 MiB"):
        check_inputs("debian", [path])
