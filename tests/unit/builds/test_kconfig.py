"""Configuration fragments: conflicts, what a tree drops, and the fragments of this project themselves."""

from __future__ import annotations

import pytest

from splvm.builds.kconfig import (
    check_dropped,
    find_dropped,
    format_config,
    merge_fragments,
    parse_config,
    parse_fragment,
)
from splvm.builds.source import BUILT, read_fragments
from splvm.errors import BuildError


def test_what_a_fragment_asks_for() -> None:
    text = '# why\nCONFIG_A=y\n\n# CONFIG_B is not set\nCONFIG_C=m\nCONFIG_D?=16\nCONFIG_E="a b"\nCONFIG_F=0x10\n'
    options = parse_fragment("x.config", text)
    assert [(o.name, o.value, o.optional, o.place) for o in options] == [
        ("A", "y", False, "x.config:2"),
        ("B", "n", False, "x.config:4"),
        ("C", "m", False, "x.config:5"),
        ("D", "16", True, "x.config:6"),
        ("E", '"a b"', False, "x.config:7"),
        ("F", "0x10", False, "x.config:8"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "A=y",
        "CONFIG_A",
        "CONFIG_A =y",
        "CONFIG_A=y # why",
        "CONFIG_A=",
        "CONFIG_A=yes",
        'CONFIG_A="x',
        " CONFIG_A=y",
        "CONFIG_A==y",
        # They would be taken for comments, and what they ask for would be lost.
        "#CONFIG_A=y",
        "# CONFIG_A is not set.",
        "# CONFIG_A is  not set",
    ],
)
def test_line_that_is_none(line: str) -> None:
    with pytest.raises(BuildError, match=r"x\.config:3: "):
        parse_fragment("x.config", f"# why\nCONFIG_Z=y\n{line}\n")


def test_fragments_that_agree() -> None:
    merged = merge_fragments({"a.config": "CONFIG_A=y\nCONFIG_B?=y\n", "b.config": "CONFIG_B=y\nCONFIG_A=y\n"})
    assert [(o.name, o.place, o.optional) for o in merged] == [("A", "a.config:1", False), ("B", "b.config:1", False)]
    assert format_config(merged) == "CONFIG_A=y\nCONFIG_B=y\n"


@pytest.mark.parametrize(("first", "second"), [("y", "n"), ("y", "m"), ("16", "17")])
def test_conflict_names_everything(first: str, second: str) -> None:
    other = "# CONFIG_A is not set" if second == "n" else f"CONFIG_A={second}"
    with pytest.raises(BuildError) as caught:
        merge_fragments({"a.config": f"# why\nCONFIG_A={first}\n", "b.config": f"CONFIG_B=y\n\n{other}\n"})
    said = caught.value.message
    assert all(word in said for word in ("CONFIG_A", f"{first} (a.config:2)", f"{second} (b.config:3)")), said


def test_conflict_within_one_file() -> None:
    with pytest.raises(BuildError, match=r"y \(a.config:1\), m \(a.config:2\)"):
        merge_fragments({"a.config": "CONFIG_A=y\nCONFIG_A=m\n"})


CONFIG = '#\n# Linux/x86 6.1\n#\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=m\nCONFIG_D="x"\n'


def dropped(text: str) -> list[str]:
    return [str(item) for item in find_dropped(parse_fragment("x.config", text), parse_config(CONFIG))]


def test_nothing_dropped() -> None:
    assert dropped('CONFIG_A=y\n# CONFIG_B is not set\n# CONFIG_GONE is not set\nCONFIG_C=m\nCONFIG_D="x"\n') == []


def test_every_one_that_is_dropped_is_named() -> None:
    assert dropped("CONFIG_B=y\nCONFIG_A=y\nCONFIG_C=y\nCONFIG_GONE=y\n# CONFIG_A is not set\n") == [
        "CONFIG_B=y (x.config:1) is not set",
        "CONFIG_C=y (x.config:3) is m instead",
        "CONFIG_GONE=y (x.config:4) is not there: no such option, or something that it depends on is not set",
        "CONFIG_A=n (x.config:5) is y instead",
    ]


def test_dropped_is_an_error_unless_it_was_marked() -> None:
    options = parse_fragment("x.config", "CONFIG_B=y\nCONFIG_GONE=y\nCONFIG_OLD?=y\n")
    found = find_dropped(options, parse_config(CONFIG))
    with pytest.raises(BuildError) as caught:
        check_dropped(found, "a kernel")
    assert "CONFIG_B=y" in caught.value.message and "CONFIG_GONE=y" in caught.value.message
    assert "CONFIG_OLD" not in caught.value.message
    assert [item.option.name for item in check_dropped(found[2:], "a kernel")] == ["OLD"]


@pytest.mark.parametrize("row", BUILT.values(), ids=list(BUILT))
def test_fragments_of_every_row_fit_together(row: object) -> None:
    fragments = read_fragments(BUILT[row.name])  # type: ignore[attr-defined]
    options = {option.name for option in merge_fragments(fragments)}
    # What a guest cannot boot or be watched without.
    assert {"VIRTIO_PCI", "VIRTIO_NET", "VIRTIO_CONSOLE", "DYNAMIC_FTRACE_WITH_REGS", "KALLSYMS"} <= options
    assert "\n\n#" in "".join(fragments.values())


def test_all_rows_at_once_do_not_contradict_each_other() -> None:
    merge_fragments({name: text for row in BUILT.values() for name, text in read_fragments(row).items()})


@pytest.mark.parametrize("row", BUILT.values(), ids=list(BUILT))
def test_every_block_has_its_reason(row: object) -> None:
    for name, text in read_fragments(BUILT[row.name]).items():  # type: ignore[attr-defined]
        for block in text.strip().split("\n\n"):
            assert block.startswith("# "), f"{name}: {block}"
