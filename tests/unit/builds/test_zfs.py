"""What of the build of ZFS can be looked at without building it: makefiles, and the order of modules."""

from __future__ import annotations

from pathlib import Path

import pytest

from splvm.builds.zfs import depends_on, fill_in, load_order


def test_makefiles_are_filled_in_for_where_they_are() -> None:
    lines = {
        "src = @abs_srcdir@": "src = /build/src/module/avl",
        "I = @abs_top_srcdir@/include": "I = /build/src/include",
        "@CONFIG_QAT_TRUE@X += @QAT_SRC@": "#X += ",
        "C = @KERNEL_DEBUG_CPPFLAGS@": "C = -UDEBUG -DNDEBUG",
    }
    assert fill_in("\n".join(lines), Path("/build/src/module/avl")) == "\n".join(lines.values())


def module(*names: str) -> bytes:
    """As much of a module as tells what it depends on."""
    return b"\x7fELF..license=CDDL\0depends=" + ",".join(names).encode() + b"\0vermagic=6.1\0"


def test_what_a_module_depends_on() -> None:
    assert depends_on(module("spl", "zlib-deflate")) == ["spl", "zlib_deflate"]
    assert depends_on(module()) == depends_on(b"no module") == []


@pytest.mark.parametrize("first", ["zfs", "zavl"])
def test_modules_are_loaded_after_those_they_need(first: str) -> None:
    modules = {
        "zfs": module("zcommon", "zavl", "spl"),
        "zcommon": module("znvpair", "spl"),
        "zavl": module(),
        "znvpair": module("spl"),
    }
    order = load_order({first: modules[first], **modules})
    assert set(order) == set(modules)
    assert len(order) == len(modules)
    for name, content in modules.items():
        assert all(order.index(other) < order.index(name) for other in depends_on(content) if other in modules)
