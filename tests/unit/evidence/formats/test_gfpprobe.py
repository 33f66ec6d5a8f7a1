"""/proc/gfpprobe, and what it says of a kernel, from reports of real ones."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from places import PROJECT
from splvm.errors import EvidenceError
from splvm.evidence.formats.gfpprobe import FlagEntry, Level, Way, parse_gfpprobe
from splvm.evidence.kerneltraits import KernelTraits, TraitAnswer, decide
from splvm.report.traittable import describe_masks, traits_table

DATA = (PROJECT / "tests" / "data") / "gfpprobe"
FUZZ = settings(deadline=None, max_examples=200, derandomize=True)
FLAGS = (Way.NOFS_FLAGS, Way.NOIO_FLAGS)
SCOPES = (Way.NOFS_SCOPE, Way.NOIO_SCOPE)


def report(name: str) -> str:
    return (DATA / f"{name}.txt").read_text()


def console(name: str) -> str:
    return (DATA / f"{name}.log").read_text()


def traits(name: str) -> KernelTraits:
    return decide(parse_gfpprobe(report(name)), console(name))


OLD, NEW = report("5.10"), report("6.1")
OLD_CONSOLE, NEW_CONSOLE = console("5.10"), console("6.1")


def fixed_end(text: str) -> str:
    """The same with an end that fits: as if what is missing had never been reported."""
    counts = {tag: len(re.findall(rf"^{tag} ", text, re.MULTILINE)) for tag in ("trial", "alloc", "mask")}
    end = "end trials={trial} allocs={alloc} masks={mask}\n".format(**counts)
    return re.sub(r"^end .*\n", end, text, flags=re.MULTILINE)


def test_a_kernel_that_ignores_flags() -> None:
    """5.10, before Linux commit 451769ebb7e7 (in v5.17), with four levels of paging."""
    kernel = traits("5.10")
    assert kernel.release == "5.10.0-46-cloud-amd64"
    assert tuple(kernel.cells) == (Level.PTE, Level.PMD, Level.PUD)
    for way in FLAGS:
        assert kernel.levels(way, TraitAnswer.IGNORED) == (Level.PTE, Level.PMD)
        assert kernel.honours(way) is False
    for way in SCOPES:
        assert kernel.levels(way, TraitAnswer.HONOURED) == (Level.PTE, Level.PMD)
        assert kernel.honours(way) is True
    for way in Way:
        assert kernel.levels(way, TraitAnswer.NEVER) == (Level.PUD,)
    cell = kernel.cells[Level.PTE][Way.NOIO_SCOPE]
    assert (cell.gfp, cell.effective) == ((0xDC0,), (0xD00,))
    assert kernel.doubts == ()
    assert [answer.complaint for answer in kernel.masks] == [""] * 5
    assert kernel.sentence == (
        "__vmalloc() ignores GFP_NOFS and GFP_NOIO for page tables at the PTE and PMD level: "
        "the original deadlock is possible; within a scope it is not"
    )


@pytest.mark.parametrize("name", ["6.1", "6.12", "7.2"])
def test_a_kernel_that_honours_them(name: str) -> None:
    """With five levels, of which the topmost but one is made at boot."""
    kernel = traits(name)
    for way in Way:
        assert kernel.levels(way, TraitAnswer.HONOURED) == (Level.PTE, Level.PMD, Level.PUD)
        assert kernel.levels(way, TraitAnswer.NEVER) == (Level.P4D,)
        assert kernel.honours(way) is True
    assert kernel.doubts == ()
    assert "cannot come from them" in kernel.sentence


def test_what_was_measured_is_in_the_report() -> None:
    parsed = parse_gfpprobe(OLD)
    trial = parsed.find("noio-flags", FlagEntry.RANGE)
    assert trial is not None
    assert (trial.gfp, trial.scope, trial.err, trial.lost) == (0xC00, "none", 0, 0)
    assert trial.levels[Level.PTE].calls == 1
    assert (trial.levels[Level.PUD].before, trial.levels[Level.PTE].before) == (True, False)
    assert [(alloc.level, alloc.gfp) for alloc in trial.allocs] == [
        (None, 0x2C02),
        (Level.PMD, 0xDC0),
        (Level.PTE, 0xDC0),
    ]
    assert parsed.allocator == "__alloc_pages_nodemask"


def test_what_is_not_known_is_left_alone() -> None:
    text = NEW.replace("entry=range", "entry=range colour=red").replace("mask 0", "shrinker 1 x=y\nmask 0")
    assert parse_gfpprobe(text) == parse_gfpprobe(NEW)


def is_no_better(before: KernelTraits, after: KernelTraits) -> bool:
    """Whether every answer is what it was, or not known any more."""
    return set(after.cells) == set(before.cells) and all(
        cell.answer in (before.cells[level][way].answer, TraitAnswer.UNKNOWN)
        for level, row in after.cells.items()
        for way, cell in row.items()
    )


@pytest.mark.parametrize("name", ["5.10", "6.1"])
def test_no_missing_line_makes_an_answer_better(name: str) -> None:
    lines, whole = report(name).splitlines(keepends=True), traits(name)
    for at in range(len(lines)):
        text = "".join(lines[:at] + lines[at + 1 :])
        if lines[at].startswith(("trial", "level", "alloc", "mask")):
            left = fixed_end(text)
            if not lines[at].startswith("level"):
                with pytest.raises(EvidenceError):
                    parse_gfpprobe(text)
        else:
            left = text
        try:
            after = decide(parse_gfpprobe(left), console(name))
        except EvidenceError:
            continue
        assert is_no_better(whole, after), lines[at]


@pytest.mark.parametrize("level", ["pte", "pmd"])
def test_what_was_not_seen_is_not_honoured(level: str) -> None:
    """Without the lines that show a table asked for with flags it must not have, nothing is known."""
    text = fixed_end(re.sub(rf"^alloc [23] {level} .*\n", "", OLD, flags=re.MULTILINE))
    kernel = decide(parse_gfpprobe(text), OLD_CONSOLE)
    cell = kernel.cells[Level(level)][Way.NOFS_FLAGS]
    assert cell.answer is TraitAnswer.UNKNOWN
    assert "allocations were seen" in cell.reason
    assert kernel.honours(Way.NOIO_FLAGS) is False


# What is changed in the report of a kernel that honours everything, the answer and the reason at the PTE level then.
CHANGES = {
    "blind": ("seen=0x90900", "seen=0x90901", TraitAnswer.UNKNOWN, "does not see"),
    "seen twice": ("times=1", "times=2", TraitAnswer.UNKNOWN, "does not see"),
    "not probed": ("pte=1", "pte=0", TraitAnswer.UNKNOWN, "could not be probed"),
    "control held back": (
        "alloc 0 pte gfp=0xdc0 effective=0xdc0",
        "alloc 0 pte gfp=0xdc0 effective=0xd40",
        TraitAnswer.UNKNOWN,
        "held back too",
    ),
    "direct control held back": (
        "alloc 1 pte gfp=0xdc0 effective=0xdc0",
        "alloc 1 pte gfp=0xdc0 effective=0xd80",
        TraitAnswer.UNKNOWN,
        "held back too",
    ),
    "one is enough": (
        "alloc 3 pte gfp=0xdc0 effective=0xd40",
        "alloc 3 pte gfp=0xdc0 effective=0xdc0",
        TraitAnswer.IGNORED,
        "must not have",
    ),
    "failed": (
        "entry=range gfp=0xc40 scope=none err=0",
        "entry=range gfp=0xc40 scope=none err=-12",
        TraitAnswer.UNKNOWN,
        "12",
    ),
    "lost": ("address=0xffba000000000000 lost=0", "address=0xffba000000000000 lost=3", TraitAnswer.UNKNOWN, "lost 3"),
    "not what it says": ("gfp=0xc40 scope=none", "gfp=0xcc0 scope=none", TraitAnswer.UNKNOWN, "other flags"),
    "not made": (
        "level 2 pte calls=1 before=0 after=1",
        "level 2 pte calls=1 before=0 after=0",
        TraitAnswer.UNKNOWN,
        "left no",
    ),
    "not seen to be made": ("level 2 pte calls=1", "level 2 pte calls=0", TraitAnswer.UNKNOWN, "nothing was seen"),
    "made though there": (
        "level 2 pte calls=1 before=0",
        "level 2 pte calls=1 before=1",
        TraitAnswer.UNKNOWN,
        "there before",
    ),
    "not looked": ("level 2 pte calls=1 before=0 after=1", "level 2 pte calls=1", TraitAnswer.UNKNOWN, "does not tell"),
    "not needed": ("level 3 pte calls=1", "level 3 pte calls=0", TraitAnswer.UNKNOWN, "nothing was seen"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_odd_is_not_honoured(change: str) -> None:
    old, new, answer, words = CHANGES[change]
    assert old in NEW
    kernel = decide(parse_gfpprobe(NEW.replace(old, new, 1)), NEW_CONSOLE)
    cell = kernel.cells[Level.PTE][Way.NOFS_FLAGS]
    assert cell.answer is answer, cell
    assert words in cell.reason
    assert kernel.honours(Way.NOFS_FLAGS) is (False if answer is TraitAnswer.IGNORED else None)
    assert kernel.sentence.startswith(
        "not measured" if answer is TraitAnswer.UNKNOWN else "__vmalloc() ignores GFP_NOFS for"
    )


def test_a_level_that_was_there_before_in_the_control_alone() -> None:
    text = re.sub(r"^level 0 pud .*", "level 0 pud calls=0 before=1 after=1", NEW, flags=re.MULTILINE)
    text = fixed_end(re.sub(r"^alloc 0 pud .*\n", "", text, flags=re.MULTILINE))
    cell = decide(parse_gfpprobe(text), NEW_CONSOLE).cells[Level.PUD][Way.NOIO_FLAGS]
    assert cell.answer is TraitAnswer.UNKNOWN


def test_pte_tables_that_were_there_before_prove_nothing() -> None:
    """A PTE table is always missing somewhere; a search that found no such address has failed."""
    text = re.sub(r"^(level \d+) pte calls=1 before=0", r"\1 pte calls=0 before=1", NEW, flags=re.MULTILINE)
    text = fixed_end(re.sub(r"^alloc [02468] pte .*\n", "", text, flags=re.MULTILINE))
    kernel = decide(parse_gfpprobe(text), NEW_CONSOLE)
    assert {cell.answer for cell in kernel.cells[Level.PTE].values()} == {TraitAnswer.UNKNOWN}


def said_within(name: str, text: str) -> str:
    begins = re.search(rf"^.*mask {name} begins\n", NEW_CONSOLE, re.MULTILINE)
    assert begins is not None
    return NEW_CONSOLE[: begins.end()] + text + NEW_CONSOLE[begins.end() :]


def test_a_kernel_that_complains_of_flags() -> None:
    """7.2 (Linux commit 07003531e03c (in v6.19)); the warning that goes with it casts no doubt on the rest."""
    kernel = traits("7.2")
    assert kernel.doubts == ()
    assert [(it.mask.name, bool(it.complaint)) for it in kernel.masks] == [
        ("kernel", False),
        ("nofs", False),
        ("noio", False),
        ("spl", False),
        ("spl-highmem", True),
    ]
    assert kernel.complaints[0].complaint is not None
    assert kernel.complaints[0].complaint.startswith("Unexpected gfp: 0x40002 (__GFP_HIGHMEM|__GFP_COMP)")
    assert describe_masks(kernel).startswith("complains of spl-highmem (0x42c02): Unexpected gfp")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("", "does not tell where"),
        (NEW_CONSOLE * 2, "does not tell where"),
        (NEW_CONSOLE.replace("gfpprobe: ends\n", ""), "does not tell where"),
        (re.sub(r".*mask spl ends\n", "", NEW_CONSOLE), "flags spl: the console does not tell"),
        (said_within("nofs", "[    5.936000] WARNING: CPU: 0 PID: 88 at mm/vmalloc.c:1 x+0x1/0x2\n"), "WARNING"),
        (said_within("nofs", "[    5.936000] BUG: unable to handle page fault for address: 0\n"), "unable to handle"),
    ],
)
def test_a_console_that_casts_doubt(said: str, words: str) -> None:
    kernel = decide(parse_gfpprobe(NEW), said)
    assert any(words in doubt for doubt in kernel.doubts), kernel.doubts
    assert kernel.sentence.startswith("not measured")
    assert kernel.to_json()["measured"] is False


def test_a_warning_from_before_is_another_matter() -> None:
    warning = "[    1.000000] WARNING: CPU: 0 PID: 1 at arch/x86/x.c:1 x+0x1/0x2\n"
    assert decide(parse_gfpprobe(NEW), warning + NEW_CONSOLE).doubts == ()


def test_table_and_json() -> None:
    kernel = traits("5.10")
    table = traits_table(kernel)
    assert table.row_count == 3
    assert [column.header for column in table.columns][1:] == [way.words for way in Way]
    as_json = kernel.to_json()
    assert as_json["page_tables"]["pmd"]["noio-flags"]["answer"] == "ignored"
    assert as_json["honours"] == {"nofs-flags": False, "noio-flags": False, "nofs-scope": True, "noio-scope": True}
    assert "no complaint" in describe_masks(kernel)


@pytest.mark.parametrize("tag", ["kernel", "bits", "probed", "test", "end"])
def test_required_lines(tag: str) -> None:
    without = re.sub(rf"^{tag} .*\n", "", NEW, flags=re.MULTILINE)
    with pytest.raises(EvidenceError, match=f"without a line `{tag}`"):
        parse_gfpprobe(without)
    line = re.search(rf"^{tag} .*\n", NEW, re.MULTILINE)
    assert line is not None
    with pytest.raises(EvidenceError, match=f"a second line `{tag}`"):
        parse_gfpprobe(NEW + line[0])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("gfpprobe 1", "gfpprobe 2", "version 1"),
        ("gfpprobe 1", "slabprobe 1", "version 1"),
        ("paging_levels=5", "paging_levels=3", "3 levels"),
        ("fs=0x80", "fs=0", "without a bit"),
        ("level 0 pmd", "level 0 pte", "doubled"),
        ("level 0 pmd", "level 0 other", "is none"),
        ("level 0 pmd", "level 0 pgd", "not a level"),
        ("level 0 pmd", "level 99 pmd", "a trial that there is not"),
        ("trial 1", "trial 2", "where 1 was due"),
        ("what=nofs-flags", "what=control", "a second trial"),
        ("entry=range gfp", "entry=back gfp", "not an entry"),
        ("count=1", "count=0", "cannot be"),
        ("allocs=26", "allocs=25", "not whole"),
        ("gfp=0xdc0", "gfp=0xdcg", "not a number"),
        ("alloc 0 other", "alloc 0", "not a level"),
    ],
)
def test_what_is_refused(old: str, new: str, words: str) -> None:
    assert old in NEW
    with pytest.raises(EvidenceError, match=words):
        parse_gfpprobe(NEW.replace(old, new, 1))


def test_an_end_that_is_not_the_end() -> None:
    with pytest.raises(EvidenceError, match="not whole"):
        parse_gfpprobe(NEW + "more\n")


@FUZZ
@given(st.text(max_size=400))
def test_any_text(text: str) -> None:
    with pytest.raises(EvidenceError):
        parse_gfpprobe(text)


@FUZZ
@given(st.data())
def test_any_damage(data: st.DataObject) -> None:
    """Of a report, of the console, or of both: an error of the evidence, or answers that are no better."""
    name = data.draw(st.sampled_from(["5.10", "6.1"]))
    lines = report(name).splitlines(keepends=True)
    kept = data.draw(st.lists(st.booleans(), min_size=len(lines), max_size=len(lines)))
    text = fixed_end("".join(line for line, keep in zip(lines, kept, strict=True) if keep))
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, max(0, len(text) - 1)))
        text = text[:at] + data.draw(st.text(max_size=3)) + text[at + 1 :]
    said = console(name)[data.draw(st.integers(0, 900)) :] + data.draw(st.text(max_size=100))
    try:
        parsed = parse_gfpprobe(text)
    except EvidenceError:
        return
    decide(parsed, said)


@FUZZ
@given(st.sets(st.integers(0, 200)), st.sampled_from(["5.10", "6.1"]))
def test_any_lines_missing(gone: set[int], name: str) -> None:
    lines = report(name).splitlines(keepends=True)
    text = fixed_end("".join(line for at, line in enumerate(lines) if at not in gone))
    try:
        after = decide(parse_gfpprobe(text), console(name))
    except EvidenceError:
        return
    assert is_no_better(traits(name), after)
