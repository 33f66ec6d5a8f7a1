"""The report site without a browser: what is on its pages, what is not, and what it is put in the place of."""

from __future__ import annotations

import errno
import gzip
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from markupsafe import Markup

from site_data import HOSTILE, a_run, contrast, recorded_runs
from splvm.errors import EvidenceError, SetupError, UsageError
from splvm.evidence.timeline import Evidence, Sample, Timeline
from splvm.history.database import History
from splvm.history.judgement import RemarkKind
from splvm.history.knownissues import KnownIssue
from splvm.history.rows import identity
from splvm.history.schema import TROUBLE, Figure, RunRow
from splvm.record.reader import read_evidence
from splvm.site import artefacts, place, plots
from splvm.site.artefacts import Budget, copy_files
from splvm.site.choice import choose
from splvm.site.compare import pairs
from splvm.site.kernellog import excerpt_log
from splvm.site.looks import ORDER, SYMBOLS, cell_page, printable, run_pages
from splvm.site.place import MARK, start_site
from splvm.site.series import panels, phases, states, thin_out
from splvm.site.trends import FIGURES, NAMES
from splvm.site.waitdraw import draw
from splvm.site.write import embed, make_environment, write_site


class Page(HTMLParser):
    """Tags, ids, links and JSON of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.data: dict[str, Any] = {}
        self._reading = ""
        self.source = path.read_text()
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append((tag, values))
        self.ids += [values["id"] or ""] if "id" in values else []
        self.links += [value for name in ("href", "src") if (value := values.get(name))]
        if tag == "script" and values.get("type") == "application/json":
            self._reading = values["id"] or ""

    def handle_endtag(self, tag: str) -> None:
        self._reading = ""

    def handle_data(self, data: str) -> None:
        if self._reading:
            self.data[self._reading] = json.loads(data)


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[RunRow]:
    return recorded_runs(data, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def site(runs: list[RunRow], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "site"
    with History(":memory:") as history:
        history.add(runs)
        built = write_site(history, out, read_evidence, explain=lambda scenario, variant: "because")
    assert built.pages == len(list(out.rglob("*.html")))
    assert built.bytes >= sum(path.stat().st_size for path in out.rglob("*.html"))
    return out


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    return {str(path.relative_to(site)): Page(path) for path in site.rglob("*.html")}


def page_of(pages: dict[str, Page], title: str) -> Page:
    return next(it for name, it in pages.items() if name.startswith("runs/") and f"<title>{title}" in it.source)


def write(runs: list[RunRow], out: Path, **options: Any) -> dict[str, Page]:
    with History(":memory:") as history:
        history.add(runs)
        write_site(history, out, options.pop("read", read_evidence), **options)
    return {str(path.relative_to(out)): Page(path) for path in out.rglob("*.html")}


def test_every_link_leads_somewhere(site: Path, pages: dict[str, Page]) -> None:
    count = 0
    for page in pages.values():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme == "data":
                continue
            assert not parts.scheme and not parts.netloc, link
            target = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
            assert target.is_relative_to(site.resolve()) and target.is_file(), f"{page.path.name}: {link}"
            if parts.fragment:
                assert parts.fragment in Page(target).ids if target != page.path else parts.fragment in page.ids
            count += 1
    assert count > 300


def test_nothing_is_inline_and_ids_are_there_once(pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        assert len(page.ids) == len(set(page.ids)), name
        policy = next(it["content"] or "" for tag, it in page.tags if "http-equiv" in it)
        assert "default-src 'none'" in policy and "script-src 'self' file:;" in policy
        for tag, attributes in page.tags:
            assert not [key for key in attributes if key.startswith("on") or key == "style"], (name, tag)
            assert tag != "script" or "src" in attributes or attributes.get("type") == "application/json"


def test_plots_are_what_plotly_takes(pages: dict[str, Page]) -> None:
    """Its own classes refuse every name and value that plotly.js does not know."""
    from plotly import graph_objects

    kinds = set()
    for page in pages.values():
        for name, plot in page.data.items():
            figure = graph_objects.Figure(plot)
            assert len(figure.data) and all(len(trace.x) == len(trace.y) for trace in figure.data)
            kinds.add(name)
    assert kinds == {"trend-data", "timeline-data", "latency-data"}
    with pytest.raises(ValueError, match="shap"):
        graph_objects.Figure({"data": [{"type": "scatter", "line": {"shap": "hv"}}]})


def test_a_legend_says_each_thing_once_and_not_by_colour_alone(pages: dict[str, Page]) -> None:
    """Lines and bars that a legend tells apart differ in print too, and in the eyes of whoever is blind to a colour."""
    checked = 0
    for page in pages.values():
        for plot in page.data.values():
            if plot["layout"].get("showlegend") is False:
                continue
            looks: dict[str, list[str]] = {}
            for trace in plot["data"]:
                if trace.get("showlegend", True):
                    line, marker = trace.get("line", {}), trace.get("marker", {})
                    look = [line.get("width"), line.get("dash"), marker.get("symbol"), marker.get("pattern")]
                    looks.setdefault(trace.get("legend", "legend"), []).append(json.dumps(look))
            names = [trace["name"] for trace in plot["data"] if trace.get("showlegend", True)]
            assert len(names) == len(set(names))
            for each in looks.values():
                assert len(each) == len(set(each)) > 1, "one line alone needs no legend"
                checked += 1
    assert checked > 50


def test_colours_of_plots_are_seen_on_both_backgrounds() -> None:
    css = (Path(plots.__file__).parent / "assets" / "site.css").read_text()
    light, dark = (bytes.fromhex(colour) for colour in re.findall(r"--back: #(\w+);", css))
    for colour in (bytes.fromhex(colour[1:]) for colour in plots.COLOURS):
        assert contrast(colour, light) >= 3 and contrast(colour, dark) >= 3, "as WCAG 1.4.11 asks of graphics"
    assert contrast(b"\xff\xff\x00", light) < 3


def test_sizes_without_an_allocation_have_their_place() -> None:
    """A gap between two kinds of allocations is as wide as it is."""
    plot = json.loads(plots.plot_latency({"all": {"buckets": {"8": 5, "11": 1}}}))
    assert plot["layout"]["xaxis"]["categoryarray"] == ["512 ns", "1.02 µs", "2.05 µs", "4.1 µs"]
    assert plot["data"][0]["x"] == ["512 ns", "4.1 µs"]


def test_a_run_page_says_what_the_run_showed(pages: dict[str, Page]) -> None:
    page = page_of(pages, "STALLED held-worker debian-12 no-emergency")
    text = page.source
    for words in ("got no object for the last 2.", "splvm run held-worker", "as expected", "fingerprint", "spl.ko"):
        assert words in text
    assert {"samples.jsonl.gz", "run.json", "verdict.json"} <= {Path(link).name for link in page.links}
    samples = next(link for link in page.links if link.endswith("samples.jsonl.gz"))
    assert gzip.decompress((page.path.parent / samples).read_bytes()).startswith(b'{"kind":"start"')
    timeline = page.data["timeline-data"]
    assert {trace.get("xaxis", "x") for trace in timeline["data"]} == {"x"}, "one axis for all"
    names = {trace["name"] for trace in timeline["data"]}
    assert {
        "by the slab file",
        "objects",
        "longest gap",
        "available",
        "some task waits",
        "all tasks wait",
        "dirty",
    } <= names
    assert "blocked (D)" in names
    assert [shape["opacity"] for shape in timeline["layout"]["shapes"]].count(0.16) == 1, "the window is marked"


def test_a_crash_is_marked_in_the_kernel_log(pages: dict[str, Page]) -> None:
    page = page_of(pages, "CRASHED")
    marks = [attributes["id"] for tag, attributes in page.tags if tag == "mark"]
    assert marks and f"#{marks[0]}" in page.links
    assert re.search(r"<mark id=[^>]*>[^<]*sysrq triggered crash", page.source, re.I)


def test_the_overview_has_every_cell_in_words_and_symbols(runs: list[RunRow], pages: dict[str, Page]) -> None:
    page = pages["index.html"]
    squares = [attributes for tag, attributes in page.tags if tag == "td" and "data-verdict" in attributes]
    assert len(squares) == len({run.cell for run in runs})
    for square in squares:
        assert f"</span> {square['data-verdict']}</a>" in page.source
    assert "new fingerprint" in page.source
    assert set(SYMBOLS) == set(ORDER) and len(set(SYMBOLS.values())) == len(ORDER)


def test_regressions_come_first(tmp_path: Path) -> None:
    runs = [a_run(number, verdict) for number, verdict in enumerate(["PROGRESS"] * 3 + ["STALLED"] * 2)]
    pages = write(runs, tmp_path / "site")
    kinds = re.findall(r"<li class=\"\w+\"><strong>([\w ]+)", pages["index.html"].source)
    assert kinds == ["regression", "new fingerprint", "streak"] or kinds == ["regression", "streak"]
    good = run_pages(runs)[runs[2].id]
    assert f"runs/{good}" in pages["index.html"].links, "the last good one is linked to"


def test_a_run_whose_directory_is_gone(tmp_path: Path) -> None:
    run = a_run(1, "STALLED", longest_gap_ms=12.0)
    pages = write([run], tmp_path / "site")
    page = next(page for name, page in pages.items() if name.startswith("runs/"))
    assert "Its directory is gone: /nowhere" in page.source and "reason of 1" in page.source
    assert "timeline-data" not in page.data


def test_a_directory_with_another_run_in_it_or_none(runs: list[RunRow], tmp_path: Path) -> None:
    other = a_run(1, directory=runs[0].directory)
    (tmp_path / "empty").mkdir()
    damaged = a_run(2, directory=str(tmp_path / "empty"))
    texts = [page.source for page in write([other, damaged], tmp_path / "site").values()]
    assert sum("Another run is in its directory now" in text for text in texts) == 1
    assert sum("Its directory cannot be read" in text for text in texts) == 1


def test_a_verdict_that_is_another_one_now(runs: list[RunRow], tmp_path: Path) -> None:
    """The history keeps what was judged then; the page says what the evidence gives now."""
    row = {column.key: getattr(runs[0], column.key) for column in RunRow.__table__.columns}
    texts = [page.source for page in write([RunRow(**{**row, "verdict": "LOST"})], tmp_path / "site").values()]
    assert sum("the history has LOST" in text for text in texts) == 1


def hostile_evidence(evidence: Evidence) -> Evidence:
    """The same with markup in everything that a guest has a word in."""
    timeline = evidence.timeline
    tasks = tuple(replace(s, value=tuple(replace(t, comm=HOSTILE) for t in s.value)) for s in timeline.tasks)
    probe = tuple(
        replace(
            s,
            value=replace(
                s.value, marks=tuple(replace(m, name=m.name + HOSTILE) for m in s.value.marks[:1]) + s.value.marks[1:]
            ),
        )
        for s in timeline.probe
    )
    console = f"[    1.000000] BUG: {HOSTILE}\n[    1.1] {HOSTILE}\x1b[31m\u202e\n"
    return replace(evidence, timeline=replace(timeline, tasks=tasks, probe=probe), console=console)


def test_text_of_a_guest_is_text(runs: list[RunRow], tmp_path: Path) -> None:
    row = {column.key: getattr(runs[0], column.key) for column in RunRow.__table__.columns}
    names = ("scenario", "kernel", "variant", "loads", "release", "spl_version", "reason", "command", "qemu", "batch")
    row |= {**dict.fromkeys(names, HOSTILE), "patches": [HOSTILE], "modules": {HOSTILE: HOSTILE, "spl.ko": HOSTILE}}
    hostile = [RunRow(**row), a_run(2, "STALLED"), a_run(3, expected=[HOSTILE])]
    hostile[1].kernel = hostile[2].kernel = hostile[2].variant = HOSTILE
    out = tmp_path / "site"
    pages = write(hostile, out, read=lambda path: hostile_evidence(read_evidence(path)), explain=lambda *_: HOSTILE)
    assert len(pages) == 8
    for name, page in pages.items():
        assert "alert(1)" in page.source, f"{name} shows it"
        assert "<script>alert" not in page.source and "<img" not in page.source
        assert not [tag for tag, _ in page.tags if tag in ("img", "b", "iframe")]
        assert not [text for text in ("\x1b", "\u202e") if text in page.source]
        for plot in page.data.values():
            shown = [trace.get(key) for trace in plot["data"] for key in ("name", "hovertemplate")]
            shown += [note["text"] for note in plot["layout"].get("annotations", [])]
            assert not [text for text in shown if text and re.search(r"<(?!/?(?:b|extra)>)", text)]
    assert {path.name for path in out.iterdir()} >= {"cells", "runs", MARK}
    assert all(re.fullmatch(r"[a-z0-9.-]+", path.name) for path in (out / "cells").iterdir())


def test_json_cannot_end_its_element() -> None:
    text = json.dumps({"</script><!--": "<&>\u2028"}, ensure_ascii=False)
    assert not re.search("[<>&\u2028]", embed(text)) and json.loads(embed(text)) == json.loads(text)


def test_one_matrix_as_it_was_at_its_end(tmp_path: Path) -> None:
    early, late, other = a_run(1, batch="one"), a_run(5, "STALLED", batch="two"), a_run(2, batch="two")
    other.scenario = "nominal"
    pages = write([early, late, other], tmp_path / "site", batch="one")
    assert [name for name in pages if name.startswith("runs/")] == [f"runs/{run_pages([early])[early.id]}"]
    cells = [attributes for tag, attributes in pages["index.html"].tags if "data-verdict" in attributes]
    assert [cell["data-verdict"] for cell in cells] == ["PROGRESS"], "what came later is not in it"


def test_only_what_is_new_enough(tmp_path: Path) -> None:
    old, new = a_run(1), a_run(2)
    old.started, new.started = datetime(2001, 1, 1), datetime.now() - timedelta(hours=30)
    old.scenario = "nominal"
    with History(":memory:") as history:
        history.add([old, new])
        assert [run.id for run in choose(history, since_days=3).runs] == [new.id]
        assert [each.last.scenario for each in choose(history, since_days=3).cells] == [new.scenario]
        assert len(choose(history, most=1).runs) == 1 and len(choose(history, most=1).cells) == 2
        for options in ({"since_days": 1}, {"batch": "none"}):
            with pytest.raises(EvidenceError, match="no run"):
                choose(history, **options)


def test_a_known_issue_is_told_last_and_as_one() -> None:
    good, bad = a_run(1), a_run(2, "STALLED")
    bad.fingerprint = "0123456789ab"
    issue = KnownIssue(bad.fingerprint, "https://example.org/1", date(2999, 1, 1))
    with History(":memory:") as history:
        history.add([good, bad])
        assert choose(history).remarks()[0][1].kind is RemarkKind.REGRESSION
        told = [remark.kind for _, remark in choose(history, known=[issue]).remarks()]
        assert told[-1] is RemarkKind.KNOWN and RemarkKind.REGRESSION not in told


def test_recent_runs_are_those_of_each_cell() -> None:
    with History(":memory:") as history:
        runs = [a_run(number, longest_gap_ms=number / 2, other=1.0) for number in range(6)]
        for run in runs[4:]:
            run.variant = "other"
        history.add(runs)
        found = history.recent(3, ["longest_gap_ms"])
        assert [(it.cell.variant, it.total) for it in found] == [("other", 2), ("stock", 4)]
        assert [[run.id for run in it.runs] for it in found] == [
            [it.id for it in runs[4:]],
            [it.id for it in runs[1:4]],
        ]
        assert [[(it.name, it.value) for it in run.figures] for run in found[1].runs] == [
            [("longest_gap_ms", number / 2)] for number in (1, 2, 3)
        ]
        (until,) = history.recent(9, until=runs[1].started)
        assert (until.total, len(until.runs), until.runs[0].figures) == (2, 2, [])


# Comparing.


def test_builds_side_by_side() -> None:
    runs = [a_run(n, longest_gap_ms=100.0 + n) for n in range(8)]
    other = [a_run(n + 10, "STALLED" if n < 6 else "PROGRESS", longest_gap_ms=200.0 + n) for n in range(8)]
    trouble = a_run(30, TROUBLE)
    for run in (*other, trouble):
        run.variant = "no-emergency"
    newer = [a_run(n + 40, modules={"spl.ko": "b" * 64}) for n in range(2)]
    with History(":memory:") as history:
        history.add([*runs, *other, trouble, *newer])
        variants, builds = pairs(history.recent(60, NAMES), FIGURES)
    assert (variants.one.cell.variant, variants.other.cell.variant) == ("no-emergency", "stock")
    assert (variants.one.good.hits, variants.one.good.runs, len(variants.other.runs)) == (2, 8, 2), "no trouble counts"
    assert (len(builds.one.runs), len(builds.other.runs), builds.p) == (8, 2, 1.0)
    (gap,) = (it for it in variants.figures if it.words == "longest gap")
    assert gap.sides == ((203.5, 200.0, 207.0, 8), None) and gap.p is None
    with History(":memory:") as history:
        history.add([*runs, *other])
        (pair,) = pairs(history.recent(60, NAMES), FIGURES)
    assert pair.p is not None and 0.0005 < pair.p < 0.01
    assert [(it.verdict, it.shares[0].hits, it.shares[1].hits) for it in pair.verdicts] == [
        ("STALLED", 6, 0),
        ("PROGRESS", 2, 8),
    ]
    assert pair.figures[0].p is not None and pair.figures[0].p < 0.001


def test_lines_are_kept_apart_and_compared_side_by_side(tmp_path: Path) -> None:
    def some(first: int, digit: str, **told: Any) -> list[RunRow]:
        return [a_run(first + n, modules={"spl.ko": digit * 64}, **told) for n in range(2)]

    packaged, mine = some(0, "a"), some(10, "b", line="mine")
    # Neither is where it could be compared: with another memory, and nobody knows where.
    larger, unknown = some(20, "c", parameters="memory=1024"), some(30, "d", line="unknown")
    with History(":memory:") as history:
        history.add([*packaged, *mine, *larger, *unknown])
        (pair,) = pairs(history.recent(60, NAMES), FIGURES)
        newest = some(40, "e", line="mine")
        history.add(newest)
        between, within = pairs(history.recent(60, NAMES), FIGURES)
        pages = write([*packaged, *mine, *larger, *unknown], tmp_path / "site")
    assert (pair.one.cell.line, pair.other.cell.line) == ("mine", "packaged")
    assert (pair.one.name, pair.other.name) == ("stock line=mine x (bbbbbbbb)", "stock x (aaaaaaaa)")
    assert [side.name[-10:] for side in (between.one, between.other)] == ["(eeeeeeee)", "(aaaaaaaa)"]
    assert [side.name[-10:] for side in (within.one, within.other)] == ["(bbbbbbbb)", "(eeeeeeee)"]
    names = [it.source.split("<title>")[1].split("</title>")[0] for name, it in pages.items() if "cells/" in name]
    base = "held-worker debian-12 stock"
    assert {name.partition(" - ")[0].strip() for name in names} >= {base, f"{base} line=mine", f"{base} memory=1024"}
    assert [it.source.count("compared with nothing") for it in pages.values()].count(1) == 1
    assert "line=mine" in pages["index.html"].source and "memory=1024" in pages["index.html"].source


# Series, log, drawing.


def test_series_of_a_run(runs: list[RunRow]) -> None:
    timeline = read_evidence(Path(runs[0].directory)).timeline
    found = {panel.title: panel for panel in panels(timeline)}
    assert len(found) == 6
    emergency = found["emergency objects in use"].series[0].points
    assert max(value for _, value in emergency) == 64 and emergency[-1][1] == 0
    free = found["memory"].series[0].points
    assert all(50 < mib < 512 for _, mib in free)
    names = [name for name, _, _ in phases(timeline)]
    assert names == list(timeline.marks) and all(start <= end for _, start, end in phases(timeline))
    worker = states(timeline, timeline.probe[-1].value.hold.pid)[0]
    assert worker.name.startswith("spl_kmem_cache") and "D" in {state for _, state in worker.points}
    assert panels(Timeline()) == [] and states(Timeline(), None) == [] and phases(Timeline()) == []


def test_pressure_is_a_share_of_the_time() -> None:
    def reading(at_s: float, some_us: int, full_us: int) -> Sample[str]:
        text = (
            f"# memory\nsome avg10=0.00 total={some_us}\nfull avg10=0.00 total={full_us}\n# io\nsome avg10=1 total=7\n"
        )
        return Sample(0, 0, int(at_s * 1e9), "ssh", text)

    (panel,) = panels(
        Timeline(other={"pressure": (reading(1, 0, 0), reading(2, 500_000, 0), reading(4, 500_000, 10**9))})
    )
    assert [series.points for series in panel.series] == [((2, 50.0), (4, 0.0)), ((2, 0.0), (4, 100.0))]


def test_no_peak_is_lost_where_points_are_left_out() -> None:
    points = [(float(at), 0.0) for at in range(100_000)]
    points[54_321] = (54_321.0, 7.0)
    thin = thin_out(points)
    assert len(thin) == 400 and (54_321.0, 7.0) in thin


def test_both_ends_of_a_long_log() -> None:
    lines = [f"[    1.000000] line {number}" for number in range(10_000)]
    lines[5] = "[    1.000000] BUG: first"
    lines[5000] = "[    1.000000] BUG: in the middle"
    log = excerpt_log("\n".join(lines), 20_000)
    text = "".join(part.text for part in log.parts)
    assert len(text) < 20_100 and "line 0\n" in text and "line 9999\n" in text
    assert [(finding.title, shown) for finding, shown in log.findings] == [
        ("BUG: first", True),
        ("BUG: in the middle", False),
    ]
    (skipped,) = (part.skipped for part in log.parts if part.skipped)
    assert skipped + text.count("\n") == 10_000
    assert [part.line for part in log.parts if part.line] == [6]
    assert excerpt_log("x", 0).parts and excerpt_log("", 100).findings == ()


def test_a_cycle_and_a_chain_are_drawn() -> None:
    waits = [{"pid": pid, "comm": f"t{pid}", "state": "D", "reason": "txg", "functions": ["f"]} for pid in (1, 2)]
    edges = [{"from": 1, "to": 2, "why": "the txg"}, {"from": 2, "to": 1, "why": "the bio"}]
    cycle = draw({"waits": waits, "edges": edges, "cycle": [1, 2], "chain": [], "sentence": "cycle: x"})
    assert cycle is not None and cycle.back == "the bio"
    assert [box.name for box in cycle.boxes] == ["t1 (pid 1)", "t2 (pid 2)"]
    assert [arrow.why for arrow in cycle.arrows] == ["the txg"]
    chain = draw({"waits": waits[:1], "edges": edges[:1], "cycle": [], "chain": [1, 2], "sentence": "chain"})
    assert chain is not None and chain.back is None and chain.boxes[1].name == "thread (pid 2)"
    long = draw({"waits": [], "edges": [], "cycle": [], "chain": list(range(200)), "sentence": ""})
    assert long is not None and len(long.boxes) == 12
    assert draw({}) is None


def test_long_words_beside_an_arrow_are_within_the_drawing() -> None:
    waits = [{"pid": pid, "comm": "t", "state": "D", "reason": "r", "functions": ["f" * 30] * 4} for pid in (1, 2)]
    edges = [{"from": 1, "to": 2, "why": "x" * 60}, {"from": 2, "to": 1, "why": "y" * 60}]
    chain = draw({"waits": waits, "edges": edges, "cycle": [], "chain": [1, 2]})
    cycle = draw({"waits": waits, "edges": edges, "cycle": [1, 2], "chain": []})
    # A monospaced character of 12 px takes 7.2.
    assert chain is not None and chain.width > 70 + (len("waits for ") + 60) * 7.2
    assert cycle is not None and cycle.width > 472 + 60 * 7.2
    assert chain.boxes[0].place.endswith("…") and chain.waits[0][2].count("f" * 30) == 4, "the list has it whole"


def test_the_cycle_of_a_recorded_run_is_on_its_page(pages: dict[str, Page]) -> None:
    page = next(
        page for page in pages.values() if "for its own commit" in page.source and '<svg class="waits"' in page.source
    )
    assert 'aria-label="A cycle of 1 threads' in page.source


# Room.


def test_a_forged_verdict_is_not_copied(runs: list[RunRow], tmp_path: Path) -> None:
    run = next(run for run in runs if run.verdict == "STALLED")
    directory = shutil.copytree(run.directory, tmp_path / "run")
    (directory / "verdict.json").write_text('{"verdict": "PROGRESS"}')
    row = {column.key: getattr(run, column.key) for column in RunRow.__table__.columns}
    write([RunRow(**{**row, "directory": str(directory)}, figures=[])], tmp_path / "site")
    (copy,) = (tmp_path / "site").rglob("verdict.json*")
    text = gzip.decompress(copy.read_bytes()) if copy.suffix == ".gz" else copy.read_bytes()
    assert json.loads(text)["verdict"] == "STALLED"


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    (run / "verdict.json").write_text("v" * 3000)
    (run / "samples.jsonl").write_bytes(b"x" * 100_000)
    with (run / "console.log").open("wb") as file:
        file.truncate(artefacts.MOST_BYTES + 1)
    (run / "harness.log").symlink_to("/etc/passwd")
    copies = copy_files(run, tmp_path / "out", Budget(limit=1000, spent=0, pages=0), {})
    assert [name for name, _ in copies.there] == ["run.json", "samples.jsonl.gz"]
    assert copies.left_out == (str(run / "verdict.json"), str(run / "console.log"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"run.json", "samples.jsonl.gz"}
    assert copy_files(run, tmp_path / "none", Budget(limit=1000, spent=999, pages=1), {}).there == ()
    assert not (tmp_path / "none").exists()


@pytest.mark.splvm_slow
def test_a_site_of_a_hundred_large_runs_is_small_enough(runs: list[RunRow], tmp_path: Path) -> None:
    """Each with a console of a megabyte that cannot be packed, and none as expected."""
    stalled = next(run for run in runs if run.verdict == "STALLED")
    directory = tmp_path / "run"
    shutil.copytree(stalled.directory, directory)
    noise = "\n".join(f"{number * 7919 % 1_000_003:x}" * 8 for number in range(40_000))
    evidence = replace(read_evidence(directory), console=noise)
    (directory / "console.log").write_text(noise)
    # Runs that were cut off: they are known by what run.json says.
    facts = {key: value for key, value in evidence.facts.items() if key != "seal"}
    told = [{**facts, "number": number} for number in range(100)]
    many = [a_run(number, "STALLED", id=identity(each), directory=str(directory)) for number, each in enumerate(told)]

    newest = iter(told[::-1])
    with History(":memory:") as history:
        history.add(many)
        built = write_site(
            history,
            tmp_path / "site",
            lambda path: replace(evidence, facts=next(newest)),
        )
    assert 15e6 < built.bytes < 20e6
    assert "Left out, as this site would grow too large" in "".join(
        path.read_text() for path in (tmp_path / "site" / "runs").glob("*.html")
    )


# Its place.


def test_a_site_replaces_a_site_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "site"
    for text in ("one", "two"):
        with start_site(out) as site:
            (site / "index.html").write_text(text)
    assert (out / "index.html").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["site"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    (tmp_path / "file").write_text("x")
    for name in ("mine", "file"):
        with pytest.raises(UsageError, match="not a site"), start_site(tmp_path / name):
            pass
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"
    (tmp_path / "empty").mkdir()
    with start_site(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty" / MARK).is_file()


def test_a_site_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    out = tmp_path / "site"
    with start_site(out) as site:
        (site / "index.html").write_text("old")
    with pytest.raises(SetupError, match="No space"), start_site(out) as site:
        (site / "index.html").write_text("new")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (out / "index.html").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["site"]
    with pytest.raises(UsageError, match="not a site"), start_site(tmp_path / "other"):
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "came-meanwhile").touch()
    assert (tmp_path / "other" / "came-meanwhile").exists()


def test_where_directories_cannot_be_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "_exchange", lambda one, other: False)
    test_a_site_replaces_a_site_and_nothing_else(tmp_path)


def test_a_link_to_a_site_is_followed(tmp_path: Path) -> None:
    with start_site(tmp_path / "real"):
        pass
    (tmp_path / "link").symlink_to("real")
    with start_site(tmp_path / "link") as site:
        (site / "index.html").write_text("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "index.html").is_file()


def test_names_of_pages() -> None:
    cells = [
        a_run(1).cell,
        replace(a_run(1).cell, kernel="path:/boot/../x,y"),
        replace(a_run(1).cell, loads="z" * 900),
    ]
    names = [cell_page(cell) for cell in cells]
    assert len(set(names)) == 3 and all(re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,100}\.html", name) for name in names)
    alike = [RunRow(id="ab" * 32), RunRow(id="ab" * 31 + "cd"), RunRow(id="../../etc")]
    assert len(set(run_pages(alike).values())) == 3 and all("/" not in name for name in run_pages(alike).values())
    assert printable("a\x00\x1b[1m\u202eb" * 1000, 4) == "a\ufffd\ufffd[…"


def test_a_plot_without_phases_or_readings() -> None:
    assert json.loads(plots.plot_run([], [], []))["data"] == []
    run = a_run(1)
    run.figures = [Figure(run_id=run.id, name="longest_gap_ms", value=1.0)]
    plot = json.loads(plots.plot_trend([run], FIGURES, {run.id: "a.html"}))
    assert [trace["customdata"] for trace in plot["data"]] == [["../runs/a.html"]] * 2


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever makes pages needs none."""
    import socket

    def refuse(*_: object) -> None:
        raise AssertionError("a page asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield


def test_a_template_shows_no_control_character() -> None:
    """Whoever forgets to take them out of a text: the templates do it, and leave lines and markup as they are."""
    template = make_environment().from_string("{{ text }}|{{ markup }}|{{ number }}")
    shown = template.render(text="a\x07\x1b[2J<b>\u202e\n\tc\x9b", markup=Markup("<b>\n</b>"), number=5)
    assert shown == "a&lt;b&gt;\ufffd\n\tc|<b>\n</b>|5"


def test_what_a_killed_report_left_is_removed(tmp_path: Path) -> None:
    """By the next one to the same place; one that is still at work keeps its own, and so do strangers."""
    code = (
        "import sys, time; from pathlib import Path; from splvm.site.place import start_site\n"
        "with start_site(Path(sys.argv[1])): print('there', flush=True); time.sleep(60)"
    )

    def begin() -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", code, str(tmp_path / "site")]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "there\n"
        return process

    def stop(process: subprocess.Popen[str]) -> None:
        process.kill()
        process.communicate()

    (tmp_path / ".site-of-a-stranger").mkdir()
    stop(begin())
    assert len(list(tmp_path.iterdir())) == 2
    at_work = begin()
    try:
        with start_site(tmp_path / "site"):
            assert len(list(tmp_path.iterdir())) == 3
    finally:
        stop(at_work)
    with start_site(tmp_path / "site"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".site-of-a-stranger", "site"]
