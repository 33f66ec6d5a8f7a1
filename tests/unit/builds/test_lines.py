"""What of a module was executed, by instructions, functions and lines."""

from __future__ import annotations

import pytest

from splvm.builds.lines import Frame, Instruction, cover, parse_lines
from splvm.errors import EvidenceError
from splvm.evidence.formats.lcov import FileCoverage, merge, parse_lcov, to_lcov

ONE, INLINED, OTHER = Frame("one", "a.c", 10), Frame("inlined", "a.h", 3), Frame("two", "a.c", 20)
ALL = (
    Instruction(0, (ONE,)),
    Instruction(4, (ONE,)),
    Instruction(6, (INLINED, Frame("one", "a.c", 12))),
    Instruction(16, (OTHER,)),
    Instruction(18, ()),
)


def marks(*addresses: int) -> bytes:
    return bytes(address in addresses for address in range(19))


def test_a_line_is_executed_if_one_of_its_instructions_is() -> None:
    assert cover(ALL, marks(4, 18)) == {
        "a.c": FileCoverage({10: 1, 12: 0, 20: 0}, {"one": (10, 1), "two": (20, 0)}),
        "a.h": FileCoverage({3: 0}, {"inlined": (3, 0)}),
    }


def test_what_is_inlined_is_executed_with_the_line_that_calls_it() -> None:
    covered = cover(ALL, marks(6))
    assert covered["a.h"].functions == {"inlined": (3, 1)}
    assert covered["a.c"].lines == {10: 0, 12: 1, 20: 0}


def test_a_place_at_which_nothing_is_executed_is_the_wrong_one() -> None:
    with pytest.raises(EvidenceError, match="no instruction"):
        cover(ALL, marks(18))


def test_what_addr2line_says() -> None:
    told = (
        "0x0000000000000000\none\n/build/src/module/x/../a.c:10 (discriminator 2)\n"
        "0x0000000000000004\nlist_add\n/usr/src/linux-headers/include/linux/list.h:7\none.constprop.0\n"
        "/build/src/module/a.c:12\n0x0000000000000008\n??\n??:0\n0x000000000000000a\none\n/build/src/module/a.c:?\n"
    )
    assert list(parse_lines(told)) == [
        (Frame("one", "module/a.c", 10),),
        (Frame("one", "module/a.c", 12),),
        (),
        (),
    ]


def test_the_form_of_lcov() -> None:
    covered = cover(ALL, marks(0))
    text = to_lcov({"nominal": covered})
    assert text.splitlines() == [
        *("TN:nominal", "SF:a.c", "FN:10,one", "FN:20,two", "FNDA:1,one", "FNDA:0,two", "FNF:2", "FNH:1"),
        *("DA:10,1", "DA:12,0", "DA:20,0", "LF:3", "LH:1", "end_of_record"),
        *("TN:nominal", "SF:a.h", "FN:3,inlined", "FNDA:0,inlined", "FNF:1", "FNH:0"),
        *("DA:3,0", "LF:1", "LH:0", "end_of_record"),
    ]
    assert parse_lcov(text) == {"nominal": covered}


def test_runs_are_added_up() -> None:
    text = to_lcov({"a": cover(ALL, marks(0)), "b": cover(ALL, marks(0, 16))})
    tests = parse_lcov(text)
    assert merge(tests.values())["a.c"] == FileCoverage({10: 2, 12: 0, 20: 1}, {"one": (10, 2), "two": (20, 1)})
    # The same test twice in one file is its sum.
    assert parse_lcov(text + text)["a"]["a.c"].lines == {10: 2, 12: 0, 20: 0}


@pytest.mark.parametrize("line", ["DA:x,1", "DA:5", "FN:one", "FNDA:1,nobody", "FNDA:-1,one"])
def test_no_tracefile(line: str) -> None:
    with pytest.raises(EvidenceError, match="line 3 is of no tracefile"):
        parse_lcov(f"TN:a\nSF:a.c\n{line}\n")
